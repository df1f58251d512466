//! Volumes of this host: a folder each, `<volumes>/<id>/data`, of a group of its own that the units of the bound apps
//! join. The parent can be passed by everybody, and holds what Tancho notes of the volume.
//!
//! A unit sees a volume at its path if the host lets it have mounts of its own and adds nothing to a folder that the host
//! has; it sees it in any case at the path that its variable says.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chown};
use serde::{Deserialize, Serialize};

use super::volume_limit::write_bound;
use super::{LocalRunnerConfig, ProvisionError, UnitSpec};
use crate::builders::remove_tree;
use crate::kernel::ids::VolumeId;
use crate::kernel::names::VolumeName;
use crate::provisioners::UnitVolume;
use crate::sandbox::{FolderMount, can_mount_at};

/// Files and folders of a volume belong to its group, whoever makes them.
const SHARED_MODE: u32 = 0o2770;
const OWN_MODE: u32 = 0o700;
/// An empty folder beside those of the volumes, over which units mount what only they see.
const SCRATCH: &str = ".mounts";

/// A volume of a unit, as this host has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ShimVolume {
    pub(super) name: VolumeName,
    pub(super) dir: PathBuf,
    /// The group of those that may use it; `None`: all units have one user.
    pub(super) group: Option<u32>,
    /// Where the unit is to see it.
    pub(super) path: PathBuf,
    pub(super) is_mounted: bool,
    pub(super) is_read_only: bool,
    pub(super) max_bytes: u64,
}

impl ShimVolume {
    /// Returns the path at which the unit finds it.
    pub(super) fn visible_path(&self) -> &Path {
        match self.is_mounted {
            true => &self.path,
            false => &self.dir,
        }
    }

    /// Whether the unit writes to it, and it may hold only so much.
    pub(super) fn is_bounded(&self) -> bool {
        self.max_bytes > 0 && !self.is_read_only
    }

    pub(super) fn to_mount(&self) -> FolderMount {
        FolderMount {
            from: self.dir.clone(),
            to: self.path.clone(),
            is_read_only: self.is_read_only,
        }
    }
}

/// The folder over which units mount what only they see.
pub(super) fn scratch_folder(volumes: &Path) -> PathBuf {
    volumes.join(SCRATCH)
}

/// Makes the folders of a unit's volumes, where they are missing. Errors: `Permanent` for a read-only volume on a host
/// that cannot keep a unit from writing.
pub(super) fn prepare_volumes(
    settings: &LocalRunnerConfig,
    spec: &UnitSpec,
) -> Result<Vec<ShimVolume>, ProvisionError> {
    let confinement = &settings.limits.confinement;
    let has_mounts = confinement.namespaces && Uid::effective().is_root();
    let mut volumes = Vec::with_capacity(spec.volumes.len());
    for volume in &spec.volumes {
        let group = (settings.app_uid)(volume.number);
        let dir = make_folder(&settings.volumes, volume, group).map_err(|error| {
            ProvisionError::Transient(format!(
                "The folder of the volume {} cannot be used: {error}.",
                volume.name
            ))
        })?;
        let is_mounted = has_mounts && can_mount_at(Path::new(&volume.path));
        if volume.is_read_only && !is_mounted && !confinement.restricts_files() {
            return Err(ProvisionError::Permanent(format!(
                "This host cannot keep a unit from writing to the volume {}: bind it without read-only.",
                volume.name
            )));
        }
        volumes.push(ShimVolume {
            name: volume.name.clone(),
            dir,
            group,
            path: PathBuf::from(&volume.path),
            is_mounted,
            is_read_only: volume.is_read_only,
            max_bytes: volume.max_bytes,
        });
    }
    Ok(volumes)
}

fn volume_folder(volumes: &Path, volume: VolumeId) -> PathBuf {
    volumes.join(volume.to_string())
}

fn make_folder(volumes: &Path, volume: &UnitVolume, group: Option<u32>) -> io::Result<PathBuf> {
    let folder = volume_folder(volumes, volume.id);
    for path in [volumes, &folder, &scratch_folder(volumes)] {
        DirBuilder::new().recursive(true).mode(0o711).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o711))?;
    }
    let data = folder.join("data");
    match DirBuilder::new().mode(OWN_MODE).create(&data) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    // Whenever it is used, so that a start that was interrupted in between does no harm. A unit cannot have replaced it:
    // the folder above belongs to Tancho.
    let mode = match group {
        Some(group) => {
            chown(&data, None, Some(Gid::from_raw(group)))?;
            SHARED_MODE
        }
        None => OWN_MODE,
    };
    fs::set_permissions(&data, Permissions::from_mode(mode))?;
    write_bound(&folder, volume.max_bytes)?;
    Ok(data)
}

/// Removes a volume. Its name disappears at once, then its content.
pub(super) fn remove_volume(volumes: &Path, volume: VolumeId) -> io::Result<()> {
    let away = volumes.join(format!(".gone-{}", uuid::Uuid::new_v4()));
    match fs::rename(volume_folder(volumes, volume), &away) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed.and_then(|()| remove_tree(&away)),
    }
}
