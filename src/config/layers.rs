//! The layers under a `Settings`: which keys there are, what each layer says, who said it last.

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Settings, rules};
use crate::kernel::problem::Problem;

/// The defaults, which are the manual as well.
const EXAMPLE: &str = include_str!("../../config.example.toml");

/// Keys whose values are never shown. Each is of type `Secret` in `Settings`.
const SECRET: [&str; 4] = ["admin.password", "database.url", "mail.smtp_url", "secrets.keys"];

const PREFIX: &str = "TANCHO_";
const FILE_VARIABLE: &str = "TANCHO_CONFIG";
const URL_VARIABLE: &str = "DATABASE_URL";

/// A file of settings is small; what is larger is something else.
const LARGEST_FILE: u64 = 1 << 20;

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Variable(String),
    Option,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in the variable {name}"),
            Self::Option => f.write_str("on the command line"),
        }
    }
}

/// All layers, read and merged, not yet checked. Its `Debug` shows no value.
pub struct Layers {
    defaults: BTreeMap<String, Value>,
    set: BTreeMap<String, (Value, Source)>,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.set.keys()).finish()
    }
}

/// The environment of this process, as `Settings::load` wants it: what concerns Tancho and is text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let ours = name.starts_with(PREFIX) || name == URL_VARIABLE;
        ours.then(|| (name, value.to_string_lossy().into_owned()))
    })
}

/// A variable of this process that is no setting, if it is text: the port of a unit, mirrors for builds.
pub fn of_process(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

impl Layers {
    /// Reads the layers; see `Settings::load`.
    pub fn read(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(&str, Value)],
    ) -> Result<Self, Problem> {
        let example: Table = EXAMPLE.parse().expect("config.example.toml is tested to be TOML");
        let mut layers = Self {
            defaults: flatten(example),
            set: BTreeMap::new(),
        };
        let env: BTreeMap<String, String> = env.collect();
        let named = env.get(FILE_VARIABLE).filter(|path| !path.is_empty());
        if let Some(path) = file.or(named.map(Path::new)) {
            layers.read_file(path)?;
        }
        layers.read_environment(&env)?;
        for (key, value) in overrides {
            layers.put((*key).to_owned(), value.clone(), Source::Option)?;
        }
        Ok(layers)
    }

    /// The typed settings, checked.
    pub fn settings(&self) -> Result<Settings, Problem> {
        let all = self.set.iter().map(|(key, (value, _))| (key, value));
        let settings = self.typed(all).map_err(|error| self.blame(&error))?;
        rules::check(&settings)?;
        Ok(settings)
    }

    /// What differs from the defaults, a line of TOML each with where it came from; secrets masked.
    pub fn changes(&self) -> Vec<String> {
        let differs =
            |(key, (value, _)): &(&String, &(Value, Source))| self.defaults.get(*key) != Some(value);
        self.set
            .iter()
            .filter(differs)
            .map(|(key, (value, source))| match SECRET.contains(&key.as_str()) {
                true => format!("{key} = \"[secret]\"  # {source}"),
                false => format!("{key} = {value}  # {source}"),
            })
            .collect()
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Problem> {
        let text = read_bounded(path).map_err(|error| {
            Problem::invalid(format!(
                "The settings in {} cannot be read: {error}.",
                path.display()
            ))
        })?;
        let table: Table = text.parse().map_err(|error| syntax(path, &text, &error))?;
        for (key, value) in flatten(table) {
            self.put(key, value, Source::File(path.to_owned()))?;
        }
        Ok(())
    }

    fn read_environment(&mut self, env: &BTreeMap<String, String>) -> Result<(), Problem> {
        // First, so that the name made from the key, which is the more exact one, wins over it.
        if let Some(url) = env.get(URL_VARIABLE).filter(|url| !url.is_empty()) {
            let source = Source::Variable(URL_VARIABLE.to_owned());
            self.put("database.url".to_owned(), Value::String(url.clone()), source)?;
        }
        let keys: BTreeMap<String, String> = self
            .defaults
            .keys()
            .map(|key| (variable(key), key.clone()))
            .collect();
        for (name, text) in env {
            if !name.starts_with(PREFIX) || name == FILE_VARIABLE || is_from_kubernetes(name) {
                continue;
            }
            let Some(key) = keys.get(name) else {
                return Err(Problem::invalid(format!(
                    "The variable {name} is not known to Tancho; the nearest is {}.",
                    nearest(name, keys.keys())
                )));
            };
            let value = parse_text(key, &self.defaults[key], text)
                .map_err(|expected| misfit(key, &Source::Variable(name.clone()), expected))?;
            self.put(key.clone(), value, Source::Variable(name.clone()))?;
        }
        Ok(())
    }

    fn put(&mut self, key: String, value: Value, source: Source) -> Result<(), Problem> {
        let Some(default) = self.defaults.get(&key) else {
            let group = format!("{key}.");
            if self.defaults.keys().any(|known| known.starts_with(&group)) {
                let words = format!(
                    "`{key}` ({source}) is a group of settings: write [{key}] and its settings below."
                );
                return Err(Problem::invalid(words));
            }
            return Err(Problem::invalid(format!(
                "There is no setting `{key}` ({source}); the nearest is `{}`.",
                nearest(&key, self.defaults.keys())
            )));
        };
        let expected = expected(&key, default);
        if !fits(&key, default, &value) {
            return Err(misfit(&key, &source, expected));
        }
        self.set.insert(key, (value, source));
        Ok(())
    }

    fn typed<'a>(
        &self,
        set: impl Iterator<Item = (&'a String, &'a Value)>,
    ) -> Result<Settings, toml::de::Error> {
        let mut flat = self.defaults.clone();
        flat.extend(set.map(|(key, value)| (key.clone(), value.clone())));
        unflatten(flat).try_into()
    }

    /// The defaults alone are fine, so the first value that spoils them by itself is the guilty one.
    fn blame(&self, whole: &toml::de::Error) -> Problem {
        let found = self.set.iter().find_map(|(key, (value, source))| {
            let error = self.typed(std::iter::once((key, value))).err()?;
            Some((key, source, error))
        });
        match found {
            Some((key, source, error)) => Problem::invalid(format!(
                "The setting `{key}` ({source}) is wrong: {}.",
                plain(error.message())
            )),
            None => Problem::invalid(format!("The settings are wrong: {}.", plain(whole.message()))),
        }
    }
}

/// The name of a key in the environment.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// In a cluster, a Service called `tancho` puts these into every container beside it.
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
    file.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    match u64::try_from(text.len()).is_ok_and(|length| length <= LARGEST_FILE) {
        true => Ok(text),
        false => Err(std::io::Error::other("it is larger than 1 MiB")),
    }
}

/// The parser's own display quotes the line, which may hold a password; so only the place and the reason.
fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    Problem::invalid(format!(
        "{}, line {line}, is not TOML: {}.",
        path.display(),
        plain(error.message())
    ))
}

/// A sentence of a parser, fit to stand in one of ours.
fn plain(message: &str) -> String {
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

fn misfit(key: &str, source: &Source, expected: &str) -> Problem {
    Problem::invalid(format!("The setting `{key}` ({source}) must be {expected}."))
}

fn is_size(key: &str) -> bool {
    key.ends_with("_bytes")
}

/// What a key wants, in words; the default tells.
fn expected(key: &str, default: &Value) -> &'static str {
    match default {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of texts",
        _ if is_size(key) => "a size such as 65536 or \"512M\"",
        _ => "a text",
    }
}

fn fits(key: &str, default: &Value, value: &Value) -> bool {
    match (default, value) {
        (Value::Array(_), Value::Array(items)) => items.iter().all(Value::is_str),
        (Value::String(_), Value::Integer(_)) => is_size(key),
        // `allow_private_addresses = true` is understood; other texts refuse it by their own type.
        (Value::String(auto), Value::Boolean(_)) => auto == "auto",
        _ => default.same_type(value),
    }
}

/// A value from the environment, where all is text. Errors: what was expected.
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
    value.ok_or(expected(key, default))
}

/// The known name that looks most like a wrong one, by the whole or by its last part.
fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a String>) -> &'a str {
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let likeness = |name: &'a str| {
        let whole = strsim::jaro_winkler(wrong, name);
        // A key at the wrong place, with the right name: nearly as good.
        let part = strsim::jaro_winkler(wrong.rsplit('.').next().unwrap_or(wrong), last(name)) - 0.1;
        whole.max(part)
    };
    known
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .map_or("", String::as_str)
}

/// Groups to dotted keys.
fn flatten(table: Table) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                flat.extend(
                    flatten(inner)
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

/// Dotted keys back to groups; there is one level of them.
fn unflatten(flat: BTreeMap<String, Value>) -> Table {
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

/// For tests: the keys that are masked, and all that there are.
#[cfg(test)]
pub(super) fn secret_and_known() -> (BTreeSet<&'static str>, BTreeSet<String>) {
    let known = flatten(EXAMPLE.parse().unwrap()).into_keys().collect();
    (SECRET.into_iter().collect(), known)
}
