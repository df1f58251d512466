//! One SSH connection: authentication, channels and requests.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use russh::keys::{Algorithm, HashAlg, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty};
use tokio::sync::watch;
use tracing::Instrument;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::fair_slots::{FairSlot, FairSlots};
use crate::kernel::ids::UserId;
use crate::kernel::request_context::Actor;
use crate::ssh::exec::{ChannelRequest, SshExecRequest, SshPeer};
use crate::ssh::forward::{self, ReplicaClient};
use crate::ssh::server_config::USER_KEY_ALGORITHMS;
use crate::users;

/// Slots for authenticated connections, per user.
pub(super) type UserSlots = FairSlots<UserId>;

/// The limit on channels per connection.
const MAX_CHANNELS: usize = 10;
/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Protocol(#[from] russh::Error),
    #[error(transparent)]
    Socket(#[from] std::io::Error),
    #[error("{}", .0.report())]
    Internal(Error),
}

/// The state of a connection, for `serve`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionStatus {
    pub(super) is_authenticated: bool,
    /// Running commands.
    pub(super) active_commands: usize,
    /// Whether any command has been run.
    pub(super) has_run_command: bool,
}

/// A connection; see the module.
pub(super) struct SshSession {
    core: Core,
    peer: IpAddr,
    status: Arc<watch::Sender<SessionStatus>>,
    replicas: Arc<ReplicaClient>,
    /// Set after authentication.
    identity: Option<SessionIdentity>,
    /// Slots for authenticated connections, per user.
    user_slots: UserSlots,
    /// The slot of this connection.
    user_slot: Option<FairSlot<UserId>>,
    /// Open channels without a command yet.
    pending_channels: HashMap<ChannelId, PendingChannel>,
}

#[derive(Clone)]
enum SessionIdentity {
    /// The owner of the key with this fingerprint.
    User(Arc<str>, UserId),
    /// Another replica, which names the user in each channel.
    Replica,
}

struct PendingChannel {
    channel: Channel<Msg>,
    /// The version of git's protocol that the client requests.
    protocol_version: Option<String>,
    /// The user's key and address, as named by a replica.
    forwarded_user: (Option<Arc<str>>, Option<IpAddr>),
}

impl PendingChannel {
    /// Returns the client of a channel. `None`: a replica has not named the user.
    fn resolve_peer(&self, identity: &SessionIdentity, peer: IpAddr) -> Option<SshPeer> {
        let (key, address, was_passed) = match (identity, &self.forwarded_user) {
            (SessionIdentity::User(key, _), _) => (key, peer, false),
            (SessionIdentity::Replica, (Some(key), Some(address))) => (key, *address, true),
            (SessionIdentity::Replica, _) => return None,
        };
        Some(SshPeer {
            key_fingerprint: Arc::clone(key),
            address: address.to_canonical(),
            was_forwarded: was_passed,
        })
    }

    /// Sets a variable; unknown ones are refused. Only replicas may name the user.
    fn set_variable(&mut self, identity: Option<&SessionIdentity>, name: &str, value: &str) -> bool {
        match (name, identity) {
            ("GIT_PROTOCOL", _) => self.protocol_version = Some(value.to_owned()),
            (forward::KEY_VARIABLE, Some(SessionIdentity::Replica)) => {
                self.forwarded_user.0 = Some(Arc::from(value))
            }
            (forward::ADDRESS_VARIABLE, Some(SessionIdentity::Replica)) => {
                self.forwarded_user.1 = value.parse().ok()
            }
            _ => return false,
        }
        true
    }
}

impl SshSession {
    pub(super) fn new(
        core: Core,
        peer: IpAddr,
        status: watch::Sender<SessionStatus>,
        replicas: Arc<ReplicaClient>,
        user_slots: UserSlots,
    ) -> Self {
        Self {
            core,
            peer: peer.to_canonical(),
            status: Arc::new(status),
            replicas,
            identity: None,
            user_slots,
            user_slot: None,
            pending_channels: HashMap::new(),
        }
    }

    async fn identify_key(
        &self,
        user: &str,
        key: &PublicKey,
        algorithm: &Algorithm,
    ) -> Result<Option<SessionIdentity>, SessionError> {
        // Checked before users, so that no user can claim this key.
        if user == forward::REPLICA_USER && self.replicas.is_replica_key(key) {
            return Ok(Some(SessionIdentity::Replica));
        }
        if !USER_KEY_ALGORITHMS.contains(algorithm) {
            return Ok(None);
        }
        let fingerprint: Arc<str> = Arc::from(key.fingerprint(HashAlg::Sha256).to_string());
        match users::authenticate_key(&self.core, &fingerprint).await {
            Ok(Some((Actor::User { id, .. }, _))) => Ok(Some(SessionIdentity::User(fingerprint, id))),
            // Only users have keys.
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::warn!(error = %error.report(), "cannot look up an SSH key");
                Err(SessionError::Internal(error))
            }
        }
    }

    /// Starts the request in a channel that has run nothing yet.
    fn start_exec(
        &mut self,
        id: ChannelId,
        request: ChannelRequest,
        session: &mut Session,
    ) -> Result<(), SessionError> {
        let fresh = self.pending_channels.remove(&id);
        let peer = match (&fresh, &self.identity) {
            (Some(fresh), Some(identity)) => fresh.resolve_peer(identity, self.peer),
            _ => None,
        };
        let (Some(fresh), Some(peer)) = (fresh, peer) else {
            return Ok(session.channel_failure(id)?);
        };
        session.channel_success(id)?;
        let active = ActiveCommand::new(&self.status);
        let request_id: Arc<str> = Arc::from(uuid::Uuid::new_v4().simple().to_string());
        let span = tracing::info_span!("ssh", id = %request_id);
        let exec = SshExecRequest {
            core: self.core.clone(),
            replicas: Arc::clone(&self.replicas),
            peer,
            request,
            protocol_version: fresh.protocol_version,
            request_id,
        };
        let running = async move {
            exec.serve_channel(fresh.channel).await;
            drop(active);
        };
        self.core.tasks.spawn(running.instrument(span));
        Ok(())
    }
}

/// A running command, counted until it is dropped.
struct ActiveCommand(Arc<watch::Sender<SessionStatus>>);

impl ActiveCommand {
    fn new(status: &Arc<watch::Sender<SessionStatus>>) -> Self {
        status.send_modify(|status| {
            status.active_commands += 1;
            status.has_run_command = true;
        });
        Self(Arc::clone(status))
    }
}

impl Drop for ActiveCommand {
    fn drop(&mut self) {
        self.0.send_modify(|status| status.active_commands -= 1);
    }
}

/// Methods that are not implemented here refuse: `russh` does so by default for passwords, certificates, all
/// kinds of forwarding and agents.
impl Handler for SshSession {
    type Error = SessionError;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, SessionError> {
        match self.identify_key(user, offer.public_key, offer.algorithm).await? {
            Some(_) => Ok(Auth::Accept),
            None => Ok(Auth::reject()),
        }
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, SessionError> {
        self.identity = self.identify_key(user, key.public_key, key.algorithm).await?;
        match self.identity {
            Some(_) => Ok(Auth::Accept),
            None => Ok(Auth::reject()),
        }
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), SessionError> {
        if let Some(SessionIdentity::User(_, user)) = &self.identity {
            self.user_slot = self.user_slots.try_acquire(user);
            if self.user_slot.is_none() {
                let why = "Too many connections: close one of them, then try again.";
                return Ok(session.disconnect(Disconnect::TooManyConnections, why, "")?);
            }
        }
        self.status.send_modify(|status| status.is_authenticated = true);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), SessionError> {
        let open = self.pending_channels.len() + self.status.borrow().active_commands;
        if open >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let fresh = PendingChannel {
            channel,
            protocol_version: None,
            forwarded_user: (None, None),
        };
        self.pending_channels.insert(fresh.channel.id(), fresh);
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), SessionError> {
        self.pending_channels.remove(&channel);
        Ok(())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), SessionError> {
        let fresh = self.pending_channels.get_mut(&channel);
        match fresh.is_some_and(|fresh| fresh.set_variable(self.identity.as_ref(), name, value)) {
            true => Ok(session.channel_success(channel)?),
            false => Ok(session.channel_failure(channel)?),
        }
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), SessionError> {
        self.start_exec(channel, ChannelRequest::Exec(data.to_vec()), session)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), SessionError> {
        self.start_exec(channel, ChannelRequest::Other, session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), SessionError> {
        self.start_exec(channel, ChannelRequest::Other, session)
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
        session: &mut Session,
    ) -> Result<(), SessionError> {
        Ok(session.channel_failure(channel)?)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), SessionError> {
        Ok(session.channel_failure(channel)?)
    }
}
