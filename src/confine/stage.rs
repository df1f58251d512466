//! `tancho unit-exec <settings> <program> <arguments…>`: the last step before strangers' code. It joins
//! the cgroups, sets the limits, gives up every privilege, shuts itself in, and becomes the program.
//!
//! The environment of the program comes in under prefixed names: this step may still be root, and
//! a variable such as `LD_PRELOAD` must not work on it.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::Confinement;

/// The exit status of a step that failed before it became the program.
pub const FAILED: i32 = 125;
const PREFIX: &str = "TANCHO_UNIT_";

/// What the step is told on its command line; never a secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stage {
    /// The uid and gid to take; `None` = as whoever runs the step.
    pub user: Option<u32>,
    /// Where to begin.
    pub dir: PathBuf,
    /// Cgroups to join.
    pub cgroups: Vec<PathBuf>,
    /// A limit on the data of each process, in bytes, for want of a cgroup.
    pub data: Option<u64>,
    /// Die with this parent.
    pub parent: Option<i32>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Processes and threads of the user; only where it has a user of its own.
    pub processes: Option<u64>,
    /// The largest file that can be written, in bytes.
    pub file_bytes: Option<u64>,
    /// How readily the kernel ends it when the machine has no memory left: up to 1000.
    pub expendable: u16,
    /// How it is shut in.
    pub confinement: Confinement,
}

impl Stage {
    /// Fits a command that runs our own executable with this step.
    pub fn arguments(&self, argv: &[String]) -> Result<Vec<String>, serde_json::Error> {
        let mut arguments = vec!["unit-exec".to_owned(), serde_json::to_string(self)?];
        arguments.extend_from_slice(argv);
        Ok(arguments)
    }

    fn run(&self, program: &OsString, arguments: &[OsString]) -> Result<Infallible, String> {
        self.limit()?;
        umask(Mode::from_bits_truncate(0o077));
        self.become_the_user()
            .map_err(|error| format!("cannot run as user {:?}: {error}", self.user))?;
        prctl::set_no_new_privs().map_err(|error| format!("cannot give up privileges: {error}"))?;
        if let Some(parent) = self.parent {
            // After the change of user, which clears it.
            prctl::set_pdeathsig(Signal::SIGKILL)
                .map_err(|error| format!("cannot follow the shim: {error}"))?;
            if getppid() != Pid::from_raw(parent) {
                return Err("the shim is gone".into());
            }
        }
        std::env::set_current_dir(&self.dir)
            .map_err(|error| format!("cannot enter {}: {error}", self.dir.display()))?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.as_bytes().strip_prefix(PREFIX.as_bytes())?.to_vec();
            Some((OsString::from_vec(name), value))
        });
        let environment: Vec<_> = environment.collect();
        self.confinement.enter()?;
        let _nothing_blocked = SigSet::empty().thread_set_mask();
        let error = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment)
            .exec();
        Err(format!("cannot run {}: {error}", program.to_string_lossy()))
    }

    fn limit(&self) -> Result<(), String> {
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

    fn become_the_user(&self) -> nix::Result<()> {
        let Some(user) = self.user.filter(|_| self.changes_user()) else {
            return Ok(());
        };
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }
}

/// An environment as the step wants it.
pub fn wrapped<N: AsRef<OsStr>, V>(
    environment: impl IntoIterator<Item = (N, V)>,
) -> impl Iterator<Item = (OsString, V)> {
    environment.into_iter().map(|(name, value)| {
        let mut wrapped = OsString::from(PREFIX);
        wrapped.push(name);
        (wrapped, value)
    })
}

/// Closes what a careless ancestor left open, so that no unit holds a socket or a pipe of ours.
/// Call it before anything is opened.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The listing's own is among them, and closed already.
        let _closed_already = nix::unistd::close(fd);
    }
}

/// The step itself. Returns only if it failed.
pub fn main() -> ExitCode {
    close_inherited();
    let mut arguments = std::env::args_os().skip(2);
    let settings = arguments.next().unwrap_or_default();
    let (program, rest) = (
        arguments.next().unwrap_or_default(),
        arguments.collect::<Vec<_>>(),
    );
    let failed = match serde_json::from_slice::<Stage>(settings.as_bytes()) {
        Ok(stage) => match stage.run(&program, &rest) {
            Ok(never) => match never {},
            Err(words) => words,
        },
        Err(_) => "unit-exec is not meant to be called by people".into(),
    };
    let _nobody_listens = writeln!(std::io::stderr(), "tancho: {failed}");
    ExitCode::from(u8::try_from(FAILED).unwrap_or(1))
}
