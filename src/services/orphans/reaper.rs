//! The orphan reaper: repeats removals until the services confirm them.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::ServiceId;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::sagas::{KeyedTasks, ReconcileReport, Reconciler};
use crate::services::binds;
use crate::services::broker::{BrokerClient, BrokerError, CallDelivery, DeleteOutcome, OnBehalfOf};
use crate::services::calls::late_arrival_window;
use crate::services::catalogue;
use crate::services::instances;
use crate::services::orphans::operator;
use crate::services::orphans::store::{self, DueOrphan};
use crate::services::orphans::{BindDetail, REASON_CONFIRMED};

/// Interval between two renewals of a claim; a fraction of its length.
const CLAIM_RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause between two attempts, in seconds.
const MAX_RETRY_PAUSE: f64 = 300.0;
/// Number of attempts in about the first two days; after that the pauses are longer.
const SLOW_RETRY_AFTER_ATTEMPTS: i32 = 600;
/// Pause between two attempts after that, in seconds.
const SLOW_RETRY_PAUSE: f64 = 3600.0;

/// The reconciler that removes orphans; at most one task for each service.
pub struct OrphanReaper {
    core: Core,
    services: KeyedTasks,
}

impl OrphanReaper {
    /// Creates the reconciler.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            services: KeyedTasks::new(core.work.clone(), core.stop.clone()),
        }
    }
}

#[async_trait]
impl Reconciler for OrphanReaper {
    fn name(&self) -> &'static str {
        "orphans"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let services = store::list_due_services(&self.core.db, &self.services.busy_keys()).await?;
        for service in &services {
            let (core, service) = (self.core.clone(), *service);
            self.services.spawn(service.0, async move {
                if let Err(error) = reap_due_orphans(&core, service).await {
                    tracing::warn!(%service, error = %error.report(), "cannot reap the orphans of a service");
                }
            });
        }
        let line = |service: &ServiceId| format!("reaping the orphans of the service {service}");
        Ok(ReconcileReport {
            done: services.iter().map(line).collect(),
            has_more: false,
        })
    }

    async fn list_open_work(&self) -> Result<Vec<String>, Error> {
        let open = operator::list_orphans(&self.core, &RequestContext::new_internal()).await?;
        Ok(open.iter().map(ToString::to_string).collect())
    }
}

/// Processes all due orphans of a service, one after the other.
async fn reap_due_orphans(core: &Core, service: ServiceId) -> Result<(), Error> {
    while let Some(due) =
        store::claim_due_orphan(&core.db, service, core.replica, late_arrival_window(core)).await?
    {
        tokio::select! {
            biased;
            result = reap_orphan(core, &due) => if let Err(error) = result {
                // It is retried later; the other orphans of the service are not held up.
                tracing::warn!(orphan = %due.id, error = %error.report(), "cannot reap an orphan; it is retried later");
                postpone_orphan(core, &due, error.message()).await?;
            },
            () = keep_claim_alive(core, &due) => tracing::warn!(orphan = %due.id, "the claim of an orphan was lost to another replica"),
        }
    }
    Ok(())
}

/// Renews the claim while the call takes its time. Returns when the claim is lost.
async fn keep_claim_alive(core: &Core, due: &DueOrphan) {
    loop {
        tokio::time::sleep(CLAIM_RENEW_INTERVAL).await;
        // While the database is unavailable, no other replica can claim the orphan.
        if let Ok(false) = store::renew_claim(&core.db, due.id, core.replica).await {
            return;
        }
    }
}

/// Calls the service once and records the result.
async fn reap_orphan(core: &Core, due: &DueOrphan) -> Result<(), Error> {
    let Some(service) = catalogue::find_service_by_id(&core.db, due.service_id).await? else {
        return Ok(());
    };
    let broker = BrokerClient::new(core, &service)?;
    let result = match due.kind.as_str() {
        "instance" => {
            broker
                .destroy_instance(&OnBehalfOf::default(), &due.instance)
                .await
        }
        _ => send_unbind(&broker, due).await?,
    };
    match result {
        Err(fault) => {
            if fault.delivery == CallDelivery::Unknown {
                store::set_uncertain_until(&core.db, due.id, core.replica, late_arrival_window(core)).await?;
            }
            return postpone_orphan(core, due, fault.error.message()).await;
        }
        // A request that timed out here may arrive late: if the resource does not exist yet, the removal is
        // repeated.
        Ok(DeleteOutcome::NotFound) if due.age < late_arrival_window(core) => {
            return postpone_orphan(core, due, "the service does not know it yet").await;
        }
        Ok(_) => {}
    }
    let settled = match due.kind.as_str() {
        "instance" => finish_instance_removal(core, due, service.name.as_str()).await?,
        _ => finish_unbind(core, due).await?,
    };
    if !settled {
        return postpone_orphan(core, due, "confirmed; waiting for another event to end").await;
    }
    tracing::info!(service = %service.name, instance = %due.instance, kind = due.kind, "the service has confirmed the removal of an orphan");
    if due.unheard > 0.0 {
        return Ok(
            store::postpone_orphan(&core.db, due.id, core.replica, REASON_CONFIRMED, due.unheard).await?,
        );
    }
    Ok(store::end_orphan(&core.db, due.id, core.replica).await?)
}

async fn send_unbind(
    broker: &BrokerClient,
    due: &DueOrphan,
) -> Result<Result<DeleteOutcome, BrokerError>, Error> {
    let detail: BindDetail = serde_json::from_value(due.detail.clone()).map_err(Error::internal)?;
    let by = OnBehalfOf::default();
    for unit in &detail.units {
        if let Err(fault) = broker.unbind_unit(&by, &due.instance, &detail.app, unit).await {
            return Ok(Err(fault));
        }
    }
    Ok(broker.unbind_app(&by, &due.instance, &detail.app).await)
}

async fn postpone_orphan(core: &Core, due: &DueOrphan, reason: &str) -> Result<(), Error> {
    let pause = match due.attempts {
        tries if tries > SLOW_RETRY_AFTER_ATTEMPTS => SLOW_RETRY_PAUSE,
        tries => 1.5_f64.powi(tries.min(20)).min(MAX_RETRY_PAUSE),
    };
    Ok(store::postpone_orphan(&core.db, due.id, core.replica, reason, pause).await?)
}

/// Removes the instance whose removal waited for this confirmation. Returns false if another operation holds
/// it; it is retried later.
async fn finish_instance_removal(core: &Core, due: &DueOrphan, service: &str) -> Result<bool, Error> {
    let mut tx = core.db.begin().await?;
    let Some(id) = store::find_removing_instance(&mut *tx, due.service_id, &due.instance).await? else {
        return Ok(true);
    };
    let Some(instance) = instances::store::find_instance_by_id(&mut *tx, id).await? else {
        return Ok(true);
    };
    let event = NewEvent::new(
        EventTarget::new(
            EventTargetKind::ServiceInstance,
            format!("{service}/{}", due.instance),
        ),
        Permission::SERVICE_INSTANCE_DELETE,
        instance.permission_contexts(),
        json!({ "again": true }),
    )
    .ignore_blocks();
    match events::record_event(&mut tx, &RequestContext::new_internal(), &event).await {
        Err(error) if error.kind() == ErrorKind::Locked => return Ok(false),
        event => event?,
    };
    // Read again under the lock.
    if store::find_removing_instance(&mut *tx, due.service_id, &due.instance).await? == Some(id) {
        instances::store::delete_instance(&mut tx, id).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Removes the bind whose unbind waited for this confirmation, with a rollout. Returns false if another
/// operation holds it; it is retried later.
async fn finish_unbind(core: &Core, due: &DueOrphan) -> Result<bool, Error> {
    let detail: BindDetail = serde_json::from_value(due.detail.clone()).map_err(Error::internal)?;
    match binds::store::find_bind(&core.db, detail.bind).await? {
        Some(bind) => {
            let mut tx = core.db.begin().await?;
            let begun = binds::retry_unbind(&mut tx, &RequestContext::new_internal(), &bind, false).await?;
            // Otherwise the rollback of the transaction drops its event.
            if begun {
                tx.commit().await?;
            }
            Ok(begun)
        }
        None => Ok(true),
    }
}
