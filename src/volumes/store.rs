//! Volumes and their binds in SQL.

use std::collections::BTreeMap;

use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use crate::apps::AppKind;
use crate::kernel::ids::{AppId, VolumeId};
use crate::kernel::names::{AppName, PoolName, TeamName, VolumeName};
use crate::volumes::model::{Volume, VolumeBind};

/// Which volumes to list; empty texts match all.
#[derive(Debug, Default)]
pub(super) struct VolumeFilter {
    /// The name of one volume.
    pub(super) only: Option<VolumeName>,
    /// The teams and the pools whose volumes a caller may read; `None`: all.
    pub(super) scopes: Option<(Vec<String>, Vec<String>)>,
    /// A part of the name.
    pub(super) name: String,
    pub(super) pool: String,
    pub(super) plan: String,
    pub(super) team_owner: String,
}

type BindRecord = (String, String, String, bool);

/// The volumes that fit a filter, ordered by name.
pub(super) async fn list_volumes(
    db: impl PgExecutor<'_>,
    filter: &VolumeFilter,
) -> sqlx::Result<Vec<Volume>> {
    let none: &[String] = &[];
    let (teams, pools) = filter.scopes.as_ref().map_or((none, none), |(teams, pools)| {
        (teams.as_slice(), pools.as_slice())
    });
    let rows = sqlx::query!(
        r#"select v.volume_id as "id: VolumeId", v.name as "name: VolumeName", v.pool as "pool: PoolName",
                  p.provisioner, v.plan, v.team_owner as "team_owner: TeamName",
                  v.options as "options: Json<BTreeMap<String, String>>", v.host,
                  array(select (a.name, a.kind, b.mount_point, b.read_only)
                        from volume_bind b join app a using (app_id) where b.volume_id = v.volume_id
                        order by a.name, a.kind, b.mount_point) as "binds!: Vec<BindRecord>"
           from volume v join pool p on p.name = v.pool
           where ($1::text is null or v.name = $1)
             and ($2 or v.team_owner = any($3) or v.pool = any($4))
             and strpos(v.name, $5) > 0 and ($6 = '' or v.pool = $6) and ($7 = '' or v.plan = $7)
             and ($8 = '' or v.team_owner = $8)
           order by v.name"#,
        filter.only.as_ref().map(VolumeName::as_str),
        filter.scopes.is_none(),
        teams,
        pools,
        filter.name,
        filter.pool,
        filter.plan,
        filter.team_owner,
    )
    .fetch_all(db)
    .await?;
    let bind = |(app, kind, mount_point, is_read_only): BindRecord| {
        Ok(VolumeBind {
            app: AppName::parse(&app).map_err(|error| sqlx::Error::Decode(error.into()))?,
            kind: match kind.as_str() {
                "job" => AppKind::Job,
                _ => AppKind::App,
            },
            mount_point,
            is_read_only,
        })
    };
    rows.into_iter()
        .map(|row| {
            Ok(Volume {
                id: row.id,
                name: row.name,
                pool: row.pool,
                provisioner: row.provisioner,
                plan: row.plan,
                team_owner: row.team_owner,
                options: row.options.0,
                host: row.host,
                binds: row.binds.into_iter().map(bind).collect::<sqlx::Result<_>>()?,
            })
        })
        .collect()
}

/// A volume by its name.
pub(super) async fn find_volume(db: impl PgExecutor<'_>, name: &VolumeName) -> sqlx::Result<Option<Volume>> {
    let filter = VolumeFilter {
        only: Some(name.clone()),
        ..VolumeFilter::default()
    };
    Ok(list_volumes(db, &filter).await?.pop())
}

/// Locks a volume against binds, changes and its removal by others; false if it is gone.
pub(super) async fn lock_volume(tx: &mut PgConnection, volume: VolumeId) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        r#"select true as "found!" from volume where volume_id = $1 for update"#,
        volume.0
    )
    .fetch_optional(tx)
    .await?;
    Ok(found.is_some())
}

/// How many volumes a team has. Teams count one after the other.
pub(super) async fn count_team_volumes(tx: &mut PgConnection, team: &TeamName) -> sqlx::Result<i64> {
    sqlx::query!(
        "select from team where name = $1 for no key update",
        team.as_str()
    )
    .fetch_optional(&mut *tx)
    .await?;
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from volume where team_owner = $1"#,
        team.as_str()
    )
    .fetch_one(tx)
    .await
}

/// What a new volume, or a changed one, has.
pub(super) struct VolumeWrite<'a> {
    pub(super) id: VolumeId,
    pub(super) name: &'a VolumeName,
    pub(super) pool: &'a PoolName,
    pub(super) plan: &'a str,
    pub(super) team_owner: &'a TeamName,
    pub(super) options: &'a BTreeMap<String, String>,
}

pub(super) async fn insert_volume(tx: &mut PgConnection, new: &VolumeWrite<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into volume (volume_id, name, pool, plan, team_owner, options) values ($1, $2, $3, $4, $5, $6)",
        new.id.0,
        new.name.as_str(),
        new.pool.as_str(),
        new.plan,
        new.team_owner.as_str(),
        Json(new.options) as Json<&BTreeMap<String, String>>,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn update_volume(tx: &mut PgConnection, new: &VolumeWrite<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "update volume set pool = $2, plan = $3, team_owner = $4, options = $5 where volume_id = $1",
        new.id.0,
        new.pool.as_str(),
        new.plan,
        new.team_owner.as_str(),
        Json(new.options) as Json<&BTreeMap<String, String>>,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// An app that still has a volume: by a unit that is there, or by a release that runs or is about to.
pub(super) async fn find_user(tx: &mut PgConnection, volume: VolumeId) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select a.name from release r join app a on a.app_id = r.app_id
           where r.volumes <> '[]' and r.volumes @> jsonb_build_array(jsonb_build_object('volume', $1::uuid))
             and (exists (select from unit u where u.release_id = r.release_id)
                  or exists (select from live_release l
                             where r.release_id in (l.current_release, l.candidate_release)))
           limit 1"#,
        volume.0
    )
    .fetch_optional(tx)
    .await
}

/// Deletes a volume, and notes what its host has to remove.
pub(super) async fn delete_volume(tx: &mut PgConnection, volume: VolumeId) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from volume where volume_id = $1 returning volume_id, host, pool)
         insert into removed_volume (volume_id, host, provisioner)
         select g.volume_id, g.host, p.provisioner from gone g join pool p on p.name = g.pool
         where g.host is not null",
        volume.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// The paths at which an app has volumes.
pub(super) async fn list_mount_points(tx: &mut PgConnection, app: AppId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("select mount_point from volume_bind where app_id = $1", app.0)
        .fetch_all(tx)
        .await
}

pub(super) async fn insert_bind(
    tx: &mut PgConnection,
    volume: VolumeId,
    app: AppId,
    mount_point: &str,
    is_read_only: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into volume_bind (volume_id, app_id, mount_point, read_only) values ($1, $2, $3, $4)",
        volume.0,
        app.0,
        mount_point,
        is_read_only,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes a bind; false if there is none.
pub(super) async fn delete_bind(
    tx: &mut PgConnection,
    volume: VolumeId,
    app: AppId,
    mount_point: &str,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from volume_bind where volume_id = $1 and app_id = $2 and mount_point = $3",
        volume.0,
        app.0,
        mount_point,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// A volume that a unit is to have. Without a name it is gone.
pub(super) struct MountRow {
    pub(super) id: VolumeId,
    pub(super) path: String,
    pub(super) is_read_only: bool,
    pub(super) number: Option<i32>,
    pub(super) name: Option<VolumeName>,
    pub(super) provisioner: Option<String>,
    pub(super) plan: Option<String>,
    pub(super) options: Option<Json<BTreeMap<String, String>>>,
    pub(super) host: Option<String>,
}

/// The volumes of a release. Those that no host has belong to this one from now on.
pub(super) async fn claim_release_mounts(
    tx: &mut PgConnection,
    release: i64,
    host: &str,
) -> sqlx::Result<Vec<MountRow>> {
    sqlx::query!(
        "update volume set host = $2
         where host is null and volume_id in (
             select (m.mount ->> 'volume')::uuid
             from release r cross join jsonb_array_elements(r.volumes) as m (mount) where r.release_id = $1)",
        release,
        host,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query_as!(
        MountRow,
        r#"select (m.mount ->> 'volume')::uuid as "id!: VolumeId", m.mount ->> 'path' as "path!",
                  (m.mount ->> 'readOnly')::boolean as "is_read_only!",
                  v.number as "number?", v.name as "name?: VolumeName", p.provisioner as "provisioner?", v.plan as "plan?",
                  v.options as "options?: Json<BTreeMap<String, String>>", v.host
           from release r cross join jsonb_array_elements(r.volumes) as m (mount)
           left join volume v on v.volume_id = (m.mount ->> 'volume')::uuid
           left join pool p on p.name = v.pool
           where r.release_id = $1
           order by 2"#,
        release,
    )
    .fetch_all(tx)
    .await
}

/// The volumes that an app or a job has now. Those that no host has belong to this one from now on.
pub(super) async fn claim_app_mounts(
    tx: &mut PgConnection,
    app: AppId,
    host: &str,
) -> sqlx::Result<Vec<MountRow>> {
    sqlx::query!(
        "update volume set host = $2
         where host is null and volume_id in (select volume_id from volume_bind where app_id = $1)",
        app.0,
        host,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query_as!(
        MountRow,
        r#"select v.volume_id as "id: VolumeId", b.mount_point as path, b.read_only as is_read_only,
                  v.number as "number?", v.name as "name?: VolumeName", p.provisioner as "provisioner?", v.plan as "plan?",
                  v.options as "options?: Json<BTreeMap<String, String>>", v.host
           from volume_bind b join volume v using (volume_id) join pool p on p.name = v.pool
           where b.app_id = $1
           order by b.mount_point"#,
        app.0,
    )
    .fetch_all(tx)
    .await
}

/// The data that a host has to remove, by provisioner: those after an id.
pub(super) async fn list_removed(
    db: impl PgExecutor<'_>,
    host: &str,
    after: VolumeId,
    limit: i64,
) -> sqlx::Result<Vec<(VolumeId, String)>> {
    sqlx::query!(
        r#"select volume_id as "id: VolumeId", provisioner from removed_volume
           where host = $1 and volume_id > $2 order by volume_id limit $3"#,
        host,
        after.0,
        limit,
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.id, row.provisioner)).collect())
}

/// Notes that the data of a volume is removed.
pub(super) async fn delete_removed(db: impl PgExecutor<'_>, volume: VolumeId) -> sqlx::Result<()> {
    sqlx::query!("delete from removed_volume where volume_id = $1", volume.0)
        .execute(db)
        .await
        .map(drop)
}
