//! The local provisioner: units are processes of this host.
//!
//! Each unit has a folder and, while it runs, a *shim*: this same binary, re-executed, in a session of
//! its own. The shim owns the unit's processes, log and exit status, and needs nothing of us. So
//! Tancho may be restarted or killed and no unit stops; the next one reads the folders and adopts them.
//!
//! A held lock in the folder is the proof that a shim lives, `state.json` beside it is what the shim
//! has to say. There is no other registry. The spec, with its secrets, stays in memory: see `handover`.
//! A unit's own code runs below a last step (`confine::stage`) that drops every privilege and shuts it in.
//!
//! If a shim is killed, its unit dies with it; reports say so, and the next `ensure` starts it anew.
//! A service manager that kills Tancho's whole cgroup on restart (systemd, unless `KillMode=process`)
//! kills the units too.

mod bounds;
mod cgroup;
mod exec;
mod family;
mod folder;
mod handover;
mod launch;
mod log;
mod proc;
mod scratch;
pub mod shim;
mod start;
mod waiting;
mod watch;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{
    AppName, EnvName, ExecRequest, LogLine, LogPosition, LogStream, ProcessName, ProvisionError, Provisioner,
    Secret, Session, UnitId, UnitReport, UnitSpec, UnitState,
};
pub use bounds::Bounds;
use folder::{Folder, Lock, State};

/// Beside the folders of units: shims lock a byte of it for each port they use.
const PORTS: &str = ".ports";
/// How long another's work on the same unit, or the start of a shim, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after the grace a unit is given up.
const EXTRA: Duration = Duration::from_secs(2);

/// Where and how the local provisioner works.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// The folder of the units' folders. Its parents must let the units' users pass.
    pub root: PathBuf,
    /// The executable with the sub-commands `unit-shim` and `unit-exec`; `/proc/self/exe` is this very
    /// one, even after its file was replaced.
    pub exe: PathBuf,
    /// The cgroup below which units get theirs; `None` = Tancho's own.
    pub cgroup: Option<PathBuf>,
    /// What binds every unit.
    pub bounds: Bounds,
}

impl LocalSettings {
    /// Units in this folder, run by this very executable, and bound by nothing but their specs.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            exe: "/proc/self/exe".into(),
            cgroup: None,
            bounds: Bounds::default(),
        }
    }
}

/// See the module.
pub struct Local {
    settings: Arc<LocalSettings>,
    changes: tokio::sync::watch::Sender<u64>,
}

impl Local {
    /// Opens the root, makes it if need be, and looks for changes there until `stop`. Call it inside a runtime.
    pub fn new(
        mut settings: LocalSettings,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, ProvisionError> {
        let opened = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&settings.root)
            .and_then(|()| settings.root.canonicalize())
            .and_then(|root| folder::tidy(&root).map(|()| root));
        settings.root = opened.map_err(|error| {
            ProvisionError::Permanent(format!(
                "The folder {} cannot be used for units: {error}.",
                settings.root.display()
            ))
        })?;
        let missing = settings.bounds.confinement.missing();
        if !missing.is_empty() {
            tracing::warn!(
                missing = missing.join(" and "),
                "this machine's kernel cannot shut units in as the settings wish; they run without it"
            );
        }
        let changes = tokio::sync::watch::Sender::new(0);
        tracker.spawn(watch::look(settings.root.clone(), changes.clone(), stop));
        Ok(Self {
            settings: Arc::new(settings),
            changes,
        })
    }

    /// Stops every unit of the root at the same time and waits for them; what has not ended after
    /// `grace` (or its own, if shorter) is killed. Folders and logs stay. Errors: of the first unit
    /// that would not end, after all others were stopped.
    pub async fn stop_all(&self, grace: Duration) -> Result<(), ProvisionError> {
        let root = self.settings.root.clone();
        let units = on_disk(move || folder::units(&root)).await?;
        let stops = units
            .iter()
            .map(|unit| async move { self.stop(unit, Some(grace)).await.map(drop) });
        futures_util::future::join_all(stops).await.into_iter().collect()
    }

    fn folder(&self, unit: &UnitId) -> Folder {
        Folder::of(&self.settings.root, unit)
    }

    /// Stops the unit and returns its lock; `None` if it has no folder.
    async fn stop(&self, unit: &UnitId, grace: Option<Duration>) -> Result<Option<Lock>, ProvisionError> {
        let began = Instant::now();
        let mut asked: u8 = 0;
        let mut pause = Duration::from_millis(10);
        let mut deadline = began + PATIENCE;
        loop {
            let folder = self.folder(unit);
            let step = move || -> io::Result<Stopping> {
                if !folder.exists() {
                    return Ok(Stopping::Gone);
                }
                match folder.try_lock() {
                    Ok(Some(lock)) => Ok(Stopping::Ended(lock, folder.read_state().ok())),
                    Ok(None) => Ok(Stopping::Runs(folder.read_state().ok())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stopping::Gone),
                    Err(error) => Err(error),
                }
            };
            match on_disk(step).await? {
                Stopping::Gone => return Ok(None),
                Stopping::Ended(lock, state) => {
                    let folder = self.folder(unit);
                    return on_disk(move || Ok(Some(bury(&folder, lock, state)))).await;
                }
                Stopping::Runs(state) => {
                    let now = Instant::now();
                    if let Some((shim, state)) = state.and_then(|state| Some((state.living_shim()?, state))) {
                        let grace = grace.map_or(state.grace, |grace| grace.min(state.grace));
                        // First nicely, then at once, then by force: the lock falls with the shim.
                        if asked == 0 {
                            asked = 1;
                            deadline = now + grace;
                            shim.signal(Signal::SIGTERM);
                        } else if asked == 1 && now > deadline && grace < state.grace {
                            asked = 2;
                            deadline = now;
                            shim.signal(Signal::SIGQUIT);
                        } else if now > deadline + EXTRA {
                            shim.signal(Signal::SIGKILL);
                        }
                    }
                    if now > deadline + 2 * EXTRA {
                        return Err(ProvisionError::Transient(format!(
                            "The unit {unit} does not end; try again."
                        )));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(200));
        }
    }
}

enum Stopping {
    Gone,
    Ended(Lock, Option<State>),
    Runs(Option<State>),
}

/// Work on files, away from the threads that must not wait.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ProvisionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ProvisionError::Transient(format!("The host refused: {error}."))),
        Err(_) => Err(ProvisionError::Transient(
            "The work was interrupted; try again.".into(),
        )),
    }
}

fn gone(unit: &UnitId) -> ProvisionError {
    ProvisionError::Gone(format!("The unit {unit} does not run here."))
}

/// Sees to what a shim that died left behind, and writes down that its unit is stopped.
fn bury(folder: &Folder, lock: Lock, state: Option<State>) -> Lock {
    if let Some(mut state) = state.filter(|state| state.state != UnitState::Stopped) {
        state.sweep();
        let rebooted = state.boot != proc::boot();
        state.reason = Some(if rebooted {
            "the host was started anew".to_owned()
        } else if state.shim.is_none() {
            "could not be started: its shim did not come up".to_owned()
        } else {
            "its shim was killed".to_owned()
        });
        (state.state, state.child) = (UnitState::Stopped, None);
        let _seen_again_next_time = folder.write_state(&state);
    }
    lock
}

/// What one folder has to tell; `None` if it is no unit's, or gone.
fn look_at(folder: &Folder) -> Option<UnitReport> {
    // Asked before the state is read: a shim that ends in between has written its last state first.
    let alive = folder.is_locked();
    let state = folder.read_state().ok()?;
    if alive || state.state == UnitState::Stopped {
        return Some(state.report());
    }
    match folder.try_lock() {
        Ok(Some(lock)) => {
            let state = folder.read_state().ok();
            drop(bury(folder, lock, state));
        }
        // Somebody is starting it, or removing it.
        Ok(None) => {}
        Err(_) => return None,
    }
    folder.read_state().ok().map(State::report)
}

#[async_trait::async_trait]
impl Provisioner for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn ensure(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        let (settings, spec) = (Arc::clone(&self.settings), spec.clone());
        on_disk(move || Ok(start::start(&settings, &spec))).await?
    }

    async fn remove(&self, unit: &UnitId) -> Result<(), ProvisionError> {
        if let Some(lock) = self.stop(unit, None).await? {
            let (root, folder) = (self.settings.root.clone(), self.folder(unit));
            on_disk(move || folder.delete(&root, lock)).await?;
        }
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<UnitReport>, ProvisionError> {
        let root = self.settings.root.clone();
        on_disk(move || {
            let units = folder::units(&root)?;
            Ok(units
                .iter()
                .filter_map(|unit| look_at(&Folder::of(&root, unit)))
                .collect())
        })
        .await
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn read_log(
        &self,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        let (folder, unit) = (self.folder(unit), unit.clone());
        on_disk(move || {
            if !folder.exists() {
                return Ok(Err(gone(&unit)));
            }
            log::read(folder.path(), from, max_lines).map(Ok)
        })
        .await?
    }

    async fn exec(&self, unit: &UnitId, request: &ExecRequest) -> Result<Session, ProvisionError> {
        let (settings, folder) = (Arc::clone(&self.settings), self.folder(unit));
        let (unit, request) = (unit.clone(), request.clone());
        on_disk(move || Ok(exec::exec(&folder, &settings.exe, &unit, &request))).await?
    }
}
