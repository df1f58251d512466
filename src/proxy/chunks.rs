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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a chunked body that comes in the given pieces, and whether its last chunk was seen.
    fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<u8>, bool), BadChunk> {
        let (mut chunks, mut data) = (Chunks::default(), Vec::new());
        for mut piece in pieces {
            while !piece.is_empty() {
                let (skip, next) = chunks.step(piece)?;
                piece = &piece[skip..];
                match next {
                    Next::More => {}
                    Next::Data(left) => {
                        let count = piece.len().min(usize::try_from(left).unwrap());
                        data.extend_from_slice(&piece[..count]);
                        chunks.took(count as u64);
                        piece = &piece[count..];
                    }
                    Next::Last => return Ok((data, true)),
                }
            }
        }
        Ok((data, false))
    }

    #[test]
    fn loose_framing_is_refused() {
        let bad = [
            "\r\n",
            "g\r\n",
            "1\na\n",
            "1\r\nab",
            "-1\r\n",
            " 1\r\n",
            "1\r\na\n",
            "fffffffffffffffff\r\n",
            "1;x\n",
        ];
        for raw in bad {
            assert_eq!(read([raw.as_bytes()].into_iter()), Err(BadChunk), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn data_survive_any_framing_in_any_pieces(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            size in 1_usize..50,
        ) {
            let mut raw = Vec::new();
            for part in &parts {
                raw.extend_from_slice(format!("{:X};x=y\r\n", part.len()).as_bytes());
                raw.extend_from_slice(part);
                raw.extend_from_slice(b"\r\n");
            }
            raw.extend_from_slice(b"0\r\n");
            prop_assert_eq!(read(raw.chunks(size)), Ok((parts.concat(), true)));
        }
    }
}
