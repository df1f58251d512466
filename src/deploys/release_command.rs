//! The release command of a version: the `release` line of its Procfile, such as a migration of the database. It runs once
//! for each deploy, after the build and before the first unit of the version, in a unit of its own that is never
//! restarted; so it does not run twice when the deploy is continued by another process. If it fails, so does the deploy,
//! and what runs stays as it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::apps::App;
use crate::core::Core;
use crate::deploys::store::ReleaseCommandRow;
use crate::envs::{self, EnvVar, Environment, VarSource};
use crate::kernel::error::Error;
use crate::kernel::names::{EnvName, ProcessName};
use crate::kernel::secret::Secret;
use crate::kernel::secret_mask::mask_secrets;
use crate::provisioners::{
    LogLine, LogPosition, ProvisionError, RestartPolicy, UnitApp, UnitId, UnitReport, UnitRunner, UnitSpec,
    UnitState,
};
use crate::sagas::{StepContext, StepError};
use crate::units::model::new_unit_id;
use crate::{units, versions, volumes};

/// The name of the process, in variables and in the id of the unit.
const PROCESS: &str = "release";
const MAX_LINES: usize = 500;
/// Shorter public values are shown: they would match everywhere.
const SHORTEST_MASKED: usize = 6;

/// Returns the id of a unit to run the command in.
pub(super) fn new_release_unit(app: &App) -> Result<UnitId, Error> {
    new_unit_id(app.name.as_str(), PROCESS)
}

/// Runs the command, or waits for the end of the one that an earlier attempt has started; its output goes to the event.
/// Errors: `Failed` with its status.
pub(super) async fn run_command(
    core: &Core,
    ctx: &StepContext,
    (app, version, unit): (&App, i32, UnitId),
    row: &ReleaseCommandRow,
) -> Result<(), StepError> {
    let gone = || {
        StepError::GiveUp(Error::unavailable(
            "The provisioner of the app's pool does not run on this host.",
        ))
    };
    let runner = core
        .provisioners
        .find_unit_runner(&row.provisioner)
        .ok_or_else(gone)?;
    let mut connection = core.db.acquire().await?;
    let environment = envs::effective_environment(core, &mut connection, app.id, &app.name).await?;
    drop(connection);
    let spec = build_spec(core, (app, version, unit), row, &environment).await?;
    ctx.append_log("---- Running the release command ----").await;
    runner.ensure_unit(&spec).await.map_err(step_error)?;
    let limit = core.settings.builds.deadline;
    let output = CommandOutput {
        runner: &**runner,
        ctx,
        unit: &spec.unit,
        secrets: list_masked(&environment),
        position: AtomicU64::new(LogPosition::START.0),
    };
    let ended = ctx.wait_until(&[], limit, || async {
        let report = find_report(&**runner, &spec.unit).await?;
        output.forward_lines().await;
        Ok(report.filter(|report| report.state == UnitState::Stopped))
    });
    let Some(report) = ended.await? else {
        return Err(StepError::GiveUp(Error::failed(format!(
            "The release command took longer than {} seconds.",
            limit.as_secs()
        ))));
    };
    output.forward_lines().await;
    match report.exit {
        Some(0) => Ok(()),
        _ => Err(StepError::GiveUp(Error::failed(format!(
            "The release command failed: {}.",
            report
                .reason
                .unwrap_or_else(|| "it has ended with an unknown status".into())
        )))),
    }
}

/// Removes the unit, wherever it runs on this host.
pub(super) async fn remove_unit(core: &Core, unit: &UnitId) -> Result<(), StepError> {
    for (_, runner) in core.provisioners.unit_runners() {
        match runner.remove_unit(unit).await {
            Ok(()) | Err(ProvisionError::Gone(_)) => {}
            Err(error) => return Err(step_error(error)),
        }
    }
    Ok(())
}

fn step_error(error: ProvisionError) -> StepError {
    match error {
        ProvisionError::Permanent(why) => StepError::GiveUp(Error::invalid(why)),
        error => StepError::Retry {
            why: Error::unavailable(error.to_string()),
            after: Duration::from_secs(1),
        },
    }
}

async fn find_report(runner: &dyn UnitRunner, unit: &UnitId) -> Result<Option<UnitReport>, StepError> {
    let reports = runner.observe_units().await.map_err(step_error)?;
    Ok(reports.into_iter().find(|report| report.unit == *unit))
}

/// The output of the command, on its way to the event.
struct CommandOutput<'a> {
    runner: &'a dyn UnitRunner,
    ctx: &'a StepContext,
    unit: &'a UnitId,
    /// Values of variables, which the event must not have.
    secrets: Vec<Secret>,
    position: AtomicU64,
}

impl CommandOutput<'_> {
    /// Appends what the command has written since the last time.
    async fn forward_lines(&self) {
        loop {
            let from = LogPosition(self.position.load(Ordering::Relaxed));
            let Ok((lines, next)) = self.runner.read_log(self.unit, from, MAX_LINES).await else {
                return;
            };
            self.position.store(next.0, Ordering::Relaxed);
            let mask = |line: &LogLine| format!("      {}", mask_secrets(&line.message, &self.secrets));
            let lines: Vec<String> = lines.iter().map(mask).collect();
            if !lines.is_empty() {
                self.ctx.append_log_lines(&lines).await;
            }
            if lines.len() < MAX_LINES {
                return;
            }
        }
    }
}

/// Returns the values that are masked, as in the output of a build.
fn list_masked(environment: &Environment) -> Vec<Secret> {
    let is_masked = |var: &&EnvVar| match var.public {
        true => var.source != VarSource::Platform && var.value.expose_secret().len() >= SHORTEST_MASKED,
        false => true,
    };
    environment
        .iter()
        .filter(is_masked)
        .map(|var| var.value.clone())
        .collect()
}

async fn build_spec(
    core: &Core,
    (app, version, unit): (&App, i32, UnitId),
    row: &ReleaseCommandRow,
    environment: &Environment,
) -> Result<UnitSpec, StepError> {
    let mut env: Vec<(EnvName, Secret)> = environment
        .iter()
        .map(|var| (var.name.clone(), var.value.clone()))
        .collect();
    units::set_process_env(&mut env, PROCESS, version)?;
    Ok(UnitSpec {
        unit,
        app: UnitApp {
            id: app.id,
            number: app.number,
            name: app.name.clone(),
        },
        process: ProcessName::parse(PROCESS)?,
        version,
        artifact: versions::version_artifact(core, row.holder.clone(), row.image.as_deref())?,
        before: Vec::new(),
        command: row.command.clone(),
        after: Vec::new(),
        env,
        memory_bytes: row.memory_bytes.try_into().unwrap_or(0),
        cpu_milli: row.cpu_milli.try_into().unwrap_or(0),
        grace: core.settings.apps.stop_grace,
        restart: RestartPolicy::Never,
        volumes: volumes::list_app_mounts(core, app.id).await?,
    })
}
