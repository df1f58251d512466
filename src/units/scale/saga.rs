//! Waits until an app has the units that it should have, and tells how it goes.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::kernel::ids::AppId;
use crate::kernel::problem::{Kind, Problem};
use crate::releases;
use crate::sagas::{Run, Saga, StepError};
use crate::units::merge;
use crate::units::model;
use crate::units::scale::store::{self, Standing};

/// The name under which rows are kept.
pub(super) const KIND: &str = "app.scale";
/// How often it looks without being told.
const POLL: Duration = Duration::from_millis(500);
/// Beyond the time that units have by themselves.
const EXTRA: Duration = Duration::from_secs(30);

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    Add,
    Remove,
    Start,
    Stop,
}

/// What the saga keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Data {
    pub(super) app: AppId,
    pub(super) verb: Verb,
    pub(super) processes: Vec<String>,
    /// The number of units of the one process that is scaled.
    pub(super) before: i32,
    pub(super) after: i32,
}

impl Data {
    fn banner(&self) -> String {
        let processes = self.processes.join(", ");
        let by = self.after.abs_diff(self.before);
        match self.verb {
            Verb::Add => format!("---- Adding {by} units of {processes} ----"),
            Verb::Remove => format!("---- Removing {by} units of {processes} ----"),
            Verb::Start => format!("---- Starting {processes} ----"),
            Verb::Stop => format!("---- Stopping {processes} ----"),
        }
    }

    fn grows(&self) -> bool {
        matches!(self.verb, Verb::Add | Verb::Start)
    }
}

/// How it stands with one process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    process: String,
    wanted: i64,
    staying: i64,
    leaving: i64,
    ready: i64,
    reason: Option<String>,
}

impl Line {
    fn is_done(&self, grows: bool) -> bool {
        match grows {
            true => self.ready >= self.wanted,
            false => self.staying + self.leaving <= self.wanted,
        }
    }

    fn words(&self, grows: bool) -> String {
        match grows {
            true => format!(
                " ---> {} of {} units of {} are ready",
                self.ready, self.wanted, self.process
            ),
            false if self.leaving > 0 => format!(
                " ---> {} has {} units, {} are to stay; {} are leaving",
                self.process, self.staying, self.wanted, self.leaving
            ),
            false => format!(
                " ---> {} has {} units, {} are to stay",
                self.process, self.staying, self.wanted
            ),
        }
    }
}

/// See the module.
pub(in crate::units) struct Scale {
    core: Core,
}

impl Scale {
    pub(in crate::units) fn new(core: Core) -> Self {
        Self { core }
    }

    /// How it stands with the processes; `None` when the app is gone.
    async fn look(&self, data: &Data) -> Result<Option<Vec<Line>>, StepError> {
        let Some(row) = store::find(&self.core.db, data.app).await? else {
            return Ok(None);
        };
        let Some(processes) = row.processes else {
            return Ok(None);
        };
        let processes = merge::names(processes)?;
        let counts: std::collections::BTreeMap<String, (u32, bool)> =
            serde_json::from_value(row.counts).map_err(|e| StepError::GiveUp(Problem::internal(e)))?;
        let counts = counts
            .into_iter()
            .map(|(process, (units, stopped))| (process, (!stopped).then_some(units)))
            .collect();
        let wanted = model::wanted(0, true, &processes, &counts);
        let standing = store::list_standing(&self.core.db, data.app).await?;
        let line = |process: &String| {
            let found: Option<&Standing> = standing.iter().find(|s| s.process == *process);
            Line {
                process: process.clone(),
                wanted: i64::try_from(wanted.of(process)).unwrap_or(i64::MAX),
                staying: found.map_or(0, |s| s.staying),
                leaving: found.map_or(0, |s| s.leaving),
                ready: found.map_or(0, |s| s.ready),
                reason: found.and_then(|s| s.reason.clone()),
            }
        };
        Ok(Some(data.processes.iter().map(line).collect()))
    }

    async fn wait(&self, data: &Data, run: &Run) -> Result<(), StepError> {
        let apps = &self.core.settings.apps;
        let limit = EXTRA
            + match data.grows() {
                true => apps.health_timeout,
                false => apps.drain + apps.stop_grace,
            };
        let until = tokio::time::Instant::now() + limit;
        let mut notices = self.core.notices.subscribe();
        let mut said = Vec::new();
        loop {
            let Some(lines) = self.look(data).await? else {
                return Err(StepError::GiveUp(Problem::not_found("The app is gone.")));
            };
            for line in lines
                .iter()
                .filter(|line| !said.contains(&line.words(data.grows())))
            {
                run.say(&line.words(data.grows())).await;
            }
            said = lines.iter().map(|line| line.words(data.grows())).collect();
            let open = lines.into_iter().find(|line| !line.is_done(data.grows()));
            let Some(open) = open else { return Ok(()) };
            if tokio::time::Instant::now() >= until {
                return Err(StepError::GiveUp(too_slow(&open, data.grows(), limit)));
            }
            tokio::select! {
                _ = notices.wait(&[Channel::Units], POLL) => {}
                () = run.cancel().cancelled() => {
                    return Err(StepError::GiveUp(Problem::new(Kind::Cancelled, "canceled by user request")));
                }
            }
        }
    }
}

fn too_slow(line: &Line, grows: bool, limit: Duration) -> Problem {
    let seconds = limit.as_secs();
    let why = line
        .reason
        .as_deref()
        .map_or(String::new(), |why| format!(": {why}"));
    Problem::failed(match grows {
        true => format!(
            "{} of {} units of {} are ready after {seconds} s{why}",
            line.ready, line.wanted, line.process
        ),
        false => format!(
            "{} units of {} are left after {seconds} s, {} are to stay; the others will go",
            line.staying + line.leaving,
            line.process,
            line.wanted
        ),
    })
}

#[async_trait]
impl Saga for Scale {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["wait", "settle"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        if step == "settle" {
            return releases::settle_routers(&self.core).await;
        }
        let data: Data = run.data()?;
        run.say(&data.banner()).await;
        self.wait(&data, run).await
    }

    fn forward_only(&self, step: &'static str, _run: &Run) -> bool {
        // By then the units are as they should be.
        step == "settle"
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        if step == "settle" {
            return Ok(());
        }
        let data: Data = run.data()?;
        let (Verb::Add, [process]) = (data.verb, data.processes.as_slice()) else {
            return Ok(());
        };
        let mut tx = run.begin().await?;
        let back = store::reset_units(&mut tx, data.app, process, data.after, data.before).await?;
        db::notify(&mut tx, Channel::Units, &data.app.to_string()).await?;
        tx.commit().await?;
        if back {
            run.say(&format!(" ---> {process} has {} units again", data.before))
                .await;
        }
        Ok(())
    }
}
