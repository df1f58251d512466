//! A terminal over a WebSocket (contract/modern 1.6): messages in both directions are the bytes of the terminal, as text.
//! A binary message from the client is its new size, `{"width": 80, "height": 24}`; the reference client sends none.
//!
//! The server sends a ping every 20 s, and ends a connection from which nothing came for 60 s.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::kernel::error::Error;
use crate::provisioners::{ExecSession, ResizeTerminal, TerminalSize};
use crate::web::output_stream::take_text;
use crate::web::websocket::close_message;

const PING_INTERVAL: Duration = Duration::from_secs(20);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 8 * 1024;

/// The size in a message of the client.
#[derive(Deserialize)]
struct ResizeMessage {
    width: u16,
    height: u16,
}

/// Connects a command with a client, until the command ends, the client disconnects, or `revoked` says why the command
/// must end. Errors: that reason, which the client is told.
pub async fn serve_terminal(
    socket: WebSocket,
    session: ExecSession,
    revoked: impl Future<Output = Error>,
) -> Result<(), Error> {
    let (mut sender, receiver) = socket.split();
    let (input, output, end) = (session.input, session.output, session.end);
    // Both: the end has to be waited for while the output is read, so that the command ends with its unit.
    let command = async { tokio::try_join!(send_output(&mut sender, output), async { Ok(end.await) }) };
    let result = tokio::select! {
        () = receive_input(receiver, input, session.resize) => Ok(()),
        _ended_or_client_gone = command => Ok(()),
        reason = revoked => Err(reason),
    };
    let closing = async {
        if let Err(reason) = &result {
            let text = format!("\r\nError: {}\r\n", reason.message());
            sender.send(Message::text(text)).await?;
        }
        sender.send(close_message()).await
    };
    // A client that does not read is not waited for.
    let _ = timeout(Duration::from_secs(1), closing).await;
    result
}

/// Passes on what the client sends, until it is gone.
async fn receive_input(
    mut receiver: SplitStream<WebSocket>,
    mut input: impl AsyncWrite + Unpin,
    resize: Option<ResizeTerminal>,
) {
    // Too late, the end, or an error: the client is gone.
    while let Ok(Some(Ok(message))) = timeout(READ_TIMEOUT, receiver.next()).await {
        match message {
            Message::Text(text) => {
                if input.write_all(text.as_bytes()).await.is_err() {
                    // The command reads no more; its output may not have ended.
                    std::future::pending::<()>().await;
                }
            }
            Message::Binary(bytes) => resize_terminal(&bytes, resize.as_ref()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return,
        }
    }
}

fn resize_terminal(message: &Bytes, resize: Option<&ResizeTerminal>) {
    let size = serde_json::from_slice::<ResizeMessage>(message);
    if let (Ok(size), Some(resize)) = (size, resize)
        && size.width > 0
        && size.height > 0
    {
        resize(TerminalSize {
            cols: size.width,
            rows: size.height,
        });
    }
}

/// Passes on what the command prints, to its end. Errors: the client is gone.
async fn send_output(
    sender: &mut SplitSink<WebSocket, Message>,
    mut output: impl AsyncRead + Unpin,
) -> Result<(), axum::Error> {
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut carry = Vec::new();
    loop {
        let message = tokio::select! {
            read = output.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => take_text(&mut carry, &buffer[..count]),
            },
            _ = pings.tick() => {
                sender.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        if !message.is_empty() {
            sender.send(Message::text(message)).await?;
        }
    }
}
