//! The dialects of the provisioning API, by their words for binding (contract/classic 2.2, 2.5).

use crate::kernel::problem::Problem;

/// How a service wants to hear of binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Since 0.9: `bind-app` for the app, `bind` for each unit.
    BindApp,
    /// 0.8: `bind` for both.
    Bind,
    /// 2013–2014: `POST /resources/<name>`, and `DELETE …/hostname/<host>`.
    PerUnit,
    /// 2012: the same for the app alone, with a slash at the end of every path.
    Slashes,
}

/// One way to say a thing: the path below the instance, and whether a slash ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) dialect: Dialect,
    pub(super) below: Vec<String>,
    pub(super) slash: bool,
}

const ALL: [(Dialect, &str, &str); 4] = [
    (Dialect::BindApp, "bind-app", "today"),
    (Dialect::Bind, "bind", "0.8"),
    (Dialect::PerUnit, "2014", "0.5"),
    (Dialect::Slashes, "2012", "0.1"),
];

impl Dialect {
    /// The word under which it is kept.
    pub fn as_str(self) -> &'static str {
        ALL.iter()
            .find_map(|(d, word, _)| (*d == self).then_some(*word))
            .unwrap_or("bind-app")
    }

    /// Reads the word of the table or of a manifest.
    pub fn parse(word: &str) -> Result<Self, Problem> {
        ALL.iter()
            .find_map(|(d, a, b)| (*a == word || *b == word).then_some(*d))
            .ok_or_else(|| Problem::invalid("The dialect must be one of bind-app, bind, 2014 and 2012."))
    }

    /// Whether it has calls for single units.
    pub fn has_unit_calls(self) -> bool {
        self != Dialect::Slashes
    }
}

fn way(dialect: Dialect, below: &[&str], slash: bool) -> Way {
    Way {
        dialect,
        below: below.iter().map(|s| (*s).to_owned()).collect(),
        slash,
    }
}

/// How to bind an app: the known way, or all of them from today backwards.
pub(super) fn ways_to_bind(known: Option<Dialect>) -> Vec<Way> {
    let all = [
        way(Dialect::BindApp, &["bind-app"], false),
        way(Dialect::Bind, &["bind"], false),
        way(Dialect::PerUnit, &[], false),
        way(Dialect::Slashes, &[], true),
    ];
    all.into_iter()
        .filter(|way| known.is_none_or(|d| d == way.dialect))
        .collect()
}

/// How to unbind what was bound under `host`. Never the instance's own path: that destroys it.
pub(super) fn ways_to_unbind(known: Option<Dialect>, host: &str) -> Vec<Way> {
    let all = [
        way(Dialect::BindApp, &["bind-app"], false),
        way(Dialect::Bind, &["bind"], false),
        way(Dialect::Slashes, &["hostname", host], true),
        way(Dialect::PerUnit, &["hostname", host], false),
        way(Dialect::PerUnit, &["host", host], false),
        way(Dialect::Slashes, &["host", host], true),
    ];
    let old = |d: Dialect| matches!(d, Dialect::PerUnit | Dialect::Slashes);
    let mut ways: Vec<Way> = all
        .into_iter()
        .filter(|way| known.is_none_or(|d| d == way.dialect || (old(d) && old(way.dialect))))
        .collect();
    if known == Some(Dialect::PerUnit) {
        // Its own spelling first; the older ones for services that were written from older pages.
        ways.sort_by_key(|way| way.dialect != Dialect::PerUnit || way.below[0] != "hostname");
    }
    ways
}

/// How to tell of one unit that comes.
pub(super) fn way_to_bind_unit(known: Dialect) -> Option<Way> {
    match known {
        Dialect::BindApp | Dialect::Bind => Some(way(known, &["bind"], false)),
        Dialect::PerUnit => Some(way(known, &[], false)),
        Dialect::Slashes => None,
    }
}

/// How to tell of one unit that goes.
pub(super) fn ways_to_unbind_unit(known: Dialect, host: &str) -> Vec<Way> {
    match known {
        Dialect::BindApp | Dialect::Bind => vec![way(known, &["bind"], false)],
        Dialect::PerUnit => ways_to_unbind(Some(known), host),
        Dialect::Slashes => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_unbind_is_spelled_like_a_destroy() {
        for known in [
            None,
            Some(Dialect::BindApp),
            Some(Dialect::Bind),
            Some(Dialect::PerUnit),
            Some(Dialect::Slashes),
        ] {
            let ways = ways_to_unbind(known, "h");
            assert!(!ways.is_empty());
            assert!(ways.iter().all(|way| !way.below.is_empty()), "{known:?}");
        }
    }

    #[test]
    fn a_known_dialect_is_spoken_first() {
        assert_eq!(ways_to_bind(Some(Dialect::Bind)).len(), 1);
        assert_eq!(ways_to_bind(None)[0].dialect, Dialect::BindApp);
        let first = ways_to_unbind(Some(Dialect::PerUnit), "h").swap_remove(0);
        assert_eq!(first, way(Dialect::PerUnit, &["hostname", "h"], false));
        let first = ways_to_unbind(Some(Dialect::Slashes), "h").swap_remove(0);
        assert_eq!(first, way(Dialect::Slashes, &["hostname", "h"], true));
        for (dialect, word, old) in ALL {
            assert_eq!(Dialect::parse(word).unwrap(), dialect);
            assert_eq!(Dialect::parse(old).unwrap(), dialect);
            assert_eq!(dialect.as_str(), word);
        }
    }
}
