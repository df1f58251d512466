//! The running process: waits for a successor, and hands over to it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

use crate::commands::handover::messages::{HandoverOpening, HandoverReply, HandoverRequest, MessageStream};
use crate::commands::handover::token;
use crate::commands::listeners::ListenerName;
use crate::datadir::DataDir;
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// For the first message of a connection.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// For one message to be received by the other end.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// After `accept` failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A successor that serves, and waits for the data folder.
pub(crate) struct ReadySuccessor {
    connection: MessageStream,
    pid: u32,
    version: String,
    /// `tancho upgrade`, which waits for the result.
    client: Option<MessageStream>,
}

/// See the module.
pub(crate) struct HandoverServer {
    socket: UnixListener,
    shared: Arc<HandoverState>,
}

struct HandoverState {
    token: Secret,
    listeners: Vec<(ListenerName, OwnedFd)>,
    /// How long a successor may take to be ready.
    ready_timeout: Duration,
    /// Held while a successor starts.
    busy: Arc<Mutex<()>>,
}

impl HandoverServer {
    /// Binds the socket in the data folder. The listeners are those that a successor gets.
    pub(crate) fn bind(
        dir: &DataDir,
        listeners: Vec<(ListenerName, OwnedFd)>,
        ready_timeout: Duration,
    ) -> Result<Self, Error> {
        // Before the socket: whoever can connect can also read it.
        let token = token::create_token(dir)?;
        let path = dir.handover_socket_path();
        let socket = bind_private(&path)
            .map_err(|error| Error::invalid(format!("{} cannot be listened on: {error}.", path.display())))?;
        Ok(Self {
            socket,
            shared: Arc::new(HandoverState {
                token,
                listeners,
                ready_timeout,
                busy: Arc::default(),
            }),
        })
    }

    /// Answers until a successor is ready.
    pub(crate) async fn wait_for_successor(self) -> ReadySuccessor {
        let (sender, mut ready) = mpsc::channel(1);
        loop {
            let stream = tokio::select! {
                Some(successor) = ready.recv() => return successor,
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (shared, sender) = (Arc::clone(&self.shared), sender.clone());
            tokio::spawn(async move {
                if let Some(successor) = shared.answer_connection(stream).await {
                    // The receiver lives as long as this process waits.
                    let _ = sender.send(successor).await;
                }
            });
        }
    }
}

/// Binds a socket that only this user can connect to; the user of the other end is checked too. A socket of that name is
/// of a process that has exited, since this one has the folder's lock.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = open_folder(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    let socket = UnixListener::bind(short_path(&folder, Path::new(name)))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Opens a folder for its files; it need not be readable.
pub(super) fn open_folder(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_PATH);
    options.open(path)
}

/// Returns a path of any file in an open folder that is short enough for a socket.
pub(super) fn short_path(folder: &File, name: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)
}

impl HandoverState {
    /// Answers one connection; returns the successor if that has made one ready.
    async fn answer_connection(&self, stream: UnixStream) -> Option<ReadySuccessor> {
        let mut connection = MessageStream::new(stream);
        let (user, pid) = connection.peer().ok()?;
        if user != 0 && user != nix::unistd::geteuid().as_raw() {
            let reason = "Only the user who runs Tancho, and root, may replace it.";
            refuse(&connection, reason).await;
            return None;
        }
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, connection.receive::<HandoverOpening>());
        let opening = first.await.ok()?.ok()??;
        if !token::is_same_token(&self.token, &Secret::new(opening.token)) {
            refuse(
                &connection,
                "The token is wrong; it is in the file handover.token of the data folder.",
            )
            .await;
            return None;
        }
        let next = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, connection.receive());
        let request = next.await.ok()?.ok()??;
        let Ok(busy) = Arc::clone(&self.busy).try_lock_owned() else {
            let reason = "Another upgrade is under way; wait until it has ended.";
            refuse(&connection, reason).await;
            return None;
        };
        match request {
            HandoverRequest::Upgrade { program } => self.upgrade(&program, connection, busy).await,
            HandoverRequest::Take { version } => {
                let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
                self.wait_until_ready(connection, pid, version, busy).await.ok()
            }
            HandoverRequest::Ready | HandoverRequest::Failed { .. } => None,
        }
    }

    /// Starts a program as the successor, for `tancho upgrade`.
    async fn upgrade(
        &self,
        program: &Path,
        client: MessageStream,
        busy: OwnedMutexGuard<()>,
    ) -> Option<ReadySuccessor> {
        tracing::info!(program = %program.display(), "starting a successor");
        match self.start_successor(program, busy).await {
            Ok(successor) => Some(ReadySuccessor {
                client: Some(client),
                ..successor
            }),
            Err(reason) => {
                tracing::warn!(reason, "the successor has failed; this process goes on");
                refuse(&client, &reason).await;
                None
            }
        }
    }

    async fn start_successor(
        &self,
        program: &Path,
        busy: OwnedMutexGuard<()>,
    ) -> Result<ReadySuccessor, String> {
        let cannot_start = |error: io::Error| format!("{} cannot be started: {error}.", program.display());
        let (own, given) = StdUnixStream::pair().map_err(cannot_start)?;
        own.set_nonblocking(true).map_err(cannot_start)?;
        let stream = UnixStream::from_std(own).map_err(cannot_start)?;
        let mut child = spawn_successor(program, given.into()).map_err(cannot_start)?;
        let pid = child.id().unwrap_or_default();
        let mut connection = MessageStream::new(stream);
        let ready = async {
            match connection.receive().await {
                Ok(Some(HandoverRequest::Take { version })) => {
                    self.wait_until_ready(connection, pid, version, busy).await
                }
                Ok(Some(HandoverRequest::Failed { reason })) => Err(reason),
                Ok(None) => Err(String::new()),
                Ok(Some(_)) | Err(_) => {
                    Err(format!("{} is no Tancho that can take over.", program.display()))
                }
            }
        };
        let ready = tokio::time::timeout(self.ready_timeout, ready).await;
        let reason = match ready {
            Ok(Ok(successor)) => return Ok(successor),
            Ok(Err(reason)) => reason,
            Err(_) => format!(
                "The new process was not ready within {} seconds (upgrade.ready_seconds).",
                self.ready_timeout.as_secs()
            ),
        };
        // It must not go on beside this process.
        let _it_may_have_exited = child.start_kill();
        let status = child.wait().await;
        Err(match (reason.is_empty(), status) {
            (false, _) => reason,
            (true, Ok(status)) => {
                format!("The new process ended before it was ready ({status}); see its log.")
            }
            (true, Err(_)) => "The new process ended before it was ready; see its log.".to_owned(),
        })
    }

    /// Sends the listeners, and waits until the successor serves with them. Errors: why it does not.
    async fn wait_until_ready(
        &self,
        mut connection: MessageStream,
        pid: u32,
        version: String,
        _busy: OwnedMutexGuard<()>,
    ) -> Result<ReadySuccessor, String> {
        let names = self.listeners.iter().map(|(name, _)| *name).collect();
        let descriptors: Vec<_> = self.listeners.iter().map(|(_, socket)| socket.as_fd()).collect();
        send_message(&connection, &HandoverReply::Listeners { names }, &descriptors).await;
        let answer = tokio::time::timeout(self.ready_timeout, connection.receive());
        match answer.await {
            Ok(Ok(Some(HandoverRequest::Ready))) => Ok(ReadySuccessor {
                connection,
                pid,
                version,
                client: None,
            }),
            Ok(Ok(Some(HandoverRequest::Failed { reason }))) => Err(reason),
            _ => Err(String::new()),
        }
    }
}

/// Starts the program with the arguments of this process, and the connection as its standard input.
fn spawn_successor(program: &Path, connection: OwnedFd) -> io::Result<Child> {
    let flag = OsString::from(super::successor::TAKE_OVER_OPTION);
    let arguments = std::env::args_os().skip(1).filter(|argument| *argument != flag);
    Command::new(program)
        .args(arguments)
        .arg(&flag)
        .stdin(Stdio::from(connection))
        // Ctrl-C in the terminal of this process is not meant for the next one.
        .process_group(0)
        .spawn()
}

impl ReadySuccessor {
    /// Passes the data folder, of which this process has ended all work.
    pub(crate) async fn pass_data_folder(self, dir: &DataDir, drain: Duration) {
        let lock = dir.release_lock_file();
        let descriptors: Vec<_> = lock.iter().map(|file| file.as_fd()).collect();
        send_message(&self.connection, &HandoverReply::Owner, &descriptors).await;
        tracing::info!(
            pid = self.pid,
            version = self.version,
            "handed over; waiting for open requests"
        );
        if let Some(client) = self.client {
            let done = HandoverReply::Upgraded {
                from: std::process::id(),
                to: self.pid,
                version: self.version,
                drain_seconds: drain.as_secs(),
            };
            send_message(&client, &done, &[]).await;
        }
    }
}

async fn refuse(connection: &MessageStream, reason: &str) {
    let reason = reason.to_owned();
    send_message(connection, &HandoverReply::Refused { reason }, &[]).await;
}

/// Sends a message; the other end may be gone, which is noticed elsewhere.
async fn send_message(connection: &MessageStream, message: &HandoverReply, descriptors: &[BorrowedFd<'_>]) {
    let sending = connection.send(message, descriptors);
    if !matches!(tokio::time::timeout(SEND_TIMEOUT, sending).await, Ok(Ok(()))) {
        tracing::debug!("a process that wanted to take over is gone");
    }
}
