//! Users, sessions and keys in the classic edition (contract/classic 1.7, 1.9.1, 1.10).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::core::Core;
use crate::kernel::names::Email;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::users::keys::{self, KeySelector, NewSshKey};
use crate::users::{actions, login, wire};
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::{AnyToken, Public, UserToken};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// The response to a login. `is_admin` is newer than the reference.
#[derive(Debug, JsonSchema, Serialize)]
pub struct LoginView {
    token: String,
    is_admin: bool,
}

/// `POST /users`: 200, as in the reference.
pub async fn create_user(ctx: Ctx, params: Params) -> ClassicResult {
    let email = Email::parse(&params.require_string("email")?)?;
    let password = Secret::new(params.require_string("password")?);
    Ok(actions::create_user(&ctx.core, &ctx.request, &email, &password).await?)
}

/// `POST /users/{email}/tokens`.
pub async fn log_in(ctx: Ctx, Path(email): Path<Email>, params: Params) -> ClassicResult<Json<LoginView>> {
    let password = Secret::new(params.require_string("password")?);
    login_response(&ctx.core, &ctx.request, &email, &password).await
}

/// `POST /auth/login`: the same with the e-mail address in the body.
pub async fn log_in_by_body(ctx: Ctx, params: Params) -> ClassicResult<Json<LoginView>> {
    let email = Email::parse(&params.require_string("email")?)?;
    let password = Secret::new(params.require_string("password")?);
    login_response(&ctx.core, &ctx.request, &email, &password).await
}

async fn login_response(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    password: &Secret,
) -> ClassicResult<Json<LoginView>> {
    let token = login::log_in(core, call, email, password).await?;
    Ok(Json(LoginView {
        is_admin: actions::is_admin(core, email).await?,
        token: token.expose_secret().to_owned(),
    }))
}

/// `DELETE /users/tokens`: ends the session of the request; with `?all=true` all sessions and the API key of
/// the caller, or with `&user=` of another user.
pub async fn log_out(ctx: Ctx, params: Params) -> ClassicResult {
    Ok(wire::log_out(&ctx, &params).await?)
}

/// `POST /users/{email}/password[?token=]`: requests a token, or redeems one.
pub async fn reset_password(ctx: Ctx, Path(email): Path<Email>, params: Params) -> ClassicResult {
    Ok(wire::reset_password(&ctx, &email, &params).await?)
}

/// `PUT /users/password`.
pub async fn change_password(ctx: Ctx, params: Params) -> ClassicResult {
    Ok(wire::change_password(&ctx, &params).await?)
}

/// `DELETE /users`: removes the caller, or with `?user=` another user.
pub async fn remove_user(ctx: Ctx, params: Params) -> ClassicResult {
    Ok(wire::remove_user(&ctx, &params).await?)
}

/// `POST /users/keys`; later clients send `name` and `force`.
pub async fn add_key(ctx: Ctx, params: Params) -> ClassicResult {
    let new = NewSshKey {
        text: params.require_string("key")?,
        name: params.get_string("name")?.unwrap_or_default(),
        force: params.get_bool("force")?,
    };
    Ok(keys::add_key(&ctx.core, &ctx.request, &new).await?)
}

/// `DELETE /users/keys`, by content or, if that is not sent, by name.
pub async fn remove_key(ctx: Ctx, params: Params) -> ClassicResult {
    let which = match (params.get_string("key")?, params.get_string("name")?) {
        (None, Some(name)) => KeySelector::Name(name),
        _ => KeySelector::Text(params.require_string("key")?),
    };
    Ok(keys::remove_key(&ctx.core, &ctx.request, &which).await?)
}

/// `DELETE /users/keys/{key}`, by name, as later clients send it.
pub async fn remove_named_key(ctx: Ctx, Path(key): Path<String>) -> ClassicResult {
    Ok(keys::remove_key(&ctx.core, &ctx.request, &KeySelector::Name(key)).await?)
}

/// `GET /users/keys`: the caller's keys, content by name.
pub async fn list_own_keys(ctx: Ctx) -> ClassicResult<Json<BTreeMap<String, String>>> {
    let keys = keys::list_own_keys(&ctx.core, &ctx.request).await?;
    Ok(Json(keys.into_iter().collect()))
}

/// `GET /users/{email}/keys`: content by name.
pub async fn list_keys(ctx: Ctx, Path(email): Path<Email>) -> ClassicResult<Json<BTreeMap<String, String>>> {
    let keys = keys::list_keys(&ctx.core, &ctx.request, &email).await?;
    Ok(Json(keys.into_iter().collect()))
}

/// `GET /auth/scheme`.
#[derive(Debug, JsonSchema, Serialize)]
pub struct AuthSchemeView {
    name: &'static str,
    data: BTreeMap<String, String>,
}

/// Returns how users log in: always with a password stored by Tancho.
pub async fn show_auth_scheme() -> Json<AuthSchemeView> {
    Json(AuthSchemeView {
        name: "native",
        data: BTreeMap::new(),
    })
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(POST, "/users", Public, create_user)
        .refuse_apps()
        .add_route(POST, "/users/{email}/password", Public, reset_password)
        .add_route(POST, "/users/{email}/tokens", Public, log_in)
        .add_route(POST, "/auth/login", Public, log_in_by_body)
        .add_route(GET, "/auth/scheme", Public, show_auth_scheme)
        .add_route(DELETE, "/users/tokens", AnyToken, log_out)
        .add_route(PUT, "/users/password", UserToken, change_password)
        .add_route(DELETE, "/users", UserToken, remove_user)
        .add_route(POST, "/users/keys", UserToken, add_key)
        .add_route(GET, "/users/keys", UserToken, list_own_keys)
        .add_route(DELETE, "/users/keys", UserToken, remove_key)
        .add_route(DELETE, "/users/keys/{key}", UserToken, remove_named_key)
        .add_route(GET, "/users/{email}/keys", UserToken, list_keys)
}
