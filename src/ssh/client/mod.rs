//! The other side: logging in to a server, and one command there.
//!
//! It goes in steps, so that the caller decides in between. [`meet`] greets a server, which shows its host key
//! and proves that it has it; nothing has been told to it until then. If the caller knows that key,
//! [`Met::log_in`] follows, then [`Inside::run`]. Each step has the time that the caller gives it; how long a
//! command may run, and how long it may be silent, is the caller's to say. At most one window of what a server
//! sends is kept: who does not listen holds the server up. Whatever is dropped on the way ends the connection.

mod leash;
mod pair;
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

pub(super) use self::leash::Leash;
pub use self::pair::{KeyPair, PublicKey};

/// How often a silent server is asked whether it is there.
const ALIVE: Duration = Duration::from_secs(20);
/// So many times; then it is not. A command that reads slowly may hold up the answer for a while.
const MOST_SILENT: usize = 6;
/// For a server to take what is sent.
const PATIENCE: Duration = Duration::from_secs(300);
/// Messages of a server that wait to be heard.
const AHEAD: usize = 16;
/// Bytes that a server may send before it is told that they have been heard.
const WINDOW: u32 = 1 << 20;
/// Standard error, among the kinds of data of a channel.
const STDERR: u32 = 1;

/// Ways to agree on a key; all servers of the last ten years have one of them.
const EXCHANGES: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// Kinds of host keys; RSA with SHA-1 is none of them, and neither are certificates.
const KEYS: &[Algorithm] = &[
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

/// Why a server is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("it cannot be reached: {0}")]
    Socket(#[from] std::io::Error),
    #[error("it took too long to {0}")]
    Late(&'static str),
    #[error("it does not speak SSH as we do: {0}")]
    Protocol(#[from] russh::Error),
    #[error("its host key is another one, {0}")]
    OtherKey(String),
    #[error("it does not take our key")]
    Denied,
    #[error("it does not run the command")]
    Refused,
}

/// Does one step in the time for it.
async fn within<T, E: Into<ClientError>>(
    time: Duration,
    what: &'static str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, ClientError> {
    match timeout(time, step).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(ClientError::Late(what)),
    }
}

/// Opens a connection to `host:port`, for who has no way of their own to do that.
pub async fn reach(address: &str, time: Duration) -> Result<TcpStream, ClientError> {
    within(time, "connect", TcpStream::connect(address)).await
}

/// A server that has proved to have its host key.
pub struct Met {
    connection: Connection,
    key: PublicKey,
}

/// A server that has let us in.
pub struct Inside(Connection);

struct Connection {
    handle: Handle<Ears>,
    /// For each step.
    time: Duration,
    _leash: Leash,
}

/// What is heard of the server itself: its host key, once.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Option<PublicKey>>>);

/// What is not here is refused, as far as a server may ask for it: no banner is read, and what it sends of
/// channels that nobody has opened ends the connection.
impl Handler for Ears {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(PublicKey::new(key));
        Ok(true)
    }
}

fn config() -> Config {
    Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-tancho_",
            env!("CARGO_PKG_VERSION")
        ))),
        preferred: Preferred {
            kex: Cow::Borrowed(EXCHANGES),
            key: Cow::Borrowed(KEYS),
            ..Preferred::DEFAULT
        },
        window_size: WINDOW,
        channel_buffer_size: AHEAD,
        inactivity_timeout: Some(PATIENCE),
        keepalive_interval: Some(ALIVE),
        keepalive_max: MOST_SILENT,
        ..Config::default()
    }
}

/// Greets the server at the other end; `time` is for each step from here on. Errors: it is none, or is slow.
pub async fn meet(stream: TcpStream, time: Duration) -> Result<Met, ClientError> {
    let (leash, stream) = Leash::take(stream)?;
    let ears = Ears::default();
    let greeting = client::connect_stream(Arc::new(config()), stream, ears.clone());
    let handle = within(time, "greet us", greeting).await?;
    let key = ears.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Met {
        connection: Connection {
            handle,
            time,
            _leash: leash,
        },
        key: key.ok_or(russh::Error::UnknownKey)?,
    })
}

impl Met {
    /// The host key of the server.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Goes on with a server that has exactly this host key. Errors: `OtherKey`.
    pub fn expect(self, key: &PublicKey) -> Result<Self, ClientError> {
        match self.key == *key {
            true => Ok(self),
            false => Err(ClientError::OtherKey(self.key.fingerprint())),
        }
    }

    /// Logs in by a key, once the host key is known to be the right one. Errors: also `Denied`.
    pub async fn log_in(self, user: &str, key: &KeyPair) -> Result<Inside, ClientError> {
        let mut connection = self.connection;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key.0.clone()), None);
        let asking = connection.handle.authenticate_publickey(user, key);
        match within(connection.time, "let us in", asking).await?.success() {
            true => Ok(Inside(connection)),
            false => Err(ClientError::Denied),
        }
    }
}

impl Inside {
    /// Runs a command. Variables are only offered: most servers take few. Errors: also `Refused`.
    pub async fn run(
        self,
        variables: &[(&str, &str)],
        command: &[u8],
    ) -> Result<(Speaking, Hearing), ClientError> {
        let connection = self.0;
        let opening = open(&connection.handle, variables, command);
        let channel = within(connection.time, "run the command", opening).await?;
        let (read, write) = channel.split();
        let hearing = Hearing {
            read,
            status: None,
            connection,
        };
        Ok((Speaking(write), hearing))
    }
}

/// The standard input of a command at work in a server.
pub struct Speaking(ChannelWriteHalf<Msg>);

impl Speaking {
    /// Where to write; `shutdown` is the end of the input.
    pub fn writer(&self) -> impl AsyncWrite + Unpin + Send {
        self.0.make_writer()
    }
}

async fn open(
    handle: &Handle<Ears>,
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
            Some(ChannelMsg::Failure | ChannelMsg::Close) => return Err(ClientError::Refused),
            Some(_) => {}
            None => return Err(russh::Error::Disconnect.into()),
        }
    }
}

/// A command at work in a server. The connection ends with it.
pub struct Hearing {
    read: ChannelReadHalf,
    status: Option<u32>,
    connection: Connection,
}

/// A piece of what a command says.
#[derive(Debug)]
pub enum Piece {
    Out(Bytes),
    Err(Bytes),
}

impl Hearing {
    /// What the command says next; `None`: that was all, or the connection has ended.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            match self.read.wait().await? {
                ChannelMsg::Data { data } => return Some(Piece::Out(data)),
                ChannelMsg::ExtendedData { data, ext: STDERR } => return Some(Piece::Err(data)),
                ChannelMsg::ExitStatus { exit_status } => self.status = Some(exit_status),
                ChannelMsg::Close => return None,
                _ => {}
            }
        }
    }

    /// How the command has ended, after its last piece; `None`: nobody has said, for the connection broke, or a
    /// signal ended it.
    pub fn status(&self) -> Option<u32> {
        self.status
    }

    /// Says goodbye, and waits for the end of the connection.
    pub async fn leave(self) {
        let Connection { handle, time, _leash } = self.connection;
        // A server that does not hear it sees the connection end.
        let _ = timeout(time, async {
            handle.disconnect(Disconnect::ByApplication, "", "").await?;
            handle.await
        })
        .await;
    }
}
