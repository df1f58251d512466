//! Binds an instance to an app, as a saga. The row exists from the beginning, in state `binding`.
//!
//! - `call-service`: `POST …/bind-app`, which may be repeated; the variables are stored unless the app has
//!   one of the names from another source, or they make its environment too large; the bind is `bound`; undo:
//!   `DELETE …/bind-app` if the bind has happened or may have, and the row and the variables are deleted.
//! - The rollout steps: the app runs with the variables, and there is no way back.

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::core::Core;
use crate::envs;
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, BindId};
use crate::kernel::names::EnvName;
use crate::kernel::secret::Secret;
use crate::releases::append_environment_notes;
use crate::releases::rollout_steps::{self, HasRollout, RolloutProgress};
use crate::sagas::{Saga, StepContext, StepError, saga_steps};
use crate::services::binds::notify;
use crate::services::binds::store::{self, UncertainCall};
use crate::services::broker::{BindVariables, BrokerError, CallDelivery};
use crate::services::calls::{CallState, cancellable, cancellable_create, late_arrival_window, on_behalf_of};
use crate::services::catalogue;
use crate::services::model;
use crate::services::orphans::{self, NewOrphan};

saga_steps! {
    /// The steps of a bind.
    pub enum BindStep {
        /// Sends the bind to the service, and stores the variables that it returns.
        CallService = "call-service",
        /// Creates a candidate release of the app with the variables.
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
pub struct BindData {
    bind: BindId,
    user: String,
    heard: CallState,
    /// The undo was about to call the service.
    #[serde(default)]
    undo_sent: bool,
    rollout: RolloutProgress,
}

impl BindData {
    pub(super) fn new(bind: BindId, user: String, rollout: Option<AppId>) -> Self {
        Self {
            bind,
            user,
            heard: CallState::Nothing,
            undo_sent: false,
            rollout: RolloutProgress::for_app(rollout),
        }
    }
}

impl HasRollout for BindData {
    fn rollout(&self) -> &RolloutProgress {
        &self.rollout
    }

    fn rollout_mut(&mut self) -> &mut RolloutProgress {
        &mut self.rollout
    }
}

/// The saga that binds an instance; its steps are described in the module.
pub struct BindSaga {
    core: Core,
}

impl BindSaga {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn call_service(&self, data: &mut BindData, ctx: &StepContext) -> Result<(), StepError> {
        let bind = store::find_bind(&self.core.db, data.bind)
            .await?
            .ok_or_else(|| Error::not_found("The app or the service instance is gone."))?;
        ctx.checkpoint(data, async |tx, data: &mut BindData| {
            let earlier = (data.heard == CallState::Sent).then_some(UncertainCall::Bind);
            data.heard = CallState::Sent;
            self.note_uncertain_call(tx, bind.id, earlier).await
        })
        .await?;
        if ctx.attempts() == 0 {
            ctx.append_log(&format!(
                "---- Binding the {} \"{}\" to the service instance \"{}\" ----",
                bind.kind.as_str(),
                bind.app,
                bind.instance
            ))
            .await;
        }
        let broker = notify::open_broker(&self.core, &bind).await?;
        let app = notify::bound_app(&self.core, &bind);
        let by = on_behalf_of(ctx, &data.user);
        let late = NewOrphan::for_bind(&bind, app.clone(), Vec::new(), orphans::REASON_LATE_CREATE);
        let call = broker.bind_app(&by, &bind.instance, &app);
        let (variables, dialect) = match cancellable_create(&self.core, ctx, &late, call).await? {
            Ok(answer) => answer,
            Err(fault) => {
                data.heard = fault.delivery.into();
                return Err(fault.error.into());
            }
        };
        data.heard = CallState::Yes;
        self.store_variables(data, ctx, &bind, &variables).await?;
        if let (None, Some(dialect)) = (broker.dialect(), dialect) {
            catalogue::record_dialect(&self.core.db, bind.service_id, dialect).await?;
        }
        log_bound(ctx, &bind, &variables).await;
        if data.rollout.apps().is_empty() {
            // Otherwise the rollout appends them.
            append_environment_notes(&self.core, ctx, bind.app_id).await?;
        }
        Ok(())
    }

    async fn store_variables(
        &self,
        data: &mut BindData,
        ctx: &StepContext,
        bind: &model::Bind,
        variables: &BindVariables,
    ) -> Result<(), StepError> {
        let names: Vec<String> = variables.keys().map(ToString::to_string).collect();
        let encrypt_value = |(name, value): (&EnvName, &Secret)| {
            let associated = AssociatedData::new(SealedColumn::BIND_ENV, &[&bind.id, name]);
            self.core.keys.encrypt(&associated, value)
        };
        let values: Vec<Vec<u8>> = variables.iter().map(encrypt_value).collect();
        ctx.checkpoint(data, async |tx, _| {
            let before = envs::effective_environment(&self.core, tx, bind.app_id, &bind.app).await?;
            before.check_name_conflicts(bind.service.as_str(), variables.keys())?;
            store::replace_variables(tx, bind.id, &names, &values).await?;
            store::update_bind_state(tx, bind.id, "bound").await?;
            let after = envs::effective_environment(&self.core, tx, bind.app_id, &bind.app).await?;
            Ok(after.check_stays_fit()?)
        })
        .await
    }

    /// Notes on the row that an earlier call, if there was one, got no response.
    async fn note_uncertain_call(
        &self,
        tx: &mut PgConnection,
        bind: BindId,
        earlier: Option<UncertainCall>,
    ) -> Result<(), StepError> {
        if let Some(call) = earlier {
            store::set_uncertain_until(tx, bind, call, late_arrival_window(&self.core)).await?;
        }
        Ok(())
    }

    async fn undo_call(&self, data: &mut BindData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(bind) = store::find_bind(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        // The service did not get the unbind.
        let unsent = || BrokerError {
            delivery: CallDelivery::NotSent,
            error: Error::failed("it is not known whether the service has bound the app"),
        };
        let left = match data.heard {
            CallState::Nothing | CallState::Never | CallState::No(..=499) => {
                // This call did nothing, but an earlier one may have.
                store::is_uncertain(&self.core.db, bind.id).await?.then(unsent)
            }
            // The service hangs, or did: the orphan reaper starts at once, and the user need not wait for it.
            CallState::Sent | CallState::Unknown => Some(unsent()),
            CallState::No(_) | CallState::Yes => {
                ctx.checkpoint(data, async |tx, data: &mut BindData| {
                    let is_repeated = std::mem::replace(&mut data.undo_sent, true);
                    notify::mark_unbinding(tx, &bind).await?;
                    let earlier = is_repeated.then_some(UncertainCall::Unbind);
                    self.note_uncertain_call(tx, bind.id, earlier).await
                })
                .await?;
                let by = on_behalf_of(ctx, &data.user);
                cancellable(ctx, notify::send_unbind(&self.core, &by, &bind))
                    .await??
                    .err()
            }
        };
        ctx.write_fenced(async |tx| Ok(notify::remove_bind(&self.core, tx, &bind, left.as_ref()).await?))
            .await
    }
}

async fn log_bound(ctx: &StepContext, bind: &model::Bind, variables: &BindVariables) {
    ctx.append_log(&format!(
        "---- Setting {} new environment variables ----",
        variables.len()
    ))
    .await;
    let mut text = format!(
        "\nInstance \"{}\" is now bound to the {kind} \"{}\".\nThe following environment variables are available for use in your {kind}:\n",
        bind.instance,
        bind.app,
        kind = bind.kind.as_str()
    );
    for name in variables
        .keys()
        .map(|name| name.as_str())
        .chain(["TSURU_SERVICES"])
    {
        text.push_str("\n- ");
        text.push_str(name);
    }
    ctx.append_log(&text).await;
}

#[async_trait]
impl Saga for BindSaga {
    const KIND: &'static str = "app.bind";
    type Step = BindStep;
    type Data = BindData;

    async fn run_step(
        &self,
        step: BindStep,
        data: &mut BindData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            BindStep::CallService => self.call_service(data, ctx).await,
            BindStep::CreateCandidate => rollout_steps::create_from_current(&self.core, ctx, data).await,
            BindStep::WaitForUnits => {
                rollout_steps::wait_for_ready_units(&self.core, ctx, &data.rollout).await
            }
            BindStep::Promote => {
                rollout_steps::promote_candidates(ctx, data, rollout_steps::write_nothing).await
            }
            BindStep::WaitForRouters => {
                rollout_steps::wait_for_serving_units(&self.core, ctx, &data.rollout).await
            }
        }
    }

    fn is_forward_only(&self, _step: BindStep, data: &BindData) -> bool {
        data.rollout.is_promoted()
    }

    async fn undo_step(
        &self,
        step: BindStep,
        data: &mut BindData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            BindStep::CallService => self.undo_call(data, ctx).await,
            BindStep::CreateCandidate => rollout_steps::discard_candidates(ctx, data).await.map(drop),
            BindStep::WaitForUnits | BindStep::Promote | BindStep::WaitForRouters => Ok(()),
        }
    }
}
