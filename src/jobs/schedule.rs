//! What is due by the schedule of a job.

use chrono::{DateTime, TimeDelta, Utc};

use crate::jobs::model::MissedRunPolicy;
use crate::kernel::schedule::CronSchedule;

/// A run that starts no later than this is not late.
const ON_TIME: TimeDelta = TimeDelta::seconds(30);
/// Missed runs that get a row of their own at once.
const MAX_MISSED_ROWS: usize = 100;
/// Late runs that start at once, if all are to start.
const MAX_CATCH_UP: usize = 10;
/// Instants that can be due within the longest starting deadline.
const MAX_RECENT: usize = 24 * 60 + 1;

/// What becomes of an instant that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DuePlan {
    Run,
    Missed(String),
}

/// The instants that are due, in their order.
pub(super) type DueInstants = Vec<(DateTime<Utc>, DuePlan)>;

/// How late runs are handled.
#[derive(Clone, Copy, Debug)]
pub(super) struct LatePolicy {
    pub(super) missed_runs: MissedRunPolicy,
    pub(super) starting_deadline: TimeDelta,
}

/// Returns what becomes of each instant from `next` up to `now`, and the first instant after that. More than a hundred
/// missed instants are told by one row.
pub(super) fn plan_due(
    schedule: &CronSchedule,
    next: DateTime<Utc>,
    now: DateTime<Utc>,
    policy: LatePolicy,
) -> (DueInstants, Option<DateTime<Utc>>) {
    let from = |first: Option<DateTime<Utc>>| std::iter::successors(first, |at| schedule.next_after(*at));
    let cutoff = now - policy.starting_deadline;
    let mut plans: DueInstants = from(Some(next))
        .take_while(|at| *at < cutoff)
        .take(MAX_MISSED_ROWS)
        .map(|at| {
            let late =
                "it could not be started within its starting deadline, because Tancho did not run then";
            (at, DuePlan::Missed(late.to_owned()))
        })
        .collect();
    if plans.len() == MAX_MISSED_ROWS
        && let Some((_, DuePlan::Missed(why))) = plans.last_mut()
    {
        why.push_str(&format!("; so were all later ones before {cutoff}"));
    }
    let first = match next >= cutoff {
        true => Some(next),
        false => schedule.next_after(cutoff - TimeDelta::seconds(1)),
    };
    let recent: Vec<DateTime<Utc>> = from(first).take_while(|at| *at <= now).take(MAX_RECENT).collect();
    let newest = recent.last().copied();
    let skipped = recent.len().saturating_sub(MAX_CATCH_UP);
    for (index, at) in recent.into_iter().enumerate() {
        let is_newest = Some(at) == newest;
        let plan = match policy.missed_runs {
            _ if is_newest && now - at <= ON_TIME => DuePlan::Run,
            MissedRunPolicy::Skip => DuePlan::Missed("it was late, and late runs are skipped".into()),
            MissedRunPolicy::Once if is_newest => DuePlan::Run,
            MissedRunPolicy::Once => DuePlan::Missed("a later run makes up for it".into()),
            MissedRunPolicy::All if index >= skipped => DuePlan::Run,
            MissedRunPolicy::All => DuePlan::Missed(format!(
                "it was late, and at most {MAX_CATCH_UP} late runs are made up for"
            )),
        };
        plans.push((at, plan));
    }
    (plans, schedule.next_after(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn plan(missed_runs: MissedRunPolicy, next: &str, now: &str) -> Vec<(String, bool)> {
        let schedule = CronSchedule::parse("* * * * *", None).unwrap();
        let policy = LatePolicy {
            missed_runs,
            starting_deadline: TimeDelta::seconds(300),
        };
        let (plans, after) = plan_due(&schedule, utc(next), utc(now), policy);
        assert!(after.unwrap() > utc(now) && after.unwrap() - utc(now) <= TimeDelta::minutes(1));
        let show =
            |(at, plan): (DateTime<Utc>, DuePlan)| (at.format("%H:%M").to_string(), plan == DuePlan::Run);
        plans.into_iter().map(show).collect()
    }

    #[test]
    fn late_runs_are_started_as_often_as_the_policy_says() {
        use MissedRunPolicy::{All, Once, Skip};
        let (next, now) = ("2026-03-10T08:00:00Z", "2026-03-10T08:02:50Z");
        let runs = |list: [(&str, bool); 3]| list.map(|(at, run)| (at.to_owned(), run)).to_vec();
        assert_eq!(
            plan(Skip, next, now),
            runs([("08:00", false), ("08:01", false), ("08:02", false)])
        );
        assert_eq!(
            plan(Once, next, now),
            runs([("08:00", false), ("08:01", false), ("08:02", true)])
        );
        assert_eq!(
            plan(All, next, now),
            runs([("08:00", true), ("08:01", true), ("08:02", true)])
        );
        for policy in [Skip, Once, All] {
            assert_eq!(
                plan(policy, next, "2026-03-10T08:00:01Z"),
                [("08:00".to_owned(), true)]
            );
            assert_eq!(plan(policy, next, "2026-03-10T07:59:59Z"), []);
        }
    }

    #[test]
    fn instants_of_a_long_absence_are_missed_and_counted_in_bounded_rows() {
        let plans = plan(
            MissedRunPolicy::Once,
            "2026-01-01T00:00:00Z",
            "2026-03-10T08:00:00Z",
        );
        assert_eq!(plans.len(), MAX_MISSED_ROWS + 6);
        assert_eq!(plans.iter().filter(|(_, run)| *run).count(), 1);
        assert_eq!(plans.last().unwrap(), &("08:00".to_owned(), true));
        let plans = plan(
            MissedRunPolicy::All,
            "2026-03-10T06:00:00Z",
            "2026-03-10T08:00:00Z",
        );
        assert_eq!(plans.len(), MAX_MISSED_ROWS + 6);
        assert_eq!(plans.iter().filter(|(_, run)| *run).count(), 6);
    }
}
