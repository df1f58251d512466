//! Volumes: data of a team that stays when its apps go. A volume has a pool, on whose provisioner it lives, and a plan of
//! the settings. It is bound to apps and jobs of that pool at a path, to be written or only read.
//!
//! A volume is made on a host when a unit first uses it, and stays on that host. It is bound or not; when it is removed, its
//! row goes at once, and its data when its host has removed it.
//!
//! Promises: a release keeps the volumes that were bound when it was made, so a bind without a restart changes no unit. A
//! volume is not removed while it is bound, or while a unit or a release that runs has it. Nobody but the bound apps reaches
//! the data of a local volume; a volume that holds more than its size is not written to.

mod actions;
mod binds;
mod healer;
mod model;
pub mod modern;
mod mount_point;
mod mounts;
mod store;

pub use healer::VolumeHealer;
pub use mounts::{list_app_mounts, list_release_mounts};
