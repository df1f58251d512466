//! The disk side of unpacking: writes what the layout has accepted, with plain modes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The destination. Only this process uses it while it is filled, and it has no symbolic link until
/// `create_symlinks`.
pub(super) struct TreeWriter {
    root: PathBuf,
}

impl TreeWriter {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.root.join(path))
    }

    /// Writes a file; returns the number of bytes. Of the mode only "executable" is kept.
    pub(super) fn write_file(
        &self,
        path: &Path,
        from: &mut impl Read,
        executable: bool,
        modified: Option<u64>,
    ) -> io::Result<u64> {
        let path = self.clear_path(path)?;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        let bytes = io::copy(from, &mut file)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        set_modified_time(&file, modified);
        Ok(bytes)
    }

    pub(super) fn create_hard_link(&self, target: &Path, path: &Path) -> io::Result<()> {
        fs::hard_link(self.root.join(target), self.clear_path(path)?)
    }

    /// Creates the symbolic links, last of all.
    pub(super) fn create_symlinks(&self, links: &[(PathBuf, PathBuf)]) -> io::Result<()> {
        links
            .iter()
            .try_for_each(|(path, target)| symlink(target, self.clear_path(path)?))
    }

    /// Creates the parent folder and removes an earlier file of the same name.
    fn clear_path(&self, path: &Path) -> io::Result<PathBuf> {
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

/// Sets the modification time if it is plausible: file servers report it. Best effort.
fn set_modified_time(file: &File, modified: Option<u64>) {
    if let Some(seconds) = modified.filter(|s| (1..1 << 32).contains(s)) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let _ = file.set_modified(time);
    }
}
