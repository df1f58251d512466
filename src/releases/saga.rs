//! The saga `app.rollout`: a new release of what runs already, for a restart or a changed environment.
//!
//! Steps: *release* proposes it, *start* waits until its units are ready, *switch* makes it current, *settle*
//! waits until the routers know. Undo
//! drops the candidate; the variables stay as they were set, and the units that run keep the old ones.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::releases::rollout;
use crate::sagas::{Run, Saga, StepError};

/// What the steps know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutData {
    pub app: AppId,
    /// `None` before the first step, and when there is nothing to roll out.
    pub release: Option<i64>,
    /// The release is current: there is no way back.
    #[serde(default)]
    pub switched: bool,
}

/// See the module.
pub struct Rollout {
    core: Core,
}

impl Rollout {
    /// The name under which its rows are kept.
    pub const KIND: &str = "app.rollout";

    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Saga for Rollout {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["release", "start", "switch", "settle"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let mut data: RolloutData = run.data()?;
        match (step, data.release) {
            ("release", None) => {
                let mut tx = run.begin().await?;
                data.release = rollout::propose(&self.core, &mut tx, data.app).await?;
                run.set_data(&data)?;
                run.keep_in(&mut tx).await?;
                tx.commit().await?;
                if data.release.is_none() {
                    run.say(" ---> nothing runs, so nothing is started anew").await;
                }
            }
            ("start", Some(release)) => rollout::await_ready(&self.core, run, data.app, release).await?,
            ("switch", Some(release)) => {
                let mut tx = run.begin().await?;
                rollout::adopt(&mut tx, data.app, release).await?;
                data.switched = true;
                run.set_data(&data)?;
                run.keep_in(&mut tx).await?;
                tx.commit().await?;
            }
            ("settle", Some(release)) => rollout::settle(&self.core, release).await?,
            _ => {}
        }
        Ok(())
    }

    fn forward_only(&self, step: &'static str, run: &Run) -> bool {
        step == "settle" || run.data().is_ok_and(|data: RolloutData| data.switched)
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let data: RolloutData = run.data()?;
        if let ("release", Some(release)) = (step, data.release) {
            let mut tx = run.begin().await?;
            rollout::abandon(&mut tx, data.app, release).await?;
            tx.commit().await?;
            run.say(" ---> the units that ran before go on").await;
        }
        Ok(())
    }
}
