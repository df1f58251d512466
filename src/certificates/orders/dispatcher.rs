//! Starts due orders, and adds those that nobody had to ask for.

use std::time::Duration;

use async_trait::async_trait;

use crate::certificates::orders::saga::{OrderCertificate, OrderData};
use crate::certificates::orders::store;
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::sagas::{self, ReconcileReport, Reconciler};

/// Authorities limit accounts: orders that may start within ten seconds, on all replicas together.
const STARTS_PER_TEN_SECONDS: i64 = 20;
/// Orders added in one round.
const MAX_ADDED: i64 = 500;

/// See the module.
pub struct OrderDispatcher {
    core: Core,
}

impl OrderDispatcher {
    /// Creates the dispatcher.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for OrderDispatcher {
    fn name(&self) -> &'static str {
        "certificates"
    }

    /// A new cname is announced with the routes.
    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Routes]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let acme = &self.core.settings.acme;
        if !acme.is_enabled() {
            return Ok(ReconcileReport::default());
        }
        let mut tx = self.core.db.begin().await?;
        let added = match acme.automatic {
            true => store::add_missing_orders(&mut *tx, &acme.issuer, MAX_ADDED).await?,
            false => 0,
        };
        let started = store::start_orders(&mut tx, &acme.issuer, STARTS_PER_TEN_SECONDS).await?;
        for order in &started {
            let data = OrderData::new(order.host.clone(), order.app);
            sagas::enqueue_saga::<OrderCertificate>(&mut tx, None, &data).await?;
        }
        tx.commit().await?;
        let line = format!("added {added} orders and started {}", started.len());
        Ok(ReconcileReport {
            done: match added > 0 || !started.is_empty() {
                true => vec![line],
                false => Vec::new(),
            },
            has_more: false,
        })
    }
}
