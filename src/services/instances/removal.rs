//! Removes an instance, as a saga. The row stays in state `removing` until the service has confirmed.
//!
//! - `unbind-apps`: unbinds each bound app in the service and deletes its variables (only if the user asked
//!   for it).
//! - The rollout steps: the apps run without the variables.
//! - `call-service`: `DELETE /resources/<name>`; if it fails, the instance shows the reason and is an orphan,
//!   unless the service clearly refused: then the instance is as before; once the service has confirmed,
//!   there is no way back.
//! - `delete-instance`: deletes the row.
//!
//! If an earlier removal has left the instance `removing`, this removal never makes it ready again, whatever
//! the service responds: the service may have executed the earlier one.
//!
//! A removal that fails after *unbind-apps* leaves an instance without binds; the units of an app that was
//! not rolled out by then keep the variables until they are restarted.

use async_trait::async_trait;
use serde_json::json;
use sqlx::PgConnection;

use crate::apps;
use crate::core::Core;
use crate::db;
use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::{BindId, EventId, InstanceId};
use crate::kernel::names::{AppName, JobName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::releases::rollout_steps::{self, HasRollout, RolloutProgress};
use crate::sagas::{self, Saga, StepContext, StepError, saga_steps};
use crate::services::binds;
use crate::services::binds::store::UncertainCall;
use crate::services::broker::{BrokerClient, CallDelivery};
use crate::services::calls::{CallState, cancellable, late_arrival_window, on_behalf_of};
use crate::services::catalogue;
use crate::services::instances::actions::{InstanceRef, find_authorized_instance};
use crate::services::instances::store;
use crate::services::model::{Disclosure, Instance, InstanceState};
use crate::services::orphans::{self, NewOrphan};

saga_steps! {
    /// The steps of the removal of an instance.
    pub enum RemoveInstanceStep {
        /// Unbinds the instance from every app.
        UnbindApps = "unbind-apps",
        /// Creates a candidate release of each of these apps.
        CreateCandidates = "create-candidate",
        /// Waits until their units are ready.
        WaitForUnits = "wait-for-units",
        /// Promotes the candidates to the current releases.
        Promote = "promote",
        /// Waits until the routers know their units.
        WaitForRouters = "wait-for-routers",
        /// Asks the service to destroy the instance.
        CallService = "call-service",
        /// Deletes the row of the instance.
        DeleteInstance = "delete-instance",
    }
}

/// The options of a removal.
#[derive(Clone, Copy, Debug, Default)]
pub struct InstanceRemovalOptions {
    /// Unbind the apps first.
    pub unbind_all: bool,
    /// Remove the instance in Tancho whatever the service responds; what the service may still hold becomes
    /// an orphan.
    pub ignore_errors: bool,
}

/// The persisted data of the saga.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct RemoveInstanceData {
    instance: InstanceId,
    user: String,
    ignore_errors: bool,
    /// An earlier removal is unconfirmed: the service may have executed it, so only its confirmation counts
    /// now.
    #[serde(default)]
    again: bool,
    heard: CallState,
    /// Binds that were `bound` and are being unbound.
    #[serde(default)]
    unbinding: Vec<BindId>,
    rollout: RolloutProgress,
}

impl HasRollout for RemoveInstanceData {
    fn rollout(&self) -> &RolloutProgress {
        &self.rollout
    }

    fn rollout_mut(&mut self) -> &mut RolloutProgress {
        &mut self.rollout
    }
}

/// Begins the removal of an instance. Errors: `Precondition` naming the bound apps, if there are any.
pub async fn remove_instance(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    how: InstanceRemovalOptions,
    disclosure: Disclosure,
) -> Result<EventId, Error> {
    db::retry_transaction(|| begin_instance_removal(core, call, wanted, how, disclosure)).await
}

async fn begin_instance_removal(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    how: InstanceRemovalOptions,
    disclosure: Disclosure,
) -> Result<EventId, Error> {
    let kind = Permission::SERVICE_INSTANCE_DELETE;
    let instance = find_authorized_instance(core, call, wanted, kind, disclosure).await?;
    let data = json!({ "unbindall": how.unbind_all, "ignoreerrors": how.ignore_errors });
    let target = EventTarget::new(EventTargetKind::ServiceInstance, instance.full_name());
    let mut event = NewEvent::new(target, kind, instance.permission_contexts(), data);
    if how.unbind_all {
        for app in &instance.apps {
            let name = AppName::parse(app)?;
            let app = apps::find_authorized_app(core, call, &name, Permission::APP_UPDATE_UNBIND).await?;
            event = event.with_lock(EventTarget::for_app(&app.name));
        }
        for job in &instance.jobs {
            let job = apps::find_job_app(core, &JobName::parse(job)?).await?;
            call.authorize(Permission::JOB_UPDATE, &job.permission_contexts())?;
            event = event.with_lock(job.event_target());
        }
    }
    let user = call.event_owner().1;
    sagas::start_saga::<RemoveInstanceSaga>(&core.db, call, &event, async |tx, _| {
        let now = check_unbound(tx, &instance, how).await?;
        store::update_instance_state(tx, instance.id, InstanceState::Removing, "").await?;
        Ok(RemoveInstanceData {
            instance: instance.id,
            user,
            ignore_errors: how.ignore_errors,
            again: now.state == InstanceState::Removing,
            heard: CallState::Nothing,
            unbinding: Vec::new(),
            rollout: RolloutProgress::default(),
        })
    })
    .await
}

/// Refuses the removal of a bound instance, unless the request unbinds exactly the apps that it has locked.
/// Runs under the lock of the event, so nobody can bind the instance any more. Returns the instance as it is
/// now.
async fn check_unbound(
    tx: &mut PgConnection,
    instance: &Instance,
    how: InstanceRemovalOptions,
) -> Result<Instance, Error> {
    let now = store::find_instance_by_id(&mut *tx, instance.id)
        .await?
        .ok_or_else(|| Error::instance_not_found(&instance.name))?;
    let has_new_app = now.apps.iter().any(|app| !instance.apps.contains(app))
        || now.jobs.iter().any(|job| !instance.jobs.contains(job));
    let is_bound = !now.apps.is_empty() || !now.jobs.is_empty();
    if is_bound && (!how.unbind_all || has_new_app) {
        let bound = now.apps.iter().chain(&now.jobs);
        let apps: Vec<String> = bound.map(|app| format!("\"{app}\"")).collect();
        return Err(Error::precondition(format!(
            "This service instance is bound to at least one app. Unbind them before removing it. Applications bound to the service instance \"{}\": {}",
            instance.name,
            apps.join(", ")
        )));
    }
    Ok(now)
}

/// The saga that removes an instance; its steps are described in the module.
pub struct RemoveInstanceSaga {
    core: Core,
}

impl RemoveInstanceSaga {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn load_instance(&self, data: &RemoveInstanceData) -> Result<Option<Instance>, StepError> {
        Ok(store::find_instance_by_id(&self.core.db, data.instance).await?)
    }

    async fn unbind_apps(&self, data: &mut RemoveInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(instance) = self.load_instance(data).await? else {
            return Ok(());
        };
        ctx.append_log("Removing service instance").await;
        for bind in binds::store::list_binds_of_instance(&self.core.db, instance.id).await? {
            ctx.append_log(&format!("Unbind {} \"{}\" ...", bind.kind.as_str(), bind.app))
                .await;
            ctx.checkpoint(data, async |tx, data: &mut RemoveInstanceData| {
                if binds::mark_unbinding(tx, &bind).await? {
                    data.unbinding.push(bind.id);
                } else {
                    // An earlier unbind was sent, and its response may not have been received.
                    let (call, window) = (UncertainCall::Unbind, late_arrival_window(&self.core));
                    binds::store::set_uncertain_until(tx, bind.id, call, window).await?;
                }
                Ok(())
            })
            .await?;
            let by = on_behalf_of(ctx, &data.user);
            let result = cancellable(ctx, binds::send_unbind(&self.core, &by, &bind)).await??;
            let left = match result {
                Ok(()) => None,
                Err(fault) if data.ignore_errors => Some(fault),
                Err(fault) => return Err(fault.error.into()),
            };
            ctx.checkpoint(data, async |tx, data: &mut RemoveInstanceData| {
                data.rollout.add_app(bind.app_id);
                Ok(binds::remove_bind(&self.core, tx, &bind, left.as_ref()).await?)
            })
            .await?;
        }
        Ok(())
    }

    async fn call_service(&self, data: &mut RemoveInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        if data.heard == CallState::Yes {
            return Ok(());
        }
        let Some(instance) = self.load_instance(data).await? else {
            return Ok(());
        };
        let service = catalogue::find_service_by_id(&self.core.db, instance.service_id).await?;
        let service = service.ok_or_else(|| Error::internal("an instance without a service"))?;
        let broker = BrokerClient::new(&self.core, &service)?;
        ctx.checkpoint(data, async |tx, data: &mut RemoveInstanceData| {
            if std::mem::replace(&mut data.heard, CallState::Sent) == CallState::Sent {
                self.set_uncertain(tx, instance.id).await?;
            }
            Ok(())
        })
        .await?;
        let by = on_behalf_of(ctx, &data.user);
        let Err(fault) = cancellable(ctx, broker.destroy_instance(&by, &instance.name)).await? else {
            data.heard = CallState::Yes;
            return Ok(());
        };
        data.heard = fault.delivery.into();
        if !data.ignore_errors {
            return Err(fault.error.into());
        }
        ctx.append_log(&format!("Ignored: {}", fault.error)).await;
        ctx.write_fenced(async |tx| {
            if fault.delivery == CallDelivery::Unknown {
                self.set_uncertain(tx, instance.id).await?;
            }
            let orphan = NewOrphan::for_instance(&instance, fault.error.message());
            Ok(orphans::record_orphan(tx, &orphan).await?)
        })
        .await
    }

    /// Notes on the row that a call got no response and may still be executed.
    async fn set_uncertain(&self, tx: &mut PgConnection, instance: InstanceId) -> Result<(), Error> {
        Ok(store::set_uncertain_until(tx, instance, late_arrival_window(&self.core)).await?)
    }

    /// Sets the state and the reason of an instance that could not be removed.
    async fn undo_call(&self, data: &RemoveInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(instance) = self.load_instance(data).await? else {
            return Ok(());
        };
        let reason = ctx.failure_reason().map(ToString::to_string).unwrap_or_default();
        let goes_on = data.again || !matches!(data.heard, CallState::Nothing | CallState::No(400..=499));
        ctx.write_fenced(async |tx| {
            if matches!(data.heard, CallState::Sent | CallState::Unknown) {
                self.set_uncertain(tx, instance.id).await?;
            }
            match goes_on {
                true => leave_to_reaper(tx, &instance, &reason).await?,
                false => {
                    store::update_instance_state(tx, instance.id, InstanceState::Ready, &reason).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// After a failure before the call, restores the instance and its binds.
    async fn undo_unbind(&self, data: &RemoveInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        if data.heard != CallState::Nothing {
            return Ok(());
        }
        let Some(instance) = self.load_instance(data).await? else {
            return Ok(());
        };
        let reason = ctx.failure_reason().map(ToString::to_string).unwrap_or_default();
        ctx.write_fenced(async |tx| {
            for bind in &data.unbinding {
                // A bind that is gone already has no row.
                binds::store::update_bind_state(tx, *bind, "bound").await?;
            }
            match data.again {
                true => leave_to_reaper(tx, &instance, &reason).await?,
                false => store::update_instance_state(tx, instance.id, InstanceState::Ready, "").await?,
            }
            Ok(())
        })
        .await
    }

    async fn delete_instance(&self, data: &RemoveInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(instance) = self.load_instance(data).await? else {
            return Ok(());
        };
        ctx.write_fenced(async |tx| {
            if data.heard == CallState::Yes {
                let orphan = NewOrphan::for_instance(&instance, orphans::REASON_CONFIRMED);
                orphans::record_confirmed(tx, &orphan).await?;
            }
            Ok(store::delete_instance(tx, instance.id).await?)
        })
        .await?;
        ctx.append_log("service instance successfully removed").await;
        Ok(())
    }
}

/// Keeps the instance `removing` and records an orphan, so that the reaper repeats the call until the service
/// confirms.
async fn leave_to_reaper(tx: &mut PgConnection, instance: &Instance, reason: &str) -> Result<(), Error> {
    store::update_instance_state(tx, instance.id, InstanceState::Removing, reason).await?;
    orphans::record_orphan(tx, &NewOrphan::for_instance(instance, reason)).await
}

#[async_trait]
impl Saga for RemoveInstanceSaga {
    const KIND: &'static str = "service-instance.delete";
    type Step = RemoveInstanceStep;
    type Data = RemoveInstanceData;

    async fn run_step(
        &self,
        step: RemoveInstanceStep,
        data: &mut RemoveInstanceData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            RemoveInstanceStep::UnbindApps => self.unbind_apps(data, ctx).await,
            RemoveInstanceStep::CreateCandidates => {
                rollout_steps::create_from_current(&self.core, ctx, data).await
            }
            RemoveInstanceStep::WaitForUnits => {
                rollout_steps::wait_for_ready_units(&self.core, ctx, &data.rollout).await
            }
            RemoveInstanceStep::Promote => {
                rollout_steps::promote_candidates(ctx, data, rollout_steps::write_nothing).await
            }
            RemoveInstanceStep::WaitForRouters => {
                rollout_steps::wait_for_serving_units(&self.core, ctx, &data.rollout).await
            }
            RemoveInstanceStep::CallService => self.call_service(data, ctx).await,
            RemoveInstanceStep::DeleteInstance => self.delete_instance(data, ctx).await,
        }
    }

    fn is_forward_only(&self, _step: RemoveInstanceStep, data: &RemoveInstanceData) -> bool {
        data.heard == CallState::Yes
    }

    async fn undo_step(
        &self,
        step: RemoveInstanceStep,
        data: &mut RemoveInstanceData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            RemoveInstanceStep::UnbindApps => self.undo_unbind(data, ctx).await,
            RemoveInstanceStep::CreateCandidates => {
                rollout_steps::discard_candidates(ctx, data).await.map(drop)
            }
            RemoveInstanceStep::CallService => self.undo_call(data, ctx).await,
            RemoveInstanceStep::WaitForUnits
            | RemoveInstanceStep::Promote
            | RemoveInstanceStep::WaitForRouters
            | RemoveInstanceStep::DeleteInstance => Ok(()),
        }
    }
}
