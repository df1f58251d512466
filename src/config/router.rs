//! The settings of the router.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

/// `[router]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterSettings {
    /// The address to listen on; port 0 picks a free one.
    #[serde(deserialize_with = "super::values::listen")]
    pub listen: SocketAddr,
    /// The address to listen on with TLS; port 0 picks a free one. `None`: no TLS.
    #[serde(deserialize_with = "super::values::listen_or_not")]
    pub https_listen: Option<SocketAddr>,
    /// 0: the port of `https_listen`. See `https_public_port`.
    pub https_public_port: u16,
    /// Lower case, without leading or trailing dots.
    pub domain: String,
    /// 0: the listen port. See `public_port`.
    pub public_port: u16,
    /// How long a unit may take to send the head of its response.
    #[serde(
        rename = "first_byte_timeout_seconds",
        deserialize_with = "super::values::seconds"
    )]
    pub first_byte_timeout: Duration,
    /// How long a connection may be idle.
    #[serde(rename = "idle_timeout_seconds", deserialize_with = "super::values::seconds")]
    pub idle_timeout: Duration,
    /// How long to wait for requests in progress when stopping.
    #[serde(rename = "drain_seconds", deserialize_with = "super::values::seconds")]
    pub drain_timeout: Duration,
    /// Concurrent connections, at least 1.
    pub max_connections: usize,
    /// Concurrent connections from one address; 0: half of them. See `connections_per_address`.
    pub max_connections_per_address: usize,
    /// Passes on the client's `X-Forwarded-*` headers.
    pub trust_forwarded: bool,
}

/// Returns the connection limit of one address: `set`, or half of the total.
pub(super) fn limit_per_address(total: usize, set: usize) -> usize {
    match set {
        0 => total.div_ceil(2),
        set => set.min(total),
    }
}

impl RouterSettings {
    /// Returns how many connections one address may have; all of them behind a load balancer, which has one
    /// address.
    pub fn connections_per_address(&self) -> usize {
        match self.trust_forwarded {
            true => self.max_connections,
            false => limit_per_address(self.max_connections, self.max_connections_per_address),
        }
    }

    /// Returns the port of TLS for clients. `bound` is the actual listen address.
    pub fn https_public_port(&self, bound: SocketAddr) -> u16 {
        match self.https_public_port {
            0 => bound.port(),
            port => port,
        }
    }

    /// Returns the port in the URLs of apps. `bound` is the actual listen address.
    pub fn public_port(&self, bound: SocketAddr) -> u16 {
        match self.public_port {
            0 => bound.port(),
            port => port,
        }
    }
}
