//! The saga `app.deploy`; see the module above.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::core::Core;
use crate::deploys::dockerfile_version::{self, ImageRecipe};
use crate::deploys::sides::SideOptions;
use crate::deploys::version_tag::VersionTag;
use crate::deploys::{archive_version, image_version, processes, release_command, store};
use crate::events::EventOutcome;
use crate::kernel::artifact::ImageName;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::provisioners::UnitId;
use crate::releases;
use crate::releases::rollout_steps::{self, HasRollout, RolloutProgress};
use crate::sagas::{Saga, StepContext, StepError, saga_steps};
use crate::versions;

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
    /// The version is only built, and has this tag then.
    #[serde(default)]
    tag: Option<VersionTag>,
    /// The version was built before.
    #[serde(default)]
    is_built: bool,
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
            tag: None,
            is_built: false,
        }
    }

    /// The deploy of an image, by a host or by any worker.
    pub(super) fn for_image(app: AppId, image: &ImageName, host: Option<String>) -> Self {
        Self {
            image: Some(image.to_string()),
            ..Self::new(app, String::new(), host)
        }
    }

    /// The deploy of a version that was built before, on the host that holds it.
    pub(super) fn for_version(app: AppId, version: i32, host: Option<String>) -> Self {
        Self {
            version: Some(version),
            is_built: true,
            ..Self::new(app, String::new(), host)
        }
    }

    /// Has the version only built, under a tag.
    pub(super) fn with_tag(mut self, tag: Option<VersionTag>) -> Self {
        self.tag = tag;
        self
    }

    /// Returns true if there is nothing to do in a step: the version is only built, or was built before.
    fn skips(&self, step: DeployStep) -> bool {
        match step {
            DeployStep::Build => self.is_built,
            DeployStep::CleanUp => false,
            _ => self.tag.is_some(),
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
        archive_version::build_archive_version(&self.core, ctx, &app, (&data.archive, version)).await
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

    /// Removes the archive, wherever it lies.
    async fn remove_archive(&self, data: &DeployData) {
        if data.archive.is_empty() {
            return;
        }
        let path = self.core.data_dir.uploads_dir().join(&data.archive);
        // What cannot be removed now is swept: the file at the next start, the stored archive by its healer.
        let _ = tokio::fs::remove_file(path).await;
        if let Err(error) = store::delete_archive(&self.core.db, &data.archive).await {
            tracing::warn!(%error, archive = data.archive, "a stored archive is left for its healer");
        }
    }

    /// Drops the archive and the versions that are too old to go back to. Gives the version its tag.
    async fn clean_up(&self, data: &DeployData, ctx: &StepContext) -> Result<(), StepError> {
        self.remove_archive(data).await;
        let tagged = data.version.zip(data.tag.as_ref());
        ctx.write_fenced(async |tx| {
            if let Some((version, tag)) = tagged {
                versions::set_tag(tx, data.app, version, tag.as_str()).await?;
            }
            Ok(versions::retire_versions(tx, data.app, KEEP_VERSIONS).await?)
        })
        .await?;
        if let Some((_, tag)) = tagged {
            let app = self.find_app(data.app).await?;
            ctx.append_log(&tag.image_name(&app.name)).await;
        }
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
        if data.skips(step) {
            return Ok(());
        }
        match step {
            DeployStep::Build => self.build_version(data, ctx).await,
            DeployStep::Release => self.run_release_command(data, ctx).await,
            DeployStep::CreateCandidate => self.create_candidate(data, ctx).await,
            DeployStep::WaitForUnits => {
                rollout_steps::wait_for_ready_units(&self.core, ctx, &data.rollout).await
            }
            DeployStep::Promote => {
                let count = async |tx: &mut PgConnection, data: &mut DeployData| {
                    data.sides.end_others(tx, data.app).await?;
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
        if data.skips(step) {
            return Ok(());
        }
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
