//! Freezes a built tree: the app reads and runs it, and nobody can write it any more, whatever the build left
//! behind: hard links from elsewhere, open descriptors, writable mappings, descriptors sent to other
//! processes.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, unlinkat};

use crate::sandbox::walk;

/// Freezes a built tree. With `user`, everything becomes root's, readable by the group of that number;
/// without, only the write bits are removed. A file that has names outside the tree, or that a process may
/// still write, is replaced by a copy; at most `most` bytes are copied. Returns the size of all files in
/// bytes.
///
/// It works from the top down: once a folder is root's, the build's user can no longer replace its entries.
/// The processes of the build must have ended.
pub(super) fn freeze_tree(top: &Path, user: Option<u32>, most: u64) -> io::Result<u64> {
    let top = walk::open_top(top)?;
    let mut freezer = TreeFreezer {
        user,
        copy_budget: most,
        copies: HashMap::new(),
        bytes: 0,
    };
    freezer.take_ownership(&walk::open_handle(&top, c".")?)?;
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let folder = walk::open_below(&top, &path)?;
        for name in walk::list_names(&folder)? {
            if freezer.freeze_entry(&top, &folder, &path, &name)? {
                folders.push(walk::join_name(&path, &name));
            }
        }
        freezer.make_read_only(&walk::open_handle(&folder, c".")?, true)?;
    }
    Ok(freezer.bytes)
}

struct TreeFreezer {
    user: Option<u32>,
    /// Bytes that may still be copied.
    copy_budget: u64,
    /// The path of the copy of each file with several names, by device and inode.
    copies: HashMap<(u64, u64), PathBuf>,
    bytes: u64,
}

impl TreeFreezer {
    /// Freezes one entry; returns true if it is a folder.
    fn freeze_entry(
        &mut self,
        top: &OwnedFd,
        folder: &OwnedFd,
        path: &Path,
        name: &CStr,
    ) -> io::Result<bool> {
        let held = walk::open_handle(folder, name)?;
        let found = held.metadata()?;
        match walk::file_kind(&nix::sys::stat::fstat(&held)?) {
            SFlag::S_IFDIR => {
                self.take_ownership(&held)?;
                return Ok(true);
            }
            SFlag::S_IFLNK => self.set_owner(&held)?,
            SFlag::S_IFREG if found.nlink() > 1 || self.copies.contains_key(&file_id(&found)) => {
                self.replace_hard_link(top, folder, path, name, &held)?
            }
            SFlag::S_IFREG => {
                self.make_read_only(&held, found.mode() & 0o111 != 0)?;
                self.bytes += found.len();
                if !has_no_writers(&held) {
                    self.replace_with_copy(folder, name, &held)?;
                }
            }
            _ => unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?,
        }
        Ok(false)
    }

    /// Replaces a file with several names: its names in the tree become names of one copy.
    fn replace_hard_link(
        &mut self,
        top: &OwnedFd,
        folder: &OwnedFd,
        path: &Path,
        name: &CStr,
        held: &File,
    ) -> io::Result<()> {
        let found = held.metadata()?;
        if self.user.is_some_and(|uid| found.uid() != uid) {
            let message = format!(
                "{} is a hard link to a file of another user",
                walk::join_name(path, name).display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        if let Some(copy) = self.copies.get(&file_id(&found)) {
            let (parent, last) = (
                copy.parent().unwrap_or(Path::new("")),
                copy.file_name().unwrap_or_default(),
            );
            let parent = walk::open_below(top, parent)?;
            unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
            return Ok(linkat(&parent, last, folder, name, AtFlags::empty())?);
        }
        self.replace_with_copy(folder, name, held)?;
        self.bytes += found.len();
        self.copies.insert(file_id(&found), walk::join_name(path, name));
        Ok(())
    }

    /// Replaces a file by a copy that no other process has ever opened.
    fn replace_with_copy(&mut self, folder: &OwnedFd, name: &CStr, held: &File) -> io::Result<()> {
        let found = held.metadata()?;
        if found.mode() & 0o400 == 0 {
            set_mode(held, 0o600)?;
        }
        let from = File::open(proc_fd_path(held))?;
        let fresh = CString::new(format!(".tancho-sealing-{}", uuid::Uuid::new_v4().simple()))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut to = File::from(openat(
            folder,
            fresh.as_c_str(),
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )?);
        let copied = io::copy(&mut from.take(self.copy_budget.saturating_add(1)), &mut to)?;
        self.copy_budget = self.copy_budget.checked_sub(copied).ok_or_else(|| {
            let message = "too many of its files have links outside the tree or are open for writing";
            io::Error::new(io::ErrorKind::PermissionDenied, message)
        })?;
        to.set_modified(found.modified()?)?;
        drop(to);
        self.make_read_only(&walk::open_handle(folder, &fresh)?, found.mode() & 0o111 != 0)?;
        Ok(renameat(folder, fresh.as_c_str(), folder, name)?)
    }

    /// Takes ownership of a folder, so that nobody else can change it and this process can.
    fn take_ownership(&self, held: &File) -> io::Result<()> {
        self.set_owner(held)?;
        set_mode(held, 0o750)
    }

    /// Sets owner and mode of one file or folder.
    fn make_read_only(&self, held: &File, executable: bool) -> io::Result<()> {
        self.set_owner(held)?;
        let mode = if self.user.is_some() { 0o640 } else { 0o440 };
        set_mode(held, if executable { mode | 0o110 } else { mode })
    }

    fn set_owner(&self, held: &File) -> io::Result<()> {
        let Some(gid) = self.user else { return Ok(()) };
        let (root, group) = (Some(Uid::from_raw(0)), Some(Gid::from_raw(gid)));
        Ok(fchownat(held.as_fd(), c"", root, group, AtFlags::AT_EMPTY_PATH)?)
    }
}

/// Identifies a file, whatever its name.
fn file_id(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// The path of the open file, even if it was renamed.
fn proc_fd_path(held: &File) -> PathBuf {
    format!("/proc/self/fd/{}", held.as_raw_fd()).into()
}

fn set_mode(held: &File, mode: u32) -> io::Result<()> {
    fs::set_permissions(proc_fd_path(held), Permissions::from_mode(mode))
}

/// Returns whether no process has the file open for writing or mapped writable; none can do so later, because
/// owner and mode are already set. The kernel grants a read lease only then. The result is also false where
/// the file system has no leases.
#[expect(
    unsafe_code,
    reason = "no crate has a safe call for it; it takes numbers and no memory"
)]
fn has_no_writers(held: &File) -> bool {
    let Ok(file) = File::open(proc_fd_path(held)) else {
        return false;
    };
    // SAFETY: the descriptor is open, and the call does not access memory of this process. Closing the file
    // releases the lease.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0 }
}
