//! Reads an archive: decompresses and counts its bytes, so that a decompression bomb is stopped early.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::unpack::{UnpackError, UnpackLimits, refuse_archive};

struct CountedReader(BufReader<File>, u64);

impl Read for CountedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1 += n as u64;
        Ok(n)
    }
}

impl BufRead for CountedReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.1 += n as u64;
        self.0.consume(n);
    }
}

enum ArchiveSource {
    Gzip(Box<MultiGzDecoder<CountedReader>>),
    Plain(BufReader<File>),
}

enum StreamFailure {
    Stopped,
    TooLong,
    Bomb,
    Disk,
}

/// The decompressed stream, counted while it is read.
pub(super) struct BoundedReader<'a> {
    source: ArchiveSource,
    bytes_read: u64,
    max_bytes: u64,
    ratio: u64,
    stop: &'a dyn Fn() -> bool,
    failure: Option<StreamFailure>,
}

impl<'a> BoundedReader<'a> {
    /// Detects the format by the first bytes and returns a reader of plain tar.
    pub(super) fn open(
        archive: &Path,
        limits: &UnpackLimits,
        stop: &'a dyn Fn() -> bool,
    ) -> Result<Self, UnpackError> {
        let mut file = BufReader::with_capacity(64 << 10, File::open(archive)?);
        let head = file.fill_buf()?;
        let other = match head {
            [] => return refuse_archive("The archive is empty."),
            // A tar begins with a file name, which may look like anything.
            _ if head.get(257..262) == Some(b"ustar") => None,
            [b'P', b'K', 3, 4, ..] => Some("a zip archive"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("compressed with bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("compressed with xz"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("compressed with zstd"),
            _ => None,
        };
        if let Some(what) = other {
            return refuse_archive(format!("The archive is {what}; send a .tar.gz."));
        }
        let packed = head.starts_with(&[0x1f, 0x8b]);
        let longest = limits
            .total_bytes
            // Headers, extension headers and padding are added to the files.
            .saturating_add(2048 * limits.entries as u64)
            .saturating_add(1 << 20);
        let source = if packed {
            ArchiveSource::Gzip(Box::new(MultiGzDecoder::new(CountedReader(file, 0))))
        } else {
            ArchiveSource::Plain(file)
        };
        Ok(Self {
            source,
            bytes_read: 0,
            max_bytes: longest,
            ratio: limits.ratio,
            stop,
            failure: None,
        })
    }

    /// Turns a read error into a message: what looks like a disk error is nearly always a bad archive.
    pub(super) fn explain_error(&self, error: UnpackError) -> UnpackError {
        let UnpackError::Disk(cause) = error else {
            return error;
        };
        let sentence = match (&self.failure, &self.source) {
            (Some(StreamFailure::Stopped), _) => return UnpackError::Stopped,
            (Some(StreamFailure::Disk), _) => return UnpackError::Disk(cause),
            (Some(StreamFailure::TooLong), _) => {
                "The archive is larger than allowed when unpacked.".to_owned()
            }
            (Some(StreamFailure::Bomb), _) => format!(
                "The archive unpacks to more than {} times its size, which looks like an attack.",
                self.ratio
            ),
            (None, _) if cause.raw_os_error().is_some() => return UnpackError::Disk(cause),
            (None, ArchiveSource::Plain(_)) if self.bytes_read <= 1024 => {
                "This is neither a .tar.gz nor a .tar archive.".to_owned()
            }
            (None, ArchiveSource::Gzip(_))
                if self.bytes_read <= 512 && cause.kind() == io::ErrorKind::Other =>
            {
                "The compressed file is not a tar archive.".to_owned()
            }
            (None, _) => {
                "The archive is damaged or truncated: create it again and upload all of it.".to_owned()
            }
        };
        UnpackError::Refused(sentence)
    }

    fn fail_with(&mut self, why: StreamFailure) -> io::Error {
        self.failure = Some(why);
        io::Error::other("refused")
    }
}

impl Read for BoundedReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(self.fail_with(StreamFailure::Stopped));
        }
        let (n, packed) = match &mut self.source {
            ArchiveSource::Gzip(decoder) => (decoder.read(buf)?, Some(decoder.get_ref().1)),
            ArchiveSource::Plain(file) => match file.read(buf) {
                Ok(n) => (n, None),
                Err(e) => {
                    self.failure = Some(StreamFailure::Disk);
                    return Err(e);
                }
            },
        };
        self.bytes_read += n as u64;
        if self.bytes_read > self.max_bytes {
            return Err(self.fail_with(StreamFailure::TooLong));
        }
        if packed.is_some_and(|p| self.bytes_read > 16 << 20 && self.bytes_read / self.ratio.max(1) > p) {
            return Err(self.fail_with(StreamFailure::Bomb));
        }
        Ok(n)
    }
}
