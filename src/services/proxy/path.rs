//! The path of a request to a service. It is split, decoded and checked here, and built again from its segments, so
//! that no spelling of it reaches anything outside of its base.

use percent_encoding::percent_decode_str;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// The maximum number of segments.
const MAX_SEGMENTS: usize = 64;
/// How often a segment may be percent-encoded.
const MAX_ENCODINGS: usize = 3;
/// What a proxy must not change: instances and binds have routes of their own.
const RESERVED: [&str; 5] = ["", "bind", "bind-app", "bind-job", "binds"];

/// A checked path below a base, with the query of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProxyPath {
    /// Decoded; none is empty, `.` or `..`, or contains a slash.
    pub(super) segments: Vec<String>,
    pub(super) trailing_slash: bool,
    /// As sent, without what selected the path.
    pub(super) query: String,
}

impl ProxyPath {
    /// Checks a path as it was sent, percent-encoded. Errors: `Invalid`.
    pub(super) fn parse(raw: &str, query: &str) -> Result<Self, Error> {
        let raw = raw.strip_prefix('/').unwrap_or(raw);
        let mut parts: Vec<&str> = raw.split('/').collect();
        let trailing_slash = parts.last() == Some(&"");
        if trailing_slash {
            parts.pop();
        }
        if parts.len() > MAX_SEGMENTS {
            return Err(Error::invalid("The path has too many parts."));
        }
        let segments: Option<Vec<String>> = parts.into_iter().map(decode_segment).collect();
        let segments = segments.ok_or_else(|| {
            Error::invalid(format!(
                "The path {:?} is not allowed: leave out empty parts, dots and encoded slashes.",
                quote_excerpt(raw)
            ))
        })?;
        Ok(Self {
            trailing_slash: trailing_slash && !segments.is_empty(),
            segments,
            query: query.to_owned(),
        })
    }

    /// Reads the path from the parameter `callback` of a query; it may have a query of its own. Errors:
    /// `Invalid`.
    pub(super) fn from_callback(query: &str) -> Result<Self, Error> {
        let callback = form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == "callback")
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default();
        let (path, own_query) = callback.split_once('?').unwrap_or((&callback, ""));
        let others = query
            .split('&')
            .filter(|pair| form_urlencoded::parse(pair.as_bytes()).all(|(key, _)| key != "callback"));
        let pairs: Vec<&str> = own_query
            .split('&')
            .chain(others)
            .filter(|p| !p.is_empty())
            .collect();
        Self::parse(path, &pairs.join("&"))
    }

    /// Removes a prefix if the path has it; callbacks may repeat that of their instance.
    pub(super) fn without_prefix(mut self, prefix: &[&str]) -> Self {
        let repeats = self
            .segments
            .iter()
            .map(String::as_str)
            .take(prefix.len())
            .eq(prefix.iter().copied());
        if repeats && self.segments.len() >= prefix.len() {
            self.segments.drain(..prefix.len());
            self.trailing_slash &= !self.segments.is_empty();
        }
        self
    }

    /// Returns the path below `prefix`.
    pub(super) fn below(mut self, prefix: &[&str]) -> Self {
        let mut segments: Vec<String> = prefix.iter().map(|part| (*part).to_owned()).collect();
        segments.append(&mut self.segments);
        Self { segments, ..self }
    }

    /// True if the path is one of those of an instance that only the API itself may change.
    pub(super) fn is_reserved(&self) -> bool {
        let first = self
            .segments
            .first()
            .map_or("", String::as_str)
            .to_ascii_lowercase();
        match first.as_str() {
            "binds" => true,
            first => self.segments.len() <= 1 && RESERVED.contains(&first),
        }
    }

    /// Returns the path as a string, for events and manifests: begins with a slash, not encoded.
    pub(super) fn to_text(&self) -> String {
        let slash = if self.trailing_slash { "/" } else { "" };
        format!("/{}{slash}", self.segments.join("/"))
    }
}

/// Decodes a segment. `None`: it could be taken for more than one segment, or for another one, by this server or
/// by one that decodes once more.
fn decode_segment(raw: &str) -> Option<String> {
    let first = decode_once(raw)?;
    let mut text = first.clone();
    for _ in 0..MAX_ENCODINGS {
        // Some servers cut parameters off a segment: `..;x` is `..` for them.
        let name = text.split(';').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") || text.contains(['/', '\\']) || text.chars().any(char::is_control)
        {
            return None;
        }
        match decode_once(&text)? {
            same if same == text => return Some(first),
            next => text = next,
        }
    }
    None
}

fn decode_once(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(String::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(raw: &str) -> Result<ProxyPath, Error> {
        ProxyPath::parse(raw, "")
    }

    #[test]
    fn segments_are_decoded() {
        for (raw, segments, slash) in [
            ("", &[][..], false),
            ("/", &[], false),
            ("/a/b", &["a", "b"], false),
            ("a/b/", &["a", "b"], true),
            ("/a%20b/%C3%A9", &["a b", "é"], false),
            ("/100%25/x..y/...", &["100%", "x..y", "..."], false),
        ] {
            let path = parse(raw).unwrap();
            assert_eq!(
                (path.segments, path.trailing_slash),
                (segments.iter().map(ToString::to_string).collect(), slash)
            );
        }
    }

    #[test]
    fn paths_that_leave_their_base_are_rejected() {
        for raw in [
            "..",
            "/../x",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "//evil.example.com/x",
            "/a//b",
            "/%252e%252e/x",
            "/%25252e%25252e/x",
            "/a%252fb",
            "/..;x=1/y",
            "/%2e%2e;/y",
            "/;/x",
            "/a%00b",
            "/a%0d%0ab",
            "/%ff",
            "http://evil.example.com/",
            "/%2525252525252e",
        ] {
            assert!(parse(raw).is_err(), "{raw}");
        }
        assert!(parse(&"/a".repeat(65)).is_err());
    }

    #[test]
    fn callback_selects_the_path_and_leaves_the_query() {
        for (query, text, rest) in [
            ("", "/", ""),
            ("callback=", "/", ""),
            ("callback=%2Fa%2Fb&x=1&y=%26", "/a/b", "x=1&y=%26"),
            ("x=1&callback=/a?z=2%26w&y", "/a", "z=2&w&x=1&y"),
            ("callback=%2Fa%2520b", "/a b", ""),
        ] {
            let path = ProxyPath::from_callback(query).unwrap();
            assert_eq!(
                (path.to_text().as_str(), path.query.as_str()),
                (text, rest),
                "{query}"
            );
        }
        assert!(ProxyPath::from_callback("callback=/a/../b").is_err());
        assert!(ProxyPath::from_callback("callback=//evil.example.com").is_err());
    }

    #[test]
    fn repeated_prefix_of_the_instance_is_removed() {
        let strip = |raw: &str| parse(raw).unwrap().without_prefix(&["resources", "db"]).to_text();
        for (raw, text) in [
            ("/resources/db", "/"),
            ("/resources/db/", "/"),
            ("/resources/db/x/", "/x/"),
            ("/resources/db2/x", "/resources/db2/x"),
            ("/resources", "/resources"),
            ("/x", "/x"),
        ] {
            assert_eq!(strip(raw), text, "{raw}");
        }
        assert_eq!(
            parse("/x").unwrap().below(&["resources", "db"]).to_text(),
            "/resources/db/x"
        );
    }

    #[test]
    fn paths_that_bind_or_remove_are_reserved() {
        for raw in [
            "",
            "/",
            "/bind",
            "/bind/",
            "/Bind-App",
            "/bind-job",
            "/binds/jobs/x",
            "/%62ind",
        ] {
            assert!(parse(raw).unwrap().is_reserved(), "{raw}");
        }
        for raw in ["/rules", "/bind/x", "/bindings", "/x/bind"] {
            assert!(!parse(raw).unwrap().is_reserved(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn accepted_segments_never_leave_their_base(raw in "(%2e|%2E|%25|%2f|%5c|[./a;\\\\]){0,12}") {
            if let Ok(path) = parse(&raw) {
                let mut url = reqwest::Url::parse("http://service.example.com/base/").unwrap();
                url.path_segments_mut().unwrap().pop_if_empty().extend(&path.segments);
                prop_assert!(url.path().starts_with("/base"));
                prop_assert_eq!(url.path_segments().unwrap().count(), path.segments.len() + 1);
            }
        }
    }
}
