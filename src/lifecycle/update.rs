//! The update of an app. A new plan or override applies to units that are started after the update, so running
//! units are restarted unless the caller opts out: all of them, or those of the processes that have a new plan.

use serde_json::json;

use crate::apps::{self, AppChange, RestartScope};
use crate::core::Core;
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::releases;

/// Updates an app, and restarts its units if `may_restart` and their plan changes. Returns the event to follow.
/// Errors: as `apps::check_change` and `apps::apply_change`.
pub async fn update_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    change: AppChange,
    may_restart: bool,
) -> Result<EventId, Error> {
    let app = apps::check_change(core, call, name, &change).await?;
    let changed: Vec<&str> = change.required_permissions().iter().map(|p| p.as_str()).collect();
    let data = json!({ "changed": changed });
    let new = NewEvent::new(
        EventTarget::for_app(name),
        Permission::APP_UPDATE,
        app.permission_contexts(),
        data,
    )
    .allow_cancel();
    let mut tx = core.db.begin().await?;
    let event = events::begin_event(&mut tx, call, &new).await?;
    let restart = apps::apply_change(&mut tx, &app, change).await?;
    events::append_log(&mut *tx, &event, &format!("---- Updating {name} ----")).await?;
    match restart {
        RestartScope::Processes(processes) if may_restart => {
            releases::roll_out_processes(&mut tx, &event, &app, processes).await?;
        }
        restart => {
            let skip_rollout = !may_restart || restart == RestartScope::Nothing;
            releases::roll_out_or_end(&mut tx, &event, &app, skip_rollout).await?;
        }
    }
    tx.commit().await?;
    Ok(event)
}
