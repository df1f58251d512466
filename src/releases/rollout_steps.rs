//! The steps of a rollout, shared by all sagas that have one: create the candidates, wait until they are
//! ready, promote them, wait until they get the requests; or discard them.
//!
//! A saga keeps a [`RolloutProgress`] in its data and calls these functions from its own steps. Each may run
//! again after a crash.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::core::Core;
use crate::db;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::releases::store::{self, ProcessReadiness};
use crate::releases::{notes, rollout, sides};
use crate::sagas::{SagaData, StepContext, StepError};

/// A candidate fails when one of its units has been restarted this often.
const RESTARTS_TO_FAIL: i32 = 2;

/// How long to wait for the units of a release to be removed before the step is retried.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(25);

/// How long to wait for routers to load new addresses.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(3);

/// The apps of a rollout, and its progress.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RolloutProgress {
    /// Empty if there is no rollout.
    apps: Vec<AppId>,
    /// The candidates exist.
    created: bool,
    /// The candidates are current: the rollout can no longer be undone.
    promoted: bool,
    /// The release of each app. Stopped apps, and apps without a deployed version, have none.
    releases: Vec<(AppId, i64)>,
}

impl RolloutProgress {
    /// Returns the rollout of one app, or of none.
    pub fn for_app(app: Option<AppId>) -> Self {
        Self {
            apps: app.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Adds an app to the rollout.
    pub fn add_app(&mut self, app: AppId) {
        if !self.apps.contains(&app) {
            self.apps.push(app);
        }
    }

    /// Records the candidate of an app, in the transaction that creates it.
    pub fn add_candidate(&mut self, app: AppId, release: i64) {
        self.releases.push((app, release));
    }

    /// Returns the apps of the rollout.
    pub fn apps(&self) -> &[AppId] {
        &self.apps
    }

    /// Returns true if there is a release to roll out.
    pub fn has_releases(&self) -> bool {
        !self.releases.is_empty()
    }

    /// Returns true if the new releases are current: then it is too late to undo.
    pub fn is_promoted(&self) -> bool {
        self.promoted
    }
}

/// The data of a saga with a rollout.
pub trait HasRollout: SagaData {
    /// Returns its rollout.
    fn rollout(&self) -> &RolloutProgress;

    /// Returns its rollout, mutable.
    fn rollout_mut(&mut self) -> &mut RolloutProgress;
}

/// Creates the candidates with `create`, which records each, and stores them in the saga's data in the same
/// transaction, so that they are found again after a crash. The event gets `headline` and the notes on the
/// environment.
pub async fn create_candidates<D: HasRollout>(
    core: &Core,
    ctx: &StepContext,
    data: &mut D,
    headline: Option<&str>,
    create: impl AsyncFnOnce(&mut PgConnection, &mut D) -> Result<(), StepError>,
) -> Result<(), StepError> {
    if data.rollout().created || data.rollout().apps.is_empty() {
        return Ok(());
    }
    ctx.checkpoint(data, async |tx, data| {
        create(tx, data).await?;
        data.rollout_mut().created = true;
        Ok(())
    })
    .await?;
    if let Some(headline) = headline {
        ctx.append_log(headline).await;
    }
    for app in data.rollout().apps.clone() {
        notes::append_environment_notes(core, ctx, app).await?;
    }
    Ok(())
}

/// Creates candidates of the versions that run, with the present environment.
pub async fn create_from_current<D: HasRollout>(
    core: &Core,
    ctx: &StepContext,
    data: &mut D,
) -> Result<(), StepError> {
    create_candidates(core, ctx, data, None, async |tx, data: &mut D| {
        for app in data.rollout().apps.clone() {
            for running in sides::store::list_running_versions(tx, app).await? {
                if let Some(release) = rollout::create_candidate(core, tx, app, running.side).await? {
                    data.rollout_mut().add_candidate(app, release);
                }
            }
        }
        Ok(())
    })
    .await
}

/// Waits until every process of each candidate has its desired number of ready units, and reports progress.
/// Errors: `Failed` when a unit keeps exiting or the time limit is over; the last log lines of the units go
/// to the event.
pub async fn wait_for_ready_units(
    core: &Core,
    ctx: &StepContext,
    progress: &RolloutProgress,
) -> Result<(), StepError> {
    for (app, release) in &progress.releases {
        // The version sets the time limit and the database measures it: see `failure_reason`.
        ctx.wait_until(&units_of(*app), Duration::MAX, || {
            check_readiness(core, ctx, *app, *release)
        })
        .await?;
    }
    Ok(())
}

fn units_of(app: AppId) -> [(NoticeChannel, String); 1] {
    [(NoticeChannel::Units, app.to_string())]
}

async fn check_readiness(
    core: &Core,
    ctx: &StepContext,
    app: AppId,
    release: i64,
) -> Result<Option<()>, StepError> {
    let processes = store::list_readiness(&core.db, release).await?;
    if processes.is_empty() {
        return Err(StepError::GiveUp(Error::conflict(format!(
            "Release {release} of app {app} no longer exists."
        ))));
    }
    if processes.iter().any(|p| p.wanted > 0) {
        let progress = format!(" ---> {}", describe_progress(&processes));
        ctx.report_progress(&[progress]).await;
    }
    if processes.iter().all(|p| p.ready >= p.wanted) {
        return Ok(Some(()));
    }
    match failure_reason(core, &processes) {
        Some(why) => Err(fail_with_last_lines(core, ctx, release, why).await?),
        None => Ok(None),
    }
}

/// Appends the last log lines of the units of a release to the event.
async fn fail_with_last_lines(
    core: &Core,
    ctx: &StepContext,
    release: i64,
    why: String,
) -> Result<StepError, StepError> {
    for line in store::list_last_lines(&core.db, release).await? {
        ctx.append_log(&format!("      {line}")).await;
    }
    Ok(StepError::GiveUp(Error::failed(why)))
}

fn describe_progress(processes: &[ProcessReadiness]) -> String {
    let of = |p: &ProcessReadiness| format!("{} {} of {}", p.process, p.ready.min(p.wanted), p.wanted);
    format!(
        "units ready: {}",
        processes.iter().map(of).collect::<Vec<_>>().join(", ")
    )
}

/// Returns why the release will not become ready, if that is certain.
fn failure_reason(core: &Core, processes: &[ProcessReadiness]) -> Option<String> {
    let waiting = processes.iter().filter(|p| p.ready < p.wanted);
    for process in waiting {
        let reason = process
            .reason
            .as_deref()
            .unwrap_or("no result of the health check yet");
        if process.restarts >= RESTARTS_TO_FAIL {
            return Some(format!("Process {} does not stay up: {reason}.", process.process));
        }
        let apps = &core.settings.apps;
        let allowed = process
            .allowed_seconds
            .map_or(apps.health_timeout.as_secs_f64(), f64::from)
            .min(apps.max_deploy_timeout.as_secs_f64());
        if process.age_seconds > allowed {
            return Some(format!(
                "Process {} was not ready after {allowed:.0} seconds: {reason}.",
                process.process
            ));
        }
    }
    None
}

/// Promotes the candidates: from then on their units get the requests. `also` makes further writes, once, in
/// the same transaction.
pub async fn promote_candidates<D: HasRollout>(
    ctx: &StepContext,
    data: &mut D,
    also: impl AsyncFnOnce(&mut PgConnection, &mut D) -> Result<(), StepError>,
) -> Result<(), StepError> {
    if !data.rollout().has_releases() {
        return Ok(());
    }
    ctx.checkpoint(data, async |tx, data| {
        let mut is_new = false;
        for (app, release) in data.rollout().releases.clone() {
            is_new |= rollout::promote_candidate(tx, app, release).await?;
        }
        if is_new {
            also(tx, data).await?;
        }
        data.rollout_mut().promoted = true;
        Ok(())
    })
    .await
}

/// The `also` of `promote_candidates` when there are no further writes.
pub async fn write_nothing<D>(_tx: &mut PgConnection, _data: &mut D) -> Result<(), StepError> {
    Ok(())
}

/// Waits until the units of the promoted releases get the requests on every router, so that a client that
/// sees the success also sees the new release. Routers that do not respond are waited for up to
/// `ROUTER_TIMEOUT`.
pub async fn wait_for_serving_units(
    core: &Core,
    ctx: &StepContext,
    progress: &RolloutProgress,
) -> Result<(), StepError> {
    for (app, release) in &progress.releases {
        ctx.wait_until(&units_of(*app), ROUTER_TIMEOUT, || async {
            Ok(store::is_serving(&core.db, *release).await?.then_some(()))
        })
        .await?;
    }
    match progress.has_releases() {
        true => wait_for_routers(core, ctx).await,
        false => Ok(()),
    }
}

/// Makes every router reload the routes. Returns the time that they must be as new as.
pub async fn request_route_reload(core: &Core) -> Result<chrono::DateTime<chrono::Utc>, Error> {
    let mut conn = core.db.acquire().await?;
    let now = store::read_clock(&mut *conn).await?;
    db::send_notice(&mut conn, NoticeChannel::Routes, "").await?;
    Ok(now)
}

/// Returns true if every router at work has routes that are not older than this.
pub async fn have_routers_loaded(core: &Core, since: chrono::DateTime<chrono::Utc>) -> Result<bool, Error> {
    Ok(store::routers_have_seen(&core.db, since).await?)
}

/// Waits until every router has loaded the present routes.
pub async fn wait_for_routers(core: &Core, ctx: &StepContext) -> Result<(), StepError> {
    let now = request_route_reload(core).await?;
    let applied = [(NoticeChannel::RoutesApplied, String::new())];
    let seen = ctx.wait_until(&applied, ROUTER_TIMEOUT, || async {
        Ok(store::routers_have_seen(&core.db, now).await?.then_some(()))
    });
    if seen.await?.is_none() {
        tracing::warn!("a router did not load the new routes in time");
    }
    Ok(())
}

/// Undoes `create_candidates`: the units of the candidates are stopped, the current ones stay. Returns false
/// if there is nothing to discard, or if the candidates are promoted.
pub async fn discard_candidates<D: HasRollout>(ctx: &StepContext, data: &mut D) -> Result<bool, StepError> {
    if data.rollout().promoted || !data.rollout().has_releases() {
        return Ok(false);
    }
    let releases = data.rollout().releases.clone();
    ctx.write_fenced(async |tx| {
        for (app, release) in releases {
            rollout::discard_candidate(tx, app, release).await?;
        }
        Ok(())
    })
    .await?;
    Ok(true)
}

/// Waits until no unit of the releases is left, so that their files can be removed. Errors: `Retry` after
/// `REMOVAL_TIMEOUT`.
pub async fn wait_for_removal(
    core: &Core,
    ctx: &StepContext,
    progress: &RolloutProgress,
) -> Result<(), StepError> {
    for (app, release) in &progress.releases {
        let units = units_of(*app);
        let gone = ctx.wait_until(&units, REMOVAL_TIMEOUT, || async {
            Ok((store::count_units(&core.db, *release).await? == 0).then_some(()))
        });
        gone.await?.ok_or_else(|| StepError::Retry {
            why: Error::unavailable("Units of the release are still being stopped."),
            after: Duration::from_secs(1),
        })?;
    }
    Ok(())
}
