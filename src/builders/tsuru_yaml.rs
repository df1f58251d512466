//! `tsuru.yaml`: hooks, checks and processes of an app. Keys that we do not know are let pass; a value
//! of the wrong type is an error that names its key.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::procfile::check_command;
use crate::kernel::names::ProcessName;
use crate::kernel::problem::Problem;
use crate::kernel::yaml;

/// The names under which the file is looked for, the first found counts.
pub const FILE_NAMES: [&str; 4] = ["tsuru.yaml", "tsuru.yml", "app.yaml", "app.yml"];

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TsuruYaml {
    /// Commands around the life of a version.
    #[serde(deserialize_with = "section")]
    pub hooks: Hooks,
    /// When a unit of the main process counts as ready.
    #[serde(deserialize_with = "section")]
    pub healthcheck: Check,
    /// When a unit counts as started.
    #[serde(deserialize_with = "section")]
    pub startupcheck: Check,
    /// Processes; they win over the Procfile's.
    #[serde(deserialize_with = "sections")]
    pub processes: Vec<YamlProcess>,
    /// Kept as it is, for the provisioner of that name.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Value::is_null")]
    pub kubernetes: Value,
}

/// `hooks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// Run while the version is built; a failure fails the deploy.
    #[serde(deserialize_with = "commands")]
    pub build: Vec<String>,
    /// Run around the start of each unit.
    #[serde(deserialize_with = "section")]
    pub restart: RestartHooks,
}

/// `hooks.restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartHooks {
    /// Before the process, in the same shell.
    #[serde(deserialize_with = "commands")]
    pub before: Vec<String>,
    /// After the unit has started.
    #[serde(deserialize_with = "commands")]
    pub after: Vec<String>,
}

/// `healthcheck` and `startupcheck`. Without a path and a command it asks nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// What to GET; begins with a slash when not empty.
    #[serde(deserialize_with = "path")]
    pub path: String,
    /// `http` or `https`.
    #[serde(deserialize_with = "scheme")]
    pub scheme: String,
    /// Another method than GET (of the older form of the file).
    pub method: Option<String>,
    /// The status that is right, of the older form; else any below 400.
    pub status: Option<u16>,
    /// A pattern that the body must match, of the older form.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// Headers to send.
    #[serde(deserialize_with = "or_default")]
    pub headers: BTreeMap<String, String>,
    /// A command whose exit status 0 is right, instead of a path.
    #[serde(deserialize_with = "or_default")]
    pub command: Vec<String>,
    /// Failures in a row that are forgiven.
    #[serde(deserialize_with = "or_3")]
    pub allowed_failures: u32,
    /// Seconds between two checks.
    #[serde(deserialize_with = "or_10")]
    pub interval_seconds: u32,
    /// Seconds until one check counts as failed.
    #[serde(deserialize_with = "or_60")]
    pub timeout_seconds: u32,
    /// Seconds that a deploy waits for the unit.
    pub deploy_timeout_seconds: Option<u32>,
    /// Whether a unit that fails later is restarted.
    #[serde(deserialize_with = "or_default")]
    pub force_restart: bool,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            path: String::new(),
            scheme: "http".into(),
            method: None,
            status: None,
            matches: None,
            headers: BTreeMap::new(),
            command: Vec::new(),
            allowed_failures: 3,
            interval_seconds: 10,
            timeout_seconds: 60,
            deploy_timeout_seconds: None,
            force_restart: false,
        }
    }
}

impl Check {
    /// True when there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.path.is_empty() && self.command.is_empty()
    }
}

/// One of `processes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct YamlProcess {
    /// Its name.
    pub name: ProcessName,
    /// Its command; without one, the Procfile's.
    #[serde(default, deserialize_with = "command")]
    pub command: Option<String>,
    /// Its own check, instead of the global one.
    #[serde(default, deserialize_with = "section")]
    pub healthcheck: Check,
    /// Its own check of the start.
    #[serde(default, deserialize_with = "section")]
    pub startupcheck: Check,
    /// Where it listens; an empty list says nowhere.
    #[serde(default, deserialize_with = "ports")]
    pub ports: Option<Vec<Port>>,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The port that others see.
    pub port: u16,
    /// The port that the process listens on; 0 for the same.
    pub target_port: u16,
}

impl Default for Port {
    fn default() -> Self {
        Self {
            name: "http-default".into(),
            protocol: "TCP".into(),
            port: 8888,
            target_port: 0,
        }
    }
}

impl TsuruYaml {
    /// Reads the text. Errors: `Invalid`, one sentence that names the key.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |why: String| Problem::invalid(format!("tsuru.yaml: {why}."));
        let text = text.trim_start_matches('\u{feff}');
        if text
            .lines()
            .all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        let value: Value = yaml::from_str(text).map_err(wrong)?;
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(_) => serde_path_to_error::deserialize(value)
                .map_err(|e| wrong(yaml::one_line(&format!("{}: {}", e.path(), e.inner())))),
            _ => Err(wrong(
                "the file must hold keys such as `hooks:` or `processes:`".into(),
            )),
        }
    }
}

/// Keys and values only: what is derived would take a list for a struct too, by position.
struct Keyed<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Keyed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys with values")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        from.deserialize_map(Keys(PhantomData)).map(Keyed)
    }
}

fn section<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<Keyed<T>>::deserialize(from)?
        .map(|k| k.0)
        .unwrap_or_default())
}

fn sections<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    ports(from).map(Option::unwrap_or_default)
}

/// An empty list differs from none.
fn ports<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<Vec<Keyed<T>>>::deserialize(from)?;
    Ok(list.map(|list| list.into_iter().map(|k| k.0).collect()))
}

/// A key without a value counts as absent.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn number<'de, D: Deserializer<'de>>(from: D, otherwise: u32) -> Result<u32, D::Error> {
    match Option::<u32>::deserialize(from)? {
        None | Some(0) => Ok(otherwise),
        Some(n) if n > 86_400 => Err(D::Error::custom("more than 86400")),
        Some(n) => Ok(n),
    }
}

fn or_3<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    number(from, 3)
}

fn or_10<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    number(from, 10)
}

fn or_60<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    number(from, 60)
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let path: String = or_default(from)?;
    if path.chars().any(|c| c.is_control() || c == ' ') {
        return Err(D::Error::custom("a path has no blanks or control characters"));
    }
    Ok(match path.as_str() {
        "" => path,
        p if p.starts_with('/') => path,
        p => format!("/{p}"),
    })
}

fn scheme<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let scheme = or_default::<_, String>(from)?.to_ascii_lowercase();
    match scheme.as_str() {
        "" => Ok("http".into()),
        "http" | "https" => Ok(scheme),
        _ => Err(D::Error::custom("use http or https")),
    }
}

fn command<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(from)? {
        Some(text) if !text.trim().is_empty() => check_command(&text).map(Some).map_err(D::Error::custom),
        _ => Ok(None),
    }
}

fn commands<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let list: Vec<String> = or_default(from)?;
    if list.len() > 100 {
        return Err(D::Error::custom("more than 100 commands"));
    }
    // A hook may be a script of several lines.
    if list.iter().any(|c| c.contains('\0')) {
        return Err(D::Error::custom("a command has control characters"));
    }
    if list.iter().any(|c| c.len() > 64 << 10) {
        return Err(D::Error::custom("a command is too long"));
    }
    Ok(list.into_iter().filter(|c| !c.trim().is_empty()).collect())
}
