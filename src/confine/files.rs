//! Landlock: which files a process may open, whatever the permissions would let it; and on which ports it may
//! listen (Linux 6.7).
//!
//! An allow-list. It does not reach what Landlock does not know: looking at names and sizes (`stat`),
//! connecting to sockets in the file system, files that are open already. Processes in different
//! enclosures cannot trace each other, nor read each other's memory and environment below `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use super::Confinement;

/// The newest version of the kernel's interface whose rights were tried here.
const TRIED: ABI = ABI::V6;

/// Where systems keep programs, libraries and settings, and the kernel's own view of the machine. Not
/// `/home`, `/root`, `/var`, `/run`, `/srv`, `/mnt`, and not `/tmp`, which all apps would share.
const SYSTEM: &[&str] = &[
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

/// Links out of `/etc` that names and certificates hang on.
const FOLLOWED: &[&str] = &["/etc/resolv.conf", "/etc/ssl/certs", "/etc/ssl/cert.pem"];

/// Devices that give and take nothing but bytes.
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

/// Memory that processes share by name; limited as memory is.
const SHARED_MEMORY: &str = "/dev/shm";

/// The folders that everybody may read, without what is closed.
pub fn system_folders(closed: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    // A folder below /run whose file is replaced now and then: the folder is opened, not the file.
    for link in FOLLOWED {
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
            .flat_map(|folder| without(folder, hole))
            .collect();
    }
    folders
}

/// A folder, or if it contains `hole`, all that lies beside the way there.
fn without(folder: PathBuf, hole: &Path) -> Vec<PathBuf> {
    // The way there may lead over a link, such as /bin to /usr/bin.
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
        .flat_map(|entry| without(entry.path(), hole))
        .collect()
}

/// Whether the kernel has it. Tried on a thread that ends at once: only a thread that enters knows.
pub(super) fn is_available() -> bool {
    let tried = std::thread::spawn(|| {
        let rules = Ruleset::default().handle_access(AccessFs::Execute)?.create()?;
        let status = rules.restrict_self()?;
        Ok::<_, RulesetError>(matches!(status.landlock, LandlockStatus::Available { .. }))
    });
    matches!(tried.join(), Ok(Ok(true)))
}

pub(super) fn enter(wish: &Confinement) -> Result<(), RulesetError> {
    rules(wish)?.restrict_self().map(drop)
}

fn rules(wish: &Confinement) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(TRIED);
    let read = AccessFs::from_read(TRIED);
    let device: BitFlags<AccessFs> = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::ReadDir
        | AccessFs::IoctlDev
        | AccessFs::Truncate;
    // A file system may be made read-only or searched, but no device be made by who has no privileges.
    let own = all & !(AccessFs::MakeBlock | AccessFs::MakeChar);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?;
    // Users keep each other's signals away by themselves, and commands beside a unit may signal it.
    if wish.shared_user {
        rules = rules.scope(Scope::from_all(TRIED))?;
    } else {
        rules = rules.scope(Scope::AbstractUnixSocket)?;
    }
    if wish.listens.is_some() {
        rules = rules.handle_access(AccessNet::BindTcp)?;
    }
    // 0 stands for "any that is free", and the kernel picks none from where units have theirs.
    let ports = wish.listens.iter().flat_map(|own| own.iter().copied().chain([0]));
    rules
        .create()?
        .add_rules(ports.map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::BindTcp))))?
        .add_rules(path_beneath_rules(system_folders(&wish.closed), read))?
        .add_rules(path_beneath_rules(["/dev"], AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        .add_rules(path_beneath_rules([SHARED_MEMORY], own))?
        .add_rules(path_beneath_rules(&wish.readable, read))?
        .add_rules(path_beneath_rules(&wish.writable, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_left_out_and_what_lies_beside_it_stays() {
        let root = std::env::temp_dir().join(format!("tancho-confine-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(root.join("a/b/hole")).unwrap();
        fs::create_dir_all(root.join("a/c")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        let root = root.canonicalize().unwrap();
        let mut found = without(root.clone(), &root.join("a/b/hole"));
        found.sort();
        assert_eq!(found, [root.join("a/b/file"), root.join("a/c")]);
        assert_eq!(without(root.join("a/c"), &root.join("a/b")), [root.join("a/c")]);
        assert!(without(root.join("a/b"), &root.join("a")).is_empty());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn no_folder_of_people_or_of_the_moment_is_the_systems() {
        for folder in system_folders(&[]) {
            for bad in ["/", "/home", "/root", "/tmp", "/var", "/run", "/srv"] {
                assert_ne!(folder, Path::new(bad));
            }
        }
    }
}
