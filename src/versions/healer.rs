//! The healer of versions: on each host, it removes the files of versions and apps that are gone.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::provisioners::{ImageOwner, ImageStore};
use crate::sagas::{ReconcileReport, Reconciler};
use crate::versions::store::RemovedVersion;
use crate::versions::{self, store};
use crate::{builders, sandbox};

/// Between two looks without a notice.
const PERIOD: Duration = Duration::from_secs(60);
/// Apps, and versions, in one round.
const MAX_PER_ROUND: i64 = 50;

/// Where the next round goes on, so that what cannot be removed keeps nothing behind it waiting.
#[derive(Clone, Copy, Debug)]
struct HealerCursor {
    app: AppId,
    version: (AppId, i32),
}

const FIRST: HealerCursor = HealerCursor {
    app: AppId(Uuid::nil()),
    version: (AppId(Uuid::nil()), 0),
};

/// See the module.
pub struct VersionHealer {
    core: Core,
    cursor: Mutex<HealerCursor>,
}

impl VersionHealer {
    /// The healer.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            cursor: Mutex::new(FIRST),
        }
    }

    fn update_cursor<T>(&self, change: impl FnOnce(&mut HealerCursor) -> T) -> T {
        change(&mut self.cursor.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes what this host has of apps that are gone. True: there are more.
    async fn remove_apps(&self, report: &mut ReconcileReport) -> Result<bool, Error> {
        let (db, host) = (&self.core.db, self.core.host.as_str());
        let after = self.update_cursor(|cursor| cursor.app);
        let apps = store::list_removed_apps(db, host, after, MAX_PER_ROUND).await?;
        let is_full = apps.len() as i64 == MAX_PER_ROUND;
        let next = apps.last().filter(|_| is_full).map_or(FIRST.app, |(app, _)| *app);
        self.update_cursor(|cursor| cursor.app = next);
        for (app, number) in apps {
            match self.remove_app(app, number).await {
                Ok(()) => {
                    store::delete_holder(db, host, app).await?;
                    report
                        .done
                        .push(format!("removed the files of the app {app}, which is gone"));
                }
                Err(error) => {
                    tracing::error!(error = %error.report(), %app, "files of a removed app are left");
                }
            }
        }
        Ok(is_full)
    }

    async fn remove_app(&self, app: AppId, number: i32) -> Result<(), Error> {
        let user = versions::unit_uid(&self.core, number);
        // Its units are gone; what is left of its user's processes has escaped from them, and may still write.
        if let Some(user) = user {
            let ended = tokio::task::spawn_blocking(move || sandbox::kill_leftovers_of_user(user));
            if !ended.await.map_err(Error::internal)? {
                tracing::error!(%app, user, "processes of a removed app do not end");
            }
        }
        let versions = self.core.data_dir.versions_dir().join(app.to_string());
        remove_folder(versions).await?;
        remove_folder(versions::cache_folder(&self.core, app)).await?;
        // Last: while an engine does not answer, only what it has is left.
        for images in self.image_stores() {
            images.release_app(app).await.map_err(Error::internal)?;
        }
        Ok(())
    }

    /// Removes the files, or releases the image, of a version.
    async fn remove_version(&self, row: &RemovedVersion) -> Result<(), Error> {
        let owner = ImageOwner {
            app: row.app,
            version: row.version,
        };
        if !row.is_image {
            return remove_folder(versions::version_folder(&self.core, row.app, row.version)).await;
        }
        for images in self.image_stores() {
            images.release_image(&owner).await.map_err(Error::internal)?;
        }
        Ok(())
    }

    fn image_stores(&self) -> impl Iterator<Item = &dyn ImageStore> {
        let runners = self.core.provisioners.runners();
        runners.filter_map(|(_, runner)| runner.image_store())
    }

    /// Removes the files of versions that nobody goes back to. True: there are more.
    async fn remove_versions(&self, report: &mut ReconcileReport) -> Result<bool, Error> {
        let (db, host) = (&self.core.db, self.core.host.as_str());
        let after = self.update_cursor(|cursor| cursor.version);
        let found = store::list_removed_versions(db, host, after, MAX_PER_ROUND).await?;
        let is_full = found.len() as i64 == MAX_PER_ROUND;
        let next = found.last().filter(|_| is_full).map(|row| (row.app, row.version));
        self.update_cursor(|cursor| cursor.version = next.unwrap_or(FIRST.version));
        let mut removed = Vec::with_capacity(found.len());
        for row in found {
            let (app, version) = (row.app, row.version);
            match self.remove_version(&row).await {
                Ok(()) => removed.push((app, version)),
                Err(error) => {
                    tracing::error!(error = %error.report(), %app, version, "files of a removed version are left");
                }
            }
        }
        if !removed.is_empty() {
            store::clear_holder(db, host, &removed).await?;
            report
                .done
                .push(format!("removed the files of {} versions", removed.len()));
        }
        Ok(is_full)
    }
}

/// Removes a folder, or finds that there is none.
pub(super) async fn remove_folder(folder: PathBuf) -> Result<(), Error> {
    tokio::task::spawn_blocking(move || builders::remove_version(&folder))
        .await
        .map_err(Error::internal)?
        .map_err(Error::internal)
}

#[async_trait]
impl Reconciler for VersionHealer {
    fn name(&self) -> &'static str {
        "versions"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Versions]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let mut report = ReconcileReport::default();
        let more_apps = self.remove_apps(&mut report).await?;
        let more_versions = self.remove_versions(&mut report).await?;
        report.has_more = more_apps || more_versions;
        Ok(report)
    }
}
