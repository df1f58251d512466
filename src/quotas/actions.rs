//! Actions on quotas: find, change, check. The slice of the subject checks the permission, except for
//! `find_owner_quota`, which serves the old route for both users and apps.

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::db::Db;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, Email, TeamName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::{Actor, RequestContext};
use crate::quotas::model::Quota;
use crate::quotas::store;

/// The owner of a quota of apps.
#[derive(Clone, Copy, Debug)]
pub enum QuotaSubject<'a> {
    /// A user: how many apps they may have created.
    User(&'a Email),
    /// A team: how many apps it may own.
    Team(&'a TeamName),
}

impl QuotaSubject<'_> {
    fn not_found_error(self) -> Error {
        match self {
            QuotaSubject::User(email) => Error::user_not_found(email),
            QuotaSubject::Team(team) => Error::team_not_found(team),
        }
    }

    fn limit_event(self, limit: i32) -> NewEvent {
        let data = json!({ "limit": limit });
        match self {
            QuotaSubject::User(email) => NewEvent::new(
                EventTarget::new(EventTargetKind::User, email),
                Permission::USER_UPDATE_QUOTA,
                vec![PermissionContext::new(ContextKind::User, email)],
                data,
            ),
            QuotaSubject::Team(team) => NewEvent::new(
                EventTarget::new(EventTargetKind::Team, team),
                Permission::TEAM_UPDATE_QUOTA,
                vec![PermissionContext::for_team(team)],
                data,
            ),
        }
    }
}

/// Returns a quota of apps. Errors: `NotFound`.
pub async fn find_quota(core: &Core, subject: QuotaSubject<'_>) -> Result<Quota, Error> {
    let found = match subject {
        QuotaSubject::User(email) => store::find_user_quota(&core.db, email).await?,
        QuotaSubject::Team(team) => store::find_team_quota(&core.db, team).await?,
    };
    found.ok_or_else(|| subject.not_found_error())
}

/// Sets a limit of apps; -1 means no limit. The permission has been checked by the slice of the subject. Errors:
/// `NotFound`; `Forbidden` if more is in use.
pub async fn change_limit(
    core: &Core,
    call: &RequestContext,
    subject: QuotaSubject<'_>,
    limit: i32,
) -> Result<(), Error> {
    let mut tx = core.db.begin().await?;
    events::record_event(&mut tx, call, &subject.limit_event(limit)).await?;
    let quota = lock_and_count(&mut tx, subject)
        .await?
        .ok_or_else(|| subject.not_found_error())?;
    check_new_limit(quota, limit)?;
    match subject {
        QuotaSubject::User(email) => store::set_user_limit(&mut tx, email, limit).await?,
        QuotaSubject::Team(team) => store::set_team_limit(&mut tx, team, limit).await?,
    }
    Ok(tx.commit().await?)
}

/// Locks the row of a subject until the end of the transaction, then counts what is in use.
async fn lock_and_count(tx: &mut PgConnection, subject: QuotaSubject<'_>) -> Result<Option<Quota>, Error> {
    let found = match subject {
        QuotaSubject::User(email) => store::lock_user(tx, email).await?,
        QuotaSubject::Team(team) => store::lock_team(tx, team).await?,
    };
    if !found {
        return Ok(None);
    }
    Ok(match subject {
        QuotaSubject::User(email) => store::find_user_quota(tx, email).await?,
        QuotaSubject::Team(team) => store::find_team_quota(tx, team).await?,
    })
}

/// Checks that a user may create, or a team may own, one more app. Locks its row so that no other transaction
/// counts at the same time; call it before writing the app. Errors: `QuotaExceeded`.
pub async fn check_app_quota(tx: &mut PgConnection, subject: QuotaSubject<'_>) -> Result<(), Error> {
    match lock_and_count(tx, subject).await? {
        Some(quota) if quota.allows_more(1) => Ok(()),
        _ => Err(quota_exceeded()),
    }
}

/// Refuses a limit below the number in use.
fn check_new_limit(quota: Quota, limit: i32) -> Result<(), Error> {
    match limit != -1 && quota.in_use > limit {
        true => Err(Error::forbidden(format!(
            "New limit is less than the current allocated value: {} are in use.",
            quota.in_use
        ))),
        false => Ok(()),
    }
}

/// Returns the quota of units of an app. Errors: `NotFound`.
pub async fn find_unit_quota(db: &Db, app: AppId) -> Result<Quota, Error> {
    store::find_unit_quota(db, app).await?.ok_or_else(app_gone)
}

/// Sets the limit of units of an app; -1 means no limit. The slice of the app has checked the permission and
/// records the event. Errors: `NotFound`; `Forbidden` if more is in use.
pub async fn change_unit_limit(tx: &mut PgConnection, app: AppId, limit: i32) -> Result<(), Error> {
    check_new_limit(lock_and_count_units(tx, app).await?, limit)?;
    Ok(store::set_unit_limit(tx, app, limit).await?)
}

/// Checks that an app may have `more` units. Locks its row so that no other transaction counts at the same
/// time; call it before writing the units. Errors: `QuotaExceeded` with the number of available units.
pub async fn check_unit_quota(tx: &mut PgConnection, app: AppId, more: i32) -> Result<(), Error> {
    let quota = lock_and_count_units(tx, app).await?;
    match quota.available_count() {
        Some(left) if more > left => Err(Error::new(
            ErrorKind::QuotaExceeded,
            format!("Quota exceeded. Available: {left}, Requested: {more}."),
        )),
        _ => Ok(()),
    }
}

/// Checks that an app may have the units that its processes request with a version, which may have other processes than the
/// current one. `side` is that of its release; `keeps_others`: the versions on other sides go on. An app that is over its
/// limit already may be deployed without more units. Locks its row, like `check_unit_quota`. Errors: `QuotaExceeded`.
pub async fn check_version_quota(
    tx: &mut PgConnection,
    app: AppId,
    (version, side): (i32, i32),
    keeps_others: bool,
) -> Result<(), Error> {
    let quota = lock_and_count_units(tx, app).await?;
    let requested = store::count_version_units(&mut *tx, app, version, side).await?;
    let total = match keeps_others {
        true => requested + store::count_other_sides(tx, app, side).await?,
        false => requested,
    };
    match quota.limit >= 0 && total > quota.limit && total > quota.in_use {
        true => Err(Error::new(
            ErrorKind::QuotaExceeded,
            format!(
                "Quota exceeded: the processes of version {version} request {requested} units, and the app may have at most {}. Remove units or processes.",
                quota.limit
            ),
        )),
        false => Ok(()),
    }
}

async fn lock_and_count_units(tx: &mut PgConnection, app: AppId) -> Result<Quota, Error> {
    match store::lock_app(tx, app).await? {
        true => store::find_unit_quota(tx, app).await?.ok_or_else(app_gone),
        false => Err(app_gone()),
    }
}

fn app_gone() -> Error {
    Error::not_found("The app is gone.")
}

fn quota_exceeded() -> Error {
    Error::new(ErrorKind::QuotaExceeded, "Quota exceeded")
}

/// Returns the quota of a user or an app by name only, for callers who may read it. Errors: `NotFound`;
/// `Forbidden`, which does not reveal whether the user or the app exists.
pub(super) async fn find_owner_quota(
    core: &Core,
    call: &RequestContext,
    owner: &str,
) -> Result<Quota, Error> {
    let unknown = || Error::not_found("There is no user and no app of that name.");
    if let Ok(email) = Email::parse(owner) {
        let named = store::find_user_by_email(&core.db, &email).await?;
        let own = matches!((&call.actor, &named), (Actor::User { id: me, .. }, Some((id, _))) if me == id);
        let email = named.map_or(email, |(_, email)| email);
        if !own {
            let on = [PermissionContext::new(ContextKind::User, &email)];
            call.authorize(Permission::USER_READ_QUOTA, &on)?;
        }
        return find_quota(core, QuotaSubject::User(&email)).await;
    }
    let app = AppName::parse(owner).map_err(|_| unknown())?;
    let mut on = vec![PermissionContext::new(ContextKind::App, &app)];
    let found = store::find_app_contexts(&core.db, &app).await?;
    if let Some((_, teams, pool)) = &found {
        on.extend(teams.iter().map(PermissionContext::for_team));
        on.push(PermissionContext::new(ContextKind::Pool, pool));
    }
    call.authorize(Permission::APP_READ, &on)?;
    let (id, ..) = found.ok_or_else(|| Error::app_not_found(&app))?;
    let quota = store::find_unit_quota(&core.db, id).await?;
    quota.ok_or_else(|| Error::app_not_found(&app))
}
