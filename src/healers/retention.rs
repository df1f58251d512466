//! The healer of room: events that are older than they have to be go.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db::listen::Channel;
use crate::events;
use crate::kernel::problem::Problem;
use crate::sagas::{Reconciler, Report};

/// Events in one transaction.
const BATCH: i32 = 500;

/// Deletes old events, if the settings say when they are old.
pub struct Retention {
    core: Core,
}

impl Retention {
    /// The healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn channels(&self) -> &'static [Channel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn round(&self) -> Result<Report, Problem> {
        let days = self.core.settings.events.keep_days;
        if days == 0 {
            return Ok(Report::default());
        }
        let gone = events::expire(&self.core.db, days, BATCH).await?;
        let line = format!("deleted {gone} events that ended more than {days} days ago");
        Ok(Report {
            done: if gone > 0 { vec![line] } else { Vec::new() },
            again: gone == i64::from(BATCH),
        })
    }
}
