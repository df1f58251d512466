//! One address of a unit, with the idle connections to it.
//!
//! A `Backend` lives as long as its address is in the host table: an address that stays keeps it over a table
//! swap. A removed one is *retired*: its idle connections are closed and requests in flight finish.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::upstream_conn::UpstreamConn;

/// The maximum number of idle connections per address; further ones are closed on return.
const MAX_IDLE_CONNS: usize = 256;

/// After this idle time the unit may be closing the connection at this moment, so only requests that can be
/// repeated are sent on it.
const SAFE_REUSE_TIME: Duration = Duration::from_secs(1);

/// How long other addresses are preferred to one that refused a connection.
const EJECTION_TIME: Duration = Duration::from_secs(1);

/// One address of a unit. See the module.
pub(super) struct Backend {
    addr: SocketAddr,
    idle: Mutex<IdleConns>,
    in_flight: AtomicUsize,
    maybe_ejected: AtomicBool,
}

#[derive(Default)]
struct IdleConns {
    /// Sorted by idle time, longest first.
    conns: Vec<(UpstreamConn, Instant)>,
    is_retired: bool,
    refused_at: Option<Instant>,
}

impl Backend {
    pub(super) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            idle: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            maybe_ejected: AtomicBool::new(false),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.addr
    }

    /// Takes a live idle connection. `repeatable` states whether the request may be sent again if the
    /// connection turns out to be dead.
    pub(super) fn take_idle_conn(&self, repeatable: bool) -> Option<UpstreamConn> {
        let mut idle = self.lock_idle();
        loop {
            let (_, since) = idle.conns.last()?;
            if !repeatable && since.elapsed() >= SAFE_REUSE_TIME {
                return None;
            }
            let (conn, _) = idle.conns.pop()?;
            if conn.is_alive() {
                return Some(conn);
            }
        }
    }

    /// Opens a new connection.
    pub(super) async fn open_conn(&self, within: Duration) -> io::Result<UpstreamConn> {
        let connected = tokio::time::timeout(within, TcpStream::connect(self.addr)).await;
        let stream = connected
            .map_err(io::Error::from)
            .flatten()
            .inspect_err(|_| self.eject())?;
        stream.set_nodelay(true)?;
        Ok(UpstreamConn::new(stream))
    }

    fn eject(&self) {
        self.lock_idle().refused_at = Some(Instant::now());
        self.maybe_ejected.store(true, Ordering::Relaxed);
    }

    /// True if a connection was refused recently. The flag avoids the lock and the clock in the common case.
    fn is_ejected(&self) -> bool {
        if !self.maybe_ejected.load(Ordering::Relaxed) {
            return false;
        }
        let still = self
            .lock_idle()
            .refused_at
            .is_some_and(|at| at.elapsed() < EJECTION_TIME);
        self.maybe_ejected.store(still, Ordering::Relaxed);
        still
    }

    /// Keeps a connection for the next request, unless there are enough or the address is retired.
    pub(super) fn put_idle_conn(&self, conn: UpstreamConn) {
        let mut idle = self.lock_idle();
        if !idle.is_retired && idle.conns.len() < MAX_IDLE_CONNS {
            idle.conns.push((conn.prepare_idle(), Instant::now()));
        }
    }

    /// Closes idle connections, now and from now on.
    pub(super) fn close_and_retire(&self) {
        let gone = {
            let mut idle = self.lock_idle();
            idle.is_retired = true;
            std::mem::take(&mut idle.conns)
        };
        drop(gone);
    }

    /// Closes connections that were idle for too long or were closed by the unit.
    pub(super) fn close_expired_conns(&self, longest: Duration) {
        self.lock_idle()
            .conns
            .retain(|(conn, since)| since.elapsed() < longest && conn.is_alive());
    }

    /// Returns how many requests are in flight to the unit.
    pub(super) fn count_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn count_idle(&self) -> usize {
        self.lock_idle().conns.len()
    }

    fn lock_idle(&self) -> MutexGuard<'_, IdleConns> {
        // No panic can happen under this lock, and the list of sockets is always consistent.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as in flight to a backend until dropped.
pub(super) struct BackendLease(Arc<Backend>);

impl BackendLease {
    pub(super) fn new(backend: Arc<Backend>) -> Self {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(backend)
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.0
    }
}

impl Drop for BackendLease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A host of the current table: the app, its backends, and the round-robin position.
pub(super) struct LiveHost {
    pub(super) app: Arc<str>,
    pub(super) backends: Vec<Arc<Backend>>,
    pub(super) unready_reason: String,
    next_index: AtomicUsize,
}

impl LiveHost {
    pub(super) fn new(app: &str, backends: Vec<Arc<Backend>>, unready_reason: String) -> Self {
        Self {
            app: app.into(),
            backends,
            unready_reason,
            next_index: AtomicUsize::new(0),
        }
    }

    /// Picks the least loaded of the next few untried backends; an ejected one only if there is no other.
    pub(super) fn pick_backend(&self, tried: &[SocketAddr]) -> Option<Arc<Backend>> {
        const MAX_CANDIDATES: usize = 8;
        let count = self.backends.len();
        let turn = if count > 1 {
            self.next_index.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        };
        (0..count)
            .map(|step| &self.backends[turn.wrapping_add(step) % count])
            .filter(|backend| !tried.contains(&backend.addr))
            .take(MAX_CANDIDATES)
            .min_by_key(|backend| (backend.is_ejected(), backend.count_in_flight()))
            .cloned()
    }
}
