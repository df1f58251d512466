//! What builds leave in the engine: containers of steps that were cut short, and images without a name.
//!
//! All of them have a label with the app, since each stage of a Dockerfile begins with it. The units of the image have
//! it too, and are told apart by their own label.

use std::collections::{HashMap, HashSet};

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};

use super::engine::EngineError;
use super::{ASK_TIMEOUT, CHANGE_TIMEOUT, DockerRunner, ProvisionError, UNIT_LABEL};
use crate::kernel::ids::AppId;
use crate::provisioners::BUILD_LABEL;

/// Characters of an id that name an image in the output of a build.
const SHORT_ID: usize = 12;

/// Removes what builds of an app have left, apart from the images with these short ids. An image that others need stays.
pub(super) async fn remove_leftovers(
    runner: &DockerRunner,
    app: AppId,
    kept: &HashSet<String>,
) -> Result<(), ProvisionError> {
    let label = format!("{BUILD_LABEL}={app}");
    remove_containers(runner, &label).await?;
    remove_images(runner, &label, kept).await
}

async fn remove_containers(runner: &DockerRunner, label: &str) -> Result<(), ProvisionError> {
    let docker = runner.engine.connect().await?;
    let filters = HashMap::from([("label", vec![label.to_owned()])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let listed = runner
        .engine
        .ask(ASK_TIMEOUT, docker.list_containers(Some(options)))
        .await?;
    for container in listed {
        let is_unit = container
            .labels
            .is_some_and(|labels| labels.contains_key(UNIT_LABEL));
        if let Some(id) = container.id.filter(|_| !is_unit) {
            runner.delete_container(&id).await?;
        }
    }
    Ok(())
}

async fn remove_images(
    runner: &DockerRunner,
    label: &str,
    kept: &HashSet<String>,
) -> Result<(), ProvisionError> {
    let docker = runner.engine.connect().await?;
    let filters = HashMap::from([
        ("label", vec![label.to_owned()]),
        ("dangling", vec!["true".to_owned()]),
    ]);
    let options = ListImagesOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let listed = runner
        .engine
        .ask(ASK_TIMEOUT, docker.list_images(Some(options)))
        .await?;
    for image in listed {
        let id = image.id.trim_start_matches("sha256:");
        if kept.contains(id.get(..SHORT_ID).unwrap_or(id)) {
            continue;
        }
        // With the images that it was made of, as far as nothing else is.
        let options = RemoveImageOptionsBuilder::new()
            .force(false)
            .noprune(false)
            .build();
        let removing = docker.remove_image(&image.id, Some(options), None);
        match runner.engine.ask(CHANGE_TIMEOUT, removing).await {
            Ok(_) | Err(EngineError::Missing(_) | EngineError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
