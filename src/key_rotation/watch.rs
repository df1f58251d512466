//! Follows the keys in a replica: reads the file again, encrypts with the current key of the database, and
//! records which keys the replica has.

use std::time::Duration;

use crate::core::Core;
use crate::db::Db;
use crate::db::notices::NoticeChannel;
use crate::kernel::encryption::Keyring;
use crate::kernel::error::Error;
use crate::key_rotation::key_source::KeySource;
use crate::key_rotation::store;

/// The polling interval without a notice; a fraction of the time after which a replica counts as gone.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// Determines the current key before anything is encrypted or decrypted; the first replica of all sets it.
/// Errors: `Precondition` if this machine does not have it, or has another key of that number than other machines.
pub async fn check_keys(db: &Db, keys: &Keyring) -> Result<(), Error> {
    check_key_digests(db, keys).await?;
    let current = store::find_or_set_current(db, keys.current_id()).await?;
    if !keys.select_key(current) {
        return Err(Error::precondition(format!(
            "The database is encrypted with key {current}, which this machine does not have (it has {:?}): copy the \
             key file of another machine, or of a backup, to this one.",
            keys.key_ids()
        )));
    }
    Ok(())
}

/// Each machine that starts without a key file creates one, whose key has the number 1.
async fn check_key_digests(db: &Db, keys: &Keyring) -> Result<(), Error> {
    let other = store::record_key_digests(db, &keys.key_digests()).await?;
    if other.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "This machine has another encryption key of the number {other:?} than the servers of this database: copy the \
         key file of another machine, or of a backup, to this one."
    )))
}

/// Registers the replica, after `check_keys`.
pub async fn register_replica(core: &Core) -> Result<(), Error> {
    check_keys(&core.db, &core.keys).await?;
    report_keys(core).await
}

async fn report_keys(core: &Core) -> Result<(), Error> {
    let (ids, current) = (core.keys.key_ids(), core.keys.current_id());
    Ok(store::record_replica_keys(&core.db, core.replica, &core.host, &ids, current).await?)
}

/// Follows the keys until the server stops.
pub async fn watch_keys(core: Core) {
    let source = KeySource::new(&core.settings.secrets, &core.data_dir);
    let mut notices = core.notices.subscribe();
    loop {
        if let Err(error) = reload_keys(&core, &source).await {
            tracing::warn!(error = %error.report(), "cannot update the encryption keys; keeping the loaded ones");
        }
        tokio::select! {
            _ = notices.wait_for_notice(&[NoticeChannel::Keys], CHECK_INTERVAL) => {}
            () = core.stop.cancelled() => break,
        }
    }
    // Rotations need not wait for a replica that has unregistered; for a crashed one they wait until its
    // timeout.
    let _ = store::remove_replica(&core.db, core.replica).await;
}

async fn reload_keys(core: &Core, source: &KeySource) -> Result<(), Error> {
    let current = store::find_or_set_current(&core.db, core.keys.current_id()).await?;
    let read = source.clone();
    let fresh = tokio::task::spawn_blocking(move || read.load_keyring())
        .await
        .map_err(Error::internal)?;
    // An error in the file is returned at the end: the keys that are loaded are recorded all the same.
    let taken = match fresh {
        Ok(fresh) => replace_keys(core, &fresh, current).await,
        Err(error) => Err(error),
    };
    if taken.is_err() {
        core.keys.select_key(current);
    }
    report_keys(core).await?;
    taken
}

async fn replace_keys(core: &Core, fresh: &Keyring, current: u32) -> Result<(), Error> {
    if !fresh.select_key(current) {
        return Err(Error::precondition(format!(
            "Key {current}, the current key, is not in the key file."
        )));
    }
    check_key_digests(&core.db, fresh).await?;
    core.keys.replace_keys(fresh);
    Ok(())
}
