//! Create, look up, change, remove.

use serde_json::json;

use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::events::{self, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::names::TeamName;
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::Problem;
use crate::quotas::{self, Quota, Subject};
use crate::teams::model::{Membership, Team, TeamApp, event, is_visible};
use crate::teams::store;
use crate::users;

/// Tags of one team, at most, and bytes of one tag.
const MAX_TAGS: usize = 100;
const MAX_TAG: usize = 255;

/// Makes a team; the caller becomes its first member. Errors: `Conflict` for a taken name,
/// `Precondition` when there is no role that would make the caller a member.
pub(super) async fn create(
    core: &Core,
    call: &Call,
    name: &TeamName,
    tags: &[String],
) -> Result<(), Problem> {
    let (user, email) = call.user()?;
    check_tags(tags)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "tags": tags });
    events::record(&mut tx, call, &event(name, Permission::TEAM_CREATE, data)).await?;
    db::on_constraint(
        store::insert(&mut tx, name, tags, email.as_str()).await,
        "team_pkey",
        || Problem::conflict("team already exists"),
    )?;
    let roles = users::assign_defaults(&mut tx, user, "team-create", name.as_str()).await?;
    if roles == 0 && !call.may_globally(Permission::TEAM) {
        return Err(no_default_role());
    }
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(())
}

/// The caller's teams; all teams for who reads them globally.
pub async fn list(core: &Core, call: &Call) -> Result<Vec<Team>, Problem> {
    if call.may_globally(Permission::TEAM_READ) {
        return Ok(store::list(&core.db, None).await?);
    }
    let names: Vec<String> = call.teams().iter().map(ToString::to_string).collect();
    Ok(store::list(&core.db, Some(&names)).await?)
}

/// A team that the caller may know of. Errors: `NotFound`.
pub async fn find(core: &Core, call: &Call, name: &TeamName) -> Result<Team, Problem> {
    let team = load(core, name).await?;
    match is_visible(call, name) {
        true => Ok(team),
        false => Err(unknown()),
    }
}

/// A team that must be there. Errors: `NotFound`.
pub(super) async fn load(core: &Core, name: &TeamName) -> Result<Team, Problem> {
    store::find(&core.db, name).await?.ok_or_else(unknown)
}

/// The members of a team with their roles on it. The caller may see it.
pub(super) async fn members(core: &Core, name: &TeamName) -> Result<Vec<Membership>, Problem> {
    Ok(store::list_members(&core.db, name).await?)
}

/// The apps of a team, in short. The caller may see it.
pub(super) async fn apps(core: &Core, name: &TeamName) -> Result<Vec<TeamApp>, Problem> {
    Ok(store::list_apps(&core.db, name).await?)
}

/// Renames a team, sets its tags; `None` leaves as it is. Errors: `NotFound`, `Forbidden`, `Conflict`.
pub(super) async fn update(
    core: &Core,
    call: &Call,
    name: &TeamName,
    new_name: Option<&TeamName>,
    tags: Option<&[String]>,
) -> Result<(), Problem> {
    find(core, call, name).await?;
    call.allow(Permission::TEAM_UPDATE, &[Context::team(name)])?;
    check_tags(tags.unwrap_or_default())?;
    let new_name = new_name.filter(|new| *new != name);
    let mut tx = core.db.begin().await?;
    let data = json!({ "newname": new_name, "tags": tags });
    let mut event = event(name, Permission::TEAM_UPDATE, data);
    if let Some(new) = new_name {
        event = event.locking(Target::new(TargetKind::Team, new));
    }
    events::record(&mut tx, call, &event).await?;
    if let Some(tags) = tags {
        store::update_tags(&mut tx, name, tags).await?;
    }
    if let Some(new) = new_name {
        let renamed = store::update_name(&mut tx, name, new).await;
        db::on_constraint(renamed, "team_pkey", || Problem::conflict("team already exists"))?;
        users::rename_roles_on(&mut tx, &Context::team(name), new.as_str()).await?;
    }
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(())
}

/// If apps use a team, what holds it, in words; a stranger learns that there are apps, not which.
pub(super) async fn app_references(
    core: &Core,
    call: &Call,
    name: &TeamName,
) -> Result<Option<String>, Problem> {
    let uses = store::uses(&core.db, name).await?;
    if uses.apps.is_empty() {
        return Ok(None);
    }
    match is_visible(call, name) {
        true => Ok(uses.words()),
        false => Ok(Some(String::from(
            "This team is used by apps, and you are not a member of it.",
        ))),
    }
}

/// Removes a team that nothing uses. Errors: `NotFound`; `Forbidden`, also when something uses it.
pub(super) async fn remove(core: &Core, call: &Call, name: &TeamName) -> Result<(), Problem> {
    find(core, call, name).await?;
    call.allow(Permission::TEAM_DELETE, &[Context::team(name)])?;
    let mut tx = core.db.begin().await?;
    events::record(
        &mut tx,
        call,
        &event(name, Permission::TEAM_DELETE, json!({ "name": name })),
    )
    .await?;
    if let Some(words) = store::uses(&mut *tx, name).await?.words() {
        return Err(Problem::forbidden(words));
    }
    let gone = store::delete(&mut tx, name).await.map_err(|error| {
        match error
            .as_database_error()
            .is_some_and(|e| e.is_foreign_key_violation())
        {
            true => Problem::forbidden("Something has just begun to use this team; look again."),
            false => error.into(),
        }
    })?;
    if !gone {
        return Err(unknown());
    }
    users::delete_roles_on(&mut tx, &Context::team(name)).await?;
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(())
}

/// A team's quota of apps. Errors: `NotFound`, `Forbidden`.
pub(super) async fn quota(core: &Core, call: &Call, name: &TeamName) -> Result<Quota, Problem> {
    find(core, call, name).await?;
    call.allow(Permission::TEAM_READ_QUOTA, &[Context::team(name)])?;
    quotas::find(core, Subject::Team(name)).await
}

/// Sets a team's limit of apps. The permission is needed globally: a limit that members could raise would
/// be none. Errors: `NotFound`, `Forbidden`.
pub(super) async fn change_quota(
    core: &Core,
    call: &Call,
    name: &TeamName,
    limit: i32,
) -> Result<(), Problem> {
    find(core, call, name).await?;
    call.allow(Permission::TEAM_UPDATE_QUOTA, &[])?;
    quotas::change(core, call, Subject::Team(name), limit).await
}

fn check_tags(tags: &[String]) -> Result<(), Problem> {
    if tags.len() <= MAX_TAGS && tags.iter().all(|tag| tag.len() <= MAX_TAG) {
        Ok(())
    } else {
        Err(Problem::invalid(
            "A team has at most 100 tags of at most 255 characters.",
        ))
    }
}

pub(super) fn unknown() -> Problem {
    Problem::not_found("team not found")
}

pub(super) fn no_default_role() -> Problem {
    Problem::precondition(
        "No role is set for new members of teams; an administrator can set one with: role default add --team-create team-member",
    )
}
