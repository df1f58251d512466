//! Detects the HTTP version of a client.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until the HTTP version is known. No bytes: the client has closed the connection.
pub(crate) async fn detect_protocol(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Bytes, bool)> {
    let mut first = [0; HTTP2_PREFACE.len()];
    let mut len = 0;
    loop {
        let count = stream.read(&mut first[len..]).await?;
        len += count;
        let read = &first[..len];
        let is_http2 = len == HTTP2_PREFACE.len() && read == HTTP2_PREFACE;
        if count == 0 || is_http2 || !HTTP2_PREFACE.starts_with(read) {
            return Ok((Bytes::copy_from_slice(read), is_http2));
        }
    }
}
