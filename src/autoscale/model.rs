//! How a process is scaled: bounds, targets, schedules, behaviour; and what a request of it may say.

use chrono::{DateTime, Utc};

use crate::apps::{ScaleDown, ScaleQuery, ScaleRule, ScaleSchedule};
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::schedule::CronSchedule;

/// Maximum number of units of one process.
pub(super) const MAX_UNITS: i32 = 1000;
/// Schedules, and queries, of one process.
const MAX_ITEMS: usize = 20;
const MAX_QUERY_BYTES: usize = 4096;
/// The longest window of a scale-down, in seconds.
const MAX_WINDOW: i32 = 3600;
/// What holds where a request does not say, in seconds, in percent and in units.
const DEFAULT_WINDOW: i32 = 300;
const DEFAULT_PERCENT: i32 = 10;
const DEFAULT_UNITS: i32 = 3;

impl ScaleDown {
    pub(super) fn window_seconds(self) -> i32 {
        self.stabilization_window.unwrap_or(DEFAULT_WINDOW)
    }

    /// Returns how many units of so many may be removed in a minute: the smaller of both policies, at least one.
    pub(super) fn removable_units(self, units: i32) -> i32 {
        let percent = i64::from(units) * i64::from(self.percentage_policy_value.unwrap_or(DEFAULT_PERCENT));
        let by_percent = i32::try_from((percent + 99) / 100).unwrap_or(i32::MAX);
        by_percent
            .min(self.units_policy_value.unwrap_or(DEFAULT_UNITS))
            .max(1)
    }
}

impl ScaleRule {
    /// Checks a rule that a user has sent. Errors: `Invalid`.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.min_units < 1 {
            return Err(Error::invalid(
                "The minimum of units must be at least 1: to have none, stop the process.",
            ));
        }
        if self.max_units > MAX_UNITS {
            return Err(Error::invalid(format!(
                "A process has at most {MAX_UNITS} units."
            )));
        }
        if self.max_units <= self.min_units {
            return Err(Error::invalid(
                "The maximum of units must be greater than the minimum.",
            ));
        }
        if self.average_cpu.is_none() && self.schedules.is_empty() && self.prometheus.is_empty() {
            return Err(Error::invalid(
                "Say by what the process is scaled: a CPU target, a schedule or a Prometheus query.",
            ));
        }
        if self.schedules.len() > MAX_ITEMS || self.prometheus.len() > MAX_ITEMS {
            return Err(Error::invalid(format!(
                "A process has at most {MAX_ITEMS} schedules and {MAX_ITEMS} queries."
            )));
        }
        self.check_scale_down()?;
        for schedule in &self.schedules {
            schedule.parse()?;
            if !(1..=self.max_units).contains(&schedule.min_replicas) {
                return Err(Error::invalid(format!(
                    "minReplicas of a schedule must be between 1 and the maximum of {} units.",
                    self.max_units
                )));
            }
        }
        self.prometheus.iter().try_for_each(ScaleQuery::check)
    }

    fn check_scale_down(&self) -> Result<(), Error> {
        let ScaleDown {
            stabilization_window: window,
            percentage_policy_value: percent,
            units_policy_value: units,
        } = self.behavior.scale_down;
        for (what, value, range) in [
            ("stabilizationWindow", window, 0..=MAX_WINDOW),
            ("percentagePolicyValue", percent, 1..=100),
            ("unitsPolicyValue", units, 1..=MAX_UNITS),
        ] {
            if value.is_some_and(|value| !range.contains(&value)) {
                return Err(Error::invalid(format!(
                    "{what} must be between {} and {}.",
                    range.start(),
                    range.end()
                )));
            }
        }
        Ok(())
    }
}

impl ScaleSchedule {
    /// Parses its start and its end. Errors: `Invalid`, naming the field.
    fn parse(&self) -> Result<(CronSchedule, CronSchedule), Error> {
        let parse = |text: &str| CronSchedule::parse(text, Some(&self.timezone));
        Ok((parse(&self.start)?, parse(&self.end)?))
    }

    /// Whether a time is after a start and before the end that follows it. One that cannot be read never is.
    pub(super) fn is_active(&self, at: DateTime<Utc>) -> bool {
        let Ok((start, end)) = self.parse() else {
            return false;
        };
        match (start.next_after(at), end.next_after(at)) {
            (Some(start), Some(end)) => end < start,
            (None, Some(_)) => true,
            _ => false,
        }
    }
}

impl ScaleQuery {
    fn check(&self) -> Result<(), Error> {
        if !(self.threshold.is_finite() && self.threshold > 0.0) {
            return Err(Error::invalid("The threshold of a query must be greater than 0."));
        }
        if self.query.trim().is_empty() || self.query.len() > MAX_QUERY_BYTES {
            return Err(Error::invalid(format!(
                "A query has between 1 and {MAX_QUERY_BYTES} bytes."
            )));
        }
        self.url().map(drop)
    }

    /// Returns the address of the request. Errors: `Invalid`.
    pub(super) fn url(&self) -> Result<reqwest::Url, Error> {
        let wrong = || {
            Error::invalid(format!(
                "{} is not the address of a Prometheus server: use a URL such as http://prometheus.example.com:9090.",
                quote_excerpt(&self.prometheus_address)
            ))
        };
        let mut url: reqwest::Url = self.prometheus_address.parse().map_err(|_| wrong())?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !is_plain {
            return Err(wrong());
        }
        let path = format!("{}/api/v1/query", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url.query_pairs_mut().append_pair("query", &self.query);
        Ok(url)
    }
}

/// Parses a target such as `50%` or `500m`, both the half of what the plan gives. Errors: `Invalid`.
pub(super) fn parse_cpu(text: &str) -> Result<i32, Error> {
    let wrong = || {
        Error::invalid(format!(
            "{} is not a CPU target: use one between 10% and 95%, or between 100m and 950m.",
            quote_excerpt(text)
        ))
    };
    let (digits, factor) = match (text.strip_suffix('%'), text.strip_suffix('m')) {
        (Some(digits), _) => (digits, 10),
        (_, Some(digits)) => (digits, 1),
        _ => (text, 10),
    };
    let number: i32 = digits.trim().parse().map_err(|_| wrong())?;
    number
        .checked_mul(factor)
        .filter(|milli| (100..=950).contains(milli))
        .ok_or_else(wrong)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::apps::{CpuTarget, ScaleBehavior};

    pub(in crate::autoscale) fn sample_rule(min_units: i32, max_units: i32) -> ScaleRule {
        ScaleRule {
            min_units,
            max_units,
            average_cpu: Some(CpuTarget(500)),
            schedules: Vec::new(),
            prometheus: Vec::new(),
            behavior: ScaleBehavior::default(),
        }
    }

    fn day(start: &str, end: &str, zone: &str) -> ScaleSchedule {
        ScaleSchedule {
            name: "day".into(),
            min_replicas: 2,
            start: start.into(),
            end: end.into(),
            timezone: zone.into(),
        }
    }

    #[test]
    fn cpu_target_is_a_percentage_or_thousandths() {
        for (text, milli) in [
            ("50%", 500),
            ("500m", 500),
            ("95%", 950),
            ("30", 300),
            ("100m", 100),
        ] {
            assert_eq!(parse_cpu(text).unwrap(), milli, "{text}");
        }
        for bad in [
            "",
            "0",
            "0%",
            "96%",
            "-50%",
            "half",
            "50%%",
            "999999999999%",
            "5m",
        ] {
            assert!(parse_cpu(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_that_cannot_hold_are_refused() {
        assert!(sample_rule(1, 2).check().is_ok());
        let query = |threshold: f64, address: &str| ScaleQuery {
            name: "queue".into(),
            query: "sum(x)".into(),
            threshold,
            prometheus_address: address.into(),
        };
        assert!(query(0.5, "http://prometheus.example.com:9090").check().is_ok());
        type Change = fn(&mut ScaleRule);
        let changes: [Change; 9] = [
            |rule| rule.min_units = 0,
            |rule| rule.max_units = 1,
            |rule| rule.max_units = MAX_UNITS + 1,
            |rule| rule.average_cpu = None,
            |rule| rule.behavior.scale_down.stabilization_window = Some(-1),
            |rule| rule.behavior.scale_down.percentage_policy_value = Some(0),
            |rule| rule.schedules = vec![day("0 6 * * *", "sometimes", "UTC")],
            |rule| rule.schedules = vec![day("0 6 * * *", "0 18 * * *", "Moon")],
            |rule| {
                rule.schedules = vec![ScaleSchedule {
                    min_replicas: 3,
                    ..day("0 6 * * *", "0 18 * * *", "UTC")
                }]
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut rule = sample_rule(1, 2);
            change(&mut rule);
            assert!(rule.check().is_err(), "{index}");
        }
        for (threshold, address) in [
            (0.0, "http://p.example.com"),
            (f64::NAN, "http://p.example.com"),
            (1.0, "ftp://p.example.com"),
            (1.0, "p.example.com"),
            (1.0, "http://user:secret@p.example.com"),
        ] {
            assert!(
                query(threshold, address).check().is_err(),
                "{threshold} {address}"
            );
        }
    }

    #[test]
    fn schedule_is_active_from_a_start_to_the_next_end() {
        let utc = |text: &str| -> DateTime<Utc> { text.parse().unwrap() };
        for (zone, start, end, at, active) in [
            ("UTC", "0 6 * * *", "0 18 * * *", "2026-03-10T06:00:00Z", true),
            ("UTC", "0 6 * * *", "0 18 * * *", "2026-03-10T05:59:59Z", false),
            ("UTC", "0 6 * * *", "0 18 * * *", "2026-03-10T18:00:00Z", false),
            ("UTC", "0 22 * * *", "0 4 * * *", "2026-03-10T23:00:00Z", true),
            ("UTC", "0 22 * * *", "0 4 * * *", "2026-03-10T05:00:00Z", false),
            (
                "Asia/Tokyo",
                "0 6 * * *",
                "0 18 * * *",
                "2026-03-10T22:00:00Z",
                true,
            ),
            ("UTC", "broken", "0 18 * * *", "2026-03-10T10:00:00Z", false),
        ] {
            assert_eq!(
                day(start, end, zone).is_active(utc(at)),
                active,
                "{start} {end} {at}"
            );
        }
    }
}
