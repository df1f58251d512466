//! Parses untrusted YAML into types. The parser's budget rejects alias bombs and deep nesting.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kernel::log_text::clean_line;

/// Documents longer than this are refused before they are parsed, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// The maximum number of scalars, lists and maps in one document, including those its aliases expand to.
const MAX_NODES: usize = 20_000;

/// Longest line that is quoted back, in characters.
const MAX_QUOTED_CHARS: usize = 300;

/// Reads one document. Errors: what is wrong and where, in one line for the user.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(format!(
            "the document is longer than {} KiB",
            MAX_DOCUMENT_BYTES / 1024
        ));
    }
    if may_have_nul(text) && parse_document::<Value>(text).map_or(true, |value| has_nul(&value)) {
        return Err("a string contains a NUL byte: remove it".into());
    }
    parse_document(text)
}

/// True if the text may contain an escape that yields a NUL byte; in a plain scalar it yields none.
fn may_have_nul(text: &str) -> bool {
    ["\0", "\\0", "\\x00", "\\u0000", "\\U00000000"]
        .iter()
        .any(|escape| text.contains(escape))
}

/// True if a key or a string contains a NUL byte, which neither the database nor an environment can hold.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn parse_document<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // These are written by hand, so a small budget is enough: each use of an alias counts its whole
    // expansion.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES, max_events: 4 * MAX_NODES },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let text = e.to_string();
        let line = text.lines().next().unwrap_or("not YAML").trim();
        let line = line.strip_prefix("error: ").unwrap_or(line);
        let spent = line
            .split_once("budget breached")
            .or_else(|| line.split_once("alias replay"));
        match spent {
            Some((place, _)) => {
                format!("{place}the document is too large once its aliases and its nesting are expanded")
            }
            None => to_single_line(line),
        }
    })
}

/// What a document says, fit to be quoted back: one line of a bounded length, without what a terminal would obey.
pub fn to_single_line(text: &str) -> String {
    let line = clean_line(text);
    match line.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn alias_bombs_and_invalid_yaml_are_refused_in_one_line() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let alias = format!("*a{}, ", n - 1).repeat(10);
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", alias.trim_end_matches(", ")));
        }
        for bad in [bomb.as_str(), "a: [", "a: b: c", "\t- x"] {
            let why = from_str::<BTreeMap<String, serde_json::Value>>(bad).unwrap_err();
            assert!(!why.is_empty() && !why.contains('\n'), "{why}");
            assert!(!why.contains("budget") && !why.starts_with("error"), "{why}");
        }
        let why = from_str::<BTreeMap<String, serde_json::Value>>(&bomb).unwrap_err();
        assert!(why.contains("aliases"), "{why}");
    }

    #[test]
    fn a_nul_byte_is_rejected_and_a_literal_backslash_is_accepted() {
        for bad in [
            "a: \"x\\0y\"",
            "\"\\x00\": 1",
            "a: [{b: \"\\u0000\"}]",
            "a: \"\\U00000000\"",
            "a: x\0",
        ] {
            assert!(from_str::<Value>(bad).is_err(), "{bad:?}");
        }
        let good: Value = from_str("a: '\\0'\nb: \\x00\nc: \"\\\\0\"\n").unwrap();
        assert_eq!(
            (&good["a"], &good["b"], &good["c"]),
            (&"\\0".into(), &"\\x00".into(), &"\\0".into())
        );
    }

    #[test]
    fn quoted_line_is_truncated_and_sanitized() {
        assert_eq!(to_single_line("a\u{1b}[2J\u{202e}b"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(to_single_line(&"é".repeat(500)).chars().count(), 301);
        assert_eq!(to_single_line(&"x".repeat(300)).len(), 300);
        assert_eq!(
            to_single_line("a\u{200e}b\u{200f}c\u{61c}d\ne"),
            "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e"
        );
        assert_eq!(
            to_single_line(&"\u{1b}".repeat(300)),
            "\u{fffd}".repeat(300),
            "nothing is cut"
        );
        assert!(to_single_line(&"\u{1b}".repeat(301)).ends_with("\u{fffd}…"));
    }

    #[test]
    fn documents_are_parsed_into_types() {
        let map: BTreeMap<String, String> = from_str("id: mysql\npassword: abc\n").unwrap();
        assert_eq!(map["id"], "mysql");
    }
}
