//! The sides of apps in SQL.

use sqlx::PgConnection;

use crate::kernel::ids::AppId;
use crate::releases;
use crate::releases::sides::ReleaseSide;

/// Ends all sides of an app but the main one: their units are stopped.
pub(in crate::releases) async fn delete_sides(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!("delete from side_release where app_id = $1", app.0)
        .execute(&mut *tx)
        .await?;
    releases::store::delete_removed_processes(tx, app).await
}

/// The side and the app of a release; `None` if it is gone.
pub(in crate::releases) async fn find_side(
    tx: &mut PgConnection,
    release: i64,
) -> sqlx::Result<Option<ReleaseSide>> {
    let side = sqlx::query_scalar!("select side from release where release_id = $1", release)
        .fetch_optional(tx)
        .await?;
    Ok(side.map(ReleaseSide::from_number))
}

/// A version that runs, and whether it gets requests.
pub(in crate::releases) struct RunningVersion {
    pub(in crate::releases) side: ReleaseSide,
    pub(in crate::releases) release: i64,
    pub(in crate::releases) version: i32,
    pub(in crate::releases) routable: bool,
}

/// The versions that run of an app, the main one first.
pub(in crate::releases) async fn list_running_versions(
    tx: &mut PgConnection,
    app: AppId,
) -> sqlx::Result<Vec<RunningVersion>> {
    let rows = sqlx::query!(
        r#"select l.side as "side!", r.release_id, r.version, r.routable
           from live_release l join release r on r.release_id = l.current_release
           where l.app_id = $1 order by l.side"#,
        app.0,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| RunningVersion {
            side: ReleaseSide::from_number(row.side),
            release: row.release_id,
            version: row.version,
            routable: row.routable,
        })
        .collect())
}

/// Has the units of a release get requests or not.
pub(in crate::releases) async fn set_routable(
    tx: &mut PgConnection,
    release: i64,
    routable: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update release set routable = $2 where release_id = $1",
        release,
        routable
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A version that runs, with its processes.
pub(in crate::releases) struct VersionProcesses {
    pub(in crate::releases) side: ReleaseSide,
    pub(in crate::releases) version: i32,
    pub(in crate::releases) processes: Vec<String>,
}

/// The versions that run and their processes, the main one first; none if nothing is deployed.
pub(in crate::releases) async fn list_processes(
    tx: &mut PgConnection,
    app: AppId,
) -> sqlx::Result<Vec<VersionProcesses>> {
    let rows = sqlx::query!(
        r#"select l.side as "side!", r.version,
                  array(select w.process from wanted_process w where w.release_id = r.release_id
                        order by w.process) as "processes!"
           from live_release l join release r on r.release_id = l.current_release
           where l.app_id = $1 order by l.side"#,
        app.0
    )
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| VersionProcesses {
            side: ReleaseSide::from_number(row.side),
            version: row.version,
            processes: row.processes,
        })
        .collect())
}
