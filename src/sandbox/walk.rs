//! Traverses a folder whose owner may replace entries at any time, with more rights than the owner: every
//! step uses an open folder and a name in it, and no link is followed.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

const OPEN_FOLDER_FLAGS: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Opens the top, which must be a folder and not a link.
pub(crate) fn open_top(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OPEN_FOLDER_FLAGS, Mode::empty())?)
}

/// Opens a folder below another, by a path of plain names. Errors: `ENAMETOOLONG` if no program could open
/// that path.
pub(crate) fn open_below(top: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    if path.as_os_str().len() >= usize::try_from(libc::PATH_MAX).unwrap_or(usize::MAX) {
        return Err(nix::Error::ENAMETOOLONG.into());
    }
    let mut folder = openat(top, c".", OPEN_FOLDER_FLAGS, Mode::empty())?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        folder = openat(&folder, name, OPEN_FOLDER_FLAGS, Mode::empty())?;
    }
    Ok(folder)
}

/// Lists the names in a folder.
pub(crate) fn list_names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    // A separate descriptor, because reading moves its offset.
    let mut folder = Dir::from_fd(openat(folder, c".", OPEN_FOLDER_FLAGS, Mode::empty())?)?;
    let mut names = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Returns the metadata of an entry; of a link, that of the link itself.
pub(crate) fn stat_entry(folder: impl AsFd, name: &CStr) -> io::Result<FileStat> {
    Ok(fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// Opens a handle of an entry of any type (`O_PATH`), without opening its content.
pub(crate) fn open_handle(folder: impl AsFd, name: &CStr) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(folder, name, flags, Mode::empty())?))
}

/// The path of an entry of a folder, relative to the top.
pub(crate) fn join_name(folder: &Path, name: &CStr) -> PathBuf {
    folder.join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

pub(crate) fn is_folder(found: &FileStat) -> bool {
    file_kind(found) == SFlag::S_IFDIR
}

/// The type of a file: regular file, folder, link, …
pub(crate) fn file_kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}
