//! Actions on binds: begin a bind or an unbind, and read the variables of a bind.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::{self, App, AppKind};
use crate::core::Core;
use crate::db;
use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::{BindId, EventId};
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::pools::{self, ConstraintField};
use crate::sagas;
use crate::services::binds::saga::{BindData, BindSaga};
use crate::services::binds::store;
use crate::services::binds::unbinding::{UnbindData, UnbindSaga};
use crate::services::broker::BoundApp;
use crate::services::calls::late_arrival_window;
use crate::services::instances::{self, InstanceRef};
use crate::services::model::{Disclosure, Instance};
use crate::services::orphans;

/// A request to bind or to unbind.
#[derive(Clone, Debug)]
pub struct BindRequest {
    /// What `app` names.
    pub kind: AppKind,
    pub app: AppName,
    pub instance: InstanceRef,
    /// Leave the running units as they are; the next deploy or restart applies the change.
    pub no_restart: bool,
    /// Unbind in Tancho even if the call to the service fails.
    pub force: bool,
}

async fn find_app_and_instance(
    core: &Core,
    call: &RequestContext,
    request: &BindRequest,
    on_app: Permission,
    on_instance: Permission,
    disclosure: Disclosure,
) -> Result<(App, Instance), Error> {
    let app = apps::find_authorized_target(core, call, (request.kind, &request.app), on_app).await?;
    let instance =
        instances::find_authorized_instance(core, call, &request.instance, on_instance, disclosure).await?;
    Ok((app, instance))
}

fn new_bind_event(app: &App, instance: &Instance, kind: Permission, request: &BindRequest) -> NewEvent {
    let mut contexts = app.permission_contexts();
    contexts.extend(instance.permission_contexts());
    let data = json!({
        "service": instance.service, "instance": instance.name,
        "noRestart": request.no_restart, "force": request.force,
    });
    NewEvent::new(app.event_target(), kind, contexts, data).with_lock(EventTarget::new(
        EventTargetKind::ServiceInstance,
        instance.full_name(),
    ))
}

/// Begins to bind an instance to an app. Errors: `Conflict` if it is bound already, `Precondition` if the
/// instance is not ready, `Invalid` if the app's pool does not allow the service.
pub async fn bind_instance(
    core: &Core,
    call: &RequestContext,
    request: &BindRequest,
    disclosure: Disclosure,
) -> Result<(EventId, BindId), Error> {
    db::retry_transaction(|| begin_bind(core, call, request, disclosure)).await
}

async fn begin_bind(
    core: &Core,
    call: &RequestContext,
    request: &BindRequest,
    disclosure: Disclosure,
) -> Result<(EventId, BindId), Error> {
    let on_app = match request.kind {
        AppKind::App => Permission::APP_UPDATE_BIND,
        AppKind::Job => Permission::JOB_UPDATE,
    };
    let on_instance = Permission::SERVICE_INSTANCE_UPDATE_BIND;
    let (app, instance) = find_app_and_instance(core, call, request, on_app, on_instance, disclosure).await?;
    let service = instance.service.as_str();
    pools::check_allowed(&core.db, app.pool.as_str(), ConstraintField::Service, service).await?;
    let id = BindId::new();
    let event = new_bind_event(&app, &instance, on_app, request).allow_cancel();
    let user = call.event_owner().1;
    let event = sagas::start_saga::<BindSaga>(&core.db, call, &event, async |tx, _| {
        insert_bind(core, tx, id, &app, &instance).await?;
        Ok(BindData::new(id, user, (!request.no_restart).then_some(app.id)))
    })
    .await?;
    Ok((event, id))
}

/// Inserts a bind under the locks of its event.
async fn insert_bind(
    core: &Core,
    tx: &mut PgConnection,
    id: BindId,
    app: &App,
    instance: &Instance,
) -> Result<(), Error> {
    // Read again under the lock: it may have been removed while this request waited for it.
    instances::store::find_instance_by_id(&mut *tx, instance.id)
        .await?
        .ok_or_else(|| Error::instance_not_found(&instance.name))?
        .ensure_ready()?;
    let kind = app.kind.as_str();
    if let Some((_, state)) = store::find_bind_between(&mut *tx, instance.id, app.id).await? {
        return Err(Error::conflict(match state.as_str() {
            "unbinding" => format!(
                "This {kind} is still being unbound from this service instance; the service has not confirmed it yet."
            ),
            _ => format!("This {kind} is already bound to this service instance."),
        }));
    }
    let window = late_arrival_window(core);
    let known_as = match app.kind {
        AppKind::App => app.name.to_string(),
        AppKind::Job => BoundApp::for_job(&app.name, String::new()).name,
    };
    let earlier =
        orphans::supersede_bind_orphans(tx, instance.service_id, &instance.name, &known_as, window).await?;
    if earlier.is_rebind_blocked {
        return Err(Error::unavailable(
            "A call to the service about an earlier unbind of this app may still be running; try again in a moment.",
        ));
    }
    db::map_constraint_violation(
        store::insert_bind(tx, id, instance.id, app.id, earlier.uncertain_until).await,
        "bind_instance_app_key",
        || Error::conflict(format!("This {kind} is already bound to this service instance.")),
    )
}

/// Begins to unbind an instance from an app. Errors: `Precondition` if it is not bound.
pub async fn unbind_instance(
    core: &Core,
    call: &RequestContext,
    request: &BindRequest,
    disclosure: Disclosure,
) -> Result<EventId, Error> {
    db::retry_transaction(|| begin_unbind(core, call, request, disclosure)).await
}

async fn begin_unbind(
    core: &Core,
    call: &RequestContext,
    request: &BindRequest,
    disclosure: Disclosure,
) -> Result<EventId, Error> {
    let on_app = match request.kind {
        AppKind::App => Permission::APP_UPDATE_UNBIND,
        AppKind::Job => Permission::JOB_UPDATE,
    };
    let on_instance = Permission::SERVICE_INSTANCE_UPDATE_UNBIND;
    let (app, instance) = find_app_and_instance(core, call, request, on_app, on_instance, disclosure).await?;
    let event = new_bind_event(&app, &instance, on_app, request);
    let user = call.event_owner().1;
    sagas::start_saga::<UnbindSaga>(&core.db, call, &event, async |tx, _| {
        let (bind, state) = store::find_bind_between(&mut *tx, instance.id, app.id)
            .await?
            .ok_or_else(|| Error::precondition("This app is not bound to this service instance."))?;
        store::update_bind_state(tx, bind, "unbinding").await?;
        let rollout = (!request.no_restart).then_some(app.id);
        let again = state == "unbinding";
        Ok(UnbindData::new(bind, user, request.force, again, rollout))
    })
    .await
}

/// Loads and decrypts the variables of a bind.
pub async fn load_variables(core: &Core, bind: BindId) -> Result<BTreeMap<String, Secret>, Error> {
    let decrypt_value = |(name, value): (String, Vec<u8>)| {
        let associated = AssociatedData::new(SealedColumn::BIND_ENV, &[&bind, &name]);
        core.keys.decrypt(&associated, &value).map(|value| (name, value))
    };
    store::list_variables(&core.db, bind)
        .await?
        .into_iter()
        .map(decrypt_value)
        .collect()
}
