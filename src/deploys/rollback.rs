//! The saga `app.rollback`: an earlier version again. Nothing is built; the rest is as in a deploy.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::core::Core;
use crate::deploys::store;
use crate::events::Outcome;
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::releases;
use crate::sagas::{Run, Saga, StepError};

/// What the steps know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RollbackData {
    pub app: AppId,
    pub version: i32,
    /// Leaves the variables as they are now.
    pub keep_env: bool,
    pub release: Option<i64>,
    /// The release is current: there is no way back.
    #[serde(default)]
    pub switched: bool,
}

/// See the module.
pub struct Rollback {
    core: Core,
}

impl Rollback {
    /// The name under which its rows are kept.
    pub const KIND: &str = "app.rollback";

    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Saga for Rollback {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["release", "start", "switch", "settle"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let mut data: RollbackData = run.data()?;
        match (step, data.release) {
            ("release", None) => {
                let mut tx = run.begin().await?;
                let vars = match data.keep_env {
                    true => None,
                    false => releases::user_environment(&self.core, &mut tx, data.app, data.version).await?,
                };
                store::ensure_processes(&mut tx, data.app, data.version).await?;
                let release =
                    releases::propose_version(&self.core, &mut tx, data.app, data.version, vars.as_deref())
                        .await?;
                data.release = Some(release);
                run.set_data(&data)?;
                run.keep_in(&mut tx).await?;
                tx.commit().await?;
                run.say(&format!("---- Starting version {} again ----", data.version))
                    .await;
            }
            ("start", Some(release)) => releases::await_ready(&self.core, run, data.app, release).await?,
            ("switch", Some(release)) => {
                let mut tx = run.begin().await?;
                if releases::adopt(&mut tx, data.app, release).await? && !data.keep_env {
                    // Only now that the version runs do its variables become the app's.
                    releases::restore_user_environment(&self.core, &mut tx, data.app, data.version).await?;
                }
                data.switched = true;
                run.set_data(&data)?;
                run.keep_in(&mut tx).await?;
                tx.commit().await?;
            }
            ("settle", Some(release)) => releases::settle(&self.core, release).await?,
            _ => {}
        }
        Ok(())
    }

    fn forward_only(&self, step: &'static str, run: &Run) -> bool {
        step == "settle" || run.data().is_ok_and(|data: RollbackData| data.switched)
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let data: RollbackData = run.data()?;
        if let ("release", Some(release)) = (step, data.release) {
            let mut tx = run.begin().await?;
            releases::abandon(&mut tx, data.app, release).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    async fn ended(&self, tx: &mut PgConnection, run: &Run, outcome: &Outcome) -> Result<(), Problem> {
        let error = match outcome {
            Outcome::Done => "",
            Outcome::Failed { words, .. } => words,
        };
        match run.event() {
            Some(event) => Ok(store::end(tx, event, error).await?),
            None => Ok(()),
        }
    }
}
