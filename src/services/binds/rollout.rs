//! The last steps of a saga that has changed the environment of apps: a new release of each, proposed,
//! awaited, adopted. Apps with nothing deployed, and stopped ones, have none.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::releases;
use crate::sagas::{Run, StepError};

/// Which apps are rolled out, and how far it went.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Rollout {
    /// Empty: none.
    pub apps: Vec<AppId>,
    proposed: bool,
    adopted: bool,
    releases: Vec<(AppId, i64)>,
}

impl Rollout {
    /// The rollout of one app, or of none.
    pub fn of(app: Option<AppId>) -> Self {
        Self {
            apps: app.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// The data of a saga with a rollout.
pub trait HasRollout: Serialize + DeserializeOwned + Send {
    /// Its rollout.
    fn rollout(&mut self) -> &mut Rollout;
}

/// The steps "release", "start" and "switch".
pub async fn forward<D: HasRollout>(core: &Core, step: &str, run: &mut Run) -> Result<(), StepError> {
    let mut data: D = run.data()?;
    if data.rollout().apps.is_empty() {
        return Ok(());
    }
    match step {
        "release" => propose(core, run, data).await,
        "start" => {
            for (app, release) in &data.rollout().releases {
                releases::await_ready(core, run, *app, *release).await?;
            }
            Ok(())
        }
        _ => {
            // Adopted already is fine; what was written down of a commit that failed must not be believed.
            adopt(run, &mut data).await?;
            for (_, release) in &data.rollout().releases {
                releases::settle(core, *release).await?;
            }
            Ok(())
        }
    }
}

/// Whether the new releases are current: then it is too late to undo.
pub fn is_adopted<D: HasRollout>(run: &Run) -> bool {
    run.data().is_ok_and(|mut data: D| data.rollout().adopted)
}

async fn adopt<D: HasRollout>(run: &mut Run, data: &mut D) -> Result<(), StepError> {
    let mut tx = run.begin().await?;
    for (app, release) in &data.rollout().releases {
        releases::adopt(&mut tx, *app, *release).await?;
    }
    data.rollout().adopted = true;
    run.set_data(data)?;
    run.keep_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// The releases and that they are ours, in one transaction: a crash after it finds them again.
async fn propose<D: HasRollout>(core: &Core, run: &mut Run, mut data: D) -> Result<(), StepError> {
    if data.rollout().proposed {
        return Ok(());
    }
    let mut tx = run.begin().await?;
    for app in data.rollout().apps.clone() {
        if let Some(release) = releases::propose(core, &mut tx, app).await? {
            data.rollout().releases.push((app, release));
        }
    }
    data.rollout().proposed = true;
    run.set_data(&data)?;
    run.keep_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Gives up what was proposed and not adopted.
pub async fn undo<D: HasRollout>(step: &str, run: &mut Run) -> Result<(), StepError> {
    let mut data: D = run.data()?;
    if step != "release" || data.rollout().adopted || !data.rollout().proposed {
        return Ok(());
    }
    let mut tx = run.begin().await?;
    for (app, release) in std::mem::take(&mut data.rollout().releases) {
        releases::abandon(&mut tx, app, release).await?;
    }
    data.rollout().proposed = false;
    run.set_data(&data)?;
    run.keep_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}
