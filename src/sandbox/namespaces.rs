//! Namespaces: private `/dev/shm`, System V memory and POSIX queues for one process and its children,
//! bounded, and gone with the last of them. Other mounts are unchanged.
//!
//! Root needs nothing else. Another user first creates a user namespace in which it keeps its uid and has no
//! privileges after the next exec; many hosts forbid that.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

/// The mount of POSIX shared memory.
pub(super) const SHARED_MEMORY: &str = "/dev/shm";
/// Each file uses memory beside its bytes.
const MOST_FILES: u32 = 16_384;
const PAGE_BYTES: u64 = 4096;

/// Moves the calling process, which must be single-threaded, into namespaces of its own with this much shared
/// memory.
pub(super) fn enter_namespaces(bytes: u64) -> Result<(), String> {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if !uid.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|error| format!("cannot create namespaces: {error}"))?;
    if !uid.is_root() {
        let maps = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{uid} {uid} 1")),
            ("gid_map", format!("{gid} {gid} 1")),
        ];
        for (file, text) in maps {
            fs::write(Path::new("/proc/self").join(file), text)
                .map_err(|error| format!("cannot write {file}: {error}"))?;
        }
    }
    // Later mounts of the host are seen here, and mounts made here are seen by nobody else.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(|error| format!("cannot make mounts private: {error}"))?;
    if Path::new(SHARED_MEMORY).is_dir() {
        let options = format!("size={bytes},nr_inodes={MOST_FILES},mode=1777");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("tmpfs"),
            SHARED_MEMORY,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .map_err(|error| format!("cannot mount {SHARED_MEMORY}: {error}"))?;
    }
    // The limit of this namespace. A cgroup limits it too, if there is one.
    let _older_kernels_keep_their_own =
        fs::write("/proc/sys/kernel/shmall", (bytes / PAGE_BYTES).to_string());
    Ok(())
}
