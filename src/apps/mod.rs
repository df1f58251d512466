//! Apps: what a developer owns and deploys. An app has a permanent name, a platform, a plan, a pool, teams
//! with access (one of them its owner), cnames, and an address `<label>.<domain>`, which a swap exchanges
//! with that of another app.
//!
//! A new app has no version and no units; the first deploy creates both. An app is *live* until its removal
//! begins, then *removing*; its row and everything that belongs to it are deleted at the end.
//!
//! Promises: name and address are unique (database constraints); the creation counts for the quotas of its
//! user and team in the same transaction; an app never loses its last team. What runs for an app belongs to
//! `releases` and `units`, its environment to `envs`.

mod actions;
mod addresses;
mod autoscale;
mod change;
pub mod classic;
mod info;
mod jobs;
mod listing;
mod metadata;
mod model;
pub mod modern;
mod plan_override;
mod processes;
mod quota;
mod rows;
mod search;
pub(crate) mod store;
mod views;
mod volume_views;
mod wire;

pub use actions::{describe_authorized_app, ensure_live, find_authorized_app, read_app, visible_app_scopes};
pub use autoscale::{
    AppScaleRule, CpuTarget, ScaleBehavior, ScaleDown, ScaleQuery, ScaleRule, ScaleSchedule,
};
pub use change::{AppChange, RestartScope, apply_change, check_change, check_values};
pub use info::{InfoCache, prune_changes};
pub use jobs::{
    JobAppRequest, NewJobApp, check_job_app, describe_job_apps, find_authorized_target, find_job_app,
    insert_job_app,
};
pub use listing::{AppScopes, list_team_apps};
pub use metadata::MetadataPatch;
pub use model::{App, AppDescription, AppKind, AppState, BoundInstance, ProcessScale, UnitView};
pub use views::AppView;
