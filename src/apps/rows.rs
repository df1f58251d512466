//! The rows in which Postgres sends apps, and what becomes of them.

use chrono::{DateTime, Utc};

use crate::apps::model::{App, AppState, Bound, Full, Scale, UnitView};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};

/// What a unit's row shows: what it is, how it is, since when. A record, because Postgres makes and sends records
/// in half the time of JSON; in three parts, because tuples that can be read are short.
pub(super) type UnitRecord = (
    (String, String, i32, Option<String>),
    (String, String, String, i32, bool),
    DateTime<Utc>,
);

impl From<UnitRecord> for UnitView {
    fn from(
        ((id, process, version, address), (phase, state, reason, restarts, ready), created_at): UnitRecord,
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
            created_at,
        }
    }
}

/// A row of the one query that describes apps.
pub(super) struct Row {
    pub(super) app_id: AppId,
    pub(super) number: i32,
    pub(super) name: AppName,
    pub(super) label: String,
    pub(super) platform: PlatformName,
    pub(super) plan: PlanName,
    pub(super) pool: PoolName,
    pub(super) team_owner: TeamName,
    pub(super) owner: String,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) metadata: serde_json::Value,
    pub(super) state: String,
    pub(super) quota_limit: i32,
    pub(super) deploys: i32,
    pub(super) current_release: Option<i64>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) teams: Vec<TeamName>,
    pub(super) cnames: Vec<String>,
    pub(super) memory_bytes: i64,
    pub(super) cpu_milli: i32,
    pub(super) plan_is_default: bool,
    pub(super) provisioner: String,
    pub(super) units: Vec<UnitRecord>,
    pub(super) processes: Vec<(String, i32, bool)>,
    pub(super) binds: Vec<(String, String, String)>,
}

impl From<Row> for Full {
    fn from(row: Row) -> Self {
        let app = App {
            id: row.app_id,
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
            state: if row.state == "live" {
                AppState::Live
            } else {
                AppState::Removing
            },
            quota_limit: row.quota_limit,
            deploys: row.deploys,
            current_release: row.current_release,
            created_at: row.created_at,
            teams: row.teams,
            cnames: row.cnames,
        };
        let scales = row.processes.into_iter().map(|(process, units, stopped)| Scale {
            process,
            units,
            stopped,
        });
        let bounds = row.binds.into_iter().map(|(service, instance, plan)| Bound {
            service,
            instance,
            plan,
        });
        Full {
            app,
            memory_bytes: row.memory_bytes,
            cpu_milli: row.cpu_milli,
            plan_is_default: row.plan_is_default,
            provisioner: row.provisioner,
            units: row.units.into_iter().map(UnitView::from).collect(),
            processes: scales.collect(),
            binds: bounds.collect(),
        }
    }
}
