//! Builds of images: turn a source archive with a Dockerfile into an image of a pool that runs images.
//!
//! The archive is unpacked as for any build, with the same limits; the Dockerfile is read and written anew (`plan`);
//! `.dockerignore` is applied; and the engine builds what is left. It promises what builds promise: no half-done
//! version, no secret in the output, an end in time. Variables that the app shows to everybody are given to the
//! Dockerfile's `ARG`s of their names; private ones are given to nothing, since an image keeps what its build was given.

mod context;
mod ignore;
mod plan;
mod words;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::build_session::run_blocking;
use super::command::StopCondition;
use super::output::BuildOutput;
use super::tree::ScratchFolder;
use super::{BuildError, BuildLimits, ProcessCommand, Procfile, TsuruYaml};
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::secret::Secret;
use crate::provisioners::{ContextStream, ImageBuild, ImageDetails, ImageOwner, ImageStore, ProvisionError};
use context::{PLANNED_FILE, SourceContext, prepare_context};

pub use plan::is_harmless_trigger;

/// Names the stage that is built, instead of the last one.
const TARGET_VARIABLE: &str = "TANCHO_BUILD_TARGET";
/// Bytes of the context on their way to the engine: so many at a time, and so many times.
const CONTEXT_CHUNK: usize = 64 << 10;
const CONTEXT_CHUNKS: usize = 8;
/// Lines of the engine on their way.
const LINE_BUFFER: usize = 256;
/// How an engine says which step begins, and that a command of one has failed.
const STEP_MARK: &str = "Step ";
const STATUS_MARK: &str = "returned a non-zero code: ";

/// Writes all that lies below a folder as a tar.
pub(super) type PackTree = fn(&Path, Box<dyn Write + Send>) -> io::Result<()>;

/// The parameters of a build of an image.
#[derive(Clone, Debug)]
pub struct ImageBuildRequest {
    /// A `.tar.gz` or `.tar`, rooted at the app.
    pub archive: PathBuf,
    /// The folder of the app's versions, in which the archive is unpacked for the time of the build.
    pub versions_dir: PathBuf,
    pub app: AppName,
    pub owner: ImageOwner,
    /// The Dockerfile, if the source does not have it.
    pub dockerfile: Option<String>,
    /// All variables of the app, with whether everybody who sees the app may see them.
    pub env: Vec<(EnvName, Secret, bool)>,
    pub limits: BuildLimits,
}

impl ImageBuildRequest {
    fn public_values(&self) -> BTreeMap<String, String> {
        let public = self.env.iter().filter(|(_, _, is_public)| *is_public);
        public
            .map(|(name, value, _)| (name.as_str().to_owned(), value.expose_secret().to_owned()))
            .collect()
    }

    fn target(&self) -> Option<&str> {
        let target = self
            .env
            .iter()
            .find(|(name, _, _)| name.as_str() == TARGET_VARIABLE);
        target
            .map(|(_, value, _)| value.expose_secret())
            .filter(|target| !target.is_empty())
    }

    /// Marks all images of the app's builds.
    fn label(&self) -> String {
        format!("{}={}", crate::provisioners::BUILD_LABEL, self.owner.app)
    }
}

/// An image that was built.
#[derive(Debug)]
pub struct BuiltImage {
    pub details: ImageDetails,
    /// The processes that the source's Procfile names.
    pub procfile: Option<Procfile>,
    pub release_command: Option<String>,
    pub yaml: TsuruYaml,
}

impl BuiltImage {
    /// Returns true if the source says what runs.
    pub fn names_processes(&self) -> bool {
        let of_procfile = self
            .procfile
            .as_ref()
            .map(|procfile| procfile.processes.as_slice());
        of_procfile.is_some_and(|processes: &[ProcessCommand]| !processes.is_empty())
            || !self.yaml.processes.is_empty()
    }
}

/// Builds an image and keeps it for its owner. Output lines are sent to `lines` as they arrive. What a build that
/// fails leaves in the engine is removed by `ImageStore::discard_builds`.
pub async fn build_image(
    images: &dyn ImageStore,
    request: &ImageBuildRequest,
    pack: PackTree,
    lines: mpsc::Sender<String>,
    cancel: CancellationToken,
) -> Result<BuiltImage, BuildError> {
    let cancel = cancel.child_token();
    let _dropped = cancel.clone().drop_guard();
    let stop = StopCondition::begin(cancel, &request.limits);
    let (own, is_stopped) = (request.clone(), stop.clone());
    let prepared = run_blocking(move || {
        let scratch = ScratchFolder::new(&own.versions_dir, None).map_err(BuildError::internal)?;
        let context = prepare_context(&own, &scratch.tree_dir(), &|| is_stopped.is_met())?;
        Ok((Arc::new(scratch), context))
    })
    .await;
    stop.fail_if_met()?;
    let (scratch, context) = prepared?;
    let secrets = request.env.iter().map(|(_, value, _)| value);
    let output = BuildOutput::new(lines, stop.clone(), secrets, request.limits.output_bytes);
    let mut follower = StepFollower { output, step: None };
    let build = make_build(request, &context);
    let built = tokio::select! {
        built = follow_build(images, &build, &scratch, pack, &mut follower) => {
            built.map_err(|error| follower.explain(error))
        }
        () = stop.wait_until_met() => Err(stop.stop_error()),
    };
    run_blocking(move || {
        drop(scratch);
        Ok(())
    })
    .await?;
    Ok(BuiltImage {
        details: built?,
        procfile: context.procfile,
        release_command: context.release_command,
        yaml: context.yaml,
    })
}

fn make_build(request: &ImageBuildRequest, context: &SourceContext) -> ImageBuild {
    let mut args = request.public_values();
    args.retain(|name, _| context.plan.args.contains(name));
    ImageBuild {
        owner: request.owner,
        dockerfile: PLANNED_FILE.to_owned(),
        bases: context.plan.bases.clone(),
        target: request.target().map(str::to_lowercase),
        args,
        memory_bytes: request.limits.memory_bytes,
        disk_bytes: request.limits.disk_bytes,
    }
}

async fn follow_build(
    images: &dyn ImageStore,
    build: &ImageBuild,
    scratch: &Arc<ScratchFolder>,
    pack: PackTree,
    follower: &mut StepFollower,
) -> Result<ImageDetails, ProvisionError> {
    let (sender, mut lines) = mpsc::channel::<String>(LINE_BUFFER);
    let context = send_context(Arc::clone(scratch), pack);
    let following = async {
        while let Some(line) = lines.recv().await {
            follower.take_line(&line).await;
        }
    };
    let (built, ()) = tokio::join!(images.build_image(build, context, sender), following);
    built
}

/// Packs the files on a thread of its own, as fast as they are taken; ends when nobody takes them any more.
fn send_context(scratch: Arc<ScratchFolder>, pack: PackTree) -> ContextStream {
    let (sender, receiver) = mpsc::channel(CONTEXT_CHUNKS);
    tokio::task::spawn_blocking(move || {
        let chunks = ChunkWriter(sender.clone());
        let packed = pack(
            &scratch.tree_dir(),
            Box::new(BufWriter::with_capacity(CONTEXT_CHUNK, chunks)),
        );
        if let Err(error) = packed {
            // Whoever takes it may have gone, which is then the error.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

/// Sends what is written.
struct ChunkWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes the lines of the engine on, and remembers which step they belong to.
struct StepFollower {
    output: BuildOutput,
    step: Option<String>,
}

impl StepFollower {
    async fn take_line(&mut self, line: &str) {
        if let Some(step) = read_step(line) {
            // That step is ours.
            let label = format!("LABEL {}=", crate::provisioners::BUILD_LABEL);
            if step.starts_with(&label) {
                return;
            }
            self.output.start_step();
            self.step = Some(step.to_owned());
            self.output.write_line(&format!(" ---> {step}")).await;
            return;
        }
        if !is_chatter(line) {
            self.output.write_line(line).await;
        }
    }

    /// Says which step has failed, and why.
    fn explain(&self, error: ProvisionError) -> BuildError {
        let words = match error {
            ProvisionError::Permanent(words) => return BuildError::Refused(self.output.mask_secrets(&words)),
            ProvisionError::Transient(words) | ProvisionError::Gone(words) => {
                self.output.mask_secrets(&words)
            }
        };
        let how = match words.rsplit_once(STATUS_MARK) {
            Some((_, "137" | "137.")) => {
                "was killed with status 137, as happens when memory runs out".to_owned()
            }
            Some((_, status)) => format!("exited with status {}", status.trim_end_matches('.')),
            None => format!("failed. {words}"),
        };
        let is_command = words.contains(STATUS_MARK);
        match &self.step {
            None => BuildError::Refused(words),
            Some(step) => BuildError::Failed {
                step: format!(
                    "The step `{}` of the Dockerfile",
                    self.output.mask_secrets(&shorten_step(step))
                ),
                how,
                reason: self.output.failure_reason().filter(|_| is_command),
                hint: None,
            },
        }
    }
}

/// Returns the instruction of `Step 3/7 : RUN make`.
fn read_step(line: &str) -> Option<&str> {
    let (count, step) = line.strip_prefix(STEP_MARK)?.split_once(" : ")?;
    let is_count = count.chars().all(|c| c.is_ascii_digit() || c == '/');
    (is_count && count.contains('/')).then_some(step)
}

/// What the engine says of its own work, which says nothing about the app.
fn is_chatter(line: &str) -> bool {
    let rest = line.trim_start();
    rest.is_empty()
        || rest.starts_with("Removing intermediate container ")
        || rest.starts_with("Successfully built ")
        || rest.starts_with("Successfully tagged ")
        || rest.strip_prefix("---> ").is_some_and(|rest| {
            rest.is_empty()
                || rest.starts_with("Running in ")
                || rest.starts_with("[Warning] IPv4 forwarding")
                || (rest.len() == 12 && rest.chars().all(|c| c.is_ascii_hexdigit()))
        })
}

fn shorten_step(step: &str) -> String {
    match step.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &step[..at]),
        None => step.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower() -> (StepFollower, mpsc::Receiver<String>) {
        let (sender, lines) = mpsc::channel(100);
        let stop = StopCondition::begin(CancellationToken::new(), &BuildLimits::default());
        let secret = Secret::new("correct-horse");
        let output = BuildOutput::new(sender, stop, [&secret].into_iter(), 1 << 20);
        (StepFollower { output, step: None }, lines)
    }

    #[tokio::test]
    async fn failed_step_is_named_with_its_status_and_reason_and_without_secrets() {
        let (mut follower, mut lines) = follower();
        for line in [
            "Step 1/3 : FROM a:1",
            " ---> 7cf0207f4f0f",
            "Step 2/3 : LABEL tancho.build=1",
            "Step 3/3 : RUN make correct-horse",
            " ---> Running in 9435faf567b5",
            "sh: make: not found",
            "correct-horse",
            "Removing intermediate container 9435faf567b5",
        ] {
            follower.take_line(line).await;
        }
        let failed = ProvisionError::Transient(
            "The Docker Engine refused: The command '/bin/sh -c make' returned a non-zero code: 127".into(),
        );
        assert_eq!(
            follower.explain(failed).to_string(),
            "The step `RUN make ***` of the Dockerfile exited with status 127: sh: make: not found"
        );
        let failed = ProvisionError::Transient("The Docker Engine does not answer: gone.".into());
        assert_eq!(
            follower.explain(failed).to_string(),
            "The step `RUN make ***` of the Dockerfile failed. The Docker Engine does not answer: gone."
        );
        drop(follower);
        let mut shown = Vec::new();
        while let Some(line) = lines.recv().await {
            shown.push(line);
        }
        assert_eq!(
            shown,
            [
                " ---> FROM a:1",
                " ---> RUN make ***",
                "sh: make: not found",
                "***"
            ]
        );
    }
}
