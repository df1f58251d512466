//! The command line: the command, and the settings it overrides.
//!
//! The options are the same for every command and may precede or follow it. They become overrides of
//! settings, so that all settings are validated in one place (`config`).

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use toml::Value;

use crate::config::{ConfigLayers, Settings, tancho_environment};
use crate::datadir::DataDir;
use crate::db::local::LocalPostgres;
use crate::kernel::error::Error;
use crate::kernel::names::Email;
use crate::kernel::secret::Secret;
use crate::telemetry::logs;

/// How long `tancho down` waits for Postgres to flush.
const POSTGRES_STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// The command to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliCommand {
    /// Run the server, with the configured roles.
    Serve,
    /// Run the router alone.
    Router,
    /// See `commands::handover`.
    Upgrade,
    /// Migrate the database and exit.
    Migrate,
    /// See `check_config`.
    CheckConfig,
    /// Stop units and the managed Postgres.
    Down,
    /// See `key_rotation::list_keys`.
    ListKeys,
    /// See `key_rotation::rotate_keys`.
    RotateKeys,
    /// Create an administrator. Without a file, the password is the first line of standard input.
    CreateAdmin {
        /// The user.
        email: Email,
        /// The file with the password.
        password_file: Option<PathBuf>,
    },
    /// See `commands::import`.
    ImportTsuru(ImportArguments),
}

/// The arguments of `tancho import tsuru`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ImportArguments {
    /// URL of the server to import from
    #[arg(long, value_name = "URL")]
    pub target: String,
    /// Token of an administrator there; other users of this machine can see it, so prefer the variable
    #[arg(long, value_name = "TOKEN", env = "TSURU_TOKEN", hide_env_values = true, value_parser = parse_secret)]
    pub token: Secret,
    /// URL of the server to import to [default: the API of these settings]
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// Token of an administrator of the server to import to
    #[arg(long, value_name = "TOKEN", env = "TSURU_TO_TOKEN", hide_env_values = true, value_parser = parse_secret)]
    pub to_token: Secret,
    /// Only print what would be created
    #[arg(long)]
    pub dry_run: bool,
}

fn parse_secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// A parsed command line. It has no `Debug`, because the database URL contains a password.
pub struct CommandLine {
    /// The command.
    pub command: CliCommand,
    /// The settings file, if one was given.
    pub config: Option<PathBuf>,
    /// Take the place of the process that runs on the data folder. Only with `CliCommand::Serve`.
    pub takes_over: bool,
    /// Settings by dotted key.
    pub overrides: Vec<(&'static str, Value)>,
}

impl CommandLine {
    /// Loads the settings, with the environment of this process. Errors: as `Settings::load`.
    pub fn load_settings(&self) -> Result<Settings, Error> {
        Settings::load(self.config.as_deref(), tancho_environment(), &self.overrides)
    }
}

/// A platform-as-a-service in one binary that speaks the tsuru API.
///
/// Default command: `serve`. By default, data is in ./tancho-data, with a managed Postgres.
#[derive(Parser)]
#[command(name = "tancho", version, max_term_width = 100)]
struct CliArguments {
    #[command(subcommand)]
    verb: Option<CliVerb>,
    #[command(flatten)]
    options: CliOptions,
}

#[derive(Subcommand)]
enum CliVerb {
    /// Run Tancho (the default)
    Serve,
    /// Run only the router, beside a Tancho on the same database
    Router,
    /// Replace the running Tancho by this program: no request, stream or push is lost, and if it fails nothing changes
    Upgrade,
    /// Migrate the database and exit
    Migrate,
    /// Check the settings and print those that differ from the defaults
    CheckConfig,
    /// Stop the apps and the Postgres that keep running after Tancho has exited
    Down,
    /// Manage the keys that encrypt variables and passwords in the database
    Keys {
        #[command(subcommand)]
        verb: KeysVerb,
    },
    /// Manage users without the API
    User {
        #[command(subcommand)]
        verb: UserVerb,
    },
    /// Create here what another server has; can be repeated
    Import {
        #[command(subcommand)]
        verb: ImportVerb,
    },
}

#[derive(Subcommand)]
enum ImportVerb {
    /// Import teams, users, roles, pools, plans, instances and apps from a server that speaks the tsuru API
    Tsuru(ImportArguments),
}

#[derive(Subcommand)]
enum KeysVerb {
    /// List the keys: which one is current, how many values each encrypts, which servers have it
    List,
    /// Re-encrypt everything with a new key while servers run, and remove the old one; can be repeated
    Rotate,
}

#[derive(Subcommand)]
enum UserVerb {
    /// Create an administrator; the password is read from standard input
    CreateAdmin {
        /// The e-mail address
        email: Email,
        /// Read the password from this file instead
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

#[derive(Args)]
struct CliOptions {
    /// Settings file; only what differs from the defaults [variable: TANCHO_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder [default: ./tancho-data]
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Address and port of the API; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "ADDRESS")]
    api: Option<String>,
    /// Address and port of git over SSH; port 0 picks a free one [default: 127.0.0.1:2222]
    #[arg(long, global = true, value_name = "ADDRESS")]
    ssh: Option<String>,
    /// Address and port of the router; port 0 picks a free one [default: 127.0.0.1:8888]
    #[arg(long = "router", global = true, value_name = "ADDRESS")]
    router_listen: Option<String>,
    /// URL of an external Postgres; other users of this machine can see it, so prefer the variable
    /// DATABASE_URL
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Roles of this process: api, worker, router, separated by commas [default: all]
    #[arg(long, global = true, value_name = "ROLES", value_delimiter = ',')]
    roles: Option<Vec<String>>,
    /// Take the place of the Tancho that runs on the data folder, if there is one; see `tancho upgrade`
    #[arg(long, global = true)]
    take_over: bool,
}

/// Parses a command line, the program's name first. Errors: clap's own, including `--help` and `--version`;
/// `error.exit()` prints each appropriately.
pub fn parse_command_line(
    line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<CommandLine, clap::Error> {
    let arguments = CliArguments::try_parse_from(line)?;
    let command = match arguments.verb {
        None | Some(CliVerb::Serve) => CliCommand::Serve,
        Some(CliVerb::Router) => CliCommand::Router,
        Some(CliVerb::Upgrade) => CliCommand::Upgrade,
        Some(CliVerb::Migrate) => CliCommand::Migrate,
        Some(CliVerb::CheckConfig) => CliCommand::CheckConfig,
        Some(CliVerb::Down) => CliCommand::Down,
        Some(CliVerb::Keys { verb: KeysVerb::List }) => CliCommand::ListKeys,
        Some(CliVerb::Keys {
            verb: KeysVerb::Rotate,
        }) => CliCommand::RotateKeys,
        Some(CliVerb::User {
            verb: UserVerb::CreateAdmin { email, password_file },
        }) => CliCommand::CreateAdmin { email, password_file },
        Some(CliVerb::Import {
            verb: ImportVerb::Tsuru(arguments),
        }) => CliCommand::ImportTsuru(arguments),
    };
    let mut options = arguments.options;
    if command == CliCommand::Router && options.roles.replace(vec!["router".to_owned()]).is_some() {
        let words = "`tancho router` has the role router; use `tancho serve --roles …` for others";
        return Err(CliArguments::command().error(ErrorKind::ArgumentConflict, words));
    }
    let takes_over = options.take_over;
    if takes_over && command != CliCommand::Serve {
        let words = "`--take-over` belongs to `tancho serve`";
        return Err(CliArguments::command().error(ErrorKind::ArgumentConflict, words));
    }
    let config = options.config.take();
    Ok(CommandLine {
        command,
        config,
        takes_over,
        overrides: collect_overrides(options),
    })
}

fn collect_overrides(options: CliOptions) -> Vec<(&'static str, Value)> {
    let list = |items: Vec<String>| {
        Value::Array(
            items
                .into_iter()
                .map(|i| Value::String(i.trim().to_owned()))
                .collect(),
        )
    };
    [
        ("data_dir", options.data_dir.map(Value::String)),
        ("api.listen", options.api.map(Value::String)),
        ("ssh.listen", options.ssh.map(Value::String)),
        ("router.listen", options.router_listen.map(Value::String)),
        ("database.url", options.database_url.map(Value::String)),
        ("roles", options.roles.map(list)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect()
}

/// `tancho check-config`: prints the settings that differ from the defaults, as TOML with their sources,
/// secrets masked. Errors: the first invalid setting.
pub fn check_config(
    invocation: &CommandLine,
    env: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
) -> Result<(), Error> {
    let layers = ConfigLayers::read_all(invocation.config.as_deref(), env, &invocation.overrides)?;
    let settings = layers.build_settings()?;
    logs::check_filter(&settings.log)?;
    let changes = layers.list_changes();
    let head = match changes.len() {
        0 => "# The settings are valid; all are the defaults.".to_owned(),
        n => format!("# The settings are valid; {n} differ from the defaults:"),
    };
    std::iter::once(&head)
        .chain(&changes)
        .try_for_each(|line| writeln!(out, "{line}"))
        .map_err(|error| Error::unavailable(format!("Cannot print the settings: {error}.")))
}

/// The part of `tancho down` that stops the managed Postgres. Returns whether one was running. Errors:
/// `Conflict` while a Tancho runs on the folder, `Invalid` if there is no such folder.
pub async fn stop_postgres(data_dir: &Path) -> Result<bool, Error> {
    // Not `open` at once: it would create a folder for a mistyped path.
    DataDir::open_unlocked(data_dir)?;
    let dir = DataDir::open(data_dir)?;
    match LocalPostgres::find_running(&dir)? {
        Some(running) => running.shut_down(POSTGRES_STOP_TIMEOUT).await.map(|()| true),
        None => Ok(false),
    }
}

/// Closes inherited file descriptors other than standard input, output and error, and those of a list. Postgres and units outlive
/// Tancho, and would keep an inherited pipe open for a process that waits for its end. Must be called first
/// in `main`, before Tancho opens any other descriptor.
pub fn close_inherited_descriptors(kept: &[RawFd]) {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let inherited: Vec<RawFd> = numbers
        .filter(|number| *number > 2 && !kept.contains(number))
        .collect();
    for number in inherited {
        // One of them was the directory listing itself, which is closed by now.
        let _ = nix::unistd::close(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> CommandLine {
        parse_command_line(line.split(' '))
            .map_err(|error| error.to_string())
            .unwrap()
    }

    fn refusal(line: &str) -> String {
        parse_command_line(line.split(' ')).err().unwrap().to_string()
    }

    #[test]
    fn command_line_definition_is_valid() {
        CliArguments::command().debug_assert();
    }

    #[test]
    fn help_shows_the_defaults() {
        let help = CliArguments::command().render_long_help().to_string();
        let defaults = Settings::defaults();
        for default in [
            defaults.data_dir.display().to_string(),
            defaults.api.listen.to_string(),
            defaults.ssh.listen.unwrap().to_string(),
            defaults.router.listen.to_string(),
        ] {
            assert!(
                help.contains(&format!("[default: {default}]")),
                "{default}: {help}"
            );
        }
    }

    #[test]
    fn every_command_is_parsed() {
        let email = Email::parse("ana@example.com").unwrap();
        let admin = |password_file: Option<&str>| CliCommand::CreateAdmin {
            email: email.clone(),
            password_file: password_file.map(PathBuf::from),
        };
        for (line, command) in [
            ("tancho", CliCommand::Serve),
            ("tancho serve", CliCommand::Serve),
            ("tancho router", CliCommand::Router),
            ("tancho migrate", CliCommand::Migrate),
            ("tancho check-config", CliCommand::CheckConfig),
            ("tancho down", CliCommand::Down),
            ("tancho keys list", CliCommand::ListKeys),
            ("tancho keys rotate", CliCommand::RotateKeys),
            ("tancho user create-admin ana@example.com", admin(None)),
            (
                "tancho user create-admin ana@example.com --password-file f",
                admin(Some("f")),
            ),
            (
                "tancho import tsuru --target http://old --token a --to-token b --dry-run",
                CliCommand::ImportTsuru(ImportArguments {
                    target: "http://old".into(),
                    token: Secret::new("a"),
                    to: None,
                    to_token: Secret::new("b"),
                    dry_run: true,
                }),
            ),
        ] {
            assert_eq!(read(line).command, command, "{line}");
        }
        assert!(refusal("tancho user create-admin ana").contains("ana@example.com"));
        assert!(refusal("tancho dwon").contains("'down'"));
    }

    #[test]
    fn options_override_settings_before_and_after_the_command() {
        for line in [
            "tancho --api 127.0.0.1:0 --roles api,worker --data-dir /d --config c.toml",
            "tancho serve --api 127.0.0.1:0 --roles api,worker --data-dir /d --config c.toml",
            "tancho --api 127.0.0.1:0 serve --roles api,worker --data-dir /d --config c.toml",
        ] {
            let read = read(line);
            assert_eq!(read.config.as_deref(), Some(Path::new("c.toml")), "{line}");
            let settings = Settings::load(None, std::iter::empty(), &read.overrides).unwrap();
            assert_eq!(settings.api.listen.port(), 0);
            assert_eq!(settings.roles.len(), 2);
            assert_eq!(settings.data_dir, Path::new("/d"));
        }
    }

    #[test]
    fn router_command_has_one_role() {
        let read = read("tancho router --router 127.0.0.1:0 --database-url postgres://h/d");
        let settings = Settings::load(None, std::iter::empty(), &read.overrides).unwrap();
        assert_eq!(settings.roles, [crate::config::ServerRole::Router]);
        assert_eq!(settings.router.listen.port(), 0);
        assert_eq!(settings.database.url.expose_secret(), "postgres://h/d");
        assert!(refusal("tancho router --roles api").contains("serve --roles"));
    }

    #[test]
    fn check_config_prints_changed_settings_without_secrets() {
        let check = |line: &str, env: &[(&str, &str)]| {
            let mut out = Vec::new();
            let env: Vec<_> = env
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect();
            check_config(&read(line), env.into_iter(), &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        let text = check(
            "tancho check-config --api 127.0.0.1:0 --database-url postgres://u:hush@h/d",
            &[],
        )
        .unwrap();
        assert!(
            text.contains("api.listen = \"127.0.0.1:0\"") && text.contains("database.url = \"[secret]\""),
            "{text}"
        );
        assert!(!text.contains("hush"), "{text}");
        assert!(
            check("tancho check-config", &[])
                .unwrap()
                .contains("all are the defaults")
        );
        assert!(
            check("tancho check-config --api here", &[])
                .unwrap_err()
                .message()
                .contains("`api.listen`")
        );
        let filter = [("TANCHO_LOG_FILTER", "x=y=z")];
        assert!(
            check("tancho check-config", &filter)
                .unwrap_err()
                .message()
                .contains("`log.filter`")
        );
    }

    #[tokio::test]
    async fn down_creates_no_folder() {
        let path = std::env::temp_dir().join(format!("tancho-none-{}", uuid::Uuid::new_v4()));
        assert!(stop_postgres(&path).await.is_err());
        assert!(!path.exists());
    }
}
