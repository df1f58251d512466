//! `git` as a child process. It reads data of untrusted users, so it runs in the sandbox of builds: as a
//! separate user without privileges, restricted to one repository, without a network unless it fetches, with
//! limits on processor time, memory and file size, and with an environment and a configuration of Tancho's
//! own.
//!
//! Git finds no other program: its `PATH` is a folder that contains only a link to git. So nothing in a
//! repository (signatures, filters, hooks, remotes) can make it start another program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::builders::platforms;
use crate::core::Core;
use crate::kernel::error::Error;
use crate::repositories::git_output::{GitOutput, check_length, read_prefix, read_tail, with_deadline};
use crate::repositories::programs;
use crate::sandbox::SandboxPolicy;
use crate::sandbox::exec_stage::{ExecStage, prefix_env};
use crate::versions;

/// The maximum output of a short query.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
/// The maximum memory that git may allocate in one piece: a small pack can unpack to objects of any size.
const MAX_ALLOC_BYTES: u64 = 1 << 30;
/// Less is too little for git's own work.
const MIN_ALLOC_BYTES: u64 = 64 << 20;
/// The memory of each process in addition to two of the largest pieces: caches, lists of objects, windows of
/// deltas.
const BASE_MEMORY_BYTES: u64 = 1 << 30;
/// How much larger than the remaining quota a pack file may be, so that git detects it first and reports a
/// better error.
const PACK_OVERHEAD_BYTES: u64 = 1 << 20;
/// Processor time of each process: a small pack can unpack to any number of objects.
const CPU_TIME_LIMIT: Duration = Duration::from_secs(1800);
/// For a command whose result this server waits for.
const DEADLINE: Duration = Duration::from_secs(600);
/// The kernel kills git before Tancho when the machine runs out of memory.
const OOM_SCORE_ADJ: u16 = 300;

/// Settings of every git command; they override those of the repository.
const GIT_SETTINGS: [&str; 9] = [
    "advice.graftFileDeprecated=false",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "credential.helper=",
    "protocol.allow=never",
    // Limits each repository to one thread of the processor.
    "pack.threads=1",
    "pack.windowMemory=64m",
    "gc.auto=0",
];

/// Runs a command with two limits: the file size in blocks of 512 bytes, and seconds of processor time.
/// Writing a larger file returns an error instead of killing the process.
macro_rules! bounded {
    ($redirections:literal) => {
        concat!(
            r#"trap '' XFSZ; ulimit -c 0 && ulimit -f "$1" && ulimit -t "$2" && shift 2 && exec "$@""#,
            $redirections
        )
    };
}
const LIMITS_SCRIPT: &str = bounded!("");
/// The same, with the original standard input as descriptor 3 and an empty standard input.
const LIMITS_SCRIPT_FD3: &str = bounded!(" 3<&0 0</dev/null");

/// The limits of a git command that receives objects of untrusted users, and of each of its children.
#[derive(Clone, Copy, Debug)]
pub(super) struct GitLimits {
    /// The bytes by which the repository may grow.
    pub(super) max_growth_bytes: u64,
    /// The maximum unpacked size of an object, in bytes.
    pub(super) max_object_bytes: u64,
}

/// A `git` command in a repository, before its start.
pub(super) struct GitCommand {
    /// The program that applies the sandbox before it executes git.
    program: PathBuf,
    /// The folder that is git's `PATH`.
    path: PathBuf,
    stage: ExecStage,
    script: &'static str,
    /// The file size limit, in blocks of 512 bytes; `None`: no limit.
    max_file_blocks: Option<u64>,
    env: Vec<(OsString, OsString)>,
    args: Vec<OsString>,
    stdin: Stdio,
    stderr: Stdio,
    /// Whether dropping it kills the process.
    kill_on_drop: bool,
}

/// Creates a `git` command in a repository. It has no network, and its writes are not limited.
pub(super) fn git_command(core: &Core, repository: &Path) -> GitCommand {
    let repositories = core.data_dir.repositories_dir();
    let mut confinement = SandboxPolicy::new(&core.settings, core.data_dir.path());
    // Folders that operators open for apps are not for git.
    (confinement.readable, confinement.writable) = (Vec::new(), Vec::new());
    confinement.offline = true;
    confinement.shared_user = true;
    let stage = ExecStage {
        user: git_user(core),
        dir: repository.to_owned(),
        data: Some(BASE_MEMORY_BYTES + 2 * MAX_ALLOC_BYTES),
        expendable: OOM_SCORE_ADJ,
        confinement: confinement.with_writable([repository.to_owned()]),
        ..ExecStage::default()
    };
    let mut command = GitCommand {
        program: platforms::program_path(&core.platforms_dir),
        path: programs::programs_folder(&repositories),
        stage,
        script: LIMITS_SCRIPT,
        max_file_blocks: None,
        env: Vec::new(),
        args: Vec::new(),
        stdin: Stdio::null(),
        stderr: Stdio::null(),
        kill_on_drop: true,
    };
    for setting in GIT_SETTINGS {
        command = command.with_config(setting);
    }
    for (name, value) in [
        ("LC_ALL", "C.UTF-8"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        // The content of an object must not depend on a ref that a user has pushed.
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_GRAFT_FILE", "/dev/null"),
    ] {
        command = command.env(name, value);
    }
    command
        .env("GIT_ALLOC_LIMIT", MAX_ALLOC_BYTES.to_string())
        .env("GIT_DIR", repository)
}

/// Creates a `git` command that receives objects.
pub(super) fn limited_git_command(core: &Core, repository: &Path, bounds: GitLimits) -> GitCommand {
    let largest = bounds.max_object_bytes.clamp(MIN_ALLOC_BYTES, MAX_ALLOC_BYTES);
    let mut command = git_command(core, repository);
    command.max_file_blocks = Some(
        bounds
            .max_growth_bytes
            .saturating_add(PACK_OVERHEAD_BYTES)
            .div_ceil(512),
    );
    command.stage.data = Some(BASE_MEMORY_BYTES + 2 * largest);
    command.env("GIT_ALLOC_LIMIT", largest.to_string())
}

/// Returns the user of every git command if this process is root: the number below those of apps, which begin
/// at 1.
pub(super) fn git_user(core: &Core) -> Option<u32> {
    versions::unit_uid(core, 0)
}

impl GitCommand {
    pub(super) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(super) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds `-c` with a setting; before the subcommand.
    pub(super) fn with_config(self, setting: impl Into<OsString>) -> Self {
        self.arg("-c").arg(setting)
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Allows writing to one more folder.
    pub(super) fn allow_write(mut self, folder: &Path) -> Self {
        self.stage.confinement.writable.push(folder.to_owned());
        self
    }

    /// Allows reading one more folder and executing programs in it.
    pub(super) fn allow_read(mut self, folder: &Path) -> Self {
        self.stage.confinement.readable.push(folder.to_owned());
        self
    }

    /// Allows network connections.
    pub(super) fn allow_network(mut self) -> Self {
        self.stage.confinement.offline = false;
        self
    }

    pub(super) fn stdin(mut self, stdin: Stdio) -> Self {
        self.stdin = stdin;
        self
    }

    /// Passes a socket as descriptor 3 (`fd::3` as a remote), with an empty standard input.
    pub(super) fn with_remote_socket(mut self, socket: OwnedFd) -> Self {
        self.script = LIMITS_SCRIPT_FD3;
        self.stdin(Stdio::from(socket))
    }

    /// Does not kill the process on drop: it must release its locks by itself.
    pub(super) fn keep_alive_on_drop(mut self) -> Self {
        self.kill_on_drop = false;
        self
    }

    pub(super) fn pipe_stderr(mut self) -> Self {
        self.stderr = Stdio::piped();
        self
    }

    /// Starts the command. Errors: `Unavailable` if git is not installed.
    pub(super) fn spawn(self) -> Result<GitChild, Error> {
        programs::link_programs(&self.path).map_err(Error::internal)?;
        if !self.path.join("git").exists() {
            return Err(Error::unavailable(
                "git is not installed on this server: ask its administrator to install it.",
            ));
        }
        let blocks = self
            .max_file_blocks
            .map_or_else(|| "unlimited".to_owned(), |blocks| blocks.to_string());
        let bounds = [blocks, CPU_TIME_LIMIT.as_secs().to_string()];
        let shell = ["/bin/sh", "-c", self.script, "sh", &bounds[0], &bounds[1], "git"];
        let shell = shell.map(str::to_owned);
        let mut command = Command::new(&self.program);
        command
            .args(self.stage.command_args(&shell).map_err(Error::internal)?)
            .args(self.args)
            .env_clear()
            .envs(prefix_env([("PATH", self.path.as_os_str())]))
            .envs(prefix_env(self.env))
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(self.stderr)
            .process_group(0)
            .kill_on_drop(self.kill_on_drop);
        let child = command.spawn().map_err(Error::internal)?;
        Ok(GitChild {
            child,
            kill_on_drop: self.kill_on_drop,
        })
    }

    /// Runs a query to its end; returns its status, all of its output, and the end of standard error. Errors:
    /// `Failed` if it takes too long; `TooLarge` if the output exceeds `most` bytes, so that a part is never
    /// taken for the whole.
    pub(super) async fn read_output(self, most: u64) -> Result<GitOutput, Error> {
        self.read_output_within(DEADLINE, most).await
    }

    async fn read_output_within(self, deadline: Duration, most: u64) -> Result<GitOutput, Error> {
        let answer = self.read_first_bytes(deadline, most.saturating_add(1)).await?;
        check_length(&answer.stdout, most)?;
        Ok(answer)
    }

    /// Runs a query until its end, or until it has written `most` bytes, which counts as success.
    async fn read_first_bytes(self, deadline: Duration, most: u64) -> Result<GitOutput, Error> {
        let mut child = self.pipe_stderr().spawn()?;
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let reading = async {
            let stdout = child.child.stdout.take();
            let stderr = child.child.stderr.take();
            tokio::try_join!(
                read_prefix(stdout, most, &mut said),
                read_tail(stderr, &mut complaint)
            )?;
            child.wait().await
        };
        let status = with_deadline(deadline, reading).await?;
        Ok(GitOutput {
            // The pipe was closed while git was writing, which may have killed it.
            status: if said.len() as u64 == most {
                Some(0)
            } else {
                status
            },
            stdout: said,
            stderr: String::from_utf8_lossy(&complaint).into_owned(),
        })
    }

    /// Runs a query with input; returns its status and output. Errors: as `read_output`.
    pub(super) async fn run_with_input(
        self,
        input: Vec<u8>,
        most: u64,
    ) -> Result<(Option<i32>, Vec<u8>), Error> {
        let mut child = self.stdin(Stdio::piped()).spawn()?;
        let mut said = Vec::new();
        let asking = async {
            let (stdin, stdout) = (child.child.stdin.take(), child.child.stdout.take());
            let telling = async {
                if let Some(mut stdin) = stdin {
                    // A git that has already exited reads no more, and its status gives the reason.
                    let _ = stdin.write_all(&input).await;
                }
                io::Result::Ok(())
            };
            let limit = most.saturating_add(1);
            tokio::try_join!(telling, read_prefix(stdout, limit, &mut said))?;
            child.wait().await
        };
        let status = with_deadline(DEADLINE, asking).await?;
        check_length(&said, most)?;
        Ok((status, said))
    }

    /// Runs a short query; returns its status and output.
    pub(super) async fn run_query(self) -> Result<(Option<i32>, String), Error> {
        let answer = self.read_output(MAX_OUTPUT_BYTES).await?;
        Ok((answer.status, answer.stdout_text()))
    }

    /// Runs a command that must succeed; returns its output.
    pub(super) async fn run_checked(self) -> Result<String, Error> {
        self.run_checked_within(DEADLINE).await
    }

    /// Like `run_checked`, with another deadline.
    pub(super) async fn run_checked_within(self, deadline: Duration) -> Result<String, Error> {
        self.read_output_within(deadline, MAX_OUTPUT_BYTES)
            .await?
            .into_text()
    }

    /// Runs a command that must succeed, and truncates its output: for text shown to users.
    pub(super) async fn run_checked_and_cut(self) -> Result<String, Error> {
        self.read_first_bytes(DEADLINE, MAX_OUTPUT_BYTES)
            .await?
            .into_text()
    }
}

/// A running git. Dropping it kills it and all its descendants, unless it was started with
/// `keep_alive_on_drop`.
pub(super) struct GitChild {
    pub(super) child: Child,
    kill_on_drop: bool,
}

impl GitChild {
    /// Waits for its end; returns its exit status, or `None` if it was killed.
    pub(super) async fn wait(&mut self) -> io::Result<Option<i32>> {
        Ok(self.child.wait().await?.code())
    }
}

impl Drop for GitChild {
    fn drop(&mut self) {
        // Without an id it has been waited for, and its process group may already belong to others.
        let group = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group.filter(|_| self.kill_on_drop) {
            // Fails if the last process has just ended.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}
