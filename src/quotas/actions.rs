//! Look, change, reserve, release. Who may look or change is asked by the slice of the subject, but for
//! `of_owner`, which serves the old route that takes users and apps alike.

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::{Actor, Call};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, Email, TeamName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::{Kind, Problem};
use crate::quotas::model::Quota;
use crate::quotas::store;

/// Who or what has a quota.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A user: how many apps they may have created.
    User(&'a Email),
    /// A team: how many apps it may own.
    Team(&'a TeamName),
    /// An app: how many units it may have.
    App(&'a AppName),
}

impl Subject<'_> {
    fn unknown(self) -> Problem {
        Problem::not_found(match self {
            Subject::User(_) => "user not found",
            Subject::Team(_) => "team not found",
            Subject::App(_) => "app not found",
        })
    }

    fn event(self, limit: i32) -> NewEvent {
        let data = json!({ "limit": limit });
        match self {
            Subject::User(email) => NewEvent::new(
                Target::new(TargetKind::User, email),
                Permission::USER_UPDATE_QUOTA,
                vec![Context::new(ContextKind::User, email)],
                data,
            ),
            Subject::Team(team) => NewEvent::new(
                Target::new(TargetKind::Team, team),
                Permission::TEAM_UPDATE_QUOTA,
                vec![Context::team(team)],
                data,
            ),
            Subject::App(app) => NewEvent::new(
                Target::app(app),
                Permission::APP_ADMIN_QUOTA,
                vec![Context::new(ContextKind::App, app)],
                data,
            ),
        }
    }
}

/// A quota. Errors: `NotFound`.
pub async fn find(core: &Core, subject: Subject<'_>) -> Result<Quota, Problem> {
    let found = match subject {
        Subject::User(email) => store::find_user(&core.db, email).await?,
        Subject::Team(team) => store::find_team(&core.db, team).await?,
        Subject::App(app) => store::find_app(&core.db, app).await?,
    };
    found.ok_or_else(|| subject.unknown())
}

/// Sets a limit; -1 is none. The caller has been asked for the permission. Errors: `NotFound`;
/// `Forbidden` when more is in use.
pub async fn change(core: &Core, call: &Call, subject: Subject<'_>, limit: i32) -> Result<(), Problem> {
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &subject.event(limit)).await?;
    let done = match subject {
        Subject::User(email) => store::limit_user(&mut tx, email, limit).await?,
        Subject::Team(team) => store::limit_team(&mut tx, team, limit).await?,
        Subject::App(app) => {
            store::lock_app_named(&mut tx, app).await?;
            store::limit_app(&mut tx, app, limit).await?
        }
    };
    if !done {
        drop(tx);
        let quota = find(core, subject).await?;
        return Err(Problem::forbidden(format!(
            "New limit is less than the current allocated value: {} are in use.",
            quota.in_use
        )));
    }
    Ok(tx.commit().await?)
}

/// Takes one app of a user's quota. Errors: `QuotaExceeded`.
pub async fn reserve_app(tx: &mut PgConnection, email: &Email) -> Result<(), Problem> {
    match store::take_from_user(tx, email).await? {
        true => Ok(()),
        false => Err(exceeded()),
    }
}

/// Gives one app back; a user who is gone is fine.
pub async fn release_app(tx: &mut PgConnection, email: &Email) -> Result<(), Problem> {
    Ok(store::give_to_user(tx, email).await?)
}

/// Takes one app of a team's quota. Errors: `QuotaExceeded`.
pub async fn reserve_team_app(tx: &mut PgConnection, team: &TeamName) -> Result<(), Problem> {
    match store::take_from_team(tx, team).await? {
        true => Ok(()),
        false => Err(exceeded()),
    }
}

/// Gives one app of a team back.
pub async fn release_team_app(tx: &mut PgConnection, team: &TeamName) -> Result<(), Problem> {
    Ok(store::give_to_team(tx, team).await?)
}

/// Sees to it that an app may have `more` units, and locks its row so that nobody else counts at the same
/// time; call it before the units are written. Errors: `QuotaExceeded`, saying what is left.
pub async fn check_units(tx: &mut PgConnection, app: AppId, more: i32) -> Result<(), Problem> {
    let unknown = || Problem::not_found("app not found");
    if !store::lock_app(tx, app).await? {
        return Err(unknown());
    }
    let quota = store::find_app_by_id(tx, app).await?.ok_or_else(unknown)?;
    match quota.available() {
        Some(left) if more > left => Err(Problem::new(
            Kind::QuotaExceeded,
            format!("Quota exceeded. Available: {left}, Requested: {more}."),
        )),
        _ => Ok(()),
    }
}

fn exceeded() -> Problem {
    Problem::new(Kind::QuotaExceeded, "Quota exceeded")
}

/// The quota of a user or an app by its bare name, for those who may see it. Errors: `NotFound`,
/// `Forbidden`.
pub(super) async fn of_owner(core: &Core, call: &Call, owner: &str) -> Result<Quota, Problem> {
    let unknown = || Problem::not_found("There is no user and no app of that name.");
    if let Ok(email) = Email::parse(owner) {
        let own = matches!(&call.actor, Actor::User { email: me, .. } if *me == email);
        if !own {
            let on = [Context::new(ContextKind::User, &email)];
            call.allow(Permission::USER_READ_QUOTA, &on)?;
        }
        return find(core, Subject::User(&email)).await;
    }
    let app = AppName::parse(owner).map_err(|_| unknown())?;
    let (teams, pool) = store::app_places(&core.db, &app).await?.ok_or_else(unknown)?;
    let mut on: Vec<Context> = teams.iter().map(Context::team).collect();
    on.push(Context::new(ContextKind::App, &app));
    on.push(Context::new(ContextKind::Pool, pool));
    call.allow(Permission::APP_READ, &on)?;
    find(core, Subject::App(&app)).await
}
