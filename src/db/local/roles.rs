//! The database roles: Tancho's role owns its database and is not a superuser.
//!
//! Where Tancho is not root, units run as the same user and reach the socket; a superuser could read any file
//! and run any program as that user. So the one superuser has no password and no line in `postgres.hba`.
//! Whatever requires it is done here, by Postgres' single-user mode while no server runs: nobody can connect
//! meanwhile.
//!
//! Each step is idempotent, so the next start repairs an interrupted setup. A folder created by an earlier
//! Tancho, whose role was a superuser and needed no password, is converted to the same state without loss.

use super::account::OsAccount;
use super::programs::{PostgresPrograms, ProgramFailure};
use super::{ROLE_NAME, store};
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;
use std::path::Path;

/// SQLSTATE: the database already exists.
const DUPLICATE_DATABASE: &str = "42P04";

/// Sets up the role, its password and its database. No server may run on the folder.
pub(super) async fn set_up_roles(
    programs: &PostgresPrograms,
    folder: &Path,
    account: Option<OsAccount>,
    password: &Secret,
) -> Result<(), Error> {
    let run = async |database: &'static str, script: Secret| {
        programs.run_single_user(folder, account, database, &script).await
    };
    run("postgres", store::roles_script(ROLE_NAME, password)).await?;
    match run("postgres", store::database_script(ROLE_NAME)).await {
        Err(ProgramFailure { code, .. }) if code.as_deref() == Some(DUPLICATE_DATABASE) => {}
        made => made?,
    }
    run(ROLE_NAME, store::ownership_script(ROLE_NAME)).await?;
    Ok(())
}
