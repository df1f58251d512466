//! Builds of images by the engine's own builder.
//!
//! The engine builds as long as the connection of the request is open. The images that a Dockerfile names are fetched
//! before, so that the builder finds each under its whole name and never looks for another one. Beside the build a
//! watch looks every few seconds whether the engine answers, and how much the command that runs has written.

use std::collections::HashSet;
use std::time::Duration;

use bollard::models::{BuildInfo, ImageInspect};
use bollard::query_parameters::{
    BuildImageOptions, BuildImageOptionsBuilder, InspectContainerOptionsBuilder,
};
use futures_util::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::engine::EngineError;
use super::images::{describe_image, own_name, refuse_own_name};
use super::{ASK_TIMEOUT, DockerRunner, ImageDetails, ProvisionError, build_leftovers};
use crate::builders::is_harmless_trigger;
use crate::kernel::artifact::ImageName;
use crate::kernel::byte_size::ByteSize;
use crate::provisioners::{ContextStream, ImageBuild, PullProgress};

/// Between two looks at a build.
const WATCH_PERIOD: Duration = Duration::from_secs(5);
/// Its share of the processor, in the engine's measure: less than a unit's.
const CPU_SHARES: i32 = 512;
/// Bytes of a line that has not ended.
const MAX_LINE: usize = 64 << 10;
/// How the engine names the container of a step, and the image that a step has made.
const RUNNING_MARK: &str = "---> Running in ";
const MADE_MARK: &str = "---> ";
/// What the engine says when a step has ended.
const REMOVED_MARK: &str = "Removing intermediate container ";

/// Builds an image and keeps it under the name of its owner.
pub(super) async fn build_image(
    runner: &DockerRunner,
    build: &ImageBuild,
    context: ContextStream,
    progress: PullProgress,
) -> Result<ImageDetails, ProvisionError> {
    for base in build.bases.iter() {
        fetch_base(runner, base, &progress).await?;
    }
    let docker = runner.engine.connect().await?;
    let body = bollard::body_try_stream(ReceiverStream::new(context));
    let mut steps = std::pin::pin!(docker.build_image(make_options(build), None, Some(body)));
    let mut follower = BuildFollower::new(progress);
    let mut watch = tokio::time::interval(WATCH_PERIOD);
    loop {
        let step = tokio::select! {
            step = steps.next() => step,
            _ = watch.tick() => {
                watch_build(runner, build, &follower).await?;
                continue;
            }
        };
        match step {
            Some(step) => follower.take_info(step.map_err(EngineError::from)?).await,
            None => break,
        }
    }
    follower.finish_line().await;
    drop(follower.progress);
    let name = own_name(&build.owner);
    let built = runner.find_image(&name).await?;
    let built = built.ok_or_else(|| {
        ProvisionError::Transient("The image was removed while it was deployed: deploy again.".into())
    })?;
    let details = describe_built(&name, built)?;
    // What earlier builds have left, and this one has not used.
    if let Err(error) = build_leftovers::remove_leftovers(runner, build.owner.app, &follower.made).await {
        tracing::warn!(app = %build.owner.app, %error, "images of earlier builds are left until the next one");
    }
    Ok(details)
}

fn describe_built(name: &str, image: ImageInspect) -> Result<ImageDetails, ProvisionError> {
    let refused = |error: crate::kernel::error::Error| ProvisionError::Transient(error.message().to_owned());
    let id = image.id.clone().unwrap_or_default();
    let pinned = ImageName::parse(name)
        .and_then(|name| name.pin(&id))
        .map_err(refused)?;
    Ok(describe_image(pinned, image))
}

/// Sees to it that the engine has an image under its name, and that nothing in it reaches others' images.
async fn fetch_base(
    runner: &DockerRunner,
    name: &ImageName,
    progress: &PullProgress,
) -> Result<(), ProvisionError> {
    refuse_own_name(name)?;
    let image = match runner.find_image(&name.to_string()).await? {
        Some(image) => image,
        None => runner.fetch(name, progress).await?,
    };
    runner.check_platform(name, &image).await?;
    let triggers = image
        .config
        .and_then(|config| config.on_build)
        .unwrap_or_default();
    match triggers.iter().find(|trigger| !is_harmless_trigger(trigger)) {
        None => Ok(()),
        Some(trigger) => Err(ProvisionError::Permanent(format!(
            "The image {name} has the trigger {trigger:?} (ONBUILD), which is not run here: begin with another image."
        ))),
    }
}

fn make_options(build: &ImageBuild) -> BuildImageOptions {
    let mut options = BuildImageOptionsBuilder::new()
        .dockerfile(&build.dockerfile)
        .t(&own_name(&build.owner))
        .rm(true)
        .forcerm(true)
        .cpushares(CPU_SHARES)
        .buildargs(&build.args.clone().into_iter().collect());
    if build.memory_bytes > 0 {
        // The engine's client counts it in 31 bits. Together with the memory: none of it is swap.
        let memory = i32::try_from(build.memory_bytes).unwrap_or(i32::MAX);
        options = options.memory(memory).memswap(memory);
    }
    if let Some(target) = &build.target {
        options = options.target(target);
    }
    options.build()
}

/// Errors: when the engine does not answer any more, or the command that runs has written too much.
async fn watch_build(
    runner: &DockerRunner,
    build: &ImageBuild,
    follower: &BuildFollower,
) -> Result<(), ProvisionError> {
    runner.engine.check_up()?;
    let Some(container) = &follower.running else {
        return Ok(());
    };
    let docker = runner.engine.connect().await?;
    let options = InspectContainerOptionsBuilder::new().size(true).build();
    let looking = docker.inspect_container(container, Some(options));
    let written = match runner.engine.ask(ASK_TIMEOUT, looking).await {
        Ok(found) => u64::try_from(found.size_rw.unwrap_or(0)).unwrap_or(0),
        // It has ended; or so many files cannot be counted in time, and are counted again.
        Err(_) => return Ok(()),
    };
    match written > build.disk_bytes {
        false => Ok(()),
        true => Err(ProvisionError::Transient(format!(
            "It wrote more than {} to the disk and was stopped.",
            ByteSize(build.disk_bytes)
        ))),
    }
}

/// What is known of a build from what the engine says.
struct BuildFollower {
    progress: PullProgress,
    /// A line that has not ended.
    line: String,
    /// The container of the step that runs.
    running: Option<String>,
    /// The short ids of the images that the build has made or used.
    made: HashSet<String>,
}

impl BuildFollower {
    fn new(progress: PullProgress) -> Self {
        Self {
            progress,
            line: String::new(),
            running: None,
            made: HashSet::new(),
        }
    }

    async fn take_info(&mut self, info: BuildInfo) {
        let Some(text) = info.stream else { return };
        // The engine goes on where a command has not ended its line.
        if text.starts_with(REMOVED_MARK) {
            self.finish_line().await;
        }
        for part in text.split_inclusive('\n') {
            let (part, ends) = match part.strip_suffix('\n') {
                Some(part) => (part, true),
                None => (part, false),
            };
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.push_str(&part[..part.floor_char_boundary(room)]);
            if ends {
                self.finish_line().await;
            }
        }
    }

    async fn finish_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let said = line.trim();
        if let Some(container) = said.strip_prefix(RUNNING_MARK).filter(|id| is_short_id(id)) {
            self.running = Some(container.to_owned());
        } else if let Some(image) = said.strip_prefix(MADE_MARK).filter(|id| is_short_id(id)) {
            self.running = None;
            self.made.insert(image.to_owned());
        }
        if !line.is_empty() {
            // Whoever follows may have gone.
            let _ = self.progress.send(line).await;
        }
    }
}

fn is_short_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn lines_and_ids_are_read_from_what_comes_in_any_parts() {
        let (sender, mut lines) = mpsc::channel(100);
        let mut follower = BuildFollower::new(sender);
        let long = "x".repeat(MAX_LINE + 100);
        for text in [
            "Step 1/2 : FROM a",
            "\n",
            " ---> 7cf0207f4f0f\n ---> Runn",
            "ing in 9435faf567b5\n",
            &long,
        ] {
            let info = BuildInfo {
                stream: Some(text.to_owned()),
                ..BuildInfo::default()
            };
            follower.take_info(info).await;
        }
        assert_eq!(follower.running.as_deref(), Some("9435faf567b5"));
        assert_eq!(follower.made, HashSet::from(["7cf0207f4f0f".to_owned()]));
        follower.finish_line().await;
        drop(follower);
        let mut shown = Vec::new();
        while let Some(line) = lines.recv().await {
            shown.push(line);
        }
        assert_eq!(shown[..2], ["Step 1/2 : FROM a", " ---> 7cf0207f4f0f"]);
        assert_eq!(shown[3].len(), MAX_LINE);
    }
}
