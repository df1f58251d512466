//! The slow part of a round: provisioners are asked in the background, a bounded number at once, so that
//! one unit that will not end keeps nobody waiting.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use crate::builders::{Process, TsuruYaml};
use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::provisioners::{ProvisionError, Provisioner, UnitId, UnitSpec};
use crate::releases;
use crate::units::logs::Taker;
use crate::units::store;

/// Starts at once.
const STARTS: usize = 8;
/// Removals at once.
const REMOVALS: usize = 32;
/// For a provisioner to accept a unit.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Beyond the grace, for a provisioner to remove a unit.
const REMOVE_EXTRA: Duration = Duration::from_secs(30);
/// The longest rest between tries of what fails.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Where the files of a version are.
pub fn version_dir(core: &Core, app: AppId, version: i32) -> PathBuf {
    let versions = core.dirs.versions();
    versions.join(app.to_string()).join(version.to_string())
}

/// What is being done about a unit.
#[derive(Clone, Debug)]
struct Work {
    running: bool,
    failures: u32,
    rests_until: Instant,
    why: String,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Works {
    core: Core,
    logs: Arc<Taker>,
    works: Arc<Mutex<HashMap<UnitId, Work>>>,
    starts: Arc<Semaphore>,
    removals: Arc<Semaphore>,
    /// Told whenever something ends.
    nudge: Arc<Notify>,
}

impl Works {
    pub(super) fn new(core: Core, logs: Arc<Taker>, nudge: Arc<Notify>) -> Self {
        Self {
            core,
            logs,
            works: Arc::default(),
            starts: Arc::new(Semaphore::new(STARTS)),
            removals: Arc::new(Semaphore::new(REMOVALS)),
            nudge,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UnitId, Work>> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is under way, or rests after a failure.
    pub(super) fn is_busy(&self, unit: &UnitId) -> bool {
        let now = Instant::now();
        self.lock()
            .get(unit)
            .is_some_and(|work| work.running || work.rests_until > now)
    }

    /// Something is under way, or is to be tried again.
    pub(super) fn is_any_busy(&self) -> bool {
        !self.lock().is_empty()
    }

    /// All units that are busy right now.
    pub(super) fn busy(&self) -> HashSet<UnitId> {
        let now = Instant::now();
        let works = self.lock();
        let busy = works.iter().filter(|(_, w)| w.running || w.rests_until > now);
        busy.map(|(id, _)| id.clone()).collect()
    }

    /// Why the last try failed.
    pub(super) fn failure(&self, unit: &UnitId) -> Option<String> {
        let works = self.lock();
        works.get(unit).filter(|w| w.failures > 0).map(|w| w.why.clone())
    }

    /// Starts a unit whose row is written.
    pub(super) fn ensure(&self, provisioner: Arc<dyn Provisioner>, unit: UnitId) {
        let works = self.clone();
        self.spawn(unit.clone(), async move {
            let _permit = works.starts.acquire().await;
            let Some(spec) = spec(&works.core, &unit).await.map_err(|p| told(&unit, &p))? else {
                return Ok(());
            };
            match tokio::time::timeout(START_TIMEOUT, provisioner.ensure(&spec)).await {
                Ok(done) => done.map_err(|e| e.to_string()),
                Err(_) => Err("the provisioner took too long to start it".into()),
            }
        });
    }

    /// Ends a unit; what it has to say until then is kept.
    pub(super) fn remove(&self, provisioner: Arc<dyn Provisioner>, unit: UnitId) {
        let works = self.clone();
        self.spawn(unit.clone(), async move {
            let _permit = works.removals.acquire().await;
            works.logs.take_one(&unit).await;
            let limit = works.core.settings.apps.stop_grace + REMOVE_EXTRA;
            let removal = tokio::time::timeout(limit, provisioner.remove(&unit));
            tokio::pin!(removal);
            loop {
                tokio::select! {
                    removed = &mut removal => return match removed {
                        Ok(Ok(()) | Err(ProvisionError::Gone(_))) => Ok(()),
                        Ok(Err(error)) => Err(error.to_string()),
                        Err(_) => Err("the provisioner took too long to end it".into()),
                    },
                    () = tokio::time::sleep(Duration::from_millis(100)) => works.logs.take_one(&unit).await,
                }
            }
        });
    }

    fn spawn(&self, unit: UnitId, task: impl Future<Output = Result<(), String>> + Send + 'static) {
        let failures = {
            let mut works = self.lock();
            let work = works.entry(unit.clone()).or_insert_with(|| Work {
                running: false,
                failures: 0,
                rests_until: Instant::now(),
                why: String::new(),
            });
            if std::mem::replace(&mut work.running, true) {
                return;
            }
            work.failures
        };
        let works = self.clone();
        self.core.tasks.spawn(async move {
            let done = tokio::select! {
                done = task => done,
                // Whatever was begun is found again by the next start.
                () = works.core.stop.cancelled() => return,
            };
            match done {
                Ok(()) => drop(works.lock().remove(&unit)),
                Err(why) => {
                    tracing::warn!(%unit, failures, why, "a unit could not be started or ended");
                    let rest = Duration::from_millis(500) * 2_u32.saturating_pow(failures.min(10));
                    let work = Work {
                        running: false,
                        failures: failures + 1,
                        rests_until: Instant::now() + rest.min(LONGEST_REST),
                        why,
                    };
                    works.lock().insert(unit, work);
                }
            }
            works.nudge.notify_one();
        });
    }
}

/// The words of a problem, for people; all of it goes to the log.
fn told(unit: &UnitId, problem: &Problem) -> String {
    tracing::warn!(%unit, problem = %problem.chain(), "a unit's spec cannot be made");
    problem.words().to_owned()
}

/// What a unit should be; `None` when it should not be any more.
async fn spec(core: &Core, unit: &UnitId) -> Result<Option<UnitSpec>, Problem> {
    let Some(row) = store::find_spec(&core.db, unit.as_str()).await? else {
        return Ok(None);
    };
    let processes: Vec<Process> = serde_json::from_value(row.processes).map_err(Problem::internal)?;
    let yaml: TsuruYaml = serde_json::from_value(row.yaml).map_err(Problem::internal)?;
    let Some(process) = processes.into_iter().find(|p| p.name.as_str() == row.process) else {
        return Ok(None);
    };
    let mut env = releases::environment(core, row.release_id).await?;
    set(&mut env, "TSURU_PROCESSNAME", &row.process)?;
    set(&mut env, "TSURU_APPVERSION", &row.version.to_string())?;
    Ok(Some(UnitSpec {
        unit: unit.clone(),
        app: AppName::parse(&row.app)?,
        process: ProcessName::parse(&row.process)?,
        version: row.version,
        dir: version_dir(core, row.app_id, row.version),
        before: yaml.hooks.restart.before,
        command: process.command,
        after: yaml.hooks.restart.after,
        env,
        memory_bytes: row.memory_bytes.try_into().unwrap_or(0),
        cpu_milli: row.cpu_milli.try_into().unwrap_or(0),
        user: user(core.settings.local.first_uid, row.number),
        grace: core.settings.apps.stop_grace,
    }))
}

fn set(env: &mut Vec<(EnvName, Secret)>, name: &str, value: &str) -> Result<(), Problem> {
    env.retain(|(n, _)| n.as_str() != name);
    env.push((EnvName::parse(name)?, Secret::new(value)));
    Ok(())
}

/// Who runs the units of an app: a user of its own, if we may choose.
pub fn user(first_uid: u32, number: i32) -> Option<u32> {
    (first_uid > 0 && nix::unistd::geteuid().is_root())
        .then(|| first_uid.saturating_add(number.unsigned_abs()))
}
