//! The saga `app.deploy`; see the module above.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::builders::{self, BuildArtifact, BuildRequest};
use crate::core::Core;
use crate::deploys::build_log::follow_lines;
use crate::deploys::build_slot::acquire_build_slot;
use crate::deploys::dockerfile_version::{self, ImageRecipe};
use crate::deploys::sides::SideOptions;
use crate::deploys::{archive_transfer, build_request, image_version, processes, release_command, store};
use crate::events::EventOutcome;
use crate::kernel::artifact::ImageName;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::platforms;
use crate::provisioners::UnitId;
use crate::releases;
use crate::releases::rollout_steps::{self, HasRollout, RolloutProgress};
use crate::sagas::{Saga, StepContext, StepError, saga_steps};
use crate::units;
use crate::versions::{self, BuiltVersion};

/// Versions kept for going back to.
const KEEP_VERSIONS: i64 = 10;

saga_steps! {
    /// The steps of a deploy.
    pub enum DeployStep {
        /// Makes a version of the archive.
        Build = "build",
        /// Runs the release command of the version.
        Release = "release",
        /// Makes a release of the version, as a candidate.
        CreateCandidate = "create-candidate",
        /// Waits until its units are ready.
        WaitForUnits = "wait-for-units",
        /// Makes it current.
        Promote = "promote",
        /// Waits until the routers know its units.
        WaitForRouters = "wait-for-routers",
        /// Drops the archive, and versions too old to go back to.
        CleanUp = "clean-up",
    }
}

/// What the steps know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeployData {
    app: AppId,
    /// Name of the file in the folder of uploads; empty if an image is deployed.
    archive: String,
    /// The image that is deployed, instead of an archive.
    #[serde(default)]
    image: Option<String>,
    /// The archive is built as an image.
    #[serde(default)]
    recipe: Option<ImageRecipe>,
    /// Who has the archive, and then the version; none while the archive is stored in the database for any worker.
    host: Option<String>,
    version: Option<i32>,
    #[serde(default)]
    sides: SideOptions,
    rollout: RolloutProgress,
    /// The unit that runs the release command.
    #[serde(default)]
    release_unit: Option<UnitId>,
}

impl DeployData {
    /// Says what becomes of the versions that run.
    pub(super) fn with_sides(mut self, sides: SideOptions) -> Self {
        self.sides = sides;
        self
    }

    /// Says that the archive is built as an image, and how.
    pub(super) fn with_recipe(mut self, recipe: Option<ImageRecipe>) -> Self {
        self.recipe = recipe;
        self
    }

    /// The deploy of an archive that lies on a host, or is stored for all of them.
    pub(super) fn new(app: AppId, archive: String, host: Option<String>) -> Self {
        Self {
            app,
            archive,
            image: None,
            recipe: None,
            host,
            version: None,
            sides: SideOptions::default(),
            rollout: RolloutProgress::for_app(Some(app)),
            release_unit: None,
        }
    }

    /// The deploy of an image, by a host or by any worker.
    pub(super) fn for_image(app: AppId, image: &ImageName, host: Option<String>) -> Self {
        Self {
            image: Some(image.to_string()),
            ..Self::new(app, String::new(), host)
        }
    }

    /// Its archive is stored for any worker now.
    pub(super) fn release_host(&mut self) {
        self.host = None;
    }
}

impl HasRollout for DeployData {
    fn rollout(&self) -> &RolloutProgress {
        &self.rollout
    }

    fn rollout_mut(&mut self) -> &mut RolloutProgress {
        &mut self.rollout
    }
}

/// See the module.
pub struct DeploySaga {
    core: Core,
}

impl DeploySaga {
    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn find_app(&self, id: AppId) -> Result<App, StepError> {
        let app = apps::store::find_app_by_id(&self.core.db, id).await?;
        app.ok_or_else(|| StepError::GiveUp(Error::not_found("The app is gone.")))
    }

    async fn build_version(&self, data: &mut DeployData, ctx: &StepContext) -> Result<(), StepError> {
        let app = self.find_app(data.app).await?;
        let version = match data.version {
            Some(version) => version,
            None => self.assign_version(data, ctx).await?,
        };
        if let Some(image) = &data.image {
            return image_version::take_over_image(&self.core, ctx, &app, (image, version)).await;
        }
        if let Some(recipe) = &data.recipe {
            let source = (recipe, data.archive.as_str(), version);
            return dockerfile_version::build_image_version(&self.core, ctx, &app, source).await;
        }
        let platform = build_request::require_platform(&app)?;
        // A folder that is there though the step did not end was left by a process that died: built anew.
        let folder = versions::version_folder(&self.core, data.app, version);
        run_blocking(move || builders::remove_version(&folder)).await?;
        ctx.append_log(&format!(
            "---- Building version {version} of {} ({}) ----",
            app.name, platform
        ))
        .await;
        // A build takes as long as it is allowed to, and holds a slot to build all the while, but no worker.
        let built = ctx.without_worker(async {
            let _slot = acquire_build_slot(&self.core, ctx).await?;
            if versions::drop_stale_cache(&self.core, data.app).await? {
                ctx.append_log(" ---> building without the cache of earlier builds")
                    .await;
            }
            archive_transfer::fetch_archive(&self.core, &data.archive).await?;
            let scripts = platforms::find_scripts(&self.core, platform).await?;
            if let Some(number) = scripts.version {
                ctx.append_log(&format!(" ---> version {number} of the platform {platform}"))
                    .await;
            }
            let request =
                build_request::make_build_request(&self.core, &app, &data.archive, version, scripts.dir)
                    .await?;
            let built = self.run_build(&request, ctx).await?;
            let digest = run_blocking(move || versions::digest_tree(&request.dest)).await?;
            Ok::<_, StepError>((built, digest))
        });
        let (built, digest) = built.await?;
        let most = self.core.settings.apps.max_deploy_timeout;
        ctx.append_log_lines(&units::health_adjustments(&built.yaml, most))
            .await;
        let yaml = serde_json::to_value(&built.yaml).map_err(Error::internal)?;
        let made = BuiltVersion {
            processes: &built.processes,
            release_command: built.release_command.as_deref(),
            yaml: &yaml,
            bytes: i64::try_from(built.bytes).unwrap_or(i64::MAX),
            digest: digest.to_string(),
            image: None,
        };
        ctx.write_fenced(async |tx| Ok(versions::mark_version_ready(tx, data.app, version, &made).await?))
            .await?;
        ctx.append_log(&format!(
            " ---> version {version} is built: {} bytes",
            built.bytes
        ))
        .await;
        Ok(())
    }

    /// Takes a number for the version, and keeps it with the saga in one transaction. From then on this host holds the
    /// version, and runs the saga.
    async fn assign_version(&self, data: &mut DeployData, ctx: &StepContext) -> Result<i32, StepError> {
        let host = &self.core.host;
        ctx.checkpoint(data, async |tx, data: &mut DeployData| {
            let version = versions::insert_version(tx, data.app, host).await?;
            if let Some(event) = ctx.event_id() {
                store::set_version(tx, event, version).await?;
            }
            data.version = Some(version);
            data.host = Some(host.to_string());
            ctx.pin_to_host(tx, host).await?;
            Ok(version)
        })
        .await
    }

    async fn run_build(&self, request: &BuildRequest, ctx: &StepContext) -> Result<BuildArtifact, StepError> {
        let cancel = ctx.cancel_token().clone();
        let building = |lines| builders::build_version(request, lines, cancel);
        let built = follow_lines(ctx, building).await;
        built.map_err(|error| StepError::GiveUp(error.into()))
    }

    /// Removes the archive, wherever it lies.
    async fn remove_archive(&self, data: &DeployData) {
        if data.image.is_some() {
            return;
        }
        let path = self.core.data_dir.uploads_dir().join(&data.archive);
        // What cannot be removed now is swept: the file at the next start, the stored archive by its healer.
        let _ = tokio::fs::remove_file(path).await;
        if let Err(error) = store::delete_archive(&self.core.db, &data.archive).await {
            tracing::warn!(%error, archive = data.archive, "a stored archive is left for its healer");
        }
    }

    /// Drops the archive and the versions that are too old to go back to.
    async fn clean_up(&self, data: &DeployData, ctx: &StepContext) -> Result<(), StepError> {
        self.remove_archive(data).await;
        ctx.write_fenced(async |tx| Ok(versions::retire_versions(tx, data.app, KEEP_VERSIONS).await?))
            .await?;
        Ok(())
    }

    async fn run_release_command(&self, data: &mut DeployData, ctx: &StepContext) -> Result<(), StepError> {
        let version = data
            .version
            .ok_or_else(|| Error::internal("a deploy without a version"))?;
        let Some(command) = store::find_release_command(&self.core.db, data.app, version).await? else {
            return Ok(());
        };
        let app = self.find_app(data.app).await?;
        let unit = match data.release_unit.clone() {
            Some(unit) => unit,
            None => {
                let unit = release_command::new_release_unit(&app)?;
                ctx.checkpoint(data, async |tx, data: &mut DeployData| {
                    versions::set_release_unit(tx, data.app, version, Some(unit.as_str())).await?;
                    data.release_unit = Some(unit.clone());
                    Ok(())
                })
                .await?;
                unit
            }
        };
        release_command::run_command(&self.core, ctx, (&app, version, unit), &command).await?;
        self.undo_release(data, ctx).await
    }

    /// Removes the unit of the release command, if there is one.
    async fn undo_release(&self, data: &mut DeployData, ctx: &StepContext) -> Result<(), StepError> {
        let (Some(unit), Some(version)) = (data.release_unit.clone(), data.version) else {
            return Ok(());
        };
        release_command::remove_unit(&self.core, &unit).await?;
        ctx.checkpoint(data, async |tx, data: &mut DeployData| {
            versions::set_release_unit(tx, data.app, version, None).await?;
            data.release_unit = None;
            Ok(())
        })
        .await
    }

    async fn create_candidate(&self, data: &mut DeployData, ctx: &StepContext) -> Result<(), StepError> {
        let version = data
            .version
            .ok_or_else(|| Error::internal("a deploy without a version"))?;
        let headline = format!("---- Starting version {version} ----");
        let create = async |tx: &mut PgConnection, data: &mut DeployData| {
            let side = releases::find_deploy_side(tx, data.app, version, data.sides.beside).await?;
            processes::prepare_processes(tx, data.app, version, side, data.sides).await?;
            let release =
                releases::create_version_candidate(&self.core, tx, data.app, (version, side), None).await?;
            data.rollout.add_candidate(data.app, release);
            Ok(())
        };
        rollout_steps::create_candidates(&self.core, ctx, data, Some(&headline), create).await
    }

    async fn undo_build(&self, data: &DeployData, ctx: &StepContext) -> Result<(), StepError> {
        self.remove_archive(data).await;
        let Some(version) = data.version else {
            return Ok(());
        };
        // Its holder removes the files once its units are gone.
        ctx.write_fenced(async |tx| Ok(versions::mark_version_failed(tx, data.app, version).await?))
            .await?;
        rollout_steps::wait_for_removal(&self.core, ctx, &data.rollout).await?;
        if data.image.is_some() || data.recipe.is_some() {
            image_version::release_image(&self.core, data.app, version).await;
        }
        Ok(())
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StepError> {
    let result = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
    result.map_err(|e| StepError::GiveUp(Error::internal(e)))
}

/// Writes into the list of deploys how one has ended.
pub(super) async fn record_end(
    tx: &mut PgConnection,
    ctx: &StepContext,
    outcome: &EventOutcome,
) -> Result<(), Error> {
    let error = match outcome {
        EventOutcome::Done => "",
        EventOutcome::Failed { words, .. } => words,
    };
    match ctx.event_id() {
        Some(event) => Ok(store::end_deploy(tx, event, error).await?),
        None => Ok(()),
    }
}

#[async_trait]
impl Saga for DeploySaga {
    const KIND: &'static str = "app.deploy";
    type Step = DeployStep;
    type Data = DeployData;

    fn host(data: &DeployData) -> Option<&str> {
        data.host.as_deref()
    }

    async fn run_step(
        &self,
        step: DeployStep,
        data: &mut DeployData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            DeployStep::Build => self.build_version(data, ctx).await,
            DeployStep::Release => self.run_release_command(data, ctx).await,
            DeployStep::CreateCandidate => self.create_candidate(data, ctx).await,
            DeployStep::WaitForUnits => {
                rollout_steps::wait_for_ready_units(&self.core, ctx, &data.rollout).await
            }
            DeployStep::Promote => {
                let count = async |tx: &mut PgConnection, data: &mut DeployData| {
                    if data.sides.replaces_all {
                        releases::end_other_sides(tx, data.app).await?;
                    }
                    Ok(store::count_deploy(tx, data.app).await?)
                };
                rollout_steps::promote_candidates(ctx, data, count).await
            }
            DeployStep::WaitForRouters => {
                rollout_steps::wait_for_serving_units(&self.core, ctx, &data.rollout).await
            }
            DeployStep::CleanUp => self.clean_up(data, ctx).await,
        }
    }

    fn is_forward_only(&self, step: DeployStep, data: &DeployData) -> bool {
        matches!(step, DeployStep::WaitForRouters | DeployStep::CleanUp) || data.rollout.is_promoted()
    }

    async fn undo_step(
        &self,
        step: DeployStep,
        data: &mut DeployData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            DeployStep::Build => self.undo_build(data, ctx).await,
            DeployStep::Release => self.undo_release(data, ctx).await,
            DeployStep::CreateCandidate => rollout_steps::discard_candidates(ctx, data).await.map(drop),
            DeployStep::WaitForUnits
            | DeployStep::Promote
            | DeployStep::WaitForRouters
            | DeployStep::CleanUp => Ok(()),
        }
    }

    async fn on_finish(
        &self,
        tx: &mut PgConnection,
        _data: &DeployData,
        ctx: &StepContext,
        outcome: &EventOutcome,
    ) -> Result<(), Error> {
        record_end(tx, ctx, outcome).await
    }
}
