//! The part of a job that it shares with apps: its row, of the kind `job`. Whoever may change the job is decided by the
//! slice of jobs, and so is what is recorded.

use sqlx::PgConnection;

use crate::apps::actions::{choice_just_removed, find_authorized_app, is_missing_choice};
use crate::apps::change::{check_description, check_tags, save_first_settings};
use crate::apps::metadata::MetadataPatch;
use crate::apps::model::{App, AppDescription, AppKind};
use crate::apps::store::{self, NewApp};
use crate::core::Core;
use crate::db::{self, map_constraint_violation};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, JobName, PlanName, PlatformName, PoolName, TeamName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::{platforms, pools};

/// A job to create, for a team and an owner who may create it.
#[derive(Debug)]
pub struct JobAppRequest {
    pub name: JobName,
    pub platform: PlatformName,
    pub team_owner: TeamName,
    pub owner: String,
    pub plan: Option<PlanName>,
    pub pool: Option<PoolName>,
    pub description: String,
    pub tags: Vec<String>,
    pub metadata: MetadataPatch,
}

/// A job that can be created: what its request leaves open is chosen.
#[derive(Debug)]
pub struct NewJobApp {
    request: JobAppRequest,
    plan: PlanName,
    pool: PoolName,
}

/// Checks a request, and chooses pool and plan. Errors: `Invalid` for what a job may not have.
pub async fn check_job_app(core: &Core, request: JobAppRequest) -> Result<NewJobApp, Error> {
    platforms::check_platform_usable(&core.db, &request.platform).await?;
    check_description(&request.description)?;
    check_tags(&request.tags)?;
    let pool = pools::choose_pool(&core.db, request.pool.as_ref(), &request.team_owner).await?;
    let plan = pools::choose_plan(&core.db, &pool, request.plan.as_ref()).await?;
    Ok(NewJobApp { request, plan, pool })
}

/// Inserts the row of a job. Errors: `Conflict` if there is one of the name.
pub async fn insert_job_app(tx: &mut PgConnection, job: &NewJobApp) -> Result<App, Error> {
    let NewJobApp {
        request: job,
        plan,
        pool,
    } = job;
    let name = AppName::parse(job.name.as_str())?;
    let new = NewApp {
        id: AppId::new(),
        kind: AppKind::Job,
        name: &name,
        platform: Some(&job.platform),
        plan,
        pool,
        team_owner: &job.team_owner,
        owner: &job.owner,
        description: &job.description,
        tags: &job.tags,
        quota_limit: -1,
    };
    let taken = || Error::conflict(format!("Job {name:?} already exists: choose another name."));
    match store::insert_app(tx, &new).await {
        Err(error) if is_missing_choice(&error) => return Err(choice_just_removed()),
        // Two constraints say that the name is taken; which one is violated first is not defined.
        Err(error) if db::violates_constraint(&error, "app_label_key") => return Err(taken()),
        other => map_constraint_violation(other, "app_name_key", taken)?,
    }
    save_first_settings(tx, &new, &job.metadata, &[]).await?;
    store::find_app_of_kind(tx, AppKind::Job, &name)
        .await?
        .ok_or_else(|| Error::internal("the job just created was not found"))
}

/// Finds a job. Errors: `NotFound`.
pub async fn find_job_app(core: &Core, name: &JobName) -> Result<App, Error> {
    let found = match AppName::parse(name.as_str()) {
        Ok(name) => store::find_app_of_kind(&core.db, AppKind::Job, &name).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| Error::job_not_found(name))
}

/// Finds the app or the job of a name, on which the caller holds the permission. Errors: `NotFound`, `Forbidden`.
pub async fn find_authorized_target(
    core: &Core,
    call: &RequestContext,
    (kind, name): (AppKind, &AppName),
    permission: Permission,
) -> Result<App, Error> {
    match kind {
        AppKind::App => find_authorized_app(core, call, name, permission).await,
        AppKind::Job => {
            let job = find_job_app(core, &JobName::parse(name.as_str())?).await?;
            call.authorize(permission, &job.permission_contexts())?;
            Ok(job)
        }
    }
}

/// Describes jobs, ordered by name; those that are gone are left out.
pub async fn describe_job_apps(core: &Core, names: &[AppName]) -> Result<Vec<AppDescription>, Error> {
    Ok(store::list_descriptions(&core.db, AppKind::Job, names).await?)
}
