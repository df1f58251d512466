//! Webhooks in the modern edition (contract/modern 2.17 and 7.4).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::{TeamName, WebhookName};
use crate::kernel::permission::Permission;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};
use crate::webhooks::actions;
use crate::webhooks::model::{Webhook, WebhookFilter, WebhookRequest, WebhookSpec};

/// A webhook. Values that may be secret are hidden from users who may not change it.
#[derive(JsonSchema, Serialize)]
pub struct WebhookView {
    name: WebhookName,
    description: String,
    team_owner: TeamName,
    event_filter: WebhookFilter,
    url: String,
    proxy_url: String,
    headers: Option<BTreeMap<String, Vec<String>>>,
    method: String,
    body: String,
    insecure: bool,
}

/// The response to a creation.
#[derive(JsonSchema, Serialize)]
pub struct CreatedWebhookView {
    name: WebhookName,
    /// Signs the requests; shown only now.
    secret: String,
}

impl From<Webhook> for WebhookView {
    fn from(webhook: Webhook) -> Self {
        let WebhookSpec {
            description,
            filter,
            method,
            insecure,
            request,
        } = webhook.spec;
        Self {
            name: webhook.name,
            description,
            team_owner: webhook.team,
            event_filter: filter,
            url: request.url,
            proxy_url: request.proxy_url,
            headers: Some(request.headers).filter(|headers| !headers.is_empty()),
            method,
            body: request.body,
            insecure,
        }
    }
}

fn read_spec(params: &Params) -> Result<WebhookSpec, Error> {
    let filter = params.get_object("event_filter")?;
    let string = |key: &str| Ok::<_, Error>(params.get_string(key)?.unwrap_or_default());
    Ok(WebhookSpec {
        description: string("description")?,
        filter: WebhookFilter {
            target_types: filter.get_strings("target_types")?,
            target_values: filter.get_strings("target_values")?,
            kind_types: filter.get_strings("kind_types")?,
            kind_names: filter.get_strings("kind_names")?,
            error_only: filter.get_bool("error_only")?,
            success_only: filter.get_bool("success_only")?,
        },
        method: string("method")?,
        insecure: params.get_bool("insecure")?,
        request: WebhookRequest {
            url: params.require_string("url")?,
            proxy_url: string("proxy_url")?,
            headers: read_headers(params)?,
            body: string("body")?,
            secret: string("secret")?,
        },
    })
}

/// Reads `headers`: an object of strings, or of lists of strings.
fn read_headers(params: &Params) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let fields = match params.get_value("headers") {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(Error::invalid("headers must be an object of lists of strings.")),
    };
    let values = |name: &str, value: &Value| match value {
        Value::String(value) => Ok(vec![value.clone()]),
        Value::Array(items) if items.iter().all(Value::is_string) => Ok(items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()),
        _ => Err(Error::invalid(format!(
            "The header {:?} must be a list of strings.",
            quote_excerpt(name)
        ))),
    };
    let headers = fields
        .iter()
        .map(|(name, value)| Ok((name.clone(), values(name, value)?)));
    headers.collect()
}

/// `GET /1.6/events/webhooks`.
pub async fn list_webhooks(ctx: Ctx) -> ModernResult<Json<Vec<WebhookView>>> {
    let webhooks = actions::list_webhooks(&ctx.core, &ctx.request).await?;
    Ok(Json(webhooks.into_iter().map(WebhookView::from).collect()))
}

/// `GET /1.6/events/webhooks/{webhook}`.
pub async fn get_webhook(ctx: Ctx, Path(name): Path<WebhookName>) -> ModernResult<Json<WebhookView>> {
    let webhook = actions::find_webhook(&ctx.core, &ctx.request, &name).await?;
    Ok(Json(WebhookView::from(webhook)))
}

/// `POST /1.6/events/webhooks`; the response contains the secret. Clients ignore it.
pub async fn create_webhook(ctx: Ctx, params: Params) -> ModernResult<Json<CreatedWebhookView>> {
    let name: WebhookName = params.require_string("name")?.parse()?;
    let (team, spec) = (params.parse_field("team_owner")?, read_spec(&params)?);
    let secret = actions::create_webhook(&ctx.core, &ctx.request, &name, team, spec).await?;
    let secret = secret.expose_secret().to_owned();
    Ok(Json(CreatedWebhookView { name, secret }))
}

/// `PUT /1.6/events/webhooks/{webhook}`, with everything that `GET` returns; the secret stays if none is given.
pub async fn update_webhook(ctx: Ctx, Path(name): Path<WebhookName>, params: Params) -> ModernResult {
    let (team, spec) = (params.parse_field("team_owner")?, read_spec(&params)?);
    Ok(actions::update_webhook(&ctx.core, &ctx.request, &name, team, spec).await?)
}

/// `DELETE /1.6/events/webhooks/{webhook}`.
pub async fn delete_webhook(ctx: Ctx, Path(name): Path<WebhookName>) -> ModernResult {
    Ok(actions::delete_webhook(&ctx.core, &ctx.request, &name).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.6", GET, "/events/webhooks", UserWithPermission(Permission::WEBHOOK_READ), list_webhooks)
        .add_versioned_route("1.6", POST, "/events/webhooks", UserWithPermission(Permission::WEBHOOK_CREATE), create_webhook)
        .add_versioned_route("1.6", GET, "/events/webhooks/{webhook}", UserToken, get_webhook)
        .add_versioned_route("1.6", PUT, "/events/webhooks/{webhook}", UserToken, update_webhook)
        .add_versioned_route("1.6", DELETE, "/events/webhooks/{webhook}", UserToken, delete_webhook)
}
