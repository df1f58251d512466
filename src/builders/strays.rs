//! Processes that left their group (`setsid`) and so outlived a build. Each process of a build bears
//! its mark in its environment; one that wipes that too escapes, and is then bounded only by its user.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable that holds the mark: the path of the scratch folder.
pub(super) const MARK: &str = "TANCHO_BUILD";

/// Kills every process that bears the mark, until none is left.
pub(super) fn kill_strays(mark: &Path) {
    for _ in 0..10 {
        let strays = find(mark);
        if strays.is_empty() {
            return;
        }
        for pid in strays {
            // Gone already is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn find(mark: &Path) -> Vec<Pid> {
    let mut wanted = format!("{MARK}=").into_bytes();
    wanted.extend_from_slice(mark.as_os_str().as_bytes());
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    all.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        // Empty for the dead, unreadable for those of others.
        let environ = fs::read(entry.path().join("environ")).ok()?;
        let marked = environ.split(|b| *b == 0).any(|variable| variable == wanted);
        marked.then(|| Pid::from_raw(pid))
    })
    .collect()
}
