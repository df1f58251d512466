//! Waits until an app has the units that it should have, and tells how it goes.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::releases::{ReleaseSide, rollout_steps};
use crate::sagas::{Saga, StepContext, StepError, saga_steps};
use crate::units::scale::store::{self, AppScaleRow, ProcessUnitCounts};

/// Beyond the time that units have by themselves.
const EXTRA_TIME: Duration = Duration::from_secs(30);

saga_steps! {
    /// The steps of a change of the number of units.
    pub(in crate::units) enum ScaleStep {
        /// Waits until there are as many units as there should be.
        WaitForUnits = "wait-for-units",
        /// Waits until the routers know them.
        WaitForRouters = "wait-for-routers",
    }
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::units) enum ScaleVerb {
    Add,
    Remove,
    Start,
    Stop,
}

/// What the saga keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::units) struct ScaleData {
    pub(super) app: AppId,
    pub(super) verb: ScaleVerb,
    pub(super) processes: Vec<String>,
    /// The sides of the app on which these processes change.
    #[serde(default = "main_side")]
    pub(super) sides: Vec<i32>,
    /// The number of units of the one process that is scaled.
    pub(super) before: i32,
    pub(super) after: i32,
}

/// The side of rows that name none.
fn main_side() -> Vec<i32> {
    vec![ReleaseSide::Main.number()]
}

impl ScaleData {
    fn describe_action(&self) -> String {
        let processes = self.processes.join(", ");
        let by = self.after.abs_diff(self.before);
        match self.verb {
            ScaleVerb::Add => format!("---- Adding {by} units of {processes} ----"),
            ScaleVerb::Remove => format!("---- Removing {by} units of {processes} ----"),
            ScaleVerb::Start => format!("---- Starting {processes} ----"),
            ScaleVerb::Stop => format!("---- Stopping {processes} ----"),
        }
    }

    fn is_growing(&self) -> bool {
        matches!(self.verb, ScaleVerb::Add | ScaleVerb::Start)
    }
}

/// How it stands with one process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProcessProgress {
    process: String,
    wanted: i64,
    staying: i64,
    leaving: i64,
    ready: i64,
    reason: Option<String>,
}

impl ProcessProgress {
    fn is_done(&self, grows: bool) -> bool {
        match grows {
            true => self.ready >= self.wanted,
            false => self.staying + self.leaving <= self.wanted,
        }
    }

    fn describe_progress(&self, grows: bool) -> String {
        if grows {
            return format!(
                " ---> {} of {} units of {} are ready",
                self.ready, self.wanted, self.process
            );
        }
        let units = describe_units(&self.process, self.staying);
        match (self.staying > self.wanted, self.leaving) {
            (true, _) => format!(" ---> {units}, {} should stay", self.wanted),
            (false, 0) => format!(" ---> {units}"),
            (false, leaving) => format!(" ---> {units}; {}", describe_stopping(leaving)),
        }
    }
}

/// Says how many units a process has; those that are stopping do not count.
fn describe_units(process: &str, count: i64) -> String {
    match count {
        0 => format!("{process} has no units"),
        1 => format!("{process} has 1 unit"),
        _ => format!("{process} has {count} units"),
    }
}

fn describe_stopping(count: i64) -> String {
    match count {
        1 => "1 unit is stopping".to_owned(),
        _ => format!("{count} units are stopping"),
    }
}

/// See the module.
pub(in crate::units) struct ScaleSaga {
    core: Core,
}

impl ScaleSaga {
    pub(in crate::units) fn new(core: Core) -> Self {
        Self { core }
    }

    /// How it stands with the processes; `None` when the app is gone.
    async fn load_progress(&self, data: &ScaleData) -> Result<Option<Vec<ProcessProgress>>, StepError> {
        let mut lines = Vec::new();
        for side in data.sides.iter().copied().map(ReleaseSide::from_number) {
            let Some(row) = store::find_app(&self.core.db, data.app, side).await? else {
                return Ok(None);
            };
            if row.version.is_none() && side == ReleaseSide::Main {
                return Ok(None);
            }
            let standing = store::list_unit_counts(&self.core.db, data.app, side).await?;
            lines.extend(measure_progress(data, side, &row, &standing));
        }
        Ok(Some(lines))
    }

    async fn wait_for_units(&self, data: &ScaleData, ctx: &StepContext) -> Result<(), StepError> {
        let (apps, grows) = (&self.core.settings.apps, data.is_growing());
        let limit = EXTRA_TIME
            + match grows {
                true => apps.health_timeout,
                false => apps.drain_timeout + apps.stop_grace,
            };
        let units = [(NoticeChannel::Units, data.app.to_string())];
        let all_done = ctx.wait_until(&units, limit, || async {
            Ok(self.find_open_process(data, ctx).await?.is_none().then_some(()))
        });
        if all_done.await?.is_some() {
            return Ok(());
        }
        match self.find_open_process(data, ctx).await? {
            Some(open) => Err(StepError::GiveUp(timeout_error(&open, grows, limit))),
            None => Ok(()),
        }
    }

    /// The first process that does not have its units yet; tells how far all of them are.
    async fn find_open_process(
        &self,
        data: &ScaleData,
        ctx: &StepContext,
    ) -> Result<Option<ProcessProgress>, StepError> {
        let Some(processes) = self.load_progress(data).await? else {
            return Err(StepError::GiveUp(Error::not_found("The app is gone.")));
        };
        let grows = data.is_growing();
        let lines: Vec<String> = processes.iter().map(|p| p.describe_progress(grows)).collect();
        ctx.report_progress(&lines).await;
        Ok(processes.into_iter().find(|process| !process.is_done(grows)))
    }
}

/// How it stands with the processes of one side; those that its version does not have are left out.
fn measure_progress(
    data: &ScaleData,
    side: ReleaseSide,
    row: &AppScaleRow,
    standing: &[ProcessUnitCounts],
) -> Vec<ProcessProgress> {
    let line = |process: &String| {
        let found = standing.iter().find(|s| s.process == *process);
        ProcessProgress {
            process: match side {
                ReleaseSide::Main => process.clone(),
                ReleaseSide::Beside(version) => format!("{process} of version {version}"),
            },
            wanted: row
                .processes
                .get(process)
                .map_or(0, |found| i64::from(found.wanted)),
            staying: found.map_or(0, |s| s.staying),
            leaving: found.map_or(0, |s| s.leaving),
            ready: found.map_or(0, |s| s.ready),
            reason: found.and_then(|s| s.reason.clone()),
        }
    };
    data.processes.iter().map(line).collect()
}

fn timeout_error(line: &ProcessProgress, grows: bool, limit: Duration) -> Error {
    let seconds = limit.as_secs();
    let why = line
        .reason
        .as_deref()
        .map_or(String::new(), |why| format!(": {why}"));
    Error::failed(match grows {
        true => format!(
            "{} of {} units of {} are ready after {seconds} s{why}",
            line.ready, line.wanted, line.process
        ),
        false if line.staying > line.wanted => format!(
            "{} after {seconds} s, {} should stay; the others will be stopped later",
            describe_units(&line.process, line.staying),
            line.wanted
        ),
        false => format!(
            "{} of {} after {seconds} s; they will be gone later",
            describe_stopping(line.leaving),
            line.process
        ),
    })
}

#[async_trait]
impl Saga for ScaleSaga {
    const KIND: &'static str = "app.scale";
    type Step = ScaleStep;
    type Data = ScaleData;

    async fn run_step(
        &self,
        step: ScaleStep,
        data: &mut ScaleData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            ScaleStep::WaitForUnits => {
                ctx.append_log(&data.describe_action()).await;
                self.wait_for_units(data, ctx).await
            }
            ScaleStep::WaitForRouters => rollout_steps::wait_for_routers(&self.core, ctx).await,
        }
    }

    fn is_forward_only(&self, step: ScaleStep, _data: &ScaleData) -> bool {
        // By then the units are as they should be.
        step == ScaleStep::WaitForRouters
    }

    async fn undo_step(
        &self,
        step: ScaleStep,
        data: &mut ScaleData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            ScaleStep::WaitForUnits => revert_units(data, ctx).await,
            ScaleStep::WaitForRouters => Ok(()),
        }
    }
}

/// What was added goes, unless somebody has changed the number since.
async fn revert_units(data: &ScaleData, ctx: &StepContext) -> Result<(), StepError> {
    let (ScaleVerb::Add, [process], [side]) = (data.verb, data.processes.as_slice(), data.sides.as_slice())
    else {
        return Ok(());
    };
    let side = ReleaseSide::from_number(*side);
    let is_reverted = ctx.write_fenced(async |tx| {
        let is_reverted = store::revert_units(tx, data.app, side, process, (data.after, data.before)).await?;
        db::send_notice(tx, NoticeChannel::Units, &data.app.to_string()).await?;
        Ok(is_reverted)
    });
    if is_reverted.await? {
        ctx.append_log(&format!(" ---> {process} has {} units again", data.before))
            .await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_units_are_not_counted_as_units_of_the_process() {
        for (wanted, staying, leaving, expected) in [
            (0, 3, 0, " ---> web has 3 units, 0 should stay"),
            (0, 0, 6, " ---> web has no units; 6 units are stopping"),
            (1, 1, 1, " ---> web has 1 unit; 1 unit is stopping"),
            (2, 2, 0, " ---> web has 2 units"),
        ] {
            let progress = ProcessProgress {
                process: "web".to_owned(),
                wanted,
                staying,
                leaving,
                ready: 0,
                reason: None,
            };
            assert_eq!(progress.describe_progress(false), expected);
        }
    }
}
