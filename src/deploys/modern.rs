//! Deploys over HTTP (contract/modern 3). The unversioned path answers the same.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{OriginalUri, Request};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::apps;
use crate::core::Core;
use crate::deploys::{
    self, ArchiveUpload, DeployOptions, DeployRow, DeploySource, SideOptions, UploadPermit, VersionTag,
};
use crate::events;
use crate::jobs;
use crate::kernel::artifact::ImageName;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{AppName, JobName};
use crate::kernel::permission::Permission;
use crate::web::answers::{EventStream, TextStream};
use crate::web::errors::modern::ModernResult;
use crate::web::form_parts::{self, FormPart, PartReader};
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{self, Ctx, Params, Path};

/// How the client sends a deploy without files.
const FORM_TYPE: &str = "application/x-www-form-urlencoded";
/// The end of the answer that the client takes for success, to the byte.
const SUCCESS_MARK: &str = "\nOK\n";
const JOB_SUCCESS_MARK: &str = "\nDeploy finished with success!\n";

/// `POST /1.0/apps/{app}/deploy`, and `POST /1.0/apps/{app}/repository/clone` of older clients: a multipart body with the
/// archive as `file`, and a `dockerfile` if it is built with that; the archive alone; or a form that names an `image`.
pub async fn deploy_app(ctx: Ctx, Path(name): Path<AppName>, request: Request) -> ModernResult<TextStream> {
    if is_form(&request) {
        let (order, source) = receive_form(&ctx.core, request).await?;
        let event = deploys::deploy_app(&ctx.core, &ctx.request, &name, order, source).await?;
        return Ok(ctx
            .stream_event(&event, StreamFormat::Text { mark: SUCCESS_MARK })
            .await?);
    }
    let app = deploys::authorize_deploy(&ctx.core, &ctx.request, &name).await?;
    let permit = deploys::admit_upload(&ctx.core, &ctx.request, &app).await?;
    let (order, source) = receive_source(&ctx.core, &permit, request).await?;
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
    let (order, source) = receive_source(&ctx.core, &permit, request).await?;
    let tag = VersionTag::parse(order.tag.as_deref().ok_or_else(missing_tag)?)?;
    if matches!(source, DeploySource::Image(_)) {
        return Err(missing_source().into());
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

fn is_form(request: &Request) -> bool {
    web::content_type(request.headers()).starts_with(FORM_TYPE)
}

/// Reads the deploy of an image, which a form names.
async fn receive_form(core: &Core, request: Request) -> Result<(DeployOptions, DeploySource), Error> {
    let most = usize::try_from(core.settings.api.max_body_bytes.0).unwrap_or(usize::MAX);
    let (head, body) = request.into_parts();
    let raw = axum::body::to_bytes(body, most).await.map_err(unreadable_form)?;
    let fields = Params::parse_request(&head.uri, FORM_TYPE, raw)?;
    check_sources(&fields, false)?;
    let image = fields.get_string("image")?.ok_or_else(missing_source)?;
    let source = DeploySource::Image(ImageName::parse(&image)?);
    Ok((parse_deploy_options(&fields)?, source))
}

/// `POST /1.23/jobs/{job}/deploy`: as of an app. Clients send a Dockerfile beside the files.
pub async fn deploy_job(ctx: Ctx, Path(name): Path<JobName>, request: Request) -> ModernResult<TextStream> {
    let job = jobs::find_authorized_job(&ctx.core, &ctx.request, &name, Permission::JOB_DEPLOY).await?;
    apps::ensure_live(&job)?;
    let (mut order, source, permit) = match is_form(&request) {
        true => {
            let (order, source) = receive_form(&ctx.core, request).await?;
            (order, source, None)
        }
        false => {
            let permit = deploys::admit_upload(&ctx.core, &ctx.request, &job).await?;
            let (order, source) = receive_source(&ctx.core, &permit, request).await?;
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

async fn receive_source(
    core: &Core,
    permit: &UploadPermit,
    request: Request,
) -> Result<(DeployOptions, DeploySource), Error> {
    let content_type = web::content_type(request.headers());
    if form_parts::is_multipart(&content_type) {
        return receive_parts(core, permit, request).await;
    }
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json" => Err(Error::invalid(
            "Send the app's files as a .tar.gz: a multipart body with a part named file, or the archive alone.",
        )),
        _ => {
            let order = parse_deploy_options(&Params::parse_request(request.uri(), "", Bytes::new())?)?;
            let archive = receive_file(core, permit, request.into_body()).await?;
            Ok((order, DeploySource::Archive(archive)))
        }
    }
}

async fn receive_file(core: &Core, permit: &UploadPermit, body: Body) -> Result<ArchiveUpload, Error> {
    let mut upload = ArchiveUpload::begin_for(core, permit).await?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        upload.write_chunk(&chunk.map_err(truncated_upload)?).await?;
    }
    Ok(upload)
}

async fn receive_parts(
    core: &Core,
    permit: &UploadPermit,
    request: Request,
) -> Result<(DeployOptions, DeploySource), Error> {
    let (mut parts, mut upload) = (PartReader::open(request, "file").await?, None);
    while let Some(part) = parts.next_part().await? {
        let FormPart::File(mut part) = part else {
            continue;
        };
        let mut file = ArchiveUpload::begin_for(core, permit).await?;
        while let Some(chunk) = part.next_chunk().await? {
            file.write_chunk(&chunk).await?;
        }
        upload = Some(file);
    }
    let fields = parts.into_fields()?;
    check_sources(&fields, upload.is_some())?;
    let source = match (upload, fields.get_string("image")?) {
        (Some(upload), _) => DeploySource::Archive(upload),
        (None, Some(image)) => DeploySource::Image(ImageName::parse(&image)?),
        (None, None) => return Err(missing_source()),
    };
    let mut order = parse_deploy_options(&fields)?;
    order.dockerfile = fields.get_string("dockerfile")?;
    Ok((order, source))
}

fn unreadable_form(error: axum::Error) -> Error {
    Error::invalid("The form is cut before its end, or larger than this server accepts.").with_source(error)
}

fn missing_source() -> Error {
    Error::invalid(
        "You must specify either the archive-url, a image url or upload a file: the part named file is missing.",
    )
}

/// Refuses more than one source, and those that are not deployed here.
fn check_sources(fields: &Params, has_file: bool) -> Result<(), Error> {
    let has_url = fields.get_string("archive-url")?.is_some();
    let has_image = fields.get_string("image")?.is_some();
    if (has_file && has_url) || (has_image && (has_file || has_url)) {
        return Err(Error::invalid(
            "Name one source of the deploy: a file, an archive-url or an image, and not two of them.",
        ));
    }
    let has_dockerfile = fields.get_string("dockerfile")?.is_some();
    if has_dockerfile && has_image {
        return Err(Error::invalid(
            "Name one source of the deploy: an image, or a dockerfile with the files that it is built of.",
        ));
    }
    if has_dockerfile && !has_file {
        return Err(Error::invalid(
            "Send the files that the dockerfile is built of, too: a multipart body with a part named file.",
        ));
    }
    match has_url {
        true => Err(Error::invalid(
            "Archives are not fetched from URLs here: upload the archive as a part named file.",
        )),
        false => Ok(()),
    }
}

fn parse_deploy_options(fields: &Params) -> Result<DeployOptions, Error> {
    Ok(DeployOptions {
        origin: fields.get_string("origin")?.unwrap_or_default(),
        message: fields.get_string("message")?.unwrap_or_default(),
        commit: fields.get_string("commit")?.unwrap_or_default(),
        sides: parse_side_options(fields)?,
        tag: fields.get_string("tag")?,
        ..DeployOptions::default()
    })
}

/// Reads `new-version` and `override-versions`, of which one may be true.
fn parse_side_options(fields: &Params) -> Result<SideOptions, Error> {
    let options = SideOptions {
        beside: fields.get_bool("new-version")?,
        replaces_all: fields.get_bool("override-versions")?,
    };
    match options.beside && options.replaces_all {
        true => Err(Error::invalid(
            "new-version and override-versions exclude each other: give one of them.",
        )),
        false => Ok(options),
    }
}

fn truncated_upload(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid("The upload was cut before its end.").with_source(error)
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
    let sides = parse_side_options(&params)?;
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
