//! Telling services that an app is no longer bound, and what is left to do when they do not listen.

use futures_util::future::join_all;
use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::sagas::{Run, StepError};
use crate::services::binds::store::{self, Unheard};
use crate::services::broker::{Behalf, Bound, Broker, Fate, Fault};
use crate::services::catalogue;
use crate::services::model::Bind;
use crate::services::orphans::{self, NewOrphan};
use crate::services::sagas::{behalf, heed, lateness};

/// An app as its service knows it.
pub fn bound(core: &Core, bind: &Bind) -> Bound {
    let host = core.public.app_address(&bind.label);
    let mut hosts = vec![host.clone()];
    hosts.extend(bind.cnames.iter().map(|cname| core.public.with_port(cname)));
    Bound {
        name: bind.app.to_string(),
        host,
        hosts,
        pool: bind.pool.clone(),
    }
}

/// The client for the service of a bind.
pub(super) async fn broker(core: &Core, bind: &Bind) -> Result<Broker, Problem> {
    let service = catalogue::find_by_id(&core.db, bind.service_id)
        .await?
        .ok_or_else(|| Problem::internal("a bind without a service"))?;
    Broker::new(core, &service)
}

/// From here on the service is told of no unit that comes: one told after the unbind would stay there. False if
/// the bind was not `bound`.
pub async fn hush(tx: &mut PgConnection, bind: &Bind) -> Result<bool, Problem> {
    let found = store::find_between(&mut *tx, bind.instance_id, bind.app_id).await?;
    let bound = found.is_some_and(|(_, state)| state == "bound");
    if bound {
        store::update_state(tx, bind.id, "unbinding").await?;
    }
    Ok(bound)
}

/// Tells the service of each unit it may know, then of the app. Not known there is fine.
pub async fn tell_unbound(core: &Core, by: &Behalf, bind: &Bind) -> Result<Result<(), Fault>, Problem> {
    let broker = broker(core, bind).await?;
    let app = bound(core, bind);
    if let Err(fault) = tell_units_unbound(core, &broker, by, bind, &app).await? {
        return Ok(Err(fault));
    }
    Ok(broker.unbind_app(by, &bind.instance, &app).await.map(drop))
}

/// Tells the service of each unit it may know, and forgets those as it confirms.
pub(super) async fn tell_units_unbound(
    core: &Core,
    broker: &Broker,
    by: &Behalf,
    bind: &Bind,
    app: &Bound,
) -> Result<Result<(), Fault>, Problem> {
    for host in store::list_unit_hosts(&core.db, bind.id).await? {
        if let Err(fault) = broker.unbind_unit(by, &bind.instance, app, &host).await {
            return Ok(Err(fault));
        }
        store::delete_unit_host(&core.db, bind.id, &host).await?;
    }
    Ok(Ok(()))
}

/// Takes a bind with its variables away. What the service did not confirm is left to the hunt, and so is what an
/// older call may bring back.
pub async fn forget(
    core: &Core,
    tx: &mut PgConnection,
    bind: &Bind,
    left: Option<&Fault>,
) -> Result<(), Problem> {
    let units = store::list_unit_hosts(&mut *tx, bind.id).await?;
    let orphan = |reason: &str| NewOrphan::bind(bind, bound(core, bind), units, reason);
    match left {
        Some(fault) => {
            if fault.fate == Fate::Unknown {
                store::note_unheard(tx, bind.id, Unheard::Unbind, lateness(core)).await?;
            }
            orphans::leave(tx, &orphan(fault.problem.words())).await?;
        }
        None => orphans::confirmed(tx, &orphan(orphans::CONFIRMED)).await?,
    }
    store::delete(tx, bind.id).await?;
    Ok(())
}

/// Unbinds an app that is being removed from all its instances: each service is told, the rows go, and a
/// service that does not answer leaves an orphan instead of holding up the removal.
pub async fn unbind_everything(core: &Core, run: &Run, app: AppId) -> Result<(), StepError> {
    let by = behalf(run, "");
    let binds = store::list_of_app(&core.db, app).await?;
    let mut tx = run.begin().await?;
    for bind in &binds {
        if !hush(&mut tx, bind).await? {
            // The service was told before, and perhaps nobody heard its answer.
            store::note_unheard(&mut tx, bind.id, Unheard::Unbind, lateness(core)).await?;
        }
    }
    tx.commit().await?;
    let told = join_all(binds.iter().map(|bind| heed(run, tell_unbound(core, &by, bind)))).await;
    for (bind, told) in binds.iter().zip(told) {
        let told = told??;
        let line = match &told {
            Ok(()) => format!(" ---> the service instance \"{}\" is unbound", bind.instance),
            Err(fault) => format!(
                "The service did not confirm that {} is unbound, it will be told again: {}",
                bind.instance, fault.problem
            ),
        };
        run.say(&line).await;
        let mut tx = run.begin().await?;
        forget(core, &mut tx, bind, told.err().as_ref()).await?;
        tx.commit().await?;
    }
    Ok(())
}
