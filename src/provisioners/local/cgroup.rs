//! The memory cgroup of a unit: a limit for all its processes together, a count of those killed for
//! breaking it, and a list of all that is left of it. Version 1 and 2. Made below Tancho's own cgroup,
//! so that what limits Tancho limits its units; where that is impossible there is none, and the
//! caller falls back to a limit per process.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::proc;

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// Makes the cgroup `name` below `parent` (or our own), limited to `memory` bytes (0 = not).
pub(super) fn make(parent: Option<&Path>, name: &str, memory: u64) -> Option<PathBuf> {
    let parent = parent.map(Path::to_path_buf).or_else(own)?;
    let controllers = parent.join("cgroup.controllers");
    if controllers.exists() {
        let children = parent.join("cgroup.subtree_control");
        let has_memory =
            || fs::read_to_string(&children).is_ok_and(|text| text.split_whitespace().any(|c| c == "memory"));
        if !has_memory() {
            fs::write(&children, "+memory").ok()?;
        }
    }
    let path = parent.join(name);
    fs::create_dir(&path).ok()?;
    if limit(&path, memory).is_none() {
        let _best_effort = fs::remove_dir(&path);
        return None;
    }
    Some(path)
}

fn limit(path: &Path, memory: u64) -> Option<()> {
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

/// The cgroup that we are in.
fn own() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let mount = match (id, controllers) {
            (_, list) if list.split(',').any(|c| c == "memory") => V1,
            ("0", "") if Path::new(V2).join("cgroup.controllers").exists() => V2,
            _ => continue,
        };
        // In a container the path may be the host's, and the mount what the container may see of it.
        let inside = Path::new(mount).join(path.trim_start_matches('/'));
        return Some(if inside.is_dir() { inside } else { mount.into() });
    }
    None
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
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process that this namespace cannot see.
    proc::kill_each(
        text.lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 0),
    );
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
