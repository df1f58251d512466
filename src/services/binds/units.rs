//! Notifies services of the units of bound apps as they start and stop, for services that grant access to
//! single units.
//!
//! Desired state: a service knows exactly the hosts of serving units, without ports, because it grants access
//! to addresses. Units that share a host are announced with the first of them and withdrawn with the last. A
//! service without such calls is called once for each bind and not again; a failing service is retried with
//! growing pauses.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::core::Core;
use crate::db::Db;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::kernel::ids::ServiceId;
use crate::sagas::{KeyedTasks, ReconcileReport, Reconciler};
use crate::services::binds::notify;
use crate::services::binds::store::{self, DueUnitCall};
use crate::services::broker::{BrokerError, OnBehalfOf};

/// Maximum number of concurrent calls of the task of one service; below the limit of its bulkhead, so that
/// interactive calls find free slots.
const MAX_CONCURRENT_CALLS: i64 = 4;
/// How long a claim lasts, in seconds. Calls may be repeated, so those of a dead replica are repeated soon.
const LEASE_SECONDS: f64 = 15.0;
/// Longest pause between two attempts, in seconds.
const MAX_RETRY_PAUSE: f64 = 300.0;

/// The reconciler that announces units to services; at most one task for each service.
pub struct UnitBindReconciler {
    core: Core,
    services: KeyedTasks,
}

impl UnitBindReconciler {
    /// Creates the reconciler.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            services: KeyedTasks::new(core.work.clone(), core.stop.clone()),
        }
    }
}

#[async_trait]
impl Reconciler for UnitBindReconciler {
    fn name(&self) -> &'static str {
        "unit-binds"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Units, NoticeChannel::Routes]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let came = store::plan_unit_binds(&self.core.db).await?;
        let went = store::plan_unit_unbinds(&self.core.db).await?;
        let mut report = ReconcileReport::default();
        if came + went > 0 {
            report
                .done
                .push(format!("{came} unit addresses to bind, {went} to unbind"));
        }
        for service in store::list_due_services(&self.core.db, &self.services.busy_keys()).await? {
            let core = self.core.clone();
            self.services.spawn(service.0, async move {
                if let Err(error) = send_due_unit_calls(&core, service).await {
                    tracing::warn!(%service, error = %error.report(), "cannot make the unit calls of a service");
                }
            });
        }
        Ok(report)
    }
}

/// Makes the unit calls due again that a dead replica may have been about to make. A repeated call does no
/// harm.
pub async fn repeat_unit_calls(db: &Db) -> Result<(), Error> {
    Ok(store::wake_unit_calls(db).await?)
}

/// Makes all due calls of a service, a few at a time.
async fn send_due_unit_calls(core: &Core, service: ServiceId) -> Result<(), Error> {
    loop {
        let due = store::claim_unit_calls(&core.db, service, MAX_CONCURRENT_CALLS, LEASE_SECONDS).await?;
        if due.is_empty() {
            return Ok(());
        }
        join_all(due.iter().map(|due| async move {
            // It is retried when its claim has ended; the other calls are not held up.
            if let Err(error) = send_unit_call(core, due).await {
                tracing::warn!(unit_host = due.unit_host, error = %error.report(), "cannot make a unit call");
            }
        }))
        .await;
    }
}

/// Makes one call and records the result.
async fn send_unit_call(core: &Core, due: &DueUnitCall) -> Result<(), Error> {
    let Some(bind) = store::find_bind(&core.db, due.bind_id).await? else {
        return Ok(());
    };
    let broker = notify::open_broker(core, &bind).await?;
    let app = notify::bound_app(core, &bind);
    let by = OnBehalfOf::default();
    if due.leaving {
        return match broker
            .unbind_unit(&by, &bind.instance, &app, &due.unit_host)
            .await
        {
            Ok(()) => Ok(store::delete_unit_call(&core.db, due).await?),
            Err(fault) => postpone_unit_call(core, due, &fault).await,
        };
    }
    match broker.bind_unit(&by, &bind.instance, &app, &due.unit_host).await {
        Ok(true) => {
            if !store::mark_unit_bound(&core.db, due).await? {
                // Unbound during the call: the service must not keep the unit.
                let _ = broker
                    .unbind_unit(&by, &bind.instance, &app, &due.unit_host)
                    .await;
            }
            Ok(())
        }
        Ok(false) => Ok(store::disable_unit_calls(&core.db, due.bind_id).await?),
        Err(fault) => postpone_unit_call(core, due, &fault).await,
    }
}

async fn postpone_unit_call(core: &Core, due: &DueUnitCall, fault: &BrokerError) -> Result<(), Error> {
    let pause = 2.0_f64.powi(due.attempts.min(10)).min(MAX_RETRY_PAUSE);
    tracing::warn!(unit = due.unit_host, error = %fault.error.report(), pause, "a unit call failed; it is retried later");
    Ok(store::postpone_unit_call(&core.db, due, pause).await?)
}
