//! Folders of versions on disk: the scratch folder of a build, owners and modes, removal.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::BuildLimits;
use super::leftovers::kill_leftovers;
use crate::sandbox::cgroup;

const BUILDING: &str = ".building-";
const REMOVING: &str = ".removing-";

/// Changes the owner and group of a tree to one number; links are not followed. The top folder comes last, so
/// while it is closed to others, nobody can access a partly changed tree.
pub fn chown_tree(path: &Path, uid: u32) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_tree(&entry?.path(), uid)?;
        }
    }
    lchown(path, Some(uid), Some(uid))
}

/// Lets a user other than root move a frozen top folder.
pub(super) fn make_movable(top: &Path) -> io::Result<()> {
    fs::set_permissions(top, Permissions::from_mode(0o750))
}

/// Removes a version's folder. It is renamed first, so an existing folder is always complete;
/// `remove_leftovers` removes what a kill leaves. Succeeds if the folder does not exist.
pub fn remove_version(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let gone = parent.join(format!("{REMOVING}{}", uuid::Uuid::new_v4().simple()));
    if fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
        // Moving a folder requires write permission on it, even for its owner.
        let _ = fs::set_permissions(dir, Permissions::from_mode(0o750));
    }
    match fs::rename(dir, &gone) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => remove_tree(&gone),
    }
}

/// Removes a tree of any modes and depth, or a single file; links are not followed. Succeeds if it does not
/// exist.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match try_remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn try_remove(path: &Path) -> io::Result<()> {
    const TRIES: usize = 5;
    // The mode of a file does not prevent its removal, so an error is final, and the file stays as it is.
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    for _ in 0..TRIES {
        if fs::remove_dir_all(path).is_ok() {
            return Ok(());
        }
        make_removable(path)?;
    }
    fs::remove_dir_all(path)
}

/// Makes a tree removable: opens each folder, and moves deep ones to the top, where paths are short. A build
/// can nest folders deeper than the limits of paths and open files allow.
fn make_removable(top: &Path) -> io::Result<()> {
    const DEEP: usize = 50;
    let me = nix::unistd::Uid::effective().as_raw();
    let mut folders = vec![(top.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        // From the top down ours alone, so that nobody can replace a folder by a link meanwhile.
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
            // Moving a folder requires write permission on it.
            lchown(&path, Some(me), None)?;
            fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            let higher = top.join(format!(".deep-{}", uuid::Uuid::new_v4().simple()));
            fs::rename(&path, &higher)?;
            folders.push((higher, 1));
        }
    }
    Ok(())
}

/// Removes what killed builds and removals left in a folder of versions, and the processes that belong to
/// them. Running builds, of this or another process, are not touched: they hold a lock. Returns the number of
/// removed folders.
pub fn remove_leftovers(versions_dir: &Path) -> io::Result<usize> {
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
        // Removed by its builder in the meantime.
        let Ok(lock) = File::open(&path) else { continue };
        if name.starts_with(BUILDING) && lock.try_lock().is_err() {
            continue;
        }
        kill_leftovers(&path);
        cgroup::remove_by_name(&build_cgroup_name(&path));
        match remove_tree(&path) {
            Ok(()) => removed += 1,
            Err(error) => tracing::error!(path = %path.display(), %error, "cannot remove a leftover"),
        }
    }
    Ok(removed)
}

/// Returns the name of the cgroups of the build with this scratch folder.
fn build_cgroup_name(scratch: &Path) -> String {
    let name = scratch.file_name().unwrap_or_default().to_string_lossy();
    format!("tancho{}", name.replace('.', "-"))
}

/// The scratch folder and the cgroups of a running build, beside the version that it will become. Dropping it
/// kills the remaining processes in them, and removes them.
pub(super) struct ScratchFolder {
    path: PathBuf,
    cgroups: cgroup::CreatedCgroups,
    /// Held for life; the kernel releases it when the process dies, which `remove_leftovers` detects.
    _lock: File,
}

impl ScratchFolder {
    /// Creates a scratch folder. `limits` apply to the processes that join its cgroups; without them there is
    /// no cgroup.
    pub(super) fn new(versions_dir: &Path, limits: Option<&BuildLimits>) -> io::Result<Self> {
        fs::create_dir_all(versions_dir)?;
        for _ in 0..5 {
            let path = versions_dir.join(format!("{BUILDING}{}", uuid::Uuid::new_v4().simple()));
            // Other users may pass through to their files, but not list the folder.
            fs::DirBuilder::new().mode(0o711).create(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o711))?;
            // A concurrent cleanup may have removed it: then try another name.
            let Ok(lock) = File::open(&path) else { continue };
            if lock.try_lock().is_ok() && path.exists() {
                let want = limits.map(|limits| cgroup::CgroupRequest {
                    memory: limits.memory_bytes,
                    processes: limits.processes,
                    cpu_milli: 0,
                });
                let cgroups = want.map(|want| cgroup::create_cgroups(None, &build_cgroup_name(&path), &want));
                let cgroups = cgroups.unwrap_or_default();
                return Ok(Self {
                    path,
                    cgroups,
                    _lock: lock,
                });
            }
        }
        Err(io::Error::other("the scratch folder was removed repeatedly"))
    }

    pub(super) fn cgroup_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.cgroups.all_paths()
    }

    /// Returns the cgroup that limits memory.
    pub(super) fn memory_cgroup(&self) -> Option<&Path> {
        self.cgroups.memory.as_deref()
    }

    /// Returns how many processes were killed for exceeding the memory limit.
    pub(super) fn count_memory_kills(&self) -> u64 {
        self.memory_cgroup().map_or(0, cgroup::count_oom_kills)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder in which the version is built.
    pub(super) fn tree_dir(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// Returns the `TMPDIR` of the build.
    pub(super) fn temp_dir(&self) -> PathBuf {
        self.path.join("tmp")
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        kill_leftovers(&self.path);
        for group in self
            .cgroups
            .all_paths()
            .filter(|group| !cgroup::kill_and_remove(group))
        {
            tracing::error!(cgroup = %group.display(), "cannot kill all processes of a build");
        }
        if let Err(error) = remove_tree(&self.path) {
            tracing::error!(path = %self.path.display(), %error, "cannot remove the scratch folder of a build");
        }
    }
}
