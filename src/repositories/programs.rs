//! The programs that git may run: a folder with links to git and little else, its only `PATH`.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::repositories::hook;

/// Where the system's programs are.
const SYSTEM_PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// The programs that git may run: itself, and gzip, with which old versions compress archives.
const PROGRAMS: [&str; 2] = ["git", "gzip"];

/// The folder with the links, beside the hook.
pub(super) fn programs_folder(repositories: &Path) -> PathBuf {
    hook::hooks_folder(repositories).join("programs")
}

/// Creates the links to the allowed programs; existing links stay.
pub(super) fn link_programs(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        std::fs::create_dir_all(folder)?;
        // Git runs as another user, who may search but not change these folders.
        for folder in folder.ancestors().take(2) {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        }
    }
    for program in PROGRAMS {
        let link = folder.join(program);
        if link.exists() {
            continue;
        }
        let Some(found) = find_program(program) else {
            continue;
        };
        let fresh = folder.join(format!(".{program}-{}", uuid::Uuid::new_v4().simple()));
        symlink(found, &fresh)?;
        std::fs::rename(fresh, link)?;
    }
    Ok(())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let mut places = SYSTEM_PATH.iter().map(|folder| Path::new(folder).join(name));
    places.find(|path| path.is_file())
}
