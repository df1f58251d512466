//! What a process does without being asked: sagas, and reconcilers of what all hosts share and of this host's disk. One
//! process at a time does it for a data folder.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::autoscale::{UnitScaler, UsageCollector};
use crate::config::ServerRole;
use crate::core::Core;
use crate::deploys::ArchiveHealer;
use crate::exec::{self, ExecSessionHealer};
use crate::healers::{self, EventRetentionHealer, HealerRegistry, SagaLeaseHealer};
use crate::jobs::{JobPlanner, JobRunner};
use crate::kernel::drain_plan::Predecessor;
use crate::kernel::error::Error;
use crate::sagas::{self, Reconciler, SagaRegistry, SagaRunner, run_reconciler};
use crate::services::orphans::{self, OrphanReaper};
use crate::services::{binds, instances};
use crate::units::{self, UnitReconciler};
use crate::versions::VersionHealer;
use crate::volumes::VolumeHealer;
use crate::webhooks::{DeliverWebhook, WebhookDispatcher};
use crate::{certificates, deploys, forges, lifecycle, releases, repositories, routing, users};

/// See the module.
pub(super) struct HostWork {
    shared: Vec<Arc<dyn Reconciler>>,
    of_host: Vec<Arc<dyn Reconciler>>,
    /// Of a worker on a host with units. They have a loop of their own, which processes only changes.
    units: Option<Arc<UnitReconciler>>,
    addresses: (SocketAddr, Option<SocketAddr>),
}

impl HostWork {
    /// Creates the reconcilers. The addresses are those at which other replicas find the repositories.
    pub(super) fn new(core: &Core, addresses: (SocketAddr, Option<SocketAddr>)) -> Self {
        Self {
            shared: list_reconcilers(core),
            of_host: list_disk_reconcilers(core),
            units: match is_worker(core) {
                true => units::create_reconciler(core),
                false => None,
            },
            addresses,
        }
    }

    /// Starts everything; the caller has the lock of the data folder. The reconcilers of this host's disk always run, the
    /// others if the process has the worker role.
    pub(super) async fn begin(&self, core: &Core, predecessor: Predecessor) -> Result<(), Error> {
        release_predecessor_claims(core, predecessor).await?;
        // The uploads of a predecessor that still serves are not left over.
        if predecessor == Predecessor::Exited
            && let Err(error) = deploys::remove_leftovers(core).await
        {
            tracing::warn!(error = %error.report(), "cannot remove the leftovers of earlier deploys");
        }
        start_saga_runner(core);
        prepare_repositories(core, self.addresses, predecessor).await;
        let spawn = |reconciler: &Arc<dyn Reconciler>| {
            let notices = core.notices.clone();
            core.work
                .spawn(run_reconciler(Arc::clone(reconciler), notices, core.stop.clone()));
        };
        self.of_host.iter().for_each(spawn);
        if is_worker(core) {
            self.shared.iter().for_each(spawn);
        }
        if let Some(units) = &self.units {
            core.work.spawn(Arc::clone(units).run());
        }
        Ok(())
    }

    /// Returns all reconcilers that can be run manually.
    pub(super) fn list_healers(&self, core: &Core) -> HealerRegistry {
        let units = self
            .units
            .iter()
            .map(|units| Arc::clone(units) as Arc<dyn Reconciler>);
        let others = self.shared.iter().chain(&self.of_host).map(Arc::clone);
        let mut all: Vec<_> = units.chain(others).collect();
        // Routers follow their table by themselves; the healer only wakes them.
        all.push(Arc::new(healers::RouterHealer::new(core)));
        HealerRegistry::new(all)
    }
}

fn is_worker(core: &Core) -> bool {
    core.settings.roles.contains(&ServerRole::Worker)
}

/// Sets up the repositories on a host that serves the API. If that fails, the rest of the server works.
async fn prepare_repositories(
    core: &Core,
    addresses: (SocketAddr, Option<SocketAddr>),
    predecessor: Predecessor,
) {
    if core.settings.roles.contains(&ServerRole::Api)
        && let Err(error) = repositories::prepare_repositories(core, addresses, predecessor).await
    {
        tracing::warn!(error = %error.report(), "cannot set up the repositories of apps; pushes will fail");
    }
}

/// Releases the claims and the router registration of the last process on this data folder, which has exited,
/// so that nobody waits until they expire.
async fn release_predecessor_claims(core: &Core, predecessor: Predecessor) -> Result<(), Error> {
    let last = core.data_dir.take_over(core.replica)?;
    if predecessor == Predecessor::Serving {
        // It releases what it has by itself, or its claims expire.
        return Ok(());
    }
    if let Some(dead) = last {
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
    runner.start_workers(&core.work);
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
