//! The bytes of an archive, unpacked and counted while they are read, so that no bomb gets far.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::unpack::{Limits, UnpackError, refused};

struct Counted(BufReader<File>, u64);

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1 += n as u64;
        Ok(n)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.1 += n as u64;
        self.0.consume(n);
    }
}

enum Source {
    Gzip(Box<MultiGzDecoder<Counted>>),
    Plain(BufReader<File>),
}

enum Why {
    Stopped,
    TooLong,
    Bomb,
    Disk,
}

/// The unpacked stream, counted while it is read.
pub(super) struct Bounded<'a> {
    source: Source,
    read: u64,
    longest: u64,
    ratio: u64,
    stop: &'a dyn Fn() -> bool,
    why: Option<Why>,
}

impl<'a> Bounded<'a> {
    /// Looks at the first bytes and answers a reader of plain tar.
    pub(super) fn open(
        archive: &Path,
        limits: &Limits,
        stop: &'a dyn Fn() -> bool,
    ) -> Result<Self, UnpackError> {
        let mut file = BufReader::with_capacity(64 << 10, File::open(archive)?);
        let head = file.fill_buf()?;
        let other = match head {
            [] => return refused("The archive is empty."),
            // A tar's first bytes are a name, which may look like anything.
            _ if head.get(257..262) == Some(b"ustar") => None,
            [b'P', b'K', 3, 4, ..] => Some("a zip archive"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("compressed with bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("compressed with xz"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("compressed with zstd"),
            _ => None,
        };
        if let Some(what) = other {
            return refused(format!("The archive is {what}; send a .tar.gz."));
        }
        let packed = head.starts_with(&[0x1f, 0x8b]);
        let longest = limits
            .total_bytes
            // Headers, extension headers and padding come on top of the files.
            .saturating_add(2048 * limits.entries as u64)
            .saturating_add(1 << 20);
        let source = if packed {
            Source::Gzip(Box::new(MultiGzDecoder::new(Counted(file, 0))))
        } else {
            Source::Plain(file)
        };
        Ok(Self {
            source,
            read: 0,
            longest,
            ratio: limits.ratio,
            stop,
            why: None,
        })
    }

    /// Turns an error of reading into a sentence: what looks like the disk's fault is nearly always the
    /// archive's.
    pub(super) fn explain(&self, error: UnpackError) -> UnpackError {
        let UnpackError::Disk(cause) = error else {
            return error;
        };
        let sentence = match (&self.why, &self.source) {
            (Some(Why::Stopped), _) => return UnpackError::Stopped,
            (Some(Why::Disk), _) => return UnpackError::Disk(cause),
            (Some(Why::TooLong), _) => "The archive is larger than allowed when unpacked.".to_owned(),
            (Some(Why::Bomb), _) => format!(
                "The archive unpacks to more than {} times its size, which looks like an attack.",
                self.ratio
            ),
            (None, _) if cause.raw_os_error().is_some() => return UnpackError::Disk(cause),
            (None, Source::Plain(_)) if self.read <= 1024 => {
                "This is neither a .tar.gz nor a .tar archive.".to_owned()
            }
            (None, Source::Gzip(_)) if self.read <= 512 && cause.kind() == io::ErrorKind::Other => {
                "The compressed file is not a tar archive.".to_owned()
            }
            (None, _) => {
                "The archive is damaged or cut off; make it again and send the whole of it.".to_owned()
            }
        };
        UnpackError::Refused(sentence)
    }

    fn fail(&mut self, why: Why) -> io::Error {
        self.why = Some(why);
        io::Error::other("refused")
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(self.fail(Why::Stopped));
        }
        let (n, packed) = match &mut self.source {
            Source::Gzip(decoder) => (decoder.read(buf)?, Some(decoder.get_ref().1)),
            Source::Plain(file) => match file.read(buf) {
                Ok(n) => (n, None),
                Err(e) => {
                    self.why = Some(Why::Disk);
                    return Err(e);
                }
            },
        };
        self.read += n as u64;
        if self.read > self.longest {
            return Err(self.fail(Why::TooLong));
        }
        if packed.is_some_and(|p| self.read > 16 << 20 && self.read / self.ratio.max(1) > p) {
            return Err(self.fail(Why::Bomb));
        }
        Ok(n)
    }
}
