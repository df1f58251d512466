//! Sends unbinds to services, and records as orphans what the services did not confirm.

use futures_util::future::join_all;
use sqlx::PgConnection;

use crate::apps::AppKind;
use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::sagas::{StepContext, StepError};
use crate::services::binds::store::{self, UncertainCall};
use crate::services::broker::{BoundApp, BrokerClient, BrokerError, CallDelivery, OnBehalfOf};
use crate::services::calls::{cancellable, late_arrival_window, on_behalf_of};
use crate::services::catalogue;
use crate::services::model::Bind;
use crate::services::orphans::{self, NewOrphan};

/// Returns the app as its service knows it.
pub fn bound_app(core: &Core, bind: &Bind) -> BoundApp {
    if bind.kind == AppKind::Job {
        return BoundApp::for_job(&bind.app, bind.pool.clone());
    }
    let host = core.public.app_address(&bind.label);
    let mut hosts = vec![host.clone()];
    hosts.extend(bind.cnames.iter().map(|cname| core.public.with_port(cname)));
    BoundApp {
        name: bind.app.to_string(),
        host,
        hosts,
        pool: bind.pool.clone(),
    }
}

/// Creates the client for the service of a bind.
pub(super) async fn open_broker(core: &Core, bind: &Bind) -> Result<BrokerClient, Error> {
    let service = catalogue::find_service_by_id(&core.db, bind.service_id)
        .await?
        .ok_or_else(|| Error::internal("a bind without a service"))?;
    BrokerClient::new(core, &service)
}

/// Marks a bind as `unbinding`. From then on the service is notified of no new unit: a unit announced after
/// the unbind would stay there. Returns false if the bind was not `bound`.
pub async fn mark_unbinding(tx: &mut PgConnection, bind: &Bind) -> Result<bool, Error> {
    let found = store::find_bind_between(&mut *tx, bind.instance_id, bind.app_id).await?;
    let bound = found.is_some_and(|(_, state)| state == "bound");
    if bound {
        store::update_bind_state(tx, bind.id, "unbinding").await?;
    }
    Ok(bound)
}

/// Sends the unbind of each unit that the service may know, then of the app. Units and apps that the service
/// does not know are a success.
pub async fn send_unbind(
    core: &Core,
    by: &OnBehalfOf,
    bind: &Bind,
) -> Result<Result<(), BrokerError>, Error> {
    let broker = open_broker(core, bind).await?;
    let app = bound_app(core, bind);
    if let Err(fault) = send_unit_unbinds(core, &broker, by, bind, &app).await? {
        return Ok(Err(fault));
    }
    Ok(broker.unbind_app(by, &bind.instance, &app).await.map(drop))
}

/// Sends the unbind of each unit that the service may know, and forgets each one that the service confirms.
pub(super) async fn send_unit_unbinds(
    core: &Core,
    broker: &BrokerClient,
    by: &OnBehalfOf,
    bind: &Bind,
    app: &BoundApp,
) -> Result<Result<(), BrokerError>, Error> {
    for host in store::list_unit_hosts(&core.db, bind.id).await? {
        if let Err(fault) = broker.unbind_unit(by, &bind.instance, app, &host).await {
            return Ok(Err(fault));
        }
        store::delete_unit_host(&core.db, bind.id, &host).await?;
    }
    Ok(Ok(()))
}

/// Removes a bind with its variables. Records an orphan if the service did not confirm the unbind, or may
/// still execute an earlier call.
pub async fn remove_bind(
    core: &Core,
    tx: &mut PgConnection,
    bind: &Bind,
    left: Option<&BrokerError>,
) -> Result<(), Error> {
    let units = store::list_unit_hosts(&mut *tx, bind.id).await?;
    let orphan = |reason: &str| NewOrphan::for_bind(bind, bound_app(core, bind), units, reason);
    match left {
        Some(fault) => {
            if fault.delivery == CallDelivery::Unknown {
                store::set_uncertain_until(tx, bind.id, UncertainCall::Unbind, late_arrival_window(core))
                    .await?;
            }
            orphans::record_orphan(tx, &orphan(fault.error.message())).await?;
        }
        None => orphans::record_confirmed(tx, &orphan(orphans::REASON_CONFIRMED)).await?,
    }
    store::delete_bind(tx, bind.id).await?;
    Ok(())
}

/// Unbinds an app that is being removed from all its instances: calls each service and deletes the rows. A
/// service that does not respond leaves an orphan and does not delay the removal.
pub async fn unbind_all_instances(core: &Core, ctx: &StepContext, app: AppId) -> Result<(), StepError> {
    let by = on_behalf_of(ctx, "");
    let binds = store::list_binds_of_app(&core.db, app).await?;
    ctx.write_fenced(async |tx| {
        for bind in &binds {
            if !mark_unbinding(tx, bind).await? {
                // An earlier unbind was sent, and its response may not have been received.
                let window = late_arrival_window(core);
                store::set_uncertain_until(tx, bind.id, UncertainCall::Unbind, window).await?;
            }
        }
        Ok(())
    })
    .await?;
    let results = join_all(
        binds
            .iter()
            .map(|bind| cancellable(ctx, send_unbind(core, &by, bind))),
    )
    .await;
    for (bind, result) in binds.iter().zip(results) {
        let result = result??;
        let line = match &result {
            Ok(()) => format!(" ---> the service instance \"{}\" is unbound", bind.instance),
            Err(fault) => format!(
                "The service did not confirm the unbind of {}; it will be retried: {}",
                bind.instance, fault.error
            ),
        };
        ctx.append_log(&line).await;
        ctx.write_fenced(async |tx| Ok(remove_bind(core, tx, bind, result.err().as_ref()).await?))
            .await?;
    }
    Ok(())
}
