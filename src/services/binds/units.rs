//! Telling services of the units of bound apps as they come and go, for services that admit unit by unit.
//! What should be: a service knows exactly the units that serve. A service without such calls says so once
//! and is not asked again for that bind; a failing one is tried again with growing pauses.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;

use crate::core::Core;
use crate::db::Db;
use crate::db::listen::Channel;
use crate::kernel::ids::ServiceId;
use crate::kernel::problem::Problem;
use crate::sagas::{Reconciler, Report};
use crate::services::binds::store::{self, Due};
use crate::services::binds::telling;
use crate::services::broker::{Behalf, Fault};
use crate::services::crews::Crews;

/// Calls of one crew at once; below the room of a lane, so that people's calls find some.
const AT_ONCE: i64 = 4;
/// How long a claim holds, in seconds: the calls may be repeated, so a dead replica's are soon.
const LEASE_SECONDS: f64 = 15.0;
/// Longest pause between two tries, in seconds.
const LONGEST_PAUSE: f64 = 300.0;

/// See the module.
pub struct UnitBinds {
    core: Core,
    crews: Crews,
}

impl UnitBinds {
    /// The reconciler.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            crews: Crews::new(core.tasks.clone(), core.stop.clone()),
        }
    }
}

#[async_trait]
impl Reconciler for UnitBinds {
    fn name(&self) -> &'static str {
        "unit-binds"
    }

    fn channels(&self) -> &'static [Channel] {
        &[Channel::Units, Channel::Routes]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn round(&self) -> Result<Report, Problem> {
        let came = store::insert_units_that_came(&self.core.db).await?;
        let went = store::update_units_that_went(&self.core.db).await?;
        let mut report = Report::default();
        if came + went > 0 {
            report.done.push(format!("{came} units came, {went} went"));
        }
        for service in store::list_due_services(&self.core.db, &self.crews.busy()).await? {
            let core = self.core.clone();
            self.crews.send(service.0, async move {
                if let Err(problem) = tell_all(&core, service).await {
                    tracing::warn!(%service, problem = %problem.chain(), "calls for units were not made");
                }
            });
        }
        Ok(report)
    }
}

/// Makes the calls for units anew that a replica which has died may have been about to make. One that is made
/// twice harms nobody.
pub async fn repeat_unit_calls(db: &Db) -> Result<(), Problem> {
    Ok(store::wake_units(db).await?)
}

/// Everything that a service has to be told now, a few calls at once.
async fn tell_all(core: &Core, service: ServiceId) -> Result<(), Problem> {
    loop {
        let due = store::claim_units(&core.db, service, AT_ONCE, LEASE_SECONDS).await?;
        if due.is_empty() {
            return Ok(());
        }
        try_join_all(due.iter().map(|due| tell(core, due))).await?;
    }
}

/// Makes one call and writes down what came of it.
async fn tell(core: &Core, due: &Due) -> Result<(), Problem> {
    let Some(bind) = store::find(&core.db, due.bind_id).await? else {
        return Ok(());
    };
    let broker = telling::broker(core, &bind).await?;
    let app = telling::bound(core, &bind);
    let by = Behalf::default();
    if due.leaving {
        return match broker
            .unbind_unit(&by, &bind.instance, &app, &due.unit_host)
            .await
        {
            Ok(()) => Ok(store::delete_unit(&core.db, due).await?),
            Err(fault) => postpone(core, due, &fault).await,
        };
    }
    match broker.bind_unit(&by, &bind.instance, &app, &due.unit_host).await {
        Ok(true) => {
            if !store::update_unit_bound(&core.db, due).await? {
                // Unbound while we were calling: the service must not keep the unit.
                let _ = broker
                    .unbind_unit(&by, &bind.instance, &app, &due.unit_host)
                    .await;
            }
            Ok(())
        }
        Ok(false) => Ok(store::stop_unit_calls(&core.db, due.bind_id).await?),
        Err(fault) => postpone(core, due, &fault).await,
    }
}

async fn postpone(core: &Core, due: &Due, fault: &Fault) -> Result<(), Problem> {
    let pause = 2.0_f64.powi(due.attempts.min(10)).min(LONGEST_PAUSE);
    tracing::warn!(unit = due.unit_id, problem = %fault.problem.chain(), pause, "a service could not be told of a unit; it will be told again");
    Ok(store::postpone_unit(&core.db, due, pause).await?)
}
