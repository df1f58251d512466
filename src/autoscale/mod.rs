//! Scaling by load: the number of units of a process follows its CPU usage, the answers of Prometheus servers and the
//! clock, within bounds. A rule belongs to a process of a side of an app.
//!
//! While a process has a rule, the rule owns its number of units: users do not add or remove units of it. Without the rule
//! it keeps the number that it has then.
//!
//! Promises: the number is never outside of the bounds, except that the quota of the app and a stop hold before it; noise
//! within a tenth of a target changes nothing; what cannot be measured removes no unit; each decision is made by one
//! replica, by the clock of the database, and a server that hangs holds up no other rule. A rule is due again after 15
//! seconds; what its decision changes is an event.

mod actions;
mod decide;
mod model;
pub mod modern;
mod prometheus;
mod scaler;
mod store;
mod usage;

pub use scaler::UnitScaler;
pub use usage::UsageCollector;
