//! Views of apps: the parts that both editions share, and the modern views, which the view of a team uses
//! too. Fields are in the order of their keys.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::apps::autoscale::AppScaleRule;
use crate::apps::model::{App, AppDescription, UnitView};
use crate::apps::plan_override::PlanOverride;
use crate::apps::volume_views::AppVolumeView;
use crate::core::Core;
use crate::kernel::names::{AppName, PlanName, PoolName, TeamName};
use crate::plans::PlanBurstView;
use crate::quotas::{Quota, QuotaView};

/// A unit; its address is an object (contract/modern 2.21).
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AppUnitView {
    address: UnitAddressView,
    addresses: [UnitAddressView; 1],
    app_name: AppName,
    created_at: DateTime<Utc>,
    host_addr: String,
    host_port: String,
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(rename = "InternalIP")]
    internal_ip: String,
    #[serde(rename = "Ip", skip_serializing_if = "Option::is_none")]
    classic_ip: Option<String>,
    name: String,
    process_name: String,
    ready: bool,
    restarts: i32,
    routable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    status: String,
    status_reason: String,
    r#type: String,
    version: i32,
}

#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UnitAddressView {
    host: String,
    scheme: &'static str,
}

impl AppUnitView {
    fn new(app: &App, unit: &UnitView) -> Self {
        let host = unit.address.clone().unwrap_or_default();
        let (ip, port) = host.rsplit_once(':').unwrap_or_default();
        let (ip, port) = (ip.to_owned(), port.to_owned());
        let address = UnitAddressView { host, scheme: "http" };
        Self {
            addresses: [address.clone()],
            address,
            app_name: app.name.clone(),
            created_at: unit.created_at,
            host_addr: ip.clone(),
            host_port: port,
            id: unit.id.clone(),
            ip: Some(ip.clone()),
            internal_ip: ip,
            classic_ip: None,
            name: unit.id.clone(),
            process_name: unit.process.clone(),
            ready: unit.ready,
            restarts: unit.restarts,
            routable: unit.phase == "serving" && unit.is_routable,
            state: None,
            status: unit.state.clone(),
            status_reason: unit.reason.clone(),
            r#type: app.platform_text(),
            version: unit.version,
        }
    }

    /// Returns the units of an app.
    fn list(full: &AppDescription) -> Vec<Self> {
        full.units.iter().map(|unit| Self::new(&full.app, unit)).collect()
    }

    /// Returns the units of an app with the keys of the classic reference and those of later clients.
    pub(super) fn list_classic(full: &AppDescription) -> Vec<Self> {
        let classic = |view: Self| Self {
            ip: None,
            classic_ip: view.ip,
            state: Some(view.status.clone()),
            ..view
        };
        Self::list(full).into_iter().map(classic).collect()
    }
}

/// The router of an app: the built-in one.
#[derive(Debug, JsonSchema, Serialize)]
pub struct AppRouterView {
    address: String,
    addresses: [String; 1],
    name: &'static str,
    opts: EmptyObject,
    status: &'static str,
    #[serde(rename = "status-detail")]
    status_detail: &'static str,
    r#type: &'static str,
}

#[derive(Debug, JsonSchema, Serialize)]
struct EmptyObject {}

impl AppRouterView {
    pub(super) fn new(core: &Core, app: &App) -> Self {
        let address = core.public.app_address(&app.label);
        Self {
            addresses: [address.clone()],
            address,
            name: "proxy",
            opts: EmptyObject {},
            status: "ready",
            status_detail: "",
            r#type: "proxy",
        }
    }
}

/// The plan of an app.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct AppPlanView {
    #[serde(rename = "cpuBurst", skip_serializing_if = "Option::is_none")]
    cpu_burst: Option<PlanBurstView>,
    cpumilli: i32,
    default: bool,
    memory: i64,
    name: PlanName,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#override: Option<PlanOverrideView>,
}

/// What an app has instead of what its plan says; null: as the plan says.
#[derive(Debug, JsonSchema, Serialize)]
struct PlanOverrideView {
    #[serde(rename = "cpuBurst")]
    cpu_burst: Option<f64>,
    cpumilli: Option<i32>,
    memory: Option<i64>,
}

impl From<PlanOverride> for PlanOverrideView {
    fn from(stored: PlanOverride) -> Self {
        Self {
            cpu_burst: stored.cpu_burst,
            cpumilli: stored.cpu_milli,
            memory: stored.memory_bytes,
        }
    }
}

impl From<&AppDescription> for AppPlanView {
    fn from(full: &AppDescription) -> Self {
        Self {
            cpu_burst: full.plan_burst.map(PlanBurstView::from),
            cpumilli: full.cpu_milli,
            default: full.plan_is_default,
            memory: full.memory_bytes,
            name: full.app.plan.clone(),
            r#override: (!full.plan_override.is_empty()).then(|| full.plan_override.into()),
        }
    }
}

/// The response to a creation; clients decode it into a map of strings.
#[derive(Debug, JsonSchema, Serialize)]
pub struct CreatedAppView {
    ip: String,
    repository_url: String,
    status: &'static str,
}

impl CreatedAppView {
    pub(super) fn new(core: &Core, app: &App) -> Self {
        Self {
            ip: core.public.app_address(&app.label),
            repository_url: core.public.repository_url(&app.name),
            status: "success",
        }
    }
}

#[derive(Debug, JsonSchema, Serialize)]
struct MetadataView {
    annotations: Value,
    labels: Value,
}

impl From<&Value> for MetadataView {
    fn from(stored: &Value) -> Self {
        let part = |key: &str| {
            stored
                .get(key)
                .cloned()
                .unwrap_or_else(|| Value::Array(Vec::new()))
        };
        Self {
            annotations: part("annotations"),
            labels: part("labels"),
        }
    }
}

/// An app in the modern list.
#[derive(Debug, JsonSchema, Serialize)]
pub struct AppSummaryView {
    cname: Vec<String>,
    description: String,
    ip: String,
    metadata: MetadataView,
    name: AppName,
    owner: String,
    plan: AppPlanView,
    platform: String,
    pool: PoolName,
    routers: [AppRouterView; 1],
    tags: Vec<String>,
    teamowner: TeamName,
    teams: Vec<TeamName>,
    units: Vec<AppUnitView>,
}

impl AppSummaryView {
    pub(super) fn new(core: &Core, full: &AppDescription) -> Self {
        let app = full.app.clone();
        Self {
            ip: core.public.app_address(&app.label),
            metadata: MetadataView::from(&app.metadata),
            plan: AppPlanView::from(full),
            platform: app.platform_text(),
            routers: [AppRouterView::new(core, &app)],
            units: AppUnitView::list(full),
            cname: app.cnames,
            description: app.description,
            name: app.name,
            owner: app.owner,
            pool: app.pool,
            tags: app.tags,
            teamowner: app.team_owner,
            teams: app.teams,
        }
    }

    /// Leaves the units out.
    pub(super) fn without_units(self) -> Self {
        Self {
            units: Vec::new(),
            ..self
        }
    }
}

/// One app in the modern edition.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppView {
    autoscale: Vec<AppScaleRule>,
    cname: Vec<String>,
    deploys: i32,
    description: String,
    internal_addresses: [(); 0],
    ip: String,
    metadata: MetadataView,
    name: AppName,
    owner: String,
    plan: AppPlanView,
    platform: String,
    pool: PoolName,
    processes: Vec<AppProcessView>,
    provisioner: String,
    quota: QuotaView,
    repository: String,
    router: &'static str,
    routers: [AppRouterView; 1],
    service_instance_binds: Vec<InstanceBindView>,
    tags: Vec<String>,
    teamowner: TeamName,
    teams: Vec<TeamName>,
    units: Vec<AppUnitView>,
    units_metrics: [(); 0],
    volume_binds: Vec<AppVolumeView>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct AppProcessView {
    metadata: MetadataView,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
}

impl AppProcessView {
    /// Returns the processes of an app, and those that only have settings.
    fn list(full: &AppDescription) -> Vec<Self> {
        let metadata = &full.app.metadata["processes"];
        let plans: BTreeMap<&str, &str> = full
            .process_plans
            .iter()
            .map(|(process, plan)| (process.as_str(), plan.as_str()))
            .collect();
        let mut names: BTreeSet<&str> = full
            .processes
            .iter()
            .map(|scale| scale.process.as_str())
            .collect();
        names.extend(plans.keys());
        names.extend(
            metadata
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.as_str()),
        );
        let view = |name: &str| Self {
            metadata: MetadataView::from(&metadata[name]),
            name: name.to_owned(),
            plan: plans.get(name).map(|plan| (*plan).to_owned()),
        };
        names.into_iter().map(view).collect()
    }
}

#[derive(Debug, JsonSchema, Serialize)]
struct InstanceBindView {
    instance: String,
    plan: String,
    service: String,
}

impl AppView {
    /// Creates the view of an app that the caller may read.
    pub fn new(core: &Core, full: &AppDescription) -> Self {
        let summary = AppSummaryView::new(core, full);
        let binds = full.binds.iter().map(|bind| InstanceBindView {
            instance: bind.instance.clone(),
            plan: bind.plan.clone(),
            service: bind.service.clone(),
        });
        Self {
            autoscale: full.scale_rules.clone(),
            cname: summary.cname,
            deploys: full.app.deploys,
            description: summary.description,
            internal_addresses: [],
            ip: summary.ip,
            metadata: summary.metadata,
            name: summary.name,
            owner: summary.owner,
            plan: summary.plan,
            platform: summary.platform,
            pool: summary.pool,
            processes: AppProcessView::list(full),
            provisioner: full.provisioner.clone(),
            quota: QuotaView::from(Quota {
                limit: full.app.quota_limit,
                in_use: full.desired_unit_count(),
            }),
            repository: core.public.repository_url(&full.app.name),
            router: "proxy",
            routers: summary.routers,
            service_instance_binds: binds.collect(),
            tags: summary.tags,
            teamowner: summary.teamowner,
            teams: summary.teams,
            units: summary.units,
            units_metrics: [],
            volume_binds: full
                .volumes
                .iter()
                .map(|bound| AppVolumeView::new(full, bound))
                .collect(),
        }
    }
}
