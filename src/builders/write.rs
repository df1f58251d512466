//! The disk side of unpacking: makes what the layout has allowed, with plain modes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The destination. It is ours alone while it fills, and holds no symbolic link until `link`.
pub(super) struct Disk {
    root: PathBuf,
}

impl Disk {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.root.join(path))
    }

    /// Writes a file; answers the bytes read. Of the mode only "executable" is kept.
    pub(super) fn file(
        &self,
        path: &Path,
        from: &mut impl Read,
        executable: bool,
        modified: Option<u64>,
    ) -> io::Result<u64> {
        let path = self.fresh(path)?;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        let bytes = io::copy(from, &mut file)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        keep_time(&file, modified);
        Ok(bytes)
    }

    pub(super) fn hard_link(&self, target: &Path, path: &Path) -> io::Result<()> {
        fs::hard_link(self.root.join(target), self.fresh(path)?)
    }

    /// Makes the symbolic links, last of all.
    pub(super) fn link(&self, links: &[(PathBuf, PathBuf)]) -> io::Result<()> {
        links
            .iter()
            .try_for_each(|(path, target)| symlink(target, self.fresh(path)?))
    }

    /// A free name with its folder: an earlier file of the same name goes.
    fn fresh(&self, path: &Path) -> io::Result<PathBuf> {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(path),
        }
    }
}

/// Keeps a plausible time of change: servers of files answer it. Not worth failing for.
fn keep_time(file: &File, modified: Option<u64>) {
    if let Some(seconds) = modified.filter(|s| (1..1 << 32).contains(s)) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let _ = file.set_modified(time);
    }
}
