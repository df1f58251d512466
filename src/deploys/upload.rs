//! An archive on its way in: written to the data folder as it comes, within a bound, and removed again
//! unless somebody keeps it.
//!
//! The folder is shared: a caller sends few archives at once and an app is sent one, and none is begun while those that
//! wait for their deploy take as much disk as they may, of one caller or of all. The name of a file says whose it is,
//! so that this holds after a restart too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::apps::App;
use crate::caller_limits::caller_key;
use crate::core::Core;
use crate::deploys::{archive_transfer, store};
use crate::kernel::error::Error;
use crate::kernel::fair_slots::FairSlot;
use crate::kernel::ids::AppId;
use crate::kernel::request_context::RequestContext;

/// Archives of the largest size that the waiting archives of one caller may take together.
const MAX_ARCHIVES_PER_CALLER: u64 = 4;
/// Archives of the largest size that all waiting archives may take together.
const MAX_ARCHIVES: u64 = 16;

/// The right to send an archive for an app; free again when it is dropped.
#[derive(Debug)]
pub struct UploadPermit {
    owner: String,
    _of_app: FairSlot<AppId>,
    _of_caller: FairSlot<String>,
}

/// How long an archive waits for another one of its caller to end. Nothing of it is read meanwhile.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// Lets a caller send an archive, perhaps after others of theirs. Errors: `Conflict` while another is sent for the app,
/// `TooMany` for a caller who has as many as they may have, `Unavailable` when the server has.
pub async fn admit_upload(core: &Core, call: &RequestContext, app: &App) -> Result<UploadPermit, Error> {
    let of_app = core
        .caller_limits
        .app_uploads
        .try_acquire(&app.id)
        .ok_or_else(|| {
            Error::conflict(format!(
                "Another archive is being sent for app {}: wait for its end, then deploy again.",
                app.name
            ))
        })?;
    let caller = caller_key(call);
    let waiting = tokio::time::timeout(SLOT_TIMEOUT, core.caller_limits.uploads.acquire(&caller));
    let Ok(Ok(of_caller)) = waiting.await else {
        let words = "Too many archives are being sent at once: wait for one of yours to end.";
        return Err(Error::too_many(words));
    };
    let owner = owner_tag(&caller);
    let used = UploadUsage::measure(core, &owner).await?;
    let most = core.settings.api.max_upload_bytes.0;
    if used.by_owner >= most.saturating_mul(MAX_ARCHIVES_PER_CALLER) {
        return Err(Error::too_many(
            "Your archives that wait to be deployed take all the disk they may: wait for a deploy to end.",
        ));
    }
    if used.in_all >= most.saturating_mul(MAX_ARCHIVES) {
        return Err(Error::unavailable(
            "The archives that wait to be deployed take all the disk they may: try again later.",
        ));
    }
    Ok(UploadPermit {
        owner,
        _of_app: of_app,
        _of_caller: of_caller,
    })
}

/// A caller in the name of a file.
fn owner_tag(caller: &str) -> String {
    hex::encode(&Sha256::digest(caller.as_bytes())[..8])
}

/// Bytes of the archives in the folder.
#[derive(Debug, Default, PartialEq)]
struct UploadUsage {
    by_owner: u64,
    in_all: u64,
}

impl UploadUsage {
    /// In the folder of uploads, and in the database if archives go there from here.
    async fn measure(core: &Core, owner: &str) -> Result<Self, Error> {
        let (folder, tag) = (core.data_dir.uploads_dir(), owner.to_owned());
        let mut used = tokio::task::spawn_blocking(move || Self::measure_folder(&folder, &tag))
            .await
            .map_err(Error::internal)?
            .map_err(Error::internal)?;
        if archive_transfer::hands_over_archives(core) {
            let (by_owner, in_all) = store::measure_archives(&core.db, owner).await?;
            used.by_owner += by_owner.unsigned_abs();
            used.in_all += in_all.unsigned_abs();
        }
        Ok(used)
    }

    fn measure_folder(folder: &Path, owner: &str) -> std::io::Result<Self> {
        let mut used = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let size = match entry.metadata() {
                Ok(metadata) => metadata.len(),
                // Its deploy has just ended.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
            used.in_all += size;
            if entry.file_name().to_string_lossy().starts_with(owner) {
                used.by_owner += size;
            }
        }
        Ok(used)
    }
}

/// An archive being received. Dropped without `keep`, its file goes.
#[derive(Debug)]
pub struct ArchiveUpload {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    kept: bool,
}

impl ArchiveUpload {
    /// Begins a file in a folder; `limit` in bytes.
    pub async fn begin_in(folder: &Path, limit: u64) -> Result<Self, Error> {
        Self::create_file(folder, "server", limit).await
    }

    /// Begins the file of a caller.
    pub async fn begin_for(core: &Core, permit: &UploadPermit) -> Result<Self, Error> {
        let limit = core.settings.api.max_upload_bytes.0;
        Self::create_file(&core.data_dir.uploads_dir(), &permit.owner, limit).await
    }

    async fn create_file(folder: &Path, owner: &str, limit: u64) -> Result<Self, Error> {
        let path = folder.join(format!("{owner}-{}.part", uuid::Uuid::new_v4().simple()));
        let file = File::create_new(&path).await.map_err(Error::internal)?;
        Ok(Self {
            path,
            file,
            size: 0,
            limit,
            kept: false,
        })
    }

    /// Takes the next bytes. Errors: `TooLarge` beyond the bound.
    pub async fn write_chunk(&mut self, chunk: &Bytes) -> Result<(), Error> {
        self.size += chunk.len() as u64;
        if self.size > self.limit {
            return Err(Error::too_large(format!(
                "The archive is larger than {} bytes.",
                self.limit
            )));
        }
        self.file.write_all(chunk).await.map_err(|e| {
            Error::unavailable("The archive could not be stored: is the disk of the server full?")
                .with_source(e)
        })
    }

    /// How many bytes have come.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the file durable, and answers its name in the folder. This may take long, so no transaction is open.
    pub async fn finish(&mut self) -> Result<String, Error> {
        self.file.flush().await.map_err(Error::internal)?;
        self.file.sync_all().await.map_err(Error::internal)?;
        let path = self.path.with_extension("archive");
        tokio::fs::rename(&self.path, &path)
            .await
            .map_err(Error::internal)?;
        self.path = path;
        let name = self.path.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// Leaves the file to the deploy, which removes it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for ArchiveUpload {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: what stays is swept at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_sizes_are_summed_per_owner_and_in_total() {
        let folder = std::env::temp_dir().join(format!("tancho-uploads-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let (ana, bob) = (owner_tag("user:ana"), owner_tag("user:bob"));
        for (name, size) in [
            (format!("{ana}-1.part"), 3),
            (format!("{ana}-2.archive"), 4),
            (format!("{bob}-1.part"), 5),
        ] {
            std::fs::write(folder.join(name), vec![0; size]).unwrap();
        }
        let expected = UploadUsage {
            by_owner: 7,
            in_all: 12,
        };
        assert_eq!(UploadUsage::measure_folder(&folder, &ana).unwrap(), expected);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
