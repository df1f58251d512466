//! Stores users and the roles they hold.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::UserId;
use crate::kernel::names::{Email, TeamName};
use crate::kernel::permission::{ContextKind, PermissionContext};
use crate::users::model::{HeldRole, LoginAccount, User};
use crate::users::tokens::store::parse_held;

pub(super) async fn insert_user(
    tx: &mut PgConnection,
    id: UserId,
    email: &Email,
    password_hash: &str,
    quota_limit: i32,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into user_account (user_id, email, password_hash, quota_limit) values ($1, $2, $3, $4)",
        id.0,
        email.as_str(),
        password_hash,
        quota_limit,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Finds a user by e-mail address, in any spelling.
pub(super) async fn find_account(
    db: impl PgExecutor<'_>,
    email: &Email,
) -> sqlx::Result<Option<LoginAccount>> {
    sqlx::query_as!(
        LoginAccount,
        r#"select user_id as "id: UserId", email as "email: Email", password_hash
           from user_account where user_id = find_user($1)"#,
        email.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Finds a user's id by e-mail address, in any spelling.
pub async fn find_user_id(db: impl PgExecutor<'_>, email: &Email) -> sqlx::Result<Option<UserId>> {
    sqlx::query_scalar!("select find_user($1)", email.as_str())
        .fetch_one(db)
        .await
        .map(|id| id.map(UserId))
}

/// Returns the addresses of accounts that are found by their exact spelling only, because an older account
/// has the address in a different spelling.
pub(super) async fn list_duplicate_emails(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("select email from user_account where email_key is null order by email limit 100")
        .fetch_all(db)
        .await
}

/// Filters a list of users; empty strings and `None` do not filter.
#[derive(Clone, Debug, Default)]
pub(super) struct UserFilter {
    pub(super) id: Option<UserId>,
    /// E-mail addresses as stored.
    pub(super) emails: Option<Vec<String>>,
    /// In any spelling.
    pub(super) email: String,
    pub(super) role: String,
    pub(super) context: String,
}

impl UserFilter {
    /// Selects one user.
    pub(super) fn by_id(id: UserId) -> Self {
        Self {
            id: Some(id),
            ..Self::default()
        }
    }
}

/// Returns users with their roles, sorted by e-mail address.
pub(super) async fn list_users(db: impl PgExecutor<'_>, filter: &UserFilter) -> sqlx::Result<Vec<User>> {
    let rows = sqlx::query!(
        r#"select u.email, ra.role as "role?", ra.context_kind as "kind?", ra.context_value as "value?",
                  array(select p.permission from role_grant p where p.role = ra.role order by 1) as "permissions!"
           from user_account u left join role_assignment ra using (user_id)
           where ($1::text[] is null or u.email = any($1))
             and (($2 = '' and $3 = '') or exists (
                 select 1 from role_assignment x where x.user_id = u.user_id
                   and ($2 = '' or x.role = $2) and ($3 = '' or x.context_value = $3)))
             and ($4 = '' or u.user_id = find_user($4))
             and ($5::uuid is null or u.user_id = $5)
           order by u.email, ra.role, ra.context_value"#,
        filter.emails.as_deref(),
        filter.role,
        filter.context,
        filter.email,
        filter.id.map(|id| id.0),
    )
    .fetch_all(db)
    .await?;
    let mut users: Vec<User> = Vec::new();
    for row in rows {
        if users.last().is_none_or(|user| user.email != row.email) {
            users.push(User {
                email: row.email,
                roles: Vec::new(),
            });
        }
        let (Some(role), Some(kind), Some(user)) = (row.role, row.kind, users.last_mut()) else {
            continue;
        };
        // As with tokens: a context type unknown to this build grants nothing.
        let Ok(kind) = ContextKind::parse(&kind) else {
            continue;
        };
        let permissions = row.permissions.iter();
        user.roles.push(HeldRole {
            role,
            context: PermissionContext::new(kind, row.value.unwrap_or_default()),
            permissions: permissions.filter_map(|p| parse_held(p)).collect(),
        });
    }
    Ok(users)
}

/// Updates a password if the old hash still matches; returns false if it does not.
pub(super) async fn update_password(
    tx: &mut PgConnection,
    id: UserId,
    old_hash: &str,
    new_hash: &str,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update user_account set password_hash = $3 where user_id = $1 and password_hash = $2",
        id.0,
        old_hash,
        new_hash,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

pub(super) async fn delete_user(tx: &mut PgConnection, id: UserId) -> sqlx::Result<bool> {
    sqlx::query!("delete from user_account where user_id = $1", id.0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Removes all of a user's roles on a team; returns how many they held.
pub async fn delete_roles_on_team(tx: &mut PgConnection, user: UserId, team: &str) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from user_role using team
         where team.team_id = user_role.team_id and team.name = $2 and user_role.user_id = $1",
        user.0,
        team,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// True if the user is the only user with the role `AllowAll`; tokens and groups do not count. Locks that role's row, so that of two
/// concurrent removals the second sees the first.
pub async fn is_last_admin(tx: &mut PgConnection, user: UserId) -> sqlx::Result<bool> {
    sqlx::query!("select name from role where name = 'AllowAll' for no key update")
        .fetch_optional(&mut *tx)
        .await?;
    sqlx::query_scalar!(
        r#"select coalesce(bool_and(user_id = $1), false) as "last!" from user_role where role = 'AllowAll'"#,
        user.0,
    )
    .fetch_one(tx)
    .await
}

/// Locks the teams of a user, so that of two last members removed concurrently the second sees the first.
pub(super) async fn lock_teams_of(tx: &mut PgConnection, id: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "select name from team where team_id in (select team_id from user_role where user_id = $1)
         order by name for no key update",
        id.0,
    )
    .fetch_all(tx)
    .await
    .map(drop)
}

/// Returns the teams whose only member is this user.
pub(super) async fn list_sole_member_teams(tx: &mut PgConnection, id: UserId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select t.name from team t
         where t.team_id in (select team_id from user_role where user_id = $1)
           and not exists (select 1 from user_role o where o.team_id = t.team_id and o.user_id <> $1)
         order by 1",
        id.0,
    )
    .fetch_all(tx)
    .await
}

/// Assigns the default roles of an event (`user-create`, which are global, or `team-create`, on a team) to a
/// user; returns those that they did not hold yet.
pub async fn assign_default_roles(
    tx: &mut PgConnection,
    user: UserId,
    occasion: &str,
    team: Option<&TeamName>,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "insert into user_role (user_id, role, team_id)
         select $1, d.role, t.team_id from default_role d left join team t on t.name = $3
         where d.event = $2 and ($3::text is null or t.team_id is not null)
         on conflict on constraint user_role_pkey do nothing
         returning role",
        user.0,
        occasion,
        team.map(TeamName::as_str),
    )
    .fetch_all(tx)
    .await
}

/// True if some user holds the role `AllowAll`.
pub(super) async fn has_admin(db: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select 1 from user_role where role = 'AllowAll' and user_id is not null) as "has!""#,
    )
        .fetch_one(db)
        .await
}

/// Locks, across all replicas, the check for an administrator and the creation of one.
pub(super) async fn lock_admin(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('tancho admin', 7))")
        .execute(tx)
        .await
        .map(drop)
}

/// Ensures that the role `AllowAll` exists.
pub(super) async fn ensure_allow_all(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "with made as (insert into role (name, context_kind) values ('AllowAll', 'global')
                       on conflict (name) do nothing)
         insert into role_permission (role, permission) values ('AllowAll', '')
         on conflict (role, permission) do nothing"
    )
    .execute(tx)
    .await
    .map(drop)
}
