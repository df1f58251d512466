//! Adding and removing members.

use serde_json::json;

use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events;
use crate::kernel::error::Error;
use crate::kernel::names::{Email, TeamName};
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::{Actor, RequestContext};
use crate::teams::actions::{load_team, no_default_role_error};
use crate::teams::model::{is_visible, team_event};
use crate::teams::{roles, store};
use crate::users;

/// Gives a user the default roles of team members. The caller must hold every permission that these grant.
/// Errors: `NotFound` for team or user, `Forbidden`, `Conflict` for a member.
pub(super) async fn add_member(
    core: &Core,
    call: &RequestContext,
    team: &TeamName,
    email: &Email,
) -> Result<(), Error> {
    load_team(core, team).await?;
    require_member(call, team)?;
    call.authorize(Permission::TEAM_UPDATE, &[PermissionContext::for_team(team)])?;
    let user = users::find_user_id(&core.db, email)
        .await?
        .ok_or_else(|| Error::user_not_found(email))?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "add": email });
    events::record_event(&mut tx, call, &team_event(team, Permission::TEAM_UPDATE, data)).await?;
    if !store::lock_team(&mut tx, team).await? {
        return Err(Error::team_not_found(team));
    }
    let given = users::assign_default_roles(&mut tx, user, "team-create", Some(team)).await?;
    if given.is_empty() {
        return Err(match roles::has_default_role(&mut tx, "team-create").await? {
            true => Error::conflict("This user is already in the team."),
            false => no_default_role_error(),
        });
    }
    // Checks the roles that were assigned, not those that were to be: no permission can be added to a role
    // between its assignment and the end of the transaction.
    let grants = roles::list_role_grants(&mut tx, &given, &PermissionContext::for_team(team)).await?;
    roles::check_grantable(call, &grants)?;
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Removes all of a user's roles on a team; users may always remove themselves. Errors: `NotFound` for team,
/// user or membership; `Forbidden`, also for the last member.
pub(super) async fn remove_member(
    core: &Core,
    call: &RequestContext,
    team: &TeamName,
    email: &Email,
) -> Result<(), Error> {
    load_team(core, team).await?;
    require_member(call, team)?;
    let user = users::find_user_id(&core.db, email).await?;
    let leaves = matches!(call.actor, Actor::User { id, .. } if Some(id) == user);
    if !leaves {
        call.authorize(Permission::TEAM_UPDATE, &[PermissionContext::for_team(team)])?;
    }
    let mut tx = core.db.begin().await?;
    let data = json!({ "remove": email });
    events::record_event(&mut tx, call, &team_event(team, Permission::TEAM_UPDATE, data)).await?;
    if !store::lock_team(&mut tx, team).await? {
        return Err(Error::team_not_found(team));
    }
    let mut members = store::list_members(&mut *tx, team).await?;
    members.dedup_by(|a, b| a.email == b.email);
    if members.len() < 2 {
        return Err(Error::forbidden(
            "You can not remove this user from this team, because it is the last user within the team, and a team can not be orphaned.",
        ));
    }
    let user = user.ok_or_else(|| Error::user_not_found(email))?;
    if users::delete_roles_on_team(&mut tx, user, team.as_str()).await? == 0 {
        return Err(Error::not_found("This user is not in the team."));
    }
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Checks that the caller is a member of the team. Errors: `Forbidden` (contract/classic D12: clients expect
/// 403).
pub(super) fn require_member(call: &RequestContext, team: &TeamName) -> Result<(), Error> {
    match is_visible(call, team) {
        true => Ok(()),
        false => Err(Error::forbidden("You are not a member of this team.")),
    }
}
