//! What clients see of jobs (contract/modern 2.18).

use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::apps::BoundInstance;
use crate::jobs::model::{ConcurrencyPolicy, JobDescription, JobRun, RunState};
use crate::kernel::names::{AppName, PlanName, PoolName, TeamName};

/// The schedule by which clients know a job that has none.
pub(super) const NO_SCHEDULE: &str = "* * 31 2 *";
/// What clients call a job that runs.
const STARTED: &str = "started";

/// The answer to the creation of a job.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedJobView {
    pub(super) status: &'static str,
    pub(super) job_name: String,
    pub(super) next_runs: Vec<String>,
}

/// Instants with the offset of their zone.
pub(super) fn render_instants(instants: &[DateTime<chrono_tz::Tz>]) -> Vec<String> {
    let render = |at: &DateTime<chrono_tz::Tz>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    instants.iter().map(render).collect()
}

/// A job with its runs.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobInfoView {
    cluster: &'static str,
    #[serde(rename = "dashboardURL")]
    dashboard_url: &'static str,
    job: JobView,
    last_success_at: Option<DateTime<Utc>>,
    next_runs: Vec<String>,
    runs: Vec<JobRunView>,
    service_instance_binds: Vec<JobBindView>,
    units: Vec<JobUnitView>,
}

impl JobInfoView {
    pub(super) fn new(job: JobDescription, runs: Vec<JobRun>) -> Self {
        let name = job.full.app.name.clone();
        let binds = job.full.binds.iter().map(JobBindView::from).collect();
        Self {
            cluster: "",
            dashboard_url: "",
            last_success_at: job.last_success_at,
            next_runs: render_instants(&job.next_runs),
            service_instance_binds: binds,
            units: runs
                .iter()
                .filter_map(|run| JobUnitView::new(&name, run))
                .collect(),
            runs: runs.into_iter().map(JobRunView::from).collect(),
            job: JobView::from(job),
        }
    }
}

/// A job.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    description: String,
    metadata: JobMetadataView,
    name: AppName,
    owner: String,
    plan: JobPlanView,
    pool: PoolName,
    spec: JobSpecView,
    tags: Vec<String>,
    team_owner: TeamName,
    teams: Vec<TeamName>,
}

impl From<JobDescription> for JobView {
    fn from(job: JobDescription) -> Self {
        let spec = JobSpecView::new(&job);
        let plan = JobPlanView {
            cpumilli: job.full.cpu_milli,
            default: job.full.plan_is_default,
            memory: job.full.memory_bytes,
            name: job.full.app.plan.clone(),
        };
        let app = job.full.app;
        Self {
            description: app.description,
            metadata: serde_json::from_value(app.metadata).unwrap_or_default(),
            name: app.name,
            owner: app.owner,
            plan,
            pool: app.pool,
            spec,
            tags: app.tags,
            team_owner: app.team_owner,
            teams: app.teams,
        }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
struct JobMetadataView {
    annotations: Vec<JobMetadataItem>,
    labels: Vec<JobMetadataItem>,
}

#[derive(Debug, Deserialize, JsonSchema, Serialize)]
struct JobMetadataItem {
    name: String,
    value: String,
}

#[derive(Debug, JsonSchema, Serialize)]
struct JobPlanView {
    cpumilli: i32,
    default: bool,
    memory: i64,
    name: PlanName,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobSpecView {
    active_deadline_seconds: Option<i32>,
    backoff_limit: i32,
    completions: Option<i32>,
    /// With a capital, as clients know it from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_policy: Option<&'static str>,
    container: JobContainerView,
    envs: Vec<String>,
    manual: bool,
    missed_runs: &'static str,
    parallelism: Option<i32>,
    platform: String,
    schedule: String,
    service_envs: Option<Vec<String>>,
    starting_deadline_seconds: i32,
    time_zone: &'static str,
}

impl JobSpecView {
    fn new(job: &JobDescription) -> Self {
        let settings = &job.settings;
        let schedule = settings.schedule.as_ref();
        Self {
            active_deadline_seconds: settings.active_deadline,
            backoff_limit: settings.retries,
            completions: None,
            concurrency_policy: settings.concurrency.map(|chosen| match chosen {
                ConcurrencyPolicy::Allow => "Allow",
                ConcurrencyPolicy::Forbid => "Forbid",
                ConcurrencyPolicy::Replace => "Replace",
            }),
            container: JobContainerView {
                command: settings.command.clone(),
                image: String::new(),
                internal_registry_image: String::new(),
            },
            envs: Vec::new(),
            manual: schedule.is_none(),
            missed_runs: settings.missed_runs.as_str(),
            parallelism: None,
            platform: job.full.app.platform_text(),
            schedule: schedule
                .map_or(NO_SCHEDULE, |schedule| schedule.as_str())
                .to_owned(),
            service_envs: None,
            starting_deadline_seconds: settings.starting_deadline,
            time_zone: schedule.map_or("UTC", |schedule| schedule.zone_name()),
        }
    }
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobContainerView {
    command: Vec<String>,
    image: String,
    internal_registry_image: String,
}

#[derive(Debug, JsonSchema, Serialize)]
struct JobBindView {
    instance: String,
    plan: String,
    service: String,
}

impl From<&BoundInstance> for JobBindView {
    fn from(bound: &BoundInstance) -> Self {
        Self {
            instance: bound.instance.clone(),
            plan: bound.plan.clone(),
            service: bound.service.clone(),
        }
    }
}

/// A run.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobRunView {
    attempt: i32,
    ended_at: Option<DateTime<Utc>>,
    exit_status: Option<i32>,
    id: uuid::Uuid,
    origin: String,
    reason: String,
    scheduled_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    state: &'static str,
    unit: Option<String>,
    version: Option<i32>,
}

impl From<JobRun> for JobRunView {
    fn from(run: JobRun) -> Self {
        Self {
            attempt: run.attempt + 1,
            ended_at: run.ended_at,
            exit_status: run.exit_status,
            id: run.run_id,
            origin: run.origin,
            reason: run.reason,
            scheduled_at: run.scheduled_at,
            started_at: run.started_at,
            state: run.state.as_str(),
            unit: run.unit_id,
            version: run.version,
        }
    }
}

/// A run that has a unit, as clients show units.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct JobUnitView {
    address: Option<String>,
    addresses: Option<Vec<String>>,
    app_name: AppName,
    created_at: Option<DateTime<Utc>>,
    host_addr: &'static str,
    host_port: &'static str,
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "IP")]
    ip: &'static str,
    #[serde(rename = "InternalIP")]
    internal_ip: &'static str,
    name: String,
    process_name: &'static str,
    ready: bool,
    restarts: i32,
    routable: bool,
    status: &'static str,
    status_reason: String,
    r#type: &'static str,
    version: i32,
}

impl JobUnitView {
    fn new(job: &AppName, run: &JobRun) -> Option<Self> {
        let unit = run.unit_id.clone()?;
        let status = match (run.state, run.exit_status) {
            (RunState::Started, _) if run.launched => STARTED,
            (RunState::Started | RunState::Planned, _) => "created",
            (_, Some(0)) => "succeeded",
            _ => "error",
        };
        Some(Self {
            address: None,
            addresses: None,
            app_name: job.clone(),
            created_at: run.started_at,
            host_addr: "",
            host_port: "",
            id: unit.clone(),
            ip: "",
            internal_ip: "",
            name: unit,
            process_name: "",
            ready: status == STARTED,
            restarts: run.attempt,
            routable: false,
            status,
            status_reason: run.reason.clone(),
            r#type: "",
            version: run.version.unwrap_or(0),
        })
    }
}
