//! The files that a build reads and the folders that it prepares, with the rights of Tancho.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use super::procfile::Procfile;
use super::tree::{Scratch, chown_tree};
use super::tsuru_yaml::{FILE_NAMES, TsuruYaml};
use super::{BuildError, BuildRequest};
use crate::kernel::yaml::MAX_BYTES;

/// The longest Procfile, in bytes.
pub(super) const LONGEST_PROCFILE: u64 = 256 << 10;

/// Makes the folders of a build and gives them to its user. Below `cache_dir` root touches nothing: it
/// has been the app's since the first build.
pub(super) fn prepare(request: &BuildRequest, scratch: &Scratch) -> io::Result<()> {
    fs::create_dir_all(&request.cache_dir)?;
    fs::create_dir(scratch.temp())?;
    for own in [request.cache_dir.clone(), scratch.temp()] {
        fs::set_permissions(&own, Permissions::from_mode(0o700))?;
        if let Some(uid) = request.user {
            lchown(&own, Some(uid), Some(uid))?;
        }
    }
    let tree = scratch.tree();
    fs::set_permissions(&tree, Permissions::from_mode(0o700))?;
    match request.user {
        Some(uid) => chown_tree(&tree, uid),
        None => Ok(()),
    }
}

pub(super) fn read_yaml(tree: &Path) -> Result<TsuruYaml, BuildError> {
    for name in FILE_NAMES {
        if let Some(text) = read_text(&tree.join(name), MAX_BYTES as u64)? {
            return TsuruYaml::parse(&text).map_err(|p| BuildError::Refused(p.words().to_owned()));
        }
    }
    Ok(TsuruYaml::default())
}

/// Read before anything ran: the archive's links are known to stay inside.
pub(super) fn read_procfile(tree: &Path) -> Result<Option<String>, BuildError> {
    let text = read_text(&tree.join("Procfile"), LONGEST_PROCFILE)?;
    if let Some(text) = &text {
        Procfile::parse(text).map_err(|p| BuildError::Refused(p.words().to_owned()))?;
    }
    Ok(text)
}

fn read_text(path: &Path, most: u64) -> Result<Option<String>, BuildError> {
    let inside = match fs::canonicalize(path) {
        Err(_) => return Ok(None),
        Ok(inside) => inside,
    };
    read_plain(&inside, most).map_err(|e| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        BuildError::Refused(format!("{name} cannot be read: {e}."))
    })
}

/// A short file of text that is a plain file and not a link; none if there is none.
pub(super) fn read_plain(path: &Path, most: u64) -> io::Result<Option<String>> {
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
