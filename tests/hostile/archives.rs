//! Source archives, built from table rows without any validation.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use tancho::builders::{UnpackError, UnpackLimits, extract_archive};
use tar::{EntryType, Header};

use super::*;

pub(super) const TABLE: &str = include_str!("archives.jsonl");

#[derive(Deserialize)]
struct ArchiveRow {
    title: String,
    says: String,
    /// The type, the name, and further fields by type.
    entries: Vec<Vec<Value>>,
}

/// A folder that is deleted on drop.
pub(super) struct TempFolder(pub(super) PathBuf);

impl TempFolder {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tancho-hostile-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = tancho::builders::remove_tree(&self.0);
    }
}

pub(super) fn small_limits() -> UnpackLimits {
    UnpackLimits {
        total_bytes: 1 << 20,
        file_bytes: 512 << 10,
        entries: 50,
        depth: 10,
        ratio: 200,
    }
}

/// Unpacks into a new folder. Whatever the result, nothing appears beside that folder, and no link in it
/// leads outside.
pub(super) fn unpack_archive(archive: &[u8]) -> Result<u64, UnpackError> {
    let folder = TempFolder::new();
    let (file, dest) = (folder.0.join("archive"), folder.0.join("dest"));
    fs::write(&file, archive).unwrap();
    let result = extract_archive(&file, &dest, &small_limits(), &|| false).map(|unpacked| unpacked.bytes);
    let names = fs::read_dir(&folder.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.filter(|name| name != "archive" && name != "dest").collect();
    assert!(names.is_empty(), "appeared outside: {names:?}");
    assert_eq!(dest.exists(), result.is_ok(), "all or nothing");
    if result.is_ok() {
        let top = dest.canonicalize().unwrap();
        let mut folders = vec![dest];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                assert!(kind.is_dir() || kind.is_file() || kind.is_symlink(), "{path:?}");
                if kind.is_dir() {
                    folders.push(path);
                } else if let Ok(real) = path.canonicalize() {
                    assert!(real.starts_with(&top), "{path:?} leads to {real:?}");
                }
            }
        }
    }
    result
}

fn number(extra: &Value) -> u64 {
    extra.as_u64().unwrap()
}

fn text(extra: &Value) -> &str {
    extra.as_str().unwrap()
}

/// One entry in the format of a tar file.
pub(super) fn entry(kind: u8, name: &[u8], link: &[u8], body: &[u8], size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    let (name, link) = (&name[..name.len().min(100)], &link[..link.len().min(100)]);
    old.name[..name.len()].copy_from_slice(name);
    old.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    bytes
}

pub(super) fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while format!("{length}{rest}").len() != length {
        length += 1;
    }
    let body = format!("{length}{rest}");
    entry(b'x', b"pax", b"", body.as_bytes(), body.len() as u64)
}

fn build(row: &ArchiveRow) -> Vec<u8> {
    let mut tar = Vec::new();
    for parts in &row.entries {
        let (kind, name) = (text(&parts[0]), text(&parts[1]));
        let extra = parts.get(2).cloned().unwrap_or(Value::String(String::new()));
        let plain = |kind: u8, body: &[u8]| entry(kind, name.as_bytes(), b"", body, body.len() as u64);
        let link = |kind: u8| entry(kind, name.as_bytes(), text(&extra).as_bytes(), b"", 0);
        tar.extend(match kind.split_once(':').unwrap_or((kind, "")) {
            ("file", _) => plain(b'0', text(&extra).as_bytes()),
            ("dir", _) => plain(b'5', b""),
            ("symlink", _) => link(b'2'),
            ("hardlink", _) => link(b'1'),
            ("fill", _) => plain(b'0', &vec![b'x'; usize::try_from(number(&extra)).unwrap()]),
            ("claim", kind) => {
                let kind = kind.bytes().next().unwrap_or(b'0');
                entry(kind, name.as_bytes(), b"", b"x", number(&extra))
            }
            ("long", _) => {
                let body = format!("{name}\0");
                entry(b'L', b"././@LongLink", b"", body.as_bytes(), body.len() as u64)
            }
            ("pax", _) => pax(name, text(&extra)),
            ("raw", kind) => plain(kind.as_bytes()[0], text(&extra).as_bytes()),
            (other, _) => panic!("no such entry: {other}"),
        });
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[test]
fn hostile_archives_are_rejected() {
    let mut others = Vec::new();
    for row in parse_rows::<ArchiveRow>(TABLE) {
        let plain = build(&row);
        let mut behind = entry(b'0', b"harmless", b"", b"x", 1);
        behind.extend_from_slice(&plain);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &plain).unwrap();
        let mut all = vec![plain, packed.finish().unwrap()];
        // The same behind a harmless file, which must not stay either.
        if row.says != "no files" {
            all.push(behind);
        }
        for archive in all {
            match unpack_archive(&archive) {
                Err(UnpackError::Refused(words)) => {
                    if !words.contains(&row.says) {
                        others.push(format!("{}: {words}", row.title));
                    }
                    assert_printable_sentence(&row.title, &words);
                }
                other => panic!("{}: {other:?}", row.title),
            }
        }
    }
    assert!(others.is_empty(), "refused in other words: {others:#?}");
}
