//! Chooses the owner team of a new object: one rule for apps, services and instances, in both editions.

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::names::TeamName;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::teams::store;

/// Returns the team that will own a new object: the requested one, or else the only team in which the caller
/// may create it. If the caller may create it in any team, it is the caller's team if they belong to exactly
/// one, or else the only team that exists. Errors: `Invalid` for an unknown team and for an ambiguous choice,
/// `Forbidden` without the permission.
pub async fn choose_owner_team(
    core: &Core,
    call: &RequestContext,
    named: Option<TeamName>,
    permission: Permission,
) -> Result<TeamName, Error> {
    if let Some(team) = named {
        if !store::team_exists(&core.db, &team).await? {
            return Err(Error::invalid(format!("Team {team} does not exist.")));
        }
        call.authorize(permission, &[PermissionContext::for_team(&team)])?;
        return Ok(team);
    }
    let candidates = match call.visible_scopes(permission, ContextKind::Team) {
        Some(names) => names
            .iter()
            .filter_map(|name| TeamName::parse(name).ok())
            .collect(),
        None => match call.caller_teams() {
            own if own.len() == 1 => own,
            _ => store::list_team_names(&core.db, 2).await?,
        },
    };
    match candidates.as_slice() {
        [team] => Ok(team.clone()),
        [] if call.caller_teams().is_empty() => Err(Error::invalid(
            "You are not a member of any team: create one, or ask to be added to one.",
        )),
        [] => Err(Error::forbidden("You don't have permission to do this action.")),
        _ => Err(Error::invalid("You must provide a team to execute this action.")),
    }
}
