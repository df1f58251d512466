//! Repositories in SQL.

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
) -> sqlx::Result<()> {
    sqlx::query!(
        "update repository set pushed_at = now(), branch = coalesce(branch, $2) where app_id = $1",
        app.0,
        branch as Option<&BranchName>,
    )
    .execute(tx)
    .await
    .map(drop)
}
