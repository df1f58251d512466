//! Use cases of team tokens: create, find, update, delete.

use serde_json::json;
use sqlx::{PgConnection, PgExecutor};

use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::TeamTokenId;
use crate::kernel::names::TeamTokenName;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::teams::model::{is_visible, team_event};
use crate::teams::owner::choose_owner_team;
use crate::teams::store as teams;
use crate::teams::tokens::model::{
    ExpiryChange, NewTeamToken, TeamToken, TokenChange, check_description, generate_name,
};
use crate::teams::tokens::store::{self, TokenFilter, TokenRow};
use crate::users::{self, first_missing_grant, tokens as values};

/// The maximum number of tokens of a team.
const MAX_TOKENS: i64 = 100;

/// Returns the tokens of the teams whose tokens the caller may read.
pub(super) async fn list_tokens(core: &Core, call: &RequestContext) -> Result<Vec<TeamToken>, Error> {
    let teams = call.visible_scopes(Permission::TEAM_TOKEN_READ, ContextKind::Team);
    let filter = TokenFilter {
        teams: teams.as_deref(),
        ..TokenFilter::default()
    };
    Ok(store::list_tokens(&core.db, &filter).await?)
}

/// Returns one token. Errors: `NotFound`, also for callers who may not see its team; `Forbidden`.
pub(super) async fn find_token(
    core: &Core,
    call: &RequestContext,
    name: &TeamTokenName,
) -> Result<TeamToken, Error> {
    find_authorized_token(core, call, name, Permission::TEAM_TOKEN_READ).await
}

async fn find_authorized_token(
    core: &Core,
    call: &RequestContext,
    name: &TeamTokenName,
    permission: Permission,
) -> Result<TeamToken, Error> {
    let token = load_token(&core.db, name).await?;
    if !is_visible(call, &token.team) && !call.has_global_permission(permission) {
        return Err(Error::team_token_not_found(name));
    }
    call.authorize(permission, &[PermissionContext::for_team(&token.team)])?;
    Ok(token)
}

async fn load_token(db: impl PgExecutor<'_>, name: &TeamTokenName) -> Result<TeamToken, Error> {
    let filter = TokenFilter {
        name: Some(name),
        ..TokenFilter::default()
    };
    let found = store::list_tokens(db, &filter).await?.pop();
    found.ok_or_else(|| Error::team_token_not_found(name))
}

/// Creates a token without rights and returns it with its value. Errors: `Invalid`, `Forbidden`, `Conflict`
/// for a taken name, `QuotaExceeded` for too many tokens of the team.
pub(super) async fn create_token(
    core: &Core,
    call: &RequestContext,
    new: NewTeamToken,
) -> Result<(TeamToken, Secret), Error> {
    let (creator, email) = call.require_owner()?;
    check_description(&new.description)?;
    let team = choose_owner_team(core, call, new.team, Permission::TEAM_TOKEN_CREATE).await?;
    let name = match new.name {
        Some(name) => name,
        None => generate_name(&team)?,
    };
    let row = TokenRow {
        id: TeamTokenId::new(),
        name: &name,
        team: &team,
        description: &new.description,
        creator,
        created_by: email.as_str(),
        most: MAX_TOKENS,
    };
    let mut tx = core.db.begin().await?;
    let data = json!({ "token_id": name, "team": team, "expires_in": new.expires_in.seconds() });
    events::record_event(
        &mut tx,
        call,
        &team_event(&team, Permission::TEAM_TOKEN_CREATE, data),
    )
    .await?;
    if !teams::lock_team(&mut tx, &team).await? {
        return Err(Error::team_not_found(&team));
    }
    let inserted = db::map_constraint_violation(
        store::insert_token(&mut tx, &row).await,
        "team_token_name_key",
        || Error::conflict(format!("A token {name} exists already: choose another id.")),
    )?;
    if !inserted {
        return Err(Error::new(
            ErrorKind::QuotaExceeded,
            format!("A team has at most {MAX_TOKENS} tokens: delete one that is not in use."),
        ));
    }
    let value = values::issue_team_token(&mut tx, row.id, new.expires_in.seconds()).await?;
    let token = load_token(&mut *tx, &name).await?;
    tx.commit().await?;
    Ok((token, value))
}

/// Changes a token and returns it, with its new value if it was regenerated. Errors: `NotFound`; `Forbidden`,
/// also when the token holds permissions that the caller does not.
pub(super) async fn update_token(
    core: &Core,
    call: &RequestContext,
    name: &TeamTokenName,
    change: TokenChange,
) -> Result<(TeamToken, Option<Secret>), Error> {
    let found = find_authorized_token(core, call, name, Permission::TEAM_TOKEN_UPDATE).await?;
    check_description(&change.description)?;
    let mut tx = core.db.begin().await?;
    let data = json!({
        "token_id": name, "regenerate": change.regenerate, "expires_in": change.expires_in.seconds(),
        "description": change.description,
    });
    let event = team_event(&found.team, Permission::TEAM_TOKEN_UPDATE, data);
    events::record_event(&mut tx, call, &event).await?;
    reload_token(&mut tx, &found).await?;
    if change.regenerate || change.expires_in != ExpiryChange::Unchanged {
        check_holds_as_much(&mut tx, call, found.id).await?;
    }
    if !change.description.is_empty() {
        store::update_description(&mut tx, found.id, &change.description).await?;
    }
    if change.expires_in != ExpiryChange::Unchanged {
        values::set_team_token_expiry(&mut tx, found.id, change.expires_in.seconds()).await?;
    }
    let value = match change.regenerate {
        true => Some(values::renew_team_token(&mut tx, found.id).await?),
        false => None,
    };
    let token = load_token(&mut *tx, name).await?;
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok((token, value))
}

/// Deletes a token with its roles. Errors: `NotFound`, `Forbidden`.
pub(super) async fn delete_token(
    core: &Core,
    call: &RequestContext,
    name: &TeamTokenName,
) -> Result<(), Error> {
    let found = find_authorized_token(core, call, name, Permission::TEAM_TOKEN_DELETE).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "token_id": name });
    let event = team_event(&found.team, Permission::TEAM_TOKEN_DELETE, data);
    events::record_event(&mut tx, call, &event).await?;
    reload_token(&mut tx, &found).await?;
    if !store::delete_token(&mut tx, found.id).await? {
        return Err(Error::team_token_not_found(name));
    }
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Locks a token and checks that it is still the one that was found, in the same team. Errors: `NotFound`.
async fn reload_token(tx: &mut PgConnection, found: &TeamToken) -> Result<(), Error> {
    if store::lock_token(tx, found.id).await? {
        let now = load_token(&mut *tx, &found.name).await?;
        if now.id == found.id && now.team == found.team {
            return Ok(());
        }
    }
    Err(Error::team_token_not_found(&found.name))
}

/// Checks that the caller holds what a token holds, so that nobody gains permissions by its new value, or by
/// a value that they know and that has expired. Errors: `Forbidden`.
async fn check_holds_as_much(
    tx: &mut PgConnection,
    call: &RequestContext,
    token: TeamTokenId,
) -> Result<(), Error> {
    let grants = users::list_token_grants(tx, token).await?;
    match first_missing_grant(call, &grants) {
        None => Ok(()),
        Some(_) => Err(Error::forbidden(
            "You cannot regenerate this token or change its expiry: it holds permissions that you do not.",
        )),
    }
}
