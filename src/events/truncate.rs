//! Truncates the request data that an event keeps, so that a long request makes no large event, which cannot
//! be deleted for a month. Of a longer value the number of its items and the first items are kept.

use serde_json::{Map, Value, json};

/// Maximum size of the request data of one event, in bytes of JSON.
pub(super) const MAX_BYTES: usize = 16 * 1024;
/// An event with more data is large. One owner may create only `LARGE_PER_MINUTE` of these per minute; the
/// data of further ones is truncated to this size.
pub(super) const LARGE_BYTES: usize = 2 * 1024;
/// See `LARGE_BYTES`.
pub(super) const LARGE_PER_MINUTE: i64 = 60;

/// How many items of a list or object, and how many characters of a string are kept, from the most to the
/// least.
const TRUNCATION_LEVELS: [(usize, usize); 4] = [(100, 2000), (20, 200), (5, 80), (0, 40)];

/// Returns the value, truncated to at most `bytes` of JSON.
pub(super) fn truncate_json(value: &Value, bytes: usize) -> Value {
    for (parts, chars) in TRUNCATION_LEVELS {
        let cut = truncate_value(value, parts, chars);
        if json_size(&cut) <= bytes {
            return cut;
        }
    }
    json!({ "bytes": json_size(value) })
}

/// Returns the size of the value as JSON, in bytes.
pub(super) fn json_size(value: &Value) -> usize {
    value.to_string().len()
}

fn truncate_value(value: &Value, parts: usize, chars: usize) -> Value {
    match value {
        Value::String(text) => Value::String(truncate_text(text, chars)),
        Value::Array(items) => {
            let first: Vec<Value> = items
                .iter()
                .take(parts)
                .map(|item| truncate_value(item, parts, chars))
                .collect();
            match items.len() > parts {
                true => json!({ "count": items.len(), "first": first }),
                false => Value::Array(first),
            }
        }
        Value::Object(fields) => {
            // At least 10 fields of an object are kept, so that the fields of the request itself stay.
            let most = parts.max(10);
            let first: Map<String, Value> = fields
                .iter()
                .take(most)
                .map(|(name, field)| {
                    (
                        truncate_text(name, chars.max(80)),
                        truncate_value(field, parts, chars),
                    )
                })
                .collect();
            match fields.len() > most {
                true => json!({ "count": fields.len(), "first": first }),
                false => Value::Object(first),
            }
        }
        other => other.clone(),
    }
}

/// Returns the first characters of a string, with an ellipsis if it was cut.
pub(super) fn truncate_text(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_value_is_kept_unchanged() {
        let value = json!({ "names": ["a", "b"], "text": "é", "n": 1, "no": null });
        assert_eq!(truncate_json(&value, MAX_BYTES), value);
    }

    #[test]
    fn long_list_keeps_count_and_first_items() {
        let names: Vec<String> = (0..5000).map(|n| format!("NAME_{n}")).collect();
        let kept = truncate_json(&json!({ "envs": names }), MAX_BYTES);
        assert_eq!(kept["envs"]["count"], 5000);
        assert_eq!(kept["envs"]["first"].as_array().unwrap().len(), 100);
        assert_eq!(kept["envs"]["first"][0], "NAME_0");
    }

    #[test]
    fn any_value_fits_the_byte_limit() {
        let long = "é".repeat(100_000);
        let wide: Map<String, Value> = (0..3000)
            .map(|n| (format!("k{n}"), json!("é".repeat(100))))
            .collect();
        let deep = (0..100).fold(json!([long]), |inner, _| json!([inner]));
        for value in [
            json!(long),
            json!(vec![long.as_str(); 50]),
            Value::Object(wide),
            deep,
        ] {
            for bytes in [MAX_BYTES, LARGE_BYTES, 64] {
                assert!(json_size(&truncate_json(&value, bytes)) <= bytes);
            }
        }
    }
}
