//! Deploys: from a source to a version that runs, and back to an earlier one.
//!
//! A deploy is an event with a saga behind it: *build* makes the version's files on this host, *release*
//! proposes it with the environment of the moment, *start* waits until its units are ready, *switch*
//! makes it current, *tidy* drops the archive and the oldest versions. Its lines are the event's; whoever
//! lost the connection can follow the event again. A deploy that fails, or is cancelled, leaves the
//! version that runs as it is.
//!
//! A rollback releases an earlier version again with the variables that users had set when it was first
//! released; what binds give is always as it is now, because an old password is of no use.

mod actions;
pub mod modern;
mod rollback;
mod saga;
mod store;
mod upload;

pub use actions::{Order, Source, deploy, list, may_deploy, rollback};
pub use rollback::Rollback;
pub use saga::{Deploy, sweep};
pub use store::DeployRow;
pub use upload::Upload;
