//! The hunt: tells services again and again, until they confirm.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::core::Core;
use crate::db::listen::Channel;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::ServiceId;
use crate::kernel::permission::Permission;
use crate::kernel::problem::{Kind, Problem};
use crate::sagas::{Reconciler, Report};
use crate::services::binds;
use crate::services::broker::{Behalf, Broker, Fate, Fault, Gone};
use crate::services::catalogue;
use crate::services::crews::Crews;
use crate::services::instances;
use crate::services::orphans::operator;
use crate::services::orphans::store::{self, Due};
use crate::services::orphans::{BindDetail, CONFIRMED};
use crate::services::sagas::lateness;

/// How often a claim is renewed; a fraction of its length.
const RENEW: Duration = Duration::from_secs(2);
/// Longest pause between two tries, in seconds.
const LONGEST_PAUSE: f64 = 300.0;
/// Tries in the first two days or so; from then on the pauses are longer.
const MANY_ATTEMPTS: i32 = 600;
/// Pause between two of so many tries, in seconds.
const LATE_PAUSE: f64 = 3600.0;

/// See the module.
pub struct Orphans {
    core: Core,
    crews: Crews,
}

impl Orphans {
    /// The reconciler.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            crews: Crews::new(core.tasks.clone(), core.stop.clone()),
        }
    }
}

#[async_trait]
impl Reconciler for Orphans {
    fn name(&self) -> &'static str {
        "orphans"
    }

    fn channels(&self) -> &'static [Channel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn round(&self) -> Result<Report, Problem> {
        let services = store::list_due_services(&self.core.db, &self.crews.busy()).await?;
        for service in &services {
            let (core, service) = (self.core.clone(), *service);
            self.crews.send(service.0, async move {
                if let Err(problem) = hunt_all(&core, service).await {
                    tracing::warn!(%service, problem = %problem.chain(), "a hunt failed");
                }
            });
        }
        let line = |service: &ServiceId| format!("telling the service {service} of what it may still hold");
        Ok(Report {
            done: services.iter().map(line).collect(),
            again: false,
        })
    }

    async fn open(&self) -> Result<Vec<String>, Problem> {
        let open = operator::list(&self.core, &Call::internal()).await?;
        Ok(open.iter().map(ToString::to_string).collect())
    }
}

/// Everything that a service has to be told now, one by one.
async fn hunt_all(core: &Core, service: ServiceId) -> Result<(), Problem> {
    while let Some(due) = store::claim(&core.db, service, core.replica, lateness(core)).await? {
        tokio::select! {
            biased;
            hunted = hunt(core, &due) => hunted?,
            () = keep(core, &due) => tracing::warn!(orphan = %due.id, "somebody else has taken a hunt over"),
        }
    }
    Ok(())
}

/// Renews the claim, however long the service takes. Returns when it is lost.
async fn keep(core: &Core, due: &Due) {
    loop {
        tokio::time::sleep(RENEW).await;
        // While the database is away nobody else can take it.
        if let Ok(false) = store::renew(&core.db, due.id, core.replica).await {
            return;
        }
    }
}

/// Tells the service once, and writes down what came of it.
async fn hunt(core: &Core, due: &Due) -> Result<(), Problem> {
    let Some(service) = catalogue::find_by_id(&core.db, due.service_id).await? else {
        return Ok(());
    };
    let broker = Broker::new(core, &service)?;
    let told = match due.what.as_str() {
        "instance" => broker.destroy(&Behalf::default(), &due.instance).await,
        _ => tell_unbound(&broker, due).await?,
    };
    match told {
        Err(fault) => {
            if fault.fate == Fate::Unknown {
                store::note_unheard(&core.db, due.id, core.replica, lateness(core)).await?;
            }
            return postpone(core, due, fault.problem.words()).await;
        }
        // A request that we gave up may arrive late: what is not there yet is asked for once more.
        Ok(Gone::NotThere) if due.age < lateness(core) => {
            return postpone(core, due, "the service knows nothing of it so far").await;
        }
        Ok(_) => {}
    }
    let settled = match due.what.as_str() {
        "instance" => settle_instance(core, due, service.name.as_str()).await?,
        _ => settle_bind(core, due).await?,
    };
    if !settled {
        return postpone(core, due, "confirmed; waiting for another event to end").await;
    }
    tracing::info!(service = %service.name, instance = %due.instance, what = due.what, "the service has confirmed");
    if due.unheard > 0.0 {
        return Ok(store::postpone(&core.db, due.id, core.replica, CONFIRMED, due.unheard).await?);
    }
    Ok(store::end(&core.db, due.id, core.replica).await?)
}

async fn tell_unbound(broker: &Broker, due: &Due) -> Result<Result<Gone, Fault>, Problem> {
    let detail: BindDetail = serde_json::from_value(due.detail.clone()).map_err(Problem::internal)?;
    let by = Behalf::default();
    for unit in &detail.units {
        if let Err(fault) = broker.unbind_unit(&by, &due.instance, &detail.app, unit).await {
            return Ok(Err(fault));
        }
    }
    Ok(broker.unbind_app(&by, &due.instance, &detail.app).await)
}

async fn postpone(core: &Core, due: &Due, reason: &str) -> Result<(), Problem> {
    let pause = match due.attempts {
        tries if tries > MANY_ATTEMPTS => LATE_PAUSE,
        tries => 1.5_f64.powi(tries.min(20)).min(LONGEST_PAUSE),
    };
    Ok(store::postpone(&core.db, due.id, core.replica, reason, pause).await?)
}

/// The instance whose removal had waited for this goes. False: somebody is at it; later.
async fn settle_instance(core: &Core, due: &Due, service: &str) -> Result<bool, Problem> {
    let mut tx = core.db.begin().await?;
    let Some(id) = store::find_removing(&mut *tx, due.service_id, &due.instance).await? else {
        return Ok(true);
    };
    let Some(instance) = instances::store::find_by_id(&mut *tx, id).await? else {
        return Ok(true);
    };
    let event = NewEvent::new(
        Target::new(TargetKind::ServiceInstance, format!("{service}/{}", due.instance)),
        Permission::SERVICE_INSTANCE_DELETE,
        instance.contexts(),
        json!({ "again": true }),
    );
    match events::record(&mut tx, &Call::internal(), &event).await {
        Err(problem) if problem.kind() == Kind::Locked => return Ok(false),
        event => event?,
    };
    // Read again under the lock.
    if store::find_removing(&mut *tx, due.service_id, &due.instance).await? == Some(id) {
        instances::store::delete(&mut tx, id).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// The bind whose end had waited for this goes, with a rollout. False: somebody is at it; later.
async fn settle_bind(core: &Core, due: &Due) -> Result<bool, Problem> {
    let detail: BindDetail = serde_json::from_value(due.detail.clone()).map_err(Problem::internal)?;
    match binds::store::find(&core.db, detail.bind).await? {
        Some(bind) => binds::unbind_again(core, &Call::internal(), &bind, false).await,
        None => Ok(true),
    }
}
