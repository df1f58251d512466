//! The types and rules of platforms.

use serde_json::Value;

use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::PlatformName;
use crate::kernel::permission::Permission;

/// A platform.
#[derive(Clone, Debug)]
pub struct Platform {
    pub name: PlatformName,
    pub disabled: bool,
    /// Its scripts are in the binary too, as version 0.
    pub shipped: bool,
}

/// A platform with the numbers of the versions that it can be built with, from the oldest.
#[derive(Clone, Debug)]
pub(super) struct PlatformVersions {
    pub(super) platform: Platform,
    pub(super) versions: Vec<i32>,
}

/// A change of a platform; `None` leaves a part as it is.
#[derive(Debug)]
pub(super) struct PlatformPatch {
    pub(super) archive: Option<Vec<u8>>,
    pub(super) disabled: Option<bool>,
}

/// Returns the name of a version, as clients show it and send it back: `ruby:v2`.
pub(super) fn version_image(platform: &PlatformName, version: i32) -> String {
    format!("{platform}:v{version}")
}

/// Parses the name of a version: `ruby:v2`, or only `v2` or `2`. Errors: `Invalid`.
pub(super) fn parse_version_image(image: &str) -> Result<i32, Error> {
    let tag = image.rsplit(':').next().unwrap_or_default();
    let number: Option<u16> = tag.strip_prefix('v').unwrap_or(tag).parse().ok();
    number.map(i32::from).ok_or_else(|| {
        Error::invalid(format!(
            "{:?} is no version of a platform: use one that the description of the platform lists.",
            quote_excerpt(image)
        ))
    })
}

/// Builds an event on a platform.
pub(super) fn platform_event(platform: &PlatformName, kind: Permission, data: Value) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Platform, platform),
        kind,
        Vec::new(),
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_image_parses_to_its_version() {
        let ruby = PlatformName::parse("ruby").unwrap();
        assert_eq!(parse_version_image(&version_image(&ruby, 12)).unwrap(), 12);
        assert_eq!(
            parse_version_image("registry.example.com:5000/tsuru/ruby:v3").unwrap(),
            3
        );
        assert_eq!(parse_version_image("v0").unwrap(), 0);
        assert_eq!(parse_version_image("7").unwrap(), 7);
        for bad in ["", "ruby", "ruby:latest", "v-1", "99999", "vv1"] {
            assert!(parse_version_image(bad).is_err(), "{bad}");
        }
    }
}
