//! What a log line may contain, whoever wrote it: units, builds, git clients, services, programs that post
//! lines. Logs are read in terminals, so a line must not move the cursor, colour the screen or reorder the
//! text shown.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

/// The maximum length of a log line in bytes, including the mark of a cut.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// A stored log line.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Increases within an app.
    pub seq: i64,
    pub at: DateTime<Utc>,
    /// The process that wrote it, the name under which it was posted, or the platform.
    pub source: String,
    /// The unit that wrote it; empty if none.
    pub unit: String,
    pub message: String,
}

/// The end of a line that was cut.
const CUT_MARK: &str = "…";

/// Replaces by U+FFFD each control character (tabs stay) and each character that ends a line or changes the
/// text direction in a terminal.
pub fn clean_line(raw: &str) -> Cow<'_, str> {
    if !raw.contains(is_unsafe) {
        return Cow::Borrowed(raw);
    }
    let safe = |c| {
        if is_unsafe(c) {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    Cow::Owned(raw.chars().map(safe).collect())
}

/// Truncates the line to at most `max` bytes; a truncated line ends with a mark.
pub fn clip_line(line: Cow<'_, str>, max: usize) -> Cow<'_, str> {
    if line.len() <= max {
        return line;
    }
    let kept = line.floor_char_boundary(max.saturating_sub(CUT_MARK.len()));
    Cow::Owned(format!("{}{CUT_MARK}", &line[..kept]))
}

fn is_unsafe(c: char) -> bool {
    let is_line_end = matches!(c, '\u{2028}' | '\u{2029}');
    let is_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\t') || is_line_end || is_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced_and_others_stay() {
        assert_eq!(
            clean_line("a\u{1b}[31m\u{7}\rb\0\u{9b}c\u{202e}d"),
            "a\u{fffd}[31m\u{fffd}\u{fffd}b\u{fffd}\u{fffd}c\u{fffd}d"
        );
        assert!(matches!(clean_line("ta\tb ünï 丹頂"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_marked_once() {
        let long = "ü".repeat(MAX_LINE_BYTES);
        let cut = clip_line(Cow::Borrowed(&long), MAX_LINE_BYTES);
        assert!(cut.len() <= MAX_LINE_BYTES && cut.ends_with("ü…"));
        assert_eq!(
            clip_line(cut.clone(), MAX_LINE_BYTES),
            cut,
            "a second pass keeps the mark"
        );
        assert_eq!(clip_line(Cow::Borrowed("short"), 5), "short");
    }
}
