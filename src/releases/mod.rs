//! Releases: a version together with the environment it runs in. Everything that changes what an app
//! runs (a deploy, a rollback, a restart, a variable, a bind) makes a new release and rolls it out.
//!
//! An app has a *current* release, which gets the requests, and while something is rolled out a
//! *candidate* beside it. The candidate's units are started and checked while the current ones go on;
//! once enough of them are ready, the candidate becomes current in one transaction and the old units are
//! drained. If they never get ready, the candidate is dropped and nothing has changed for anybody.
//!
//! An app that is stopped, or has no units, takes a new release as current at once: there is nothing to
//! protect.

mod actions;
pub mod classic;
pub mod modern;
mod rollout;
mod saga;
pub(crate) mod store;

pub use actions::{EnvChange, environment_of, restart, set_env, unset_env};
pub use rollout::{
    abandon, adopt, await_gone, await_ready, environment, propose, propose_version, restore_user_environment,
    settle, settle_routers, start_fresh, user_environment,
};
pub use saga::{Rollout, RolloutData};
