//! The rows of the app queries, and their conversion to the types of the model.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use crate::apps::autoscale::AppScaleRule;
use crate::apps::model::{
    App, AppDescription, AppKind, AppState, BoundInstance, BoundVolume, ProcessScale, UnitView,
};
use crate::apps::plan_override::PlanOverride;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};
use crate::plans::PlanBurst;

/// The record of a unit: what it is, its state, its creation time. A Postgres record, because Postgres builds
/// and sends records in half the time of JSON; in three parts, because sqlx decodes only short tuples.
pub(super) type UnitRecord = (
    (String, String, i32, Option<String>),
    (String, String, String, i32, bool, bool),
    DateTime<Utc>,
);

impl From<UnitRecord> for UnitView {
    fn from(
        ((id, process, version, address), (phase, state, reason, restarts, ready, is_routable), created_at): UnitRecord,
    ) -> Self {
        Self {
            id,
            process,
            version,
            phase,
            state,
            reason,
            address,
            restarts,
            ready,
            is_routable,
            created_at,
        }
    }
}

/// A row of the one query that describes apps.
pub(super) struct AppDescriptionRow {
    pub(super) app_id: AppId,
    pub(super) kind: AppKind,
    pub(super) number: i32,
    pub(super) name: AppName,
    pub(super) label: String,
    pub(super) platform: Option<PlatformName>,
    pub(super) plan: PlanName,
    pub(super) pool: PoolName,
    pub(super) team_owner: TeamName,
    pub(super) owner: String,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) metadata: serde_json::Value,
    pub(super) state: AppState,
    pub(super) quota_limit: i32,
    pub(super) deploys: i32,
    pub(super) current_release: Option<i64>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) teams: Vec<TeamName>,
    pub(super) cnames: Vec<String>,
    pub(super) memory_bytes: i64,
    pub(super) cpu_milli: i32,
    pub(super) cpu_burst: Option<f64>,
    pub(super) max_cpu_burst: Option<f64>,
    pub(super) plan_is_default: bool,
    pub(super) provisioner: String,
    pub(super) units: Vec<UnitRecord>,
    pub(super) override_memory_bytes: Option<i64>,
    pub(super) override_cpu_milli: Option<i32>,
    pub(super) override_cpu_burst: Option<f64>,
    pub(super) processes: Vec<(String, i32)>,
    pub(super) process_plans: Vec<(String, String)>,
    pub(super) binds: Vec<(String, String, String)>,
    pub(super) volumes: Vec<(String, String, bool)>,
    pub(super) scale_rules: Json<Vec<AppScaleRule>>,
}

impl From<AppDescriptionRow> for AppDescription {
    fn from(row: AppDescriptionRow) -> Self {
        let app = App {
            id: row.app_id,
            kind: row.kind,
            number: row.number,
            name: row.name,
            label: row.label,
            platform: row.platform,
            plan: row.plan,
            pool: row.pool,
            team_owner: row.team_owner,
            owner: row.owner,
            description: row.description,
            tags: row.tags,
            metadata: row.metadata,
            state: row.state,
            quota_limit: row.quota_limit,
            deploys: row.deploys,
            current_release: row.current_release,
            created_at: row.created_at,
            teams: row.teams,
            cnames: row.cnames,
        };
        let scales = row
            .processes
            .into_iter()
            .map(|(process, units)| ProcessScale { process, units });
        let bounds = row
            .binds
            .into_iter()
            .map(|(service, instance, plan)| BoundInstance {
                service,
                instance,
                plan,
            });
        AppDescription {
            app,
            memory_bytes: row.memory_bytes,
            cpu_milli: row.cpu_milli,
            plan_burst: PlanBurst::new(row.cpu_burst, row.max_cpu_burst),
            plan_is_default: row.plan_is_default,
            plan_override: PlanOverride {
                memory_bytes: row.override_memory_bytes,
                cpu_milli: row.override_cpu_milli,
                cpu_burst: row.override_cpu_burst,
            },
            provisioner: row.provisioner,
            units: row.units.into_iter().map(UnitView::from).collect(),
            processes: scales.collect(),
            process_plans: row.process_plans,
            binds: bounds.collect(),
            scale_rules: row.scale_rules.0,
            volumes: row
                .volumes
                .into_iter()
                .map(|(volume, mount_point, is_read_only)| BoundVolume {
                    volume,
                    mount_point,
                    is_read_only,
                })
                .collect(),
        }
    }
}
