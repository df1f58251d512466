//! An SSH client: logs in to a server and runs one command there.
//!
//! It works in steps, so that the caller decides in between. [`perform_handshake`] connects to a server,
//! which shows its host key and proves that it owns it; nothing secret has been sent until then. If the
//! caller trusts that key, [`HandshakenServer::log_in`] follows, then [`AuthenticatedServer::exec_command`].
//! Each step has the timeout that the caller sets; limits on the duration and the silence of a command are up
//! to the caller. At most one window of a server's data is buffered: a caller that does not read blocks the
//! server. Dropping any of the values ends the connection.

mod key_pair;
mod shutdown_on_drop;
#[cfg(test)]
pub(super) mod tests;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use russh::client::{Config, Handle, Handler, Msg};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{
    Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Preferred, SshId, client, kex,
};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use self::key_pair::{KeyPair, SshPublicKey};
pub(super) use self::shutdown_on_drop::ShutdownOnDrop;

/// How often an idle server is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// The server is disconnected after this many unanswered probes. A command that reads slowly may delay the
/// answer.
const MAX_UNANSWERED_KEEPALIVES: usize = 6;
/// How long a server may take to accept data.
const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(300);
/// Buffered messages per channel.
const CHANNEL_BUFFER: usize = 16;
/// How many bytes a server may send before they are acknowledged.
const WINDOW_BYTES: u32 = 1 << 20;
/// The data type code of standard error.
const EXTENDED_DATA_STDERR: u32 = 1;

/// Key exchange algorithms; all servers of the last ten years support one of them.
const KEX_ALGORITHMS: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// The types of host keys; RSA with SHA-1 and certificates are excluded.
const HOST_KEY_ALGORITHMS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha256),
    },
];

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect: {0}")]
    Socket(#[from] std::io::Error),
    #[error("timeout in {0}")]
    TimedOut(&'static str),
    #[error("SSH protocol error: {0}")]
    Protocol(#[from] russh::Error),
    #[error("host key mismatch: the server shows {0}")]
    HostKeyMismatch(String),
    #[error("the server rejected the key")]
    Denied,
    #[error("the server refused the command")]
    CommandRefused,
}

/// Runs one step within its timeout.
async fn with_timeout<T, E: Into<ClientError>>(
    time: Duration,
    what: &'static str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, ClientError> {
    match timeout(time, step).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(ClientError::TimedOut(what)),
    }
}

/// Connects to `host:port`, for callers that do not resolve the address themselves.
pub async fn connect_tcp(address: &str, time: Duration) -> Result<TcpStream, ClientError> {
    with_timeout(time, "the TCP connection", TcpStream::connect(address)).await
}

/// A server that has proved that it owns its host key.
pub struct HandshakenServer {
    connection: SshConnection,
    key: SshPublicKey,
}

/// A server that has accepted the login.
pub struct AuthenticatedServer(SshConnection);

struct SshConnection {
    handle: Handle<ClientHandler>,
    /// The timeout of each step.
    step_timeout: Duration,
    _shutdown_on_drop: ShutdownOnDrop,
}

/// Stores the host key that the server shows.
#[derive(Clone, Default)]
struct ClientHandler(Arc<Mutex<Option<SshPublicKey>>>);

/// Requests of the server that are not implemented here are refused: banners are ignored, and messages for
/// channels that are not open end the connection.
impl Handler for ClientHandler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(SshPublicKey::new(key));
        Ok(true)
    }
}

fn build_config() -> Config {
    Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-tancho_",
            env!("CARGO_PKG_VERSION")
        ))),
        preferred: Preferred {
            kex: Cow::Borrowed(KEX_ALGORITHMS),
            key: Cow::Borrowed(HOST_KEY_ALGORITHMS),
            ..Preferred::DEFAULT
        },
        window_size: WINDOW_BYTES,
        channel_buffer_size: CHANNEL_BUFFER,
        inactivity_timeout: Some(INACTIVITY_TIMEOUT),
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: MAX_UNANSWERED_KEEPALIVES,
        ..Config::default()
    }
}

/// Performs the handshake with a server; `time` is the timeout of each step from here on. Errors: it is not
/// an SSH server, or is too slow.
pub async fn perform_handshake(stream: TcpStream, time: Duration) -> Result<HandshakenServer, ClientError> {
    let (guard, stream) = ShutdownOnDrop::wrap_stream(stream)?;
    let handler = ClientHandler::default();
    let handshake = client::connect_stream(Arc::new(build_config()), stream, handler.clone());
    let handle = with_timeout(time, "the handshake", handshake).await?;
    let key = handler.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(HandshakenServer {
        connection: SshConnection {
            handle,
            step_timeout: time,
            _shutdown_on_drop: guard,
        },
        key: key.ok_or(russh::Error::UnknownKey)?,
    })
}

impl HandshakenServer {
    /// Returns the host key of the server.
    pub fn host_key(&self) -> &SshPublicKey {
        &self.key
    }

    /// Requires exactly this host key. Errors: `HostKeyMismatch`.
    pub fn require_host_key(self, key: &SshPublicKey) -> Result<Self, ClientError> {
        match self.key == *key {
            true => Ok(self),
            false => Err(ClientError::HostKeyMismatch(self.key.fingerprint())),
        }
    }

    /// Logs in with a key, once the host key is trusted. Errors: also `Denied`.
    pub async fn log_in(self, user: &str, key: &KeyPair) -> Result<AuthenticatedServer, ClientError> {
        let mut connection = self.connection;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key.0.clone()), None);
        let asking = connection.handle.authenticate_publickey(user, key);
        match with_timeout(connection.step_timeout, "the login", asking)
            .await?
            .success()
        {
            true => Ok(AuthenticatedServer(connection)),
            false => Err(ClientError::Denied),
        }
    }
}

impl AuthenticatedServer {
    /// Runs a command. Variables are best effort: most servers accept few. Errors: also `CommandRefused`.
    pub async fn exec_command(
        self,
        variables: &[(&str, &str)],
        command: &[u8],
    ) -> Result<(ChannelWriter, ChannelReader), ClientError> {
        let connection = self.0;
        let opening = open_exec_channel(&connection.handle, variables, command);
        let channel = with_timeout(connection.step_timeout, "the start of the command", opening).await?;
        let (read, write) = channel.split();
        let reader = ChannelReader {
            read,
            status: None,
            connection,
        };
        Ok((ChannelWriter(write), reader))
    }
}

/// The standard input of a running command.
pub struct ChannelWriter(ChannelWriteHalf<Msg>);

impl ChannelWriter {
    /// Returns a writer; `shutdown` ends the input.
    pub fn stdin_writer(&self) -> impl AsyncWrite + Unpin + Send {
        self.0.make_writer()
    }
}

async fn open_exec_channel(
    handle: &Handle<ClientHandler>,
    variables: &[(&str, &str)],
    command: &[u8],
) -> Result<Channel<Msg>, ClientError> {
    let mut channel = handle.channel_open_session().await?;
    for (name, value) in variables {
        channel.set_env(false, *name, *value).await?;
    }
    channel.exec(true, command).await?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(channel),
            Some(ChannelMsg::Failure | ChannelMsg::Close) => return Err(ClientError::CommandRefused),
            Some(_) => {}
            None => return Err(russh::Error::Disconnect.into()),
        }
    }
}

/// The output of a running command. Dropping it ends the connection.
pub struct ChannelReader {
    read: ChannelReadHalf,
    status: Option<u32>,
    connection: SshConnection,
}

/// A chunk of a command's output.
#[derive(Debug)]
pub enum ChannelOutput {
    Stdout(Bytes),
    Stderr(Bytes),
}

impl ChannelReader {
    /// Returns the next output; `None`: the command or the connection has ended.
    pub async fn next_output(&mut self) -> Option<ChannelOutput> {
        loop {
            match self.read.wait().await? {
                ChannelMsg::Data { data } => return Some(ChannelOutput::Stdout(data)),
                ChannelMsg::ExtendedData {
                    data,
                    ext: EXTENDED_DATA_STDERR,
                } => return Some(ChannelOutput::Stderr(data)),
                ChannelMsg::ExitStatus { exit_status } => self.status = Some(exit_status),
                ChannelMsg::Close => return None,
                _ => {}
            }
        }
    }

    /// Returns the exit status, once there is no more output; `None`: the connection was lost, or a signal
    /// killed the command.
    pub fn exit_status(&self) -> Option<u32> {
        self.status
    }

    /// Disconnects and waits for the end of the connection.
    pub async fn close_connection(self) {
        let SshConnection {
            handle,
            step_timeout: time,
            _shutdown_on_drop: _guard,
        } = self.connection;
        // If the message is lost, the server sees the connection end.
        let _ = timeout(time, async {
            handle.disconnect(Disconnect::ByApplication, "", "").await?;
            handle.await
        })
        .await;
    }
}
