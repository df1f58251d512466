//! What binds every unit of this host, whatever its app asks for; and the last step of a unit made of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::UnitSpec;
use super::folder::{Folder, State};
use crate::config;
use crate::confine::Confinement;
use crate::confine::stage::Stage;

/// Units of one app share a user; where no cgroup counts processes, so many times the limit is theirs.
const UNITS_OF_A_USER: u64 = 4;
/// Units go before Tancho and its Postgres when the machine has no memory left.
const EXPENDABLE: u16 = 500;

/// See the module; 0 is no limit. Read by Tanchos older and newer: fields are only added, with defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// Processes and threads of a unit.
    pub processes: u64,
    /// Open files of each process.
    pub open_files: u64,
    /// Bytes of a unit's scratch home.
    pub scratch_bytes: u64,
    /// How its processes are shut in.
    pub confinement: Confinement,
}

impl Bounds {
    /// As the operator wishes.
    pub fn new(settings: &config::LocalSettings, confinement: Confinement) -> Self {
        Self {
            processes: settings.max_processes,
            open_files: settings.max_open_files,
            scratch_bytes: settings.scratch_bytes.0,
            confinement,
        }
    }

    /// How a process of a unit begins: in its cgroups, as its user, shut in with its version and its home.
    pub(super) fn stage(
        &self,
        spec: &UnitSpec,
        state: &State,
        folder: &Folder,
        parent: Option<i32>,
    ) -> Stage {
        let limit = |value: u64| (value > 0).then_some(value);
        let mut confinement = self.confinement.clone();
        confinement.shared_user |= spec.user.is_none();
        if let (Some(ports), Some(own)) = (&mut confinement.listens, state.port) {
            ports.push(own);
        }
        let own: PathBuf = spec.dir.clone();
        Stage {
            user: spec.user,
            dir: spec.dir.clone(),
            cgroups: state.cgroups().cloned().collect(),
            data: limit(spec.memory_bytes).filter(|_| state.cgroup.is_none()),
            parent,
            open_files: limit(self.open_files),
            processes: limit(self.processes.saturating_mul(UNITS_OF_A_USER)),
            file_bytes: limit(self.scratch_bytes),
            expendable: EXPENDABLE,
            confinement: confinement.reads([own]).writes([folder.home()]),
        }
    }
}
