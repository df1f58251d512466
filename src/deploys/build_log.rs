//! The lines of a build, on their way to the event of the deploy.

use std::future::Future;

use tokio::sync::mpsc;

use crate::sagas::StepContext;

/// Lines of a build on their way to the event.
const LINE_BUFFER: usize = 256;

/// Does what sends lines, and appends them to the event meanwhile.
pub(super) async fn follow_lines<F: Future>(
    ctx: &StepContext,
    build: impl FnOnce(mpsc::Sender<String>) -> F,
) -> F::Output {
    let (sender, mut lines) = mpsc::channel(LINE_BUFFER);
    let telling = async {
        let mut batch = Vec::new();
        while lines.recv_many(&mut batch, LINE_BUFFER).await > 0 {
            ctx.append_log_lines(&batch).await;
            batch.clear();
        }
    };
    let (built, ()) = tokio::join!(build(sender), telling);
    built
}
