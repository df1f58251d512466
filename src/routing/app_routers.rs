//! The routers of an app: the built-in one, which every app has. The others are not driven yet, so none can be
//! added. Of the built-in one an app may choose how its hosts with a certificate are served.

use crate::apps::find_authorized_app;
use crate::certificates::{self, HttpsOptions};
use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, RouterName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::routers::{self, BUILT_IN};

/// Adds a router to an app. Errors: `NotFound`, `Forbidden`, `Conflict` for the router that the app has,
/// `Invalid` for every other one.
pub(super) async fn add_app_router(
    core: &Core,
    call: &RequestContext,
    app: &AppName,
    router: &RouterName,
) -> Result<(), Error> {
    find_authorized_app(core, call, app, Permission::APP_UPDATE_ROUTER_ADD).await?;
    if router.as_str() == BUILT_IN {
        return Err(Error::conflict(format!(
            "The app has the router {BUILT_IN} already."
        )));
    }
    match routers::router_exists(&core.db, router).await? {
        true => Err(Error::invalid(format!(
            "The router {router} cannot be added: this server does not drive routers of its type yet."
        ))),
        false => Err(Error::router_not_found(router)),
    }
}

/// Changes the options of a router of an app. Errors: `NotFound`, `Forbidden`; `Invalid` without an option that
/// the built-in router has.
pub(super) async fn update_app_router(
    core: &Core,
    call: &RequestContext,
    app: &AppName,
    router: &RouterName,
    options: HttpsOptions,
) -> Result<(), Error> {
    find_authorized_app(core, call, app, Permission::APP_UPDATE_ROUTER_UPDATE).await?;
    check_built_in(router)?;
    if options.redirects.is_none() && options.hsts_seconds.is_none() {
        return Err(Error::invalid(format!(
            "The router {BUILT_IN} has the options https-redirect (true or false) and hsts (a number of seconds)."
        )));
    }
    certificates::set_https_options(core, call, app, options).await
}

/// Removes a router from an app. Errors: `NotFound`, `Forbidden`; `Invalid` for the built-in router.
pub(super) async fn remove_app_router(
    core: &Core,
    call: &RequestContext,
    app: &AppName,
    router: &RouterName,
) -> Result<(), Error> {
    find_authorized_app(core, call, app, Permission::APP_UPDATE_ROUTER_REMOVE).await?;
    check_built_in(router)?;
    Err(Error::invalid(format!(
        "The router {BUILT_IN} is the only router of the app and cannot be removed."
    )))
}

/// Checks that an app has the router. Errors: `NotFound`.
fn check_built_in(router: &RouterName) -> Result<(), Error> {
    match router.as_str() == BUILT_IN {
        true => Ok(()),
        false => Err(Error::router_not_found(router)),
    }
}
