//! The view of a platform that both editions share.

use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::names::PlatformName;
use crate::platforms::Platform;

/// A platform. Fields are in the order of their keys.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlatformView {
    disabled: bool,
    name: PlatformName,
}

impl From<Platform> for PlatformView {
    fn from(platform: Platform) -> Self {
        Self {
            disabled: platform.disabled,
            name: platform.name,
        }
    }
}
