//! The healer of sessions: ends those whose server has gone.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::exec::lease::{LEASE_TIME, end_lost_events};
use crate::exec::store;
use crate::kernel::error::Error;
use crate::sagas::{ReconcileReport, Reconciler};

const PERIOD: Duration = Duration::from_secs(20);
const MAX_PER_ROUND: i64 = 100;

/// See the module.
pub struct ExecSessionHealer {
    core: Core,
}

impl ExecSessionHealer {
    /// Creates the healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for ExecSessionHealer {
    fn name(&self) -> &'static str {
        "exec-sessions"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let mut tx = self.core.db.begin().await?;
        let lost = store::delete_expired_sessions(&mut tx, LEASE_TIME.as_secs_f64(), MAX_PER_ROUND).await?;
        end_lost_events(&mut tx, &lost).await?;
        tx.commit().await?;
        let mut report = ReconcileReport::default();
        if !lost.is_empty() {
            report.done.push(format!(
                "ended {} commands and shells without a server",
                lost.len()
            ));
        }
        report.has_more = lost.len() as i64 == MAX_PER_ROUND;
        Ok(report)
    }
}
