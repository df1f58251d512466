//! The kinds of values that settings have beyond texts and numbers.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Answers the API.
    Api,
    /// Runs sagas and reconcilers.
    Worker,
    /// Runs the proxy.
    Router,
}

/// Who may make a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Everybody.
    Open,
    /// Administrators.
    Closed,
    /// Everybody while the API listens on loopback.
    Auto,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Yes, no, or as the circumstances suggest. In a file, `true` and `false` are understood too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Decided by the circumstances.
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Form {
            Flag(bool),
            Text(String),
        }
        match Form::deserialize(from)? {
            Form::Flag(true) => Ok(Self::Yes),
            Form::Flag(false) => Ok(Self::No),
            Form::Text(text) => match text.as_str() {
                "auto" => Ok(Self::Auto),
                "yes" | "true" => Ok(Self::Yes),
                "no" | "false" => Ok(Self::No),
                _ => Err(D::Error::custom(format!(
                    "{text:?} is none of \"auto\", \"yes\" and \"no\""
                ))),
            },
        }
    }
}

/// An address, or a network such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address is in this network. An IPv4 address in IPv6 clothes counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(one)) => {
                shared(u128::from(net.to_bits() ^ one.to_bits()), 32) >= self.prefix
            }
            (IpAddr::V6(net), IpAddr::V6(one)) => shared(net.to_bits() ^ one.to_bits(), 128) >= self.prefix,
            _ => false,
        }
    }
}

/// How many leading bits of `width` are zero in the difference of two addresses.
fn shared(difference: u128, width: u8) -> u8 {
    let used = u8::try_from(u128::BITS - difference.leading_zeros()).expect("at most 128");
    width - used
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither an address nor a network such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) => digits.trim().parse().map_err(|_| wrong())?,
            None => width,
        };
        (prefix <= width)
            .then_some(Self { address, prefix })
            .ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A `*_seconds` key.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    // A year: what is longer is a mistake, and sums with the clock never overflow.
    const LONGEST: u64 = 366 * 24 * 3600;
    let number = i64::deserialize(from)?;
    u64::try_from(number)
        .ok()
        .filter(|n| *n <= LONGEST)
        .map(Duration::from_secs)
        .ok_or_else(|| D::Error::custom(format!("{number} is not a number of seconds from 0 to {LONGEST}")))
}

/// A `listen` key.
pub(super) fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an address with a port, such as 127.0.0.1:8080 or [::]:8080"
        ))
    })
}

/// A `listen` key that may be empty.
pub(super) fn listen_or_not<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    listen(serde::de::value::StringDeserializer::new(text)).map(Some)
}
