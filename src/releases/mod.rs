//! Releases: a version together with the environment it runs in. Every change of what an app runs (a deploy,
//! a rollback, a restart, a variable, a bind) creates a release and rolls it out.
//!
//! An app has a *current* release, which gets the requests, and during a rollout a *candidate*. The
//! candidate's units are started and checked while the current ones keep serving. Once enough of them are
//! ready, the candidate is promoted to current in one transaction, and the old units drain. If they do not
//! become ready, the candidate is discarded and the current release stays.
//!
//! An app may run further versions beside its current release: each is a *side* with a release, a candidate and numbers
//! of units of its own. A version that is started beside others gets no requests until it is made routable; then all
//! routable versions share the requests by their units. A deploy that replaces all versions ends the sides.
//!
//! A restart or a start of one process creates a release as well: it restarts the units of this process and
//! takes over the units of the others unchanged, with the environment that they were started with, until
//! their next start. When a release becomes current, the unit counts of processes that its version does not
//! have are deleted.
//!
//! For an app that is stopped or has no units, a new release becomes current at once: there is no running
//! unit to protect.

mod actions;
pub mod classic;
pub mod modern;
mod notes;
mod rollout;
pub mod rollout_steps;
mod saga;
mod sides;
pub(crate) mod store;
mod wire;

pub use actions::{
    EnvChange, NewVar, RestartTarget, read_environment, read_environment_of, restart_app, roll_out_or_end,
    roll_out_processes, set_env, set_env_of, unset_env, unset_env_of, version_not_running,
};
pub use notes::append_environment_notes;
pub use rollout::{
    create_current_release, create_version_candidate, discard_candidate, load_environment,
    load_user_environment, restore_user_environment,
};
pub use saga::{RolloutData, RolloutSaga};
pub use sides::{
    ReleaseSide, end_other_sides, find_deploy_side, list_running_sides, list_running_versions,
    set_version_routable,
};
