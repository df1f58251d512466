//! What can be done with an app.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use tokio::sync::mpsc;

use crate::apps::model::{App, AppState, Full};
use crate::apps::store::{self, Filter, NewApp, Patch, Reach};
use crate::core::Core;
use crate::db::listen::Channel;
use crate::db::{self, on_constraint};
use crate::envs;
use crate::events::{self, NewEvent, Target};
use crate::kernel::call::{Actor, Call};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::{plans, platforms, pools, quotas, teams, users};

const MAX_DESCRIPTION: usize = 2000;

/// What an app is asked to be.
#[derive(Debug)]
pub(super) struct Wish {
    pub name: AppName,
    pub platform: PlatformName,
    pub team_owner: Option<TeamName>,
    pub plan: Option<PlanName>,
    pub pool: Option<PoolName>,
    pub description: String,
    pub tags: Vec<String>,
}

/// Creates an app. Errors: as contract/classic 1.1.4, each with the status that a user can act on.
pub(super) async fn create(core: &Core, call: &Call, wish: Wish) -> Result<App, Problem> {
    let (_, owner) = call.user()?;
    let team = resolve_team_owner(core, call, wish.team_owner, Permission::APP_CREATE).await?;
    platforms::usable(&core.db, &wish.platform).await?;
    if store::is_platform_name(&core.db, wish.name.as_str()).await? {
        return Err(Problem::invalid(format!(
            "{:?} is the name of a platform; choose another for the app.",
            wish.name
        )));
    }
    check_description(&wish.description)?;
    let plan = plans::choose(&core.db, wish.plan.as_ref()).await?;
    let pool = pools::choose(&core.db, wish.pool.as_ref(), &team).await?;
    let id = AppId::new();
    let new = NewApp {
        id,
        name: &wish.name,
        platform: &wish.platform,
        plan: &plan,
        pool: &pool,
        team_owner: &team,
        owner: owner.as_str(),
        description: &wish.description,
        tags: &wish.tags,
        quota_limit: core.settings.quota.units_per_app,
    };
    db::retry(|| insert(core, call, &new)).await
}

async fn insert(core: &Core, call: &Call, new: &NewApp<'_>) -> Result<App, Problem> {
    let (_, owner) = call.user()?;
    let mut tx = core.db.begin().await?;
    quotas::reserve_app(&mut tx, owner).await?;
    quotas::reserve_team_app(&mut tx, new.team_owner).await?;
    let taken = || Problem::conflict(format!("App {:?} already exists: choose another name.", new.name));
    let inserted = store::insert(&mut tx, new).await;
    match inserted {
        // The label of another app may be this name, after a swap.
        Err(error) if db::violates(&error, "app_label_key") => return Err(taken()),
        other => on_constraint(other, "app_name_key", taken)?,
    }
    let token = users::tokens::issue_for_app(&mut tx, new.id, None).await?;
    envs::set_own(core, &mut tx, new.id, "TSURU_APP_TOKEN", &token).await?;
    let contexts = vec![
        Context::new(ContextKind::App, new.name),
        Context::team(new.team_owner),
    ];
    let data = json!({
        "name": new.name, "platform": new.platform, "plan": new.plan, "pool": new.pool, "teamOwner": new.team_owner,
    });
    events::record(
        &mut tx,
        call,
        &NewEvent::new(Target::app(new.name), Permission::APP_CREATE, contexts, data),
    )
    .await?;
    db::notify(&mut tx, Channel::Routes, "").await?;
    // Read before anybody else can see it: a removal may follow at once.
    let app = store::find(&mut *tx, new.name)
        .await?
        .ok_or_else(|| Problem::internal("the app just created is not there"))?;
    tx.commit().await?;
    Ok(app)
}

/// The team that will own what is being created: the one named, or the only candidate.
pub async fn resolve_team_owner(
    core: &Core,
    call: &Call,
    named: Option<TeamName>,
    permission: Permission,
) -> Result<TeamName, Problem> {
    let mine = call.reach(permission, ContextKind::Team);
    if let Some(team) = named {
        if !teams::exists(&core.db, &team).await? {
            return Err(Problem::invalid(format!("Team {:?} does not exist.", team)));
        }
        call.allow(permission, &[Context::team(&team)])?;
        return Ok(team);
    }
    let candidates = match mine {
        Some(names) => names
            .iter()
            .filter_map(|name| TeamName::parse(name).ok())
            .collect(),
        // Who may do it anywhere is still asked to choose, unless there is but one team.
        None => match call.teams() {
            own if own.len() == 1 => own,
            _ => teams::names(&core.db, 2).await?,
        },
    };
    match candidates.as_slice() {
        [team] => Ok(team.clone()),
        [] => Err(Problem::invalid(
            "You are in no team: create one, or ask to be added to one.",
        )),
        _ => Err(Problem::invalid(
            "You must provide a team to execute this action.",
        )),
    }
}

fn check_description(text: &str) -> Result<(), Problem> {
    if text.chars().count() > MAX_DESCRIPTION {
        return Err(Problem::invalid(format!(
            "A description has at most {MAX_DESCRIPTION} characters."
        )));
    }
    Ok(())
}

/// Finds an app on which the caller holds the permission. Errors: `NotFound` when there is none,
/// `Forbidden` when the caller may not (classic documents that for existing apps of other teams).
pub async fn find_for(
    core: &Core,
    call: &Call,
    name: &AppName,
    permission: Permission,
) -> Result<App, Problem> {
    Ok(find_full_for(core, call, name, permission).await?.app)
}

/// As `find_for`, with all that a description shows.
pub async fn find_full_for(
    core: &Core,
    call: &Call,
    name: &AppName,
    permission: Permission,
) -> Result<Full, Problem> {
    let gone = || Problem::not_found(format!("App {name} not found."));
    let full = store::find_full(&core.db, name).await?.ok_or_else(gone)?;
    // The app's own token reads its own app.
    let own = matches!(&call.actor, Actor::App { id, .. } if *id == full.app.id);
    if !own {
        call.allow(permission, &full.app.contexts())?;
    }
    Ok(full)
}

/// Refuses what an app that is being removed can no longer do.
pub fn ensure_live(app: &App) -> Result<(), Problem> {
    match app.state {
        AppState::Live => Ok(()),
        AppState::Removing => Err(Problem::conflict(format!("App {} is being removed.", app.name))),
    }
}

/// What of all apps the caller may see.
pub fn visible(call: &Call) -> Option<Reach> {
    let reach = |kind| call.reach(Permission::APP_READ_INFO, kind);
    Some(Reach {
        teams: reach(ContextKind::Team)?,
        apps: reach(ContextKind::App)?,
        pools: reach(ContextKind::Pool)?,
    })
}

/// Apps in a batch of a list: few in the first, so that it comes at once.
const BATCH: (usize, usize) = (8, 64);
/// How long a reader of a list may leave a batch lying, before the connection to the database is taken back.
const PATIENCE: Duration = Duration::from_secs(10);

/// The apps that the caller sees, narrowed by the filter, in batches as they are read.
pub(super) fn list(
    core: &Core,
    call: &Call,
    mut filter: Filter,
) -> mpsc::Receiver<Result<Vec<Full>, Problem>> {
    filter.reach = visible(call);
    let (sender, receiver) = mpsc::channel(2);
    let db = core.db.clone();
    core.tasks.spawn(async move {
        let mut rows = store::list(&db, &filter);
        let (mut batch, mut size) = (Vec::new(), BATCH.0);
        loop {
            let row = rows.next().await;
            let end = !matches!(row, Some(Ok(_)));
            match row {
                Some(Ok(full)) => batch.push(full),
                Some(Err(error)) => {
                    let _ = sender.send_timeout(Err(listing(error)), PATIENCE).await;
                    return;
                }
                None => {}
            }
            if end || batch.len() >= size {
                size = BATCH.1;
                let sent = sender
                    .send_timeout(Ok(std::mem::take(&mut batch)), PATIENCE)
                    .await;
                if end || sent.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

fn listing(error: sqlx::Error) -> Problem {
    match &error {
        sqlx::Error::Database(e) if e.code().as_deref() == Some("2201B") => {
            Problem::invalid("The name to search for is not a valid regular expression.")
        }
        _ => error.into(),
    }
}

/// The apps that a team has access to, as far as the caller may read them.
pub(super) async fn list_of_team(core: &Core, call: &Call, team: &TeamName) -> Result<Vec<Full>, Problem> {
    let reach = Reach {
        teams: vec![team.to_string()],
        ..Reach::default()
    };
    let filter = Filter {
        reach: Some(reach),
        ..Filter::default()
    };
    let apps: Vec<Full> = store::list(&core.db, &filter).try_collect().await?;
    let may_read = |full: &Full| {
        call.allow(Permission::APP_READ_INFO, &full.app.contexts())
            .is_ok()
    };
    Ok(apps.into_iter().filter(may_read).collect())
}

/// What is to be changed about an app; `None` and empty lists leave it.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub description: Option<String>,
    pub tags: Option<Vec<String>>,
    pub team_owner: Option<TeamName>,
    pub plan: Option<PlanName>,
    pub platform: Option<PlatformName>,
    pub metadata: Option<serde_json::Value>,
}

/// Changes an app. Each part asks its own permission. Errors: `Invalid` when nothing is to be changed.
pub(super) async fn update(core: &Core, call: &Call, name: &AppName, change: Change) -> Result<App, Problem> {
    let app = find_for(core, call, name, Permission::APP_READ_INFO).await?;
    ensure_live(&app)?;
    let contexts = app.contexts();
    let asked = [
        (change.description.is_some(), Permission::APP_UPDATE_DESCRIPTION),
        (change.tags.is_some(), Permission::APP_UPDATE_TAGS),
        (change.team_owner.is_some(), Permission::APP_UPDATE_TEAMOWNER),
        (change.plan.is_some(), Permission::APP_UPDATE_PLAN),
        (change.platform.is_some(), Permission::APP_UPDATE_PLATFORM),
        (change.metadata.is_some(), Permission::APP_UPDATE_METADATA),
    ];
    let asked: Vec<Permission> = asked
        .into_iter()
        .filter_map(|(is, permission)| is.then_some(permission))
        .collect();
    if asked.is_empty() {
        return Err(Problem::invalid(
            "There is nothing to change: name at least one thing.",
        ));
    }
    for permission in &asked {
        call.allow(*permission, &contexts)?;
    }
    if let Some(text) = &change.description {
        check_description(text)?;
    }
    if let Some(plan) = &change.plan {
        plans::choose(&core.db, Some(plan)).await?;
    }
    if let Some(platform) = &change.platform {
        platforms::usable(&core.db, platform).await?;
    }
    if let Some(team) = &change.team_owner
        && !teams::exists(&core.db, team).await?
    {
        return Err(Problem::invalid(format!("Team {team:?} does not exist.")));
    }
    let mut tx = core.db.begin().await?;
    let patch = Patch {
        description: change.description,
        tags: change.tags,
        team_owner: change.team_owner.clone(),
        plan: change.plan,
        platform: change.platform,
        metadata: change.metadata,
    };
    store::update(&mut tx, app.id, &patch).await?;
    if let Some(team) = &change.team_owner {
        store::insert_team(&mut tx, app.id, team).await?;
    }
    let data = json!({ "changed": asked.iter().map(|p| p.as_str()).collect::<Vec<_>>() });
    events::record(
        &mut tx,
        call,
        &NewEvent::new(Target::app(name), Permission::APP_UPDATE, contexts, data),
    )
    .await?;
    tx.commit().await?;
    store::find(&core.db, name)
        .await?
        .ok_or_else(|| Problem::not_found(format!("App {name} not found.")))
}
