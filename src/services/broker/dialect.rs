//! The dialects of the provisioning API, by their endpoints for binding (contract/classic 2.2, 2.5).

use crate::kernel::error::Error;

/// How a service expects to be notified of binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Since 0.9: `bind-app` for the app, `bind` for each unit.
    BindApp,
    /// 0.8: `bind` for both.
    Bind,
    /// 2013–2014: `POST /resources/<name>`, and `DELETE …/hostname/<host>`.
    PerUnit,
    /// 2012: the same for the app alone, with a slash at the end of every path.
    TrailingSlash,
}

/// An endpoint in one dialect: the path below the instance, and whether it has a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BrokerEndpoint {
    pub(super) dialect: Dialect,
    pub(super) subpath: Vec<String>,
    pub(super) trailing_slash: bool,
}

const DIALECT_NAMES: [(Dialect, &str, &str); 4] = [
    (Dialect::BindApp, "bind-app", "today"),
    (Dialect::Bind, "bind", "0.8"),
    (Dialect::PerUnit, "2014", "0.5"),
    (Dialect::TrailingSlash, "2012", "0.1"),
];

impl Dialect {
    /// Returns the name under which the dialect is stored.
    pub fn as_str(self) -> &'static str {
        DIALECT_NAMES
            .iter()
            .find_map(|(d, word, _)| (*d == self).then_some(*word))
            .unwrap_or("bind-app")
    }

    /// Parses the name of a dialect, from the database or from a manifest.
    pub fn parse(word: &str) -> Result<Self, Error> {
        DIALECT_NAMES
            .iter()
            .find_map(|(d, a, b)| (*a == word || *b == word).then_some(*d))
            .ok_or_else(|| Error::invalid("The dialect must be one of bind-app, bind, 2014 and 2012."))
    }

    /// Returns whether the dialect has calls for single units.
    pub fn has_unit_calls(self) -> bool {
        self != Dialect::TrailingSlash
    }
}

fn new_endpoint(dialect: Dialect, below: &[&str], slash: bool) -> BrokerEndpoint {
    BrokerEndpoint {
        dialect,
        subpath: below.iter().map(|s| (*s).to_owned()).collect(),
        trailing_slash: slash,
    }
}

/// Returns the endpoints to bind an app: that of the known dialect, or all from the newest to the oldest.
pub(super) fn bind_endpoints(known: Option<Dialect>) -> Vec<BrokerEndpoint> {
    let all = [
        new_endpoint(Dialect::BindApp, &["bind-app"], false),
        new_endpoint(Dialect::Bind, &["bind"], false),
        new_endpoint(Dialect::PerUnit, &[], false),
        new_endpoint(Dialect::TrailingSlash, &[], true),
    ];
    all.into_iter()
        .filter(|way| known.is_none_or(|d| d == way.dialect))
        .collect()
}

/// Returns the endpoints to unbind what was bound under `host`. Never returns the path of the instance
/// itself: a DELETE there destroys it.
pub(super) fn unbind_endpoints(known: Option<Dialect>, host: &str) -> Vec<BrokerEndpoint> {
    let all = [
        new_endpoint(Dialect::BindApp, &["bind-app"], false),
        new_endpoint(Dialect::Bind, &["bind"], false),
        new_endpoint(Dialect::TrailingSlash, &["hostname", host], true),
        new_endpoint(Dialect::PerUnit, &["hostname", host], false),
        new_endpoint(Dialect::PerUnit, &["host", host], false),
        new_endpoint(Dialect::TrailingSlash, &["host", host], true),
    ];
    let old = |d: Dialect| matches!(d, Dialect::PerUnit | Dialect::TrailingSlash);
    let mut ways: Vec<BrokerEndpoint> = all
        .into_iter()
        .filter(|way| known.is_none_or(|d| d == way.dialect || (old(d) && old(way.dialect))))
        .collect();
    if known == Some(Dialect::PerUnit) {
        // The spelling of this dialect first; the older ones for services that follow older documentation.
        ways.sort_by_key(|way| way.dialect != Dialect::PerUnit || way.subpath[0] != "hostname");
    }
    ways
}

/// Returns the endpoint to bind and to unbind a job.
pub(super) fn job_endpoint(job: &str) -> BrokerEndpoint {
    new_endpoint(Dialect::BindApp, &["binds", "jobs", job], false)
}

/// Returns the endpoint to announce a new unit.
pub(super) fn bind_unit_endpoint(known: Dialect) -> Option<BrokerEndpoint> {
    match known {
        Dialect::BindApp | Dialect::Bind => Some(new_endpoint(known, &["bind"], false)),
        Dialect::PerUnit => Some(new_endpoint(known, &[], false)),
        Dialect::TrailingSlash => None,
    }
}

/// Returns the endpoints to announce that a unit is gone.
pub(super) fn unbind_unit_endpoints(known: Dialect, host: &str) -> Vec<BrokerEndpoint> {
    match known {
        Dialect::BindApp | Dialect::Bind => vec![new_endpoint(known, &["bind"], false)],
        Dialect::PerUnit => unbind_endpoints(Some(known), host),
        Dialect::TrailingSlash => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_unbind_endpoint_is_the_path_of_the_instance() {
        for known in [
            None,
            Some(Dialect::BindApp),
            Some(Dialect::Bind),
            Some(Dialect::PerUnit),
            Some(Dialect::TrailingSlash),
        ] {
            let ways = unbind_endpoints(known, "h");
            assert!(!ways.is_empty());
            assert!(ways.iter().all(|way| !way.subpath.is_empty()), "{known:?}");
        }
    }

    #[test]
    fn known_dialect_is_tried_first() {
        assert_eq!(bind_endpoints(Some(Dialect::Bind)).len(), 1);
        assert_eq!(bind_endpoints(None)[0].dialect, Dialect::BindApp);
        let first = unbind_endpoints(Some(Dialect::PerUnit), "h").swap_remove(0);
        assert_eq!(first, new_endpoint(Dialect::PerUnit, &["hostname", "h"], false));
        let first = unbind_endpoints(Some(Dialect::TrailingSlash), "h").swap_remove(0);
        assert_eq!(
            first,
            new_endpoint(Dialect::TrailingSlash, &["hostname", "h"], true)
        );
        for (dialect, word, old) in DIALECT_NAMES {
            assert_eq!(Dialect::parse(word).unwrap(), dialect);
            assert_eq!(Dialect::parse(old).unwrap(), dialect);
            assert_eq!(dialect.as_str(), word);
        }
    }
}
