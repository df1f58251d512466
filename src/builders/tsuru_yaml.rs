//! `tsuru.yaml`: hooks, health checks and processes of an app. Unknown keys are ignored; a value of the wrong
//! type is an error that names its key.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use regex::{Regex, RegexBuilder};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::procfile::check_command;
use crate::kernel::error::Error;
use crate::kernel::names::ProcessName;
use crate::kernel::yaml;

/// The memory limit of a compiled pattern, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;
/// The longest pattern, in bytes.
const LONGEST_PATTERN: usize = 4096;

/// The accepted file names; the first one found is read.
pub const FILE_NAMES: [&str; 4] = ["tsuru.yaml", "tsuru.yml", "app.yaml", "app.yml"];

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TsuruYaml {
    /// Commands around the life cycle of a version.
    #[serde(deserialize_with = "section")]
    pub hooks: AppHooks,
    /// When a unit of the main process is ready.
    #[serde(deserialize_with = "section")]
    pub healthcheck: HealthCheckConfig,
    /// When a unit has started.
    #[serde(deserialize_with = "section")]
    pub startupcheck: HealthCheckConfig,
    /// Processes; they override those of the Procfile.
    #[serde(deserialize_with = "sections")]
    pub processes: Vec<YamlProcess>,
    /// Stored as it is, for a provisioner of that name.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Value::is_null")]
    pub kubernetes: Value,
}

/// `hooks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppHooks {
    /// Run during the build; a failure fails the deploy.
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

/// `healthcheck` and `startupcheck`. Without a path and a command there is no check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheckConfig {
    /// The path to GET; begins with a slash unless empty.
    #[serde(deserialize_with = "path")]
    pub path: String,
    /// `http` or `https`.
    #[serde(deserialize_with = "scheme")]
    pub scheme: String,
    /// Another method than GET (from the older format of the file).
    pub method: Option<String>,
    /// The expected status (older format); by default any below 400.
    pub status: Option<u16>,
    /// A regular expression that the body must match somewhere (older format); see `body_pattern`.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// Headers to send.
    #[serde(deserialize_with = "or_default")]
    pub headers: BTreeMap<String, String>,
    /// A command that must exit with status 0, instead of a path.
    #[serde(deserialize_with = "or_default")]
    pub command: Vec<String>,
    /// Consecutive failures that are tolerated.
    #[serde(deserialize_with = "or_3")]
    pub allowed_failures: u32,
    /// Seconds between two checks.
    #[serde(deserialize_with = "or_10")]
    pub interval_seconds: u32,
    /// Timeout of one check in seconds.
    #[serde(deserialize_with = "or_60")]
    pub timeout_seconds: u32,
    /// How long a deploy waits for the unit, in seconds.
    pub deploy_timeout_seconds: Option<u32>,
    /// Whether a unit that fails later is restarted.
    #[serde(deserialize_with = "or_default")]
    pub force_restart: bool,
}

impl Default for HealthCheckConfig {
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

impl HealthCheckConfig {
    /// Returns true if there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.path.is_empty() && self.command.is_empty()
    }
}

/// Returns whether a body matches the regular expression of a `match`. Versions that were built when `match`
/// was a plain string may have an invalid expression: that is searched for literally.
pub fn body_matches(text: &str, body: &str) -> bool {
    body_pattern(text).map_or_else(|_| body.contains(text), |pattern| pattern.is_match(body))
}

/// Compiles the regular expression of a `match`: a dot matches a line feed too. Matching takes time linear in
/// the body. Errors: what is wrong with it, in one line.
fn body_pattern(text: &str) -> Result<Regex, String> {
    if text.len() > LONGEST_PATTERN {
        return Err("the regular expression is longer than 4,096 bytes".to_owned());
    }
    let compiled = RegexBuilder::new(text)
        .dot_matches_new_line(true)
        .size_limit(LARGEST_PATTERN)
        .dfa_size_limit(LARGEST_PATTERN)
        .build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the regular expression is too large".to_owned(),
        // The last line is the error; those before it show the position.
        other => {
            let text = other.to_string();
            let why = text.lines().last().unwrap_or_default();
            format!(
                "not a valid regular expression: {}",
                why.trim_start_matches("error: ")
            )
        }
    })
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
    pub healthcheck: HealthCheckConfig,
    /// Its own startup check.
    #[serde(default, deserialize_with = "section")]
    pub startupcheck: HealthCheckConfig,
    /// Its ports; an empty list means that it does not listen.
    #[serde(default, deserialize_with = "ports")]
    pub ports: Option<Vec<PortConfig>>,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortConfig {
    /// Its name.
    pub name: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The port that clients use.
    pub port: u16,
    /// The port that the process listens on; 0 for the same.
    pub target_port: u16,
}

impl Default for PortConfig {
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
    /// Parses a file. Errors: `Invalid`, one sentence that names the key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::invalid(format!("tsuru.yaml: {why}."));
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
            Value::Object(_) => {
                let read: Self = serde_path_to_error::deserialize(value)
                    .map_err(|e| wrong(yaml::to_single_line(&format!("{}: {}", e.path(), e.inner()))))?;
                read.check_patterns().map_err(wrong)?;
                Ok(read)
            }
            _ => Err(wrong(
                "the file must hold keys such as `hooks:` or `processes:`".into(),
            )),
        }
    }
}

impl TsuruYaml {
    /// Errors: which `match` is not a valid regular expression, and why. For input of users, not for what is
    /// stored.
    fn check_patterns(&self) -> Result<(), String> {
        let own = self.processes.iter().map(|p| (&p.healthcheck, p.name.as_str()));
        for (check, process) in own.chain([(&self.healthcheck, "")]) {
            let Some(Err(why)) = check.matches.as_deref().map(body_pattern) else {
                continue;
            };
            let of_process = if process.is_empty() {
                String::new()
            } else {
                format!(" of the process {process}")
            };
            return Err(format!("healthcheck.match{of_process}: {why}"));
        }
        Ok(())
    }
}

/// Accepts mappings only: a derived struct would accept a list too, by position.
struct MappingOnly<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for MappingOnly<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct MappingVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for MappingVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        from.deserialize_map(MappingVisitor(PhantomData)).map(MappingOnly)
    }
}

fn section<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<MappingOnly<T>>::deserialize(from)?
        .map(|k| k.0)
        .unwrap_or_default())
}

fn sections<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    ports(from).map(Option::unwrap_or_default)
}

/// An empty list differs from a missing one.
fn ports<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<Vec<MappingOnly<T>>>::deserialize(from)?;
    Ok(list.map(|list| list.into_iter().map(|k| k.0).collect()))
}

/// A key without a value counts as missing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn parse_seconds<'de, D: Deserializer<'de>>(from: D, otherwise: u32) -> Result<u32, D::Error> {
    match Option::<u32>::deserialize(from)? {
        None | Some(0) => Ok(otherwise),
        Some(n) if n > 86_400 => Err(D::Error::custom("more than 86400")),
        Some(n) => Ok(n),
    }
}

fn or_3<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    parse_seconds(from, 3)
}

fn or_10<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    parse_seconds(from, 10)
}

fn or_60<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    parse_seconds(from, 60)
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let path: String = or_default(from)?;
    if path.chars().any(|c| c.is_control() || c == ' ') {
        return Err(D::Error::custom(
            "a path must not contain spaces or control characters",
        ));
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
