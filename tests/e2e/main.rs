//! Tancho from outside: the built program, its own Postgres, real apps, real signals. Each test has a
//! data folder of its own, and at its end, also after a panic, no process and no file of it is left.
#![expect(clippy::unwrap_used, reason = "all of this crate is tests and their helpers")]
#![expect(
    clippy::print_stdout,
    reason = "shown with a failed test only: what led to it"
)]

mod apps;
mod chaos;
mod cluster;
mod command;
mod crash;
mod deploys;
mod desk;
mod drill;
mod faults;
mod fleet;
mod forge;
mod forge_ssh;
mod house;
mod keys;
mod load;
mod loss;
mod people;
mod processes;
mod push;
mod push_hostile;
mod push_room;
mod replicas;
mod secrets;
mod services;
mod ssh;
mod ssh_replicas;
mod stopped;
mod variables;
