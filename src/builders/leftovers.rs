//! Processes that left their group (`setsid`) and outlived a build without a supervisor. Each process of a
//! build has a marker in its environment; one that clears it escapes. Builds with the exec stage have a
//! supervisor, and this is a second line of defence.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable with the marker: the path of the scratch folder.
pub(super) const MARK: &str = "TANCHO_BUILD";

/// Kills every process that has the marker, until none is left.
pub(super) fn kill_leftovers(mark: &Path) {
    for _ in 0..10 {
        let strays = find_marked(mark);
        if strays.is_empty() {
            return;
        }
        for pid in strays {
            // It may have exited already.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn find_marked(mark: &Path) -> Vec<Pid> {
    let mut wanted = format!("{MARK}=").into_bytes();
    wanted.extend_from_slice(mark.as_os_str().as_bytes());
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    all.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        // Empty for zombies, unreadable for processes of other users.
        let environ = fs::read(entry.path().join("environ")).ok()?;
        let marked = environ.split(|b| *b == 0).any(|variable| variable == wanted);
        marked.then(|| Pid::from_raw(pid))
    })
    .collect()
}
