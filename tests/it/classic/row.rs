//! A row of a table, and the check of a response against it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// See the head of `tests/classic/examples.jsonl`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExampleRow {
    #[serde(rename = "for", default)]
    pub(super) endpoint: String,
    #[serde(rename = "about", default)]
    _about: String,
    /// Method and path; empty in a row with `sql`.
    #[serde(default)]
    pub(super) send: String,
    #[serde(default)]
    pub(super) by: String,
    /// The Authorization header in place of `bearer {token}`.
    #[serde(default)]
    pub(super) auth: String,
    #[serde(rename = "type", default)]
    pub(super) content_type: String,
    #[serde(default)]
    pub(super) json: Option<Value>,
    #[serde(default)]
    pub(super) body: String,
    #[serde(default)]
    pub(super) status: u16,
    #[serde(default)]
    pub(super) shape: Option<Value>,
    /// A part of the response body; the empty string: the body is empty.
    #[serde(default)]
    pub(super) says: Option<String>,
    /// Members of the response that later rows use, by JSON pointer.
    #[serde(default)]
    pub(super) keep: BTreeMap<String, String>,
    /// `kind:name` of a lock that someone else holds meanwhile.
    #[serde(default)]
    pub(super) holding: String,
    /// For a server with closed registration.
    #[serde(default)]
    pub(super) closed: bool,
    #[serde(default)]
    pub(super) sql: String,
}

/// Reads all rows of a table.
pub(super) fn read_rows(table: &str) -> Vec<ExampleRow> {
    let path = format!("{}/tests/classic/{table}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// Errors: what does not match, and where.
pub(super) fn check_shape(shape: &Value, found: &Value, at: &str) -> Result<(), String> {
    let wrong = || Err(format!("{at} is {found}, not {shape}"));
    match shape {
        Value::String(kind) => match (kind.as_str(), found) {
            ("text", Value::String(_)) | ("number", Value::Number(_)) | ("bool", Value::Bool(_)) => Ok(()),
            _ => wrong(),
        },
        Value::Array(items) => {
            let Value::Array(list) = found else { return wrong() };
            let Some(item) = items.first() else { return Ok(()) };
            if list.is_empty() {
                return Err(format!("{at} is empty"));
            }
            let mut list = list.iter().enumerate();
            list.try_for_each(|(n, one)| check_shape(item, one, &format!("{at}/{n}")))
        }
        Value::Object(members) => {
            let Value::Object(map) = found else { return wrong() };
            members.iter().try_for_each(|(key, shape)| match map.get(key) {
                Some(one) => check_shape(shape, one, &format!("{at}/{key}")),
                None if key == "*" => {
                    let mut all = map.iter();
                    all.try_for_each(|(key, one)| check_shape(shape, one, &format!("{at}/{key}")))
                }
                None => Err(format!("{at} has no {key}: {found}")),
            })
        }
        _ => wrong(),
    }
}

#[test]
fn shape_check_accepts_matching_and_rejects_other_responses() {
    let shape = serde_json::json!([{ "a": "text", "b": [] }]);
    for (found, good) in [
        (serde_json::json!([{ "a": "x", "b": [1], "c": 2 }]), true),
        (serde_json::json!([]), false),
        (serde_json::json!([{ "a": 1, "b": [] }]), false),
        (serde_json::json!([{ "a": "x" }]), false),
        (serde_json::json!([{ "a": "x", "b": null }]), false),
        (serde_json::json!({ "a": "x", "b": [] }), false),
    ] {
        assert_eq!(check_shape(&shape, &found, "").is_ok(), good, "{found}");
    }
    let texts = serde_json::json!({ "*": "text" });
    assert!(check_shape(&texts, &serde_json::json!({ "a": "x", "b": "y" }), "").is_ok());
    assert!(check_shape(&texts, &serde_json::json!({ "a": "x", "b": 1 }), "").is_err());
}
