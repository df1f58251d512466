//! Unbinds an instance from an app, as a saga. The bind is in state `unbinding` from the beginning.
//!
//! - `unbind-units`: `DELETE …/bind` for each unit that the service may know; undo: `bound` again, and the
//!   reconciler announces the units again.
//! - `call-service`: `DELETE …/bind-app`, then the bind and its variables are deleted; a refusal leaves the
//!   bind as it was; if the outcome is unknown, the bind stays `unbinding` and the unbind is repeated until
//!   the service confirms.
//! - The rollout steps: the app runs without the variables.
//!
//! Once the service has confirmed, the app is unbound. If it cannot be rolled out then, the event fails with
//! the reason, and the units of the app keep the variables until they are restarted.

use async_trait::async_trait;
use serde_json::json;
use sqlx::PgConnection;

use crate::apps::AppKind;
use crate::core::Core;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::{AppId, BindId};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::releases::rollout_steps::{self, HasRollout, RolloutProgress};
use crate::sagas::{self, Saga, SagaQueue, StepContext, StepError, saga_steps};
use crate::services::binds::notify;
use crate::services::binds::store::{self, UncertainCall};
use crate::services::broker::BrokerError;
use crate::services::calls::{CallState, cancellable, late_arrival_window, on_behalf_of};
use crate::services::instances;
use crate::services::model;
use crate::services::orphans::{self, NewOrphan};

saga_steps! {
    /// The steps of an unbind.
    pub enum UnbindStep {
        /// Sends the unbind of each unit that the service may know.
        UnbindUnits = "unbind-units",
        /// Sends the unbind of the app; then deletes the bind and its variables.
        CallService = "call-service",
        /// Creates a candidate release of the app without the variables.
        CreateCandidate = "create-candidate",
        /// Waits until its units are ready.
        WaitForUnits = "wait-for-units",
        /// Promotes the candidate to the current release.
        Promote = "promote",
        /// Waits until the routers know its units.
        WaitForRouters = "wait-for-routers",
    }
}

/// The persisted data of the saga.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct UnbindData {
    bind: BindId,
    /// The user of the request; empty if Tancho itself repeats the unbind.
    user: String,
    force: bool,
    /// An earlier unbind is unconfirmed: the service may have executed it, so only its confirmation counts
    /// now.
    again: bool,
    heard: CallState,
    rollout: RolloutProgress,
}

impl UnbindData {
    pub(super) fn new(bind: BindId, user: String, force: bool, again: bool, rollout: Option<AppId>) -> Self {
        Self {
            bind,
            user,
            force,
            again,
            heard: CallState::Nothing,
            rollout: RolloutProgress::for_app(rollout),
        }
    }
}

impl HasRollout for UnbindData {
    fn rollout(&self) -> &RolloutProgress {
        &self.rollout
    }

    fn rollout_mut(&mut self) -> &mut RolloutProgress {
        &mut self.rollout
    }
}

/// Completes an unbind that a service has confirmed late; with `force`, whatever the service responds.
/// Returns false if another operation on the app or the instance is running: then the caller must roll back
/// the transaction and retry later.
pub(in crate::services) async fn retry_unbind(
    tx: &mut PgConnection,
    call: &RequestContext,
    bind: &model::Bind,
    force: bool,
) -> Result<bool, Error> {
    let Some(instance) = instances::store::find_instance_by_id(&mut *tx, bind.instance_id).await? else {
        return Ok(false);
    };
    let (app_target, kind) = match bind.kind {
        AppKind::App => (EventTarget::for_app(&bind.app), Permission::APP_UPDATE_UNBIND),
        AppKind::Job => (
            EventTarget::new(EventTargetKind::Job, &bind.app),
            Permission::JOB_UPDATE,
        ),
    };
    let data =
        json!({ "service": instance.service, "instance": instance.name, "again": true, "force": force });
    let target = EventTarget::new(EventTargetKind::ServiceInstance, instance.full_name());
    let event = NewEvent::new(app_target, kind, instance.permission_contexts(), data)
        .with_lock(target)
        .ignore_blocks();
    let event = match events::begin_event(tx, call, &event).await {
        Err(error) if error.kind() == ErrorKind::Locked => return Ok(false),
        event => event?,
    };
    let data = UnbindData::new(bind.id, String::new(), force, true, Some(bind.app_id));
    sagas::enqueue_saga::<UnbindSaga>(tx, Some(&event), &data).await?;
    Ok(true)
}

/// The saga that unbinds an instance; its steps are described in the module.
pub struct UnbindSaga {
    core: Core,
}

impl UnbindSaga {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn unbind_units(&self, data: &UnbindData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(bind) = store::find_bind(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        ctx.append_log(&format!(
            "---- Unbinding the {} \"{}\" from the service instance \"{}\" ----",
            bind.kind.as_str(),
            bind.app,
            bind.instance
        ))
        .await;
        let broker = notify::open_broker(&self.core, &bind).await?;
        let app = notify::bound_app(&self.core, &bind);
        let by = on_behalf_of(ctx, &data.user);
        let call = notify::send_unit_unbinds(&self.core, &broker, &by, &bind, &app);
        match cancellable(ctx, call).await?? {
            Err(fault) if !data.force => Err(fault.error.into()),
            _ => Ok(()),
        }
    }

    async fn call_service(&self, data: &mut UnbindData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(bind) = store::find_bind(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        ctx.checkpoint(data, async |tx, data: &mut UnbindData| {
            if std::mem::replace(&mut data.heard, CallState::Sent) == CallState::Sent {
                self.set_uncertain(tx, bind.id).await?;
            }
            Ok(())
        })
        .await?;
        let by = on_behalf_of(ctx, &data.user);
        let result = cancellable(ctx, notify::send_unbind(&self.core, &by, &bind)).await??;
        data.heard = result
            .as_ref()
            .map_or_else(|f| f.delivery.into(), |()| CallState::Yes);
        let left = match result {
            Ok(()) => None,
            Err(fault) if data.force => Some(fault),
            Err(fault) => return Err(fault.error.into()),
        };
        self.remove_bind(data, ctx, &bind, left.as_ref()).await
    }

    /// Notes on the row that an earlier unbind got no response and may still be executed.
    async fn set_uncertain(&self, tx: &mut PgConnection, bind: BindId) -> Result<(), Error> {
        let window = late_arrival_window(&self.core);
        Ok(store::set_uncertain_until(tx, bind, UncertainCall::Unbind, window).await?)
    }

    async fn remove_bind(
        &self,
        data: &mut UnbindData,
        ctx: &StepContext,
        bind: &model::Bind,
        left: Option<&BrokerError>,
    ) -> Result<(), StepError> {
        if let Some(fault) = left {
            ctx.append_log(&format!("Ignored: {}", fault.error)).await;
        }
        let variables = store::list_variables(&self.core.db, bind.id).await?.len();
        ctx.checkpoint(data, async |tx, _| {
            Ok(notify::remove_bind(&self.core, tx, bind, left).await?)
        })
        .await?;
        ctx.append_log(&format!("---- Unsetting {variables} environment variables ----"))
            .await;
        ctx.append_log(&format!(
            "\nInstance \"{}\" is not bound to the app \"{}\" anymore.",
            bind.instance, bind.app
        ))
        .await;
        Ok(())
    }

    async fn undo_units(&self, data: &UnbindData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(bind) = store::find_bind(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        let is_uncertain = matches!(data.heard, CallState::Sent | CallState::Unknown);
        ctx.write_fenced(async |tx| {
            if is_uncertain {
                self.set_uncertain(tx, bind.id).await?;
            }
            if data.again || is_uncertain {
                let units = store::list_unit_hosts(&mut *tx, bind.id).await?;
                let reason = ctx.failure_reason().map(ToString::to_string).unwrap_or_default();
                let app = notify::bound_app(&self.core, &bind);
                let orphan = NewOrphan::for_bind(&bind, app, units, &reason);
                orphans::record_orphan(tx, &orphan).await?;
            } else {
                store::update_bind_state(tx, bind.id, "bound").await?;
                orphans::end_bind_orphans(tx, bind.id).await?;
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Saga for UnbindSaga {
    const KIND: &'static str = "app.unbind";
    type Step = UnbindStep;
    type Data = UnbindData;

    /// Nobody waits for an unbind that Tancho repeats by itself.
    fn queue(data: &UnbindData) -> SagaQueue {
        match data.user.is_empty() {
            true => SagaQueue::Background,
            false => SagaQueue::Interactive,
        }
    }

    async fn run_step(
        &self,
        step: UnbindStep,
        data: &mut UnbindData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            UnbindStep::UnbindUnits => self.unbind_units(data, ctx).await,
            UnbindStep::CallService => self.call_service(data, ctx).await,
            UnbindStep::CreateCandidate => rollout_steps::create_from_current(&self.core, ctx, data).await,
            UnbindStep::WaitForUnits => {
                rollout_steps::wait_for_ready_units(&self.core, ctx, &data.rollout).await
            }
            UnbindStep::Promote => {
                rollout_steps::promote_candidates(ctx, data, rollout_steps::write_nothing).await
            }
            UnbindStep::WaitForRouters => {
                rollout_steps::wait_for_serving_units(&self.core, ctx, &data.rollout).await
            }
        }
    }

    fn is_forward_only(&self, _step: UnbindStep, data: &UnbindData) -> bool {
        data.rollout.is_promoted()
    }

    async fn undo_step(
        &self,
        step: UnbindStep,
        data: &mut UnbindData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            UnbindStep::UnbindUnits => self.undo_units(data, ctx).await,
            UnbindStep::CreateCandidate => rollout_steps::discard_candidates(ctx, data).await.map(drop),
            UnbindStep::CallService
            | UnbindStep::WaitForUnits
            | UnbindStep::Promote
            | UnbindStep::WaitForRouters => Ok(()),
        }
    }
}
