//! The folder of a unit, `<root>/<unit>`: its lock (held by its shim, as the proof that it lives), its state,
//! its log, its scratch home. The unit's user may pass through the folder to its home, and read nothing else.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::{Gid, Uid, chown};
use serde::{Deserialize, Serialize};

use super::spec_transfer::ShimSpec;
use super::{UnitId, UnitReport, UnitState};
use crate::builders::remove_tree;
use crate::sandbox::cgroup;
use crate::sandbox::proc::{self, ProcessHandle};

/// The state of a unit, written by its shim. Older and newer versions of Tancho read it: fields are only
/// added, with defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ShimState {
    pub(super) unit: UnitId,
    pub(super) app: String,
    pub(super) process: String,
    pub(super) version: i32,
    pub(super) state: UnitState,
    /// Set once the shim was lock to stop.
    #[serde(default)]
    pub(super) stopping: bool,
    /// The boot id of the host when this was written.
    #[serde(default)]
    pub(super) boot: String,
    #[serde(default)]
    pub(super) shim: Option<ProcessHandle>,
    #[serde(default)]
    pub(super) child: Option<u32>,
    #[serde(default)]
    pub(super) port: Option<u16>,
    #[serde(default)]
    pub(super) restarts: u32,
    #[serde(default)]
    pub(super) exit: Option<i32>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) started_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub(super) grace: Duration,
    /// The cgroup that limits memory.
    #[serde(default)]
    pub(super) cgroup: Option<PathBuf>,
    /// Its other cgroups.
    #[serde(default)]
    pub(super) more_cgroups: Vec<PathBuf>,
}

impl ShimState {
    /// The state of a unit before anything runs.
    pub(super) fn new(spec: &ShimSpec) -> Self {
        Self {
            unit: spec.unit.clone(),
            app: spec.app.to_string(),
            process: spec.process.to_string(),
            version: spec.version,
            state: UnitState::Created,
            stopping: false,
            boot: proc::boot_id(),
            shim: None,
            child: None,
            port: None,
            restarts: 0,
            exit: None,
            reason: None,
            started_at: None,
            grace: spec.grace,
            cgroup: None,
            more_cgroups: Vec::new(),
        }
    }

    /// Converts the state to a report.
    pub(super) fn into_report(self) -> UnitReport {
        UnitReport {
            unit: self.unit,
            state: self.state,
            address: self.port.map(|port| (std::net::Ipv4Addr::LOCALHOST, port).into()),
            restarts: self.restarts,
            reason: self.reason,
            exit: self.exit,
            started_at: self.started_at,
        }
    }

    /// All its cgroups.
    pub(super) fn cgroup_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.cgroup.iter().chain(&self.more_cgroups)
    }

    /// Returns the shim, if that very process is alive.
    pub(super) fn live_shim(&self) -> Option<ProcessHandle> {
        self.shim
            .filter(|shim| self.boot == proc::boot_id() && shim.is_alive())
    }

    /// Kills what a dead shim left behind. Its direct child died with it (parent-death signal); this is for
    /// further descendants.
    pub(super) fn kill_leftovers(&self) {
        if self.boot != proc::boot_id() {
            return;
        }
        for path in self.cgroup_paths() {
            cgroup::kill_and_remove(path);
        }
        // The ids of a session and a group are not reused while they have members. If both match and no
        // process has the pid of the leader, the processes are the unit's.
        if let (Some(shim), Some(child)) = (self.shim, self.child.and_then(|pid| i32::try_from(pid).ok())) {
            let all = proc::list_processes();
            if !all.iter().any(|stat| stat.pid == shim.pid) {
                let left = all
                    .iter()
                    .filter(|stat| stat.session == shim.pid && stat.group == child);
                proc::kill_each(left.map(|stat| stat.pid));
            }
        }
    }
}

/// An exclusive lock, held while any process has this open file. It belongs to the open file and not to the
/// process, so that it can be passed to the shim without ever being free.
pub(super) struct UnitLock(File);

impl UnitLock {
    /// Returns the open file, to be passed on.
    pub(super) fn into_file(self) -> File {
        self.0
    }
}

fn flock_range(start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// Locks a range of a file (length 0 = to its end) while the file is open. Returns false if it is locked
/// already.
pub(super) fn lock_range(file: &File, start: i64, length: i64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&flock_range(start, length))) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The folder of a unit; see the module.
#[derive(Clone, Debug)]
pub(super) struct UnitFolder(PathBuf);

impl UnitFolder {
    pub(super) fn for_unit(root: &Path, unit: &UnitId) -> Self {
        Self(root.join(unit.as_str()))
    }

    pub(super) fn from_path(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    pub(super) fn home_dir(&self) -> PathBuf {
        self.0.join("home")
    }

    fn lock_path(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(super) fn state_path(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Creates the folder, if needed.
    pub(super) fn create_dir(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o711).create(&self.0)?;
        fs::set_permissions(&self.0, Permissions::from_mode(0o711))
    }

    /// Creates the scratch home, if needed, and gives it to the unit's user.
    pub(super) fn create_home(&self, user: Option<u32>) -> io::Result<()> {
        let home = self.home_dir();
        match DirBuilder::new().mode(0o700).create(&home) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(user) = user.filter(|user| Uid::effective().as_raw() != *user) {
            chown(&home, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?;
        }
        Ok(())
    }

    /// Empties the scratch home.
    pub(super) fn empty_home(&self) -> io::Result<()> {
        remove_tree(&self.home_dir())
    }

    /// Takes the lock, if it is free.
    pub(super) fn try_lock(&self) -> io::Result<Option<UnitLock>> {
        let path = self.lock_path();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        if !lock_range(&file, 0, 0)? {
            return Ok(None);
        }
        // The folder may have been removed and created again since the file was opened.
        let (ours, there) = (file.metadata()?, fs::metadata(&path)?);
        Ok((ours.ino() == there.ino() && ours.dev() == there.dev()).then_some(UnitLock(file)))
    }

    /// Returns true while the lock is held. It only queries, so that no other process is refused meanwhile.
    pub(super) fn is_locked(&self) -> bool {
        let Ok(file) = File::open(self.lock_path()) else {
            return false;
        };
        let mut lock = flock_range(0, 0);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok()
            && lock.l_type != libc::F_UNLCK as libc::c_short
    }

    /// Reads the state that the shim wrote last.
    pub(super) fn read_state(&self) -> io::Result<ShimState> {
        Ok(serde_json::from_slice(&fs::read(self.state_path())?)?)
    }

    /// Replaces the state atomically.
    pub(super) fn write_state(&self, state: &ShimState) -> io::Result<()> {
        let fresh = self.0.join("state.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        io::Write::write_all(&mut file, &serde_json::to_vec(state)?)?;
        fs::rename(fresh, self.state_path())
    }

    /// Deletes the folder. Its name disappears at once, then its content. The caller must hold the lock, so
    /// that nobody starts the unit meanwhile.
    pub(super) fn delete_dir(&self, root: &Path, _lock: UnitLock) -> io::Result<()> {
        let away = root.join(format!(".gone-{}", uuid::Uuid::new_v4()));
        fs::rename(&self.0, &away)?;
        // What cannot be deleted now (a read-only folder of the unit) is retried at the next start.
        let _later = remove_tree(&away);
        Ok(())
    }
}

/// Lists the units that have a folder.
pub(super) fn list_units(root: &Path) -> io::Result<Vec<UnitId>> {
    let mut units = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        units.extend(name.to_str().and_then(|name| UnitId::parse(name).ok()));
    }
    units.sort();
    Ok(units)
}

/// Completes deletions that were interrupted.
pub(super) fn finish_deletions(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".gone-") {
            let _later = remove_tree(&entry.path());
        }
    }
    Ok(())
}
