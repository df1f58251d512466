//! What lies on disk: how large it is, and how it is removed.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::builders;
use crate::kernel::problem::Problem;

/// Git's names of folders of pushes under way, below `objects`.
const QUARANTINES: [&str; 2] = ["incoming-", "tmp_objdir-"];

/// Git's names of packs that are being written, below `objects/pack`.
const BEGUN: [&str; 2] = ["tmp_", ".tmp-"];

/// The bytes of the files below a folder. What goes meanwhile does not count.
pub(super) async fn size(folder: &Path) -> Result<i64, Problem> {
    let folder = folder.to_owned();
    let bytes = blocking(move || bytes_below(&folder)).await?;
    Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Removes a repository. Gone already is fine.
pub(super) async fn remove(folder: &Path) -> Result<(), Problem> {
    let folder = folder.to_owned();
    blocking(move || match folder.exists() {
        true => builders::remove_version(&folder),
        false => Ok(()),
    })
    .await
}

/// Removes what pushes have left that were killed more than `age` ago.
pub(super) async fn sweep(repository: &Path, age: Duration) -> Result<(), Problem> {
    let objects = repository.join("objects");
    blocking(move || {
        for entry in std::fs::read_dir(objects)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !QUARANTINES.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let modified = entry.metadata()?.modified()?;
            if SystemTime::now()
                .duration_since(modified)
                .is_ok_and(|is| is >= age)
            {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    })
    .await
}

/// Removes the beginnings of packs that fetches and packing have left. Nobody else may be at either.
pub(super) async fn sweep_packs(repository: &Path) -> Result<(), Problem> {
    let packs = repository.join("objects/pack");
    blocking(move || {
        for entry in std::fs::read_dir(packs)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if BEGUN.iter().any(|prefix| name.starts_with(prefix)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Problem::internal)?
        .map_err(Problem::internal)
}

fn bytes_below(folder: &Path) -> io::Result<u64> {
    let (mut folders, mut bytes) = (vec![folder.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}
