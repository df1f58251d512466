//! The commands of the command line, from the settings to the exit status.

mod database;
mod handover;
pub mod import;
mod listeners;
mod serve;
mod systemd;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::database::DatabaseServer;
use self::handover::RunningPredecessor;
use self::listeners::{GivenListeners, ListenerName, ProcessListeners};
pub use self::systemd::ActivationSockets;
use crate::cli::{self, CliCommand, CommandLine, ImportArguments};
use crate::config::{Settings, tancho_environment};
use crate::datadir::DataDir;
use crate::db::notices::NoticeHub;
use crate::kernel::drain_plan::DrainPlan;
use crate::kernel::error::Error;
use crate::kernel::ids::ReplicaId;
use crate::kernel::names::Email;
use crate::kernel::secret::Secret;
use crate::provisioners::ProvisionerRegistry;
use crate::provisioners::registry::{PROVISIONERS, RunnerParts};
use crate::server::{self, RouterHttps, RouterParts};
use crate::telemetry::logs;
use crate::{db, key_rotation, users, versions};

/// How long Postgres may take to flush and stop.
const POSTGRES_STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a command. On failure it prints one line to standard error and exits with status 1.
pub fn run_command(invocation: CommandLine, activation: ActivationSockets) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return report_failure(&Error::unavailable(format!(
                "Cannot start the async runtime: {error}."
            )));
        }
    };
    match runtime.block_on(execute_command(invocation, activation)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report_failure(&error),
    }
}

fn report_failure(error: &Error) -> ExitCode {
    // The cause is included: it helps the operator, who may see it.
    let _ = writeln!(std::io::stderr(), "tancho: {}", error.report());
    ExitCode::FAILURE
}

async fn execute_command(invocation: CommandLine, activation: ActivationSockets) -> Result<(), Error> {
    // Fails only if a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if invocation.command == CliCommand::CheckConfig {
        return cli::check_config(&invocation, tancho_environment(), &mut std::io::stdout());
    }
    if invocation.takes_over {
        return take_over(invocation).await;
    }
    let settings = invocation.load_settings()?;
    logs::init_logging(&settings.log)?;
    let given = activation.into_listeners()?;
    match invocation.command {
        CliCommand::Serve => serve::run_serve(settings, given, None).await,
        CliCommand::Router => run_router_alone(settings, given).await,
        CliCommand::Upgrade => {
            print_line(&handover::run_upgrade(&settings.data_dir).await?);
            Ok(())
        }
        CliCommand::Migrate => run_migrate(settings).await,
        CliCommand::Down => run_down(settings).await,
        command @ (CliCommand::ListKeys | CliCommand::RotateKeys) => run_keys(settings, &command).await,
        CliCommand::CreateAdmin { email, password_file } => {
            create_admin(settings, email, password_file).await
        }
        CliCommand::ImportTsuru(arguments) => run_import(&settings, arguments).await,
        CliCommand::CheckConfig => Ok(()),
    }
}

/// Runs the server in the place of the one that runs on its data folder; a failure is also reported to that one.
async fn take_over(invocation: CommandLine) -> Result<(), Error> {
    let starter = RunningPredecessor::from_standard_input();
    let load = || {
        let settings = invocation.load_settings()?;
        logs::init_logging(&settings.log)?;
        Ok(settings)
    };
    match (load(), starter) {
        (Ok(settings), Some(predecessor)) => {
            serve::run_serve(settings, GivenListeners::default(), Some(predecessor)).await
        }
        (Ok(settings), None) => {
            let predecessor = RunningPredecessor::find(&settings.data_dir).await?;
            serve::run_serve(settings, GivenListeners::default(), predecessor).await
        }
        (Err(error), Some(predecessor)) => {
            predecessor.report_failure(&error).await;
            Err(error)
        }
        (Err(error), None) => Err(error),
    }
}

/// Opens all provisioners on the host of a data folder. Their background tasks end at `stop`.
fn open_provisioners(
    settings: &Settings,
    dir: &DataDir,
    host: &str,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<ProvisionerRegistry, Error> {
    let parts = RunnerParts {
        settings,
        data_dir: dir,
        host,
        exe: "/proc/self/exe".into(),
        version_dir: Arc::new(versions::version_dir_rule(dir)),
        app_uid: Arc::new(versions::app_uid_rule(dir, settings)),
        tasks,
        stop: stop.clone(),
    };
    ProvisionerRegistry::open(PROVISIONERS, &parts).map_err(Error::internal)
}

async fn stop_all_units(provisioners: &ProvisionerRegistry, grace: Duration) -> Result<(), Error> {
    let stopped = provisioners.stop_all_units(grace).await;
    stopped.map_err(|error| Error::failed(error.to_string()))
}

/// Runs the second also where the first fails. Errors: the first one; the other one is logged.
async fn run_both(
    first: impl Future<Output = Result<(), Error>>,
    second: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    match (first.await, second.await) {
        (Err(error), Err(other)) => {
            tracing::error!(error = %other.report(), "the shutdown failed in another way too");
            Err(error)
        }
        (first, second) => first.and(second),
    }
}

/// Prints a line to standard output; a closed standard output is ignored.
fn print_line(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Waits for a signal: true for SIGINT, false for SIGTERM.
async fn wait_for_signal() -> Result<bool, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    // SIGHUP (the terminal closed) does not stop the server.
    let _hangup = signal(SignalKind::hangup()).map_err(Error::internal)?;
    tokio::select! {
        _ = terminate.recv() => Ok(false),
        _ = interrupt.recv() => Ok(true),
    }
}

/// Runs the router alone, beside a Tancho on the same database. While the database is unavailable it keeps
/// routing by the addresses it knows.
async fn run_router_alone(settings: Settings, mut given: GivenListeners) -> Result<(), Error> {
    let mut listeners = ProcessListeners::open(&settings, &mut given).await?;
    given.refuse_rest()?;
    let address = listeners.address_or(ListenerName::Router, settings.router.listen)?;
    let Some(listener) = listeners.take(ListenerName::Router) else {
        return Err(Error::internal("a router without its role"));
    };
    let database = DatabaseServer::connect_running(&settings).await?;
    let db = database.open_pool(&settings).await?;
    let https = match listeners.take(ListenerName::RouterHttps) {
        Some(listener) => Some(open_router_https(&settings, listener).await?),
        None => None,
    };
    let https_address = https.as_ref().map(RouterHttps::address);
    let stop = CancellationToken::new();
    let notices = NoticeHub::spawn_listener(db.clone(), stop.clone());
    let parts = RouterParts {
        settings,
        db: db.clone(),
        replica: ReplicaId::new(),
        notices,
        drain: DrainPlan::default(),
        serving: CancellationToken::new(),
        stop: stop.clone(),
    };
    let routing = server::run_router(parts, (listener, https));
    let https = https_address.map(|address| format!(" router_https=https://{address}"));
    print_line(&format!(
        "tancho ready router=http://{address}{}",
        https.unwrap_or_default()
    ));
    systemd::notify_ready();
    let signalled = async {
        wait_for_signal().await?;
        stop.cancel();
        Ok::<(), Error>(())
    };
    let (_, signalled) = tokio::join!(routing, signalled);
    db.close().await;
    signalled
}

/// Prepares the listener of TLS: with the keys that a Tancho has created or was given.
async fn open_router_https(settings: &Settings, listener: TcpListener) -> Result<RouterHttps, Error> {
    let dir = DataDir::open_unlocked(&settings.data_dir)?;
    let keys = key_rotation::KeySource::new(&settings.secrets, &dir).load_keyring()?;
    RouterHttps::open(listener, Arc::new(keys), &settings.tls).await
}

async fn run_migrate(settings: Settings) -> Result<(), Error> {
    let db = match settings.database.is_managed() {
        true => {
            let dir = DataDir::open(&settings.data_dir)?;
            DatabaseServer::start_or_connect(&settings, &dir)
                .await?
                .open_pool(&settings)
                .await?
        }
        false => {
            DatabaseServer::parse_external(&settings)?
                .open_pool(&settings)
                .await?
        }
    };
    db::run_migrations(&db).await?;
    print_line("the database is up to date");
    Ok(())
}

/// Stops the units and the Postgres that a killed Tancho, or one ended by SIGTERM, left running.
async fn run_down(settings: Settings) -> Result<(), Error> {
    // Held while the units are stopped: no Tancho may start some again meanwhile.
    let dir = DataDir::open(&settings.data_dir)?;
    let stop_units = async {
        let host = dir.load_or_create_host_id()?;
        let (tasks, watch) = (TaskTracker::new(), CancellationToken::new());
        let provisioners = open_provisioners(&settings, &dir, &host, &tasks, &watch)?;
        stop_all_units(&provisioners, settings.apps.stop_grace).await?;
        watch.cancel();
        drop(dir);
        print_line("no units are running");
        Ok(())
    };
    let stop_postgres = async {
        if settings.database.is_managed() {
            cli::stop_postgres(&settings.data_dir).await?;
            print_line("no Postgres of this folder is running");
        }
        Ok(())
    };
    run_both(stop_units, stop_postgres).await
}

/// Lists or rotates the encryption keys, beside running servers; these may be of an older version, so the
/// schema is not migrated.
async fn run_keys(settings: Settings, command: &CliCommand) -> Result<(), Error> {
    let db = DatabaseServer::connect_running(&settings)
        .await?
        .open_pool(&settings)
        .await?;
    db::check_schema(&db).await?;
    let source =
        key_rotation::KeySource::new(&settings.secrets, &DataDir::open_unlocked(&settings.data_dir)?);
    match command {
        CliCommand::RotateKeys => {
            key_rotation::rotate_keys(&key_rotation::KeyRotation::new(&db, &source, &print_line)).await?
        }
        _ => key_rotation::list_keys(&db, &source)
            .await?
            .iter()
            .for_each(|line| print_line(line)),
    }
    Ok(())
}

/// Imports from another server through the API of both. Errors: also what this server refused, so that a
/// script notices.
async fn run_import(settings: &Settings, arguments: ImportArguments) -> Result<(), Error> {
    let to = match arguments.to {
        Some(url) => url,
        None => settings.api.public_url(settings.api.listen),
    };
    let report = import::import_tsuru(import::ImportOptions {
        source: &import::TsuruApi::new(&arguments.target, arguments.token)?,
        destination: &import::TsuruApi::new(&to, arguments.to_token)?,
        dry_run: arguments.dry_run,
        print: &print_line,
    })
    .await?;
    match report.refused.len() {
        0 => Ok(()),
        1 => Err(Error::failed("One change was refused; see above.")),
        n => Err(Error::failed(format!("{n} changes were refused; see above."))),
    }
}

async fn create_admin(
    settings: Settings,
    email: Email,
    file: Option<std::path::PathBuf>,
) -> Result<(), Error> {
    let password = read_password(file)?;
    let database = DatabaseServer::connect_running(&settings).await?;
    let db = database.open_pool(&settings).await?;
    db::run_migrations(&db).await?;
    users::create_admin(&db, &settings.auth, &email, &password).await?;
    print_line(&format!("{email} is an administrator"));
    Ok(())
}

fn read_password(file: Option<std::path::PathBuf>) -> Result<Secret, Error> {
    let text = match file {
        Some(path) => std::fs::read_to_string(&path)
            .map_err(|error| Error::invalid(format!("Cannot read {}: {error}.", path.display())))?,
        None => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(Error::internal)?;
            line
        }
    };
    Ok(Secret::new(text.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn second_part_of_a_shutdown_runs_though_the_first_fails() {
        let ran = std::cell::Cell::new(false);
        let second = async {
            ran.set(true);
            Ok(())
        };
        let result = run_both(async { Err(Error::failed("a unit")) }, second).await;
        assert_eq!(result.unwrap_err().message(), "a unit");
        assert!(ran.get());
        let failing = async { Err(Error::failed("Postgres")) };
        let result = run_both(async { Ok(()) }, failing).await;
        assert_eq!(result.unwrap_err().message(), "Postgres");
        assert!(run_both(async { Ok(()) }, async { Ok(()) }).await.is_ok());
    }
}
