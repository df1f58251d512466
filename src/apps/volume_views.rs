//! Volumes in the view of an app (contract/modern 2.21).

use schemars::JsonSchema;
use serde::Serialize;

use crate::apps::model::{AppDescription, BoundVolume};
use crate::kernel::names::AppName;

/// A volume of an app, as clients know binds of volumes.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AppVolumeView {
    #[serde(rename = "ID")]
    id: AppVolumeKeyView,
    read_only: bool,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct AppVolumeKeyView {
    app: AppName,
    mount_point: String,
    volume: String,
}

impl AppVolumeView {
    pub(super) fn new(full: &AppDescription, bound: &BoundVolume) -> Self {
        Self {
            id: AppVolumeKeyView {
                app: full.app.name.clone(),
                mount_point: bound.mount_point.clone(),
                volume: bound.volume.clone(),
            },
            read_only: bound.is_read_only,
        }
    }
}
