//! The teams with access to an app, its cnames, and the swap of addresses.

use serde_json::json;

use crate::apps::actions::{ensure_live, find_authorized_app};
use crate::apps::model::App;
use crate::apps::store;
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::db::{self, map_constraint_violation};
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, CName, TeamName};
use crate::kernel::permission::Permission;
use crate::kernel::public_hosts::PlatformHosts;
use crate::kernel::request_context::RequestContext;
use crate::teams;

/// Maximum number of cnames of an app.
const MAX_CNAMES: usize = 100;

/// Grants a team access to an app. Errors: `NotFound` for an unknown team, `Conflict` if it has access
/// already.
pub(super) async fn grant_team(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    team: &TeamName,
) -> Result<(), Error> {
    let app = find_authorized_app(core, call, name, Permission::APP_UPDATE_GRANT).await?;
    ensure_live(&app)?;
    if !teams::team_exists(&core.db, team).await? {
        return Err(Error::team_not_found(team));
    }
    let mut tx = core.db.begin().await?;
    record_change(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_GRANT,
        json!({ "team": team }),
    )
    .await?;
    let granted = map_constraint_violation(
        store::insert_team(&mut tx, app.id, team).await,
        "app_team_team_fkey",
        || Error::not_found(format!("Team {team} not found.")),
    )?;
    if !granted {
        return Err(Error::conflict(format!(
            "Team {team} already has access to app {name}."
        )));
    }
    tx.commit().await?;
    Ok(())
}

/// Revokes a team's access to an app. Errors: `NotFound` if it has none, `Forbidden` for the last team and
/// for the owner.
pub(super) async fn revoke_team(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    team: &TeamName,
) -> Result<(), Error> {
    let app = find_authorized_app(core, call, name, Permission::APP_UPDATE_REVOKE).await?;
    ensure_live(&app)?;
    let mut tx = core.db.begin().await?;
    // No other change of the teams runs under the event's lock.
    let app = record_change(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_REVOKE,
        json!({ "team": team }),
    )
    .await?;
    if !app.teams.contains(team) {
        return Err(Error::not_found(format!(
            "Team {team} has no access to app {name}."
        )));
    }
    if app.teams.len() == 1 {
        return Err(Error::forbidden(format!(
            "Team {team} is the last team with access to app {name}: grant another team first."
        )));
    }
    if app.team_owner == *team {
        return Err(Error::forbidden(format!(
            "Team {team} owns app {name}: make another team its owner first."
        )));
    }
    store::delete_team(&mut tx, app.id, team).await?;
    tx.commit().await?;
    Ok(())
}

/// Adds cnames, all or none. Errors: `Invalid` for a host of the platform, for an invalid DNS name, and for
/// too many cnames; `Conflict` for a cname that is in use.
pub(super) async fn add_cnames(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    cnames: &[CName],
) -> Result<(), Error> {
    let app = find_authorized_app(core, call, name, Permission::APP_UPDATE_CNAME_ADD).await?;
    ensure_live(&app)?;
    check_cname_count(cnames.len())?;
    let platform = PlatformHosts::new(&core.public.domain, &core.public.api_url);
    for cname in cnames {
        platform.check_cname(cname.as_str()).map_err(Error::invalid)?;
    }
    let mut tx = core.db.begin().await?;
    record_change(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_CNAME_ADD,
        json!({ "cname": cnames }),
    )
    .await?;
    for cname in cnames {
        let host = cname.as_str().to_ascii_lowercase();
        map_constraint_violation(
            store::insert_cname(&mut tx, app.id, &host).await,
            "app_cname_pkey",
            || Error::conflict(format!("The cname {host} is already in use by an app.")),
        )?;
    }
    // Counted under the event's lock, after all are inserted.
    check_cname_count(store::count_cnames(&mut *tx, app.id).await?)?;
    db::send_notice(&mut tx, NoticeChannel::Routes, "").await?;
    tx.commit().await?;
    Ok(())
}

/// Refuses more cnames than an app may have, in one request or in total.
fn check_cname_count(count: usize) -> Result<(), Error> {
    match count > MAX_CNAMES {
        true => Err(Error::invalid(format!(
            "An app has at most {MAX_CNAMES} cnames: use a pattern such as *.example.com instead."
        ))),
        false => Ok(()),
    }
}

/// Removes cnames, all or none. Errors: `NotFound` for one that the app does not have.
pub(super) async fn remove_cnames(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    cnames: &[CName],
) -> Result<(), Error> {
    let app = find_authorized_app(core, call, name, Permission::APP_UPDATE_CNAME_REMOVE).await?;
    ensure_live(&app)?;
    check_cname_count(cnames.len())?;
    let mut tx = core.db.begin().await?;
    record_change(
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
            return Err(Error::not_found(format!("App {name} has no cname {host}.")));
        }
    }
    db::send_notice(&mut tx, NoticeChannel::Routes, "").await?;
    tx.commit().await?;
    Ok(())
}

/// Swaps the public addresses of two apps (contract/classic 3.8), in one transaction.
pub(super) async fn swap_apps(
    core: &Core,
    call: &RequestContext,
    one: &AppName,
    two: &AppName,
    cnames_only: bool,
) -> Result<(), Error> {
    let first = find_authorized_app(core, call, one, Permission::APP_UPDATE_SWAP).await?;
    let second = find_authorized_app(core, call, two, Permission::APP_UPDATE_SWAP).await?;
    if first.id == second.id {
        return Err(Error::invalid("Two different apps are needed for a swap."));
    }
    ensure_live(&first)?;
    ensure_live(&second)?;
    let contexts = [first.permission_contexts(), second.permission_contexts()].concat();
    let data = json!({ "app1": one, "app2": two, "cnameOnly": cnames_only });
    let target = EventTarget::for_app(&first.name);
    let event = NewEvent::new(target, Permission::APP_UPDATE_SWAP, contexts, data);
    let event = event.with_lock(EventTarget::for_app(&second.name));
    db::retry_transaction(|| async {
        let mut tx = core.db.begin().await?;
        events::record_event(&mut tx, call, &event).await?;
        store::swap_addresses(&mut tx, first.id, second.id, cnames_only).await?;
        db::send_notice(&mut tx, NoticeChannel::Routes, "").await?;
        Ok(tx.commit().await?)
    })
    .await
}

/// Records a change of an app. Returns the app as read under the event's lock, under which no other
/// transaction changes it. Errors: `NotFound` if it was deleted since it was looked up, `Conflict` if it is
/// being removed.
pub(super) async fn record_change(
    tx: &mut sqlx::PgConnection,
    call: &RequestContext,
    app: &App,
    permission: Permission,
    data: serde_json::Value,
) -> Result<App, Error> {
    let event = NewEvent::new(
        EventTarget::for_app(&app.name),
        permission,
        app.permission_contexts(),
        data,
    );
    events::record_event(tx, call, &event).await?;
    let now = store::find_app(tx, &app.name)
        .await?
        .filter(|now| now.id == app.id)
        .ok_or_else(|| Error::not_found(format!("App {} not found.", app.name)))?;
    ensure_live(&now)?;
    Ok(now)
}
