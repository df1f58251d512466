//! The settings: what an operator may choose, in typed groups.
//!
//! They come in four layers, the later wins: the defaults (`config.example.toml`, which is built in and is
//! the manual as well), a file, the environment (`TANCHO_*`, derived from the known keys), the options of
//! the command line. A name that nobody knows is an error which says the nearest known one, so a typo never
//! means a silent default. Settings are checked once, here; whoever holds a `Settings` need not check again.
//!
//! Secrets are `Secret`; no error and no `Debug` of this module shows one.

mod layers;
mod rules;
mod ssh;
#[cfg(test)]
mod tests;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use self::layers::{Layers, environment, of_process};
pub use self::ssh::SshSettings;
pub use self::values::{Choice, LogFormat, Network, Registration, Role};
use crate::kernel::names::{BranchName, Email};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::kernel::size::Bytes;

/// All settings. What each means, and its default, is in `config.example.toml`; here is only what the type
/// does not say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The folder of everything on disk.
    pub data_dir: PathBuf,
    /// What this process does; never empty.
    pub roles: Vec<Role>,
    /// The API.
    pub api: ApiSettings,
    /// `git` over SSH.
    pub ssh: SshSettings,
    /// The proxy.
    pub router: RouterSettings,
    /// The database.
    pub database: DatabaseSettings,
    /// Users, tokens, passwords.
    pub auth: AuthSettings,
    /// The keys that seal.
    pub secrets: SecretsSettings,
    /// Limits for new users and apps.
    pub quota: QuotaSettings,
    /// Units and their logs.
    pub apps: AppsSettings,
    /// Builds.
    pub builds: BuildsSettings,
    /// The repositories of apps.
    pub git: GitSettings,
    /// The provisioner of processes on this host.
    pub local: LocalSettings,
    /// Calls to the APIs of services.
    pub services: ServicesSettings,
    /// Mails to users.
    pub mail: MailSettings,
    /// The first administrator.
    pub admin: AdminSettings,
    /// Events.
    pub events: EventsSettings,
    /// Logs.
    pub log: LogSettings,
}

/// `[api]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiSettings {
    /// Where to listen; port 0 picks one.
    #[serde(deserialize_with = "values::listen")]
    pub listen: SocketAddr,
    /// Empty, or an `http(s)` URL without a slash at the end. See `public_url`.
    pub public_url: String,
    /// Largest ordinary body.
    pub max_body_bytes: Bytes,
    /// Largest archive of source.
    pub max_upload_bytes: Bytes,
    /// At once, at least 1.
    pub max_connections: usize,
    /// For requests that do not stream.
    #[serde(rename = "request_timeout_seconds", deserialize_with = "values::seconds")]
    pub request_timeout: Duration,
    /// For requests under way when stopping.
    #[serde(rename = "drain_seconds", deserialize_with = "values::seconds")]
    pub drain: Duration,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
}

impl ApiSettings {
    /// The URL for links, without a slash at the end. `bound` is where the server really listens.
    pub fn public_url(&self, bound: SocketAddr) -> String {
        if !self.public_url.is_empty() {
            return self.public_url.clone();
        }
        if bound.ip().is_unspecified() {
            return format!("http://localhost:{}", bound.port());
        }
        format!("http://{bound}")
    }
}

/// `[router]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterSettings {
    /// Where to listen; port 0 picks one.
    #[serde(deserialize_with = "values::listen")]
    pub listen: SocketAddr,
    /// Lower case, without dots at the ends.
    pub domain: String,
    /// 0: the port that is listened on. See `public_port`.
    pub public_port: u16,
    /// For the head of a unit's answer.
    #[serde(rename = "first_byte_timeout_seconds", deserialize_with = "values::seconds")]
    pub first_byte_timeout: Duration,
    /// For a connection without traffic.
    #[serde(rename = "idle_timeout_seconds", deserialize_with = "values::seconds")]
    pub idle_timeout: Duration,
    /// For requests under way when stopping.
    #[serde(rename = "drain_seconds", deserialize_with = "values::seconds")]
    pub drain: Duration,
    /// Connections at once, at least 1.
    pub max_connections: usize,
    /// Whether the caller's `X-Forwarded-*` are passed on.
    pub trust_forwarded: bool,
}

impl RouterSettings {
    /// The port in the URLs of apps. `bound` is where the proxy really listens.
    pub fn public_port(&self, bound: SocketAddr) -> u16 {
        match self.public_port {
            0 => bound.port(),
            port => port,
        }
    }
}

/// `[database]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// Empty: the managed Postgres. A secret because of the password in it.
    pub url: Secret,
    /// At least 2: one listens for notices.
    pub max_connections: u32,
    /// For a free connection.
    #[serde(rename = "acquire_timeout_seconds", deserialize_with = "values::seconds")]
    pub acquire_timeout: Duration,
    /// For one statement.
    #[serde(rename = "statement_timeout_seconds", deserialize_with = "values::seconds")]
    pub statement_timeout: Duration,
}

impl DatabaseSettings {
    /// Whether Tancho runs the Postgres itself.
    pub fn is_managed(&self) -> bool {
        self.url.is_empty()
    }
}

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// See `is_registration_open`.
    pub registration: Registration,
    /// At least 1.
    pub token_days: u32,
    /// 0: any number.
    pub max_sessions: u32,
    /// Failed logins within the window, at least 1.
    pub login_attempts_per_account: u32,
    /// Failed logins within the window, at least 1.
    pub login_attempts_per_address: u32,
    /// That window.
    #[serde(rename = "login_window_seconds", deserialize_with = "values::seconds")]
    pub login_window: Duration,
    /// KiB for one hash, at least 8.
    pub hash_memory_kib: u32,
    /// Hashes at once, at least 1.
    pub hash_concurrency: usize,
}

impl AuthSettings {
    /// Whether a stranger may make a user, given where the API listens.
    pub fn is_registration_open(&self, api: SocketAddr) -> bool {
        match self.registration {
            Registration::Open => true,
            Registration::Closed => false,
            Registration::Auto => api.ip().is_loopback(),
        }
    }
}

/// `[secrets]`; read by `datadir::load_or_create_keys`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsSettings {
    /// Empty: `seal.keys` in the data folder.
    pub key_file: PathBuf,
    /// The keys themselves.
    pub keys: Secret,
}

/// `[quota]`; -1 is no limit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaSettings {
    /// For a new user.
    pub apps_per_user: i32,
    /// For a new app.
    pub units_per_app: i32,
}

/// `[apps]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppsSettings {
    /// Lines kept for one app.
    pub log_lines: usize,
    /// For requests that a leaving unit has begun.
    #[serde(rename = "drain_seconds", deserialize_with = "values::seconds")]
    pub drain: Duration,
    /// Between SIGTERM and SIGKILL.
    #[serde(rename = "stop_grace_seconds", deserialize_with = "values::seconds")]
    pub stop_grace: Duration,
    /// For the first good answer of a new unit.
    #[serde(rename = "health_timeout_seconds", deserialize_with = "values::seconds")]
    pub health_timeout: Duration,
}

/// `[builds]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildsSettings {
    /// For one build.
    #[serde(rename = "deadline_seconds", deserialize_with = "values::seconds")]
    pub deadline: Duration,
    /// Of what a build prints.
    pub max_output_bytes: Bytes,
    /// Of the source.
    pub max_unpacked_bytes: Bytes,
    /// Of what a build writes.
    pub max_disk_bytes: Bytes,
    /// Of the source.
    pub max_files: u64,
    /// At least 1.
    pub concurrency: usize,
    /// Names of variables.
    pub pass_environment: Vec<String>,
}

/// `[git]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSettings {
    /// What is deployed where an app has chosen nothing else.
    pub default_branch: BranchName,
    /// Of one repository.
    pub max_repository_bytes: Bytes,
    /// Empty, or an `http(s)` URL without a slash at the end.
    pub replica_url: String,
}

/// `[local]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalSettings {
    /// 0, or at least 1000 so that no account of the system is hit.
    pub first_uid: u32,
    /// Units and builds are kept to their files.
    pub landlock: bool,
    /// Units and builds are refused system calls.
    pub seccomp: bool,
    /// Units and builds may listen on any TCP port.
    pub listen_anywhere: bool,
    /// Absolute; beyond the system's.
    pub readable: Vec<PathBuf>,
    /// Absolute; beyond their own.
    pub writable: Vec<PathBuf>,
    /// Of one unit, at least 16.
    pub max_processes: u64,
    /// Of one process, at least 64.
    pub max_open_files: u64,
    /// Of one unit; 0 or at least a megabyte.
    pub scratch_bytes: Bytes,
}

/// `[services]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesSettings {
    /// For a connection.
    #[serde(rename = "connect_timeout_seconds", deserialize_with = "values::seconds")]
    pub connect_timeout: Duration,
    /// For a whole answer.
    #[serde(rename = "timeout_seconds", deserialize_with = "values::seconds")]
    pub timeout: Duration,
    /// Of one answer.
    pub max_answer_bytes: Bytes,
    /// At least 1.
    pub concurrency_per_service: usize,
    /// At least 1.
    pub breaker_failures: u32,
    /// How long the breaker stays open.
    #[serde(rename = "breaker_seconds", deserialize_with = "values::seconds")]
    pub breaker: Duration,
    /// See `may_call_private`.
    pub allow_private_addresses: Choice,
}

impl ServicesSettings {
    /// Whether the API of a service may be at a private address.
    pub fn may_call_private(&self, database: &DatabaseSettings) -> bool {
        match self.allow_private_addresses {
            Choice::Yes => true,
            Choice::No => false,
            Choice::Auto => database.is_managed(),
        }
    }
}

/// `[mail]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSettings {
    /// Empty: mails go to a folder. A secret because of the password in it.
    pub smtp_url: Secret,
    /// An address, with or without a name.
    pub from: String,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSettings {
    /// The first administrator.
    pub email: Email,
    /// Empty, if none is given here.
    pub password: Secret,
    /// Empty, if none is given here; never both.
    pub password_file: PathBuf,
}

/// `[events]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsSettings {
    /// Days for which what has ended is kept, at least 30; 0: for ever.
    pub keep_days: i32,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// Form of a line.
    pub format: LogFormat,
    /// Which lines; `telemetry::logs` reads it.
    pub filter: String,
}

impl Settings {
    /// Reads all layers. `env` is usually `environment()`; without `file`, its `TANCHO_CONFIG` names one.
    /// `overrides` are the options of the command line by path of the key.
    /// Errors: `Invalid`, naming the setting and where it came from; never showing a secret.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(&str, toml::Value)],
    ) -> Result<Self, Problem> {
        Layers::read(file, env, overrides)?.settings()
    }

    /// The defaults alone.
    pub fn defaults() -> Self {
        Self::load(None, std::iter::empty(), &[]).expect("config.example.toml is tested to load")
    }
}
