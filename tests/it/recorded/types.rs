//! Responses as types that reject what the client rejects. Keys are in lower case: see `shapes`.

#![expect(dead_code, reason = "decoding proves the type; the values are not read")]

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A time as Go reads it.
#[derive(Debug)]
pub(super) struct Time(pub(super) DateTime<FixedOffset>);

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

/// Twelve bytes in hexadecimal.
#[derive(Debug)]
pub(super) struct Id(pub(super) String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => Ok(Self(text)),
            false => Err(D::Error::custom(format!("{text:?} is no id"))),
        }
    }
}

/// A string that is not empty.
#[derive(Debug)]
pub(super) struct Full(pub(super) String);

impl<'de> Deserialize<'de> for Full {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.is_empty() {
            true => Err(D::Error::custom("an empty string")),
            false => Ok(Self(text)),
        }
    }
}

pub(super) type Texts = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
pub(super) struct Line {
    pub(super) message: String,
    pub(super) timestamp: Option<Time>,
    #[serde(default)]
    pub(super) error: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct LogLine {
    pub(super) date: Time,
    pub(super) message: String,
    pub(super) source: String,
    pub(super) name: String,
    pub(super) r#type: String,
    pub(super) unit: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Scheme {
    pub(super) name: Full,
    pub(super) default: bool,
    pub(super) data: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub(super) token: Full,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenRole {
    pub(super) name: Full,
    pub(super) contextvalue: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct TeamToken {
    pub(super) token: String,
    pub(super) token_id: Full,
    pub(super) description: String,
    pub(super) created_at: Time,
    pub(super) expires_at: Time,
    pub(super) last_access: Time,
    pub(super) creator_email: String,
    pub(super) team: Full,
    pub(super) roles: Vec<TokenRole>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Quota {
    pub(super) limit: i64,
    pub(super) inuse: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Burst {
    pub(super) default: f64,
    pub(super) maxallowed: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Plan {
    pub(super) name: Full,
    pub(super) memory: i64,
    pub(super) cpumilli: i64,
    pub(super) cpuburst: Option<Burst>,
    #[serde(default)]
    pub(super) default: bool,
}

/// A Go `url.URL`.
#[derive(Debug, Deserialize)]
pub(super) struct Address {
    pub(super) scheme: String,
    pub(super) host: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Unit {
    pub(super) id: Full,
    pub(super) name: String,
    pub(super) appname: String,
    pub(super) processname: String,
    pub(super) r#type: String,
    pub(super) ip: String,
    pub(super) internalip: String,
    pub(super) status: Status,
    pub(super) statusreason: String,
    pub(super) address: Option<Address>,
    pub(super) addresses: Option<Vec<Address>>,
    pub(super) version: i64,
    pub(super) routable: bool,
    pub(super) restarts: Option<i32>,
    pub(super) createdat: Option<Time>,
    pub(super) ready: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Created,
    Building,
    Error,
    Starting,
    Started,
    Stopped,
    Succeeded,
}

#[derive(Debug, Deserialize)]
pub(super) struct AppRouter {
    pub(super) name: Full,
    pub(super) opts: Option<Texts>,
    pub(super) address: String,
    pub(super) addresses: Vec<String>,
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default, rename = "status-detail")]
    pub(super) status_detail: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) labels: Vec<Pair>,
    pub(super) annotations: Vec<Pair>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AppItem {
    pub(super) name: Full,
    pub(super) pool: Full,
    pub(super) teamowner: Full,
    pub(super) plan: Plan,
    pub(super) units: Vec<Unit>,
    pub(super) cname: Vec<String>,
    pub(super) ip: String,
    pub(super) routers: Vec<AppRouter>,
    pub(super) tags: Vec<String>,
    #[serde(default)]
    pub(super) platform: String,
    #[serde(default)]
    pub(super) error: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Behavior {
    pub(super) scaledown: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Autoscale {
    pub(super) process: String,
    pub(super) minunits: u32,
    pub(super) maxunits: u32,
    pub(super) behavior: Behavior,
}

#[derive(Debug, Deserialize)]
pub(super) struct Process {
    pub(super) name: Full,
    pub(super) metadata: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Bind {
    pub(super) service: Full,
    pub(super) instance: Full,
    pub(super) plan: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct AppInfo {
    pub(super) name: Full,
    pub(super) platform: String,
    pub(super) owner: Full,
    pub(super) pool: Full,
    pub(super) description: String,
    pub(super) teamowner: Full,
    pub(super) teams: Vec<String>,
    pub(super) cname: Vec<String>,
    pub(super) tags: Vec<String>,
    pub(super) plan: Plan,
    pub(super) deploys: u64,
    pub(super) metadata: Metadata,
    pub(super) units: Vec<Unit>,
    pub(super) routers: Vec<AppRouter>,
    pub(super) serviceinstancebinds: Vec<Bind>,
    pub(super) quota: Quota,
    pub(super) provisioner: Full,
    #[serde(default)]
    pub(super) autoscale: Vec<Autoscale>,
    #[serde(default)]
    pub(super) unitsmetrics: Vec<Value>,
    #[serde(default)]
    pub(super) processes: Vec<Process>,
    #[serde(default)]
    pub(super) volumebinds: Vec<VolumeBind>,
    #[serde(default)]
    pub(super) internaladdresses: Vec<Value>,
    #[serde(default)]
    pub(super) error: String,
}

/// Read by the exact key.
#[derive(Debug, Deserialize)]
pub(super) struct EnvVar {
    pub(super) name: Full,
    pub(super) value: String,
    pub(super) alias: String,
    pub(super) public: bool,
    #[serde(rename = "managedBy")]
    pub(super) managed_by: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Deploy {
    pub(super) id: Id,
    pub(super) app: Full,
    pub(super) timestamp: Time,
    pub(super) duration: i64,
    pub(super) commit: String,
    pub(super) error: String,
    pub(super) image: String,
    pub(super) version: i64,
    pub(super) log: String,
    pub(super) user: String,
    pub(super) origin: String,
    pub(super) canrollback: bool,
    pub(super) diff: String,
    pub(super) message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Target {
    pub(super) r#type: String,
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ExtraTarget {
    pub(super) target: Target,
    pub(super) lock: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) r#type: String,
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct EventLine {
    pub(super) date: Time,
    pub(super) message: Full,
}

#[derive(Debug, Deserialize)]
pub(super) struct CancelInfo {
    pub(super) owner: String,
    pub(super) starttime: Time,
    pub(super) acktime: Time,
    pub(super) reason: String,
    pub(super) asked: bool,
    pub(super) canceled: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Event {
    pub(super) uniqueid: Id,
    pub(super) lock: Option<Target>,
    pub(super) starttime: Time,
    pub(super) endtime: Time,
    pub(super) expireat: Time,
    pub(super) lockupdatetime: Time,
    pub(super) target: Target,
    pub(super) extratargets: Option<Vec<ExtraTarget>>,
    pub(super) kind: Named,
    pub(super) owner: Named,
    pub(super) error: String,
    pub(super) log: String,
    pub(super) structuredlog: Option<Vec<EventLine>>,
    pub(super) cancelinfo: CancelInfo,
    pub(super) cancelable: bool,
    pub(super) running: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct EventBlock {
    pub(super) id: Id,
    pub(super) starttime: Time,
    pub(super) endtime: Time,
    pub(super) kindname: String,
    pub(super) ownername: String,
    pub(super) target: Target,
    pub(super) conditions: Option<Texts>,
    pub(super) reason: Full,
    pub(super) active: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Webhook {
    pub(super) name: Full,
    pub(super) description: String,
    pub(super) team_owner: Full,
    pub(super) event_filter: WebhookFilter,
    pub(super) url: Full,
    pub(super) proxy_url: String,
    pub(super) headers: Option<BTreeMap<String, Vec<String>>>,
    pub(super) method: String,
    pub(super) body: String,
    pub(super) insecure: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct WebhookFilter {
    pub(super) target_types: Option<Vec<String>>,
    pub(super) target_values: Option<Vec<String>>,
    pub(super) kind_types: Option<Vec<String>>,
    pub(super) kind_names: Option<Vec<String>>,
    pub(super) error_only: bool,
    pub(super) success_only: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) contexttype: String,
    pub(super) contextvalue: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct User {
    pub(super) email: Full,
    pub(super) roles: Vec<Held>,
    pub(super) permissions: Vec<Held>,
    pub(super) groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TeamItem {
    pub(super) name: Full,
    pub(super) tags: Vec<String>,
    pub(super) permissions: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Member {
    pub(super) email: Full,
    pub(super) roles: Vec<Held>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedApp {
    pub(super) name: Full,
    pub(super) teamowner: Full,
    pub(super) units: Vec<Unit>,
    pub(super) routers: Vec<AppRouter>,
    pub(super) cname: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Team {
    pub(super) name: Full,
    pub(super) tags: Vec<String>,
    pub(super) users: Vec<Member>,
    pub(super) pools: Vec<Pool>,
    pub(super) apps: Vec<NamedApp>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Platform {
    pub(super) name: Full,
    pub(super) disabled: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct PlatformInfo {
    pub(super) platform: Platform,
    pub(super) images: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ClusterHelp {
    pub(super) provisioner_help: String,
    pub(super) custom_data_help: Texts,
}

#[derive(Debug, Deserialize)]
pub(super) struct Provisioner {
    pub(super) name: Full,
    pub(super) cluster_help: ClusterHelp,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pool {
    pub(super) name: Full,
    pub(super) default: bool,
    pub(super) public: bool,
    pub(super) provisioner: String,
    pub(super) teams: Vec<String>,
    pub(super) allowed: BTreeMap<String, Vec<String>>,
    pub(super) labels: Option<Texts>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Volume {
    pub(super) name: Full,
    pub(super) pool: Full,
    pub(super) plan: VolumePlan,
    pub(super) teamowner: Full,
    pub(super) status: String,
    pub(super) binds: Option<Vec<VolumeBind>>,
    pub(super) opts: Option<Texts>,
}

#[derive(Debug, Deserialize)]
pub(super) struct VolumePlan {
    pub(super) name: Full,
    pub(super) opts: Option<Texts>,
}

#[derive(Debug, Deserialize)]
pub(super) struct VolumeBind {
    pub(super) id: VolumeBindKey,
    pub(super) readonly: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct VolumeBindKey {
    pub(super) app: Full,
    pub(super) mountpoint: Full,
    pub(super) volume: Full,
}

#[derive(Debug, Deserialize)]
pub(super) struct Constraint {
    pub(super) poolexpr: Full,
    pub(super) field: Full,
    pub(super) values: Vec<String>,
    pub(super) blacklist: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Router {
    pub(super) name: Full,
    pub(super) r#type: String,
    pub(super) info: Option<Texts>,
    pub(super) config: Option<Map<String, Value>>,
    pub(super) default: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Permission {
    pub(super) name: String,
    pub(super) contexts: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Role {
    pub(super) name: Full,
    pub(super) context: Full,
    pub(super) description: String,
    pub(super) scheme_names: Vec<String>,
    pub(super) events: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct InstanceItem {
    pub(super) name: Full,
    pub(super) service_name: Full,
    pub(super) plan_name: String,
    pub(super) apps: Vec<String>,
    pub(super) jobs: Vec<String>,
    pub(super) teams: Vec<String>,
    pub(super) team_owner: Full,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) parameters: Option<Texts>,
    #[serde(default)]
    pub(super) pool: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Service {
    pub(super) service: Full,
    pub(super) instances: Vec<String>,
    pub(super) plans: Vec<String>,
    pub(super) service_instances: Vec<InstanceItem>,
}

#[derive(Debug, Deserialize)]
pub(super) struct InstanceRow {
    pub(super) name: Full,
    pub(super) servicename: Full,
    pub(super) planname: String,
    pub(super) pool: String,
    pub(super) apps: Vec<String>,
    pub(super) jobs: Vec<String>,
    pub(super) teams: Vec<String>,
    pub(super) teamowner: Full,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) info: Option<Texts>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServicePlan {
    pub(super) name: Full,
    pub(super) description: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Instance {
    pub(super) apps: Vec<String>,
    pub(super) jobs: Vec<String>,
    pub(super) teams: Vec<String>,
    pub(super) teamowner: Full,
    pub(super) description: String,
    pub(super) planname: String,
    pub(super) plandescription: String,
    pub(super) pool: String,
    pub(super) custominfo: Option<Texts>,
    pub(super) tags: Vec<String>,
    pub(super) parameters: Option<Texts>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CertificateList {
    pub(super) routers: BTreeMap<String, RouterCertificates>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RouterCertificates {
    pub(super) cnames: BTreeMap<String, HostCertificate>,
}

#[derive(Debug, Deserialize)]
pub(super) struct HostCertificate {
    certificate: String,
    issuer: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct JobInfo {
    pub(super) job: Job,
    pub(super) units: Option<Vec<JobUnit>>,
    pub(super) serviceinstancebinds: Option<Vec<BTreeMap<String, String>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Job {
    pub(super) name: Full,
    pub(super) teamowner: Full,
    pub(super) teams: Vec<String>,
    pub(super) owner: Full,
    pub(super) plan: JobPlan,
    pub(super) metadata: JobMetadata,
    pub(super) pool: Full,
    pub(super) description: String,
    pub(super) spec: JobSpec,
}

#[derive(Debug, Deserialize)]
pub(super) struct JobPlan {
    pub(super) name: Full,
    pub(super) memory: i64,
    pub(super) cpumilli: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct JobMetadata {
    pub(super) labels: Option<Vec<BTreeMap<String, String>>>,
    pub(super) annotations: Option<Vec<BTreeMap<String, String>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct JobSpec {
    pub(super) activedeadlineseconds: Option<i64>,
    pub(super) schedule: Full,
    pub(super) manual: bool,
    pub(super) concurrencypolicy: Option<String>,
    pub(super) container: JobContainer,
}

#[derive(Debug, Deserialize)]
pub(super) struct JobContainer {
    pub(super) image: String,
    pub(super) command: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct JobUnit {
    pub(super) name: Full,
    pub(super) status: Full,
    pub(super) restarts: i64,
    pub(super) ready: bool,
}
