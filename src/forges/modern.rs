//! Forges in the modern API; an extension that the reference does not have.

use axum::Json;
use axum::body::Bytes;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::core::Core;
use crate::forges::actions::{self, ForgeConfig, ForgeDetails};
use crate::forges::address::ForgeAddress;
use crate::forges::model::{WebhookDelivery, parse_host_key};
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::secret::Secret;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{Public, UserToken};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// From where an app is deployed. Fields are in the order of their keys.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForgeView {
    branch: BranchName,
    commit: String,
    delivered_at: Option<DateTime<Utc>>,
    deploy_key: String,
    hook: String,
    host_key: String,
    error: String,
    /// Shown only to who has just set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    url: String,
    user: String,
}

impl ForgeView {
    fn new(core: &Core, app: &AppName, details: ForgeDetails) -> Self {
        let ForgeDetails { forge, deploy_key } = details;
        Self {
            branch: forge.branch,
            commit: forge.commit,
            delivered_at: forge.delivered_at,
            deploy_key,
            hook: core.public.webhook_url(app),
            host_key: forge.host_key,
            error: forge.error,
            secret: None,
            url: forge.url,
            user: forge.user,
        }
    }
}

/// What became of a call of a forge.
#[derive(Debug, JsonSchema, Serialize)]
pub struct DeliveryView {
    message: String,
}

/// `GET /1.0/forges/{app}`
pub async fn show_forge(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult<Json<ForgeView>> {
    let shown = actions::show_forge(&ctx.core, &ctx.request, &app).await?;
    Ok(Json(ForgeView::new(&ctx.core, &app, shown)))
}

/// `PUT /1.0/forges/{app}`: the only response that contains the secret.
pub async fn set_forge(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<Json<ForgeView>> {
    let secret = |key: &str| Ok::<_, Error>(params.get_string(key)?.map(Secret::new));
    let wish = ForgeConfig {
        address: ForgeAddress::parse(&params.require_string("url")?)?,
        branch: params.parse_field("branch")?,
        secret: secret("secret")?,
        user: params.get_string("user")?.unwrap_or_default(),
        password: secret("password")?,
        host_key: match params.get_string("host_key")? {
            Some(text) => Some(parse_host_key(&text)?),
            None => None,
        },
    };
    let (shown, secret) = actions::set_forge(&ctx.core, &ctx.request, &app, wish).await?;
    Ok(Json(ForgeView {
        secret: Some(secret.expose_secret().to_owned()),
        ..ForgeView::new(&ctx.core, &app, shown)
    }))
}

/// `DELETE /1.0/forges/{app}`
pub async fn remove_forge(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult {
    Ok(actions::remove_forge(&ctx.core, &ctx.request, &app).await?)
}

/// `POST /1.0/forges/{app}`: called by forges.
pub async fn receive_delivery(
    ctx: Ctx,
    Path(app): Path<AppName>,
    headers: HeaderMap,
    body: Bytes,
) -> ModernResult<Json<DeliveryView>> {
    let first = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| headers.get(*name)?.to_str().ok());
        found.unwrap_or_default()
    };
    let delivery = WebhookDelivery {
        signature: first(["x-hub-signature-256", "x-gitea-signature"]),
        id: first(["x-github-delivery", "x-gitea-delivery"]),
        event: first(["x-github-event", "x-gitea-event"]),
        body: &body,
    };
    let message = actions::accept_delivery(&ctx.core, &ctx.request, &app, &delivery).await?;
    Ok(Json(DeliveryView { message }))
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/forges/{app}", UserToken, show_forge)
        .add_versioned_route("1.0", PUT, "/forges/{app}", UserToken, set_forge)
        .add_versioned_route("1.0", DELETE, "/forges/{app}", UserToken, remove_forge)
        .add_versioned_route("1.0", POST, "/forges/{app}", Public, receive_delivery)
}
