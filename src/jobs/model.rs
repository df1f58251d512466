//! The types of jobs.

use chrono::{DateTime, Utc};

use crate::apps::AppDescription;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::schedule::CronSchedule;

/// Seconds after its instant within which a run may start, unless the job says otherwise.
const STARTING_DEADLINE: i32 = 300;
const MAX_STARTING_DEADLINE: i64 = 24 * 3600;
/// Seconds that a run may take at most.
const MAX_ACTIVE_DEADLINE: i64 = 30 * 24 * 3600;
const MAX_RETRIES: i64 = 20;
/// A command has at most so many words, and so many bytes.
const MAX_COMMAND_WORDS: usize = 1000;
const MAX_COMMAND_BYTES: usize = 8192;

/// Declares an enum that is stored and sent as words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$case_doc:meta])* $case:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
        #[sqlx(type_name = "text", rename_all = "lowercase")]
        pub(super) enum $name {
            $($(#[$case_doc])* $case,)*
        }

        impl $name {
            /// Returns the word in the database and in the API.
            pub(super) fn as_str(self) -> &'static str {
                match self {
                    $($name::$case => $word,)*
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok($name::$case),)*
                    _ => Err(Error::invalid(format!(
                        "{} is no {}: use one of {}.",
                        quote_excerpt(text),
                        $what,
                        [$($word),*].join(", ")
                    ))),
                }
            }
        }
    };
}

words!(
    /// What happens when a run is due while another one of the job runs.
    ConcurrencyPolicy, "concurrency policy" {
        /// Both run.
        Allow = "allow",
        /// The new one is skipped.
        Forbid = "forbid",
        /// The old one is stopped, then the new one starts.
        Replace = "replace",
    }
);

words!(
    /// What happens with runs whose instants passed while nothing could start them.
    MissedRunPolicy, "policy for missed runs" {
        /// They are missed.
        Skip = "skip",
        /// The last of them starts late.
        Once = "once",
        /// All of them start late, up to a number.
        All = "all",
    }
);

words!(
    /// The state of a run.
    RunState, "state of a run" {
        Planned = "planned",
        Started = "started",
        Ended = "ended",
        Missed = "missed",
        Skipped = "skipped",
    }
);

/// Why a run exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunOrigin {
    Schedule,
    Trigger,
}

impl RunOrigin {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            RunOrigin::Schedule => "schedule",
            RunOrigin::Trigger => "trigger",
        }
    }
}

/// When and how a job runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JobSettings {
    /// `None`: only when it is triggered.
    pub(super) schedule: Option<CronSchedule>,
    /// Empty: what the process `job` of its version runs, or its only process.
    pub(super) command: Vec<String>,
    /// `None`: nobody has chosen one, and the default holds.
    pub(super) concurrency: Option<ConcurrencyPolicy>,
    pub(super) missed_runs: MissedRunPolicy,
    /// Seconds; `None`: no limit.
    pub(super) active_deadline: Option<i32>,
    /// Seconds.
    pub(super) starting_deadline: i32,
    pub(super) retries: i32,
}

impl JobSettings {
    /// Returns what becomes of a run that is due while another goes on.
    pub(super) fn effective_concurrency(&self) -> ConcurrencyPolicy {
        self.concurrency.unwrap_or(ConcurrencyPolicy::Forbid)
    }
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            schedule: None,
            command: Vec::new(),
            concurrency: None,
            missed_runs: MissedRunPolicy::Once,
            active_deadline: None,
            starting_deadline: STARTING_DEADLINE,
            retries: 0,
        }
    }
}

/// A new schedule of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ScheduleChange {
    Manual,
    Cron(CronSchedule),
}

/// A change of settings; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SettingsChange {
    pub(super) schedule: Option<ScheduleChange>,
    pub(super) command: Option<Vec<String>>,
    pub(super) concurrency: Option<ConcurrencyPolicy>,
    pub(super) missed_runs: Option<MissedRunPolicy>,
    /// 0: no limit any more.
    pub(super) active_deadline: Option<i64>,
    pub(super) starting_deadline: Option<i64>,
    pub(super) retries: Option<i64>,
}

impl SettingsChange {
    /// Returns true if it changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies the change. Errors: `Invalid` for a number out of its range, or a command that cannot be run.
    pub(super) fn apply_to(self, settings: &mut JobSettings) -> Result<(), Error> {
        match self.schedule {
            Some(ScheduleChange::Manual) => settings.schedule = None,
            Some(ScheduleChange::Cron(schedule)) => settings.schedule = Some(schedule),
            None => {}
        }
        if let Some(command) = self.command {
            check_command(&command)?;
            settings.command = command;
        }
        settings.concurrency = self.concurrency.or(settings.concurrency);
        settings.missed_runs = self.missed_runs.unwrap_or(settings.missed_runs);
        if let Some(seconds) = self.active_deadline {
            let seconds = check_number("activeDeadlineSeconds", seconds, 0..=MAX_ACTIVE_DEADLINE)?;
            settings.active_deadline = Some(seconds).filter(|seconds| *seconds > 0);
        }
        if let Some(seconds) = self.starting_deadline {
            settings.starting_deadline =
                check_number("startingDeadlineSeconds", seconds, 1..=MAX_STARTING_DEADLINE)?;
        }
        if let Some(count) = self.retries {
            settings.retries = check_number("backoffLimit", count, 0..=MAX_RETRIES)?;
        }
        Ok(())
    }
}

fn check_number(what: &str, number: i64, range: std::ops::RangeInclusive<i64>) -> Result<i32, Error> {
    let fits = i32::try_from(number).ok().filter(|_| range.contains(&number));
    fits.ok_or_else(|| {
        Error::invalid(format!(
            "{what} must be a number from {} to {}.",
            range.start(),
            range.end()
        ))
    })
}

fn check_command(command: &[String]) -> Result<(), Error> {
    let bytes: usize = command.iter().map(|word| word.len() + 3).sum();
    if command.len() > MAX_COMMAND_WORDS || bytes > MAX_COMMAND_BYTES {
        return Err(Error::invalid(format!(
            "The command is longer than {MAX_COMMAND_BYTES} bytes: deploy it as a script and run that."
        )));
    }
    match command.iter().any(|word| word.contains('\0')) {
        true => Err(Error::invalid("A command cannot contain a NUL byte.")),
        false => Ok(()),
    }
}

/// A job as its description shows it.
#[derive(Debug)]
pub(super) struct JobDescription {
    pub(super) full: AppDescription,
    pub(super) settings: JobSettings,
    pub(super) last_success_at: Option<DateTime<Utc>>,
    /// The next instants of its schedule, in its zone.
    pub(super) next_runs: Vec<DateTime<chrono_tz::Tz>>,
}

/// A run as descriptions show it.
#[derive(Debug)]
pub(super) struct JobRun {
    pub(super) run_id: uuid::Uuid,
    pub(super) scheduled_at: DateTime<Utc>,
    pub(super) origin: String,
    pub(super) state: RunState,
    pub(super) reason: String,
    pub(super) attempt: i32,
    pub(super) unit_id: Option<String>,
    pub(super) version: Option<i32>,
    pub(super) launched: bool,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) exit_status: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case_and_refused_with_the_choice() {
        assert_eq!(
            "Forbid".parse::<ConcurrencyPolicy>().unwrap(),
            ConcurrencyPolicy::Forbid
        );
        let refused = "never".parse::<MissedRunPolicy>().unwrap_err();
        assert!(refused.message().contains("skip, once, all"), "{refused}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for change in [
            SettingsChange {
                active_deadline: Some(-1),
                ..SettingsChange::default()
            },
            SettingsChange {
                active_deadline: Some(i64::MAX),
                ..SettingsChange::default()
            },
            SettingsChange {
                starting_deadline: Some(0),
                ..SettingsChange::default()
            },
            SettingsChange {
                retries: Some(21),
                ..SettingsChange::default()
            },
            SettingsChange {
                command: Some(vec!["a\0".into()]),
                ..SettingsChange::default()
            },
            SettingsChange {
                command: Some(vec!["x".repeat(9000)]),
                ..SettingsChange::default()
            },
        ] {
            let mut settings = JobSettings::default();
            assert!(change.clone().apply_to(&mut settings).is_err(), "{change:?}");
        }
        let mut settings = JobSettings {
            active_deadline: Some(60),
            ..JobSettings::default()
        };
        let change = SettingsChange {
            active_deadline: Some(0),
            ..SettingsChange::default()
        };
        change.apply_to(&mut settings).unwrap();
        assert_eq!(settings.active_deadline, None);
    }
}
