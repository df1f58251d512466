//! Where a saga is struck, and what came of it.

use serde_json::Value;

use crate::drill::{Scenario, place};

/// What can happen to a step while Tancho goes on.
pub(super) const FAULTS: [&str; 4] = ["twice", "fail", "late-fail", "undo-twice"];
/// Where it can be killed.
pub(super) const KILLS: [&str; 6] = [
    "before",
    "inside-2",
    "inside-8",
    "after",
    "undo-before",
    "undo-after",
];

/// One place to strike; see `src/sagas/drill.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) step: String,
    pub(super) what: &'static str,
}

impl Point {
    pub(super) fn new(step: &str, what: &'static str) -> Self {
        Self {
            step: step.to_owned(),
            what,
        }
    }

    /// The name of its file.
    pub(super) fn file(&self, kind: &str) -> String {
        format!("{kind}@{}@{}", self.step, self.what)
    }

    /// Whether what is struck is the undo of the step.
    pub(super) fn is_undo(&self) -> bool {
        self.what.starts_with("undo-")
    }

    /// Whether the saga is to go on from here, done.
    fn ends_done(&self, scenario: &impl Scenario) -> bool {
        match self.what {
            "fail" => scenario.goes_on(&self.step, false),
            "late-fail" => scenario.goes_on(&self.step, true),
            _ => !self.is_undo(),
        }
    }

    /// The number of its step.
    pub(super) fn place(&self, steps: &[String]) -> usize {
        place(steps, &self.step)
    }

    /// Whether the step `at` was done, for all that this point has done to it.
    pub(super) fn is_past(&self, steps: &[String], at: &str) -> bool {
        self.place(steps) > place(steps, at) || (self.step == at && self.what != "fail")
    }
}

/// A point that a saga has taken, once that has ended.
#[derive(Debug)]
pub(super) struct Struck {
    pub(super) point: Point,
    /// The event that has ended with it; null if it had none.
    pub(super) event: Value,
    /// The number of what it was about.
    pub(super) number: usize,
    /// Whether it was to end done, not undone.
    pub(super) done: bool,
}

impl Struck {
    /// From the name of its file, `<kind>@<step>@<what>@<saga>`.
    pub(super) fn read(file: &str, event: Value, scenario: &impl Scenario) -> Self {
        let words: Vec<&str> = file.split('@').collect();
        let what = FAULTS.iter().chain(&KILLS).find(|what| **what == words[2]);
        let point = Point::new(words[1], what.unwrap());
        let target = event["Target"]["Value"].as_str().unwrap_or("0");
        let name = target.trim_end_matches(|c: char| c.is_ascii_digit());
        Self {
            number: target[name.len()..].parse().unwrap(),
            done: point.ends_done(scenario),
            event,
            point,
        }
    }

    /// Says so if the event tells another end than there should have been.
    pub(super) fn ended_otherwise(&self) -> Option<String> {
        let error = self.event["Error"].as_str()?;
        let right = match self.done {
            true => error.is_empty(),
            false => error.contains("failed by the drill"),
        };
        (!right).then(|| format!("the event ended with {error:?}, done: {}", self.done))
    }
}
