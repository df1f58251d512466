//! The extended headers of pax: records `<length> <key>=<value>\n`, few of which matter here.
//!
//! A value may contain any bytes, including line feeds (macOS stores file attributes this way), so records
//! are read by their length. Other keys are skipped and never stored.

use std::io::{self, Read};

use super::unpack::{LONGEST_NAME, UnpackError, refuse_archive, refuse_damaged};

/// The longest key, in bytes.
const LONGEST_KEY: usize = 1024;

/// The extended headers of the next entry.
#[derive(Default)]
pub(super) struct ExtensionHeaders {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) sparse: bool,
}

impl ExtensionHeaders {
    /// Reads all records of one header.
    pub(super) fn read_pax(&mut self, header: &mut impl Read) -> Result<(), UnpackError> {
        while let Some(length) = read_length(header)? {
            let (key, left) = read_key(header, length)?;
            let wanted = matches!(key.as_slice(), b"path" | b"linkpath" | b"size");
            self.sparse |= key.starts_with(b"GNU.sparse");
            if wanted && left > LONGEST_NAME {
                return refuse_archive("The archive holds a name of more than 64 KiB.");
            }
            let mut value = Vec::new();
            let mut rest = header.take(left);
            let read = match wanted {
                true => rest.read_to_end(&mut value)? as u64,
                false => io::copy(&mut rest, &mut io::sink())?,
            };
            let mut end = [0];
            if read != left || header.read(&mut end)? != 1 || end != *b"\n" {
                return refuse_malformed();
            }
            match key.as_slice() {
                b"path" => self.name = Some(value),
                b"linkpath" => self.link = Some(value),
                b"size" => self.size = Some(parse_number(&value)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Reads the length of the next record, without its digits and the space after them; `None` at the end.
fn read_length(header: &mut impl Read) -> Result<Option<u64>, UnpackError> {
    let mut digits = Vec::new();
    loop {
        let mut byte = [0];
        if header.read(&mut byte)? == 0 {
            return if digits.is_empty() {
                Ok(None)
            } else {
                refuse_damaged()
            };
        }
        match byte[0] {
            b' ' => break,
            digit @ b'0'..=b'9' if digits.len() < 12 => digits.push(digit),
            _ => return refuse_malformed(),
        }
    }
    let whole = parse_number(&digits)?;
    match whole.checked_sub(digits.len() as u64 + 1) {
        Some(left) => Ok(Some(left)),
        None => refuse_malformed(),
    }
}

/// Reads the key; returns it with the length of the value without its line feed.
fn read_key(header: &mut impl Read, length: u64) -> Result<(Vec<u8>, u64), UnpackError> {
    let mut key = Vec::new();
    let mut byte = [0];
    loop {
        if header.read(&mut byte)? == 0 {
            return refuse_damaged();
        }
        if byte == *b"=" {
            break;
        }
        key.push(byte[0]);
        if key.len() > LONGEST_KEY {
            return refuse_malformed();
        }
    }
    match length.checked_sub(key.len() as u64 + 2) {
        Some(left) => Ok((key, left)),
        None => refuse_malformed(),
    }
}

fn parse_number(digits: &[u8]) -> Result<u64, UnpackError> {
    let text = std::str::from_utf8(digits).ok();
    match text.and_then(|text| text.parse().ok()) {
        Some(number) => Ok(number),
        None => refuse_malformed(),
    }
}

fn refuse_malformed<T>() -> Result<T, UnpackError> {
    refuse_archive("The archive is damaged: an extended header is malformed.")
}
