//! The messages between two processes that hand over: one JSON object a line over a Unix socket, with file descriptors
//! beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::commands::listeners::ListenerName;

/// The maximum length of a message, and of what is read ahead.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The maximum number of file descriptors beside one message.
const MAX_DESCRIPTORS: usize = 16;

/// The first message to the socket in the data folder.
#[derive(Serialize, Deserialize)]
pub(super) struct HandoverOpening {
    pub(super) token: String,
}

/// What is said to the running process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HandoverRequest {
    /// By `tancho upgrade`: start this program as the successor.
    Upgrade { program: PathBuf },
    /// By the successor: send the listeners.
    Take { version: String },
    /// By the successor: it serves.
    Ready,
    /// By the successor: it cannot serve, and ends.
    Failed { reason: String },
}

/// What the running process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HandoverReply {
    /// Nothing has changed.
    Refused { reason: String },
    /// To the successor: the listeners, whose descriptors are beside the message in this order.
    Listeners { names: Vec<ListenerName> },
    /// To the successor: the data folder is its own; the open file of the lock is beside the message.
    Owner,
    /// To `tancho upgrade`.
    Upgraded {
        from: u32,
        to: u32,
        version: String,
        drain_seconds: u64,
    },
}

/// A connection that carries messages.
#[derive(Debug)]
pub(super) struct MessageStream {
    stream: UnixStream,
    /// Read, and not yet returned.
    unread: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl MessageStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// Returns the user and the process at the other end.
    pub(super) fn peer(&self) -> io::Result<(u32, Option<i32>)> {
        let credentials = self.stream.peer_cred()?;
        Ok((credentials.uid(), credentials.pid()))
    }

    /// Sends a message with file descriptors.
    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        let mut beside = descriptors;
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || send_once(&self.stream, rest, beside))
                .await?;
            rest = &rest[sent..];
            beside = &[];
        }
        Ok(())
    }

    /// Receives the next message; `None` if the other end is gone. Errors: `InvalidData` for what is no message.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.unread.len() > MAX_MESSAGE_BYTES || self.descriptors.len() > MAX_DESCRIPTORS {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (bytes, mut descriptors) = self
                .stream
                .async_io(Interest::READABLE, || receive_once(&self.stream))
                .await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.unread.extend(bytes);
            self.descriptors.append(&mut descriptors);
        }
    }

    /// Returns the file descriptors that have come so far.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }
}

fn send_once(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(sent)
}

fn receive_once(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn pair() -> (MessageStream, MessageStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (MessageStream::new(one), MessageStream::new(other))
    }

    #[tokio::test]
    async fn messages_carry_open_files() {
        let (one, mut other) = pair();
        let path = std::env::temp_dir().join(format!("tancho-messages-{}", uuid::Uuid::new_v4()));
        let mut file = std::fs::File::create_new(&path).unwrap();
        file.write_all(b"hello").unwrap();
        let read = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        one.send(&HandoverRequest::Ready, &[]).await.unwrap();
        one.send(&HandoverReply::Owner, &[read.as_fd()]).await.unwrap();
        drop((one, read));
        assert!(matches!(
            other.receive().await.unwrap(),
            Some(HandoverRequest::Ready)
        ));
        assert!(matches!(
            other.receive().await.unwrap(),
            Some(HandoverReply::Owner)
        ));
        let mut received = std::fs::File::from(other.take_descriptors().pop().unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(other.receive::<HandoverReply>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error_and_never_stored_without_bound() {
        let (one, mut other) = pair();
        let mut raw = one.stream;
        raw.write_all(b"{\"ready\": 7}\nGET / HTTP/1.1\r\n")
            .await
            .unwrap();
        for _ in 0..2 {
            let error = other.receive::<HandoverRequest>().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let flood = tokio::spawn(async move {
            let _the_other_end_gives_up = raw.write_all(&vec![b'x'; 1 << 20]).await;
        });
        let error = other.receive::<HandoverRequest>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(other);
        flood.await.unwrap();
    }
}
