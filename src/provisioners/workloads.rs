//! Workloads, and the runners that hand them to a cluster.
//!
//! A workload is what should run of one process of one release: its content, how many units, with what. The
//! caller says it as a whole (`apply_workload`), as often as it likes; the cluster decides where the units run,
//! replaces them when the workload changes, and restarts those that end. The runner reports what is there.
//!
//! Promises, which `contract/workloads.rs` checks for every runner: applying and deleting are idempotent by
//! [`WorkloadId`]; reports cover every workload that Tancho applied, whichever process did; a workload that a
//! cluster cannot run (its content is a folder, or it is placed on a host) is refused for good; no secret of a
//! workload reaches a report or an error.

use tokio::sync::watch;

use super::{ExecRequest, ExecSession, LogLine, LogPosition, ProvisionError, UnitId, UnitReport};
use crate::kernel::artifact::Artifact;
use crate::kernel::ids::{AppId, JobId};
use crate::kernel::names::{EnvName, ProcessName};
use crate::kernel::secret::Secret;

/// To whom a workload belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadOwner {
    App(AppId),
    Job(JobId),
}

/// Which workload: one process of one release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadId {
    pub owner: WorkloadOwner,
    pub process: ProcessName,
    pub release: i64,
}

/// Where something runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the host of this id.
    Host(String),
    /// In the cluster of this name, which chooses the host.
    Cluster(String),
}

/// A volume in the file system of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// The name of the volume.
    pub volume: String,
    /// The path at which the unit sees it.
    pub path: String,
    pub is_read_only: bool,
}

/// How a cluster finds out whether a unit is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadProbe {
    /// This path responds with a success.
    Http { path: String },
    /// This command succeeds in the unit.
    Command(Vec<String>),
}

/// What should run of a process of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub id: WorkloadId,
    pub placement: Placement,
    pub artifact: Artifact,
    /// The shell command line of each unit.
    pub command: String,
    pub env: Vec<(EnvName, Secret)>,
    /// How many units; 0: it is stopped.
    pub replicas: u32,
    /// The memory limit of each unit, in bytes; 0 = no limit.
    pub memory_bytes: u64,
    /// The CPU share of each unit, in thousandths of a processor; 0 = the share of one processor.
    pub cpu_milli: u32,
    pub volumes: Vec<VolumeMount>,
    /// The ports on which its units listen.
    pub ports: Vec<u16>,
    pub probe: Option<WorkloadProbe>,
    /// It gets the requests of its app: its units have addresses.
    pub is_web: bool,
}

/// What runs of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadReport {
    pub id: WorkloadId,
    pub placement: Placement,
    pub units: Vec<UnitReport>,
}

/// Runs workloads in clusters; see the module.
#[async_trait::async_trait]
pub trait WorkloadRunner: Send + Sync {
    /// Makes the cluster run this workload instead of the earlier one of the same id. Returns when the cluster
    /// has accepted it. Errors: `Permanent` for a workload that no cluster can run.
    async fn apply_workload(&self, workload: &Workload) -> Result<(), ProvisionError>;

    /// Removes the workload with its units; a missing one is fine.
    async fn delete_workload(&self, workload: &WorkloadId) -> Result<(), ProvisionError>;

    /// Reports all workloads that were applied and not deleted.
    async fn observe_workloads(&self) -> Result<Vec<WorkloadReport>, ProvisionError>;

    /// The value changes whenever `observe_workloads` may return something new.
    fn subscribe_changes(&self) -> watch::Receiver<u64>;

    /// Reads the log of one unit, as `UnitRunner::read_log`.
    async fn read_log(
        &self,
        workload: &WorkloadId,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError>;

    /// Runs a command in one running unit, as `UnitRunner::exec_in_unit`.
    async fn exec_in_workload(
        &self,
        workload: &WorkloadId,
        unit: &UnitId,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError>;
}
