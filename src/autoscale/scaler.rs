//! The scaler: makes the decisions that are due. Replicas share the rules; a claimed rule is due again after the period,
//! also when its decision was cut off.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::apps::ScaleRule;
use crate::autoscale::decide::{Measures, decide_units};
use crate::autoscale::store::{self, DueRule, ProcessStand};
use crate::autoscale::{actions, prometheus};
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::sagas::{ReconcileReport, Reconciler};

/// Between two decisions about a process.
const PERIOD: Duration = Duration::from_secs(15);
/// The longest pause; a rule is due at most so late after it was set by another replica.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Rules in one round, and those that are decided at once.
const RULES_PER_ROUND: i64 = 100;
const CONCURRENCY: usize = 16;
/// An older usage of a unit is not known any more.
const MAX_USAGE_AGE: Duration = Duration::from_secs(35);

/// See the module.
pub struct UnitScaler {
    core: Core,
    pause: Mutex<Duration>,
}

impl UnitScaler {
    /// Creates the scaler.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            pause: Mutex::new(SHORTEST_PAUSE),
        }
    }

    /// Decides about a process; returns what changed.
    async fn scale(&self, due: &DueRule) -> Result<Option<String>, Error> {
        let key = (due.app, due.side, due.process.as_str());
        // Asked without a connection: a server may take its time.
        let (queries, mut notes) = self.ask_queries(due).await;
        let Some(stand) = store::find_stand(&self.core.db, key, MAX_USAGE_AGE).await? else {
            return Ok(None);
        };
        if stand.is_stopped {
            return Ok(None);
        }
        let measures = collect_measures(&due.rule.0, &stand, queries, !notes.is_empty());
        if due.rule.0.average_cpu.is_some() && stand.measured < stand.serving {
            notes.push(format!(
                "The CPU usage of {} of {} units is not known.",
                stand.serving - stand.measured,
                stand.serving
            ));
        }
        let mut memory = stand.memory.0;
        let units = decide_units(&due.rule.0, stand.units, &measures, &mut memory, stand.now);
        let note = notes.join(" ");
        let change = (stand.units, units);
        let is_done = actions::apply_decision(&self.core, due, change, (&memory, &note)).await?;
        Ok(is_done.then(|| {
            format!(
                "scaled {} of {} from {} to {units} units",
                due.process, due.name, stand.units
            )
        }))
    }

    async fn ask_queries(&self, due: &DueRule) -> (Vec<(f64, f64)>, Vec<String>) {
        let asked = due.rule.0.prometheus.iter().map(|query| async move {
            let value = prometheus::ask_value(&self.core, due.app, query).await;
            value.map(|value| (value, query.threshold))
        });
        let (mut values, mut notes) = (Vec::new(), Vec::new());
        for answer in futures_util::future::join_all(asked).await {
            match answer {
                Ok(value) => values.push(value),
                Err(why) => notes.push(why),
            }
        }
        (values, notes)
    }

    async fn set_pause(&self) -> Result<(), Error> {
        let until_due = store::time_until_due(&self.core.db).await?;
        let pause = until_due.map_or(LONGEST_PAUSE, |time| time.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = pause;
        Ok(())
    }
}

fn collect_measures(
    rule: &ScaleRule,
    stand: &ProcessStand,
    queries: Vec<(f64, f64)>,
    lacks_answers: bool,
) -> Measures {
    let now = chrono::DateTime::from_timestamp(stand.now, 0).unwrap_or_default();
    let active = rule.schedules.iter().filter(|schedule| schedule.is_active(now));
    Measures {
        cpu: stand.cpu,
        queries,
        scheduled: active.map(|schedule| schedule.min_replicas).max().unwrap_or(0),
        is_incomplete: lacks_answers || rule.average_cpu.is_some() && stand.measured < stand.serving.max(1),
    }
}

#[async_trait]
impl Reconciler for UnitScaler {
    fn name(&self) -> &'static str {
        "unit-scaler"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let due = store::claim_due(&self.core.db, RULES_PER_ROUND, PERIOD).await?;
        let mut report = ReconcileReport {
            has_more: due.len() as i64 == RULES_PER_ROUND,
            ..ReconcileReport::default()
        };
        let mut decided = stream::iter(due)
            .map(|due| async move {
                let done = self.scale(&due).await;
                (due, done)
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((due, done)) = decided.next().await {
            match done {
                Ok(change) => report.done.extend(change),
                // The other rules go on; this one is due again after the period.
                Err(error) => {
                    tracing::warn!(app = %due.name, process = due.process, error = %error.report(), "cannot scale a process");
                }
            }
        }
        self.set_pause().await?;
        Ok(report)
    }
}
