//! One address of a unit, with the idle connections to it.
//!
//! The connections live and die with the table: an address that stays keeps its `Backend` over a swap;
//! one that goes is *retired*, which closes what is idle and lets what is in flight finish.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::wire::Wire;

/// How many idle connections an address may have; more are closed on return.
const MOST_IDLE: usize = 256;

/// After this much idleness a unit may be closing the connection at this very moment, so nothing that
/// cannot be repeated is sent on it.
const FRESH: Duration = Duration::from_secs(1);

/// For so long others are preferred to an address that took no connection.
const SHUNNED: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Backend {
    addr: SocketAddr,
    idle: Mutex<Idle>,
    in_flight: AtomicUsize,
    is_suspect: AtomicBool,
}

#[derive(Default)]
struct Idle {
    /// The longest idle first.
    wires: Vec<(Wire, Instant)>,
    retired: bool,
    refused_at: Option<Instant>,
}

impl Backend {
    pub(super) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            idle: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            is_suspect: AtomicBool::new(false),
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// An idle connection that still lives. `repeatable` says whether the request may be sent again if
    /// the connection turns out to be dead.
    pub(super) fn take(&self, repeatable: bool) -> Option<Wire> {
        let mut idle = self.idle();
        loop {
            let (_, since) = idle.wires.last()?;
            if !repeatable && since.elapsed() >= FRESH {
                return None;
            }
            let (wire, _) = idle.wires.pop()?;
            if wire.is_alive() {
                return Some(wire);
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self, within: Duration) -> io::Result<Wire> {
        let connected = tokio::time::timeout(within, TcpStream::connect(self.addr)).await;
        let stream = connected
            .map_err(io::Error::from)
            .flatten()
            .inspect_err(|_| self.shun())?;
        stream.set_nodelay(true)?;
        Ok(Wire::new(stream))
    }

    fn shun(&self) {
        self.idle().refused_at = Some(Instant::now());
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// A connection was refused a moment ago. The flag spares everybody else the lock and the clock.
    fn is_shunned(&self) -> bool {
        if !self.is_suspect.load(Ordering::Relaxed) {
            return false;
        }
        let still = self.idle().refused_at.is_some_and(|at| at.elapsed() < SHUNNED);
        self.is_suspect.store(still, Ordering::Relaxed);
        still
    }

    /// Keeps a connection for the next request, unless there are enough or the address is retired.
    pub(super) fn put(&self, wire: Wire) {
        let mut idle = self.idle();
        if !idle.retired && idle.wires.len() < MOST_IDLE {
            idle.wires.push((wire.rested(), Instant::now()));
        }
    }

    /// Closes what idles, now and from now on.
    pub(super) fn retire(&self) {
        let gone = {
            let mut idle = self.idle();
            idle.retired = true;
            std::mem::take(&mut idle.wires)
        };
        drop(gone);
    }

    /// Closes what has idled for too long or was closed by the unit.
    pub(super) fn sweep(&self, longest: Duration) {
        self.idle()
            .wires
            .retain(|(wire, since)| since.elapsed() < longest && wire.is_alive());
    }

    /// How many requests are with the unit now.
    pub(super) fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle().wires.len()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        // Nothing panics while it holds this lock, and a list of sockets cannot be half-changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as in flight with a backend for as long as it lives.
pub(super) struct Lease(Arc<Backend>);

impl Lease {
    pub(super) fn new(backend: Arc<Backend>) -> Self {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(backend)
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A host of the table in use: the app, its backends, and whose turn it is.
pub(super) struct Live {
    pub(super) app: Arc<str>,
    pub(super) backends: Vec<Arc<Backend>>,
    pub(super) reason: String,
    turn: AtomicUsize,
}

impl Live {
    pub(super) fn new(app: &str, backends: Vec<Arc<Backend>>, reason: String) -> Self {
        Self {
            app: app.into(),
            backends,
            reason,
            turn: AtomicUsize::new(0),
        }
    }

    /// The least loaded of the next few in turn that were not tried yet; one that refused a connection
    /// a moment ago only when there is no other.
    pub(super) fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<Backend>> {
        const LOOKED_AT: usize = 8;
        let count = self.backends.len();
        let turn = if count > 1 {
            self.turn.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        };
        (0..count)
            .map(|step| &self.backends[turn.wrapping_add(step) % count])
            .filter(|backend| !tried.contains(&backend.addr))
            .take(LOOKED_AT)
            .min_by_key(|backend| (backend.is_shunned(), backend.load()))
            .cloned()
    }
}
