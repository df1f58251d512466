//! Unpacks untrusted source archives into folders.
//!
//! The archive is read twice. The first pass only checks: names, links, sizes, limits. The second pass
//! writes, and only runs if the whole archive passed, so that a refused archive uses no disk and leaves
//! nothing. Symbolic links are created last, after every file has been written: no write can go through one.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, Entry, EntryType, Header};

use super::layout::{ArchiveLayout, EntryPath, quote_name};
use super::pax::ExtensionHeaders;
use super::stream::BoundedReader;
use super::tree_writer::TreeWriter;

/// The longest name of a file or of a link's target, in bytes, as it is read.
pub(super) const LONGEST_NAME: u64 = 64 << 10;
/// The longest extended header, in bytes: file attributes may be large.
const LONGEST_HEADER: u64 = 16 << 20;
/// The first bytes of a file in which macOS stores the attributes of another file.
const APPLE_DOUBLE: [u8; 4] = [0, 5, 0x16, 7];

/// The limits on an archive.
#[derive(Clone, Debug)]
pub struct UnpackLimits {
    /// All files together, unpacked, in bytes.
    pub total_bytes: u64,
    /// One file, in bytes.
    pub file_bytes: u64,
    /// Files, folders and links together.
    pub entries: usize,
    /// Nesting of folders.
    pub depth: usize,
    /// Unpacked bytes per packed byte. Checked only beyond 16 MiB: small texts may well be repetitive.
    pub ratio: u64,
}

impl Default for UnpackLimits {
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

/// Why an archive was not unpacked. In each case the destination does not exist.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive breaks a rule; a message for the user.
    #[error("{0}")]
    Refused(String),
    /// `stop` returned true.
    #[error("unpacking was stopped")]
    Stopped,
    /// An error of the disk, not of the archive.
    #[error("cannot unpack the archive")]
    Disk(#[from] io::Error),
}

/// The result of unpacking.
#[derive(Clone, Copy, Debug)]
pub struct UnpackSummary {
    /// The size of all files, in bytes.
    pub bytes: u64,
    /// The number of files added by macOS that were skipped.
    pub skipped_files: usize,
}

/// Returns a refusal with this message.
pub(super) fn refuse_archive<T>(message: impl Into<String>) -> Result<T, UnpackError> {
    Err(UnpackError::Refused(message.into()))
}

/// Unpacks a `.tar.gz` or `.tar` into `dest`, which must not exist. Blocks; `stop` is called between blocks.
/// A single top folder is kept: tsuru's archives are rooted at the app. Files with attributes that macOS adds
/// (`._*`, `Icon\r`) are skipped.
pub fn extract_archive(
    archive: &Path,
    dest: &Path,
    limits: &UnpackLimits,
    stop: &dyn Fn() -> bool,
) -> Result<UnpackSummary, UnpackError> {
    read_archive(archive, limits, stop, None)?;
    fs::create_dir(dest)?;
    let done = read_archive(archive, limits, stop, Some(&TreeWriter::new(dest)));
    if done.is_err() {
        super::tree::remove_tree(dest)?;
    }
    done
}

/// Reads the archive once; writes it if `disk` is given.
fn read_archive(
    archive: &Path,
    limits: &UnpackLimits,
    stop: &dyn Fn() -> bool,
    disk: Option<&TreeWriter>,
) -> Result<UnpackSummary, UnpackError> {
    let mut tar = Archive::new(BoundedReader::open(archive, limits, stop)?);
    let mut layout = ArchiveLayout::new(limits);
    let mut next = ExtensionHeaders::default();
    let mut left_out = 0;
    let mut judge = |entry: io::Result<Entry<'_, _>>| -> Result<(), UnpackError> {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => layout.count_entry(),
            EntryType::XHeader => {
                layout.count_entry()?;
                if entry.size() > LONGEST_HEADER {
                    return refuse_archive("The archive holds an extended header of more than 16 MiB.");
                }
                next.read_pax(&mut entry)
            }
            EntryType::GNULongName => {
                layout.count_entry()?;
                next.name = Some(read_long_name(&mut entry)?);
                Ok(())
            }
            EntryType::GNULongLink => {
                layout.count_entry()?;
                next.link = Some(read_long_name(&mut entry)?);
                Ok(())
            }
            _ => {
                let stays = process_entry(&mut entry, std::mem::take(&mut next), &mut layout, disk)?;
                left_out += usize::from(!stays);
                Ok(())
            }
        }
    };
    let read = (|| {
        for entry in tar.entries()?.raw(true) {
            judge(entry)?;
        }
        Ok(())
    })();
    let mut rest = tar.into_inner();
    read.map_err(|e| rest.explain_error(e))?;
    // What follows the end marker holds the checksum of the compressed data.
    let drained = io::copy(&mut rest, &mut io::sink());
    drained.map_err(|e| rest.explain_error(e.into()))?;
    let links = layout.check_links()?;
    if let Some(disk) = disk {
        disk.create_symlinks(&links)?;
    }
    Ok(UnpackSummary {
        bytes: layout.unpacked_bytes(),
        skipped_files: left_out,
    })
}

/// Reads the name that a GNU header holds for the next entry.
fn read_long_name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let size = entry.header().entry_size().or_else(|_| refuse_damaged())?;
    if size > LONGEST_NAME {
        return refuse_archive("The archive holds a name of more than 64 KiB.");
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    if text.len() as u64 != size {
        return refuse_damaged();
    }
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

pub(super) fn refuse_damaged<T>() -> Result<T, UnpackError> {
    refuse_archive("The archive is damaged or truncated: create it again and upload all of it.")
}

/// Checks one entry, and writes it if `disk` is given. Returns false if it was skipped.
fn process_entry(
    entry: &mut Entry<'_, impl Read>,
    extended: ExtensionHeaders,
    layout: &mut ArchiveLayout,
    disk: Option<&TreeWriter>,
) -> Result<bool, UnpackError> {
    layout.count_entry()?;
    let header = entry.header().clone();
    let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
    let kind = header.entry_type();
    let size = header.entry_size().or_else(|_| refuse_damaged())?;
    if extended.sparse || kind.is_gnu_sparse() {
        return refuse_archive(format!(
            "{} is a sparse file, which is not supported; pack it without --sparse.",
            quote_name(&name)
        ));
    }
    if extended.size.is_some_and(|s| s != size) {
        return refuse_archive(format!("The archive states two sizes for {}.", quote_name(&name)));
    }
    let file_name = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
    if is_file && file_name == b"Icon\r" {
        return Ok(false);
    }
    let mut head = Vec::new();
    if is_file && file_name.starts_with(b"._") {
        entry.take(APPLE_DOUBLE.len() as u64).read_to_end(&mut head)?;
        if head == APPLE_DOUBLE {
            return Ok(false);
        }
    }
    let entry_path = layout.resolve_name(&name)?;
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
        EntryType::Directory => make_dir(layout, disk, entry_path),
        // The oldest archives mark a folder only by a trailing slash.
        EntryType::Regular if name.ends_with(b"/") && size == 0 => make_dir(layout, disk, entry_path),
        EntryType::Regular | EntryType::Continuous => {
            layout.add_file(&entry_path, size)?;
            write_file(&mut head.chain(entry), &header, disk, &entry_path, size)
        }
        EntryType::Symlink => layout.add_symlink(&entry_path, &link()),
        EntryType::Link => {
            let target = layout.add_hard_link(&entry_path, &link())?;
            match disk {
                Some(disk) => Ok(disk.create_hard_link(&target, &entry_path.path)?),
                None => Ok(()),
            }
        }
        EntryType::Char | EntryType::Block => refuse_archive(format!("{} is a device.", quote_name(&name))),
        EntryType::Fifo => refuse_archive(format!("{} is a named pipe.", quote_name(&name))),
        other => refuse_archive(format!(
            "{} is of a kind ({:?}) that is not supported.",
            quote_name(&name),
            char::from(other.as_byte())
        )),
    }?;
    Ok(true)
}

fn make_dir(
    layout: &mut ArchiveLayout,
    disk: Option<&TreeWriter>,
    entry_path: EntryPath,
) -> Result<(), UnpackError> {
    layout.add_folder(&entry_path)?;
    if let Some(disk) = disk {
        disk.create_folder(&entry_path.path)?;
    }
    Ok(())
}

fn write_file(
    entry: &mut impl Read,
    header: &Header,
    disk: Option<&TreeWriter>,
    entry_path: &EntryPath,
    size: u64,
) -> Result<(), UnpackError> {
    let read = match disk {
        None => io::copy(entry, &mut io::sink())?,
        Some(disk) => {
            let executable = header.mode().unwrap_or(0) & 0o111 != 0;
            disk.write_file(&entry_path.path, entry, executable, header.mtime().ok())?
        }
    };
    if read == size { Ok(()) } else { refuse_damaged() }
}
