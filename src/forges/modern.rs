//! Forges in the modern edition, of which the reference knows nothing.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::core::Core;
use crate::forges::actions::{self, Shown, Wish};
use crate::forges::address::Address;
use crate::forges::model::{Delivery, parse_host_key};
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

fn app_name(text: &str) -> Result<AppName, Problem> {
    AppName::parse(text).map_err(|_| Problem::not_found(format!("App {text} not found.")))
}

fn view(core: &Core, app: &AppName, shown: &Shown) -> Value {
    let Shown { forge, deploy_key } = shown;
    json!({
        "url": forge.url, "branch": forge.branch, "user": forge.user, "hook": core.public.hook_url(app),
        "deployKey": deploy_key, "hostKey": forge.host_key,
        "deliveredAt": forge.delivered_at, "commit": forge.commit, "problem": forge.problem,
    })
}

/// `GET /1.0/forges/{app}`
pub async fn show(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let app = app_name(&app)?;
    let shown = actions::show(&core, &call, &app).await?;
    Ok(Json(view(&core, &app, &shown)))
}

/// `PUT /1.0/forges/{app}`: the only answer that shows the secret.
pub async fn set(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Json<Value>, Refusal> {
    let app = app_name(&app)?;
    let secret = |key: &str| Ok::<_, Problem>(input.text(key)?.map(Secret::new));
    let wish = Wish {
        address: Address::parse(&input.required("url")?)?,
        branch: input.parsed("branch")?,
        secret: secret("secret")?,
        user: input.text("user")?.unwrap_or_default(),
        password: secret("password")?,
        host_key: match input.text("host_key")? {
            Some(text) => Some(parse_host_key(&text)?),
            None => None,
        },
    };
    let (shown, secret) = actions::set(&core, &call, &app, wish).await?;
    let mut view = view(&core, &app, &shown);
    view["secret"] = secret.expose().into();
    Ok(Json(view))
}

/// `DELETE /1.0/forges/{app}`
pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<(), Refusal> {
    Ok(actions::remove(&core, &call, &app_name(&app)?).await?)
}

/// `POST /1.0/forges/{app}`: what a forge calls.
pub async fn deliver(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let first = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| headers.get(*name)?.to_str().ok());
        found.unwrap_or_default()
    };
    let delivery = Delivery {
        signature: first(["x-hub-signature-256", "x-gitea-signature"]),
        id: first(["x-github-delivery", "x-gitea-delivery"]),
        event: first(["x-github-event", "x-gitea-event"]),
        body: &body,
    };
    let message = actions::deliver(&core, &call, &app, &delivery).await?;
    Ok(Json(json!({ "message": message })))
}
