//! The clock of the host, for what is told to others or stamped at its source. What decides anything uses the
//! clock of the database.

use std::time::SystemTime;

use chrono::{DateTime, Utc};

/// Returns the present time of the host.
pub fn host_now() -> DateTime<Utc> {
    SystemTime::now().into()
}
