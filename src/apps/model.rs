//! The types of apps.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::apps::autoscale::AppScaleRule;
use crate::apps::plan_override::PlanOverride;
use crate::events::{EventTarget, EventTargetKind};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};
use crate::kernel::permission::{ContextKind, PermissionContext};
use crate::plans::PlanBurst;

/// What a row of an app is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum AppKind {
    App,
    /// A job shares with apps what is deployed, configured and bound.
    Job,
}

impl AppKind {
    /// Returns the word in the database and in sentences.
    pub fn as_str(self) -> &'static str {
        match self {
            AppKind::App => "app",
            AppKind::Job => "job",
        }
    }
}

/// The life cycle of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum AppState {
    Live,
    Removing,
}

/// An app.
#[derive(Clone, Debug)]
pub struct App {
    pub id: AppId,
    pub kind: AppKind,
    /// A small number that is never reused; the uid of its units is derived from it.
    pub number: i32,
    pub name: AppName,
    /// First label of its address.
    pub label: String,
    /// What its archives are built with; `None`: it is deployed from images and Dockerfiles only.
    pub platform: Option<PlatformName>,
    pub plan: PlanName,
    pub pool: PoolName,
    pub team_owner: TeamName,
    /// Email address of the user who created it.
    pub owner: String,
    pub description: String,
    pub tags: Vec<String>,
    pub metadata: serde_json::Value,
    pub state: AppState,
    /// Maximum number of units; -1 for no limit.
    pub quota_limit: i32,
    pub deploys: i32,
    pub current_release: Option<i64>,
    pub created_at: DateTime<Utc>,
    pub teams: Vec<TeamName>,
    pub cnames: Vec<String>,
}

impl App {
    /// Returns the target of events about it.
    pub fn event_target(&self) -> EventTarget {
        match self.kind {
            AppKind::App => EventTarget::for_app(&self.name),
            AppKind::Job => EventTarget::new(EventTargetKind::Job, &self.name),
        }
    }

    /// Returns the name of its platform as clients read it; empty: it has none.
    pub fn platform_text(&self) -> String {
        self.platform
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// Returns what it is and its name, for sentences.
    pub fn title(&self) -> String {
        match self.kind {
            AppKind::App => format!("App {}", self.name),
            AppKind::Job => format!("Job {}", self.name),
        }
    }

    /// Returns the contexts on which a permission for this app may be held.
    pub fn permission_contexts(&self) -> Vec<PermissionContext> {
        let own = match self.kind {
            AppKind::App => ContextKind::App,
            AppKind::Job => ContextKind::Job,
        };
        let mut contexts = vec![
            PermissionContext::new(own, &self.name),
            PermissionContext::new(ContextKind::Pool, &self.pool),
            PermissionContext::for_team(&self.team_owner),
        ];
        contexts.extend(
            self.teams
                .iter()
                .filter(|team| **team != self.team_owner)
                .map(PermissionContext::for_team),
        );
        contexts
    }
}

/// A unit in the description of an app.
#[derive(Clone, Debug, Deserialize)]
pub struct UnitView {
    pub id: String,
    pub process: String,
    pub version: i32,
    pub phase: String,
    pub state: String,
    pub reason: String,
    pub address: Option<String>,
    pub restarts: i32,
    pub ready: bool,
    /// The units of its release get requests.
    pub is_routable: bool,
    pub created_at: DateTime<Utc>,
}

/// A process and its desired number of units.
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessScale {
    pub process: String,
    pub units: i32,
}

/// A service instance that is bound to an app.
#[derive(Clone, Debug, Deserialize)]
pub struct BoundInstance {
    pub service: String,
    pub instance: String,
    pub plan: String,
}

/// A volume that is bound to an app.
#[derive(Clone, Debug)]
pub struct BoundVolume {
    pub volume: String,
    pub mount_point: String,
    pub is_read_only: bool,
}

/// An app with everything that its description shows, from one round trip.
#[derive(Clone, Debug)]
pub struct AppDescription {
    pub app: App,
    pub memory_bytes: i64,
    pub cpu_milli: i32,
    pub plan_burst: Option<PlanBurst>,
    pub plan_is_default: bool,
    pub plan_override: PlanOverride,
    pub provisioner: String,
    pub units: Vec<UnitView>,
    pub processes: Vec<ProcessScale>,
    /// Processes that have another plan than the app, with their plans.
    pub process_plans: Vec<(String, String)>,
    pub binds: Vec<BoundInstance>,
    pub volumes: Vec<BoundVolume>,
    pub scale_rules: Vec<AppScaleRule>,
}

impl AppDescription {
    /// Returns the desired number of units of all processes.
    pub fn desired_unit_count(&self) -> i32 {
        self.processes.iter().map(|p| p.units).sum()
    }

    /// Returns the memory of a unit, in bytes: that of the plan, unless it is overridden.
    pub fn effective_memory_bytes(&self) -> i64 {
        self.plan_override.memory_bytes.unwrap_or(self.memory_bytes)
    }
}
