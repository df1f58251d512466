//! The healer of durable work: nothing may lie still for want of an owner.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db;
use crate::db::listen::Channel;
use crate::kernel::call::Call;
use crate::kernel::problem::Problem;
use crate::sagas::{self, Lane, Reconciler, Report, Unsettled};

/// Wakes the workers, who take over what has an ended lease, and says what is open.
pub struct Leases {
    core: Core,
}

impl Leases {
    /// The healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn channels(&self) -> &'static [Channel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn round(&self) -> Result<Report, Problem> {
        let counts = sagas::counts(&self.core.db).await?;
        let mut report = Report::default();
        if counts.overdue > 0 {
            let mut tx = self.core.db.begin().await?;
            for lane in [Lane::People, Lane::Housekeeping] {
                db::notify(&mut tx, Channel::Saga, lane.as_str()).await?;
            }
            tx.commit().await?;
            report.done.push(format!(
                "told the workers of {} operations without an owner",
                counts.overdue
            ));
        }
        if counts.stuck > 0 {
            tracing::warn!(
                stuck = counts.stuck,
                "operations could not be undone and wait for an operator"
            );
            report.done.push(format!(
                "found {} operations that could not be undone and wait for an operator",
                counts.stuck
            ));
        }
        if counts.open > 0 {
            report
                .done
                .push(format!("found {} operations under way", counts.open));
        }
        Ok(report)
    }

    async fn open(&self) -> Result<Vec<String>, Problem> {
        let sagas = sagas::operator::unsettled(&self.core.db, &Call::internal()).await?;
        let line = |saga: &Unsettled| {
            let about = match saga.target_value.is_empty() {
                true => String::new(),
                false => format!(" of {} {}", saga.target_kind, saga.target_value),
            };
            let then = match saga.is_stuck() {
                true => "waits for an operator".to_owned(),
                false => format!("has failed {} times and is tried again", saga.attempts),
            };
            format!("{}{about} ({}) {then}: {}", saga.kind, saga.id, saga.last_problem)
        };
        Ok(sagas.iter().map(line).collect())
    }
}
