//! The verbs.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::events::{self, NewEvent, Target};
use crate::kernel::call::Call;
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::{AppName, ProcessName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::{Kind, Problem};
use crate::provisioners::UnitId;
use crate::releases;
use crate::sagas::{self, Lane, NewSaga};
use crate::units::merge::names;
use crate::units::scale::saga::{Data, KIND, Verb};
use crate::units::scale::store;
use crate::units::store as units;

/// The most units of one process.
const MOST: i64 = 1000;

/// What is asked of an app's units.
#[derive(Clone, Debug)]
pub struct Ask {
    pub app: AppName,
    /// How many more, or fewer.
    pub units: i64,
    /// `None`: `web`, or the only one there is.
    pub process: Option<ProcessName>,
    /// `None`, or the version that runs.
    pub version: Option<i64>,
}

/// The processes of an app, with their numbers.
struct Processes {
    quota_limit: i32,
    units: BTreeMap<String, i64>,
}

impl Processes {
    /// Reads them in a transaction that keeps others from changing them.
    async fn hold(tx: &mut PgConnection, app: AppId, version: Option<i64>) -> Result<Self, Problem> {
        store::hold(tx, app).await?;
        let row = store::find(&mut *tx, app)
            .await?
            .ok_or_else(|| Problem::not_found("The app is being removed."))?;
        let (Some(current), Some(processes)) = (row.version, row.processes) else {
            return Err(Problem::precondition(
                "The app has no version deployed yet: deploy it first.",
            ));
        };
        if let Some(version) = version.filter(|v| *v != i64::from(current)) {
            return Err(Problem::invalid(format!(
                "Version {version} does not run: the app runs version {current}."
            )));
        }
        let counts: BTreeMap<String, (i64, bool)> =
            serde_json::from_value(row.counts).map_err(Problem::internal)?;
        let units = names(processes)?.into_iter().map(|name| {
            let count = counts.get(&name).map_or(1, |(units, _)| *units);
            (name, count)
        });
        Ok(Self {
            quota_limit: row.quota_limit,
            units: units.collect(),
        })
    }

    fn total(&self) -> i64 {
        self.units.values().sum()
    }

    fn list(&self) -> String {
        let names: Vec<&str> = self.units.keys().map(String::as_str).collect();
        names.join(", ")
    }

    /// The process that is meant.
    fn pick(&self, asked: Option<&ProcessName>) -> Result<(String, i64), Problem> {
        let name = match asked {
            Some(name) => name.as_str(),
            None if self.units.contains_key("web") => "web",
            None if self.units.len() == 1 => self.units.keys().next().map_or("web", String::as_str),
            None => {
                return Err(Problem::invalid(format!(
                    "Say which process you mean: the app has {}.",
                    self.list()
                )));
            }
        };
        match self.units.get(name) {
            Some(units) => Ok((name.to_owned(), *units)),
            None => Err(Problem::invalid(format!(
                "The app has no process {name}: it has {}.",
                self.list()
            ))),
        }
    }
}

fn event(app: &App, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(Target::app(&app.name), kind, app.contexts(), data).cancelable()
}

/// Adds units. Errors: `Invalid` for a number or process that makes no sense, `Precondition` before the
/// first deploy, `QuotaExceeded`, `Locked`.
pub async fn add(core: &Core, call: &Call, ask: &Ask) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, &ask.app, Permission::APP_UPDATE_UNIT_ADD).await?;
    let units = positive(ask.units)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "units": units, "process": ask.process });
    let id = events::begin(&mut tx, call, &event(&app, Permission::APP_UPDATE_UNIT_ADD, data)).await?;
    let processes = Processes::hold(&mut tx, app.id, ask.version).await?;
    let (process, before) = processes.pick(ask.process.as_ref())?;
    let limit = i64::from(processes.quota_limit);
    let available = limit - processes.total();
    if limit >= 0 && units > available {
        let available = available.max(0);
        return Err(Problem::new(
            Kind::QuotaExceeded,
            format!("Quota exceeded. Available: {available}, Requested: {units}."),
        ));
    }
    let after = before + units;
    if after > MOST {
        return Err(Problem::invalid(format!(
            "A process has at most {MOST} units; {process} has {before}."
        )));
    }
    set(&mut tx, &id, &app, Verb::Add, &process, (before, after)).await?;
    tx.commit().await?;
    Ok(id)
}

/// Removes units. The app keeps one at least: `stop` is there for none. Errors: as `add`.
pub async fn remove(core: &Core, call: &Call, ask: &Ask) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, &ask.app, Permission::APP_UPDATE_UNIT_REMOVE).await?;
    let units = positive(ask.units)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "units": units, "process": ask.process });
    let id = events::begin(
        &mut tx,
        call,
        &event(&app, Permission::APP_UPDATE_UNIT_REMOVE, data),
    )
    .await?;
    let processes = Processes::hold(&mut tx, app.id, ask.version).await?;
    let (process, before) = processes.pick(ask.process.as_ref())?;
    if units > before {
        return Err(Problem::invalid(format!(
            "You can't remove {units} units of {process}: it has {before}."
        )));
    }
    if units == processes.total() {
        return Err(Problem::invalid(
            "You can't remove all units of an app: stop it instead.",
        ));
    }
    set(
        &mut tx,
        &id,
        &app,
        Verb::Remove,
        &process,
        (before, before - units),
    )
    .await?;
    tx.commit().await?;
    Ok(id)
}

fn positive(units: i64) -> Result<i64, Problem> {
    match units {
        1..=MOST => Ok(units),
        _ => Err(Problem::invalid(format!(
            "The number of units must be between 1 and {MOST}."
        ))),
    }
}

async fn set(
    tx: &mut PgConnection,
    event: &EventId,
    app: &App,
    verb: Verb,
    process: &str,
    (before, after): (i64, i64),
) -> Result<(), Problem> {
    let number = |n: i64| i32::try_from(n).map_err(Problem::internal);
    let (before, after) = (number(before)?, number(after)?);
    store::set_units(tx, app.id, process, after).await?;
    let data = Data {
        app: app.id,
        verb,
        processes: vec![process.to_owned()],
        before,
        after,
    };
    wait(tx, event, &data).await
}

/// What has changed takes its time: a saga waits for it.
async fn wait(tx: &mut PgConnection, event: &EventId, data: &Data) -> Result<(), Problem> {
    let saga = NewSaga {
        kind: KIND,
        lane: Lane::People,
        event: Some(event),
        host: None,
        data,
    };
    sagas::enqueue(tx, saga).await?;
    db::notify(tx, Channel::Units, &data.app.to_string()).await?;
    db::notify(tx, Channel::Routes, "").await?;
    Ok(())
}

/// Starts an app, or one process of it. Errors: as `add`.
pub async fn start(
    core: &Core,
    call: &Call,
    app: &AppName,
    process: Option<&ProcessName>,
) -> Result<EventId, Problem> {
    turn(core, call, app, process, Verb::Start).await
}

/// Stops an app, or one process of it; the numbers of units stay for the next start. Errors: as `add`.
pub async fn stop(
    core: &Core,
    call: &Call,
    app: &AppName,
    process: Option<&ProcessName>,
) -> Result<EventId, Problem> {
    turn(core, call, app, process, Verb::Stop).await
}

async fn turn(
    core: &Core,
    call: &Call,
    name: &AppName,
    process: Option<&ProcessName>,
    verb: Verb,
) -> Result<EventId, Problem> {
    let stopping = verb == Verb::Stop;
    let permission = match stopping {
        true => Permission::APP_UPDATE_STOP,
        false => Permission::APP_UPDATE_START,
    };
    let app = apps::find_for(core, call, name, permission).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "process": process });
    let id = events::begin(&mut tx, call, &event(&app, permission, data)).await?;
    let all = Processes::hold(&mut tx, app.id, None).await?;
    let processes: Vec<String> = match process {
        Some(_) => vec![all.pick(process)?.0],
        None => all.units.into_keys().collect(),
    };
    store::set_stopped(&mut tx, app.id, &processes, stopping).await?;
    if !stopping {
        // Variables may have changed while it was stopped.
        releases::start_fresh(core, &mut tx, app.id).await?;
    }
    let data = Data {
        app: app.id,
        verb,
        processes,
        before: 0,
        after: 0,
    };
    wait(&mut tx, &id, &data).await?;
    tx.commit().await?;
    Ok(id)
}

/// Ends one unit; another takes its place. `at_once`: without letting its requests end. Errors: `NotFound`
/// when the app has no such unit.
pub async fn kill(
    core: &Core,
    call: &Call,
    app: &AppName,
    unit: &str,
    at_once: bool,
) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, app, Permission::APP_UPDATE_UNIT_KILL).await?;
    let missing = || Problem::not_found("The app has no such unit.");
    let unit = UnitId::parse(unit).map_err(|_| missing())?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "unit": unit, "force": at_once });
    let kind = Permission::APP_UPDATE_UNIT_KILL;
    let new = NewEvent::new(Target::app(&app.name), kind, app.contexts(), data);
    let id = events::record(&mut tx, call, &new).await?;
    units::kill(&mut tx, app.id, unit.as_str(), at_once)
        .await?
        .ok_or_else(missing)?;
    db::notify(&mut tx, Channel::Units, &app.id.to_string()).await?;
    db::notify(&mut tx, Channel::Routes, "").await?;
    tx.commit().await?;
    Ok(id)
}
