//! Versions that are built first and deployed later: `app build` gives a version a tag, and a deploy of the image that is
//! named by it starts the version.

use serde::{Deserialize, Serialize};

use crate::apps::App;
use crate::core::Core;
use crate::kernel::artifact::ImageName;
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::versions::{self, TaggedVersion};

/// Bytes of a tag, as of an image's (OCI distribution specification 1.1).
const MAX_BYTES: usize = 128;

/// What a built version is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionTag(String);

impl VersionTag {
    /// Parses a tag. Errors: `Invalid` for what no image may have as its tag.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let fits = text.len() <= MAX_BYTES
            && text.bytes().next().is_some_and(is_word)
            && text.bytes().all(|byte| is_word(byte) || b".-".contains(&byte));
        match fits {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::invalid(format!(
                "A tag has up to {MAX_BYTES} letters, digits, underscores, dots and dashes, and begins with neither of the last two."
            ))),
        }
    }

    /// Returns the text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the image that a version with the tag is.
    pub(super) fn image_name(&self, app: &AppName) -> String {
        format!("{}{}", image_prefix(app), self.0)
    }
}

fn image_prefix(app: &AppName) -> String {
    format!("tancho/app-{app}:")
}

/// Finds the built version that the name of an image means; `None`: it is that of another image. Errors: `NotFound` if no
/// version has the tag.
pub(super) async fn find_tagged_version(
    core: &Core,
    app: &App,
    image: &ImageName,
) -> Result<Option<TaggedVersion>, Error> {
    let name = image.to_string();
    let Some(tag) = name.strip_prefix(&image_prefix(&app.name)) else {
        return Ok(None);
    };
    let found = versions::find_tagged_version(&core.db, app.id, tag).await?;
    found.map(Some).ok_or_else(|| {
        Error::not_found(format!(
            "{} has no version that was built as {name}: `tsuru app build --tag {tag}` makes one.",
            app.title()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_those_of_images() {
        for good in ["one", "v1.2-rc_3", "_x", "9", &"a".repeat(128)] {
            VersionTag::parse(good).unwrap();
        }
        for bad in ["", "-x", ".x", "a b", "a/b", "a:b", "é", "a\n", &"a".repeat(129)] {
            VersionTag::parse(bad).unwrap_err();
        }
    }
}
