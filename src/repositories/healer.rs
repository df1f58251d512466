//! The healer of repositories: removes those of removed apps, and repacks those that received pushes.
//!
//! Repacking may take long, or wait for a fetch, so it is shared fairly by the user who owns the app: one
//! repository per user at a time, a few users at once, in turns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::repositories::git_command::git_command;
use crate::repositories::quota::RepositoryLock;
use crate::repositories::store::{self, MaintenanceCandidate};
use crate::repositories::{disk, refs};
use crate::sagas::{KeyedTasks, ReconcileReport, Reconciler};

const PERIOD: Duration = Duration::from_secs(60);
/// The number of users served at once. Repacking costs processor time.
const AT_ONCE: usize = 4;
/// The maximum number of users that wait.
const MOST_USERS: i64 = 1000;
/// The maximum number of repositories of a user in one turn.
const MAX_PER_ROUND: i64 = 20;
/// If packing is interrupted, the next round continues it.
const GC_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Longer than any push.
const MAX_PUSH_DURATION: Duration = Duration::from_secs(24 * 3600);
/// The maximum number of refs that are removed in one round.
const MAX_REMOVED_REFS: usize = 10_000;
/// For git to list all refs.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);
/// The maximum output of a command that removes refs and prints nothing.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
const GC_SETTINGS: [&str; 5] = [
    // The number of packs (one per push) above which git consolidates them.
    "gc.autoPackLimit=20",
    // How long unreachable objects are kept.
    "gc.pruneExpire=1.day.ago",
    // Keeps unreachable objects in a pack instead of one file per object.
    "gc.cruftPacks=true",
    "gc.autoDetach=false",
    // Overrides the setting of every git command: here git decides whether to pack.
    "gc.auto=6700",
];

/// The healer; see the module.
pub struct RepositoryHealer {
    maintainer: RepositoryMaintainer,
    users: KeyedTasks,
}

/// Maintains repositories.
#[derive(Clone)]
struct RepositoryMaintainer {
    core: Core,
    /// Served in order of arrival; a user has at most one waiter, so that all take turns.
    slots: Arc<Semaphore>,
}

impl RepositoryHealer {
    /// Creates the healer.
    pub fn new(core: &Core) -> Self {
        Self {
            maintainer: RepositoryMaintainer {
                core: core.clone(),
                slots: Arc::new(Semaphore::new(AT_ONCE)),
            },
            users: KeyedTasks::new(core.work.clone(), core.stop.clone()),
        }
    }
}

impl RepositoryMaintainer {
    /// Maintains the repositories of a key, one after the other.
    async fn maintain_all(&self, key: Uuid) {
        let Ok(_slot) = self.slots.acquire().await else {
            return;
        };
        let candidates = match store::list_maintenance_candidates(
            &self.core.db,
            &self.core.host,
            key,
            MAX_PER_ROUND,
        )
        .await
        {
            Ok(candidates) => candidates,
            Err(error) => return tracing::warn!(%error, "cannot list the repositories to maintain"),
        };
        for one in &candidates {
            match self.maintain_repository(one).await {
                Ok(done) => tracing::debug!("{done}"),
                // It is retried in the next turn; the user's other repositories are not delayed by it.
                Err(error) => {
                    tracing::warn!(repository = %one.id, error = %error.report(), "cannot maintain a repository");
                }
            }
        }
    }

    async fn maintain_repository(&self, candidate: &MaintenanceCandidate) -> Result<String, Error> {
        let path = self.core.data_dir.repository_dir(candidate.id);
        if candidate.is_orphan {
            disk::remove_repository(&path).await?;
            let mut tx = self.core.db.begin().await?;
            store::delete_repository(&mut tx, candidate.id).await?;
            tx.commit().await?;
            return Ok(format!(
                "removed the repository {} of a removed app",
                candidate.id
            ));
        }
        let since = store::current_time(&self.core.db).await?;
        let mut size = 0;
        if path.exists() {
            let _lock = RepositoryLock::for_packing(&path).await?;
            disk::remove_stale_quarantines(&path, MAX_PUSH_DURATION).await?;
            disk::remove_stale_packs(&path).await?;
            size = disk::measure_folder(&path).await?;
            let half = self.core.settings.git.max_repository_bytes.0 / 2;
            self.remove_foreign_refs(&path).await?;
            let mut packing = git_command(&self.core, &path);
            for setting in GC_SETTINGS {
                packing = packing.with_config(setting);
            }
            packing = packing.args(["gc", "--quiet"]);
            // Packs always if the repository is half full; otherwise git decides whether it is worth it.
            if size.unsigned_abs() < half {
                packing = packing.arg("--auto");
            }
            packing.run_checked_within(GC_TIMEOUT).await?;
            size = disk::measure_folder(&path).await?.min(size);
        }
        let mut tx = self.core.db.begin().await?;
        store::record_maintenance(&mut tx, candidate.id, since, size).await?;
        tx.commit().await?;
        Ok(format!("maintained the repository {}", candidate.id))
    }

    /// Removes refs that are neither branches, tags nor ours: they can no longer be created, and old ones
    /// keep objects that nobody can see.
    async fn remove_foreign_refs(&self, path: &Path) -> Result<(), Error> {
        let removals = self.list_foreign_refs(path).await?;
        if removals.is_empty() {
            return Ok(());
        }
        let removing = git_command(&self.core, path).args(["update-ref", "--stdin", "-z"]);
        match removing.run_with_input(removals, MAX_ANSWER_BYTES).await?.0 {
            Some(0) => Ok(()),
            _ => Err(Error::internal(
                "cannot remove refs that are neither branches nor tags",
            )),
        }
    }

    /// Lists some of these refs as input for `git update-ref` that deletes them. Names are bytes and are
    /// never truncated.
    async fn list_foreign_refs(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let listing = ["for-each-ref", "--format=%(refname)"];
        let mut child = git_command(&self.core, path).args(listing).spawn()?;
        let stdout = child.child.stdout.take();
        let mut names = BufReader::new(stdout.ok_or_else(|| Error::internal("no pipe"))?);
        let (mut removals, mut count, mut name) = (Vec::new(), 0, Vec::new());
        let listing = async {
            while count < MAX_REMOVED_REFS && names.read_until(b'\n', &mut name).await? > 0 {
                if let Some(found) = name.strip_suffix(b"\n").filter(|name| is_foreign_ref(name)) {
                    removals.extend_from_slice(&[b"delete ", found, b"\0\0"].concat());
                    count += 1;
                }
                name.clear();
            }
            std::io::Result::Ok(())
        };
        tokio::time::timeout(LIST_TIMEOUT, listing)
            .await
            .map_err(|_| Error::failed("git has not listed the refs of a repository in time"))?
            .map_err(Error::internal)?;
        Ok(removals)
    }
}

/// Returns true for a ref that is neither a branch, a tag, nor Tancho's own.
fn is_foreign_ref(name: &[u8]) -> bool {
    let ours = name == refs::FORGE_REF.as_bytes();
    name.starts_with(b"refs/") && !ours && !refs::is_visible(name)
}

#[async_trait]
impl Reconciler for RepositoryHealer {
    fn name(&self) -> &'static str {
        "repositories"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let (core, busy) = (&self.maintainer.core, self.users.busy_keys());
        let keys = store::list_untidy_keys(&core.db, &core.host, &busy, MOST_USERS).await?;
        let mut report = ReconcileReport::default();
        if !keys.is_empty() {
            let users = keys.len();
            report
                .done
                .push(format!("started to maintain the repositories of {users} users"));
        }
        for key in keys {
            let maintainer = self.maintainer.clone();
            self.users
                .spawn(key, async move { maintainer.maintain_all(key).await });
        }
        Ok(report)
    }
}
