//! What deploys that were cut short leave on a host's disk.

use crate::builders;
use crate::core::Core;
use crate::deploys::{archive_transfer, store};
use crate::kernel::error::Error;

/// Removes, at the start, what deploys of earlier processes of this host left: half-built folders, archives that nobody
/// needs. Archives that others need are handed over if this host has no worker any more.
pub async fn remove_leftovers(core: &Core) -> Result<(), Error> {
    if archive_transfer::hands_over_archives(core) {
        archive_transfer::hand_over_waiting_deploys(core).await?;
    }
    let used = store::list_archives_in_use(&core.db).await?;
    let (uploads, versions) = (core.data_dir.uploads_dir(), core.data_dir.versions_dir());
    let sweeping = move || -> std::io::Result<()> {
        for entry in std::fs::read_dir(&uploads)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !used.contains(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        for entry in std::fs::read_dir(&versions)? {
            builders::remove_leftovers(&entry?.path())?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(sweeping)
        .await
        .map_err(Error::internal)?
        .map_err(Error::internal)
}
