//! The proxy: the HTTP router in the binary. It knows hosts and addresses, and only the names of apps.
//!
//! The path of a request: [`ClientIo`](crate::net::ClientIo) reads it (HTTP/1.1, or HTTP/2 with prior
//! knowledge) and watches the client's connection. The *table* ([`HostRoutes`]) maps its host to backends; it
//! is a snapshot, replaced as a whole. A [`backend`] keeps the idle connections to one address. An
//! [`upstream_request`] sends the request over one of them and streams the response back.
//!
//! **Promises.** Replacing the table loses no request: requests in flight to a removed backend finish, idle
//! connections to it close at once, and a request that can connect to none of its backends reads the new
//! table before it fails. [`Proxy::is_drained`] shows when a removed backend may be stopped. A request of
//! which no unit has received a byte is tried at the others. A request that was sent is sent at most once
//! more, and only if its method is idempotent and it has no body, so a request that crashes a unit does not
//! crash all of them. Bodies are streamed with back-pressure, never buffered as a whole. Every wait has a
//! deadline, and everything that is read or stored has a bound.
//!
//! **Never.** The proxy never discloses the address of a unit, trusts a client's `X-Forwarded-*` unless
//! configured to, forwards a request of ambiguous length, accepts a trailer that it would not accept as a
//! header, or lets a client switch to `h2c` with a unit.

mod backend;
mod connections;
mod error_pages;
mod forward;
mod headers;
mod host_table;
mod https;
mod response_body;
mod stats;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream_conn;
mod upstream_request;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::kernel::drain_plan::DrainPlan;
use crate::net::{ConnectionShares, TlsTerminator};
use crate::telemetry::metrics::RouterStats;
use backend::{Backend, LiveHost};
pub use host_table::{BackendSet, HostName, HostRoute, HostRoutes, HostTable};
pub use https::{ChallengeAnswer, ChallengeAnswers, HttpsHosts, HttpsPolicy};
use stats::ProxyCounters;

/// The time-outs and limits. The defaults suit a public edge.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// For connecting to a unit.
    pub connect_timeout: Duration,
    /// From the last byte of a request to the first byte of its response.
    pub first_byte_timeout: Duration,
    /// A connection or tunnel is closed when no byte moved in either direction for this time.
    pub idle_timeout: Duration,
    /// For a client to send the whole head of a request, from its first byte; also to send the first byte.
    pub header_timeout: Duration,
    /// An unused connection to a unit is closed after this time.
    pub unit_idle_timeout: Duration,
    /// The maximum number of concurrent client connections. When three quarters are in use, clients without a
    /// request are disconnected after `header_timeout` instead of `idle_timeout`.
    pub max_connections: usize,
    /// The maximum number of these from one address.
    pub max_connections_per_address: usize,
    /// How long requests in flight may take to finish when the proxy stops.
    pub drain: Duration,
    /// Whether another process has taken over when it stops.
    pub drain_plan: DrainPlan,
    /// The maximum size of a request head, at least 8192.
    pub max_header_bytes: usize,
    /// Trust (and extend) the `X-Forwarded-*` headers of clients: only behind another proxy.
    pub trust_forwarded: bool,
    /// The port to which clients are redirected for TLS.
    pub https_port: u16,
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
            max_connections_per_address: 16_384,
            drain: Duration::from_secs(30),
            drain_plan: DrainPlan::default(),
            max_header_bytes: 32 * 1024,
            trust_forwarded: false,
            https_port: 443,
        }
    }
}

/// The proxy. Clones share their state.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<ProxyInner>,
}

struct ProxyInner {
    settings: ProxySettings,
    shares: ConnectionShares,
    table: ArcSwap<HostTable<Arc<LiveHost>>>,
    https_hosts: ArcSwap<HttpsHosts>,
    challenges: ArcSwap<ChallengeAnswers>,
    /// Locked only by a replacement of the table, the sweep, and `is_drained`.
    addresses: Mutex<BackendAddresses>,
    counters: ProxyCounters,
    request_id_seed: u64,
    request_count: AtomicU64,
}

#[derive(Default)]
struct BackendAddresses {
    /// Every address in the table.
    active: HashMap<SocketAddr, Arc<Backend>>,
    /// Removed addresses. A request holds its backend from the moment of the choice, so a backend that cannot
    /// be upgraded has no request and gets none.
    draining: HashMap<SocketAddr, Weak<Backend>>,
}

impl Proxy {
    /// Creates a proxy without hosts.
    pub fn new(settings: ProxySettings) -> Self {
        let shares = ConnectionShares::new(
            settings.max_connections,
            settings.max_connections_per_address,
            &[],
        );
        Self {
            inner: Arc::new(ProxyInner {
                settings,
                shares,
                table: ArcSwap::default(),
                https_hosts: ArcSwap::default(),
                challenges: ArcSwap::default(),
                addresses: Mutex::default(),
                counters: ProxyCounters::default(),
                request_id_seed: uuid::Uuid::new_v4().as_u64_pair().0,
                request_count: AtomicU64::new(0),
            }),
        }
    }

    /// Replaces the table. Later requests use the new one; idle connections to removed addresses are closed
    /// before this returns.
    pub fn set_routes(&self, routes: HostRoutes) {
        let mut addresses = self.inner.lock_addresses();
        let mut known = std::mem::take(&mut addresses.active);
        let mut kept = HashMap::with_capacity(known.len());
        let table = routes.map_values(|route| {
            let (addresses, reason) = match route.backends {
                BackendSet::Ready(addresses) => (addresses, "no unit is ready".into()),
                BackendSet::None { reason } => (Vec::new(), reason),
            };
            let backends = addresses.into_iter().map(|addr| {
                let backend = kept.entry(addr).or_insert_with(|| {
                    known
                        .remove(&addr)
                        .unwrap_or_else(|| Arc::new(Backend::new(addr)))
                });
                Arc::clone(backend)
            });
            Arc::new(LiveHost::new(&route.app, backends.collect(), reason))
        });
        // First the table, then the old backends: no new request reaches a backend that is being closed.
        self.inner.table.store(Arc::new(table));
        addresses.active = kept;
        for (addr, gone) in known {
            gone.close_and_retire();
            addresses.draining.insert(addr, Arc::downgrade(&gone));
        }
    }

    /// Returns true if the unit at this address may be stopped without losing a request: the address is not
    /// in the table, and no request or tunnel that was sent to it is left. A tunnel may last for hours, so
    /// callers must bound their wait. Considers this process only: if the router runs elsewhere, wait as long
    /// as its requests may take.
    pub fn is_drained(&self, addr: SocketAddr) -> bool {
        let addresses = self.inner.lock_addresses();
        !addresses.active.contains_key(&addr)
            && addresses
                .draining
                .get(&addr)
                .is_none_or(|backend| backend.strong_count() == 0)
    }

    /// Serves a listener until cancelled; then stops accepting, closes idle connections, lets requests in
    /// flight finish within `drain`, and closes the rest. Where another process has taken over the listener, idle
    /// connections stay until their next response instead. May run for several listeners at once.
    pub async fn serve(&self, listener: TcpListener, cancel: CancellationToken) {
        connections::serve_listener(&self.inner, listener, None, cancel).await;
    }

    /// The same for a listener whose clients speak TLS.
    pub(crate) async fn serve_tls(
        &self,
        listener: TcpListener,
        tls: TlsTerminator,
        cancel: CancellationToken,
    ) {
        connections::serve_listener(&self.inner, listener, Some(tls), cancel).await;
    }

    /// Replaces the hosts that have a certificate, and how each is served.
    pub fn set_https_hosts(&self, hosts: HttpsHosts) {
        self.inner.https_hosts.store(Arc::new(hosts));
    }

    /// Replaces the answers to authorities that ask for the proof of a host.
    pub fn set_challenges(&self, answers: ChallengeAnswers) {
        self.inner.challenges.store(Arc::new(answers));
    }

    /// Returns the counters.
    pub fn read_stats(&self) -> RouterStats {
        self.inner.counters.read_stats()
    }
}

impl ProxyInner {
    fn lock_addresses(&self) -> MutexGuard<'_, BackendAddresses> {
        // No panic can happen under this lock.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes connections to units that were idle for too long, and removes backends that are gone.
    fn close_idle_conns(&self) {
        let mut addresses = self.lock_addresses();
        addresses.draining.retain(|_, backend| backend.strong_count() > 0);
        for backend in addresses.active.values() {
            backend.close_expired_conns(self.settings.unit_idle_timeout);
        }
    }

    /// Returns a request id that no other proxy generates: 32 hexadecimal digits.
    fn next_request_id(&self) -> http::HeaderValue {
        let count = self.request_count.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 32];
        let halves = [
            self.request_id_seed ^ mix_bits(count),
            mix_bits(self.request_id_seed.wrapping_add(count)),
        ];
        for (digits, half) in text.chunks_exact_mut(16).zip(halves) {
            for (at, digit) in digits.iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[usize::from((half >> (at * 4)) as u8 & 15)];
            }
        }
        http::HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
    }
}

/// The finaliser of SplitMix64: a bijection, so that ids do not repeat.
fn mix_bits(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
