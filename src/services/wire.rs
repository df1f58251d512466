//! What the edition files of this slice share: names in paths, and how an instance is. A name that breaks its
//! rule names nothing that could exist, so it is not found.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::kernel::names::{AppName, InstanceName, ServiceName, TeamName};
use crate::kernel::problem::Problem;
use crate::services::instances::Told;
use crate::services::model::InstanceState;

pub(super) fn service(text: &str) -> Result<ServiceName, Problem> {
    ServiceName::parse(text).map_err(|_| Problem::not_found("Service not found."))
}

pub(super) fn instance(text: &str) -> Result<InstanceName, Problem> {
    InstanceName::parse(text).map_err(|_| Problem::not_found("service instance not found"))
}

pub(super) fn app(text: &str) -> Result<AppName, Problem> {
    AppName::parse(text).map_err(|_| Problem::not_found("App not found."))
}

pub(super) fn team(text: &str) -> Result<TeamName, Problem> {
    TeamName::parse(text).map_err(|_| Problem::not_found("Team not found"))
}

/// How an instance is in our own eyes: the same keys in both editions, beyond what the clients know.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StateView {
    /// `ready`, `pending` or `error`.
    state: &'static str,
    reason: String,
    unconfirmed: Vec<UnconfirmedView>,
}

/// Something that the service has not confirmed.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UnconfirmedView {
    what: String,
    app: String,
    reason: String,
    tries: i32,
    since: DateTime<Utc>,
    next_try: DateTime<Utc>,
}

impl StateView {
    pub(super) fn new(told: &Told) -> Self {
        let reason = told.instance.reason.clone();
        let (state, reason) = match told.instance.state {
            InstanceState::Creating => ("pending", "it is being made".to_owned()),
            InstanceState::Removing if reason.is_empty() => ("pending", "it is being removed".to_owned()),
            InstanceState::Removing => ("error", format!("it is being removed; so far: {reason}")),
            InstanceState::Ready => match told.open.first() {
                Some(open) => (
                    "pending",
                    format!("unbinding {} is not over: {}", open.app, open.reason),
                ),
                None => ("ready", reason),
            },
        };
        let unconfirmed = told.open.iter().map(|open| UnconfirmedView {
            what: open.what.clone(),
            app: open.app.clone(),
            reason: open.reason.clone(),
            tries: open.attempts,
            since: open.created_at,
            next_try: open.wake_at,
        });
        Self {
            state,
            reason,
            unconfirmed: unconfirmed.collect(),
        }
    }
}
