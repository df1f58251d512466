//! Password hashes: Argon2id, slow and hungry on purpose, so they are made off the request threads and a
//! few at a time.

use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

use crate::core::Core;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

/// How long a hash waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Passes over the memory.
const PASSES: u32 = 2;

/// A new hash, as a PHC string. Errors: `Unavailable` when too many wait.
pub(super) async fn hash(core: &Core, password: &Secret) -> Result<String, Problem> {
    let (memory, password) = (core.settings.auth.hash_memory_kib, password.clone());
    run(core, move || hash_here(memory, &password)).await
}

/// A new hash, made on this very thread; `memory` in KiB.
pub(super) fn hash_here(memory: u32, password: &Secret) -> Result<String, Problem> {
    let params = Params::new(memory, PASSES, 1, None).map_err(|e| Problem::internal(e.to_string()))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.expose().as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|e| Problem::internal(e.to_string()))
}

/// True if the password is the one that was hashed, with whatever parameters. Errors: as `hash`.
pub(super) async fn verify(core: &Core, password: &Secret, hash: &str) -> Result<bool, Problem> {
    let (password, hash) = (password.clone(), hash.to_owned());
    run(core, move || {
        match Argon2::default().verify_password(password.expose().as_bytes(), hash.as_str()) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(Problem::internal(error.to_string())),
        }
    })
    .await
}

async fn run<T: Send + 'static>(
    core: &Core,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let turn = tokio::time::timeout(PATIENCE, core.hashing.clone().acquire_owned())
        .await
        .map_err(|_| Problem::unavailable("Too many people are logging in; try again in a moment."))?
        .map_err(Problem::internal)?;
    // The permit goes along, so that a caller who leaves does not make room that is not there.
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    })
    .await
    .map_err(Problem::internal)?
}
