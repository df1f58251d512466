//! The manifest of a service's operations.

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::services::operations::pattern::{PathPattern, PatternRelation};

/// The maximum number of operations.
const MAX_OPERATIONS: usize = 500;
/// The maximum length of an action and of a path, in bytes.
const MAX_ACTION_BYTES: usize = 200;
const MAX_PATH_BYTES: usize = 1000;
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// What the owner of a service has declared.
#[derive(Clone, Debug, Default)]
pub(super) struct OperationManifest {
    /// If false, nothing of it counts.
    pub(super) enabled: bool,
    /// Requests that match no operation are refused.
    pub(super) strict_actions: bool,
    /// The permission for all proxied requests suffices for operations as well.
    pub(super) legacy_compat: bool,
    pub(super) operations: Vec<ServiceOperation>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceOperation {
    pub(super) method: String,
    /// A template, see `pattern`.
    pub(super) path: String,
    pub(super) action: String,
}

impl OperationManifest {
    /// Checks the manifest. Errors: `Invalid`, naming the operation.
    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.operations.len() > MAX_OPERATIONS {
            return Err(Error::invalid(format!(
                "A manifest has at most {MAX_OPERATIONS} operations."
            )));
        }
        let mut patterns: Vec<(&ServiceOperation, PathPattern)> = Vec::new();
        for operation in &self.operations {
            let pattern = operation.validate()?;
            for (other, other_pattern) in &patterns {
                if other.action == operation.action {
                    return Err(Error::invalid(format!(
                        "The action {:?} is in the manifest twice.",
                        quote_excerpt(&operation.action)
                    )));
                }
                if other.method == operation.method
                    && pattern.relation(other_pattern) == PatternRelation::Conflicting
                {
                    return Err(Error::invalid(format!(
                        "The actions {:?} and {:?} match the same paths: make one of them more specific.",
                        quote_excerpt(&other.action),
                        quote_excerpt(&operation.action)
                    )));
                }
            }
            patterns.push((operation, pattern));
        }
        Ok(())
    }

    /// Finds the operation of a request, given by its method and the segments of its path. Errors: `Internal` for
    /// a stored template that does not parse.
    pub(super) fn find_operation(
        &self,
        method: &str,
        path: &[String],
    ) -> Result<Option<&ServiceOperation>, Error> {
        let mut best: Option<(&ServiceOperation, PathPattern)> = None;
        for operation in &self.operations {
            // As in the original, GET includes HEAD where that has no operation of its own.
            let exact = operation.method == method;
            let counts = exact || (method == "HEAD" && operation.method == "GET");
            if !counts {
                continue;
            }
            let pattern = PathPattern::parse(&operation.path).map_err(Error::internal)?;
            let is_better = |(known, known_pattern): &(&ServiceOperation, PathPattern)| match exact
                == (known.method == method)
            {
                true => pattern.is_preferred_to(known_pattern),
                false => exact,
            };
            if pattern.matches(path) && best.as_ref().is_none_or(is_better) {
                best = Some((operation, pattern));
            }
        }
        Ok(best.map(|(operation, _)| operation))
    }
}

impl ServiceOperation {
    fn validate(&self) -> Result<PathPattern, Error> {
        let invalid = |why: &str| {
            Error::invalid(format!(
                "The operation {:?} of the manifest is not valid: {why}.",
                quote_excerpt(&self.action)
            ))
        };
        let word = |word: &str| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        if self.action.len() > MAX_ACTION_BYTES || !self.action.split('.').all(word) {
            return Err(invalid(
                "an action is words of lower-case letters, digits and dashes, separated by dots",
            ));
        }
        if !METHODS.contains(&self.method.as_str()) {
            return Err(invalid(&format!("its method is one of {}", METHODS.join(", "))));
        }
        if self.path.len() > MAX_PATH_BYTES {
            return Err(invalid("its path is too long"));
        }
        PathPattern::parse(&self.path).map_err(|why| invalid(&format!("its path cannot be used: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(operations: &[(&str, &str, &str)]) -> OperationManifest {
        let operation = |(method, path, action): &(&str, &str, &str)| ServiceOperation {
            method: (*method).into(),
            path: (*path).into(),
            action: (*action).into(),
        };
        OperationManifest {
            enabled: true,
            operations: operations.iter().map(operation).collect(),
            ..OperationManifest::default()
        }
    }

    #[test]
    fn most_specific_operation_of_the_method_is_found() {
        let manifest = manifest(&[
            ("GET", "/rules/{id}", "rules.view"),
            ("GET", "/rules/new", "rules.draft"),
            ("POST", "/rules/{id}/sync", "rules.sync"),
            ("GET", "/files/", "files"),
            ("HEAD", "/files/{name}", "files.head"),
        ]);
        manifest.validate().unwrap();
        let find = |method: &str, path: &str| {
            let path: Vec<String> = path.split('/').map(str::to_owned).collect();
            let found = manifest.find_operation(method, &path).unwrap();
            found.map(|operation| operation.action.clone())
        };
        for (method, path, action) in [
            ("GET", "rules/1", Some("rules.view")),
            ("GET", "rules/new", Some("rules.draft")),
            ("HEAD", "rules/1", Some("rules.view")),
            ("HEAD", "files/a", Some("files.head")),
            ("HEAD", "files/a/b", Some("files")),
            ("POST", "rules/1", None),
            ("POST", "rules/1/sync", Some("rules.sync")),
            ("DELETE", "rules/1", None),
            ("get", "rules/1", None),
        ] {
            assert_eq!(find(method, path).as_deref(), action, "{method} {path}");
        }
    }

    #[test]
    fn invalid_manifests_are_rejected_with_the_action() {
        for (operations, why) in [
            (&[("GET", "/a", "")][..], "an action is words"),
            (&[("GET", "/a", "A")], "an action is words"),
            (&[("GET", "/a", "a..b")], "an action is words"),
            (&[("GET", "/a", "a/b")], "an action is words"),
            (&[("get", "/a", "a")], "its method is one of"),
            (&[("CONNECT", "/a", "a")], "its method is one of"),
            (&[("GET", "", "a")], "its path cannot be used"),
            (&[("GET", "/{", "a")], "its path cannot be used"),
            (
                &[("GET", "/a", "x"), ("POST", "/b", "x")],
                "is in the manifest twice",
            ),
            (&[("GET", "/a", "x"), ("GET", "/a", "y")], "match the same paths"),
            (
                &[("GET", "/a/{x}", "x"), ("GET", "/{x}/b", "y")],
                "match the same paths",
            ),
        ] {
            let error = manifest(operations).validate().unwrap_err();
            assert!(error.message().contains(why), "{operations:?}: {error}");
        }
        let many: Vec<(&str, &str, &str)> = vec![("GET", "/a", "a"); 501];
        assert!(
            manifest(&many)
                .validate()
                .unwrap_err()
                .message()
                .contains("at most 500")
        );
        manifest(&[("GET", "/a/{x}", "x"), ("POST", "/{x}/b", "y")])
            .validate()
            .unwrap();
    }
}
