//! The healer of repositories: those of removed apps go, and those that were pushed to are packed anew.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::db::listen::Channel;
use crate::kernel::problem::Problem;
use crate::repositories::children::{git, order};
use crate::repositories::disk;
use crate::repositories::room::Turn;
use crate::repositories::store::{self, Untidy};
use crate::sagas::{Reconciler, Report};

const PERIOD: Duration = Duration::from_secs(60);
/// Repositories in one round.
const MOST: i64 = 20;
/// Packing goes on where it was cut off in the next round.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// No push takes longer.
const LONGEST_PUSH: Duration = Duration::from_secs(24 * 3600);
const SETTINGS: [&str; 6] = [
    // Packs, one for each push, until they are made one.
    "gc.autoPackLimit=20",
    // How long what no branch leads to any more is kept.
    "gc.pruneExpire=1.day.ago",
    // As small as it came, not each object in a file of its own.
    "gc.cruftPacks=true",
    "gc.autoDetach=false",
    // Bounds memory.
    "pack.threads=1",
    "pack.windowMemory=64m",
];

/// See the module.
pub struct Repositories {
    core: Core,
}

impl Repositories {
    /// The healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn tidy(&self, untidy: &Untidy) -> Result<String, Problem> {
        let path = self.core.dirs.repository(untidy.id);
        if untidy.is_orphan {
            disk::remove(&path).await?;
            let mut tx = self.core.db.begin().await?;
            store::delete(&mut tx, untidy.id).await?;
            tx.commit().await?;
            return Ok(format!(
                "removed the repository {} of an app that is gone",
                untidy.id
            ));
        }
        let since = store::now(&self.core.db).await?;
        let mut size = 0;
        if path.exists() {
            let _turn = Turn::to_pack(&path).await?;
            disk::sweep(&path, LONGEST_PUSH).await?;
            disk::sweep_packs(&path).await?;
            size = disk::size(&path).await?;
            let half = self.core.settings.git.max_repository_bytes.0 / 2;
            let mut packing = git(&path);
            for setting in SETTINGS {
                packing.args(["-c", setting]);
            }
            packing.args(["gc", "--quiet"]);
            // One that is half full is packed at once; else git decides whether it is worth it.
            if size.unsigned_abs() < half {
                packing.arg("--auto");
            }
            let cut = |_| Problem::unavailable("git gc takes too long; it goes on in the next round");
            tokio::time::timeout(LONGEST, order(&mut packing))
                .await
                .map_err(cut)??;
            size = disk::size(&path).await?.min(size);
        }
        let mut tx = self.core.db.begin().await?;
        store::tidied(&mut tx, untidy.id, since, size).await?;
        tx.commit().await?;
        Ok(format!("looked after the repository {}", untidy.id))
    }
}

#[async_trait]
impl Reconciler for Repositories {
    fn name(&self) -> &'static str {
        "repositories"
    }

    fn channels(&self) -> &'static [Channel] {
        &[]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn round(&self) -> Result<Report, Problem> {
        let untidy = store::list_untidy(&self.core.db, &self.core.host, MOST).await?;
        let mut report = Report::default();
        let mut wrong = None;
        for one in &untidy {
            // A sick one keeps no other waiting.
            match self.tidy(one).await {
                Ok(done) => report.done.push(done),
                Err(problem) => wrong = Some(problem),
            }
        }
        report.again = wrong.is_none() && untidy.len() as i64 == MOST;
        match wrong {
            Some(problem) => Err(problem),
            None => Ok(report),
        }
    }
}
