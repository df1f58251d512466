//! The types and rules of plans.

use serde_json::Value;

use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::byte_size::ByteSize;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::PlanName;
use crate::kernel::permission::Permission;

/// Minimum memory, in bytes: with less, no program starts.
pub const MIN_MEMORY_BYTES: i64 = 4 << 20;
/// Maximum memory, in bytes.
pub const MAX_MEMORY_BYTES: i64 = 1 << 50;
/// Maximum CPU, in thousandths of a core.
pub const MAX_CPU_MILLI: i32 = 1_000_000;
/// Maximum factor of a burst.
pub const MAX_CPU_BURST: f64 = 100.0;

/// A plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub name: PlanName,
    /// 0 is unlimited.
    pub memory_bytes: i64,
    /// Thousandths of a core; 0 is unlimited.
    pub cpu_milli: i32,
    pub burst: Option<PlanBurst>,
    pub is_default: bool,
}

/// By how much the CPU of a unit may exceed its plan, as factors; at least one of them is set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanBurst {
    /// `None` is 1.
    pub default: Option<f64>,
    /// The largest factor that an app may have instead; `None` is any.
    pub max_allowed: Option<f64>,
}

impl PlanBurst {
    /// Returns the burst of a plan; `None` if both factors are.
    pub fn new(default: Option<f64>, max_allowed: Option<f64>) -> Option<Self> {
        (default.is_some() || max_allowed.is_some()).then_some(Self { default, max_allowed })
    }

    fn is_valid(self) -> bool {
        let fits = |factor: Option<f64>, least: f64| {
            factor.is_none_or(|factor| (least..=MAX_CPU_BURST).contains(&factor))
        };
        fits(self.default, 1.0) && fits(self.max_allowed, self.default.unwrap_or(1.0))
    }
}

impl Plan {
    /// Checks the values. Errors: `Invalid`.
    pub(super) fn check(&self) -> Result<(), Error> {
        let check = |is_valid: bool, rule: &'static str| match is_valid {
            true => Ok(()),
            false => Err(Error::invalid(rule)),
        };
        check(
            self.memory_bytes == 0 || (MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(&self.memory_bytes),
            "memory must be a number of bytes, at least 4194304 (4 MiB), or 0 for no limit.",
        )?;
        check(
            (0..=MAX_CPU_MILLI).contains(&self.cpu_milli),
            "cpumilli must be a number of thousandths of a core, at most 1000000, or 0 for no limit.",
        )?;
        check(
            self.burst.is_none_or(PlanBurst::is_valid),
            "cpuBurst must have factors from 1 to 100, of which maxAllowed is the larger one.",
        )
    }
}

/// Parses a memory: a number of bytes, or one with a unit, such as `512Mi`. Errors: `Invalid`.
pub(super) fn parse_memory(text: &str) -> Result<i64, Error> {
    let size: Result<ByteSize, Error> = text.parse();
    size.ok()
        .and_then(|size| i64::try_from(size.0).ok())
        .ok_or_else(|| {
            Error::invalid(format!(
                "{:?} is no memory: use a number of bytes, or one with a unit, such as 512Mi or 1G.",
                quote_excerpt(text)
            ))
        })
}

/// Parses a CPU: thousandths of a core, as a number or with the unit `m`, or a percentage of a core. Errors:
/// `Invalid`.
pub(super) fn parse_cpu(text: &str) -> Result<i32, Error> {
    let text = text.trim();
    let (digits, factor) = match (text.strip_suffix('%'), text.strip_suffix('m')) {
        (Some(percent), _) => (percent, 10),
        (None, Some(milli)) => (milli, 1),
        (None, None) => (text, 1),
    };
    let number: Option<i32> = digits.trim().parse().ok();
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| {
        Error::invalid(format!(
            "{:?} is no CPU: use thousandths of a core, such as 500 or 500m, or a percentage, such as 50%.",
            quote_excerpt(text)
        ))
    })
}

/// Builds an event on a plan.
pub(super) fn plan_event(plan: &PlanName, kind: Permission, data: Value) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Plan, plan),
        kind,
        Vec::new(),
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(memory_bytes: i64, cpu_milli: i32, cpu_burst: Option<f64>, max_cpu_burst: Option<f64>) -> Plan {
        Plan {
            name: PlanName::parse("small").unwrap(),
            memory_bytes,
            cpu_milli,
            burst: PlanBurst::new(cpu_burst, max_cpu_burst),
            is_default: false,
        }
    }

    #[test]
    fn memory_and_cpu_are_parsed_with_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("268435456", 256 << 20),
            ("512Mi", 512 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(parse_memory(text).unwrap(), bytes, "{text}");
        }
        for (text, milli) in [
            ("0", 0),
            ("200", 200),
            ("500m", 500),
            ("10%", 100),
            (" 200 % ", 2000),
        ] {
            assert_eq!(parse_cpu(text).unwrap(), milli, "{text}");
        }
        for bad in ["", "-", "x", "1.5", "1T", "99999999999999999999", "9000000000G"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
        for bad in ["", "m", "%", "1.5", "500M", "99999999999", "999999999%"] {
            assert!(parse_cpu(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plan_values_out_of_range_are_refused() {
        for good in [
            plan(0, 0, None, None),
            plan(MIN_MEMORY_BYTES, 1, Some(1.0), Some(1.0)),
            plan(MAX_MEMORY_BYTES, MAX_CPU_MILLI, Some(1.2), Some(MAX_CPU_BURST)),
            plan(0, 0, None, Some(2.0)),
        ] {
            assert!(good.check().is_ok(), "{good:?}");
        }
        for bad in [
            plan(-1, 0, None, None),
            plan(512, 0, None, None),
            plan(i64::MAX, 0, None, None),
            plan(0, -1, None, None),
            plan(0, i32::MAX, None, None),
            plan(0, 0, Some(0.5), None),
            plan(0, 0, Some(f64::NAN), None),
            plan(0, 0, Some(2.0), Some(1.5)),
            plan(0, 0, None, Some(f64::INFINITY)),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
