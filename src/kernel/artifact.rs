//! What the content of a version is: a folder on the disk of one host, or an image in a registry.

use std::fmt;
use std::str::FromStr;

use crate::kernel::error::Error;

/// The content of a version, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// A folder on the disk of a host.
    Folder {
        /// The id of that host.
        holder: String,
    },
    /// An image, which any host and any cluster can fetch.
    Image(PinnedImage),
}

/// An image under a name and, so that the name cannot come to mean another one, its digest. It is written
/// `registry.example.com/team/app:v3@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedImage {
    reference: String,
    digest: String,
}

impl PinnedImage {
    /// Returns the name: registry, repository and tag.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Returns the digest of the manifest: `sha256:…`.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl FromStr for PinnedImage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = || {
            Error::invalid(
                "Invalid image: use name:tag@sha256:digest, with letters, digits and . _ - / : in the name and 64 \
                 hexadecimal digits in the digest.",
            )
        };
        let (reference, digest) = text.rsplit_once('@').ok_or_else(refused)?;
        let is_name = (1..=255).contains(&reference.len())
            && reference.starts_with(|c: char| c.is_ascii_alphanumeric())
            && reference
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c));
        let is_digest = digest
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')));
        match is_name && is_digest {
            true => Ok(Self {
                reference: reference.to_owned(),
                digest: digest.to_owned(),
            }),
            false => Err(refused()),
        }
    }
}

impl fmt::Display for PinnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.reference, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_is_parsed_only_with_a_digest_and_printed_as_it_was() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for name in ["app", "registry.example.com:5000/team/app:v3", "a/b_c.d-e:latest"] {
            let text = format!("{name}@{digest}");
            let image: PinnedImage = text.parse().unwrap();
            assert_eq!((image.reference(), image.digest()), (name, digest.as_str()));
            assert_eq!(image.to_string(), text);
        }
        let long = "a".repeat(256);
        for bad in [
            String::new(),
            "app:v3".to_owned(),
            format!("@{digest}"),
            format!("-app@{digest}"),
            format!("app v3@{digest}"),
            format!("app\0@{digest}"),
            format!("a@b@{digest}"),
            format!("{long}@{digest}"),
            format!("app@{}", digest.to_uppercase()),
            format!("app@{digest}0"),
            "app@sha512:00".to_owned(),
        ] {
            assert!(bad.parse::<PinnedImage>().is_err(), "{bad:?}");
        }
    }
}
