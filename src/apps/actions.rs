//! The actions on apps.

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::listing::AppScopes;
use crate::apps::metadata::MetadataPatch;
use crate::apps::model::{App, AppDescription, AppKind, AppState};
use crate::apps::processes::ProcessChange;
use crate::apps::store::{self, NewApp};
use crate::apps::{change, processes};
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::db::{self, map_constraint_violation};
use crate::envs;
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::{Actor, RequestContext};
use crate::quotas::{self, QuotaSubject};
use crate::{platforms, pools, teams, users};

/// A request to create an app.
#[derive(Debug)]
pub(super) struct CreateApp {
    pub name: AppName,
    /// `None`: it is deployed from images and Dockerfiles only.
    pub platform: Option<PlatformName>,
    pub team_owner: Option<TeamName>,
    pub plan: Option<PlanName>,
    pub pool: Option<PoolName>,
    pub description: String,
    pub tags: Vec<String>,
    pub metadata: MetadataPatch,
    pub processes: Vec<ProcessChange>,
}

/// Creates an app. Errors: as in contract/classic 1.1.4, each with a status that tells the user what to do.
pub(super) async fn create_app(core: &Core, call: &RequestContext, request: CreateApp) -> Result<App, Error> {
    let (_, owner) = call.require_owner()?;
    let team =
        teams::choose_owner_team(core, call, request.team_owner.clone(), Permission::APP_CREATE).await?;
    if let Some(platform) = &request.platform {
        platforms::check_platform_usable(&core.db, platform).await?;
    }
    if store::is_platform_name(&core.db, request.name.as_str()).await? {
        return Err(Error::invalid(format!(
            "{:?} is the name of a platform; choose another for the app.",
            request.name
        )));
    }
    change::check_description(&request.description)?;
    change::check_tags(&request.tags)?;
    let pool = pools::choose_pool(&core.db, request.pool.as_ref(), &team).await?;
    if request.platform.is_none() {
        check_pool_runs_images(core, &pool).await?;
    }
    let plan = pools::choose_plan(&core.db, &pool, request.plan.as_ref()).await?;
    processes::check_changes(&core.db, &pool, &request.processes).await?;
    let id = AppId::new();
    let new = NewApp {
        id,
        kind: AppKind::App,
        name: &request.name,
        platform: request.platform.as_ref(),
        plan: &plan,
        pool: &pool,
        team_owner: &team,
        owner: owner.as_str(),
        description: &request.description,
        tags: &request.tags,
        quota_limit: core.settings.quota.units_per_app,
    };
    db::retry_transaction(|| create_in_transaction(core, call, &new, &request)).await
}

/// Checks that apps of a pool need no platform. Where its provisioner is not on this host, its deploys will tell.
async fn check_pool_runs_images(core: &Core, pool: &PoolName) -> Result<(), Error> {
    let provisioner = pools::find_provisioner(&core.db, pool).await?.unwrap_or_default();
    let runner = core.provisioners.find_runner(&provisioner);
    match runner.is_some_and(|runner| runner.image_store().is_none()) {
        true => Err(Error::invalid(format!(
            "platform is missing. Apps of the pool {pool} are built with one: `tsuru platform list` shows them."
        ))),
        false => Ok(()),
    }
}

async fn create_in_transaction(
    core: &Core,
    call: &RequestContext,
    new: &NewApp<'_>,
    request: &CreateApp,
) -> Result<App, Error> {
    let (_, owner) = call.require_owner()?;
    let mut tx = core.db.begin().await?;
    quotas::check_app_quota(&mut tx, QuotaSubject::User(owner)).await?;
    quotas::check_app_quota(&mut tx, QuotaSubject::Team(new.team_owner)).await?;
    let taken = || Error::conflict(format!("App {:?} already exists: choose another name.", new.name));
    let inserted = store::insert_app(&mut tx, new).await;
    match inserted {
        // After a swap, this name may be the label of another app.
        Err(error) if db::violates_constraint(&error, "app_label_key") => return Err(taken()),
        Err(error) if is_missing_choice(&error) => return Err(choice_just_removed()),
        other => map_constraint_violation(other, "app_name_key", taken)?,
    }
    change::save_first_settings(&mut tx, new, &request.metadata, &request.processes).await?;
    let token = users::tokens::issue_app_token(&mut tx, new.id, None).await?;
    envs::set_platform_var(core, &mut tx, new.id, "TSURU_APP_TOKEN", &token).await?;
    let contexts = vec![
        PermissionContext::new(ContextKind::App, new.name),
        PermissionContext::for_team(new.team_owner),
    ];
    let data = json!({
        "name": new.name, "platform": new.platform, "plan": new.plan, "pool": new.pool, "teamOwner": new.team_owner,
    });
    events::record_event(
        &mut tx,
        call,
        &NewEvent::new(
            EventTarget::for_app(new.name),
            Permission::APP_CREATE,
            contexts,
            data,
        ),
    )
    .await?;
    db::send_notice(&mut tx, NoticeChannel::Routes, "").await?;
    // Read before the app is visible to others: a removal may follow at once.
    let app = store::find_app(&mut *tx, new.name)
        .await?
        .ok_or_else(|| Error::internal("the app just created was not found"))?;
    tx.commit().await?;
    Ok(app)
}

/// True if the plan, the pool or the platform of an app was removed since it was chosen.
pub(super) fn is_missing_choice(error: &sqlx::Error) -> bool {
    let keys = ["app_plan_fkey", "app_pool_fkey", "app_platform_fkey"];
    keys.iter().any(|key| db::violates_constraint(error, key))
}

pub(super) fn choice_just_removed() -> Error {
    Error::conflict("The plan, the pool or the platform was just removed: choose another one.")
}

/// Finds an app on which the caller holds the permission. Errors: `NotFound` if there is no such app,
/// `Forbidden` without the permission (classic documents that for existing apps of other teams).
pub async fn find_authorized_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    permission: Permission,
) -> Result<App, Error> {
    let app = store::find_app(&core.db, name)
        .await?
        .ok_or_else(|| Error::app_not_found(name))?;
    allow_on(call, &app, permission)?;
    Ok(app)
}

/// Finds an app in a transaction, for what Tancho does by itself.
pub async fn read_app(tx: &mut PgConnection, name: &AppName) -> Result<Option<App>, Error> {
    Ok(store::find_app(tx, name).await?)
}

/// Like `find_authorized_app`, with everything that a description shows.
pub async fn describe_authorized_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    permission: Permission,
) -> Result<AppDescription, Error> {
    let full = store::find_app_description(&core.db, name)
        .await?
        .ok_or_else(|| Error::app_not_found(name))?;
    allow_on(call, &full.app, permission)?;
    Ok(full)
}

/// Checks a permission on an app. The token of an app has every permission on its own app; its routes limit
/// it.
pub(super) fn allow_on(call: &RequestContext, app: &App, permission: Permission) -> Result<(), Error> {
    match &call.actor {
        Actor::App { id, .. } if *id == app.id => Ok(()),
        _ => call.authorize(permission, &app.permission_contexts()),
    }
}

/// Refuses actions on an app that is being removed.
pub fn ensure_live(app: &App) -> Result<(), Error> {
    match app.state {
        AppState::Live => Ok(()),
        AppState::Removing => Err(Error::conflict(format!("{} is being removed.", app.title()))),
    }
}

/// Returns the scopes in which the caller holds a permission; `None` if on all apps.
pub fn visible_app_scopes(call: &RequestContext, permission: Permission) -> Option<AppScopes> {
    let scopes_of = |kind| call.visible_scopes(permission, kind);
    Some(AppScopes {
        teams: scopes_of(ContextKind::Team)?,
        apps: scopes_of(ContextKind::App)?,
        pools: scopes_of(ContextKind::Pool)?,
    })
}
