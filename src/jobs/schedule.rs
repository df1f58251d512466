//! Schedules: five fields of cron in a time zone, and what is due by them.
//!
//! Around a change of the clock: a job at fixed times runs once, at the first occurrence of its time, and just after the
//! gap if its time does not occur; a list has several fixed times. A job at an interval (`*`, a range or a step in the
//! minutes or hours) keeps its beat: it runs whenever the clock shows a time of it, and not in the gap.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::jobs::model::MissedRunPolicy;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

const FIELDS: [&str; 5] = ["minute", "hour", "day of the month", "month", "day of the week"];
/// A prefix names the zone, as several programs take it.
const ZONE_PREFIXES: [&str; 2] = ["CRON_TZ=", "TZ="];
/// Fixed times of a day that are told apart.
const MAX_FIXED_TIMES: usize = 96;
const MAX_SCHEDULE_BYTES: usize = 255;
/// A run that starts no later than this is not late.
const ON_TIME: TimeDelta = TimeDelta::seconds(30);
/// Missed runs that get a row of their own at once.
const MAX_MISSED_ROWS: usize = 100;
/// Late runs that start at once, if all are to start.
const MAX_CATCH_UP: usize = 10;
/// Instants that can be due within the longest starting deadline.
const MAX_RECENT: usize = 24 * 60 + 1;
/// A year with a February 29th is at most this far away.
const SEARCH_LIMIT: TimeDelta = TimeDelta::days(366 * 9);

/// A schedule, as a user has written it.
#[derive(Clone, Debug)]
pub(super) struct JobSchedule {
    text: String,
    /// It runs whenever one of them does.
    crons: Vec<Cron>,
    zone: Tz,
}

impl PartialEq for JobSchedule {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.zone) == (&other.text, other.zone)
    }
}

impl JobSchedule {
    /// Parses five fields, perhaps after the zone (`CRON_TZ=Europe/Berlin 0 2 * * *`); else the zone is the given one,
    /// else UTC. Errors: `Invalid`, naming the field; also for a schedule without any instant.
    pub(super) fn parse(text: &str, zone: Option<&str>) -> Result<Self, Error> {
        if text.len() > MAX_SCHEDULE_BYTES {
            return Err(Error::invalid(format!(
                "A schedule has at most {MAX_SCHEDULE_BYTES} bytes."
            )));
        }
        let (prefix, pattern) = split_zone(text.trim());
        let zone = prefix.or(zone).unwrap_or("UTC");
        let zone = Tz::from_str(zone).map_err(|_| {
            Error::invalid(format!(
                "{} is not a known time zone: use a name such as Europe/Berlin, or UTC.",
                quote_excerpt(zone)
            ))
        })?;
        let crons = split_times(pattern, parse_pattern(pattern)?)?;
        let schedule = Self {
            text: text.trim().to_owned(),
            crons,
            zone,
        };
        match schedule.next_after(DateTime::UNIX_EPOCH + TimeDelta::days(10_957)) {
            Some(_) => Ok(schedule),
            None => Err(Error::invalid(format!(
                "The schedule {} never occurs: no year has such a day.",
                quote_excerpt(text)
            ))),
        }
    }

    /// Returns it as the user has written it.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the name of its zone.
    pub(super) fn zone_name(&self) -> &'static str {
        self.zone.name()
    }

    /// Returns the first instant after a time; `None` if there is none for years.
    pub(super) fn next_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = at.with_timezone(&self.zone);
        let found = self
            .crons
            .iter()
            .filter_map(|cron| cron.find_next_occurrence(&local, false).ok());
        let found = found.min()?.with_timezone(&Utc);
        (found - at < SEARCH_LIMIT).then_some(found)
    }

    /// Returns the next instants after a time, in the zone.
    pub(super) fn list_next(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Tz>> {
        let next = std::iter::successors(self.next_after(after), |at| self.next_after(*at));
        next.take(count).map(|at| at.with_timezone(&self.zone)).collect()
    }
}

fn split_zone(text: &str) -> (Option<&str>, &str) {
    for prefix in ZONE_PREFIXES {
        if let Some(rest) = text.strip_prefix(prefix) {
            let (zone, pattern) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            return (Some(zone), pattern.trim());
        }
    }
    (None, text)
}

fn cron_parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
}

/// Splits a list of fixed times (`0,30 1,2 * * *`) into one pattern for each: the library takes only a single time for a
/// fixed one.
fn split_times(pattern: &str, whole: Cron) -> Result<Vec<Cron>, Error> {
    let fields: Vec<&str> = pattern.split_ascii_whitespace().collect();
    let is_list = |field: &&str| field.bytes().all(|b| b.is_ascii_digit() || b == b',');
    let [minutes, hours, rest @ ..] = fields.as_slice() else {
        return Ok(vec![whole]);
    };
    let count = minutes.split(',').count() * hours.split(',').count();
    if ![minutes, hours].into_iter().all(is_list) || !(2..=MAX_FIXED_TIMES).contains(&count) {
        return Ok(vec![whole]);
    }
    let rest = rest.join(" ");
    let times = minutes
        .split(',')
        .flat_map(|minute| hours.split(',').map(move |hour| (minute, hour)));
    times
        .map(|(minute, hour)| {
            let single = cron_parser().parse(&format!("{minute} {hour} {rest}"));
            single.map_err(Error::internal)
        })
        .collect()
}

fn parse_pattern(pattern: &str) -> Result<Cron, Error> {
    let parser = cron_parser();
    let fields: Vec<&str> = pattern.split_ascii_whitespace().collect();
    let is_nickname = fields.len() == 1 && pattern.starts_with('@');
    if !is_nickname && fields.len() != FIELDS.len() {
        return Err(Error::invalid(format!(
            "The schedule {} is invalid: it must have five fields, which are {}.",
            quote_excerpt(pattern),
            FIELDS.join(", ")
        )));
    }
    let Err(whole) = parser.parse(pattern) else {
        return parser.parse(pattern).map_err(Error::internal);
    };
    for (index, field) in fields.iter().enumerate().filter(|_| !is_nickname) {
        let mut alone = ["*"; 5];
        alone[index] = field;
        if parser.parse(&alone.join(" ")).is_err() {
            return Err(Error::invalid(format!(
                "The schedule {} is invalid: {} is not a valid {}.",
                quote_excerpt(pattern),
                quote_excerpt(field),
                FIELDS[index]
            )));
        }
    }
    Err(Error::invalid(format!("The schedule {} is invalid.", quote_excerpt(pattern))).with_source(whole))
}

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
    schedule: &JobSchedule,
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

    #[test]
    fn malformed_schedules_are_refused_with_the_field() {
        for (text, says) in [
            ("at noon", "five fields"),
            ("", "five fields"),
            ("0 0 2 * * *", "five fields"),
            ("60 * * * *", "minute"),
            ("x * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 32 * *", "day of the month"),
            ("* * * 13 *", "month"),
            ("* * * * funday", "day of the week"),
            ("0 0 30 2 *", "never occurs"),
            ("0 0 31 4,6,9,11 *", "never occurs"),
            ("CRON_TZ=Mars/Olympus 0 0 * * *", "time zone"),
            (&"1,".repeat(200), "255 bytes"),
            ("@often", "invalid"),
        ] {
            let error = JobSchedule::parse(text, None).unwrap_err();
            assert!(error.message().contains(says), "{text}: {error}");
        }
        let error = JobSchedule::parse("* * * * *", Some("Berlin")).unwrap_err();
        assert!(error.message().contains("time zone"), "{error}");
    }

    #[test]
    fn schedule_has_the_zone_of_its_prefix_or_the_given_one() {
        for (text, zone, name, next) in [
            ("0 2 * * *", None, "UTC", "2026-03-10T02:00:00Z"),
            (
                "0 2 * * *",
                Some("Europe/Berlin"),
                "Europe/Berlin",
                "2026-03-10T01:00:00Z",
            ),
            (
                "CRON_TZ=America/New_York 0 2 * * *",
                None,
                "America/New_York",
                "2026-03-10T06:00:00Z",
            ),
            (
                "TZ=Asia/Tokyo @daily",
                Some("UTC"),
                "Asia/Tokyo",
                "2026-03-10T15:00:00Z",
            ),
            ("0 0 29 2 *", None, "UTC", "2028-02-29T00:00:00Z"),
        ] {
            let schedule = JobSchedule::parse(text, zone).unwrap();
            assert_eq!(schedule.zone_name(), name);
            assert_eq!(
                schedule.next_after(utc("2026-03-10T00:00:00Z")),
                Some(utc(next)),
                "{text}"
            );
        }
    }

    fn plan(missed_runs: MissedRunPolicy, next: &str, now: &str) -> Vec<(String, bool)> {
        let schedule = JobSchedule::parse("* * * * *", None).unwrap();
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

    /// The table of `tests/schedules/clock_changes.jsonl`.
    #[derive(serde::Deserialize)]
    struct ClockChange {
        zone: String,
        schedule: String,
        after: DateTime<Utc>,
        runs: Vec<String>,
    }

    #[test]
    fn jobs_run_once_and_keep_their_beat_when_clocks_change() {
        let path = format!(
            "{}/tests/schedules/clock_changes.jsonl",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        let rows: Vec<ClockChange> = rows.map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(rows.len() >= 160, "{} rows", rows.len());
        for row in rows {
            let schedule = JobSchedule::parse(&row.schedule, Some(&row.zone)).unwrap();
            let runs = schedule.list_next(row.after, row.runs.len());
            let runs: Vec<String> = runs.iter().map(|at| at.to_rfc3339()).collect();
            assert_eq!(
                runs, row.runs,
                "{} in {} after {}",
                row.schedule, row.zone, row.after
            );
        }
    }
}
