//! Making an instance, as a saga. The row is there from the beginning, in state `creating`.
//!
//! call: `POST /resources`; undo: `DELETE /resources/<name>` where the service has made it or may have, and
//! the row goes. What the service has refused is never destroyed: it may be somebody else's of that name.
//! ready: the instance may be used.

use async_trait::async_trait;

use crate::core::Core;
use crate::kernel::ids::InstanceId;
use crate::kernel::problem::Problem;
use crate::sagas::{Run, Saga, StepError};
use crate::services::broker::{Broker, Fate, Status, Wish};
use crate::services::catalogue;
use crate::services::instances::store;
use crate::services::model::{Instance, InstanceState};
use crate::services::orphans::{self, NewOrphan};
use crate::services::sagas::{Heard, behalf, heed, heed_making, lateness};

pub(super) const KIND: &str = "service-instance.create";

/// What the steps read and write down.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Data {
    instance: InstanceId,
    heard: Heard,
    /// An earlier try may have made it, so what the service has of that name is ours.
    #[serde(default)]
    resumed: bool,
    /// The undo was about to tell the service.
    #[serde(default)]
    undo_sent: bool,
}

impl Data {
    pub(super) fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            heard: Heard::Nothing,
            resumed: false,
            undo_sent: false,
        }
    }
}

/// See the module.
pub struct Create {
    core: Core,
}

impl Create {
    /// The kind of saga, with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn load(&self, data: &Data) -> Result<Option<(Instance, Broker)>, StepError> {
        let Some(instance) = store::find_by_id(&self.core.db, data.instance).await? else {
            return Ok(None);
        };
        let service = catalogue::find_by_id(&self.core.db, instance.service_id).await?;
        let service = service.ok_or_else(|| Problem::internal("an instance without a service"))?;
        let broker = Broker::new(&self.core, &service)?;
        Ok(Some((instance, broker)))
    }

    async fn call(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        let (instance, broker) = self
            .load(&data)
            .await?
            .ok_or_else(|| Problem::internal("the instance is gone"))?;
        if data.heard == Heard::Yes {
            // Done before a crash: asked again, the service would say that the name is taken.
            return Ok(());
        }
        let unheard = data.heard == Heard::Sent;
        data.resumed |= unheard;
        if data.resumed && is_there(run, &broker, &instance).await? {
            data.heard = Heard::Yes;
            return run.set_data(&data);
        }
        data.heard = Heard::Sent;
        run.set_data(&data)?;
        self.keep(run, &data, unheard).await?;
        run.say(&format!(
            "Creating the instance {} of {}",
            instance.name, instance.service
        ))
        .await;
        let wish = Wish {
            team: instance.team_owner.as_str(),
            plan: &instance.plan,
            description: &instance.description,
            tags: &instance.tags,
            parameters: &instance.parameters,
        };
        let by = behalf(run, &instance.owner);
        let late = NewOrphan::instance(&instance, orphans::LATE);
        let asking = broker.create(&by, &instance.name, &wish);
        let result = heed_making(&self.core, run, &late, asking).await?;
        let fault = match result {
            Ok(()) => None,
            // Asked again after a crash, it says that it has one: ours.
            Err(fault) if data.resumed && fault.fate == Fate::Refused(409) => None,
            Err(fault) => Some(fault),
        };
        data.heard = fault.as_ref().map_or(Heard::Yes, |fault| fault.fate.into());
        run.set_data(&data)?;
        run.keep().await?;
        match fault {
            None => Ok(()),
            Some(fault) => Err(fault.problem.into()),
        }
    }

    /// Keeps the data before a call, and notes that an earlier one was not heard of.
    async fn keep(&self, run: &Run, data: &Data, unheard: bool) -> Result<(), StepError> {
        let mut tx = run.begin().await?;
        if unheard {
            store::note_unheard(&mut tx, data.instance, lateness(&self.core)).await?;
        }
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn undo_call(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        let Some((instance, broker)) = self.load(&data).await? else {
            return Ok(());
        };
        match data.heard {
            Heard::Yes => return self.destroy(run, data, &instance, &broker).await,
            // What it has refused it has not made, and an earlier call of ours it would have refused as well.
            Heard::Nothing | Heard::No(_) => {}
            Heard::Never if !store::is_unheard(&self.core.db, instance.id).await? => {}
            // It hangs, or did: the hunt is at it at once, and the user need not wait for it.
            Heard::Never | Heard::Sent | Heard::Unknown => {
                let reason = "it is not known whether the service has made it";
                let mut tx = run.begin().await?;
                orphans::leave(&mut tx, &NewOrphan::instance(&instance, reason)).await?;
                store::delete(&mut tx, instance.id).await?;
                tx.commit().await?;
                return Ok(());
            }
        }
        let mut tx = run.begin().await?;
        store::delete(&mut tx, instance.id).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Has the service destroy what it has made.
    async fn destroy(
        &self,
        run: &mut Run,
        mut data: Data,
        instance: &Instance,
        broker: &Broker,
    ) -> Result<(), StepError> {
        let unheard = std::mem::replace(&mut data.undo_sent, true);
        run.set_data(&data)?;
        self.keep(run, &data, unheard).await?;
        let by = behalf(run, &instance.owner);
        let gone = heed(run, broker.destroy(&by, &instance.name)).await?;
        let mut tx = run.begin().await?;
        match gone {
            Ok(_) => orphans::confirmed(&mut tx, &NewOrphan::instance(instance, orphans::CONFIRMED)).await?,
            Err(fault) => {
                if fault.fate == Fate::Unknown {
                    store::note_unheard(&mut tx, instance.id, lateness(&self.core)).await?;
                }
                let orphan = NewOrphan::instance(instance, fault.problem.words());
                orphans::leave(&mut tx, &orphan).await?;
            }
        }
        store::delete(&mut tx, instance.id).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn ready(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        let mut tx = run.begin().await?;
        store::update_state(&mut tx, data.instance, InstanceState::Ready, "").await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Whether the service says that it has the instance: asked after a crash, when nobody knows whether the
/// request had arrived.
async fn is_there(run: &Run, broker: &Broker, instance: &Instance) -> Result<bool, StepError> {
    let status = heed(run, broker.status(&instance.name)).await?;
    Ok(matches!(status, Ok(Status::Up | Status::Pending)))
}

#[async_trait]
impl Saga for Create {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["call", "ready"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "call" => self.call(run).await,
            _ => self.ready(run).await,
        }
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "call" => self.undo_call(run).await,
            _ => Ok(()),
        }
    }
}
