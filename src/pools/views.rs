//! The view of a pool, which the view of a team uses too. Fields are in the order of their keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::names::PoolName;
use crate::pools::model::{Pool, PoolAllowed};

/// A pool.
#[derive(Debug, JsonSchema, Serialize)]
pub struct PoolView {
    allowed: PoolAllowedView,
    default: bool,
    labels: BTreeMap<String, String>,
    name: PoolName,
    provisioner: String,
    public: bool,
    teams: Vec<String>,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PoolAllowedView {
    cert_issuer: Vec<String>,
    plan: Vec<String>,
    router: Vec<String>,
    service: Vec<String>,
    team: Vec<String>,
    volume_plan: [(); 0],
}

impl From<PoolAllowed> for PoolAllowedView {
    fn from(allowed: PoolAllowed) -> Self {
        Self {
            cert_issuer: allowed.cert_issuers,
            plan: allowed.plans,
            router: allowed.routers,
            service: allowed.services,
            team: allowed.teams,
            volume_plan: [],
        }
    }
}

impl From<Pool> for PoolView {
    fn from(pool: Pool) -> Self {
        Self {
            teams: pool.allowed.teams.clone(),
            allowed: pool.allowed.into(),
            default: pool.is_default,
            labels: pool.labels,
            name: pool.name,
            provisioner: pool.provisioner,
            public: pool.is_public,
        }
    }
}
