//! Tancho from outside: the built program, its own Postgres, real apps, real signals. Each test has a data
//! folder of its own, and at its end, also after a panic, no process and no file of it is left.
#![expect(
    clippy::unwrap_used,
    reason = "this crate consists of tests and their helpers"
)]
#![expect(clippy::print_stdout, reason = "output that is shown only if the test fails")]

mod apps;
mod chaos;
mod cluster;
mod command;
mod crash;
mod deploys;
mod docker;
mod docker_builds;
mod exec;
mod failpoints;
mod fairness;
mod faults;
mod fleet;
mod forge;
mod forge_ssh;
mod git_client;
mod handover;
mod jobs;
mod keys;
mod load;
mod ordinary_user;
mod paused_replica;
#[path = "../it/pebble.rs"]
mod pebble;
mod processes;
mod push;
mod push_attacks;
mod push_hostile;
mod push_limits;
mod push_old_history;
mod push_quota;
mod push_refusals;
mod replicas;
mod secrets;
mod services;
mod split_roles;
mod ssh;
mod ssh_replicas;
mod ssh_user;
mod test_instance;
mod upgrade;
mod variables;
mod zero_loss;
