//! Deploys: from a source to a version that runs, and back to an earlier one.
//!
//! A deploy is an event with a saga behind it: *build* makes the version's files on one host, *release* runs the
//! `release` line of its Procfile, *create-candidate*
//! makes a release of it with the environment of the moment, *wait-for-units* waits until its units are ready,
//! *promote* makes it current, *wait-for-routers* waits until they get the requests, *clean-up* drops the archive and
//! the oldest versions. Its lines are the event's; whoever lost the connection can follow the event again. A deploy that fails, or is cancelled, leaves the
//! version that runs as it is.
//!
//! Where it runs: on the host that has the archive. If that host has no worker, the archive is handed over through the
//! database, and the worker that takes the deploy first is the one that keeps it, since the version's files are there.
//!
//! What is deployed is an archive or an image. Where units run from images, an archive is built as one, with its
//! Dockerfile; an image is pinned to its digest in the step *build*.
//!
//! A version may also be built under a tag without being deployed, and deployed later: of such a saga only *build* and
//! *clean-up* do anything, and of the later one all but *build*.
//!
//! A rollback releases an earlier version again with the variables that users had set when it was first
//! released; what binds give is always as it is now, because an old password is of no use.

mod actions;
mod archive_transfer;
mod archive_version;
mod build_log;
mod build_request;
mod build_slot;
mod builds;
mod dockerfile_version;
mod image_version;
mod leftovers;
pub mod modern;
mod processes;
mod release_command;
mod rollback;
mod saga;
mod sides;
mod store;
mod upload;
mod version_changes;
mod version_choice;
mod version_tag;
mod wire;

pub use actions::{
    DeployOptions, DeploySource, authorize_deploy, deploy_app, deploy_to, list_deploys, rebuild_app,
    rollback_app,
};
pub use archive_transfer::ArchiveHealer;
pub use builds::{authorize_build, build_app};
pub use leftovers::remove_leftovers;
pub use rollback::RollbackSaga;
pub use saga::DeploySaga;
pub use sides::SideOptions;
pub use store::DeployRow;
pub use upload::{ArchiveUpload, UploadPermit, admit_upload};
pub use version_changes::{change_rollback, change_routable, remove_version};
pub use version_tag::VersionTag;
