//! Deploys over HTTP (contract/modern 3). The unversioned path answers the same.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::header;
use axum::response::Response;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::core::Core;
use crate::deploys::{self, DeployRow, Order, Source, Upload};
use crate::events;
use crate::http::kit::stream::{self, Form};
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;

/// The end of the answer that the client takes for success, to the byte.
const OK: &str = "\nOK\n";
const MAX_FIELD: usize = 64 * 1024;

/// `POST /1.0/apps/{app}/deploy`: a multipart body with the archive as `file`, or the archive alone.
pub async fn deploy(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let name = AppName::parse(&app).map_err(|_| Problem::not_found(format!("App {app} not found.")))?;
    deploys::may_deploy(&core, &call, &name).await?;
    let (order, source) = receive(&core, request).await?;
    let event = deploys::deploy(&core, &call, &name, order, source).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    Ok(stream::event(&event, following, Form::Text { mark: OK }).await?)
}

async fn receive(core: &Core, request: Request) -> Result<(Order, Source), Problem> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "multipart/form-data" => receive_parts(core, request).await,
        "application/json" => Err(Problem::invalid(
            "Send the app's files as a .tar.gz: a multipart body with a part named file, or the archive alone.",
        )),
        "application/x-www-form-urlencoded" => Err(Problem::invalid(
            "This pool runs no images: send the app's files as a multipart body with a part named file.",
        )),
        _ => Ok((
            Order::default(),
            Source::Archive(receive_file(core, request.into_body()).await?),
        )),
    }
}

async fn receive_file(core: &Core, body: Body) -> Result<Upload, Problem> {
    let mut upload = begin(core).await?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        upload.write(&chunk.map_err(cut)?).await?;
    }
    Ok(upload)
}

async fn receive_parts(core: &Core, request: Request) -> Result<(Order, Source), Problem> {
    let mut parts = Multipart::from_request(request, &()).await.map_err(|e| {
        Problem::invalid("The multipart body has no boundary in its Content-Type.").because(e)
    })?;
    let (mut fields, mut upload) = (Vec::new(), None);
    while let Some(mut part) = parts.next_field().await.map_err(cut)? {
        let name = part.name().unwrap_or_default().to_owned();
        if name == "file" {
            let mut file = begin(core).await?;
            while let Some(chunk) = part.chunk().await.map_err(cut)? {
                file.write(&chunk).await?;
            }
            upload = Some(file);
            continue;
        }
        let mut text = Vec::new();
        while let Some(chunk) = part.chunk().await.map_err(cut)? {
            if text.len() + chunk.len() > MAX_FIELD || fields.len() > 100 {
                return Err(Problem::too_large(format!("The field {name:?} is too long.")));
            }
            text.extend_from_slice(&chunk);
        }
        fields.push((name, String::from_utf8_lossy(&text).into_owned()));
    }
    let fields = Input::from_pairs(fields)?;
    if fields.text("dockerfile")?.is_some() || fields.text("image")?.is_some() {
        return Err(Problem::invalid(
            "This pool runs no images and builds no Dockerfiles: deploy the app's files for its platform.",
        ));
    }
    let upload = upload.ok_or_else(|| Problem::invalid("You must specify either the archive-url, a image url or upload a file: the part named file is missing."))?;
    Ok((order(&fields)?, Source::Archive(upload)))
}

fn order(fields: &Input) -> Result<Order, Problem> {
    Ok(Order {
        origin: fields.text("origin")?.unwrap_or_default(),
        message: fields.text("message")?.unwrap_or_default(),
        commit: fields.text("commit")?.unwrap_or_default(),
        beside: fields.flag("new-version")?,
        ..Order::default()
    })
}

async fn begin(core: &Core) -> Result<Upload, Problem> {
    Upload::begin(&core.dirs.uploads(), core.settings.api.max_upload_bytes.0).await
}

fn cut(error: impl std::error::Error + Send + Sync + 'static) -> Problem {
    Problem::invalid("The upload was cut before its end.").because(error)
}

fn view(row: &DeployRow) -> Value {
    let duration = row.ended_at.map_or(0, |end| {
        (end - row.started_at).num_nanoseconds().unwrap_or(i64::MAX)
    });
    json!({
        "ID": row.event_id, "App": row.app, "Timestamp": row.started_at, "Duration": duration,
        "Commit": row.commit_id, "Author": row.author, "Error": row.error, "Image": row.version.map_or(String::new(), |v| format!("v{v}")),
        "Version": row.version.unwrap_or(0), "Log": "", "User": row.user_name, "Origin": row.origin,
        "CanRollback": row.can_rollback, "Diff": "", "Message": row.message,
    })
}

/// `GET /1.0/deploys?app=…&limit=…`
pub async fn list(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<Value>, Refusal> {
    let app = input.text("app")?.unwrap_or_default();
    let limit = input.number("limit")?.filter(|n| *n > 0).unwrap_or(100);
    let rows = deploys::list(&core, &call, &app, "", limit).await?;
    Ok(Json(rows.iter().map(view).collect()))
}

/// `GET /1.0/deploys/{event}`
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let rows = deploys::list(&core, &call, "", &id, 1).await?;
    let row = rows
        .first()
        .ok_or_else(|| Problem::not_found("Deploy not found."))?;
    let mut view = view(row);
    if let Ok(event) = id.parse() {
        let lines = events::list_lines(&core.db, &event, 0).await?;
        let log: Vec<&str> = lines.iter().map(|(_, _, line)| line.as_str()).collect();
        view["Log"] = json!(log.join("\n"));
    }
    Ok(Json(view))
}

/// `POST /1.0/apps/{app}/deploy/rollback`: a JSON stream, unlike a deploy.
pub async fn rollback(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let image = input
        .text("image")?
        .ok_or_else(|| Problem::invalid("you cannot rollback without an image name"))?;
    let name = AppName::parse(&app).map_err(|_| Problem::not_found(format!("App {app} not found.")))?;
    let event = deploys::rollback(&core, &call, &name, &image, input.flag("keep-env")?).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    Ok(stream::event(&event, following, Form::Json).await?)
}
