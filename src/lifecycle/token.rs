//! The token of an app from `POST /tokens`.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::core::Core;
use crate::events::{self, NewEvent, Target};
use crate::kernel::call::Call;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::lifecycle::store;
use crate::users::tokens;
use crate::{apps, envs};

/// Makes a token for an app, good for a year; for administrators. With `export` it becomes the app's
/// `TSURU_APP_TOKEN`, which units see when they start the next time; older tokens stay good. Answers it
/// with the time it was made. Errors: `Forbidden`, `NotFound`.
pub(super) async fn app_token(
    core: &Core,
    call: &Call,
    name: &AppName,
    export: bool,
) -> Result<(Secret, DateTime<Utc>), Problem> {
    call.allow(Permission::ALL, &[])?;
    let app = apps::find_for(core, call, name, Permission::APP_ADMIN).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "token": "new", "export": export });
    let event = NewEvent::new(Target::app(name), Permission::APP_ADMIN, app.contexts(), data);
    events::record(&mut tx, call, &event).await?;
    let token = tokens::issue_for_app(&mut tx, app.id, Some(tokens::APP_TOKEN_DAYS)).await?;
    if export {
        envs::set_own(core, &mut tx, app.id, "TSURU_APP_TOKEN", &token).await?;
    }
    let made_at = store::now(&mut *tx).await?;
    tx.commit().await?;
    Ok((token, made_at))
}
