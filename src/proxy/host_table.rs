//! Maps a host to an app and its backends. Pure: no socket, no clock.

use std::collections::HashMap;
use std::net::SocketAddr;

/// One host of one app.
#[derive(Clone, Debug)]
pub struct HostRoute {
    /// The host in lower case without a port, or `*.x.y` for every host one label below `x.y`, as in
    /// certificates.
    pub host: String,
    /// The app's name, for error pages and the access log.
    pub app: String,
    /// The addresses of the app's ready units, or why there are none.
    pub backends: BackendSet,
}

/// The ready units of an app.
#[derive(Clone, Debug)]
pub enum BackendSet {
    /// Their addresses; an empty list counts as "no unit is ready".
    Ready(Vec<SocketAddr>),
    /// The reason, as a clause for the page of a 503: "the app is stopped".
    None {
        /// The clause.
        reason: String,
    },
}

/// A complete table, swapped in by [`super::Proxy::set_routes`].
pub type HostRoutes = HostTable<HostRoute>;

impl FromIterator<HostRoute> for HostRoutes {
    /// The first of two routes with the same host counts.
    fn from_iter<I: IntoIterator<Item = HostRoute>>(routes: I) -> Self {
        let mut hosts = Self::default();
        for mut route in routes {
            let host = std::mem::take(&mut route.host);
            hosts.insert(&host, route);
        }
        hosts
    }
}

/// Maps hosts and wildcard hosts to values.
#[derive(Clone, Debug)]
pub struct HostTable<T> {
    exact: HashMap<Box<str>, T>,
    /// `*.x.y` is stored as `x.y`.
    wildcard: HashMap<Box<str>, T>,
    /// The platform's own domain with a leading dot: no wildcard matches a host below it.
    own_suffix: Option<Box<str>>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            own_suffix: None,
        }
    }
}

impl<T> HostTable<T> {
    /// Excludes the platform's own domain from wildcards: a host below it that no app has is unknown,
    /// whatever wildcard would match it.
    #[must_use]
    pub fn with_own_domain(mut self, domain: &str) -> Self {
        self.own_suffix = Some(format!(".{}", domain.to_ascii_lowercase()).into());
        self
    }

    pub(super) fn insert(&mut self, host: &str, value: T) {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        match host.strip_prefix("*.") {
            Some(suffix) => self.wildcard.entry(suffix.into()).or_insert(value),
            None => self.exact.entry(host.into()).or_insert(value),
        };
    }

    /// Finds the value of a host parsed by [`HostName::parse`]: first by the exact host, then by the wildcard
    /// one label above.
    pub fn find_host(&self, host: &str) -> Option<&T> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if self.wildcard.is_empty() || self.is_own_host(host) {
            return None;
        }
        match host.split_once('.') {
            Some((label, suffix)) if !label.is_empty() => self.wildcard.get(suffix),
            _ => None,
        }
    }

    fn is_own_host(&self, host: &str) -> bool {
        let own = self.own_suffix.as_deref();
        own.is_some_and(|suffix| host.ends_with(suffix) || host == &suffix[1..])
    }

    pub(super) fn map_values<U>(self, mut change: impl FnMut(T) -> U) -> HostTable<U> {
        let mut every = |map: HashMap<Box<str>, T>| map.into_iter().map(|(k, v)| (k, change(v))).collect();
        HostTable {
            exact: every(self.exact),
            wildcard: every(self.wildcard),
            own_suffix: self.own_suffix,
        }
    }
}

/// The maximum length of a DNS name, and of a host.
const MAX_HOST_LEN: usize = 253;

/// A normalized host: lower case, no port, no trailing dot. Stored on the stack, since one is made per
/// request.
pub struct HostName {
    bytes: [u8; MAX_HOST_LEN],
    len: u8,
}

impl HostName {
    /// Parses a Host header or an authority. `None` if it is not a host.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let name = strip_port(raw)?;
        let name = name.strip_suffix(b".").unwrap_or(name);
        let is_literal = name.starts_with(b"[");
        let has_gap = name.split(|b| *b == b'.').any(<[u8]>::is_empty);
        if has_gap || name.len() > MAX_HOST_LEN {
            return None;
        }
        let mut bytes = [0; MAX_HOST_LEN];
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

    /// Returns the host as a string.
    pub fn as_str(&self) -> &str {
        // `parse` accepts only ASCII.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

fn strip_port(raw: &[u8]) -> Option<&[u8]> {
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
