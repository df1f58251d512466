//! Bind and unbind: what is asked, checked and begun.

use std::collections::BTreeMap;

use serde_json::json;

use crate::apps::{self, App};
use crate::core::Core;
use crate::db;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::{BindId, EventId};
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Place};
use crate::kernel::secret::Secret;
use crate::sagas::{self, Lane, NewSaga};
use crate::services::binds::{saga, store, unbinding};
use crate::services::instances::{self, Wanted};
use crate::services::model::{Edition, Instance};
use crate::services::orphans;
use crate::services::sagas::lateness;

/// What is to be bound or unbound.
#[derive(Clone, Debug)]
pub struct Wish {
    pub app: AppName,
    pub instance: Wanted,
    /// Leave the running units as they are; the next deploy or restart brings the change.
    pub no_restart: bool,
    /// Unbind here even if the service fails to.
    pub force: bool,
}

async fn load(
    core: &Core,
    call: &Call,
    wish: &Wish,
    on_app: Permission,
    on_instance: Permission,
    edition: Edition,
) -> Result<(App, Instance), Problem> {
    let app = apps::find_for(core, call, &wish.app, on_app).await?;
    let instance = instances::find_for(core, call, &wish.instance, on_instance, edition).await?;
    Ok((app, instance))
}

fn event(app: &App, instance: &Instance, kind: Permission, wish: &Wish) -> NewEvent {
    let mut contexts = app.contexts();
    contexts.extend(instance.contexts());
    let data = json!({
        "service": instance.service, "instance": instance.name,
        "noRestart": wish.no_restart, "force": wish.force,
    });
    NewEvent::new(Target::app(&app.name), kind, contexts, data)
        .locking(Target::new(TargetKind::ServiceInstance, instance.full_name()))
}

/// Begins to bind an instance to an app. Errors: `Conflict` when it is bound already, `Precondition` when
/// the instance is not ready.
pub async fn bind(
    core: &Core,
    call: &Call,
    wish: &Wish,
    edition: Edition,
) -> Result<(EventId, BindId), Problem> {
    db::retry(|| try_to_bind(core, call, wish, edition)).await
}

async fn try_to_bind(
    core: &Core,
    call: &Call,
    wish: &Wish,
    edition: Edition,
) -> Result<(EventId, BindId), Problem> {
    let on_app = Permission::APP_UPDATE_BIND;
    let on_instance = Permission::SERVICE_INSTANCE_UPDATE_BIND;
    let (app, instance) = load(core, call, wish, on_app, on_instance, edition).await?;
    let id = BindId::new();
    let mut tx = core.db.begin().await?;
    let event = event(&app, &instance, on_app, wish).cancelable();
    let event = events::begin(&mut tx, call, &event).await?;
    // Read anew under the lock: it may have been removed while we waited for it.
    instances::store::find_by_id(&mut *tx, instance.id)
        .await?
        .ok_or_else(|| Problem::not_found("service instance not found"))?
        .ensure_ready()?;
    if let Some((_, state)) = store::find_between(&mut *tx, instance.id, app.id).await? {
        return Err(Problem::conflict(match state.as_str() {
            "unbinding" => {
                "This app is still being unbound from this service instance; the service has not confirmed it yet."
            }
            _ => "This app is already bound to this service instance.",
        }));
    }
    let lateness = lateness(core);
    let earlier =
        orphans::supersede_bind(&mut tx, instance.service_id, &instance.name, &app.name, lateness).await?;
    if earlier.is_held {
        return Err(Problem::unavailable(
            "The service is just being told that this app is no longer bound: bind it again in a moment.",
        ));
    }
    db::on_constraint(
        store::insert(&mut tx, id, instance.id, app.id, earlier.unheard_until).await,
        "bind_instance_app_key",
        || Problem::conflict("This app is already bound to this service instance."),
    )?;
    let saga = NewSaga {
        kind: saga::KIND,
        lane: Lane::People,
        event: Some(&event),
        host: None,
        data: &saga::Data::new(id, call.owner().1, (!wish.no_restart).then_some(app.id)),
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok((event, id))
}

/// Begins to unbind an instance from an app. Errors: `Precondition` when it is not bound.
pub async fn unbind(core: &Core, call: &Call, wish: &Wish, edition: Edition) -> Result<EventId, Problem> {
    db::retry(|| try_to_unbind(core, call, wish, edition)).await
}

async fn try_to_unbind(core: &Core, call: &Call, wish: &Wish, edition: Edition) -> Result<EventId, Problem> {
    let on_app = Permission::APP_UPDATE_UNBIND;
    let on_instance = Permission::SERVICE_INSTANCE_UPDATE_UNBIND;
    let (app, instance) = load(core, call, wish, on_app, on_instance, edition).await?;
    let mut tx = core.db.begin().await?;
    let event = event(&app, &instance, on_app, wish);
    let event = events::begin(&mut tx, call, &event).await?;
    let (bind, state) = store::find_between(&mut *tx, instance.id, app.id)
        .await?
        .ok_or_else(|| Problem::precondition("This app is not bound to this service instance."))?;
    store::update_state(&mut tx, bind, "unbinding").await?;
    let rollout = (!wish.no_restart).then_some(app.id);
    let again = state == "unbinding";
    let data = unbinding::Data::new(bind, call.owner().1, wish.force, again, rollout);
    unbinding::enqueue(&mut tx, &event, Lane::People, &data).await?;
    tx.commit().await?;
    Ok(event)
}

/// The variables of a bind, opened.
pub async fn variables(core: &Core, bind: BindId) -> Result<BTreeMap<String, Secret>, Problem> {
    let open = |(name, value): (String, Vec<u8>)| {
        let place = Place::new(Column::BIND_ENV, &[&bind, &name]);
        core.keys.open(&place, &value).map(|value| (name, value))
    };
    store::list_variables(&core.db, bind)
        .await?
        .into_iter()
        .map(open)
        .collect()
}
