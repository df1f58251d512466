//! The paths at which apps may have volumes.

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

const MAX_BYTES: usize = 255;
/// Nothing in them, and they themselves, can be covered by a volume.
const SYSTEM_FOLDERS: [&str; 13] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys",
    "/usr",
];
/// Exceptions from these.
const OPEN_FOLDERS: [&str; 3] = ["/usr/local/", "/usr/share/", "/usr/src/"];
/// They themselves cannot be covered, but what is in them.
const SHARED_FOLDERS: [&str; 9] = [
    "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/lib",
];

/// An absolute path at which an app has a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountPoint(String);

impl MountPoint {
    /// Parses a path; a slash at its end is left out. Errors: `Invalid` with the rule.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Error::invalid(format!(
                "A volume cannot be mounted at {}: {why}.",
                quote_excerpt(text)
            ))
        };
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() {
            return Err(wrong("use a folder below the root, such as /data"));
        }
        if path.len() > MAX_BYTES {
            return Err(wrong("a path has at most 255 bytes"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./@+".contains(c);
        if !path.starts_with('/') || !path.chars().all(allowed) {
            return Err(wrong("use an absolute path of letters, digits and - _ . @ +"));
        }
        if path
            .split('/')
            .skip(1)
            .any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(wrong("leave out empty parts, . and .."));
        }
        let is_in = |folder: &str| path == folder || path.starts_with(&format!("{folder}/"));
        let is_open = OPEN_FOLDERS.iter().any(|folder| path.starts_with(folder));
        if SYSTEM_FOLDERS.iter().any(|folder| is_in(folder)) && !is_open || SHARED_FOLDERS.contains(&path) {
            return Err(wrong("it is a folder of the system"));
        }
        Ok(Self(path.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if one of two paths is inside the other.
    pub(super) fn overlaps(&self, other: &str) -> bool {
        let is_inside = |path: &str, folder: &str| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        is_inside(&self.0, other) || is_inside(other, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_system_and_strange_ones_are_refused() {
        for good in [
            "/data",
            "/data/",
            "/app/uploads",
            "/var/lib/postgresql/data",
            "/usr/share/nginx/html",
            "/srv/x",
            "/a..b",
        ] {
            assert_eq!(
                MountPoint::parse(good).unwrap().as_str(),
                good.trim_end_matches('/')
            );
        }
        let long = format!("/{}", "a".repeat(MAX_BYTES));
        for bad in [
            "",
            "/",
            "//",
            "data",
            "./data",
            "/data//x",
            "/data/../etc",
            "/..",
            "/data/.",
            "/data//",
            "/etc",
            "/etc/x",
            "/usr",
            "/usr/local",
            "/usr/lib/x",
            "/proc/self",
            "/dev/shm",
            "/var",
            "/tmp/",
            "/da ta",
            "/da:ta",
            "/dä",
            "/d\0",
            "/d\n",
            &long,
        ] {
            assert!(MountPoint::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_paths_inside_each_other_overlap() {
        let data = MountPoint::parse("/data").unwrap();
        for (other, overlaps) in [
            ("/data/x", true),
            ("/data2", false),
            ("/d", false),
            ("/data", false),
        ] {
            assert_eq!(data.overlaps(other), overlaps, "{other}");
        }
        assert!(MountPoint::parse("/data/x/y").unwrap().overlaps("/data"));
    }
}
