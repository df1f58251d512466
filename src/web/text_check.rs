//! Checks that every request is text before a handler sees it: the path, the query and the body are UTF-8
//! without a NUL byte, however they are encoded, because neither the database nor an environment can store
//! one. The check is done here once for all routes but those that take files: the fields of a multipart body are
//! checked by `Params::from_pairs`.

use axum::http::Uri;
use percent_encoding::percent_decode;

use crate::kernel::error::Error;

/// The code point as JSON escapes it.
const ESCAPED_NUL: &[u8] = br"\u0000";

/// Refuses a path or a query that is not text. Errors: `Invalid`.
pub fn check_uri(uri: &Uri) -> Result<(), Error> {
    check_encoded(uri.path().as_bytes(), "The path")?;
    check_encoded(uri.query().unwrap_or_default().as_bytes(), "The query")
}

/// Refuses a body that is not text. Errors: `Invalid`.
pub fn check_body(content_type: &str, body: &[u8]) -> Result<(), Error> {
    const WHAT: &str = "The body";
    check_bytes(body, WHAT)?;
    let is_json = body.trim_ascii_start().starts_with(b"{") || body.trim_ascii_start().starts_with(b"[");
    if is_json || content_type.contains("json") {
        return match has_escaped_nul(body) {
            true => Err(nul_byte_error(WHAT)),
            false => Ok(()),
        };
    }
    match content_type.is_empty() || content_type.contains("urlencoded") {
        true => check_encoded(body, WHAT),
        false => Ok(()),
    }
}

/// Refuses a string with a NUL byte. Errors: `Invalid`, with `what` as its subject.
pub fn check_text(text: &str, what: &str) -> Result<(), Error> {
    match text.contains('\0') {
        true => Err(nul_byte_error(what)),
        false => Ok(()),
    }
}

fn check_encoded(encoded: &[u8], what: &str) -> Result<(), Error> {
    check_bytes(&std::borrow::Cow::from(percent_decode(encoded)), what)
}

fn check_bytes(bytes: &[u8], what: &str) -> Result<(), Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => check_text(text, what),
        Err(error) => {
            Err(Error::invalid(format!("{what} is not valid UTF-8: encode it as UTF-8.")).with_source(error))
        }
    }
}

fn nul_byte_error(what: &str) -> Error {
    Error::invalid(format!("{what} contains a NUL byte: remove it."))
}

/// Returns true if JSON text contains an escaped NUL byte. A backslash that is itself escaped does not begin
/// an escape.
fn has_escaped_nul(json: &[u8]) -> bool {
    let mut at = 0;
    while let Some(step) = json[at..].iter().position(|byte| *byte == b'\\') {
        at += step;
        if json[at..].starts_with(ESCAPED_NUL) {
            return true;
        }
        at = (at + 2).min(json.len());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_byte_is_refused_in_every_encoding() {
        for uri in ["/a%00", "/a?b=%00", "/a?%00=1", "/a?b=x%00y"] {
            assert!(check_uri(&uri.parse().unwrap()).is_err(), "{uri}");
        }
        for (content_type, body) in [
            ("", "a=%00"),
            ("application/x-www-form-urlencoded", "a%00=1"),
            ("", r#"{"a": "\u0000"}"#),
            ("text/plain", r#" ["\u0000"]"#),
            ("application/json", r#""\u0000""#),
            ("", r#"{"\\\u0000": 1}"#),
            ("text/yaml", "a: \0"),
        ] {
            assert!(
                check_body(content_type, body.as_bytes()).is_err(),
                "{content_type} {body}"
            );
        }
    }

    #[test]
    fn escaped_text_of_a_nul_escape_is_accepted() {
        assert!(check_uri(&"/a%2500?b=%2500&c=100%".parse().unwrap()).is_ok());
        for (content_type, body) in [
            ("", "a=%2500"),
            ("", r#"{"a": "\\u0000"}"#),
            ("text/plain", "a manual of %00 and \\u0000"),
            ("", "{\"a\": \"\\"),
            ("", ""),
        ] {
            assert!(
                check_body(content_type, body.as_bytes()).is_ok(),
                "{content_type} {body}"
            );
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        assert!(check_uri(&"/a%ff".parse().unwrap()).is_err());
        assert!(check_uri(&"/a?b=%c3%28".parse().unwrap()).is_err());
        assert!(check_body("text/plain", b"\xff").is_err());
        assert!(check_body("", b"a=%ff").is_err());
        assert!(check_body("", "{\"a\": \"é\"}".as_bytes()).is_ok());
    }
}
