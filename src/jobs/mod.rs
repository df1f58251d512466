//! Jobs: commands of a deployed version that run to their end, by a schedule or when a user triggers them.
//!
//! A job is deployed, configured and bound as an app is: the row of `app` with its id has what it shares with apps, of
//! the kind `job`, and the slices that build, configure and bind work on that. This slice has what is its own: when it
//! runs, and its runs.
//!
//! A run is *planned*, then *started*, then *ended* with an exit status; or it is *missed* (its instant passed without a
//! start) or *skipped* (the job does not allow it), with the reason. A planned run is a row that is unique by job and
//! instant, so at most one starts for an instant, however many replicas there are. The clock of the database decides
//! what is due.
//!
//! Who does what: the planner, on every worker, turns schedules into planned runs. The runner of each host starts those
//! whose version is on the host, as units that are not restarted, and writes how they end. Runs are started in turn for
//! the teams that own the jobs.
//!
//! Promises:
//! * The row of a run says that it has started before its unit does, and that it has ended before the unit is removed. A
//!   unit that has run is never started again. So a process that is killed neither repeats a run nor loses one.
//! * A run continues while Tancho does not run.
//! * A run has the environment of its start, and `TANCHO_RUN_ID`, which is the same for all attempts.
//! * What was missed is planned late at most as often as the job allows; each instant that is not run has a row that
//!   says why, up to a hundred rows at once.
//! * The ended runs of a job are kept by number.

mod actions;
mod change;
mod model;
pub mod modern;
mod planner;
mod runs;
mod schedule;
mod store;
mod views;

pub use actions::find_authorized_job;
pub use planner::JobPlanner;
pub use runs::JobRunner;
