//! Jobs in the modern edition (contract/modern 2.18). Deploys, variables, binds and logs of jobs are with those of apps.

use axum::Json;

use crate::apps::{AppChange, MetadataPatch};
use crate::jobs::actions::{self, CreateJob, parse_schedule_change};
use crate::jobs::change::{self, JobChange};
use crate::jobs::model::SettingsChange;
use crate::jobs::views::{CreatedJobView, JobInfoView, JobView, render_instants};
use crate::kernel::error::Error;
use crate::kernel::names::JobName;
use crate::web::answers::{AcceptedJson, CreatedJson};
use crate::web::errors::modern::ModernResult;
use crate::web::metadata_items::parse_metadata_items;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// Reads when and how a job runs.
fn parse_settings(params: &Params) -> Result<SettingsChange, Error> {
    let container = params.get_object("container")?;
    if container.get_string("image")?.is_some() {
        return Err(Error::invalid(
            "The pool of the job runs no images: create the job without one, and deploy its files.",
        ));
    }
    let schedule = params.get_string("schedule")?;
    let zone = params.get_string("timezone")?;
    let command = container.get_strings("command")?;
    Ok(SettingsChange {
        schedule: parse_schedule_change(schedule.as_deref(), zone.as_deref(), params.get_bool("manual")?)?,
        command: (!command.is_empty()).then_some(command),
        concurrency: params.parse_field("concurrencypolicy")?,
        missed_runs: params.parse_field("missedruns")?,
        active_deadline: params.get_integer("activedeadlineseconds")?,
        starting_deadline: params.get_integer("startingdeadlineseconds")?,
        retries: params.get_integer("backofflimit")?,
    })
}

fn parse_metadata(params: &Params) -> Result<MetadataPatch, Error> {
    let (labels, annotations) = parse_metadata_items(params)?;
    Ok(MetadataPatch::from_items(labels, annotations))
}

fn parse_create_job(params: &Params) -> Result<CreateJob, Error> {
    Ok(CreateJob {
        name: JobName::parse(&params.require_string("name")?)?,
        platform: params.parse_field("platform")?,
        team_owner: params.parse_field("teamowner")?,
        plan: params.parse_field("plan")?,
        pool: params.parse_field("pool")?,
        description: params.get_string("description")?.unwrap_or_default(),
        tags: params.get_strings("tags")?,
        metadata: parse_metadata(&params.get_object("metadata")?)?,
        settings: parse_settings(params)?,
    })
}

fn parse_job_change(params: &Params) -> Result<JobChange, Error> {
    let tags = params.get_strings("tags")?;
    Ok(JobChange {
        shared: AppChange {
            description: params.get_string("description")?,
            tags: (!tags.is_empty()).then_some(tags),
            team_owner: params.parse_field("teamowner")?,
            plan: params.parse_field("plan")?,
            pool: params.parse_field("pool")?,
            platform: params.parse_field("platform")?,
            metadata: parse_metadata(&params.get_object("metadata")?)?,
            ..AppChange::default()
        },
        settings: parse_settings(params)?,
    })
}

/// `GET /1.13/jobs`
pub async fn list_jobs(ctx: Ctx) -> ModernResult<Json<Vec<JobView>>> {
    let jobs = actions::list_jobs(&ctx.core, &ctx.request).await?;
    Ok(Json(jobs.into_iter().map(JobView::from).collect()))
}

/// `POST /1.13/jobs`: JSON.
pub async fn create_job(ctx: Ctx, params: Params) -> ModernResult<CreatedJson<CreatedJobView>> {
    let request = parse_create_job(&params)?;
    let job_name = request.name.to_string();
    let next = actions::create_job(&ctx.core, &ctx.request, request).await?;
    let view = CreatedJobView {
        status: "success",
        job_name,
        next_runs: render_instants(&next),
    };
    Ok(CreatedJson(view))
}

/// `GET /1.13/jobs/{job}`
pub async fn get_job(ctx: Ctx, Path(job): Path<JobName>) -> ModernResult<Json<JobInfoView>> {
    let (job, runs) = actions::describe_job(&ctx.core, &ctx.request, &job).await?;
    Ok(Json(JobInfoView::new(job, runs)))
}

/// `PUT /1.13/jobs/{job}`: JSON.
pub async fn update_job(
    ctx: Ctx,
    Path(job): Path<JobName>,
    params: Params,
) -> ModernResult<AcceptedJson<JobView>> {
    change::update_job(&ctx.core, &ctx.request, &job, parse_job_change(&params)?).await?;
    let (job, _) = actions::describe_job(&ctx.core, &ctx.request, &job).await?;
    Ok(AcceptedJson(JobView::from(job)))
}

/// `DELETE /1.13/jobs/{job}`: answers when the job is gone.
pub async fn remove_job(ctx: Ctx, Path(job): Path<JobName>) -> ModernResult {
    let event = actions::remove_job(&ctx.core, &ctx.request, &job).await?;
    Ok(ctx.wait_for_event(&event).await?)
}

/// `POST /1.13/jobs/{job}/trigger`
pub async fn trigger_job(ctx: Ctx, Path(job): Path<JobName>) -> ModernResult {
    Ok(actions::trigger_job(&ctx.core, &ctx.request, &job).await?)
}

/// `DELETE /1.13/jobs/{job}/units/{unit}`
pub async fn kill_unit(ctx: Ctx, Path((job, unit)): Path<(JobName, String)>) -> ModernResult {
    Ok(actions::kill_unit(&ctx.core, &ctx.request, &job, &unit).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.13", GET, "/jobs", UserToken, list_jobs)
        .add_versioned_route("1.13", POST, "/jobs", UserToken, create_job)
        .add_versioned_route("1.13", GET, "/jobs/{job}", UserToken, get_job)
        .add_versioned_route("1.13", PUT, "/jobs/{job}", UserToken, update_job)
        .add_versioned_route("1.13", DELETE, "/jobs/{job}", UserToken, remove_job).allow_service_time()
        .add_versioned_route("1.13", POST, "/jobs/{job}/trigger", UserToken, trigger_job)
        .add_versioned_route("1.13", DELETE, "/jobs/{job}/units/{unit}", UserToken, kill_unit)
}
