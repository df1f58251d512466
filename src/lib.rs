//! Tancho: a platform-as-a-service in one binary.
//!
//! The modules, lowest first. A module imports only what stands above it in this list
//! (`tests/layers.rs` checks it):

pub mod kernel;

pub mod config;
mod net;

pub mod datadir;
pub mod sandbox;
pub mod telemetry;

pub mod db;

pub mod builders;
pub mod events;
pub mod mail;
pub mod outbound;
pub mod provisioners;
pub mod proxy;
pub mod sagas;

pub mod caller_limits;

pub mod core;

pub mod web;

pub mod key_rotation;
pub mod quotas;

pub mod users;

pub mod clusters;
pub mod plans;
pub mod platforms;
pub mod pools;
pub mod routers;
pub mod teams;

pub mod envs;

pub mod apps;

pub mod certificates;
pub mod versions;

pub mod releases;

pub mod routing;
pub mod units;
pub mod volumes;

pub mod autoscale;
pub mod deploys;
pub mod exec;
pub mod services;
pub mod webhooks;

pub mod repositories;

pub mod forges;
pub mod ssh;

pub mod healers;
pub mod lifecycle;

pub mod jobs;

pub mod http;

pub mod server;

pub mod cli;

pub mod commands;
