//! Provisioners: where the processes of apps run. A pool names one.
//!
//! A provisioner is one of two kinds of [`Runner`]. A [`UnitRunner`] starts and stops single units on the host
//! of this process; Tancho plans how many there are and rolls from one release to the next (`units/`). A
//! [`WorkloadRunner`] is told the workload (a process of a release, so many times) and hands it to a cluster,
//! which places, rolls and restarts the units. A command is run, and a log is read, in the same way in both:
//! callers hold a `Runner` and do not ask which kind it is.
//!
//! **A new provisioner** is a folder here, with a function that opens it, and one line in the list
//! [`registry::PROVISIONERS`]. It passes the contract of its kind: `contract/units.rs` or
//! `contract/workloads.rs`. Settings that only it has are a group in `config/`.
//!
//! A provisioner never decides what should run, and keeps no registry that must be correct.

pub mod docker;
mod exec_session;
pub mod fake;
mod images;
pub mod local;
mod observation;
pub mod registry;
mod runner;
mod unit_log;
mod units;
mod volumes;
mod workloads;

pub use exec_session::{
    ExecProgram, ExecRequest, ExecSession, ExecStreams, ExecTerminal, ResizeTerminal, TerminalSize,
};
pub use images::{
    BUILD_LABEL, ContextStream, ImageBuild, ImageDetails, ImageOwner, ImageStore, PullProgress,
};
pub use observation::{FoundUnit, FoundUnits, UnitObservation};
pub use registry::ProvisionerRegistry;
pub use runner::{Runner, UnitRef};
pub use unit_log::{LogLine, LogPosition, LogStream};
pub use units::{RestartPolicy, UnitApp, UnitId, UnitReport, UnitRunner, UnitSpec, UnitState};
pub use volumes::{UnitVolume, volume_variable};
pub use workloads::{
    Placement, VolumeMount, Workload, WorkloadId, WorkloadOwner, WorkloadProbe, WorkloadReport,
    WorkloadRunner,
};

/// Why an operation of a provisioner failed. The messages may be shown to users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The same request may succeed later.
    #[error("{0}")]
    Transient(String),
    /// The same request will fail again.
    #[error("{0}")]
    Permanent(String),
    /// The unit does not exist or does not run.
    #[error("{0}")]
    Gone(String),
}

#[cfg(test)]
mod contract;
