//! SQL statements for the operations of services.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::ServiceId;
use crate::services::operations::model::{OperationManifest, ServiceOperation};

/// Returns the manifest of a service; `None` if it has none. One statement, so that it is consistent.
pub(super) async fn find_manifest(
    db: impl PgExecutor<'_>,
    service: ServiceId,
) -> sqlx::Result<Option<OperationManifest>> {
    let rows = sqlx::query!(
        r#"select m.enabled, m.strict_actions, m.legacy_compat,
                  o.method as "method?", o.path as "path?", o.action as "action?"
           from service_manifest m left join service_operation o using (service_id)
           where m.service_id = $1 order by o.position"#,
        service.0,
    )
    .fetch_all(db)
    .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let (enabled, strict_actions, legacy_compat) = (first.enabled, first.strict_actions, first.legacy_compat);
    let operations = rows.into_iter().filter_map(|row| {
        Some(ServiceOperation {
            method: row.method?,
            path: row.path?,
            action: row.action?,
        })
    });
    Ok(Some(OperationManifest {
        enabled,
        strict_actions,
        legacy_compat,
        operations: operations.collect(),
    }))
}

/// Locks a service, so that no role gets one of its actions until the transaction ends.
pub(super) async fn lock_service(tx: &mut PgConnection, service: ServiceId) -> sqlx::Result<()> {
    sqlx::query!(
        "select name from service where service_id = $1 for update",
        service.0
    )
    .fetch_optional(tx)
    .await
    .map(drop)
}

/// Returns the actions of a service that roles hold, each with a role, sorted; an empty action is all of them.
pub(super) async fn list_held_actions(
    tx: &mut PgConnection,
    service: ServiceId,
) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query!(
        "select action, role from role_service_action where service_id = $1 order by action, role",
        service.0,
    )
    .fetch_all(tx)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.action, row.role)).collect())
}

/// Replaces the manifest of a service.
pub(super) async fn replace_manifest(
    tx: &mut PgConnection,
    service: ServiceId,
    manifest: &OperationManifest,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into service_manifest (service_id, enabled, strict_actions, legacy_compat) values ($1, $2, $3, $4)
         on conflict (service_id) do update
         set enabled = excluded.enabled, strict_actions = excluded.strict_actions,
             legacy_compat = excluded.legacy_compat",
        service.0,
        manifest.enabled,
        manifest.strict_actions,
        manifest.legacy_compat,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("delete from service_operation where service_id = $1", service.0)
        .execute(&mut *tx)
        .await?;
    let column = |of: fn(&ServiceOperation) -> &String| -> Vec<String> {
        manifest
            .operations
            .iter()
            .map(|operation| of(operation).clone())
            .collect()
    };
    sqlx::query!(
        "insert into service_operation (service_id, position, method, path, action)
         select $1, position, method, path, action
         from unnest($2::text[], $3::text[], $4::text[]) with ordinality as o(method, path, action, position)",
        service.0,
        &column(|operation| &operation.method),
        &column(|operation| &operation.path),
        &column(|operation| &operation.action),
    )
    .execute(tx)
    .await
    .map(drop)
}
