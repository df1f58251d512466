//! The model of a quota.

use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;

/// A limit and the number in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// -1: no limit.
    pub limit: i32,
    pub in_use: i32,
}

impl Quota {
    /// Returns the number that is left; never below 0. `None`: no limit.
    pub fn available_count(self) -> Option<i32> {
        (self.limit >= 0).then(|| self.limit.saturating_sub(self.in_use).max(0))
    }

    /// Returns whether `more` fit within the limit.
    pub fn allows_more(self, more: i32) -> bool {
        self.available_count().is_none_or(|left| more <= left)
    }
}

/// A quota in the modern edition.
#[derive(JsonSchema, Debug, Serialize)]
pub struct QuotaView {
    limit: i32,
    inuse: i32,
}

impl From<Quota> for QuotaView {
    fn from(quota: Quota) -> Self {
        Self {
            limit: quota.limit,
            inuse: quota.in_use,
        }
    }
}

/// Parses a limit: a number from -1 up, or `unlimited`. Errors: `Invalid`.
pub fn parse_limit(text: &str) -> Result<i32, Error> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(-1);
    }
    text.trim()
        .parse()
        .ok()
        .filter(|limit| *limit >= -1)
        .ok_or_else(|| Error::invalid("limit must be a whole number, or -1 for no limit."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quota_allows_only_what_stays_within_the_limit(limit in -1..2000_i32, in_use in 0..2000_i32, more in 1..2000_i32) {
            let fits = Quota { limit, in_use }.allows_more(more);
            prop_assert_eq!(fits, limit == -1 || in_use + more <= limit);
        }
    }

    #[test]
    fn limit_is_parsed_from_a_number_or_unlimited() {
        assert_eq!(parse_limit("unlimited").unwrap(), -1);
        assert_eq!(parse_limit("-1").unwrap(), -1);
        assert_eq!(parse_limit("0").unwrap(), 0);
        for bad in ["", "-2", "x", "1.5", "99999999999"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
    }
}
