//! The saga `app.remove`: unbind every instance, stop every unit, remove the files, forget the app.
//!
//! It is forward only: half an app is of no use to anybody. A service that does not answer does not
//! hold it up; what it may still hold for us is hunted on as an orphan.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::db::listen::Channel;
use crate::events::{self, NewEvent, Target};
use crate::kernel::call::Call;
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::{AppName, Email, TeamName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::lifecycle::store;
use crate::sagas::{self, Lane, NewSaga, Run, Saga, StepError};
use crate::{apps, builders, quotas, repositories, services};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct RemoveData {
    app: AppId,
    /// Who paid for it with their quota.
    owner: String,
    team_owner: TeamName,
}

/// Removes an app. Answers the event to follow.
pub async fn remove_app(core: &Core, call: &Call, name: &AppName) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_DELETE).await?;
    let mut tx = core.db.begin().await?;
    let new = NewEvent::new(
        Target::app(name),
        Permission::APP_DELETE,
        app.contexts(),
        json!({}),
    );
    let event = events::begin(&mut tx, call, &new).await?;
    if !apps::store::begin_removal(&mut tx, app.id).await? {
        return Err(Problem::conflict(format!("App {name} is being removed.")));
    }
    let data = RemoveData {
        app: app.id,
        owner: app.owner,
        team_owner: app.team_owner,
    };
    let saga = NewSaga {
        kind: RemoveApp::KIND,
        lane: Lane::People,
        event: Some(&event),
        host: Some(&core.host),
        data: &data,
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(event)
}

/// See the module.
pub struct RemoveApp {
    core: Core,
}

impl RemoveApp {
    /// The name under which its rows are kept.
    pub const KIND: &str = "app.remove";

    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn stop_units(&self, data: &RemoveData, run: &Run) -> Result<(), StepError> {
        let mut notices = self.core.notices.subscribe();
        let mut tx = run.begin().await?;
        store::want_nothing(&mut tx, data.app).await?;
        db::notify(&mut tx, Channel::Units, &data.app.to_string()).await?;
        db::notify(&mut tx, Channel::Routes, "").await?;
        tx.commit().await?;
        let mut said = 0;
        loop {
            let left = store::count_units(&self.core.db, data.app).await?;
            if left == 0 {
                return Ok(());
            }
            if left != said {
                run.say(&format!(" ---> {left} units are being stopped")).await;
                said = left;
            }
            tokio::select! {
                _ = notices.wait(&[Channel::Units], Duration::from_millis(250)) => {}
                () = run.cancel().cancelled() => {
                    let why = Problem::unavailable(format!("{left} units are still being stopped."));
                    return Err(StepError::Retry { why, after: Duration::from_secs(1) });
                }
            }
        }
    }

    async fn remove_files(&self, data: &RemoveData) -> Result<(), StepError> {
        let id = data.app.to_string();
        let folders = [
            self.core.dirs.versions().join(&id),
            self.core.dirs.cache().join(&id),
        ];
        let removing = move || -> std::io::Result<()> {
            for folder in folders.iter().filter(|folder| folder.exists()) {
                builders::remove_version(folder)?;
            }
            Ok(())
        };
        let removed = tokio::task::spawn_blocking(removing)
            .await
            .map_err(Problem::internal)?;
        if let Err(error) = removed {
            // The disk can be tidied by hand; the app must go.
            tracing::error!(%error, app = %data.app, "files of a removed app are left");
        }
        if let Err(problem) = repositories::remove_files(&self.core, data.app).await {
            // Its healer tries again, once the app is gone.
            tracing::warn!(problem = %problem.chain(), app = %data.app, "the repository of a removed app is left");
        }
        Ok(())
    }

    async fn forget(&self, data: &RemoveData, run: &Run) -> Result<(), StepError> {
        let name = apps::store::find_name(&self.core.db, data.app).await?;
        let mut tx = run.begin().await?;
        if apps::store::delete(&mut tx, data.app).await? {
            if let Ok(owner) = Email::parse(&data.owner) {
                quotas::release_app(&mut tx, &owner).await?;
            }
            quotas::release_team_app(&mut tx, &data.team_owner).await?;
            db::notify(&mut tx, Channel::Auth, "").await?;
            db::notify(&mut tx, Channel::Routes, "").await?;
        }
        tx.commit().await?;
        self.core.callers.forget();
        if let Some(name) = name {
            run.say(&format!("\nThe app \"{name}\" is removed.")).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Saga for RemoveApp {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["unbind", "stop", "files", "forget"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let data: RemoveData = run.data()?;
        match step {
            "unbind" => {
                if let Some(name) = apps::store::find_name(&self.core.db, data.app).await? {
                    run.say(&format!("---- Removing the app \"{name}\" ----")).await;
                }
                services::unbind_everything(&self.core, run, data.app).await
            }
            "stop" => self.stop_units(&data, run).await,
            "files" => self.remove_files(&data).await,
            _ => self.forget(&data, run).await,
        }
    }

    fn forward_only(&self, _step: &'static str, _run: &Run) -> bool {
        true
    }

    /// There is no way back.
    async fn undo(&self, _step: &'static str, _run: &mut Run) -> Result<(), StepError> {
        Ok(())
    }
}
