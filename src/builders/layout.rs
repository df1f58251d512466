//! The tree that an archive describes, in memory: where each entry goes, and whether every link stays
//! inside. Pure; nothing here touches the disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::unpack::{Limits, UnpackError, refused};

/// The longest path within an archive, in bytes: with the folder it goes to it must stay below 4,096.
const LONGEST_PATH: usize = 2048;
/// All names together, in bytes: they are kept in memory while the archive is judged.
const ALL_NAMES: usize = 32 << 20;
/// How many links may lead to one another; the kernel's own bound.
const LINK_HOPS: usize = 40;

/// A name that has passed: relative, of plain components only; empty for the root itself.
pub(super) struct Place {
    pub(super) path: PathBuf,
}

enum Node {
    Folder,
    File,
    Link(PathBuf),
}

pub(super) struct Layout<'a> {
    limits: &'a Limits,
    nodes: BTreeMap<PathBuf, Node>,
    entries: usize,
    names: usize,
    bytes: u64,
}

/// A name as it may be shown: quoted, control characters escaped, 200 characters at most.
pub(super) fn quoted(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match name.char_indices().nth(200) {
        Some((at, _)) => format!("{:?}…", &name[..at]),
        None => format!("{name:?}"),
    }
}

fn shown(path: &Path) -> String {
    quoted(path.as_os_str().as_bytes())
}

impl<'a> Layout<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            nodes: BTreeMap::new(),
            entries: 0,
            names: 0,
            bytes: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts one entry, of whatever kind.
    pub(super) fn count(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        // Each file may come with a few extension headers.
        if self.entries > self.limits.entries.saturating_mul(4) {
            return self.too_many();
        }
        Ok(())
    }

    fn too_many<T>(&self) -> Result<T, UnpackError> {
        refused(format!(
            "The archive holds more than {} files.",
            self.limits.entries
        ))
    }

    /// Where a name leads. Refuses every name that is not plainly inside.
    pub(super) fn place(&mut self, name: &[u8]) -> Result<Place, UnpackError> {
        let wrong = |why: &str| refused(format!("The archive holds the entry {}, {why}.", quoted(name)));
        if name.is_empty() {
            return refused("The archive holds an entry without a name.");
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
            return wrong("which lies too deep");
        }
        self.names += path.as_os_str().len();
        if self.names > ALL_NAMES {
            return refused("The names in the archive are too long altogether.");
        }
        Ok(Place { path })
    }

    pub(super) fn folder(&mut self, place: &Place) -> Result<(), UnpackError> {
        self.parents(&place.path)?;
        match self.nodes.get(&place.path) {
            _ if place.path.as_os_str().is_empty() => Ok(()),
            None => self.insert(&place.path, Node::Folder),
            Some(Node::Folder) => Ok(()),
            Some(_) => self.twice(&place.path),
        }
    }

    /// A file of so many bytes. A second file of the same name replaces the first, as tar has it.
    pub(super) fn file(&mut self, place: &Place, size: u64) -> Result<(), UnpackError> {
        self.named(place)?;
        if size > self.limits.file_bytes {
            return refused(format!(
                "{} is larger than {} bytes, the most that one file may have.",
                shown(&place.path),
                self.limits.file_bytes
            ));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.total_bytes {
            return refused(format!(
                "The archive holds more than {} bytes when unpacked ({} goes beyond).",
                self.limits.total_bytes,
                shown(&place.path)
            ));
        }
        match self.nodes.get(&place.path) {
            None | Some(Node::File) => self.insert(&place.path, Node::File),
            Some(_) => self.twice(&place.path),
        }
    }

    pub(super) fn symlink(&mut self, place: &Place, target: &[u8]) -> Result<(), UnpackError> {
        self.named(place)?;
        let wrong = |why: &str| {
            refused(format!(
                "The archive holds the symbolic link {} → {}, {why}.",
                shown(&place.path),
                quoted(target)
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
        match self.nodes.get(&place.path) {
            None => self.insert(&place.path, Node::Link(target)),
            Some(Node::Link(same)) if *same == target => Ok(()),
            Some(_) => self.twice(&place.path),
        }
    }

    /// A second name of a file that came before; answers its path.
    pub(super) fn hard_link(&mut self, place: &Place, target: &[u8]) -> Result<PathBuf, UnpackError> {
        self.named(place)?;
        let to = self.place(target).or_else(|_| {
            refused(format!(
                "The archive holds the hard link {} → {}, which leads out of the archive.",
                shown(&place.path),
                quoted(target)
            ))
        })?;
        if to.path == place.path {
            return self.twice(&to.path);
        }
        if !matches!(self.nodes.get(&to.path), Some(Node::File)) {
            return refused(format!(
                "The archive holds the hard link {} → {}, which is no file of the archive.",
                shown(&place.path),
                quoted(target)
            ));
        }
        match self.nodes.get(&place.path) {
            None => self.insert(&place.path, Node::File)?,
            Some(_) => self.twice(&place.path)?,
        }
        Ok(to.path)
    }

    /// Judges all links together, now that each is known; answers them for making.
    pub(super) fn finish(&self) -> Result<Vec<(PathBuf, PathBuf)>, UnpackError> {
        if self.nodes.is_empty() {
            return refused("The archive holds no files.");
        }
        let mut links = Vec::new();
        for (path, node) in &self.nodes {
            if let Node::Link(target) = node {
                self.stays_inside(path, target)?;
                links.push((path.clone(), target.clone()));
            }
        }
        Ok(links)
    }

    /// Follows a link as the kernel would, through other links too.
    fn stays_inside(&self, link: &Path, target: &Path) -> Result<(), UnpackError> {
        let wrong = |why: &str| {
            refused(format!(
                "The archive holds the symbolic link {} → {}, {why}.",
                shown(link),
                shown(target)
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
            if let Some(Node::Link(next)) = self.nodes.get(&at) {
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

    fn named(&mut self, place: &Place) -> Result<(), UnpackError> {
        if place.path.as_os_str().is_empty() {
            return refused("The archive holds an entry that would replace its own root.");
        }
        self.parents(&place.path)
    }

    /// Every folder above must be one, or is made one.
    fn parents(&mut self, path: &Path) -> Result<(), UnpackError> {
        let above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
            .collect();
        for folder in above.into_iter().rev() {
            match self.nodes.get(folder) {
                Some(Node::Folder) => {}
                None => self.insert(folder, Node::Folder)?,
                Some(Node::Link(_)) => {
                    return refused(format!(
                        "The archive holds the entry {}, which goes through the symbolic link {}.",
                        shown(path),
                        shown(folder)
                    ));
                }
                Some(Node::File) => {
                    return refused(format!(
                        "The archive holds the entry {}, but {} is a file.",
                        shown(path),
                        shown(folder)
                    ));
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, node: Node) -> Result<(), UnpackError> {
        self.nodes.insert(path.to_owned(), node);
        if self.nodes.len() > self.limits.entries {
            return self.too_many();
        }
        Ok(())
    }

    fn twice<T>(&self, path: &Path) -> Result<T, UnpackError> {
        refused(format!(
            "The archive holds {} twice, as different things.",
            shown(path)
        ))
    }
}
