//! How strangers' code is shut in: what the kernel can take from a process that becomes an app's, or a
//! build's, without a container around it.
//!
//! A process is shut in by its last step before the stranger's code ([`stage`]): this same binary,
//! re-executed, which joins the cgroups, sets the limits, becomes the app's user, gives up every way to
//! gain privileges, and closes behind itself, for good and for all children:
//!
//! * [`files`], Landlock: the system's folders for reading, its own for what it needs, nothing else; and no
//!   port but its own to listen on, or it could wait for another unit's to be free and get its requests;
//! * [`calls`], seccomp: system calls that no app needs and that exploits of the kernel live on.
//!
//! Both are best effort: a kernel without them is told in one line of the log, and the step goes on. What
//! the user, the limits and the cgroups do does not depend on them. What is *not* shut in is written in the
//! README.
//!
//! [`usage`] measures what a folder takes on the disk, because a plain process has no limit for that.

mod calls;
mod files;
pub mod stage;
pub mod usage;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Settings;

pub use files::system_folders;

/// How a process is shut in. Crosses process boundaries on a command line: it holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Keep it to its files, if the kernel can.
    pub landlock: bool,
    /// Refuse system calls, if the kernel can.
    pub seccomp: bool,
    /// What it may read and run beyond the system's folders.
    pub readable: Vec<PathBuf>,
    /// What it may also write.
    pub writable: Vec<PathBuf>,
    /// What stays closed even where a folder of the system contains it: Tancho's own.
    pub closed: Vec<PathBuf>,
    /// The TCP ports on which it may listen, beside those that the kernel picks; `None`: on any.
    pub listens: Option<Vec<u16>>,
    /// Its user is not its own, so the kernel is to keep its signals from others.
    pub shared_user: bool,
}

impl Confinement {
    /// As the operator wishes it, with Tancho's data folder closed, and the files of its secrets that lie
    /// elsewhere.
    pub fn new(settings: &Settings, data: &Path) -> Self {
        let secrets = [&settings.secrets.key_file, &settings.admin.password_file];
        let secrets = secrets.into_iter().filter_map(|file| file.canonicalize().ok());
        let local = &settings.local;
        Self {
            landlock: local.landlock,
            seccomp: local.seccomp,
            readable: local.readable.clone(),
            writable: local.writable.clone(),
            closed: secrets.chain([data.to_owned()]).collect(),
            listens: (!local.listen_anywhere).then(Vec::new),
            shared_user: false,
        }
    }

    /// The same, with more folders to read.
    #[must_use]
    pub fn reads(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.readable.extend(folders);
        self
    }

    /// The same, with more folders to write.
    #[must_use]
    pub fn writes(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.writable.extend(folders);
        self
    }

    /// What is wished for and not to be had from this kernel, for the log.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.landlock && !files::is_available() {
            missing.push("Landlock");
        }
        if self.seccomp && !calls::is_available() {
            missing.push("seccomp");
        }
        missing
    }

    /// Shuts the calling thread in, and so the program that it becomes. It must have given up gaining
    /// privileges. Errors: the kernel has it and refused, so that nothing must run.
    fn enter(&self) -> Result<(), String> {
        if self.landlock {
            files::enter(self).map_err(|error| format!("cannot be kept to its files: {error}"))?;
        }
        // Last: what comes before needs calls of its own.
        if self.seccomp {
            calls::enter().map_err(|error| format!("cannot be kept from system calls: {error}"))?;
        }
        Ok(())
    }
}
