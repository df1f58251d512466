//! Requests and views that both editions share; the log as a stream of JSON lists, one per chunk.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use chrono::SecondsFormat;
use futures_util::{Stream, stream};
use schemars::JsonSchema;
use serde::Serialize;

use crate::apps::{self, App};
use crate::caller_limits::{MAX_FOLLOWERS_PER_CALLER, caller_key};
use crate::core::Core;
use crate::jobs;
use crate::kernel::error::Error;
use crate::kernel::log_text::LogEntry;
use crate::kernel::names::{AppName, JobName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::{Actor, RequestContext};
use crate::units::logs::{self, LogQuery, PostLogRequest};
use crate::units::scale::{self, StartStopRequest};
use crate::web::answers::EventStream;
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Params};

/// After this long without lines a newline is sent to keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Reads `process` and `version` of a start or stop request.
fn parse_start_stop_request(app: AppName, params: &Params) -> Result<StartStopRequest, Error> {
    Ok(StartStopRequest {
        app,
        process: params.parse_field("process")?,
        version: params.get_integer("version")?,
    })
}

/// Starts an app, or what `process` and `version` name of it; streams the event as JSON lines.
pub(super) async fn start_app(ctx: &Ctx, app: AppName, params: &Params) -> Result<EventStream, Error> {
    let request = parse_start_stop_request(app, params)?;
    let event = scale::start_processes(&ctx.core, &ctx.request, &request).await?;
    ctx.stream_event(&event, StreamFormat::Json).await
}

/// Stops an app likewise.
pub(super) async fn stop_app(ctx: &Ctx, app: AppName, params: &Params) -> Result<EventStream, Error> {
    let request = parse_start_stop_request(app, params)?;
    let event = scale::stop_processes(&ctx.core, &ctx.request, &request).await?;
    ctx.stream_event(&event, StreamFormat::Json).await
}

/// A line of a log.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LogLineView<'a> {
    date: String,
    message: &'a str,
    source: &'a str,
    name: &'a str,
    app_name: &'a str,
    r#type: &'static str,
    unit: &'a str,
}

fn render_lines(app: &App, lines: &[LogEntry]) -> Bytes {
    let lines: Vec<LogLineView<'_>> = lines
        .iter()
        .map(|line| LogLineView {
            date: line.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            message: &line.message,
            source: &line.source,
            name: app.name.as_str(),
            app_name: app.name.as_str(),
            r#type: app.kind.as_str(),
            unit: &line.unit,
        })
        .collect();
    let mut text = serde_json::to_vec(&lines).unwrap_or_else(|_| b"[]".to_vec());
    text.push(b'\n');
    text.into()
}

/// Streams the log of an app: one list, or with `follow` list after list.
pub(super) async fn stream_log(
    core: Core,
    call: &RequestContext,
    app: &AppName,
    params: &Params,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, Error> {
    let app = apps::find_authorized_app(&core, call, app, Permission::APP_READ_LOG).await?;
    let lines = params
        .get_integer("lines")
        .ok()
        .flatten()
        .filter(|lines| *lines >= 0)
        .ok_or_else(|| Error::invalid(r#"Parameter "lines" is mandatory and must be a whole number."#))?;
    stream_log_of(core, call, app, lines, params).await
}

/// Streams the log of a job, all that is kept of it unless the request names a number of lines.
pub(super) async fn stream_job_log(
    core: Core,
    call: &RequestContext,
    job: &JobName,
    params: &Params,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, Error> {
    let job = jobs::find_authorized_job(&core, call, job, Permission::JOB_READ_LOGS).await?;
    let lines = params.get_integer("lines")?.filter(|lines| *lines >= 0);
    stream_log_of(core, call, job, lines.unwrap_or(i64::MAX), params).await
}

/// Streams the log of an app or a job that the caller may read.
async fn stream_log_of(
    core: Core,
    call: &RequestContext,
    app: App,
    lines: i64,
    params: &Params,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, Error> {
    let follows = params.get_bool("follow")?;
    let slot = match follows {
        true => Some(core.caller_limits.log_followers.try_acquire(&caller_key(call)).ok_or_else(|| {
            Error::too_many(format!(
                "You already follow {MAX_FOLLOWERS_PER_CALLER} logs, the maximum: stop following one of them first."
            ))
        })?),
        false => None,
    };
    let most = i64::try_from(core.settings.apps.log_lines).unwrap_or(i64::MAX);
    let query = LogQuery {
        lines: lines.min(most),
        source: params.get_string("source")?,
        unit: params.get_string("unit")?,
    };
    let mut follower = logs::follow_log(app.id, query);
    // A failure before the first byte is an ordinary error response.
    let first = follower.next(&core).await?.unwrap_or_default();
    let first = render_lines(&app, &first);
    // Dropping the stream frees the slot.
    let rest = slot.map(|slot| (core, follower, app, slot));
    Ok(stream::unfold((Some(first), rest), async |(first, rest)| {
        if let Some(first) = first {
            return Some((Ok(first), (None, rest)));
        }
        let (core, mut follower, app, slot) = rest?;
        let chunk = match tokio::time::timeout(KEEP_ALIVE, follower.next(&core)).await {
            Ok(Ok(Some(lines))) => render_lines(&app, &lines),
            Ok(Ok(None) | Err(_)) => return None,
            Err(_) => Bytes::from_static(b"\n"),
        };
        Some((Ok(chunk), (None, Some((core, follower, app, slot)))))
    }))
}

/// Adds lines to the log of an app, for its own token and for users with the permission.
pub(super) async fn add_log(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    params: &Params,
    messages: &[String],
) -> Result<(), Error> {
    let own = matches!(&call.actor, Actor::App { name: own, .. } if own == name);
    let app = match own {
        true => {
            apps::find_authorized_app(
                core,
                &RequestContext::new_internal(),
                name,
                Permission::APP_UPDATE_LOG,
            )
            .await?
        }
        false => apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_LOG).await?,
    };
    let source = params.get_string("source")?.unwrap_or_else(|| "app".into());
    let unit = params.get_string("unit")?.unwrap_or_default();
    let request = PostLogRequest {
        app_id: app.id,
        source: &source,
        unit: &unit,
        messages,
    };
    logs::post_lines(core, &request).await
}
