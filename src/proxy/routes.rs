//! From a host to an app and its backends. Pure: no socket, no clock.

use std::collections::HashMap;
use std::net::SocketAddr;

/// One host of one app, as the table is fed.
#[derive(Clone, Debug)]
pub struct Route {
    /// The host in lower case without a port, or `*.x.y` for every host below `x.y`.
    pub host: String,
    /// The app's name: it stands on our own pages and in the access line.
    pub app: String,
    /// Where the app's ready units are, or why there is none.
    pub state: Backends,
}

/// The ready units of an app.
#[derive(Clone, Debug)]
pub enum Backends {
    /// Their addresses; an empty list counts as "no unit is ready".
    Ready(Vec<SocketAddr>),
    /// Why there is none, as half a sentence for the reader of a 503: "the app is stopped".
    None {
        /// The half sentence.
        reason: String,
    },
}

/// A whole table at one instant: what [`super::Proxy::set_routes`] swaps in.
pub type Routes = Hosts<Route>;

impl FromIterator<Route> for Routes {
    /// Of two routes with the same host the first counts.
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut hosts = Self::default();
        for mut route in routes {
            let host = std::mem::take(&mut route.host);
            hosts.insert(&host, route);
        }
        hosts
    }
}

/// Hosts and patterns of hosts, each with something behind it.
#[derive(Clone, Debug)]
pub struct Hosts<T> {
    exact: HashMap<Box<str>, T>,
    /// `*.x.y` stands here as `x.y`.
    below: HashMap<Box<str>, T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            below: HashMap::new(),
        }
    }
}

impl<T> Hosts<T> {
    pub(super) fn insert(&mut self, host: &str, value: T) {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        match host.strip_prefix("*.") {
            Some(suffix) => self.below.entry(suffix.into()).or_insert(value),
            None => self.exact.entry(host.into()).or_insert(value),
        };
    }

    /// What stands behind a host that [`Host::read`] has read: the exact host first, then the longest
    /// pattern.
    pub fn find(&self, host: &str) -> Option<&T> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if self.below.is_empty() {
            return None;
        }
        // A pattern asks for at least one label before its suffix, so the dot is not the first byte.
        host.match_indices('.')
            .filter(|(at, _)| *at > 0)
            .find_map(|(at, _)| self.below.get(&host[at + 1..]))
    }

    pub(super) fn map<U>(self, mut change: impl FnMut(T) -> U) -> Hosts<U> {
        let mut every = |map: HashMap<Box<str>, T>| map.into_iter().map(|(k, v)| (k, change(v))).collect();
        Hosts {
            exact: every(self.exact),
            below: every(self.below),
        }
    }
}

/// No name in DNS is longer; neither is a host here.
const LONGEST_HOST: usize = 253;

/// A host as the table knows it: lower case, no port, no dot at the end. Lives on the stack, since it
/// is made once a request.
pub struct Host {
    bytes: [u8; LONGEST_HOST],
    len: u8,
}

impl Host {
    /// Reads what stands in a Host header or an authority. `None` when that is no host.
    pub fn read(raw: &[u8]) -> Option<Self> {
        let name = without_port(raw)?;
        let name = name.strip_suffix(b".").unwrap_or(name);
        let is_literal = name.starts_with(b"[");
        let has_gap = name.split(|b| *b == b'.').any(<[u8]>::is_empty);
        if has_gap || name.len() > LONGEST_HOST {
            return None;
        }
        let mut bytes = [0; LONGEST_HOST];
        for (to, from) in bytes.iter_mut().zip(name) {
            let known = if is_literal { b"-._[:]".as_slice() } else { b"-._" };
            if !(from.is_ascii_alphanumeric() || known.contains(from)) {
                return None;
            }
            *to = from.to_ascii_lowercase();
        }
        Some(Self {
            bytes,
            len: u8::try_from(name.len()).ok()?,
        })
    }

    /// The host as text.
    pub fn as_str(&self) -> &str {
        // `read` lets nothing but ASCII in.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

fn without_port(raw: &[u8]) -> Option<&[u8]> {
    let after = match raw.first() {
        Some(b'[') => raw.iter().position(|b| *b == b']')? + 1,
        _ => raw.iter().position(|b| *b == b':').unwrap_or(raw.len()),
    };
    let (name, rest) = raw.split_at(after);
    match rest {
        [] => Some(name),
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit).then_some(name),
        _ => None,
    }
}
