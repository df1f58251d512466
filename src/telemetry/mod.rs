//! What Tancho says about itself while it runs: log lines on standard error, and figures for who asks.
//!
//! Nothing here decides what is said; it only fixes the form. Secrets do not reach it, because `Secret`
//! does not print itself.

pub mod logs;
pub mod metrics;
