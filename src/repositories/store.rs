//! Repositories in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::AppId;
use crate::kernel::names::BranchName;

/// A repository as the database knows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: Uuid,
    /// The host that has its files.
    pub(super) host: String,
    /// What is deployed, once that is chosen.
    pub(super) branch: Option<BranchName>,
}

/// An app's repository, made if there is none. It is this host's, if no other has it yet.
pub(super) async fn claim(db: impl PgExecutor<'_>, app: AppId, host: &str) -> sqlx::Result<Row> {
    sqlx::query_as!(
        Row,
        r#"insert into repository (repository_id, app_id, host) values ($1, $2, $3)
           on conflict on constraint repository_app_key do update set host = coalesce(repository.host, excluded.host)
           returning repository_id as id, host as "host!", branch as "branch: BranchName""#,
        Uuid::now_v7(),
        app.0,
        host,
    )
    .fetch_one(db)
    .await
}

/// The branch that is deployed; `None`: not chosen yet.
pub(super) async fn find_branch(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Option<BranchName>> {
    sqlx::query_scalar!(
        r#"select branch as "branch: BranchName" from repository where app_id = $1"#,
        app.0
    )
    .fetch_optional(db)
    .await
    .map(Option::flatten)
}

/// Notes a push, and the branch it chose if none was chosen.
pub(super) async fn pushed(
    tx: &mut PgConnection,
    app: AppId,
    branch: Option<&BranchName>,
    bytes: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update repository set pushed_at = now(), bytes = $3, branch = coalesce(branch, $2) where app_id = $1",
        app.0,
        branch as Option<&BranchName>,
        bytes,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A repository as it is shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) host: Option<String>,
    pub(super) branch: Option<BranchName>,
    pub(super) bytes: i64,
}

/// An app's repository; `None`: nobody has looked at it yet.
pub(super) async fn find(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Option<Shown>> {
    sqlx::query_as!(
        Shown,
        r#"select host, branch as "branch: BranchName", bytes from repository where app_id = $1"#,
        app.0
    )
    .fetch_optional(db)
    .await
}

/// Chooses what is deployed.
pub(super) async fn set_branch(tx: &mut PgConnection, app: AppId, branch: &BranchName) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into repository (repository_id, app_id, branch) values ($1, $2, $3)
         on conflict on constraint repository_app_key do update set branch = excluded.branch",
        Uuid::now_v7(),
        app.0,
        branch as &BranchName,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Gives up an app's repository, which its host then removes; the branch that it had chosen.
pub(super) async fn give_up(tx: &mut PgConnection, app: AppId) -> sqlx::Result<Option<BranchName>> {
    sqlx::query_scalar!(
        r#"update repository set app_id = null where app_id = $1 and host is not null
           returning branch as "branch: BranchName""#,
        app.0,
    )
    .fetch_optional(tx)
    .await
    .map(Option::flatten)
}

/// Where a host is reached by the others.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    /// Its API.
    pub(super) url: String,
    /// Its SSH server, host and port; empty: there is none.
    pub(super) ssh_address: String,
}

/// Says where a host is reached.
pub(super) async fn note_host(db: impl PgExecutor<'_>, host: &str, reached: &Reached) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into repository_replica as known (host, url, ssh_address) values ($1, $2, $3)
         on conflict (host) do update set url = excluded.url, ssh_address = excluded.ssh_address
         where (known.url, known.ssh_address) <> (excluded.url, excluded.ssh_address)",
        host,
        reached.url,
        reached.ssh_address,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Where a host is reached; `None`: it has not said.
pub(super) async fn find_host(db: impl PgExecutor<'_>, host: &str) -> sqlx::Result<Option<Reached>> {
    sqlx::query_as!(
        Reached,
        "select url, ssh_address from repository_replica where host = $1",
        host
    )
    .fetch_optional(db)
    .await
}

/// A repository to be looked after.
#[derive(Clone, Debug)]
pub(super) struct Untidy {
    pub(super) id: Uuid,
    /// Its app is gone.
    pub(super) is_orphan: bool,
}

/// Repositories of a host whose app is gone, or that have been pushed to since they were looked after.
pub(super) async fn list_untidy(
    db: impl PgExecutor<'_>,
    host: &str,
    limit: i64,
) -> sqlx::Result<Vec<Untidy>> {
    sqlx::query_as!(
        Untidy,
        r#"select repository_id as id, app_id is null as "is_orphan!" from repository
           where host = $1 and (app_id is null or pushed_at > coalesce(tidied_at, '-infinity'))
           order by app_id is not null, pushed_at limit $2"#,
        host,
        limit,
    )
    .fetch_all(db)
    .await
}

/// The time, for `tidied`: what is pushed later counts as not looked after.
pub(super) async fn now(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"select now() as "now!""#)
        .fetch_one(db)
        .await
}

/// Notes that a repository has been looked after, from a time on.
pub(super) async fn tidied(
    tx: &mut PgConnection,
    id: Uuid,
    since: DateTime<Utc>,
    bytes: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update repository set tidied_at = $2, bytes = $3 where repository_id = $1",
        id,
        since,
        bytes,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Forgets a repository whose files are gone.
pub(super) async fn delete(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from repository where repository_id = $1", id)
        .execute(tx)
        .await
        .map(drop)
}

/// The repository of an app, if this host has its files.
pub(super) async fn find_id(db: impl PgExecutor<'_>, app: AppId, host: &str) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "select repository_id from repository where app_id = $1 and host = $2",
        app.0,
        host
    )
    .fetch_optional(db)
    .await
}
