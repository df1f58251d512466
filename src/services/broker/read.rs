//! What services answer, read with patience and within bounds (contract/classic 2.3, 2.5).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kernel::names::EnvName;
use crate::kernel::secret::Secret;

/// Bytes of a service's own text that a user gets to read.
const MAX_SAID: usize = 2048;
/// Variables of one bind, at most.
const MAX_VARIABLES: usize = 1000;

/// The variables of a bind.
pub type Variables = BTreeMap<EnvName, Secret>;

/// A plan of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    pub name: String,
    pub description: String,
}

/// The variables in the answer to a bind: an object, `null` or nothing. Errors: what is wrong with it,
/// without a value in it.
pub(super) fn variables(body: &[u8]) -> Result<Variables, String> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(Variables::new());
    }
    let map = match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => map,
        Ok(Value::Null) => return Ok(Variables::new()),
        _ => return Err("answered something that is no JSON object of variables".into()),
    };
    if map.len() > MAX_VARIABLES {
        return Err(format!("answered more than {MAX_VARIABLES} variables"));
    }
    map.into_iter()
        .map(|(name, value)| {
            let shown: String = name.chars().take(64).collect();
            let value =
                scalar(value).ok_or_else(|| format!("answered no text for the variable {shown:?}"))?;
            if value.contains('\0') {
                return Err(format!("answered a zero character in the variable {shown:?}"));
            }
            let name = EnvName::parse(&name)
                .map_err(|_| format!("answered a variable with an impossible name, {shown:?}"))?;
            Ok((name, Secret::new(value)))
        })
        .collect()
}

/// Texts, numbers and booleans as text; null as the empty one.
fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// What a service tells about an instance: a list of labels and values. Anything else tells nothing.
pub(super) fn labels(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let list: Vec<Value> = match serde_json::from_slice(body.trim_ascii()).ok()? {
        Value::Array(list) => list,
        Value::Null => return Some(BTreeMap::new()),
        _ => return None,
    };
    let item = |item: Value| {
        let label = member(&item, "label")?;
        Some((clean(&label), clean(&member(&item, "value").unwrap_or_default())))
    };
    Some(list.into_iter().take(1000).filter_map(item).collect())
}

/// The plans of a service; members of other shapes are left out.
pub(super) fn plans(body: &[u8]) -> Vec<ServicePlan> {
    let Ok(Value::Array(list)) = serde_json::from_slice(body.trim_ascii()) else {
        return Vec::new();
    };
    let plan = |item: Value| {
        Some(ServicePlan {
            name: clean(&member(&item, "name").filter(|name| !name.is_empty())?),
            description: clean(&member(&item, "description").unwrap_or_default()),
        })
    };
    list.into_iter().take(1000).filter_map(plan).collect()
}

/// A member of an object by its name in any case.
fn member(item: &Value, name: &str) -> Option<String> {
    let (_, value) = item
        .as_object()?
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    scalar(value.clone())
}

/// A service's own text, fit to be shown: bounded, without control characters, pages and stack traces
/// reduced to what a person can use, and without the secrets that we had sent.
pub(super) fn said(body: &[u8], secrets: &[Secret]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(16 * MAX_SAID)]);
    let mut text = text.trim();
    if text.starts_with('<') {
        text = title(text).unwrap_or("");
    }
    if let Some(at) = text.find("Traceback (most recent call last)") {
        text = text[..at].trim();
    }
    let mut text = clean(text);
    for secret in secrets.iter().filter(|secret| secret.expose().len() >= 4) {
        text = text.replace(secret.expose(), "***");
    }
    if text.len() > MAX_SAID {
        let mut cut = MAX_SAID;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// The title of an HTML page.
fn title(page: &str) -> Option<&str> {
    let start = page.find("<title>")? + "<title>".len();
    let end = page[start..].find("</title>")? + start;
    Some(page[start..end].trim())
}

fn clean(text: &str) -> String {
    let keep = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_scalars_of_an_object_or_none_at_all() {
        let read = variables(br#"{"A":"x","PORT":3306,"ON":true,"N":null}"#).unwrap();
        let shown: Vec<(&str, &str)> = read.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
        assert_eq!(shown, [("A", "x"), ("N", ""), ("ON", "true"), ("PORT", "3306")]);
        for none in ["", " \n", "null", "{}"] {
            assert!(variables(none.as_bytes()).unwrap().is_empty(), "{none:?}");
        }
        for bad in [
            "[]",
            "3",
            "oops",
            r#"{"A":{"b":"secret-x"}}"#,
            r#"{"A=B":"secret-x"}"#,
            r#"{"A":"secret-x\u0000"}"#,
            r#"{"":"secret-x"}"#,
        ] {
            let why = variables(bad.as_bytes()).unwrap_err();
            assert!(!why.contains("secret-x"), "{why}");
        }
    }

    #[test]
    fn labels_and_plans_are_taken_as_far_as_they_go() {
        let read = labels(br#"[{"label":"Size","value":3},{"value":"x"},7]"#).unwrap();
        assert_eq!(read, BTreeMap::from([("Size".into(), "3".into())]));
        assert_eq!(labels(b"{}"), None);
        let read = plans(br#"[{"Name":"small","description":"d"},{"name":""},"x"]"#);
        assert_eq!(read.len(), 1);
        assert_eq!(
            (read[0].name.as_str(), read[0].description.as_str()),
            ("small", "d")
        );
        assert!(plans(b"<html>").is_empty());
    }

    #[test]
    fn what_a_service_says_is_made_fit_to_be_shown() {
        let none: [Secret; 0] = [];
        let sent = [Secret::new("hunter22"), Secret::new("YWRtaW46aHVudGVyMjI=")];
        assert_eq!(said(b"no \x1b[31mspace\x07 left\n", &none), "no  [31mspace  left");
        assert_eq!(
            said(b"bad login admin:hunter22, Basic YWRtaW46aHVudGVyMjI=", &sent),
            "bad login admin:***, Basic ***"
        );
        assert_eq!(
            said(
                b"<!doctype html><title>500 Internal Server Error</title><p>x",
                &none
            ),
            "500 Internal Server Error"
        );
        assert_eq!(
            said(b"oops\nTraceback (most recent call last):\n  File", &none),
            "oops"
        );
        assert!(said("é".repeat(5000).as_bytes(), &none).len() < MAX_SAID + 8);
        assert_eq!(said(b"\xff\xfe", &none), "\u{fffd}\u{fffd}");
    }
}
