//! Stores team tokens; their values are in `users::tokens`.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{TeamTokenId, UserId};
use crate::kernel::names::{TeamName, TeamTokenName};
use crate::teams::tokens::model::TeamToken;

/// Filters tokens; `None` does not filter.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenFilter<'a> {
    pub(super) name: Option<&'a TeamTokenName>,
    pub(super) teams: Option<&'a [String]>,
}

/// Returns tokens with their roles, sorted by name.
pub(super) async fn list_tokens(
    db: impl PgExecutor<'_>,
    filter: &TokenFilter<'_>,
) -> sqlx::Result<Vec<TeamToken>> {
    sqlx::query_as!(
        TeamToken,
        r#"select k.team_token_id as "id: TeamTokenId", k.name as "name: TeamTokenName", t.name as "team: TeamName",
                  k.description, k.created_by, k.created_at, b.expires_at, b.last_used_at,
                  array(select (ra.role, ra.context_value) from role_assignment ra where ra.holder_id = k.team_token_id
                        order by ra.role, ra.object_id) as "roles!: Vec<(String, String)>"
           from team_token k join team t using (team_id) join access_token b using (team_token_id)
           where ($1::text is null or k.name = $1) and ($2::text[] is null or t.name = any($2))
           order by k.name"#,
        filter.name.map(TeamTokenName::as_str),
        filter.teams,
    )
    .fetch_all(db)
    .await
}

/// Finds a token's id by its name.
pub(in crate::teams) async fn find_token_id(
    db: impl PgExecutor<'_>,
    name: &TeamTokenName,
) -> sqlx::Result<Option<TeamTokenId>> {
    sqlx::query_scalar!(
        r#"select team_token_id as "id: TeamTokenId" from team_token where name = $1"#,
        name.as_str()
    )
    .fetch_optional(db)
    .await
}

/// Locks a token, so that it gets no role until the transaction ends; returns false if it is gone.
pub(super) async fn lock_token(tx: &mut PgConnection, id: TeamTokenId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select name from team_token where team_token_id = $1 for update",
        id.0
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

/// A token to be inserted.
pub(super) struct TokenRow<'a> {
    pub(super) id: TeamTokenId,
    pub(super) name: &'a TeamTokenName,
    pub(super) team: &'a TeamName,
    pub(super) description: &'a str,
    pub(super) creator: UserId,
    pub(super) created_by: &'a str,
    /// The maximum number of tokens of a team.
    pub(super) most: i64,
}

/// Inserts a token; returns false if the team has the maximum number already, or is gone. The caller must
/// have locked the team.
pub(super) async fn insert_token(tx: &mut PgConnection, row: &TokenRow<'_>) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into team_token (team_token_id, name, team_id, description, creator_id, created_by)
         select $1, $2, t.team_id, $4, $5, $6 from team t
         where t.name = $3 and (select count(*) from team_token k where k.team_id = t.team_id) < $7",
        row.id.0,
        row.name.as_str(),
        row.team.as_str(),
        row.description,
        row.creator.0,
        row.created_by,
        row.most,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

pub(super) async fn update_description(
    tx: &mut PgConnection,
    id: TeamTokenId,
    description: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update team_token set description = $2 where team_token_id = $1",
        id.0,
        description
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn delete_token(tx: &mut PgConnection, id: TeamTokenId) -> sqlx::Result<bool> {
    sqlx::query!("delete from team_token where team_token_id = $1", id.0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}
