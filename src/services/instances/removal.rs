//! Removing an instance, as a saga. The row stays, in state `removing`, until the service has confirmed.
//!
//! unbind: tells the service of each bound app, their variables go (only if the user has said so) ·
//! release, start, switch: those apps run without them · call: `DELETE /resources/<name>`; if it fails
//! the instance shows why and is hunted on, unless the service has clearly said no: then it is as
//! before; once it has confirmed there is no way back · forget: the row goes.
//!
//! A removal that fails after *unbind* leaves an instance that nothing is bound to; the units of an app that
//! was not rolled out by then keep the variables until they are started anew.

use async_trait::async_trait;
use serde_json::json;

use crate::apps;
use crate::core::Core;
use crate::db;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::{BindId, EventId, InstanceId};
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::sagas::{self, Lane, NewSaga, Run, Saga, StepError};
use crate::services::binds;
use crate::services::binds::rollout::{self, HasRollout, Rollout};
use crate::services::broker::{Broker, Fate};
use crate::services::catalogue;
use crate::services::instances::actions::{Wanted, find_for};
use crate::services::instances::store;
use crate::services::model::{Edition, Instance, InstanceState};
use crate::services::orphans::{self, NewOrphan};
use crate::services::sagas::{Heard, behalf, heed, lateness};

const KIND: &str = "service-instance.delete";

/// What else a removal may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Removal {
    /// Unbind the apps first.
    pub unbind_all: bool,
    /// Remove it here whatever the service answers; what it may still hold is hunted.
    pub ignore_errors: bool,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Data {
    instance: InstanceId,
    user: String,
    ignore_errors: bool,
    heard: Heard,
    /// Binds that were bound and are being unbound.
    #[serde(default)]
    unbinding: Vec<BindId>,
    rollout: Rollout,
}

impl HasRollout for Data {
    fn rollout(&mut self) -> &mut Rollout {
        &mut self.rollout
    }
}

/// Begins the removal of an instance. Errors: `Precondition` while apps are bound, naming them.
pub async fn remove(
    core: &Core,
    call: &Call,
    wanted: &Wanted,
    how: Removal,
    edition: Edition,
) -> Result<EventId, Problem> {
    db::retry(|| try_to_remove(core, call, wanted, how, edition)).await
}

async fn try_to_remove(
    core: &Core,
    call: &Call,
    wanted: &Wanted,
    how: Removal,
    edition: Edition,
) -> Result<EventId, Problem> {
    let kind = Permission::SERVICE_INSTANCE_DELETE;
    let instance = find_for(core, call, wanted, kind, edition).await?;
    let data = json!({ "unbindall": how.unbind_all, "ignoreerrors": how.ignore_errors });
    let target = Target::new(TargetKind::ServiceInstance, instance.full_name());
    let mut event = NewEvent::new(target, kind, instance.contexts(), data);
    if how.unbind_all {
        for app in &instance.apps {
            let name = AppName::parse(app)?;
            let app = apps::find_for(core, call, &name, Permission::APP_UPDATE_UNBIND).await?;
            event = event.locking(Target::app(&app.name));
        }
    }
    let mut tx = core.db.begin().await?;
    let event = events::begin(&mut tx, call, &event).await?;
    // Under the lock: nobody binds it any more.
    let now = store::find_by_id(&mut *tx, instance.id)
        .await?
        .ok_or_else(|| Problem::not_found("service instance not found"))?;
    let unforeseen = now.apps.iter().any(|app| !instance.apps.contains(app));
    if !now.apps.is_empty() && (!how.unbind_all || unforeseen) {
        let apps: Vec<String> = now.apps.iter().map(|app| format!("\"{app}\"")).collect();
        return Err(Problem::precondition(format!(
            "This service instance is bound to at least one app. Unbind them before removing it. Applications bound to the service instance \"{}\": {}",
            instance.name,
            apps.join(", ")
        )));
    }
    store::update_state(&mut tx, instance.id, InstanceState::Removing, "").await?;
    let saga = NewSaga {
        kind: KIND,
        lane: Lane::People,
        event: Some(&event),
        host: None,
        data: &Data {
            instance: instance.id,
            user: call.owner().1,
            ignore_errors: how.ignore_errors,
            heard: Heard::Nothing,
            unbinding: Vec::new(),
            rollout: Rollout::default(),
        },
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(event)
}

/// See the module.
pub struct Remove {
    core: Core,
}

impl Remove {
    /// The kind of saga, with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn load(&self, data: &Data) -> Result<Option<Instance>, StepError> {
        Ok(store::find_by_id(&self.core.db, data.instance).await?)
    }

    async fn unbind(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        let Some(instance) = self.load(&data).await? else {
            return Ok(());
        };
        run.say("Removing service instance").await;
        for bind in binds::store::list_of_instance(&self.core.db, instance.id).await? {
            run.say(&format!("Unbind app \"{}\" ...", bind.app)).await;
            let mut tx = run.begin().await?;
            if binds::hush(&mut tx, &bind).await? {
                data.unbinding.push(bind.id);
                run.set_data(&data)?;
                run.keep_in(&mut tx).await?;
            } else {
                // The service was told before, and perhaps nobody heard its answer.
                let unheard = binds::store::Unheard::Unbind;
                binds::store::note_unheard(&mut tx, bind.id, unheard, lateness(&self.core)).await?;
            }
            tx.commit().await?;
            let by = behalf(run, &data.user);
            let told = heed(run, binds::tell_unbound(&self.core, &by, &bind)).await??;
            let left = match told {
                Ok(()) => None,
                Err(fault) if data.ignore_errors => Some(fault),
                Err(fault) => return Err(fault.problem.into()),
            };
            if !data.rollout.apps.contains(&bind.app_id) {
                data.rollout.apps.push(bind.app_id);
            }
            run.set_data(&data)?;
            let mut tx = run.begin().await?;
            binds::forget(&self.core, &mut tx, &bind, left.as_ref()).await?;
            run.keep_in(&mut tx).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    async fn call(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        if data.heard == Heard::Yes {
            return Ok(());
        }
        let Some(instance) = self.load(&data).await? else {
            return Ok(());
        };
        let service = catalogue::find_by_id(&self.core.db, instance.service_id).await?;
        let service = service.ok_or_else(|| Problem::internal("an instance without a service"))?;
        let broker = Broker::new(&self.core, &service)?;
        let unheard = data.heard == Heard::Sent;
        data.heard = Heard::Sent;
        run.set_data(&data)?;
        let mut tx = run.begin().await?;
        if unheard {
            store::note_unheard(&mut tx, instance.id, lateness(&self.core)).await?;
        }
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        let by = behalf(run, &data.user);
        let Err(fault) = heed(run, broker.destroy(&by, &instance.name)).await? else {
            data.heard = Heard::Yes;
            return run.set_data(&data);
        };
        data.heard = fault.fate.into();
        run.set_data(&data)?;
        if !data.ignore_errors {
            return Err(fault.problem.into());
        }
        run.say(&format!("Ignored: {}", fault.problem)).await;
        let mut tx = run.begin().await?;
        if fault.fate == Fate::Unknown {
            store::note_unheard(&mut tx, instance.id, lateness(&self.core)).await?;
        }
        let orphan = NewOrphan::instance(&instance, fault.problem.words());
        orphans::leave(&mut tx, &orphan).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What the user sees of an instance that could not be removed.
    async fn undo_call(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        let Some(instance) = self.load(&data).await? else {
            return Ok(());
        };
        let reason = run.problem().map(ToString::to_string).unwrap_or_default();
        let goes_on = !matches!(data.heard, Heard::Nothing | Heard::No(400..=499));
        let mut tx = run.begin().await?;
        if matches!(data.heard, Heard::Sent | Heard::Unknown) {
            store::note_unheard(&mut tx, instance.id, lateness(&self.core)).await?;
        }
        if goes_on {
            store::update_state(&mut tx, instance.id, InstanceState::Removing, &reason).await?;
            orphans::leave(&mut tx, &NewOrphan::instance(&instance, &reason)).await?;
        } else {
            store::update_state(&mut tx, instance.id, InstanceState::Ready, &reason).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// A failure before the call leaves the instance as it was.
    async fn undo_unbind(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        if data.heard != Heard::Nothing {
            return Ok(());
        }
        let mut tx = run.begin().await?;
        for bind in &data.unbinding {
            // Of those that are gone there is no row.
            binds::store::update_state(&mut tx, *bind, "bound").await?;
        }
        store::update_state(&mut tx, data.instance, InstanceState::Ready, "").await?;
        tx.commit().await?;
        Ok(())
    }

    async fn forget(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        let Some(instance) = self.load(&data).await? else {
            return Ok(());
        };
        let mut tx = run.begin().await?;
        if data.heard == Heard::Yes {
            orphans::confirmed(&mut tx, &NewOrphan::instance(&instance, orphans::CONFIRMED)).await?;
        }
        store::delete(&mut tx, instance.id).await?;
        tx.commit().await?;
        run.say("service instance successfully removed").await;
        Ok(())
    }
}

#[async_trait]
impl Saga for Remove {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["unbind", "release", "start", "switch", "call", "forget"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "unbind" => self.unbind(run).await,
            "call" => self.call(run).await,
            "forget" => self.forget(run).await,
            step => rollout::forward::<Data>(&self.core, step, run).await,
        }
    }

    fn forward_only(&self, _step: &'static str, run: &Run) -> bool {
        run.data().is_ok_and(|data: Data| data.heard == Heard::Yes)
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "unbind" => self.undo_unbind(run).await,
            "call" => self.undo_call(run).await,
            "forget" => Ok(()),
            step => rollout::undo::<Data>(step, run).await,
        }
    }
}
