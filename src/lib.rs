//! Tancho: a platform-as-a-service in one binary.
//!
//! The map of the house, from the ground up. A module imports only what stands above it in this list
//! (`tests/layers.rs` sees to it):

pub mod kernel;

pub mod config;

pub mod confine;
pub mod datadir;
pub mod telemetry;

pub mod db;

pub mod builders;
pub mod events;
pub mod mail;
pub mod outbound;
pub mod provisioners;
pub mod proxy;
pub mod sagas;

pub mod core;

pub mod plans;
pub mod platforms;
pub mod pools;
pub mod quotas;
pub mod sealing;

pub mod users;

pub mod teams;

pub mod envs;

pub mod apps;

pub mod releases;

pub mod units;

pub mod deploys;
pub mod services;

pub mod repositories;

pub mod forges;
pub mod ssh;

pub mod healers;
pub mod lifecycle;

pub mod http;

pub mod server;

pub mod cli;

pub mod commands;
