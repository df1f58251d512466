//! Background tasks of the reconciler: calls to provisioners. A bounded number runs at once, shared fairly by
//! apps, so that units of one app that do not start or stop never delay another app.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::builders::TsuruYaml;
use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::fair_slots::{FairSlots, SlotLimits};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::secret::Secret;
use crate::provisioners::{ProvisionError, RestartPolicy, UnitApp, UnitId, UnitRunner, UnitSpec};
use crate::releases;
use crate::units::logs::LogCollector;
use crate::units::store;
use crate::{versions, volumes};

/// Maximum number of concurrent starts.
const STARTS: usize = 16;
/// Of these, for one app.
const STARTS_PER_APP: usize = 4;
/// Maximum number of concurrent removals; a removal mostly waits for its unit to exit.
const REMOVALS: usize = 256;
/// Of these, for one app.
const REMOVALS_PER_APP: usize = 32;
/// Interval of reading the last log lines of a unit that is being removed.
const FINAL_LOG_INTERVAL: Duration = Duration::from_millis(100);
/// Time limit for a provisioner to accept a unit.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit, beyond the grace period, for a provisioner to remove a unit.
const REMOVE_TIMEOUT_EXTRA: Duration = Duration::from_secs(30);
/// Maximum backoff between retries.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A running or failed operation on a unit.
#[derive(Clone, Debug)]
struct UnitTask {
    running: bool,
    failures: u32,
    retry_at: Instant,
    last_error: String,
}

/// The background tasks of one host; see the module.
#[derive(Clone)]
pub(super) struct UnitTasks {
    core: Core,
    logs: Arc<LogCollector>,
    tasks: Arc<Mutex<HashMap<UnitId, UnitTask>>>,
    starts: FairSlots<AppId>,
    removals: FairSlots<AppId>,
    /// Notified whenever a task ends.
    wakeup: Arc<Notify>,
}

/// Returns slots by app without a limit on waiters: the number of units is bounded, and each waits once.
fn slots_by_app(total: usize, per_key: usize) -> FairSlots<AppId> {
    FairSlots::new(SlotLimits {
        total,
        per_key,
        waiting_per_key: usize::MAX,
    })
}

impl UnitTasks {
    pub(super) fn new(core: Core, logs: Arc<LogCollector>, wakeup: Arc<Notify>) -> Self {
        Self {
            core,
            logs,
            tasks: Arc::default(),
            starts: slots_by_app(STARTS, STARTS_PER_APP),
            removals: slots_by_app(REMOVALS, REMOVALS_PER_APP),
            wakeup,
        }
    }

    fn lock_tasks(&self) -> MutexGuard<'_, HashMap<UnitId, UnitTask>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if an operation on the unit is running, or is in backoff after a failure.
    pub(super) fn is_busy(&self, unit: &UnitId) -> bool {
        let now = Instant::now();
        self.lock_tasks()
            .get(unit)
            .is_some_and(|task| task.running || task.retry_at > now)
    }

    /// Returns true if any operation is running or is to be retried.
    pub(super) fn is_any_busy(&self) -> bool {
        !self.lock_tasks().is_empty()
    }

    /// Returns all units that are busy now.
    pub(super) fn busy_units(&self) -> HashSet<UnitId> {
        let now = Instant::now();
        let tasks = self.lock_tasks();
        let busy = tasks.iter().filter(|(_, t)| t.running || t.retry_at > now);
        busy.map(|(id, _)| id.clone()).collect()
    }

    /// Returns the error of the last attempt, if it failed.
    pub(super) fn last_failure(&self, unit: &UnitId) -> Option<String> {
        let tasks = self.lock_tasks();
        tasks
            .get(unit)
            .filter(|task| task.failures > 0)
            .map(|task| task.last_error.clone())
    }

    /// Starts a unit whose row is written.
    pub(super) fn start_unit(&self, runner: Arc<dyn UnitRunner>, app: AppId, unit: UnitId) {
        let this = self.clone();
        self.spawn_task(unit.clone(), async move {
            let _slot = this.starts.acquire(&app).await;
            let Some(spec) = build_spec(&this.core, &unit)
                .await
                .map_err(|p| log_and_describe(&unit, &p))?
            else {
                return Ok(());
            };
            match tokio::time::timeout(START_TIMEOUT, runner.ensure_unit(&spec)).await {
                Ok(done) => done.map_err(|e| e.to_string()),
                Err(_) => Err("the provisioner timed out starting the unit".into()),
            }
        });
    }

    /// Removes a unit; its output is collected until it exits. Units without an app share the slots of one
    /// app.
    pub(super) fn remove_unit(&self, runner: Arc<dyn UnitRunner>, app: Option<AppId>, unit: UnitId) {
        let this = self.clone();
        self.spawn_task(unit.clone(), async move {
            let _slot = this.removals.acquire(&app.unwrap_or(AppId(Uuid::nil()))).await;
            this.logs.collect_unit(&unit).await;
            let limit = this.core.settings.apps.stop_grace + REMOVE_TIMEOUT_EXTRA;
            let removal = tokio::time::timeout(limit, runner.remove_unit(&unit));
            tokio::pin!(removal);
            loop {
                tokio::select! {
                    removed = &mut removal => return match removed {
                        Ok(Ok(()) | Err(ProvisionError::Gone(_))) => Ok(()),
                        Ok(Err(error)) => Err(error.to_string()),
                        Err(_) => Err("the provisioner timed out removing the unit".into()),
                    },
                    () = tokio::time::sleep(FINAL_LOG_INTERVAL) => this.logs.collect_unit(&unit).await,
                }
            }
        });
    }

    fn spawn_task(&self, unit: UnitId, task: impl Future<Output = Result<(), String>> + Send + 'static) {
        let failures = {
            let mut tasks = self.lock_tasks();
            let entry = tasks.entry(unit.clone()).or_insert_with(|| UnitTask {
                running: false,
                failures: 0,
                retry_at: Instant::now(),
                last_error: String::new(),
            });
            if std::mem::replace(&mut entry.running, true) {
                return;
            }
            entry.failures
        };
        let this = self.clone();
        self.core.work.spawn(async move {
            let done = tokio::select! {
                done = task => done,
                // The next start finds whatever was begun.
                () = this.core.stop.cancelled() => return,
            };
            match done {
                Ok(()) => drop(this.lock_tasks().remove(&unit)),
                Err(why) => {
                    tracing::warn!(%unit, failures, error = why, "cannot start or remove a unit");
                    let backoff = Duration::from_millis(500) * 2_u32.saturating_pow(failures.min(10));
                    let failed = UnitTask {
                        running: false,
                        failures: failures + 1,
                        retry_at: Instant::now() + backoff.min(MAX_BACKOFF),
                        last_error: why,
                    };
                    this.lock_tasks().insert(unit, failed);
                }
            }
            this.wakeup.notify_one();
        });
    }
}

/// Logs an error and returns its message for users.
fn log_and_describe(unit: &UnitId, error: &Error) -> String {
    tracing::warn!(%unit, error = %error.report(), "cannot build the spec of a unit");
    error.message().to_owned()
}

/// Builds the spec of a unit; `None` if the unit is not desired any more.
async fn build_spec(core: &Core, unit: &UnitId) -> Result<Option<UnitSpec>, Error> {
    let Some(row) = store::find_spec(&core.db, unit.as_str()).await? else {
        return Ok(None);
    };
    let yaml: TsuruYaml = serde_json::from_value(row.yaml).map_err(Error::internal)?;
    let mut env = releases::load_environment(core, row.release_id).await?;
    set_process_env(&mut env, &row.process, row.version)?;
    Ok(Some(UnitSpec {
        unit: unit.clone(),
        app: UnitApp {
            id: row.app_id,
            number: row.number,
            name: AppName::parse(&row.app)?,
        },
        process: ProcessName::parse(&row.process)?,
        version: row.version,
        artifact: versions::version_artifact(core, row.holder, row.image.as_deref())?,
        before: yaml.hooks.restart.before,
        command: row.command,
        after: yaml.hooks.restart.after,
        env,
        memory_bytes: row.memory_bytes.try_into().unwrap_or(0),
        cpu_milli: row.cpu_milli.try_into().unwrap_or(0),
        grace: core.settings.apps.stop_grace,
        restart: RestartPolicy::Always,
        volumes: volumes::list_release_mounts(core, row.release_id).await?,
    }))
}

/// Sets the variables that name the process and the version of a unit.
pub fn set_process_env(env: &mut Vec<(EnvName, Secret)>, process: &str, version: i32) -> Result<(), Error> {
    set_env_var(env, "TSURU_PROCESSNAME", process)?;
    set_env_var(env, "TSURU_APPVERSION", &version.to_string())
}

fn set_env_var(env: &mut Vec<(EnvName, Secret)>, name: &str, value: &str) -> Result<(), Error> {
    env.retain(|(n, _)| n.as_str() != name);
    env.push((EnvName::parse(name)?, Secret::new(value)));
    Ok(())
}
