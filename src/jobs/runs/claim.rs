//! Claims runs for this host: one transaction each, which decides by the policy of the job.

use chrono::TimeDelta;
use sqlx::PgConnection;

use crate::core::Core;
use crate::jobs::model::{ConcurrencyPolicy, RunState};
use crate::jobs::runs::store::{self, RunClaim};
use crate::jobs::store as job_store;
use crate::kernel::error::Error;
use crate::units::model::new_unit_id;

/// The readable part of a unit's id, in the place of the process.
const NAME: &str = "run";

/// Claims the runs that are due and that this host can run now, in turn for the teams. Returns how many.
pub(super) async fn claim_due_runs(core: &Core) -> Result<usize, Error> {
    let limits = &core.settings.jobs;
    let due = store::list_startable(
        &core.db,
        &core.host,
        limits.max_running,
        limits.max_running_per_team,
    )
    .await?;
    let mut claimed = 0;
    for run in due {
        let mut tx = core.db.begin().await?;
        let Some(claim) = store::lock_claim(&mut tx, run).await? else {
            continue;
        };
        claimed += usize::from(decide_claim(core, &mut tx, &claim).await?);
        tx.commit().await?;
    }
    Ok(claimed)
}

/// Starts the run, skips it, declares it missed, or leaves it for later. Returns true if it is started.
async fn decide_claim(core: &Core, tx: &mut PgConnection, claim: &RunClaim) -> Result<bool, Error> {
    let deadline = TimeDelta::seconds(claim.starting_deadline.into());
    if claim.is_scheduled && claim.attempt == 0 && claim.lateness > deadline {
        let reason = "it could not be started within its starting deadline: too many runs were ahead of it";
        store::close_run(tx, claim.run_id, RunState::Missed, reason).await?;
        return Ok(false);
    }
    let Some(version) = claim.version else {
        let reason = "the job has no version any more: deploy it again";
        store::close_run(tx, claim.run_id, RunState::Skipped, reason).await?;
        return Ok(false);
    };
    if claim.running > 0 {
        match claim.concurrency {
            ConcurrencyPolicy::Allow => {}
            ConcurrencyPolicy::Forbid => {
                let reason = "another run of the job was going on, and the job forbids two at once";
                store::close_run(tx, claim.run_id, RunState::Skipped, reason).await?;
                return Ok(false);
            }
            ConcurrencyPolicy::Replace => {
                job_store::request_stop(tx, claim.job, None, "a new run has replaced it").await?;
                return Ok(false);
            }
        }
    }
    let unit = new_unit_id(claim.name.as_str(), NAME)?;
    store::start_run(tx, claim.run_id, (unit.as_str(), &core.host, version)).await?;
    Ok(true)
}
