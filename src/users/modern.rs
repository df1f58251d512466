//! Users, sessions and API keys in the modern edition (contract/modern 1.8, 2.1).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::names::Email;
use crate::kernel::permission::Permission;
use crate::kernel::permission::PermissionContext;
use crate::kernel::request_context::PermissionGrant;
use crate::kernel::secret::Secret;
use crate::quotas::{QuotaView, parse_limit};
use crate::users::model::{HeldRole, User};
use crate::users::{UserQuery, actions, login, wire};
use crate::web::answers::{CreatedAnswer, EmptyAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{AnyToken, Public, UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A permission or a role in a context. An administrator has the permission with the empty name, globally.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HeldView {
    name: String,
    context_type: &'static str,
    context_value: String,
    group: String,
}

/// A user in lists, in the user's own info and in that of a team.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserView {
    email: String,
    roles: Vec<HeldView>,
    permissions: Vec<HeldView>,
    groups: Vec<String>,
}

fn held_view(name: &str, context: &PermissionContext) -> HeldView {
    HeldView {
        name: name.to_owned(),
        context_type: context.kind.as_str(),
        context_value: context.value.clone(),
        group: String::new(),
    }
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        let role = |holding: &HeldRole| held_view(&holding.role, &holding.context);
        // As in the original, actions of services are shown with the roles only.
        let permission = |grant: &PermissionGrant| {
            let fixed = grant.permission.fixed()?;
            Some(held_view(fixed.as_str(), &grant.context))
        };
        Self {
            roles: user.roles.iter().map(role).collect(),
            permissions: user.collect_grants().iter().filter_map(permission).collect(),
            email: user.email,
            groups: Vec::new(),
        }
    }
}

/// The response to a login.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TokenView {
    token: String,
}

impl From<Secret> for TokenView {
    fn from(token: Secret) -> Self {
        Self {
            token: token.expose_secret().to_owned(),
        }
    }
}

/// `POST /1.0/users`.
pub async fn create_user(ctx: Ctx, params: Params) -> ModernResult<CreatedAnswer> {
    let email = Email::parse(&params.require_string("email")?)?;
    let password = Secret::new(params.require_string("password")?);
    actions::create_user(&ctx.core, &ctx.request, &email, &password).await?;
    Ok(EmptyAnswer)
}

/// `POST /1.0/users/{email}/tokens`.
pub async fn log_in(ctx: Ctx, Path(email): Path<Email>, params: Params) -> ModernResult<Json<TokenView>> {
    let password = Secret::new(params.require_string("password")?);
    let token = login::log_in(&ctx.core, &ctx.request, &email, &password).await?;
    Ok(Json(TokenView::from(token)))
}

/// `POST /1.0/auth/login`: the same with the e-mail address in the body.
pub async fn log_in_by_body(ctx: Ctx, params: Params) -> ModernResult<Json<TokenView>> {
    let email = Email::parse(&params.require_string("email")?)?;
    let password = Secret::new(params.require_string("password")?);
    let token = login::log_in(&ctx.core, &ctx.request, &email, &password).await?;
    Ok(Json(TokenView::from(token)))
}

/// `DELETE /1.0/users/tokens`: ends the session of the request; with `?all=true` all sessions and the API key
/// of the caller, or with `&user=` of another user.
pub async fn log_out(ctx: Ctx, params: Params) -> ModernResult {
    Ok(wire::log_out(&ctx, &params).await?)
}

/// `POST /1.0/users/{email}/password[?token=]`: requests a token, or redeems one.
pub async fn reset_password(ctx: Ctx, Path(email): Path<Email>, params: Params) -> ModernResult {
    Ok(wire::reset_password(&ctx, &email, &params).await?)
}

/// `PUT /1.0/users/password`.
pub async fn change_password(ctx: Ctx, params: Params) -> ModernResult {
    Ok(wire::change_password(&ctx, &params).await?)
}

/// `DELETE /1.0/users[?user=]`.
pub async fn remove_user(ctx: Ctx, params: Params) -> ModernResult {
    Ok(wire::remove_user(&ctx, &params).await?)
}

/// `GET /1.0/users?userEmail=&role=&context=`.
pub async fn list_users(ctx: Ctx, params: Params) -> ModernResult<Json<Vec<UserView>>> {
    let query = UserQuery {
        email: params.get_string("userEmail")?.unwrap_or_default(),
        role: params.get_string("role")?.unwrap_or_default(),
        context: params.get_string("context")?.unwrap_or_default(),
    };
    let users = actions::find_users(&ctx.core, &ctx.request, query).await?;
    Ok(Json(users.into_iter().map(UserView::from).collect()))
}

/// `GET /1.0/users/info`.
pub async fn show_current_user(ctx: Ctx) -> ModernResult<Json<UserView>> {
    Ok(Json(
        actions::find_current_user(&ctx.core, &ctx.request).await?.into(),
    ))
}

/// `GET /1.0/users/api-key[?user=]`: a JSON string.
pub async fn show_api_key(ctx: Ctx, params: Params) -> ModernResult<Json<String>> {
    let other: Option<Email> = params.parse_field("user")?;
    let key = actions::get_or_renew_api_key(&ctx.core, &ctx.request, other.as_ref(), false).await?;
    Ok(Json(key.expose_secret().to_owned()))
}

/// `POST /1.0/users/api-key[?user=]`: a JSON string.
pub async fn renew_api_key(ctx: Ctx, params: Params) -> ModernResult<Json<String>> {
    let other: Option<Email> = params.parse_field("user")?;
    let key = actions::get_or_renew_api_key(&ctx.core, &ctx.request, other.as_ref(), true).await?;
    Ok(Json(key.expose_secret().to_owned()))
}

/// `GET /1.0/users/{email}/quota`.
pub async fn show_user_quota(ctx: Ctx, Path(email): Path<Email>) -> ModernResult<Json<QuotaView>> {
    Ok(Json(
        actions::find_user_quota(&ctx.core, &ctx.request, &email)
            .await?
            .into(),
    ))
}

/// `PUT /1.0/users/{email}/quota`, form `limit`.
pub async fn change_user_quota(ctx: Ctx, Path(email): Path<Email>, params: Params) -> ModernResult {
    let limit = parse_limit(&params.require_scalar("limit")?)?;
    Ok(actions::change_user_quota(&ctx.core, &ctx.request, &email, limit).await?)
}

/// The way in which users log in: always with a password stored by Tancho.
#[derive(Debug, JsonSchema, Serialize)]
pub struct AuthSchemeItem {
    data: AuthSchemeData,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<bool>,
    name: &'static str,
}

#[derive(Debug, JsonSchema, Serialize)]
struct AuthSchemeData {}

impl AuthSchemeItem {
    fn native(default: Option<bool>) -> Self {
        Self {
            data: AuthSchemeData {},
            default,
            name: "native",
        }
    }
}

/// `GET /1.18/auth/schemes`.
pub async fn list_auth_schemes() -> Json<[AuthSchemeItem; 1]> {
    Json([AuthSchemeItem::native(Some(true))])
}

/// `GET /1.0/auth/scheme`, for clients that support one scheme only.
pub async fn show_auth_scheme() -> Json<AuthSchemeItem> {
    Json(AuthSchemeItem::native(None))
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.18", GET, "/auth/schemes", Public, list_auth_schemes)
        .add_versioned_route("1.0", GET, "/auth/scheme", Public, show_auth_scheme)
        .add_versioned_route("1.0", POST, "/auth/login", Public, log_in_by_body)
        .add_versioned_route("1.0", POST, "/users", Public, create_user)
        .refuse_apps()
        .add_versioned_route("1.0", POST, "/users/{email}/password", Public, reset_password)
        .add_versioned_route("1.0", POST, "/users/{email}/tokens", Public, log_in)
        .add_versioned_route("1.0", DELETE, "/users/tokens", AnyToken, log_out)
        .add_versioned_route("1.0", PUT, "/users/password", UserToken, change_password)
        .add_versioned_route("1.0", DELETE, "/users", UserToken, remove_user)
        .add_versioned_route("1.0", GET, "/users", UserToken, list_users)
        .add_versioned_route("1.0", GET, "/users/info", UserToken, show_current_user)
        .add_versioned_route("1.0", GET, "/users/api-key", UserToken, show_api_key)
        .add_versioned_route("1.0", POST, "/users/api-key", UserToken, renew_api_key)
        .add_versioned_route("1.0", GET, "/users/{email}/quota", UserToken, show_user_quota)
        .add_versioned_route("1.0", PUT, "/users/{email}/quota", UserWithPermission(Permission::USER_UPDATE_QUOTA), change_user_quota)
}
