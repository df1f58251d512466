//! Password hashes: Argon2id, expensive in time and memory on purpose, so they are computed off the request
//! threads and a few at a time.

use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::fair_slots::QueueFull;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;

/// How long a hash waits for a slot.
const SLOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Argon2 passes over the memory.
const ARGON2_PASSES: u32 = 2;

/// The purpose of a hash. Sign-ups share a queue of their own, so that they do not delay logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashPurpose {
    /// For a user whose account exists.
    Login,
    /// For an anonymous caller: a new user, or a password reset.
    NewPassword,
}

/// Hashes a password; returns a PHC string. Errors: `Unavailable` when too many wait.
pub(super) async fn hash_password(
    core: &Core,
    call: &RequestContext,
    purpose: HashPurpose,
    password: &Secret,
) -> Result<String, Error> {
    let (memory, password) = (core.settings.auth.hash_memory_kib, password.clone());
    run_in_slot(core, call, purpose, move || {
        hash_on_this_thread(memory, &password)
    })
    .await
}

/// Hashes a password on the current thread; `memory` in KiB.
pub(super) fn hash_on_this_thread(memory: u32, password: &Secret) -> Result<String, Error> {
    let params = Params::new(memory, ARGON2_PASSES, 1, None).map_err(|e| Error::internal(e.to_string()))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.expose_secret().as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|e| Error::internal(e.to_string()))
}

/// True if the password matches the hash, whatever its parameters. Errors: as `hash_password`.
pub(super) async fn verify_hash(
    core: &Core,
    call: &RequestContext,
    password: &Secret,
    hash: &str,
) -> Result<bool, Error> {
    let (password, hash) = (password.clone(), hash.to_owned());
    run_in_slot(core, call, HashPurpose::Login, move || {
        match Argon2::default().verify_password(password.expose_secret().as_bytes(), hash.as_str()) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(Error::internal(error.to_string())),
        }
    })
    .await
}

async fn run_in_slot<T: Send + 'static>(
    core: &Core,
    call: &RequestContext,
    purpose: HashPurpose,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let slots = match purpose {
        HashPurpose::Login => &core.caller_limits.login_hashes,
        HashPurpose::NewPassword => &core.caller_limits.new_password_hashes,
    };
    let busy = |_| Error::unavailable("Too many logins in progress; try again in a moment.");
    // The slots are shared by network, because the caller is not authenticated yet.
    let slot = tokio::time::timeout(SLOT_TIMEOUT, slots.acquire(&call.source_network()))
        .await
        .map_err(|_| busy(QueueFull))?
        .map_err(busy)?;
    // The slot moves into the task, so that a caller who disconnects does not free a slot still in use.
    tokio::task::spawn_blocking(move || {
        let _slot = slot;
        work()
    })
    .await
    .map_err(Error::internal)?
}
