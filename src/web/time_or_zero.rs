//! A time as clients decode it.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// A time; the zero time stands for none, because clients decode no other value for that.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(with = "DateTime<Utc>")]
pub struct TimeOrZero(pub Option<DateTime<Utc>>);

impl Serialize for TimeOrZero {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(at) => at.serialize(serializer),
            None => serializer.serialize_str("0001-01-01T00:00:00Z"),
        }
    }
}
