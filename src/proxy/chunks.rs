//! The framing of a chunked body (RFC 9112 §7.1), as a machine that is fed bytes and keeps none. It is
//! strict: a line ends with CR LF, a size is hexadecimal and fits 63 bits.

/// Where in the framing we are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    left: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Size,
    /// At least one digit was read.
    SizeOn,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
}

/// What follows the framing that was skipped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing yet.
    More,
    /// So many bytes of data (or the first of them).
    Data(u64),
    /// The size line of the last chunk is read: trailers or an empty line follow.
    Last,
}

/// These bytes frame no chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadChunk;

impl Chunks {
    /// Skips framing at the front of the bytes; returns how much, and what stands there then.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<(usize, Next), BadChunk> {
        for (at, &byte) in bytes.iter().enumerate() {
            match (self.place, byte) {
                (Place::Data, _) => return Ok((at, Next::Data(self.left))),
                (Place::Size | Place::SizeOn, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
                (Place::SizeOn, b'\r') | (Place::Extension, b'\r') => self.place = Place::SizeEnd,
                (Place::SizeOn, b';' | b' ' | b'\t') => self.place = Place::Extension,
                (Place::Extension, b) if b != b'\n' => {}
                (Place::SizeEnd, b'\n') if self.left == 0 => {
                    *self = Self::default();
                    return Ok((at + 1, Next::Last));
                }
                (Place::SizeEnd, b'\n') => self.place = Place::Data,
                (Place::DataCr, b'\r') => self.place = Place::DataLf,
                (Place::DataLf, b'\n') => self.place = Place::Size,
                _ => return Err(BadChunk),
            }
        }
        Ok((bytes.len(), Next::More))
    }

    /// Tells that so many bytes of the data were taken.
    pub(super) fn took(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        if self.left == 0 {
            self.place = Place::DataCr;
        }
    }

    fn digit(&mut self, byte: u8) -> Result<(), BadChunk> {
        let digit = (byte as char).to_digit(16).ok_or(BadChunk)?;
        if self.left >> 59 != 0 {
            return Err(BadChunk);
        }
        self.left = (self.left << 4) | u64::from(digit);
        self.place = Place::SizeOn;
        Ok(())
    }
}
