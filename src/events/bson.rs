//! Encodes JSON as BSON, for clients that decode the data of an event as tsuru's database stores it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// A raw BSON value, as clients decode it.
#[derive(Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawBson {
    /// The bytes, in base64.
    data: Option<String>,
    /// The number of its type; 0 if there is no value.
    kind: u8,
}

/// Encodes a JSON value as BSON.
pub(super) fn encode_raw(value: Option<&Value>) -> RawBson {
    match value {
        None | Some(Value::Null) => RawBson { data: None, kind: 0 },
        Some(value) => {
            let mut bytes = Vec::new();
            let kind = encode_value(value, &mut bytes);
            RawBson {
                data: Some(STANDARD.encode(bytes)),
                kind,
            }
        }
    }
}

/// Appends a value and returns the number of its type.
fn encode_value(value: &Value, out: &mut Vec<u8>) -> u8 {
    match value {
        Value::Null => 0x0a,
        Value::Bool(is) => {
            out.push(u8::from(*is));
            0x08
        }
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => {
                out.extend(whole.to_le_bytes());
                0x12
            }
            (None, float) => {
                out.extend(float.unwrap_or_default().to_le_bytes());
                0x01
            }
        },
        Value::String(text) => {
            out.extend(encode_length(text.len() + 1));
            out.extend(text.as_bytes());
            out.push(0);
            0x02
        }
        Value::Array(items) => {
            let items = items
                .iter()
                .enumerate()
                .map(|(nth, item)| (nth.to_string(), item));
            encode_document(items, out);
            0x04
        }
        Value::Object(fields) => {
            encode_document(fields.iter().map(|(name, field)| (name.clone(), field)), out);
            0x03
        }
    }
}

fn encode_document<'a>(fields: impl Iterator<Item = (String, &'a Value)>, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    for (name, field) in fields {
        let at = body.len();
        body.push(0);
        // A BSON name ends at its first NUL byte.
        body.extend(name.bytes().filter(|byte| *byte != 0));
        body.push(0);
        body[at] = encode_value(field, &mut body);
    }
    out.extend(encode_length(body.len() + 5));
    out.extend(body);
    out.push(0);
}

fn encode_length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn document_encodes_as_in_the_bson_specification() {
        // The example of bsonspec.org, with its integer in 64 bits.
        let value = json!({ "BSON": ["awesome", 5.05, 1986] });
        let mut bytes = Vec::new();
        assert_eq!(encode_value(&value, &mut bytes), 3);
        let expected = b"\x35\x00\x00\x00\x04BSON\x00\x2a\x00\x00\x00\x02\x30\x00\x08\x00\x00\x00awesome\x00\
            \x01\x31\x00\x33\x33\x33\x33\x33\x33\x14\x40\x12\x32\x00\xc2\x07\x00\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn missing_data_encodes_with_kind_zero() {
        assert_eq!(json!(encode_raw(None)), json!({ "Kind": 0, "Data": null }));
    }
}
