//! YAML from strangers, into types. The parser's budget refuses alias bombs and endless nesting.

use serde::de::DeserializeOwned;

/// Documents longer than this are refused before they are parsed, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// Texts, lists and maps in one document, those behind its aliases included.
const MOST_NODES: usize = 20_000;

/// Reads one document. Errors: what is wrong and where, in one line for the user.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the document is longer than {} KiB", MAX_BYTES / 1024));
    }
    // People write these by hand: an alias costs what it stands for, each time.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: MOST_NODES, max_events: 4 * MOST_NODES },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MOST_NODES },
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
                format!("{place}its aliases or its nesting make it larger than a document may be")
            }
            None => one_line(line),
        }
    })
}

/// What a document says, fit to be quoted back: at most 300 characters, none that a terminal would obey.
pub fn one_line(text: &str) -> String {
    let obeyed = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown: String = text
        .chars()
        .map(|c| if obeyed(c) { char::REPLACEMENT_CHARACTER } else { c })
        .take(300)
        .collect();
    if shown.len() < text.len() && shown.chars().count() == 300 {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn bombs_and_nonsense_are_refused_in_one_line() {
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
    fn what_is_quoted_back_is_short_and_harmless() {
        assert_eq!(one_line("a\u{1b}[2J\u{202e}b"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(one_line(&"é".repeat(500)).chars().count(), 301);
        assert_eq!(one_line(&"x".repeat(300)).len(), 300);
    }

    #[test]
    fn documents_read_into_types() {
        let map: BTreeMap<String, String> = from_str("id: mysql\npassword: abc\n").unwrap();
        assert_eq!(map["id"], "mysql");
    }
}
