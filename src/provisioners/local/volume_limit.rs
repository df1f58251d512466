//! The bounds of volumes. A folder has no quota, so the runner measures every few seconds, and marks the volumes that hold
//! more than they may; the shims of their units look for the marks.
//!
//! Units of a full volume are ended and started again with the right to read and to remove files in it, and ended once
//! more when there is room again. Between two measurements a volume may hold more than its bound.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::processes::ShimEvent;
use super::volumes::ShimVolume;
use crate::kernel::byte_size::ByteSize;
use crate::kernel::names::VolumeName;
use crate::sandbox::disk_usage::{DiskLimit, exceeds_limit};

/// Beside the data of a volume: its bound in bytes, and the mark of one that is full.
const SIZE_FILE: &str = "size";
const FULL_MARK: &str = "full";
/// Each file uses space beside its bytes.
const MAX_FILES: u64 = 2_000_000;
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// Measuring takes at most one part in this many of the time.
const PAUSE_FACTOR: u32 = 20;
/// A full volume has room again when it holds no more than this part of its bound.
const ROOM_PERCENT: u64 = 90;

/// Why the shim ends the processes of its unit, which is then started again.
#[derive(Clone, Debug)]
pub(super) enum ForcedEnd {
    ScratchFull { limit: ByteSize },
    VolumeFull { name: VolumeName, limit: ByteSize },
    VolumeHasRoom { name: VolumeName },
}

impl ForcedEnd {
    pub(super) fn empties_scratch(&self) -> bool {
        matches!(self, Self::ScratchFull { .. })
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::ScratchFull { limit } => {
                format!("killed: its scratch folder exceeded {limit} and was emptied")
            }
            Self::VolumeFull { name, limit } => format!(
                "killed: the volume {name} holds more than {limit}; until files are removed from it, it is not written to"
            ),
            Self::VolumeHasRoom { name } => {
                format!("ended: the volume {name} has room again and can be written to")
            }
        }
    }
}

/// Writes the bound of a volume; 0: it has none.
pub(super) fn write_bound(folder: &Path, max_bytes: u64) -> io::Result<()> {
    let file = folder.join(SIZE_FILE);
    if max_bytes > 0 {
        return fs::write(file, max_bytes.to_string());
    }
    for file in [file, folder.join(FULL_MARK)] {
        match fs::remove_file(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// Whether the volume with this data folder was full when last measured.
pub(super) fn is_full(data: &Path) -> bool {
    data.with_file_name(FULL_MARK).exists()
}

/// Measures all volumes until `stop`.
pub(super) async fn measure_volumes(volumes: PathBuf, stop: CancellationToken) {
    let mut pause = MIN_PAUSE;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let (volumes, began) = (volumes.clone(), Instant::now());
        if tokio::task::spawn_blocking(move || measure_all(&volumes))
            .await
            .is_err()
        {
            return;
        }
        pause = MIN_PAUSE.max(began.elapsed() * PAUSE_FACTOR);
    }
}

/// Measures all volumes once. One that cannot be marked does not end the round.
fn measure_all(volumes: &Path) {
    for entry in fs::read_dir(volumes).into_iter().flatten().flatten() {
        let folder = entry.path();
        if let Err(error) = mark_volume(&folder) {
            tracing::warn!(volume = %folder.display(), %error, "cannot mark whether a volume is full");
        }
    }
}

fn mark_volume(folder: &Path) -> io::Result<()> {
    let bound = fs::read_to_string(folder.join(SIZE_FILE)).unwrap_or_default();
    let Ok(bound) = bound.trim().parse::<u64>() else {
        return Ok(());
    };
    let mark = folder.join(FULL_MARK);
    let was_full = mark.exists();
    let bytes = match was_full {
        true => bound / 100 * ROOM_PERCENT,
        false => bound,
    };
    let limit = DiskLimit {
        bytes,
        files: MAX_FILES,
    };
    match (exceeds_limit(&folder.join("data"), &[], limit), was_full) {
        (true, false) => fs::write(mark, ""),
        (false, true) => fs::remove_file(mark),
        _ => Ok(()),
    }
}

/// Looks for the marks of volumes as long as the shim lives, and sends an event whenever one comes or goes.
pub(super) fn watch_marks(volumes: &[ShimVolume], sender: &Sender<ShimEvent>) {
    let mut seen: Vec<bool> = volumes.iter().map(|volume| is_full(&volume.dir)).collect();
    loop {
        thread::sleep(MIN_PAUSE);
        for (volume, was_full) in volumes.iter().zip(&mut seen) {
            let is_full = is_full(&volume.dir);
            if is_full == std::mem::replace(was_full, is_full) {
                continue;
            }
            let name = volume.name.clone();
            let cause = match is_full {
                true => ForcedEnd::VolumeFull {
                    name,
                    limit: ByteSize(volume.max_bytes),
                },
                false => ForcedEnd::VolumeHasRoom { name },
            };
            if sender.send(ShimEvent::MustEnd(cause)).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_is_marked_while_it_holds_more_than_its_bound() {
        let folder = std::env::temp_dir().join(format!("tancho-volume-{}", uuid::Uuid::new_v4()));
        let volume = folder.join("one");
        let data = volume.join("data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("file"), vec![1; 2 << 20]).unwrap();
        measure_all(&folder);
        assert!(!is_full(&data), "it has no bound");
        write_bound(&volume, 1 << 20).unwrap();
        measure_all(&folder);
        assert!(is_full(&data));
        // No more than its bound, but close to it.
        fs::write(data.join("file"), vec![1; (1 << 20) - 65_536]).unwrap();
        measure_all(&folder);
        assert!(is_full(&data));
        fs::remove_file(data.join("file")).unwrap();
        measure_all(&folder);
        assert!(!is_full(&data));
        // Links of its users lead nowhere.
        std::os::unix::fs::symlink("/usr", data.join("link")).unwrap();
        measure_all(&folder);
        assert!(!is_full(&data));
        fs::write(volume.join(FULL_MARK), "").unwrap();
        write_bound(&volume, 0).unwrap();
        assert!(!is_full(&data));
        fs::remove_dir_all(&folder).unwrap();
    }
}
