//! How a unit is started: the lock is taken, its last life is cleared away, and a shim gets both the
//! lock and the spec.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tokio::process::Command;

use super::folder::{Folder, Lock, State};
use super::handover::Handover;
use super::{LocalSettings, PATIENCE, ProvisionError, UnitId, UnitSpec};

/// Takes the lock of a unit that is to be started; `None` if it runs already.
fn claim(folder: &Folder, unit: &UnitId) -> Result<Option<Lock>, ProvisionError> {
    let refused = |error: io::Error| {
        ProvisionError::Transient(format!("The folder of the unit {unit} cannot be used: {error}."))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        folder.create().map_err(refused)?;
        match folder.try_lock() {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) => {
                let runs = |state: State| !state.stopping && state.living_shim().is_some();
                if folder.read_state().is_ok_and(runs) {
                    return Ok(None);
                }
            }
            // Removed under our hands.
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
pub(super) fn start(settings: &LocalSettings, spec: &UnitSpec) -> Result<(), ProvisionError> {
    if spec.user.is_some_and(|user| user != Uid::effective().as_raw()) && !Uid::effective().is_root() {
        return Err(ProvisionError::Permanent(
            "Units can have users of their own only if Tancho is started by root.".into(),
        ));
    }
    let folder = Folder::of(&settings.root, &spec.unit);
    let Some(lock) = claim(&folder, &spec.unit)? else {
        return Ok(());
    };
    if let Ok(left) = folder.read_state() {
        left.sweep();
    }
    let refused = |error: io::Error| {
        ProvisionError::Transient(format!("The unit {} cannot be started: {error}.", spec.unit))
    };
    folder.write_state(&State::new(spec)).map_err(refused)?;
    spawn_shim(settings, spec, &folder, lock).map_err(refused)?;
    // The lock is the shim's now: either it says that it is there, or the lock falls.
    let deadline = Instant::now() + PATIENCE;
    loop {
        if folder.read_state().is_ok_and(|state| state.shim.is_some()) {
            return Ok(());
        }
        if !folder.is_locked() {
            return Err(ProvisionError::Transient(format!(
                "The unit {} cannot be started: its shim ended at once.",
                spec.unit
            )));
        }
        if Instant::now() > deadline {
            // It is slow, not gone.
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn spawn_shim(settings: &LocalSettings, spec: &UnitSpec, folder: &Folder, lock: Lock) -> io::Result<()> {
    let last_words = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(folder.path().join("shim.log"))?;
    let mut command = Command::new(&settings.exe);
    command
        .arg0("tancho")
        .arg("unit-shim")
        .arg(folder.path())
        .env_clear()
        .current_dir("/")
        .stdin(Handover::new(spec, &settings.bounds, settings.cgroup.clone()).write()?)
        .stdout(lock.into_file())
        .stderr(last_words);
    // Dropped, not killed: the runtime reaps it if it ends in our lifetime.
    command.spawn().map(drop)
}
