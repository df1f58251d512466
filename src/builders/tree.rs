//! Folders of versions on the disk: the scratch folder of a build, owners and modes, removal.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::strays::kill_strays;

const BUILDING: &str = ".building-";
const REMOVING: &str = ".removing-";

/// Gives a tree to a user and a group of the same number; links are not followed. The top comes last,
/// so while it is closed to others nobody sees the tree half given away.
pub fn chown_tree(path: &Path, uid: u32) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_tree(&entry?.path(), uid)?;
        }
    }
    lchown(path, Some(uid), Some(uid))
}

/// Closes a built tree: the app reads and runs it, and writes nothing. With `user`, everything becomes
/// root's, readable by the group of that number; without, only the write bits go. Answers the bytes of
/// the files.
///
/// It goes from the top down: once a folder is root's, whoever built it can no longer exchange what
/// lies in it, so no step can be led astray by a process that outlived the build.
pub(super) fn seal(top: &Path, user: Option<u32>) -> io::Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![top.to_owned()];
    // Files with several names that are ours already.
    let mut ours = HashSet::new();
    close(top, user, true)?;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            let kind = found.file_type();
            let foreign = user.is_some_and(|uid| found.uid() != uid);
            let linked = kind.is_file() && found.nlink() > 1;
            if linked && ours.contains(&(found.dev(), found.ino())) {
                continue;
            }
            if linked && foreign {
                let words = format!("{} is a hard link to a file of another user", path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
            }
            if linked {
                ours.insert((found.dev(), found.ino()));
            }
            if kind.is_symlink() {
                user.map_or(Ok(()), |gid| lchown(&path, Some(0), Some(gid)))?;
            } else if kind.is_dir() {
                close(&path, user, true)?;
                folders.push(path);
            } else if kind.is_fifo() || kind.is_socket() {
                fs::remove_file(&path)?;
            } else {
                close(&path, user, found.mode() & 0o111 != 0)?;
                bytes += found.len();
            }
        }
    }
    Ok(bytes)
}

/// Owner and mode of one file or folder.
fn close(path: &Path, user: Option<u32>, executable: bool) -> io::Result<()> {
    let mode = match user {
        Some(gid) => {
            lchown(path, Some(0), Some(gid))?;
            0o640
        }
        // A folder of one's own must stay writable until it has moved to its place.
        None => 0o440,
    };
    let mode = if executable { mode | 0o110 } else { mode };
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Lets a sealed top folder be moved by a user who is not root.
pub(super) fn open_top(top: &Path) -> io::Result<()> {
    fs::set_permissions(top, Permissions::from_mode(0o750))
}

/// Removes a version's folder. It is gone under its name at once, so a folder that is there is always
/// whole; what a kill leaves half removed, `sweep` finds. A folder that is not there is fine.
pub fn remove_version(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let gone = parent.join(format!("{REMOVING}{}", uuid::Uuid::new_v4().simple()));
    if fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
        // Moving a folder needs the right to write it, even for its owner.
        let _ = fs::set_permissions(dir, Permissions::from_mode(0o750));
    }
    match fs::rename(dir, &gone) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => remove_tree(&gone),
    }
}

/// Removes a tree whatever its modes and depth, or a single file; links are not followed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(_) if tries < 5 => flatten(path)?,
            other => return other,
        }
        tries += 1;
    }
}

/// Makes a tree removable: opens each folder, and moves those that lie deep to the top, where paths are
/// short. A build can nest folders deeper than any path or the number of open files allows.
fn flatten(top: &Path) -> io::Result<()> {
    const DEEP: usize = 50;
    let me = nix::unistd::Uid::effective().as_raw();
    let mut folders = vec![(top.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        // From the top down ours alone, so that nobody exchanges a folder for a link meanwhile.
        lchown(&folder, Some(me), None)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let path = entry.path();
            if depth < DEEP {
                folders.push((path, depth + 1));
                continue;
            }
            // Moving a folder needs the right to write it.
            lchown(&path, Some(me), None)?;
            fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            let higher = top.join(format!(".deep-{}", uuid::Uuid::new_v4().simple()));
            fs::rename(&path, &higher)?;
            folders.push((higher, 1));
        }
    }
    Ok(())
}

/// Removes what killed builds and removals have left in a folder of versions, and the processes that
/// still belong to them. Builds that are under way, here or in another process, are left alone: they
/// hold a lock. Answers how many were removed.
pub fn sweep(versions_dir: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(versions_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with(BUILDING) || name.starts_with(REMOVING)) || !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        // Gone in the meantime: its builder removed it.
        let Ok(lock) = File::open(&path) else { continue };
        if name.starts_with(BUILDING) && lock.try_lock().is_err() {
            continue;
        }
        kill_strays(&path);
        match remove_tree(&path) {
            Ok(()) => removed += 1,
            Err(error) => tracing::error!(path = %path.display(), %error, "cannot remove a leftover"),
        }
    }
    Ok(removed)
}

/// The folder of one running build, beside the version it will become. Dropping it ends the processes
/// that bear its mark and removes it.
pub(super) struct Scratch {
    path: PathBuf,
    /// Held for life; the kernel lets go when the process dies, and `sweep` sees that.
    _lock: File,
}

impl Scratch {
    pub(super) fn new(versions_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(versions_dir)?;
        for _ in 0..5 {
            let path = versions_dir.join(format!("{BUILDING}{}", uuid::Uuid::new_v4().simple()));
            // Others may pass through, to what is theirs, and look at nothing.
            fs::DirBuilder::new().mode(0o711).create(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o711))?;
            // A sweep may have come between: then try another name.
            let Ok(lock) = File::open(&path) else { continue };
            if lock.try_lock().is_ok() && path.exists() {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(io::Error::other("the scratch folder vanishes again and again"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the version grows.
    pub(super) fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// `TMPDIR` of the build.
    pub(super) fn temp(&self) -> PathBuf {
        self.path.join("tmp")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        kill_strays(&self.path);
        if let Err(error) = remove_tree(&self.path) {
            tracing::error!(path = %self.path.display(), %error, "cannot remove the folder of a build");
        }
    }
}
