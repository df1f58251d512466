//! What the client requires of a response, as types that reject everything else: numbers as strings, a
//! missing list, an invalid time.
//!
//! The client matches keys case-insensitively, so keys are lowercased before they are looked up. The
//! environment is the one list that it reads by the exact key.

use std::collections::BTreeMap;

use chrono::Datelike as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::record::RawReply;
use super::types::{
    AppInfo, AppItem, AppRouter, CertificateList, Constraint, Deploy, EnvVar, Event, EventBlock, Full, Id,
    Instance, InstanceRow, Job, JobInfo, Line, LogLine, Permission, Plan, Platform, PlatformInfo, Pool,
    Provisioner, Quota, Role, Router, Scheme, Service, ServicePlan, Team, TeamItem, TeamToken, Texts, Token,
    User, Volume, VolumePlan, Webhook,
};

/// The kinds of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerShape {
    /// The body is ignored.
    Any,
    /// Plain text for users, not empty.
    Words,
    /// `[]`.
    Nothing,
    /// JSON lines without an error.
    Lines,
    /// JSON lines, the last with an error; a refusal with its own status tells a user the same.
    LinesOrWords,
    /// Plain text that ends with the success mark, preceded by the event's id.
    Deployed,
    /// Plain text without the mark.
    NotDeployed,
    /// Plain text.
    Text,
    Logs,
    /// An empty list of log lines.
    NoLogs,
    /// Log lines; the connection stays open for more.
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
    /// An app without units.
    BareApp,
    Env,
    Deploys,
    Events,
    Event,
    EventBlocks,
    Webhooks,
    Webhook,
    Jobs,
    Job,
    /// A job with its units and binds.
    JobInfo,
    Users,
    User,
    Teams,
    Team,
    TeamTokens,
    TeamToken,
    Plans,
    Platforms,
    Platform,
    Provisioners,
    Pools,
    Pool,
    Constraints,
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
    Volumes,
    Volume,
    /// Plans by provisioner.
    VolumePlans,
    Certificates,
    /// A list without certificates.
    NoCertificates,
}

fn lowered(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let count = map.len();
            let map: Map<_, _> = map
                .into_iter()
                .map(|(k, v)| (k.to_ascii_lowercase(), lowered(v)))
                .collect();
            assert_eq!(
                map.len(),
                count,
                "two keys that the client does not tell apart: {map:?}"
            );
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

fn json(reply: &RawReply) -> Result<Value, String> {
    let kind = reply.header("content-type");
    if !kind.starts_with("application/json") {
        return Err(format!("the type is {kind:?}, not JSON: {}", reply.text()));
    }
    serde_json::from_slice(&reply.body).map_err(|e| format!("{e}: {}", reply.text()))
}

fn one<T: DeserializeOwned>(reply: &RawReply) -> Result<T, String> {
    decode(lowered(json(reply)?))
}

/// Decodes a list with at least one item, which proves the type.
fn some<T: DeserializeOwned>(reply: &RawReply) -> Result<Vec<T>, String> {
    let list: Vec<T> = one(reply)?;
    match list.is_empty() {
        true => Err("the list is empty".to_owned()),
        false => Ok(list),
    }
}

fn ensure(is: bool, what: &str, reply: &RawReply) -> Result<(), String> {
    match is {
        true => Ok(()),
        false => Err(format!("{what}: {}", reply.text())),
    }
}

fn words(reply: &RawReply) -> Result<(), String> {
    let kind = reply.header("content-type");
    ensure(
        kind.starts_with("text/plain"),
        "the type is not plain text",
        reply,
    )?;
    ensure(!reply.text().trim().is_empty(), "the text is empty", reply)?;
    ensure(
        !reply.text().starts_with(['{', '<']),
        "the text is not readable",
        reply,
    )
}

fn lines(reply: &RawReply) -> Result<Vec<Line>, String> {
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

fn stream(reply: &RawReply, fails: bool) -> Result<(), String> {
    let lines = lines(reply)?;
    let kind = reply.header("content-type");
    ensure(
        lines.is_empty() || kind == "application/x-json-stream",
        "the type is not a stream's",
        reply,
    )?;
    let failed = lines.last().is_some_and(|line| !line.error.is_empty());
    ensure(failed == fails, "the outcome differs from the recording", reply)
}

fn deployed(reply: &RawReply, well: bool) -> Result<(), String> {
    let kind = reply.header("content-type");
    ensure(kind.starts_with("text"), "the type is not text", reply)?;
    let marked = reply.body.ends_with(b"\nOK\n");
    ensure(marked == well, "the outcome differs from the recording", reply)?;
    let id = reply.header("x-tsuru-eventid");
    decode::<Id>(Value::from(id)).map(drop)
}

fn logs(reply: &RawReply) -> Result<(), String> {
    let lists = serde_json::Deserializer::from_slice(&reply.body).into_iter::<Value>();
    let mut count = 0;
    for list in lists {
        let list: Vec<LogLine> = decode(lowered(list.map_err(|e| e.to_string())?))?;
        count += list.len();
    }
    ensure(count > 0, "no line", reply)
}

fn env(reply: &RawReply) -> Result<(), String> {
    let list: Vec<EnvVar> = decode(json(reply)?)?;
    ensure(!list.is_empty(), "no variable", reply)
}

fn event(reply: &RawReply) -> Result<(), String> {
    let event: Event = one(reply)?;
    let lines = event.structuredlog.unwrap_or_default();
    let ended = lines.iter().all(|line| line.message.0.ends_with('\n'));
    ensure(ended, "the client would join lines", reply)?;
    let cancel = event.cancelinfo;
    let at = !cancel.canceled || cancel.acktime.0.year() > 1;
    ensure(at, "the cancel time is missing", reply)
}

fn permissions(reply: &RawReply) -> Result<(), String> {
    let list: Vec<Permission> = some(reply)?;
    ensure(
        list[0].name.is_empty(),
        "the first is not the root with the empty name",
        reply,
    )?;
    for (at, item) in list.iter().enumerate().skip(1) {
        let parent = item.name.rsplit_once('.').map_or("", |(parent, _)| parent);
        let known = list[..at].iter().any(|p| p.name == parent);
        ensure(
            known,
            &format!("{} is listed before its parent", item.name),
            reply,
        )?;
    }
    Ok(())
}

impl AnswerShape {
    /// Checks a response of the right status. Errors: what does not match.
    pub(super) fn check(self, reply: &RawReply) -> Result<(), String> {
        match self {
            AnswerShape::Any => Ok(()),
            AnswerShape::Words => words(reply),
            AnswerShape::Nothing => {
                let value = json(reply)?;
                ensure(value == Value::Array(Vec::new()), "not empty", reply)
            }
            AnswerShape::Lines => stream(reply, false),
            AnswerShape::LinesOrWords if reply.status == 200 => stream(reply, true),
            AnswerShape::LinesOrWords => words(reply),
            AnswerShape::Deployed => deployed(reply, true),
            AnswerShape::NotDeployed => deployed(reply, false),
            AnswerShape::Text => ensure(
                reply.header("content-type").starts_with("text/plain") || reply.body.is_empty(),
                "the type is not plain text",
                reply,
            ),
            AnswerShape::Logs | AnswerShape::Following => logs(reply),
            AnswerShape::NoLogs => ensure(reply.text().trim() == "[]", "not empty", reply),
            AnswerShape::Created => one::<Texts>(reply).map(drop),
            AnswerShape::Version => {
                let info: Texts = one(reply)?;
                ensure(info.contains_key("version"), "no version", reply)
            }
            AnswerShape::Schemes => {
                let defaults = some::<Scheme>(reply)?.iter().filter(|s| s.default).count();
                ensure(defaults == 1, "not exactly one default", reply)
            }
            AnswerShape::Token => one::<Token>(reply).map(drop),
            AnswerShape::Key => one::<Full>(reply).map(drop),
            AnswerShape::Quota => one::<Quota>(reply).map(drop),
            AnswerShape::Env => env(reply),
            _ => self.check_subject(reply),
        }
    }

    fn check_subject(self, reply: &RawReply) -> Result<(), String> {
        match self {
            AnswerShape::Apps => some::<AppItem>(reply).map(drop),
            AnswerShape::App => {
                let app: AppInfo = one(reply)?;
                ensure(!app.units.is_empty(), "no units", reply)?;
                ensure(!app.routers.is_empty(), "no routers", reply)
            }
            AnswerShape::BareApp => one::<AppInfo>(reply).map(drop),
            AnswerShape::Deploys => some::<Deploy>(reply).map(drop),
            AnswerShape::Events => some::<Event>(reply).map(drop),
            AnswerShape::Event => event(reply),
            AnswerShape::EventBlocks => some::<EventBlock>(reply).map(drop),
            AnswerShape::Webhooks => some::<Webhook>(reply).map(drop),
            AnswerShape::Webhook => one::<Webhook>(reply).map(drop),
            AnswerShape::Jobs => some::<Job>(reply).map(drop),
            AnswerShape::Job => one::<Job>(reply).map(drop),
            AnswerShape::JobInfo => one::<JobInfo>(reply).map(drop),
            AnswerShape::Users => some::<User>(reply).map(drop),
            AnswerShape::User => one::<User>(reply).map(drop),
            AnswerShape::Teams => some::<TeamItem>(reply).map(drop),
            AnswerShape::Team => {
                let team: Team = one(reply)?;
                ensure(
                    team.apps.iter().any(|app| !app.units.is_empty()),
                    "no app with units",
                    reply,
                )
            }
            AnswerShape::TeamTokens => some::<TeamToken>(reply).map(drop),
            AnswerShape::TeamToken => one::<TeamToken>(reply).map(drop),
            AnswerShape::Plans => some::<Plan>(reply).map(drop),
            AnswerShape::Platforms => some::<Platform>(reply).map(drop),
            AnswerShape::Platform => one::<PlatformInfo>(reply).map(drop),
            AnswerShape::Provisioners => some::<Provisioner>(reply).map(drop),
            AnswerShape::Pools => some::<Pool>(reply).map(drop),
            AnswerShape::Pool => one::<Pool>(reply).map(drop),
            AnswerShape::Constraints => some::<Constraint>(reply).map(drop),
            AnswerShape::Routers => some::<Router>(reply).map(drop),
            AnswerShape::AppRouters => some::<AppRouter>(reply).map(drop),
            AnswerShape::Permissions => permissions(reply),
            AnswerShape::Roles => some::<Role>(reply).map(drop),
            AnswerShape::Role => one::<Role>(reply).map(drop),
            AnswerShape::Volumes => some::<Volume>(reply).map(drop),
            AnswerShape::Volume => one::<Volume>(reply).map(drop),
            AnswerShape::VolumePlans => {
                let plans: BTreeMap<String, Vec<VolumePlan>> = one(reply)?;
                ensure(!plans.is_empty(), "no plans", reply)
            }
            AnswerShape::Services => some::<Service>(reply).map(drop),
            AnswerShape::Instances => some::<InstanceRow>(reply).map(drop),
            AnswerShape::NoInstances => {
                let none: Option<Vec<InstanceRow>> = one(reply)?;
                ensure(none.is_none_or(|list| list.is_empty()), "not empty", reply)
            }
            AnswerShape::ServicePlans => some::<ServicePlan>(reply).map(drop),
            AnswerShape::Instance => one::<Instance>(reply).map(drop),
            AnswerShape::Certificates => {
                let list: CertificateList = one(reply)?;
                let is_some = list.routers.values().any(|router| !router.cnames.is_empty());
                ensure(is_some, "no certificate", reply)
            }
            AnswerShape::NoCertificates => {
                let list: CertificateList = one(reply)?;
                let is_none = list.routers.values().all(|router| router.cnames.is_empty());
                ensure(is_none, "not empty", reply)
            }
            other => Err(format!("{other:?} has no check")),
        }
    }
}
