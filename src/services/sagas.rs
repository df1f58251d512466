//! What the sagas of this slice share: what they remember of a call to a service, and how they wait.
//!
//! A call whose answer nobody heard may be carried out late, even after what it made was taken away again. So who
//! finds `Heard::Sent`, and is about to call anew, notes on the row until when that may be (`lateness`). What is taken
//! away in that time is left to the hunt once more (`orphans`).
//!
//! A process may also be stopped just before it calls (a machine that is paused, a debugger), and go on when
//! another one has long taken its saga over. So who has called to make something, and finds then that the saga is no
//! longer theirs, tells the hunt (`heed_making`).

use std::time::Duration;

use crate::core::Core;
use crate::kernel::problem::Problem;
use crate::sagas::{Run, StepError};
use crate::services::broker::{Behalf, Fate};
use crate::services::orphans::{self, NewOrphan};

/// Between looks for a database that is away.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of the one call that a saga makes: written down before it, and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Heard {
    /// It was not made yet.
    Nothing,
    /// It was about to be made.
    Sent,
    /// The service knows nothing of it.
    Never,
    /// The service has refused, with this status.
    No(u16),
    /// It may have happened.
    Unknown,
    /// It has happened.
    Yes,
}

impl From<Fate> for Heard {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::NotSent => Heard::Never,
            Fate::Refused(status) => Heard::No(status),
            Fate::Unknown => Heard::Unknown,
        }
    }
}

/// How long a service may take to carry out a call that nobody waits for any more, in seconds: as long as it would
/// have had for the answer.
///
/// Nothing bounds this truly: a request may lie in a queue of the service, or of a proxy before it, for as long as
/// those please. Whoever has a service that is slower than that sets `services.timeout_seconds` higher.
pub(super) fn lateness(core: &Core) -> f64 {
    core.settings.services.timeout.as_secs_f64()
}

/// Waits for a call, but not longer than the saga is ours and wanted.
pub(super) async fn heed<T>(run: &Run, call: impl Future<Output = T>) -> Result<T, StepError> {
    let cancel = run.cancel().clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(StepError::Retry {
            why: Problem::unavailable("The work was interrupted."),
            after: Duration::from_millis(100),
        }),
        answer = call => Ok(answer),
    }
}

/// The same for a call that makes something: what is made when the saga has become another's meanwhile is left to the
/// hunt.
pub(super) async fn heed_making<T>(
    core: &Core,
    run: &Run,
    made: &NewOrphan,
    call: impl Future<Output = T>,
) -> Result<T, StepError> {
    let answer = heed(run, call).await;
    if is_lost(core, run).await {
        orphans::made_late(&core.db, made, lateness(core)).await?;
        return Err(StepError::Lost);
    }
    answer
}

/// Whether the saga is another's by now. A database that is away is waited for, as long as this process lives.
async fn is_lost(core: &Core, run: &Run) -> bool {
    loop {
        match run.begin().await {
            Ok(_) => return false,
            Err(StepError::Lost) => return true,
            Err(_) if core.stop.is_cancelled() => return false,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// On whose behalf a saga speaks to a service.
pub(super) fn behalf(run: &Run, user: &str) -> Behalf {
    Behalf {
        user: user.to_owned(),
        event: run.event().map(ToString::to_string).unwrap_or_default(),
    }
}
