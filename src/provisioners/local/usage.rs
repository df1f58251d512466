//! What units use of the processors: as their cgroups count it, or else the sum over the processes that are there.

use std::path::Path;
use std::time::Duration;

use super::UnitId;
use super::folder::UnitFolder;
use crate::sandbox::{cgroup, proc};

/// Returns the time that units have used; those that do not run are left out.
pub(super) fn measure_cpu(root: &Path, units: &[UnitId]) -> Vec<(UnitId, Duration)> {
    let states = units.iter().filter_map(|unit| {
        let state = UnitFolder::for_unit(root, unit).read_state().ok()?;
        let shim = state.live_shim()?;
        Some((unit.clone(), state, shim))
    });
    let mut processes = None;
    let measured = states.map(|(unit, state, shim)| {
        let counted = state.cgroup_paths().find_map(|path| cgroup::read_cpu_time(path));
        let used = counted.unwrap_or_else(|| {
            // Read once for all units without cgroups.
            let all = processes.get_or_insert_with(proc::list_processes);
            let own = all
                .iter()
                .filter(|stat| stat.session == shim.pid && stat.pid != shim.pid);
            own.map(|stat| stat.cpu_time).sum()
        });
        (unit, used)
    });
    measured.collect()
}
