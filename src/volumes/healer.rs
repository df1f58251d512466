//! The healer of volumes: on each host, it removes the data of volumes that are gone.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::kernel::ids::VolumeId;
use crate::sagas::{ReconcileReport, Reconciler};
use crate::volumes::store;

/// Between two looks without a notice.
const PERIOD: Duration = Duration::from_secs(60);
/// Volumes in one round.
const MAX_PER_ROUND: i64 = 50;
const FIRST: VolumeId = VolumeId(Uuid::nil());

/// See the module.
pub struct VolumeHealer {
    core: Core,
    /// Where the next round goes on, so that what cannot be removed keeps nothing behind it waiting.
    after: Mutex<VolumeId>,
}

impl VolumeHealer {
    /// Creates the healer.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            after: Mutex::new(FIRST),
        }
    }

    async fn remove_data(&self, volume: VolumeId, provisioner: &str) -> Result<(), Error> {
        let runner = self
            .core
            .provisioners
            .find_unit_runner(provisioner)
            .ok_or_else(|| {
                Error::unavailable(format!("The provisioner {provisioner} is not on this host."))
            })?;
        let removed = runner.remove_volume(volume).await;
        removed.map_err(|error| Error::unavailable(error.to_string()))?;
        Ok(store::delete_removed(&self.core.db, volume).await?)
    }
}

#[async_trait]
impl Reconciler for VolumeHealer {
    fn name(&self) -> &'static str {
        "volumes"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Versions]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let after = *self.after.lock().unwrap_or_else(PoisonError::into_inner);
        let found = store::list_removed(&self.core.db, &self.core.host, after, MAX_PER_ROUND).await?;
        let is_full = found.len() as i64 == MAX_PER_ROUND;
        let next = found
            .last()
            .filter(|_| is_full)
            .map_or(FIRST, |(volume, _)| *volume);
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = next;
        let mut report = ReconcileReport {
            has_more: is_full,
            ..ReconcileReport::default()
        };
        for (volume, provisioner) in found {
            match self.remove_data(volume, &provisioner).await {
                Ok(()) => report
                    .done
                    .push(format!("removed the data of the volume {volume}")),
                Err(error) => {
                    tracing::warn!(error = %error.report(), %volume, "the data of a removed volume is left; it is tried again");
                }
            }
        }
        Ok(report)
    }
}
