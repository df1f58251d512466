//! The log of a unit: its lines, and positions in it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A position in a unit's log. It grows with the log and survives rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// The oldest line that still exists.
    pub const START: Self = Self(0);
}

/// The stream that a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a unit's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read from the unit.
    pub at: DateTime<Utc>,
    /// Its stream.
    pub stream: LogStream,
    /// The message: valid UTF-8, without control characters, of bounded length.
    pub message: String,
}
