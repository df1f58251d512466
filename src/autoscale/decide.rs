//! The decision how many units a process should have: a function of what was measured, without I/O.
//!
//! Each target asks for a number of units, the largest counts, and the bounds hold in any case. Within a tenth of a target
//! nothing changes. More units are asked for at once; fewer only when no greater number was needed for the window, and only
//! so many in a minute. What could not be measured never removes a unit.

use serde::{Deserialize, Serialize};

use crate::apps::ScaleRule;

/// A measured value changes nothing while it differs from its target by no more than this part.
const TOLERANCE: f64 = 0.1;
/// The time in which a number of units may be removed, in seconds.
const POLICY_SECONDS: i64 = 60;
/// Earlier needs and removals that are remembered.
const MAX_REMEMBERED: usize = 300;

/// What was measured of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Measures {
    /// The mean usage of its units, in thousandths of what the plan gives to each; `None`: unknown.
    pub(super) cpu: Option<f64>,
    /// The value and the threshold of each query that was answered.
    pub(super) queries: Vec<(f64, f64)>,
    /// The largest minimum of the schedules that are active.
    pub(super) scheduled: i32,
    /// Something that the rule names could not be measured.
    pub(super) is_incomplete: bool,
}

/// What is remembered from decision to decision. Times are seconds of the clock of the database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ScaleMemory {
    /// When how many units were needed.
    needed: Vec<(i64, i32)>,
    /// When how many units were removed.
    removed: Vec<(i64, i32)>,
}

/// Decides how many units a process with `current` units should have.
pub(super) fn decide_units(
    rule: &ScaleRule,
    current: i32,
    measures: &Measures,
    memory: &mut ScaleMemory,
    now: i64,
) -> i32 {
    let needed = count_needed(rule, current, measures);
    let window = i64::from(rule.behavior.scale_down.window_seconds());
    memory.needed.retain(|(at, _)| now - at < window);
    memory.needed.push((now, needed));
    keep_newest(&mut memory.needed);
    memory.removed.retain(|(at, _)| now - at < POLICY_SECONDS);
    if needed >= current {
        return needed;
    }
    if !(rule.min_units..=rule.max_units).contains(&current) {
        // Outside of the bounds nothing has to be waited for.
        return needed.max(current.min(rule.max_units));
    }
    let recent = memory.needed.iter().map(|(_, units)| *units).max();
    let wanted = recent.unwrap_or(needed).min(current);
    let removed: i32 = memory.removed.iter().map(|(_, units)| *units).sum();
    let allowed = rule.behavior.scale_down.removable_units(current + removed) - removed;
    let next = wanted.max(current - allowed.max(0));
    if next < current {
        memory.removed.push((now, current - next));
        keep_newest(&mut memory.removed);
    }
    next
}

fn keep_newest(remembered: &mut Vec<(i64, i32)>) {
    let surplus = remembered.len().saturating_sub(MAX_REMEMBERED);
    remembered.drain(..surplus);
}

/// Returns how many units are needed by what was measured now, within the bounds.
fn count_needed(rule: &ScaleRule, current: i32, measures: &Measures) -> i32 {
    let by_cpu = rule.average_cpu.zip(measures.cpu).map(|(target, usage)| {
        let ratio = usage / f64::from(target.0);
        scale_by(current, ratio, f64::from(current) * ratio)
    });
    let by_queries = measures.queries.iter().map(|(value, threshold)| {
        let units = value / threshold;
        scale_by(current, units / f64::from(current.max(1)), units)
    });
    let mut needed = by_cpu.into_iter().chain(by_queries).max().unwrap_or(0);
    if measures.is_incomplete {
        needed = needed.max(current);
    }
    needed
        .max(measures.scheduled)
        .clamp(rule.min_units, rule.max_units)
}

/// Returns the units rounded up, or the present number if the ratio of what is and what should be is close to 1.
fn scale_by(current: i32, ratio: f64, units: f64) -> i32 {
    if !ratio.is_finite() || (ratio - 1.0).abs() <= TOLERANCE {
        return current;
    }
    // Bounded by the caller; a conversion of a float saturates.
    units.ceil() as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apps::ScaleDown;
    use crate::autoscale::model::tests::sample_rule;

    /// Between two decisions.
    const PERIOD: i64 = 15;

    fn with_cpu(cpu: f64) -> Measures {
        Measures {
            cpu: Some(cpu),
            ..Measures::default()
        }
    }

    #[test]
    fn load_adds_units_at_once_and_within_the_band_nothing_changes() {
        let rule = sample_rule(1, 10);
        for (current, cpu, units) in [
            (2, 500.0, 2),
            (2, 549.0, 2),
            (2, 451.0, 2),
            (2, 1000.0, 4),
            (2, 600.0, 3),
            (4, 5000.0, 10),
            (2, f64::INFINITY, 2),
        ] {
            let mut memory = ScaleMemory::default();
            let decided = decide_units(&rule, current, &with_cpu(cpu), &mut memory, 0);
            assert_eq!(decided, units, "{current} {cpu}");
        }
    }

    #[test]
    fn units_are_removed_after_the_window_and_a_few_in_a_minute() {
        let mut rule = sample_rule(1, 100);
        rule.behavior.scale_down = ScaleDown {
            stabilization_window: Some(60),
            percentage_policy_value: Some(50),
            units_policy_value: Some(4),
        };
        let mut memory = ScaleMemory::default();
        let mut units = 20;
        let mut history = Vec::new();
        assert_eq!(decide_units(&rule, units, &with_cpu(500.0), &mut memory, 0), 20);
        for step in 1..=12 {
            let now = step * PERIOD;
            units = decide_units(&rule, units, &with_cpu(0.0), &mut memory, now);
            history.push(units);
        }
        // 60 s are waited for, then four units go in each minute.
        assert_eq!(history, [20, 20, 20, 16, 16, 16, 16, 12, 12, 12, 12, 8]);
    }

    #[test]
    fn what_is_unknown_removes_no_unit_and_schedules_hold_without_it() {
        let rule = sample_rule(1, 10);
        let unknown = Measures {
            is_incomplete: true,
            scheduled: 4,
            ..Measures::default()
        };
        let mut memory = ScaleMemory::default();
        assert_eq!(decide_units(&rule, 6, &unknown, &mut memory, 0), 6);
        assert_eq!(decide_units(&rule, 2, &unknown, &mut memory, 15), 4);
        let queue = Measures {
            queries: vec![(95.0, 10.0)],
            ..Measures::default()
        };
        assert_eq!(decide_units(&rule, 2, &queue, &mut memory, 30), 10);
        let nothing = Measures {
            queries: vec![(f64::NAN, 10.0)],
            ..Measures::default()
        };
        assert_eq!(
            decide_units(&rule, 2, &nothing, &mut ScaleMemory::default(), 45),
            2
        );
    }

    proptest! {
        #[test]
        fn number_of_units_is_always_within_its_bounds(
            min in 1..20_i32, more in 1..50_i32, start in 0..200_i32,
            loads in prop::collection::vec(prop_oneof![Just(f64::NAN), Just(f64::INFINITY), -1e9..1e9_f64, 0.0..2000.0_f64], 1..60),
            queue in -1e12..1e12_f64, scheduled in 0..100_i32, incomplete: bool,
        ) {
            let rule = sample_rule(min, min + more);
            let (mut units, mut memory) = (start, ScaleMemory::default());
            for (step, cpu) in loads.into_iter().enumerate() {
                let measures = Measures {
                    cpu: Some(cpu),
                    queries: vec![(queue, 10.0)],
                    scheduled,
                    is_incomplete: incomplete,
                };
                units = decide_units(&rule, units, &measures, &mut memory, step as i64 * PERIOD);
                prop_assert!((rule.min_units..=rule.max_units).contains(&units), "{units}");
            }
        }

        #[test]
        fn noise_within_the_band_changes_nothing(
            units in 1..50_i32, noise in prop::collection::vec(0.901..1.099_f64, 1..100),
        ) {
            let rule = sample_rule(1, 100);
            let mut memory = ScaleMemory::default();
            for (step, factor) in noise.into_iter().enumerate() {
                let measures = with_cpu(500.0 * factor);
                prop_assert_eq!(decide_units(&rule, units, &measures, &mut memory, step as i64 * PERIOD), units);
            }
        }

        #[test]
        fn steady_load_is_reached_within_two_periods(load in 100.0..20_000.0_f64, start in 1..40_i32) {
            // The load spreads over the units that there are.
            let rule = sample_rule(1, 100);
            let (mut units, mut memory) = (start, ScaleMemory::default());
            for step in 0..2 {
                let usage = load / f64::from(units);
                units = decide_units(&rule, units, &with_cpu(usage), &mut memory, step * PERIOD);
            }
            let usage = load / f64::from(units);
            prop_assert!(usage <= 500.0 * 1.1 + 1e-6, "{usage} with {units}");
        }
    }
}
