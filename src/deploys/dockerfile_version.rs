//! A version that is an image, built of a source with a Dockerfile by the provisioner of the app's pool.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::apps::App;
use crate::builders::{self, BuiltImage, ImageBuildRequest, TsuruYaml};
use crate::core::Core;
use crate::deploys::archive_transfer;
use crate::deploys::build_log::follow_lines;
use crate::deploys::build_request::make_image_request;
use crate::deploys::build_slot::acquire_build_slot;
use crate::deploys::image_version::{self, ImageContent};
use crate::kernel::artifact::ImageName;
use crate::kernel::error::Error;
use crate::provisioners::ImageStore;
use crate::sagas::{StepContext, StepError};
use crate::versions;

/// Says that a deploy builds an image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ImageRecipe {
    /// The Dockerfile that the caller has sent; none: that of the source.
    pub(super) dockerfile: Option<String>,
}

/// Builds an image of an archive, keeps it for the version, and reads from both what runs.
pub(super) async fn build_image_version(
    core: &Core,
    ctx: &StepContext,
    app: &App,
    (recipe, archive, version): (&ImageRecipe, &str, i32),
) -> Result<(), StepError> {
    ctx.append_log(&format!(
        "---- Building version {version} of {} as an image ----",
        app.name
    ))
    .await;
    let runner = image_version::find_runner(core, app).await?;
    let images = runner
        .image_store()
        .ok_or_else(|| image_version::runs_no_images(app))?;
    // A build takes as long as it is allowed to, and holds a slot to build all the while, but no worker.
    let built = ctx.without_worker(async {
        let _slot = acquire_build_slot(core, ctx).await?;
        archive_transfer::fetch_archive(core, archive).await?;
        let request = make_image_request(core, app, archive, recipe.dockerfile.clone(), version).await?;
        run_build(images, &request, ctx).await
    });
    let built = built.await?;
    if !built.yaml.hooks.build.is_empty() {
        ctx.append_log(
            " !     The build hooks of tsuru.yaml are not run: the Dockerfile says how the image is built.",
        )
        .await;
    }
    let name = ImageName::parse(built.details.pinned.reference())?;
    let content = read_content(&name, built)?;
    image_version::record_image(core, ctx, (app, version), &name, content).await
}

async fn run_build(
    images: &dyn ImageStore,
    request: &ImageBuildRequest,
    ctx: &StepContext,
) -> Result<BuiltImage, StepError> {
    let cancel = ctx.cancel_token().clone();
    let pack = |top: &Path, out: Box<dyn Write + Send>| versions::write_layer(top, out);
    let building = |lines| builders::build_image(images, request, pack, lines, cancel);
    let built = follow_lines(ctx, building).await;
    built.map_err(|error| StepError::GiveUp(error.into()))
}

/// The processes are those of the source, else those of the image.
fn read_content(name: &ImageName, built: BuiltImage) -> Result<ImageContent, Error> {
    let (processes, yaml) = match built.names_processes() {
        true => {
            let procfile = built.procfile.unwrap_or_default();
            (builders::merge_processes(&procfile, &built.yaml)?, built.yaml)
        }
        false => {
            let (processes, of_image) = image_version::read_processes(name, &built.details)?;
            let is_silent = built.yaml == TsuruYaml::default();
            (processes, if is_silent { of_image } else { built.yaml })
        }
    };
    Ok(ImageContent {
        details: built.details,
        processes,
        yaml,
        release_command: built.release_command,
    })
}
