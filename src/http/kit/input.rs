//! What a caller sends, in whichever form: JSON with or without a Content-Type, a urlencoded form, a
//! query, in any mix of them (contract/classic 0.3, contract/modern 1.7). Keys are looked up without
//! regard to case; an empty text is the same as none; a form's dotted keys nest.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::http::wording::modern::Refusal;
use crate::kernel::problem::Problem;

/// Keys in one form, at most.
const MAX_FIELDS: usize = 10_000;
/// Dots in one key of a form, at most.
const MAX_DEPTH: usize = 8;

/// The fields of a request: the body's, and the query's where the body has none.
#[derive(Clone, Debug, Default)]
pub struct Input {
    body: Map<String, Value>,
    query: Map<String, Value>,
    /// The body when it is a JSON array (`["A", "B"]`).
    list: Option<Vec<Value>>,
    /// The body as it came.
    pub raw: Bytes,
}

impl Input {
    /// Reads a query and a body. Errors: `Invalid` when the body is neither JSON nor a form.
    pub fn read(uri: &Uri, content_type: &str, raw: Bytes) -> Result<Self, Problem> {
        let query = form(uri.query().unwrap_or_default().as_bytes())?;
        let mut input = Input {
            query,
            raw: raw.clone(),
            ..Input::default()
        };
        let text = raw.trim_ascii();
        if text.is_empty() {
            return Ok(input);
        }
        let looks_json = matches!(text[0], b'{' | b'[');
        if looks_json || content_type.contains("json") {
            match serde_json::from_slice(text) {
                Ok(Value::Object(map)) => input.body = map,
                Ok(Value::Array(list)) => input.list = Some(list),
                Ok(Value::Null) => {}
                Ok(_) => return Err(Problem::invalid("The body must be a JSON object.")),
                Err(e) => return Err(Problem::invalid(format!("The body is not valid JSON: {e}."))),
            }
        } else if content_type.contains("urlencoded") || content_type.is_empty() {
            input.body = form(text)?;
        }
        Ok(input)
    }

    /// Fields made elsewhere, such as the text parts of a multipart body.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Problem> {
        let mut body = Map::new();
        for (key, value) in pairs {
            insert(&mut body, &key, value)?;
        }
        Ok(Input {
            body,
            ..Input::default()
        })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        lookup(&self.body, key)
            .or_else(|| lookup(&self.query, key))
            .filter(|v| !v.is_null())
    }

    /// True if the field was sent at all, even empty.
    pub fn has(&self, key: &str) -> bool {
        lookup(&self.body, key)
            .or_else(|| lookup(&self.query, key))
            .is_some()
    }

    /// A text; `None` if absent or empty. Errors: another JSON type.
    pub fn text(&self, key: &str) -> Result<Option<String>, Problem> {
        Ok(self.text_as_sent(key)?.filter(|text| !text.is_empty()))
    }

    /// A text, even an empty one; `None` if absent.
    pub fn text_as_sent(&self, key: &str) -> Result<Option<String>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(list)) => match list.first() {
                Some(Value::String(text)) if list.len() == 1 => Ok(Some(text.clone())),
                _ => Err(Problem::invalid(format!("{key} must be given once, as a text."))),
            },
            Some(_) => Err(Problem::invalid(format!("{key} must be a text."))),
        }
    }

    /// A text that must be there. Errors: `Invalid`, naming the field.
    pub fn required(&self, key: &str) -> Result<String, Problem> {
        self.text(key)?
            .ok_or_else(|| Problem::invalid(format!("{key} is missing.")))
    }

    /// A text parsed to its type, if there is one.
    pub fn parsed<T: std::str::FromStr<Err = Problem>>(&self, key: &str) -> Result<Option<T>, Problem> {
        self.text(key)?.map(|text| text.parse()).transpose()
    }

    /// A whole number, written as a number or as a text; `None` if absent or empty.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Problem> {
        let wrong = || Problem::invalid(format!("{key} must be a whole number."));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(n)) => n.as_i64().ok_or_else(wrong).map(Some),
            Some(_) => match self.text(key).map_err(|_| wrong())? {
                None => Ok(None),
                Some(text) => text.trim().parse().map_err(|_| wrong()).map(Some),
            },
        }
    }

    /// A yes or no; absent and empty are no.
    pub fn flag(&self, key: &str) -> Result<bool, Problem> {
        let wrong = || Problem::invalid(format!("{key} must be true or false."));
        match self.get(key) {
            Some(Value::Bool(yes)) => Ok(*yes),
            _ => match self.text(key).map_err(|_| wrong())?.as_deref() {
                None | Some("false" | "0" | "f" | "no" | "off") => Ok(false),
                Some("true" | "1" | "t" | "yes" | "on") => Ok(true),
                Some(_) => Err(wrong()),
            },
        }
    }

    /// A list of texts: repeated fields, or a JSON array. Empty texts are left out.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, Problem> {
        let all: Vec<&Value> = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().collect(),
            // A form may number its items: `tags.0`, `tags.1`.
            Some(Value::Object(map)) => numbered(map),
            Some(one) => vec![one],
        };
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let texts: Option<Vec<String>> = all.into_iter().map(text).collect();
        let texts = texts.ok_or_else(|| Problem::invalid(format!("{key} must be a list of texts.")))?;
        Ok(texts.into_iter().filter(|t| !t.is_empty()).collect())
    }

    /// A map from text to text: `parameters.k=v`, or a JSON object of texts.
    pub fn map(&self, key: &str) -> Result<BTreeMap<String, String>, Problem> {
        match self.get(key) {
            Some(Value::Object(map)) => texts_of(map, key),
            None => Ok(BTreeMap::new()),
            Some(Value::String(text)) if text.is_empty() => Ok(BTreeMap::new()),
            Some(_) => Err(Problem::invalid(format!("{key} must be an object of texts."))),
        }
    }

    /// A list of objects: `Envs.0.Name=…`, or a JSON array of objects.
    pub fn objects(&self, key: &str) -> Result<Vec<Input>, Problem> {
        let wrong = || Problem::invalid(format!("{key} must be a list of objects."));
        let items: Vec<&Value> = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Object(map)) => numbered(map),
            Some(Value::String(text)) if text.is_empty() => return Ok(Vec::new()),
            Some(_) => return Err(wrong()),
        };
        let object = |v: &Value| {
            v.as_object()
                .map(|map| Input {
                    body: map.clone(),
                    ..Input::default()
                })
                .ok_or_else(wrong)
        };
        items.into_iter().map(object).collect()
    }

    /// An object inside, empty if absent.
    pub fn object(&self, key: &str) -> Result<Input, Problem> {
        match self.get(key) {
            None => Ok(Input::default()),
            Some(Value::Object(map)) => Ok(Input {
                body: map.clone(),
                ..Input::default()
            }),
            Some(_) => Err(Problem::invalid(format!("{key} must be an object."))),
        }
    }

    /// The JSON value of a field as it is.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.get(key)
    }

    /// The body as a list of texts, when it is a JSON array. Errors: other members.
    pub fn body_list(&self) -> Result<Option<Vec<String>>, Problem> {
        let Some(list) = &self.list else { return Ok(None) };
        let texts: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
        texts
            .map(Some)
            .ok_or_else(|| Problem::invalid("The body must be a JSON list of texts."))
    }

    /// The body as a map of texts, when it is a JSON object. Errors: other members.
    pub fn body_map(&self) -> Result<BTreeMap<String, String>, Problem> {
        texts_of(&self.body, "The body")
    }

    /// True if the body has no fields.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty() && self.list.is_none()
    }
}

impl<S: Send + Sync> FromRequest<S> for Input {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let uri = request.uri().clone();
        let content_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase();
        let raw = match Bytes::from_request(request, state).await {
            Ok(raw) => raw,
            Err(rejection) => {
                let problem = match rejection.into_response().status() {
                    axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
                        Problem::too_large("The body is larger than this server accepts.")
                    }
                    _ => Problem::invalid("The body could not be read to its end."),
                };
                return Err(Refusal(problem).into_response());
            }
        };
        Input::read(&uri, &content_type, raw).map_err(|p| Refusal(p).into_response())
    }
}

/// Case-insensitive; the exact spelling wins where both exist.
fn lookup<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).or_else(|| {
        map.iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v)
    })
}

fn texts_of(map: &Map<String, Value>, what: &str) -> Result<BTreeMap<String, String>, Problem> {
    map.iter()
        .map(|(k, v)| match v {
            Value::String(text) => Ok((k.clone(), text.clone())),
            _ => Err(Problem::invalid(format!(
                "{what} must map texts to texts; {:?} is not a text.",
                shown(k)
            ))),
        })
        .collect()
}

/// What is quoted back of a key that a stranger has made up.
fn shown(key: &str) -> &str {
    key.char_indices().nth(80).map_or(key, |(at, _)| &key[..at])
}

/// The members of `{"0": …, "1": …}` in the order of their numbers.
fn numbered(map: &Map<String, Value>) -> Vec<&Value> {
    let mut items: Vec<(u32, &Value)> = map
        .iter()
        .filter_map(|(k, v)| k.parse().ok().map(|n| (n, v)))
        .collect();
    items.sort_by_key(|(n, _)| *n);
    items.into_iter().map(|(_, v)| v).collect()
}

fn form(text: &[u8]) -> Result<Map<String, Value>, Problem> {
    let mut map = Map::new();
    for (count, (key, value)) in form_urlencoded::parse(text).enumerate() {
        if count >= MAX_FIELDS {
            return Err(Problem::invalid(format!(
                "A form has at most {MAX_FIELDS} fields."
            )));
        }
        insert(&mut map, &key, value.into_owned())?;
    }
    Ok(map)
}

fn insert(map: &mut Map<String, Value>, key: &str, value: String) -> Result<(), Problem> {
    let mut parts = split_dotted(key);
    if parts.len() > MAX_DEPTH {
        return Err(Problem::invalid("A field's name has too many dots."));
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
        // `parameters=` beside `parameters.k=v` says nothing.
        Some(Value::Object(_)) => {}
        Some(first) => *first = Value::Array(vec![first.take(), Value::String(value)]),
    }
    Ok(())
}

/// Splits at dots that no backslash escapes.
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

    fn input(query: &str, content_type: &str, body: &str) -> Result<Input, Problem> {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        Input::read(&uri, content_type, Bytes::copy_from_slice(body.as_bytes()))
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn json_is_json_whatever_the_content_type_says() {
        for content_type in ["", FORM, "application/json", "text/plain"] {
            let input = input("", content_type, r#" {"Name": "x"}"#).unwrap();
            assert_eq!(
                input.text("name").unwrap().as_deref(),
                Some("x"),
                "{content_type}"
            );
        }
        assert!(input("", "", "{nonsense").is_err());
        assert!(input("", "application/json", "3").is_err());
    }

    #[test]
    fn forms_nest_repeat_and_escape() {
        let input = input(
            "env=Q",
            FORM,
            "Envs.1.Name=B&Envs.0.Name=A&Envs.0.Value=&tag=x&tag=y&parameters=&parameters.a%5C.b=1&NoRestart=",
        )
        .unwrap();
        let envs = input.objects("envs").unwrap();
        assert_eq!(envs[0].text("name").unwrap().as_deref(), Some("A"));
        assert_eq!(envs[0].text("value").unwrap(), None);
        assert_eq!(envs[1].text("Name").unwrap().as_deref(), Some("B"));
        assert_eq!(input.texts("tag").unwrap(), ["x", "y"]);
        assert_eq!(input.map("parameters").unwrap()["a.b"], "1");
        assert!(!input.flag("norestart").unwrap());
        assert_eq!(input.texts("env").unwrap(), ["Q"]);
    }

    #[test]
    fn wrong_types_are_named() {
        let input = input(
            "",
            "",
            r#"{"name": 3, "n": "x", "f": "maybe", "l": [1], "m": {"a": 1}}"#,
        )
        .unwrap();
        for problem in [
            input.text("name").unwrap_err(),
            input.number("n").unwrap_err(),
            input.flag("f").unwrap_err(),
            input.texts("l").unwrap_err(),
            input.map("m").unwrap_err(),
            input.required("gone").unwrap_err(),
        ] {
            assert_eq!(problem.kind(), crate::kernel::problem::Kind::Invalid, "{problem}");
        }
    }

    #[test]
    fn a_bare_query_and_an_empty_body_are_no_fields() {
        let input = input("", FORM, "").unwrap();
        assert!(input.is_empty() && !input.has("name"));
    }

    #[test]
    fn array_bodies_are_lists() {
        let input = input("", "", r#"["A","B"]"#).unwrap();
        assert_eq!(input.body_list().unwrap().unwrap(), ["A", "B"]);
    }
}
