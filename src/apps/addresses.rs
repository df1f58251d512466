//! Who may use an app, and by which names it is reached: teams, cnames, the swap.

use serde_json::json;

use crate::apps::actions::{ensure_live, find_for};
use crate::apps::model::App;
use crate::apps::store;
use crate::core::Core;
use crate::db::listen::Channel;
use crate::db::{self, on_constraint};
use crate::events::{self, NewEvent, Target};
use crate::kernel::call::Call;
use crate::kernel::names::{AppName, CName, TeamName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::teams;

/// Lets a team use the app. Errors: `NotFound` for the team, `Conflict` when it can already.
pub(super) async fn grant(core: &Core, call: &Call, name: &AppName, team: &TeamName) -> Result<(), Problem> {
    let app = find_for(core, call, name, Permission::APP_UPDATE_GRANT).await?;
    ensure_live(&app)?;
    if !teams::exists(&core.db, team).await? {
        return Err(Problem::not_found(format!("Team {team} not found.")));
    }
    let mut tx = core.db.begin().await?;
    if !store::insert_team(&mut tx, app.id, team).await? {
        return Err(Problem::conflict(format!(
            "Team {team} already has access to app {name}."
        )));
    }
    record(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_GRANT,
        json!({ "team": team }),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Takes a team's use of the app back. Errors: `NotFound` when it has none, `Forbidden` for the last team.
pub(super) async fn revoke(core: &Core, call: &Call, name: &AppName, team: &TeamName) -> Result<(), Problem> {
    let app = find_for(core, call, name, Permission::APP_UPDATE_REVOKE).await?;
    ensure_live(&app)?;
    let mut tx = core.db.begin().await?;
    record(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_REVOKE,
        json!({ "team": team }),
    )
    .await?;
    // The event's lock keeps the list of teams still, so this reads what it will change.
    let app = store::find(&mut *tx, name)
        .await?
        .ok_or_else(|| Problem::not_found(format!("App {name} not found.")))?;
    if !app.teams.contains(team) {
        return Err(Problem::not_found(format!(
            "Team {team} has no access to app {name}."
        )));
    }
    if app.teams.len() == 1 {
        return Err(Problem::forbidden(format!(
            "Team {team} is the last that has access to app {name}: grant another first."
        )));
    }
    if app.team_owner == *team {
        return Err(Problem::forbidden(format!(
            "Team {team} owns app {name}: make another team its owner first."
        )));
    }
    store::delete_team(&mut tx, app.id, team).await?;
    tx.commit().await?;
    Ok(())
}

/// Adds cnames, all or none. Errors: `Invalid` for a name inside the platform's own domain, `Conflict` for
/// one that is taken.
pub(super) async fn add_cnames(
    core: &Core,
    call: &Call,
    name: &AppName,
    cnames: &[CName],
) -> Result<(), Problem> {
    let app = find_for(core, call, name, Permission::APP_UPDATE_CNAME_ADD).await?;
    ensure_live(&app)?;
    let own = format!(".{}", core.public.domain);
    let mut tx = core.db.begin().await?;
    record(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_CNAME_ADD,
        json!({ "cname": cnames }),
    )
    .await?;
    for cname in cnames {
        let host = cname.as_str().to_ascii_lowercase();
        if host.ends_with(&own) || host == core.public.domain {
            return Err(Problem::invalid(format!(
                "{host} lies in the platform's own domain; only outside names can be cnames."
            )));
        }
        on_constraint(
            store::insert_cname(&mut tx, app.id, &host).await,
            "app_cname_pkey",
            || Problem::conflict(format!("{host} already leads to an app.")),
        )?;
    }
    db::notify(&mut tx, Channel::Routes, "").await?;
    tx.commit().await?;
    Ok(())
}

/// Removes cnames, all or none. Errors: `NotFound` for one that the app does not have.
pub(super) async fn remove_cnames(
    core: &Core,
    call: &Call,
    name: &AppName,
    cnames: &[CName],
) -> Result<(), Problem> {
    let app = find_for(core, call, name, Permission::APP_UPDATE_CNAME_REMOVE).await?;
    ensure_live(&app)?;
    let mut tx = core.db.begin().await?;
    record(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_CNAME_REMOVE,
        json!({ "cname": cnames }),
    )
    .await?;
    for cname in cnames {
        let host = cname.as_str().to_ascii_lowercase();
        if !store::delete_cname(&mut tx, app.id, &host).await? {
            return Err(Problem::not_found(format!("App {name} has no cname {host}.")));
        }
    }
    db::notify(&mut tx, Channel::Routes, "").await?;
    tx.commit().await?;
    Ok(())
}

/// Exchanges the public addresses of two apps (contract/classic 3.8), in one transaction.
pub(super) async fn swap(
    core: &Core,
    call: &Call,
    one: &AppName,
    two: &AppName,
    cnames_only: bool,
) -> Result<(), Problem> {
    let first = find_for(core, call, one, Permission::APP_UPDATE_SWAP).await?;
    let second = find_for(core, call, two, Permission::APP_UPDATE_SWAP).await?;
    if first.id == second.id {
        return Err(Problem::invalid("Two different apps are needed to swap."));
    }
    ensure_live(&first)?;
    ensure_live(&second)?;
    let contexts = [first.contexts(), second.contexts()].concat();
    let data = json!({ "app1": one, "app2": two, "cnameOnly": cnames_only });
    let target = Target::app(&first.name);
    let event = NewEvent::new(target, Permission::APP_UPDATE_SWAP, contexts, data);
    let event = event.locking(Target::app(&second.name));
    db::retry(|| async {
        let mut tx = core.db.begin().await?;
        events::record(&mut tx, call, &event).await?;
        store::swap(&mut tx, first.id, second.id, cnames_only).await?;
        db::notify(&mut tx, Channel::Routes, "").await?;
        Ok(tx.commit().await?)
    })
    .await
}

async fn record(
    tx: &mut sqlx::PgConnection,
    call: &Call,
    app: &App,
    permission: Permission,
    data: serde_json::Value,
) -> Result<(), Problem> {
    let event = NewEvent::new(Target::app(&app.name), permission, app.contexts(), data);
    events::record(tx, call, &event).await.map(drop)
}
