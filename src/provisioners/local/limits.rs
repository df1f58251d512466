//! The limits of every unit on this host, whatever its app requests, and the `ExecStage` of a unit built from
//! them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::folder::{ShimState, UnitFolder};
use super::spec_transfer::ShimSpec;
use super::volume_limit;
use super::volumes::ShimVolume;
use crate::config;
use crate::sandbox::SandboxPolicy;
use crate::sandbox::exec_stage::ExecStage;

/// Units of one app share a user; where no cgroup counts processes, the user's limit is this multiple of the
/// unit's.
const UNITS_OF_A_USER: u64 = 4;
/// The default time-out of a hook.
const HOOK_SECONDS: u64 = 600;
/// The kernel kills units before Tancho and its Postgres when the machine runs out of memory.
const OOM_SCORE_ADJ: u16 = 500;
/// The shared memory of a unit without a memory limit, and of one whose shared memory no cgroup counts.
const SHARED_MEMORY: u64 = 512 << 20;
const SHARED_MEMORY_UNCOUNTED: u64 = 64 << 20;

fn is_full(volume: &ShimVolume) -> bool {
    volume.is_bounded() && volume_limit::is_full(&volume.dir)
}

/// The limits; 0 is no limit. Read by older and newer versions of Tancho: fields are only added, with
/// defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitLimits {
    /// Processes and threads of a unit.
    pub processes: u64,
    /// Open files of each process.
    pub open_files: u64,
    /// Bytes in a unit's scratch home.
    pub scratch_bytes: u64,
    /// The time-out of each hook, in seconds.
    pub hook_seconds: u64,
    /// The sandbox of its processes.
    pub confinement: SandboxPolicy,
}

impl UnitLimits {
    /// Creates the limits from the settings.
    pub fn new(settings: &config::LocalProvisionerSettings, confinement: SandboxPolicy) -> Self {
        Self {
            processes: settings.max_processes,
            open_files: settings.max_open_files,
            scratch_bytes: settings.scratch_bytes.0,
            hook_seconds: HOOK_SECONDS,
            confinement,
        }
    }

    /// Builds the start of a unit's process: in its cgroups, as its user, sandboxed with its version and its
    /// home.
    pub(super) fn build_stage(
        &self,
        spec: &ShimSpec,
        state: &ShimState,
        folder: &UnitFolder,
        parent: Option<i32>,
    ) -> ExecStage {
        let limit = |value: u64| (value > 0).then_some(value);
        let mut confinement = self.confinement.clone();
        confinement.shared_user |= spec.user.is_none();
        if let (Some(ports), Some(own)) = (&mut confinement.listens, state.port) {
            ports.push(own);
        }
        let own: PathBuf = spec.dir.clone();
        let folders = |rights: fn(&ShimVolume) -> bool| {
            let chosen = spec.volumes.iter().filter(move |volume| rights(volume));
            chosen.map(|volume| volume.dir.clone()).collect::<Vec<_>>()
        };
        ExecStage {
            user: spec.user,
            groups: spec.volumes.iter().filter_map(|volume| volume.group).collect(),
            mounts: spec
                .volumes
                .iter()
                .filter(|volume| volume.is_mounted)
                .map(ShimVolume::to_mount)
                .collect(),
            mount_scratch: spec.mount_scratch.clone(),
            dir: spec.dir.clone(),
            cgroups: state.cgroup_paths().cloned().collect(),
            data: limit(spec.memory_bytes).filter(|_| state.cgroup.is_none()),
            shared_memory: match &state.cgroup {
                Some(_) => limit(spec.memory_bytes).unwrap_or(SHARED_MEMORY),
                None => SHARED_MEMORY_UNCOUNTED,
            },
            supervised: false,
            terminal: false,
            ends: Vec::new(),
            parent,
            open_files: limit(self.open_files),
            processes: limit(self.processes.saturating_mul(UNITS_OF_A_USER)),
            file_bytes: self.largest_file(spec),
            expendable: OOM_SCORE_ADJ,
            confinement: confinement
                .with_readable([own])
                .with_readable(folders(|volume| volume.is_read_only))
                .with_removable(folders(is_full))
                .with_writable(folders(|volume| !volume.is_read_only && !is_full(volume)))
                .with_writable([folder.home_dir()]),
        }
    }

    /// Returns the size that no file may exceed: that of the largest folder that it may be in.
    fn largest_file(&self, spec: &ShimSpec) -> Option<u64> {
        let written = spec.volumes.iter().filter(|volume| !volume.is_read_only);
        let sizes = written.map(|volume| volume.max_bytes).chain([self.scratch_bytes]);
        let sizes: Vec<u64> = sizes.collect();
        match sizes.contains(&0) {
            true => None,
            false => sizes.into_iter().max(),
        }
    }
}
