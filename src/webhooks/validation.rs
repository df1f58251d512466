//! Checks what users set of a webhook.

use std::collections::BTreeMap;

use reqwest::header::{HeaderName, HeaderValue};

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::webhooks::model::{WebhookFilter, WebhookSpec};
use crate::webhooks::payload;
use crate::webhooks::template::BodyTemplate;
use crate::webhooks::url_check::check_url;

/// The methods, of which the first three have a body.
const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "GET", "DELETE"];
const MAX_DESCRIPTION_CHARS: usize = 2000;
/// The maximum number of values in one list of a filter, and of headers.
const MAX_VALUES: usize = 100;
const MAX_VALUE_BYTES: usize = 255;
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// A shorter secret could be guessed from one signature.
const MIN_SECRET_BYTES: usize = 16;
const MAX_SECRET_BYTES: usize = 1000;

/// Headers that belong to the connection, or that Tancho sets itself.
const RESERVED_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
const RESERVED_PREFIX: &str = "tancho-";

/// Returns true if requests of this method have a body.
pub(super) fn has_body(method: &str) -> bool {
    matches!(method, "" | "POST" | "PUT" | "PATCH")
}

/// Checks everything that needs no database. Errors: `Invalid`, naming the field.
pub(super) fn check_spec(spec: &WebhookSpec) -> Result<(), Error> {
    if spec.description.chars().count() > MAX_DESCRIPTION_CHARS {
        return Err(Error::invalid("A description has at most 2000 characters."));
    }
    check_filter(&spec.filter)?;
    if !spec.method.is_empty() && !METHODS.contains(&spec.method.as_str()) {
        return Err(Error::invalid(format!(
            "method must be one of {}.",
            METHODS.join(", ")
        )));
    }
    let request = &spec.request;
    check_url("url", &request.url)?;
    if !request.proxy_url.is_empty() {
        check_url("proxy_url", &request.proxy_url)?;
    }
    check_headers(&request.headers)?;
    BodyTemplate::parse(&request.body)?.check_fields(&payload::sample_event())?;
    check_secret(&request.secret)
}

fn check_filter(filter: &WebhookFilter) -> Result<(), Error> {
    for (name, values) in [
        ("target_types", &filter.target_types),
        ("target_values", &filter.target_values),
        ("kind_types", &filter.kind_types),
        ("kind_names", &filter.kind_names),
    ] {
        if values.len() > MAX_VALUES || values.iter().any(|value| value.len() > MAX_VALUE_BYTES) {
            return Err(Error::invalid(format!(
                "{name} has at most {MAX_VALUES} values of at most {MAX_VALUE_BYTES} bytes."
            )));
        }
    }
    if let Some(kind) = filter
        .kind_types
        .iter()
        .find(|kind| !["permission", "internal"].contains(&kind.as_str()))
    {
        return Err(Error::invalid(format!(
            "{:?} is no type of kinds: use permission or internal.",
            quote_excerpt(kind)
        )));
    }
    if filter.error_only && filter.success_only {
        return Err(Error::invalid(
            "No event matches both error_only and success_only: set one of them.",
        ));
    }
    Ok(())
}

fn check_headers(headers: &BTreeMap<String, Vec<String>>) -> Result<(), Error> {
    let count: usize = headers.values().map(Vec::len).sum();
    let bytes: usize = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| name.len() + value.len()))
        .sum();
    if count > MAX_VALUES || bytes > MAX_HEADER_BYTES {
        return Err(Error::invalid(format!(
            "There are at most {MAX_VALUES} headers, of {MAX_HEADER_BYTES} bytes in total."
        )));
    }
    for (name, values) in headers {
        let lower = name.to_ascii_lowercase();
        if HeaderName::from_bytes(lower.as_bytes()).is_err() {
            return Err(Error::invalid(format!(
                "{:?} is not a valid name of a header.",
                quote_excerpt(name)
            )));
        }
        if RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with(RESERVED_PREFIX) {
            return Err(Error::invalid(format!(
                "The header {} is set by Tancho itself: leave it out.",
                quote_excerpt(name)
            )));
        }
        // The value may be a secret, so it is not quoted.
        if values.iter().any(|value| HeaderValue::from_str(value).is_err()) {
            return Err(Error::invalid(format!(
                "The header {} has a value with a control character: remove it.",
                quote_excerpt(name)
            )));
        }
    }
    Ok(())
}

fn check_secret(secret: &str) -> Result<(), Error> {
    match secret.len() {
        0 | MIN_SECRET_BYTES..=MAX_SECRET_BYTES => Ok(()),
        _ => Err(Error::invalid(format!(
            "The secret must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes; give none to have one generated."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::model::WebhookRequest;

    fn spec() -> WebhookSpec {
        WebhookSpec {
            description: String::new(),
            filter: WebhookFilter::default(),
            method: String::new(),
            insecure: false,
            request: WebhookRequest {
                url: "https://example.com/hook".into(),
                proxy_url: String::new(),
                headers: BTreeMap::new(),
                body: String::new(),
                secret: String::new(),
            },
        }
    }

    fn error_of(change: impl FnOnce(&mut WebhookSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        check_spec(&spec).unwrap_err().message().to_owned()
    }

    fn header(name: &str, value: &str) -> BTreeMap<String, Vec<String>> {
        BTreeMap::from([(name.to_owned(), vec![value.to_owned()])])
    }

    #[test]
    fn smallest_spec_is_valid() {
        check_spec(&spec()).unwrap();
    }

    #[test]
    fn every_field_has_its_rule() {
        assert!(error_of(|s| s.description = "x".repeat(2001)).contains("2000"));
        assert!(error_of(|s| s.method = "get".into()).contains("GET"));
        assert!(error_of(|s| s.method = "CONNECT".into()).starts_with("method"));
        assert!(error_of(|s| s.request.url = "x".into()).starts_with("url"));
        assert!(error_of(|s| s.request.proxy_url = "socks5://x".into()).starts_with("proxy_url"));
        assert!(error_of(|s| s.request.secret = "short".into()).contains("16"));
        assert!(error_of(|s| s.request.body = "{{".into()).contains("line 1"));
        assert!(error_of(|s| s.filter.kind_types = vec!["some".into()]).contains("permission"));
        assert!(error_of(|s| s.filter.kind_names = vec!["x".into(); 101]).contains("kind_names"));
        assert!(error_of(|s| (s.filter.error_only, s.filter.success_only) = (true, true)).contains("both"));
    }

    #[test]
    fn invalid_and_reserved_headers_are_refused_without_their_values() {
        for (name, value) in [
            ("", "canary"),
            ("a b", "canary"),
            ("Host", "canary"),
            ("content-LENGTH", "canary"),
            ("Tancho-Signature", "canary"),
            ("x", "canary\r\nevil: 1"),
            ("x", "canary\u{7f}"),
        ] {
            let error = error_of(|s| s.request.headers = header(name, value));
            assert!(!error.contains("canary"), "{name}: {error}");
        }
        assert!(error_of(|s| s.request.headers = header("x", &"y".repeat(9000))).contains("at most"));
        let mut good = spec();
        good.request.headers = header("Content-Type", "application/json");
        check_spec(&good).unwrap();
    }

    #[test]
    fn only_methods_with_content_have_a_body() {
        assert!(has_body("") && has_body("PATCH") && !has_body("GET") && !has_body("DELETE"));
    }
}
