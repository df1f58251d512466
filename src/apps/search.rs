//! The name filter of the list of apps: a regular expression, as the present client sends it. It is matched
//! here, in time linear in the lengths of the expression and the name; Postgres, whose matcher backtracks,
//! never gets it.

use regex::{Regex, RegexBuilder};

use crate::kernel::error::Error;

/// Maximum length of an expression, in bytes.
const MAX_PATTERN: usize = 1000;
/// Maximum memory of a compiled expression, in bytes: `(a{1000}){1000}` is short, too.
const MAX_COMPILED: usize = 256 * 1024;
/// Maximum nesting of groups.
const MAX_NESTING: u32 = 50;

/// Compiles a regular expression of a caller. Errors: `Invalid` if it is malformed or too large.
pub(super) fn parse_pattern(pattern: &str) -> Result<Regex, Error> {
    let invalid = |why: &'static str| Error::invalid(format!("The name filter is {why}."));
    if pattern.len() > MAX_PATTERN {
        return Err(invalid("longer than 1000 bytes: shorten it"));
    }
    let compiled = RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .nest_limit(MAX_NESTING)
        .build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => invalid("a regular expression that is too complex: simplify it"),
        _ => invalid("not a valid regular expression").with_source(error),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn expressions_match_as_the_client_expects() {
        for (pattern, matches) in [
            ("shop", true),
            ("^shop", true),
            ("sho$", false),
            ("op-(one|two)$", true),
            (r"\w+-one", true),
            ("SHOP", false),
            ("(?i)SHOP", true),
            (".*", true),
        ] {
            assert_eq!(
                parse_pattern(pattern).unwrap().is_match("shop-one"),
                matches,
                "{pattern}"
            );
        }
    }

    #[test]
    fn invalid_or_expensive_patterns_are_refused_at_once() {
        let long = "a".repeat(MAX_PATTERN + 1);
        let deep = "(".repeat(400) + &")".repeat(400);
        let began = Instant::now();
        for bad in [
            "(",
            "*",
            "[z-a]",
            r"(a)\1",
            "(?=a)",
            "(a{1000}){1000}",
            "\\pL{1000}",
            &long,
            &deep,
        ] {
            assert!(parse_pattern(bad).is_err(), "{bad}");
        }
        let slow = parse_pattern("^(a+)(a+)(a+)(a+)(a+)(a+)b$").unwrap();
        assert!(!slow.is_match(&"a".repeat(63)));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
