//! Excerpts of request data for error messages: short, and without terminal control characters. So an error
//! message stays one readable sentence, however long or hostile the request was.

use crate::kernel::log_text::clean_line;

/// The maximum number of characters quoted.
pub const MAX_EXCERPT_CHARS: usize = 64;

/// Returns the first characters of a string; an ellipsis stands for the rest.
pub fn quote_excerpt(text: &str) -> String {
    let (kept, mark) = match text.char_indices().nth(MAX_EXCERPT_CHARS) {
        Some((end, _)) => (&text[..end], "…"),
        None => (text, ""),
    };
    format!("{}{mark}", clean_line(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_string_is_cut_between_characters_and_marked() {
        assert_eq!(quote_excerpt("shop"), "shop");
        assert_eq!(quote_excerpt(&"é".repeat(64)), "é".repeat(64));
        assert_eq!(quote_excerpt(&"é".repeat(65)), format!("{}…", "é".repeat(64)));
        assert_eq!(quote_excerpt("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
    }
}
