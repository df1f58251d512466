//! What a folder takes on the disk, measured. For want of quotas, which need a file system made for them.
//!
//! Files that were deleted and are still open take room as well; those of the given processes are counted.
//! What a process has mapped and nothing else is not seen.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a folder may hold. Files are counted too: each takes room beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, folders and links.
    pub files: u64,
}

/// Whether a folder holds more than it may. What hides from being looked at (by paths longer than the
/// system knows, or closed folders) is too much.
pub fn is_over(folder: &Path, pids: &[i32], room: Room) -> bool {
    measure(folder, pids, room).is_none_or(|bytes| bytes > room.bytes)
}

/// The bytes of a folder, or `None` if that cannot be told or the files are too many. Stops where they are.
fn measure(folder: &Path, pids: &[i32], room: Room) -> Option<u64> {
    let Ok(top) = fs::symlink_metadata(folder) else {
        return Some(0);
    };
    let mut sum = Sum::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        for entry in entries.flatten() {
            let found = match fs::symlink_metadata(entry.path()) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => return None,
            };
            sum.add(&found);
            if sum.files > room.files {
                return None;
            }
            if sum.bytes > room.bytes {
                return Some(sum.bytes);
            }
            if found.is_dir() && found.dev() == top.dev() {
                folders.push(entry.path());
            }
        }
    }
    for pid in pids {
        let open = fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in open.into_iter().flatten().flatten() {
            if let Ok(found) = fs::metadata(entry.path())
                && found.is_file()
                && found.nlink() == 0
                && found.dev() == top.dev()
            {
                sum.add(&found);
            }
        }
    }
    Some(sum.bytes)
}

#[derive(Default)]
struct Sum {
    bytes: u64,
    files: u64,
    /// Those with several names, or open several times, count once.
    seen: HashSet<u64>,
}

impl Sum {
    fn add(&mut self, found: &Metadata) {
        self.files += 1;
        if found.nlink() == 1 || found.is_dir() || self.seen.insert(found.ino()) {
            self.bytes += found.blocks() * 512;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn room(bytes: u64) -> Room {
        Room { bytes, files: 5 }
    }

    #[test]
    fn files_links_and_what_is_deleted_but_open_are_counted_once() {
        let home = std::env::temp_dir().join(format!("tancho-usage-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(home.join("a/b")).unwrap();
        // A process of its own: others' tests in ours have open files too.
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
        let measured = |pids: &[i32]| measure(&home, pids, room(u64::MAX)).unwrap();
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
        assert!(is_over(&home, &[], room(1 << 19)));
        assert!(!is_over(&home, &[], room(1 << 22)));
        for name in ["3", "4", "5", "6"] {
            fs::write(home.join(name), "").unwrap();
        }
        assert!(is_over(&home, &[], room(u64::MAX)), "more files than may be");
        fs::remove_dir_all(&home).unwrap();
        assert!(
            !is_over(&home, &[], room(0)),
            "a folder that is not there takes nothing"
        );
    }
}
