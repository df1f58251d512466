//! What the sagas of this slice share: what they remember of a call to a service, and how they wait.

use std::time::Duration;

use crate::kernel::problem::Problem;
use crate::sagas::{Run, StepError};
use crate::services::broker::{Behalf, Fate};

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

/// On whose behalf a saga speaks to a service.
pub(super) fn behalf(run: &Run, user: &str) -> Behalf {
    Behalf {
        user: user.to_owned(),
        event: run.event().map(ToString::to_string).unwrap_or_default(),
    }
}
