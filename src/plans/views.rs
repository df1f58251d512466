//! The view of a burst, which the views of apps have too.

use schemars::JsonSchema;
use serde::Serialize;

use crate::plans::model::PlanBurst;

/// Factors of the CPU; 0 is none.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanBurstView {
    default: f64,
    max_allowed: f64,
}

impl From<PlanBurst> for PlanBurstView {
    fn from(burst: PlanBurst) -> Self {
        Self {
            default: burst.default.unwrap_or(0.0),
            max_allowed: burst.max_allowed.unwrap_or(0.0),
        }
    }
}
