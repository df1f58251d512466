//! Metadata of an app and of its processes: labels and annotations, which users set for their own tools.
//! Tancho only stores and shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apps::processes::ProcessChange;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// Maximum number of labels, or of annotations, of one app or process.
const MAX_ITEMS: usize = 100;
/// Maximum length of the prefix of a name, a domain.
const MAX_PREFIX: usize = 253;
/// Maximum length of a name without its prefix, and of the value of a label.
const MAX_LABEL: usize = 63;
/// Maximum length of the value of an annotation, in bytes.
const MAX_ANNOTATION: usize = 4096;
/// The prefix of names that provisioners give.
const RESERVED_PREFIX: &str = "tsuru.io/";

/// Labels and annotations, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub labels: Vec<MetadataItem>,
    pub annotations: Vec<MetadataItem>,
}

/// A label or an annotation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MetadataItem {
    pub name: String,
    pub value: String,
}

/// All metadata of an app, as stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct AppMetadata {
    #[serde(flatten)]
    pub app: Metadata,
    pub processes: BTreeMap<String, Metadata>,
}

/// A change of the metadata of an app and of its processes.
#[derive(Clone, Debug, Default)]
pub(super) struct MetadataChange {
    app: MetadataPatch,
    /// By process.
    processes: BTreeMap<String, MetadataPatch>,
}

/// Items to set and to remove; all others stay.
#[derive(Clone, Debug, Default)]
pub struct MetadataPatch {
    pub labels: Vec<MetadataItemPatch>,
    pub annotations: Vec<MetadataItemPatch>,
}

/// One item to set or, without a value, to remove.
#[derive(Clone, Debug)]
pub struct MetadataItemPatch {
    pub name: String,
    pub value: Option<String>,
}

impl MetadataPatch {
    /// Creates a change from names with values; without one, the item is removed.
    pub fn from_items(
        labels: Vec<(String, Option<String>)>,
        annotations: Vec<(String, Option<String>)>,
    ) -> Self {
        let patches = |items: Vec<(String, Option<String>)>| {
            let patch = |(name, value)| MetadataItemPatch { name, value };
            items.into_iter().map(patch).collect()
        };
        Self {
            labels: patches(labels),
            annotations: patches(annotations),
        }
    }

    /// Returns true if it changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

impl MetadataChange {
    /// Collects the changes of an app and of its processes.
    pub(super) fn new(app: &MetadataPatch, processes: &[ProcessChange]) -> Self {
        let patch = |change: &ProcessChange| (change.name.to_string(), change.metadata.clone());
        Self {
            app: app.clone(),
            processes: processes.iter().map(patch).collect(),
        }
    }

    /// Returns true if it changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.app.is_empty() && self.processes.values().all(MetadataPatch::is_empty)
    }
}

impl AppMetadata {
    /// Parses the stored value.
    pub(super) fn from_stored(stored: Value) -> Result<Self, Error> {
        serde_json::from_value(stored).map_err(Error::internal)
    }

    /// Applies a change. Errors: `Invalid` for an invalid name or value, and for too many items.
    pub(super) fn apply_change(&mut self, change: MetadataChange) -> Result<(), Error> {
        self.app.apply_patch(change.app)?;
        for (process, patch) in change.processes {
            self.processes.entry(process).or_default().apply_patch(patch)?;
        }
        self.processes
            .retain(|_, metadata| *metadata != Metadata::default());
        Ok(())
    }
}

impl Metadata {
    fn apply_patch(&mut self, patch: MetadataPatch) -> Result<(), Error> {
        apply_items(&mut self.labels, patch.labels, "labels", check_label)?;
        apply_items(
            &mut self.annotations,
            patch.annotations,
            "annotations",
            check_annotation,
        )
    }
}

fn apply_items(
    items: &mut Vec<MetadataItem>,
    patches: Vec<MetadataItemPatch>,
    what: &str,
    check_value: fn(&str, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    for patch in patches {
        items.retain(|item| item.name != patch.name);
        // What is removed may have a name from before the present rules.
        if let Some(value) = patch.value {
            check_name(&patch.name)?;
            check_value(&patch.name, &value)?;
            items.push(MetadataItem {
                name: patch.name,
                value,
            });
        }
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    match items.len() > MAX_ITEMS {
        true => Err(Error::invalid(format!(
            "An app or a process has at most {MAX_ITEMS} {what}: remove some."
        ))),
        false => Ok(()),
    }
}

/// Checks a name: like `tier` or `example.com/tier`, as every provisioner takes it.
fn check_name(name: &str) -> Result<(), Error> {
    if name.to_ascii_lowercase().starts_with(RESERVED_PREFIX) {
        return Err(Error::invalid(format!(
            "Metadata names that begin with {RESERVED_PREFIX} are reserved for the platform: use another prefix."
        )));
    }
    let (prefix, own) = name
        .split_once('/')
        .map_or((None, name), |(prefix, own)| (Some(prefix), own));
    let is_domain = |prefix: &str| {
        prefix.len() <= MAX_PREFIX
            && prefix
                .split('.')
                .all(|part| is_word(part) && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
    };
    match is_word(own) && prefix.is_none_or(is_domain) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{} is not a valid metadata name: use 1 to {MAX_LABEL} letters, digits and - _ . between letters or digits, with a domain and a slash before it if you like.",
            quote_excerpt(name)
        ))),
    }
}

/// Returns true for at most 63 letters, digits and `-_.` that begin and end with a letter or a digit.
fn is_word(text: &str) -> bool {
    let is_outer = |c: char| c.is_ascii_alphanumeric();
    let is_inner = |c: char| is_outer(c) || "-_.".contains(c);
    (1..=MAX_LABEL).contains(&text.len())
        && text.chars().all(is_inner)
        && text.starts_with(is_outer)
        && text.ends_with(is_outer)
}

fn check_label(name: &str, value: &str) -> Result<(), Error> {
    match value.is_empty() || is_word(value) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "The value of the label {} is not valid: use at most {MAX_LABEL} letters, digits and - _ . between letters or digits.",
            quote_excerpt(name)
        ))),
    }
}

fn check_annotation(name: &str, value: &str) -> Result<(), Error> {
    match value.len() > MAX_ANNOTATION {
        true => Err(Error::invalid(format!(
            "The value of {} is longer than {MAX_ANNOTATION} bytes: shorten it.",
            quote_excerpt(name)
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(items: &[(&str, Option<&str>)]) -> MetadataPatch {
        let patch = |(name, value): &(&str, Option<&str>)| MetadataItemPatch {
            name: (*name).to_owned(),
            value: value.map(str::to_owned),
        };
        MetadataPatch {
            labels: items.iter().map(patch).collect(),
            annotations: Vec::new(),
        }
    }

    fn change(app: MetadataPatch, web: MetadataPatch) -> MetadataChange {
        MetadataChange {
            app,
            processes: BTreeMap::from([("web".to_owned(), web)]),
        }
    }

    #[test]
    fn items_are_set_replaced_and_removed_and_others_stay() {
        let mut metadata = AppMetadata::from_stored(serde_json::json!({})).unwrap();
        let first = change(
            labels(&[("a", Some("1")), ("b", Some("2"))]),
            labels(&[("c", Some("3"))]),
        );
        metadata.apply_change(first).unwrap();
        let second = change(
            labels(&[("a", Some("4")), ("b", None), ("none", None)]),
            labels(&[]),
        );
        metadata.apply_change(second).unwrap();
        let stored = serde_json::to_value(&metadata).unwrap();
        let expected = serde_json::json!({
            "labels": [{ "name": "a", "value": "4" }], "annotations": [],
            "processes": { "web": { "labels": [{ "name": "c", "value": "3" }], "annotations": [] } },
        });
        assert_eq!(stored, expected);
        assert_eq!(AppMetadata::from_stored(stored).unwrap(), metadata);
    }

    #[test]
    fn invalid_metadata_is_refused() {
        let none = || labels(&[]);
        let (long, longer) = ("x".repeat(MAX_LABEL), "x".repeat(MAX_LABEL + 1));
        let many: Vec<String> = (0..=MAX_ITEMS).map(|n| format!("n{n}")).collect();
        let many: Vec<(&str, Option<&str>)> = many.iter().map(|name| (name.as_str(), Some("x"))).collect();
        let is_ok = |change| AppMetadata::default().apply_change(change).is_ok();
        for name in ["a", "A-b_c.d", "example.com/tier", "x/y", &long] {
            assert!(is_ok(change(labels(&[(name, Some("x"))]), none())), "{name}");
        }
        for name in [
            "",
            "a b",
            "-a",
            "a-",
            "/a",
            "a/",
            "a/b/c",
            "a_b/c",
            "é",
            "tsuru.io/a",
            "Tsuru.io/a",
            &longer,
        ] {
            assert!(!is_ok(change(labels(&[(name, Some("x"))]), none())), "{name}");
            // What is there may go.
            assert!(is_ok(change(labels(&[(name, None)]), none())), "{name}");
        }
        for (value, expected) in [
            ("", true),
            (long.as_str(), true),
            (&longer, false),
            ("a b", false),
            ("x.", false),
        ] {
            assert_eq!(
                is_ok(change(labels(&[("a", Some(value))]), none())),
                expected,
                "{value}"
            );
        }
        assert!(!is_ok(change(labels(&many), none())) && !is_ok(change(none(), labels(&many))));
        let annotation = |value: String| MetadataPatch {
            annotations: vec![MetadataItemPatch {
                name: "note".to_owned(),
                value: Some(value),
            }],
            ..MetadataPatch::default()
        };
        assert!(is_ok(change(annotation("any text, é".to_owned()), none())));
        assert!(!is_ok(change(annotation("x".repeat(MAX_ANNOTATION + 1)), none())));
    }
}
