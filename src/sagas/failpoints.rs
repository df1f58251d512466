//! Failpoints for the failpoint tests, in debug builds only: a release build runs the steps and nothing else.
//!
//! The variable `FAILPOINTS_DIR` names a folder. A file `wait/<kind>@<step>@<what>` in it is a failpoint: the
//! first saga that reaches it claims it, once, by renaming the file to `struck/<kind>@<step>@<what>@<saga>`,
//! with the event as its content. The actions of a failpoint:
//!
//! - `twice`: the step runs twice; `fail`: it fails without running; `late-fail`: it fails after it has run.
//! - `before`, `inside-<polls>`, `after`: the step stops there and writes the mark
//!   `held/<kind>@<step>@<what>`, and the test kills the process. With `after`, the effect is there but not
//!   recorded.
//! - `undo-twice`, `undo-before`, `undo-after`: the step fails after it has run, and then the same applies to
//!   its undo.

#[cfg(debug_assertions)]
use crate::sagas::SagaStep;
use crate::sagas::step_context::{StepContext, StepError};
use crate::sagas::{Saga, SagaRegistry};

/// Writes the kinds and steps of sagas for the failpoint tests.
pub(super) fn write_saga_kinds(registry: &SagaRegistry) {
    #[cfg(debug_assertions)]
    points::write_kinds_file(registry);
    #[cfg(not(debug_assertions))]
    let _ = registry;
}

/// Runs a step, or what a failpoint does instead.
pub(super) async fn run_step<S: Saga>(
    saga: &S,
    step: S::Step,
    data: &mut S::Data,
    ctx: &StepContext,
) -> Result<(), StepError> {
    #[cfg(debug_assertions)]
    if let Some(point) = points::claim_point(S::KIND, step.name(), ctx) {
        return point.run_step(saga, step, data, ctx).await;
    }
    saga.run_step(step, data, ctx).await
}

/// Undoes a step, or what a failpoint does instead.
pub(super) async fn undo_step<S: Saga>(
    saga: &S,
    step: S::Step,
    data: &mut S::Data,
    ctx: &StepContext,
) -> Result<(), StepError> {
    #[cfg(debug_assertions)]
    if let Some(point) = points::claim_undo_point(S::KIND, step.name(), ctx) {
        return point.undo_step(saga, step, data, ctx).await;
    }
    saga.undo_step(step, data, ctx).await
}

#[cfg(debug_assertions)]
mod points {
    use std::fs;
    use std::future::{pending, poll_fn};
    use std::path::PathBuf;
    use std::pin::pin;
    use std::task::Poll;

    use crate::config::process_variable;
    use crate::kernel::error::Error;
    use crate::sagas::step_context::{StepContext, StepError};
    use crate::sagas::{Saga, SagaRegistry};

    /// A failpoint that a saga has claimed.
    pub(super) struct FailPoint {
        folder: PathBuf,
        name: String,
    }

    fn failpoint_folder() -> Option<PathBuf> {
        process_variable("FAILPOINTS_DIR").map(PathBuf::from)
    }

    fn list_file_names(folder: PathBuf) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }

    pub(super) fn write_kinds_file(registry: &SagaRegistry) {
        let Some(folder) = failpoint_folder() else { return };
        let mut lines: Vec<String> = registry
            .list_kinds()
            .into_iter()
            .map(|(kind, steps)| format!("{kind} {}\n", steps.join(" ")))
            .collect();
        lines.sort();
        if let Err(error) = fs::write(folder.join("kinds"), lines.concat()) {
            tracing::error!(%error, "cannot write the saga kinds for the failpoint tests");
        }
    }

    /// Claims a failpoint of this step, if this saga has not claimed one yet.
    pub(super) fn claim_point(kind: &str, step: &str, ctx: &StepContext) -> Option<FailPoint> {
        let folder = failpoint_folder()?;
        let mine = format!("@{}", ctx.saga_id());
        if list_file_names(folder.join("struck")).any(|name| name.ends_with(&mine)) {
            return None;
        }
        let prefix = format!("{kind}@{step}@");
        let event = ctx.event_id().map(ToString::to_string).unwrap_or_default();
        for name in list_file_names(folder.join("wait")).filter(|name| name.starts_with(&prefix)) {
            let struck = folder.join("struck").join(format!("{name}{mine}"));
            // Another saga may have claimed it first.
            if fs::rename(folder.join("wait").join(&name), &struck).is_ok() {
                fs::write(&struck, &event).ok()?;
                return Some(FailPoint { folder, name });
            }
        }
        None
    }

    /// Returns the failpoint for the undo of a step, once.
    pub(super) fn claim_undo_point(kind: &str, step: &str, ctx: &StepContext) -> Option<FailPoint> {
        let folder = failpoint_folder()?;
        let (prefix, mine) = (format!("{kind}@{step}@undo-"), format!("@{}", ctx.saga_id()));
        let struck =
            list_file_names(folder.join("struck")).find(|n| n.starts_with(&prefix) && n.ends_with(&mine))?;
        let name = struck.trim_end_matches(&mine).to_owned();
        let fresh = !folder.join("held").join(&name).exists();
        fresh.then_some(FailPoint { folder, name })
    }

    fn injected_failure() -> StepError {
        StepError::GiveUp(Error::failed("failed by a failpoint"))
    }

    impl FailPoint {
        fn action_name(&self) -> &str {
            self.name.rsplit('@').next().unwrap_or_default()
        }

        fn write_mark(&self) {
            if let Err(error) = fs::write(self.folder.join("held").join(&self.name), "") {
                tracing::error!(%error, point = self.name, "cannot write the mark of a failpoint");
            }
        }

        async fn hold_forever(&self) -> Result<(), StepError> {
            self.write_mark();
            pending().await
        }

        /// Runs the step with the action. A step that is to run again has not been done: the failpoint is for the
        /// run in which it is.
        pub(super) async fn run_step<S: Saga>(
            &self,
            saga: &S,
            step: S::Step,
            data: &mut S::Data,
            ctx: &StepContext,
        ) -> Result<(), StepError> {
            let result = self.act_on_step(saga, step, data, ctx).await;
            if let Err(StepError::Retry { .. }) = &result {
                self.return_to_wait(ctx);
            }
            result
        }

        /// Makes the failpoint claimable again.
        fn return_to_wait(&self, ctx: &StepContext) {
            let struck = format!("{}@{}", self.name, ctx.saga_id());
            let (from, to) = (self.folder.join("struck").join(struck), self.folder.join("wait"));
            if let Err(error) = fs::rename(from, to.join(&self.name)) {
                tracing::error!(%error, point = self.name, "cannot return a failpoint");
            }
        }

        async fn act_on_step<S: Saga>(
            &self,
            saga: &S,
            step: S::Step,
            data: &mut S::Data,
            ctx: &StepContext,
        ) -> Result<(), StepError> {
            match self.action_name() {
                "fail" => return Err(injected_failure()),
                "before" => return self.hold_forever().await,
                what => {
                    let polls = what.strip_prefix("inside-").and_then(|n| n.parse().ok());
                    if let Some(polls) = polls {
                        self.poll_then_hold(polls, saga.run_step(step, data, ctx)).await?;
                        return self.hold_forever().await;
                    }
                }
            }
            saga.run_step(step, data, ctx).await?;
            match self.action_name() {
                "twice" => saga.run_step(step, data, ctx).await,
                "after" => self.hold_forever().await,
                _ => Err(injected_failure()),
            }
        }

        /// Polls a step a given number of times, then stops it if it is not done by then.
        async fn poll_then_hold(
            &self,
            polls: usize,
            step: impl Future<Output = Result<(), StepError>>,
        ) -> Result<(), StepError> {
            let mut step = pin!(step);
            let mut polled = 0;
            poll_fn(|context| {
                polled += 1;
                if polled <= polls {
                    return step.as_mut().poll(context);
                }
                if polled == polls + 1 {
                    self.write_mark();
                }
                Poll::Pending
            })
            .await
        }

        pub(super) async fn undo_step<S: Saga>(
            &self,
            saga: &S,
            step: S::Step,
            data: &mut S::Data,
            ctx: &StepContext,
        ) -> Result<(), StepError> {
            if self.action_name() == "undo-before" {
                return self.hold_forever().await;
            }
            saga.undo_step(step, data, ctx).await?;
            if self.action_name() == "undo-after" {
                return self.hold_forever().await;
            }
            self.write_mark();
            saga.undo_step(step, data, ctx).await
        }
    }
}
