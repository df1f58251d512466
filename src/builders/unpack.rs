//! Source archives into folders, without trust.
//!
//! The archive is read twice. The first reading only judges: names, links, sizes, limits. The second
//! writes, and happens only when the whole archive passed, so a refused one has cost no disk and left
//! nothing. Symbolic links are made last, when every file is in its place: no write can go through one.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, Entry, EntryType, Header, PaxExtensions};

use super::layout::{Layout, Place, quoted};
use super::stream::Bounded;
use super::write::Disk;

/// How much an archive may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// All files together, unpacked, in bytes.
    pub total_bytes: u64,
    /// One file, in bytes.
    pub file_bytes: u64,
    /// Files, folders and links together.
    pub entries: usize,
    /// Folders within folders.
    pub depth: usize,
    /// Unpacked bytes per packed byte. Asked only beyond 16 MiB: small texts may well repeat themselves.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_bytes: 1 << 30,
            file_bytes: 512 << 20,
            entries: 100_000,
            depth: 100,
            ratio: 200,
        }
    }
}

/// Why an archive was not unpacked. In each case the destination is not there.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive breaks a rule; a sentence for the user.
    #[error("{0}")]
    Refused(String),
    /// `stop` said so.
    #[error("unpacking was stopped")]
    Stopped,
    /// The disk, not the archive.
    #[error("cannot unpack the archive")]
    Disk(#[from] io::Error),
}

/// Shorthand for the sentence of a refusal.
pub(super) fn refused<T>(words: impl Into<String>) -> Result<T, UnpackError> {
    Err(UnpackError::Refused(words.into()))
}

/// Unpacks a `.tar.gz` or `.tar` into `dest`, which must not exist; answers the bytes of its files.
/// Blocks; `stop` is asked between blocks. A single top folder is kept: tsuru's archives are rooted
/// at the app.
pub fn unpack(
    archive: &Path,
    dest: &Path,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<u64, UnpackError> {
    walk(archive, limits, stop, None)?;
    fs::create_dir(dest)?;
    let done = walk(archive, limits, stop, Some(&Disk::new(dest)));
    if done.is_err() {
        super::tree::remove_tree(dest)?;
    }
    done
}

/// One reading of the archive; with a disk it writes.
fn walk(
    archive: &Path,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
    disk: Option<&Disk>,
) -> Result<u64, UnpackError> {
    let mut tar = Archive::new(Bounded::open(archive, limits, stop)?);
    let mut layout = Layout::new(limits);
    let mut next = Extended::default();
    let mut judge = |entry: io::Result<Entry<'_, _>>| -> Result<(), UnpackError> {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => layout.count(),
            EntryType::XHeader => {
                layout.count()?;
                next.read_pax(&mut entry)
            }
            EntryType::GNULongName => {
                layout.count()?;
                next.name = Some(short_text(&mut entry)?);
                Ok(())
            }
            EntryType::GNULongLink => {
                layout.count()?;
                next.link = Some(short_text(&mut entry)?);
                Ok(())
            }
            _ => one(&mut entry, std::mem::take(&mut next), &mut layout, disk),
        }
    };
    let read = (|| {
        for entry in tar.entries()?.raw(true) {
            judge(entry)?;
        }
        Ok(())
    })();
    let mut rest = tar.into_inner();
    read.map_err(|e| rest.explain(e))?;
    // What follows the end mark holds the checksum of the compressed data.
    let drained = io::copy(&mut rest, &mut io::sink());
    drained.map_err(|e| rest.explain(e.into()))?;
    let links = layout.finish()?;
    if let Some(disk) = disk {
        disk.link(&links)?;
    }
    Ok(layout.bytes())
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Extended {
    fn read_pax(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let text = short_text(entry)?;
        for record in PaxExtensions::new(&text) {
            let record =
                record.or_else(|_| refused("The archive is damaged: an extended header is malformed."))?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()),
                key if key.starts_with(b"GNU.sparse") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The text of an extension header, 64 KiB at most.
fn short_text(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    const LONGEST: u64 = 64 << 10;
    let size = entry.header().entry_size().or_else(|_| damaged())?;
    if size > LONGEST {
        return refused("The archive holds a name or an extended header of more than 64 KiB.");
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    if text.len() as u64 != size {
        return damaged();
    }
    let is_name = !entry.header().entry_type().is_pax_local_extensions();
    while is_name && text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

fn damaged<T>() -> Result<T, UnpackError> {
    refused("The archive is damaged or cut off; make it again and send the whole of it.")
}

/// Judges one entry, and writes it when there is a disk.
fn one(
    entry: &mut Entry<'_, impl Read>,
    extended: Extended,
    layout: &mut Layout,
    disk: Option<&Disk>,
) -> Result<(), UnpackError> {
    layout.count()?;
    let header = entry.header().clone();
    let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
    let kind = header.entry_type();
    let size = header.entry_size().or_else(|_| damaged())?;
    if extended.sparse || kind.is_gnu_sparse() {
        return refused(format!(
            "{} is a sparse file, which is not supported.",
            quoted(&name)
        ));
    }
    if extended.size.is_some_and(|s| s != size) {
        return refused(format!("The archive states two sizes for {}.", quoted(&name)));
    }
    let place = layout.place(&name)?;
    let link = || {
        let from_header = || {
            header
                .link_name_bytes()
                .map(|n| n.into_owned())
                .unwrap_or_default()
        };
        extended.link.clone().unwrap_or_else(from_header)
    };
    match kind {
        EntryType::Directory => make_dir(layout, disk, place),
        // The oldest archives mark a folder by its slash alone.
        EntryType::Regular if name.ends_with(b"/") && size == 0 => make_dir(layout, disk, place),
        EntryType::Regular | EntryType::Continuous => {
            layout.file(&place, size)?;
            write_file(entry, &header, disk, &place, size)
        }
        EntryType::Symlink => layout.symlink(&place, &link()),
        EntryType::Link => {
            let target = layout.hard_link(&place, &link())?;
            match disk {
                Some(disk) => Ok(disk.hard_link(&target, &place.path)?),
                None => Ok(()),
            }
        }
        EntryType::Char | EntryType::Block => refused(format!("{} is a device.", quoted(&name))),
        EntryType::Fifo => refused(format!("{} is a named pipe.", quoted(&name))),
        other => refused(format!(
            "{} is of a kind ({:?}) that is not supported.",
            quoted(&name),
            char::from(other.as_byte())
        )),
    }
}

fn make_dir(layout: &mut Layout, disk: Option<&Disk>, place: Place) -> Result<(), UnpackError> {
    layout.folder(&place)?;
    if let Some(disk) = disk {
        disk.folder(&place.path)?;
    }
    Ok(())
}

fn write_file(
    entry: &mut Entry<'_, impl Read>,
    header: &Header,
    disk: Option<&Disk>,
    place: &Place,
    size: u64,
) -> Result<(), UnpackError> {
    let read = match disk {
        None => io::copy(entry, &mut io::sink())?,
        Some(disk) => {
            let executable = header.mode().unwrap_or(0) & 0o111 != 0;
            disk.file(&place.path, entry, executable, header.mtime().ok())?
        }
    };
    if read == size { Ok(()) } else { damaged() }
}
