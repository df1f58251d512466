//! The output of a command as JSON lines (`application/x-json-stream`, contract/modern 1.6), as it is printed.
//!
//! Clients take a line `{…}` within a message for a progress report, and do not show it. So such a line is sent in
//! several messages, none of which looks like one.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::IntoResponse;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::web::answers::EventStream;
use crate::web::stream::{KEEP_ALIVE, StreamFormat, StreamLine, set_event_id};

/// Streams the output of a command: pieces, then `None` at its end, or its failure. Output that ends otherwise is
/// incomplete, and is reported as a failure. Dropping the response drops the receiver.
pub fn stream_output(event: &EventId, output: mpsc::Receiver<Result<Option<Bytes>, Error>>) -> EventStream {
    let state = Some((output, MessageEncoder::default()));
    let chunks = stream::unfold(state, |state| async move {
        let (mut output, mut encoder) = state?;
        let Ok(next) = tokio::time::timeout(KEEP_ALIVE, output.recv()).await else {
            return Some((Bytes::from_static(b"\n"), Some((output, encoder))));
        };
        let incomplete = || {
            Err(Error::unavailable(
                "The output is incomplete: the server was stopped.",
            ))
        };
        match next.unwrap_or_else(incomplete) {
            Ok(Some(piece)) => Some((encoder.encode_piece(&piece), Some((output, encoder)))),
            Ok(None) => Some((encoder.encode_end(None), None)),
            Err(error) => Some((encoder.encode_end(Some(&error)), None)),
        }
    });
    let mut response = Body::from_stream(chunks.map(Ok::<Bytes, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, StreamFormat::Json.content_type());
    set_event_id(headers, event);
    response.into()
}

/// Makes messages of bytes. Characters may be divided between pieces; what is no UTF-8 is replaced.
#[derive(Default)]
struct MessageEncoder {
    /// The beginning of a character.
    carry: Vec<u8>,
}

impl MessageEncoder {
    fn encode_piece(&mut self, piece: &[u8]) -> Bytes {
        let text = take_text(&mut self.carry, piece);
        encode_text(&text).into()
    }

    fn encode_end(&mut self, error: Option<&Error>) -> Bytes {
        let mut lines = encode_text(&String::from_utf8_lossy(&self.carry));
        self.carry.clear();
        if let Some(error) = error {
            lines.extend_from_slice(&StreamLine::error(error.message()).to_bytes());
        }
        lines.into()
    }
}

/// Returns the bytes as text, after those that were carried over, and carries over the beginning of a character at the
/// end.
pub(super) fn take_text(carry: &mut Vec<u8>, bytes: &[u8]) -> String {
    carry.extend_from_slice(bytes);
    let mut text = String::with_capacity(carry.len());
    let mut chunks = carry.utf8_chunks().peekable();
    let mut rest = Vec::new();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        match chunk.invalid() {
            [] => {}
            cut if chunks.peek().is_none() && is_char_start(cut) => rest = cut.to_vec(),
            _ => text.push(char::REPLACEMENT_CHARACTER),
        }
    }
    *carry = rest;
    text
}

/// True if more bytes may complete these to a character.
fn is_char_start(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Encodes a text as the lines of as many messages as it needs.
fn encode_text(text: &str) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut message = String::new();
    let mut flush = |message: &mut String| {
        if !message.is_empty() {
            lines.extend_from_slice(&StreamLine::message(message).to_bytes());
            message.clear();
        }
    };
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while looks_like_json(rest)
            && let Some(brace) = rest.find('{')
        {
            let (head, tail) = rest.split_at(brace + 1);
            message.push_str(head);
            flush(&mut message);
            rest = tail;
        }
        message.push_str(rest);
    }
    flush(&mut message);
    lines
}

fn looks_like_json(line: &str) -> bool {
    let line = line.trim();
    line.len() > 1 && line.starts_with('{') && line.ends_with('}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Returns the messages of lines.
    fn messages(lines: &[u8]) -> Vec<String> {
        let message = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["Message"].as_str().unwrap().to_owned()
        };
        std::str::from_utf8(lines).unwrap().lines().map(message).collect()
    }

    /// Returns what a client shows: lines of messages that look like JSON are lost.
    fn shown(messages: &[String]) -> String {
        let lines = messages.iter().flat_map(|message| message.split_inclusive('\n'));
        lines.filter(|line| !looks_like_json(line)).collect()
    }

    #[test]
    fn line_of_json_is_sent_in_several_messages() {
        for (text, expected) in [
            ("total 0\nfile\n", &["total 0\nfile\n"] as &[&str]),
            ("a\n{\"a\":1}\nb\n", &["a\n{", "\"a\":1}\nb\n"]),
            ("{}\n", &["{", "}\n"]),
            ("{{}}", &["{", "{", "}}"]),
            ("{ open\n", &["{ open\n"]),
            ("", &[]),
        ] {
            let sent = messages(&encode_text(text));
            assert_eq!(sent, expected, "{text:?}");
            assert_eq!(shown(&sent), text);
        }
    }

    #[test]
    fn character_divided_between_pieces_is_kept_and_invalid_bytes_are_replaced() {
        let mut encoder = MessageEncoder::default();
        let euro = "€".as_bytes();
        assert!(encoder.encode_piece(&euro[..2]).is_empty());
        assert_eq!(messages(&encoder.encode_piece(&euro[2..])), ["€"]);
        assert_eq!(messages(&encoder.encode_piece(b"a\xffb")), ["a\u{fffd}b"]);
        assert!(encoder.encode_piece(&euro[..1]).is_empty());
        assert_eq!(messages(&encoder.encode_end(None)), ["\u{fffd}"]);
    }

    #[test]
    fn failure_is_the_last_line() {
        let end = MessageEncoder::default().encode_end(Some(&Error::failed("exit status 1")));
        assert_eq!(&*end, b"{\"Error\":\"exit status 1\",\"Message\":\"\"}\n");
    }

    proptest! {
        #[test]
        fn client_shows_every_output_unchanged(text in "[{}a \n]{0,40}", size in 1_usize..10) {
            let mut encoder = MessageEncoder::default();
            let mut sent = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                sent.extend_from_slice(&encoder.encode_piece(piece));
            }
            prop_assert_eq!(shown(&messages(&sent)), text);
        }
    }
}
