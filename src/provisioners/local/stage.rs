//! `tancho unit-exec <settings> <program> <arguments…>`: the last step before a unit's own code. It
//! joins the cgroup, sets the limits, gives up every privilege, and becomes the program.
//!
//! The environment of the program comes in under prefixed names: this step may still be root, and
//! a variable such as `LD_PRELOAD` must not work on it.

use std::convert::Infallible;
use std::ffi::OsString;
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

/// The exit status of a step that failed before it became the program.
pub(super) const FAILED: i32 = 125;
const PREFIX: &str = "TANCHO_UNIT_";
const OPEN_FILES: u64 = 65_536;
const PROCESSES: u64 = 4_096;

/// What the step is told on its command line; never a secret.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stage {
    pub(super) user: Option<u32>,
    pub(super) dir: PathBuf,
    pub(super) cgroup: Option<PathBuf>,
    /// A limit on the data of each process, in bytes, for want of a cgroup.
    pub(super) data: Option<u64>,
    /// Die with this parent.
    pub(super) parent: Option<i32>,
}

impl Stage {
    /// Fits a command that runs our own executable with this step.
    pub(super) fn arguments(&self, argv: &[String]) -> Result<Vec<String>, serde_json::Error> {
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
        let _nothing_blocked = SigSet::empty().thread_set_mask();
        let error = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment)
            .exec();
        Err(format!("cannot run {}: {error}", program.to_string_lossy()))
    }

    fn limit(&self) -> Result<(), String> {
        if let Some(cgroup) = &self.cgroup {
            std::fs::write(cgroup.join("cgroup.procs"), "0")
                .map_err(|error| format!("cannot join the unit's cgroup: {error}"))?;
        }
        let mut limits = vec![(Resource::RLIMIT_CORE, 0), (Resource::RLIMIT_NOFILE, OPEN_FILES)];
        if self.changes_user() {
            limits.push((Resource::RLIMIT_NPROC, PROCESSES));
        }
        limits.extend(self.data.map(|bytes| (Resource::RLIMIT_DATA, bytes)));
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
pub(super) fn wrapped(environment: Vec<(String, String)>) -> impl Iterator<Item = (String, String)> {
    environment
        .into_iter()
        .map(|(name, value)| (format!("{PREFIX}{name}"), value))
}

/// Closes what a careless ancestor left open, so that no unit holds a socket or a pipe of ours.
/// Call it before anything is opened.
pub(super) fn close_inherited() {
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
