//! Members come and go.

use serde_json::json;

use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::events;
use crate::kernel::call::{Actor, Call};
use crate::kernel::names::{Email, TeamName};
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::Problem;
use crate::teams::actions::{load, no_default_role, unknown};
use crate::teams::model::{event, is_visible};
use crate::teams::{roles, store};
use crate::users;

/// Gives a user the default roles of a team's members. The caller must hold all of what they give.
/// Errors: `NotFound` for team or user, `Forbidden`, `Conflict` for a member.
pub(super) async fn add(core: &Core, call: &Call, team: &TeamName, email: &str) -> Result<(), Problem> {
    load(core, team).await?;
    member_only(call, team)?;
    call.allow(Permission::TEAM_UPDATE, &[Context::team(team)])?;
    let grants = roles::default_grants(core, "team-create", Context::team(team)).await?;
    if grants.is_empty() {
        return Err(no_default_role());
    }
    roles::may_give(call, &grants)?;
    let user = match Email::parse(email) {
        Ok(email) => users::find_id(&core.db, &email).await?,
        Err(_) => None,
    }
    .ok_or_else(unknown_user)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "add": email });
    events::record(&mut tx, call, &event(team, Permission::TEAM_UPDATE, data)).await?;
    if !store::lock(&mut tx, team).await? {
        return Err(unknown());
    }
    if users::assign_defaults(&mut tx, user, "team-create", team.as_str()).await? == 0 {
        return Err(Problem::conflict("This user is already in the team."));
    }
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(())
}

/// Takes all roles on a team away from a user; one may always leave. Errors: `NotFound` for team, user or
/// membership; `Forbidden`, also for the last member.
pub(super) async fn remove(core: &Core, call: &Call, team: &TeamName, email: &str) -> Result<(), Problem> {
    load(core, team).await?;
    member_only(call, team)?;
    let leaves = matches!(&call.actor, Actor::User { email: me, .. } if me.as_str() == email);
    if !leaves {
        call.allow(Permission::TEAM_UPDATE, &[Context::team(team)])?;
    }
    let mut tx = core.db.begin().await?;
    let data = json!({ "remove": email });
    events::record(&mut tx, call, &event(team, Permission::TEAM_UPDATE, data)).await?;
    if !store::lock(&mut tx, team).await? {
        return Err(unknown());
    }
    let mut members = store::list_members(&mut *tx, team).await?;
    members.dedup_by(|a, b| a.email == b.email);
    if members.len() < 2 {
        return Err(Problem::forbidden(
            "You can not remove this user from this team, because it is the last user within the team, and a team can not be orphaned.",
        ));
    }
    let user = match Email::parse(email) {
        Ok(email) => users::find_id(&mut *tx, &email).await?,
        Err(_) => None,
    }
    .ok_or_else(unknown_user)?;
    if users::delete_roles_on_team(&mut tx, user, team.as_str()).await? == 0 {
        return Err(Problem::not_found("This user is not in the team."));
    }
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(())
}

/// Errors: `Forbidden` for who is no member of the team (contract/classic D12: clients expect 403).
pub(super) fn member_only(call: &Call, team: &TeamName) -> Result<(), Problem> {
    match is_visible(call, team) {
        true => Ok(()),
        false => Err(Problem::forbidden("You are not a member of this team.")),
    }
}

fn unknown_user() -> Problem {
    Problem::not_found("user not found")
}
