//! The length of a body: by its Content-Length, or by the chunked coding (RFC 9112 §7.1). The parser of
//! chunks is fed bytes and stores none. It is strict: a line ends with CR LF, a size is hexadecimal and fits
//! into 63 bits.

/// The parser of the chunked coding.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChunkParser {
    state: ChunkState,
    remaining: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum ChunkState {
    #[default]
    Size,
    /// At least one digit was read.
    SizeDigits,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
}

/// What follows the framing that was skipped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChunkStep {
    /// The input ended within the framing.
    Incomplete,
    /// This number of data bytes (or the first of them).
    Data(u64),
    /// The size line of the last chunk has been read: trailers or an empty line follow.
    LastChunk,
}

/// The bytes are not valid chunk framing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MalformedChunk;

impl ChunkParser {
    /// Skips framing at the start of the bytes; returns its length and what follows it.
    pub(crate) fn skip_framing(&mut self, bytes: &[u8]) -> Result<(usize, ChunkStep), MalformedChunk> {
        for (at, &byte) in bytes.iter().enumerate() {
            match (self.state, byte) {
                (ChunkState::Data, _) => return Ok((at, ChunkStep::Data(self.remaining))),
                (ChunkState::Size | ChunkState::SizeDigits, _) if byte.is_ascii_hexdigit() => {
                    self.push_size_digit(byte)?
                }
                (ChunkState::SizeDigits, b'\r') | (ChunkState::Extension, b'\r') => {
                    self.state = ChunkState::SizeEnd
                }
                (ChunkState::SizeDigits, b';' | b' ' | b'\t') => self.state = ChunkState::Extension,
                (ChunkState::Extension, b) if b != b'\n' => {}
                (ChunkState::SizeEnd, b'\n') if self.remaining == 0 => {
                    *self = Self::default();
                    return Ok((at + 1, ChunkStep::LastChunk));
                }
                (ChunkState::SizeEnd, b'\n') => self.state = ChunkState::Data,
                (ChunkState::DataCr, b'\r') => self.state = ChunkState::DataLf,
                (ChunkState::DataLf, b'\n') => self.state = ChunkState::Size,
                _ => return Err(MalformedChunk),
            }
        }
        Ok((bytes.len(), ChunkStep::Incomplete))
    }

    /// Records that this number of data bytes was consumed.
    pub(crate) fn consume_data(&mut self, bytes: u64) {
        self.remaining = self.remaining.saturating_sub(bytes);
        if self.remaining == 0 {
            self.state = ChunkState::DataCr;
        }
    }

    fn push_size_digit(&mut self, byte: u8) -> Result<(), MalformedChunk> {
        let digit = (byte as char).to_digit(16).ok_or(MalformedChunk)?;
        if self.remaining >> 59 != 0 {
            return Err(MalformedChunk);
        }
        self.remaining = (self.remaining << 4) | u64::from(digit);
        self.state = ChunkState::SizeDigits;
        Ok(())
    }
}

/// Parses a Content-Length: up to 18 digits, or the same digits repeated in a list.
pub(crate) fn parse_content_length(value: &[u8]) -> Option<u64> {
    let mut parts = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let first = parts.next()?;
    if first.is_empty() || first.len() > 18 || !first.iter().all(u8::is_ascii_digit) {
        return None;
    }
    if parts.any(|other| other != first) {
        return None;
    }
    Some(
        first
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes a chunked body that arrives in the given pieces; returns its data and whether the last chunk
    /// was seen.
    fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<u8>, bool), MalformedChunk> {
        let (mut chunks, mut data) = (ChunkParser::default(), Vec::new());
        for mut piece in pieces {
            while !piece.is_empty() {
                let (skip, next) = chunks.skip_framing(piece)?;
                piece = &piece[skip..];
                match next {
                    ChunkStep::Incomplete => {}
                    ChunkStep::Data(left) => {
                        let count = piece.len().min(usize::try_from(left).unwrap());
                        data.extend_from_slice(&piece[..count]);
                        chunks.consume_data(count as u64);
                        piece = &piece[count..];
                    }
                    ChunkStep::LastChunk => return Ok((data, true)),
                }
            }
        }
        Ok((data, false))
    }

    #[test]
    fn malformed_chunk_framing_is_refused() {
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
            assert_eq!(read([raw.as_bytes()].into_iter()), Err(MalformedChunk), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn chunk_data_is_decoded_from_pieces_of_any_size(
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
