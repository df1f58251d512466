//! Accepts connections, and limits their number and duration.

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
use crate::kernel::fair_slots::{FairSlots, SlotLimits};
use crate::ssh::client::ShutdownOnDrop;
use crate::ssh::forward::ReplicaClient;
use crate::ssh::session::{SessionError, SessionStatus, SshSession, UserSlots};
use crate::ssh::{HostKey, server_config};

/// The limit on connections per address that have not logged in yet, so that one client cannot block all
/// others.
const MAX_PENDING_PER_IP: usize = 20;
/// A user may have this many connections, however low the total limit is.
const MIN_PER_USER: usize = 2;
/// How long a client may take to disconnect after its last command, and after it was asked to.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after `accept` fails (no descriptors left), so that other connections can close.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves a listener until the server stops, then lets running commands finish.
pub async fn serve_connections(listener: TcpListener, core: Core, key: HostKey) {
    let config = Arc::new(server_config::build_config(&core.settings.ssh, &key));
    let replicas = Arc::new(ReplicaClient::new(key));
    let most = core.settings.ssh.max_connections;
    let (connection_slots, user_slots) = (Arc::new(Semaphore::new(most)), build_user_slots(most));
    let (per_ip_limit, tasks) = (PerIpLimit::new(most), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let (Ok(permit), Some(waiting)) = (
            Arc::clone(&connection_slots).try_acquire_owned(),
            per_ip_limit.try_admit(peer.ip()),
        ) else {
            // Lines before the protocol are permitted; clients show them in verbose mode. Best effort.
            let _ = stream.try_write(b"Too many connections: try again in a moment.\r\n");
            continue;
        };
        let (core, config) = (core.clone(), Arc::clone(&config));
        let shared = (Arc::clone(&replicas), user_slots.clone());
        tasks.spawn(async move {
            if let Err(error) = drive_connection(&core, config, shared, (stream, peer), waiting).await {
                tracing::debug!(%error, "SSH connection ended with an error");
            }
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Runs a connection to its end.
async fn drive_connection(
    core: &Core,
    config: Arc<Config>,
    (replicas, user_slots): (Arc<ReplicaClient>, UserSlots),
    (stream, peer): (TcpStream, SocketAddr),
    waiting: PendingLogin,
) -> Result<(), SessionError> {
    let settings = &core.settings.ssh;
    let (_guard, stream) = ShutdownOnDrop::wrap_stream(stream)?;
    let (status, mut seen) = watch::channel(SessionStatus::default());
    let late = tokio::time::sleep(settings.login_timeout);
    tokio::pin!(late);
    let session = SshSession::new(core.clone(), peer.ip(), status, replicas, user_slots);
    let running = tokio::select! {
        running = run_stream(config, stream, session) => running?,
        () = &mut late => return Ok(()),
        () = core.stop_requests.cancelled() => return Ok(()),
    };
    let handle = running.handle();
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = seen.wait_for(|status| status.is_authenticated) => {}
        () = &mut late => return Ok(()),
        () = core.stop_requests.cancelled() => return Ok(()),
    }
    drop(waiting);
    let why = loop {
        let (is_idle, is_used) = {
            let status = seen.borrow_and_update();
            (status.active_commands == 0, status.has_run_command)
        };
        tokio::select! {
            ended = &mut running => return ended,
            Ok(()) = seen.changed() => {}
            () = core.stop_requests.cancelled(), if is_idle => break "the server is shutting down",
            // Where another process has taken over, a client that has just come may still run its command.
            () = core.stop.cancelled(), if is_idle && is_used => break "the server is shutting down",
            () = tokio::time::sleep(settings.idle_timeout), if is_idle => break "the connection was idle for too long",
        }
    };
    // The last output of a command may still be in flight, and a disconnect would overtake it. The client
    // disconnects once it has it.
    let has_run = seen.borrow().has_run_command;
    if has_run && let Ok(ended) = tokio::time::timeout(DISCONNECT_TIMEOUT, &mut running).await {
        return ended;
    }
    let disconnecting = async {
        // Fails if the client has disconnected already.
        let _ = handle
            .disconnect(Disconnect::ByApplication, why.to_owned(), String::new())
            .await;
        running.await
    };
    tokio::time::timeout(DISCONNECT_TIMEOUT, disconnecting)
        .await
        .unwrap_or(Ok(()))
}

/// Slots for authenticated connections: a user may have a quarter of all connections.
fn build_user_slots(most: usize) -> UserSlots {
    FairSlots::new(SlotLimits {
        total: most,
        per_key: (most / 4).max(MIN_PER_USER),
        waiting_per_key: 0,
    })
}

/// Limits connections per address that have not logged in yet. One address may have most of the connections,
/// but not the last quarter.
#[derive(Clone)]
struct PerIpLimit {
    pending: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max_per_ip: usize,
}

/// A pending login, counted until it is dropped.
struct PendingLogin(PerIpLimit, IpAddr);

impl PerIpLimit {
    fn new(most: usize) -> Self {
        Self {
            pending: Arc::default(),
            max_per_ip: MAX_PENDING_PER_IP.min(most - most / 4),
        }
    }

    /// Returns `None` if the address has too many pending logins.
    fn try_admit(&self, address: IpAddr) -> Option<PendingLogin> {
        let address = address.to_canonical();
        let mut waiting = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(address).or_default();
        if *count >= self.max_per_ip {
            return None;
        }
        *count += 1;
        Some(PendingLogin(self.clone(), address))
    }
}

impl Drop for PendingLogin {
    fn drop(&mut self) {
        let mut waiting = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
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
    use crate::kernel::ids::UserId;

    #[test]
    fn pending_logins_of_one_address_are_limited_and_others_are_not() {
        let per_ip_limit = PerIpLimit::new(200);
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut waiting: Vec<PendingLogin> = (0..MAX_PENDING_PER_IP)
            .map(|_| per_ip_limit.try_admit(one).unwrap())
            .collect();
        assert!(per_ip_limit.try_admit(one).is_none());
        assert!(
            per_ip_limit
                .try_admit("::ffff:10.0.0.1".parse().unwrap())
                .is_none()
        );
        assert!(per_ip_limit.try_admit(other).is_some());
        waiting.pop();
        assert!(per_ip_limit.try_admit(one).is_some());
        drop(waiting);
        assert!(per_ip_limit.pending.lock().unwrap().is_empty());
    }

    #[test]
    fn small_connection_limits_leave_room_for_other_addresses_and_users() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        for (most, of_an_address, of_a_user) in [(1, 1, 2), (2, 2, 2), (25, 19, 6), (200, 20, 50)] {
            let per_ip_limit = PerIpLimit::new(most);
            let waiting: Vec<PendingLogin> = std::iter::from_fn(|| per_ip_limit.try_admit(address)).collect();
            assert_eq!(waiting.len(), of_an_address, "{most}");
            let (user_slots, user) = (build_user_slots(most), UserId(uuid::Uuid::nil()));
            let held: Vec<_> = std::iter::from_fn(|| user_slots.try_acquire(&user)).collect();
            assert_eq!(held.len(), of_a_user.min(most), "{most}");
        }
    }
}
