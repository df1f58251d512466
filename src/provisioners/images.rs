//! Images as versions know them: taken over from a registry, and kept as long as a version needs them.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::ProvisionError;
use crate::kernel::artifact::{ImageName, PinnedImage};
use crate::kernel::ids::AppId;

/// Takes the lines that tell how the fetch of an image goes on.
pub type PullProgress = mpsc::Sender<String>;

/// The files of a build, as the bytes of a tar.
pub type ContextStream = mpsc::Receiver<io::Result<Bytes>>;

/// The label that all images of builds have, with the id of their app.
pub const BUILD_LABEL: &str = "tancho.build";

/// How an image is built, apart from its files.
#[derive(Clone, Debug)]
pub struct ImageBuild {
    pub owner: ImageOwner,
    /// The name of the Dockerfile among the files.
    pub dockerfile: String,
    /// The images that the Dockerfile names.
    pub bases: Vec<ImageName>,
    /// The stage that is built; `None`: the last one.
    pub target: Option<String>,
    /// Values of the Dockerfile's variables.
    pub args: BTreeMap<String, String>,
    /// The memory of each command; 0 is no limit.
    pub memory_bytes: u64,
    /// What a command may write.
    pub disk_bytes: u64,
}

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

    /// Whether images are built here.
    fn builds_images(&self) -> bool {
        false
    }

    /// Builds an image of a Dockerfile and keeps it for a version. It may take as long as it takes: who does not wait
    /// any longer drops the future, which ends the build. Repeating it is fine. Errors: `Permanent` for what the
    /// user must change before it is built again, `Transient` for a step that fails.
    async fn build_image(
        &self,
        _build: &ImageBuild,
        _context: ContextStream,
        _progress: PullProgress,
    ) -> Result<ImageDetails, ProvisionError> {
        Err(ProvisionError::Permanent(
            "This pool builds no Dockerfiles: deploy an image, as in `tsuru app deploy --image`.".into(),
        ))
    }

    /// Removes what builds of an app that came to nothing have left. No build of the app runs.
    async fn discard_builds(&self, _app: AppId) -> Result<(), ProvisionError> {
        Ok(())
    }

    /// The image of a version is not needed any more; fine if there is none.
    async fn release_image(&self, owner: &ImageOwner) -> Result<(), ProvisionError>;

    /// No image of an app is needed any more.
    async fn release_app(&self, app: AppId) -> Result<(), ProvisionError>;
}
