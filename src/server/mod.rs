//! The server: assembles what a process of Tancho runs, by its roles, from already bound listeners to the
//! drain at the end. The command line and the tests start it alike.

mod host_work;
mod https;
mod router;

pub use host_work::{list_disk_reconcilers, list_reconcilers, register_sagas};
pub use https::RouterHttps;
pub use router::{RouterParts, run_router};

use host_work::HostWork;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller_limits::CallerLimits;
use crate::config::Settings;
use crate::core::{AuthCache, Core, CoreParts, PublicAddresses, PublicSsh};
use crate::datadir::DataDir;
use crate::db::Db;
use crate::db::notices::NoticeHub;
use crate::healers::HealerRegistry;
use crate::http;
use crate::kernel::drain_plan::{DrainPlan, Predecessor};
use crate::kernel::encryption::Keyring;
use crate::kernel::error::Error;
use crate::kernel::ids::ReplicaId;
use crate::key_rotation;
use crate::mail::Mailer;
use crate::outbound::OutboundClient;
use crate::provisioners::ProvisionerRegistry;
use crate::server::https::ApiHttps;
use crate::ssh::{self, HostKey};
use crate::telemetry::metrics;

/// How long sagas and reconcilers may take to end at a hand-over.
const WORK_END_TIMEOUT: Duration = Duration::from_secs(10);

/// The inputs of `start_server`; all of them are ready to use.
pub struct ServerParts {
    pub settings: Settings,
    /// Already migrated.
    pub db: Db,
    pub keys: Keyring,
    pub data_dir: DataDir,
    /// The folder in which the platforms of the binary were installed.
    pub platforms_dir: PathBuf,
    /// The operator's environment variables for builds.
    pub pass_env: Vec<(String, String)>,
    /// The id of this host in units and versions.
    pub host: String,
    /// The provisioners of this host.
    pub provisioners: ProvisionerRegistry,
    /// Bound, if the process has the role.
    pub api: Option<TcpListener>,
    /// Bound, if the process has the role and the API is to be served over TLS too.
    pub api_https: Option<TcpListener>,
    /// Where the API listens or would listen, for its URLs.
    pub api_addr: SocketAddr,
    /// Bound, if `git` is to be spoken over SSH; served with the API.
    pub ssh: Option<TcpListener>,
    /// Bound, if the process has the role.
    pub router: Option<TcpListener>,
    /// Bound, if the process has the role and apps are to be served over TLS too.
    pub router_https: Option<TcpListener>,
    /// The actual or future listen address of the router, for the URLs of apps.
    pub router_addr: SocketAddr,
    /// What has become of the process that had the data folder before.
    pub predecessor: Predecessor,
}

/// A running server.
pub struct RunningServer {
    pub core: Core,
    /// `None` without the role.
    pub api_addr: Option<SocketAddr>,
    /// `None` without the role.
    pub router_addr: Option<SocketAddr>,
    /// `None` without the role or without TLS.
    pub api_https_addr: Option<SocketAddr>,
    /// `None` without the role or without TLS.
    pub router_https_addr: Option<SocketAddr>,
    work: HostWork,
    /// Cancelled once the router serves.
    routing: CancellationToken,
}

/// Starts the components of the configured roles. After a predecessor that still serves, sagas and reconcilers wait for
/// [`RunningServer::begin_work`].
pub async fn start_server(parts: ServerParts) -> Result<RunningServer, Error> {
    let predecessor = parts.predecessor;
    let (core, listeners) = build_core(parts).await?;
    key_rotation::register_replica(&core).await?;
    // Not among the tasks of requests: it ends after them.
    let (notices, stop) = (core.notices.clone(), core.stop_requests.clone());
    tokio::spawn(core.auth_cache.clone().invalidate_on_notice(notices, stop));
    core.tasks.spawn(key_rotation::watch_keys(core.clone()));
    let work = HostWork::new(&core, listeners.addresses());
    if predecessor == Predecessor::Exited {
        work.begin(&core, predecessor).await?;
    }
    serve_clients(core, listeners, work).await
}

/// Builds what every action needs, and the listeners that use it.
async fn build_core(parts: ServerParts) -> Result<(Core, ServerListeners), Error> {
    let (stop, stop_requests) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let router_addr = bound_address(parts.router.as_ref())?;
    let notices = NoticeHub::spawn_listener(parts.db.clone(), stop_requests.clone());
    tasks.spawn(metrics::maintain_metrics(stop.clone()));
    let settings = parts.settings;
    let api_url = settings.api.public_url(parts.api_addr);
    key_rotation::check_keys(&parts.db, &parts.keys).await?;
    let ssh = match parts.ssh {
        Some(listener) => {
            Some(SshEndpoint::load_endpoint(listener, &settings, &parts.db, &parts.keys, &api_url).await?)
        }
        None => None,
    };
    // The first caller in the process installs the TLS provider; another call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let may_call_private = settings.services.allows_private_addresses(&settings.database);
    let core = Core::new(CoreParts {
        outbound: OutboundClient::new(&settings.services, may_call_private)?,
        public: PublicAddresses {
            api_url,
            ssh: ssh.as_ref().map(|endpoint| endpoint.public.clone()),
            domain: settings.router.domain.clone(),
            router_port: settings.router.public_port(parts.router_addr),
        },
        mail: Mailer::new(&settings.mail, parts.data_dir.mail_dir())?,
        data_dir: Arc::new(parts.data_dir),
        platforms_dir: parts.platforms_dir,
        pass_env: parts.pass_env,
        caller_limits: CallerLimits::new(&settings),
        settings,
        db: parts.db,
        notices,
        keys: Arc::new(parts.keys),
        host: parts.host,
        provisioners: parts.provisioners,
        router: router_addr,
        replica: ReplicaId::new(),
        auth_cache: AuthCache::default(),
        tasks,
        work: TaskTracker::new(),
        stop,
        stop_requests,
        drain: DrainPlan::default(),
    });
    let listeners = ServerListeners {
        api: parts.api,
        api_addr: parts.api_addr,
        api_https: parts.api_https,
        ssh,
        router: parts.router,
        router_addr,
        router_https: parts.router_https,
    };
    Ok((core, listeners))
}

/// The listeners that a server was given.
struct ServerListeners {
    api: Option<TcpListener>,
    api_addr: SocketAddr,
    api_https: Option<TcpListener>,
    ssh: Option<SshEndpoint>,
    router: Option<TcpListener>,
    router_addr: Option<SocketAddr>,
    router_https: Option<TcpListener>,
}

impl ServerListeners {
    /// Returns the addresses at which other replicas find the repositories: of the API, and of SSH.
    fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        (self.api_addr, self.ssh.as_ref().map(|endpoint| endpoint.bound))
    }
}

/// Starts to serve the clients of all listeners.
async fn serve_clients(
    core: Core,
    listeners: ServerListeners,
    work: HostWork,
) -> Result<RunningServer, Error> {
    let serves_api = listeners.api.is_some();
    let (api_https, router_https) = open_https(&core, listeners.api_https, listeners.router_https).await?;
    let https = (api_https.as_ref(), router_https.as_ref());
    let (api_https_addr, router_https_addr) =
        (https.0.map(ApiHttps::address), https.1.map(RouterHttps::address));
    if let Some(listener) = listeners.api {
        let healers = work.list_healers(&core);
        core.tasks
            .spawn(serve_api(listener, api_https, core.clone(), healers));
        if let Some(door) = listeners.ssh {
            let connections = ssh::serve_connections(door.listener, core.clone(), door.key);
            core.tasks.spawn(connections);
        }
    }
    let routing = CancellationToken::new();
    match listeners.router {
        Some(listener) => {
            let parts = RouterParts {
                settings: core.settings.clone(),
                db: core.db.clone(),
                replica: core.replica,
                notices: core.notices.clone(),
                drain: core.drain.clone(),
                serving: routing.clone(),
                stop: core.stop.clone(),
            };
            core.tasks.spawn(run_router(parts, (listener, router_https)));
        }
        None => routing.cancel(),
    }
    Ok(RunningServer {
        api_addr: serves_api.then_some(listeners.api_addr),
        router_addr: listeners.router_addr,
        api_https_addr,
        router_https_addr,
        core,
        work,
        routing,
    })
}

fn bound_address(listener: Option<&TcpListener>) -> Result<Option<SocketAddr>, Error> {
    let address = listener.map(TcpListener::local_addr).transpose();
    address.map_err(Error::internal)
}

/// Prepares the listeners of TLS. Errors: `Invalid` for a certificate of the operator that cannot be served.
async fn open_https(
    core: &Core,
    api: Option<TcpListener>,
    router: Option<TcpListener>,
) -> Result<(Option<ApiHttps>, Option<RouterHttps>), Error> {
    let settings = &core.settings.tls;
    let api = match api {
        Some(listener) => Some(ApiHttps::open(listener, settings).await?),
        None => None,
    };
    let router = match router {
        Some(listener) => Some(RouterHttps::open(listener, Arc::clone(&core.keys), settings).await?),
        None => None,
    };
    Ok((api, router))
}

/// The listener and keys of the SSH server.
struct SshEndpoint {
    listener: TcpListener,
    bound: SocketAddr,
    key: HostKey,
    public: PublicSsh,
}

impl SshEndpoint {
    async fn load_endpoint(
        listener: TcpListener,
        settings: &Settings,
        db: &Db,
        keys: &Keyring,
        api_url: &str,
    ) -> Result<Self, Error> {
        let key = HostKey::load_or_create(db, keys).await?;
        let bound = listener.local_addr().map_err(Error::internal)?;
        let (host, port) = settings.ssh.public_address(api_url, bound);
        let public = PublicSsh {
            host,
            port,
            fingerprint: key.fingerprint(),
        };
        Ok(Self {
            listener,
            bound,
            key,
            public,
        })
    }
}

impl RunningServer {
    /// Waits until clients of the router are answered; those of the API are already.
    pub async fn wait_until_serving(&self) {
        self.routing.cancelled().await;
    }

    /// Starts sagas and reconcilers after a predecessor that has handed over.
    pub async fn begin_work(&self) -> Result<(), Error> {
        self.work.begin(&self.core, Predecessor::Serving).await
    }

    /// Begins to stop, because another process has taken over: sagas and reconcilers end, and clients may take `limit`.
    /// Returns once the other process may begin its work.
    pub async fn hand_over(&self, limit: Duration) {
        self.core.drain.set_taken_over(limit);
        self.core.stop.cancel();
        self.core.work.close();
        if tokio::time::timeout(WORK_END_TIMEOUT, self.core.work.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                "sagas or reconcilers did not end in time; their claims keep them apart from their successors"
            );
        }
    }

    /// Stops the server: rejects new requests, gives those in progress `api.drain_seconds`, or the time of a hand-over,
    /// and leaves sagas to the next replica. Units keep running.
    pub async fn drain_and_stop(self) {
        let core = self.core;
        core.stop.cancel();
        if !core.drain.is_taken_over() {
            core.stop_requests.cancel();
        }
        core.tasks.close();
        core.work.close();
        let ended = async {
            core.tasks.wait().await;
            core.work.wait().await;
        };
        let drain = core.drain.limit(core.settings.api.drain_timeout);
        if tokio::time::timeout(drain, ended).await.is_err() {
            tracing::warn!("the drain timeout expired with requests in progress");
        }
        core.stop_requests.cancel();
        core.db.close().await;
    }
}

async fn serve_api(listener: TcpListener, https: Option<ApiHttps>, core: Core, healers: HealerRegistry) {
    let stop = core.stop.clone();
    let bounds = http::serve::ServerLimits::from_settings(&core.settings.api);
    let bounds = bounds.with_drain_plan(core.drain.clone());
    let app = http::build_api(core, healers);
    let serving = http::serve::serve_api(listener, app.clone(), bounds.clone(), stop.clone());
    match https {
        Some(https) => {
            let (listener, tls, following) = https.into_parts(stop.clone());
            let serving_tls = http::serve::serve_api_tls(listener, tls, app, bounds, stop);
            future::join3(serving, serving_tls, following).await;
        }
        None => serving.await,
    }
}
