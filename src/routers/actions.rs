//! Use cases of routers: list, create, update, remove.

use sqlx::PgPool;

use crate::core::Core;
use crate::db;
use crate::events;
use crate::kernel::error::Error;
use crate::kernel::names::RouterName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::outbound::OutboundErrorKind;
use crate::routers::model::{AddedRouter, BUILT_IN, RouterPatch, config_associated_data, router_event};
use crate::routers::store::{self, RouterRow};

/// The maximum number of routers.
const MAX_ROUTERS: i64 = 100;

/// Lists the routers that were added, by name. Only callers that may read routers see their configurations.
pub(super) async fn list_routers(core: &Core, call: &RequestContext) -> Result<Vec<AddedRouter>, Error> {
    let shows_config = call.has_global_permission(Permission::ROUTER_READ);
    let rows = store::list_routers(&core.db).await?;
    let read = |row| {
        let mut router = read_row(core, row)?;
        if !shows_config {
            router.config.clear();
        }
        Ok(router)
    };
    rows.into_iter().map(read).collect()
}

/// Returns true if a router of this name was added.
pub async fn router_exists(db: &PgPool, name: &RouterName) -> Result<bool, Error> {
    Ok(store::router_exists(db, name).await?)
}

/// Creates a router. Errors: `Forbidden`, `Invalid`, `Conflict` for a taken name.
pub(super) async fn create_router(
    core: &Core,
    call: &RequestContext,
    name: RouterName,
    patch: RouterPatch,
) -> Result<(), Error> {
    call.authorize(Permission::ROUTER_CREATE, &[])?;
    let taken = || Error::conflict("Router already exists.");
    if name.as_str() == BUILT_IN {
        return Err(taken());
    }
    let router = AddedRouter::new(name, patch)?;
    check_url(core, &router).await?;
    let mut tx = core.db.begin().await?;
    let event = router_event(&router.name, Permission::ROUTER_CREATE, router.event_data());
    events::record_event(&mut tx, call, &event).await?;
    let inserted = store::insert_router(&mut tx, &write_row(core, &router)).await;
    db::map_constraint_violation(inserted, "router_name_key", taken)?;
    if store::count_routers(&mut *tx).await? > MAX_ROUTERS {
        return Err(Error::invalid(format!(
            "There are at most {MAX_ROUTERS} routers: remove one first."
        )));
    }
    tx.commit().await?;
    Ok(())
}

/// Changes a router. Errors: `Forbidden`, `NotFound`; `Invalid`, also for the built-in router; `Conflict` if it
/// was changed at the same time.
pub(super) async fn update_router(
    core: &Core,
    call: &RequestContext,
    name: &RouterName,
    patch: RouterPatch,
) -> Result<(), Error> {
    call.authorize(Permission::ROUTER_UPDATE, &[])?;
    check_not_built_in(name)?;
    let found = store::find_router(&core.db, name).await?;
    let before = found.ok_or_else(|| Error::router_not_found(name))?;
    let (id, config) = (before.router_id, before.config.clone());
    let mut router = read_row(core, before)?;
    router.apply_patch(patch)?;
    check_url(core, &router).await?;
    let mut tx = core.db.begin().await?;
    let event = router_event(name, Permission::ROUTER_UPDATE, router.event_data());
    events::record_event(&mut tx, call, &event).await?;
    match store::lock_router(&mut tx, name).await? {
        None => return Err(Error::router_not_found(name)),
        Some(now) if now.router_id != id || now.config != config => {
            return Err(Error::conflict("The router was just changed; try again."));
        }
        Some(_) => store::update_router(&mut tx, &write_row(core, &router)).await?,
    }
    tx.commit().await?;
    Ok(())
}

/// Removes a router. Errors: `Forbidden`, `NotFound`; `Invalid` for the built-in router.
pub(super) async fn remove_router(
    core: &Core,
    call: &RequestContext,
    name: &RouterName,
) -> Result<(), Error> {
    call.authorize(Permission::ROUTER_DELETE, &[])?;
    check_not_built_in(name)?;
    let mut tx = core.db.begin().await?;
    let data = serde_json::json!({ "name": name });
    let event = router_event(name, Permission::ROUTER_DELETE, data);
    events::record_event(&mut tx, call, &event).await?;
    if !store::delete_router(&mut tx, name).await? {
        return Err(Error::router_not_found(name));
    }
    tx.commit().await?;
    Ok(())
}

fn check_not_built_in(name: &RouterName) -> Result<(), Error> {
    match name.as_str() == BUILT_IN {
        true => Err(Error::invalid(format!(
            "The router {BUILT_IN} is a part of this server and cannot be changed: use the settings of the server."
        ))),
        false => Ok(()),
    }
}

/// Checks that this server may call the URL of a router. A host that cannot be found now may be found later.
async fn check_url(core: &Core, router: &AddedRouter) -> Result<(), Error> {
    match core.outbound.resolve_host(&router.api_url()?).await {
        Err(error @ OutboundErrorKind::PrivateAddress) => {
            Err(Error::invalid(format!("The api-url {error}: use a public one.")))
        }
        _ => Ok(()),
    }
}

fn read_row(core: &Core, row: RouterRow) -> Result<AddedRouter, Error> {
    let config = core
        .keys
        .decrypt(&config_associated_data(row.router_id), &row.config)?;
    Ok(AddedRouter {
        id: row.router_id,
        name: row.name,
        kind: row.kind,
        readiness_gates: row.readiness_gates,
        config: serde_json::from_str(config.expose_secret()).map_err(Error::internal)?,
    })
}

fn write_row(core: &Core, router: &AddedRouter) -> RouterRow {
    let config = Secret::new(serde_json::json!(router.config).to_string());
    RouterRow {
        router_id: router.id,
        name: router.name.clone(),
        kind: router.kind.clone(),
        readiness_gates: router.readiness_gates.clone(),
        config: core.keys.encrypt(&config_associated_data(router.id), &config),
    }
}
