//! What both editions say alike: the log as a stream of JSON lists, one a chunk.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use chrono::SecondsFormat;
use futures_util::{Stream, stream};
use serde::Serialize;

use crate::apps;
use crate::core::Core;
use crate::http::kit::Input;
use crate::kernel::call::{Actor, Call};
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::units::logs::{self, Query, Stored};

/// Silence after which something is sent to keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    date: String,
    message: &'a str,
    source: &'a str,
    name: &'a str,
    app_name: &'a str,
    r#type: &'static str,
    unit: &'a str,
}

fn render(app: &AppName, lines: &[Stored]) -> Bytes {
    let lines: Vec<Line<'_>> = lines
        .iter()
        .map(|line| Line {
            date: line.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            message: &line.message,
            source: &line.source,
            name: app.as_str(),
            app_name: app.as_str(),
            r#type: "app",
            unit: &line.unit,
        })
        .collect();
    let mut text = serde_json::to_vec(&lines).unwrap_or_else(|_| b"[]".to_vec());
    text.push(b'\n');
    text.into()
}

/// The log of an app as it is asked for: one list, or with `follow` list after list.
pub(super) async fn log(
    core: Core,
    call: &Call,
    app: &str,
    input: &Input,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, Problem> {
    let app = apps::find_for(&core, call, &AppName::parse(app)?, Permission::APP_READ_LOG).await?;
    let lines = input
        .number("lines")
        .ok()
        .flatten()
        .filter(|lines| *lines >= 0)
        .ok_or_else(|| Problem::invalid(r#"Parameter "lines" is mandatory, and must be a whole number."#))?;
    let most = i64::try_from(core.settings.apps.log_lines).unwrap_or(i64::MAX);
    let query = Query {
        lines: lines.min(most),
        source: input.text("source")?,
        unit: input.text("unit")?,
    };
    let follows = input.flag("follow")?;
    let mut following = logs::follow(&core, app.id, query);
    // A failure before the first byte is an ordinary refusal.
    let first = following.next(&core).await?.unwrap_or_default();
    let first = render(&app.name, &first);
    let rest = follows.then_some((core, following, app.name));
    Ok(stream::unfold((Some(first), rest), async |(first, rest)| {
        if let Some(first) = first {
            return Some((Ok(first), (None, rest)));
        }
        let (core, mut following, app) = rest?;
        let chunk = match tokio::time::timeout(KEEP_ALIVE, following.next(&core)).await {
            Ok(Ok(Some(lines))) => render(&app, &lines),
            Ok(Ok(None) | Err(_)) => return None,
            Err(_) => Bytes::from_static(b"\n"),
        };
        Some((Ok(chunk), (None, Some((core, following, app)))))
    }))
}

/// Adds lines to the log of an app, for its own agents and for users who may.
pub(super) async fn add_log(
    core: &Core,
    call: &Call,
    app: &str,
    input: &Input,
    messages: &[String],
) -> Result<(), Problem> {
    let name = AppName::parse(app)?;
    let own = matches!(&call.actor, Actor::App { name: own, .. } if *own == name);
    let app = match own {
        true => apps::find_for(core, &Call::internal(), &name, Permission::APP_UPDATE_LOG).await?,
        false => apps::find_for(core, call, &name, Permission::APP_UPDATE_LOG).await?,
    };
    let source = input.text("source")?.unwrap_or_else(|| "app".into());
    let unit = input.text("unit")?.unwrap_or_default();
    logs::append(core, app.id, &source, &unit, messages).await
}
