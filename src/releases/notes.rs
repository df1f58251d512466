//! Notes of an event on the environment that a release starts with.

use crate::apps;
use crate::core::Core;
use crate::envs;
use crate::kernel::ids::AppId;
use crate::sagas::{StepContext, StepError};

/// Appends to the event which service variables are left out of an app's environment, and which cover others.
pub async fn append_environment_notes(core: &Core, ctx: &StepContext, app: AppId) -> Result<(), StepError> {
    let Some(name) = apps::store::find_app_name(&core.db, app).await? else {
        return Ok(());
    };
    let mut conn = core.db.acquire().await?;
    let environment = envs::effective_environment(core, &mut conn, app, &name).await?;
    drop(conn);
    ctx.append_log_lines(environment.notes()).await;
    Ok(())
}
