//! Tancho: a platform-as-a-service in one binary.
//!
//! The map of the house, from the ground up. A module imports only what stands above it in this list
//! (`tests/layers.rs` sees to it):

pub mod kernel;

pub mod config;
pub mod db;
pub mod events;
pub mod outbound;
pub mod sagas;

pub mod core;

pub mod users;

pub mod apps;
pub mod units;

pub mod services;

pub mod http;
pub mod server;
