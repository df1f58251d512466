//! An archive on its way in: written to the data folder as it comes, within a bound, and removed again
//! unless somebody keeps it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::kernel::problem::Problem;

/// An archive being received. Dropped without `keep`, its file goes.
#[derive(Debug)]
pub struct Upload {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    kept: bool,
}

impl Upload {
    /// Begins a file in a folder; `limit` in bytes.
    pub async fn begin(folder: &Path, limit: u64) -> Result<Self, Problem> {
        let path = folder.join(format!("{}.part", uuid::Uuid::new_v4().simple()));
        let file = File::create_new(&path).await.map_err(Problem::internal)?;
        Ok(Self {
            path,
            file,
            size: 0,
            limit,
            kept: false,
        })
    }

    /// Takes the next bytes. Errors: `TooLarge` beyond the bound.
    pub async fn write(&mut self, chunk: &Bytes) -> Result<(), Problem> {
        self.size += chunk.len() as u64;
        if self.size > self.limit {
            return Err(Problem::too_large(format!(
                "The archive is larger than {} bytes.",
                self.limit
            )));
        }
        self.file.write_all(chunk).await.map_err(|e| {
            Problem::unavailable("The archive could not be stored: is the disk of the server full?")
                .because(e)
        })
    }

    /// How many bytes have come.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Keeps the file under a name in its folder, and answers its path.
    pub async fn keep(mut self, name: &str) -> Result<PathBuf, Problem> {
        self.file.flush().await.map_err(Problem::internal)?;
        self.file.sync_all().await.map_err(Problem::internal)?;
        let path = self.path.with_file_name(name);
        tokio::fs::rename(&self.path, &path)
            .await
            .map_err(Problem::internal)?;
        self.kept = true;
        Ok(path)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: what stays is swept at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
