//! The local provisioner: units are processes of this host.
//!
//! Folders, uids and pids are known here only. A unit runs in the folder that its version has on this host, as
//! the uid of its app; both rules are given (`LocalRunnerConfig`).
//!
//! Each unit has a folder and, while it runs, a *shim*: this same binary, executed again, in its own session.
//! The shim owns the unit's processes, log and exit status, and does not depend on Tancho. So Tancho may be
//! restarted or killed without stopping a unit; the next process reads the folders and takes the units over.
//!
//! A held lock in the folder proves that the shim is alive, and `state.json` beside it is what the shim
//! reports. There is no other registry. The spec, with its secrets, stays in memory: see `spec_transfer`. The
//! unit's own code is started by `sandbox::exec_stage`, which drops every privilege and applies the sandbox.
//!
//! If a shim is killed, its unit dies with it; its report says so, and the next `ensure_unit` starts it
//! again. A service manager that kills Tancho's whole cgroup on restart (systemd, unless `KillMode=process`)
//! kills the units too.

mod config;
mod exec;
mod folder;
mod folder_poll;
mod launch;
mod limits;
mod log;
mod processes;
mod scratch_limit;
pub mod shim;
mod shim_events;
mod spec_transfer;
mod start;
mod terminal;
mod usage;
mod volume_limit;
mod volumes;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{
    ExecProgram, ExecRequest, ExecSession, ExecStreams, ExecTerminal, LogLine, LogPosition, LogStream,
    ProvisionError, ResizeTerminal, RestartPolicy, Runner, TerminalSize, UnitId, UnitReport, UnitRunner,
    UnitSpec, UnitState,
};
use crate::kernel::ids::VolumeId;
use crate::sandbox::proc;
pub use config::{LocalRunnerConfig, open_runner};
use folder::{ShimState, UnitFolder, UnitLock};
pub use limits::UnitLimits;

/// Beside the folders of units: shims lock one byte of it for each port that they use.
const PORTS_FILE: &str = ".ports";
/// How long a concurrent operation on the same unit, or the start of a shim, may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long after the grace period `stop_unit` waits before the next signal or before it fails.
const KILL_MARGIN: Duration = Duration::from_secs(2);

/// See the module.
pub struct LocalRunner {
    settings: Arc<LocalRunnerConfig>,
    changes: tokio::sync::watch::Sender<u64>,
}

impl LocalRunner {
    /// Opens the root, creating it if necessary, and watches it for changes until `stop`. Must be called
    /// inside a runtime.
    pub fn new(
        mut settings: LocalRunnerConfig,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, ProvisionError> {
        let opened = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&settings.root)
            .and_then(|()| settings.root.canonicalize())
            .and_then(|root| folder::finish_deletions(&root).map(|()| root));
        if settings.volumes.is_dir() {
            let _later = folder::finish_deletions(&settings.volumes);
        }
        settings.root = opened.map_err(|error| {
            ProvisionError::Permanent(format!(
                "The folder {} cannot be used for units: {error}.",
                settings.root.display()
            ))
        })?;
        let confinement = &mut settings.limits.confinement;
        let mut missing = confinement.list_unsupported();
        let requested = confinement.namespaces;
        *confinement = confinement.clone().with_probed_namespaces(&settings.exe);
        if requested && !confinement.namespaces {
            missing.push("namespaces");
        }
        if !missing.is_empty() {
            tracing::warn!(
                missing = missing.join(" and "),
                "this machine lacks isolation that the settings require; units run without it"
            );
        }
        let changes = tokio::sync::watch::Sender::new(0);
        tracker.spawn(volume_limit::measure_volumes(
            settings.volumes.clone(),
            stop.clone(),
        ));
        tracker.spawn(folder_poll::poll_folders(
            settings.root.clone(),
            changes.clone(),
            stop,
        ));
        Ok(Self {
            settings: Arc::new(settings),
            changes,
        })
    }

    fn unit_folder(&self, unit: &UnitId) -> UnitFolder {
        UnitFolder::for_unit(&self.settings.root, unit)
    }

    /// Stops the unit and returns its lock; `None` if it has no folder.
    async fn stop_unit(
        &self,
        unit: &UnitId,
        grace: Option<Duration>,
    ) -> Result<Option<UnitLock>, ProvisionError> {
        let began = Instant::now();
        let mut signals_sent: u8 = 0;
        let mut pause = Duration::from_millis(10);
        let mut deadline = began + LOCK_TIMEOUT;
        loop {
            let folder = self.unit_folder(unit);
            let step = move || -> io::Result<StopPhase> {
                if !folder.exists() {
                    return Ok(StopPhase::Gone);
                }
                match folder.try_lock() {
                    Ok(Some(lock)) => Ok(StopPhase::Ended(lock, folder.read_state().ok())),
                    Ok(None) => Ok(StopPhase::Runs(folder.read_state().ok())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(StopPhase::Gone),
                    Err(error) => Err(error),
                }
            };
            match run_blocking(step).await? {
                StopPhase::Gone => return Ok(None),
                StopPhase::Ended(lock, state) => {
                    let folder = self.unit_folder(unit);
                    return run_blocking(move || Ok(Some(mark_dead(&folder, lock, state)))).await;
                }
                StopPhase::Runs(state) => {
                    let now = Instant::now();
                    if let Some((shim, state)) = state.and_then(|state| Some((state.live_shim()?, state))) {
                        let grace = grace.map_or(state.grace, |grace| grace.min(state.grace));
                        // First SIGTERM, then an immediate stop, then SIGKILL: the lock is released when the
                        // shim ends.
                        if signals_sent == 0 {
                            signals_sent = 1;
                            deadline = now + grace;
                            shim.send_signal(Signal::SIGTERM);
                        } else if signals_sent == 1 && now > deadline && grace < state.grace {
                            signals_sent = 2;
                            deadline = now;
                            shim.send_signal(Signal::SIGQUIT);
                        } else if now > deadline + KILL_MARGIN {
                            shim.send_signal(Signal::SIGKILL);
                        }
                    }
                    if now > deadline + 2 * KILL_MARGIN {
                        return Err(ProvisionError::Transient(format!(
                            "The unit {unit} did not stop in time; try again."
                        )));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(200));
        }
    }
}

enum StopPhase {
    Gone,
    Ended(UnitLock, Option<ShimState>),
    Runs(Option<ShimState>),
}

/// Runs file operations on a thread that may block.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ProvisionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ProvisionError::Transient(format!(
            "File operation failed: {error}."
        ))),
        Err(_) => Err(ProvisionError::Transient(
            "The operation was interrupted; try again.".into(),
        )),
    }
}

fn unit_gone(unit: &UnitId) -> ProvisionError {
    ProvisionError::Gone(format!("The unit {unit} is not running on this host."))
}

/// Kills what a dead shim left behind, and records its unit as stopped.
fn mark_dead(folder: &UnitFolder, lock: UnitLock, state: Option<ShimState>) -> UnitLock {
    if let Some(mut state) = state.filter(|state| state.state != UnitState::Stopped) {
        state.kill_leftovers();
        let rebooted = state.boot != proc::boot_id();
        state.reason = Some(if rebooted {
            "the host was rebooted".to_owned()
        } else if state.shim.is_none() {
            "could not be started: its shim did not start".to_owned()
        } else {
            "its shim was killed".to_owned()
        });
        (state.state, state.child) = (UnitState::Stopped, None);
        let _seen_again_next_time = folder.write_state(&state);
    }
    lock
}

/// Reads the report of one folder; `None` if the folder is gone, or its holder has not written a state yet.
fn read_report(folder: &UnitFolder, unit: &UnitId) -> Option<UnitReport> {
    // Checked before the state is read: a shim that ends in between has written its last state first.
    let alive = folder.is_locked();
    let state = folder.read_state().ok();
    if let Some(state) = state.filter(|state| alive || state.state == UnitState::Stopped) {
        return Some(state.into_report());
    }
    match folder.try_lock() {
        Ok(Some(lock)) => {
            let state = folder.read_state().ok();
            let is_readable = state.is_some();
            let _lock = mark_dead(folder, lock, state);
            if !is_readable {
                return Some(abandoned_report(unit));
            }
        }
        // It is being started or removed.
        Ok(None) => {}
        Err(_) => return None,
    }
    folder.read_state().ok().map(ShimState::into_report)
}

/// Reports a folder without a holder whose state cannot be read: its start was killed, or the host went down
/// while the state was written. It is reported so that the unit is started again or removed.
fn abandoned_report(unit: &UnitId) -> UnitReport {
    UnitReport {
        unit: unit.clone(),
        state: UnitState::Stopped,
        address: None,
        restarts: 0,
        reason: Some("its state cannot be read".to_owned()),
        exit: None,
        started_at: None,
    }
}

#[async_trait::async_trait]
impl UnitRunner for LocalRunner {
    async fn ensure_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        let (settings, spec) = (Arc::clone(&self.settings), spec.clone());
        run_blocking(move || Ok(start::start_unit(&settings, &spec))).await?
    }

    async fn remove_unit(&self, unit: &UnitId) -> Result<(), ProvisionError> {
        if let Some(lock) = self.stop_unit(unit, None).await? {
            let (root, folder) = (self.settings.root.clone(), self.unit_folder(unit));
            run_blocking(move || folder.delete_dir(&root, lock)).await?;
        }
        Ok(())
    }

    async fn stop_all_units(&self, grace: Duration) -> Result<(), ProvisionError> {
        let root = self.settings.root.clone();
        let units = run_blocking(move || folder::list_units(&root)).await?;
        let stops = units
            .iter()
            .map(|unit| async move { self.stop_unit(unit, Some(grace)).await.map(drop) });
        futures_util::future::join_all(stops).await.into_iter().collect()
    }

    async fn observe_units(&self) -> Result<Vec<UnitReport>, ProvisionError> {
        let root = self.settings.root.clone();
        run_blocking(move || {
            let units = folder::list_units(&root)?;
            Ok(units
                .iter()
                .filter_map(|unit| read_report(&UnitFolder::for_unit(&root, unit), unit))
                .collect())
        })
        .await
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
        let (folder, unit) = (self.unit_folder(unit), unit.clone());
        run_blocking(move || {
            if !folder.exists() {
                return Ok(Err(unit_gone(&unit)));
            }
            log::read_log_lines(folder.path(), from, max_lines).map(Ok)
        })
        .await?
    }

    async fn exec_in_unit(
        &self,
        unit: &UnitId,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError> {
        let (settings, changes) = (Arc::clone(&self.settings), self.changes.subscribe());
        let (unit, request) = (unit.clone(), request.clone());
        run_blocking(move || Ok(exec::start_exec(&settings, &unit, &request, changes))).await?
    }

    async fn measure_cpu(&self, units: &[UnitId]) -> Result<Vec<(UnitId, Duration)>, ProvisionError> {
        let (root, units) = (self.settings.root.clone(), units.to_vec());
        run_blocking(move || Ok(usage::measure_cpu(&root, &units))).await
    }

    async fn remove_volume(&self, volume: VolumeId) -> Result<(), ProvisionError> {
        let volumes = self.settings.volumes.clone();
        run_blocking(move || volumes::remove_volume(&volumes, volume)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::units::sample_spec;
    use super::spec_transfer::ShimSpec;
    use super::*;

    #[test]
    fn folder_with_unreadable_state_is_reported_unless_its_unit_is_starting() {
        let root = std::env::temp_dir().join(format!("tancho-units-{}", uuid::Uuid::new_v4().simple()));
        let unit = UnitId::parse("left").unwrap();
        let folder = UnitFolder::for_unit(&root, &unit);
        assert!(read_report(&folder, &unit).is_none(), "there is no folder");
        folder.create_dir().unwrap();
        let starting = folder.try_lock().unwrap().unwrap();
        assert!(read_report(&folder, &unit).is_none(), "somebody holds it");
        drop(starting);
        for state in [None, Some(""), Some("{\"unit\":")] {
            if let Some(text) = state {
                fs::write(folder.state_path(), text).unwrap();
            }
            let report = read_report(&folder, &unit).unwrap();
            assert_eq!(
                (report.unit, report.state),
                (unit.clone(), UnitState::Stopped),
                "{state:?}"
            );
        }
        // A readable state takes precedence.
        let config = LocalRunnerConfig::new("/units", "test", |_, _| "/app".into(), |_| None);
        let spec = ShimSpec::new(&sample_spec("left", "true"), &config).unwrap();
        folder.write_state(&ShimState::new(&spec)).unwrap();
        let report = read_report(&folder, &unit).unwrap();
        assert!(report.reason.unwrap().contains("did not start"));
        fs::remove_dir_all(&root).unwrap();
    }
}
