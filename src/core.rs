//! What every action needs at hand: the database, the keys, the settings, the way to the outside. Built
//! once at start, cheap to clone, faked in tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::datadir::DataDir;
use crate::db::Db;
use crate::db::listen::{Channel, Notices};
use crate::kernel::call::{Actor, Grant, TokenKind};
use crate::kernel::ids::ReplicaId;
use crate::kernel::seal::Keyring;
use crate::mail::Mailer;
use crate::outbound::Outbound;
use crate::provisioners::Provisioner;

/// See the module.
#[derive(Clone)]
pub struct Core(Arc<Parts>);

/// The parts of a `Core`.
pub struct Parts {
    pub settings: Settings,
    pub db: Db,
    pub notices: Notices,
    /// Seals and opens what must not lie in clear.
    pub keys: Keyring,
    /// This machine, as units and versions know it.
    pub host: String,
    /// This start of Tancho, as leases know it.
    pub replica: ReplicaId,
    /// Where people reach us.
    pub public: Public,
    /// Where units of this host run.
    pub provisioners: Provisioners,
    /// Where the router of this process listens, if it has one.
    pub router: Option<SocketAddr>,
    /// Callers lately seen, by the digest of their token.
    pub callers: Callers,
    /// The way to people's mailboxes.
    pub mail: Mailer,
    /// The way to services.
    pub outbound: Outbound,
    /// Room for password hashes, which are heavy on purpose.
    pub hashing: Arc<Semaphore>,
    /// The folder of everything on disk.
    pub dirs: Arc<DataDir>,
    /// Where the platforms of the binary lie.
    pub platforms_dir: PathBuf,
    /// Variables of the operator that builds get: mirrors, proxies, certificates.
    pub pass_env: Vec<(String, String)>,
    /// Room for builds.
    pub building: Arc<Semaphore>,
    /// Everything spawned is counted here, and stops when `stop` says so.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

/// The provisioners of this host by the word under which pools name them; none where no units run.
pub type Provisioners = Arc<BTreeMap<String, Arc<dyn Provisioner>>>;

/// Where people reach us.
#[derive(Clone, Debug)]
pub struct Public {
    /// URL of the API, without a slash at the end.
    pub api_url: String,
    /// Domain below which apps have their addresses.
    pub domain: String,
    /// Port of the router in the URLs of apps.
    pub router_port: u16,
    /// Where `git` reaches us over SSH, if it does.
    pub ssh: Option<PublicSsh>,
}

/// Where `git` reaches us over SSH, and how it knows that it is us.
#[derive(Clone, Debug)]
pub struct PublicSsh {
    pub host: String,
    pub port: u16,
    /// Of the host key: `SHA256:…`.
    pub fingerprint: String,
}

impl Public {
    /// Host and port of an app whose address begins with `label`; the port is left out when it is 80.
    pub fn app_address(&self, label: &str) -> String {
        self.with_port(&format!("{label}.{}", self.domain))
    }

    /// The URL of an app's repository as clients reach it: what `git remote add` takes.
    pub fn repository_url(&self, app: impl std::fmt::Display) -> String {
        match &self.ssh {
            None => self.repository_http_url(app),
            Some(PublicSsh { host, port: 22, .. }) => format!("git@{host}:{app}.git"),
            Some(PublicSsh { host, port, .. }) => format!("ssh://git@{host}:{port}/{app}.git"),
        }
    }

    /// The same over HTTP, which is always there.
    pub fn repository_http_url(&self, app: impl std::fmt::Display) -> String {
        format!("{}/git/{app}.git", self.api_url)
    }

    /// Where a forge tells of what is new for an app.
    pub fn hook_url(&self, app: impl std::fmt::Display) -> String {
        format!("{}/forges/{app}", self.api_url)
    }

    /// A host of the router, with the port if it is not 80.
    pub fn with_port(&self, host: &str) -> String {
        match self.router_port {
            80 => host.to_owned(),
            port => format!("{host}:{port}"),
        }
    }
}

impl Core {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The uid under which an app's builds and units run on this host; `None`: our own.
    pub fn unit_user(&self, app_number: i32) -> Option<u32> {
        match (self.dirs.is_root(), self.settings.local.first_uid) {
            (true, first) if first > 0 => first.checked_add(u32::try_from(app_number).ok()?),
            _ => None,
        }
    }
}

impl Deref for Core {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// A caller as a token has shown them.
#[derive(Clone, Debug)]
pub struct Known {
    pub actor: Actor,
    pub grants: Arc<[Grant]>,
    pub token_kind: TokenKind,
    /// When the token ends, on the clock of this process; `None`: never.
    pub until: Option<std::time::Instant>,
}

/// Remembers callers for a short while, so that a request with a warm token costs no round trip.
/// Emptied as a whole whenever any token or role changes, on every replica.
#[derive(Clone)]
pub struct Callers(moka::future::Cache<[u8; 32], Known>);

impl Default for Callers {
    fn default() -> Self {
        // The time to live bounds what a lost notice can cost.
        let cache = moka::future::Cache::builder()
            .max_capacity(10_000)
            .time_to_live(Duration::from_secs(20));
        Self(cache.build())
    }
}

impl Callers {
    /// A caller, if known and still valid.
    pub async fn get(&self, digest: &[u8; 32]) -> Option<Known> {
        let known = self.0.get(digest).await?;
        known
            .until
            .is_none_or(|until| until > std::time::Instant::now())
            .then_some(known)
    }

    /// Remembers a caller.
    pub async fn put(&self, digest: [u8; 32], known: Known) {
        self.0.insert(digest, known).await;
    }

    /// Forgets everybody.
    pub fn forget(&self) {
        self.0.invalidate_all();
    }

    /// Forgets everybody whenever a notice says that tokens or roles have changed.
    pub async fn follow(self, notices: Notices, stop: CancellationToken) {
        let mut notices = notices.subscribe();
        loop {
            tokio::select! {
                told = notices.next() => match told {
                    Some((Channel::Auth, _)) | None => self.forget(),
                    Some(_) => {}
                },
                () = stop.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_the_short_address_where_ssh_has_its_own_port() {
        let mut public = Public {
            api_url: "https://paas.example.com".into(),
            domain: "example.com".into(),
            router_port: 80,
            ssh: None,
        };
        assert_eq!(
            public.repository_url("shop"),
            "https://paas.example.com/git/shop.git"
        );
        for (port, url) in [
            (22, "git@git.example.com:shop.git"),
            (2222, "ssh://git@git.example.com:2222/shop.git"),
        ] {
            public.ssh = Some(PublicSsh {
                host: "git.example.com".into(),
                port,
                fingerprint: String::new(),
            });
            assert_eq!(public.repository_url("shop"), url);
        }
    }
}
