//! Users in SQL, and the roles they hold.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::UserId;
use crate::kernel::names::{Email, RoleName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::users::model::{Account, Holding, User};

/// Apps of an earlier user of that address count.
pub(super) async fn insert(
    tx: &mut PgConnection,
    id: UserId,
    email: &Email,
    password_hash: &str,
    quota_limit: i32,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into user_account (user_id, email, password_hash, quota_limit, quota_in_use)
         values ($1, $2, $3, $4, (select count(*) from app where owner = $2))",
        id.0,
        email.as_str(),
        password_hash,
        quota_limit,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn find_account(db: impl PgExecutor<'_>, email: &Email) -> sqlx::Result<Option<Account>> {
    sqlx::query!(
        "select user_id, password_hash from user_account where email = $1",
        email.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|row| {
        row.map(|row| Account {
            id: UserId(row.user_id),
            password_hash: row.password_hash,
        })
    })
}

/// A user's id by their address.
pub async fn find_id(db: impl PgExecutor<'_>, email: &Email) -> sqlx::Result<Option<UserId>> {
    sqlx::query_scalar!(
        "select user_id from user_account where email = $1",
        email.as_str()
    )
    .fetch_optional(db)
    .await
    .map(|id| id.map(UserId))
}

/// What a list of users is narrowed by; empty texts and `None` do not narrow.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) emails: Option<Vec<String>>,
    pub(super) role: String,
    pub(super) context: String,
}

/// Users with all they hold, by address.
pub(super) async fn list(db: impl PgExecutor<'_>, filter: &Filter) -> sqlx::Result<Vec<User>> {
    let rows = sqlx::query!(
        r#"select u.email, r.name as "role?", r.context_kind as "kind?", ur.context_value as "value?",
                  array(select p.permission from role_permission p where p.role = r.name order by 1) as "permissions!"
           from user_account u left join user_role ur using (user_id) left join role r on r.name = ur.role
           where ($1::text[] is null or u.email = any($1))
             and (($2 = '' and $3 = '') or exists (
                 select 1 from user_role x where x.user_id = u.user_id
                   and ($2 = '' or x.role = $2) and ($3 = '' or x.context_value = $3)))
           order by u.email, r.name, ur.context_value"#,
        filter.emails.as_deref(),
        filter.role,
        filter.context,
    )
    .fetch_all(db)
    .await?;
    let mut users: Vec<User> = Vec::new();
    for row in rows {
        if users.last().is_none_or(|user| user.email != row.email) {
            users.push(User {
                email: row.email,
                holdings: Vec::new(),
            });
        }
        let (Some(role), Some(kind), Some(user)) = (row.role, row.kind, users.last_mut()) else {
            continue;
        };
        // As with tokens: what this build does not know grants nothing.
        let Ok(kind) = ContextKind::parse(&kind) else {
            continue;
        };
        let permissions = row.permissions.iter();
        user.holdings.push(Holding {
            role,
            context: Context::new(kind, row.value.unwrap_or_default()),
            permissions: permissions.filter_map(|p| Permission::parse(p).ok()).collect(),
        });
    }
    Ok(users)
}

/// Changes a password if it still is what it was; false if it is not.
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

pub(super) async fn delete(tx: &mut PgConnection, id: UserId) -> sqlx::Result<bool> {
    sqlx::query!("delete from user_account where user_id = $1", id.0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Takes away the roles that anybody holds on a thing; for when it is removed, so that a later one of its
/// name is not theirs.
pub async fn delete_roles_on(tx: &mut PgConnection, thing: &Context) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from user_role using role
         where role.name = user_role.role and role.context_kind = $1 and user_role.context_value = $2",
        thing.kind.as_str(),
        thing.value,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Moves the roles that anybody holds on a thing to its new name.
pub async fn rename_roles_on(tx: &mut PgConnection, thing: &Context, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update user_role set context_value = $3 from role
         where role.name = user_role.role and role.context_kind = $1 and user_role.context_value = $2",
        thing.kind.as_str(),
        thing.value,
        name,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Takes all roles on a team away from a user; answers how many they held.
pub async fn delete_roles_on_team(tx: &mut PgConnection, user: UserId, team: &str) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from user_role using role
         where role.name = user_role.role and role.context_kind = 'team'
           and user_role.context_value = $2 and user_role.user_id = $1",
        user.0,
        team,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// True if the user is the only one who holds the role that grants everything. Holds that role's row, so
/// that of two who leave at once the second sees the first.
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

/// Locks the teams of a user, so that of two last members who leave at once the second sees the first.
pub(super) async fn lock_teams_of(tx: &mut PgConnection, id: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "select name from team where name in (
             select ur.context_value from user_role ur join role r on r.name = ur.role
             where ur.user_id = $1 and r.context_kind = 'team')
         order by name for no key update",
        id.0,
    )
    .fetch_all(tx)
    .await
    .map(drop)
}

/// The teams that have no member but this user.
pub(super) async fn list_teams_only_of(tx: &mut PgConnection, id: UserId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select ur.context_value as "team!" from user_role ur join role r on r.name = ur.role
           join team t on t.name = ur.context_value
           where r.context_kind = 'team'
           group by ur.context_value having bool_and(ur.user_id = $1) order by 1"#,
        id.0,
    )
    .fetch_all(tx)
    .await
}

/// Gives a user a role on something (empty for a global role); false if they hold it already.
pub async fn assign(tx: &mut PgConnection, user: UserId, role: &RoleName, on: &str) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into user_role (user_id, role, context_value) values ($1, $2, $3)
         on conflict on constraint user_role_pkey do nothing",
        user.0,
        role.as_str(),
        on,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Takes a role on something away; false if they do not hold it.
pub async fn dissociate(
    tx: &mut PgConnection,
    user: UserId,
    role: &RoleName,
    on: &str,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from user_role where user_id = $1 and role = $2 and context_value = $3",
        user.0,
        role.as_str(),
        on,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Gives a user the default roles of an occasion (`user-create`, `team-create`); answers how many they
/// did not hold yet.
pub async fn assign_defaults(
    tx: &mut PgConnection,
    user: UserId,
    occasion: &str,
    on: &str,
) -> sqlx::Result<u64> {
    sqlx::query!(
        "insert into user_role (user_id, role, context_value)
         select $1, d.role, $3 from default_role d where d.occasion = $2
         on conflict on constraint user_role_pkey do nothing",
        user.0,
        occasion,
        on,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// True if somebody holds the role that grants everything.
pub(super) async fn has_admin(db: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select 1 from user_role where role = 'AllowAll') as "has!""#)
        .fetch_one(db)
        .await
}

/// Lets one transaction at a time, on all replicas, look for an administrator and make one.
pub(super) async fn lock_admin(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('tancho admin', 7))")
        .execute(tx)
        .await
        .map(drop)
}

/// Makes sure of the role that grants everything.
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
