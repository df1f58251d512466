//! What is next for a run that has started: a rule without I/O.

use std::time::Duration;

use crate::jobs::runs::store::ActiveRun;
use crate::provisioners::{UnitReport, UnitState};

/// How long the start of a unit is tried.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Pauses before another attempt: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(360);

/// How an attempt has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AttemptEnd {
    /// `None`: it did not end by itself, or never ran.
    pub(super) exit: Option<i32>,
    pub(super) reason: String,
    /// Another attempt may do better.
    pub(super) may_retry: bool,
}

impl AttemptEnd {
    /// It could not be started, and cannot be.
    pub(super) fn refused(reason: String) -> Self {
        Self {
            exit: None,
            reason,
            may_retry: false,
        }
    }

    /// It was stopped.
    pub(super) fn stopped(reason: String) -> Self {
        Self::refused(reason)
    }

    fn failed(exit: Option<i32>, reason: String) -> Self {
        Self {
            exit,
            reason,
            may_retry: true,
        }
    }

    pub(super) fn is_success(&self) -> bool {
        self.exit == Some(0)
    }

    /// Returns the pause before the next attempt; `None`: there is none.
    pub(super) fn retry_pause(&self, run: &ActiveRun) -> Option<Duration> {
        let is_left = self.may_retry && !self.is_success() && run.attempt < run.retries && run.is_live;
        let exponent = u32::try_from(run.attempt).unwrap_or(0).min(10);
        is_left.then(|| (FIRST_PAUSE * 2_u32.pow(exponent)).min(LONGEST_PAUSE))
    }
}

/// The next step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunStep {
    Wait,
    /// Its unit is to be started.
    Launch,
    /// Its unit is to be stopped, for this reason.
    Stop(String),
    End(AttemptEnd),
}

/// Decides from the row of a run, the report of its unit, and why the last start has failed.
pub(super) fn decide_step(run: &ActiveRun, report: Option<&UnitReport>, failure: Option<String>) -> RunStep {
    match (report, run.stop_cause()) {
        (Some(report), _) if report.state == UnitState::Stopped => {
            let reason = match (report.exit, &report.reason) {
                (Some(0), _) => String::new(),
                (_, Some(reason)) => reason.clone(),
                (_, None) => "it has ended with an unknown status".to_owned(),
            };
            RunStep::End(AttemptEnd::failed(report.exit, reason))
        }
        (Some(_), Some(cause)) => RunStep::Stop(cause),
        (Some(_), None) => RunStep::Wait,
        (None, Some(cause)) => RunStep::End(AttemptEnd::stopped(cause)),
        (None, None) if run.launched => RunStep::End(AttemptEnd::failed(
            None,
            "its unit is gone: the host was reset, or its files were removed".into(),
        )),
        (None, None) if run.age > START_LIMIT => {
            let why = failure.unwrap_or_else(|| "its unit did not start in time".into());
            RunStep::End(AttemptEnd::failed(
                None,
                format!("it could not be started: {why}"),
            ))
        }
        (None, None) => RunStep::Launch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::runs::store::tests::sample_run;
    use crate::provisioners::UnitId;

    fn report(state: UnitState, exit: Option<i32>) -> UnitReport {
        UnitReport {
            unit: UnitId::parse("nightly-1").unwrap(),
            state,
            address: None,
            restarts: 0,
            reason: exit.map(|exit| format!("exited with status {exit}")),
            exit,
            started_at: None,
        }
    }

    #[test]
    fn unit_is_launched_once_and_its_end_is_the_end_of_the_run() {
        let mut run = sample_run();
        assert_eq!(decide_step(&run, None, None), RunStep::Launch);
        let running = report(UnitState::Started, None);
        assert_eq!(decide_step(&run, Some(&running), None), RunStep::Wait);
        for (exit, success) in [(Some(0), true), (Some(7), false), (None, false)] {
            let ended = report(UnitState::Stopped, exit);
            let RunStep::End(end) = decide_step(&run, Some(&ended), None) else {
                panic!("the run has ended")
            };
            assert_eq!((end.exit, end.is_success()), (exit, success));
        }
        run.launched = true;
        let RunStep::End(end) = decide_step(&run, None, None) else {
            panic!("a unit that was launched is not launched again")
        };
        assert!(end.reason.contains("gone"), "{end:?}");
    }

    #[test]
    fn run_is_stopped_on_request_over_its_limit_and_with_its_job() {
        let running = report(UnitState::Started, None);
        let mut killed = sample_run();
        killed.stop_reason = Some("stopped by ana".into());
        let mut late = sample_run();
        (late.is_overdue, late.active_deadline) = (true, Some(60));
        let mut removed = sample_run();
        removed.is_live = false;
        for (run, says) in [(killed, "ana"), (late, "60 seconds"), (removed, "removed")] {
            let RunStep::Stop(reason) = decide_step(&run, Some(&running), None) else {
                panic!("{run:?} is to be stopped")
            };
            assert!(reason.contains(says), "{reason}");
            let RunStep::End(end) = decide_step(&run, None, None) else {
                panic!("{run:?} is not to be launched")
            };
            assert!(!end.may_retry);
        }
    }

    #[test]
    fn start_that_fails_for_long_ends_the_run_with_the_reason() {
        let mut run = sample_run();
        run.age = START_LIMIT + Duration::from_secs(1);
        let RunStep::End(end) = decide_step(&run, None, Some("no space".into())) else {
            panic!("the start is given up")
        };
        assert!(end.reason.contains("no space") && end.may_retry);
    }

    #[test]
    fn failed_attempts_are_retried_with_growing_pauses_up_to_the_limit() {
        let mut run = sample_run();
        run.retries = 8;
        let failed = AttemptEnd::failed(Some(1), "exited".into());
        let mut pauses = Vec::new();
        while let Some(pause) = failed.retry_pause(&run) {
            pauses.push(pause.as_secs());
            run.attempt += 1;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 360, 360]);
        run.attempt = 0;
        assert_eq!(AttemptEnd::failed(Some(0), String::new()).retry_pause(&run), None);
        assert_eq!(AttemptEnd::stopped("killed".into()).retry_pause(&run), None);
        run.is_live = false;
        assert_eq!(failed.retry_pause(&run), None);
    }
}
