//! Archives on their way from a host without a worker to one that has one, through the database.
//!
//! The host that has received an archive stores it in pieces, before the deploy begins; the worker that builds fetches
//! it into its own folder of uploads. The database is what every host reaches: a worker needs no address of the API, nor
//! the API one of a worker, and the host that received the archive may go as soon as the deploy has begun. It costs
//! the archive once in the database's log. Where the API and a worker are one process, nothing of this happens.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::config::ServerRole;
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::deploys::saga::{DeployData, DeploySaga};
use crate::deploys::store::{self, WaitingArchive};
use crate::kernel::error::Error;
use crate::sagas::{self, ReconcileReport, Reconciler};

/// Bytes of a piece. The database takes no larger one.
const PIECE_BYTES: usize = 1 << 20;
/// Between two looks for archives that nobody needs.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);
/// Archives that are deleted in one round.
const MAX_PER_ROUND: i64 = 20;

/// Whether the deploys that are begun on this host are run on others.
pub(super) fn hands_over_archives(core: &Core) -> bool {
    !core.settings.roles.contains(&ServerRole::Worker)
}

/// Stores an archive of the folder of uploads, by the name of its file, of which the part before `-` is the owner.
/// No deploy has it yet.
pub(super) async fn store_archive(core: &Core, archive: &str) -> Result<(), Error> {
    let path = core.data_dir.uploads_dir().join(archive);
    let mut file = File::open(&path).await.map_err(Error::internal)?;
    let size = file.metadata().await.map_err(Error::internal)?.len();
    let owner = archive.split('-').next().unwrap_or_default();
    let size = i64::try_from(size).map_err(Error::internal)?;
    store::insert_archive(&core.db, archive, owner, size).await?;
    let stored = store_pieces(core, archive, &mut file).await;
    if stored.is_err() {
        discard_archive(core, archive).await;
    }
    stored
}

async fn store_pieces(core: &Core, archive: &str, file: &mut File) -> Result<(), Error> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    for seq in 0.. {
        piece.clear();
        let mut next = (&mut *file).take(PIECE_BYTES as u64);
        if next.read_to_end(&mut piece).await.map_err(Error::internal)? == 0 {
            break;
        }
        store::insert_archive_piece(&core.db, archive, seq, &piece).await?;
    }
    Ok(())
}

/// Deletes a stored archive that no deploy has taken. What stays is swept.
pub(super) async fn discard_archive(core: &Core, archive: &str) {
    if let Err(error) = store::delete_unassigned_archive(&core.db, archive).await {
        tracing::warn!(%error, archive, "a stored archive that no deploy needs is left for now");
    }
}

/// Sees to it that an archive lies in this host's folder of uploads. Errors: `Failed` if it is nowhere.
pub(super) async fn fetch_archive(core: &Core, archive: &str) -> Result<(), Error> {
    let path = core.data_dir.uploads_dir().join(archive);
    if tokio::fs::try_exists(&path).await.map_err(Error::internal)? {
        return Ok(());
    }
    let gone = || Error::failed("The archive of this deploy is gone: deploy again.");
    let size = store::find_archive_size(&core.db, archive)
        .await?
        .ok_or_else(gone)?;
    let part = path.with_extension("part");
    let written = write_pieces(core, archive, &part).await?;
    if written != size {
        return Err(gone());
    }
    tokio::fs::rename(&part, &path).await.map_err(Error::internal)
}

/// Writes all pieces into a file; how many bytes they were.
async fn write_pieces(core: &Core, archive: &str, part: &Path) -> Result<i64, Error> {
    let full = |error| {
        Error::unavailable("The archive could not be stored: is the disk of the worker full?")
            .with_source(error)
    };
    let mut file = File::create(part).await.map_err(Error::internal)?;
    let mut written: i64 = 0;
    for seq in 0.. {
        let Some(piece) = store::find_archive_piece(&core.db, archive, seq).await? else {
            break;
        };
        file.write_all(&piece).await.map_err(full)?;
        written = written.saturating_add(i64::try_from(piece.len()).unwrap_or(i64::MAX));
    }
    file.sync_all().await.map_err(full)?;
    Ok(written)
}

/// Hands over the archives of deploys that wait for a worker of this host, which has none any more. For the start.
pub(super) async fn hand_over_waiting_deploys(core: &Core) -> Result<(), Error> {
    for waiting in store::list_waiting_archives(&core.db, &core.host).await? {
        if let Err(error) = hand_over_deploy(core, &waiting).await {
            tracing::error!(error = %error.report(), event = %waiting.event, "a deploy waits for a worker of this host, which has none");
        }
    }
    Ok(())
}

async fn hand_over_deploy(core: &Core, waiting: &WaitingArchive) -> Result<(), Error> {
    store_archive(core, &waiting.archive).await?;
    let mut tx = core.db.begin().await?;
    store::assign_archive(&mut tx, &waiting.archive, &waiting.event).await?;
    sagas::move_saga::<DeploySaga>(&mut tx, waiting.saga, DeployData::release_host).await?;
    tx.commit().await?;
    let path = core.data_dir.uploads_dir().join(&waiting.archive);
    tokio::fs::remove_file(path).await.map_err(Error::internal)
}

/// Deletes stored archives that no deploy needs any more.
pub struct ArchiveHealer {
    core: Core,
}

impl ArchiveHealer {
    /// The healer.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }
}

#[async_trait]
impl Reconciler for ArchiveHealer {
    fn name(&self) -> &'static str {
        "archives"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        SWEEP_PERIOD
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let deleted = store::delete_abandoned_archives(&self.core.db, MAX_PER_ROUND).await?;
        let mut report = ReconcileReport::default();
        if deleted > 0 {
            report
                .done
                .push(format!("deleted {deleted} archives that no deploy needs"));
        }
        report.has_more = deleted == MAX_PER_ROUND.unsigned_abs();
        Ok(report)
    }
}
