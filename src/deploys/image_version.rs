//! A version that is an image: taken over as it is, by the provisioner of the app's pool.

use serde_json::Value;

use crate::apps::App;
use crate::builders::{self, ProcessCommand, Procfile, TsuruYaml};
use crate::core::Core;
use crate::deploys::build_log::follow_lines;
use crate::deploys::build_slot::acquire_build_slot;
use crate::kernel::artifact::ImageName;
use crate::kernel::byte_size::ByteSize;
use crate::kernel::command_words::quote_words;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::ProcessName;
use crate::pools;
use crate::provisioners::{ImageDetails, ImageOwner, ImageStore, ProvisionError, Runner};
use crate::sagas::{StepContext, StepError};
use crate::units;
use crate::versions::{self, BuiltVersion};

/// The labels in which an image says what archives say in files.
const PROCFILE_LABEL: &str = "Procfile";
const YAML_LABEL: &str = "tsuru.yaml";
/// The process of an image that names none.
const DEFAULT_PROCESS: &str = "web";

/// Finds the runner of an app's pool. Errors: `Unavailable` if this host does not have it.
pub(super) async fn find_runner(core: &Core, app: &App) -> Result<Runner, Error> {
    let name = pools::find_provisioner(&core.db, &app.pool).await?;
    let name = name.ok_or_else(|| Error::app_not_found(&app.name))?;
    let found = core.provisioners.find_runner(&name).cloned();
    found.ok_or_else(|| {
        Error::unavailable(format!(
            "The pool {} has the provisioner {name}, which this host has not: ask a server that has it.",
            app.pool
        ))
    })
}

/// Fetches an image, keeps it for the version, and reads from it what runs.
pub(super) async fn take_over_image(
    core: &Core,
    ctx: &StepContext,
    app: &App,
    (image, version): (&str, i32),
) -> Result<(), StepError> {
    let name = ImageName::parse(image)?;
    ctx.append_log(&format!(
        "---- Taking {name} as version {version} of {} ----",
        app.name
    ))
    .await;
    let runner = find_runner(core, app).await?;
    let images = runner.image_store().ok_or_else(|| runs_no_images(app))?;
    let owner = ImageOwner { app: app.id, version };
    let deadline = core.settings.builds.deadline;
    // A fetch takes as long as it is allowed to, and holds a slot to build all the while, but no worker.
    let pinned = ctx.without_worker(async {
        let _slot = acquire_build_slot(core, ctx).await?;
        tokio::select! {
            pinned = tokio::time::timeout(deadline, pin_image(images, &name, &owner, ctx)) => pinned
                .map_err(|_| StepError::GiveUp(Error::failed(format!(
                    "The image {name} was not there within {} s.", deadline.as_secs()))))?,
            () = ctx.cancel_token().cancelled() => Err(StepError::Interrupted),
        }
    });
    let details = pinned.await?;
    let (processes, yaml) = read_processes(&name, &details)?;
    let content = ImageContent {
        details,
        processes,
        yaml,
        release_command: None,
    };
    record_image(core, ctx, (app, version), &name, content).await
}

/// An image, and what runs of it.
pub(super) struct ImageContent {
    pub(super) details: ImageDetails,
    pub(super) processes: Vec<ProcessCommand>,
    pub(super) yaml: TsuruYaml,
    pub(super) release_command: Option<String>,
}

/// Makes an image the content of a version.
pub(super) async fn record_image(
    core: &Core,
    ctx: &StepContext,
    (app, version): (&App, i32),
    name: &ImageName,
    content: ImageContent,
) -> Result<(), StepError> {
    let ImageContent {
        details,
        processes,
        yaml,
        release_command,
    } = content;
    check_size(core, name, details.bytes)?;
    let most = core.settings.apps.max_deploy_timeout;
    ctx.append_log_lines(&units::health_adjustments(&yaml, most))
        .await;
    let yaml: Value = serde_json::to_value(&yaml).map_err(Error::internal)?;
    let made = BuiltVersion {
        processes: &processes,
        yaml: &yaml,
        bytes: i64::try_from(details.bytes).unwrap_or(i64::MAX),
        digest: details.pinned.digest().to_owned(),
        image: Some(details.pinned.to_string()),
        release_command: release_command.as_deref(),
    };
    ctx.write_fenced(async |tx| Ok(versions::mark_version_ready(tx, app.id, version, &made).await?))
        .await?;
    ctx.append_log(&format!(" ---> version {version} is {}", details.pinned))
        .await;
    Ok(())
}

/// Errors: `Invalid` for an image that is larger than what a build may write.
fn check_size(core: &Core, name: &ImageName, bytes: u64) -> Result<(), Error> {
    let most = core.settings.builds.max_disk_bytes;
    match bytes <= most.0 {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "The image {name} has {}, and {most} are allowed: make it smaller.",
            ByteSize(bytes)
        ))),
    }
}

async fn pin_image(
    images: &dyn ImageStore,
    name: &ImageName,
    owner: &ImageOwner,
    ctx: &StepContext,
) -> Result<ImageDetails, StepError> {
    let pinned = follow_lines(ctx, |lines| images.pin_image(name, owner, lines)).await;
    pinned.map_err(|error| {
        StepError::GiveUp(match error {
            ProvisionError::Permanent(words) => Error::invalid(words),
            ProvisionError::Transient(words) | ProvisionError::Gone(words) => Error::failed(words),
        })
    })
}

/// Lets the image of a version go that came to nothing, with what its build has left. One that is left goes with the app.
pub(super) async fn release_image(core: &Core, app: AppId, version: i32) {
    let owner = ImageOwner { app, version };
    let runners = core.provisioners.runners();
    for images in runners.filter_map(|(_, runner)| runner.image_store()) {
        let released = images.release_image(&owner).await;
        let discarded = images.discard_builds(app).await;
        if let Err(error) = released.and(discarded) {
            tracing::warn!(%app, version, %error, "the image of a failed deploy is left until its app is removed");
        }
    }
}

/// What is said where units do not run from images.
pub(super) fn runs_no_images(app: &App) -> Error {
    Error::invalid(format!(
        "The pool {} runs no images and builds no Dockerfiles: deploy the app's files for its platform.",
        app.pool
    ))
}

/// Reads the processes and the tsuru.yaml of an image from its labels; without them, its own command is the only
/// process.
pub(super) fn read_processes(
    name: &ImageName,
    details: &ImageDetails,
) -> Result<(Vec<ProcessCommand>, TsuruYaml), Error> {
    let label = |key: &str| details.labels.get(key).map(String::as_str);
    let wrong = |key: &str, error: Error| {
        Error::invalid(format!(
            "The label {key} of the image {name}: {}",
            error.message()
        ))
    };
    let yaml = match label(YAML_LABEL) {
        Some(text) => TsuruYaml::parse(text).map_err(|error| wrong(YAML_LABEL, error))?,
        None => TsuruYaml::default(),
    };
    let procfile = match label(PROCFILE_LABEL) {
        Some(text) => Procfile::parse(text).map_err(|error| wrong(PROCFILE_LABEL, error))?,
        None => Procfile::default(),
    };
    if !procfile.processes.is_empty() || !yaml.processes.is_empty() {
        return Ok((builders::merge_processes(&procfile, &yaml)?, yaml));
    }
    if details.command.is_empty() {
        return Err(Error::invalid(format!(
            "The image {name} has no command: give it a CMD or an ENTRYPOINT, or a label Procfile."
        )));
    }
    let own = ProcessCommand {
        name: ProcessName::parse(DEFAULT_PROCESS)?,
        command: quote_words(details.command.iter().map(String::as_str)),
    };
    Ok((vec![own], yaml))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(command: &[&str], labels: &[(&str, &str)]) -> ImageDetails {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        ImageDetails {
            pinned: format!("x@sha256:{}", "0a".repeat(32)).parse().unwrap(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            labels: labels.iter().map(owned).collect(),
            bytes: 1,
        }
    }

    fn read(command: &[&str], labels: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let name = ImageName::parse("x").unwrap();
        let read = read_processes(&name, &details(command, labels));
        read.map(|(processes, _)| {
            let pair = |process: &ProcessCommand| (process.name.to_string(), process.command.clone());
            processes.iter().map(pair).collect()
        })
        .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn processes_are_those_of_the_labels_or_the_command_of_the_image() {
        let pair = |name: &str, command: &str| (name.to_owned(), command.to_owned());
        assert_eq!(
            read(&["/bin/sh", "-c", "exec app"], &[]).unwrap(),
            [pair("web", "/bin/sh -c 'exec app'")]
        );
        let procfile = ("Procfile", "web: app\nworker: app work\n");
        assert_eq!(
            read(&["x"], &[procfile]).unwrap(),
            [pair("web", "app"), pair("worker", "app work")]
        );
        let yaml = ("tsuru.yaml", "processes:\n- name: api\n  command: serve\n");
        assert_eq!(read(&[], &[yaml]).unwrap(), [pair("api", "serve")]);
        assert!(read(&[], &[]).unwrap_err().contains("has no command"));
        let refused = read(&["x"], &[("Procfile", "no colon")]).unwrap_err();
        assert!(
            refused.starts_with("The label Procfile of the image x:latest:"),
            "{refused}"
        );
    }
}
