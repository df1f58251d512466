//! Images as versions know them: taken over from a registry, and kept as long as a version needs them.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::ProvisionError;
use crate::kernel::artifact::{ImageName, PinnedImage};
use crate::kernel::ids::AppId;

/// Takes the lines that tell how the fetch of an image goes on.
pub type PullProgress = mpsc::Sender<String>;

/// The version that keeps an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageOwner {
    pub app: AppId,
    pub version: i32,
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDetails {
    pub pinned: PinnedImage,
    /// Its entry point and its command, as one list of words; may be empty.
    pub command: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub bytes: u64,
}

/// Keeps the images of versions, where units start from images.
#[async_trait::async_trait]
pub trait ImageStore: Send + Sync {
    /// Fetches an image and keeps it for a version. Repeating it is fine. Errors: `Permanent` for an image that is
    /// nowhere, or that this pool cannot run.
    async fn pin_image(
        &self,
        name: &ImageName,
        owner: &ImageOwner,
        progress: PullProgress,
    ) -> Result<ImageDetails, ProvisionError>;

    /// The image of a version is not needed any more; fine if there is none.
    async fn release_image(&self, owner: &ImageOwner) -> Result<(), ProvisionError>;

    /// No image of an app is needed any more.
    async fn release_app(&self, app: AppId) -> Result<(), ProvisionError>;
}
