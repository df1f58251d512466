//! The docker provisioner: units are containers of a Docker Engine on this host.
//!
//! A container is found by its labels (host, app, process, unit), and by its name, which the unit's id makes, so
//! that a unit is never started twice, whoever starts it. The engine is the only registry: a new Tancho process
//! finds all containers of its host there and continues. What the engine does not keep (how often a unit was
//! restarted, and that it was stopped on purpose) is a small file per unit, whose loss costs a number.
//!
//! The engine's own restart policy is off: `restarts` starts again what has ended, with back-off, so that the
//! reason of each end is seen. Events of the engine are only a nudge; what is true is listed.
//!
//! Promises beyond those of all runners: apps have networks of their own; no container is privileged, gains
//! privileges, or sees a folder of the host or the engine's socket; an engine that has ended or hangs costs a
//! caller a few seconds once, and afterwards nothing until it answers again (`engine`).
//!
//! The engine keeps the environment of a container in its own folder, which only root can read.

mod build;
mod build_leftovers;
mod config;
mod container_spec;
mod engine;
mod exec;
mod images;
mod log_follow;
mod network;
mod pull;
mod report;
mod restarts;
mod start;
#[cfg(test)]
mod tests;
mod unit_notes;
mod usage;
mod volumes;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{
    ExecProgram, ExecRequest, ExecSession, ExecStreams, ImageDetails, ImageOwner, ImageStore, LogLine,
    LogPosition, LogStream, ProvisionError, Runner, TerminalSize, UnitId, UnitReport, UnitRunner, UnitSpec,
    UnitState,
};
use crate::kernel::ids::VolumeId;
pub use config::{DockerRunnerConfig, open_runner};
use engine::{EngineClient, EngineError};
use log_follow::UnitFollowers;
use unit_notes::NotesFolder;

/// How long the engine may take for a question about what it knows.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the engine may take to create, start, kill or remove a container, beyond any grace period.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Containers that are looked at, or changed, at the same time.
const CONCURRENCY: usize = 8;

const HOST_LABEL: &str = "tancho.host";
const UNIT_LABEL: &str = "tancho.unit";
/// Of a unit that is not started again when its command has ended.
const RUNS_ONCE_LABEL: &str = "tancho.runs-once";
const APP_LABEL: &str = "tancho.app";
const APP_NAME_LABEL: &str = "tancho.app-name";
const PROCESS_LABEL: &str = "tancho.process";
const VERSION_LABEL: &str = "tancho.version";

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct DockerRunner {
    config: Arc<DockerRunnerConfig>,
    engine: EngineClient,
    notes: NotesFolder,
    logs: UnitFollowers,
    shared: Arc<SharedState>,
    changes: tokio::sync::watch::Sender<u64>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct SharedState {
    /// What was last seen of containers, by their ids; events remove entries.
    seen: Mutex<HashMap<String, Arc<ContainerInspectResponse>>>,
    /// Units whose container is being created or started here.
    starting: Mutex<HashSet<UnitId>>,
    /// Held while a network is looked for and made.
    networks: tokio::sync::Mutex<()>,
    /// Notified when a container may have ended.
    ended: Notify,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DockerRunner {
    /// Opens the runner, whether the engine answers or not, and watches the engine until `stop`. `supervise`: ended
    /// containers are started again. Must be called inside a runtime.
    pub fn new(
        config: DockerRunnerConfig,
        supervise: bool,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, ProvisionError> {
        let notes = NotesFolder::open(&config.folder)?;
        let engine = EngineClient::new(&config.socket);
        let runner = Self {
            logs: UnitFollowers::new(engine.clone(), tasks.clone(), stop.clone()),
            config: Arc::new(config),
            engine,
            notes,
            shared: Arc::default(),
            changes: tokio::sync::watch::Sender::new(0),
            tasks: tasks.clone(),
        };
        tasks.spawn(watch::watch_engine(runner.clone(), stop.clone()));
        if supervise {
            tasks.spawn(restarts::restart_ended(runner.clone(), stop));
        }
        Ok(runner)
    }

    fn container_name(&self, unit: &UnitId) -> String {
        format!("tancho-{}-{unit}", self.config.host)
    }

    fn notify_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Lists the containers of this host.
    async fn list_containers(&self) -> Result<Vec<ContainerSummary>, ProvisionError> {
        self.engine.check_up()?;
        let docker = self.engine.connect().await?;
        let filters = HashMap::from([("label", vec![format!("{HOST_LABEL}={}", self.config.host)])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let listed = self
            .engine
            .ask(ASK_TIMEOUT, docker.list_containers(Some(options)))
            .await;
        if let Err(EngineError::NoAnswer(why)) = &listed {
            self.engine.mark_down(why);
        }
        let mut listed = listed?;
        // An image can have any label, and so has what a build starts of it: a unit has its name, too.
        listed.retain(|container| {
            let unit = report::unit_of(container.labels.as_ref());
            unit.is_none_or(|unit| has_name(container, &self.container_name(&unit)))
        });
        Ok(listed)
    }

    /// Looks at a container by its name or id.
    async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, EngineError> {
        let docker = self.engine.connect().await?;
        self.engine
            .ask(ASK_TIMEOUT, docker.inspect_container(container, None))
            .await
    }

    /// Looks at a listed container, unless it is as it was when last looked at; `None` if it is gone.
    async fn look_at(
        &self,
        listed: &ContainerSummary,
    ) -> Result<Option<Arc<ContainerInspectResponse>>, ProvisionError> {
        let Some(id) = &listed.id else { return Ok(None) };
        let state = listed.state.map(|state| state.to_string());
        let is_same =
            |seen: &Arc<ContainerInspectResponse>| report::status_text(seen).map(str::to_owned) == state;
        if let Some(seen) = lock(&self.shared.seen).get(id).filter(|seen| is_same(seen)) {
            return Ok(Some(Arc::clone(seen)));
        }
        match self.inspect(id).await {
            Ok(found) => {
                let found = Arc::new(found);
                lock(&self.shared.seen).insert(id.clone(), Arc::clone(&found));
                Ok(Some(found))
            }
            Err(EngineError::Missing(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at all containers of this host.
    async fn look_at_all(&self) -> Result<Vec<(UnitId, Arc<ContainerInspectResponse>)>, ProvisionError> {
        let listed = self.list_containers().await?;
        let present: HashSet<String> = listed.iter().filter_map(|c| c.id.clone()).collect();
        lock(&self.shared.seen).retain(|id, _| present.contains(id));
        let looked = futures_util::stream::iter(listed)
            .map(|container| async move {
                let unit = report::unit_of(container.labels.as_ref());
                Ok::<_, ProvisionError>(unit.zip(self.look_at(&container).await?))
            })
            .buffered(CONCURRENCY);
        let found: Vec<_> = looked.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Stops a container, after `grace` or its own grace period by SIGKILL. One that is gone is fine.
    async fn stop_container(&self, container: &str, grace: Option<i32>) -> Result<(), ProvisionError> {
        let docker = self.engine.connect().await?;
        let limit = CHANGE_TIMEOUT + self.config.longest_grace;
        let mut options = StopContainerOptionsBuilder::new();
        if let Some(grace) = grace {
            options = options.t(grace);
        }
        let stopping = docker.stop_container(container, Some(options.build()));
        match self.engine.ask(limit, stopping).await {
            Ok(()) | Err(EngineError::Missing(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a container with all that is its own, and waits until it is gone.
    async fn delete_container(&self, container: &str) -> Result<(), ProvisionError> {
        let docker = self.engine.connect().await?;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removing = docker.remove_container(container, Some(options));
        match self.engine.ask(CHANGE_TIMEOUT, removing).await {
            Ok(()) | Err(EngineError::Missing(_)) => Ok(()),
            // Somebody else removes it: it is gone soon.
            Err(EngineError::Conflict(why)) => {
                let deadline = tokio::time::Instant::now() + CHANGE_TIMEOUT;
                while !matches!(self.inspect(container).await, Err(EngineError::Missing(_))) {
                    if tokio::time::Instant::now() > deadline {
                        return Err(EngineError::Conflict(why).into());
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stops a unit and keeps its container.
    async fn stop_unit(
        &self,
        unit: &UnitId,
        found: &ContainerInspectResponse,
        grace: Duration,
    ) -> Result<(), ProvisionError> {
        self.notes.update(unit, |notes| notes.is_stopped = true)?;
        let own = report::grace_seconds(found);
        let grace = whole_seconds(grace).min(own);
        self.stop_container(&self.container_name(unit), Some(grace)).await
    }
}

fn has_name(container: &ContainerSummary, name: &str) -> bool {
    let names = container.names.iter().flatten();
    names.into_iter().any(|own| own.trim_start_matches('/') == name)
}

/// Whole seconds, rounded up: the engine knows no parts of them.
fn whole_seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}

fn unit_gone(unit: &UnitId) -> ProvisionError {
    ProvisionError::Gone(format!("The unit {unit} is not running on this host."))
}

#[async_trait::async_trait]
impl UnitRunner for DockerRunner {
    async fn ensure_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        self.engine.check_up()?;
        lock(&self.shared.starting).insert(spec.unit.clone());
        let started = self.start_unit(spec).await;
        lock(&self.shared.starting).remove(&spec.unit);
        self.notify_change();
        started
    }

    async fn remove_unit(&self, unit: &UnitId) -> Result<(), ProvisionError> {
        self.engine.check_up()?;
        let name = self.container_name(unit);
        let found = match self.inspect(&name).await {
            Ok(found) => found,
            Err(EngineError::Missing(_)) => {
                self.notes.remove(unit);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.notes.update(unit, |notes| notes.is_stopped = true)?;
        self.stop_container(&name, None).await?;
        // Its log goes with it.
        self.logs.wait_until_read(unit).await;
        self.delete_container(&name).await?;
        self.logs.forget(unit);
        self.notes.remove(unit);
        network::remove_unused(self, &found).await;
        self.notify_change();
        Ok(())
    }

    async fn stop_all_units(&self, grace: Duration) -> Result<(), ProvisionError> {
        let found = match self.look_at_all().await {
            // Nothing was ever started in an engine that does not answer.
            Err(_) if self.notes.is_empty() => return Ok(()),
            found => found?,
        };
        let stops = found
            .iter()
            .map(|(unit, found)| self.stop_unit(unit, found, grace));
        let stopped = futures_util::future::join_all(stops).await;
        self.notify_change();
        stopped.into_iter().collect()
    }

    async fn observe_units(&self) -> Result<Vec<UnitReport>, ProvisionError> {
        let found = self.look_at_all().await?;
        let starting = lock(&self.shared.starting).clone();
        let report = |(unit, found): (UnitId, Arc<ContainerInspectResponse>)| {
            let (notes, is_starting) = (self.notes.read(&unit), starting.contains(&unit));
            report::make_report(unit, &found, notes, is_starting)
        };
        Ok(found.into_iter().filter_map(report).collect())
    }

    fn subscribe_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn read_log(
        &self,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        let name = self.container_name(unit);
        self.logs.read_lines(unit, &name, from, max_lines).await
    }

    async fn exec_in_unit(
        &self,
        unit: &UnitId,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError> {
        self.engine.check_up()?;
        exec::start_exec(self, unit, request).await
    }

    async fn measure_cpu(&self, units: &[UnitId]) -> Result<Vec<(UnitId, Duration)>, ProvisionError> {
        self.engine.check_up()?;
        usage::measure_cpu(self, units).await
    }

    async fn remove_volume(&self, volume: VolumeId) -> Result<(), ProvisionError> {
        self.delete_volume(volume).await
    }

    fn image_store(&self) -> Option<&dyn ImageStore> {
        Some(self)
    }
}
