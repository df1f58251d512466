//! Masks secrets in texts, in any encoding: plain, percent-encoded, form-encoded, and with JSON or HTML escapes.

use crate::kernel::secret::Secret;

/// Shorter secrets are not masked, because they would match everywhere. In bytes.
const SHORTEST_MASKED: usize = 4;
/// After this many matched characters the match counts as the secret, so that the beginning of a longer
/// secret is masked as well. It bounds the cost of a text in which a long secret begins at every character.
const MATCHED_CHARS: usize = 32;
/// Maximum length of a numeric HTML reference, without its `&#` and `;`.
const MAX_REFERENCE_BYTES: usize = 9;

/// Replaces each secret in the text with asterisks.
pub fn mask_secrets(text: &str, secrets: &[Secret]) -> String {
    secrets
        .iter()
        .map(Secret::expose_secret)
        .filter(|secret| secret.len() >= SHORTEST_MASKED)
        .fold(text.to_owned(), |text, secret| mask_secret(&text, secret))
}

fn mask_secret(text: &str, secret: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match strip_secret(rest, secret) {
            Some(after) => {
                masked.push_str("***");
                rest = after;
            }
            None => {
                masked.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    masked
}

/// Returns the rest of a text after the secret at its beginning.
fn strip_secret<'a>(text: &'a str, secret: &str) -> Option<&'a str> {
    // First the plain form: what looks like an escape may be part of the secret.
    if let Some(after) = text.strip_prefix(secret) {
        return Some(after);
    }
    let mut rest = text;
    for (matched, wanted) in secret.chars().enumerate() {
        match strip_char(rest, wanted) {
            Some(after) => rest = after,
            None => return (matched >= MATCHED_CHARS).then_some(rest),
        }
    }
    Some(rest)
}

/// Returns the rest of a text after the character at its beginning, in any encoding.
fn strip_char(text: &str, wanted: char) -> Option<&str> {
    strip_percent_encoded(text, wanted)
        .or_else(|| strip_json_escape(text, wanted))
        .or_else(|| strip_html_reference(text, wanted))
        .or_else(|| text.strip_prefix(wanted))
        .or_else(|| text.strip_prefix('+').filter(|_| wanted == ' '))
}

/// Matches `%20`; a character of several bytes has one escape for each byte.
fn strip_percent_encoded(text: &str, wanted: char) -> Option<&str> {
    let mut bytes = [0; 4];
    let mut rest = text;
    for byte in wanted.encode_utf8(&mut bytes).bytes() {
        rest = strip_hex(rest.strip_prefix('%')?, 2, u32::from(byte))?;
    }
    Some(rest)
}

/// Matches `\u0020`, or a backslash before the character itself.
fn strip_json_escape(text: &str, wanted: char) -> Option<&str> {
    if let Some(after) = text.strip_prefix('\\').and_then(|rest| rest.strip_prefix(wanted)) {
        return (!wanted.is_alphanumeric()).then_some(after);
    }
    let mut units = [0; 2];
    let mut rest = text;
    for unit in wanted.encode_utf16(&mut units) {
        rest = strip_hex(rest.strip_prefix("\\u")?, 4, u32::from(*unit))?;
    }
    Some(rest)
}

/// Matches `&#32;`, `&#x20;`, or the names of the few characters that are escaped everywhere.
fn strip_html_reference(text: &str, wanted: char) -> Option<&str> {
    let rest = text.strip_prefix('&')?;
    let named = match wanted {
        '&' => "amp;",
        '<' => "lt;",
        '>' => "gt;",
        '"' => "quot;",
        '\'' => "apos;",
        _ => "#",
    };
    if let Some(after) = rest.strip_prefix(named).filter(|_| named != "#") {
        return Some(after);
    }
    let (number, after) = rest.strip_prefix('#')?.split_once(';')?;
    if number.len() > MAX_REFERENCE_BYTES {
        return None;
    }
    let number = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    (number.ok() == Some(u32::from(wanted))).then_some(after)
}

/// Returns the rest of a text after the given number of hexadecimal digits, in either case, if they equal
/// `wanted`.
fn strip_hex(text: &str, digits: usize, wanted: u32) -> Option<&str> {
    let (number, after) = text.split_at_checked(digits)?;
    let is_hex = number.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hex && u32::from_str_radix(number, 16).ok() == Some(wanted)).then_some(after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(text: &str, secret: &str) -> String {
        mask_secrets(text, &[Secret::new(secret)])
    }

    #[test]
    fn secret_is_masked_in_every_form_that_a_service_may_write_it_in() {
        let secret = "p w/d\"ü&'𝄞";
        for form in [
            secret,
            "p+w%2Fd%22%C3%BC%26%27%F0%9D%84%9E",
            "p%20w%2fd%22%c3%bc%26'%f0%9d%84%9e",
            r#"p w/d\"ü&'𝄞"#,
            r#"p w\/d\"\u00fc&'\ud834\udd1e"#,
            r#"p w/d"\u00FC\u0026\'𝄞"#,
            "p w/d&quot;ü&amp;&#39;𝄞",
            "p w&#x2F;d&#34;&#xfc;&#38;&apos;&#119070;",
        ] {
            let text = format!("bad login <{form}>, sorry");
            assert_eq!(masked(&text, secret), "bad login <***>, sorry", "{form}");
        }
    }

    #[test]
    fn secret_that_looks_like_an_escape_is_masked_as_it_is() {
        for secret in ["%25ab", r"\\ab", "&amp;ab", "%ab+", r"\u0041"] {
            assert_eq!(masked(&format!("x{secret}y"), secret), "x***y");
        }
    }

    #[test]
    fn text_without_the_secret_stays_as_it_is() {
        for text in [
            "",
            "100 % of it",
            "a\\b &amp; c %2",
            "&#;&#x;&#99999999999;",
            "hunter2",
        ] {
            assert_eq!(masked(text, "hunter22"), text);
        }
        assert_eq!(masked("abc", "abc"), "abc", "too short to be masked");
    }

    #[test]
    fn long_secret_at_every_character_costs_no_more_than_its_first_characters() {
        let secret = format!("{}b", "a".repeat(1000));
        assert_eq!(masked(&"a".repeat(1000), &secret), "***");
        assert_eq!(masked(&format!("x{secret}{secret}"), &secret), "x******");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([%&\\\\+#;u0-9a-fü]|.){0,60}", secret in "[%&\\\\ ü/a]{4,8}") {
            let _ = masked(&text, &secret);
        }
    }
}
