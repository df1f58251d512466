//! The classic edition of the catalogue (contract/classic 1.2).

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use serde::Serialize;

use crate::core::Core;
use crate::http::kit::caller::Caller;
use crate::http::kit::input::Input;
use crate::http::wording::classic::Refusal;
use crate::kernel::problem::{Kind, Problem};
use crate::services::catalogue::{self, Listed, modern};
use crate::services::instances::Told;
use crate::services::manifest::{Fields, Manifest};
use crate::services::model::Edition;
use crate::services::wire;

const EDITION: Edition = Edition::Classic;

/// A service and its instances.
#[derive(Serialize)]
pub struct ServiceView {
    service: String,
    instances: Vec<String>,
}

impl From<Listed> for ServiceView {
    fn from(listed: Listed) -> Self {
        Self {
            service: listed.service,
            instances: listed.instances,
        }
    }
}

/// An instance of a service.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InstanceView {
    name: String,
    teams: Vec<String>,
    apps: Vec<String>,
    service_name: String,
    info: Option<BTreeMap<String, String>>,
}

impl From<Told> for InstanceView {
    fn from(told: Told) -> Self {
        Self {
            name: told.instance.name.to_string(),
            teams: told.instance.teams.iter().map(ToString::to_string).collect(),
            apps: told.instance.apps,
            service_name: told.instance.service.to_string(),
            info: told.info,
        }
    }
}

/// A plan, with the exact keys that old clients look for.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlanView {
    name: String,
    description: String,
}

/// The manifest in a body: YAML under any content type, as `curl` sends it too, or the form of newer
/// clients.
fn manifest(uri: &Uri, headers: &HeaderMap, body: Bytes) -> Result<Manifest, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
    if content_type.to_ascii_lowercase().contains("urlencoded") {
        let input = Input::read(uri, "application/x-www-form-urlencoded", body.clone());
        if let Ok(input) = input
            && input.has("id")
        {
            return modern::fields(&input)?.check();
        }
    }
    let unreadable = || {
        Problem::new(
            Kind::Unreadable,
            "The manifest is not valid YAML: it is not UTF-8.",
        )
    };
    let text = std::str::from_utf8(&body).map_err(|_| unreadable())?;
    Fields::from_yaml(text)?.check()
}

pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Vec<ServiceView>>, Refusal> {
    let listed = catalogue::list(&core, &call).await?;
    Ok(Json(listed.into_iter().map(ServiceView::from).collect()))
}

pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<&'static str, Refusal> {
    let manifest = manifest(&uri, &headers, body)?;
    catalogue::create(&core, &call, manifest, EDITION).await?;
    Ok("success")
}

pub async fn update(
    State(core): State<Core>,
    Caller(call): Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<&'static str, Refusal> {
    let manifest = manifest(&uri, &headers, body)?;
    catalogue::update(&core, &call, manifest, EDITION).await?;
    Ok("success")
}

pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<StatusCode, Refusal> {
    catalogue::remove(&core, &call, &wire::service(&service)?, EDITION).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<Json<Vec<InstanceView>>, Refusal> {
    let told = catalogue::info(&core, &call, &wire::service(&service)?, EDITION).await?;
    Ok(Json(told.into_iter().map(InstanceView::from).collect()))
}

pub async fn doc(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<String, Refusal> {
    Ok(catalogue::doc(&core, &call, &wire::service(&service)?, EDITION).await?)
}

/// The body is the text itself; newer clients put it into the field `doc` of a form.
pub async fn set_doc(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(), Refusal> {
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let field = form_urlencoded::parse(&body)
        .next()
        .filter(|(key, _)| key == "doc");
    let text = match field {
        Some((_, text)) if is_form && body.starts_with(b"doc=") => text.into_owned(),
        _ => String::from_utf8(body.to_vec())
            .map_err(|_| Problem::invalid("The documentation must be text in UTF-8."))?,
    };
    let service = wire::service(&service)?;
    Ok(catalogue::set_doc(&core, &call, &service, &text, EDITION).await?)
}

pub async fn grant(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    let (service, team) = (wire::service(&service)?, wire::team(&team)?);
    Ok(catalogue::grant(&core, &call, &service, &team, EDITION).await?)
}

pub async fn revoke(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    let (service, team) = (wire::service(&service)?, wire::team(&team)?);
    Ok(catalogue::revoke(&core, &call, &service, &team, EDITION).await?)
}

pub async fn plans(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<Json<Vec<PlanView>>, Refusal> {
    let plans = catalogue::plans(&core, &call, &wire::service(&service)?, EDITION).await?;
    let view = |plan: crate::services::broker::ServicePlan| PlanView {
        name: plan.name,
        description: plan.description,
    };
    Ok(Json(plans.into_iter().map(view).collect()))
}
