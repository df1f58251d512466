//! The words that every slice speaks: names with their rules, typed ids, the one error that crosses
//! a slice border, who is calling and what they may do, secrets, sizes.
//!
//! Nothing here waits, reads a file or asks the database. Everything else may import the kernel; the
//! kernel imports nothing of ours.

pub mod call;
pub mod context;
pub mod ids;
pub mod names;
pub mod permission;
pub mod problem;
pub mod seal;
pub mod secret;
pub mod size;
pub mod yaml;
