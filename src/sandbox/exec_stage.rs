//! `tancho unit-exec <settings> <program> <arguments…>`: the last step before untrusted code. It joins the
//! cgroups, sets the limits, gives up all privileges, enters the sandbox, and executes the program. If
//! [`ExecStage::supervised`] is set, a supervisor stays as its parent and kills all descendants of the
//! program.
//!
//! The program's environment is passed under prefixed names: this step may still be root, and variables such
//! as `LD_PRELOAD` must not affect it.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};

use super::{FolderMount, SandboxPolicy, mounts, namespaces, supervisor};

/// The exit status of a stage that failed before it executed the program.
pub const FAILED: i32 = 125;
const ENV_PREFIX: &str = "TANCHO_UNIT_";

/// The parameters of the stage, passed on its command line; never a secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecStage {
    /// The uid and gid to switch to; `None` = keep the current ones.
    pub user: Option<u32>,
    /// Groups to join beside that of the user; what it writes is also theirs. They apply only if the user changes.
    pub groups: Vec<u32>,
    /// Folders that it sees at paths of their own; they need namespaces.
    pub mounts: Vec<FolderMount>,
    /// An empty folder, over which it may mount.
    pub mount_scratch: PathBuf,
    /// The working directory.
    pub dir: PathBuf,
    /// Cgroups to join.
    pub cgroups: Vec<PathBuf>,
    /// A limit on the data segment of each process, in bytes, where no cgroup limits memory.
    pub data: Option<u64>,
    /// The size of its private shared memory in bytes, if it has any.
    pub shared_memory: u64,
    /// Keep a supervisor as the program's parent.
    pub supervised: bool,
    /// Standard input is a terminal: the program leads a session of its own and controls it.
    pub terminal: bool,
    /// The cgroups that the supervisor kills with the program.
    pub ends: Vec<PathBuf>,
    /// The parent to die with; a supervisor then kills all its descendants.
    pub parent: Option<i32>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// Processes and threads per user; applies only if the user changes.
    pub processes: Option<u64>,
    /// The largest file that may be written, in bytes.
    pub file_bytes: Option<u64>,
    /// The OOM score adjustment, up to 1000: the higher, the earlier the kernel kills it when memory runs
    /// out.
    pub expendable: u16,
    /// The sandbox policy.
    pub confinement: SandboxPolicy,
}

impl ExecStage {
    /// Returns the arguments with which our own executable runs this stage.
    pub fn command_args(&self, argv: &[String]) -> Result<Vec<String>, serde_json::Error> {
        let mut arguments = vec!["unit-exec".to_owned(), serde_json::to_string(self)?];
        arguments.extend_from_slice(argv);
        Ok(arguments)
    }

    fn exec_program(&self, program: &OsString, arguments: &[OsString]) -> Result<Infallible, String> {
        if self.terminal {
            control_terminal().map_err(|error| format!("cannot use the terminal: {error}"))?;
        }
        self.apply_limits()?;
        umask(Mode::from_bits_truncate(match self.groups.is_empty() {
            true => 0o077,
            false => 0o007,
        }));
        if self.confinement.namespaces {
            namespaces::enter_namespaces(self.shared_memory)
                .map_err(|error| format!("cannot set up private shared memory: {error}"))?;
            mounts::mount_folders(&self.mounts, &self.mount_scratch)?;
        }
        self.switch_user()
            .map_err(|error| format!("cannot run as user {:?}: {error}", self.user))?;
        prctl::set_no_new_privs().map_err(|error| format!("cannot set no_new_privs: {error}"))?;
        if let Some(parent) = self.parent {
            // After the change of user, which clears it.
            prctl::set_pdeathsig(Signal::SIGKILL)
                .map_err(|error| format!("cannot set the parent-death signal: {error}"))?;
            if getppid() != Pid::from_raw(parent) {
                return Err("its parent process has exited".into());
            }
        }
        std::env::set_current_dir(&self.dir)
            .map_err(|error| format!("cannot enter {}: {error}", self.dir.display()))?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.as_bytes().strip_prefix(ENV_PREFIX.as_bytes())?.to_vec();
            Some((OsString::from_vec(name), value))
        });
        let environment: Vec<_> = environment.collect();
        self.confinement.apply_to_thread()?;
        let _nothing_blocked = SigSet::empty().thread_set_mask();
        let error = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment)
            .exec();
        Err(format!("cannot run {}: {error}", program.to_string_lossy()))
    }

    fn apply_limits(&self) -> Result<(), String> {
        for cgroup in &self.cgroups {
            std::fs::write(cgroup.join("cgroup.procs"), "0")
                .map_err(|error| format!("cannot join the unit's cgroup: {error}"))?;
        }
        let _some_hosts_forbid_it = std::fs::write("/proc/self/oom_score_adj", self.expendable.to_string());
        let mut limits = vec![(Resource::RLIMIT_CORE, 0)];
        limits.extend(self.open_files.map(|files| (Resource::RLIMIT_NOFILE, files)));
        let processes = self.processes.filter(|_| self.changes_user());
        limits.extend(processes.map(|processes| (Resource::RLIMIT_NPROC, processes)));
        limits.extend(self.data.map(|bytes| (Resource::RLIMIT_DATA, bytes)));
        limits.extend(self.file_bytes.map(|bytes| (Resource::RLIMIT_FSIZE, bytes)));
        for (resource, wanted) in limits {
            let hard = getrlimit(resource).map_or(libc::RLIM_INFINITY, |(_, hard)| hard);
            let value = wanted.min(hard);
            setrlimit(resource, value, value).map_err(|error| format!("cannot set {resource:?}: {error}"))?;
        }
        Ok(())
    }

    fn changes_user(&self) -> bool {
        self.user.is_some_and(|user| user != Uid::effective().as_raw())
    }

    fn switch_user(&self) -> nix::Result<()> {
        let Some(user) = self.user.filter(|_| self.changes_user()) else {
            return Ok(());
        };
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }
}

/// Makes this process the leader of a new session that is controlled by the terminal on standard input. A session leader
/// without a terminal gets the first one that it opens.
fn control_terminal() -> std::io::Result<()> {
    setsid()?;
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/fd/0")
        .map(drop)
}

/// Adds the prefix that the stage expects to the names of variables.
pub fn prefix_env<N: AsRef<OsStr>, V>(
    environment: impl IntoIterator<Item = (N, V)>,
) -> impl Iterator<Item = (OsString, V)> {
    environment.into_iter().map(|(name, value)| {
        let mut wrapped = OsString::from(ENV_PREFIX);
        wrapped.push(name);
        (wrapped, value)
    })
}

/// Returns whether the stage, run by `exe`, can create namespaces on this host. Tries it.
pub(super) fn probe_namespaces(exe: &Path) -> bool {
    let stage = ExecStage {
        dir: "/".into(),
        shared_memory: 1 << 20,
        confinement: SandboxPolicy {
            namespaces: true,
            ..SandboxPolicy::default()
        },
        ..ExecStage::default()
    };
    let argv = ["/bin/sh", "-c", "echo entered"].map(str::to_owned);
    let tried = stage
        .command_args(&argv)
        .map_err(std::io::Error::from)
        .and_then(|arguments| Command::new(exe).args(arguments).env_clear().output());
    tried.is_ok_and(|output| output.status.success() && output.stdout == b"entered\n")
}

/// Closes descriptors that were inherited by mistake, so that no unit holds a socket or a pipe of Tancho.
/// Call it before anything is opened.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The descriptor of the listing itself is among them, and closed already.
        let _closed_already = nix::unistd::close(fd);
    }
}

/// Runs the stage. Returns only if it failed.
pub fn run_exec_stage() -> ExitCode {
    close_inherited();
    let mut arguments = std::env::args_os().skip(2);
    let settings = arguments.next().unwrap_or_default();
    let (program, rest) = (
        arguments.next().unwrap_or_default(),
        arguments.collect::<Vec<_>>(),
    );
    let failed = match serde_json::from_slice::<ExecStage>(settings.as_bytes()) {
        Ok(stage) if stage.supervised => {
            let argv: Vec<_> = std::iter::once(program).chain(rest).collect();
            return supervisor::run_supervised(&stage, &argv);
        }
        Ok(stage) => match stage.exec_program(&program, &rest) {
            Ok(never) => match never {},
            Err(message) => message,
        },
        Err(_) => "unit-exec is an internal command of Tancho: do not run it by hand".into(),
    };
    let _nobody_listens = writeln!(std::io::stderr(), "tancho: {failed}");
    ExitCode::from(u8::try_from(FAILED).unwrap_or(1))
}
