//! The settings of upgrades.

use std::time::Duration;

use serde::Deserialize;

/// `[upgrade]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeSettings {
    /// How long a successor may take to be ready.
    #[serde(rename = "ready_seconds", deserialize_with = "super::values::seconds")]
    pub ready_timeout: Duration,
    /// How long clients of the process that was replaced may take.
    #[serde(rename = "drain_seconds", deserialize_with = "super::values::seconds")]
    pub drain_timeout: Duration,
}
