//! The saga `app.rollback`: an earlier version again. Nothing is built; the rest is as in a deploy.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::core::Core;
use crate::deploys::processes;
use crate::deploys::saga::record_end;
use crate::deploys::sides::SideOptions;
use crate::events::EventOutcome;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::releases;
use crate::releases::rollout_steps::{self, HasRollout, RolloutProgress};
use crate::sagas::{Saga, StepContext, StepError, saga_steps};

saga_steps! {
    /// The steps of a rollback.
    pub enum RollbackStep {
        /// Makes a release of the version, as a candidate.
        CreateCandidate = "create-candidate",
        /// Waits until its units are ready.
        WaitForUnits = "wait-for-units",
        /// Makes it current.
        Promote = "promote",
        /// Waits until the routers know its units.
        WaitForRouters = "wait-for-routers",
    }
}

/// What the steps know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RollbackData {
    app: AppId,
    version: i32,
    /// Leaves the variables as they are now.
    keep_env: bool,
    #[serde(default)]
    sides: SideOptions,
    rollout: RolloutProgress,
}

impl RollbackData {
    /// The return of an app to a version.
    pub(super) fn new(app: AppId, version: i32, keep_env: bool, sides: SideOptions) -> Self {
        Self {
            app,
            version,
            // The variables of the app stay those of the versions that run on.
            keep_env: keep_env || sides.beside,
            sides,
            rollout: RolloutProgress::for_app(Some(app)),
        }
    }
}

impl HasRollout for RollbackData {
    fn rollout(&self) -> &RolloutProgress {
        &self.rollout
    }

    fn rollout_mut(&mut self) -> &mut RolloutProgress {
        &mut self.rollout
    }
}

/// See the module.
pub struct RollbackSaga {
    core: Core,
}

impl RollbackSaga {
    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn create_candidate(&self, data: &mut RollbackData, ctx: &StepContext) -> Result<(), StepError> {
        let headline = format!("---- Starting version {} again ----", data.version);
        let create = async |tx: &mut PgConnection, data: &mut RollbackData| {
            let vars = match data.keep_env {
                true => None,
                false => releases::load_user_environment(&self.core, tx, data.app, data.version).await?,
            };
            let side = releases::find_deploy_side(tx, data.app, data.version, data.sides.beside).await?;
            processes::prepare_processes(tx, data.app, data.version, side, data.sides).await?;
            let vars = vars.as_deref();
            let release =
                releases::create_version_candidate(&self.core, tx, data.app, (data.version, side), vars)
                    .await?;
            data.rollout.add_candidate(data.app, release);
            Ok(())
        };
        rollout_steps::create_candidates(&self.core, ctx, data, Some(&headline), create).await
    }

    async fn promote(&self, data: &mut RollbackData, ctx: &StepContext) -> Result<(), StepError> {
        let restore = async |tx: &mut PgConnection, data: &mut RollbackData| {
            data.sides.end_others(tx, data.app).await?;
            match data.keep_env {
                true => Ok(()),
                // Only now that the version runs do its variables become the app's.
                false => {
                    Ok(releases::restore_user_environment(&self.core, tx, data.app, data.version).await?)
                }
            }
        };
        rollout_steps::promote_candidates(ctx, data, restore).await
    }
}

#[async_trait]
impl Saga for RollbackSaga {
    const KIND: &'static str = "app.rollback";
    type Step = RollbackStep;
    type Data = RollbackData;

    async fn run_step(
        &self,
        step: RollbackStep,
        data: &mut RollbackData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            RollbackStep::CreateCandidate => self.create_candidate(data, ctx).await,
            RollbackStep::WaitForUnits => {
                rollout_steps::wait_for_ready_units(&self.core, ctx, &data.rollout).await
            }
            RollbackStep::Promote => self.promote(data, ctx).await,
            RollbackStep::WaitForRouters => {
                rollout_steps::wait_for_serving_units(&self.core, ctx, &data.rollout).await
            }
        }
    }

    fn is_forward_only(&self, step: RollbackStep, data: &RollbackData) -> bool {
        step == RollbackStep::WaitForRouters || data.rollout.is_promoted()
    }

    async fn undo_step(
        &self,
        step: RollbackStep,
        data: &mut RollbackData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            RollbackStep::CreateCandidate => rollout_steps::discard_candidates(ctx, data).await.map(drop),
            RollbackStep::WaitForUnits | RollbackStep::Promote | RollbackStep::WaitForRouters => Ok(()),
        }
    }

    async fn on_finish(
        &self,
        tx: &mut PgConnection,
        _data: &RollbackData,
        ctx: &StepContext,
        outcome: &EventOutcome,
    ) -> Result<(), Error> {
        record_end(tx, ctx, outcome).await
    }
}
