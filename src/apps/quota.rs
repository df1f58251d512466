//! The quota of an app: how many units it may have.

use serde_json::json;

use crate::apps::actions::find_authorized_app;
use crate::apps::addresses::record_change;
use crate::apps::store;
use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::quotas::{self, Quota};

/// Returns the quota of an app. Errors: `NotFound`, `Forbidden`.
pub(super) async fn find_quota(core: &Core, call: &RequestContext, name: &AppName) -> Result<Quota, Error> {
    let app = find_authorized_app(core, call, name, Permission::APP_READ).await?;
    quotas::find_unit_quota(&core.db, app.id).await
}

/// Sets how many units an app may have; -1 means no limit. The permission is required globally or on the pool:
/// members of the app's teams must not raise their own limit. Errors: `NotFound`; `Forbidden`, also if more
/// units are in use.
pub(super) async fn change_limit(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    limit: i32,
) -> Result<(), Error> {
    let app = store::find_app(&core.db, name)
        .await?
        .ok_or_else(|| Error::app_not_found(name))?;
    let on = [PermissionContext::new(ContextKind::Pool, &app.pool)];
    call.authorize(Permission::APP_ADMIN_QUOTA, &on)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "limit": limit });
    let app = record_change(&mut tx, call, &app, Permission::APP_ADMIN_QUOTA, data).await?;
    quotas::change_unit_limit(&mut tx, app.id, limit).await?;
    Ok(tx.commit().await?)
}
