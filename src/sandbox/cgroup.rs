//! The cgroups of a unit or a build: limits for all its processes together, its CPU share, a count of OOM
//! kills, and a list of its remaining processes. Supports version 1, version 2, and both at once: then a
//! version 2 cgroup is created as well, because only that can kill all processes in one operation. The
//! cgroups are created below Tancho's own where the host permits, so that limits of Tancho also apply to its
//! units; otherwise callers fall back to limits per process and per user.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::proc;

const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// The mount of version 2 beside version 1.
const UNIFIED_MOUNT: &str = "/sys/fs/cgroup/unified";

/// The limits of a unit or a build; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CgroupRequest {
    pub(crate) memory: u64,
    pub(crate) processes: u64,
    /// CPU weight in thousandths of a processor. It is a share, not a limit: an idle machine may be used
    /// fully.
    pub(crate) cpu_milli: u32,
}

/// The cgroups that could be created.
#[derive(Debug, Default)]
pub(crate) struct CreatedCgroups {
    /// The cgroup that counts and limits memory.
    pub(crate) memory: Option<PathBuf>,
    /// The others; none on version 2, where one cgroup has all controllers.
    pub(crate) others: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupController {
    Memory,
    Pids,
    Cpu,
    /// No controller: `cgroup.kill`, which every version 2 cgroup has.
    Kill,
}

impl CreatedCgroups {
    /// The paths of all cgroups.
    pub(crate) fn all_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.memory.iter().chain(&self.others)
    }
}

impl CgroupController {
    const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Kill];

    fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Kill => "kill",
        }
    }

    /// Sets the limits in a new cgroup. `None`: the controller is missing, or the kernel refused.
    fn set_limit(self, path: &Path, want: &CgroupRequest) -> Option<()> {
        let set = |file: &str, value: String| fs::write(path.join(file), value);
        let has = |file: &str| path.join(file).exists();
        match self {
            Self::Memory => limit_memory(path, want.memory),
            Self::Pids if has("pids.max") && want.processes > 0 => {
                set("pids.max", want.processes.to_string()).ok()
            }
            Self::Pids => has("pids.max").then_some(()),
            Self::Kill => has("cgroup.kill").then_some(()),
            // One processor is 1024 shares or a weight of 100; a unit without a CPU setting counts as one.
            Self::Cpu => {
                let milli = u64::from(if want.cpu_milli == 0 { 1000 } else { want.cpu_milli });
                if has("cpu.weight") {
                    set("cpu.weight", (milli / 10).clamp(1, 10_000).to_string()).ok()
                } else {
                    set("cpu.shares", (milli * 1024 / 1000).clamp(2, 262_144).to_string()).ok()
                }
            }
        }
    }
}

/// Creates the cgroups `name`, below `parent` if given, else below this process's own.
pub(crate) fn create_cgroups(parent: Option<&Path>, name: &str, want: &CgroupRequest) -> CreatedCgroups {
    let mut made = CreatedCgroups::default();
    let mut unified: Option<PathBuf> = None;
    for controller in CgroupController::ALL {
        let Some(dir) = parent_dir(parent, controller) else {
            continue;
        };
        let path = if !dir.join("cgroup.controllers").exists() {
            if controller == CgroupController::Kill {
                None
            } else {
                create_dir(&dir.join(name))
            }
        } else if controller == CgroupController::Kill {
            unified = unified.or_else(|| create_dir(&dir.join(name)));
            unified.clone()
        } else if let Some(there) = &unified {
            // A process is in only one version 2 cgroup: use the controllers that its parent delegates.
            let _as_far_as_it_goes = there.parent().map(|above| enable_controller(above, controller));
            unified.clone()
        } else {
            unified = create_in_ancestor(&dir, controller, name);
            unified.clone()
        };
        let Some(path) = path else { continue };
        let is_new = made.memory.as_ref() != Some(&path) && !made.others.contains(&path);
        match controller.set_limit(&path, want) {
            Some(()) if controller == CgroupController::Memory => made.memory = Some(path),
            Some(()) if is_new => made.others.push(path),
            None if is_new => {
                let _best_effort = fs::remove_dir(&path);
                unified = unified.filter(|there| *there != path);
            }
            _ => {}
        }
    }
    made
}

fn parent_dir(parent: Option<&Path>, controller: CgroupController) -> Option<PathBuf> {
    match parent {
        Some(parent) => Some(parent.to_owned()),
        None => own_cgroup(controller, &fs::read_to_string("/proc/self/cgroup").ok()?),
    }
}

/// Creates the cgroup below the nearest ancestor that can delegate the controller. A version 2 cgroup that
/// contains processes cannot, and Tancho's own contains some.
fn create_in_ancestor(dir: &Path, controller: CgroupController, name: &str) -> Option<PathBuf> {
    dir.ancestors()
        .take_while(|above| above.join("cgroup.controllers").exists())
        .find(|above| enable_controller(above, controller))
        .and_then(|above| create_dir(&above.join(name)))
}

fn create_dir(path: &Path) -> Option<PathBuf> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => None,
        _ => Some(path.to_owned()),
    }
}

fn enable_controller(dir: &Path, controller: CgroupController) -> bool {
    let list = dir.join("cgroup.subtree_control");
    let is_listed = || {
        fs::read_to_string(&list).is_ok_and(|text| text.split_whitespace().any(|c| c == controller.as_str()))
    };
    is_listed() || (fs::write(&list, format!("+{}", controller.as_str())).is_ok() && is_listed())
}

fn limit_memory(path: &Path, memory: u64) -> Option<()> {
    let set = |file: &str, value: &str| fs::write(path.join(file), value);
    let v2 = path.join("memory.max").exists();
    if !v2 && !path.join("memory.limit_in_bytes").exists() {
        return None;
    }
    if v2 {
        let _older_kernels_lack_it = set("memory.oom.group", "1");
    }
    if memory > 0 {
        let bytes = memory.to_string();
        set(if v2 { "memory.max" } else { "memory.limit_in_bytes" }, &bytes).ok()?;
        // Without swap accounting these files do not exist, and nothing is limited.
        let _optional = if v2 {
            set("memory.swap.max", "0")
        } else {
            set("memory.memsw.limit_in_bytes", &bytes)
        };
    }
    Some(())
}

/// Returns the cgroup of this process in the hierarchy of a controller. `membership` is the content of
/// `/proc/self/cgroup`.
fn own_cgroup(controller: CgroupController, membership: &str) -> Option<PathBuf> {
    let mut unified = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let inside = |mount: PathBuf| {
            // In a container the path may be that of the host, while the mount is what the container sees of
            // it.
            let inside = mount.join(path.trim_start_matches('/'));
            if inside.is_dir() { inside } else { mount }
        };
        if controllers.split(',').any(|c| c == controller.as_str()) {
            return Some(inside(Path::new(CGROUP_MOUNT).join(controller.as_str())));
        }
        if (id, controllers) == ("0", "") {
            let mount = [CGROUP_MOUNT, UNIFIED_MOUNT]
                .into_iter()
                .find(|mount| Path::new(mount).join("cgroup.controllers").exists());
            unified = mount.map(|mount| inside(mount.into()));
        }
    }
    unified
}

/// How many processes were killed because of the memory limit so far.
pub(crate) fn count_oom_kills(path: &Path) -> u64 {
    let count = |file: &str| {
        let text = fs::read_to_string(path.join(file)).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    count("memory.events")
        .or_else(|| count("memory.oom_control"))
        .unwrap_or(0)
}

/// The time of a processor that the processes of a cgroup have used, also those that have ended; `None`: it is not counted.
pub(crate) fn read_cpu_time(path: &Path) -> Option<Duration> {
    if let Ok(text) = fs::read_to_string(path.join("cpu.stat"))
        && let Some(used) = text.lines().find_map(|line| line.strip_prefix("usage_usec "))
    {
        return used.trim().parse().ok().map(Duration::from_micros);
    }
    let used = fs::read_to_string(path.join("cpuacct.usage")).ok()?;
    used.trim().parse().ok().map(Duration::from_nanos)
}

/// Kills all members once.
pub(crate) fn kill_members(path: &Path) {
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    proc::kill_each(list_members(path));
}

/// Lists the members.
pub(crate) fn list_members(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that this namespace cannot see.
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Kills all members and removes the cgroup. Returns false if a member does not exit within a few seconds.
pub(crate) fn kill_and_remove(path: &Path) -> bool {
    // From now on no member can start a process, so that killing one after the other terminates.
    let _another_may_count = fs::write(path.join("pids.max"), "0");
    for _ in 0..300 {
        kill_members(path);
        match fs::remove_dir(path) {
            Ok(()) => return true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return true,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    false
}

/// Removes the cgroups of this name that a killed Tancho created.
pub(crate) fn remove_by_name(name: &str) {
    for dir in CgroupController::ALL
        .into_iter()
        .filter_map(|controller| parent_dir(None, controller))
    {
        let groups = dir
            .ancestors()
            .take_while(|above| above.starts_with(CGROUP_MOUNT));
        for group in groups
            .map(|above| above.join(name))
            .filter(|group| group.is_dir())
        {
            kill_and_remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like version 2; the test plays the kernel's part.
    fn fake_v2_tree(controls: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("tancho-cgroup-{}", uuid::Uuid::new_v4()));
        for (group, control) in controls {
            let group = root.join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("cgroup.controllers"), "cpu memory pids").unwrap();
            fs::write(group.join("cgroup.subtree_control"), control).unwrap();
        }
        root
    }

    #[test]
    fn cgroup_v2_is_created_below_nearest_ancestor_with_the_controller() {
        let root = fake_v2_tree(&[("", "memory pids"), ("slice", "memory"), ("slice/tancho", "")]);
        // A cgroup with processes: the kernel refuses the write.
        let busy = root.join("slice/tancho/cgroup.subtree_control");
        fs::remove_file(&busy).unwrap();
        fs::create_dir(&busy).unwrap();
        let own = root.join("slice/tancho");
        let made = |controller| {
            create_in_ancestor(&own, controller, "unit").map(|path| path.parent().unwrap().to_owned())
        };
        assert_eq!(made(CgroupController::Memory), Some(root.join("slice")));
        fs::write(root.join("slice/cgroup.subtree_control"), "").unwrap();
        assert_eq!(made(CgroupController::Pids), Some(root.clone()));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn controller_hierarchy_is_found_in_both_versions() {
        let v1 = "5:memory:/nowhere/deep\n4:cpu,cpuacct:/\n0::/\n";
        assert_eq!(
            own_cgroup(CgroupController::Memory, v1),
            Some("/sys/fs/cgroup/memory".into())
        );
        assert_eq!(
            own_cgroup(CgroupController::Cpu, v1),
            Some("/sys/fs/cgroup/cpu".into())
        );
        assert_eq!(own_cgroup(CgroupController::Memory, "nonsense"), None);
    }
}
