//! A version that is a folder of files, built of an archive with the platform of the app.

use crate::apps::App;
use crate::builders::{self, BuildArtifact, BuildRequest};
use crate::core::Core;
use crate::deploys::build_log::follow_lines;
use crate::deploys::build_slot::acquire_build_slot;
use crate::deploys::{archive_transfer, build_request};
use crate::kernel::error::Error;
use crate::platforms;
use crate::sagas::{StepContext, StepError};
use crate::units;
use crate::versions::{self, BuiltVersion};

/// Builds an archive in the folder of the version, and reads from the files what runs.
pub(super) async fn build_archive_version(
    core: &Core,
    ctx: &StepContext,
    app: &App,
    (archive, version): (&str, i32),
) -> Result<(), StepError> {
    let platform = build_request::require_platform(app)?;
    // A folder that is there though the step did not end was left by a process that died: built anew.
    let folder = versions::version_folder(core, app.id, version);
    run_blocking(move || builders::remove_version(&folder)).await?;
    ctx.append_log(&format!(
        "---- Building version {version} of {} ({platform}) ----",
        app.name
    ))
    .await;
    // A build takes as long as it is allowed to, and holds a slot to build all the while, but no worker.
    let built = ctx.without_worker(async {
        let _slot = acquire_build_slot(core, ctx).await?;
        if versions::drop_stale_cache(core, app.id).await? {
            ctx.append_log(" ---> building without the cache of earlier builds")
                .await;
        }
        archive_transfer::fetch_archive(core, archive).await?;
        let scripts = platforms::find_scripts(core, platform).await?;
        if let Some(number) = scripts.version {
            ctx.append_log(&format!(" ---> version {number} of the platform {platform}"))
                .await;
        }
        let request = build_request::make_build_request(core, app, archive, version, scripts.dir).await?;
        let built = run_build(&request, ctx).await?;
        let digest = run_blocking(move || versions::digest_tree(&request.dest)).await?;
        Ok::<_, StepError>((built, digest.to_string()))
    });
    let (built, digest) = built.await?;
    record_version(core, ctx, (app, version), (&built, digest)).await
}

async fn run_build(request: &BuildRequest, ctx: &StepContext) -> Result<BuildArtifact, StepError> {
    let cancel = ctx.cancel_token().clone();
    let building = |lines| builders::build_version(request, lines, cancel);
    let built = follow_lines(ctx, building).await;
    built.map_err(|error| StepError::GiveUp(error.into()))
}

async fn record_version(
    core: &Core,
    ctx: &StepContext,
    (app, version): (&App, i32),
    (built, digest): (&BuildArtifact, String),
) -> Result<(), StepError> {
    let most = core.settings.apps.max_deploy_timeout;
    ctx.append_log_lines(&units::health_adjustments(&built.yaml, most))
        .await;
    let yaml = serde_json::to_value(&built.yaml).map_err(Error::internal)?;
    let made = BuiltVersion {
        processes: &built.processes,
        release_command: built.release_command.as_deref(),
        yaml: &yaml,
        bytes: i64::try_from(built.bytes).unwrap_or(i64::MAX),
        digest,
        image: None,
    };
    ctx.write_fenced(async |tx| Ok(versions::mark_version_ready(tx, app.id, version, &made).await?))
        .await?;
    ctx.append_log(&format!(
        " ---> version {version} is built: {} bytes",
        built.bytes
    ))
    .await;
    Ok(())
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StepError> {
    let result = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
    result.map_err(|e| StepError::GiveUp(Error::internal(e)))
}
