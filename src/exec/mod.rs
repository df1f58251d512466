//! Commands and shells that users run in units: `app run` and `app shell`.
//!
//! A command runs in a unit of the app, with all that the unit has and no more: user, sandbox, limits, environment,
//! folder. An *isolated* one runs in a unit of its own, started for it from the current version and removed at its end.
//! Either way it runs in the process that has the request, which must be on the host of the unit.
//!
//! A session is *running* from its row in `exec_session`, which its server renews, to the end of its event. It ends with
//! its command; or it is ended: when its client disconnects, its time is over, a user cancels the event, the caller loses
//! the permission, the unit or the app goes, the server stops, or nobody renews its row (then a healer ends it).
//!
//! Promises: when a session ends, so does its command with all its descendants. The row of a unit that is started for a
//! session is written before it starts and deleted after it is gone, so that the reconciler of units removes what a crash
//! leaves. What a command prints goes to its caller alone: it is not stored. Secrets in a command line are masked in its
//! event. How many run at once is limited for each caller and each app.

mod command_mask;
mod healer;
mod lease;
mod model;
pub mod modern;
mod one_off;
mod run;
mod shell;
mod store;
mod targets;

pub use healer::ExecSessionHealer;
pub use lease::end_lost_sessions;
