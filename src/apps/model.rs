//! What an app is made of.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};
use crate::kernel::permission::{Context, ContextKind};

/// Whether an app is there to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppState {
    Live,
    Removing,
}

/// An app.
#[derive(Clone, Debug)]
pub struct App {
    pub id: AppId,
    /// Small and unique for ever: the uid of its units is made of it.
    pub number: i32,
    pub name: AppName,
    /// First label of its address.
    pub label: String,
    pub platform: PlatformName,
    pub plan: PlanName,
    pub pool: PoolName,
    pub team_owner: TeamName,
    /// E-mail address of who created it.
    pub owner: String,
    pub description: String,
    pub tags: Vec<String>,
    pub metadata: serde_json::Value,
    pub state: AppState,
    /// Units it may have; -1: any number.
    pub quota_limit: i32,
    pub deploys: i32,
    pub current_release: Option<i64>,
    pub created_at: DateTime<Utc>,
    pub teams: Vec<TeamName>,
    pub cnames: Vec<String>,
}

impl App {
    /// What a permission on this app may be held on.
    pub fn contexts(&self) -> Vec<Context> {
        let mut contexts = vec![
            Context::new(ContextKind::App, &self.name),
            Context::new(ContextKind::Pool, &self.pool),
            Context::team(&self.team_owner),
        ];
        contexts.extend(
            self.teams
                .iter()
                .filter(|team| **team != self.team_owner)
                .map(Context::team),
        );
        contexts
    }
}

/// A unit as an app's description shows it.
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
    pub created_at: DateTime<Utc>,
}

/// A process and how many units of it are wanted.
#[derive(Clone, Debug, Deserialize)]
pub struct Scale {
    pub process: String,
    pub units: i32,
    pub stopped: bool,
}

/// An instance that is bound to an app.
#[derive(Clone, Debug, Deserialize)]
pub struct Bound {
    pub service: String,
    pub instance: String,
    pub plan: String,
}

/// An app with all that its description shows, from one round trip.
#[derive(Clone, Debug)]
pub struct Full {
    pub app: App,
    pub memory_bytes: i64,
    pub cpu_milli: i32,
    pub plan_is_default: bool,
    pub provisioner: String,
    pub units: Vec<UnitView>,
    pub processes: Vec<Scale>,
    pub binds: Vec<Bound>,
}

impl Full {
    /// How many units are wanted, over all processes.
    pub fn units_wanted(&self) -> i32 {
        self.processes.iter().map(|p| p.units).sum()
    }

    /// True if there is something to run and it is told not to.
    pub fn is_stopped(&self) -> bool {
        !self.processes.is_empty() && self.processes.iter().all(|p| p.stopped)
    }
}
