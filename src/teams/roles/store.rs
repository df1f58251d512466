//! Roles in SQL.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::names::RoleName;
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::teams::roles::model::Role;

/// Roles by name; `None`: all of them.
pub(super) async fn list(db: impl PgExecutor<'_>, name: Option<&str>) -> sqlx::Result<Vec<Role>> {
    let rows = sqlx::query!(
        r#"select r.name, r.context_kind, r.description,
                  array(select p.permission from role_permission p where p.role = r.name order by 1) as "permissions!",
                  array(select d.occasion from default_role d where d.role = r.name order by 1) as "occasions!"
           from role r where $1::text is null or r.name = $1 order by r.name"#,
        name,
    )
    .fetch_all(db)
    .await?;
    let mut roles = Vec::new();
    for row in rows {
        // What this build does not know grants nothing.
        let Ok(kind) = ContextKind::parse(&row.context_kind) else {
            continue;
        };
        let permissions = row.permissions.iter();
        roles.push(Role {
            name: row.name,
            kind,
            description: row.description,
            permissions: permissions.filter_map(|p| Permission::parse(p).ok()).collect(),
            occasions: row.occasions,
        });
    }
    Ok(roles)
}

pub(super) async fn insert(
    tx: &mut PgConnection,
    name: &RoleName,
    kind: ContextKind,
    description: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into role (name, context_kind, description) values ($1, $2, $3)",
        name.as_str(),
        kind.as_str(),
        description,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn update(
    tx: &mut PgConnection,
    name: &str,
    new_name: &str,
    kind: ContextKind,
    description: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update role set name = $2, context_kind = $3, description = $4 where name = $1",
        name,
        new_name,
        kind.as_str(),
        description,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn delete(tx: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query!("delete from role where name = $1", name)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Holds the role's row, so that it is not assigned while it changes.
pub(super) async fn lock(tx: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!("select name from role where name = $1 for update", name)
        .fetch_optional(tx)
        .await
        .map(drop)
}

pub(super) async fn is_assigned(tx: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select 1 from user_role where role = $1) as "is!""#,
        name
    )
    .fetch_one(tx)
    .await
}

pub(super) async fn insert_permission(
    tx: &mut PgConnection,
    role: &str,
    permission: Permission,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into role_permission (role, permission) values ($1, $2) on conflict (role, permission) do nothing",
        role,
        permission.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn delete_permission(
    tx: &mut PgConnection,
    role: &str,
    permission: Permission,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from role_permission where role = $1 and permission = $2",
        role,
        permission.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn insert_default(tx: &mut PgConnection, occasion: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into default_role (occasion, role) values ($1, $2) on conflict (occasion, role) do nothing",
        occasion,
        role,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn delete_default(tx: &mut PgConnection, occasion: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from default_role where occasion = $1 and role = $2",
        occasion,
        role,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// True if the thing is there, or is of a kind that has no table.
pub(super) async fn thing_exists(db: impl PgExecutor<'_>, thing: &Context) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select case $1
             when 'app' then exists (select 1 from app where name = $2)
             when 'team' then exists (select 1 from team where name = $2)
             when 'user' then exists (select 1 from user_account where email = $2)
             when 'pool' then exists (select 1 from pool where name = $2)
             when 'service' then exists (select 1 from service where name = $2)
             when 'service-instance' then exists (
                 select 1 from service_instance i join service s using (service_id)
                 where s.name || '/' || i.name = $2)
             else true end as "is!""#,
        thing.kind.as_str(),
        thing.value,
    )
    .fetch_one(db)
    .await
}
