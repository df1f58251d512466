//! The proxy: the HTTP router that ships in the binary. It knows hosts and addresses, and nothing of
//! apps but their names.
//!
//! A request runs through four things. [`Front`](front) reads it (HTTP/1.1, or HTTP/2 with prior
//! knowledge) and watches over the client's connection. The *table* ([`Routes`]) says which backends
//! stand behind its host; it is a snapshot, swapped whole. A [`backend`] keeps the idle connections to
//! one address. An [`exchange`] sends the request over one of them and streams the answer back.
//!
//! **Promises.** A swap loses no request: what is in flight with a backend that left finishes, idle
//! connections to it close at once, and whoever finds only closed doors looks into the new table before
//! giving up. [`Proxy::is_through_with`] says when such a backend may be stopped. A request is sent twice only if the first unit cannot have acted on it: nothing was sent,
//! or the method is idempotent and there is no body. Bodies are streamed with back-pressure, never
//! collected. Everything that waits has a deadline, everything that is read or kept has a bound.
//!
//! **Never.** It never shows the address of a unit, believes a client's `X-Forwarded-*` unless told to,
//! passes on a request whose length can be read in two ways, or lets a client switch to `h2c` with a
//! unit.

mod backend;
mod chunks;
mod exchange;
mod follow;
mod forward;
mod front;
mod headers;
mod pages;
mod routes;
mod serve;
mod stats;
#[cfg(test)]
mod tests;
mod unit_body;
mod upgrade;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::RouterStats;
use backend::{Backend, Live};
pub(crate) use front::{Front, Watch};
pub use routes::{Backends, Host, Hosts, Route, Routes};
pub(crate) use serve::{Limits, Watchdog, sniff};
use stats::Counters;

/// Deadlines and bounds. The defaults suit an edge that everybody can reach.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// To connect to a unit.
    pub connect_timeout: Duration,
    /// From the last byte of a request to the first byte of its answer.
    pub first_byte_timeout: Duration,
    /// Without a byte in either direction a connection or a tunnel is closed.
    pub idle_timeout: Duration,
    /// For a client to send the whole head of a request, from its first byte; also to send the first.
    pub header_timeout: Duration,
    /// An unused connection to a unit is closed after it.
    pub unit_idle_timeout: Duration,
    /// Connections of clients at once. When three quarters are taken, clients without a request lose
    /// theirs after `header_timeout` instead of `idle_timeout`.
    pub max_connections: usize,
    /// For requests in flight to finish once the proxy is told to stop.
    pub drain: Duration,
    /// The head of a request, at least 8192.
    pub max_header_bytes: usize,
    /// Believe (and add to) the `X-Forwarded-*` headers of clients: only behind another proxy.
    pub trust_forwarded: bool,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(180),
            header_timeout: Duration::from_secs(10),
            unit_idle_timeout: Duration::from_secs(30),
            max_connections: 16_384,
            drain: Duration::from_secs(30),
            max_header_bytes: 32 * 1024,
            trust_forwarded: false,
        }
    }
}

/// The proxy; clones are the same one.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ProxySettings,
    table: ArcSwap<Hosts<Arc<Live>>>,
    /// Only a swap, the sweep and who asks `is_through_with` lock it.
    addresses: Mutex<Addresses>,
    counters: Counters,
    id_seed: u64,
    ids: AtomicU64,
}

#[derive(Default)]
struct Addresses {
    /// Every address in the table.
    known: HashMap<SocketAddr, Arc<Backend>>,
    /// Those that left it. A request holds its backend from the moment it picks among them, so what
    /// can be held no more has no request and will get none.
    leaving: HashMap<SocketAddr, Weak<Backend>>,
}

impl Proxy {
    /// A proxy that knows no host yet.
    pub fn new(settings: ProxySettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                table: ArcSwap::default(),
                addresses: Mutex::default(),
                counters: Counters::default(),
                id_seed: uuid::Uuid::new_v4().as_u64_pair().0,
                ids: AtomicU64::new(0),
            }),
        }
    }

    /// Replaces the table. Requests that come from now on see the new one; idle connections to
    /// addresses that are in it no more are closed before this returns.
    pub fn set_routes(&self, routes: Routes) {
        let mut addresses = self.inner.addresses();
        let mut known = std::mem::take(&mut addresses.known);
        let mut kept = HashMap::with_capacity(known.len());
        let table = routes.map(|route| {
            let (addresses, reason) = match route.state {
                Backends::Ready(addresses) => (addresses, "no unit is ready".into()),
                Backends::None { reason } => (Vec::new(), reason),
            };
            let backends = addresses.into_iter().map(|addr| {
                let backend = kept.entry(addr).or_insert_with(|| {
                    known
                        .remove(&addr)
                        .unwrap_or_else(|| Arc::new(Backend::new(addr)))
                });
                Arc::clone(backend)
            });
            Arc::new(Live::new(&route.app, backends.collect(), reason))
        });
        // First the table, then the old doors: nobody new is sent to what is being closed.
        self.inner.table.store(Arc::new(table));
        addresses.known = kept;
        for (addr, gone) in known {
            gone.retire();
            addresses.leaving.insert(addr, Arc::downgrade(&gone));
        }
    }

    /// Whether the unit at this address may be stopped without a request being lost: the address is not
    /// in the table, and no request or tunnel that was sent to it before is left. A tunnel may last for
    /// hours, so whoever waits for this bounds the wait. Looks only at this process: when the router
    /// runs elsewhere, wait as long as its requests may take.
    pub fn is_through_with(&self, addr: SocketAddr) -> bool {
        let addresses = self.inner.addresses();
        !addresses.known.contains_key(&addr)
            && addresses
                .leaving
                .get(&addr)
                .is_none_or(|backend| backend.strong_count() == 0)
    }

    /// Serves a listener until cancelled; then accepts no more, closes what is idle, lets requests in
    /// flight finish within `drain`, and closes the rest. May run for several listeners at once.
    pub async fn serve(&self, listener: TcpListener, cancel: CancellationToken) {
        serve::serve(&self.inner, listener, cancel).await;
    }

    /// What was counted so far.
    pub fn stats(&self) -> RouterStats {
        self.inner.counters.read()
    }
}

impl Inner {
    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        // Nothing panics while it holds this lock.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes connections to units that idle for too long, and forgets the units that are gone.
    fn sweep(&self) {
        let mut addresses = self.addresses();
        addresses.leaving.retain(|_, backend| backend.strong_count() > 0);
        for backend in addresses.known.values() {
            backend.sweep(self.settings.unit_idle_timeout);
        }
    }

    /// A request id that no other proxy gives either: 32 hexadecimal digits.
    fn new_id(&self) -> http::HeaderValue {
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 32];
        let halves = [self.id_seed ^ mix(count), mix(self.id_seed.wrapping_add(count))];
        for (digits, half) in text.chunks_exact_mut(16).zip(halves) {
            for (at, digit) in digits.iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[usize::from((half >> (at * 4)) as u8 & 15)];
            }
        }
        http::HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
    }
}

/// The finaliser of SplitMix64: a bijection, so that no id comes twice.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
