//! The settings of the SSH server.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::values::{listen_or_not, seconds};

/// `[ssh]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshSettings {
    /// The address to listen on; port 0 picks a free one. `None`: no SSH server.
    #[serde(deserialize_with = "listen_or_not")]
    pub listen: Option<SocketAddr>,
    /// Empty: the host of the API's URL.
    pub public_host: String,
    /// 0: the listen port.
    pub public_port: u16,
    /// Empty, or a host and a port.
    pub replica_address: String,
    /// Concurrent connections, at least 1.
    pub max_connections: usize,
    /// How long a client may take to log in.
    #[serde(rename = "login_seconds", deserialize_with = "seconds")]
    pub login_timeout: Duration,
    /// How long a connection may be idle; at least 10 seconds, because git itself is silent for up to 5.
    #[serde(rename = "idle_seconds", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
}

impl SshSettings {
    /// Returns the host and port in repository URLs. `bound` is the actual listen address.
    pub fn public_address(&self, api_url: &str, bound: SocketAddr) -> (String, u16) {
        let host = match self.public_host.as_str() {
            "" => url::Url::parse(api_url)
                .ok()
                .and_then(|url| url.host_str().map(str::to_owned))
                .unwrap_or_else(|| bound.ip().to_string()),
            host => host.to_owned(),
        };
        let port = match self.public_port {
            0 => bound.port(),
            port => port,
        };
        (host, port)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    #[test]
    fn public_address_falls_back_to_the_api_host_and_the_bound_port() {
        let mut ssh = Settings::defaults().ssh;
        let bound = "0.0.0.0:2222".parse().unwrap();
        let at = |host: &str, port| (host.to_owned(), port);
        assert_eq!(
            ssh.public_address("https://paas.example.com/api", bound),
            at("paas.example.com", 2222)
        );
        assert_eq!(ssh.public_address("http://[::1]:8080", bound), at("[::1]", 2222));
        (ssh.public_host, ssh.public_port) = ("git.example.com".to_owned(), 22);
        assert_eq!(
            ssh.public_address("https://paas.example.com", bound),
            at("git.example.com", 22)
        );
    }
}
