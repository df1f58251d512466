use proptest::prelude::*;

use super::super::host_table::HostName;
use super::*;

fn route_table(hosts: &[&str]) -> HostRoutes {
    hosts
        .iter()
        .map(|host| HostRoute {
            host: (*host).into(),
            app: (*host).into(),
            backends: BackendSet::None {
                reason: "test".into(),
            },
        })
        .collect()
}

fn find_app<'a>(routes: &'a HostRoutes, host: &str) -> Option<&'a str> {
    let host = HostName::parse(host.as_bytes())?;
    routes.find_host(host.as_str()).map(|route| route.app.as_str())
}

#[test]
fn exact_host_takes_precedence_and_a_wildcard_matches_one_label() {
    let routes = route_table(&["*.x.y", "a.x.y", "*.b.x.y", "*.y"]);
    assert_eq!(find_app(&routes, "a.x.y"), Some("a.x.y"));
    assert_eq!(find_app(&routes, "c.x.y"), Some("*.x.y"));
    assert_eq!(find_app(&routes, "c.d.x.y"), None);
    assert_eq!(find_app(&routes, "c.b.x.y"), Some("*.b.x.y"));
    assert_eq!(find_app(&routes, "b.x.y"), Some("*.x.y"));
    assert_eq!(find_app(&routes, "x.y"), Some("*.y"));
    assert_eq!(find_app(&routes, "y"), None);
    assert_eq!(find_app(&routes, ".y"), None);
    assert_eq!(find_app(&routes, "ay"), None);
}

#[test]
fn wildcard_cname_never_matches_the_platform_domain() {
    let patterns = ["*.apps.test", "*.test", "*.x.apps.test", "shop.apps.test"];
    let routes = route_table(&patterns).with_own_domain("Apps.test");
    assert_eq!(find_app(&routes, "shop.apps.test"), Some("shop.apps.test"));
    for unknown in [
        "gone.apps.test",
        "GONE.apps.test.",
        "a.x.apps.test",
        "apps.test",
        "apps.test:80",
    ] {
        assert_eq!(find_app(&routes, unknown), None, "{unknown}");
    }
    // A host that only shares the suffix string is another domain.
    assert_eq!(find_app(&routes, "myapps.test"), Some("*.test"));
}

#[test]
fn case_port_and_trailing_dot_are_ignored() {
    let routes = route_table(&["Blog.Test", "[::1]"]);
    for host in [
        "blog.test",
        "BLOG.test",
        "blog.test:80",
        "blog.test.",
        "blog.TEST.:8080",
    ] {
        assert_eq!(find_app(&routes, host), Some("Blog.Test"), "{host}");
    }
    assert_eq!(find_app(&routes, "[::1]:80"), Some("[::1]"));
}

#[test]
fn invalid_hosts_are_refused() {
    let long = "a".repeat(254);
    for host in [
        "",
        ".",
        ":80",
        "a b",
        "a/b",
        "u@blog.test",
        "blog.test:x",
        "[::1",
        "[::1]x",
        "bl\u{f6}g",
        &long,
    ] {
        assert!(HostName::parse(host.as_bytes()).is_none(), "{host}");
    }
}

#[test]
fn first_of_two_routes_with_one_host_counts() {
    let mut routes = Vec::new();
    for app in ["one", "two"] {
        routes.push(HostRoute {
            host: "h".into(),
            app: app.into(),
            backends: BackendSet::Ready(Vec::new()),
        });
    }
    assert_eq!(find_app(&routes.into_iter().collect(), "h"), Some("one"));
}

/// A slow reference implementation of the rules.
fn expected_app<'a>(patterns: &'a [String], host: &str) -> Option<&'a str> {
    if let Some(exact) = patterns.iter().find(|p| *p == host) {
        return Some(exact);
    }
    patterns
        .iter()
        .filter(|p| {
            p.strip_prefix('*').is_some_and(|suffix| {
                let label = host.strip_suffix(suffix);
                label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
            })
        })
        .max_by_key(|p| p.len())
        .map(String::as_str)
}

proptest! {
    #[test]
    fn lookup_matches_the_reference_rules(
        patterns in proptest::collection::vec("(\\*\\.)?[ab](\\.[ab]){0,3}", 0..12),
        host in "[ab](\\.[ab]){0,4}",
    ) {
        let refs: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let routes = route_table(&refs);
        prop_assert_eq!(find_app(&routes, &host), expected_app(&patterns, &host));
    }

    #[test]
    fn parsing_a_host_never_panics_and_is_idempotent(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Some(host) = HostName::parse(&raw) {
            let again = HostName::parse(host.as_str().as_bytes());
            let again = again.as_ref().map(HostName::as_str);
            // A name may end in two dots; each parse removes one.
            prop_assert!(again.is_none() || host.as_str().starts_with(again.unwrap()));
        }
    }
}
