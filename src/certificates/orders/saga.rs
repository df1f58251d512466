//! The saga `certificate.order`: obtains one certificate.

use std::time::Duration;

use async_trait::async_trait;
use instant_acme::{
    AuthorizationStatus, ChallengeType, Error as AcmeError, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::apps;
use crate::certificates::actions::key_associated_data;
use crate::certificates::chain::CertificateChain;
use crate::certificates::orders::client::{
    DECISION_TIMEOUT, account_for_step, call_authority, call_authority_optional, describe_failure,
    wait_for_authority,
};
use crate::certificates::orders::model::{describe_problem, pause_after};
use crate::certificates::orders::store::{self, OpenOrder};
use crate::certificates::store::find_time;
use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventOutcome, EventTarget, NewEvent};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::sagas::{Saga, SagaQueue, StepContext, StepError, saga_steps};

/// For all routers to have the proof.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(20);

saga_steps! {
    /// The steps of an order.
    pub enum OrderStep {
        /// Places the order.
        Place = "place",
        /// Proves that the host is ours.
        Prove = "prove",
        /// Asks for the certificate of a new key.
        Finalize = "finalize",
        /// Fetches and stores the certificate.
        Fetch = "fetch",
    }
}

/// What the steps know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderData {
    host: String,
    /// The app that had the host at the beginning; its owner shares the workers.
    app: AppId,
    /// At the authority.
    order_url: Option<String>,
}

impl OrderData {
    pub(super) fn new(host: String, app: AppId) -> Self {
        Self {
            host,
            app,
            order_url: None,
        }
    }
}

/// Obtains one certificate. See the module.
pub struct OrderCertificate {
    core: Core,
}

impl OrderCertificate {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn place_order(&self, data: &mut OrderData, ctx: &StepContext) -> Result<(), StepError> {
        if data.order_url.is_some() {
            return Ok(());
        }
        let account = account_for_step(&self.core, ctx).await?;
        let identifiers = [Identifier::Dns(data.host.clone())];
        let profile = &self.core.settings.acme.profile;
        let new = NewOrder::new(&identifiers);
        let new = match profile.as_str() {
            "" => new,
            profile => new.profile(profile),
        };
        let order = call_authority(ctx, account.new_order(&new)).await?;
        data.order_url = Some(order.url().to_owned());
        Ok(())
    }

    async fn prove_host(
        &self,
        data: &OrderData,
        open: &OpenOrder,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        let mut order = self.order(data, ctx).await?;
        if order.state().status == OrderStatus::Pending {
            self.answer_challenges(&mut order, data, open, ctx).await?;
            let policy = RetryPolicy::new().timeout(DECISION_TIMEOUT);
            let decided = wait_for_authority(ctx, order.poll_ready(&policy)).await?;
            if let Err(error) = decided {
                return Err(self.explain_refusal(&mut order, error, ctx).await);
            }
        }
        match order.state().status {
            OrderStatus::Invalid => {
                let invalid = AcmeError::Str("the order is invalid");
                Err(self.explain_refusal(&mut order, invalid, ctx).await)
            }
            _ => Ok(()),
        }
    }

    /// Publishes the proof, waits until all routers have it, and tells the authority to ask. The two ways of proof
    /// take turns: where one is blocked, the next attempt uses the other.
    async fn answer_challenges(
        &self,
        order: &mut Order,
        data: &OrderData,
        open: &OpenOrder,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        let mut kinds = [ChallengeType::Http01, ChallengeType::TlsAlpn01];
        kinds.rotate_left(usize::from(open.failures % 2 == 1));
        let mut authorizations = order.authorizations();
        while let Some(next) = call_authority_optional(ctx, authorizations.next()).await? {
            let mut authorization = next;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let offered = |kind: &ChallengeType| authorization.challenges.iter().any(|c| c.r#type == *kind);
            let Some(kind) = kinds.iter().find(|kind| offered(kind)).cloned() else {
                return Err(StepError::GiveUp(Error::failed(
                    "The authority offers neither of the proofs HTTP-01 and TLS-ALPN-01 for this host.",
                )));
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                continue;
            };
            let (token, proof) = (challenge.token.clone(), challenge.key_authorization());
            ctx.write_fenced(async |tx| {
                Ok(store::upsert_challenge(tx, &data.host, &token, proof.as_str()).await?)
            })
            .await?;
            self.wait_for_routers(ctx).await?;
            call_authority(ctx, challenge.set_ready()).await?;
        }
        Ok(())
    }

    async fn wait_for_routers(&self, ctx: &StepContext) -> Result<(), StepError> {
        // What a router reads from now on has the proof in it; the notice makes it read.
        let since = find_time(&self.core.db).await?;
        ctx.write_fenced(async |tx| Ok(db::send_notice(tx, NoticeChannel::Routes, "").await?))
            .await?;
        let check = || async move {
            let have = store::have_routers_loaded(&self.core.db, since).await?;
            Ok(have.then_some(()))
        };
        let channels = [(NoticeChannel::RoutesApplied, String::new())];
        match ctx.wait_until(&channels, ROUTER_TIMEOUT, check).await? {
            Some(()) => Ok(()),
            None => Err(StepError::GiveUp(Error::failed(
                "No router with TLS is running, or one did not read the proof in time.",
            ))),
        }
    }

    /// The reason is with the proof, not with the order.
    async fn explain_refusal(&self, order: &mut Order, error: AcmeError, ctx: &StepContext) -> StepError {
        let mut authorizations = order.authorizations();
        while let Ok(Some(mut authorization)) = call_authority_optional(ctx, authorizations.next()).await {
            let Ok(state) = call_authority(ctx, authorization.refresh()).await else {
                continue;
            };
            let problem = state
                .challenges
                .iter()
                .find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = problem {
                return StepError::GiveUp(Error::failed(describe_problem(problem)));
            }
        }
        describe_failure(ctx, error)
    }

    async fn finalize_order(
        &self,
        data: &OrderData,
        open: &OpenOrder,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        let mut order = self.order(data, ctx).await?;
        if order.state().status != OrderStatus::Ready {
            return Ok(());
        }
        let aad = order_key_data(&data.host);
        // Stored before it is used: the certificate would be lost with it.
        let pem = match &open.key {
            Some(sealed) => self.core.keys.decrypt(&aad, sealed)?,
            None => {
                let fresh = Secret::new(KeyPair::generate().map_err(Error::internal)?.serialize_pem());
                let sealed = self.core.keys.encrypt(&aad, &fresh);
                ctx.write_fenced(async |tx| Ok(store::set_order_key(tx, &data.host, &sealed).await?))
                    .await?;
                fresh
            }
        };
        let key = KeyPair::from_pem(pem.expose_secret()).map_err(Error::internal)?;
        let mut params = CertificateParams::new(vec![data.host.clone()]).map_err(Error::internal)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(Error::internal)?;
        call_authority(ctx, order.finalize_csr(request.der())).await
    }

    async fn fetch_certificate(
        &self,
        data: &OrderData,
        open: &OpenOrder,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        let Some(sealed) = &open.key else {
            return Err(StepError::GiveUp(Error::failed(
                "The order was signed for another key; it begins again.",
            )));
        };
        let mut order = self.order(data, ctx).await?;
        let policy = RetryPolicy::new().timeout(DECISION_TIMEOUT);
        let chain = wait_for_authority(ctx, order.poll_certificate(&policy)).await?;
        let chain = chain.map_err(|error| describe_failure(ctx, error))?;
        let key = self.core.keys.decrypt(&order_key_data(&data.host), sealed)?;
        let chain = CertificateChain::parse(&chain, &key)?;
        chain.check_host(&data.host)?;
        chain.check_time(find_time(&self.core.db).await?)?;
        let sealed = self
            .core
            .keys
            .encrypt(&key_associated_data(&data.host), chain.key_pem());
        let validity = chain.validity();
        ctx.write_fenced(async |tx| {
            let times = (validity.not_before, validity.not_after);
            store::finish_order(tx, &data.host, &chain.chain_pem(), &sealed, times).await?;
            Ok(db::send_notice(tx, NoticeChannel::Routes, "").await?)
        })
        .await
    }

    async fn order(&self, data: &OrderData, ctx: &StepContext) -> Result<Order, StepError> {
        let url = data.order_url.clone().unwrap_or_default();
        let account = account_for_step(&self.core, ctx).await?;
        call_authority(ctx, account.order(url)).await
    }

    async fn record_failure(
        &self,
        tx: &mut PgConnection,
        data: &OrderData,
        outcome: &EventOutcome,
    ) -> Result<(), Error> {
        let EventOutcome::Failed { words, .. } = outcome else {
            return Ok(());
        };
        let Some(open) = store::find_open_order(&mut *tx, &data.host).await? else {
            return Ok(());
        };
        let pause = pause_after(open.failures + 1).as_secs_f64();
        store::fail_order(tx, &data.host, words, pause).await?;
        let call = RequestContext::new_internal();
        let kind = Permission::APP_UPDATE_CERTIFICATE_SET;
        let Some(app) = apps::read_app(&mut *tx, &open.app).await? else {
            return Ok(());
        };
        let about = json!({ "cname": data.host, "issuer": self.core.settings.acme.issuer });
        let event = NewEvent::new(
            EventTarget::for_app(&app.name),
            kind,
            app.permission_contexts(),
            about,
        );
        events::record_failed_event(tx, &call, &event, outcome).await?;
        Ok(())
    }
}

fn order_key_data(host: &str) -> AssociatedData {
    AssociatedData::new(SealedColumn::CERTIFICATE_ORDER_KEY, &[&host])
}

#[async_trait]
impl Saga for OrderCertificate {
    const KIND: &'static str = "certificate.order";
    type Step = OrderStep;
    type Data = OrderData;

    fn queue(_data: &OrderData) -> SagaQueue {
        SagaQueue::Background
    }

    fn app(data: &OrderData) -> Option<AppId> {
        Some(data.app)
    }

    async fn run_step(
        &self,
        step: OrderStep,
        data: &mut OrderData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        // The host or its app is gone, a user has given a certificate or wants none, or it is stored already.
        let Some(open) = store::find_open_order(&self.core.db, &data.host).await? else {
            return Ok(());
        };
        match step {
            OrderStep::Place => self.place_order(data, ctx).await,
            OrderStep::Prove => self.prove_host(data, &open, ctx).await,
            OrderStep::Finalize => self.finalize_order(data, &open, ctx).await,
            OrderStep::Fetch => self.fetch_certificate(data, &open, ctx).await,
        }
    }

    /// Orders at the authority expire by themselves.
    async fn undo_step(
        &self,
        _step: OrderStep,
        _data: &mut OrderData,
        _ctx: &StepContext,
    ) -> Result<(), StepError> {
        Ok(())
    }

    async fn on_finish(
        &self,
        tx: &mut PgConnection,
        data: &OrderData,
        _ctx: &StepContext,
        outcome: &EventOutcome,
    ) -> Result<(), Error> {
        self.record_failure(tx, data, outcome).await
    }
}
