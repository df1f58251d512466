//! `tancho upgrade`: asks the running process to hand over to this program.

use std::path::Path;
use std::time::Duration;

use crate::commands::handover::messages::{HandoverReply, HandoverRequest, MessageStream};
use crate::commands::handover::successor::connect_owner;
use crate::datadir::DataDir;
use crate::kernel::error::Error;

/// A process that has just taken over listens in a moment.
const CONNECT_RETRY: Duration = Duration::from_millis(50);
const CONNECT_RETRIES: u32 = 100;

/// Replaces the process that runs on a data folder; returns what to print. Errors: `Conflict` with the reason if that
/// process goes on, `Unavailable` if there is none.
pub(crate) async fn run_upgrade(data_dir: &Path) -> Result<String, Error> {
    let program = std::env::current_exe().map_err(Error::internal)?;
    let mut connection = connect_running(data_dir).await?;
    let request = HandoverRequest::Upgrade { program };
    connection.send(&request, &[]).await.map_err(Error::internal)?;
    // The running process sets the limit of time.
    match connection.receive().await.map_err(Error::internal)? {
        Some(HandoverReply::Upgraded {
            from,
            to,
            version,
            drain_seconds,
        }) => Ok(format!(
            "tancho upgraded version={version} pid={to}: process {from} ends when its last clients have, in {drain_seconds} \
             seconds at most"
        )),
        Some(HandoverReply::Refused { reason }) => Err(Error::conflict(format!(
            "Nothing has changed, and the running Tancho goes on: {reason}"
        ))),
        _ => Err(Error::unavailable(
            "The running Tancho has ended during the upgrade; start it with `tancho`.",
        )),
    }
}

async fn connect_running(data_dir: &Path) -> Result<MessageStream, Error> {
    for _ in 0..CONNECT_RETRIES {
        if let Some(connection) = connect_owner(data_dir).await? {
            return Ok(connection);
        }
        if !is_owned(data_dir) {
            return Err(Error::unavailable(format!(
                "No Tancho is running on the data folder {}; start it with `tancho`.",
                data_dir.display()
            )));
        }
        tokio::time::sleep(CONNECT_RETRY).await;
    }
    Err(Error::conflict(format!(
        "The Tancho on the data folder {} is of a version that cannot hand over, or is not ready: stop it with SIGTERM, \
         and start this one.",
        data_dir.display()
    )))
}

/// True if a process has the lock of the folder.
fn is_owned(data_dir: &Path) -> bool {
    DataDir::open_unlocked(data_dir).is_ok_and(|dir| dir.acquire_lock().is_err())
}
