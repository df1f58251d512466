//! The saga `app.remove`: unbinds every instance, stops every unit, gives up the repository, deletes the app.
//!
//! Any worker may run it. The files of its versions are on one host or several; each host removes its own once the app
//! is deleted: see `versions`.
//!
//! It is forward only: a partly removed app is of no use. A service that does not respond does not block it;
//! what the service may still hold for the app is recorded as an orphan.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::apps::App;
use crate::core::Core;
use crate::db;
use crate::db::notices::NoticeChannel;
use crate::events::NewEvent;
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::lifecycle::store;
use crate::sagas::{self, Saga, StepContext, StepError, saga_steps};
use crate::{apps, releases, repositories, services};

saga_steps! {
    /// The steps of the removal of an app.
    pub enum RemoveAppStep {
        /// Unbinds it from every service instance.
        Unbind = "unbind",
        /// Stops its units.
        StopUnits = "stop-units",
        /// Gives up its repository.
        RemoveRepository = "remove-files",
        /// Removes its row.
        DeleteApp = "delete-app",
    }
}

/// The data of the saga.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoveAppData {
    app: AppId,
}

/// Removes an app. Returns the event to follow.
pub async fn remove_app(core: &Core, call: &RequestContext, name: &AppName) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_DELETE).await?;
    remove_app_of(core, call, &app, Permission::APP_DELETE).await
}

/// Removes an app or a job on which the caller holds the permission. Returns the event to follow.
pub async fn remove_app_of(
    core: &Core,
    call: &RequestContext,
    app: &App,
    permission: Permission,
) -> Result<EventId, Error> {
    let new = NewEvent::new(
        app.event_target(),
        permission,
        app.permission_contexts(),
        json!({}),
    );
    sagas::start_saga::<RemoveAppSaga>(&core.db, call, &new, async |tx, _| {
        if !apps::store::begin_removal(tx, app.id).await? {
            return Err(Error::conflict(format!("{} is being removed.", app.title())));
        }
        Ok(RemoveAppData { app: app.id })
    })
    .await
}

/// The saga; see the module.
pub struct RemoveAppSaga {
    core: Core,
}

impl RemoveAppSaga {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn stop_units(&self, data: &RemoveAppData, ctx: &StepContext) -> Result<(), StepError> {
        ctx.write_fenced(async |tx| {
            releases::end_other_sides(tx, data.app).await?;
            store::clear_desired_state(tx, data.app).await?;
            db::send_notice(tx, NoticeChannel::Units, &data.app.to_string()).await?;
            db::send_notice(tx, NoticeChannel::Jobs, "").await?;
            db::send_notice(tx, NoticeChannel::Routes, "").await?;
            Ok(())
        })
        .await?;
        let units = [(NoticeChannel::Units, data.app.to_string())];
        ctx.wait_until(&units, Duration::MAX, || async {
            let left = store::count_units(&self.core.db, data.app).await?;
            if left == 0 {
                return Ok(Some(()));
            }
            let stopping = match left {
                1 => "1 unit is".to_owned(),
                many => format!("{many} units are"),
            };
            ctx.report_progress(&[format!(" ---> {stopping} being stopped")])
                .await;
            Ok(None)
        })
        .await
        .map(drop)
    }

    async fn remove_repository(&self, data: &RemoveAppData) {
        if let Err(error) = repositories::remove_repository_files(&self.core, data.app).await {
            // The repository healer retries once the app is deleted.
            tracing::warn!(error = %error.report(), app = %data.app, "cannot remove the repository of a removed app; its healer retries");
        }
    }

    async fn delete_app(&self, data: &RemoveAppData, ctx: &StepContext) -> Result<(), StepError> {
        let app = apps::store::find_app_by_id(&self.core.db, data.app).await?;
        ctx.write_fenced(async |tx| {
            if apps::store::delete_app(tx, data.app).await? {
                db::send_notice(tx, NoticeChannel::Auth, "").await?;
                db::send_notice(tx, NoticeChannel::Routes, "").await?;
                db::send_notice(tx, NoticeChannel::Versions, "").await?;
            }
            Ok(())
        })
        .await?;
        self.core.auth_cache.invalidate_all();
        if let Some(app) = app {
            ctx.append_log(&format!(
                "\nThe {} \"{}\" is removed.",
                app.kind.as_str(),
                app.name
            ))
            .await;
        }
        Ok(())
    }

    async fn unbind(&self, data: &RemoveAppData, ctx: &StepContext) -> Result<(), StepError> {
        if let Some(app) = apps::store::find_app_by_id(&self.core.db, data.app).await? {
            ctx.append_log(&format!(
                "---- Removing the {} \"{}\" ----",
                app.kind.as_str(),
                app.name
            ))
            .await;
        }
        services::unbind_all_instances(&self.core, ctx, data.app).await
    }
}

#[async_trait]
impl Saga for RemoveAppSaga {
    const KIND: &'static str = "app.remove";
    type Step = RemoveAppStep;
    type Data = RemoveAppData;

    async fn run_step(
        &self,
        step: RemoveAppStep,
        data: &mut RemoveAppData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            RemoveAppStep::Unbind => self.unbind(data, ctx).await,
            RemoveAppStep::StopUnits => self.stop_units(data, ctx).await,
            RemoveAppStep::RemoveRepository => {
                self.remove_repository(data).await;
                Ok(())
            }
            RemoveAppStep::DeleteApp => self.delete_app(data, ctx).await,
        }
    }

    fn is_forward_only(&self, _step: RemoveAppStep, _data: &RemoveAppData) -> bool {
        true
    }

    /// Does nothing: the removal is never undone.
    async fn undo_step(
        &self,
        _step: RemoveAppStep,
        _data: &mut RemoveAppData,
        _ctx: &StepContext,
    ) -> Result<(), StepError> {
        Ok(())
    }
}
