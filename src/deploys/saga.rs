//! The saga `app.deploy`; see the module above.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::mpsc;

use crate::apps::{self, App};
use crate::builders::{self, BuildLimits, BuildRequest, Built};
use crate::confine::Confinement;
use crate::core::Core;
use crate::deploys::store::{self, Made};
use crate::envs;
use crate::events::Outcome;
use crate::kernel::ids::AppId;
use crate::kernel::names::EnvName;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::releases;
use crate::sagas::{Run, Saga, StepError};

/// Versions kept for going back to.
const KEEP_VERSIONS: i64 = 10;
/// Lines of a build on their way to the event.
const LINES: usize = 256;

/// What the steps know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DeployData {
    pub app: AppId,
    /// Name of the file in the folder of uploads.
    pub archive: String,
    pub version: Option<i32>,
    pub release: Option<i64>,
    /// The release is current: there is no way back.
    #[serde(default)]
    pub switched: bool,
}

/// See the module.
pub struct Deploy {
    core: Core,
}

impl Deploy {
    /// The name under which its rows are kept.
    pub const KIND: &str = "app.deploy";

    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    fn folder(&self, data: &DeployData, version: i32) -> PathBuf {
        self.core
            .dirs
            .versions()
            .join(data.app.to_string())
            .join(version.to_string())
    }

    async fn app(&self, id: AppId) -> Result<App, StepError> {
        let name = apps::store::find_name(&self.core.db, id).await?;
        let app = match name {
            Some(name) => apps::store::find(&self.core.db, &name).await?,
            None => None,
        };
        app.ok_or_else(|| StepError::GiveUp(Problem::not_found("The app is gone.")))
    }

    async fn build(&self, data: &mut DeployData, run: &mut Run) -> Result<(), StepError> {
        let app = self.app(data.app).await?;
        let version = match data.version {
            Some(version) => version,
            None => self.number(data, run).await?,
        };
        // A folder that is there though the step did not end is of a life before: built anew.
        self.remove_files(data, version).await?;
        run.say(&format!(
            "---- Building version {version} of {} ({}) ----",
            app.name, app.platform
        ))
        .await;
        let place = Arc::clone(&self.core.building);
        let _place = tokio::select! {
            place = place.acquire_owned() => place.map_err(|e| StepError::GiveUp(Problem::internal(e)))?,
            () = run.cancel().cancelled() => return Err(StepError::GiveUp(Problem::new(crate::kernel::problem::Kind::Cancelled, "canceled by user request"))),
        };
        let request = self.request(&app, data, version).await?;
        let built = self.run_build(&request, run).await?;
        let mut tx = run.begin().await?;
        let processes = json!(built.processes);
        let yaml = serde_json::to_value(&built.yaml).map_err(Problem::internal)?;
        let made = Made {
            processes: &processes,
            yaml: &yaml,
            bytes: i64::try_from(built.bytes).unwrap_or(i64::MAX),
        };
        store::version_ready(&mut tx, data.app, version, &made).await?;
        tx.commit().await?;
        run.say(&format!(
            " ---> version {version} is built: {} bytes",
            built.bytes
        ))
        .await;
        Ok(())
    }

    /// Takes a number for the version, and keeps it with the saga in one transaction.
    async fn number(&self, data: &mut DeployData, run: &mut Run) -> Result<i32, StepError> {
        let mut tx = run.begin().await?;
        let version = store::new_version(&mut tx, data.app, &self.core.host).await?;
        if let Some(event) = run.event() {
            store::set_version(&mut tx, event, version).await?;
        }
        data.version = Some(version);
        run.set_data(data)?;
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        Ok(version)
    }

    async fn request(&self, app: &App, data: &DeployData, version: i32) -> Result<BuildRequest, StepError> {
        let settings = &self.core.settings.builds;
        let mut conn = self.core.db.acquire().await?;
        let env = envs::effective(&self.core, &mut conn, app.id, &app.name).await?;
        let env: Vec<(EnvName, Secret)> = env
            .iter()
            .map(|var| (var.name.clone(), var.value.clone()))
            .collect();
        self.core.dirs.app_versions(app.id.0).map_err(Problem::internal)?;
        let mut limits = BuildLimits {
            deadline: settings.deadline,
            output_bytes: settings.max_output_bytes.0,
            ..BuildLimits::default()
        };
        limits.disk_bytes = settings.max_disk_bytes.0;
        limits.unpack.total_bytes = settings.max_unpacked_bytes.0;
        limits.unpack.entries = usize::try_from(settings.max_files).unwrap_or(usize::MAX);
        Ok(BuildRequest {
            archive: self.core.dirs.uploads().join(&data.archive),
            platform: app.platform.clone(),
            platforms_dir: self.core.platforms_dir.clone(),
            dest: self.folder(data, version),
            cache_dir: self.core.dirs.cache().join(data.app.to_string()),
            env,
            pass_env: self.core.pass_env.clone(),
            user: self.core.unit_user(app.number),
            confinement: Some(Confinement::new(&self.core.settings, self.core.dirs.path())),
            limits,
        })
    }

    async fn run_build(&self, request: &BuildRequest, run: &Run) -> Result<Built, StepError> {
        let (sender, mut lines) = mpsc::channel(LINES);
        let telling = async {
            let mut batch = Vec::new();
            while lines.recv_many(&mut batch, LINES).await > 0 {
                run.say_all(&batch).await;
                batch.clear();
            }
        };
        let (built, ()) = tokio::join!(builders::build(request, sender, run.cancel().clone()), telling);
        built.map_err(|error| StepError::GiveUp(error.into()))
    }

    async fn remove_files(&self, data: &DeployData, version: i32) -> Result<(), StepError> {
        let folder = self.folder(data, version);
        blocking(move || match folder.exists() {
            true => builders::remove_version(&folder),
            false => Ok(()),
        })
        .await
    }

    async fn remove_archive(&self, data: &DeployData) {
        let path = self.core.dirs.uploads().join(&data.archive);
        // What cannot be removed now is swept at the next start.
        let _ = tokio::fs::remove_file(path).await;
    }

    /// Drops the archive and the versions that are too old to go back to.
    async fn tidy(&self, data: &DeployData, run: &Run) -> Result<(), StepError> {
        self.remove_archive(data).await;
        let mut tx = run.begin().await?;
        let old = store::retire(&mut tx, data.app, &self.core.host, KEEP_VERSIONS).await?;
        tx.commit().await?;
        for version in old {
            self.remove_files(data, version).await?;
        }
        Ok(())
    }
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), StepError> {
    let result = tokio::task::spawn_blocking(work)
        .await
        .map_err(Problem::internal)?;
    result.map_err(|e| StepError::GiveUp(Problem::internal(e)))
}

#[async_trait]
impl Saga for Deploy {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["build", "release", "start", "switch", "settle", "tidy"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let mut data: DeployData = run.data()?;
        match (step, data.version, data.release) {
            ("build", ..) => self.build(&mut data, run).await?,
            ("release", Some(version), None) => {
                let mut tx = run.begin().await?;
                store::ensure_processes(&mut tx, data.app, version).await?;
                data.release =
                    Some(releases::propose_version(&self.core, &mut tx, data.app, version, None).await?);
                run.set_data(&data)?;
                run.keep_in(&mut tx).await?;
                tx.commit().await?;
                run.say(&format!("---- Starting version {version} ----")).await;
            }
            ("start", _, Some(release)) => releases::await_ready(&self.core, run, data.app, release).await?,
            ("switch", _, Some(release)) => {
                let mut tx = run.begin().await?;
                if releases::adopt(&mut tx, data.app, release).await? {
                    store::count(&mut tx, data.app).await?;
                }
                data.switched = true;
                run.set_data(&data)?;
                run.keep_in(&mut tx).await?;
                tx.commit().await?;
            }
            ("settle", _, Some(release)) => releases::settle(&self.core, release).await?,
            ("tidy", ..) => self.tidy(&data, run).await?,
            _ => {}
        }
        Ok(())
    }

    fn forward_only(&self, step: &'static str, run: &Run) -> bool {
        matches!(step, "settle" | "tidy") || run.data().is_ok_and(|data: DeployData| data.switched)
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let data: DeployData = run.data()?;
        match (step, data.version, data.release) {
            ("release", _, Some(release)) => {
                let mut tx = run.begin().await?;
                releases::abandon(&mut tx, data.app, release).await?;
                tx.commit().await?;
            }
            ("build", version, _) => {
                self.remove_archive(&data).await;
                if let Some(version) = version {
                    let mut tx = run.begin().await?;
                    store::version_state(&mut tx, data.app, version, "failed").await?;
                    tx.commit().await?;
                    releases::await_gone(&self.core, data.release).await?;
                    self.remove_files(&data, version).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn ended(&self, tx: &mut PgConnection, run: &Run, outcome: &Outcome) -> Result<(), Problem> {
        let error = match outcome {
            Outcome::Done => "",
            Outcome::Failed { words, .. } => words,
        };
        match run.event() {
            Some(event) => Ok(store::end(tx, event, error).await?),
            None => Ok(()),
        }
    }
}

/// Removes what deploys of a life before have left behind: half-built folders, archives that nobody
/// needs. For the start.
pub async fn sweep(core: &Core) -> Result<(), Problem> {
    let used = store::archives_in_use(&core.db).await?;
    let (uploads, versions) = (core.dirs.uploads(), core.dirs.versions());
    let sweeping = move || -> std::io::Result<()> {
        for entry in std::fs::read_dir(&uploads)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !used.contains(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        for entry in std::fs::read_dir(&versions)? {
            builders::sweep(&entry?.path())?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(sweeping)
        .await
        .map_err(Problem::internal)?
        .map_err(Problem::internal)
}
