//! Types that every slice shares: validated names, typed ids, the one error type that crosses slice
//! boundaries, the request context with its permissions, secrets, sizes.
//!
//! The kernel does no I/O: no files, no database. Everything else may import it; it imports nothing else of
//! the crate.

pub mod artifact;
pub mod byte_size;
pub mod command_words;
pub mod drain_plan;
pub mod encryption;
pub mod error;
pub mod excerpt;
pub mod fair_slots;
pub mod feeds;
pub mod held_permission;
pub mod host_clock;
pub mod ids;
pub mod log_text;
pub mod names;
pub mod permission;
pub mod permission_context;
pub mod public_hosts;
pub mod rate_limiter;
pub mod request_context;
pub mod schedule;
pub mod secret;
pub mod secret_mask;
pub mod yaml;
