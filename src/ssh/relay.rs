//! Relays bytes between a channel and git.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::request_context::RequestContext;
use crate::repositories::{GitProtocol, GitSession, ProgressSink, Repository};
use crate::ssh::client::{ChannelOutput, ChannelReader, ChannelWriter};

const CHUNK: usize = 64 * 1024;
/// The time limit for writing a progress message.
const PROGRESS_WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Buffered chunks per client.
const OUTPUT_BUFFER: usize = 8;

/// Runs git for a client; returns its exit status. Gives up on a client that reads nothing for
/// `ssh.idle_seconds`, and on a connection without traffic in either direction for that time.
pub(super) async fn relay_local(
    core: &Core,
    call: &RequestContext,
    repository: &Repository,
    protocol: GitProtocol<'_>,
    client: (
        impl AsyncRead + Unpin,
        impl AsyncWrite + Unpin,
        impl AsyncWrite + Unpin + Send,
    ),
) -> Result<u32, Error> {
    let (reader, writer, errors) = client;
    let waiting = StderrProgress(tokio::sync::Mutex::new(errors));
    let (session, stdin) = GitSession::start_session(core, call, repository, protocol, &waiting).await?;
    let (sender, receiver) = mpsc::channel(OUTPUT_BUFFER);
    // A task of its own, because a push continues without its client.
    let output = core.tasks.spawn(session.stream_output(sender));
    let idle_timer = IdleTimer::new(core.settings.ssh.idle_timeout);
    tokio::select! {
        () = send_output(receiver, writer, &idle_timer) => {}
        () = feed_stdin(reader, stdin, &idle_timer) => {}
        () = idle_timer.wait_until_idle() => {}
    }
    // When its input is closed, git exits soon.
    let status = output.await.map_err(Error::internal)?;
    Ok(status.and_then(|status| u32::try_from(status).ok()).unwrap_or(1))
}

/// Sends progress messages to the client's standard error.
struct StderrProgress<W>(tokio::sync::Mutex<W>);

#[async_trait]
impl<W: AsyncWrite + Unpin + Send> ProgressSink for StderrProgress<W> {
    async fn send_progress(&self, line: &str) {
        let line = format!("{line}\n");
        let mut errors = self.0.lock().await;
        // Dropped if the client does not read.
        let _ = tokio::time::timeout(PROGRESS_WRITE_TIMEOUT, errors.write_all(line.as_bytes())).await;
    }
}

/// Relays a git process on another replica to the client, given by its standard input, output and error.
/// Returns true if the command or the connection to the replica has ended; false if the client is gone or was
/// given up, as in `relay_local`.
pub(super) async fn relay_remote(
    input: &ChannelWriter,
    output: &mut ChannelReader,
    client: (
        impl AsyncRead + Unpin,
        impl AsyncWrite + Unpin,
        impl AsyncWrite + Unpin,
    ),
    idle_limit: Duration,
) -> bool {
    let idle_timer = IdleTimer::new(idle_limit);
    let (reader, mut out, mut err) = client;
    let copying = async {
        while let Some(chunk) = output.next_output().await {
            let is_taken = match chunk {
                ChannelOutput::Stdout(bytes) => write_chunk(&mut out, &bytes, &idle_timer).await,
                ChannelOutput::Stderr(bytes) => write_chunk(&mut err, &bytes, &idle_timer).await,
            };
            if !is_taken {
                return false;
            }
        }
        true
    };
    tokio::select! {
        is_complete = copying => is_complete,
        () = feed_stdin(reader, input.stdin_writer(), &idle_timer) => false,
        () = idle_timer.wait_until_idle() => false,
    }
}

/// The time of the last traffic in either direction.
struct IdleTimer {
    last_activity: Mutex<Instant>,
    idle_limit: Duration,
}

impl IdleTimer {
    fn new(idle_limit: Duration) -> Self {
        Self {
            last_activity: Mutex::new(Instant::now()),
            idle_limit,
        }
    }

    fn record_activity(&self) {
        *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn wait_until_idle(&self) {
        loop {
            let end = *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner) + self.idle_limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Forwards the client's input and its end to git. What git no longer reads is discarded, so that the client
/// reaches git's error message. Never completes: the end of git ends the relay.
async fn feed_stdin(
    mut reader: impl AsyncRead + Unpin,
    stdin: impl AsyncWrite + Unpin,
    idle_timer: &IdleTimer,
) {
    let (mut chunk, mut stdin) = (vec![0; CHUNK], Some(stdin));
    while let Ok(read @ 1..) = reader.read(&mut chunk).await {
        idle_timer.record_activity();
        if let Some(pipe) = &mut stdin
            && pipe.write_all(&chunk[..read]).await.is_err()
        {
            stdin = None;
        }
    }
    if let Some(mut pipe) = stdin {
        // Git may have exited.
        let _ = pipe.shutdown().await;
    }
    std::future::pending::<()>().await;
}

/// Forwards git's output to the client, until git has ended or the client is gone.
async fn send_output(
    mut receiver: mpsc::Receiver<Bytes>,
    mut writer: impl AsyncWrite + Unpin,
    idle_timer: &IdleTimer,
) {
    while let Some(chunk) = receiver.recv().await {
        if !write_chunk(&mut writer, &chunk, idle_timer).await {
            return;
        }
    }
}

/// Writes one chunk to the client. Returns false if the client is gone or does not read.
async fn write_chunk(writer: &mut (impl AsyncWrite + Unpin), chunk: &[u8], idle_timer: &IdleTimer) -> bool {
    idle_timer.record_activity();
    let written = tokio::time::timeout(idle_timer.idle_limit, writer.write_all(chunk)).await;
    idle_timer.record_activity();
    matches!(written, Ok(Ok(())))
}
