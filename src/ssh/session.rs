//! One connection: who has come, and what they want run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session as Talk, VerifiedPublicKey,
};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, MethodKind, MethodSet, Preferred, Pty, SshId,
    kex,
};
use tokio::sync::watch;
use tracing::Instrument;

use crate::config::SshSettings;
use crate::core::Core;
use crate::kernel::call::{Call, TokenKind};
use crate::kernel::problem::{Kind, Problem};
use crate::ssh::command::{self, ONLY_GIT};
use crate::ssh::{HostKey, relay};
use crate::users;

/// Keys that one connection may try.
const MOST_TRIES: usize = 10;
/// Channels in one connection, at once.
const MOST_CHANNELS: usize = 10;
/// Before a key that is not known is refused: nobody learns anything by how long it took.
const REFUSAL: Duration = Duration::from_millis(100);
/// How often a silent client is asked whether it is there; after three times it is not.
const ALIVE: Duration = Duration::from_secs(30);
/// For the last words to a client.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Standard error, among the kinds of data of a channel.
const STDERR: u32 = 1;

/// Ways to agree on a key that are quick for the server; all clients of the last ten years have one of them.
const EXCHANGES: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// Kinds of keys of users; RSA with SHA-1 is none of them.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::SkEd25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha256),
    },
];

/// How the protocol is spoken.
pub(super) fn config(settings: &SshSettings, key: HostKey) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-tancho_",
            env!("CARGO_PKG_VERSION")
        ))),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REFUSAL,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key.0],
        preferred: Preferred {
            kex: Cow::Borrowed(EXCHANGES),
            key: Cow::Borrowed(KEYS),
            ..Preferred::DEFAULT
        },
        max_auth_attempts: MOST_TRIES,
        // Of a client that does not take what is sent; `serve` looks after those that say nothing.
        inactivity_timeout: Some(settings.idle),
        keepalive_interval: Some(ALIVE.min(settings.idle / 2)),
        nodelay: true,
        ..Config::default()
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Protocol(#[from] russh::Error),
    #[error(transparent)]
    Socket(#[from] std::io::Error),
    #[error("{}", .0.chain())]
    Ours(Problem),
}

/// What a connection's driver has to know of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Status {
    pub(super) is_inside: bool,
    pub(super) commands: usize,
}

/// See the module.
pub(super) struct Session {
    core: Core,
    peer: IpAddr,
    status: Arc<watch::Sender<Status>>,
    /// The fingerprint of the key by which the client has logged in.
    key: Option<Arc<str>>,
    /// Channels in which nothing runs yet.
    fresh: HashMap<ChannelId, Fresh>,
}

struct Fresh {
    channel: Channel<Msg>,
    /// The version of git's protocol that the client asks for.
    protocol: Option<String>,
}

/// What a client has asked for.
enum Wish {
    Exec(Vec<u8>),
    /// A shell, a subsystem such as sftp.
    Other,
}

impl Session {
    pub(super) fn new(core: Core, peer: IpAddr, status: watch::Sender<Status>) -> Self {
        Self {
            core,
            peer: peer.to_canonical(),
            status: Arc::new(status),
            key: None,
            fresh: HashMap::new(),
        }
    }

    async fn look_up(&self, key: &PublicKey, algorithm: &Algorithm) -> Result<Option<Arc<str>>, Fault> {
        if !KEYS.contains(algorithm) {
            return Ok(None);
        }
        let fingerprint: Arc<str> = Arc::from(key.fingerprint(HashAlg::Sha256).to_string());
        match users::admit_key(&self.core, &fingerprint).await {
            Ok(found) => Ok(found.map(|_| fingerprint)),
            Err(problem) => {
                tracing::warn!(problem = %problem.chain(), "an SSH key cannot be looked up");
                Err(Fault::Ours(problem))
            }
        }
    }

    /// Runs what was asked for in a channel that has run nothing yet.
    fn run(&mut self, id: ChannelId, wish: Wish, talk: &mut Talk) -> Result<(), Fault> {
        let (Some(fresh), Some(key)) = (self.fresh.remove(&id), self.key.clone()) else {
            return Ok(talk.channel_failure(id)?);
        };
        talk.channel_success(id)?;
        let busy = Busy::new(&self.status);
        let (core, peer) = (self.core.clone(), self.peer);
        let request_id: Arc<str> = Arc::from(uuid::Uuid::new_v4().simple().to_string());
        let span = tracing::info_span!("ssh", id = %request_id);
        let carried = async move {
            let (mut read, write) = fresh.channel.split();
            let request = match &wish {
                Wish::Exec(command) => command::parse(command),
                Wish::Other => None,
            };
            let status = match request {
                None => Err(Problem::invalid(ONLY_GIT)),
                Some(request) => match enter(&core, &key, peer, request_id).await {
                    Err(problem) => Err(problem),
                    Ok(call) => {
                        let client = (read.make_reader(), write.make_writer());
                        relay::run(&core, &call, &request, fresh.protocol.as_deref(), client).await
                    }
                },
            };
            // Who does not read the last words is not waited for.
            let _ = tokio::time::timeout(LAST_WORDS, close(&write, status)).await;
            drop(busy);
        };
        self.core.tasks.spawn(carried.instrument(span));
        Ok(())
    }
}

/// Who a key stands for now.
async fn enter(core: &Core, key: &str, peer: IpAddr, request_id: Arc<str>) -> Result<Call, Problem> {
    let (actor, grants) = users::admit_key(core, key)
        .await?
        .ok_or_else(|| Problem::unauthenticated("This key has been removed meanwhile."))?;
    Ok(Call {
        actor,
        grants,
        token_kind: TokenKind::SshKey,
        token_digest: None,
        request_id,
        source_ip: Arc::from(peer.to_string()),
    })
}

/// Says how a command has ended, and that this was all.
async fn close(write: &ChannelWriteHalf<Msg>, ended: Result<u32, Problem>) -> Result<(), russh::Error> {
    let status = match ended {
        Ok(status) => status,
        Err(problem) => {
            match problem.kind() {
                Kind::Internal => tracing::error!(cause = %problem.chain(), "an SSH command failed"),
                _ => tracing::debug!(cause = %problem.chain(), "an SSH command is refused"),
            }
            let words = format!("ERROR: {}\n", problem.words());
            write.extended_data_bytes(STDERR, words.into_bytes()).await?;
            1
        }
    };
    write.exit_status(status).await?;
    write.eof().await?;
    write.close().await
}

/// A command under way, until it is dropped.
struct Busy(Arc<watch::Sender<Status>>);

impl Busy {
    fn new(status: &Arc<watch::Sender<Status>>) -> Self {
        status.send_modify(|status| status.commands += 1);
        Self(Arc::clone(status))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|status| status.commands -= 1);
    }
}

/// What is not here is refused: `russh` does so by itself for passwords, certificates, forwarding of all
/// kinds and agents.
impl Handler for Session {
    type Error = Fault;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Fault> {
        match self.look_up(offer.public_key, offer.algorithm).await? {
            Some(_) => Ok(Auth::Accept),
            None => Ok(Auth::reject()),
        }
    }

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Fault> {
        self.key = self.look_up(key.public_key, key.algorithm).await?;
        match self.key {
            Some(_) => Ok(Auth::Accept),
            None => Ok(Auth::reject()),
        }
    }

    async fn auth_succeeded(&mut self, _talk: &mut Talk) -> Result<(), Fault> {
        self.status.send_modify(|status| status.is_inside = true);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _talk: &mut Talk,
    ) -> Result<(), Fault> {
        let open = self.fresh.len() + self.status.borrow().commands;
        if open >= MOST_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let fresh = Fresh {
            channel,
            protocol: None,
        };
        self.fresh.insert(fresh.channel.id(), fresh);
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _talk: &mut Talk) -> Result<(), Fault> {
        self.fresh.remove(&channel);
        Ok(())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        talk: &mut Talk,
    ) -> Result<(), Fault> {
        match self.fresh.get_mut(&channel) {
            Some(fresh) if name == "GIT_PROTOCOL" => {
                fresh.protocol = Some(value.to_owned());
                Ok(talk.channel_success(channel)?)
            }
            _ => Ok(talk.channel_failure(channel)?),
        }
    }

    async fn exec_request(&mut self, channel: ChannelId, data: &[u8], talk: &mut Talk) -> Result<(), Fault> {
        self.run(channel, Wish::Exec(data.to_vec()), talk)
    }

    async fn shell_request(&mut self, channel: ChannelId, talk: &mut Talk) -> Result<(), Fault> {
        self.run(channel, Wish::Other, talk)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        talk: &mut Talk,
    ) -> Result<(), Fault> {
        self.run(channel, Wish::Other, talk)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        talk: &mut Talk,
    ) -> Result<(), Fault> {
        Ok(talk.channel_failure(channel)?)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        talk: &mut Talk,
    ) -> Result<(), Fault> {
        Ok(talk.channel_failure(channel)?)
    }
}
