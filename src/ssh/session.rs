//! One connection: who has come, and what they want run.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use russh::keys::{Algorithm, HashAlg, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session as Talk, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tokio::sync::watch;
use tracing::Instrument;

use crate::core::Core;
use crate::kernel::problem::Problem;
use crate::ssh::errand::{Errand, Guest, Wish};
use crate::ssh::forward::{self, Replicas};
use crate::ssh::manner::KEYS;
use crate::users;

/// Channels in one connection, at once.
const MOST_CHANNELS: usize = 10;
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
    /// Under way.
    pub(super) commands: usize,
    /// One has been run, at whatever time.
    pub(super) has_run: bool,
}

/// See the module.
pub(super) struct Session {
    core: Core,
    peer: IpAddr,
    status: Arc<watch::Sender<Status>>,
    replicas: Arc<Replicas>,
    /// Who has logged in.
    who: Option<Who>,
    /// Channels in which nothing runs yet.
    fresh: HashMap<ChannelId, Fresh>,
}

#[derive(Clone)]
enum Who {
    /// The owner of the key with this fingerprint.
    User(Arc<str>),
    /// Another replica, which says for whom in each channel.
    Replica,
}

struct Fresh {
    channel: Channel<Msg>,
    /// The version of git's protocol that the client asks for.
    protocol: Option<String>,
    /// The user's key and address, as a replica has said them.
    passed: (Option<Arc<str>>, Option<IpAddr>),
}

impl Fresh {
    /// For whom a channel is. `None`: a replica has not said.
    fn guest(&self, who: &Who, peer: IpAddr) -> Option<Guest> {
        let (key, address, was_passed) = match (who, &self.passed) {
            (Who::User(key), _) => (key, peer, false),
            (Who::Replica, (Some(key), Some(address))) => (key, *address, true),
            (Who::Replica, _) => return None,
        };
        Some(Guest {
            key: Arc::clone(key),
            address: address.to_canonical(),
            was_passed,
        })
    }

    /// Takes a variable; what is none of ours is refused. Only a replica is believed when it says for whom it asks.
    fn set(&mut self, who: Option<&Who>, name: &str, value: &str) -> bool {
        match (name, who) {
            ("GIT_PROTOCOL", _) => self.protocol = Some(value.to_owned()),
            (forward::KEY, Some(Who::Replica)) => self.passed.0 = Some(Arc::from(value)),
            (forward::ADDRESS, Some(Who::Replica)) => self.passed.1 = value.parse().ok(),
            _ => return false,
        }
        true
    }
}

impl Session {
    pub(super) fn new(
        core: Core,
        peer: IpAddr,
        status: watch::Sender<Status>,
        replicas: Arc<Replicas>,
    ) -> Self {
        Self {
            core,
            peer: peer.to_canonical(),
            status: Arc::new(status),
            replicas,
            who: None,
            fresh: HashMap::new(),
        }
    }

    async fn look_up(
        &self,
        user: &str,
        key: &PublicKey,
        algorithm: &Algorithm,
    ) -> Result<Option<Who>, Fault> {
        // Before all users, so that none can put themselves in its place.
        if user == forward::USER && self.replicas.is_one(key) {
            return Ok(Some(Who::Replica));
        }
        if !KEYS.contains(algorithm) {
            return Ok(None);
        }
        let fingerprint: Arc<str> = Arc::from(key.fingerprint(HashAlg::Sha256).to_string());
        match users::admit_key(&self.core, &fingerprint).await {
            Ok(found) => Ok(found.map(|_| Who::User(fingerprint))),
            Err(problem) => {
                tracing::warn!(problem = %problem.chain(), "an SSH key cannot be looked up");
                Err(Fault::Ours(problem))
            }
        }
    }

    /// Runs what was asked for in a channel that has run nothing yet.
    fn run(&mut self, id: ChannelId, wish: Wish, talk: &mut Talk) -> Result<(), Fault> {
        let fresh = self.fresh.remove(&id);
        let guest = match (&fresh, &self.who) {
            (Some(fresh), Some(who)) => fresh.guest(who, self.peer),
            _ => None,
        };
        let (Some(fresh), Some(guest)) = (fresh, guest) else {
            return Ok(talk.channel_failure(id)?);
        };
        talk.channel_success(id)?;
        let busy = Busy::new(&self.status);
        let request_id: Arc<str> = Arc::from(uuid::Uuid::new_v4().simple().to_string());
        let span = tracing::info_span!("ssh", id = %request_id);
        let errand = Errand {
            core: self.core.clone(),
            replicas: Arc::clone(&self.replicas),
            guest,
            wish,
            protocol: fresh.protocol,
            request_id,
        };
        let carried = async move {
            errand.carry(fresh.channel).await;
            drop(busy);
        };
        self.core.tasks.spawn(carried.instrument(span));
        Ok(())
    }
}

/// A command under way, until it is dropped.
struct Busy(Arc<watch::Sender<Status>>);

impl Busy {
    fn new(status: &Arc<watch::Sender<Status>>) -> Self {
        status.send_modify(|status| {
            status.commands += 1;
            status.has_run = true;
        });
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

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Fault> {
        match self.look_up(user, offer.public_key, offer.algorithm).await? {
            Some(_) => Ok(Auth::Accept),
            None => Ok(Auth::reject()),
        }
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Fault> {
        self.who = self.look_up(user, key.public_key, key.algorithm).await?;
        match self.who {
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
            passed: (None, None),
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
        let fresh = self.fresh.get_mut(&channel);
        match fresh.is_some_and(|fresh| fresh.set(self.who.as_ref(), name, value)) {
            true => Ok(talk.channel_success(channel)?),
            false => Ok(talk.channel_failure(channel)?),
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
