//! The parameters of a request: JSON with or without a Content-Type, a urlencoded form, a query, or any mix
//! of them (contract/classic 0.3, contract/modern 1.7). Keys are case-insensitive, an empty string counts as
//! absent, and dotted keys of a form nest. JSON has types, so a value of a different type than the field's is
//! refused. A form has strings only, and repeats or numbers the items of a list.

mod scalars;

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::web::errors::modern::ModernError;
use crate::web::text_check;

/// The maximum number of keys in a form.
const MAX_FIELDS: usize = 10_000;
/// The maximum number of items in a list.
const MAX_ITEMS: usize = 1000;
/// The maximum number of dots in a key of a form.
const MAX_DEPTH: usize = 8;

/// The fields of a request: those of the body, and those of the query that the body does not have.
#[derive(Clone, Debug, Default)]
pub struct Params {
    body: Map<String, Value>,
    /// The body was JSON, so its values have types.
    is_json: bool,
    query: Map<String, Value>,
    /// The body when it is a JSON array (`["A", "B"]`).
    list: Option<Vec<Value>>,
    /// The body as received.
    pub raw_body: Bytes,
}

impl Params {
    /// Parses a query and a body. Errors: `Invalid` if the body is neither JSON nor a form.
    pub fn parse_request(uri: &Uri, content_type: &str, raw: Bytes) -> Result<Self, Error> {
        let query = parse_form(uri.query().unwrap_or_default().as_bytes())?;
        let mut input = Params {
            query,
            raw_body: raw.clone(),
            ..Params::default()
        };
        let text = raw.trim_ascii();
        if text.is_empty() {
            return Ok(input);
        }
        let looks_json = matches!(text[0], b'{' | b'[');
        if looks_json || content_type.contains("json") {
            match serde_json::from_slice(text) {
                Ok(Value::Object(map)) => (input.body, input.is_json) = (map, true),
                Ok(Value::Array(list)) => input.list = Some(list),
                Ok(Value::Null) => {}
                Ok(_) => return Err(Error::invalid("The body must be a JSON object.")),
                Err(e) => return Err(Error::invalid(format!("The body is not valid JSON: {e}."))),
            }
        } else if content_type.contains("urlencoded") || content_type.is_empty() {
            input.body = parse_form(text)?;
        }
        Ok(input)
    }

    /// Creates parameters from fields, such as the text parts of a multipart body. Errors: `Invalid` for a
    /// NUL byte.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut body = Map::new();
        for (key, value) in pairs {
            text_check::check_text(&key, "The name of a field")?;
            text_check::check_text(&value, &format!("The field {}", quote_excerpt(&key)))?;
            insert_field(&mut body, &key, value)?;
        }
        Ok(Params {
            body,
            ..Params::default()
        })
    }

    fn find_value(&self, key: &str) -> Option<&Value> {
        find_key(&self.body, key)
            .or_else(|| find_key(&self.query, key))
            .filter(|v| !v.is_null())
    }

    /// True if the field was sent, even empty.
    pub fn has_field(&self, key: &str) -> bool {
        find_key(&self.body, key)
            .or_else(|| find_key(&self.query, key))
            .is_some()
    }

    /// Returns a string; `None` if absent or empty. Errors: `Invalid` for another JSON type.
    pub fn get_string(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.get_string_or_empty(key)?.filter(|text| !text.is_empty()))
    }

    /// Returns a string, even an empty one; `None` if absent.
    pub fn get_string_or_empty(&self, key: &str) -> Result<Option<String>, Error> {
        match self.find_value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(_)) => Err(Error::invalid(format!("{key} must be given once, as a string."))),
            Some(_) => Err(Error::invalid(format!("{key} must be a string."))),
        }
    }

    /// Returns a required string. Errors: `Invalid`, naming the field.
    pub fn require_string(&self, key: &str) -> Result<String, Error> {
        self.get_string(key)?
            .ok_or_else(|| Error::invalid(format!("{key} is missing.")))
    }

    /// Returns a required string, or a JSON number as a string. Errors: `Invalid`, naming the field.
    pub fn require_scalar(&self, key: &str) -> Result<String, Error> {
        self.get_scalar(key)?
            .ok_or_else(|| Error::invalid(format!("{key} is missing.")))
    }

    /// Returns a string, or a JSON number as a string; `None` if absent or empty. Errors: `Invalid`.
    pub fn get_scalar(&self, key: &str) -> Result<Option<String>, Error> {
        match self.find_value(key) {
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            _ => self.get_string(key),
        }
    }

    /// Returns a string parsed to its type, if there is one.
    pub fn parse_field<T: std::str::FromStr<Err = Error>>(&self, key: &str) -> Result<Option<T>, Error> {
        self.get_string(key)?.map(|text| text.parse()).transpose()
    }

    /// Returns a list of strings: repeated fields, or a JSON array. Empty strings are left out.
    pub fn get_strings(&self, key: &str) -> Result<Vec<String>, Error> {
        let all: Vec<&Value> = match self.find_value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Object(map)) => self.numbered_items(map, key)?,
            Some(one) => vec![one],
        };
        check_count(all.len(), key)?;
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let texts: Option<Vec<String>> = all.into_iter().map(text).collect();
        let texts = texts.ok_or_else(|| not_a_list_error(key))?;
        Ok(texts.into_iter().filter(|t| !t.is_empty()).collect())
    }

    /// Returns a map of strings: `parameters.k=v`, or a JSON object of strings.
    pub fn get_string_map(&self, key: &str) -> Result<BTreeMap<String, String>, Error> {
        match self.find_value(key) {
            Some(Value::Object(map)) => to_string_map(map, key),
            None => Ok(BTreeMap::new()),
            Some(Value::String(text)) if text.is_empty() => Ok(BTreeMap::new()),
            Some(_) => Err(Error::invalid(format!("{key} must be an object of strings."))),
        }
    }

    /// Returns a list of objects: `Envs.0.Name=…`, or a JSON array of objects.
    pub fn get_objects(&self, key: &str) -> Result<Vec<Params>, Error> {
        let wrong = || Error::invalid(format!("{key} must be a list of objects."));
        let items: Vec<&Value> = match self.find_value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Object(map)) => self.numbered_items(map, key)?,
            Some(Value::String(text)) if text.is_empty() => return Ok(Vec::new()),
            Some(_) => return Err(wrong()),
        };
        check_count(items.len(), key)?;
        let object = |v: &Value| v.as_object().map(|map| self.nested_params(map)).ok_or_else(wrong);
        items.into_iter().map(object).collect()
    }

    /// Returns a nested object, empty if absent.
    pub fn get_object(&self, key: &str) -> Result<Params, Error> {
        match self.find_value(key) {
            None => Ok(Params::default()),
            Some(Value::Object(map)) => Ok(self.nested_params(map)),
            Some(Value::String(text)) if text.is_empty() => Ok(Params::default()),
            Some(_) => Err(Error::invalid(format!("{key} must be an object."))),
        }
    }

    fn nested_params(&self, map: &Map<String, Value>) -> Params {
        Params {
            body: map.clone(),
            is_json: self.is_json,
            ..Params::default()
        }
    }

    /// Returns the items of a list that a form has numbered: `tags.0`, `tags.1`. Errors: `Invalid` for other
    /// keys, and for JSON, which has lists.
    fn numbered_items<'a>(&self, map: &'a Map<String, Value>, key: &str) -> Result<Vec<&'a Value>, Error> {
        if self.is_json && find_key(&self.body, key).is_some() {
            return Err(not_a_list_error(key));
        }
        let numbered: Option<Vec<(u32, &Value)>> =
            map.iter().map(|(k, v)| Some((k.parse().ok()?, v))).collect();
        let mut items = numbered.ok_or_else(|| not_a_list_error(key))?;
        items.sort_by_key(|(n, _)| *n);
        Ok(items.into_iter().map(|(_, v)| v).collect())
    }

    /// Returns names, from a JSON list in the body or from a repeated field; empty if there are none. Errors:
    /// `Invalid` for a body that is neither, which must not count as one without names.
    pub fn get_names(&self, key: &str) -> Result<Vec<String>, Error> {
        if let Some(names) = self.get_body_strings()? {
            check_count(names.len(), key)?;
            return Ok(names);
        }
        let body = self.raw_body.trim_ascii();
        match body.is_empty() || body == b"null" || find_key(&self.body, key).is_some() {
            true => self.get_strings(key),
            false => Err(Error::invalid(format!(
                "The body must be a JSON list of names, or a form with {key}."
            ))),
        }
    }

    /// Returns the JSON value of a field.
    pub fn get_value(&self, key: &str) -> Option<&Value> {
        self.find_value(key)
    }

    /// Returns the body as a list of strings, if it is a JSON array. Errors: `Invalid` for other items.
    pub fn get_body_strings(&self) -> Result<Option<Vec<String>>, Error> {
        let Some(list) = &self.list else { return Ok(None) };
        let texts: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
        texts
            .map(Some)
            .ok_or_else(|| Error::invalid("The body must be a JSON list of strings."))
    }

    /// Returns the body as a map of strings, if it is a JSON object. Errors: `Invalid` for other values.
    pub fn get_body_map(&self) -> Result<BTreeMap<String, String>, Error> {
        to_string_map(&self.body, "The body")
    }

    /// True if the body has no fields.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty() && self.list.is_none()
    }
}

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let uri = request.uri().clone();
        let content_type = super::content_type(request.headers());
        let raw = match Bytes::from_request(request, state).await {
            Ok(raw) => raw,
            Err(rejection) => {
                let error = match rejection.into_response().status() {
                    axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
                        Error::too_large("The body is larger than this server accepts.")
                    }
                    _ => Error::invalid("The body could not be read to its end."),
                };
                return Err(ModernError(error).into_response());
            }
        };
        Params::parse_request(&uri, &content_type, raw).map_err(|p| ModernError(p).into_response())
    }
}

/// Looks up a key case-insensitively; an exact match takes precedence.
fn find_key<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).or_else(|| {
        map.iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v)
    })
}

fn to_string_map(map: &Map<String, Value>, what: &str) -> Result<BTreeMap<String, String>, Error> {
    check_count(map.len(), what)?;
    map.iter()
        .map(|(k, v)| match v {
            Value::String(text) => Ok((k.clone(), text.clone())),
            _ => Err(Error::invalid(format!(
                "{what} must map strings to strings; {:?} is not a string.",
                quote_excerpt(k)
            ))),
        })
        .collect()
}

fn check_count(count: usize, what: &str) -> Result<(), Error> {
    match count > MAX_ITEMS {
        true => Err(Error::invalid(format!(
            "{what} has {count} items, but a request may have at most {MAX_ITEMS}: send several requests."
        ))),
        false => Ok(()),
    }
}

fn not_a_list_error(key: &str) -> Error {
    Error::invalid(format!("{key} must be a list of strings."))
}

fn parse_form(text: &[u8]) -> Result<Map<String, Value>, Error> {
    let mut map = Map::new();
    for (count, (key, value)) in form_urlencoded::parse(text).enumerate() {
        if count >= MAX_FIELDS {
            return Err(Error::invalid(format!("A form has at most {MAX_FIELDS} fields.")));
        }
        insert_field(&mut map, &key, value.into_owned())?;
    }
    Ok(map)
}

fn insert_field(map: &mut Map<String, Value>, key: &str, value: String) -> Result<(), Error> {
    let mut parts = split_dotted(key);
    if parts.len() > MAX_DEPTH {
        return Err(Error::invalid("A field's name has too many dots."));
    }
    let last = parts.pop().unwrap_or_default();
    let mut at = map;
    for part in parts {
        let inner = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
        if !inner.is_object() {
            *inner = Value::Object(Map::new());
        }
        let Value::Object(next) = inner else { return Ok(()) };
        at = next;
    }
    match at.get_mut(&last) {
        None => {
            at.insert(last, Value::String(value));
        }
        Some(Value::Array(list)) => list.push(Value::String(value)),
        // `parameters=` beside `parameters.k=v` has no meaning.
        Some(Value::Object(_)) => {}
        Some(first) => *first = Value::Array(vec![first.take(), Value::String(value)]),
    }
    Ok(())
}

/// Splits at dots that are not escaped by a backslash.
fn split_dotted(key: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in key.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '.' if !escaped => parts.push(String::new()),
            c => {
                if let Some(part) = parts.last_mut() {
                    part.push(c);
                }
            }
        }
        escaped = false;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(query: &str, content_type: &str, body: &str) -> Result<Params, Error> {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        Params::parse_request(&uri, content_type, Bytes::copy_from_slice(body.as_bytes()))
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn json_is_parsed_for_every_content_type() {
        for content_type in ["", FORM, "application/json", "text/plain"] {
            let input = input("", content_type, r#" {"Name": "x"}"#).unwrap();
            assert_eq!(
                input.get_string("name").unwrap().as_deref(),
                Some("x"),
                "{content_type}"
            );
        }
        assert!(input("", "", "{nonsense").is_err());
        assert!(input("", "application/json", "3").is_err());
    }

    #[test]
    fn form_fields_nest_repeat_and_escape() {
        let input = input(
            "env=Q",
            FORM,
            "Envs.1.Name=B&Envs.0.Name=A&Envs.0.Value=&tag=x&tag=y&parameters=&parameters.a%5C.b=1&NoRestart=",
        )
        .unwrap();
        let envs = input.get_objects("envs").unwrap();
        assert_eq!(envs[0].get_string("name").unwrap().as_deref(), Some("A"));
        assert_eq!(envs[0].get_string("value").unwrap(), None);
        assert_eq!(envs[1].get_string("Name").unwrap().as_deref(), Some("B"));
        assert_eq!(input.get_strings("tag").unwrap(), ["x", "y"]);
        assert_eq!(input.get_string_map("parameters").unwrap()["a.b"], "1");
        assert!(!input.get_bool("norestart").unwrap());
        assert_eq!(input.get_strings("env").unwrap(), ["Q"]);
    }

    #[test]
    fn values_of_a_wrong_type_are_invalid() {
        let input = input(
            "",
            "",
            r#"{"name": 3, "n": "x", "f": "maybe", "l": [1], "m": {"a": 1}, "one": ["a"], "o": {"0": "a"},
                "big": 99999999999999999999, "half": 1.5, "flags": [true], "objects": {"0": {}}}"#,
        )
        .unwrap();
        for error in [
            input.get_string("name").unwrap_err(),
            input.get_string("one").unwrap_err(),
            input.get_integer("one").unwrap_err(),
            input.get_integer("big").unwrap_err(),
            input.get_integer("half").unwrap_err(),
            input.get_number("n").unwrap_err(),
            input.get_number("one").unwrap_err(),
            input.get_object("name").unwrap_err(),
            input.get_bool("n").unwrap_err(),
            input.get_bool("flags").unwrap_err(),
            input.get_strings("o").unwrap_err(),
            input.get_objects("objects").unwrap_err(),
            input.get_names("l").unwrap_err(),
            input.get_integer("n").unwrap_err(),
            input.get_bool("f").unwrap_err(),
            input.get_strings("l").unwrap_err(),
            input.get_string_map("m").unwrap_err(),
            input.require_string("gone").unwrap_err(),
        ] {
            assert_eq!(error.kind(), crate::kernel::error::ErrorKind::Invalid, "{error}");
        }
    }

    #[test]
    fn numbers_and_empty_objects_are_read_from_json_and_forms() {
        let json = input("", "", r#"{"a": 1.5, "b": 2, "c": null, "o": {}}"#).unwrap();
        let form = input("", FORM, "a=1.5&b=2&c=&o=").unwrap();
        for input in [json, form] {
            assert_eq!(input.get_number("a").unwrap(), Some(1.5));
            assert_eq!(input.get_number("b").unwrap(), Some(2.0));
            assert_eq!(input.get_number("c").unwrap(), None);
            assert!(input.get_object("o").unwrap().is_empty());
        }
    }

    #[test]
    fn empty_query_and_body_have_no_fields() {
        let input = input("", FORM, "").unwrap();
        assert!(input.is_empty() && !input.has_field("name"));
    }

    #[test]
    fn names_are_read_from_a_body_list_or_a_field_only() {
        let names =
            |query: &str, content_type: &str, body: &str| input(query, content_type, body)?.get_names("env");
        for (query, content_type, body) in [
            ("env=A&env=B", "", ""),
            ("env=A&env=B", "", "null"),
            ("env=C", "", r#"["A", "B"]"#),
            ("", FORM, "env=A&env=B&noRestart="),
            ("", "", r#"{"env": ["A", "B"]}"#),
        ] {
            assert_eq!(
                names(query, content_type, body).unwrap(),
                ["A", "B"],
                "{query} {body}"
            );
        }
        assert!(names("", "", "").unwrap().is_empty());
        for (content_type, body) in [
            ("", r#"{"A": "B"}"#),
            ("", r#"[{"A": "B"}]"#),
            ("text/plain", "A"),
            (FORM, "a=b"),
            ("", "A,B"),
            ("", "[1]"),
        ] {
            assert!(
                names("env=A", content_type, body).is_err(),
                "{content_type} {body}"
            );
        }
    }

    #[test]
    fn numbered_items_of_a_form_are_numbers_only() {
        assert_eq!(
            input("", FORM, "tag.1=y&tag.0=x")
                .unwrap()
                .get_strings("tag")
                .unwrap(),
            ["x", "y"]
        );
        assert!(
            input("", FORM, "tag.0=x&tag.name=y")
                .unwrap()
                .get_strings("tag")
                .is_err()
        );
    }

    #[test]
    fn fields_of_a_multipart_body_have_no_nul_byte() {
        for (key, value) in [("message", "a\0b"), ("a\0b", "x")] {
            assert!(Params::from_pairs([(key.to_owned(), value.to_owned())]).is_err());
        }
    }

    #[test]
    fn array_bodies_are_lists() {
        let input = input("", "", r#"["A","B"]"#).unwrap();
        assert_eq!(input.get_body_strings().unwrap().unwrap(), ["A", "B"]);
    }
}
