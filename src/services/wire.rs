//! Views that the edition files of this slice share: instance names and the state of an instance.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::services::catalogue::ServiceInstanceNames;
use crate::services::instances::InstanceWithInfo;
use crate::services::model::InstanceState;

/// A service and its instances, in the classic edition.
#[derive(JsonSchema, Serialize)]
pub struct ClassicServiceView {
    service: String,
    instances: Vec<String>,
}

impl From<ServiceInstanceNames> for ClassicServiceView {
    fn from(listed: ServiceInstanceNames) -> Self {
        Self {
            service: listed.service,
            instances: listed.instances,
        }
    }
}

/// The state of an instance as Tancho sees it. Both editions use the same keys, which the clients do not
/// know.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InstanceStateView {
    /// `ready`, `pending` or `error`.
    state: &'static str,
    reason: String,
    unconfirmed: Vec<UnconfirmedView>,
}

/// A change that the service has not confirmed yet.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UnconfirmedView {
    kind: String,
    app: String,
    reason: String,
    tries: i32,
    since: DateTime<Utc>,
    next_try: DateTime<Utc>,
}

impl InstanceStateView {
    pub(super) fn new(info: &InstanceWithInfo) -> Self {
        let reason = info.instance.reason.clone();
        let (state, reason) = match info.instance.state {
            InstanceState::Creating => ("pending", "it is being created".to_owned()),
            InstanceState::Removing if reason.is_empty() => ("pending", "it is being removed".to_owned()),
            InstanceState::Removing => ("error", format!("it is being removed; last error: {reason}")),
            InstanceState::Ready => match info.pending_orphans.first() {
                Some(open) => (
                    "pending",
                    format!("unbinding the app {} is not complete: {}", open.app, open.reason),
                ),
                None => ("ready", reason),
            },
        };
        let unconfirmed = info.pending_orphans.iter().map(|open| UnconfirmedView {
            kind: open.kind.clone(),
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
