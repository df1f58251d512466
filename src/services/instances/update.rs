//! Updates an instance, as a saga: the service first, then the row, so that both agree.
//!
//! - `call-service`: `PUT /resources/<name>` with the new values; undo: with the old ones, if the call may
//!   have been executed.
//! - `record-change`: updates the row; undo: restores the old values, which the saga keeps.

use async_trait::async_trait;
use serde_json::json;

use crate::core::Core;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::InstanceId;
use crate::kernel::names::TeamName;
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::sagas::{self, Saga, StepContext, StepError, saga_steps};
use crate::services::broker::{BrokerClient, InstanceParams};
use crate::services::calls::{CallState, cancellable, on_behalf_of};
use crate::services::catalogue;
use crate::services::instances::actions::{InstanceRef, find_authorized_instance};
use crate::services::instances::store;
use crate::services::model::{Disclosure, Instance, InstancePatch, validate_instance_fields};

saga_steps! {
    /// The steps of an update of an instance.
    pub enum UpdateInstanceStep {
        /// Updates the instance in the service.
        CallService = "call-service",
        /// Updates the row.
        RecordChange = "record-change",
    }
}

/// The persisted data of the saga.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct UpdateInstanceData {
    instance: InstanceId,
    user: String,
    patch: InstancePatch,
    heard: CallState,
    /// The values of the row before the change.
    #[serde(default)]
    old: Option<InstancePatch>,
    /// This change is what gave the new owner access.
    #[serde(default)]
    team_is_new: bool,
}

/// Returns the permissions that a patch needs: one for each field that it changes.
fn required_permissions(instance: &Instance, patch: &InstancePatch) -> Vec<Permission> {
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

/// Updates an instance and waits for the service. Errors: the message of the service.
pub async fn update_instance(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    patch: InstancePatch,
) -> Result<(), Error> {
    let read = Permission::SERVICE_INSTANCE_READ;
    let instance = find_authorized_instance(core, call, wanted, read, Disclosure::Hide).await?;
    let needed = required_permissions(&instance, &patch);
    let contexts = instance.permission_contexts();
    for permission in &needed {
        call.authorize(*permission, &contexts)?;
    }
    if needed.is_empty() {
        // No difference: still only for callers who may change the instance.
        call.authorize(Permission::SERVICE_INSTANCE_UPDATE_DESCRIPTION, &contexts)?;
        return Ok(());
    }
    if let Some(team) = &patch.team_owner {
        catalogue::ensure_team_exists(core, team).await?;
    }
    let fields = (&patch.description, &patch.plan, &patch.tags, &patch.parameters);
    validate_instance_fields(
        fields.0.as_deref().unwrap_or_default(),
        fields.1.as_deref().unwrap_or_default(),
        fields.2.as_deref().unwrap_or_default(),
        fields.3.as_ref().unwrap_or(&instance.parameters),
    )?;
    instance.ensure_ready()?;
    let event = begin_instance_update(core, call, &instance, patch, contexts).await?;
    events::follow_event(&core.db, &core.notices, &event)
        .wait_for_outcome()
        .await?
        .into_result()
}

async fn begin_instance_update(
    core: &Core,
    call: &RequestContext,
    instance: &Instance,
    patch: InstancePatch,
    contexts: Vec<PermissionContext>,
) -> Result<crate::kernel::ids::EventId, Error> {
    let data = json!({
        "description": patch.description, "teamowner": patch.team_owner, "plan": patch.plan, "tags": patch.tags,
        "parameters": patch.parameters.as_ref().map(|p| p.keys().collect::<Vec<_>>()),
    });
    let target = EventTarget::new(EventTargetKind::ServiceInstance, instance.full_name());
    let event = NewEvent::new(target, Permission::SERVICE_INSTANCE_UPDATE, contexts, data);
    let data = UpdateInstanceData {
        instance: instance.id,
        user: call.event_owner().1,
        patch,
        heard: CallState::Nothing,
        old: None,
        team_is_new: false,
    };
    sagas::start_saga::<UpdateInstanceSaga>(&core.db, call, &event, async |tx, _| {
        // A concurrent change since the lookup may require other permissions, or forbid the update.
        let now = store::find_instance_by_id(&mut *tx, instance.id)
            .await?
            .ok_or_else(|| Error::instance_not_found(&instance.name))?;
        now.ensure_ready()?;
        for permission in required_permissions(&now, &data.patch) {
            call.authorize(permission, &now.permission_contexts())?;
        }
        Ok(data)
    })
    .await
}

/// The saga that updates an instance; its steps are described in the module.
pub struct UpdateInstanceSaga {
    core: Core,
}

impl UpdateInstanceSaga {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn load_instance(&self, data: &UpdateInstanceData) -> Result<(Instance, BrokerClient), StepError> {
        let gone = || Error::not_found("The service instance is gone.");
        let instance = store::find_instance_by_id(&self.core.db, data.instance)
            .await?
            .ok_or_else(gone)?;
        let service = catalogue::find_service_by_id(&self.core.db, instance.service_id)
            .await?
            .ok_or_else(gone)?;
        let broker = BrokerClient::new(&self.core, &service)?;
        Ok((instance, broker))
    }

    async fn call_service(&self, data: &mut UpdateInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        let (old, broker) = self.load_instance(data).await?;
        data.heard = CallState::Sent;
        ctx.checkpoint(data, async |_, _| Ok(())).await?;
        let patch = &data.patch;
        let team = patch.team_owner.as_ref().unwrap_or(&old.team_owner);
        let params = InstanceParams {
            team: TeamName::as_str(team),
            plan: patch.plan.as_deref().unwrap_or(&old.plan),
            description: patch.description.as_deref().unwrap_or(&old.description),
            tags: patch.tags.as_deref().unwrap_or(&old.tags),
            parameters: patch.parameters.as_ref().unwrap_or(&old.parameters),
        };
        let by = on_behalf_of(ctx, &data.user);
        let result = cancellable(ctx, broker.update_instance(&by, &old.name, &params)).await?;
        data.heard = result
            .as_ref()
            .map_or_else(|f| f.delivery.into(), |()| CallState::Yes);
        result.map_err(|fault| fault.error.into())
    }

    async fn undo_call(&self, data: &UpdateInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        if matches!(
            data.heard,
            CallState::Nothing | CallState::Never | CallState::No(_)
        ) {
            return Ok(());
        }
        let (old, broker) = self.load_instance(data).await?;
        let params = InstanceParams {
            team: old.team_owner.as_str(),
            plan: &old.plan,
            description: &old.description,
            tags: &old.tags,
            parameters: &old.parameters,
        };
        let by = on_behalf_of(ctx, &data.user);
        if let Err(fault) = cancellable(ctx, broker.update_instance(&by, &old.name, &params)).await? {
            // Nothing is leaked; the next update sends all values again.
            tracing::warn!(error = %fault.error.report(), "cannot restore the old values in a service");
        }
        Ok(())
    }

    async fn record_change(&self, data: &mut UpdateInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        ctx.checkpoint(data, async |tx, data: &mut UpdateInstanceData| {
            let now = store::find_instance_by_id(&mut *tx, data.instance).await?;
            let now = now.ok_or_else(|| Error::not_found("The service instance is gone."))?;
            data.old.get_or_insert(InstancePatch {
                description: Some(now.description),
                team_owner: Some(now.team_owner),
                plan: Some(now.plan),
                tags: Some(now.tags),
                parameters: Some(now.parameters),
            });
            catalogue::map_missing_team(store::update_instance(tx, data.instance, &data.patch).await)?;
            if let Some(team) = &data.patch.team_owner {
                let new = store::insert_instance_teams(tx, data.instance, std::slice::from_ref(team)).await;
                data.team_is_new |= catalogue::map_missing_team(new)? == 1;
            }
            Ok(())
        })
        .await
    }

    async fn undo_change(&self, data: &UpdateInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(old) = &data.old else { return Ok(()) };
        ctx.write_fenced(async |tx| {
            store::update_instance(tx, data.instance, old).await?;
            if let Some(team) = data.patch.team_owner.as_ref().filter(|_| data.team_is_new) {
                store::delete_instance_team(tx, data.instance, team).await?;
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Saga for UpdateInstanceSaga {
    const KIND: &'static str = "service-instance.update";
    type Step = UpdateInstanceStep;
    type Data = UpdateInstanceData;

    async fn run_step(
        &self,
        step: UpdateInstanceStep,
        data: &mut UpdateInstanceData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            UpdateInstanceStep::CallService => self.call_service(data, ctx).await,
            UpdateInstanceStep::RecordChange => self.record_change(data, ctx).await,
        }
    }

    async fn undo_step(
        &self,
        step: UpdateInstanceStep,
        data: &mut UpdateInstanceData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            UpdateInstanceStep::CallService => self.undo_call(data, ctx).await,
            UpdateInstanceStep::RecordChange => self.undo_change(data, ctx).await,
        }
    }
}
