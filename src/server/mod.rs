//! The server: assembles what a process of Tancho runs, by its roles, from already bound listeners to the
//! drain at the end. The command line and the tests start it alike.

mod https;
mod router;

pub use https::RouterHttps;
pub use router::run_router;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::autoscale::{UnitScaler, UsageCollector};
use crate::caller_limits::CallerLimits;
use crate::config::{ServerRole, Settings};
use crate::core::{AuthCache, Core, CoreParts, PublicAddresses, PublicSsh};
use crate::datadir::DataDir;
use crate::db::Db;
use crate::db::notices::NoticeHub;
use crate::deploys::ArchiveHealer;
use crate::exec::{self, ExecSessionHealer};
use crate::healers::{self, EventRetentionHealer, HealerRegistry, SagaLeaseHealer};
use crate::http;
use crate::jobs::{JobPlanner, JobRunner};
use crate::kernel::encryption::Keyring;
use crate::kernel::error::Error;
use crate::kernel::ids::ReplicaId;
use crate::mail::Mailer;
use crate::outbound::OutboundClient;
use crate::provisioners::ProvisionerRegistry;
use crate::sagas::{self, Reconciler, SagaRegistry, SagaRunner, run_reconciler};
use crate::server::https::ApiHttps;
use crate::services::orphans::{self, OrphanReaper};
use crate::services::{binds, instances};
use crate::ssh::{self, HostKey};
use crate::telemetry::metrics;
use crate::versions::VersionHealer;
use crate::volumes::VolumeHealer;
use crate::webhooks::{DeliverWebhook, WebhookDispatcher};
use crate::{
    certificates, deploys, forges, key_rotation, lifecycle, releases, repositories, routing, units, users,
};

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
}

/// Starts the components of the configured roles.
pub async fn start_server(parts: ServerParts) -> Result<RunningServer, Error> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let api_addr = parts.api_addr;
    let router_addr = bound_address(parts.router.as_ref())?;
    let notices = NoticeHub::spawn_listener(parts.db.clone(), stop.clone());
    tasks.spawn(metrics::maintain_metrics(stop.clone()));
    let settings = parts.settings;
    let api_url = settings.api.public_url(api_addr);
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
        notices: notices.clone(),
        keys: Arc::new(parts.keys),
        host: parts.host,
        provisioners: parts.provisioners,
        router: router_addr,
        replica: ReplicaId::new(),
        auth_cache: AuthCache::default(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    key_rotation::register_replica(&core).await?;
    tasks.spawn(
        core.auth_cache
            .clone()
            .invalidate_on_notice(notices.clone(), stop.clone()),
    );
    tasks.spawn(key_rotation::watch_keys(core.clone()));
    release_predecessor_claims(&core).await?;
    if let Err(error) = deploys::remove_leftovers(&core).await {
        tracing::warn!(error = %error.report(), "cannot remove the leftovers of earlier deploys");
    }
    start_saga_runner(&core);
    prepare_repositories(&core, api_addr, ssh.as_ref().map(|endpoint| endpoint.bound)).await;
    let healers = start_reconcilers(&core);
    let serves_api = parts.api.is_some();
    let (api_https, router_https) = open_https(&core, parts.api_https, parts.router_https).await?;
    let https = (api_https.as_ref(), router_https.as_ref());
    let (api_https_addr, router_https_addr) =
        (https.0.map(ApiHttps::address), https.1.map(RouterHttps::address));
    if let Some(listener) = parts.api {
        tasks.spawn(serve_api(listener, api_https, core.clone(), healers));
        if let Some(door) = ssh {
            tasks.spawn(ssh::serve_connections(door.listener, core.clone(), door.key));
        }
    }
    if let Some(listener) = parts.router {
        let (settings, db) = (core.settings.clone(), core.db.clone());
        let listeners = (listener, router_https);
        tasks.spawn(run_router(settings, db, core.replica, notices, listeners, stop));
    }
    Ok(RunningServer {
        core,
        api_addr: serves_api.then_some(api_addr),
        router_addr,
        api_https_addr,
        router_https_addr,
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

/// Sets up the repositories on a host that serves the API. If that fails, the rest of the server works.
async fn prepare_repositories(core: &Core, api: SocketAddr, ssh: Option<SocketAddr>) {
    if core.settings.roles.contains(&ServerRole::Api)
        && let Err(error) = repositories::prepare_repositories(core, api, ssh).await
    {
        tracing::warn!(error = %error.report(), "cannot set up the repositories of apps; pushes will fail");
    }
}

/// Releases the claims and the router registration of the last process on this data folder, which has exited,
/// so that nobody waits until they expire.
async fn release_predecessor_claims(core: &Core) -> Result<(), Error> {
    if let Some(dead) = core.data_dir.take_over(core.replica)? {
        sagas::release_claims(&core.db, dead).await?;
        orphans::release_claims(&core.db, dead).await?;
        routing::forget_router(&core.db, dead).await?;
        certificates::forget_router(&core.db, dead).await?;
        binds::repeat_unit_calls(&core.db).await?;
        exec::end_lost_sessions(core, dead).await?;
    }
    Ok(())
}

/// Starts the workers of sagas: of all kinds with the worker role, and else of what needs a repository of this host,
/// since repositories lie with the API.
fn start_saga_runner(core: &Core) {
    let has = |role| core.settings.roles.contains(&role);
    let kinds = match (has(ServerRole::Worker), has(ServerRole::Api)) {
        (true, _) => register_sagas(core),
        (false, true) => SagaRegistry::default().with_saga(forges::DeployFromForge::new(core)),
        (false, false) => return,
    };
    let runner = SagaRunner::new(
        core.db.clone(),
        core.notices.clone(),
        kinds,
        &core.host,
        core.replica,
        core.stop.clone(),
    );
    runner.start_workers(&core.tasks);
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

/// Registers every kind of saga.
pub fn register_sagas(core: &Core) -> SagaRegistry {
    SagaRegistry::default()
        .with_saga(users::SendResetMail::new(core))
        .with_saga(releases::RolloutSaga::new(core))
        .with_saga(deploys::DeploySaga::new(core))
        .with_saga(deploys::RollbackSaga::new(core))
        .with_saga(units::scale_saga(core))
        .with_saga(lifecycle::RemoveAppSaga::new(core))
        .with_saga(instances::CreateInstanceSaga::new(core))
        .with_saga(instances::UpdateInstanceSaga::new(core))
        .with_saga(instances::RemoveInstanceSaga::new(core))
        .with_saga(binds::BindSaga::new(core))
        .with_saga(binds::UnbindSaga::new(core))
        .with_saga(forges::DeployFromForge::new(core))
        .with_saga(DeliverWebhook::new(core))
        .with_saga(certificates::OrderCertificate::new(core))
}

/// Starts the reconcilers of this host's disk, and the others if the process has the worker role. Returns all that can
/// be run manually.
fn start_reconcilers(core: &Core) -> HealerRegistry {
    let is_worker = core.settings.roles.contains(&ServerRole::Worker);
    let spawn = |reconciler: &Arc<dyn Reconciler>| {
        let notices = core.notices.clone();
        core.tasks
            .spawn(run_reconciler(Arc::clone(reconciler), notices, core.stop.clone()));
    };
    let (shared, of_host) = (list_reconcilers(core), list_disk_reconcilers(core));
    of_host.iter().for_each(spawn);
    let mut all = Vec::new();
    if is_worker {
        shared.iter().for_each(spawn);
        // Units have a loop of their own, which processes only changes.
        all.extend(units::start_reconciler(core).map(|units| units as Arc<dyn Reconciler>));
    }
    all.extend(shared.into_iter().chain(of_host));
    // Routers follow their table by themselves; the healer only wakes them.
    all.push(Arc::new(healers::RouterHealer::new(core)));
    HealerRegistry::new(all)
}

/// Returns the reconcilers of what all hosts share, which workers run periodically.
pub fn list_reconcilers(core: &Core) -> Vec<Arc<dyn Reconciler>> {
    vec![
        // Services.
        Arc::new(OrphanReaper::new(core)),
        Arc::new(binds::UnitBindReconciler::new(core)),
        // Sagas.
        Arc::new(SagaLeaseHealer::new(core)),
        Arc::new(ExecSessionHealer::new(core)),
        Arc::new(WebhookDispatcher::new(core)),
        Arc::new(certificates::OrderDispatcher::new(core)),
        // Jobs.
        Arc::new(JobPlanner::new(core)),
        Arc::new(JobRunner::new(core)),
        // Scaling by load.
        Arc::new(UsageCollector::new(core)),
        Arc::new(UnitScaler::new(core)),
        // Storage in the database.
        Arc::new(EventRetentionHealer::new(core)),
        Arc::new(ArchiveHealer::new(core)),
    ]
}

/// Returns the reconcilers of this host's disk, which every process with a data folder runs periodically, whatever its
/// roles are now: files stay where they were made.
pub fn list_disk_reconcilers(core: &Core) -> Vec<Arc<dyn Reconciler>> {
    vec![
        Arc::new(repositories::RepositoryHealer::new(core)),
        Arc::new(VersionHealer::new(core)),
        Arc::new(VolumeHealer::new(core)),
    ]
}

impl RunningServer {
    /// Stops the server: rejects new requests, gives those in progress `api.drain_seconds`, and leaves sagas
    /// to the next replica. Units keep running.
    pub async fn drain_and_stop(self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        let drain = self.core.settings.api.drain_timeout;
        if tokio::time::timeout(drain, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("the drain timeout expired with requests in progress");
        }
        self.core.db.close().await;
    }
}

async fn serve_api(listener: TcpListener, https: Option<ApiHttps>, core: Core, healers: HealerRegistry) {
    let stop = core.stop.clone();
    let bounds = http::serve::ServerLimits::from_settings(&core.settings.api);
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
