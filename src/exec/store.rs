//! Sessions in SQL, and what they need to know of apps and units.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{AppId, EventId, ReplicaId};

/// A session to begin.
pub(super) struct NewExecSession<'a> {
    pub(super) event: &'a EventId,
    pub(super) app: AppId,
    pub(super) replica: ReplicaId,
    pub(super) host: &'a str,
    /// The unit to start for it, and its version.
    pub(super) one_off: Option<(&'a str, i32)>,
}

pub(super) async fn insert_session(tx: &mut PgConnection, new: &NewExecSession<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into exec_session (event_id, app_id, replica_id, host, unit_id, version)
         values ($1, $2, $3, $4, $5, $6)",
        new.event.as_str(),
        new.app.0,
        new.replica.0,
        new.host,
        new.one_off.map(|(unit, _)| unit),
        new.one_off.map(|(_, version)| version),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Why a session may have to end.
pub(super) struct SessionState {
    pub(super) is_cancel_requested: bool,
    pub(super) is_app_live: bool,
}

/// Renews a session; `None` if it was ended as lost.
pub(super) async fn renew_session(
    db: impl PgExecutor<'_>,
    event: &EventId,
) -> sqlx::Result<Option<SessionState>> {
    sqlx::query_as!(
        SessionState,
        r#"update exec_session s set renewed_at = now() from event e
           where s.event_id = $1 and e.event_id = s.event_id
           returning e.cancel_asked_at is not null as "is_cancel_requested!",
                     exists (select from app a where a.app_id = s.app_id and a.state = 'live') as "is_app_live!""#,
        event.as_str(),
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn delete_session(tx: &mut PgConnection, event: &EventId) -> sqlx::Result<()> {
    sqlx::query!("delete from exec_session where event_id = $1", event.as_str())
        .execute(tx)
        .await
        .map(drop)
}

/// Deletes sessions that were not renewed for so long, and returns their events.
pub(super) async fn delete_expired_sessions(
    tx: &mut PgConnection,
    seconds: f64,
    limit: i64,
) -> sqlx::Result<Vec<EventId>> {
    sqlx::query_scalar!(
        r#"delete from exec_session where event_id in (
               select event_id from exec_session where renewed_at < now() - make_interval(secs => $1)
               order by renewed_at limit $2 for update skip locked)
           returning event_id as "event_id: EventId""#,
        seconds,
        limit,
    )
    .fetch_all(tx)
    .await
}

/// Deletes the sessions of a server, and returns their events.
pub(super) async fn delete_sessions_of(
    tx: &mut PgConnection,
    replica: ReplicaId,
) -> sqlx::Result<Vec<EventId>> {
    sqlx::query_scalar!(
        r#"delete from exec_session where replica_id = $1 returning event_id as "event_id: EventId""#,
        replica.0,
    )
    .fetch_all(tx)
    .await
}

/// A unit in which a command can run.
pub(super) struct RunningUnitRow {
    pub(super) unit_id: String,
    pub(super) host: String,
    pub(super) process: String,
    pub(super) release_id: i64,
}

/// The units of an app that run, those of a host and of the web process first. `unit` selects one.
pub(super) async fn list_running_units(
    db: impl PgExecutor<'_>,
    app: AppId,
    host: &str,
    unit: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<RunningUnitRow>> {
    sqlx::query_as!(
        RunningUnitRow,
        r#"select u.unit_id, u.host, u.process, u.release_id from unit u
           where u.app_id = $1 and ($3::text is null or u.unit_id = $3)
             and u.phase in ('starting', 'serving') and u.state = 'started'
           order by u.host <> $2,
                    not exists (select from web_process w where w.app_id = u.app_id and w.version = u.version
                                                            and w.process = u.process),
                    u.created_at, u.unit_id
           limit $4"#,
        app.0,
        host,
        unit,
        limit,
    )
    .fetch_all(db)
    .await
}

/// True if the app has the unit, in whatever state.
pub(super) async fn has_unit(db: impl PgExecutor<'_>, app: AppId, unit: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from unit where app_id = $1 and unit_id = $2) as "found!""#,
        app.0,
        unit,
    )
    .fetch_one(db)
    .await
}

/// What a unit for one session is made of, but its environment.
pub(super) struct OneOffRow {
    pub(super) release_id: i64,
    pub(super) version: i32,
    /// The host that has the files of the version; `None`: any.
    pub(super) host: Option<String>,
    /// The image that the version is, if it is one.
    pub(super) image: Option<String>,
    pub(super) process: String,
    pub(super) memory_bytes: i64,
    pub(super) cpu_milli: i32,
}

/// Of the release that runs, or of that of a unit. `None` before the first deploy, and once its files are removed.
pub(super) async fn find_one_off(
    db: impl PgExecutor<'_>,
    app: AppId,
    unit: Option<&str>,
) -> sqlx::Result<Option<OneOffRow>> {
    sqlx::query_as!(
        OneOffRow,
        r#"select r.release_id, r.version, v.host, v.image, l.process as "process!", l.memory_bytes as "memory_bytes!",
                  l.cpu_milli as "cpu_milli!"
           from app a
           join release r on r.release_id = coalesce(
               (select u.release_id from unit u where u.app_id = a.app_id and u.unit_id = $2), a.current_release)
           join version v on v.app_id = r.app_id and v.version = r.version and v.state = 'ready'
           join lateral (
               select c.process, c.memory_bytes, c.cpu_milli from process_limit c
               where c.app_id = r.app_id and c.version = r.version
               order by not exists (select from web_process w where w.app_id = c.app_id and w.version = c.version
                                                                and w.process = c.process), c.process
               limit 1) l on true
           where a.app_id = $1"#,
        app.0,
        unit,
    )
    .fetch_optional(db)
    .await
}
