//! Chooses the units in which a command runs.

use sqlx::PgConnection;

use crate::apps::App;
use crate::core::Core;
use crate::exec::one_off::OneOffPlan;
use crate::exec::store;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::pools;
use crate::provisioners::{ExecRequest, ExecSession, ProvisionError, Runner, UnitRef};

/// More units than an app has.
const MAX_UNITS: i64 = 10_000;

/// In which units to run.
#[derive(Clone, Debug)]
pub(super) enum UnitChoice {
    /// In every unit that runs.
    All,
    /// In one that runs, of this host if there is one.
    Any,
    /// In this one.
    Named(String),
    /// In a unit of its own, of the current version or that of a unit.
    Isolated(Option<String>),
}

/// The chosen units.
pub(super) enum TargetChoice {
    Running(Vec<ExecTarget>),
    OneOff(OneOffPlan),
}

/// A unit in which a command can run.
pub(super) struct ExecTarget {
    pub(super) unit: UnitRef,
    pub(super) runner: Runner,
}

impl ExecTarget {
    /// Starts a command. Errors: `Conflict` if the unit has ended; `Unavailable`.
    pub(super) async fn exec(&self, request: &ExecRequest) -> Result<ExecSession, Error> {
        let started = self.runner.exec_in_unit(&self.unit, request).await;
        started.map_err(error_for_user)
    }
}

/// Converts the error of a provisioner, whose messages are for users.
pub(super) fn error_for_user(error: ProvisionError) -> Error {
    match error {
        ProvisionError::Transient(message) => Error::unavailable(message),
        ProvisionError::Permanent(message) => Error::invalid(message),
        ProvisionError::Gone(message) => Error::conflict(message),
    }
}

/// Chooses units. Errors: `NotFound` for an unknown unit; `Conflict` if none runs, or nothing was deployed;
/// `Unavailable` if a chosen one is on another host.
pub(super) async fn choose_units(
    core: &Core,
    tx: &mut PgConnection,
    app: &App,
    choice: &UnitChoice,
) -> Result<TargetChoice, Error> {
    let runner = find_runner(core, tx, app).await?;
    let (unit, limit) = match choice {
        UnitChoice::Isolated(like) => {
            if let Some(unit) = like {
                check_unit_exists(tx, app, unit).await?;
            }
            let row = store::find_one_off(&mut *tx, app.id, like.as_deref()).await?;
            let plan = OneOffPlan::from_row(core, app, row, runner)?;
            return Ok(TargetChoice::OneOff(plan));
        }
        UnitChoice::Named(unit) => {
            check_unit_exists(tx, app, unit).await?;
            (Some(unit.as_str()), 1)
        }
        UnitChoice::Any => (None, 1),
        UnitChoice::All => (None, MAX_UNITS),
    };
    let rows = store::list_running_units(&mut *tx, app.id, &core.host, unit, limit).await?;
    if rows.is_empty() {
        return Err(not_running(app, unit));
    }
    if let Some(row) = rows.iter().find(|row| row.host != core.host) {
        return Err(on_another_host(&format!("The unit {}", row.unit_id)));
    }
    let target = |row: store::RunningUnitRow| {
        Ok(ExecTarget {
            unit: UnitRef::for_app(app.id, &row.process, row.release_id, row.unit_id.try_into()?)?,
            runner: runner.clone(),
        })
    };
    let targets: Result<Vec<ExecTarget>, Error> = rows.into_iter().map(target).collect();
    Ok(TargetChoice::Running(targets?))
}

async fn find_runner(core: &Core, tx: &mut PgConnection, app: &App) -> Result<Runner, Error> {
    let name = pools::find_provisioner(&mut *tx, &app.pool).await?;
    let name = name.ok_or_else(|| Error::app_not_found(&app.name))?;
    let found = core.provisioners.find_runner(&name).cloned();
    found.ok_or_else(|| on_another_host(&format!("The app {}", app.name)))
}

async fn check_unit_exists(tx: &mut PgConnection, app: &App, unit: &str) -> Result<(), Error> {
    match store::has_unit(&mut *tx, app.id, unit).await? {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "Unit {} not found in app {}.",
            quote_excerpt(unit),
            app.name
        ))),
    }
}

fn not_running(app: &App, unit: Option<&str>) -> Error {
    Error::conflict(match unit {
        Some(unit) => format!("The unit {unit} is not running: choose another one."),
        None => format!(
            "App {} must be available to run non-isolated commands: no unit of it runs. Start it, or use an isolated unit.",
            app.name
        ),
    })
}

/// Streams between hosts are not supported.
pub(super) fn on_another_host(what: &str) -> Error {
    Error::unavailable(format!(
        "{what} is on another host than the server that has your request: ask the server of that host."
    ))
}
