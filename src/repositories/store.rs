//! SQL of repositories.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::AppId;
use crate::kernel::names::BranchName;

/// A repository in the database.
#[derive(Clone, Debug)]
pub(super) struct RepositoryRow {
    pub(super) id: Uuid,
    /// The host with its files.
    pub(super) host: String,
    /// The branch that is deployed, if set.
    pub(super) branch: Option<BranchName>,
}

/// Returns an app's repository, created if there is none. This host claims it unless another one has it.
pub(super) async fn claim_repository(
    db: impl PgExecutor<'_>,
    app: AppId,
    host: &str,
) -> sqlx::Result<RepositoryRow> {
    sqlx::query_as!(
        RepositoryRow,
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

/// Returns the branch that is deployed; `None`: not set yet.
pub(super) async fn find_deploy_branch(
    db: impl PgExecutor<'_>,
    app: AppId,
) -> sqlx::Result<Option<BranchName>> {
    sqlx::query_scalar!(
        r#"select branch as "branch: BranchName" from repository where app_id = $1"#,
        app.0
    )
    .fetch_optional(db)
    .await
    .map(Option::flatten)
}

/// Records a push, and sets the deployed branch if none was set.
pub(super) async fn record_push(
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

/// A repository for display.
#[derive(Clone, Debug)]
pub(super) struct RepositoryInfo {
    pub(super) host: Option<String>,
    pub(super) branch: Option<BranchName>,
    pub(super) bytes: i64,
}

/// Returns an app's repository; `None`: not created yet.
pub(super) async fn find_repository(
    db: impl PgExecutor<'_>,
    app: AppId,
) -> sqlx::Result<Option<RepositoryInfo>> {
    sqlx::query_as!(
        RepositoryInfo,
        r#"select host, branch as "branch: BranchName", bytes from repository where app_id = $1"#,
        app.0
    )
    .fetch_optional(db)
    .await
}

/// Sets the branch that is deployed.
pub(super) async fn set_deploy_branch(
    tx: &mut PgConnection,
    app: AppId,
    branch: &BranchName,
) -> sqlx::Result<()> {
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

/// Detaches an app's repository, which its host then removes; returns the branch that was set.
pub(super) async fn detach_repository(tx: &mut PgConnection, app: AppId) -> sqlx::Result<Option<BranchName>> {
    sqlx::query_scalar!(
        r#"update repository set app_id = null where app_id = $1 and host is not null
           returning branch as "branch: BranchName""#,
        app.0,
    )
    .fetch_optional(tx)
    .await
    .map(Option::flatten)
}

/// The addresses of a host for other replicas.
#[derive(Clone, Debug)]
pub(super) struct ReplicaAddress {
    /// The URL of its API.
    pub(super) url: String,
    /// Its SSH server, host and port; empty: it has none.
    pub(super) ssh_address: String,
}

/// Saves the addresses of a host.
pub(super) async fn save_replica_address(
    db: impl PgExecutor<'_>,
    host: &str,
    reached: &ReplicaAddress,
) -> sqlx::Result<()> {
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

/// Returns the addresses of a host; `None`: unknown.
pub(super) async fn find_replica_address(
    db: impl PgExecutor<'_>,
    host: &str,
) -> sqlx::Result<Option<ReplicaAddress>> {
    sqlx::query_as!(
        ReplicaAddress,
        "select url, ssh_address from repository_replica where host = $1",
        host
    )
    .fetch_optional(db)
    .await
}

/// A repository that needs maintenance.
#[derive(Clone, Debug)]
pub(super) struct MaintenanceCandidate {
    pub(super) id: Uuid,
    /// Its app no longer exists.
    pub(super) is_orphan: bool,
}

/// Returns the keys that share the maintenance of repositories on a host: those that have repositories to
/// maintain and are not `busy`, the longest waiting first. A key is a user, an app without an owner, or the
/// zero id for repositories of removed apps.
pub(super) async fn list_untidy_keys(
    db: impl PgExecutor<'_>,
    host: &str,
    busy: &[Uuid],
    limit: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"select k.key as "key!"
           from (select coalesce(a.owner_id, a.app_id, '00000000-0000-0000-0000-000000000000') as key, r.pushed_at
                 from repository r left join app a using (app_id)
                 where r.host = $1 and (r.app_id is null or r.pushed_at > coalesce(r.tidied_at, '-infinity'))) k
           where k.key <> all($2)
           group by k.key order by min(k.pushed_at) nulls first limit $3"#,
        host,
        busy,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Returns the repositories of a host and a key whose app was removed, or that received pushes since their
/// last maintenance.
pub(super) async fn list_maintenance_candidates(
    db: impl PgExecutor<'_>,
    host: &str,
    key: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<MaintenanceCandidate>> {
    sqlx::query_as!(
        MaintenanceCandidate,
        r#"select r.repository_id as id, r.app_id is null as "is_orphan!"
           from repository r left join app a using (app_id)
           where r.host = $1 and (r.app_id is null or r.pushed_at > coalesce(r.tidied_at, '-infinity'))
             and coalesce(a.owner_id, a.app_id, '00000000-0000-0000-0000-000000000000') = $2
           order by r.pushed_at nulls first limit $3"#,
        host,
        key,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Returns the current time for `record_maintenance`: later pushes need maintenance again.
pub(super) async fn current_time(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"select now() as "now!""#)
        .fetch_one(db)
        .await
}

/// Records the maintenance of a repository that began at `since`.
pub(super) async fn record_maintenance(
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

/// Deletes the row of a repository whose files were removed.
pub(super) async fn delete_repository(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from repository where repository_id = $1", id)
        .execute(tx)
        .await
        .map(drop)
}

/// Returns the repository of an app if its files are on this host.
pub(super) async fn find_local_repository_id(
    db: impl PgExecutor<'_>,
    app: AppId,
    host: &str,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "select repository_id from repository where app_id = $1 and host = $2",
        app.0,
        host
    )
    .fetch_optional(db)
    .await
}
