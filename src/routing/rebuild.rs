//! The rebuild of the routes of an app, on request: every router reads the routes anew, and the caller learns
//! which they are.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::apps::{self, App};
use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::public_hosts::PlatformHosts;
use crate::kernel::request_context::RequestContext;
use crate::releases::rollout_steps;
use crate::routing::store;

/// How long routers may take to read the routes.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of the check without a notice.
const POLL: Duration = Duration::from_millis(500);

/// The routes of an app, as the routers have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRoutes {
    pub hosts: Vec<String>,
    /// The addresses of the units that get the requests.
    pub addresses: Vec<String>,
}

/// Makes all routers read the routes anew and waits until they have; with `dry`, only returns the routes.
/// Errors: `NotFound`, `Forbidden`; `Unavailable` if a router does not read them in time.
pub async fn rebuild_routes(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    dry: bool,
) -> Result<AppRoutes, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_ADMIN_ROUTES).await?;
    apps::ensure_live(&app)?;
    let mut tx = core.db.begin().await?;
    let event = NewEvent::new(
        EventTarget::for_app(&app.name),
        Permission::APP_ADMIN_ROUTES,
        app.permission_contexts(),
        json!({ "dry": dry }),
    );
    events::record_event(&mut tx, call, &event).await?;
    if !dry {
        store::bump_version(&mut tx).await?;
        db::send_notice(&mut tx, NoticeChannel::Routes, "").await?;
    }
    tx.commit().await?;
    if !dry {
        wait_for_routers(core).await?;
    }
    load_app_routes(core, &app).await
}

/// Waits until every router at work has routes that were read from now on.
async fn wait_for_routers(core: &Core) -> Result<(), Error> {
    let mut notices = core.notices.subscribe();
    let since = rollout_steps::request_route_reload(core).await?;
    let deadline = Instant::now() + ROUTER_TIMEOUT;
    while !rollout_steps::have_routers_loaded(core, since).await? {
        if Instant::now() >= deadline {
            return Err(Error::unavailable(
                "A router did not read the routes in time: try again later.",
            ));
        }
        notices
            .wait_for_notice(&[NoticeChannel::RoutesApplied], POLL)
            .await;
    }
    Ok(())
}

async fn load_app_routes(core: &Core, app: &App) -> Result<AppRoutes, Error> {
    let platform = PlatformHosts::new(&core.public.domain, &core.public.api_url);
    let own = format!("{}.{}", app.label, platform.app_domain());
    let cnames = app
        .cnames
        .iter()
        .filter(|cname| platform.check_cname(cname).is_ok());
    Ok(AppRoutes {
        hosts: std::iter::once(own).chain(cnames.cloned()).collect(),
        addresses: store::list_app_addresses(&core.db, app.id).await?,
    })
}
