//! The healer of addresses: wakes the routers.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db::listen::Channel;
use crate::kernel::problem::Problem;
use crate::releases;
use crate::sagas::{Reconciler, Report, StepError};

/// Wakes the routers, and waits a while until all of them have looked.
pub struct Routes {
    core: Core,
}

impl Routes {
    /// The healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn channels(&self) -> &'static [Channel] {
        &[]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn round(&self) -> Result<Report, Problem> {
        match releases::settle_routers(&self.core).await {
            Ok(()) => Ok(Report {
                done: vec!["the routers were told to look at the addresses again".into()],
                again: false,
            }),
            Err(StepError::Retry { why, .. } | StepError::GiveUp(why)) => Err(why),
            Err(StepError::Lost) => Err(Problem::internal("a healer holds no saga")),
        }
    }
}
