//! Repositories on disk: measuring and removing them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::libc;

use crate::builders;
use crate::kernel::error::Error;

/// The prefixes that git gives to the quarantine folders of pushes, below `objects`.
const QUARANTINE_PREFIXES: [&str; 2] = ["incoming-", "tmp_objdir-"];

/// The prefixes that git gives to packs being written, below `objects/pack`.
const TEMPORARY_PACK_PREFIXES: [&str; 2] = ["tmp_", ".tmp-"];

/// Returns the bytes of the files below a folder. Files removed meanwhile do not count.
pub(super) async fn measure_folder(folder: &Path) -> Result<i64, Error> {
    let folder = folder.to_owned();
    let bytes = run_blocking(move || sum_file_sizes(&folder)).await?;
    Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Removes a repository. Succeeds if it does not exist.
pub(super) async fn remove_repository(folder: &Path) -> Result<(), Error> {
    let folder = folder.to_owned();
    run_blocking(move || match folder.exists() {
        true => builders::remove_version(&folder),
        false => Ok(()),
    })
    .await
}

/// Removes the quarantines of pushes that were killed more than `age` ago.
pub(super) async fn remove_stale_quarantines(repository: &Path, age: Duration) -> Result<(), Error> {
    let objects = repository.join("objects");
    run_blocking(move || {
        for entry in std::fs::read_dir(objects)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !QUARANTINE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            // A push that ends meanwhile removes its own quarantine.
            if is_older_than(&entry.path(), age)? {
                builders::remove_tree(&entry.path())?;
            }
        }
        Ok(())
    })
    .await
}

/// Returns true if a file or folder was last changed longer ago than `age`. False if it does not exist.
fn is_older_than(path: &Path, age: Duration) -> io::Result<bool> {
    let Some(found) = skip_missing(std::fs::symlink_metadata(path))? else {
        return Ok(false);
    };
    let passed = SystemTime::now().duration_since(found.modified()?);
    Ok(passed.is_ok_and(|passed| passed >= age))
}

/// Maps "not found" to `None`: git and other tasks remove files of a repository while it is read.
pub(super) fn skip_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// Removes unfinished packs of fetches and repacking. The caller must hold the locks of both.
pub(super) async fn remove_stale_packs(repository: &Path) -> Result<(), Error> {
    let packs = repository.join("objects/pack");
    run_blocking(move || {
        for entry in std::fs::read_dir(packs)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if TEMPORARY_PACK_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                skip_missing(std::fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    })
    .await
}

/// The maximum size of a small file, in bytes.
const MAX_SMALL_FILE_BYTES: u64 = 4096;

/// Reads a small file of a repository. The folder belongs to git's user, and this process may read what git
/// may not: links are not followed, and the read does not block.
pub(super) fn read_small_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = File::options();
    let options = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut read = Vec::new();
    options
        .open(path)?
        .take(MAX_SMALL_FILE_BYTES)
        .read_to_end(&mut read)?;
    Ok(read)
}

/// Gives a repository to the user of git. Its folder is changed last, so that an interrupted change is
/// repeated.
pub(super) fn chown_repository(repository: &Path, user: Option<u32>) -> io::Result<()> {
    match user {
        Some(user) if std::fs::symlink_metadata(repository)?.uid() != user => {
            builders::chown_tree(repository, user)
        }
        _ => Ok(()),
    }
}

/// Runs a blocking function on a thread for it.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
        .map_err(Error::internal)
}

fn sum_file_sizes(folder: &Path) -> io::Result<u64> {
    let (mut folders, mut bytes) = (vec![folder.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        let Some(entries) = skip_missing(std::fs::read_dir(&folder))? else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            match skip_missing(entry.metadata())? {
                Some(found) if found.is_dir() => folders.push(entry.path()),
                Some(found) => bytes += found.len(),
                None => {}
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stale_quarantines_are_removed_and_new_or_vanished_ones_are_ignored() {
        let repository = std::env::temp_dir().join(format!("tancho-disk-{}", uuid::Uuid::new_v4().simple()));
        let objects = repository.join("objects");
        std::fs::create_dir_all(objects.join("incoming-old/17")).unwrap();
        std::fs::create_dir_all(objects.join("pack")).unwrap();
        remove_stale_quarantines(&repository, Duration::from_secs(3600))
            .await
            .unwrap();
        assert!(objects.join("incoming-old").exists());
        remove_stale_quarantines(&repository, Duration::ZERO)
            .await
            .unwrap();
        assert!(!objects.join("incoming-old").exists() && objects.join("pack").exists());
        assert!(!is_older_than(&objects.join("incoming-gone"), Duration::ZERO).unwrap());
        std::fs::remove_dir_all(&repository).unwrap();
    }
}
