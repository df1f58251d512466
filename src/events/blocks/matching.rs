//! Whether the conditions of a block hold for the request of an event.

use std::collections::BTreeMap;

use serde_json::Value;

/// True if each condition is a value of its name in the request. A list has several values; numbers and
/// booleans are compared as strings, since conditions are strings. Names are case-insensitive, as in
/// requests.
pub(super) fn conditions_hold(conditions: &BTreeMap<String, String>, request: &Value) -> bool {
    conditions.iter().all(|(name, value)| {
        let Value::Object(fields) = request else {
            return false;
        };
        fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .any(|(_, field)| has_value(field, value))
    })
}

fn has_value(field: &Value, value: &str) -> bool {
    match field {
        Value::String(text) => text == value,
        Value::Number(number) => number.to_string() == value,
        Value::Bool(yes) => yes.to_string() == value,
        Value::Array(items) => items
            .iter()
            .any(|item| !item.is_array() && has_value(item, value)),
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_hold_if_every_one_is_a_value_of_the_request() {
        let request =
            json!({ "pool": "local", "teamOwner": "web", "units": 3, "private": true, "tags": ["a", "b"] });
        let holds = |conditions: &[(&str, &str)]| {
            let conditions = conditions
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            conditions_hold(&conditions, &request)
        };
        assert!(holds(&[]));
        assert!(holds(&[("pool", "local"), ("teamowner", "web")]));
        assert!(holds(&[("units", "3"), ("private", "true"), ("tags", "b")]));
        assert!(!holds(&[("pool", "local"), ("teamowner", "other")]));
        assert!(!holds(&[("plan", "")]));
        assert!(!holds(&[("tags", "c")]));
        assert!(!conditions_hold(
            &BTreeMap::from([(String::new(), String::new())]),
            &json!(null)
        ));
    }
}
