//! The command line: which command, and which settings it overrides.
//!
//! The options are the same for every command and may stand before or after it. They become overrides of settings,
//! so that one place (`config`) checks them, wherever they came from.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use toml::Value;

use crate::config::{Layers, Settings, environment};
use crate::datadir::DataDir;
use crate::db::local::LocalPostgres;
use crate::kernel::names::Email;
use crate::kernel::problem::Problem;
use crate::telemetry::logs;

/// How long `tancho down` lets Postgres write what it has.
const DOWN: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run, with the roles of the settings.
    Serve,
    /// Run the proxy alone.
    Router,
    /// Bring the database up to date and end.
    Migrate,
    /// See `check_config`.
    CheckConfig,
    /// Stop units and the managed Postgres.
    Down,
    /// See `sealing::list`.
    ListKeys,
    /// See `sealing::rotate`.
    RotateKeys,
    /// Make an administrator. Without a file, the password is the first line of standard input.
    CreateAdmin {
        /// Who.
        email: Email,
        /// Where the password is.
        password_file: Option<PathBuf>,
    },
}

/// A command line, read. It has no `Debug`, because the URL of the database holds a password.
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The file of settings, if one was named.
    pub config: Option<PathBuf>,
    /// Settings by path of the key.
    pub overrides: Vec<(&'static str, Value)>,
}

impl Invocation {
    /// The settings of this run, with the environment of this process. Errors: as `Settings::load`.
    pub fn settings(&self) -> Result<Settings, Problem> {
        Settings::load(self.config.as_deref(), environment(), &self.overrides)
    }
}

/// A platform-as-a-service in one binary that speaks the tsuru API.
///
/// Without a command: `serve`. Without options: data under ./tancho-data, with a Postgres of its own.
#[derive(Parser)]
#[command(name = "tancho", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Verb {
    /// Run Tancho (the default)
    Serve,
    /// Run only the router, beside a Tancho on the same database
    Router,
    /// Bring the database up to date and end
    Migrate,
    /// Check the settings and print those that differ from the defaults
    CheckConfig,
    /// Stop the apps and the Postgres that go on after Tancho has ended
    Down,
    /// Manage the keys that seal variables and passwords in the database
    Keys {
        #[command(subcommand)]
        verb: KeysVerb,
    },
    /// Manage users without the API
    User {
        #[command(subcommand)]
        verb: UserVerb,
    },
}

#[derive(Subcommand)]
enum KeysVerb {
    /// Show the keys by number: which one seals, what is sealed with each, who has it
    List,
    /// Seal everything with a new key, beside servers at work, and take the old one away; can be run again
    Rotate,
}

#[derive(Subcommand)]
enum UserVerb {
    /// Make an administrator; the password is read from standard input
    CreateAdmin {
        /// The e-mail address
        email: Email,
        /// Read the password from this file instead
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Options {
    /// File of settings; only what differs from the defaults [variable: TANCHO_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of everything on disk [default: ./tancho-data]
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Address and port of the API; port 0 picks one [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "ADDRESS")]
    api: Option<String>,
    /// Address and port of git over SSH; port 0 picks one [default: 127.0.0.1:2222]
    #[arg(long, global = true, value_name = "ADDRESS")]
    ssh: Option<String>,
    /// Address and port of the router; port 0 picks one [default: 127.0.0.1:8888]
    #[arg(long = "router", global = true, value_name = "ADDRESS")]
    router_listen: Option<String>,
    /// URL of a Postgres; others on this machine can see it here, so better the variable DATABASE_URL
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// What this process does: api, worker, router, separated by commas [default: all]
    #[arg(long, global = true, value_name = "ROLES", value_delimiter = ',')]
    roles: Option<Vec<String>>,
}

/// Reads a command line, the program's name first. Errors: clap's own, which also are `--help` and `--version`;
/// `error.exit()` prints each as it should be.
pub fn parse(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Invocation, clap::Error> {
    let arguments = Arguments::try_parse_from(line)?;
    let command = match arguments.verb {
        None | Some(Verb::Serve) => Command::Serve,
        Some(Verb::Router) => Command::Router,
        Some(Verb::Migrate) => Command::Migrate,
        Some(Verb::CheckConfig) => Command::CheckConfig,
        Some(Verb::Down) => Command::Down,
        Some(Verb::Keys { verb: KeysVerb::List }) => Command::ListKeys,
        Some(Verb::Keys {
            verb: KeysVerb::Rotate,
        }) => Command::RotateKeys,
        Some(Verb::User {
            verb: UserVerb::CreateAdmin { email, password_file },
        }) => Command::CreateAdmin { email, password_file },
    };
    let mut options = arguments.options;
    if command == Command::Router && options.roles.replace(vec!["router".to_owned()]).is_some() {
        let words = "`tancho router` has the role router; use `tancho serve --roles …` for others";
        return Err(Arguments::command().error(ErrorKind::ArgumentConflict, words));
    }
    let config = options.config.take();
    Ok(Invocation {
        command,
        config,
        overrides: overrides(options),
    })
}

fn overrides(options: Options) -> Vec<(&'static str, Value)> {
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

/// `tancho check-config`: prints what differs from the defaults, as TOML with where it came from, secrets masked.
/// Errors: the first fault of the settings; the caller ends with 1.
pub fn check_config(
    invocation: &Invocation,
    env: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
) -> Result<(), Problem> {
    let layers = Layers::read(invocation.config.as_deref(), env, &invocation.overrides)?;
    let settings = layers.settings()?;
    logs::check(&settings.log)?;
    let changes = layers.changes();
    let head = match changes.len() {
        0 => "# The settings are in order; all are the defaults.".to_owned(),
        n => format!("# The settings are in order; {n} differ from the defaults:"),
    };
    std::iter::once(&head)
        .chain(&changes)
        .try_for_each(|line| writeln!(out, "{line}"))
        .map_err(|error| Problem::unavailable(format!("The settings cannot be printed: {error}.")))
}

/// The part of `tancho down` that stops the managed Postgres. Says whether one was running.
/// Errors: `Conflict` while a Tancho runs on the folder, `Invalid` when there is no such folder.
pub async fn down_postgres(data_dir: &Path) -> Result<bool, Problem> {
    // Not `open` at once: it would make a folder that was only mistyped.
    DataDir::peek(data_dir)?;
    let dir = DataDir::open(data_dir)?;
    match LocalPostgres::find(&dir)? {
        Some(running) => running.stop(DOWN).await.map(|()| true),
        None => Ok(false),
    }
}

/// Closes what whoever started us left open beyond standard input, output and error. Postgres and units outlive
/// Tancho, and would keep such a pipe open for somebody who waits for its end. To be called first in `main`, when
/// nothing of our own is open yet.
pub fn close_inherited() {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let inherited: Vec<RawFd> = numbers.filter(|number| *number > 2).collect();
    for number in inherited {
        // One of them was the listing itself, which is closed by now.
        let _ = nix::unistd::close(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Invocation {
        parse(line.split(' ')).map_err(|error| error.to_string()).unwrap()
    }

    fn refusal(line: &str) -> String {
        parse(line.split(' ')).err().unwrap().to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_names_the_defaults() {
        let help = Arguments::command().render_long_help().to_string();
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
    fn every_command_is_understood() {
        let email = Email::parse("ana@example.com").unwrap();
        let admin = |password_file: Option<&str>| Command::CreateAdmin {
            email: email.clone(),
            password_file: password_file.map(PathBuf::from),
        };
        for (line, command) in [
            ("tancho", Command::Serve),
            ("tancho serve", Command::Serve),
            ("tancho router", Command::Router),
            ("tancho migrate", Command::Migrate),
            ("tancho check-config", Command::CheckConfig),
            ("tancho down", Command::Down),
            ("tancho keys list", Command::ListKeys),
            ("tancho keys rotate", Command::RotateKeys),
            ("tancho user create-admin ana@example.com", admin(None)),
            (
                "tancho user create-admin ana@example.com --password-file f",
                admin(Some("f")),
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
    fn the_router_has_one_role() {
        let read = read("tancho router --router 127.0.0.1:0 --database-url postgres://h/d");
        let settings = Settings::load(None, std::iter::empty(), &read.overrides).unwrap();
        assert_eq!(settings.roles, [crate::config::Role::Router]);
        assert_eq!(settings.router.listen.port(), 0);
        assert_eq!(settings.database.url.expose(), "postgres://h/d");
        assert!(refusal("tancho router --roles api").contains("serve --roles"));
    }

    #[test]
    fn check_config_prints_what_differs_without_secrets() {
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
                .words()
                .contains("`api.listen`")
        );
        let filter = [("TANCHO_LOG_FILTER", "x=y=z")];
        assert!(
            check("tancho check-config", &filter)
                .unwrap_err()
                .words()
                .contains("`log.filter`")
        );
    }

    #[tokio::test]
    async fn down_makes_no_folder() {
        let path = std::env::temp_dir().join(format!("tancho-none-{}", uuid::Uuid::new_v4()));
        assert!(down_postgres(&path).await.is_err());
        assert!(!path.exists());
    }
}
