//! Use cases of webhooks: create, find, update, delete.

use sqlx::{PgConnection, PgExecutor};

use crate::core::Core;
use crate::db;
use crate::events;
use crate::kernel::encryption::Keyring;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::WebhookId;
use crate::kernel::names::{TeamName, WebhookName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::teams::choose_owner_team;
use crate::webhooks::deliveries;
use crate::webhooks::model::{Webhook, WebhookRequest, WebhookSpec, request_associated_data, webhook_event};
use crate::webhooks::store::{self, WebhookQuery, WebhookRow, WebhookWrite};
use crate::webhooks::validation::check_spec;

/// The maximum number of webhooks of a team.
const MAX_WEBHOOKS: i64 = 50;

/// Returns the webhooks of the teams whose webhooks the caller may read; what may be secret only of those that
/// the caller may change.
pub(super) async fn list_webhooks(core: &Core, call: &RequestContext) -> Result<Vec<Webhook>, Error> {
    let teams = call.visible_scopes(Permission::WEBHOOK_READ, ContextKind::Team);
    let query = WebhookQuery {
        teams: teams.as_deref(),
        ..WebhookQuery::default()
    };
    let rows = store::list_webhooks(&core.db, &query).await?;
    rows.into_iter()
        .map(|row| disclose_webhook(call, open_webhook(&core.keys, row)?))
        .collect()
}

/// Returns one webhook; what may be secret only if the caller may change it. Errors: `NotFound`, also for
/// callers who may not see its team; `Forbidden`.
pub(super) async fn find_webhook(
    core: &Core,
    call: &RequestContext,
    name: &WebhookName,
) -> Result<Webhook, Error> {
    let webhook = find_authorized_webhook(core, call, name, Permission::WEBHOOK_READ).await?;
    disclose_webhook(call, webhook)
}

fn disclose_webhook(call: &RequestContext, mut webhook: Webhook) -> Result<Webhook, Error> {
    let on_team = [PermissionContext::for_team(&webhook.team)];
    if !call.has_permission(Permission::WEBHOOK_UPDATE, &on_team) {
        webhook.spec.request.mask();
    }
    Ok(webhook)
}

async fn find_authorized_webhook(
    core: &Core,
    call: &RequestContext,
    name: &WebhookName,
    permission: Permission,
) -> Result<Webhook, Error> {
    let webhook = load_webhook(&core.db, &core.keys, name).await?;
    let sees_team = call.caller_teams().contains(&webhook.team);
    if !sees_team && !call.has_global_permission(permission) {
        return Err(Error::webhook_not_found(name));
    }
    call.authorize(permission, &[PermissionContext::for_team(&webhook.team)])?;
    Ok(webhook)
}

async fn load_webhook(db: impl PgExecutor<'_>, keys: &Keyring, name: &WebhookName) -> Result<Webhook, Error> {
    let query = WebhookQuery {
        name: Some(name),
        ..WebhookQuery::default()
    };
    let found = store::list_webhooks(db, &query).await?.pop();
    open_webhook(keys, found.ok_or_else(|| Error::webhook_not_found(name))?)
}

fn open_webhook(keys: &Keyring, mut row: WebhookRow) -> Result<Webhook, Error> {
    let opened = keys.decrypt(&request_associated_data(row.id), &row.sealed)?;
    Ok(Webhook {
        id: row.id,
        spec: WebhookSpec {
            filter: row.take_filter(),
            description: row.description,
            method: row.method,
            insecure: row.insecure,
            request: WebhookRequest::from_secret(&opened)?,
        },
        name: row.name,
        team: row.team,
    })
}

fn seal_request(keys: &Keyring, id: WebhookId, request: &WebhookRequest) -> Result<Vec<u8>, Error> {
    Ok(keys.encrypt(&request_associated_data(id), &request.to_secret()?))
}

/// Creates a webhook and returns the secret that signs its requests. Errors: `Invalid`, `Forbidden`, `Conflict`
/// for a taken name, `QuotaExceeded` for too many webhooks of the team.
pub(super) async fn create_webhook(
    core: &Core,
    call: &RequestContext,
    name: &WebhookName,
    team: Option<TeamName>,
    mut spec: WebhookSpec,
) -> Result<Secret, Error> {
    let (creator, _) = call.require_owner()?;
    check_spec(&spec)?;
    let team = choose_owner_team(core, call, team, Permission::WEBHOOK_CREATE).await?;
    if spec.request.secret.is_empty() {
        spec.request.secret = Secret::random_hex().expose_secret().to_owned();
    }
    let id = WebhookId::new();
    let sealed = seal_request(&core.keys, id, &spec.request)?;
    let write = WebhookWrite {
        id,
        team: &team,
        spec: &spec,
        sealed: &sealed,
        most: MAX_WEBHOOKS,
    };
    let mut tx = core.db.begin().await?;
    let event = webhook_event(name, Permission::WEBHOOK_CREATE, &[&team], Some(&spec));
    events::record_event(&mut tx, call, &event).await?;
    lock_team(&mut tx, &team).await?;
    let inserted = db::map_constraint_violation(
        store::insert_webhook(&mut tx, name, creator, &write).await,
        "webhook_name_key",
        || Error::conflict("webhook already exists with the same name"),
    )?;
    if !inserted {
        return Err(too_many_webhooks());
    }
    tx.commit().await?;
    Ok(Secret::new(spec.request.secret))
}

/// Replaces a webhook by a new description of it. The secret stays if none is given, and so does the team.
/// Errors: `NotFound`, `Invalid`; `Forbidden`, also for a new team in which the caller may not create webhooks;
/// `QuotaExceeded` for too many webhooks of the new team.
pub(super) async fn update_webhook(
    core: &Core,
    call: &RequestContext,
    name: &WebhookName,
    team: Option<TeamName>,
    mut spec: WebhookSpec,
) -> Result<(), Error> {
    let found = find_authorized_webhook(core, call, name, Permission::WEBHOOK_UPDATE).await?;
    check_spec(&spec)?;
    let team = match team.filter(|team| *team != found.team) {
        Some(team) => choose_owner_team(core, call, Some(team), Permission::WEBHOOK_CREATE).await?,
        None => found.team.clone(),
    };
    let mut tx = core.db.begin().await?;
    let teams = if team == found.team {
        vec![&team]
    } else {
        vec![&found.team, &team]
    };
    let event = webhook_event(name, Permission::WEBHOOK_UPDATE, &teams, Some(&spec));
    events::record_event(&mut tx, call, &event).await?;
    lock_team(&mut tx, &team).await?;
    let current = relock_webhook(&mut tx, &core.keys, &found).await?;
    if spec.request.secret.is_empty() {
        spec.request.secret = current.spec.request.secret;
    }
    let sealed = seal_request(&core.keys, found.id, &spec.request)?;
    let write = WebhookWrite {
        id: found.id,
        team: &team,
        spec: &spec,
        sealed: &sealed,
        most: MAX_WEBHOOKS,
    };
    if !store::update_webhook(&mut tx, &write).await? {
        return Err(too_many_webhooks());
    }
    tx.commit().await?;
    // Another server may be well.
    core.outbound.forget_bulkhead(found.id.0);
    Ok(())
}

/// Deletes a webhook with what waits to be delivered to it. Errors: `NotFound`, `Forbidden`.
pub(super) async fn delete_webhook(
    core: &Core,
    call: &RequestContext,
    name: &WebhookName,
) -> Result<(), Error> {
    let found = find_authorized_webhook(core, call, name, Permission::WEBHOOK_DELETE).await?;
    let mut tx = core.db.begin().await?;
    let event = webhook_event(name, Permission::WEBHOOK_DELETE, &[&found.team], None);
    events::record_event(&mut tx, call, &event).await?;
    relock_webhook(&mut tx, &core.keys, &found).await?;
    if !store::delete_webhook(&mut tx, found.id).await? {
        return Err(Error::webhook_not_found(name));
    }
    deliveries::delete_open_deliveries(&mut tx, found.id).await?;
    tx.commit().await?;
    core.outbound.forget_bulkhead(found.id.0);
    Ok(())
}

async fn lock_team(tx: &mut PgConnection, team: &TeamName) -> Result<(), Error> {
    match store::lock_team(tx, team).await? {
        true => Ok(()),
        false => Err(Error::team_not_found(team)),
    }
}

/// Locks a webhook, checks that it is still the one that was found, in the same team, and returns it as it is
/// now. Errors: `NotFound`.
async fn relock_webhook(tx: &mut PgConnection, keys: &Keyring, found: &Webhook) -> Result<Webhook, Error> {
    if store::lock_webhook(tx, found.id).await? {
        let now = load_webhook(&mut *tx, keys, &found.name).await?;
        if now.id == found.id && now.team == found.team {
            return Ok(now);
        }
    }
    Err(Error::webhook_not_found(&found.name))
}

fn too_many_webhooks() -> Error {
    Error::new(
        ErrorKind::QuotaExceeded,
        format!("A team has at most {MAX_WEBHOOKS} webhooks: delete one that is not in use."),
    )
}
