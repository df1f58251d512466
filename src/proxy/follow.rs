//! Where in a client's stream of requests a connection is.
//!
//! hyper takes a request with both a length and a transfer coding as chunked and says nothing. That is
//! safe for our units and unsafe for a proxy in front of us, so [`Follow`] follows the framing of what
//! hyper reads, and spoils the second of the two lines: hyper then answers 400 and closes, in the right
//! order even when requests are pipelined. A mistake in following can only miss or spoil a request of
//! the same client.

use super::chunks::{Chunks, Next};
use super::headers;

/// As much of a line as tells its name and a length; the rest is only counted.
const KEPT: usize = 64;

/// Where in the client's stream of requests we are.
pub(super) struct Follow {
    place: Place,
    line: [u8; KEPT],
    line_len: usize,
    length: Option<u64>,
    coded: bool,
    upgrade: bool,
    /// Heads begun so far.
    heads: u32,
}

#[derive(Clone, Copy)]
enum Place {
    /// Before the first byte of a head; empty lines may stand here.
    Between,
    Head,
    Skip(u64),
    Chunked(Chunks),
    Trailers,
    /// No longer HTTP/1.1, or hyper will refuse it by itself.
    Blind,
}

impl Default for Follow {
    fn default() -> Self {
        Self {
            place: Place::Between,
            line: [0; KEPT],
            line_len: 0,
            length: None,
            coded: false,
            upgrade: false,
            heads: 0,
        }
    }
}

impl Follow {
    pub(super) fn new(is_http1: bool) -> Self {
        Self {
            place: if is_http1 { Place::Between } else { Place::Blind },
            ..Self::default()
        }
    }

    /// Twice the number of heads begun; odd while one is being read.
    pub(super) fn heads(&self) -> u32 {
        self.heads * 2 + u32::from(matches!(self.place, Place::Head))
    }

    /// A request has begun whose body has not come as a whole.
    pub(super) fn owes_body(&self) -> bool {
        matches!(self.place, Place::Skip(_) | Place::Chunked(_) | Place::Trailers)
    }

    /// Follows what was read, and spoils in it what must not pass.
    pub(super) fn read(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match &mut self.place {
                Place::Blind => return,
                Place::Between if matches!(bytes[0], b'\r' | b'\n') => 1,
                Place::Between => {
                    self.begin_head();
                    0
                }
                Place::Head | Place::Trailers => self.read_line(bytes),
                Place::Skip(left) => {
                    let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    if *left == 0 {
                        self.place = Place::Between;
                    }
                    count
                }
                Place::Chunked(chunks) => match chunks.step(bytes) {
                    Ok((skip, Next::More)) => skip,
                    Ok((skip, Next::Data(left))) => {
                        let here = bytes.len() - skip;
                        let count = here.min(usize::try_from(left).unwrap_or(usize::MAX));
                        chunks.took(count as u64);
                        skip + count
                    }
                    Ok((skip, Next::Last)) => {
                        self.place = Place::Trailers;
                        skip
                    }
                    Err(_) => {
                        self.place = Place::Blind;
                        return;
                    }
                },
            };
            bytes = &mut bytes[taken..];
        }
    }

    fn begin_head(&mut self) {
        self.place = Place::Head;
        self.heads = self.heads.wrapping_add(1) & (u32::MAX >> 1);
        self.line_len = 0;
        self.length = None;
        self.coded = false;
        self.upgrade = false;
    }

    /// Takes bytes up to the end of a line or of all; spoils the line's end if it must not pass.
    fn read_line(&mut self, bytes: &mut [u8]) -> usize {
        let end = bytes.iter().position(|b| *b == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if self.line_len < KEPT {
            let count = part.len().min(KEPT - self.line_len);
            self.line[self.line_len..self.line_len + count].copy_from_slice(&part[..count]);
        }
        self.line_len = self.line_len.saturating_add(part.len());
        let Some(end) = end else {
            return bytes.len();
        };
        if !self.end_line() {
            bytes[end] = 0;
            self.place = Place::Blind;
        }
        self.line_len = 0;
        end + 1
    }

    /// Reads a whole line. False when the head may not pass.
    fn end_line(&mut self) -> bool {
        let kept = self.line;
        let line = &kept[..self.line_len.min(KEPT)];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.end_head();
            return true;
        }
        if matches!(self.place, Place::Trailers) {
            return true;
        }
        // Only the two names and `upgrade` matter; none of them begins with another letter.
        if !matches!(line[0], b'c' | b'C' | b't' | b'T' | b'u' | b'U') {
            return true;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return true;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = headers::length(value.trim_ascii()).or(self.length).or(Some(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // One coding, once: everything else is a trick or a thing of the past.
            if self.coded || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return false;
            }
            self.coded = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        !(self.coded && self.length.is_some())
    }

    fn end_head(&mut self) {
        self.place = match self.place {
            Place::Trailers => Place::Between,
            // What follows may be another protocol. If it is not, the connection is closed after the
            // answer (`forward`).
            _ if self.upgrade => Place::Blind,
            _ if self.coded => Place::Chunked(Chunks::default()),
            _ => match self.length {
                Some(length) if length > 0 => Place::Skip(length),
                _ => Place::Between,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes after a head, or `None` when it was spoiled; in pieces of every size.
    fn passes(raw: &str) -> bool {
        let verdicts: Vec<bool> = [1, 2, 3, 7, 1000]
            .into_iter()
            .map(|size| {
                let mut follow = Follow::default();
                let mut bytes = raw.as_bytes().to_vec();
                for piece in bytes.chunks_mut(size) {
                    follow.read(piece);
                }
                bytes == raw.as_bytes()
            })
            .collect();
        assert!(
            verdicts.iter().all(|v| *v == verdicts[0]),
            "pieces matter: {verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn a_length_and_a_coding_together_are_spoiled() {
        assert!(!passes(
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        assert!(!passes(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
        ));
        assert!(!passes(
            "POST / HTTP/1.1\ntransfer-encoding: chunked\ncontent-length: 3\n\n"
        ));
    }

    #[test]
    fn a_coding_other_than_chunked_is_spoiled() {
        for coding in [
            "gzip, chunked",
            "identity",
            "xchunked",
            "chunked, chunked",
            "\"chunked\"",
        ] {
            assert!(
                !passes(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n")),
                "{coding}"
            );
        }
        assert!(passes(
            "POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked \r\n\r\n0\r\n\r\n"
        ));
    }

    #[test]
    fn what_stands_in_a_body_is_left_alone() {
        let trick = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sized = format!(
            "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{trick}",
            trick.len()
        );
        assert!(passes(&sized.repeat(2)));
        let chunked = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x};a=b\r\n{trick}\r\n0\r\nContent-Length: 1\r\n\r\n",
            trick.len()
        );
        assert!(passes(&chunked.repeat(2)));
    }

    #[test]
    fn the_second_of_two_requests_is_spoiled_too() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let sized = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        let bad = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        for first in [good, sized, chunked] {
            assert!(passes(&format!("{first}{first}")), "{first}");
            assert!(!passes(&format!("{first}\r\n{bad}")), "{first}");
        }
    }
}
