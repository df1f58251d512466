//! Calls to services from sagas: the recorded state of a call, and cancellable waits for its response.
//!
//! A call whose response was not received may be executed late, even after the resource it created was
//! removed again. So a step that finds `CallState::Sent` and is about to repeat the call records on the row
//! until when that may happen (`late_arrival_window`). A removal within that time records the resource as an
//! orphan once more (`orphans`).
//!
//! A process may also be paused just before it makes a call (a suspended machine, a debugger), and resume
//! long after another replica has taken over its saga. So a step that has made a call to create something,
//! and then finds that it no longer holds the saga, records an orphan (`cancellable_create`).

use std::time::Duration;

use crate::core::Core;
use crate::sagas::{StepContext, StepError};
use crate::services::broker::{CallDelivery, OnBehalfOf};
use crate::services::orphans::{self, NewOrphan};

/// Pause between two checks while the database is unavailable.
const DB_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What is known about the one call of a saga; recorded before the call and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CallState {
    /// The call was not made yet.
    Nothing,
    /// The call was about to be made.
    Sent,
    /// The call did not reach the service.
    Never,
    /// The service refused the call with this status.
    No(u16),
    /// The call may have been executed.
    Unknown,
    /// The call was executed.
    Yes,
}

impl From<CallDelivery> for CallState {
    fn from(delivery: CallDelivery) -> Self {
        match delivery {
            CallDelivery::NotSent => CallState::Never,
            CallDelivery::Refused(status) => CallState::No(status),
            CallDelivery::Done => CallState::Yes,
            CallDelivery::Unknown => CallState::Unknown,
        }
    }
}

/// Returns how long, in seconds, a service may take to execute a call whose response is no longer awaited: as
/// long as the timeout of a call.
///
/// Nothing guarantees this bound: a request may stay in a queue of the service, or of a proxy before it, for
/// any time. For a slower service, raise `services.timeout_seconds`.
pub(super) fn late_arrival_window(core: &Core) -> f64 {
    core.settings.services.call_timeout.as_secs_f64()
}

/// Waits for a call without holding a worker, until it ends or the saga is cancelled or lost.
pub(super) async fn cancellable<T>(ctx: &StepContext, call: impl Future<Output = T>) -> Result<T, StepError> {
    let cancel = ctx.cancel_token().clone();
    let answer = ctx.without_worker(async {
        tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            answer = call => Some(answer),
        }
    });
    answer.await.ok_or(StepError::Interrupted)
}

/// Waits like `cancellable` for a call that creates something. If another replica has taken over the saga
/// meanwhile, records the created resource as an orphan.
pub(super) async fn cancellable_create<T>(
    core: &Core,
    ctx: &StepContext,
    made: &NewOrphan,
    call: impl Future<Output = T>,
) -> Result<T, StepError> {
    let answer = cancellable(ctx, call).await;
    if is_saga_lost(core, ctx).await {
        orphans::record_late_create(&core.db, made, late_arrival_window(core)).await?;
        return Err(StepError::Lost);
    }
    answer
}

/// Returns whether another replica has taken over the saga. Waits for an unavailable database until this
/// process stops.
async fn is_saga_lost(core: &Core, ctx: &StepContext) -> bool {
    loop {
        match ctx.holds_fence().await {
            Ok(is_held) => return !is_held,
            Err(_) if core.stop.is_cancelled() => return false,
            Err(_) => tokio::time::sleep(DB_RETRY_PAUSE).await,
        }
    }
}

/// Returns the user, event and share key on whose behalf a saga calls a service.
pub(super) fn on_behalf_of(ctx: &StepContext, user: &str) -> OnBehalfOf {
    OnBehalfOf {
        user: user.to_owned(),
        event: ctx.event_id().map(ToString::to_string).unwrap_or_default(),
        share_key: ctx.share_key().to_owned(),
    }
}
