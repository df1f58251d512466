//! Use cases of teams: create, find, update, remove.

use serde_json::json;

use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventTarget, EventTargetKind};
use crate::kernel::error::Error;
use crate::kernel::names::TeamName;
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::quotas::{self, Quota, QuotaSubject};
use crate::teams::model::{Team, TeamMembership, is_visible, team_event};
use crate::teams::store;
use crate::users;

/// The maximum number of tags of a team.
const MAX_TAGS: usize = 100;
const MAX_TAG_BYTES: usize = 255;

/// Creates a team; the caller becomes its first member. Errors: `Conflict` for a taken name, `Precondition`
/// when there is no default role that would make the caller a member.
pub(super) async fn create_team(
    core: &Core,
    call: &RequestContext,
    name: &TeamName,
    tags: &[String],
) -> Result<(), Error> {
    let (user, email) = call.require_user()?;
    check_tags(tags)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "tags": tags });
    events::record_event(&mut tx, call, &team_event(name, Permission::TEAM_CREATE, data)).await?;
    db::map_constraint_violation(
        store::insert_team(&mut tx, name, tags, email.as_str()).await,
        "team_pkey",
        || Error::conflict("team already exists"),
    )?;
    let roles = users::assign_default_roles(&mut tx, user, "team-create", Some(name)).await?;
    if roles.is_empty() && !call.has_global_permission(Permission::TEAM) {
        return Err(no_default_role_error());
    }
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Returns the caller's teams, or all teams if the caller may read them globally.
pub async fn list_teams(core: &Core, call: &RequestContext) -> Result<Vec<Team>, Error> {
    if call.has_global_permission(Permission::TEAM_READ) {
        return Ok(store::list_teams(&core.db, None).await?);
    }
    let names: Vec<String> = call.caller_teams().iter().map(ToString::to_string).collect();
    Ok(store::list_teams(&core.db, Some(&names)).await?)
}

/// Returns a team that the caller may see. Errors: `NotFound`.
pub async fn find_team(core: &Core, call: &RequestContext, name: &TeamName) -> Result<Team, Error> {
    let team = load_team(core, name).await?;
    match is_visible(call, name) {
        true => Ok(team),
        false => Err(Error::team_not_found(name)),
    }
}

/// Loads a team. Errors: `NotFound`.
pub(super) async fn load_team(core: &Core, name: &TeamName) -> Result<Team, Error> {
    store::find_team(&core.db, name)
        .await?
        .ok_or_else(|| Error::team_not_found(name))
}

/// Returns the members of a team with their roles on it. The caller must have checked that the team is
/// visible.
pub(super) async fn list_members(core: &Core, name: &TeamName) -> Result<Vec<TeamMembership>, Error> {
    Ok(store::list_members(&core.db, name).await?)
}

/// Checks that the caller may read who holds roles on a team. Errors: `NotFound`, `Forbidden`.
async fn authorize_reader(core: &Core, call: &RequestContext, name: &TeamName) -> Result<(), Error> {
    find_team(core, call, name).await?;
    call.authorize(Permission::TEAM_READ, &[PermissionContext::for_team(name)])
}

/// Returns the members of a team, each with the names of their roles on it. Errors: `NotFound`, `Forbidden`.
pub(super) async fn list_team_users(
    core: &Core,
    call: &RequestContext,
    name: &TeamName,
) -> Result<Vec<(String, Vec<String>)>, Error> {
    authorize_reader(core, call, name).await?;
    let members = store::list_members(&core.db, name).await?;
    Ok(group_roles(members.into_iter().map(|m| (m.email, m.role))))
}

/// Returns the groups that hold roles on a team, each with the names of these. Errors: `NotFound`,
/// `Forbidden`.
pub(super) async fn list_team_groups(
    core: &Core,
    call: &RequestContext,
    name: &TeamName,
) -> Result<Vec<(String, Vec<String>)>, Error> {
    authorize_reader(core, call, name).await?;
    Ok(group_roles(
        store::list_group_roles(&core.db, name).await?.into_iter(),
    ))
}

/// Groups pairs of holder and role that are sorted by holder.
fn group_roles(pairs: impl Iterator<Item = (String, String)>) -> Vec<(String, Vec<String>)> {
    let mut grouped: Vec<(String, Vec<String>)> = Vec::new();
    for (holder, role) in pairs {
        match grouped.last_mut() {
            Some((last, roles)) if *last == holder => roles.push(role),
            _ => grouped.push((holder, vec![role])),
        }
    }
    grouped
}

/// Renames a team, sets its tags; `None` leaves as it is. Errors: `NotFound`, `Forbidden`, `Conflict`.
pub(super) async fn update_team(
    core: &Core,
    call: &RequestContext,
    name: &TeamName,
    new_name: Option<&TeamName>,
    tags: Option<&[String]>,
) -> Result<(), Error> {
    find_team(core, call, name).await?;
    call.authorize(Permission::TEAM_UPDATE, &[PermissionContext::for_team(name)])?;
    check_tags(tags.unwrap_or_default())?;
    let new_name = new_name.filter(|new| *new != name);
    let mut tx = core.db.begin().await?;
    let data = json!({ "newname": new_name, "tags": tags });
    let mut event = team_event(name, Permission::TEAM_UPDATE, data);
    if let Some(new) = new_name {
        event = event.with_lock(EventTarget::new(EventTargetKind::Team, new));
    }
    events::record_event(&mut tx, call, &event).await?;
    if !store::lock_team(&mut tx, name).await? {
        return Err(Error::team_not_found(name));
    }
    if let Some(tags) = tags {
        store::update_team_tags(&mut tx, name, tags).await?;
    }
    if let Some(new) = new_name {
        let renamed = store::update_team_name(&mut tx, name, new).await;
        db::map_constraint_violation(renamed, "team_pkey", || Error::conflict("team already exists"))?;
    }
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Describes what still references a team, if apps use it. A non-member learns that there are apps, but not
/// which.
pub(super) async fn describe_app_references(
    core: &Core,
    call: &RequestContext,
    name: &TeamName,
) -> Result<Option<String>, Error> {
    let uses = store::find_references(&core.db, name).await?;
    if uses.apps.is_empty() {
        return Ok(None);
    }
    match is_visible(call, name) {
        true => Ok(uses.describe_references()),
        false => Ok(Some(String::from(
            "This team is used by apps, and you are not a member of it.",
        ))),
    }
}

/// Removes a team that nothing references. Errors: `NotFound`; `Forbidden`, also when something references
/// it.
pub(super) async fn remove_team(core: &Core, call: &RequestContext, name: &TeamName) -> Result<(), Error> {
    find_team(core, call, name).await?;
    call.authorize(Permission::TEAM_DELETE, &[PermissionContext::for_team(name)])?;
    let mut tx = core.db.begin().await?;
    events::record_event(
        &mut tx,
        call,
        &team_event(name, Permission::TEAM_DELETE, json!({ "name": name })),
    )
    .await?;
    if let Some(words) = store::find_references(&mut *tx, name)
        .await?
        .describe_references()
    {
        return Err(Error::forbidden(words));
    }
    let gone = store::delete_team(&mut tx, name).await.map_err(|error| {
        match error
            .as_database_error()
            .is_some_and(|e| e.is_foreign_key_violation())
        {
            true => Error::forbidden("The team is now in use; list what uses it and try again."),
            false => error.into(),
        }
    })?;
    if !gone {
        return Err(Error::team_not_found(name));
    }
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Returns the app quota of a team. Errors: `NotFound`, `Forbidden`.
pub(super) async fn find_team_quota(
    core: &Core,
    call: &RequestContext,
    name: &TeamName,
) -> Result<Quota, Error> {
    find_team(core, call, name).await?;
    call.authorize(Permission::TEAM_READ_QUOTA, &[PermissionContext::for_team(name)])?;
    quotas::find_quota(core, QuotaSubject::Team(name)).await
}

/// Sets the app quota of a team. The permission is required globally: members must not raise their own limit.
/// Errors: `NotFound`, `Forbidden`.
pub(super) async fn change_team_quota(
    core: &Core,
    call: &RequestContext,
    name: &TeamName,
    limit: i32,
) -> Result<(), Error> {
    find_team(core, call, name).await?;
    call.authorize(Permission::TEAM_UPDATE_QUOTA, &[])?;
    quotas::change_limit(core, call, QuotaSubject::Team(name), limit).await
}

fn check_tags(tags: &[String]) -> Result<(), Error> {
    if tags.len() <= MAX_TAGS && tags.iter().all(|tag| tag.len() <= MAX_TAG_BYTES) {
        Ok(())
    } else {
        Err(Error::invalid(
            "A team has at most 100 tags of at most 255 characters.",
        ))
    }
}

pub(super) fn no_default_role_error() -> Error {
    Error::precondition(
        "There is no default role for new members of teams; an administrator can set one with: role default add --team-create team-member",
    )
}
