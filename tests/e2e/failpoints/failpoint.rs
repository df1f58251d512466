//! Fail points of a saga, and their outcomes.

use serde_json::Value;

use crate::failpoints::{Scenario, step_index};

/// The faults of a step while Tancho keeps running.
pub(super) const FAULTS: [&str; 4] = ["twice", "fail", "late-fail", "undo-twice"];
/// The points at which Tancho can be killed.
pub(super) const KILLS: [&str; 6] = [
    "before",
    "inside-2",
    "inside-8",
    "after",
    "undo-before",
    "undo-after",
];

/// One fail point; see `src/sagas/failpoints.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailPointCase {
    pub(super) step: String,
    pub(super) what: &'static str,
}

impl FailPointCase {
    pub(super) fn new(step: &str, what: &'static str) -> Self {
        Self {
            step: step.to_owned(),
            what,
        }
    }

    /// Returns the name of its file.
    pub(super) fn file_name(&self, kind: &str) -> String {
        format!("{kind}@{}@{}", self.step, self.what)
    }

    /// Returns true if the fail point is in the undo of the step.
    pub(super) fn is_undo(&self) -> bool {
        self.what.starts_with("undo-")
    }

    /// Returns true if the saga is expected to complete from here.
    fn should_succeed(&self, scenario: &impl Scenario) -> bool {
        match self.what {
            "fail" => scenario.continues_after_failure(&self.step, false),
            "late-fail" => scenario.continues_after_failure(&self.step, true),
            _ => !self.is_undo(),
        }
    }

    /// Returns the number of its step.
    pub(super) fn step_index(&self, steps: &[String]) -> usize {
        step_index(steps, &self.step)
    }

    /// Returns true if the step `at` was done despite this point.
    pub(super) fn step_was_done(&self, steps: &[String], at: &str) -> bool {
        self.step_index(steps) > step_index(steps, at) || (self.step == at && self.what != "fail")
    }
}

/// A point that a saga has reached, once that has ended.
#[derive(Debug)]
pub(super) struct ReachedPoint {
    pub(super) point: FailPointCase,
    /// The event that ended with it; null if it had none.
    pub(super) event: Value,
    /// The number of its subject.
    pub(super) number: usize,
    /// Whether it was expected to complete, and not to be undone.
    pub(super) done: bool,
}

impl ReachedPoint {
    /// Reads the point from the name of its file, `<kind>@<step>@<what>@<saga>`.
    pub(super) fn read(file: &str, event: Value, scenario: &impl Scenario) -> Self {
        let words: Vec<&str> = file.split('@').collect();
        let what = FAULTS.iter().chain(&KILLS).find(|what| **what == words[2]);
        let point = FailPointCase::new(words[1], what.unwrap());
        let target = event["Target"]["Value"].as_str().unwrap_or("0");
        let name = target.trim_end_matches(|c: char| c.is_ascii_digit());
        Self {
            number: target[name.len()..].parse().unwrap(),
            done: point.should_succeed(scenario),
            event,
            point,
        }
    }

    /// Returns an error if the event has another outcome than expected.
    pub(super) fn check_outcome(&self) -> Option<String> {
        let error = self.event["Error"].as_str()?;
        let right = match self.done {
            true => error.is_empty(),
            false => error.contains("failed by a failpoint"),
        };
        (!right).then(|| format!("the event ended with {error:?}, done: {}", self.done))
    }
}
