//! The saga `forge.deploy`: fetch, then deploy.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::apps;
use crate::core::Core;
use crate::events::{self, NewEvent, Outcome, Target};
use crate::forges::fetch::fetch;
use crate::forges::store::{self, Forge};
use crate::kernel::call::Call;
use crate::kernel::ids::AppId;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::problem::{Kind, Problem};
use crate::repositories;
use crate::sagas::{Lane, Run, Saga, StepError};

/// Before another try while something else is done to the app; the next ones wait longer.
const BUSY: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForgeData {
    pub(super) app: AppId,
    pub(super) commit: String,
    /// Of the delivery.
    pub(super) source_ip: String,
    /// Of what the delivery says, in hexadecimal.
    #[serde(default)]
    pub(super) digest: String,
    /// The branch still is at that commit.
    pub(super) is_current: bool,
}

/// See the module.
pub struct DeployFromForge {
    core: Core,
}

impl DeployFromForge {
    /// The name under which its rows are kept.
    pub const KIND: &str = "forge.deploy";

    /// The saga with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    /// `None`: the app or its forge is gone, and so is the reason to go on.
    async fn find(&self, data: &ForgeData) -> Result<Option<(AppName, Forge)>, StepError> {
        let name = apps::store::find_name(&self.core.db, data.app).await?;
        let forge = store::find(&self.core.db, data.app).await?;
        Ok(name.zip(forge))
    }

    async fn deploy(&self, data: &ForgeData, name: &AppName, run: &Run) -> Result<(), StepError> {
        let call = self.call(data, run);
        // Begun in a life before, which died before it could say so.
        if !data.is_current || store::has_begun(&self.core.db, data.app, &call.request_id).await? {
            return Ok(());
        }
        match repositories::deploy_fetched(&self.core, &call, name, &data.commit).await {
            Err(why) if why.kind() == Kind::Locked => Err(StepError::Retry { why, after: BUSY }),
            done => Ok(done.map(drop)?),
        }
    }

    /// Leaves an event of a deploy that never began; one that did has an event of its own.
    async fn record(
        &self,
        tx: &mut PgConnection,
        data: &ForgeData,
        run: &Run,
        outcome: &Outcome,
    ) -> Result<(), Problem> {
        let call = self.call(data, run);
        if store::has_begun(&mut *tx, data.app, &call.request_id).await? {
            return Ok(());
        }
        let Some(name) = apps::store::find_name(&mut *tx, data.app).await? else {
            return Ok(());
        };
        let Some(app) = apps::store::find(&mut *tx, &name).await? else {
            return Ok(());
        };
        let about = json!({ "origin": "git", "commit": data.commit });
        let new = NewEvent::new(Target::app(&name), Permission::APP_DEPLOY, app.contexts(), about);
        events::record_failed(tx, &call, &new, outcome).await?;
        Ok(())
    }

    /// Tancho's own doing, but from where the delivery came; the saga is the request.
    fn call(&self, data: &ForgeData, run: &Run) -> Call {
        Call {
            source_ip: Arc::from(data.source_ip.as_str()),
            request_id: Arc::from(run.saga().to_string()),
            ..Call::internal()
        }
    }
}

#[async_trait]
impl Saga for DeployFromForge {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn lane(&self) -> Lane {
        Lane::Housekeeping
    }

    fn steps(&self) -> &'static [&'static str] {
        &["fetch", "deploy"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let mut data: ForgeData = run.data()?;
        let Some((name, forge)) = self.find(&data).await? else {
            return Ok(());
        };
        match step {
            "fetch" => {
                let tip = fetch(&self.core, &self.call(&data, run), &name, &forge, run).await?;
                data.is_current = tip == data.commit;
            }
            _ => self.deploy(&data, &name, run).await?,
        }
        run.set_data(&data)
    }

    /// What was fetched stays.
    async fn undo(&self, _step: &'static str, _run: &mut Run) -> Result<(), StepError> {
        Ok(())
    }

    /// Why a delivery came to nothing is noted where it is looked for, as often as the saga ends: once.
    async fn ended(&self, tx: &mut PgConnection, run: &Run, outcome: &Outcome) -> Result<(), Problem> {
        match (outcome, run.data::<ForgeData>()) {
            (Outcome::Failed { words, .. }, Ok(data)) => {
                tracing::info!(app = %data.app.0, commit = data.commit, problem = words, "a delivery of a forge is not deployed");
                store::note(tx, data.app, &data.commit, words).await?;
                let digest = hex::decode(&data.digest).map_err(Problem::internal)?;
                store::forget_delivery(tx, data.app, &digest).await?;
                self.record(tx, &data, run, outcome).await
            }
            _ => Ok(()),
        }
    }
}
