//! Measures the disk usage of a folder. Replaces quotas, which need a file system made for them.
//!
//! Deleted files that are still open use space too; those of the given processes are counted. Files that a
//! process only has mapped are not found.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat::{FileStat, fstat};

use super::walk;

/// The limit of a folder. Files are counted too: each uses space beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct DiskLimit {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, folders and links.
    pub files: u64,
}

/// Returns whether a folder exceeds its limit. Content that cannot be measured (paths longer than the
/// system's limit, closed folders) counts as exceeding it.
pub fn exceeds_limit(folder: &Path, pids: &[i32], limit: DiskLimit) -> bool {
    measure_folder(folder, pids, limit).is_none_or(|bytes| bytes > limit.bytes)
}

/// Returns the bytes of a folder, or `None` if they cannot be measured or there are too many files. Stops at
/// the limit.
fn measure_folder(folder: &Path, pids: &[i32], limit: DiskLimit) -> Option<u64> {
    let top = match walk::open_top(folder) {
        Ok(top) => top,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(0),
        Err(_) => return None,
    };
    let device = fstat(&top).ok()?.st_dev;
    let mut sum = DiskUsage::default();
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let listed =
            walk::open_below(&top, &path).and_then(|folder| Ok((walk::list_names(&folder)?, folder)));
        let (names, folder) = match listed {
            Ok(listed) => listed,
            Err(error) if has_changed_meanwhile(&error) => continue,
            Err(_) => return None,
        };
        for name in names {
            let found = match walk::stat_entry(&folder, &name) {
                Ok(found) => found,
                Err(error) if has_changed_meanwhile(&error) => continue,
                Err(_) => return None,
            };
            sum.add_file(&FileUsage::from(&found));
            if sum.files > limit.files {
                return None;
            }
            if sum.bytes > limit.bytes {
                return Some(sum.bytes);
            }
            if walk::is_folder(&found) && found.st_dev == device {
                folders.push(walk::join_name(&path, &name));
            }
        }
    }
    for pid in pids {
        let open = fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in open.into_iter().flatten().flatten() {
            if let Ok(found) = fs::metadata(entry.path())
                && found.is_file()
                && found.nlink() == 0
                && found.dev() == device
            {
                sum.add_file(&FileUsage {
                    bytes: found.blocks() * 512,
                    inode: Some(found.ino()),
                });
            }
        }
    }
    Some(sum.bytes)
}

/// The entry was removed or replaced meanwhile: it is measured next time.
fn has_changed_meanwhile(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}

/// The usage of one file.
struct FileUsage {
    bytes: u64,
    /// Its inode, if the file may be found again under another name.
    inode: Option<u64>,
}

impl From<&FileStat> for FileUsage {
    fn from(found: &FileStat) -> Self {
        let many = found.st_nlink != 1 && !walk::is_folder(found);
        Self {
            bytes: u64::try_from(found.st_blocks).unwrap_or(0) * 512,
            inode: many.then_some(found.st_ino),
        }
    }
}

#[derive(Default)]
struct DiskUsage {
    bytes: u64,
    files: u64,
    /// Inodes of files with several names or descriptors, which count once.
    seen: HashSet<u64>,
}

impl DiskUsage {
    fn add_file(&mut self, found: &FileUsage) {
        self.files += 1;
        if found.inode.is_none_or(|number| self.seen.insert(number)) {
            self.bytes += found.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn limit(bytes: u64) -> DiskLimit {
        DiskLimit { bytes, files: 5 }
    }

    #[test]
    fn files_links_and_deleted_open_files_are_counted_once() {
        let home = std::env::temp_dir().join(format!("tancho-usage-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(home.join("a/b")).unwrap();
        // A separate process, because other tests in this one have open files too.
        let mut holder = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "exec 9>gone; rm gone; head -c 1048576 /dev/zero >&9; echo; read -r _",
            ])
            .current_dir(&home)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pids = [i32::try_from(holder.id()).unwrap()];
        let measured = |pids: &[i32]| measure_folder(&home, pids, limit(u64::MAX)).unwrap();
        let empty = measured(&[]);
        fs::write(home.join("a/b/one"), vec![7; 1 << 20]).unwrap();
        fs::hard_link(home.join("a/b/one"), home.join("two")).unwrap();
        let one = measured(&[]);
        assert!(
            (empty + (1 << 20)..empty + (3 << 19)).contains(&one),
            "{empty} {one}"
        );
        let two = measured(&pids);
        assert!((one + (1 << 20)..one + (3 << 19)).contains(&two), "{one} {two}");
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert!(exceeds_limit(&home, &[], limit(1 << 19)));
        assert!(!exceeds_limit(&home, &[], limit(1 << 22)));
        for name in ["3", "4", "5", "6"] {
            fs::write(home.join(name), "").unwrap();
        }
        assert!(
            exceeds_limit(&home, &[], limit(u64::MAX)),
            "the limit on files applies"
        );
        fs::remove_dir_all(&home).unwrap();
        assert!(
            !exceeds_limit(&home, &[], limit(0)),
            "a missing folder uses nothing"
        );
    }

    #[test]
    fn folder_replaced_by_a_link_is_not_followed() {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        use std::sync::atomic::{AtomicBool, Ordering};

        let top = std::env::temp_dir().join(format!("tancho-usage-{}", uuid::Uuid::new_v4()));
        let home = top.join("home");
        fs::create_dir_all(home.join("folder")).unwrap();
        fs::create_dir(top.join("outside")).unwrap();
        fs::write(top.join("outside/large"), vec![7; 8 << 20]).unwrap();
        std::os::unix::fs::symlink(top.join("outside"), home.join("link")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (folder, link) = (home.join("folder"), home.join("link"));
                    renameat2(AT_FDCWD, &folder, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
                }
            });
            let largest = (0..5_000)
                .map(|_| measure_folder(&home, &[], limit(u64::MAX)).unwrap())
                .max();
            stop.store(true, Ordering::Relaxed);
            assert!(largest.unwrap() < 1 << 20, "{largest:?}");
        });
        fs::remove_dir_all(&top).unwrap();
    }
}
