//! The cgroups of a unit: limits for all its processes together, its share of the processor, a count of
//! those killed for the memory limit, and a list of all that is left of it. Version 1, 2, and both at once.
//! Made below Tancho's own cgroups where the host lets it, so that what limits Tancho limits its units;
//! where none can be made the caller falls back to limits per process and per user.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::proc;

const MOUNTS: &str = "/sys/fs/cgroup";
/// Where version 2 stands beside version 1.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// What the cgroups of a unit should do; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) memory: u64,
    pub(super) processes: u64,
    /// Thousandths of a processor, as a share: who is alone on the machine may use all of it.
    pub(super) cpu_milli: u32,
}

/// What could be made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The one that counts and limits memory.
    pub(super) memory: Option<PathBuf>,
    /// The others; on version 2 it is one for all.
    pub(super) more: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }

    /// Sets the limits in a fresh cgroup. `None`: it does not have this controller, or refused.
    fn limit(self, path: &Path, want: &Want) -> Option<()> {
        let set = |file: &str, value: String| fs::write(path.join(file), value);
        let has = |file: &str| path.join(file).exists();
        match self {
            Self::Memory => limit_memory(path, want.memory),
            Self::Pids if has("pids.max") && want.processes > 0 => {
                set("pids.max", want.processes.to_string()).ok()
            }
            Self::Pids => has("pids.max").then_some(()),
            // A processor is 1024 shares or a weight of 100; a unit without a wish counts as one.
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

/// Makes the cgroups `name`, each below `parent` or, without one, where `own` says.
pub(super) fn make(parent: Option<&Path>, name: &str, want: &Want) -> Made {
    let mut made = Made::default();
    let mut unified: Option<PathBuf> = None;
    for controller in Controller::ALL {
        let Some(place) = place(parent, controller) else {
            continue;
        };
        let path = if !place.join("cgroup.controllers").exists() {
            create(&place.join(name))
        } else if let Some(there) = &unified {
            // A process is in one cgroup of version 2: that has what its parent hands down.
            let _as_far_as_it_goes = there.parent().map(|above| hands_down(above, controller));
            unified.clone()
        } else {
            unified = make_below(&place, controller, name);
            unified.clone()
        };
        let Some(path) = path else { continue };
        let is_new = made.memory.as_ref() != Some(&path) && !made.more.contains(&path);
        match controller.limit(&path, want) {
            Some(()) if controller == Controller::Memory => made.memory = Some(path),
            Some(()) if is_new => made.more.push(path),
            None if is_new => {
                let _best_effort = fs::remove_dir(&path);
                unified = unified.filter(|there| *there != path);
            }
            _ => {}
        }
    }
    made
}

fn place(parent: Option<&Path>, controller: Controller) -> Option<PathBuf> {
    match parent {
        Some(parent) => Some(parent.to_owned()),
        None => own(controller, &fs::read_to_string("/proc/self/cgroup").ok()?),
    }
}

/// On version 2 a cgroup with processes in it hands no controllers down, and Tancho's own has some: then
/// the nearest one above that does is taken.
fn make_below(place: &Path, controller: Controller, name: &str) -> Option<PathBuf> {
    place
        .ancestors()
        .take_while(|above| above.join("cgroup.controllers").exists())
        .find(|above| hands_down(above, controller))
        .and_then(|above| create(&above.join(name)))
}

fn create(path: &Path) -> Option<PathBuf> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => None,
        _ => Some(path.to_owned()),
    }
}

fn hands_down(place: &Path, controller: Controller) -> bool {
    let list = place.join("cgroup.subtree_control");
    let is_listed = || {
        fs::read_to_string(&list).is_ok_and(|text| text.split_whitespace().any(|c| c == controller.name()))
    };
    is_listed() || (fs::write(&list, format!("+{}", controller.name())).is_ok() && is_listed())
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
        // Without accounting of swap these files are absent, and so is what they would limit.
        let _optional = if v2 {
            set("memory.swap.max", "0")
        } else {
            set("memory.memsw.limit_in_bytes", &bytes)
        };
    }
    Some(())
}

/// The cgroup that we are in, of the hierarchy with this controller. `membership` is `/proc/self/cgroup`.
fn own(controller: Controller, membership: &str) -> Option<PathBuf> {
    let mut unified = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let inside = |mount: PathBuf| {
            // In a container the path may be the host's, and the mount what the container may see of it.
            let inside = mount.join(path.trim_start_matches('/'));
            if inside.is_dir() { inside } else { mount }
        };
        if controllers.split(',').any(|c| c == controller.name()) {
            return Some(inside(Path::new(MOUNTS).join(controller.name())));
        }
        if (id, controllers) == ("0", "") {
            let mount = [MOUNTS, UNIFIED]
                .into_iter()
                .find(|mount| Path::new(mount).join("cgroup.controllers").exists());
            unified = mount.map(|mount| inside(mount.into()));
        }
    }
    unified
}

/// How many processes were killed for the limit so far.
pub(super) fn kills(path: &Path) -> u64 {
    let count = |file: &str| {
        let text = fs::read_to_string(path.join(file)).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    count("memory.events")
        .or_else(|| count("memory.oom_control"))
        .unwrap_or(0)
}

/// Kills all that is in it, once.
pub(super) fn kill_all(path: &Path) {
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    proc::kill_each(members(path));
}

/// The processes in it.
pub(super) fn members(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process that this namespace cannot see.
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Kills all that is in it, and removes it; gives up after half a second.
pub(super) fn remove(path: &Path) {
    for _ in 0..50 {
        kill_all(path);
        match fs::remove_dir(path) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like version 2: the kernel's part is played by hand.
    fn fake(controls: &[(&str, &str)]) -> PathBuf {
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
    fn on_version_2_the_nearest_group_that_hands_the_controller_down_is_taken() {
        let root = fake(&[("", "memory pids"), ("slice", "memory"), ("slice/tancho", "")]);
        // A group with processes: the kernel refuses the write.
        let busy = root.join("slice/tancho/cgroup.subtree_control");
        fs::remove_file(&busy).unwrap();
        fs::create_dir(&busy).unwrap();
        let own = root.join("slice/tancho");
        let made =
            |controller| make_below(&own, controller, "unit").map(|path| path.parent().unwrap().to_owned());
        assert_eq!(made(Controller::Memory), Some(root.join("slice")));
        fs::write(root.join("slice/cgroup.subtree_control"), "").unwrap();
        assert_eq!(made(Controller::Pids), Some(root.clone()));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_hierarchy_of_a_controller_is_found_in_either_version() {
        let v1 = "5:memory:/nowhere/deep\n4:cpu,cpuacct:/\n0::/\n";
        assert_eq!(own(Controller::Memory, v1), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(own(Controller::Cpu, v1), Some("/sys/fs/cgroup/cpu".into()));
        assert_eq!(own(Controller::Memory, "nonsense"), None);
    }
}
