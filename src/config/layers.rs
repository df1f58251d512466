//! The layers of the settings: the known keys, the values of each layer, and which layer set a value last.

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Settings, validation};
use crate::kernel::error::Error;

/// The defaults; the file is also the manual.
const DEFAULTS_TOML: &str = include_str!("../../config.example.toml");

/// Keys whose values are never shown. Each is of type `Secret` in `Settings`.
const SECRET_KEYS: [&str; 4] = ["admin.password", "database.url", "mail.smtp_url", "secrets.keys"];

const ENV_PREFIX: &str = "TANCHO_";
const FILE_VARIABLE: &str = "TANCHO_CONFIG";
const URL_VARIABLE: &str = "DATABASE_URL";

/// A settings file is small; anything larger is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The layer that set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SettingSource {
    File(PathBuf),
    Variable(String),
    CommandLine,
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in the variable {name}"),
            Self::CommandLine => f.write_str("on the command line"),
        }
    }
}

/// All layers, read and merged, not yet validated. Its `Debug` shows no value.
pub struct ConfigLayers {
    defaults: BTreeMap<String, Value>,
    set: BTreeMap<String, (Value, SettingSource)>,
}

impl fmt::Debug for ConfigLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.set.keys()).finish()
    }
}

/// Returns the environment variables of this process for `Settings::load`: those of Tancho that are valid
/// UTF-8.
pub fn tancho_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let ours = name.starts_with(ENV_PREFIX) || name == URL_VARIABLE;
        ours.then(|| (name, value.to_string_lossy().into_owned()))
    })
}

/// Returns a variable of this process that is not a setting, if it is valid UTF-8: the port of a unit,
/// mirrors for builds.
pub fn process_variable(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

impl ConfigLayers {
    /// Reads the layers; see `Settings::load`.
    pub fn read_all(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(&str, Value)],
    ) -> Result<Self, Error> {
        let example: Table = DEFAULTS_TOML
            .parse()
            .expect("config.example.toml is tested to be TOML");
        let mut layers = Self {
            defaults: flatten_table(example),
            set: BTreeMap::new(),
        };
        let env: BTreeMap<String, String> = env.collect();
        let named = env.get(FILE_VARIABLE).filter(|path| !path.is_empty());
        if let Some(path) = file.or(named.map(Path::new)) {
            layers.read_file(path)?;
        }
        layers.read_environment(&env)?;
        for (key, value) in overrides {
            layers.set_value((*key).to_owned(), value.clone(), SettingSource::CommandLine)?;
        }
        Ok(layers)
    }

    /// Builds the typed settings and validates them.
    pub fn build_settings(&self) -> Result<Settings, Error> {
        let all = self.set.iter().map(|(key, (value, _))| (key, value));
        let settings = self
            .deserialize_settings(all)
            .map_err(|error| self.explain_error(&error))?;
        validation::check_settings(&settings)?;
        Ok(settings)
    }

    /// Lists the settings that differ from the defaults, each as a line of TOML with its source; secrets are
    /// masked.
    pub fn list_changes(&self) -> Vec<String> {
        let differs =
            |(key, (value, _)): &(&String, &(Value, SettingSource))| self.defaults.get(*key) != Some(value);
        self.set
            .iter()
            .filter(differs)
            .map(
                |(key, (value, source))| match SECRET_KEYS.contains(&key.as_str()) {
                    true => format!("{key} = \"[secret]\"  # {source}"),
                    false => format!("{key} = {value}  # {source}"),
                },
            )
            .collect()
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Error> {
        let text = read_bounded(path).map_err(|error| {
            Error::invalid(format!(
                "Cannot read the settings file {}: {error}.",
                path.display()
            ))
        })?;
        let table: Table = text.parse().map_err(|error| syntax_error(path, &text, &error))?;
        for (key, value) in flatten_table(table) {
            self.set_value(key, value, SettingSource::File(path.to_owned()))?;
        }
        Ok(())
    }

    fn read_environment(&mut self, env: &BTreeMap<String, String>) -> Result<(), Error> {
        // First, so that the variable derived from the key, which is more specific, takes precedence.
        if let Some(url) = env.get(URL_VARIABLE).filter(|url| !url.is_empty()) {
            let source = SettingSource::Variable(URL_VARIABLE.to_owned());
            self.set_value("database.url".to_owned(), Value::String(url.clone()), source)?;
        }
        let keys: BTreeMap<String, String> = self
            .defaults
            .keys()
            .map(|key| (variable_name(key), key.clone()))
            .collect();
        for (name, text) in env {
            if !name.starts_with(ENV_PREFIX) || name == FILE_VARIABLE || is_from_kubernetes(name) {
                continue;
            }
            let Some(key) = keys.get(name) else {
                return Err(Error::invalid(format!(
                    "Unknown environment variable {name}; the most similar one is {}.",
                    nearest_name(name, keys.keys())
                )));
            };
            let value = parse_text(key, &self.defaults[key], text)
                .map_err(|expected| type_error(key, &SettingSource::Variable(name.clone()), expected))?;
            self.set_value(key.clone(), value, SettingSource::Variable(name.clone()))?;
        }
        Ok(())
    }

    fn set_value(&mut self, key: String, value: Value, source: SettingSource) -> Result<(), Error> {
        let Some(default) = self.defaults.get(&key) else {
            let group = format!("{key}.");
            if self.defaults.keys().any(|known| known.starts_with(&group)) {
                let words =
                    format!("`{key}` ({source}) is a table: write [{key}] and its settings below it.");
                return Err(Error::invalid(words));
            }
            return Err(Error::invalid(format!(
                "Unknown setting `{key}` ({source}); the most similar one is `{}`.",
                nearest_name(&key, self.defaults.keys())
            )));
        };
        let expected = expected_type(&key, default);
        if !matches_type(&key, default, &value) {
            return Err(type_error(&key, &source, expected));
        }
        self.set.insert(key, (value, source));
        Ok(())
    }

    fn deserialize_settings<'a>(
        &self,
        set: impl Iterator<Item = (&'a String, &'a Value)>,
    ) -> Result<Settings, toml::de::Error> {
        let mut flat = self.defaults.clone();
        flat.extend(set.map(|(key, value)| (key.clone(), value.clone())));
        unflatten_table(flat).try_into()
    }

    /// The defaults alone are valid, so the first value that breaks them by itself is the cause.
    fn explain_error(&self, whole: &toml::de::Error) -> Error {
        let found = self.set.iter().find_map(|(key, (value, source))| {
            let error = self.deserialize_settings(std::iter::once((key, value))).err()?;
            Some((key, source, error))
        });
        match found {
            Some((key, source, error)) => Error::invalid(format!(
                "The setting `{key}` ({source}) is invalid: {}.",
                simplify_message(error.message())
            )),
            None => Error::invalid(format!(
                "The settings are invalid: {}.",
                simplify_message(whole.message())
            )),
        }
    }
}

/// Returns the name of the environment variable of a key.
fn variable_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// True for variables that Kubernetes sets in every container beside a Service called `tancho`.
fn is_from_kubernetes(name: &str) -> bool {
    name == "TANCHO_SERVICE_HOST"
        || name == "TANCHO_PORT"
        || name.starts_with("TANCHO_PORT_")
        || name == "TANCHO_SERVICE_PORT"
        || name.starts_with("TANCHO_SERVICE_PORT_")
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    match u64::try_from(text.len()).is_ok_and(|length| length <= MAX_FILE_BYTES) {
        true => Ok(text),
        false => Err(std::io::Error::other("the file is larger than 1 MiB")),
    }
}

/// The parser's own message quotes the line, which may contain a password; so only the position and the
/// reason are used.
fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    Error::invalid(format!(
        "{}, line {line}, is not TOML: {}.",
        path.display(),
        simplify_message(error.message())
    ))
}

/// Rewords a parser's message so that it can be part of a sentence.
fn simplify_message(message: &str) -> String {
    message
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(", ")
        .trim_end_matches('.')
        .replace("expected u16", "expected a number from 0 to 65535")
        .replace("expected u32", "expected a number of 0 or more")
        .replace("expected u64", "expected a number of 0 or more")
        .replace("expected usize", "expected a number of 0 or more")
}

fn type_error(key: &str, source: &SettingSource, expected: &str) -> Error {
    Error::invalid(format!("The setting `{key}` ({source}) must be {expected}."))
}

fn is_size(key: &str) -> bool {
    key.ends_with("_bytes")
}

/// Returns the expected type of a key in human terms, derived from the default.
fn expected_type(key: &str, default: &Value) -> &'static str {
    match default {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of strings",
        _ if is_size(key) => "a size such as 65536 or \"512M\"",
        _ => "a string",
    }
}

fn matches_type(key: &str, default: &Value, value: &Value) -> bool {
    match (default, value) {
        (Value::Array(_), Value::Array(items)) => items.iter().all(Value::is_str),
        (Value::String(_), Value::Integer(_)) => is_size(key),
        // `allow_private_addresses = true` is accepted; the types of other string settings reject booleans.
        (Value::String(auto), Value::Boolean(_)) => auto == "auto",
        _ => default.same_type(value),
    }
}

/// Parses a value from the environment, where every value is a string. Errors: the expected type.
fn parse_text(key: &str, default: &Value, text: &str) -> Result<Value, &'static str> {
    let value = match default {
        Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
        Value::Boolean(_) => text.trim().parse().ok().map(Value::Boolean),
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Array(
                items.map(|item| Value::String(item.to_owned())).collect(),
            ))
        }
        _ => Some(Value::String(text.to_owned())),
    };
    value.ok_or(expected_type(key, default))
}

/// Finds the known name most similar to a wrong one, by the whole name or by its last part.
fn nearest_name<'a>(wrong: &str, known: impl Iterator<Item = &'a String>) -> &'a str {
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let likeness = |name: &'a str| {
        let whole = strsim::jaro_winkler(wrong, name);
        // The right name in the wrong table is nearly as good.
        let part = strsim::jaro_winkler(wrong.rsplit('.').next().unwrap_or(wrong), last(name)) - 0.1;
        whole.max(part)
    };
    known
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .map_or("", String::as_str)
}

/// Flattens tables to dotted keys.
fn flatten_table(table: Table) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                flat.extend(
                    flatten_table(inner)
                        .into_iter()
                        .map(|(rest, value)| (format!("{key}.{rest}"), value)),
                );
            }
            value => {
                flat.insert(key, value);
            }
        }
    }
    flat
}

/// Restores tables from dotted keys; there is one level of them.
fn unflatten_table(flat: BTreeMap<String, Value>) -> Table {
    let mut table = Table::new();
    for (key, value) in flat {
        let Some((group, rest)) = key.split_once('.') else {
            table.insert(key, value);
            continue;
        };
        let group = table.entry(group).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(group) = group {
            group.insert(rest.to_owned(), value);
        }
    }
    table
}

/// For tests: the masked keys, and all known keys.
#[cfg(test)]
pub(super) fn secret_and_known() -> (BTreeSet<&'static str>, BTreeSet<String>) {
    let known = flatten_table(DEFAULTS_TOML.parse().unwrap())
        .into_keys()
        .collect();
    (SECRET_KEYS.into_iter().collect(), known)
}
