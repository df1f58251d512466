//! Schedules: five fields of cron in a time zone.
//!
//! Around a change of the clock: a job at fixed times runs once, at the first occurrence of its time, and just after the
//! gap if its time does not occur; a list has several fixed times. A job at an interval (`*`, a range or a step in the
//! minutes or hours) keeps its beat: it runs whenever the clock shows a time of it, and not in the gap.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

const FIELDS: [&str; 5] = ["minute", "hour", "day of the month", "month", "day of the week"];
/// A prefix names the zone, as several programs take it.
const ZONE_PREFIXES: [&str; 2] = ["CRON_TZ=", "TZ="];
/// Fixed times of a day that are told apart.
const MAX_FIXED_TIMES: usize = 96;
const MAX_SCHEDULE_BYTES: usize = 255;
/// A year with a February 29th is at most this far away.
const SEARCH_LIMIT: TimeDelta = TimeDelta::days(366 * 9);

/// A schedule, as a user has written it.
#[derive(Clone, Debug)]
pub struct CronSchedule {
    text: String,
    /// It runs whenever one of them does.
    crons: Vec<Cron>,
    zone: Tz,
}

impl PartialEq for CronSchedule {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.zone) == (&other.text, other.zone)
    }
}

impl CronSchedule {
    /// Parses five fields, perhaps after the zone (`CRON_TZ=Europe/Berlin 0 2 * * *`); else the zone is the given one,
    /// else UTC. Errors: `Invalid`, naming the field; also for a schedule without any instant.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, Error> {
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
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the name of its zone.
    pub fn zone_name(&self) -> &'static str {
        self.zone.name()
    }

    /// Returns the first instant after a time; `None` if there is none for years.
    pub fn next_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = at.with_timezone(&self.zone);
        let found = self
            .crons
            .iter()
            .filter_map(|cron| cron.find_next_occurrence(&local, false).ok());
        let found = found.min()?.with_timezone(&Utc);
        (found - at < SEARCH_LIMIT).then_some(found)
    }

    /// Returns the next instants after a time, in the zone.
    pub fn list_next(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Tz>> {
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
            let error = CronSchedule::parse(text, None).unwrap_err();
            assert!(error.message().contains(says), "{text}: {error}");
        }
        let error = CronSchedule::parse("* * * * *", Some("Berlin")).unwrap_err();
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
            let schedule = CronSchedule::parse(text, zone).unwrap();
            assert_eq!(schedule.zone_name(), name);
            assert_eq!(
                schedule.next_after(utc("2026-03-10T00:00:00Z")),
                Some(utc(next)),
                "{text}"
            );
        }
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
            let schedule = CronSchedule::parse(&row.schedule, Some(&row.zone)).unwrap();
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
