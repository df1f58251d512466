//! Types of settings beyond strings and numbers.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error};

/// A role of a server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerRole {
    /// Serves the API.
    Api,
    /// Runs sagas and reconcilers.
    Worker,
    /// Runs the HTTP router.
    Router,
}

/// Who may create users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationPolicy {
    /// Anybody.
    Open,
    /// Administrators only.
    Closed,
    /// Anybody, while the API listens on loopback.
    Auto,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Yes, no, or decided automatically. In a file, `true` and `false` are accepted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoFlag {
    /// Decided automatically.
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

impl<'de> Deserialize<'de> for AutoFlag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum FlagInput {
            Flag(bool),
            Text(String),
        }
        match FlagInput::deserialize(from)? {
            FlagInput::Flag(true) => Ok(Self::Yes),
            FlagInput::Flag(false) => Ok(Self::No),
            FlagInput::Text(text) => match text.as_str() {
                "auto" => Ok(Self::Auto),
                "yes" | "true" => Ok(Self::Yes),
                "no" | "false" => Ok(Self::No),
                _ => Err(D::Error::custom(format!(
                    "{text:?} is not one of \"auto\", \"yes\" and \"no\""
                ))),
            },
        }
    }
}

/// An address, or a network such as `10.0.0.0/8`. One that is given as IPv4-mapped IPv6 is kept as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork(IpNet);

impl IpNetwork {
    /// Whether the address is in this network. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl IpNetwork {
    /// Returns the address and the length of an IPv4 network; `None` for an IPv6 one.
    pub fn v4_parts(&self) -> Option<(std::net::Ipv4Addr, u8)> {
        match self.0 {
            IpNet::V4(network) => Some((network.network(), network.prefix_len())),
            IpNet::V6(_) => None,
        }
    }
}

impl std::fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The same network as IPv4 if it is an IPv4-mapped one. `None`: it reaches beyond the mapped addresses.
fn to_canonical_network(network: IpNet) -> Option<IpNet> {
    let mapped = match network {
        IpNet::V4(_) => None,
        IpNet::V6(network) => network.addr().to_ipv4_mapped(),
    };
    match mapped {
        None => Some(network),
        Some(address) => IpNet::new(address.into(), network.prefix_len().checked_sub(96)?).ok(),
    }
}

impl FromStr for IpNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        text.parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .ok()
            .and_then(to_canonical_network)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is neither an address nor a network such as 10.0.0.0/8"))
    }
}

impl<'de> Deserialize<'de> for IpNetwork {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Deserializes a `*_seconds` key.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    // At most a year: anything longer is a mistake, and adding it to the clock never overflows.
    const LONGEST: u64 = 366 * 24 * 3600;
    let number = i64::deserialize(from)?;
    u64::try_from(number)
        .ok()
        .filter(|n| *n <= LONGEST)
        .map(Duration::from_secs)
        .ok_or_else(|| D::Error::custom(format!("{number} is not a number of seconds from 0 to {LONGEST}")))
}

/// Deserializes a `listen` key.
pub(super) fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an address with a port, such as 127.0.0.1:8080 or [::]:8080"
        ))
    })
}

/// Deserializes a `listen` key that may be empty.
pub(super) fn listen_or_not<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    listen(serde::de::value::StringDeserializer::new(text)).map(Some)
}
