//! The model of team tokens.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::kernel::error::Error;
use crate::kernel::ids::TeamTokenId;
use crate::kernel::names::{TeamName, TeamTokenName};

/// The maximum length of a description, in characters.
const MAX_DESCRIPTION: usize = 2000;
/// The latest expiry: 100 years from now, in seconds.
const MAX_EXPIRES_IN: i64 = 100 * 365 * 24 * 3600;

/// A team token, without its value.
#[derive(Clone, Debug)]
pub(super) struct TeamToken {
    pub(super) id: TeamTokenId,
    pub(super) name: TeamTokenName,
    pub(super) team: TeamName,
    pub(super) description: String,
    /// The e-mail address of the creator, as it was then.
    pub(super) created_by: String,
    pub(super) created_at: DateTime<Utc>,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) last_used_at: Option<DateTime<Utc>>,
    /// Names of the roles assigned to it, each with the name of its object; empty for a global role.
    pub(super) roles: Vec<(String, String)>,
}

/// A token to be created.
#[derive(Clone, Debug)]
pub(super) struct NewTeamToken {
    /// `None`: a name is generated from that of the team.
    pub(super) name: Option<TeamTokenName>,
    /// `None`: the only team in which the caller may create tokens.
    pub(super) team: Option<TeamName>,
    pub(super) description: String,
    pub(super) expires_in: ExpiryChange,
}

/// The changes to a token.
#[derive(Clone, Debug)]
pub(super) struct TokenChange {
    pub(super) regenerate: bool,
    /// Empty: unchanged.
    pub(super) description: String,
    pub(super) expires_in: ExpiryChange,
}

/// What a request says about the expiry of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ExpiryChange {
    /// Nothing: a new token does not expire, an existing one expires as before.
    Unchanged,
    Never,
    AfterSeconds(f64),
}

impl ExpiryChange {
    /// Reads `expires_in`, a number of seconds; 0 says nothing, and a negative number is `Never`. Errors:
    /// `Invalid` for more than 100 years.
    pub(super) fn from_seconds(seconds: i64) -> Result<Self, Error> {
        match seconds {
            0 => Ok(ExpiryChange::Unchanged),
            ..0 => Ok(ExpiryChange::Never),
            1..=MAX_EXPIRES_IN => {
                let seconds = u32::try_from(seconds).map_err(Error::internal)?;
                Ok(ExpiryChange::AfterSeconds(f64::from(seconds)))
            }
            _ => Err(Error::invalid(
                "expires_in is a number of seconds, at most 100 years; -1 means that the token does not expire.",
            )),
        }
    }

    /// Returns the seconds until a new token expires; `None`: it does not.
    pub(super) fn seconds(self) -> Option<f64> {
        match self {
            ExpiryChange::AfterSeconds(seconds) => Some(seconds),
            ExpiryChange::Unchanged | ExpiryChange::Never => None,
        }
    }
}

/// Checks the length of a description. Errors: `Invalid`.
pub(super) fn check_description(description: &str) -> Result<(), Error> {
    match description.chars().count() <= MAX_DESCRIPTION {
        true => Ok(()),
        false => Err(Error::invalid("A description has at most 2000 characters.")),
    }
}

/// Generates the name of a token from that of its team. It contains nothing of the token's value.
pub(super) fn generate_name(team: &TeamName) -> Result<TeamTokenName, Error> {
    let plain = |c: char| match c.is_ascii_alphanumeric() || "-_.".contains(c) {
        true => c,
        false => '-',
    };
    let team: String = team.as_str().chars().map(plain).collect();
    let random = Uuid::new_v4().simple().to_string();
    TeamTokenName::parse(&format!("{team}-{}", &random[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_read_from_seconds() {
        for (seconds, change) in [
            (0, ExpiryChange::Unchanged),
            (-1, ExpiryChange::Never),
            (i64::MIN, ExpiryChange::Never),
            (60, ExpiryChange::AfterSeconds(60.0)),
            (MAX_EXPIRES_IN, ExpiryChange::AfterSeconds(3_153_600_000.0)),
        ] {
            assert_eq!(ExpiryChange::from_seconds(seconds).unwrap(), change, "{seconds}");
        }
        for seconds in [MAX_EXPIRES_IN + 1, i64::MAX] {
            assert!(ExpiryChange::from_seconds(seconds).is_err(), "{seconds}");
        }
    }

    #[test]
    fn generated_names_are_valid_for_every_team_name() {
        for team in ["web", "Team one+2@x.y", &"a".repeat(63)] {
            let team = TeamName::parse(team).unwrap();
            let (one, other) = (generate_name(&team).unwrap(), generate_name(&team).unwrap());
            assert_ne!(one, other);
        }
    }
}
