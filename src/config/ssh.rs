//! The settings of `git` over SSH.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::values::{listen_or_not, seconds};

/// `[ssh]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshSettings {
    /// Where to listen; port 0 picks one. `None`: nowhere.
    #[serde(deserialize_with = "listen_or_not")]
    pub listen: Option<SocketAddr>,
    /// Empty: the host of the API's URL.
    pub public_host: String,
    /// 0: the port that is listened on.
    pub public_port: u16,
    /// Empty, or a host and a port.
    pub replica_address: String,
    /// At once, at least 1.
    pub max_connections: usize,
    /// For a client to log in.
    #[serde(rename = "login_seconds", deserialize_with = "seconds")]
    pub login: Duration,
    /// For a connection in which nothing happens; at least 10 seconds, for git itself is silent for 5.
    #[serde(rename = "idle_seconds", deserialize_with = "seconds")]
    pub idle: Duration,
}

impl SshSettings {
    /// Host and port in the addresses of repositories. `bound` is where the server really listens.
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
    fn clients_are_told_where_they_reach_it_from_their_side() {
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
