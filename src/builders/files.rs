//! The files that a build reads and the folders that it prepares, both with Tancho's rights.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use super::procfile::Procfile;
use super::tree::{ScratchFolder, chown_tree};
use super::tsuru_yaml::{FILE_NAMES, TsuruYaml};
use super::{BuildError, BuildRequest};
use crate::kernel::yaml::MAX_DOCUMENT_BYTES;

/// The longest Procfile, in bytes.
pub(super) const LONGEST_PROCFILE: u64 = 256 << 10;

/// Creates the folders of a build and gives them to its user. Root touches nothing below `cache_dir`: it has
/// belonged to the app's user since the first build.
pub(super) fn prepare_folders(request: &BuildRequest, scratch: &ScratchFolder) -> io::Result<()> {
    fs::create_dir_all(&request.cache_dir)?;
    fs::create_dir(scratch.temp_dir())?;
    for own in [request.cache_dir.clone(), scratch.temp_dir()] {
        fs::set_permissions(&own, Permissions::from_mode(0o700))?;
        if let Some(uid) = request.user {
            lchown(&own, Some(uid), Some(uid))?;
        }
    }
    let tree = scratch.tree_dir();
    fs::set_permissions(&tree, Permissions::from_mode(0o700))?;
    match request.user {
        Some(uid) => chown_tree(&tree, uid),
        None => Ok(()),
    }
}

pub(super) fn read_tsuru_yaml(tree: &Path) -> Result<TsuruYaml, BuildError> {
    for name in FILE_NAMES {
        if let Some(text) = read_text_file(&tree.join(name), MAX_DOCUMENT_BYTES as u64)? {
            return TsuruYaml::parse(&text).map_err(|p| BuildError::Refused(p.message().to_owned()));
        }
    }
    Ok(TsuruYaml::default())
}

/// Reads the Procfile of the archive. This happens before anything runs, so the archive's links are known to
/// stay inside.
pub(super) fn read_procfile(tree: &Path) -> Result<Option<String>, BuildError> {
    let text = read_text_file(&tree.join("Procfile"), LONGEST_PROCFILE)?;
    if let Some(text) = &text {
        Procfile::parse(text).map_err(|p| BuildError::Refused(p.message().to_owned()))?;
    }
    Ok(text)
}

/// Reads a short text file of the archive, through links that stay inside; `None` if there is none.
pub(super) fn read_text_file(path: &Path, most: u64) -> Result<Option<String>, BuildError> {
    let inside = match fs::canonicalize(path) {
        Err(_) => return Ok(None),
        Ok(inside) => inside,
    };
    read_plain_file(&inside, most).map_err(|e| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        BuildError::Refused(format!("{name} cannot be read: {e}."))
    })
}

/// Reads a short text file that is a regular file and not a link; `None` if there is none.
pub(super) fn read_plain_file(path: &Path, most: u64) -> io::Result<Option<String>> {
    let flags = (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits();
    let file = match fs::File::options().read(true).custom_flags(flags).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(Some(text))
}
