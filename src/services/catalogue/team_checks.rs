//! Errors for teams that do not exist, or do not exist any more.

use crate::core::Core;
use crate::db;
use crate::kernel::error::Error;
use crate::kernel::names::TeamName;
use crate::teams;

/// Returns an error unless the team exists. Errors: `NotFound`.
pub(in crate::services) async fn ensure_team_exists(core: &Core, team: &TeamName) -> Result<(), Error> {
    match teams::team_exists(&core.db, team).await? {
        true => Ok(()),
        false => Err(Error::team_not_found(team)),
    }
}

/// Maps a violated foreign key of a team, which was removed or renamed since the lookup, to an error for the
/// user.
pub(in crate::services) fn map_missing_team<T>(result: sqlx::Result<T>) -> Result<T, Error> {
    const KEYS: [&str; 4] = [
        "service_instance_team_owner_fkey",
        "service_instance_team_team_fkey",
        "service_owner_team_fkey",
        "service_team_team_fkey",
    ];
    result.map_err(
        |error| match KEYS.iter().any(|key| db::violates_constraint(&error, key)) {
            true => missing_team(),
            false => error.into(),
        },
    )
}

pub(super) fn missing_team() -> Error {
    Error::conflict("A team of this request was removed or renamed meanwhile; try again.")
}
