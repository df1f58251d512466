//! The override of a plan: parts of an app's plan that the app has otherwise.

use crate::kernel::error::Error;
use crate::plans::{MAX_CPU_BURST, MAX_CPU_MILLI, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES};

/// What an app has instead of what its plan says; `None`: as the plan says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PlanOverride {
    pub memory_bytes: Option<i64>,
    pub cpu_milli: Option<i32>,
    /// The factor by which the CPU of a unit may exceed its plan.
    pub cpu_burst: Option<f64>,
}

impl PlanOverride {
    /// Returns true if nothing is overridden.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A change of an override; `None` leaves a part as it is, 0 takes its override away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PlanOverrideChange {
    pub memory_bytes: Option<i64>,
    pub cpu_milli: Option<i32>,
    pub cpu_burst: Option<f64>,
}

impl PlanOverrideChange {
    /// Returns true if it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the values. Errors: `Invalid`.
    pub(super) fn check(&self) -> Result<(), Error> {
        let check = |is_valid: bool, rule: &'static str| match is_valid {
            true => Ok(()),
            false => Err(Error::invalid(rule)),
        };
        check(
            self.memory_bytes
                .is_none_or(|bytes| bytes == 0 || (MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(&bytes)),
            "memory must be a number of bytes, at least 4194304 (4 MiB), or 0 for that of the plan.",
        )?;
        check(
            self.cpu_milli
                .is_none_or(|milli| (0..=MAX_CPU_MILLI).contains(&milli)),
            "cpumilli must be a number of thousandths of a core, at most 1000000, or 0 for that of the plan.",
        )?;
        check(
            self.cpu_burst
                .is_none_or(|factor| factor == 0.0 || (1.0..=MAX_CPU_BURST).contains(&factor)),
            "cpuBurst must be a factor from 1 to 100, or 0 for that of the plan.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused_and_zero_is_not() {
        let change = |memory_bytes, cpu_milli, cpu_burst| PlanOverrideChange {
            memory_bytes,
            cpu_milli,
            cpu_burst,
        };
        for good in [
            change(None, None, None),
            change(Some(0), Some(0), Some(0.0)),
            change(Some(MIN_MEMORY_BYTES), Some(1), Some(1.0)),
            change(Some(MAX_MEMORY_BYTES), Some(MAX_CPU_MILLI), Some(MAX_CPU_BURST)),
        ] {
            assert!(good.check().is_ok(), "{good:?}");
        }
        for bad in [
            change(Some(-1), None, None),
            change(Some(512), None, None),
            change(Some(i64::MAX), None, None),
            change(None, Some(-1), None),
            change(None, Some(i32::MAX), None),
            change(None, None, Some(0.5)),
            change(None, None, Some(-1.0)),
            change(None, None, Some(f64::INFINITY)),
            change(None, None, Some(f64::NAN)),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
