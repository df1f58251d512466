//! The volumes of a unit that is about to start.

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::provisioners::UnitVolume;
use crate::volumes::model::max_bytes;
use crate::volumes::store::{self, MountRow};

/// Returns the volumes of a release's units. Errors: `Conflict` if one is gone, `Unavailable` if its data is on another host.
pub async fn list_release_mounts(core: &Core, release: i64) -> Result<Vec<UnitVolume>, Error> {
    let mut tx = core.db.begin().await?;
    let rows = store::claim_release_mounts(&mut tx, release, &core.host).await?;
    tx.commit().await?;
    rows.into_iter().map(|row| build_mount(core, row)).collect()
}

/// Returns the volumes that an app or a job has now, for a unit without a release. Errors: as `list_release_mounts`.
pub async fn list_app_mounts(core: &Core, app: AppId) -> Result<Vec<UnitVolume>, Error> {
    let mut tx = core.db.begin().await?;
    let rows = store::claim_app_mounts(&mut tx, app, &core.host).await?;
    tx.commit().await?;
    rows.into_iter().map(|row| build_mount(core, row)).collect()
}

fn build_mount(core: &Core, row: MountRow) -> Result<UnitVolume, Error> {
    let (Some(name), Some(number), Some(provisioner), Some(plan)) =
        (row.name, row.number, row.provisioner, row.plan)
    else {
        return Err(Error::conflict(format!(
            "The volume at {} is removed: restart the app without it.",
            row.path
        )));
    };
    if row.host.as_ref() != Some(&core.host) {
        return Err(Error::unavailable(format!(
            "The data of the volume {name} is on another host than the files of the app."
        )));
    }
    let plan = core.settings.volumes.find_plan(&provisioner, &plan);
    let chosen = row.options.map(|options| options.0).unwrap_or_default();
    Ok(UnitVolume {
        id: row.id,
        number,
        max_bytes: max_bytes(plan, &chosen),
        options: plan.map(|plan| plan.options.clone()).unwrap_or_default(),
        name,
        path: row.path,
        is_read_only: row.is_read_only,
    })
}
