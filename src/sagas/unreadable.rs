//! Sagas that this version cannot read: they are at a step, or have data, that a newer version has written.
//! They are left to other replicas, and keep the locks of their events meanwhile.
//!
//! Their ids are kept in memory for a while, so that they are not claimed again at once, and a repaired row
//! needs no restart. Unreadable sagas appear in the log, in the list of unsettled sagas, and in the report of
//! the healer `leases`. An operator may give such a saga up; then it is stuck, and its event ends.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::db::Db;
use crate::events::{self, EventOutcome};
use crate::kernel::error::Error;
use crate::kernel::ids::SagaId;
use crate::sagas::store::{self, ClaimedSaga};

/// After this time the sagas are claimed and logged again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of ids in memory; further sagas are postponed in the table, for all replicas.
const MAX_REMEMBERED: usize = 1000;

/// The unreadable sagas of one queue.
pub(super) struct UnreadableSagas {
    ids: HashSet<SagaId>,
    cleared_at: Instant,
}

impl UnreadableSagas {
    pub(super) fn new() -> Self {
        Self {
            ids: HashSet::new(),
            cleared_at: Instant::now(),
        }
    }

    /// Returns the sagas that must not be claimed now.
    pub(super) fn list_excluded(&mut self) -> Vec<Uuid> {
        if self.cleared_at.elapsed() >= RETRY_INTERVAL {
            self.ids.clear();
            self.cleared_at = Instant::now();
        }
        self.ids.iter().map(|id| id.0).collect()
    }

    /// Releases the claim of a saga, and remembers its id.
    pub(super) async fn leave(&mut self, db: &Db, claimed: &ClaimedSaga, why: &str) {
        let (saga, kind, step) = (claimed.saga_id, &claimed.kind, &claimed.step);
        tracing::error!(%saga, kind, step, why, "this version cannot read a saga and leaves it to other replicas");
        let is_remembered = self.ids.len() < MAX_REMEMBERED && self.ids.insert(saga);
        let delay = if is_remembered {
            Duration::ZERO
        } else {
            RETRY_INTERVAL
        };
        let left = match claimed.given_up {
            true => end_given_up(db, claimed, why).await,
            false => store::leave_unreadable(db, saga, claimed.fence, why, delay.as_secs_f64())
                .await
                .map_err(Error::from),
        };
        if let Err(error) = left {
            // The lease expires by itself.
            tracing::warn!(%saga, error = %error.report(), "cannot release the claim of a saga");
        }
    }
}

/// Marks a saga as stuck that an operator has given up, and ends its event, although it cannot be undone.
async fn end_given_up(db: &Db, claimed: &ClaimedSaga, why: &str) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    if !store::mark_unreadable_stuck(&mut tx, claimed.saga_id, claimed.fence, why).await? {
        return Ok(());
    }
    if let Some(event) = claimed.event_id.as_deref().and_then(|id| id.parse().ok()) {
        let outcome = EventOutcome::from(&Error::failed(format!("The operation was given up: {why}.")));
        events::end_event(&mut tx, &event, &outcome, None).await?;
    }
    Ok(tx.commit().await?)
}
