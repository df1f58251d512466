//! The order of a list of events, as clients name it: the name of a field, with `-` before it for the
//! opposite direction.

use std::str::FromStr;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// The fields by which a list is sorted, by their lower-case names.
const FIELDS: [&str; 8] = [
    "starttime",
    "endtime",
    "kind.name",
    "target.type",
    "target.value",
    "owner.type",
    "owner.name",
    "error",
];

/// The order of a list of events; the newest first by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSort {
    field: &'static str,
    is_descending: bool,
}

impl EventSort {
    /// Returns the lower-case name of the field.
    pub(super) fn field(self) -> &'static str {
        self.field
    }

    pub(super) fn is_descending(self) -> bool {
        self.is_descending
    }
}

impl Default for EventSort {
    fn default() -> Self {
        Self {
            field: "starttime",
            is_descending: true,
        }
    }
}

impl FromStr for EventSort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, is_descending) = match text.strip_prefix('-') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let field = FIELDS.into_iter().find(|field| name.eq_ignore_ascii_case(field));
        let field = field.ok_or_else(|| {
            Error::invalid(format!(
                "Events cannot be sorted by {:?}: use one of {}, with - before it for the opposite direction.",
                quote_excerpt(name),
                FIELDS.join(", ")
            ))
        })?;
        Ok(Self { field, is_descending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_field_sorts_in_the_direction_of_its_sign() {
        let sort: EventSort = "-StartTime".parse().unwrap();
        assert_eq!(sort, EventSort::default());
        let sort: EventSort = "target.value".parse().unwrap();
        assert_eq!((sort.field(), sort.is_descending()), ("target.value", false));
    }

    #[test]
    fn unknown_field_is_refused() {
        for bad in [
            "-",
            "",
            "--starttime",
            "start_data",
            "starttime; drop table event",
        ] {
            assert!(bad.parse::<EventSort>().is_err(), "{bad}");
        }
    }
}
