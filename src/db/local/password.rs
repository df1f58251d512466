//! The password of Tancho's database role: a file beside Postgres' folder, readable by its owner only.
//!
//! It has the format that Postgres' programs read (`PGPASSFILE`), so that an operator can run `pg_dump`
//! without typing it. The file is authoritative: [`super::roles`] sets the role's password to the one in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{ROLE_NAME, folder};
use crate::datadir::{DataDir, atomic_file};
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// One short line.
const MAX_BYTES: u64 = 4096;

pub(super) fn password_path(dir: &DataDir) -> PathBuf {
    dir.path().join("postgres.pgpass")
}

/// Reads the password, if there is one. Errors: `Invalid` if other users can read the file, or it is not a
/// file of Tancho's.
pub(super) fn read_password(dir: &DataDir) -> Result<Option<Secret>, Error> {
    let path = password_path(dir);
    let unusable = |why: &str| {
        Error::invalid(format!(
            "{} {why}; stop Tancho, remove that file and start again: a new one is made.",
            path.display()
        ))
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(folder::folder_error("be read", &path, error)),
    };
    let text = read_private(file).map_err(|error| folder::folder_error("be read", &path, error))?;
    let text = text.ok_or_else(|| unusable("can be read by other users"))?;
    let line = text.expose_secret().lines().next().unwrap_or_default();
    match line.strip_prefix(&line_prefix()).filter(|word| !word.is_empty()) {
        Some(word) if word.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(Some(Secret::new(word))),
        _ => Err(unusable("is not a password file made by Tancho")),
    }
}

/// Returns `None` if other users can read the file.
fn read_private(file: File) -> io::Result<Option<Secret>> {
    if file.metadata()?.mode() & 0o077 != 0 {
        return Ok(None);
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(Some(Secret::new(text)))
}

/// Makes the file with a new password.
pub(super) fn create_password(dir: &DataDir) -> Result<Secret, Error> {
    let path = password_path(dir);
    let password = Secret::random_hex();
    let line = Secret::new(format!("{}{}\n", line_prefix(), password.expose_secret()));
    atomic_file::write_file(&path, line.expose_secret().as_bytes(), 0o600, None)
        .map_err(|error| folder::folder_error("be written", &path, error))?;
    Ok(password)
}

/// Any host, port and database: the socket's folder is no host name.
fn line_prefix() -> String {
    format!("*:*:*:{ROLE_NAME}:")
}
