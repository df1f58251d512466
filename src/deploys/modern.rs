//! Deploys over HTTP (contract/modern 3). The unversioned path answers the same.

use axum::Json;
use axum::extract::{OriginalUri, Request};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::apps;
use crate::deploys::{self, DeployRow, DeploySource, VersionTag, wire};
use crate::events;
use crate::jobs;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{AppName, JobName};
use crate::kernel::permission::Permission;
use crate::web::answers::{EventStream, TextStream};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Params, Path};

/// The end of the answer that the client takes for success, to the byte.
const SUCCESS_MARK: &str = "\nOK\n";
const JOB_SUCCESS_MARK: &str = "\nDeploy finished with success!\n";

/// `POST /1.0/apps/{app}/deploy`, and `POST /1.0/apps/{app}/repository/clone` of older clients: a multipart body with the
/// archive as `file`, and a `dockerfile` if it is built with that; the archive alone; or a form that names an `image`.
pub async fn deploy_app(ctx: Ctx, Path(name): Path<AppName>, request: Request) -> ModernResult<TextStream> {
    if wire::is_form(&request) {
        let (order, source) = wire::receive_form(&ctx.core, request).await?;
        let event = deploys::deploy_app(&ctx.core, &ctx.request, &name, order, source).await?;
        return Ok(ctx
            .stream_event(&event, StreamFormat::Text { mark: SUCCESS_MARK })
            .await?);
    }
    let app = deploys::authorize_deploy(&ctx.core, &ctx.request, &name).await?;
    let permit = deploys::admit_upload(&ctx.core, &ctx.request, &app).await?;
    let (order, source) = wire::receive_source(&ctx.core, &permit, request).await?;
    let event = deploys::deploy_app(&ctx.core, &ctx.request, &name, order, source).await?;
    drop(permit);
    Ok(ctx
        .stream_event(&event, StreamFormat::Text { mark: SUCCESS_MARK })
        .await?)
}

/// `POST /1.5/apps/{app}/build`: a multipart body with `tag` and the archive as `file`. The answer ends with the name of the
/// image, which can be deployed.
pub async fn build_app(ctx: Ctx, Path(name): Path<AppName>, request: Request) -> ModernResult<TextStream> {
    let app = deploys::authorize_build(&ctx.core, &ctx.request, &name).await?;
    let permit = deploys::admit_upload(&ctx.core, &ctx.request, &app).await?;
    let (order, source) = wire::receive_source(&ctx.core, &permit, request).await?;
    let tag = VersionTag::parse(order.tag.as_deref().ok_or_else(missing_tag)?)?;
    if matches!(source, DeploySource::Image(_)) {
        return Err(wire::missing_source().into());
    }
    let event = deploys::build_app(&ctx.core, &ctx.request, &name, (tag, order), source).await?;
    drop(permit);
    Ok(ctx
        .stream_event(&event, StreamFormat::Text { mark: SUCCESS_MARK })
        .await?)
}

fn missing_tag() -> Error {
    Error::invalid("You must name the image that is built: the field tag is missing.")
}

/// `POST /1.23/jobs/{job}/deploy`: as of an app. Clients send a Dockerfile beside the files.
pub async fn deploy_job(ctx: Ctx, Path(name): Path<JobName>, request: Request) -> ModernResult<TextStream> {
    let job = jobs::find_authorized_job(&ctx.core, &ctx.request, &name, Permission::JOB_DEPLOY).await?;
    apps::ensure_live(&job)?;
    let (mut order, source, permit) = match wire::is_form(&request) {
        true => {
            let (order, source) = wire::receive_form(&ctx.core, request).await?;
            (order, source, None)
        }
        false => {
            let permit = deploys::admit_upload(&ctx.core, &ctx.request, &job).await?;
            let (order, source) = wire::receive_source(&ctx.core, &permit, request).await?;
            (order, source, Some(permit))
        }
    };
    if order.origin.is_empty() {
        order.origin = "job-deploy".into();
    }
    let event = deploys::deploy_to(&ctx.core, &ctx.request, &job, order, source).await?;
    drop(permit);
    let format = StreamFormat::Text {
        mark: JOB_SUCCESS_MARK,
    };
    Ok(ctx.stream_event(&event, format).await?)
}

/// A deploy. Fields are in the order of their keys.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeployView {
    app: String,
    author: String,
    can_rollback: bool,
    commit: String,
    diff: &'static str,
    /// Nanoseconds.
    duration: i64,
    error: String,
    #[serde(rename = "ID")]
    id: String,
    image: String,
    log: String,
    message: String,
    origin: String,
    timestamp: DateTime<Utc>,
    user: String,
    version: i32,
}

impl From<DeployRow> for DeployView {
    fn from(row: DeployRow) -> Self {
        let duration = row.ended_at.map_or(0, |end| {
            (end - row.started_at).num_nanoseconds().unwrap_or(i64::MAX)
        });
        Self {
            app: row.app,
            author: row.author,
            can_rollback: row.can_rollback,
            commit: row.commit_id,
            diff: "",
            duration,
            error: row.error,
            id: row.event_id,
            image: match (row.image, row.version) {
                (Some(image), _) => image,
                (None, Some(version)) => format!("v{version}"),
                (None, None) => String::new(),
            },
            log: String::new(),
            message: row.message,
            origin: row.origin,
            timestamp: row.started_at,
            user: row.user_name,
            version: row.version.unwrap_or(0),
        }
    }
}

/// `GET /1.0/deploys?app=…&limit=…`
pub async fn list_deploys(
    ctx: Ctx,
    OriginalUri(uri): OriginalUri,
    params: Params,
) -> ModernResult<Json<Vec<DeployView>>> {
    let app = params.get_string("app")?.unwrap_or_default();
    let limit = params.get_integer("limit")?.filter(|n| *n > 0).unwrap_or(100);
    let rows = match deploys::list_deploys(&ctx.core, &ctx.request, &app, "", limit).await {
        // Programs that send no version expect a list, whatever they ask for; today's client an error.
        Err(error) if error.kind() == ErrorKind::NotFound && uri.path().starts_with("/deploys") => Vec::new(),
        rows => rows?,
    };
    Ok(Json(rows.into_iter().map(DeployView::from).collect()))
}

/// `GET /1.0/deploys/{event}`
pub async fn get_deploy(ctx: Ctx, Path(id): Path<String>) -> ModernResult<Json<DeployView>> {
    let rows = deploys::list_deploys(&ctx.core, &ctx.request, "", &id, 1).await?;
    let row = rows.into_iter().next();
    let mut view = DeployView::from(row.ok_or_else(|| Error::not_found("Deploy not found."))?);
    if let Ok(event) = id.parse() {
        let lines = events::list_log_lines(&ctx.core.db, &event, 0).await?;
        let log: Vec<&str> = lines.iter().map(|(_, _, line)| line.as_str()).collect();
        view.log = log.join("\n");
    }
    Ok(Json(view))
}

/// `POST /1.0/apps/{app}/deploy/rollback`: a JSON stream, unlike a deploy.
pub async fn rollback_app(ctx: Ctx, Path(name): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let image = params
        .get_string("image")?
        .ok_or_else(|| Error::invalid("you cannot rollback without an image name"))?;
    let sides = wire::parse_side_options(&params)?;
    let event = deploys::rollback_app(
        &ctx.core,
        &ctx.request,
        &name,
        &image,
        params.get_bool("keep-env")?,
        sides,
    )
    .await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `PUT /1.4/apps/{app}/deploy/rollback/update`: form `image`, `disable`, `reason`.
pub async fn change_rollback(ctx: Ctx, Path(name): Path<AppName>, params: Params) -> ModernResult {
    let image = params
        .get_string("image")?
        .ok_or_else(|| Error::invalid("You must specify an image."))?;
    let reason = params.get_string("reason")?.unwrap_or_default();
    let disabled_because = params.get_bool("disable")?.then_some(reason.as_str());
    Ok(deploys::change_rollback(&ctx.core, &ctx.request, &name, &image, disabled_because).await?)
}

/// `POST /1.3/apps/{app}/deploy/rebuild`: form `origin`.
pub async fn rebuild_app(ctx: Ctx, Path(name): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let origin = params.get_string("origin")?.unwrap_or_default();
    let event = deploys::rebuild_app(&ctx.core, &ctx.request, &name, &origin).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `DELETE /1.10/apps/{app}/versions/{version}`
pub async fn remove_version(
    ctx: Ctx,
    Path((name, version)): Path<(AppName, String)>,
) -> ModernResult<EventStream> {
    let event = deploys::remove_version(&ctx.core, &ctx.request, &name, &version).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `POST /1.8/apps/{app}/routable`: `version`, `isRoutable`.
pub async fn change_routable(ctx: Ctx, Path(name): Path<AppName>, params: Params) -> ModernResult {
    let version = params.require_scalar("version")?;
    let is_routable = params.get_bool("isroutable")?;
    Ok(deploys::change_routable(&ctx.core, &ctx.request, &name, &version, is_routable).await?)
}

/// `POST /1.0/apps/{app}/diff`: clients sent the diff of a deploy here; it is not kept any more.
pub async fn post_diff(Path(_): Path<AppName>) -> ModernResult {
    Err(Error::gone("Diffs of deploys are not kept any more: this request does nothing.").into())
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", POST, "/apps/{app}/deploy", UserToken, deploy_app)
        .accept_uploads()
        .add_versioned_route("1.0", POST, "/apps/{app}/repository/clone", UserToken, deploy_app)
        .accept_uploads()
        .add_versioned_route("1.23", POST, "/jobs/{job}/deploy", UserToken, deploy_job)
        .accept_uploads()
        .add_versioned_route("1.5", POST, "/apps/{app}/build", UserToken, build_app)
        .accept_uploads()
        .add_versioned_route("1.0", POST, "/apps/{app}/deploy/rollback", UserToken, rollback_app)
        .add_versioned_route("1.4", PUT, "/apps/{app}/deploy/rollback/update", UserToken, change_rollback)
        .add_versioned_route("1.3", POST, "/apps/{app}/deploy/rebuild", UserToken, rebuild_app)
        .add_versioned_route("1.0", POST, "/apps/{app}/diff", UserToken, post_diff)
        .add_versioned_route("1.10", DELETE, "/apps/{app}/versions/{version}", UserToken, remove_version)
        .add_versioned_route("1.8", POST, "/apps/{app}/routable", UserToken, change_routable)
        .add_versioned_route("1.0", GET, "/deploys", UserToken, list_deploys)
        .add_versioned_route("1.0", GET, "/deploys/{event}", UserToken, get_deploy)
}
