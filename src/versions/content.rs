//! The files of a version as one thing: their digest, and a layer of an image. Both tell of paths, contents, targets of
//! links and whether a file can be executed, in one order, and of nothing that differs from one build to the next: not
//! of times, owners, or how the file system orders names.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag};
use sha2::{Digest, Sha256};

use crate::sandbox::walk;

/// The digest of a tree of files. Its text is `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

/// What lies under a path.
enum TreeEntry {
    Folder,
    File { file: File, size: u64, executable: bool },
    Link { target: PathBuf },
}

impl TreeEntry {
    fn open(folder: &OwnedFd, name: &CString) -> io::Result<Self> {
        let found = walk::stat_entry(folder, name)?;
        match walk::file_kind(&found) {
            SFlag::S_IFDIR => Ok(Self::Folder),
            SFlag::S_IFLNK => Ok(Self::Link {
                target: readlinkat(folder, name.as_c_str())?.into(),
            }),
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let file = File::from(openat(folder, name.as_c_str(), flags, Mode::empty())?);
                Ok(Self::File {
                    file,
                    size: u64::try_from(found.st_size).unwrap_or_default(),
                    executable: found.st_mode & 0o111 != 0,
                })
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a version has files, folders and links only",
            )),
        }
    }

    fn mode(&self) -> u32 {
        match self {
            Self::Folder | Self::File { executable: true, .. } => 0o755,
            Self::File { .. } => 0o644,
            Self::Link { .. } => 0o777,
        }
    }
}

/// Visits all that lies below a folder: each folder before what is in it, names in the order of their bytes.
fn visit_tree(top: &Path, mut visit: impl FnMut(&Path, TreeEntry) -> io::Result<()>) -> io::Result<()> {
    let top = walk::open_top(top)?;
    let mut waiting = list_in_reverse(&top, Path::new(""))?;
    while let Some((parent, name)) = waiting.pop() {
        let folder = walk::open_below(&top, &parent)?;
        let path = walk::join_name(&parent, &name);
        let entry = TreeEntry::open(&folder, &name)?;
        if matches!(entry, TreeEntry::Folder) {
            waiting.extend(list_in_reverse(&top, &path)?);
        }
        visit(&path, entry)?;
    }
    Ok(())
}

/// The names in a folder below the top, the last one first, each with the folder.
fn list_in_reverse(top: &OwnedFd, path: &Path) -> io::Result<Vec<(PathBuf, CString)>> {
    let mut names = walk::list_names(&walk::open_below(top, path)?)?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names.into_iter().map(|name| (path.to_owned(), name)).collect())
}

/// The digest of all that lies below a folder.
pub fn digest_tree(top: &Path) -> io::Result<ContentDigest> {
    let mut listing = Sha256::new();
    // Each part is led by its length, so that no two trees have one listing.
    let mut add = |part: &[u8]| {
        listing.update((part.len() as u64).to_le_bytes());
        listing.update(part);
    };
    visit_tree(top, |path, entry| {
        add(path.as_os_str().as_bytes());
        add(&entry.mode().to_le_bytes());
        match entry {
            TreeEntry::Folder => add(b"folder"),
            TreeEntry::Link { target } => {
                add(b"link");
                add(target.as_os_str().as_bytes());
            }
            TreeEntry::File { file, size, .. } => {
                add(b"file");
                add(&digest_file(file, size)?);
            }
        }
        Ok(())
    })?;
    Ok(ContentDigest(listing.finalize().into()))
}

fn digest_file(mut file: File, size: u64) -> io::Result<[u8; 32]> {
    let (mut content, mut read, mut chunk) = (Sha256::new(), 0, vec![0; 64 * 1024]);
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            count => {
                content.update(&chunk[..count]);
                read += count as u64;
            }
        }
    }
    check_size(read, size)?;
    Ok(content.finalize().into())
}

fn check_size(read: u64, size: u64) -> io::Result<()> {
    match read == size {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a file of a version has changed while it was read",
        )),
    }
}

/// Writes all that lies below a folder as one uncompressed tar: the same bytes for the same digest.
pub fn write_layer(top: &Path, out: impl Write) -> io::Result<()> {
    let mut layer = tar::Builder::new(out);
    visit_tree(top, |path, entry| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode());
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        match entry {
            TreeEntry::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                layer.append_data(&mut header, path, io::empty())
            }
            TreeEntry::Link { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                layer.append_link(&mut header, path, target)
            }
            TreeEntry::File { file, size, .. } => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(size);
                let mut counted = CountingReader {
                    inner: file.take(size),
                    read: 0,
                };
                layer.append_data(&mut header, path, &mut counted)?;
                check_size(counted.read, size)
            }
        }
    })?;
    layer.into_inner()?.flush()
}

/// Counts what is read of a file, which the header has promised.
struct CountingReader<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.read += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    struct TempTree(PathBuf);

    impl TempTree {
        /// Files with a `+` before their content can be executed, with a `>` are links.
        fn new(files: &[(&str, &str)]) -> Self {
            let top = std::env::temp_dir().join(format!("tancho-content-{}", uuid::Uuid::new_v4().simple()));
            fs::create_dir(&top).unwrap();
            for (path, content) in files {
                let path = top.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                match content.strip_prefix('>') {
                    Some(target) => symlink(target, &path).unwrap(),
                    None => {
                        fs::write(&path, content.trim_start_matches('+')).unwrap();
                        let mode = if content.starts_with('+') { 0o550 } else { 0o440 };
                        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
                    }
                }
            }
            Self(top)
        }

        fn digest(&self) -> String {
            digest_tree(&self.0).unwrap().to_string()
        }

        fn layer(&self) -> Vec<u8> {
            let mut layer = Vec::new();
            write_layer(&self.0, &mut layer).unwrap();
            layer
        }
    }

    impl Drop for TempTree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const FILES: [(&str, &str); 5] = [
        ("app.py", "print(1)"),
        ("bin/run", "+#!/bin/sh"),
        ("bin.d/x", ""),
        ("link", ">bin/run"),
        ("é/\n", "odd names"),
    ];

    #[test]
    fn same_files_have_one_digest_and_one_layer_whatever_their_order_times_and_modes_of_writing() {
        let one = TempTree::new(&FILES);
        let mut reversed = FILES;
        reversed.reverse();
        let other = TempTree::new(&reversed);
        let file = other.0.join("app.py");
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(old)
            .unwrap();
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.layer(), other.layer());
        assert!(one.digest().starts_with("sha256:") && one.digest().len() == 71);
    }

    #[test]
    fn any_change_of_a_path_mode_content_or_target_changes_the_digest() {
        let first = TempTree::new(&FILES).digest();
        for (index, changed) in [
            (0, ("app.py", "print(2)")),
            (0, ("app.pz", "print(1)")),
            (0, ("app.py", "+print(1)")),
            (0, ("app.py", ">print(1)")),
            (1, ("binrun", "+#!/bin/sh")),
            (2, ("bin.d/y", "")),
            (3, ("link", ">bin/ran")),
        ] {
            let mut files = FILES;
            files[index] = changed;
            assert_ne!(TempTree::new(&files).digest(), first, "{changed:?}");
        }
        // An empty folder counts, and where one name ends and the next begins.
        let more = TempTree::new(&FILES);
        fs::create_dir(more.0.join("empty")).unwrap();
        assert_ne!(more.digest(), first);
        let (ab, a) = (TempTree::new(&[("ab", "c")]), TempTree::new(&[("a", "bc")]));
        assert_ne!(ab.digest(), a.digest());
        assert_ne!(TempTree::new(&[]).digest(), ab.digest());
    }

    #[test]
    fn layer_unpacks_to_the_same_digest_with_long_names_and_links() {
        let long = "d".repeat(120);
        let deep = format!("{long}/{long}/{}", "f".repeat(200));
        let target = format!(">{}", "t".repeat(300));
        let tree = TempTree::new(&[("a", "+1"), (&deep, "2"), ("far", &target), ("z/empty", "")]);
        let unpacked = TempTree::new(&[]);
        tar::Archive::new(tree.layer().as_slice())
            .unpack(&unpacked.0)
            .unwrap();
        assert_eq!(unpacked.digest(), tree.digest());
        assert_eq!(unpacked.layer(), tree.layer());
    }

    #[test]
    fn links_are_not_followed_and_special_files_are_refused() {
        let outside = TempTree::new(&[("secret", "1")]);
        let link = format!(">{}", outside.0.display());
        let tree = TempTree::new(&[("out", &link)]);
        let before = tree.digest();
        fs::write(outside.0.join("more"), "2").unwrap();
        assert_eq!(tree.digest(), before);
        nix::unistd::mkfifo(&tree.0.join("pipe"), Mode::S_IRUSR).unwrap();
        assert!(digest_tree(&tree.0).is_err() && write_layer(&tree.0, Vec::new()).is_err());
    }
}
