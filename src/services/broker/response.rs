//! Parses and bounds the responses of services, leniently (contract/classic 2.3, 2.5).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::envs::reserved;
use crate::kernel::log_text::{clean_line, clip_line};
use crate::kernel::names::EnvName;
use crate::kernel::secret::Secret;
use crate::kernel::secret_mask::mask_secrets;

/// Maximum length of a service's message that a user gets to read, in bytes.
const MAX_MESSAGE_BYTES: usize = 2048;
/// Maximum number of variables of one bind.
const MAX_VARIABLES: usize = 1000;
/// Maximum number of plans, and of labels, that are taken from a response.
const MAX_ITEMS: usize = 1000;
/// Maximum length of the name of a plan, or of a label, in bytes.
const MAX_NAME: usize = 255;
/// Maximum length of the description of a plan, or of the value of a label, in bytes.
const MAX_TEXT: usize = 4096;

/// The variables of a bind.
pub type BindVariables = BTreeMap<EnvName, Secret>;

/// A plan of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    pub name: String,
    pub description: String,
}

/// Parses the variables in the response to a bind: an object, `null` or an empty body. Errors: what is wrong
/// with it, without any value in it.
pub(super) fn parse_variables(body: &[u8]) -> Result<BindVariables, String> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(BindVariables::new());
    }
    let map = match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => map,
        Ok(Value::Null) => return Ok(BindVariables::new()),
        _ => return Err("responded with something other than a JSON object of variables".into()),
    };
    if map.len() > MAX_VARIABLES {
        return Err(format!("returned more than {MAX_VARIABLES} variables"));
    }
    map.into_iter()
        .map(|(name, value)| {
            let shown: String = name.chars().take(64).collect();
            let value = scalar_to_string(value)
                .ok_or_else(|| format!("returned no string, number or boolean for the variable {shown:?}"))?;
            if value.contains('\0') {
                return Err(format!("returned a NUL byte in the variable {shown:?}"));
            }
            let name = EnvName::parse(&name)
                .map_err(|_| format!("returned a variable with an invalid name, {shown:?}"))?;
            if let Some(reader) = reserved::find_reader(name.as_str()) {
                return Err(format!(
                    "returned the variable {name}, which {reader} reads: no service may set it"
                ));
            }
            Ok((name, Secret::new(value)))
        })
        .collect()
}

/// Converts a string, number or boolean to a string; null becomes the empty string.
fn scalar_to_string(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Parses the information about an instance: a list of labels and values. Returns `None` for anything else.
pub(super) fn parse_labels(body: &[u8], secrets: &[Secret]) -> Option<BTreeMap<String, String>> {
    let list: Vec<Value> = match serde_json::from_slice(body.trim_ascii()).ok()? {
        Value::Array(list) => list,
        Value::Null => return Some(BTreeMap::new()),
        _ => return None,
    };
    let item = |item: Value| {
        let value = get_ignoring_case(&item, "value").unwrap_or_default();
        Some((
            sanitize_text(&get_ignoring_case(&item, "label")?, MAX_NAME, secrets),
            sanitize_text(&value, MAX_TEXT, secrets),
        ))
    };
    Some(list.into_iter().take(MAX_ITEMS).filter_map(item).collect())
}

/// Parses the plans of a service; skips malformed items. Errors: what is wrong, if it is not a list.
pub(super) fn parse_plans(body: &[u8], secrets: &[Secret]) -> Result<Vec<ServicePlan>, &'static str> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let list = match serde_json::from_slice(body) {
        Ok(Value::Array(list)) => list,
        Ok(Value::Null) => Vec::new(),
        _ => return Err("responded with something other than a list of plans"),
    };
    let plan = |item: Value| {
        let name = get_ignoring_case(&item, "name").filter(|name| !name.is_empty())?;
        let description = get_ignoring_case(&item, "description").unwrap_or_default();
        Some(ServicePlan {
            name: sanitize_text(&name, MAX_NAME, secrets),
            description: sanitize_text(&description, MAX_TEXT, secrets),
        })
    };
    Ok(list.into_iter().take(MAX_ITEMS).filter_map(plan).collect())
}

/// Returns a member of an object by its name, ignoring case.
fn get_ignoring_case(item: &Value, name: &str) -> Option<String> {
    let (_, value) = item
        .as_object()?
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    scalar_to_string(value.clone())
}

/// Makes the message of a service fit to be shown: bounded, without control characters, with HTML pages and
/// stack traces reduced to the useful part, and without the secrets that the request contained.
pub(super) fn sanitize_message(body: &[u8], secrets: &[Secret]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(16 * MAX_MESSAGE_BYTES)]);
    let mut text = text.trim();
    if text.starts_with('<') {
        text = html_title(text).unwrap_or("");
    }
    sanitize_text(before_stack_trace(text).trim(), MAX_MESSAGE_BYTES, secrets)
}

/// Removes control characters and secrets from a string of a service, and clips it to `max` bytes.
fn sanitize_text(text: &str, max: usize, secrets: &[Secret]) -> String {
    let text = mask_secrets(text, secrets);
    let lines: Vec<Cow<'_, str>> = text.lines().map(clean_line).collect();
    clip_line(Cow::Owned(lines.join("\n")), max).into_owned()
}

/// Returns the text before the first line of a stack trace.
fn before_stack_trace(text: &str) -> &str {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if is_stack_trace_line(line.trim()) {
            return &text[..at];
        }
        at += line.len();
    }
    text
}

/// Returns whether a line begins or continues a stack trace of Python, Java, .NET, Node.js, Ruby, PHP, Go or
/// Rust.
fn is_stack_trace_line(line: &str) -> bool {
    let begins = |starts: &[&str]| starts.iter().any(|start| line.starts_with(start));
    begins(&[
        "Traceback (most recent call last)",
        "Stack trace:",
        "stack backtrace:",
        "goroutine ",
        "#0 ",
    ]) || (begins(&["at "]) && line.contains([':', '(']))
        || (begins(&["from "]) && line.contains(":in "))
        || (begins(&["File \""]) && line.contains("\", line "))
}

/// Returns the title of an HTML page.
fn html_title(page: &str) -> Option<&str> {
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title>")? + "<title>".len();
    let end = lower[start..].find("</title>")? + start;
    Some(page[start..end].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_response_must_be_an_object_of_scalars_null_or_empty() {
        let read = parse_variables(br#"{"A":"x","DB-PORT":3306,"ON":true,"N":null}"#).unwrap();
        let shown: Vec<(&str, &str)> = read
            .iter()
            .map(|(k, v)| (k.as_str(), v.expose_secret()))
            .collect();
        assert_eq!(
            shown,
            [("A", "x"), ("DB-PORT", "3306"), ("N", ""), ("ON", "true")]
        );
        for none in ["", " \n", "null", "{}"] {
            assert!(parse_variables(none.as_bytes()).unwrap().is_empty(), "{none:?}");
        }
        for bad in [
            "[]",
            "3",
            "oops",
            r#"{"A":{"b":"secret-x"}}"#,
            r#"{"A=B":"secret-x"}"#,
            r#"{"A":"secret-x\u0000"}"#,
            r#"{"":"secret-x"}"#,
            r#"{"A":"fine","LD_PRELOAD":"secret-x"}"#,
            r#"{"http_proxy":"secret-x"}"#,
        ] {
            let why = parse_variables(bad.as_bytes()).unwrap_err();
            assert!(!why.contains("secret-x"), "{why}");
        }
    }

    #[test]
    fn malformed_labels_and_plans_are_skipped() {
        let none: [Secret; 0] = [];
        let read = parse_labels(br#"[{"label":"Size","value":3},{"value":"x"},7]"#, &none).unwrap();
        assert_eq!(read, BTreeMap::from([("Size".into(), "3".into())]));
        assert_eq!(parse_labels(b"{}", &none), None);
        let read = parse_plans(br#"[{"Name":"small","description":"d"},{"name":""},"x"]"#, &none).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(
            (read[0].name.as_str(), read[0].description.as_str()),
            ("small", "d")
        );
        for empty in ["", "null", "[]"] {
            assert_eq!(parse_plans(empty.as_bytes(), &none), Ok(Vec::new()), "{empty}");
        }
        let deep = "[".repeat(100_000);
        for wrong in ["<html>", "{}", "3", "\"small\"", &deep] {
            assert!(parse_plans(wrong.as_bytes(), &none).is_err(), "{wrong:.20}");
        }
    }

    #[test]
    fn plans_and_labels_are_bounded_and_hold_no_secret_and_no_control_character() {
        let secret = [Secret::new("hunter 22")];
        let item = r#"{"name":"a\u001b[2Jb\u202ec hunter+22","description":"hunter 22 %D","label":"l","value":"hunter 22"}"#;
        let item = item.replace("%D", &"ü".repeat(10_000));
        let many = format!("[{}]", vec![item.as_str(); 3000].join(","));
        let read = parse_plans(many.as_bytes(), &secret).unwrap();
        assert_eq!(read.len(), MAX_ITEMS);
        assert_eq!(read[0].name, "a\u{fffd}[2Jb\u{fffd}c ***");
        assert!(read[0].description.starts_with("*** ü") && read[0].description.len() <= MAX_TEXT);
        let read = parse_labels(many.as_bytes(), &secret).unwrap();
        assert_eq!(read["l"], "***");
    }

    #[test]
    fn service_messages_are_sanitized_before_display() {
        let none: [Secret; 0] = [];
        let sent = [Secret::new("hunter22"), Secret::new("YWRtaW46aHVudGVyMjI=")];
        assert_eq!(
            sanitize_message(b"no \x1b[31mspace\x07 left\n", &none),
            "no \u{fffd}[31mspace\u{fffd} left"
        );
        assert_eq!(
            sanitize_message(b"bad login admin:hunter22, Basic YWRtaW46aHVudGVyMjI=", &sent),
            "bad login admin:***, Basic ***"
        );
        let form = br#"{"sent":"Basic YWRtaW46aHVudGVyMjI\u003d","url":"%68unter22"}"#;
        assert_eq!(
            sanitize_message(form, &sent),
            r#"{"sent":"Basic ***","url":"***"}"#
        );
        assert_eq!(
            sanitize_message(
                b"<!doctype html><title>500 Internal Server Error</title><p>x",
                &none
            ),
            "500 Internal Server Error"
        );
        assert_eq!(
            sanitize_message(b"oops\nTraceback (most recent call last):\n  File", &none),
            "oops"
        );
        for page in [
            "oops\n    at com.example.Db.open(Db.java:7)\n",
            "oops\n    at Object.<anonymous> (/srv/app.js:3:1)",
            "oops\ngoroutine 1 [running]:\nmain.main()",
            "oops\nStack trace:\n#0 /srv/a.php(3): f()",
            "oops\n\tfrom /srv/a.rb:3:in `f'",
            "<HTML><Title>oops</Title><pre>at x (y)</pre>",
        ] {
            assert_eq!(sanitize_message(page.as_bytes(), &none), "oops", "{page}");
        }
        assert_eq!(
            sanitize_message(b"try again\nat noon", &none),
            "try again\nat noon"
        );
        assert!(sanitize_message("é".repeat(5000).as_bytes(), &none).len() < MAX_MESSAGE_BYTES + 8);
        assert_eq!(sanitize_message(b"\xff\xfe", &none), "\u{fffd}\u{fffd}");
    }
}
