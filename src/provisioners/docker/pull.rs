//! Fetches images from their registries.

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::DockerRunner;
use super::engine::EngineError;
use crate::kernel::log_text::clean_line;
use crate::provisioners::PullProgress;

/// Between two signs of life of a fetch.
const STALL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);

impl DockerRunner {
    /// Fetches an image by its whole name; says how it goes on. Whoever waits has a limit for all of it.
    pub(super) async fn pull(&self, name: &str, progress: Option<&PullProgress>) -> Result<(), EngineError> {
        let docker = self.engine.connect().await?;
        let options = CreateImageOptionsBuilder::new().from_image(name).build();
        let mut steps = std::pin::pin!(docker.create_image(Some(options), None, None));
        loop {
            let next = tokio::time::timeout(STALL_TIMEOUT, steps.next()).await;
            let step = match next {
                Ok(Some(step)) => step?,
                Ok(None) => return Ok(()),
                Err(_) => {
                    return Err(EngineError::NoAnswer(
                        "its registry sends nothing any more.".into(),
                    ));
                }
            };
            if let Some(error) = step.error_detail.and_then(|error| error.message) {
                return Err(EngineError::Refused(clean_line(&error).into_owned()));
            }
            let Some(status) = step.status.filter(|status| is_shown(status)) else {
                continue;
            };
            if let Some(progress) = progress {
                let layer = step.id.map(|id| format!("{id}: ")).unwrap_or_default();
                // Whoever follows may have gone.
                let _ = progress.send(format!("{layer}{}", clean_line(&status))).await;
            }
        }
    }
}

/// Of each layer only its end is shown.
fn is_shown(status: &str) -> bool {
    let is_part = [
        "Downloading",
        "Extracting",
        "Waiting",
        "Verifying",
        "Pulling fs",
        "Download complete",
    ]
    .iter()
    .any(|part| status.starts_with(part));
    !is_part
}
