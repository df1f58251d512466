//! The contracts of the two kinds of runner, as tests.

pub(crate) mod units;
pub(crate) mod workloads;

use super::{
    ExecRequest, LogPosition, Placement, ProvisionError, RestartPolicy, UnitApp, UnitId, UnitReport,
    UnitRunner, UnitSpec, UnitState, VolumeMount, Workload, WorkloadId, WorkloadOwner, WorkloadProbe,
    WorkloadReport, WorkloadRunner,
};
use crate::kernel::artifact::Artifact;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::secret::Secret;
