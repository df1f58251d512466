//! The places in which versions are made: a few at a time, shared fairly by users.

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::fair_slots::FairSlot;
use crate::sagas::{StepContext, StepError};

/// Waits for the turn of this user's build, and says so. The time does not count as time of the build.
pub(super) async fn acquire_build_slot(
    core: &Core,
    ctx: &StepContext,
) -> Result<FairSlot<String>, StepError> {
    let (slots, key) = (&core.caller_limits.builds, ctx.share_key().to_owned());
    if let Some(slot) = slots.try_acquire(&key) {
        return Ok(slot);
    }
    ctx.append_log(&format!(
        " ---> waiting for a slot to build: {} ahead",
        slots.count_ahead(&key)
    ))
    .await;
    tokio::select! {
        slot = slots.acquire(&key) => slot.map_err(|e| StepError::GiveUp(Error::internal(e))),
        () = ctx.cancel_token().cancelled() => Err(StepError::Interrupted),
    }
}
