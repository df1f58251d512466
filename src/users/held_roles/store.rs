//! Stores which roles users, team tokens and groups hold.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{GroupId, TeamTokenId, UserId};
use crate::kernel::names::{GroupName, RoleName};
use crate::kernel::permission::{ContextKind, PermissionContext};
use crate::kernel::request_context::PermissionGrant;
use crate::users::model::{HeldRole, RoleHolder};
use crate::users::tokens::store::{parse_grant, parse_held};

impl RoleHolder {
    fn user(self) -> Option<UserId> {
        match self {
            RoleHolder::User(id) => Some(id),
            RoleHolder::TeamToken(_) | RoleHolder::Group(_) => None,
        }
    }

    fn team_token(self) -> Option<TeamTokenId> {
        match self {
            RoleHolder::TeamToken(id) => Some(id),
            RoleHolder::User(_) | RoleHolder::Group(_) => None,
        }
    }

    fn group(self) -> Option<GroupId> {
        match self {
            RoleHolder::Group(id) => Some(id),
            RoleHolder::User(_) | RoleHolder::TeamToken(_) => None,
        }
    }
}

/// Assigns a role in a context; returns false if the holder has it already, or there is no such object. If
/// the object or the holder is removed concurrently, a foreign key is violated.
pub async fn assign_role(
    tx: &mut PgConnection,
    holder: RoleHolder,
    role: &RoleName,
    on: &PermissionContext,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into user_role (user_id, team_token_id, group_id, role,
                                team_id, app_id, service_id, instance_id, pool_id, on_user_id)
         select $1, $2, $3, $4,
                case o.kind when 'team' then o.id end, case when o.kind in ('app', 'job') then o.id end,
                case o.kind when 'service' then o.id end, case o.kind when 'service-instance' then o.id end,
                case o.kind when 'pool' then o.id end, case o.kind when 'user' then o.id end
         from (select $5 as kind, find_context_object($5, $6) as id) o
         where o.kind = 'global' or o.id is not null
         on conflict on constraint user_role_pkey do nothing",
        holder.user().map(|id| id.0),
        holder.team_token().map(|id| id.0),
        holder.group().map(|id| id.0),
        role.as_str(),
        on.kind.as_str(),
        on.value,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Removes a role in a context; returns false if the holder does not have it.
pub async fn dissociate_role(
    tx: &mut PgConnection,
    holder: RoleHolder,
    role: &RoleName,
    on: &PermissionContext,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from user_role
         where holder_id = $1 and role = $2
           and ($3 = 'global' or object_id = find_context_object($3, $4))",
        holder.uuid(),
        role.as_str(),
        on.kind.as_str(),
        on.value,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Returns the roles of a team token, with their permissions, sorted by name and context.
pub(in crate::users) async fn list_token_roles(
    db: impl PgExecutor<'_>,
    token: TeamTokenId,
) -> sqlx::Result<Vec<HeldRole>> {
    let rows = sqlx::query!(
        r#"select ra.role as "role!", ra.context_kind as "kind!", ra.context_value as "value!",
                  array(select p.permission from role_grant p where p.role = ra.role order by 1) as "permissions!"
           from role_assignment ra where ra.holder_id = $1 order by ra.role, ra.context_value"#,
        token.0,
    )
    .fetch_all(db)
    .await?;
    let held = rows.into_iter().filter_map(|row| {
        // As with tokens: a context type unknown to this build grants nothing.
        let kind = ContextKind::parse(&row.kind).ok()?;
        let permissions = row.permissions.iter();
        Some(HeldRole {
            role: row.role,
            context: PermissionContext::new(kind, row.value),
            permissions: permissions.filter_map(|p| parse_held(p)).collect(),
        })
    });
    Ok(held.collect())
}

/// Returns what a team token may do.
pub async fn list_token_grants(
    db: impl PgExecutor<'_>,
    token: TeamTokenId,
) -> sqlx::Result<Vec<PermissionGrant>> {
    let grants = sqlx::query_scalar!(
        r#"select distinct p.permission || '|' || ra.context_kind || '|' || ra.context_value as "grant!"
           from role_assignment ra join role_grant p on p.role = ra.role where ra.holder_id = $1"#,
        token.0,
    )
    .fetch_all(db)
    .await?;
    Ok(grants.iter().filter_map(|text| parse_grant(text)).collect())
}

/// Returns the id of a group; creates the group if no role was assigned to it before.
pub async fn find_or_create_group(tx: &mut PgConnection, name: &GroupName) -> sqlx::Result<GroupId> {
    sqlx::query!(
        "insert into user_group (name) values ($1) on conflict (name) do nothing",
        name.as_str()
    )
    .execute(&mut *tx)
    .await?;
    find_group_id(tx, name).await?.ok_or(sqlx::Error::RowNotFound)
}

/// Finds the id of a group that has been given a role.
pub async fn find_group_id(db: impl PgExecutor<'_>, name: &GroupName) -> sqlx::Result<Option<GroupId>> {
    sqlx::query_scalar!(
        r#"select group_id as "id: GroupId" from user_group where name = $1"#,
        name.as_str()
    )
    .fetch_optional(db)
    .await
}
