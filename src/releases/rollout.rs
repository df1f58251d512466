//! The parts of a rollout, for every saga that has one: propose, wait, adopt or abandon.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::core::Core;
use crate::db;
use crate::db::listen::Channel;
use crate::envs::{self, Source};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::seal::{Column, Place};
use crate::kernel::secret::Secret;
use crate::releases::store::{self, Readiness};
use crate::sagas::{Run, StepError};

/// A candidate whose unit has been restarted so often has shown that it does not start.
const RESTARTS_TO_FAIL: i32 = 2;

/// How long routers may take to see new addresses before nobody waits for them.
const SETTLE: Duration = Duration::from_secs(3);

fn place(column: Column, app: AppId, version: i32) -> Place {
    Place::new(column, &[&app, &version])
}

/// Makes a release of the app's current version with the environment as it is now, and makes it the
/// candidate. `None` if nothing is deployed, or nothing should run: then there is nothing to wait for.
pub async fn propose(core: &Core, tx: &mut PgConnection, app: AppId) -> Result<Option<i64>, Problem> {
    let standing = standing(tx, app).await?;
    let Some(version) = standing.version else {
        return Ok(None);
    };
    let release = make(core, tx, app, &standing.name, version).await?;
    if standing.wanted == 0 {
        store::set_current(tx, app, release).await?;
        return Ok(None);
    }
    store::set_candidate(tx, app, release).await?;
    db::notify(tx, Channel::Units, &app.to_string()).await?;
    Ok(Some(release))
}

/// A variable of a user, as a snapshot has it: name, value, whether it is public.
pub(super) type UserVar = (EnvName, Secret, bool);

/// Makes a release of a version with the environment as it is now, or as it would be if users had set
/// `vars` and nothing else, and makes it the candidate. The app's variables stay as they are.
pub async fn propose_version(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    vars: Option<&[UserVar]>,
) -> Result<i64, Problem> {
    let standing = standing(tx, app).await?;
    let release = match vars {
        None => make(core, tx, app, &standing.name, version).await?,
        Some(vars) => {
            // What would be is asked of the database in a transaction within the transaction.
            let mut trial = tx.begin().await?;
            replace_user_vars(core, &mut trial, app, vars).await?;
            let (env, user_env) = snapshot(core, &mut trial, app, &standing.name, version).await?;
            trial.rollback().await?;
            store::insert(tx, app, version, &env, &user_env).await?
        }
    };
    store::set_candidate(tx, app, release).await?;
    db::notify(tx, Channel::Units, &app.to_string()).await?;
    Ok(release)
}

/// Makes a release with the environment as it is now current at once, for an app that has no units
/// because it was stopped. `None` if nothing is deployed.
pub async fn start_fresh(core: &Core, tx: &mut PgConnection, app: AppId) -> Result<Option<i64>, Problem> {
    let standing = standing(tx, app).await?;
    let Some(version) = standing.version else {
        return Ok(None);
    };
    let release = make(core, tx, app, &standing.name, version).await?;
    store::set_current(tx, app, release).await?;
    db::notify(tx, Channel::Units, &app.to_string()).await?;
    Ok(Some(release))
}

async fn standing(tx: &mut PgConnection, app: AppId) -> Result<store::Standing, Problem> {
    let standing = store::standing(tx, app).await?;
    let standing = standing.ok_or_else(|| Problem::not_found("The app is gone."))?;
    if standing.candidate.is_some() {
        tracing::debug!(app = %standing.name, "an earlier candidate is replaced");
    }
    Ok(standing)
}

async fn make(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    name: &AppName,
    version: i32,
) -> Result<i64, Problem> {
    let (env, user_env) = snapshot(core, tx, app, name, version).await?;
    Ok(store::insert(tx, app, version, &env, &user_env).await?)
}

/// The whole environment and what users have set of it, sealed.
async fn snapshot(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    name: &AppName,
    version: i32,
) -> Result<(Vec<u8>, Vec<u8>), Problem> {
    let all = envs::effective(core, tx, app, name).await?;
    let user: BTreeMap<&str, (&str, bool)> = all
        .iter()
        .filter(|var| matches!(var.source, Source::User { .. }))
        .map(|var| (var.name.as_str(), (var.value.expose(), var.public)))
        .collect();
    let env = seal(core, &place(Column::RELEASE_ENV, app, version), &all.to_map())?;
    let user_env = seal(core, &place(Column::RELEASE_USER_ENV, app, version), &user)?;
    Ok((env, user_env))
}

fn seal(core: &Core, place: &Place, value: &impl serde::Serialize) -> Result<Vec<u8>, Problem> {
    let text = serde_json::to_string(value).map_err(Problem::internal)?;
    Ok(core.keys.seal(place, &Secret::new(text)))
}

/// The environment of a release's units.
pub async fn environment(core: &Core, release: i64) -> Result<Vec<(EnvName, Secret)>, Problem> {
    let sealed = store::find_sealed(&core.db, release).await?;
    let sealed = sealed.ok_or_else(|| Problem::not_found("That release is gone."))?;
    let text = core.keys.open(
        &place(Column::RELEASE_ENV, sealed.app, sealed.version),
        &sealed.env,
    )?;
    let map: BTreeMap<String, String> = serde_json::from_str(text.expose()).map_err(Problem::internal)?;
    map.into_iter()
        .map(|(name, value)| Ok((EnvName::parse(&name)?, Secret::new(value))))
        .collect()
}

/// The variables that users had set when a version was first released, with whether each is public.
pub async fn user_environment(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
) -> Result<Option<Vec<UserVar>>, Problem> {
    let Some(release) = store::first_of_version(tx, app, version).await? else {
        return Ok(None);
    };
    let Some(sealed) = store::find_sealed(&mut *tx, release).await? else {
        return Ok(None);
    };
    let text = core
        .keys
        .open(&place(Column::RELEASE_USER_ENV, app, version), &sealed.user_env)?;
    let map: BTreeMap<String, (String, bool)> =
        serde_json::from_str(text.expose()).map_err(Problem::internal)?;
    let vars: Result<Vec<_>, Problem> = map
        .into_iter()
        .map(|(name, (value, public))| Ok((EnvName::parse(&name)?, Secret::new(value), public)))
        .collect();
    vars.map(Some)
}

/// Makes the variables of users what they were when a version was first released.
pub async fn restore_user_environment(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
) -> Result<(), Problem> {
    match user_environment(core, tx, app, version).await? {
        Some(vars) => replace_user_vars(core, tx, app, &vars).await,
        None => Ok(()),
    }
}

async fn replace_user_vars(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    vars: &[UserVar],
) -> Result<(), Problem> {
    envs::store::delete_all_of_users(tx, app).await?;
    for (name, value, public) in vars {
        let put = envs::store::Put {
            name,
            value,
            public: *public,
            managed_by: "",
            alias: "",
        };
        envs::store::put(tx, &core.keys, app, &put).await?;
    }
    Ok(())
}

/// Waits until no unit of a release is left, so that its files may go. Not for ever: errors as `Retry`.
pub async fn await_gone(core: &Core, release: Option<i64>) -> Result<(), StepError> {
    let Some(release) = release else { return Ok(()) };
    let mut notices = core.notices.subscribe();
    for _ in 0..100 {
        if store::count_units(&core.db, release).await? == 0 {
            return Ok(());
        }
        notices.wait(&[Channel::Units], Duration::from_millis(250)).await;
    }
    let why = Problem::unavailable("Units of the release are still being stopped.");
    Err(StepError::Retry {
        why,
        after: Duration::from_secs(1),
    })
}

/// Waits until every process of a release has as many ready units as are wanted, saying how far it is.
/// Errors: `Failed` when a unit keeps ending, or when the time is over; what the unit said is passed on.
pub async fn await_ready(core: &Core, run: &Run, app: AppId, release: i64) -> Result<(), StepError> {
    let mut notices = core.notices.subscribe();
    let mut told = String::new();
    loop {
        let processes = store::readiness(&core.db, release).await?;
        if processes.is_empty() {
            return Err(StepError::GiveUp(Problem::conflict(format!(
                "Release {release} of app {app} is gone."
            ))));
        }
        let progress = progress(&processes);
        if progress != told {
            run.say(&format!(" ---> {progress}")).await;
            told = progress;
        }
        if processes.iter().all(|p| p.ready >= p.wanted) {
            return Ok(());
        }
        if let Some(why) = trouble(core, &processes) {
            for line in store::last_lines(&core.db, release).await? {
                run.say(&format!("      {line}")).await;
            }
            return Err(StepError::GiveUp(Problem::failed(why)));
        }
        tokio::select! {
            _ = notices.wait(&[Channel::Units], Duration::from_millis(250)) => {}
            () = run.cancel().cancelled() => {
                return Err(StepError::GiveUp(Problem::new(Kind::Cancelled, "canceled by user request")));
            }
        }
    }
}

fn progress(processes: &[Readiness]) -> String {
    let of = |p: &Readiness| format!("{} {} of {}", p.process, p.ready.min(p.wanted), p.wanted);
    format!(
        "units ready: {}",
        processes.iter().map(of).collect::<Vec<_>>().join(", ")
    )
}

/// Why the release will not get ready, if that is clear.
fn trouble(core: &Core, processes: &[Readiness]) -> Option<String> {
    let waiting = processes.iter().filter(|p| p.ready < p.wanted);
    for process in waiting {
        let reason = process
            .reason
            .as_deref()
            .unwrap_or("no answer to the health check");
        if process.restarts >= RESTARTS_TO_FAIL {
            return Some(format!("Process {} does not stay up: {reason}.", process.process));
        }
        let allowed = process
            .allowed_seconds
            .map_or(core.settings.apps.health_timeout.as_secs_f64(), f64::from);
        if process.age_seconds > allowed {
            return Some(format!(
                "Process {} was not ready after {allowed:.0} seconds: {reason}.",
                process.process
            ));
        }
    }
    None
}

/// Makes a release current: from now on its units get the requests. False if it is already.
pub async fn adopt(tx: &mut PgConnection, app: AppId, release: i64) -> Result<bool, Problem> {
    if standing(tx, app).await?.current == Some(release) {
        return Ok(false);
    }
    store::set_current(tx, app, release).await?;
    db::notify(tx, Channel::Units, &app.to_string()).await?;
    db::notify(tx, Channel::Routes, "").await?;
    Ok(true)
}

/// Waits until the units of a release just adopted get the requests, on every router, so that whoever is
/// told of the success finds it so. A router that does not answer is not waited for long.
pub async fn settle(core: &Core, release: i64) -> Result<(), StepError> {
    let until = tokio::time::Instant::now() + SETTLE;
    let mut notices = core.notices.subscribe();
    while !store::is_serving(&core.db, release).await? && tokio::time::Instant::now() < until {
        notices
            .wait(&[Channel::Units, Channel::Routes], Duration::from_millis(50))
            .await;
    }
    settle_routers(core).await
}

/// Waits until every router has seen the addresses as they are now.
pub async fn settle_routers(core: &Core) -> Result<(), StepError> {
    let until = tokio::time::Instant::now() + SETTLE;
    let now = store::clock(&core.db).await?;
    let mut conn = core.db.acquire().await?;
    db::notify(&mut conn, Channel::Routes, "").await?;
    drop(conn);
    while !store::routers_have_seen(&core.db, now).await? {
        if tokio::time::Instant::now() >= until {
            tracing::warn!("a router is late with new addresses");
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Drops a candidate: its units go. Fine if it is the candidate no more.
pub async fn abandon(tx: &mut PgConnection, app: AppId, release: i64) -> Result<(), Problem> {
    store::drop_candidate(tx, app, release).await?;
    db::notify(tx, Channel::Units, &app.to_string()).await?;
    Ok(())
}
