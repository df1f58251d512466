//! Users, sessions and API keys in the modern edition (contract/modern 1.8, 2.1).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::call::Grant;
use crate::kernel::names::Email;
use crate::kernel::permission::Context;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::quotas::{Quota, parse_limit};
use crate::users::model::{Holding, User};
use crate::users::{Find, actions, login, reset, tokens};

/// A permission or a role on something. An administrator has the permission of the empty name, globally.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HeldView {
    name: String,
    context_type: &'static str,
    context_value: String,
    group: String,
}

/// A user in lists, in their own info and in that of a team.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserView {
    email: String,
    roles: Vec<HeldView>,
    permissions: Vec<HeldView>,
    groups: Vec<String>,
}

fn held(name: &str, context: &Context) -> HeldView {
    HeldView {
        name: name.to_owned(),
        context_type: context.kind.as_str(),
        context_value: context.value.clone(),
        group: String::new(),
    }
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        let role = |holding: &Holding| held(&holding.role, &holding.context);
        let permission = |grant: &Grant| held(grant.permission.as_str(), &grant.context);
        Self {
            roles: user.holdings.iter().map(role).collect(),
            permissions: user.grants().iter().map(permission).collect(),
            email: user.email,
            groups: Vec::new(),
        }
    }
}

/// `POST /1.0/users`.
pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<StatusCode, Refusal> {
    let email = Email::parse(&input.required("email")?)?;
    let password = Secret::new(input.required("password")?);
    actions::create(&core, &call, &email, &password).await?;
    Ok(StatusCode::CREATED)
}

/// `POST /1.0/users/{email}/tokens`.
pub async fn login(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(email): Path<String>,
    input: Input,
) -> Result<Json<Value>, Refusal> {
    let password = Secret::new(input.required("password")?);
    let token = login::login(&core, &call, &Email::parse(&email)?, &password).await?;
    Ok(Json(json!({ "token": token.expose() })))
}

/// `POST /1.0/auth/login`: the same with the address in the body.
pub async fn login_by_body(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<Value>, Refusal> {
    let email = Email::parse(&input.required("email")?)?;
    let password = Secret::new(input.required("password")?);
    let token = login::login(&core, &call, &email, &password).await?;
    Ok(Json(json!({ "token": token.expose() })))
}

/// `DELETE /1.0/users/tokens`.
pub async fn logout(State(core): State<Core>, Caller(call): Caller) -> Result<(), Refusal> {
    Ok(tokens::end(&core, &call).await?)
}

/// `POST /1.0/users/{email}/password[?token=]`: asks for a token, or uses one.
pub async fn reset_password(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(email): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let email = Email::parse(&email)?;
    match input.text("token")? {
        None => Ok(reset::ask(&core, &call, &email).await?),
        Some(token) => Ok(reset::redeem(&core, &call, &email, &Secret::new(token)).await?),
    }
}

/// `PUT /1.0/users/password`.
pub async fn change_password(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<(), Refusal> {
    let old = Secret::new(input.required("old")?);
    let new = Secret::new(input.required("new")?);
    if let Some(confirm) = input.text("confirm")?
        && confirm != new.expose()
    {
        return Err(Problem::invalid("The new password and its confirmation differ.").into());
    }
    Ok(actions::change_password(&core, &call, &old, &new).await?)
}

/// `DELETE /1.0/users[?user=]`.
pub async fn remove(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let other: Option<Email> = input.parsed("user")?;
    Ok(actions::remove(&core, &call, other.as_ref()).await?)
}

/// `GET /1.0/users?userEmail=&role=&context=`.
pub async fn list(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<Vec<UserView>>, Refusal> {
    let wanted = Find {
        email: input.text("userEmail")?.unwrap_or_default(),
        role: input.text("role")?.unwrap_or_default(),
        context: input.text("context")?.unwrap_or_default(),
    };
    let users = actions::find(&core, &call, wanted).await?;
    Ok(Json(users.into_iter().map(UserView::from).collect()))
}

/// `GET /1.0/users/info`.
pub async fn info(State(core): State<Core>, Caller(call): Caller) -> Result<Json<UserView>, Refusal> {
    Ok(Json(actions::me(&core, &call).await?.into()))
}

/// `GET /1.0/users/api-key[?user=]`: a JSON string.
pub async fn show_api_key(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<String>, Refusal> {
    let other: Option<Email> = input.parsed("user")?;
    let key = actions::api_key(&core, &call, other.as_ref(), false).await?;
    Ok(Json(key.expose().to_owned()))
}

/// `POST /1.0/users/api-key[?user=]`: a JSON string.
pub async fn renew_api_key(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<String>, Refusal> {
    let other: Option<Email> = input.parsed("user")?;
    let key = actions::api_key(&core, &call, other.as_ref(), true).await?;
    Ok(Json(key.expose().to_owned()))
}

/// A quota of a user or a team.
#[derive(Debug, Serialize)]
pub struct QuotaView {
    limit: i32,
    inuse: i32,
}

impl From<Quota> for QuotaView {
    fn from(quota: Quota) -> Self {
        Self {
            limit: quota.limit,
            inuse: quota.in_use,
        }
    }
}

/// `GET /1.0/users/{email}/quota`.
pub async fn quota(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(email): Path<String>,
) -> Result<Json<QuotaView>, Refusal> {
    let email = Email::parse(&email)?;
    Ok(Json(actions::quota(&core, &call, &email).await?.into()))
}

/// `PUT /1.0/users/{email}/quota`, form `limit`.
pub async fn change_quota(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(email): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let email = Email::parse(&email)?;
    let limit = limit(&input)?;
    Ok(actions::change_quota(&core, &call, &email, limit).await?)
}

/// The field `limit`, a number in JSON, a number or a word in a form.
pub(crate) fn limit(input: &Input) -> Result<i32, Problem> {
    match input.value("limit") {
        Some(Value::Number(number)) => parse_limit(&number.to_string()),
        _ => parse_limit(&input.required("limit")?),
    }
}

/// `GET /1.18/auth/schemes`.
pub async fn schemes() -> Json<Value> {
    Json(json!([{ "name": "native", "default": true, "data": {} }]))
}

/// `GET /1.0/auth/scheme`, for clients that know of one only.
pub async fn scheme() -> Json<Value> {
    Json(json!({ "name": "native", "data": {} }))
}
