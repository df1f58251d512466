//! Files that are written whole or not at all.
//!
//! A file is written beside its place, synced and renamed, and its folder is synced after that: neither a kill nor a loss
//! of power leaves half a file, or the file of before once the write has succeeded. The name beside begins with a dot and
//! is the same at each write, so that what a killed write leaves is gone with the next one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// User and group of a file.
pub type FileOwner = (u32, u32);

/// Writes a file with this mode, whatever the umask; without an owner it is of whoever writes. A link that stands in its
/// place is replaced, not followed. One writer at a time.
pub fn write_file(path: &Path, contents: &[u8], mode: u32, owner: Option<FileOwner>) -> io::Result<()> {
    let aside = temporary_path(path)?;
    remove_if_there(&aside)?;
    let written = write_new_file(&aside, contents, mode, owner).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&aside);
    }
    written?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes what killed writes have left in a folder of files that `write_file` alone writes, and that nobody writes now.
pub fn remove_temporary_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(".new");
    Ok(path.with_file_name(aside))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_new_file(path: &Path, contents: &[u8], mode: u32, owner: Option<FileOwner>) -> io::Result<()> {
    // Closed to others until it has its mode.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o600)
        .open(path)?;
    file.write_all(contents)?;
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn new_folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tancho-atomic-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn file_is_replaced_and_what_a_killed_write_left_is_gone() {
        let folder = new_folder();
        let path = folder.join("host-id");
        fs::write(folder.join(".host-id.new"), "half a fi").unwrap();
        for text in ["one", "two"] {
            write_file(&path, text.as_bytes(), 0o644, None).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644);
        assert_eq!(names_in(&folder), ["host-id"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn links_in_the_place_of_the_file_are_not_followed() {
        let folder = new_folder();
        let (path, other) = (folder.join("secret"), folder.join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, &path).unwrap();
        symlink(&other, folder.join(".secret.new")).unwrap();
        write_file(&path, b"mine", 0o600, None).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        assert!(!path.is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn failed_write_leaves_the_file_of_before_and_nothing_beside() {
        let folder = new_folder();
        let path = folder.join("busy");
        fs::create_dir(&path).unwrap();
        assert!(
            write_file(&path, b"x", 0o600, None).is_err(),
            "a folder is not replaced"
        );
        assert_eq!(names_in(&folder), ["busy"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn temporary_files_are_removed_and_no_others() {
        let folder = new_folder();
        for name in [".a.eml.new", ".0190", "b.eml"] {
            fs::write(folder.join(name), "x").unwrap();
        }
        fs::create_dir(folder.join(".folder")).unwrap();
        remove_temporary_files(&folder).unwrap();
        let mut left = names_in(&folder);
        left.sort();
        assert_eq!(left, [".folder", "b.eml"]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
