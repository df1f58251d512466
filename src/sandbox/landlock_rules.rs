//! Landlock: restricts the files that a process may open, whatever their permissions, and the ports on which
//! it may listen (Linux 6.7).
//!
//! An allow-list. It does not cover what Landlock does not support: reading names and sizes (`stat`),
//! connecting to Unix sockets in the file system, and files that are already open. Processes in different
//! Landlock domains cannot trace each other, nor read each other's memory and environment in `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use super::SandboxPolicy;
use super::namespaces::SHARED_MEMORY;

/// The newest Landlock ABI that was tested here.
const TESTED_ABI: ABI = ABI::V6;

/// Where systems keep programs, libraries and settings, and the kernel's views of the machine. Not `/home`,
/// `/root`, `/var`, `/run`, `/srv`, `/mnt`, and not `/tmp`, which all apps would share.
const SYSTEM_FOLDERS: &[&str] = &[
    "/bin",
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/opt",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
];

/// Links out of `/etc` that name resolution and certificates depend on.
const FOLLOWED_LINKS: &[&str] = &["/etc/resolv.conf", "/etc/ssl/certs", "/etc/ssl/cert.pem"];

/// Devices that only read and write bytes.
const DEVICES: &[&str] = &[
    "/dev/full",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];

/// Returns the folders that everybody may read, without the closed ones.
pub fn system_folders(closed: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = SYSTEM_FOLDERS.iter().map(PathBuf::from).collect();
    // A file below /run that is replaced now and then: the rule is for its folder, not for the file.
    for link in FOLLOWED_LINKS {
        if let Ok(real) = fs::canonicalize(link)
            && let Some(folder) = real.parent()
            && folder.components().count() > 2
        {
            folders.push(folder.to_owned());
        }
    }
    for hole in closed {
        folders = folders
            .into_iter()
            .flat_map(|folder| exclude_path(folder, hole))
            .collect();
    }
    folders
}

/// Returns a folder, or, if it contains `hole`, everything in it but the path to `hole`.
fn exclude_path(folder: PathBuf, hole: &Path) -> Vec<PathBuf> {
    // The path may lead through a link, such as /bin to /usr/bin.
    let real = fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone());
    if real.starts_with(hole) {
        return Vec::new();
    }
    if !hole.starts_with(&real) {
        return vec![folder];
    }
    let entries = fs::read_dir(&real).into_iter().flatten().flatten();
    entries
        .filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .flat_map(|entry| exclude_path(entry.path(), hole))
        .collect()
}

/// Returns whether the kernel supports Landlock. Tries it on a short-lived thread, since only restricting a
/// thread tells.
pub(super) fn is_available() -> bool {
    let tried = std::thread::spawn(|| {
        let rules = Ruleset::default().handle_access(AccessFs::Execute)?.create()?;
        let status = rules.restrict_self()?;
        Ok::<_, RulesetError>(matches!(status.landlock, LandlockStatus::Available { .. }))
    });
    matches!(tried.join(), Ok(Ok(true)))
}

pub(super) fn apply_ruleset(policy: &SandboxPolicy) -> Result<(), RulesetError> {
    build_ruleset(policy)?.restrict_self().map(drop)
}

fn build_ruleset(policy: &SandboxPolicy) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(TESTED_ABI);
    let read = AccessFs::from_read(TESTED_ABI);
    let device: BitFlags<AccessFs> = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::ReadDir
        | AccessFs::IoctlDev
        | AccessFs::Truncate;
    // All rights but creating devices, which needs privileges anyway.
    let own = all & !(AccessFs::MakeBlock | AccessFs::MakeChar);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?;
    // Different users cannot signal each other anyway, and commands beside a unit may signal it.
    if policy.shared_user {
        rules = rules.scope(Scope::from_all(TESTED_ABI))?;
    } else {
        rules = rules.scope(Scope::AbstractUnixSocket)?;
    }
    if policy.listens.is_some() {
        rules = rules.handle_access(AccessNet::BindTcp)?;
    }
    // 0 is "any free port"; the kernel never picks one from the range of units.
    let ports = policy
        .listens
        .iter()
        .flat_map(|own| own.iter().copied().chain([0]));
    rules
        .create()?
        .add_rules(ports.map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::BindTcp))))?
        .add_rules(path_beneath_rules(system_folders(&policy.closed), read))?
        .add_rules(path_beneath_rules(["/dev"], AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        // Its private one; otherwise closed, because all apps would share it.
        .add_rules(path_beneath_rules(
            Some(SHARED_MEMORY).filter(|_| policy.namespaces),
            own,
        ))?
        .add_rules(path_beneath_rules(&policy.readable, read))?
        .add_rules(path_beneath_rules(
            &policy.removable,
            read | AccessFs::RemoveFile | AccessFs::RemoveDir,
        ))?
        .add_rules(path_beneath_rules(&policy.writable, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_path_is_left_out_and_its_siblings_stay() {
        let root = std::env::temp_dir().join(format!("tancho-confine-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(root.join("a/b/hole")).unwrap();
        fs::create_dir_all(root.join("a/c")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        let root = root.canonicalize().unwrap();
        let mut found = exclude_path(root.clone(), &root.join("a/b/hole"));
        found.sort();
        assert_eq!(found, [root.join("a/b/file"), root.join("a/c")]);
        assert_eq!(
            exclude_path(root.join("a/c"), &root.join("a/b")),
            [root.join("a/c")]
        );
        assert!(exclude_path(root.join("a/b"), &root.join("a")).is_empty());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn system_folders_exclude_home_and_temporary_folders() {
        for folder in system_folders(&[]) {
            for bad in ["/", "/home", "/root", "/tmp", "/var", "/run", "/srv"] {
                assert_ne!(folder, Path::new(bad));
            }
        }
    }
}
