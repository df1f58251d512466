//! Recordings: one call of the real client each, as `tests/recorded/*.jsonl` store them, and the raw
//! connection over which their requests are sent again.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The placeholder of a boundary; real ones have the same length.
const BOUNDARY: &str = "5ca1ab1e0ddba11c0ffee15badc0de5ca1ab1e0ddba11c0ffee15badc0de";
const PATIENCE: Duration = Duration::from_secs(60);
/// A prime, so that no chunk ends where a part does.
const CHUNK: usize = 97;

#[derive(Debug, Deserialize)]
pub(super) struct ClientRecord {
    pub(super) name: String,
    pub(super) argv: Vec<String>,
    pub(super) exchanges: Vec<RecordedExchange>,
    #[serde(default)]
    pub(super) counterexample: bool,
    pub(super) reads: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct RecordedExchange {
    pub(super) request: RecordedRequest,
    answer: RecordedAnswer,
}

#[derive(Debug, Deserialize)]
pub(super) struct RecordedRequest {
    pub(super) method: String,
    pub(super) target: String,
    headers: Vec<(String, String)>,
    body: RecordedBody,
    body_note: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RecordedBody {
    Text(String),
    Bytes { base64: String },
}

#[derive(Debug, Deserialize)]
struct RecordedAnswer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// A response as it was received.
#[derive(Debug)]
pub(super) struct RawReply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl RawReply {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads all recordings of all files.
pub(super) fn all() -> Vec<ClientRecord> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut records = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            records.push(serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
        }
    }
    records
}

/// The values of the placeholders.
#[derive(Debug, Default)]
pub(super) struct Placeholders(pub(super) Vec<(String, String)>);

impl Placeholders {
    fn text(&self, text: &str) -> String {
        let text = text.replace("{{BOUNDARY}}", BOUNDARY);
        self.0
            .iter()
            .fold(text, |text, (from, to)| text.replace(from.as_str(), to))
    }

    /// Sends the next requests with the token of this response, as after a login.
    pub(super) fn take_token(&mut self, reply: &RawReply) {
        let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let token = answer["token"].as_str().unwrap().to_owned();
        self.0.retain(|(from, _)| from != "{{TOKEN}}");
        self.0.push(("{{TOKEN}}".to_owned(), token));
    }

    /// Replaces the boundary, which is the only placeholder in binary bodies.
    fn bytes(bytes: &[u8]) -> Vec<u8> {
        let (mut rest, mut out) = (bytes, Vec::new());
        while let Some(at) = rest.windows(12).position(|w| w == b"{{BOUNDARY}}") {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(BOUNDARY.as_bytes());
            rest = &rest[at + 12..];
        }
        out.extend_from_slice(rest);
        out
    }
}

impl RecordedExchange {
    /// Returns the recorded response.
    pub(super) fn recorded(&self) -> RawReply {
        RawReply {
            status: self.answer.status,
            headers: self.answer.headers.clone(),
            body: self.answer.body.clone().into_bytes(),
        }
    }
}

impl RecordedRequest {
    /// Returns the request as bytes.
    pub(super) fn bytes(&self, filling: &Placeholders) -> Vec<u8> {
        let body = match &self.body {
            RecordedBody::Text(text) => filling.text(text).into_bytes(),
            RecordedBody::Bytes { base64 } => Placeholders::bytes(&STANDARD.decode(base64).unwrap()),
        };
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, filling.text(&self.target)).into_bytes();
        for (name, value) in &self.headers {
            let value = match name.as_str() {
                "Content-Length" => body.len().to_string(),
                _ => filling.text(value),
            };
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if self.body_note.as_deref() == Some("chunked") {
            for chunk in body.chunks(CHUNK) {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
        } else {
            out.extend_from_slice(&body);
        }
        out
    }
}

/// Sends a request on a connection of its own and reads the response to its end.
///
/// With `follows`, the response ends with the first chunk: the stream never ends.
pub(super) async fn send(server: SocketAddr, request: &[u8], follows: bool) -> RawReply {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut got = Vec::new();
        loop {
            if let Some(reply) = parse(&got, follows) {
                return reply;
            }
            let read = stream.read_buf(&mut got).await.unwrap();
            assert!(
                read > 0,
                "the response was cut: {:?}",
                String::from_utf8_lossy(&got)
            );
        }
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("no response in time")
}

/// Returns the whole response, or `None` while a part of it is missing.
fn parse(got: &[u8], follows: bool) -> Option<RawReply> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(at) = head.parse(got).unwrap() else {
        return None;
    };
    let mut reply = RawReply {
        status: head.code.unwrap(),
        headers: head
            .headers
            .iter()
            .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
            .collect(),
        body: Vec::new(),
    };
    let rest = &got[at..];
    reply.body = if reply.header("transfer-encoding") == "chunked" {
        decode_chunked(rest, follows)?
    } else {
        let length = reply.header("content-length").parse().unwrap_or(0);
        rest.get(..length)?.to_vec()
    };
    Some(reply)
}

fn decode_chunked(mut rest: &[u8], follows: bool) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((at, size)) = httparse::parse_chunk_size(rest).unwrap() else {
            return None;
        };
        let size = usize::try_from(size).unwrap();
        body.extend_from_slice(rest.get(at..at + size)?);
        rest = rest.get(at + size + 2..)?;
        if size == 0 || follows {
            return Some(body);
        }
    }
}
