//! The scale actions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::{AppName, ProcessName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::provisioners::UnitId;
use crate::quotas;
use crate::releases::{self, ReleaseSide};
use crate::sagas;
use crate::units::scale::saga::{ScaleData, ScaleSaga, ScaleVerb};
use crate::units::scale::store;
use crate::units::store as units;

/// Maximum number of units of one process.
const MAX_UNITS_PER_PROCESS: i64 = 1000;

/// A request to add or remove units of an app.
#[derive(Clone, Debug)]
pub struct ScaleRequest {
    pub app: AppName,
    /// How many units to add or remove.
    pub units: i64,
    /// `None`: `web`, or the only process.
    pub process: Option<ProcessName>,
    /// `None`, or the version that runs.
    pub version: Option<i64>,
}

/// The processes of a side of an app with their desired numbers of units.
struct AppProcesses {
    side: ReleaseSide,
    units: BTreeMap<String, i64>,
    stopped: BTreeSet<String>,
}

impl AppProcesses {
    /// Reads those of the version that is meant and locks the app until the transaction ends.
    async fn load_locked(tx: &mut PgConnection, app: AppId, version: Option<i64>) -> Result<Self, Error> {
        let mut all = Self::load_all_locked(tx, app, version).await?;
        match (all.len(), all.pop()) {
            (1, Some(one)) => Ok(one),
            _ => Err(Error::invalid(
                "The app runs several versions: say which one is meant, as in `--version 2`.",
            )),
        }
    }

    /// Reads those of one version or of all that run, and locks the app until the transaction ends.
    async fn load_all_locked(
        tx: &mut PgConnection,
        app: AppId,
        version: Option<i64>,
    ) -> Result<Vec<Self>, Error> {
        store::lock_app(tx, app).await?;
        let mut all = Vec::new();
        for side in releases::list_running_sides(tx, app, version).await? {
            let row = store::find_app(&mut *tx, app, side).await?;
            let row = row.ok_or_else(|| Error::not_found("The app is being removed."))?;
            all.push(Self::from_row(side, row));
        }
        Ok(all)
    }

    fn from_row(side: ReleaseSide, row: store::AppScaleRow) -> Self {
        let processes = row.processes.0;
        Self {
            side,
            stopped: processes
                .iter()
                .filter(|(_, process)| process.is_stopped)
                .map(|(name, _)| name.clone())
                .collect(),
            units: processes
                .into_iter()
                .map(|(name, process)| (name, i64::from(process.asked)))
                .collect(),
        }
    }

    fn total_units(&self) -> i64 {
        self.units.values().sum()
    }

    fn list_names(&self) -> String {
        let names: Vec<&str> = self.units.keys().map(String::as_str).collect();
        names.join(", ")
    }

    /// Returns the requested process and its number of units.
    fn resolve_process(&self, requested: Option<&ProcessName>) -> Result<(String, i64), Error> {
        let name = match requested {
            Some(name) => name.as_str(),
            None if self.units.contains_key("web") => "web",
            None if self.units.len() == 1 => self.units.keys().next().map_or("web", String::as_str),
            None => {
                return Err(Error::invalid(format!(
                    "Specify a process: the app has {}.",
                    self.list_names()
                )));
            }
        };
        match self.units.get(name) {
            Some(units) => Ok((name.to_owned(), *units)),
            None => Err(Error::invalid(format!(
                "The app has no process {name}: it has {}.",
                self.list_names()
            ))),
        }
    }
}

fn build_event(app: &App, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        EventTarget::for_app(&app.name),
        kind,
        app.permission_contexts(),
        data,
    )
    .allow_cancel()
}

/// Adds units. Errors: `Invalid` for an invalid number or an unknown process, `Precondition` before the first
/// deploy, `QuotaExceeded`, `Locked`.
pub async fn add_units(core: &Core, call: &RequestContext, request: &ScaleRequest) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, &request.app, Permission::APP_UPDATE_UNIT_ADD).await?;
    let units = check_unit_count(request.units)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "units": units, "process": request.process });
    let id = events::begin_event(
        &mut tx,
        call,
        &build_event(&app, Permission::APP_UPDATE_UNIT_ADD, data),
    )
    .await?;
    let processes = AppProcesses::load_locked(&mut tx, app.id, request.version).await?;
    let (process, before) = processes.resolve_process(request.process.as_ref())?;
    refuse_scaled(&mut tx, &app, (processes.side, &process)).await?;
    quotas::check_unit_quota(&mut tx, app.id, i32::try_from(units).map_err(Error::internal)?).await?;
    let after = before + units;
    if after > MAX_UNITS_PER_PROCESS {
        return Err(Error::invalid(format!(
            "A process has at most {MAX_UNITS_PER_PROCESS} units; {process} has {before}."
        )));
    }
    let place = (processes.side, process.as_str());
    change_units(&mut tx, &id, &app, ScaleVerb::Add, place, (before, after)).await?;
    tx.commit().await?;
    Ok(id)
}

/// Removes units. At least one unit of the app stays; `stop_processes` stops all. Errors: as `add_units`.
pub async fn remove_units(
    core: &Core,
    call: &RequestContext,
    request: &ScaleRequest,
) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, &request.app, Permission::APP_UPDATE_UNIT_REMOVE).await?;
    let units = check_unit_count(request.units)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "units": units, "process": request.process });
    let id = events::begin_event(
        &mut tx,
        call,
        &build_event(&app, Permission::APP_UPDATE_UNIT_REMOVE, data),
    )
    .await?;
    let processes = AppProcesses::load_locked(&mut tx, app.id, request.version).await?;
    let (process, before) = processes.resolve_process(request.process.as_ref())?;
    refuse_scaled(&mut tx, &app, (processes.side, &process)).await?;
    if units > before {
        return Err(Error::invalid(format!(
            "You can't remove {units} units of {process}: it has {before}."
        )));
    }
    if units == processes.total_units() {
        return Err(Error::invalid(
            "You can't remove all units of an app: stop it instead.",
        ));
    }
    change_units(
        &mut tx,
        &id,
        &app,
        ScaleVerb::Remove,
        (processes.side, &process),
        (before, before - units),
    )
    .await?;
    tx.commit().await?;
    Ok(id)
}

/// Refuses to change a number of units that follows the load: it has one owner. Errors: `Conflict`.
async fn refuse_scaled(
    tx: &mut PgConnection,
    app: &App,
    (side, process): (ReleaseSide, &str),
) -> Result<(), Error> {
    match store::find_scale_bounds(&mut *tx, app.id, side, process).await? {
        None => Ok(()),
        Some((min, max)) => Err(Error::conflict(format!(
            "The process {process} is scaled automatically between {min} and {max} units: change that by `tsuru autoscale set`, or end it by `tsuru autoscale unset`."
        ))),
    }
}

fn check_unit_count(units: i64) -> Result<i64, Error> {
    match units {
        1..=MAX_UNITS_PER_PROCESS => Ok(units),
        _ => Err(Error::invalid(format!(
            "The number of units must be between 1 and {MAX_UNITS_PER_PROCESS}."
        ))),
    }
}

async fn change_units(
    tx: &mut PgConnection,
    event: &EventId,
    app: &App,
    verb: ScaleVerb,
    (side, process): (ReleaseSide, &str),
    (before, after): (i64, i64),
) -> Result<(), Error> {
    let number = |n: i64| i32::try_from(n).map_err(Error::internal);
    let (before, after) = (number(before)?, number(after)?);
    store::set_units(tx, app.id, side, process, after).await?;
    let data = ScaleData {
        app: app.id,
        verb,
        processes: vec![process.to_owned()],
        sides: vec![side.number()],
        before,
        after,
    };
    enqueue_wait(tx, event, &data).await
}

/// Enqueues the saga that waits until the change has been applied.
async fn enqueue_wait(tx: &mut PgConnection, event: &EventId, data: &ScaleData) -> Result<(), Error> {
    sagas::enqueue_saga::<ScaleSaga>(tx, Some(event), data).await?;
    db::send_notice(tx, NoticeChannel::Units, &data.app.to_string()).await?;
    db::send_notice(tx, NoticeChannel::Routes, "").await?;
    Ok(())
}

/// A request to start or stop processes.
#[derive(Clone, Debug)]
pub struct StartStopRequest {
    pub app: AppName,
    /// `None`: all processes.
    pub process: Option<ProcessName>,
    /// `None`, or the version that runs.
    pub version: Option<i64>,
}

/// Starts the stopped processes of an app, or one of them; running units stay. Errors: as `add_units`.
pub async fn start_processes(
    core: &Core,
    call: &RequestContext,
    request: &StartStopRequest,
) -> Result<EventId, Error> {
    start_or_stop(core, call, request, ScaleVerb::Start).await
}

/// Stops an app, or one of its processes; the desired numbers of units stay for the next start. Errors: as
/// `add_units`.
pub async fn stop_processes(
    core: &Core,
    call: &RequestContext,
    request: &StartStopRequest,
) -> Result<EventId, Error> {
    start_or_stop(core, call, request, ScaleVerb::Stop).await
}

async fn start_or_stop(
    core: &Core,
    call: &RequestContext,
    request: &StartStopRequest,
    verb: ScaleVerb,
) -> Result<EventId, Error> {
    let stopping = verb == ScaleVerb::Stop;
    let permission = match stopping {
        true => Permission::APP_UPDATE_STOP,
        false => Permission::APP_UPDATE_START,
    };
    let app = apps::find_authorized_app(core, call, &request.app, permission).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "process": request.process, "version": request.version });
    let id = events::begin_event(&mut tx, call, &build_event(&app, permission, data)).await?;
    let all = AppProcesses::load_all_locked(&mut tx, app.id, request.version).await?;
    let has_process = |side: &AppProcesses| {
        let asked = request.process.as_ref();
        asked.is_none_or(|process| side.units.contains_key(process.as_str()))
    };
    // A process that only some versions have is meant where it is; one that none has is refused below.
    let some_have = all.iter().any(has_process);
    let all: Vec<AppProcesses> = all
        .into_iter()
        .filter(|side| !some_have || has_process(side))
        .collect();
    let mut processes = BTreeSet::new();
    for side in &all {
        processes.extend(start_or_stop_side(core, &mut tx, &app, side, (request, stopping)).await?);
    }
    let data = ScaleData {
        app: app.id,
        verb,
        processes: processes.into_iter().collect(),
        sides: all.iter().map(|side| side.side.number()).collect(),
        before: 0,
        after: 0,
    };
    enqueue_wait(&mut tx, &id, &data).await?;
    tx.commit().await?;
    Ok(id)
}

/// Starts or stops the processes of one side that are meant. Returns their names.
async fn start_or_stop_side(
    core: &Core,
    tx: &mut PgConnection,
    app: &App,
    side: &AppProcesses,
    (request, stopping): (&StartStopRequest, bool),
) -> Result<Vec<String>, Error> {
    let processes: Vec<String> = match &request.process {
        Some(_) => vec![side.resolve_process(request.process.as_ref())?.0],
        None => side.units.keys().cloned().collect(),
    };
    store::set_stopped(tx, app.id, side.side, &processes, stopping).await?;
    let is_stopped = |process: &&String| side.stopped.contains(*process);
    let starting: Vec<String> = processes.iter().filter(is_stopped).cloned().collect();
    if !stopping && !starting.is_empty() {
        // Variables may have changed while the processes were stopped.
        releases::create_current_release(core, tx, app.id, side.side, &starting).await?;
    }
    Ok(processes)
}

/// Kills one unit; the reconciler starts a replacement. `at_once`: without draining. Errors: `NotFound` if
/// the app has no such unit.
pub async fn kill_unit(
    core: &Core,
    call: &RequestContext,
    app: &AppName,
    unit: &str,
    at_once: bool,
) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, app, Permission::APP_UPDATE_UNIT_KILL).await?;
    let missing = || Error::not_found("The app has no such unit.");
    let unit = UnitId::parse(unit).map_err(|_| missing())?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "unit": unit, "force": at_once });
    let kind = Permission::APP_UPDATE_UNIT_KILL;
    let new = NewEvent::new(
        EventTarget::for_app(&app.name),
        kind,
        app.permission_contexts(),
        data,
    );
    let id = events::record_event(&mut tx, call, &new).await?;
    units::kill_unit(&mut tx, app.id, unit.as_str(), at_once)
        .await?
        .ok_or_else(missing)?;
    db::send_notice(&mut tx, NoticeChannel::Units, &app.id.to_string()).await?;
    db::send_notice(&mut tx, NoticeChannel::Routes, "").await?;
    tx.commit().await?;
    Ok(id)
}
