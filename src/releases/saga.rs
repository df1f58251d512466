//! The saga `app.rollout`: a new release of what runs already, for a restart (of all processes or of one) or a changed
//! environment.
//!
//! Its steps are those of every rollout (`rollout_steps`). Undo drops the candidate; the variables stay as they were
//! set, and the units that run keep the old ones.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::releases::rollout_steps::{self, HasRollout, RolloutProgress};
use crate::releases::{rollout, sides, store};
use crate::sagas::{Saga, StepContext, StepError, saga_steps};

saga_steps! {
    /// The steps of a rollout.
    pub enum RolloutStep {
        /// Makes the release, as a candidate.
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
pub struct RolloutData {
    app: AppId,
    /// The processes that are started anew; `None`: all.
    processes: Option<Vec<String>>,
    /// The version whose units are started anew; `None`: every one that runs.
    version: Option<i32>,
    rollout: RolloutProgress,
}

impl RolloutData {
    /// Limits it to one version.
    pub(super) fn limit_to_version(mut self, version: Option<i32>) -> Self {
        self.version = version;
        self
    }

    /// The rollout of an app that is to begin, of some of its processes or of all.
    pub fn new(app: AppId, processes: Option<Vec<String>>) -> Self {
        Self {
            app,
            processes,
            version: None,
            rollout: RolloutProgress::for_app(Some(app)),
        }
    }
}

impl HasRollout for RolloutData {
    fn rollout(&self) -> &RolloutProgress {
        &self.rollout
    }

    fn rollout_mut(&mut self) -> &mut RolloutProgress {
        &mut self.rollout
    }
}

/// See the module.
pub struct RolloutSaga {
    core: Core,
}

impl RolloutSaga {
    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn create_candidate(&self, data: &mut RolloutData, ctx: &StepContext) -> Result<(), StepError> {
        rollout_steps::create_candidates(&self.core, ctx, data, None, async |tx, data: &mut RolloutData| {
            for running in sides::store::list_processes(tx, data.app).await? {
                let has_process =
                    |processes: &Vec<String>| processes.iter().any(|p| running.processes.contains(p));
                let is_meant = data.version.is_none_or(|version| version == running.version);
                if !is_meant || !data.processes.as_ref().is_none_or(has_process) {
                    continue;
                }
                let created = rollout::create_candidate(&self.core, tx, data.app, running.side).await?;
                let Some(release) = created else { continue };
                if let Some(processes) = &data.processes {
                    store::limit_to_processes(tx, release, processes).await?;
                }
                data.rollout.add_candidate(data.app, release);
            }
            Ok(())
        })
        .await?;
        if !data.rollout.has_releases() {
            ctx.append_log(" ---> nothing runs, so nothing is started anew")
                .await;
        }
        Ok(())
    }
}

#[async_trait]
impl Saga for RolloutSaga {
    const KIND: &'static str = "app.rollout";
    type Step = RolloutStep;
    type Data = RolloutData;

    async fn run_step(
        &self,
        step: RolloutStep,
        data: &mut RolloutData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            RolloutStep::CreateCandidate => self.create_candidate(data, ctx).await,
            RolloutStep::WaitForUnits => {
                rollout_steps::wait_for_ready_units(&self.core, ctx, &data.rollout).await
            }
            RolloutStep::Promote => {
                rollout_steps::promote_candidates(ctx, data, rollout_steps::write_nothing).await
            }
            RolloutStep::WaitForRouters => {
                rollout_steps::wait_for_serving_units(&self.core, ctx, &data.rollout).await
            }
        }
    }

    fn is_forward_only(&self, step: RolloutStep, data: &RolloutData) -> bool {
        step == RolloutStep::WaitForRouters || data.rollout.is_promoted()
    }

    async fn undo_step(
        &self,
        step: RolloutStep,
        data: &mut RolloutData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            RolloutStep::CreateCandidate => {
                if rollout_steps::discard_candidates(ctx, data).await? {
                    ctx.append_log(" ---> the units that ran before go on").await;
                }
                Ok(())
            }
            RolloutStep::WaitForUnits | RolloutStep::Promote | RolloutStep::WaitForRouters => Ok(()),
        }
    }
}
