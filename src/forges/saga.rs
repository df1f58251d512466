//! The saga `forge.deploy`: fetches the branch, then deploys it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::apps;
use crate::core::Core;
use crate::events::{self, EventOutcome, EventTarget, NewEvent};
use crate::forges::fetch::fetch_forge;
use crate::forges::store::{self, Forge};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::fair_slots::{FairSlots, SlotLimits};
use crate::kernel::ids::AppId;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::repositories;
use crate::sagas::{Saga, SagaQueue, StepContext, StepError, saga_steps};

/// The first retry delay while the app is locked by another event; later ones are longer.
const BUSY_RETRY_DELAY: Duration = Duration::from_secs(20);

/// The limit on concurrent fetches.
const MAX_FETCHES: usize = 16;
/// The limit per user.
const MAX_FETCHES_PER_USER: usize = 4;

saga_steps! {
    /// The steps of a deploy from a forge.
    pub enum ForgeStep {
        /// Fetches the branch.
        Fetch = "fetch",
        /// Deploys the commit, if the branch still is there.
        Deploy = "deploy",
    }
}

/// What the steps know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForgeData {
    pub(super) app: AppId,
    pub(super) commit: String,
    /// The client address of the delivery.
    pub(super) source_ip: String,
    /// The digest of the delivery's body, in hexadecimal.
    #[serde(default)]
    pub(super) digest: String,
    /// Whether the branch still is at that commit.
    pub(super) is_current: bool,
    /// Where the app's repository is.
    pub(super) host: Option<String>,
}

/// The saga; see the module.
pub struct DeployFromForge {
    core: Core,
    /// Slots for fetches, per owner of the app: a forge may be slow.
    fetch_slots: FairSlots<String>,
}

impl DeployFromForge {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            fetch_slots: FairSlots::new(SlotLimits {
                total: MAX_FETCHES,
                per_key: MAX_FETCHES_PER_USER,
                waiting_per_key: usize::MAX,
            }),
        }
    }

    /// Returns `None` if the app or its forge no longer exists, so that there is nothing left to do.
    async fn find_app_and_forge(&self, data: &ForgeData) -> Result<Option<(AppName, Forge)>, StepError> {
        let name = apps::store::find_app_name(&self.core.db, data.app).await?;
        let forge = store::find_forge(&self.core.db, data.app).await?;
        Ok(name.zip(forge))
    }

    async fn deploy_commit(
        &self,
        data: &ForgeData,
        name: &AppName,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        let call = self.request_context(data, ctx);
        // Already started by an earlier execution that crashed before it recorded that.
        if !data.is_current || store::has_deploy_started(&self.core.db, data.app, &call.request_id).await? {
            return Ok(());
        }
        match repositories::deploy_fetched_commit(&self.core, &call, name, &data.commit).await {
            Err(why) if why.kind() == ErrorKind::Locked => Err(StepError::Retry {
                why,
                after: BUSY_RETRY_DELAY,
            }),
            done => Ok(done.map(drop)?),
        }
    }

    /// Records a failed event if the deploy never started; a started deploy has its own event.
    async fn record_failure(
        &self,
        tx: &mut PgConnection,
        data: &ForgeData,
        ctx: &StepContext,
        outcome: &EventOutcome,
    ) -> Result<(), Error> {
        let call = self.request_context(data, ctx);
        if store::has_deploy_started(&mut *tx, data.app, &call.request_id).await? {
            return Ok(());
        }
        let Some(name) = apps::store::find_app_name(&mut *tx, data.app).await? else {
            return Ok(());
        };
        let Some(app) = apps::store::find_app(&mut *tx, &name).await? else {
            return Ok(());
        };
        let about = json!({ "origin": "git", "commit": data.commit });
        let new = NewEvent::new(
            EventTarget::for_app(&name),
            Permission::APP_DEPLOY,
            app.permission_contexts(),
            about,
        );
        events::record_failed_event(tx, &call, &new, outcome).await?;
        Ok(())
    }

    /// The request context of the deploy: an internal actor with the delivery's client address; the request
    /// id is that of the saga.
    fn request_context(&self, data: &ForgeData, ctx: &StepContext) -> RequestContext {
        RequestContext {
            source_ip: Arc::from(data.source_ip.as_str()),
            request_id: Arc::from(ctx.saga_id().to_string()),
            ..RequestContext::new_internal()
        }
    }
}

#[async_trait]
impl Saga for DeployFromForge {
    const KIND: &'static str = "forge.deploy";
    type Step = ForgeStep;
    type Data = ForgeData;

    /// The interactive queue is for what it waits for: deploys.
    fn queue(_data: &ForgeData) -> SagaQueue {
        SagaQueue::Background
    }

    fn host(data: &ForgeData) -> Option<&str> {
        data.host.as_deref()
    }

    fn app(data: &ForgeData) -> Option<AppId> {
        Some(data.app)
    }

    async fn run_step(
        &self,
        step: ForgeStep,
        data: &mut ForgeData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        let Some((name, forge)) = self.find_app_and_forge(data).await? else {
            return Ok(());
        };
        match step {
            ForgeStep::Fetch => {
                let call = self.request_context(data, ctx);
                let fetching = async {
                    // The waiting sagas of a user are limited elsewhere, so nobody is refused here.
                    let _slot = self.fetch_slots.acquire(&ctx.share_key().to_owned()).await;
                    fetch_forge(&self.core, &call, &name, &forge, ctx).await
                };
                let tip = ctx.without_worker(fetching).await?;
                data.is_current = tip == data.commit;
                Ok(())
            }
            ForgeStep::Deploy => self.deploy_commit(data, &name, ctx).await,
        }
    }

    /// Fetched objects stay.
    async fn undo_step(
        &self,
        _step: ForgeStep,
        _data: &mut ForgeData,
        _ctx: &StepContext,
    ) -> Result<(), StepError> {
        Ok(())
    }

    /// Records why a delivery failed, exactly once, at the end of the saga.
    async fn on_finish(
        &self,
        tx: &mut PgConnection,
        data: &ForgeData,
        ctx: &StepContext,
        outcome: &EventOutcome,
    ) -> Result<(), Error> {
        let EventOutcome::Failed { words, .. } = outcome else {
            return Ok(());
        };
        tracing::info!(app = %data.app.0, commit = data.commit, error = words, "webhook delivery failed");
        store::record_outcome(tx, data.app, &data.commit, words).await?;
        let digest = hex::decode(&data.digest).map_err(Error::internal)?;
        store::delete_delivery(tx, data.app, &digest).await?;
        self.record_failure(tx, data, ctx, outcome).await
    }
}
