//! The new process: takes the listeners of the running one, and later its data folder.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::commands::handover::messages::{HandoverOpening, HandoverReply, HandoverRequest, MessageStream};
use crate::commands::handover::predecessor::{open_folder, short_path};
use crate::commands::handover::token;
use crate::commands::listeners::GivenListeners;
use crate::datadir::DataDir;
use crate::kernel::error::Error;

/// The option with which a predecessor starts its successor.
pub(super) const TAKE_OVER_OPTION: &str = "--take-over";
/// For the listeners, which the predecessor has at hand.
const LISTENERS_TIMEOUT: Duration = Duration::from_secs(10);
/// For the predecessor to end its work; longer than it takes at most.
const OWNER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often, and for how long, the lock of a predecessor that has died is tried.
const LOCK_RETRY: Duration = Duration::from_millis(20);
const LOCK_RETRIES: u32 = 500;

/// The process that runs on the data folder.
pub(crate) struct RunningPredecessor(MessageStream);

impl RunningPredecessor {
    /// Returns the process that has started this one to take over: standard input is the connection to it.
    pub(crate) fn from_standard_input() -> Option<Self> {
        let input = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
        let stream = StdUnixStream::from(input);
        stream.peer_addr().ok()?;
        stream.set_nonblocking(true).ok()?;
        UnixStream::from_std(stream)
            .ok()
            .map(|stream| Self(MessageStream::new(stream)))
    }

    /// Connects to the process that runs on a data folder; `None` if there is none.
    pub(crate) async fn find(data_dir: &Path) -> Result<Option<Self>, Error> {
        Ok(connect_owner(data_dir).await?.map(Self))
    }

    /// Takes the listeners. Errors: `Conflict` with the reason of a refusal.
    pub(crate) async fn take_listeners(&mut self) -> Result<GivenListeners, Error> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.say(&HandoverRequest::Take { version }).await?;
        let answer = tokio::time::timeout(LISTENERS_TIMEOUT, self.0.receive());
        match answer.await.map_err(io::Error::from) {
            Ok(Ok(Some(HandoverReply::Listeners { names }))) => {
                let sockets = self.0.take_descriptors();
                if sockets.len() != names.len() {
                    return Err(Error::internal("the listeners came without their sockets"));
                }
                let mut given = GivenListeners::default();
                for (name, socket) in names.into_iter().zip(sockets) {
                    given.push(Some(name), socket)?;
                }
                Ok(given)
            }
            Ok(Ok(Some(HandoverReply::Refused { reason }))) => Err(Error::conflict(reason)),
            Ok(Ok(_)) => Err(lost_predecessor()),
            Ok(Err(error)) | Err(error) => Err(Error::internal(error)),
        }
    }

    /// Says that this process serves, and waits until the data folder is its own.
    pub(crate) async fn take_data_folder(mut self, dir: &DataDir) -> Result<(), Error> {
        self.say(&HandoverRequest::Ready).await?;
        let answer = tokio::time::timeout(OWNER_TIMEOUT, self.0.receive());
        if let Ok(Ok(Some(HandoverReply::Owner))) = answer.await
            && let Some(lock) = self.0.take_descriptors().pop()
        {
            return dir.adopt_lock_file(lock.into());
        }
        // The predecessor has died, and its lock ends with it.
        let mut tries = 0;
        loop {
            match dir.acquire_lock() {
                Err(_) if tries < LOCK_RETRIES => tries += 1,
                done => return done,
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    /// Says why this process cannot serve.
    pub(crate) async fn report_failure(&self, error: &Error) {
        let reason = error.report().to_string();
        // It may be gone, and this process ends anyway.
        let _ = self.say(&HandoverRequest::Failed { reason }).await;
    }

    async fn say(&self, message: &HandoverRequest) -> Result<(), Error> {
        let sending = self.0.send(message, &[]);
        match tokio::time::timeout(LISTENERS_TIMEOUT, sending).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(lost_predecessor()),
        }
    }
}

fn lost_predecessor() -> Error {
    Error::unavailable("The running Tancho has ended; start this one with `tancho`.")
}

/// Connects to the socket in a data folder; `None` if nobody listens there.
pub(super) async fn connect_owner(data_dir: &Path) -> Result<Option<MessageStream>, Error> {
    let dir = match DataDir::open_unlocked(data_dir) {
        Ok(dir) => dir,
        Err(_) if !data_dir.exists() => return Ok(None),
        Err(error) => return Err(error),
    };
    let path = dir.handover_socket_path();
    let name = path.file_name().unwrap_or_default();
    let folder = open_folder(dir.path()).map_err(Error::internal)?;
    match UnixStream::connect(short_path(&folder, Path::new(name))).await {
        Ok(stream) => {
            let connection = MessageStream::new(stream);
            let token = token::read_token(&dir)?.expose_secret().to_owned();
            // If that fails the process is gone, which the next message notices.
            let _ = connection.send(&HandoverOpening { token }, &[]).await;
            Ok(Some(connection))
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::invalid(format!(
            "{} cannot be connected to: {error}; run this as the user who runs Tancho.",
            path.display()
        ))),
    }
}
