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

/// The name of an image as users give it: registry, repository and tag, or digest. Without either of the last it is the
/// tag `latest`. It never means an image by the beginning of its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    repository: String,
    /// With the `:` or `@` before it.
    suffix: String,
}

impl ImageName {
    /// Parses a name. Errors: `Invalid`, one sentence that states the rule.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refused = || {
            Error::invalid(
                "Invalid image: use registry/name:tag, such as registry.example.com/team/app:v3, with small letters, \
                 digits and . _ - / in the name.",
            )
        };
        let text = text.trim();
        let text = text.strip_prefix("docker.io/library/").unwrap_or(text);
        let text = text.strip_prefix("docker.io/").unwrap_or(text);
        let (repository, suffix) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => {
                let repository = split_tag(name).map_or(name, |(repository, _)| repository);
                (repository, format!("@{digest}"))
            }
            Some(_) => return Err(refused()),
            None => match split_tag(text) {
                Some((repository, tag)) if is_tag(tag) => (repository, format!(":{tag}")),
                Some(_) => return Err(refused()),
                None => (text, ":latest".to_owned()),
            },
        };
        match is_repository(repository) {
            true => Ok(Self {
                repository: repository.to_owned(),
                suffix,
            }),
            false => Err(refused()),
        }
    }

    /// Returns registry and repository, without the tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Pins it to a digest.
    pub fn pin(&self, digest: &str) -> Result<PinnedImage, Error> {
        let tag = self.suffix.strip_prefix(':');
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        format!("{}{tag}@{digest}", self.repository).parse()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, self.suffix)
    }
}

/// Splits at the `:` of a tag, which is not that of a port.
fn split_tag(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

fn is_tag(tag: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.chars().all(fits)
}

/// A registry with capital letters or a port is fine, and only as the first of several parts. `sha256:` would begin a
/// digest.
fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(ends) && part.ends_with(ends) && part.chars().all(|c| ends(c) || "._-".contains(c))
    };
    let is_registry = |part: &str| {
        let (host, port) = part.split_once(':').unwrap_or((part, "0"));
        let in_host = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        (part.contains(['.', ':']) || part == "localhost")
            && host.starts_with(|c: char| c.is_ascii_alphanumeric())
            && host.chars().all(in_host)
            && port.parse::<u16>().is_ok()
    };
    let (first, others) = match name.split_once('/') {
        Some((first, others)) => (Some(first), others),
        None => (None, name),
    };
    (1..=200).contains(&name.len())
        && name != "sha256"
        && first.is_none_or(|first| is_registry(first) || is_part(first))
        && others.split('/').all(is_part)
}

fn is_digest(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:");
    hex.is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')))
}

impl PinnedImage {
    /// Returns registry and repository with the digest, as a registry is asked for it.
    pub fn by_digest(&self) -> String {
        let repository = split_tag(&self.reference).map_or(self.reference.as_str(), |(name, _)| name);
        format!("{repository}@{}", self.digest)
    }

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
        match is_name && is_digest(digest) {
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
    fn name_of_an_image_has_a_tag_or_a_digest_and_is_never_an_id() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, name, pinned) in [
            ("busybox", "busybox:latest", "busybox:latest"),
            (" docker.io/library/busybox:1 ", "busybox:1", "busybox:1"),
            ("docker.io/team/app:v3", "team/app:v3", "team/app:v3"),
            (
                "Registry.local:5000/a/b-c",
                "Registry.local:5000/a/b-c:latest",
                "Registry.local:5000/a/b-c:latest",
            ),
            ("deadbeef", "deadbeef:latest", "deadbeef:latest"),
            (&format!("a/b:v1@{digest}"), &format!("a/b@{digest}"), "a/b"),
        ] {
            let parsed = ImageName::parse(text).unwrap();
            assert_eq!(parsed.to_string(), name);
            let image = parsed.pin(&digest).unwrap();
            assert_eq!(image.reference(), pinned);
            assert!(image.by_digest().ends_with(&digest) && !image.by_digest().contains(":v"));
        }
        for bad in [
            "",
            "/",
            "a//b",
            "App",
            "Team/app",
            "a:b:c",
            "a:",
            "a b",
            "a;b",
            "-a",
            "a/../b",
            "sha256:0a0a",
            &digest,
            "a@sha256:00",
            "http://a/b",
            "a/b:-x",
            &"a".repeat(201),
        ] {
            assert!(ImageName::parse(bad).is_err(), "{bad:?}");
        }
    }

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
