//! Whether a folder is suitable as the data folder.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::path_error;
use crate::kernel::error::Error;

/// Checks an existing data folder. Its mode is kept, because it may hold more than Tancho's files, but it
/// must be sufficient.
pub(super) fn check_mode(path: &Path, as_root: bool) -> Result<(), Error> {
    let meta = path
        .metadata()
        .map_err(|error| path_error("be read", path, error))?;
    let (me, owner) = (nix::unistd::geteuid().as_raw(), meta.uid());
    let (shown, mode) = (path.display(), meta.mode() & 0o777);
    if owner != me {
        return Err(Error::invalid(format!(
            "The data folder {shown} belongs to another user (number {owner}); choose another with --data-dir, or \
             run `chown {me} {shown}`."
        )));
    }
    let needed = if as_root { 0o711 } else { 0o700 };
    if mode & 0o022 != 0 || mode & needed != needed {
        return Err(Error::invalid(format!(
            "The data folder {shown} has mode {mode:03o}, which is not sufficient; run `chmod {needed:o} {shown}`."
        )));
    }
    Ok(())
}

/// Returns the future path of a folder that does not exist yet, without symbolic links.
pub(super) fn resolve_new_folder(path: &Path) -> Result<PathBuf, Error> {
    let path =
        std::path::absolute(path).map_err(|error| path_error("be used as the data folder", path, error))?;
    let there = path
        .ancestors()
        .find(|above| above.exists())
        .unwrap_or(Path::new("/"));
    let real = there
        .canonicalize()
        .map_err(|error| path_error("be read", there, error))?;
    // Only the folders above it matter, and those in between do not exist yet.
    Ok(real.join("new"))
}

/// As root, units run as other users: every folder above must be traversable for them.
pub(super) fn check_traversable(path: &Path) -> Result<(), Error> {
    for above in path.ancestors().skip(1) {
        let meta = above
            .metadata()
            .map_err(|error| path_error("be read", above, error))?;
        if meta.mode() & 0o001 == 0 {
            return Err(Error::invalid(format!(
                "Started by root, Tancho runs Postgres and apps as other users, and these cannot traverse {} \
                 to the data folder; choose another with --data-dir, such as /var/lib/tancho.",
                above.display()
            )));
        }
    }
    Ok(())
}
