//! What each command of the command line does, from the settings to the exit status.
//!
//! `serve` opens the data folder, the database and the listeners in that order of cheapness, so that a
//! port in use or a folder in use is told at once; then it prints one line, `tancho ready …`, on standard
//! output. SIGTERM drains and leaves units and the managed Postgres running, so that an upgrade stops no
//! app. SIGINT (Ctrl-C) stops them too.

mod database;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::database::{Database, care_for_postgres};
use crate::builders::platforms;
use crate::cli::{self, Command, Invocation};
use crate::config::{Role, Settings, environment, of_process};
use crate::confine::Confinement;
use crate::core::Provisioners;
use crate::datadir::{self, DataDir};
use crate::db::listen::Notices;
use crate::kernel::ids::ReplicaId;
use crate::kernel::names::Email;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::provisioners::Provisioner;
use crate::provisioners::local::{Bounds, Local, LocalSettings};
use crate::server::{self, Running, Wanted};
use crate::telemetry::logs;
use crate::{db, sealing, users};

/// How long Postgres may take to write what it has.
const POSTGRES_STOP: Duration = Duration::from_secs(60);

/// Runs a command. A failure is one sentence on standard error and a status of 1.
pub fn run(invocation: Invocation) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&Problem::unavailable(format!(
                "The system gives no threads: {error}."
            )));
        }
    };
    match runtime.block_on(carry_out(invocation)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem),
    }
}

fn fail(problem: &Problem) -> ExitCode {
    // The cause helps whoever runs the server; it is theirs to see.
    let _ = writeln!(std::io::stderr(), "tancho: {}", problem.chain());
    ExitCode::FAILURE
}

async fn carry_out(invocation: Invocation) -> Result<(), Problem> {
    // Only fails when somebody has installed one before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if invocation.command == Command::CheckConfig {
        return cli::check_config(&invocation, environment(), &mut std::io::stdout());
    }
    let settings = invocation.settings()?;
    logs::init(&settings.log)?;
    match invocation.command {
        Command::Serve => serve(settings).await,
        Command::Router => router(settings).await,
        Command::Migrate => migrate(settings).await,
        Command::Down => down(settings).await,
        command @ (Command::ListKeys | Command::RotateKeys) => keys(settings, &command).await,
        Command::CreateAdmin { email, password_file } => create_admin(settings, email, password_file).await,
        Command::CheckConfig => Ok(()),
    }
}

async fn bind(what: &str, address: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Problem::conflict(format!(
                "{address} is in use: give the {what} another address with --{what}, or port 0."
            )),
            _ => Problem::invalid(format!("The {what} cannot listen on {address}: {error}.")),
        })
}

async fn serve(settings: Settings) -> Result<(), Problem> {
    let dir = DataDir::open(&settings.data_dir)?;
    let has = |role| settings.roles.contains(&role);
    let api = bind("api", settings.api.listen).await?;
    let ssh = match settings.ssh.listen {
        Some(address) if has(Role::Api) => Some(bind("ssh", address).await?),
        _ => None,
    };
    let router = match has(Role::Router) {
        true => Some(bind("router", settings.router.listen).await?),
        false => None,
    };
    let router_addr = router
        .as_ref()
        .map_or(Ok(settings.router.listen), TcpListener::local_addr)
        .map_err(Problem::internal)?;
    let keys = datadir::load_or_create_keys(&settings.secrets, &dir)?;
    let database = Database::own(&settings, &dir).await?;
    let db = database.open(&settings).await?;
    db::migrate(&db).await?;
    let platforms_dir = install_platforms(&dir).await?;
    let pass_env = pass_env(&settings);
    // The provisioner lives longer than the server: its units go on.
    let watch = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut local = LocalSettings::new(dir.units());
    let confinement = Confinement::new(&settings, dir.path()).reads([dir.platforms()]);
    local.bounds = Bounds::new(&settings.local, confinement);
    let local = Local::new(local, &tasks, watch.clone()).map_err(Problem::internal)?;
    let local = Arc::new(local);
    let host = dir.host_id()?;
    let grace = settings.apps.stop_grace;
    let wanted = Wanted {
        provisioners: Provisioners::new(BTreeMap::from([(
            "local".to_owned(),
            Arc::clone(&local) as Arc<dyn Provisioner>,
        )])),
        settings,
        db,
        keys,
        dirs: dir,
        platforms_dir,
        pass_env,
        host,
        api,
        ssh,
        router,
        router_addr,
    };
    let running = server::start(wanted).await?;
    let care = CancellationToken::new();
    if let Database::Managed(_) = &database {
        tasks.spawn(care_for_postgres(Arc::clone(&running.core.dirs), care.clone()));
    }
    announce(&running).await?;
    let interrupted = wait_for_signal().await?;
    tracing::info!("stopping: requests under way are let finish");
    care.cancel();
    running.stop().await;
    watch.cancel();
    if interrupted {
        say("tancho stops the units of its apps");
        local
            .stop_all(grace)
            .await
            .map_err(|e| Problem::failed(e.to_string()))?;
        if let Database::Managed(postgres) = database {
            say("tancho stops its Postgres");
            postgres.stop(POSTGRES_STOP).await?;
        }
    }
    Ok(())
}

/// Tells the login of a first administrator, once, and then where the server is.
async fn announce(running: &Running) -> Result<(), Problem> {
    if let Some(login) = users::ensure_admin(&running.core).await? {
        let password = login
            .password
            .as_ref()
            .map_or("(as in the settings)", Secret::expose);
        say(&format!(
            "tancho administrator email={} password={password}",
            login.email
        ));
    }
    let router = running
        .router_addr
        .map_or_else(|| "none".to_owned(), |addr| format!("http://{addr}"));
    let ssh = match &running.core.public.ssh {
        None => "none".to_owned(),
        Some(ssh) => format!("{}:{} host_key={}", ssh.host, ssh.port, ssh.fingerprint),
    };
    say(&format!(
        "tancho ready api=http://{} router={router} ssh={ssh}",
        running.api_addr
    ));
    Ok(())
}

/// A line for whoever reads standard output; who has closed it does not want to know.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn install_platforms(dir: &DataDir) -> Result<std::path::PathBuf, Problem> {
    let folder = dir.platforms();
    let install = move || platforms::install(&folder, std::path::Path::new("/proc/self/exe"));
    let installed = tokio::task::spawn_blocking(install)
        .await
        .map_err(Problem::internal)?;
    installed.map_err(|error| {
        Problem::invalid(format!(
            "The platforms cannot be written to the data folder: {error}."
        ))
    })
}

fn pass_env(settings: &Settings) -> Vec<(String, String)> {
    let named = settings.builds.pass_environment.iter();
    named
        .filter_map(|name| Some((name.clone(), of_process(name)?)))
        .collect()
}

/// True for SIGINT, false for SIGTERM.
async fn wait_for_signal() -> Result<bool, Problem> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Problem::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Problem::internal)?;
    // A terminal that goes away is no reason to stop.
    let _hangup = signal(SignalKind::hangup()).map_err(Problem::internal)?;
    tokio::select! {
        _ = terminate.recv() => Ok(false),
        _ = interrupt.recv() => Ok(true),
    }
}

/// The router alone, beside a Tancho on the same database. It goes on with the addresses it knows while
/// the database is away.
async fn router(settings: Settings) -> Result<(), Problem> {
    let listener = bind("router", settings.router.listen).await?;
    let address = listener.local_addr().map_err(Problem::internal)?;
    let database = Database::beside(&settings).await?;
    let db = database.open(&settings).await?;
    let stop = CancellationToken::new();
    let notices = Notices::start(db.clone(), stop.clone());
    let routing = server::route(
        settings,
        db.clone(),
        ReplicaId::new(),
        notices,
        listener,
        stop.clone(),
    );
    say(&format!("tancho ready router=http://{address}"));
    let signalled = async {
        wait_for_signal().await?;
        stop.cancel();
        Ok::<(), Problem>(())
    };
    let (_, signalled) = tokio::join!(routing, signalled);
    db.close().await;
    signalled
}

async fn migrate(settings: Settings) -> Result<(), Problem> {
    let db = match settings.database.is_managed() {
        true => {
            let dir = DataDir::open(&settings.data_dir)?;
            Database::own(&settings, &dir).await?.open(&settings).await?
        }
        false => Database::given(&settings)?.open(&settings).await?,
    };
    db::migrate(&db).await?;
    say("the database is up to date");
    Ok(())
}

/// Stops what a Tancho that was killed, or ended by SIGTERM, has left running.
async fn down(settings: Settings) -> Result<(), Problem> {
    let root = DataDir::peek(&settings.data_dir)?.units();
    {
        // Held while the units are stopped: no Tancho may start some again meanwhile.
        let _dir = DataDir::open(&settings.data_dir)?;
        if root.exists() {
            let watch = CancellationToken::new();
            let tasks = TaskTracker::new();
            let local =
                Local::new(LocalSettings::new(root), &tasks, watch.clone()).map_err(Problem::internal)?;
            local
                .stop_all(settings.apps.stop_grace)
                .await
                .map_err(|e| Problem::failed(e.to_string()))?;
            watch.cancel();
        }
    }
    say("no unit runs");
    if settings.database.is_managed() {
        cli::down_postgres(&settings.data_dir).await?;
        say("no Postgres of this folder runs");
    }
    Ok(())
}

/// The keys that seal, beside servers at work; these may be older, so the database stays as it is.
async fn keys(settings: Settings, command: &Command) -> Result<(), Problem> {
    let db = Database::beside(&settings).await?.open(&settings).await?;
    db::check_schema(&db).await?;
    let source = sealing::Source::new(&settings.secrets, &DataDir::peek(&settings.data_dir)?);
    match command {
        Command::RotateKeys => sealing::rotate(&sealing::Rotation::new(&db, &source, &say)).await?,
        _ => sealing::list(&db, &source)
            .await?
            .iter()
            .for_each(|line| say(line)),
    }
    Ok(())
}

async fn create_admin(
    settings: Settings,
    email: Email,
    file: Option<std::path::PathBuf>,
) -> Result<(), Problem> {
    let password = read_password(file)?;
    let database = Database::beside(&settings).await?;
    let db = database.open(&settings).await?;
    db::migrate(&db).await?;
    users::create_admin(&db, &settings.auth, &email, &password).await?;
    say(&format!("{email} is an administrator"));
    Ok(())
}

fn read_password(file: Option<std::path::PathBuf>) -> Result<Secret, Problem> {
    let text = match file {
        Some(path) => std::fs::read_to_string(&path)
            .map_err(|error| Problem::invalid(format!("{} cannot be read: {error}.", path.display())))?,
        None => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(Problem::internal)?;
            line
        }
    };
    Ok(Secret::new(text.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_see_the_variables_that_the_operator_names_and_no_others() {
        let mut settings = Settings::defaults();
        settings.builds.pass_environment = vec!["PATH".to_owned(), "NO_SUCH_VARIABLE_7319".to_owned()];
        let passed = pass_env(&settings);
        assert_eq!(passed.len(), 1, "{passed:?}");
        assert!(passed[0].0 == "PATH" && !passed[0].1.is_empty());
    }
}
