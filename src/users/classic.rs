//! Users, sessions and keys in the classic edition (contract/classic 1.7, 1.9.1, 1.10).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::core::Core;
use crate::http::kit::{Caller, Input};
use crate::http::wording::classic::Refusal;
use crate::kernel::call::Call;
use crate::kernel::names::Email;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::users::keys::{self, NewKey, Which};
use crate::users::{actions, login, reset, tokens};

/// The answer to a login. `is_admin` is newer than the reference.
#[derive(Debug, Serialize)]
pub struct Login {
    token: String,
    is_admin: bool,
}

/// `POST /users`: 200, as the reference says.
pub async fn create(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let email = Email::parse(&input.required("email")?)?;
    let password = Secret::new(input.required("password")?);
    Ok(actions::create(&core, &call, &email, &password).await?)
}

/// `POST /users/{email}/tokens`.
pub async fn login(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(email): Path<String>,
    input: Input,
) -> Result<Json<Login>, Refusal> {
    let password = Secret::new(input.required("password")?);
    answer(&core, &call, &Email::parse(&email)?, &password).await
}

/// `POST /auth/login`: the same with the address in the body.
pub async fn login_by_body(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<Login>, Refusal> {
    let email = Email::parse(&input.required("email")?)?;
    let password = Secret::new(input.required("password")?);
    answer(&core, &call, &email, &password).await
}

async fn answer(core: &Core, call: &Call, email: &Email, password: &Secret) -> Result<Json<Login>, Refusal> {
    let token = login::login(core, call, email, password).await?;
    Ok(Json(Login {
        is_admin: actions::is_admin(core, email).await?,
        token: token.expose().to_owned(),
    }))
}

/// `DELETE /users/tokens`.
pub async fn logout(State(core): State<Core>, Caller(call): Caller) -> Result<(), Refusal> {
    Ok(tokens::end(&core, &call).await?)
}

/// `POST /users/{email}/password[?token=]`: asks for a token, or uses one.
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

/// `PUT /users/password`.
pub async fn change_password(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<(), Refusal> {
    let old = Secret::new(input.required("old")?);
    let new = Secret::new(input.required("new")?);
    // Newer clients send the new password twice.
    if let Some(confirm) = input.text("confirm")?
        && confirm != new.expose()
    {
        return Err(Problem::invalid("The new password and its confirmation differ.").into());
    }
    Ok(actions::change_password(&core, &call, &old, &new).await?)
}

/// `DELETE /users`: the caller, or with `?user=` somebody else.
pub async fn remove(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let other: Option<Email> = input.parsed("user")?;
    Ok(actions::remove(&core, &call, other.as_ref()).await?)
}

/// `POST /users/keys`; `name` and `force` are of later clients.
pub async fn add_key(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let new = NewKey {
        text: input.required("key")?,
        name: input.text("name")?.unwrap_or_default(),
        force: input.flag("force")?,
    };
    Ok(keys::add(&core, &call, &new).await?)
}

/// `DELETE /users/keys`, by content.
pub async fn remove_key(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let which = Which::Text(input.required("key")?);
    Ok(keys::remove(&core, &call, &which).await?)
}

/// `DELETE /users/keys/{key}`, by name, as later clients do.
pub async fn remove_named_key(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(key): Path<String>,
) -> Result<(), Refusal> {
    Ok(keys::remove(&core, &call, &Which::Name(key)).await?)
}

/// `GET /users/{email}/keys`: content by name.
pub async fn list_keys(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(email): Path<String>,
) -> Result<Json<BTreeMap<String, String>>, Refusal> {
    let keys = keys::list(&core, &call, &Email::parse(&email)?).await?;
    Ok(Json(keys.into_iter().collect()))
}

/// `GET /auth/scheme`.
#[derive(Debug, Serialize)]
pub struct Scheme {
    name: &'static str,
    data: BTreeMap<String, String>,
}

/// How people log in: always with a password of ours.
pub async fn scheme() -> Json<Scheme> {
    Json(Scheme {
        name: "native",
        data: BTreeMap::new(),
    })
}
