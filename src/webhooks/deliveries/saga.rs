//! The saga `webhook.deliver`: attempts to send one delivery.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventOutcome};
use crate::kernel::error::Error;
use crate::kernel::host_clock::host_now;
use crate::kernel::ids::WebhookId;
use crate::outbound::{CustomRequest, CustomResponse, OutboundError, OutboundErrorKind};
use crate::sagas::{Saga, SagaQueue, StepContext, StepError, saga_steps};
use crate::webhooks::deliveries::model::{describe_status, parse_retry_after, pause_after};
use crate::webhooks::deliveries::store::{self, OpenDelivery};
use crate::webhooks::model::{WebhookRequest, request_associated_data};
use crate::webhooks::payload::{self, MAX_LOG_BYTES, MAX_LOG_LINES};
use crate::webhooks::signature::{DELIVERY_HEADER, SIGNATURE_HEADER, sign_body};
use crate::webhooks::template::BodyTemplate;
use crate::webhooks::validation::has_body;

saga_steps! {
    /// The steps of a delivery.
    pub enum DeliverWebhookStep {
        /// Sends the request.
        Send = "send",
    }
}

/// What the step knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeliverWebhookData {
    pub(super) delivery: Uuid,
    pub(super) share_key: String,
}

/// Sends one delivery. See the module.
pub struct DeliverWebhook {
    core: Core,
}

/// The result of an attempt.
struct AttemptResult {
    status: Option<u16>,
    /// Empty: it was delivered.
    error: String,
    /// It may succeed later.
    is_transient: bool,
    /// The pause that the receiver has asked for.
    retry_after: Option<Duration>,
}

impl DeliverWebhook {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn send_delivery(&self, data: &DeliverWebhookData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(open) = store::find_open_delivery(&self.core.db, data.delivery).await? else {
            // It was delivered before a process died, or the webhook is gone.
            return Ok(());
        };
        if !open.is_readable {
            let why = "The webhook belongs to another team now, which may not read the event.";
            return end_delivery(ctx, data.delivery, "dropped", why).await;
        }
        let request = self.build_request(data.delivery, &open).await?;
        let result = describe_attempt(self.call_receiver(open.webhook, request, ctx).await?);
        ctx.write_fenced(async |tx| {
            Ok(store::record_attempt(tx, data.delivery, result.status, &result.error).await?)
        })
        .await?;
        result.into_step_result(ctx.attempts())
    }

    async fn call_receiver(
        &self,
        webhook: WebhookId,
        request: CustomRequest,
        ctx: &StepContext,
    ) -> Result<Result<CustomResponse, OutboundError>, StepError> {
        let cancel = ctx.cancel_token().clone();
        let call = self.core.outbound.send_custom(webhook.0, "", request);
        let response = ctx.without_worker(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                response = call => Some(response),
            }
        });
        response.await.ok_or(StepError::Interrupted)
    }

    async fn build_request(&self, delivery: Uuid, open: &OpenDelivery) -> Result<CustomRequest, StepError> {
        let aad = request_associated_data(open.webhook);
        let opened = self.core.keys.decrypt(&aad, &open.sealed)?;
        let webhook = WebhookRequest::from_secret(&opened)?;
        let body = match has_body(&open.method) {
            true => Some(self.render_body(&webhook.body, open).await?),
            false => None,
        };
        let url =
            |text: &str| Url::parse(text).map_err(|_| Error::internal("the URL of a webhook is invalid"));
        let method = match open.method.as_str() {
            "" => Method::POST,
            method => method.parse().map_err(Error::internal)?,
        };
        let signature = sign_body(&webhook.secret, host_now(), body.as_deref().unwrap_or_default());
        let mut headers = build_headers(&webhook, body.is_some())?;
        for (name, value) in [
            (DELIVERY_HEADER, delivery.to_string()),
            (SIGNATURE_HEADER, signature),
        ] {
            headers.insert(name, HeaderValue::from_str(&value).map_err(Error::internal)?);
        }
        Ok(CustomRequest {
            method,
            url: url(&webhook.url)?,
            proxy: match webhook.proxy_url.as_str() {
                "" => None,
                proxy => Some(url(proxy)?),
            },
            skips_verification: open.insecure,
            headers,
            body,
        })
    }

    async fn render_body(&self, template: &str, open: &OpenDelivery) -> Result<Vec<u8>, StepError> {
        let db = &self.core.db;
        let event = events::find_event(db, &open.event).await?;
        let event = event.ok_or_else(|| Error::internal("the event of a delivery is gone"))?;
        let log = events::list_last_log_lines(db, &open.event, MAX_LOG_LINES, MAX_LOG_BYTES).await?;
        let event = payload::convert_event(event, log)?;
        match template {
            "" => Ok(event.to_string().into_bytes()),
            template => Ok(BodyTemplate::parse(template)?.render(&event)?.into_bytes()),
        }
    }
}

fn build_headers(webhook: &WebhookRequest, has_body: bool) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, values) in &webhook.headers {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).map_err(Error::internal)?;
        for value in values {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| Error::internal("a header of a webhook is invalid"))?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    if has_body && webhook.body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(headers)
}

fn describe_attempt(response: Result<CustomResponse, OutboundError>) -> AttemptResult {
    match response {
        Ok(response) => {
            let status = response.status.as_u16();
            let retry_after = response
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok());
            AttemptResult {
                status: Some(status),
                error: describe_status(status).unwrap_or_default(),
                is_transient: true,
                retry_after: retry_after.and_then(|value| parse_retry_after(value, host_now())),
            }
        }
        Err(error) => AttemptResult {
            status: None,
            error: format!("The receiver {}.", error.kind),
            // Somebody must change the webhook, or the settings.
            is_transient: error.kind != OutboundErrorKind::PrivateAddress,
            retry_after: None,
        },
    }
}

impl AttemptResult {
    /// `failed_before`: the number of earlier failures.
    fn into_step_result(self, failed_before: i32) -> Result<(), StepError> {
        if self.error.is_empty() {
            return Ok(());
        }
        let why = Error::failed(self.error);
        if !self.is_transient {
            return Err(StepError::GiveUp(why));
        }
        let failed = failed_before.saturating_add(1);
        // The engine waits for `after` times the number of failures.
        let after = pause_after(failed, self.retry_after).div_f64(f64::from(failed.max(1)));
        Err(StepError::Retry { why, after })
    }
}

async fn end_delivery(ctx: &StepContext, delivery: Uuid, state: &str, why: &str) -> Result<(), StepError> {
    ctx.write_fenced(async |tx| Ok(store::end_delivery(tx, delivery, state, why).await?))
        .await
}

#[async_trait]
impl Saga for DeliverWebhook {
    const KIND: &'static str = "webhook.deliver";
    type Step = DeliverWebhookStep;
    type Data = DeliverWebhookData;

    fn queue(_data: &DeliverWebhookData) -> SagaQueue {
        SagaQueue::Background
    }

    fn share_key(data: &DeliverWebhookData) -> Option<&str> {
        Some(&data.share_key)
    }

    async fn run_step(
        &self,
        step: DeliverWebhookStep,
        data: &mut DeliverWebhookData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            DeliverWebhookStep::Send => self.send_delivery(data, ctx).await,
        }
    }

    /// What was sent cannot be recalled; the delivery has failed.
    async fn undo_step(
        &self,
        step: DeliverWebhookStep,
        data: &mut DeliverWebhookData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            DeliverWebhookStep::Send => {
                let why = ctx.failure_reason().map_or("", Error::message);
                end_delivery(ctx, data.delivery, "failed", why).await
            }
        }
    }

    /// The webhook may have more to deliver, which waited for this one.
    async fn on_finish(
        &self,
        tx: &mut PgConnection,
        _data: &DeliverWebhookData,
        _ctx: &StepContext,
        _outcome: &EventOutcome,
    ) -> Result<(), Error> {
        Ok(db::send_notice(tx, NoticeChannel::Webhooks, "").await?)
    }
}
