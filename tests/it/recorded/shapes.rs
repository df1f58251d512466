//! What the client needs in an answer, as types that refuse everything else: numbers that are texts, a
//! missing list, a time that is none.
//!
//! The client finds keys in capitals or small letters alike, so keys are lowered before they are looked
//! up. The environment is the one list that it reads by the exact key.

use chrono::Datelike as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::record::Reply;
use super::types::{
    AppInfo, AppItem, AppRouter, Deploy, EnvVar, Event, Full, Id, Instance, InstanceRow, Line, LogLine,
    Permission, Plan, Platform, PlatformInfo, Pool, Quota, Role, Router, Scheme, Service, ServicePlan, Team,
    TeamItem, Texts, Token, User,
};

/// The kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The body is ignored.
    Any,
    /// Plain text for people, not empty.
    Words,
    /// `[]`.
    Nothing,
    /// JSON lines without an error.
    Lines,
    /// JSON lines, the last with an error; a refusal with its own status says the same to a user.
    LinesOrWords,
    /// Plain text that ends with the mark of success, and the event's id before it.
    Deployed,
    /// Plain text without the mark.
    NotDeployed,
    /// Plain text.
    Text,
    Logs,
    /// An empty list of log lines.
    NoLogs,
    /// Log lines, and more to come: the connection stays open.
    Following,
    Created,
    Version,
    Schemes,
    Token,
    Key,
    Quota,
    Apps,
    /// An app with units.
    App,
    /// An app without any.
    BareApp,
    Env,
    Deploys,
    Events,
    Event,
    Users,
    User,
    Teams,
    Team,
    Plans,
    Platforms,
    Platform,
    Pools,
    Pool,
    Routers,
    AppRouters,
    Permissions,
    Roles,
    Role,
    Services,
    Instances,
    /// `[]` or `null`.
    NoInstances,
    ServicePlans,
    Instance,
}

fn lowered(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let count = map.len();
            let map: Map<_, _> = map
                .into_iter()
                .map(|(k, v)| (k.to_ascii_lowercase(), lowered(v)))
                .collect();
            assert_eq!(map.len(), count, "two keys that are one to the client: {map:?}");
            Value::Object(map)
        }
        Value::Array(list) => Value::Array(list.into_iter().map(lowered).collect()),
        other => other,
    }
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let text = value.to_string();
    serde_path_to_error::deserialize(value).map_err(|e| format!("{e} in {text}"))
}

fn json(reply: &Reply) -> Result<Value, String> {
    let kind = reply.header("content-type");
    if !kind.starts_with("application/json") {
        return Err(format!("the type is {kind:?}, not JSON: {}", reply.text()));
    }
    serde_json::from_slice(&reply.body).map_err(|e| format!("{e}: {}", reply.text()))
}

fn one<T: DeserializeOwned>(reply: &Reply) -> Result<T, String> {
    decode(lowered(json(reply)?))
}

/// A list of which at least one item proves the type.
fn some<T: DeserializeOwned>(reply: &Reply) -> Result<Vec<T>, String> {
    let list: Vec<T> = one(reply)?;
    match list.is_empty() {
        true => Err("the list is empty".to_owned()),
        false => Ok(list),
    }
}

fn ensure(is: bool, what: &str, reply: &Reply) -> Result<(), String> {
    match is {
        true => Ok(()),
        false => Err(format!("{what}: {}", reply.text())),
    }
}

fn words(reply: &Reply) -> Result<(), String> {
    let kind = reply.header("content-type");
    ensure(
        kind.starts_with("text/plain"),
        "the type is not plain text",
        reply,
    )?;
    ensure(!reply.text().trim().is_empty(), "no words", reply)?;
    ensure(!reply.text().starts_with(['{', '<']), "not for people", reply)
}

fn lines(reply: &Reply) -> Result<Vec<Line>, String> {
    let text = reply.text();
    ensure(
        text.is_empty() || text.ends_with('\n'),
        "the last line is cut",
        reply,
    )?;
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            decode(lowered(
                serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?,
            ))
        })
        .collect()
}

fn stream(reply: &Reply, fails: bool) -> Result<(), String> {
    let lines = lines(reply)?;
    let kind = reply.header("content-type");
    ensure(
        lines.is_empty() || kind == "application/x-json-stream",
        "the type is no stream's",
        reply,
    )?;
    let failed = lines.last().is_some_and(|line| !line.error.is_empty());
    ensure(failed == fails, "success or failure is not as recorded", reply)
}

fn deployed(reply: &Reply, well: bool) -> Result<(), String> {
    let kind = reply.header("content-type");
    ensure(kind.starts_with("text"), "the type is not text", reply)?;
    let marked = reply.body.ends_with(b"\nOK\n");
    ensure(marked == well, "success or failure is not as recorded", reply)?;
    let id = reply.header("x-tsuru-eventid");
    decode::<Id>(Value::from(id)).map(drop)
}

fn logs(reply: &Reply) -> Result<(), String> {
    let lists = serde_json::Deserializer::from_slice(&reply.body).into_iter::<Value>();
    let mut count = 0;
    for list in lists {
        let list: Vec<LogLine> = decode(lowered(list.map_err(|e| e.to_string())?))?;
        count += list.len();
    }
    ensure(count > 0, "no line", reply)
}

fn env(reply: &Reply) -> Result<(), String> {
    let list: Vec<EnvVar> = decode(json(reply)?)?;
    ensure(!list.is_empty(), "no variable", reply)
}

fn event(reply: &Reply) -> Result<(), String> {
    let event: Event = one(reply)?;
    let lines = event.structuredlog.unwrap_or_default();
    let ended = lines.iter().all(|line| line.message.0.ends_with('\n'));
    ensure(ended, "the client would write lines into one", reply)?;
    let cancel = event.cancelinfo;
    let at = !cancel.canceled || cancel.acktime.0.year() > 1;
    ensure(at, "cancelled at no time", reply)
}

fn permissions(reply: &Reply) -> Result<(), String> {
    let list: Vec<Permission> = some(reply)?;
    ensure(
        list[0].name.is_empty(),
        "the first is not the nameless root",
        reply,
    )?;
    for (at, item) in list.iter().enumerate().skip(1) {
        let parent = item.name.rsplit_once('.').map_or("", |(parent, _)| parent);
        let known = list[..at].iter().any(|p| p.name == parent);
        ensure(known, &format!("{} stands before its parent", item.name), reply)?;
    }
    Ok(())
}

impl Shape {
    /// Says what is wrong with an answer of a right status.
    pub(super) fn check(self, reply: &Reply) -> Result<(), String> {
        match self {
            Shape::Any => Ok(()),
            Shape::Words => words(reply),
            Shape::Nothing => {
                let value = json(reply)?;
                ensure(value == Value::Array(Vec::new()), "not empty", reply)
            }
            Shape::Lines => stream(reply, false),
            Shape::LinesOrWords if reply.status == 200 => stream(reply, true),
            Shape::LinesOrWords => words(reply),
            Shape::Deployed => deployed(reply, true),
            Shape::NotDeployed => deployed(reply, false),
            Shape::Text => ensure(
                reply.header("content-type").starts_with("text/plain") || reply.body.is_empty(),
                "the type is not plain text",
                reply,
            ),
            Shape::Logs | Shape::Following => logs(reply),
            Shape::NoLogs => ensure(reply.text().trim() == "[]", "not empty", reply),
            Shape::Created => one::<Texts>(reply).map(drop),
            Shape::Version => {
                let info: Texts = one(reply)?;
                ensure(info.contains_key("version"), "no version", reply)
            }
            Shape::Schemes => {
                let defaults = some::<Scheme>(reply)?.iter().filter(|s| s.default).count();
                ensure(defaults == 1, "not one default", reply)
            }
            Shape::Token => one::<Token>(reply).map(drop),
            Shape::Key => one::<Full>(reply).map(drop),
            Shape::Quota => one::<Quota>(reply).map(drop),
            Shape::Env => env(reply),
            _ => self.check_subject(reply),
        }
    }

    fn check_subject(self, reply: &Reply) -> Result<(), String> {
        match self {
            Shape::Apps => some::<AppItem>(reply).map(drop),
            Shape::App => {
                let app: AppInfo = one(reply)?;
                ensure(!app.units.is_empty(), "no units", reply)?;
                ensure(!app.routers.is_empty(), "no routers", reply)
            }
            Shape::BareApp => one::<AppInfo>(reply).map(drop),
            Shape::Deploys => some::<Deploy>(reply).map(drop),
            Shape::Events => some::<Event>(reply).map(drop),
            Shape::Event => event(reply),
            Shape::Users => some::<User>(reply).map(drop),
            Shape::User => one::<User>(reply).map(drop),
            Shape::Teams => some::<TeamItem>(reply).map(drop),
            Shape::Team => {
                let team: Team = one(reply)?;
                ensure(
                    team.apps.iter().any(|app| !app.units.is_empty()),
                    "no app with units",
                    reply,
                )
            }
            Shape::Plans => some::<Plan>(reply).map(drop),
            Shape::Platforms => some::<Platform>(reply).map(drop),
            Shape::Platform => one::<PlatformInfo>(reply).map(drop),
            Shape::Pools => some::<Pool>(reply).map(drop),
            Shape::Pool => one::<Pool>(reply).map(drop),
            Shape::Routers => some::<Router>(reply).map(drop),
            Shape::AppRouters => some::<AppRouter>(reply).map(drop),
            Shape::Permissions => permissions(reply),
            Shape::Roles => some::<Role>(reply).map(drop),
            Shape::Role => one::<Role>(reply).map(drop),
            Shape::Services => some::<Service>(reply).map(drop),
            Shape::Instances => some::<InstanceRow>(reply).map(drop),
            Shape::NoInstances => {
                let none: Option<Vec<InstanceRow>> = one(reply)?;
                ensure(none.is_none_or(|list| list.is_empty()), "not empty", reply)
            }
            Shape::ServicePlans => some::<ServicePlan>(reply).map(drop),
            Shape::Instance => one::<Instance>(reply).map(drop),
            other => Err(format!("{other:?} has no check")),
        }
    }
}
