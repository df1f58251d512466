//! The token of an app from `POST /tokens`.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::core::Core;
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::lifecycle::store;
use crate::users::tokens;
use crate::{apps, envs};

/// Creates a token for an app, valid for a year; for administrators only. With `export` it becomes the app's
/// `TSURU_APP_TOKEN`, which units get at their next start; older tokens stay valid. Returns the token and its
/// creation time. Errors: `Forbidden`, `NotFound`.
pub(super) async fn create_app_token(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    export: bool,
) -> Result<(Secret, DateTime<Utc>), Error> {
    call.authorize(Permission::ALL, &[])?;
    let app = apps::find_authorized_app(core, call, name, Permission::APP_ADMIN).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "token": "new", "export": export });
    let event = NewEvent::new(
        EventTarget::for_app(name),
        Permission::APP_ADMIN,
        app.permission_contexts(),
        data,
    );
    events::record_event(&mut tx, call, &event).await?;
    let token = tokens::issue_app_token(&mut tx, app.id, Some(tokens::APP_TOKEN_DAYS)).await?;
    if export {
        envs::set_platform_var(core, &mut tx, app.id, "TSURU_APP_TOKEN", &token).await?;
    }
    let made_at = store::transaction_time(&mut *tx).await?;
    tx.commit().await?;
    Ok((token, made_at))
}
