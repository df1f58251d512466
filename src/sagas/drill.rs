//! Fail-points for the drill, in debug builds only: a release runs the steps and nothing else.
//!
//! The variable `DRILL_POINTS` names a folder. A file `wait/<kind>@<step>@<what>` in it is a point: the first saga
//! that comes there takes it, once, and goes on to `struck/<kind>@<step>@<what>@<saga>`, with the event as its
//! content. What a point does:
//!
//! - `twice`: the step runs twice; `fail`: it fails without having run; `late-fail`: after it has run.
//! - `before`, `inside-<polls>`, `after`: it stands still there, the mark `held/<kind>@<step>@<what>` is made, and
//!   whoever drills kills the process. After it, the effect is there and its record is not.
//! - `undo-twice`, `undo-before`, `undo-after`: it fails late, and then the same for its undo.

use crate::sagas::run::{Run, StepError};
use crate::sagas::{Registry, Saga};

/// Tells whoever drills which kinds and steps there are.
pub(super) fn show(registry: &Registry) {
    #[cfg(debug_assertions)]
    points::show(registry);
    #[cfg(not(debug_assertions))]
    let _ = registry;
}

/// Does a step, or what a point wants instead.
pub(super) async fn forward(saga: &dyn Saga, step: &'static str, run: &mut Run) -> Result<(), StepError> {
    #[cfg(debug_assertions)]
    if let Some(point) = points::take(saga.kind(), step, run) {
        return point.forward(saga, step, run).await;
    }
    saga.forward(step, run).await
}

/// Takes a step back, or what a point wants instead.
pub(super) async fn undo(saga: &dyn Saga, step: &'static str, run: &mut Run) -> Result<(), StepError> {
    #[cfg(debug_assertions)]
    if let Some(point) = points::taken(saga.kind(), step, run) {
        return point.undo(saga, step, run).await;
    }
    saga.undo(step, run).await
}

#[cfg(debug_assertions)]
mod points {
    use std::fs;
    use std::future::{pending, poll_fn};
    use std::path::PathBuf;
    use std::pin::pin;
    use std::task::Poll;

    use crate::config::of_process;
    use crate::kernel::problem::Problem;
    use crate::sagas::run::{Run, StepError};
    use crate::sagas::{Registry, Saga};

    /// One that a saga has taken.
    pub(super) struct Point {
        folder: PathBuf,
        name: String,
    }

    fn folder() -> Option<PathBuf> {
        of_process("DRILL_POINTS").map(PathBuf::from)
    }

    fn names(folder: PathBuf) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }

    pub(super) fn show(registry: &Registry) {
        let Some(folder) = folder() else { return };
        let mut lines: Vec<String> = registry
            .kinds()
            .map(|saga| format!("{} {}\n", saga.kind(), saga.steps().join(" ")))
            .collect();
        lines.sort();
        if let Err(error) = fs::write(folder.join("kinds"), lines.concat()) {
            tracing::error!(%error, "the drill cannot be told of the kinds of sagas");
        }
    }

    /// A point that waits here, if this saga has not had one yet.
    pub(super) fn take(kind: &str, step: &str, run: &Run) -> Option<Point> {
        let folder = folder()?;
        let mine = format!("@{}", run.saga());
        if names(folder.join("struck")).any(|name| name.ends_with(&mine)) {
            return None;
        }
        let prefix = format!("{kind}@{step}@");
        let event = run.event().map(ToString::to_string).unwrap_or_default();
        for name in names(folder.join("wait")).filter(|name| name.starts_with(&prefix)) {
            let struck = folder.join("struck").join(format!("{name}{mine}"));
            // Somebody else may have been quicker.
            if fs::rename(folder.join("wait").join(&name), &struck).is_ok() {
                fs::write(&struck, &event).ok()?;
                return Some(Point { folder, name });
            }
        }
        None
    }

    /// The point of the undo of a step, once.
    pub(super) fn taken(kind: &str, step: &str, run: &Run) -> Option<Point> {
        let folder = folder()?;
        let (prefix, mine) = (format!("{kind}@{step}@undo-"), format!("@{}", run.saga()));
        let struck = names(folder.join("struck")).find(|n| n.starts_with(&prefix) && n.ends_with(&mine))?;
        let name = struck.trim_end_matches(&mine).to_owned();
        let fresh = !folder.join("held").join(&name).exists();
        fresh.then_some(Point { folder, name })
    }

    fn drilled() -> StepError {
        StepError::GiveUp(Problem::failed("failed by the drill"))
    }

    impl Point {
        fn what(&self) -> &str {
            self.name.rsplit('@').next().unwrap_or_default()
        }

        fn mark(&self) {
            if let Err(error) = fs::write(self.folder.join("held").join(&self.name), "") {
                tracing::error!(%error, point = self.name, "the drill cannot be told of a point");
            }
        }

        async fn hold(&self) -> Result<(), StepError> {
            self.mark();
            pending().await
        }

        pub(super) async fn forward(
            &self,
            saga: &dyn Saga,
            step: &'static str,
            run: &mut Run,
        ) -> Result<(), StepError> {
            match self.what() {
                "fail" => return Err(drilled()),
                "before" => return self.hold().await,
                what => {
                    let polls = what.strip_prefix("inside-").and_then(|n| n.parse().ok());
                    if let Some(polls) = polls {
                        self.partly(polls, saga.forward(step, run)).await?;
                        return self.hold().await;
                    }
                }
            }
            saga.forward(step, run).await?;
            match self.what() {
                "twice" => saga.forward(step, run).await,
                "after" => self.hold().await,
                _ => Err(drilled()),
            }
        }

        /// A step that stands still after so many polls, if it is not done by then.
        async fn partly(
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
                    self.mark();
                }
                Poll::Pending
            })
            .await
        }

        pub(super) async fn undo(
            &self,
            saga: &dyn Saga,
            step: &'static str,
            run: &mut Run,
        ) -> Result<(), StepError> {
            if self.what() == "undo-before" {
                return self.hold().await;
            }
            saga.undo(step, run).await?;
            if self.what() == "undo-after" {
                return self.hold().await;
            }
            self.mark();
            saga.undo(step, run).await
        }
    }
}
