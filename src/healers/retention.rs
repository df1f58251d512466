//! The healer of retention: deletes expired events, and changes of apps that no reader asks for any more.

use std::time::Duration;

use async_trait::async_trait;

use crate::apps;
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::events;
use crate::kernel::error::Error;
use crate::sagas::{ReconcileReport, Reconciler};

/// Maximum number of events in one transaction.
const BATCH_SIZE: i32 = 500;

/// Deletes events that are older than the configured number of days, if there is one.
pub struct EventRetentionHealer {
    core: Core,
}

impl EventRetentionHealer {
    /// Creates the healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for EventRetentionHealer {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let has_more = apps::prune_changes(&self.core.db).await?;
        let days = self.core.settings.events.keep_days;
        if days == 0 {
            return Ok(ReconcileReport {
                has_more,
                ..ReconcileReport::default()
            });
        }
        let deleted = events::delete_expired_events(&self.core.db, days, BATCH_SIZE).await?;
        let line = format!("deleted {deleted} events that ended more than {days} days ago");
        Ok(ReconcileReport {
            done: if deleted > 0 { vec![line] } else { Vec::new() },
            has_more: has_more || deleted == i64::from(BATCH_SIZE),
        })
    }
}
