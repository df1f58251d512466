//! The classic edition of the catalogue (contract/classic 1.2).

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri, header};
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{ServiceName, TeamName};
use crate::services::catalogue::{self, wire};
use crate::services::instances::InstanceWithInfo;
use crate::services::manifest::{ManifestFields, ServiceManifest};
use crate::services::model::{DefaultOwner, Disclosure};
use crate::services::wire::ClassicServiceView;
use crate::web::answers::{EmptyAnswer, NoContentAnswer};
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

const DISCLOSURE: Disclosure = Disclosure::Deny;

/// An instance of a service.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClassicInstanceInfoView {
    name: String,
    teams: Vec<String>,
    apps: Vec<String>,
    service_name: String,
    info: Option<BTreeMap<String, String>>,
}

impl From<InstanceWithInfo> for ClassicInstanceInfoView {
    fn from(item: InstanceWithInfo) -> Self {
        Self {
            name: item.instance.name.to_string(),
            teams: item.instance.teams.iter().map(ToString::to_string).collect(),
            apps: item.instance.apps,
            service_name: item.instance.service.to_string(),
            info: item.info,
        }
    }
}

/// A plan, with the exact keys that old clients read.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClassicServicePlanView {
    name: String,
    description: String,
}

/// Reads the manifest from a body: YAML with any content type, as `curl` sends it too, or the form of newer
/// clients.
fn read_manifest(uri: &Uri, headers: &HeaderMap, body: Bytes) -> Result<ServiceManifest, Error> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
    if content_type.to_ascii_lowercase().contains("urlencoded") {
        let params = Params::parse_request(uri, "application/x-www-form-urlencoded", body.clone());
        if let Ok(params) = params
            && params.has_field("id")
        {
            return wire::read_manifest_fields(&params)?.into_manifest_with_password();
        }
    }
    let unreadable = || {
        Error::new(
            ErrorKind::Unreadable,
            "The manifest is not valid YAML: it is not UTF-8.",
        )
    };
    let text = std::str::from_utf8(&body).map_err(|_| unreadable())?;
    ManifestFields::from_yaml(text)?.into_manifest()
}

pub async fn list_services(ctx: Ctx) -> ClassicResult<Json<Vec<ClassicServiceView>>> {
    let listed = catalogue::list_owned_services(&ctx.core, &ctx.request).await?;
    Ok(Json(listed.into_iter().map(ClassicServiceView::from).collect()))
}

pub async fn create_service(
    ctx: Ctx,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> ClassicResult<&'static str> {
    let manifest = read_manifest(&uri, &headers, body)?;
    catalogue::create_service(&ctx.core, &ctx.request, manifest, DefaultOwner::AllTeams).await?;
    Ok("success")
}

pub async fn update_service(
    ctx: Ctx,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> ClassicResult<&'static str> {
    let manifest = read_manifest(&uri, &headers, body)?;
    catalogue::update_service(&ctx.core, &ctx.request, manifest, DISCLOSURE).await?;
    Ok("success")
}

pub async fn remove_service(ctx: Ctx, Path(service): Path<ServiceName>) -> ClassicResult<NoContentAnswer> {
    catalogue::remove_service(&ctx.core, &ctx.request, &service, DISCLOSURE).await?;
    Ok(EmptyAnswer)
}

pub async fn get_service_info(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
) -> ClassicResult<Json<Vec<ClassicInstanceInfoView>>> {
    let list = catalogue::list_service_instances(&ctx.core, &ctx.request, &service, DISCLOSURE).await?;
    Ok(Json(
        list.into_iter().map(ClassicInstanceInfoView::from).collect(),
    ))
}

pub async fn get_service_doc(ctx: Ctx, Path(service): Path<ServiceName>) -> ClassicResult<String> {
    Ok(catalogue::get_service_doc(&ctx.core, &ctx.request, &service, DISCLOSURE).await?)
}

/// The body is the documentation itself; newer clients send it in the form field `doc`.
pub async fn set_service_doc(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
    headers: HeaderMap,
    body: Bytes,
) -> ClassicResult {
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let field = form_urlencoded::parse(&body)
        .next()
        .filter(|(key, _)| key == "doc");
    let text = match field {
        Some((_, text)) if is_form && body.starts_with(b"doc=") => text.into_owned(),
        _ => String::from_utf8(body.to_vec())
            .map_err(|_| Error::invalid("The documentation must be valid UTF-8."))?,
    };
    Ok(catalogue::set_service_doc(&ctx.core, &ctx.request, &service, &text, DISCLOSURE).await?)
}

pub async fn grant_service_access(
    ctx: Ctx,
    Path((service, team)): Path<(ServiceName, TeamName)>,
) -> ClassicResult {
    Ok(catalogue::grant_service_access(&ctx.core, &ctx.request, &service, &team, DISCLOSURE).await?)
}

pub async fn revoke_service_access(
    ctx: Ctx,
    Path((service, team)): Path<(ServiceName, TeamName)>,
) -> ClassicResult {
    Ok(catalogue::revoke_service_access(&ctx.core, &ctx.request, &service, &team, DISCLOSURE).await?)
}

pub async fn list_service_plans(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
) -> ClassicResult<Json<Vec<ClassicServicePlanView>>> {
    let plans = catalogue::list_service_plans(&ctx.core, &ctx.request, &service, DISCLOSURE).await?;
    let view = |plan: crate::services::broker::ServicePlan| ClassicServicePlanView {
        name: plan.name,
        description: plan.description,
    };
    Ok(Json(plans.into_iter().map(view).collect()))
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/services", UserToken, list_services)
        .add_route(POST, "/services", UserToken, create_service)
        .add_route(PUT, "/services", UserToken, update_service)
        .add_route(DELETE, "/services/{service}", UserToken, remove_service)
        .add_route(GET, "/services/{service}", UserToken, get_service_info)
        .add_route(GET, "/services/{service}/doc", UserToken, get_service_doc)
        .add_route(PUT, "/services/{service}/doc", UserToken, set_service_doc)
        .add_route(PUT, "/services/{service}/{team}", UserToken, grant_service_access)
        .add_route(DELETE, "/services/{service}/{team}", UserToken, revoke_service_access)
        .add_route(GET, "/services/{service}/plans", UserToken, list_service_plans)
}
