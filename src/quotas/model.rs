//! What a quota is.

use crate::kernel::problem::Problem;

/// A limit and what is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// -1: no limit.
    pub limit: i32,
    pub in_use: i32,
}

impl Quota {
    /// What is left; never below 0. `None`: no limit.
    pub fn available(self) -> Option<i32> {
        (self.limit >= 0).then(|| self.limit.saturating_sub(self.in_use).max(0))
    }

    /// True if `more` fit in.
    pub fn has_room_for(self, more: i32) -> bool {
        self.available().is_none_or(|left| more <= left)
    }
}

/// Reads a limit as people send it: a number from -1 up, or `unlimited`. Errors: `Invalid`.
pub fn parse_limit(text: &str) -> Result<i32, Problem> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(-1);
    }
    text.trim()
        .parse()
        .ok()
        .filter(|limit| *limit >= -1)
        .ok_or_else(|| Problem::invalid("limit must be a whole number, or -1 for no limit."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_has_room_stays_within_the_limit(limit in -1..2000_i32, in_use in 0..2000_i32, more in 1..2000_i32) {
            let fits = Quota { limit, in_use }.has_room_for(more);
            prop_assert_eq!(fits, limit == -1 || in_use + more <= limit);
        }
    }

    #[test]
    fn limits_are_numbers_or_none() {
        assert_eq!(parse_limit("unlimited").unwrap(), -1);
        assert_eq!(parse_limit("-1").unwrap(), -1);
        assert_eq!(parse_limit("0").unwrap(), 0);
        for bad in ["", "-2", "x", "1.5", "99999999999"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
    }
}
