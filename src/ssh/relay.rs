//! The bytes between a channel and git.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::problem::Problem;
use crate::repositories::{Manner, Repository, Talk};
use crate::ssh::client::{Hearing, Piece, Speaking};

const CHUNK: usize = 64 * 1024;
/// Chunks on their way to the client.
const AHEAD: usize = 8;

/// Lets git speak with a client; git's exit status. A client that takes nothing for `ssh.idle_seconds`, or with
/// which nothing goes either way for so long, is given up.
pub(super) async fn run(
    core: &Core,
    call: &Call,
    repository: &Repository,
    manner: Manner<'_>,
    client: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) -> Result<u32, Problem> {
    let (talk, stdin) = Talk::start(core, call, repository, manner).await?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    // Apart, because a push goes on without its client.
    let hearing = core.tasks.spawn(talk.hear(sender));
    let pulse = Pulse::new(core.settings.ssh.idle);
    let (reader, writer) = client;
    tokio::select! {
        () = tell(receiver, writer, &pulse) => {}
        () = feed(reader, stdin, &pulse) => {}
        () = pulse.stopped() => {}
    }
    // With the pipe closed, git comes to its end soon.
    let status = hearing.await.map_err(Problem::internal)?;
    Ok(status.and_then(|status| u32::try_from(status).ok()).unwrap_or(1))
}

/// Lets the git of another replica speak with a client, who reads, hears and is told errors by the three. True:
/// to its end, or that of the connection there; false: the client was given up, as above.
pub(super) async fn pass(
    speaking: &Speaking,
    hearing: &mut Hearing,
    client: (
        impl AsyncRead + Unpin,
        impl AsyncWrite + Unpin,
        impl AsyncWrite + Unpin,
    ),
    quiet: Duration,
) -> bool {
    let pulse = Pulse::new(quiet);
    let (reader, mut out, mut err) = client;
    let telling = async {
        while let Some(piece) = hearing.next().await {
            let is_taken = match piece {
                Piece::Out(bytes) => say(&mut out, &bytes, &pulse).await,
                Piece::Err(bytes) => say(&mut err, &bytes, &pulse).await,
            };
            if !is_taken {
                return false;
            }
        }
        true
    };
    tokio::select! {
        is_complete = telling => is_complete,
        () = feed(reader, speaking.writer(), &pulse) => false,
        () = pulse.stopped() => false,
    }
}

/// When something last went either way.
struct Pulse {
    last: Mutex<Instant>,
    quiet: Duration,
}

impl Pulse {
    fn new(quiet: Duration) -> Self {
        Self {
            last: Mutex::new(Instant::now()),
            quiet,
        }
    }

    fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn stopped(&self) {
        loop {
            let end = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + self.quiet;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Brings what the client says to git, and its end. What git no longer reads is thrown away, so that the
/// client comes to read why. Never ends by itself: git does.
async fn feed(mut reader: impl AsyncRead + Unpin, stdin: impl AsyncWrite + Unpin, pulse: &Pulse) {
    let (mut chunk, mut stdin) = (vec![0; CHUNK], Some(stdin));
    while let Ok(read @ 1..) = reader.read(&mut chunk).await {
        pulse.beat();
        if let Some(pipe) = &mut stdin
            && pipe.write_all(&chunk[..read]).await.is_err()
        {
            stdin = None;
        }
    }
    if let Some(mut pipe) = stdin {
        // A git that has gone needs no end.
        let _ = pipe.shutdown().await;
    }
    std::future::pending::<()>().await;
}

/// Brings what git says to the client, until git has said all or the client is gone.
async fn tell(mut receiver: mpsc::Receiver<Bytes>, mut writer: impl AsyncWrite + Unpin, pulse: &Pulse) {
    while let Some(chunk) = receiver.recv().await {
        if !say(&mut writer, &chunk, pulse).await {
            return;
        }
    }
}

/// Brings one chunk to the client. False: they are gone, or take nothing.
async fn say(writer: &mut (impl AsyncWrite + Unpin), chunk: &[u8], pulse: &Pulse) -> bool {
    pulse.beat();
    let said = tokio::time::timeout(pulse.quiet, writer.write_all(chunk)).await;
    pulse.beat();
    matches!(said, Ok(Ok(())))
}
