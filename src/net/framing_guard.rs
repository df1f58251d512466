//! Tracks the framing of a client's stream of requests.
//!
//! hyper silently treats a request with both a Content-Length and a Transfer-Encoding as chunked. That is
//! safe for the units but unsafe behind another proxy. So [`FramingGuard`] follows the framing of what hyper
//! reads, and corrupts the second of the two header lines: hyper then responds 400 and closes, in the right
//! order even when requests are pipelined. A tracking error can only miss or reject a request of the same
//! client.

use crate::net::framing::{ChunkParser, ChunkStep, parse_content_length};

/// The part of a line that is stored, enough for its name and a length; the rest is only counted.
const LINE_PREFIX_LEN: usize = 64;

/// The position in a client's stream of requests.
pub(super) struct FramingGuard {
    state: FramingState,
    line: [u8; LINE_PREFIX_LEN],
    line_len: usize,
    content_length: Option<u64>,
    has_transfer_coding: bool,
    has_upgrade: bool,
    /// The number of heads begun.
    heads: u32,
}

#[derive(Clone, Copy)]
enum FramingState {
    /// Before the first byte of a head; empty lines are allowed.
    BetweenRequests,
    Head,
    SizedBody(u64),
    ChunkedBody(ChunkParser),
    Trailers,
    /// No longer HTTP/1.1, or hyper will reject it by itself.
    Untracked,
}

impl Default for FramingGuard {
    fn default() -> Self {
        Self {
            state: FramingState::BetweenRequests,
            line: [0; LINE_PREFIX_LEN],
            line_len: 0,
            content_length: None,
            has_transfer_coding: false,
            has_upgrade: false,
            heads: 0,
        }
    }
}

impl FramingGuard {
    pub(super) fn new(is_http1: bool) -> Self {
        Self {
            state: if is_http1 {
                FramingState::BetweenRequests
            } else {
                FramingState::Untracked
            },
            ..Self::default()
        }
    }

    /// Twice the number of heads begun; odd while one is being read.
    pub(super) fn head_counter(&self) -> u32 {
        self.heads * 2 + u32::from(matches!(self.state, FramingState::Head))
    }

    /// True if the body of the current request has not arrived completely.
    pub(super) fn is_in_body(&self) -> bool {
        matches!(
            self.state,
            FramingState::SizedBody(_) | FramingState::ChunkedBody(_) | FramingState::Trailers
        )
    }

    /// Follows the bytes that were read, and corrupts those that must not pass.
    pub(super) fn inspect_bytes(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                FramingState::Untracked => return,
                FramingState::BetweenRequests if matches!(bytes[0], b'\r' | b'\n') => 1,
                FramingState::BetweenRequests => {
                    self.begin_head();
                    0
                }
                FramingState::Head | FramingState::Trailers => self.read_line(bytes),
                FramingState::SizedBody(left) => {
                    let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = FramingState::BetweenRequests;
                    }
                    count
                }
                FramingState::ChunkedBody(chunks) => match chunks.skip_framing(bytes) {
                    Ok((skip, ChunkStep::Incomplete)) => skip,
                    Ok((skip, ChunkStep::Data(left))) => {
                        let here = bytes.len() - skip;
                        let count = here.min(usize::try_from(left).unwrap_or(usize::MAX));
                        chunks.consume_data(count as u64);
                        skip + count
                    }
                    Ok((skip, ChunkStep::LastChunk)) => {
                        self.state = FramingState::Trailers;
                        skip
                    }
                    Err(_) => {
                        self.state = FramingState::Untracked;
                        return;
                    }
                },
            };
            bytes = &mut bytes[taken..];
        }
    }

    fn begin_head(&mut self) {
        self.state = FramingState::Head;
        self.heads = self.heads.wrapping_add(1) & (u32::MAX >> 1);
        self.line_len = 0;
        self.content_length = None;
        self.has_transfer_coding = false;
        self.has_upgrade = false;
    }

    /// Consumes bytes up to the end of a line or of the input; corrupts the end of a line that must not pass.
    fn read_line(&mut self, bytes: &mut [u8]) -> usize {
        let end = bytes.iter().position(|b| *b == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if self.line_len < LINE_PREFIX_LEN {
            let count = part.len().min(LINE_PREFIX_LEN - self.line_len);
            self.line[self.line_len..self.line_len + count].copy_from_slice(&part[..count]);
        }
        self.line_len = self.line_len.saturating_add(part.len());
        let Some(end) = end else {
            return bytes.len();
        };
        if !self.end_line() {
            bytes[end] = 0;
            self.state = FramingState::Untracked;
        }
        self.line_len = 0;
        end + 1
    }

    /// Processes a complete line. Returns false if the head must be rejected.
    fn end_line(&mut self) -> bool {
        let kept = self.line;
        let line = &kept[..self.line_len.min(LINE_PREFIX_LEN)];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.end_head();
            return true;
        }
        if matches!(self.state, FramingState::Trailers) {
            return true;
        }
        // Only the two names and `upgrade` matter; they begin with these letters.
        if !matches!(line[0], b'c' | b'C' | b't' | b'T' | b'u' | b'U') {
            return true;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return true;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            self.content_length = parse_content_length(value.trim_ascii())
                .or(self.content_length)
                .or(Some(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // `chunked`, once: everything else is an attack or obsolete.
            if self.has_transfer_coding || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return false;
            }
            self.has_transfer_coding = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.has_upgrade = true;
        }
        !(self.has_transfer_coding && self.content_length.is_some())
    }

    fn end_head(&mut self) {
        self.state = match self.state {
            FramingState::Trailers => FramingState::BetweenRequests,
            // Another protocol may follow. If not, the connection is closed after the response (`forward`).
            _ if self.has_upgrade => FramingState::Untracked,
            _ if self.has_transfer_coding => FramingState::ChunkedBody(ChunkParser::default()),
            _ => match self.content_length {
                Some(length) if length > 0 => FramingState::SizedBody(length),
                _ => FramingState::BetweenRequests,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether a head passes, checked with the input in pieces of every size.
    fn passes(raw: &str) -> bool {
        let verdicts: Vec<bool> = [1, 2, 3, 7, 1000]
            .into_iter()
            .map(|size| {
                let mut follow = FramingGuard::default();
                let mut bytes = raw.as_bytes().to_vec();
                for piece in bytes.chunks_mut(size) {
                    follow.inspect_bytes(piece);
                }
                bytes == raw.as_bytes()
            })
            .collect();
        assert!(
            verdicts.iter().all(|v| *v == verdicts[0]),
            "the result depends on the pieces: {verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn content_length_with_transfer_encoding_is_rejected() {
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
    fn transfer_encoding_other_than_chunked_is_rejected() {
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
    fn header_like_bytes_in_a_body_are_ignored() {
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
    fn second_pipelined_request_is_rejected_too() {
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
