//! Connections: how many there may be, and how long one may stand.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::Disconnect;
use russh::server::{Config, run_stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::core::Core;
use crate::ssh::client::Leash;
use crate::ssh::forward::Replicas;
use crate::ssh::session::{Fault, Session, Status};
use crate::ssh::{HostKey, manner};

/// Connections of one address that have not logged in yet, at most: one client must not keep all others out.
const MOST_AT_THE_DOOR: usize = 20;
/// For a client to hang up once it has all it asked for, and once it was told to.
const FAREWELL: Duration = Duration::from_secs(5);
/// After `accept` failed (no descriptor left): time for others to close.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves a listener until the server stops, then lets commands under way finish.
pub async fn serve(listener: TcpListener, core: Core, key: HostKey) {
    let config = Arc::new(manner::config(&core.settings.ssh, &key));
    let replicas = Arc::new(Replicas::new(key));
    let room = Arc::new(Semaphore::new(core.settings.ssh.max_connections));
    let (door, tasks) = (Door::default(), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::debug!(%cause, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (Ok(place), Some(waiting)) = (Arc::clone(&room).try_acquire_owned(), door.knock(peer.ip()))
        else {
            // Lines before the protocol are allowed, and clients show them when asked to be verbose. Best effort.
            let _ = stream.try_write(b"Too many connections: try again in a moment.\r\n");
            continue;
        };
        let (core, config, replicas) = (core.clone(), Arc::clone(&config), Arc::clone(&replicas));
        tasks.spawn(async move {
            if let Err(cause) = attend(&core, config, replicas, (stream, peer), waiting).await {
                tracing::debug!(%cause, "an SSH connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Drives a connection to its end.
async fn attend(
    core: &Core,
    config: Arc<Config>,
    replicas: Arc<Replicas>,
    (stream, peer): (TcpStream, SocketAddr),
    waiting: Waiting,
) -> Result<(), Fault> {
    let settings = &core.settings.ssh;
    let (_leash, stream) = Leash::take(stream)?;
    let (status, mut seen) = watch::channel(Status::default());
    let late = tokio::time::sleep(settings.login);
    tokio::pin!(late);
    let session = Session::new(core.clone(), peer.ip(), status, replicas);
    let running = tokio::select! {
        running = run_stream(config, stream, session) => running?,
        () = &mut late => return Ok(()),
        () = core.stop.cancelled() => return Ok(()),
    };
    let handle = running.handle();
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = seen.wait_for(|status| status.is_inside) => {}
        () = &mut late => return Ok(()),
        () = core.stop.cancelled() => return Ok(()),
    }
    drop(waiting);
    let why = loop {
        let is_idle = seen.borrow_and_update().commands == 0;
        tokio::select! {
            ended = &mut running => return ended,
            Ok(()) = seen.changed() => {}
            () = core.stop.cancelled(), if is_idle => break "the server is stopping",
            () = tokio::time::sleep(settings.idle), if is_idle => break "nothing has happened for too long",
        }
    };
    // What a command said last may still be on its way, and a goodbye would overtake it. Who has it hangs up.
    let has_run = seen.borrow().has_run;
    if has_run && let Ok(ended) = tokio::time::timeout(FAREWELL, &mut running).await {
        return ended;
    }
    let farewell = async {
        // Fails when the client was quicker, which is as good.
        let _ = handle
            .disconnect(Disconnect::ByApplication, why.to_owned(), String::new())
            .await;
        running.await
    };
    tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
}

/// Who has not logged in yet, by address.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
struct Waiting(Door, IpAddr);

impl Door {
    /// `None`: too many of that address.
    fn knock(&self, address: IpAddr) -> Option<Waiting> {
        let address = address.to_canonical();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(address).or_default();
        if *count >= MOST_AT_THE_DOOR {
            return None;
        }
        *count += 1;
        Some(Waiting(self.clone(), address))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_fills_its_own_place_at_the_door_only() {
        let door = Door::default();
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut waiting: Vec<Waiting> = (0..MOST_AT_THE_DOOR).map(|_| door.knock(one).unwrap()).collect();
        assert!(door.knock(one).is_none());
        assert!(door.knock("::ffff:10.0.0.1".parse().unwrap()).is_none());
        assert!(door.knock(other).is_some());
        waiting.pop();
        assert!(door.knock(one).is_some());
        drop(waiting);
        assert!(door.0.lock().unwrap().is_empty());
    }
}
