//! Changing an instance, as a saga: the service first, then our row, so that both say the same.
//!
//! call: `PUT /resources/<name>` with the new values; undo: with the old ones, where it may have
//! happened · record: the row; undo: the old values, which the saga keeps.

use async_trait::async_trait;
use serde_json::json;

use crate::core::Core;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::InstanceId;
use crate::kernel::names::TeamName;
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::Problem;
use crate::sagas::{self, Lane, NewSaga, Run, Saga, StepError};
use crate::services::broker::{Broker, Wish};
use crate::services::catalogue;
use crate::services::instances::actions::{Wanted, find_for};
use crate::services::instances::store;
use crate::services::model::{Edition, Instance, InstancePatch, check_texts};
use crate::services::sagas::{Heard, behalf, heed};

const KIND: &str = "service-instance.update";

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Data {
    instance: InstanceId,
    user: String,
    patch: InstancePatch,
    heard: Heard,
    /// What the row said before it was changed.
    #[serde(default)]
    old: Option<InstancePatch>,
    /// Only this change gave the new owner access.
    #[serde(default)]
    team_is_new: bool,
}

/// The permissions that a patch needs: one for each field that it changes.
fn needed(instance: &Instance, patch: &InstancePatch) -> Vec<Permission> {
    let changed = |yes: bool, permission| yes.then_some(permission);
    [
        changed(
            patch
                .description
                .as_ref()
                .is_some_and(|d| *d != instance.description),
            Permission::SERVICE_INSTANCE_UPDATE_DESCRIPTION,
        ),
        changed(
            patch
                .team_owner
                .as_ref()
                .is_some_and(|t| *t != instance.team_owner),
            Permission::SERVICE_INSTANCE_UPDATE_TEAMOWNER,
        ),
        changed(
            patch.plan.as_ref().is_some_and(|p| *p != instance.plan),
            Permission::SERVICE_INSTANCE_UPDATE_PLAN,
        ),
        changed(
            patch.tags.as_ref().is_some_and(|t| *t != instance.tags),
            Permission::SERVICE_INSTANCE_UPDATE_TAGS,
        ),
        changed(
            patch
                .parameters
                .as_ref()
                .is_some_and(|p| *p != instance.parameters),
            Permission::SERVICE_INSTANCE_UPDATE_PARAMETERS,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Changes an instance and waits for the service. Errors: what the service said.
pub async fn update(core: &Core, call: &Call, wanted: &Wanted, patch: InstancePatch) -> Result<(), Problem> {
    let read = Permission::SERVICE_INSTANCE_READ;
    let instance = find_for(core, call, wanted, read, Edition::Modern).await?;
    let needed = needed(&instance, &patch);
    let contexts = instance.contexts();
    for permission in &needed {
        call.allow(*permission, &contexts)?;
    }
    if needed.is_empty() {
        // Nothing differs: still only for those who might change it.
        call.allow(Permission::SERVICE_INSTANCE_UPDATE_DESCRIPTION, &contexts)?;
        return Ok(());
    }
    if let Some(team) = &patch.team_owner {
        catalogue::ensure_team(core, team).await?;
    }
    let texts = (&patch.description, &patch.plan, &patch.tags, &patch.parameters);
    check_texts(
        texts.0.as_deref().unwrap_or_default(),
        texts.1.as_deref().unwrap_or_default(),
        texts.2.as_deref().unwrap_or_default(),
        texts.3.as_ref().unwrap_or(&instance.parameters),
    )?;
    instance.ensure_ready()?;
    let event = begin(core, call, &instance, patch, contexts).await?;
    events::follow(&core.db, &core.notices, &event)
        .outcome()
        .await?
        .into_result()
}

async fn begin(
    core: &Core,
    call: &Call,
    instance: &Instance,
    patch: InstancePatch,
    contexts: Vec<Context>,
) -> Result<crate::kernel::ids::EventId, Problem> {
    let data = json!({
        "description": patch.description, "teamowner": patch.team_owner, "plan": patch.plan, "tags": patch.tags,
        "parameters": patch.parameters.as_ref().map(|p| p.keys().collect::<Vec<_>>()),
    });
    let target = Target::new(TargetKind::ServiceInstance, instance.full_name());
    let event = NewEvent::new(target, Permission::SERVICE_INSTANCE_UPDATE, contexts, data);
    let mut tx = core.db.begin().await?;
    let event = events::begin(&mut tx, call, &event).await?;
    let saga = NewSaga {
        kind: KIND,
        lane: Lane::People,
        event: Some(&event),
        host: None,
        data: &Data {
            instance: instance.id,
            user: call.owner().1,
            patch,
            heard: Heard::Nothing,
            old: None,
            team_is_new: false,
        },
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(event)
}

/// See the module.
pub struct Update {
    core: Core,
}

impl Update {
    /// The kind of saga, with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn load(&self, data: &Data) -> Result<(Instance, Broker), StepError> {
        let gone = || Problem::not_found("The service instance is gone.");
        let instance = store::find_by_id(&self.core.db, data.instance)
            .await?
            .ok_or_else(gone)?;
        let service = catalogue::find_by_id(&self.core.db, instance.service_id)
            .await?
            .ok_or_else(gone)?;
        let broker = Broker::new(&self.core, &service)?;
        Ok((instance, broker))
    }

    async fn call(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        let (old, broker) = self.load(&data).await?;
        data.heard = Heard::Sent;
        run.set_data(&data)?;
        run.keep().await?;
        let patch = &data.patch;
        let team = patch.team_owner.as_ref().unwrap_or(&old.team_owner);
        let wish = Wish {
            team: TeamName::as_str(team),
            plan: patch.plan.as_deref().unwrap_or(&old.plan),
            description: patch.description.as_deref().unwrap_or(&old.description),
            tags: patch.tags.as_deref().unwrap_or(&old.tags),
            parameters: patch.parameters.as_ref().unwrap_or(&old.parameters),
        };
        let by = behalf(run, &data.user);
        let result = heed(run, broker.update(&by, &old.name, &wish)).await?;
        data.heard = result.as_ref().map_or_else(|f| f.fate.into(), |()| Heard::Yes);
        run.set_data(&data)?;
        result.map_err(|fault| fault.problem.into())
    }

    async fn undo_call(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        if matches!(data.heard, Heard::Nothing | Heard::Never | Heard::No(_)) {
            return Ok(());
        }
        let (old, broker) = self.load(&data).await?;
        let wish = Wish {
            team: old.team_owner.as_str(),
            plan: &old.plan,
            description: &old.description,
            tags: &old.tags,
            parameters: &old.parameters,
        };
        let by = behalf(run, &data.user);
        if let Err(fault) = heed(run, broker.update(&by, &old.name, &wish)).await? {
            // Nothing is leaked; the next update says it all again.
            tracing::warn!(problem = %fault.problem.chain(), "a service could not be told the old values");
        }
        Ok(())
    }

    async fn record(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        let mut tx = run.begin().await?;
        let now = store::find_by_id(&mut *tx, data.instance).await?;
        let now = now.ok_or_else(|| Problem::not_found("The service instance is gone."))?;
        data.old.get_or_insert(InstancePatch {
            description: Some(now.description),
            team_owner: Some(now.team_owner),
            plan: Some(now.plan),
            tags: Some(now.tags),
            parameters: Some(now.parameters),
        });
        catalogue::teams_are_there(store::update(&mut tx, data.instance, &data.patch).await)?;
        if let Some(team) = &data.patch.team_owner {
            let new = store::insert_teams(&mut tx, data.instance, std::slice::from_ref(team)).await;
            data.team_is_new |= catalogue::teams_are_there(new)? == 1;
        }
        run.set_data(&data)?;
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn undo_record(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        let Some(old) = &data.old else { return Ok(()) };
        let mut tx = run.begin().await?;
        store::update(&mut tx, data.instance, old).await?;
        if let Some(team) = data.patch.team_owner.as_ref().filter(|_| data.team_is_new) {
            store::delete_team(&mut tx, data.instance, team).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

#[async_trait]
impl Saga for Update {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["call", "record"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "call" => self.call(run).await,
            _ => self.record(run).await,
        }
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "call" => self.undo_call(run).await,
            _ => self.undo_record(run).await,
        }
    }
}
