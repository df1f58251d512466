//! The server put together: what a process of Tancho runs, by its roles, from listeners that are already
//! bound to the drain at its end. The command line and the tests start it alike.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Role, Settings};
use crate::core::{Callers, Core, Parts, Provisioners, Public, PublicSsh};
use crate::datadir::DataDir;
use crate::db::Db;
use crate::db::listen::Notices;
use crate::healers::{self, Healers, Leases, Retention};
use crate::http;
use crate::kernel::ids::ReplicaId;
use crate::kernel::problem::Problem;
use crate::kernel::seal::Keyring;
use crate::mail::Mailer;
use crate::outbound::Outbound;
use crate::proxy::{Proxy, ProxySettings};
use crate::sagas::{self, Reconciler, Registry, Runner, supervise};
use crate::services::orphans::{self, Orphans};
use crate::services::{binds, instances};
use crate::ssh::{self, HostKey};
use crate::telemetry::metrics;
use crate::{deploys, forges, lifecycle, releases, repositories, sealing, units, users};

/// What `start` needs; all of it is ready to use.
pub struct Wanted {
    pub settings: Settings,
    /// Migrated.
    pub db: Db,
    pub keys: Keyring,
    pub dirs: DataDir,
    /// Where the platforms of the binary were installed.
    pub platforms_dir: PathBuf,
    /// Variables of the operator that builds get.
    pub pass_env: Vec<(String, String)>,
    /// This machine's name for units and versions.
    pub host: String,
    /// Where units of this host run.
    pub provisioners: Provisioners,
    /// Bound; served if the process has the role.
    pub api: TcpListener,
    /// Bound, if `git` is to be spoken over SSH; served with the API.
    pub ssh: Option<TcpListener>,
    /// Bound, if the process has the role.
    pub router: Option<TcpListener>,
    /// Where the router listens or will listen, for the URLs of apps.
    pub router_addr: SocketAddr,
}

/// A server at work.
pub struct Running {
    pub core: Core,
    pub api_addr: SocketAddr,
    /// `None` without the role.
    pub router_addr: Option<SocketAddr>,
}

/// Starts everything that the roles ask for.
pub async fn start(wanted: Wanted) -> Result<Running, Problem> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let api_addr = wanted.api.local_addr().map_err(Problem::internal)?;
    let router_addr = wanted.router.as_ref().map(TcpListener::local_addr);
    let router_addr = router_addr.transpose().map_err(Problem::internal)?;
    let notices = Notices::start(wanted.db.clone(), stop.clone());
    tasks.spawn(metrics::keep(stop.clone()));
    let settings = wanted.settings;
    let api_url = settings.api.public_url(api_addr);
    sealing::agree(&wanted.db, &wanted.keys).await?;
    let ssh = match wanted.ssh {
        Some(listener) => Some(SshDoor::open(listener, &settings, &wanted.db, &wanted.keys, &api_url).await?),
        None => None,
    };
    // Whoever starts first installs the TLS provider; a second one changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let may_call_private = settings.services.may_call_private(&settings.database);
    let core = Core::new(Parts {
        outbound: Outbound::new(&settings.services, may_call_private)?,
        public: Public {
            api_url,
            ssh: ssh.as_ref().map(|door| door.public.clone()),
            domain: settings.router.domain.clone(),
            router_port: settings.router.public_port(wanted.router_addr),
        },
        hashing: Arc::new(Semaphore::new(settings.auth.hash_concurrency)),
        building: Arc::new(Semaphore::new(settings.builds.concurrency)),
        mail: Mailer::new(&settings.mail, wanted.dirs.mail())?,
        dirs: Arc::new(wanted.dirs),
        platforms_dir: wanted.platforms_dir,
        pass_env: wanted.pass_env,
        settings,
        db: wanted.db,
        notices: notices.clone(),
        keys: wanted.keys,
        host: wanted.host,
        provisioners: wanted.provisioners,
        router: router_addr,
        replica: ReplicaId::new(),
        callers: Callers::default(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    sealing::join(&core).await?;
    tasks.spawn(core.callers.clone().follow(notices.clone(), stop.clone()));
    tasks.spawn(sealing::follow(core.clone()));
    succeed(&core).await?;
    let has = |role| core.settings.roles.contains(&role);
    if has(Role::Worker) {
        work(&core).await;
    }
    if has(Role::Api)
        && let Err(problem) =
            repositories::prepare(&core, api_addr, ssh.as_ref().map(|door| door.bound)).await
    {
        tracing::warn!(problem = %problem.chain(), "the repositories of apps cannot be pushed to");
    }
    let healers = reconcile(&core);
    if has(Role::Api) {
        tasks.spawn(serve(wanted.api, core.clone(), healers));
        if let Some(door) = ssh {
            tasks.spawn(ssh::serve(door.listener, core.clone(), door.key));
        }
    }
    if let Some(listener) = wanted.router {
        let (settings, db) = (core.settings.clone(), core.db.clone());
        tasks.spawn(route(settings, db, core.replica, notices, listener, stop));
    }
    Ok(Running {
        core,
        api_addr,
        router_addr,
    })
}

/// Ends what the last process on this data folder can end no more: nobody has to wait until its claims and
/// its word as a router have run out.
async fn succeed(core: &Core) -> Result<(), Problem> {
    if let Some(dead) = core.dirs.succeed(core.replica)? {
        sagas::release_claims(&core.db, dead).await?;
        orphans::release_claims(&core.db, dead).await?;
        units::routes::forget(&core.db, dead).await?;
        binds::repeat_unit_calls(&core.db).await?;
    }
    Ok(())
}

/// Does the durable work.
async fn work(core: &Core) {
    if let Err(problem) = deploys::sweep(core).await {
        tracing::warn!(problem = %problem.chain(), "what earlier deploys left behind stays for now");
    }
    let runner = Runner::new(
        core.db.clone(),
        core.notices.clone(),
        kinds_of_sagas(core),
        &core.host,
        core.replica,
        core.stop.clone(),
    );
    runner.start(&core.tasks);
}

/// What SSH is served with.
struct SshDoor {
    listener: TcpListener,
    bound: SocketAddr,
    key: HostKey,
    public: PublicSsh,
}

impl SshDoor {
    async fn open(
        listener: TcpListener,
        settings: &Settings,
        db: &Db,
        keys: &Keyring,
        api_url: &str,
    ) -> Result<Self, Problem> {
        let key = HostKey::load(db, keys).await?;
        let bound = listener.local_addr().map_err(Problem::internal)?;
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

/// Every kind of saga there is.
pub fn kinds_of_sagas(core: &Core) -> Registry {
    Registry::default()
        .with(users::SendLetter::new(core))
        .with(releases::Rollout::new(core))
        .with(deploys::Deploy::new(core))
        .with(deploys::Rollback::new(core))
        .with(units::scale_saga(core))
        .with(lifecycle::RemoveApp::new(core))
        .with(instances::Create::new(core))
        .with(instances::Update::new(core))
        .with(instances::Remove::new(core))
        .with(binds::Bind::new(core))
        .with(binds::Unbind::new(core))
        .with(forges::DeployFromForge::new(core))
}

/// Starts the reconcilers where there are workers. Answers all that can be run by hand.
fn reconcile(core: &Core) -> Healers {
    let is_worker = core.settings.roles.contains(&Role::Worker);
    let mut all = reconcilers(core);
    if is_worker {
        for reconciler in &all {
            let notices = core.notices.clone();
            core.tasks
                .spawn(supervise(Arc::clone(reconciler), notices, core.stop.clone()));
        }
        // They have a loop of their own, which looks at what has changed only.
        if let Some(units) = units::start(core) {
            all.insert(0, units);
        }
    }
    // Whatever routes follows its table by itself; all there is to do is to wake it.
    all.push(Arc::new(healers::Routes::new(core)));
    Healers::new(all)
}

/// Every reconciler that is kept going here.
pub fn reconcilers(core: &Core) -> Vec<Arc<dyn Reconciler>> {
    vec![
        // Services.
        Arc::new(Orphans::new(core)),
        Arc::new(binds::UnitBinds::new(core)),
        // Files.
        Arc::new(repositories::Repositories::new(core)),
        // Durable work.
        Arc::new(Leases::new(core)),
        // Room.
        Arc::new(Retention::new(core)),
    ]
}

impl Running {
    /// Stops: no new requests, those under way get `api.drain_seconds`, work under way is left to the
    /// next replica. Units go on.
    pub async fn stop(self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        let drain = self.core.settings.api.drain;
        if tokio::time::timeout(drain, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("requests were still under way when the time to drain ended");
        }
        self.core.db.close().await;
    }
}

/// Runs the router until `stop`, fed with the addresses that the database knows.
pub async fn route(
    settings: Settings,
    db: Db,
    replica: ReplicaId,
    notices: Notices,
    listener: TcpListener,
    stop: CancellationToken,
) {
    let settings = settings.router;
    let proxy = Proxy::new(ProxySettings {
        first_byte_timeout: settings.first_byte_timeout,
        idle_timeout: settings.idle_timeout,
        max_connections: settings.max_connections,
        drain: settings.drain,
        trust_forwarded: settings.trust_forwarded,
        ..ProxySettings::default()
    });
    let loaded = CancellationToken::new();
    let feed = units::routes::follow(
        db,
        replica,
        notices,
        settings.domain,
        proxy.clone(),
        loaded.clone(),
        stop.clone(),
    );
    let serving = async {
        // Who calls meanwhile waits: without a table the answer would be that there is no such app.
        tokio::select! {
            () = loaded.cancelled() => proxy.serve(listener, stop).await,
            () = stop.cancelled() => {}
        }
    };
    let counting = async {
        let mut ticks = tokio::time::interval(metrics::PERIOD);
        loop {
            ticks.tick().await;
            metrics::routed(&proxy.stats());
        }
    };
    tokio::select! {
        _ = future::join(feed, serving) => {}
        () = counting => {}
    }
}

async fn serve(listener: TcpListener, core: Core, healers: Healers) {
    let stop = core.stop.clone();
    let bounds = http::serve::Bounds::new(core.settings.api.max_connections);
    http::serve::serve(listener, http::api(core, healers), bounds, stop).await;
}
