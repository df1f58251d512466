//! The steps of a saga and its data, as types. Rows store the name of their current step, so that a later
//! version may insert a step.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The steps of one kind of saga; implemented by `saga_steps!`.
pub trait SagaStep: Copy + Debug + Eq + Send + Sync + 'static {
    /// All steps, in order.
    const ALL: &'static [Self];

    /// Returns the name of the step in rows; never changed.
    fn name(self) -> &'static str;

    /// Returns the step with a name.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|step| step.name() == name)
    }
}

/// Defines the steps of a saga, in order, each with its name in rows.
macro_rules! saga_steps {
    ($(#[$doc:meta])* $vis:vis enum $steps:ident { $($(#[$step_doc:meta])* $step:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $steps { $($(#[$step_doc])* $step,)+ }

        impl $crate::sagas::SagaStep for $steps {
            const ALL: &'static [Self] = &[$(Self::$step,)+];

            fn name(self) -> &'static str {
                match self { $(Self::$step => $name,)+ }
            }
        }
    };
}
pub(crate) use saga_steps;

/// The data that the steps of a saga read and write. It contains no secrets.
pub trait SagaData: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<D: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> SagaData for D {}

/// Decodes the data of a row. Errors: what is wrong with it. A field that the type does not have is an error
/// too: a newer version wrote it, and the next write would lose it.
pub(super) fn decode_data<D: SagaData>(row: &Value) -> Result<D, String> {
    let data = D::deserialize(row).map_err(|error| format!("its data cannot be read: {error}"))?;
    let known =
        serde_json::to_value(&data).map_err(|error| format!("its data cannot be serialized: {error}"))?;
    match find_unknown_field(row, &known) {
        Some(field) => Err(format!(
            "its data has the field {field:?}, which this version does not know"
        )),
        None => Ok(data),
    }
}

fn find_unknown_field(row: &Value, known: &Value) -> Option<String> {
    match (row, known) {
        (Value::Object(row), Value::Object(known)) => row.iter().find_map(|(name, value)| {
            match known.get(name) {
                Some(known) => find_unknown_field(value, known).map(|inner| format!("{name}.{inner}")),
                // An empty field may be left out.
                None => (!value.is_null()).then(|| name.clone()),
            }
        }),
        (Value::Array(row), Value::Array(known)) => row
            .iter()
            .zip(known)
            .find_map(|(row, known)| find_unknown_field(row, known)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    saga_steps! {
        enum TestStep {
            First = "first",
            Second = "second-step",
        }
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct TestData {
        name: String,
        #[serde(default)]
        inner: Vec<InnerData>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left_out: Option<u8>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct InnerData {
        number: u8,
    }

    #[test]
    fn step_names_are_parsed_to_their_steps() {
        assert_eq!(TestStep::parse("second-step"), Some(TestStep::Second));
        assert_eq!(TestStep::ALL.first().map(|step| step.name()), Some("first"));
        assert_eq!(TestStep::parse("third"), None);
    }

    #[test]
    fn data_with_known_fields_is_decoded() {
        let row = json!({ "name": "a", "inner": [{ "number": 1 }], "left_out": null });
        assert_eq!(decode_data::<TestData>(&row).unwrap().inner.len(), 1);
        assert_eq!(
            decode_data::<TestData>(&json!({ "name": "a" })).unwrap().name,
            "a"
        );
    }

    #[test]
    fn data_with_unknown_or_missing_fields_is_refused() {
        for (row, field) in [
            (json!({ "name": "a", "added": 1 }), "\"added\""),
            (
                json!({ "name": "a", "inner": [{ "number": 1, "added": 1 }] }),
                "inner.added",
            ),
            (json!({}), "name"),
        ] {
            let error = decode_data::<TestData>(&row).unwrap_err();
            assert!(error.contains(field), "{row}: {error}");
        }
    }
}
