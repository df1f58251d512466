//! The dispatcher: gives waiting deliveries to sagas, as many as each webhook may have open.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::sagas::{self, ReconcileReport, Reconciler};
use crate::webhooks::deliveries::saga::{DeliverWebhook, DeliverWebhookData};
use crate::webhooks::deliveries::store;

/// The maximum number of open deliveries of one webhook, including those that wait for their next attempt. A
/// receiver that is down keeps no more than these; the others wait, and begin their attempts later.
const MAX_OPEN_PER_WEBHOOK: i64 = 16;
/// The maximum number of deliveries that one round starts.
const BATCH_SIZE: usize = 50;

/// Starts waiting deliveries. See the module.
pub struct WebhookDispatcher {
    core: Core,
}

impl WebhookDispatcher {
    /// Creates the dispatcher.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for WebhookDispatcher {
    fn name(&self) -> &'static str {
        "webhooks"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Webhooks]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let mut tx = self.core.db.begin().await?;
        store::delete_orphaned_deliveries(&mut tx).await?;
        let at_most = i64::try_from(BATCH_SIZE).unwrap_or(i64::MAX);
        let started = store::start_deliveries(&mut tx, MAX_OPEN_PER_WEBHOOK, at_most).await?;
        for delivery in &started {
            let data = DeliverWebhookData {
                delivery: delivery.id,
                share_key: format!("webhooks/{}", delivery.shares_with),
            };
            sagas::enqueue_saga::<DeliverWebhook>(&mut tx, None, &data).await?;
        }
        tx.commit().await?;
        let line = format!("started {} deliveries", started.len());
        Ok(ReconcileReport {
            done: if started.is_empty() {
                Vec::new()
            } else {
                vec![line]
            },
            has_more: started.len() == BATCH_SIZE,
        })
    }
}
