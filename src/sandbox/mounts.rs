//! Folders at paths of their own in the mounts of one process: its volumes.
//!
//! The process is root and alone in its mount namespace. A path whose first folder the host does not have needs a root
//! folder of its own: a small file system in memory into which everything of the real one is mounted.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use serde::{Deserialize, Serialize};

/// The options of a root folder in memory: it holds empty files, folders and links.
const ROOT_OPTIONS: &str = "size=4m,nr_inodes=8192,mode=0755";

/// A folder, and where a process sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderMount {
    pub from: PathBuf,
    pub to: PathBuf,
    pub is_read_only: bool,
}

/// Whether a folder can be mounted at a path, which is absolute and without links.
pub fn can_mount_at(path: &Path) -> bool {
    match lacks_first_folder(path) {
        Ok(true) => true,
        // The host has folders there: nothing is added to them.
        Ok(false) => path
            .canonicalize()
            .is_ok_and(|real| real == path && real.is_dir()),
        Err(_) => false,
    }
}

/// Returns true if the host does not even have the first folder of a path.
fn lacks_first_folder(path: &Path) -> io::Result<bool> {
    let Some(first) = path.iter().nth(1) else {
        return Ok(false);
    };
    match fs::symlink_metadata(Path::new("/").join(first)) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Mounts folders in the namespace of this process. `scratch` is an empty folder. A folder that is only mounted read-only
/// is so at its own path too.
pub(super) fn mount_folders(mounts: &[FolderMount], scratch: &Path) -> Result<(), String> {
    if mounts.is_empty() {
        return Ok(());
    }
    try_mount(mounts, scratch).map_err(|error| format!("cannot mount the volumes: {error}"))
}

fn try_mount(mounts: &[FolderMount], scratch: &Path) -> io::Result<()> {
    let mut needs_root = false;
    for mount in mounts {
        needs_root |= lacks_first_folder(&mount.to)?;
    }
    let root = match needs_root {
        true => {
            mirror_root(scratch)?;
            scratch
        }
        false => Path::new("/"),
    };
    for mount in mounts {
        let to = below(root, &mount.to);
        if needs_root {
            DirBuilder::new().recursive(true).mode(0o755).create(&to)?;
        }
        bind_folder(&mount.from, &to, mount.is_read_only)?;
    }
    for mount in mounts.iter().filter(|mount| mount.is_read_only) {
        let is_written = |other: &FolderMount| other.from == mount.from && !other.is_read_only;
        if !mounts.iter().any(is_written) {
            let own = below(root, &mount.from);
            bind_folder(&own, &own, true)?;
        }
    }
    match needs_root {
        true => enter_root(root),
        false => Ok(()),
    }
}

/// Returns where an absolute path is below a root folder.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes a root folder with everything that the real one has.
fn mirror_root(at: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(ROOT_OPTIONS))?;
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let (from, to, kind) = (entry.path(), at.join(entry.file_name()), entry.file_type()?);
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
            continue;
        }
        match kind.is_dir() {
            true => DirBuilder::new().mode(0o755).create(&to)?,
            false => drop(File::create_new(&to)?),
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&from), &to, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

fn bind_folder(from: &Path, to: &Path, is_read_only: bool) -> io::Result<()> {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)?;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if is_read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    Ok(mount(none, to, none, flags, none)?)
}

/// Makes a mounted folder the root of this process' namespace; the earlier one is gone.
fn enter_root(root: &Path) -> io::Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, root, none, flags, none)?;
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_existing_folders_and_new_ones_below_the_root_can_be_mounted_at() {
        let folder = std::env::temp_dir().join(format!("tancho-mounts-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("there")).unwrap();
        let folder = folder.canonicalize().unwrap();
        fs::write(folder.join("file"), "").unwrap();
        symlink(folder.join("there"), folder.join("link")).unwrap();
        for (path, can) in [
            (Path::new("/no-such-folder/of/any/host").to_owned(), true),
            (folder.join("there"), true),
            (folder.join("absent"), false),
            (folder.join("file"), false),
            (folder.join("link"), false),
        ] {
            assert_eq!(can_mount_at(&path), can, "{}", path.display());
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
