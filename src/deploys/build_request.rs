//! What a build is told: the archive, the platform, the environment, the limits of the settings.

use std::path::PathBuf;

use crate::apps::App;
use crate::builders::{BuildLimits, BuildRequest, ImageBuildRequest};
use crate::core::Core;
use crate::envs;
use crate::kernel::error::Error;
use crate::kernel::names::{EnvName, PlatformName};
use crate::kernel::secret::Secret;
use crate::provisioners::ImageOwner;
use crate::sagas::StepError;
use crate::sandbox::SandboxPolicy;
use crate::versions;

/// Returns what the files of an app are built with. Errors: `Invalid`: it has no platform.
pub(super) fn require_platform(app: &App) -> Result<&PlatformName, Error> {
    app.platform.as_ref().ok_or_else(|| {
        Error::invalid(format!(
            "{} has no platform to build files with: give it one with `tsuru app update --platform`, or deploy an image.",
            app.title()
        ))
    })
}

/// Makes the request for the build of a version. Errors: `Invalid` for an environment that no process can have, and
/// without a platform.
pub(super) async fn make_build_request(
    core: &Core,
    app: &App,
    archive: &str,
    version: i32,
    platforms_dir: PathBuf,
) -> Result<BuildRequest, StepError> {
    let mut conn = core.db.acquire().await?;
    let env = envs::effective_environment(core, &mut conn, app.id, &app.name).await?;
    // Hooks are started with it, and units will be.
    env.check_size()?;
    let env: Vec<(EnvName, Secret)> = env
        .iter()
        .map(|var| (var.name.clone(), var.value.clone()))
        .collect();
    core.data_dir
        .make_app_versions_dir(app.id.0)
        .map_err(Error::internal)?;
    Ok(BuildRequest {
        archive: core.data_dir.uploads_dir().join(archive),
        platform: require_platform(app)?.clone(),
        platforms_dir,
        dest: versions::version_folder(core, app.id, version),
        cache_dir: versions::cache_folder(core, app.id),
        env,
        pass_env: core.pass_env.clone(),
        user: versions::unit_uid(core, app.number),
        sandbox: Some(SandboxPolicy::new(&core.settings, core.data_dir.path())),
        limits: make_limits(core),
    })
}

/// Makes the request for the build of an image. Errors: `Invalid` for an environment that no process can have.
pub(super) async fn make_image_request(
    core: &Core,
    app: &App,
    archive: &str,
    dockerfile: Option<String>,
    version: i32,
) -> Result<ImageBuildRequest, StepError> {
    let mut conn = core.db.acquire().await?;
    let env = envs::effective_environment(core, &mut conn, app.id, &app.name).await?;
    env.check_size()?;
    let env = env
        .iter()
        .map(|var| (var.name.clone(), var.value.clone(), var.public));
    let versions_dir = core.data_dir.make_app_versions_dir(app.id.0);
    versions_dir.map_err(Error::internal)?;
    Ok(ImageBuildRequest {
        archive: core.data_dir.uploads_dir().join(archive),
        versions_dir: core.data_dir.versions_dir().join(app.id.to_string()),
        app: app.name.clone(),
        owner: ImageOwner { app: app.id, version },
        dockerfile,
        env: env.collect(),
        limits: make_limits(core),
    })
}

/// The limits of the settings.
fn make_limits(core: &Core) -> BuildLimits {
    let settings = &core.settings.builds;
    let mut limits = BuildLimits {
        deadline: settings.deadline,
        output_bytes: settings.max_output_bytes.0,
        disk_bytes: settings.max_disk_bytes.0,
        memory_bytes: settings.max_memory_bytes.0,
        ..BuildLimits::default()
    };
    limits.unpack.total_bytes = settings.max_unpacked_bytes.0;
    limits.unpack.entries = usize::try_from(settings.max_files).unwrap_or(usize::MAX);
    limits
}
