//! The healer of routes: has the routers reload them.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::releases::rollout_steps;
use crate::sagas::{ReconcileReport, Reconciler};

/// Has every router reload its routes.
pub struct RouterHealer {
    core: Core,
}

impl RouterHealer {
    /// Creates the healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for RouterHealer {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        rollout_steps::request_route_reload(&self.core).await?;
        Ok(ReconcileReport {
            done: vec!["notified the routers to reload the routes".into()],
            has_more: false,
        })
    }
}
