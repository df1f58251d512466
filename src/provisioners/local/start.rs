//! Starts a unit: takes the lock, cleans up its last run, and starts a shim with the lock and the spec.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tokio::process::Command;

use super::folder::{ShimState, UnitFolder, UnitLock};
use super::spec_transfer::ShimSpec;
use super::{LOCK_TIMEOUT, LocalRunnerConfig, ProvisionError, RestartPolicy, UnitId, UnitSpec};

/// Takes the lock of a unit to start; `None` if it runs already.
fn claim_unit(folder: &UnitFolder, unit: &UnitId) -> Result<Option<UnitLock>, ProvisionError> {
    let refused = |error: io::Error| {
        ProvisionError::Transient(format!("The folder of the unit {unit} cannot be used: {error}."))
    };
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        folder.create_dir().map_err(refused)?;
        match folder.try_lock() {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) => {
                let runs = |state: ShimState| !state.stopping && state.live_shim().is_some();
                if folder.read_state().is_ok_and(runs) {
                    return Ok(None);
                }
            }
            // The folder was removed concurrently.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused(error)),
        }
        if Instant::now() > deadline {
            return Err(ProvisionError::Transient(format!(
                "The unit {unit} is still stopping; try again."
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Starts the unit, unless it runs already. Blocks.
pub(super) fn start_unit(settings: &LocalRunnerConfig, spec: &UnitSpec) -> Result<(), ProvisionError> {
    let spec = ShimSpec::new(spec, settings)?;
    if spec.user.is_some_and(|user| user != Uid::effective().as_raw()) && !Uid::effective().is_root() {
        return Err(ProvisionError::Permanent(
            "Units can have users of their own only if Tancho is started by root.".into(),
        ));
    }
    let folder = UnitFolder::for_unit(&settings.root, &spec.unit);
    let Some(lock) = claim_unit(&folder, &spec.unit)? else {
        return Ok(());
    };
    if let Ok(left) = folder.read_state() {
        // A shim was started for it once: what is left of that is reported as it ended.
        if spec.restart == RestartPolicy::Never && left.shim.is_some() {
            return Ok(());
        }
        left.kill_leftovers();
    }
    let refused = |error: io::Error| {
        ProvisionError::Transient(format!("The unit {} cannot be started: {error}.", spec.unit))
    };
    folder.write_state(&ShimState::new(&spec)).map_err(refused)?;
    spawn_shim(&settings.exe, &spec, &folder, lock).map_err(refused)?;
    // The shim holds the lock now: either it writes that it is alive, or the lock is released.
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        if folder.read_state().is_ok_and(|state| state.shim.is_some()) {
            return Ok(());
        }
        if !folder.is_locked() {
            return Err(ProvisionError::Transient(format!(
                "The unit {} cannot be started: its shim exited immediately.",
                spec.unit
            )));
        }
        if Instant::now() > deadline {
            // It is slow, not dead.
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn spawn_shim(exe: &Path, spec: &ShimSpec, folder: &UnitFolder, lock: UnitLock) -> io::Result<()> {
    let last_words = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(folder.path().join("shim.log"))?;
    let mut command = Command::new(exe);
    command
        .arg0("tancho")
        .arg("unit-shim")
        .arg(folder.path())
        .env_clear()
        .current_dir("/")
        .stdin(spec.write_memfd()?)
        .stdout(lock.into_file())
        .stderr(last_words);
    // Dropped, not killed: the runtime reaps it if it exits while this process lives.
    command.spawn().map(drop)
}
