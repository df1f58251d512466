//! Releases (a stand-in until the slice is here).

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::kernel::names::EnvName;
use crate::kernel::problem::Problem;
use crate::kernel::seal::Place;
use crate::kernel::secret::Secret;

/// The environment of a release, opened.
pub async fn environment(core: &Core, release_id: i64) -> Result<Vec<(EnvName, Secret)>, Problem> {
    let row = sqlx::query!(
        r#"select app_id as "app_id: AppId", version, env from release where release_id = $1"#,
        release_id
    )
    .fetch_one(&core.db)
    .await?;
    let place = Place::new("release.env", &[&row.app_id, &row.version]);
    let text = core.keys.open(&place, &row.env)?;
    let map: BTreeMap<EnvName, Secret> = serde_json::from_str(text.expose()).map_err(Problem::internal)?;
    Ok(map.into_iter().collect())
}

/// A release of the current version with today's environment, as candidate.
pub async fn start_fresh(
    _core: &Core,
    _tx: &mut PgConnection,
    _app_id: AppId,
) -> Result<Option<i64>, Problem> {
    Ok(None)
}
