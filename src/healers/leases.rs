//! The healer of sagas: ensures that no saga stays without an owner.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::kernel::request_context::RequestContext;
use crate::sagas::{self, ReconcileReport, Reconciler, SagaQueue, UnsettledSaga};

/// Wakes the workers, which claim sagas with expired leases, and reports what is open.
pub struct SagaLeaseHealer {
    core: Core,
}

impl SagaLeaseHealer {
    /// Creates the healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for SagaLeaseHealer {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let counts = sagas::count_sagas(&self.core.db).await?;
        let mut report = ReconcileReport::default();
        if counts.overdue > 0 {
            let mut tx = self.core.db.begin().await?;
            for queue in [SagaQueue::Interactive, SagaQueue::Background] {
                db::send_notice(&mut tx, NoticeChannel::Saga, queue.as_str()).await?;
            }
            tx.commit().await?;
            report.done.push(format!(
                "notified the workers of {} operations without an owner",
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
                .push(format!("found {} running operations", counts.open));
        }
        Ok(report)
    }

    async fn list_open_work(&self) -> Result<Vec<String>, Error> {
        let sagas = sagas::operator::list_unsettled(&self.core.db, &RequestContext::new_internal()).await?;
        let describe = |saga: &UnsettledSaga| {
            let about = match saga.target_value.is_empty() {
                true => String::new(),
                false => format!(" of {} {}", saga.target_kind, saga.target_value),
            };
            let then = match saga.is_stuck() {
                true => "waits for an operator".to_owned(),
                false => format!("has failed {} times and is retried", saga.attempts),
            };
            format!("{}{about} ({}) {then}: {}", saga.kind, saga.id, saga.last_error)
        };
        Ok(sagas.iter().map(describe).collect())
    }
}
