//! A unit that is started for one session and removed with it. It waits, and the command runs beside that.

use std::time::Duration;

use crate::apps::App;
use crate::core::Core;
use crate::exec::store::OneOffRow;
use crate::exec::targets::{ExecTarget, error_for_user, on_another_host};
use crate::kernel::error::Error;
use crate::kernel::names::ProcessName;
use crate::provisioners::{RestartPolicy, Runner, UnitApp, UnitId, UnitRef, UnitSpec};
use crate::units::model::new_unit_id;
use crate::{releases, units, versions, volumes};

/// The readable part of the id, in the place of the process.
const NAME: &str = "run";
/// What the unit does itself.
const WAIT_COMMAND: &str = "exec sleep 2147483647";
/// Nothing in it needs time to end.
const STOP_GRACE: Duration = Duration::from_secs(1);
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A unit to start.
pub(super) struct OneOffPlan {
    pub(super) unit: UnitId,
    pub(super) version: i32,
    row: OneOffRow,
    runner: Runner,
}

/// A unit that was started, or is about to be.
pub(super) struct OneOffUnit {
    unit: UnitId,
    runner: Runner,
}

impl OneOffPlan {
    /// Plans the unit. Errors: `Conflict` if the app has no version; `Unavailable` if its files are on another host.
    pub(super) fn from_row(
        core: &Core,
        app: &App,
        row: Option<OneOffRow>,
        runner: Runner,
    ) -> Result<Self, Error> {
        let row = row.ok_or_else(|| {
            Error::conflict(format!(
                "App {} has no version that can run: deploy it first.",
                app.name
            ))
        })?;
        if row.host.as_ref().is_some_and(|host| *host != core.host) {
            return Err(on_another_host(&format!("Version {} of the app", row.version)));
        }
        Ok(Self {
            unit: new_unit_id(app.name.as_str(), NAME)?,
            version: row.version,
            row,
            runner,
        })
    }

    /// Returns the unit, for its removal.
    pub(super) fn to_unit(&self) -> OneOffUnit {
        OneOffUnit {
            unit: self.unit.clone(),
            runner: self.runner.clone(),
        }
    }

    /// Returns the unit, for commands.
    pub(super) fn to_target(&self, app: &App) -> Result<ExecTarget, Error> {
        Ok(ExecTarget {
            unit: UnitRef::for_app(app.id, &self.row.process, self.row.release_id, self.unit.clone())?,
            runner: self.runner.clone(),
        })
    }

    async fn build_spec(&self, core: &Core, app: &App) -> Result<UnitSpec, Error> {
        let mut env = releases::load_environment(core, self.row.release_id).await?;
        units::set_process_env(&mut env, &self.row.process, self.row.version)?;
        Ok(UnitSpec {
            unit: self.unit.clone(),
            app: UnitApp {
                id: app.id,
                number: app.number,
                name: app.name.clone(),
            },
            process: ProcessName::parse(&self.row.process)?,
            version: self.row.version,
            artifact: versions::version_artifact(core, self.row.host.clone(), self.row.image.as_deref())?,
            before: Vec::new(),
            command: WAIT_COMMAND.to_owned(),
            after: Vec::new(),
            env,
            memory_bytes: self.row.memory_bytes.try_into().unwrap_or(0),
            cpu_milli: self.row.cpu_milli.try_into().unwrap_or(0),
            grace: STOP_GRACE,
            restart: RestartPolicy::Always,
            volumes: volumes::list_release_mounts(core, self.row.release_id).await?,
        })
    }
}

/// Starts the unit and waits until commands can run in it. Errors: `Unavailable`.
pub(super) async fn start_unit(core: &Core, app: &App, plan: &OneOffPlan) -> Result<(), Error> {
    let spec = plan.build_spec(core, app).await?;
    match tokio::time::timeout(START_TIMEOUT, plan.runner.start_single_unit(&spec)).await {
        Ok(done) => done.map_err(error_for_user),
        Err(_) => Err(Error::unavailable(
            "The unit for the command did not start in time; try again.",
        )),
    }
}

impl OneOffUnit {
    /// Removes the unit, with what still runs in it. One that cannot be removed now is removed by the reconciler of
    /// units, once the row of the session is gone.
    pub(super) async fn remove(&self) {
        if let Err(error) = self.runner.remove_single_unit(&self.unit).await {
            tracing::warn!(unit = %self.unit, %error, "a unit for one command is left to the reconciler");
        }
    }
}
