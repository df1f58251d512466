//! Stores roles.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::held_permission::ServiceAction;
use crate::kernel::ids::ServiceId;
use crate::kernel::names::RoleName;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::teams::roles::model::Role;
use crate::users;

/// Returns a role by name; `None`: all roles.
pub(super) async fn list_roles(db: impl PgExecutor<'_>, name: Option<&str>) -> sqlx::Result<Vec<Role>> {
    let rows = sqlx::query!(
        r#"select r.name, r.context_kind, r.description,
                  array(select p.permission from role_grant p where p.role = r.name order by 1) as "permissions!",
                  array(select d.event from default_role d where d.role = r.name order by 1) as "events!"
           from role r where $1::text is null or r.name = $1 order by r.name"#,
        name,
    )
    .fetch_all(db)
    .await?;
    let mut roles = Vec::new();
    for row in rows {
        // A context type unknown to this build grants nothing.
        let Ok(kind) = ContextKind::parse(&row.context_kind) else {
            continue;
        };
        let permissions = row.permissions.iter();
        roles.push(Role {
            name: row.name,
            kind,
            description: row.description,
            permissions: permissions.filter_map(|p| users::parse_held(p)).collect(),
            default_events: row.events,
        });
    }
    Ok(roles)
}

pub(super) async fn insert_role(
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

pub(super) async fn update_role(
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

pub(super) async fn delete_role(tx: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query!("delete from role where name = $1", name)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Locks the role's row, so that it is not assigned while it changes.
pub(super) async fn lock_role(tx: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!("select name from role where name = $1 for update", name)
        .fetch_optional(tx)
        .await
        .map(drop)
}

pub(super) async fn is_role_assigned(tx: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
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

/// Locks the services that a path `service-action.<service>[.<action>]` may mean against a new manifest. In a
/// statement of its own, so that the next one sees the manifest that was waited for.
pub(super) async fn lock_services_of_path(tx: &mut PgConnection, path: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "select name from service s
         where $1 = 'service-action.' || s.name or starts_with($1, 'service-action.' || s.name || '.')
         order by name for share",
        path,
    )
    .fetch_all(tx)
    .await
    .map(drop)
}

/// Returns the services that a path may mean, each with the action: an action of an enabled manifest, or what
/// several have in common before a dot.
pub(super) async fn find_service_actions(
    tx: &mut PgConnection,
    path: &str,
) -> sqlx::Result<Vec<ServiceAction>> {
    let rows = sqlx::query!(
        r#"select s.service_id as "id: ServiceId", s.name, r.action as "action!"
           from service s join service_manifest m using (service_id),
                lateral (select substr($1, length('service-action.' || s.name) + 2) as action) r
           where m.enabled
             and ($1 = 'service-action.' || s.name
                  or (starts_with($1, 'service-action.' || s.name || '.') and r.action <> ''))
             and exists (
                 select from service_operation o
                 where o.service_id = s.service_id
                   and (r.action = '' or o.action = r.action or starts_with(o.action, r.action || '.')))
           order by s.name limit 2"#,
        path,
    )
    .fetch_all(tx)
    .await?;
    let action = rows.into_iter().map(|row| ServiceAction {
        service: row.id,
        action: row.action.into(),
        service_name: row.name.into(),
    });
    Ok(action.collect())
}

pub(super) async fn insert_service_action(
    tx: &mut PgConnection,
    role: &str,
    action: &ServiceAction,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into role_service_action (role, service_id, action) values ($1, $2, $3)
         on conflict on constraint role_service_action_pkey do nothing",
        role,
        action.service.0,
        &*action.action,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes an action from a role, given by its path.
pub(super) async fn delete_service_action(tx: &mut PgConnection, role: &str, path: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from role_service_action a using service s
         where s.service_id = a.service_id and a.role = $1
           and $2 = 'service-action.' || s.name || case a.action when '' then '' else '.' || a.action end",
        role,
        path,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Returns the actions of enabled manifests as pairs of service and action, sorted.
pub(super) async fn list_service_actions(
    db: impl PgExecutor<'_>,
    with_restricted: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query!(
        "select s.name, o.action
         from service s join service_manifest m using (service_id) join service_operation o using (service_id)
         where m.enabled and ($1 or not s.is_restricted)
         order by s.name, o.action",
        with_restricted,
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.name, row.action)).collect())
}

pub(super) async fn insert_default_role(tx: &mut PgConnection, event: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into default_role (event, role) values ($1, $2) on conflict (event, role) do nothing",
        event,
        role,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn delete_default_role(tx: &mut PgConnection, event: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from default_role where event = $1 and role = $2",
        event,
        role,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// True if the object exists. Types whose objects are not stored yet have none.
pub(super) async fn context_exists(db: impl PgExecutor<'_>, thing: &PermissionContext) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select ($1 = 'global' or find_context_object($1, $2) is not null) as "is!""#,
        thing.kind.as_str(),
        thing.value,
    )
    .fetch_one(db)
    .await
}
