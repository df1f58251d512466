//! The sandbox of untrusted code: what the kernel can take from a process of an app or a build without a
//! container around it.
//!
//! A process enters the sandbox in the last step before the untrusted code ([`exec_stage`]): this same
//! binary, re-executed. It joins the cgroups, sets the limits, becomes the app's user, gives up every way to
//! gain privileges, and then restricts itself and all its children irrevocably:
//!
//! * [`landlock_rules`], Landlock: the system folders are readable, its own files are accessible as needed,
//!   nothing else. It may listen only on its own port; otherwise it could wait until another unit's port is
//!   free and receive its requests;
//! * [`seccomp_filter`], seccomp: refuses system calls that no app needs and that kernel exploits depend on;
//! * [`namespaces`]: shared memory with names is private; [`mounts`]: so are the paths of volumes.
//!
//! All three are best effort: on a host without them, one line is logged and the process starts anyway. The
//! user, the limits and the cgroups do not depend on them. `docs/isolation.md` states what holds where.
//!
//! Processes end when Tancho stops them, with all their descendants: [`cgroup`], [`supervisor`] and
//! [`leftovers`]. [`disk_usage`] measures folders, because a plain process has no disk quota. [`walk`] lets
//! privileged code traverse folders of untrusted users.

pub(crate) mod cgroup;
pub mod disk_usage;
pub mod exec_stage;
mod landlock_rules;
mod leftovers;
mod mounts;
mod namespaces;
pub(crate) mod proc;
mod seccomp_filter;
pub mod shell;
mod supervisor;
pub(crate) mod walk;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Settings;

pub use landlock_rules::system_folders;
pub use leftovers::kill_leftovers_of_user;
pub use mounts::{FolderMount, can_mount_at};

/// The sandbox policy of a process. It crosses process boundaries on a command line, so it contains no
/// secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxPolicy {
    /// Restrict file access, if the kernel can.
    pub landlock: bool,
    /// Refuse system calls, if the kernel can.
    pub seccomp: bool,
    /// Paths that it may read and execute beyond the system folders.
    pub readable: Vec<PathBuf>,
    /// Paths that it may also write.
    pub writable: Vec<PathBuf>,
    /// Folders in which it may read and remove files, but not write.
    pub removable: Vec<PathBuf>,
    /// Paths that stay inaccessible even inside a system folder: Tancho's own.
    pub closed: Vec<PathBuf>,
    /// The TCP ports on which it may listen, beside those that the kernel picks; `None`: any.
    pub listens: Option<Vec<u16>>,
    /// Give it a private `/dev/shm` and System V memory; without, both are inaccessible.
    pub namespaces: bool,
    /// It shares its user with other processes, so the kernel must block its signals to them.
    pub shared_user: bool,
    /// It has no network: only Unix sockets (needs seccomp).
    pub offline: bool,
}

impl SandboxPolicy {
    /// Creates the policy from the operator's settings. Tancho's data folder and secret files outside of it
    /// are inaccessible.
    pub fn new(settings: &Settings, data: &Path) -> Self {
        let secrets = [&settings.secrets.key_file, &settings.admin.password_file];
        let secrets = secrets.into_iter().filter_map(|file| file.canonicalize().ok());
        let local = &settings.local;
        Self {
            landlock: local.landlock,
            seccomp: local.seccomp,
            readable: local.readable.clone(),
            writable: local.writable.clone(),
            removable: Vec::new(),
            closed: secrets.chain([data.to_owned()]).collect(),
            listens: (!local.listen_anywhere).then(Vec::new),
            namespaces: local.namespaces,
            shared_user: false,
            offline: false,
        }
    }

    /// Returns the policy with more readable paths.
    #[must_use]
    pub fn with_readable(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.readable.extend(folders);
        self
    }

    /// Returns the policy with more writable paths.
    #[must_use]
    pub fn with_writable(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.writable.extend(folders);
        self
    }

    /// Returns the policy with more folders in which files may be read and removed.
    #[must_use]
    pub fn with_removable(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.removable.extend(folders);
        self
    }

    /// Returns the policy without namespaces if this host refuses them to the exec stage of `exe`.
    #[must_use]
    pub fn with_probed_namespaces(mut self, exe: &Path) -> Self {
        self.namespaces = self.namespaces && exec_stage::probe_namespaces(exe);
        self
    }

    /// Returns true if a process can be kept from writing to files that it may read.
    pub fn restricts_files(&self) -> bool {
        self.landlock && landlock_rules::is_available()
    }

    /// Returns the requested features that this kernel lacks, for the log.
    pub fn list_unsupported(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.landlock && !landlock_rules::is_available() {
            missing.push("Landlock");
        }
        if self.seccomp && !seccomp_filter::is_available() {
            missing.push("seccomp");
        }
        missing
    }

    /// Restricts the calling thread, and so the program that it executes. It must have set no_new_privs.
    /// Errors: the kernel supports the feature but refused, so the program must not run.
    fn apply_to_thread(&self) -> Result<(), String> {
        if self.landlock {
            landlock_rules::apply_ruleset(self)
                .map_err(|error| format!("cannot apply the Landlock rules: {error}"))?;
        }
        // Last: the steps before need system calls that it refuses.
        if self.seccomp {
            seccomp_filter::apply_filters(self)
                .map_err(|error| format!("cannot install the seccomp filter: {error}"))?;
            if self.offline {
                seccomp_filter::block_network()
                    .map_err(|error| format!("cannot block network sockets: {error}"))?;
            }
        }
        Ok(())
    }
}
