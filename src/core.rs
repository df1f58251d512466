//! The services and state that every action needs: database, keys, settings, clients for mail and outbound
//! calls. Built once at start, cheap to clone, faked in tests.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller_limits::CallerLimits;
use crate::config::Settings;
use crate::datadir::DataDir;
use crate::db::Db;
use crate::db::notices::{NoticeChannel, NoticeHub};
use crate::kernel::drain_plan::DrainPlan;
use crate::kernel::encryption::Keyring;
use crate::kernel::ids::ReplicaId;
use crate::kernel::request_context::{Actor, PermissionGrant, TokenKind};
use crate::mail::Mailer;
use crate::outbound::OutboundClient;
use crate::provisioners::ProvisionerRegistry;

/// The shared services and state. See the module.
#[derive(Clone)]
pub struct Core(Arc<CoreParts>);

/// The parts of a `Core`.
pub struct CoreParts {
    pub settings: Settings,
    pub db: Db,
    pub notices: NoticeHub,
    /// Encrypts and decrypts secrets at rest.
    pub keys: Arc<Keyring>,
    /// The id of this host in units and versions.
    pub host: String,
    /// The id of this run of Tancho, in leases.
    pub replica: ReplicaId,
    /// The public addresses of Tancho.
    pub public: PublicAddresses,
    /// The provisioners of this host.
    pub provisioners: ProvisionerRegistry,
    /// The listen address of this process' router, if it has one.
    pub router: Option<SocketAddr>,
    /// Recently authenticated callers, by the digest of their token.
    pub auth_cache: AuthCache,
    /// Sends mail.
    pub mail: Mailer,
    /// The HTTP client for services.
    pub outbound: OutboundClient,
    /// The folder of everything on disk.
    pub data_dir: Arc<DataDir>,
    /// The folder of the platforms that are part of the binary.
    pub platforms_dir: PathBuf,
    /// The operator's environment variables for builds: mirrors, proxies, certificates.
    pub pass_env: Vec<(String, String)>,
    /// What users share.
    pub caller_limits: CallerLimits,
    /// What belongs to requests is spawned here.
    pub tasks: TaskTracker,
    /// Sagas and reconcilers are spawned here. It is empty soon after `stop`.
    pub work: TaskTracker,
    /// Cancelled when the process begins to stop: it accepts no more connections and begins no more work.
    pub stop: CancellationToken,
    /// Cancelled when what follows or waits in open requests is to end: with `stop`, or, where another process has taken
    /// over, when the requests have ended or have no more time.
    pub stop_requests: CancellationToken,
    /// How open connections end.
    pub drain: DrainPlan,
}

/// The public addresses of Tancho.
#[derive(Clone, Debug)]
pub struct PublicAddresses {
    /// The URL of the API, without a slash at the end.
    pub api_url: String,
    /// The domain below which apps have their addresses.
    pub domain: String,
    /// The port of the router in the URLs of apps.
    pub router_port: u16,
    /// The address of the SSH server, if there is one.
    pub ssh: Option<PublicSsh>,
}

/// The public address of the SSH server, and the fingerprint of its host key.
#[derive(Clone, Debug)]
pub struct PublicSsh {
    pub host: String,
    pub port: u16,
    /// The fingerprint of the host key: `SHA256:…`.
    pub fingerprint: String,
}

impl PublicAddresses {
    /// Returns the host and port of an app whose address begins with `label`; the port is omitted if it is
    /// 80.
    pub fn app_address(&self, label: &str) -> String {
        self.with_port(&format!("{label}.{}", self.domain))
    }

    /// Returns the URL of an app's repository for clients, as for `git remote add`.
    pub fn repository_url(&self, app: impl std::fmt::Display) -> String {
        match &self.ssh {
            None => self.repository_http_url(app),
            Some(PublicSsh { host, port: 22, .. }) => format!("git@{host}:{app}.git"),
            Some(PublicSsh { host, port, .. }) => format!("ssh://git@{host}:{port}/{app}.git"),
        }
    }

    /// Returns the same over HTTP, which is always available.
    pub fn repository_http_url(&self, app: impl std::fmt::Display) -> String {
        format!("{}/git/{app}.git", self.api_url)
    }

    /// Returns the webhook URL of an app, for its forge.
    pub fn webhook_url(&self, app: impl std::fmt::Display) -> String {
        format!("{}/forges/{app}", self.api_url)
    }

    /// Returns a host of the router, with the port unless it is 80.
    pub fn with_port(&self, host: &str) -> String {
        match self.router_port {
            80 => host.to_owned(),
            port => format!("{host}:{port}"),
        }
    }
}

impl Core {
    /// Creates the core from its parts.
    pub fn new(parts: CoreParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Core {
    type Target = CoreParts;

    fn deref(&self) -> &CoreParts {
        &self.0
    }
}

/// A caller as a token has shown them.
#[derive(Clone, Debug)]
pub struct CachedIdentity {
    pub actor: Actor,
    pub grants: Arc<[PermissionGrant]>,
    pub token_kind: TokenKind,
    /// When the token expires, on the clock of this process; `None`: never.
    pub expires_at: Option<std::time::Instant>,
}

/// Caches authenticated callers for a short while, so that a request with a cached token needs no round trip.
/// Invalidated as a whole, on every replica, whenever a token or role changes.
#[derive(Clone)]
pub struct AuthCache {
    cache: moka::future::Cache<[u8; 32], CachedIdentity>,
    /// Counts the invalidations.
    generation: Arc<AtomicU64>,
}

impl Default for AuthCache {
    fn default() -> Self {
        // The time to live limits the effect of a lost notice.
        let known = moka::future::Cache::builder()
            .max_capacity(10_000)
            .time_to_live(Duration::from_secs(20))
            .build();
        Self {
            cache: known,
            generation: Arc::default(),
        }
    }
}

impl AuthCache {
    /// Returns a cached caller whose token has not expired.
    pub async fn get(&self, digest: &[u8; 32]) -> Option<CachedIdentity> {
        let known = self.cache.get(digest).await?;
        known
            .expires_at
            .is_none_or(|until| until > std::time::Instant::now())
            .then_some(known)
    }

    /// Returns the current generation. Read it before looking up a caller in the database, for
    /// `insert_if_current`.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Caches a caller, unless the cache was invalidated since `generation`: then the caller may have been
    /// read before the change.
    pub async fn insert_if_current(&self, digest: [u8; 32], known: CachedIdentity, generation: u64) {
        self.cache.insert(digest, known).await;
        if self.generation() != generation {
            self.cache.invalidate(&digest).await;
        }
    }

    /// Invalidates the cache.
    pub fn invalidate_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.cache.invalidate_all();
    }

    /// Invalidates the cache whenever a notice reports a change of tokens or roles.
    pub async fn invalidate_on_notice(self, notices: NoticeHub, stop: CancellationToken) {
        let mut notices = notices.subscribe();
        loop {
            tokio::select! {
                notice = notices.next_notice() => match notice {
                    Some((NoticeChannel::Auth, _)) | None => self.invalidate_all(),
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
    fn repository_url_is_short_if_ssh_has_the_default_port() {
        let mut public = PublicAddresses {
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

    #[tokio::test]
    async fn identity_read_before_a_permission_change_is_not_cached() {
        let callers = AuthCache::default();
        let known = CachedIdentity {
            actor: Actor::Nobody,
            grants: Arc::new([]),
            token_kind: TokenKind::Session,
            expires_at: None,
        };
        let generation = callers.generation();
        callers
            .insert_if_current([1; 32], known.clone(), generation)
            .await;
        assert!(callers.get(&[1; 32]).await.is_some());
        callers.invalidate_all();
        callers
            .insert_if_current([1; 32], known.clone(), generation)
            .await;
        assert!(callers.get(&[1; 32]).await.is_none());
        callers
            .insert_if_current([1; 32], known, callers.generation())
            .await;
        assert!(callers.get(&[1; 32]).await.is_some());
    }
}
