//! What the client needs in an answer, as types that refuse everything else: numbers that are texts, a
//! missing list, a time that is none.
//!
//! The client finds keys in capitals or small letters alike, so keys are lowered before they are looked
//! up. The environment is the one list that it reads by the exact key.

#![expect(
    dead_code,
    reason = "what is decoded proves its type and is not looked at again"
)]

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike as _, FixedOffset};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::record::Reply;

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

/// A time as Go reads it.
#[derive(Debug)]
struct Time(DateTime<FixedOffset>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.as_bytes().get(10) != Some(&b'T') {
            return Err(D::Error::custom(format!("{text:?} is no time")));
        }
        DateTime::parse_from_rfc3339(&text)
            .map(Time)
            .map_err(D::Error::custom)
    }
}

/// Twelve bytes in hex.
#[derive(Debug)]
struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => Ok(Self(text)),
            false => Err(D::Error::custom(format!("{text:?} is no id"))),
        }
    }
}

/// A text that says something.
#[derive(Debug)]
struct Full(String);

impl<'de> Deserialize<'de> for Full {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.is_empty() {
            true => Err(D::Error::custom("an empty text")),
            false => Ok(Self(text)),
        }
    }
}

type Texts = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
struct Line {
    message: String,
    timestamp: Option<Time>,
    #[serde(default)]
    error: String,
}

#[derive(Debug, Deserialize)]
struct LogLine {
    date: Time,
    message: String,
    source: String,
    name: String,
    r#type: String,
    unit: String,
}

#[derive(Debug, Deserialize)]
struct Scheme {
    name: Full,
    default: bool,
    data: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Token {
    token: Full,
}

#[derive(Debug, Deserialize)]
struct Quota {
    limit: i64,
    inuse: i64,
}

#[derive(Debug, Deserialize)]
struct Burst {
    default: f64,
    maxallowed: f64,
}

#[derive(Debug, Deserialize)]
struct Plan {
    name: Full,
    memory: i64,
    cpumilli: i64,
    cpuburst: Option<Burst>,
    #[serde(default)]
    default: bool,
}

/// A Go `url.URL`.
#[derive(Debug, Deserialize)]
struct Address {
    scheme: String,
    host: String,
}

#[derive(Debug, Deserialize)]
struct Unit {
    id: Full,
    name: String,
    appname: String,
    processname: String,
    r#type: String,
    ip: String,
    internalip: String,
    status: Status,
    statusreason: String,
    address: Option<Address>,
    addresses: Option<Vec<Address>>,
    version: i64,
    routable: bool,
    restarts: Option<i32>,
    createdat: Option<Time>,
    ready: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Created,
    Building,
    Error,
    Starting,
    Started,
    Stopped,
    Succeeded,
}

#[derive(Debug, Deserialize)]
struct AppRouter {
    name: Full,
    opts: Option<Texts>,
    address: String,
    addresses: Vec<String>,
    r#type: String,
    #[serde(default)]
    status: String,
    #[serde(default, rename = "status-detail")]
    status_detail: String,
}

#[derive(Debug, Deserialize)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    labels: Vec<Pair>,
    annotations: Vec<Pair>,
}

#[derive(Debug, Deserialize)]
struct AppItem {
    name: Full,
    pool: Full,
    teamowner: Full,
    plan: Plan,
    units: Vec<Unit>,
    cname: Vec<String>,
    ip: String,
    routers: Vec<AppRouter>,
    tags: Vec<String>,
    #[serde(default)]
    platform: String,
    #[serde(default)]
    error: String,
}

#[derive(Debug, Deserialize)]
struct Behavior {
    scaledown: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Autoscale {
    process: String,
    minunits: u32,
    maxunits: u32,
    behavior: Behavior,
}

#[derive(Debug, Deserialize)]
struct Process {
    name: Full,
    metadata: Value,
}

#[derive(Debug, Deserialize)]
struct Bind {
    service: Full,
    instance: Full,
    plan: String,
}

#[derive(Debug, Deserialize)]
struct AppInfo {
    name: Full,
    platform: String,
    owner: Full,
    pool: Full,
    description: String,
    teamowner: Full,
    teams: Vec<String>,
    cname: Vec<String>,
    tags: Vec<String>,
    plan: Plan,
    deploys: u64,
    metadata: Metadata,
    units: Vec<Unit>,
    routers: Vec<AppRouter>,
    serviceinstancebinds: Vec<Bind>,
    quota: Quota,
    provisioner: Full,
    #[serde(default)]
    autoscale: Vec<Autoscale>,
    #[serde(default)]
    unitsmetrics: Vec<Value>,
    #[serde(default)]
    processes: Vec<Process>,
    #[serde(default)]
    volumebinds: Vec<Value>,
    #[serde(default)]
    internaladdresses: Vec<Value>,
    #[serde(default)]
    error: String,
}

/// Read by the exact key.
#[derive(Debug, Deserialize)]
struct EnvVar {
    name: Full,
    value: String,
    alias: String,
    public: bool,
    #[serde(rename = "managedBy")]
    managed_by: String,
}

#[derive(Debug, Deserialize)]
struct Deploy {
    id: Id,
    app: Full,
    timestamp: Time,
    duration: i64,
    commit: String,
    error: String,
    image: String,
    version: i64,
    log: String,
    user: String,
    origin: String,
    canrollback: bool,
    diff: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    r#type: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct ExtraTarget {
    target: Target,
    lock: bool,
}

#[derive(Debug, Deserialize)]
struct Named {
    r#type: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct EventLine {
    date: Time,
    message: Full,
}

#[derive(Debug, Deserialize)]
struct CancelInfo {
    owner: String,
    starttime: Time,
    acktime: Time,
    reason: String,
    asked: bool,
    canceled: bool,
}

#[derive(Debug, Deserialize)]
struct Event {
    uniqueid: Id,
    lock: Option<Target>,
    starttime: Time,
    endtime: Time,
    expireat: Time,
    lockupdatetime: Time,
    target: Target,
    extratargets: Option<Vec<ExtraTarget>>,
    kind: Named,
    owner: Named,
    error: String,
    log: String,
    structuredlog: Option<Vec<EventLine>>,
    cancelinfo: CancelInfo,
    cancelable: bool,
    running: bool,
}

#[derive(Debug, Deserialize)]
struct Held {
    name: String,
    contexttype: String,
    contextvalue: String,
}

#[derive(Debug, Deserialize)]
struct User {
    email: Full,
    roles: Vec<Held>,
    permissions: Vec<Held>,
    groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct TeamItem {
    name: Full,
    tags: Vec<String>,
    permissions: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Member {
    email: Full,
    roles: Vec<Held>,
}

#[derive(Debug, Deserialize)]
struct NamedApp {
    name: Full,
    teamowner: Full,
    units: Vec<Unit>,
    routers: Vec<AppRouter>,
    cname: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Team {
    name: Full,
    tags: Vec<String>,
    users: Vec<Member>,
    pools: Vec<Pool>,
    apps: Vec<NamedApp>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    name: Full,
    disabled: bool,
}

#[derive(Debug, Deserialize)]
struct PlatformInfo {
    platform: Platform,
    images: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    name: Full,
    default: bool,
    public: bool,
    provisioner: String,
    teams: Vec<String>,
    allowed: BTreeMap<String, Vec<String>>,
    labels: Option<Texts>,
}

#[derive(Debug, Deserialize)]
struct Router {
    name: Full,
    r#type: String,
    info: Option<Texts>,
    config: Option<Map<String, Value>>,
    default: bool,
}

#[derive(Debug, Deserialize)]
struct Permission {
    name: String,
    contexts: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Role {
    name: Full,
    context: Full,
    description: String,
    scheme_names: Vec<String>,
    events: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct InstanceItem {
    name: Full,
    service_name: Full,
    plan_name: String,
    apps: Vec<String>,
    jobs: Vec<String>,
    teams: Vec<String>,
    team_owner: Full,
    description: String,
    tags: Vec<String>,
    parameters: Option<Texts>,
    #[serde(default)]
    pool: String,
}

#[derive(Debug, Deserialize)]
struct Service {
    service: Full,
    instances: Vec<String>,
    plans: Vec<String>,
    service_instances: Vec<InstanceItem>,
}

#[derive(Debug, Deserialize)]
struct InstanceRow {
    name: Full,
    servicename: Full,
    planname: String,
    pool: String,
    apps: Vec<String>,
    jobs: Vec<String>,
    teams: Vec<String>,
    teamowner: Full,
    description: String,
    tags: Vec<String>,
    info: Option<Texts>,
}

#[derive(Debug, Deserialize)]
struct ServicePlan {
    name: Full,
    description: String,
}

#[derive(Debug, Deserialize)]
struct Instance {
    apps: Vec<String>,
    jobs: Vec<String>,
    teams: Vec<String>,
    teamowner: Full,
    description: String,
    planname: String,
    plandescription: String,
    pool: String,
    custominfo: Option<Texts>,
    tags: Vec<String>,
    parameters: Option<Texts>,
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
            Shape::Team => one::<Team>(reply).map(drop),
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
