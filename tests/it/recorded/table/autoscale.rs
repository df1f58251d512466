//! Scaling by load.

use crate::recorded::shapes::AnswerShape::{Any, Words};
use crate::recorded::{ReplayRow, row};

const RULE: &[&str] =
    &[r#"POST /1.9/apps/shop/units/autoscale {"process":"web","maxUnits":6,"averageCPU":"50%"}"#];
const NO_VERSION: &str = "the app has no version 4 that runs";

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const AUTOSCALE: &[ReplayRow] = &[
    row("autoscale-set-cpu", &[Any]),
    row("autoscale-set-all-flags", &[Any]),
    row("autoscale-set-schedule-only", &[Any]),
    row("autoscale-set-deprecated-spelling", &[Any]),
    row("autoscale-set-invalid", &[Words]),
    row("autoscale-swap", &[Words]).answering(400, NO_VERSION),
    row("autoscale-swap-deprecated-spelling", &[Words]).answering(400, NO_VERSION),
    row("autoscale-unset", &[Any]),
    row("autoscale-unset-deprecated-spelling", &[Any]).after(RULE),
];
