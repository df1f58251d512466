//! Images: those that versions are pinned to, found again by their digest.
//!
//! The engine keeps an image as long as something names it: each version names its own by a tag of ours, which goes
//! with the version. A digest is that of a registry if the image came from one, else the image's id in the engine.

use bollard::models::ImageInspect;
use bollard::query_parameters::{
    ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use std::collections::{HashMap, HashSet};

use super::container_spec::image_command;
use super::engine::EngineError;
use super::{
    ASK_TIMEOUT, CHANGE_TIMEOUT, DockerRunner, ImageDetails, ImageOwner, ImageStore, ProvisionError, build,
    build_leftovers,
};
use crate::kernel::artifact::{ImageName, PinnedImage};
use crate::kernel::ids::AppId;
use crate::provisioners::{ContextStream, ImageBuild, PullProgress};

/// The place of our own tags, which no registry can have.
const OWN_REPOSITORY: &str = "tancho.invalid";
/// What the engine says when an image that it was made of is removed at the same time.
const REMOVED_MEANWHILE: &str = "unrecognized image ID";
const REMOVAL_TRIES: u32 = 3;

fn own_repository(app: AppId) -> String {
    format!("{OWN_REPOSITORY}/{app}")
}

/// The name by which a version keeps its image.
pub(super) fn own_name(owner: &ImageOwner) -> String {
    format!("{}:v{}", own_repository(owner.app), owner.version)
}

/// Errors: `Permanent` for the image of a version, which is nobody else's to use.
pub(super) fn refuse_own_name(name: &ImageName) -> Result<(), ProvisionError> {
    match name.repository().starts_with(OWN_REPOSITORY) {
        true => Err(ProvisionError::Permanent(format!(
            "The image {name} belongs to a version of an app: deploy it by its own name."
        ))),
        false => Ok(()),
    }
}

/// What an image says of itself.
pub(super) fn describe_image(pinned: PinnedImage, image: ImageInspect) -> ImageDetails {
    let config = image.config.unwrap_or_default();
    ImageDetails {
        pinned,
        command: image_command(&config),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        bytes: u64::try_from(image.size.unwrap_or(0)).unwrap_or(0),
    }
}

impl DockerRunner {
    /// Finds an image; `None` if the engine does not have it.
    pub(super) async fn find_image(&self, name: &str) -> Result<Option<ImageInspect>, ProvisionError> {
        let docker = self.engine.connect().await?;
        match self.engine.ask(ASK_TIMEOUT, docker.inspect_image(name)).await {
            Ok(image) => Ok(Some(image)),
            Err(EngineError::Missing(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the image of a version, and fetches it again if somebody has removed it.
    pub(super) async fn find_pinned(&self, pinned: &PinnedImage) -> Result<ImageInspect, ProvisionError> {
        let name = pinned.by_digest();
        for known in [pinned.digest(), name.as_str()] {
            if let Some(image) = self.find_image(known).await? {
                return Ok(image);
            }
        }
        let gone = |why: String| {
            ProvisionError::Transient(format!(
                "The image {pinned} is gone from the Docker Engine, and cannot be fetched again: {why}"
            ))
        };
        self.pull(&name, None)
            .await
            .map_err(|error| gone(error.to_string()))?;
        let found = self.find_image(&name).await?;
        found.ok_or_else(|| gone("its registry has sent another one.".into()))
    }

    /// Fetches an image, or finds the engine's own copy where no registry has it.
    pub(super) async fn fetch(
        &self,
        name: &ImageName,
        progress: &PullProgress,
    ) -> Result<ImageInspect, ProvisionError> {
        let full = name.to_string();
        let pulled = self.pull(&full, Some(progress)).await;
        let found = self.find_image(&full).await?;
        match (pulled, found) {
            (Ok(()), Some(image)) => Ok(image),
            (Err(error), Some(image)) => {
                let words = format!(" ---> taking the copy of the Docker Engine. {error}");
                // Whoever follows may have gone.
                let _ = progress.send(words).await;
                Ok(image)
            }
            (Err(error), None) => Err(ProvisionError::Permanent(format!(
                "The image {full} cannot be fetched. {error}"
            ))),
            (Ok(()), None) => Err(ProvisionError::Transient(format!(
                "The image {full} was removed while it was deployed: deploy again."
            ))),
        }
    }

    pub(super) async fn check_platform(
        &self,
        name: &ImageName,
        image: &ImageInspect,
    ) -> Result<(), ProvisionError> {
        let ours = self.find_architecture().await?;
        let theirs = image.architecture.clone().unwrap_or_default();
        let os = image.os.as_deref().unwrap_or("linux");
        if os == "linux" && (theirs.is_empty() || theirs == ours) {
            return Ok(());
        }
        Err(ProvisionError::Permanent(format!(
            "The image {name} is for {os}/{theirs}, and the units of this pool run on linux/{ours}: deploy an image \
             for that."
        )))
    }

    async fn remove_tag(&self, tag: &str) -> Result<(), ProvisionError> {
        let docker = self.engine.connect().await?;
        let options = RemoveImageOptionsBuilder::new()
            .force(false)
            .noprune(false)
            .build();
        let mut tries_left = REMOVAL_TRIES;
        loop {
            tries_left -= 1;
            let removing = docker.remove_image(tag, Some(options.clone()), None);
            match self.engine.ask(CHANGE_TIMEOUT, removing).await {
                Ok(_) | Err(EngineError::Missing(_)) => return Ok(()),
                Err(EngineError::Refused(why)) if why.contains(REMOVED_MEANWHILE) && tries_left > 0 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[async_trait::async_trait]
impl ImageStore for DockerRunner {
    async fn pin_image(
        &self,
        name: &ImageName,
        owner: &ImageOwner,
        progress: PullProgress,
    ) -> Result<ImageDetails, ProvisionError> {
        refuse_own_name(name)?;
        self.engine.check_up()?;
        let image = self.fetch(name, &progress).await?;
        self.check_platform(name, &image).await?;
        let id = image.id.clone().unwrap_or_default();
        let digests = image.repo_digests.iter().flatten();
        let of_registry = digests
            .filter_map(|known| known.rsplit_once('@'))
            .find(|(repository, _)| *repository == name.repository())
            .map(|(_, digest)| digest.to_owned());
        let pinned = name.pin(&of_registry.unwrap_or_else(|| id.clone()));
        let pinned = pinned.map_err(|error| ProvisionError::Permanent(error.message().to_owned()))?;
        let docker = self.engine.connect().await?;
        let tag = TagImageOptionsBuilder::new()
            .repo(&own_repository(owner.app))
            .tag(&format!("v{}", owner.version))
            .build();
        self.engine
            .ask(CHANGE_TIMEOUT, docker.tag_image(&id, Some(tag)))
            .await?;
        Ok(describe_image(pinned, image))
    }

    fn builds_images(&self) -> bool {
        true
    }

    async fn build_image(
        &self,
        build: &ImageBuild,
        context: ContextStream,
        progress: PullProgress,
    ) -> Result<ImageDetails, ProvisionError> {
        self.engine.check_up()?;
        build::build_image(self, build, context, progress).await
    }

    async fn discard_builds(&self, app: AppId) -> Result<(), ProvisionError> {
        self.engine.check_up()?;
        build_leftovers::remove_leftovers(self, app, &HashSet::new()).await
    }

    async fn release_image(&self, owner: &ImageOwner) -> Result<(), ProvisionError> {
        self.engine.check_up()?;
        self.remove_tag(&own_name(owner)).await
    }

    async fn release_app(&self, app: AppId) -> Result<(), ProvisionError> {
        self.engine.check_up()?;
        let docker = self.engine.connect().await?;
        let filters = HashMap::from([("reference", vec![own_repository(app)])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = self
            .engine
            .ask(ASK_TIMEOUT, docker.list_images(Some(options)))
            .await?;
        for tag in images.iter().flat_map(|image| &image.repo_tags) {
            if tag.starts_with(&own_repository(app)) {
                self.remove_tag(tag).await?;
            }
        }
        build_leftovers::remove_leftovers(self, app, &HashSet::new()).await
    }
}
