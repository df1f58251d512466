//! Telemetry: log lines on standard error, and metrics for Prometheus.
//!
//! This module defines the format only; the content comes from its callers. Secrets do not reach it, because
//! `Secret` does not print itself.

pub mod logs;
pub mod metrics;
