//! The settings: what an operator can configure, in typed groups.
//!
//! There are four layers, of which later ones take precedence: the defaults (`config.example.toml`, which is
//! compiled in and is also the manual), a file, the environment (`TANCHO_*`, derived from the known keys),
//! the options of the command line. An unknown name is an error that suggests the most similar known one, so
//! a typo never falls back to a default silently. Settings are validated once, here; code that has a
//! `Settings` need not check again.
//!
//! Secrets are `Secret`; no error and no `Debug` output of this module shows one.

mod acme;
mod docker;
mod layers;
mod router;
mod ssh;
#[cfg(test)]
mod tests;
mod tls;
mod upgrade;
mod validation;
mod values;
mod volumes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use self::acme::AcmeSettings;
pub use self::docker::{ContainerCapabilities, DockerProvisionerSettings};
pub use self::layers::{ConfigLayers, process_variable, tancho_environment};
pub use self::router::RouterSettings;
pub use self::ssh::SshSettings;
pub use self::tls::TlsSettings;
pub use self::upgrade::UpgradeSettings;
pub use self::values::{AutoFlag, IpNetwork, LogFormat, RegistrationPolicy, ServerRole};
pub use self::volumes::{SIZE_OPTION, VolumePlan, VolumesSettings};
use crate::kernel::byte_size::ByteSize;
use crate::kernel::error::Error;
use crate::kernel::names::{BranchName, Email};
use crate::kernel::secret::Secret;

/// All settings. `config.example.toml` documents their meaning and defaults; the comments here add what the
/// types do not express.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The folder for everything on disk.
    pub data_dir: PathBuf,
    /// The roles of this process; never empty.
    pub roles: Vec<ServerRole>,
    /// The API.
    pub api: ApiSettings,
    /// `git` over SSH.
    pub ssh: SshSettings,
    /// The HTTP router.
    pub router: RouterSettings,
    /// The operator's certificate.
    pub tls: TlsSettings,
    /// Ordered certificates.
    pub acme: AcmeSettings,
    /// The database.
    pub database: DatabaseSettings,
    /// Users, tokens, passwords.
    pub auth: AuthSettings,
    /// The encryption keys.
    pub secrets: SecretsSettings,
    /// Quotas for new users and apps.
    pub quota: QuotaSettings,
    /// Units and their logs.
    pub apps: AppsSettings,
    /// Runs of jobs.
    pub jobs: JobsSettings,
    /// Builds.
    pub builds: BuildsSettings,
    /// The repositories of apps.
    pub git: GitSettings,
    /// The provisioner that runs processes on this host.
    pub local: LocalProvisionerSettings,
    /// The provisioner that runs containers on this host.
    pub docker: DockerProvisionerSettings,
    /// Volumes.
    pub volumes: VolumesSettings,
    /// Calls to the APIs of services.
    pub services: ServicesSettings,
    /// Mails to users.
    pub mail: MailSettings,
    /// The first administrator.
    pub admin: AdminSettings,
    /// Upgrades.
    pub upgrade: UpgradeSettings,
    /// Events.
    pub events: EventsSettings,
    /// Logs.
    pub log: LogSettings,
}

/// `[api]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiSettings {
    /// The address to listen on; port 0 picks a free one.
    #[serde(deserialize_with = "values::listen")]
    pub listen: SocketAddr,
    /// The address to listen on with TLS; port 0 picks a free one. `None`: no TLS.
    #[serde(deserialize_with = "values::listen_or_not")]
    pub https_listen: Option<SocketAddr>,
    /// Empty, or an `http(s)` URL without a slash at the end. See `check_public_url`.
    pub public_url: String,
    /// Additional host names, without ports.
    pub hosts: Vec<String>,
    /// The maximum size of an ordinary body.
    pub max_body_bytes: ByteSize,
    /// The maximum size of a source archive.
    pub max_upload_bytes: ByteSize,
    /// Concurrent connections, at least 1.
    pub max_connections: usize,
    /// Concurrent connections from one address; 0: half of them. See `connections_per_address`.
    pub max_connections_per_address: usize,
    /// The timeout of requests that do not stream.
    #[serde(rename = "request_timeout_seconds", deserialize_with = "values::seconds")]
    pub request_timeout: Duration,
    /// How long to wait for requests in progress when stopping.
    #[serde(rename = "drain_seconds", deserialize_with = "values::seconds")]
    pub drain_timeout: Duration,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNetwork>,
}

impl ApiSettings {
    /// Returns how many connections one address may have, other than a trusted proxy.
    pub fn connections_per_address(&self) -> usize {
        router::limit_per_address(self.max_connections, self.max_connections_per_address)
    }

    /// True if only this machine reaches the API.
    pub fn is_loopback_only(&self) -> bool {
        let all = std::iter::once(self.listen).chain(self.https_listen);
        all.into_iter().all(|address| address.ip().is_loopback())
    }

    /// Returns the URL for links, without a slash at the end. `bound` is the actual listen address.
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

/// `[database]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// Empty: the managed Postgres. A secret because of the password in it.
    pub url: Secret,
    /// At least 2: one connection listens for notices.
    pub max_connections: u32,
    /// How long the managed Postgres may take to become ready.
    #[serde(rename = "start_timeout_seconds", deserialize_with = "values::seconds")]
    pub start_timeout: Duration,
    /// How long to wait for a free connection.
    #[serde(rename = "acquire_timeout_seconds", deserialize_with = "values::seconds")]
    pub acquire_timeout: Duration,
    /// The timeout of one statement.
    #[serde(rename = "statement_timeout_seconds", deserialize_with = "values::seconds")]
    pub statement_timeout: Duration,
}

impl DatabaseSettings {
    /// True if Tancho runs Postgres itself.
    pub fn is_managed(&self) -> bool {
        self.url.is_empty()
    }
}

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// See `is_registration_open`.
    pub registration: RegistrationPolicy,
    /// At least 1.
    pub token_days: u32,
    /// 0: no limit.
    pub max_sessions: u32,
    /// Failed logins within the window, at least 1.
    pub login_attempts_per_account: u32,
    /// Failed logins within the window, at least 1.
    pub login_attempts_per_address: u32,
    /// The window for both limits.
    #[serde(rename = "login_window_seconds", deserialize_with = "values::seconds")]
    pub login_window: Duration,
    /// Memory of one hash in KiB, at least 8.
    pub hash_memory_kib: u32,
    /// Concurrent hashes, at least 1.
    pub hash_concurrency: usize,
}

impl AuthSettings {
    /// True if anonymous callers may create users, given the settings of the API.
    pub fn is_registration_open(&self, api: &ApiSettings) -> bool {
        match self.registration {
            RegistrationPolicy::Open => true,
            RegistrationPolicy::Closed => false,
            RegistrationPolicy::Auto => api.is_loopback_only(),
        }
    }

    /// True if registration is open only because the API listens on loopback.
    pub fn is_open_on_loopback_only(&self, api: &ApiSettings) -> bool {
        self.registration == RegistrationPolicy::Auto && api.is_loopback_only()
    }
}

/// `[secrets]`; read by `datadir::load_or_create_keys`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsSettings {
    /// Empty: `seal.keys` in the data folder.
    pub key_file: PathBuf,
    /// The keys themselves, instead of a file.
    pub keys: Secret,
}

/// `[quota]`; -1: no limit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaSettings {
    /// Apps of a new user.
    pub apps_per_user: i32,
    /// Units of a new app.
    pub units_per_app: i32,
}

/// `[apps]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppsSettings {
    /// Log lines kept per app.
    pub log_lines: usize,
    /// How long a draining unit may take to finish its requests.
    #[serde(rename = "drain_seconds", deserialize_with = "values::seconds")]
    pub drain_timeout: Duration,
    /// The time between SIGTERM and SIGKILL.
    #[serde(rename = "stop_grace_seconds", deserialize_with = "values::seconds")]
    pub stop_grace: Duration,
    /// How long a new unit may take to become healthy.
    #[serde(rename = "health_timeout_seconds", deserialize_with = "values::seconds")]
    pub health_timeout: Duration,
    /// The maximum that a version may request instead.
    #[serde(rename = "max_deploy_timeout_seconds", deserialize_with = "values::seconds")]
    pub max_deploy_timeout: Duration,
}

/// `[jobs]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobsSettings {
    /// Concurrent runs on a host, at least 1.
    pub max_running: u32,
    /// Concurrent runs of the jobs of one team, at least 1.
    pub max_running_per_team: u32,
    /// Ended runs kept per job, at least 1.
    pub keep_runs: u32,
}

/// `[builds]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildsSettings {
    /// The deadline of one build.
    #[serde(rename = "deadline_seconds", deserialize_with = "values::seconds")]
    pub deadline: Duration,
    /// The maximum output of a build.
    pub max_output_bytes: ByteSize,
    /// The maximum size of the unpacked source.
    pub max_unpacked_bytes: ByteSize,
    /// The maximum that a build may write to disk.
    pub max_disk_bytes: ByteSize,
    /// The maximum memory of all processes of a build; 0: no limit.
    pub max_memory_bytes: ByteSize,
    /// The maximum number of files in the source.
    pub max_files: u64,
    /// Concurrent builds, at least 1.
    pub concurrency: usize,
    /// Names of environment variables that builds get.
    pub pass_environment: Vec<String>,
}

/// `[git]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSettings {
    /// The branch that is deployed unless an app names another.
    pub default_branch: BranchName,
    /// The maximum size of one repository.
    pub max_repository_bytes: ByteSize,
    /// Empty, or an `http(s)` URL without a slash at the end.
    pub replica_url: String,
}

/// `[local]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalProvisionerSettings {
    /// 0, or at least 1000 so that no system account is used.
    pub first_uid: u32,
    /// Restricts units and builds to their own files (Landlock).
    pub landlock: bool,
    /// Filters the system calls of units and builds (seccomp).
    pub seccomp: bool,
    /// Gives units and builds their own `/dev/shm` and System V memory, or none.
    pub namespaces: bool,
    /// Allows units and builds to listen on any TCP port.
    pub listen_anywhere: bool,
    /// Absolute paths that are readable in addition to the system's.
    pub readable: Vec<PathBuf>,
    /// Absolute paths that are writable in addition to their own.
    pub writable: Vec<PathBuf>,
    /// Per unit, at least 16.
    pub max_processes: u64,
    /// Per process, at least 64.
    pub max_open_files: u64,
    /// Per unit; 0 or at least 1 MiB.
    pub scratch_bytes: ByteSize,
}

/// `[services]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesSettings {
    /// The timeout for connecting.
    #[serde(rename = "connect_timeout_seconds", deserialize_with = "values::seconds")]
    pub connect_timeout: Duration,
    /// The timeout for a whole response.
    #[serde(rename = "timeout_seconds", deserialize_with = "values::seconds")]
    pub call_timeout: Duration,
    /// The maximum size of one response.
    pub max_answer_bytes: ByteSize,
    /// Concurrent calls to one service, at least 1.
    pub concurrency_per_service: usize,
    /// Consecutive failures that open the circuit breaker, at least 1.
    pub breaker_failures: u32,
    /// How long the circuit breaker stays open.
    #[serde(rename = "breaker_seconds", deserialize_with = "values::seconds")]
    pub breaker_open_time: Duration,
    /// See `allows_private_addresses`.
    pub allow_private_addresses: AutoFlag,
}

impl ServicesSettings {
    /// True if the API of a service may be at a private address.
    pub fn allows_private_addresses(&self, database: &DatabaseSettings) -> bool {
        match self.allow_private_addresses {
            AutoFlag::Yes => true,
            AutoFlag::No => false,
            AutoFlag::Auto => database.is_managed(),
        }
    }
}

/// `[mail]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSettings {
    /// Empty: mails are written to a folder. A secret because of the password in it.
    pub smtp_url: Secret,
    /// The sender: an e-mail address, with or without a display name.
    pub from: String,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSettings {
    /// The e-mail address of the first administrator.
    pub email: Email,
    /// Empty if not set here.
    pub password: Secret,
    /// Empty if not set here; never set together with `password`.
    pub password_file: PathBuf,
}

/// `[events]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsSettings {
    /// How many days ended events are kept, at least 30; 0: for ever.
    pub keep_days: i32,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// The format of log lines.
    pub format: LogFormat,
    /// Selects the log lines; parsed by `telemetry::logs`.
    pub filter: String,
}

impl Settings {
    /// Loads all layers. `env` is usually `tancho_environment()`; without `file`, its `TANCHO_CONFIG` names
    /// one. `overrides` are the options of the command line by dotted key. Errors: `Invalid`, naming the
    /// setting and its source, never showing a secret.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(&str, toml::Value)],
    ) -> Result<Self, Error> {
        ConfigLayers::read_all(file, env, overrides)?.build_settings()
    }

    /// Loads the defaults alone.
    pub fn defaults() -> Self {
        Self::load(None, std::iter::empty(), &[]).expect("config.example.toml is tested to load")
    }
}
