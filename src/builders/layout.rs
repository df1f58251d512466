//! The tree that an archive describes, in memory: the path of each entry, and whether every link stays
//! inside. Pure: nothing here touches the disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::unpack::{UnpackError, UnpackLimits, refuse_archive};

/// The longest path within an archive, in bytes: together with the destination folder it must stay below
/// 4,096.
const LONGEST_PATH: usize = 2048;
/// All names together, in bytes: they are kept in memory while the archive is checked.
const MAX_NAMES_BYTES: usize = 32 << 20;
/// How many links may point to one another; the kernel's own limit.
const LINK_HOPS: usize = 40;

/// A valid path: relative, of plain components only; empty for the root itself.
pub(super) struct EntryPath {
    pub(super) path: PathBuf,
}

enum LayoutNode {
    Folder,
    File,
    Link(PathBuf),
}

pub(super) struct ArchiveLayout<'a> {
    limits: &'a UnpackLimits,
    nodes: BTreeMap<PathBuf, LayoutNode>,
    entries: usize,
    names_bytes: usize,
    bytes: u64,
}

/// Formats a name for display: quoted, control characters escaped, at most 200 characters.
pub(super) fn quote_name(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match name.char_indices().nth(200) {
        Some((at, _)) => format!("{:?}…", &name[..at]),
        None => format!("{name:?}"),
    }
}

fn quote_path(path: &Path) -> String {
    quote_name(path.as_os_str().as_bytes())
}

impl<'a> ArchiveLayout<'a> {
    pub(super) fn new(limits: &'a UnpackLimits) -> Self {
        Self {
            limits,
            nodes: BTreeMap::new(),
            entries: 0,
            names_bytes: 0,
            bytes: 0,
        }
    }

    pub(super) fn unpacked_bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts one entry of any kind.
    pub(super) fn count_entry(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        // Each file may come with a few extension headers.
        if self.entries > self.limits.entries.saturating_mul(4) {
            return self.refuse_too_many();
        }
        Ok(())
    }

    fn refuse_too_many<T>(&self) -> Result<T, UnpackError> {
        refuse_archive(format!(
            "The archive holds more than {} files.",
            self.limits.entries
        ))
    }

    /// Resolves the name of an entry to its path. Refuses every name that is not plainly inside.
    pub(super) fn resolve_name(&mut self, name: &[u8]) -> Result<EntryPath, UnpackError> {
        let wrong = |why: &str| {
            refuse_archive(format!(
                "The archive holds the entry {}, {why}.",
                quote_name(name)
            ))
        };
        if name.is_empty() {
            return refuse_archive("The archive holds an entry without a name.");
        }
        if name.starts_with(b"/") {
            return wrong("which is an absolute path");
        }
        if name.iter().any(|b| *b < 0x20 || *b == 0x7f) {
            return wrong("whose name has control characters");
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for part in name.split(|b| *b == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return wrong("which leads out of the archive with \"..\""),
                long if long.len() > 255 => return wrong("whose name is too long"),
                part => path.push(OsStr::from_bytes(part)),
            }
            depth += 1;
        }
        if path.as_os_str().len() > LONGEST_PATH {
            return wrong("whose path is too long");
        }
        if depth > self.limits.depth {
            return wrong("which is nested too deep");
        }
        self.names_bytes += path.as_os_str().len();
        if self.names_bytes > MAX_NAMES_BYTES {
            return refuse_archive("The names in the archive are too long altogether.");
        }
        Ok(EntryPath { path })
    }

    pub(super) fn add_folder(&mut self, entry_path: &EntryPath) -> Result<(), UnpackError> {
        self.add_parents(&entry_path.path)?;
        match self.nodes.get(&entry_path.path) {
            _ if entry_path.path.as_os_str().is_empty() => Ok(()),
            None => self.insert(&entry_path.path, LayoutNode::Folder),
            Some(LayoutNode::Folder) => Ok(()),
            Some(_) => self.refuse_duplicate(&entry_path.path),
        }
    }

    /// Adds a file of this size. A second file of the same name replaces the first, as in tar.
    pub(super) fn add_file(&mut self, entry_path: &EntryPath, size: u64) -> Result<(), UnpackError> {
        self.check_entry_path(entry_path)?;
        if size > self.limits.file_bytes {
            return refuse_archive(format!(
                "{} is larger than {} bytes, the most that one file may have.",
                quote_path(&entry_path.path),
                self.limits.file_bytes
            ));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.total_bytes {
            return refuse_archive(format!(
                "The archive holds more than {} bytes when unpacked ({} goes beyond).",
                self.limits.total_bytes,
                quote_path(&entry_path.path)
            ));
        }
        match self.nodes.get(&entry_path.path) {
            None | Some(LayoutNode::File) => self.insert(&entry_path.path, LayoutNode::File),
            Some(_) => self.refuse_duplicate(&entry_path.path),
        }
    }

    pub(super) fn add_symlink(&mut self, entry_path: &EntryPath, target: &[u8]) -> Result<(), UnpackError> {
        self.check_entry_path(entry_path)?;
        let wrong = |why: &str| {
            refuse_archive(format!(
                "The archive holds the symbolic link {} → {}, {why}.",
                quote_path(&entry_path.path),
                quote_name(target)
            ))
        };
        if target.is_empty() || target.len() > LONGEST_PATH {
            return wrong("whose target is empty or too long");
        }
        if target.iter().any(|b| *b < 0x20 || *b == 0x7f) {
            return wrong("whose target has control characters");
        }
        if target.starts_with(b"/") {
            return wrong("which leads out of the archive");
        }
        let target = PathBuf::from(OsStr::from_bytes(target));
        match self.nodes.get(&entry_path.path) {
            None => self.insert(&entry_path.path, LayoutNode::Link(target)),
            Some(LayoutNode::Link(same)) if *same == target => Ok(()),
            Some(_) => self.refuse_duplicate(&entry_path.path),
        }
    }

    /// Adds a second name of a file that came before; returns that file's path.
    pub(super) fn add_hard_link(
        &mut self,
        entry_path: &EntryPath,
        target: &[u8],
    ) -> Result<PathBuf, UnpackError> {
        self.check_entry_path(entry_path)?;
        let to = self.resolve_name(target).or_else(|_| {
            refuse_archive(format!(
                "The archive holds the hard link {} → {}, which leads out of the archive.",
                quote_path(&entry_path.path),
                quote_name(target)
            ))
        })?;
        if to.path == entry_path.path {
            return self.refuse_duplicate(&to.path);
        }
        if !matches!(self.nodes.get(&to.path), Some(LayoutNode::File)) {
            return refuse_archive(format!(
                "The archive holds the hard link {} → {}, which is not a file in the archive.",
                quote_path(&entry_path.path),
                quote_name(target)
            ));
        }
        match self.nodes.get(&entry_path.path) {
            None => self.insert(&entry_path.path, LayoutNode::File)?,
            Some(_) => self.refuse_duplicate(&entry_path.path)?,
        }
        Ok(to.path)
    }

    /// Checks all links, now that each one is known; returns them for creation.
    pub(super) fn check_links(&self) -> Result<Vec<(PathBuf, PathBuf)>, UnpackError> {
        if self.nodes.is_empty() {
            return refuse_archive("The archive holds no files.");
        }
        let mut links = Vec::new();
        for (path, node) in &self.nodes {
            if let LayoutNode::Link(target) = node {
                self.check_link_target(path, target)?;
                links.push((path.clone(), target.clone()));
            }
        }
        Ok(links)
    }

    /// Resolves a link as the kernel would, through other links too.
    fn check_link_target(&self, link: &Path, target: &Path) -> Result<(), UnpackError> {
        let wrong = |why: &str| {
            refuse_archive(format!(
                "The archive holds the symbolic link {} → {}, {why}.",
                quote_path(link),
                quote_path(target)
            ))
        };
        let mut at: PathBuf = link.parent().unwrap_or(Path::new("")).to_owned();
        let parts = |p: &Path| p.iter().rev().map(OsStr::to_owned).collect::<Vec<_>>();
        let mut ahead = parts(target);
        let mut hops = 0;
        while let Some(part) = ahead.pop() {
            if part == "." {
                continue;
            }
            if part == ".." {
                if !at.pop() {
                    return wrong("which leads out of the archive");
                }
                continue;
            }
            at.push(part);
            if let Some(LayoutNode::Link(next)) = self.nodes.get(&at) {
                hops += 1;
                if hops > LINK_HOPS {
                    return wrong("which leads to itself");
                }
                at.pop();
                ahead.extend(parts(next));
            }
        }
        Ok(())
    }

    fn check_entry_path(&mut self, entry_path: &EntryPath) -> Result<(), UnpackError> {
        if entry_path.path.as_os_str().is_empty() {
            return refuse_archive("The archive holds an entry that would replace its own root.");
        }
        self.add_parents(&entry_path.path)
    }

    /// Adds the parent folders; each must be a folder or not exist yet.
    fn add_parents(&mut self, path: &Path) -> Result<(), UnpackError> {
        let above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
            .collect();
        for folder in above.into_iter().rev() {
            match self.nodes.get(folder) {
                Some(LayoutNode::Folder) => {}
                None => self.insert(folder, LayoutNode::Folder)?,
                Some(LayoutNode::Link(_)) => {
                    return refuse_archive(format!(
                        "The archive holds the entry {}, which goes through the symbolic link {}.",
                        quote_path(path),
                        quote_path(folder)
                    ));
                }
                Some(LayoutNode::File) => {
                    return refuse_archive(format!(
                        "The archive holds the entry {}, but {} is a file.",
                        quote_path(path),
                        quote_path(folder)
                    ));
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, node: LayoutNode) -> Result<(), UnpackError> {
        self.nodes.insert(path.to_owned(), node);
        if self.nodes.len() > self.limits.entries {
            return self.refuse_too_many();
        }
        Ok(())
    }

    fn refuse_duplicate<T>(&self, path: &Path) -> Result<T, UnpackError> {
        refuse_archive(format!(
            "The archive holds {} twice, as different types.",
            quote_path(path)
        ))
    }
}
