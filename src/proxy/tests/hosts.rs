use proptest::prelude::*;

use super::super::routes::Host;
use super::*;

fn table(hosts: &[&str]) -> Routes {
    hosts
        .iter()
        .map(|host| Route {
            host: (*host).into(),
            app: (*host).into(),
            state: Backends::None {
                reason: "test".into(),
            },
        })
        .collect()
}

fn found<'a>(routes: &'a Routes, host: &str) -> Option<&'a str> {
    let host = Host::read(host.as_bytes())?;
    routes.find(host.as_str()).map(|route| route.app.as_str())
}

#[test]
fn the_exact_host_wins_over_patterns_and_the_longest_pattern_over_others() {
    let routes = table(&["*.x.y", "a.x.y", "*.b.x.y", "*.y"]);
    assert_eq!(found(&routes, "a.x.y"), Some("a.x.y"));
    assert_eq!(found(&routes, "c.x.y"), Some("*.x.y"));
    assert_eq!(found(&routes, "c.d.x.y"), Some("*.x.y"));
    assert_eq!(found(&routes, "c.b.x.y"), Some("*.b.x.y"));
    assert_eq!(found(&routes, "b.x.y"), Some("*.x.y"));
    assert_eq!(found(&routes, "x.y"), Some("*.y"));
    assert_eq!(found(&routes, "y"), None);
    assert_eq!(found(&routes, ".y"), None);
    assert_eq!(found(&routes, "ay"), None);
}

#[test]
fn case_port_and_the_last_dot_do_not_matter() {
    let routes = table(&["Blog.Test", "[::1]"]);
    for host in [
        "blog.test",
        "BLOG.test",
        "blog.test:80",
        "blog.test.",
        "blog.TEST.:8080",
    ] {
        assert_eq!(found(&routes, host), Some("Blog.Test"), "{host}");
    }
    assert_eq!(found(&routes, "[::1]:80"), Some("[::1]"));
}

#[test]
fn what_is_no_host_is_refused() {
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
        assert!(Host::read(host.as_bytes()).is_none(), "{host}");
    }
}

#[test]
fn of_two_routes_with_one_host_the_first_counts() {
    let mut routes = Vec::new();
    for app in ["one", "two"] {
        routes.push(Route {
            host: "h".into(),
            app: app.into(),
            state: Backends::Ready(Vec::new()),
        });
    }
    assert_eq!(found(&routes.into_iter().collect(), "h"), Some("one"));
}

/// The rules again, said slowly.
fn by_the_book<'a>(patterns: &'a [String], host: &str) -> Option<&'a str> {
    if let Some(exact) = patterns.iter().find(|p| *p == host) {
        return Some(exact);
    }
    patterns
        .iter()
        .filter(|p| {
            p.strip_prefix('*')
                .is_some_and(|suffix| host.len() > suffix.len() && host.ends_with(suffix))
        })
        .max_by_key(|p| p.len())
        .map(String::as_str)
}

proptest! {
    #[test]
    fn lookup_is_what_the_rules_say(
        patterns in proptest::collection::vec("(\\*\\.)?[ab](\\.[ab]){0,3}", 0..12),
        host in "[ab](\\.[ab]){0,4}",
    ) {
        let refs: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let routes = table(&refs);
        prop_assert_eq!(found(&routes, &host), by_the_book(&patterns, &host));
    }

    #[test]
    fn reading_a_host_never_panics_and_is_idempotent(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Some(host) = Host::read(&raw) {
            let again = Host::read(host.as_str().as_bytes());
            let again = again.as_ref().map(Host::as_str);
            // A name may end in two dots, of which each reading takes one.
            prop_assert!(again.is_none() || host.as_str().starts_with(again.unwrap()));
        }
    }
}
