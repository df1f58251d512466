//! The bytes between a channel and git.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::problem::Problem;
use crate::repositories::{self, Manner, Talk};
use crate::ssh::command::Request;

const CHUNK: usize = 64 * 1024;
/// Chunks on their way to the client.
const AHEAD: usize = 8;

/// Lets git speak with a client; git's exit status. A client that takes nothing for `ssh.idle_seconds`, or with
/// which nothing goes either way for so long, is given up. Errors: those of opening the repository.
pub(super) async fn run(
    core: &Core,
    call: &Call,
    request: &Request,
    protocol: Option<&str>,
    client: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) -> Result<u32, Problem> {
    let manner = Manner {
        service: request.service,
        stateless: false,
        protocol,
    };
    let repository = repositories::open(core, call, &request.repository, request.service).await?;
    let (talk, stdin) = Talk::start(core, call, &repository, manner).await?;
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
async fn feed(mut reader: impl AsyncRead + Unpin, stdin: ChildStdin, pulse: &Pulse) {
    let (mut chunk, mut stdin) = (vec![0; CHUNK], Some(stdin));
    while let Ok(read @ 1..) = reader.read(&mut chunk).await {
        pulse.beat();
        if let Some(pipe) = &mut stdin
            && pipe.write_all(&chunk[..read]).await.is_err()
        {
            stdin = None;
        }
    }
    drop(stdin);
    std::future::pending::<()>().await;
}

/// Brings what git says to the client, until git has said all or the client is gone.
async fn tell(mut receiver: mpsc::Receiver<Bytes>, mut writer: impl AsyncWrite + Unpin, pulse: &Pulse) {
    while let Some(chunk) = receiver.recv().await {
        pulse.beat();
        if !matches!(
            tokio::time::timeout(pulse.quiet, writer.write_all(&chunk)).await,
            Ok(Ok(()))
        ) {
            return;
        }
        pulse.beat();
    }
}
