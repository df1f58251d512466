//! The proof that whoever asks for a hand-over may read the data folder. Where Tancho is not root, units run as its user
//! and reach its sockets, but their sandbox lets them read none of its files.

use std::io;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::datadir::{DataDir, atomic_file};
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

fn token_path(dir: &DataDir) -> PathBuf {
    dir.path().join("handover.token")
}

fn wrong_file(dir: &DataDir, what: &str, error: &io::Error) -> Error {
    Error::invalid(format!(
        "{} cannot be {what}: {error}.",
        token_path(dir).display()
    ))
}

/// Makes a new token; the last one is not valid any more.
pub(super) fn create_token(dir: &DataDir) -> Result<Secret, Error> {
    let token = Secret::random_hex();
    atomic_file::write_file(&token_path(dir), token.expose_secret().as_bytes(), 0o600, None)
        .map_err(|error| wrong_file(dir, "written", &error))?;
    Ok(token)
}

/// Reads the token of the running process.
pub(super) fn read_token(dir: &DataDir) -> Result<Secret, Error> {
    let read = std::fs::read_to_string(token_path(dir));
    read.map(Secret::new)
        .map_err(|error| wrong_file(dir, "read", &error))
}

/// Compares digests, so that the time that it takes says nothing of the token.
pub(super) fn is_same_token(token: &Secret, given: &Secret) -> bool {
    let digest = |secret: &Secret| Sha256::digest(secret.expose_secret());
    digest(token) == digest(given)
}
