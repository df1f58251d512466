//! `DELETE /apps/{app}` and `POST /tokens` of the classic edition.

use axum::Json;
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::secret::Secret;
use crate::lifecycle::{self, token};
use crate::users::tokens;
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, POST, RouteTable};
use crate::web::{Ctx, Params, Path};

/// `DELETE /apps/{app}`: responds once the app is gone, so that its name is free when the caller reads
/// `success`.
pub async fn remove_app(ctx: Ctx, Path(app): Path<AppName>) -> ClassicResult<&'static str> {
    let event = lifecycle::remove_app(&ctx.core, &ctx.request, &app).await?;
    ctx.wait_for_event(&event).await?;
    Ok("success")
}

/// The token, with both spellings of each key: the documented one and that of the reference server
/// (contract/classic D11).
#[derive(Debug, JsonSchema, Serialize)]
pub struct AppTokenView {
    token: String,
    #[serde(rename = "Token")]
    token_too: String,
    creation: String,
    #[serde(rename = "Creation")]
    creation_too: String,
    /// Nanoseconds.
    expires: i64,
    #[serde(rename = "Expires")]
    expires_too: i64,
    email: String,
    app: String,
    #[serde(rename = "AppName")]
    app_too: String,
}

/// `POST /tokens`; with `export` the token is put into the app's environment as well.
pub async fn create_app_token(ctx: Ctx, params: Params) -> ClassicResult<Json<AppTokenView>> {
    let app = AppName::parse(&params.require_string("client")?)?;
    let (token, made_at) =
        token::create_app_token(&ctx.core, &ctx.request, &app, params.get_bool("export")?).await?;
    Ok(Json(render_token(token, &app, made_at)))
}

fn render_token(token: Secret, app: &AppName, made_at: DateTime<Utc>) -> AppTokenView {
    let creation = made_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    let expires = i64::from(tokens::APP_TOKEN_DAYS) * 24 * 3600 * 1_000_000_000;
    AppTokenView {
        token: token.expose_secret().to_owned(),
        token_too: token.expose_secret().to_owned(),
        creation: creation.clone(),
        creation_too: creation,
        expires,
        expires_too: expires,
        email: String::new(),
        app: app.to_string(),
        app_too: app.to_string(),
    }
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(DELETE, "/apps/{app}", UserToken, remove_app)
        .allow_service_time()
        .add_route(POST, "/tokens", UserWithPermission(Permission::ALL), create_app_token)
}
