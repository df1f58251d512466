//! `tancho serve`: opens the data folder, the listeners and the database, cheapest first, so that a port or
//! folder in use is reported at once; then prints one line, `tancho ready …`, on standard output. SIGTERM
//! drains and leaves units and the managed Postgres running, so that an upgrade stops no app. SIGINT (Ctrl-C)
//! stops them too. With a predecessor on the data folder it takes that one's place ([`super::handover`]).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::database::{DatabaseServer, supervise_postgres};
use super::handover::{HandoverServer, ReadySuccessor, RunningPredecessor};
use super::listeners::{GivenListeners, ListenerName, ProcessListeners};
use super::{
    POSTGRES_STOP_TIMEOUT, open_provisioners, print_line, run_both, stop_all_units, systemd, wait_for_signal,
};
use crate::builders::platforms;
use crate::config::{Settings, process_variable};
use crate::datadir::{self, DataDir};
use crate::kernel::drain_plan::Predecessor;
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;
use crate::provisioners::ProvisionerRegistry;
use crate::server::{self, RunningServer, ServerParts};
use crate::{db, users};

/// Runs the server until a signal or a successor ends it.
pub(super) async fn run_serve(
    settings: Settings,
    given: GivenListeners,
    predecessor: Option<RunningPredecessor>,
) -> Result<(), Error> {
    let process = match predecessor {
        None => ServerProcess::start(settings, given, Predecessor::Exited).await?,
        Some(predecessor) => take_over(settings, predecessor).await?,
    };
    process.run_to_end().await
}

/// Starts beside the process that runs on the data folder, and takes the folder from it.
async fn take_over(settings: Settings, mut predecessor: RunningPredecessor) -> Result<ServerProcess, Error> {
    let starting = async {
        let given = predecessor.take_listeners().await?;
        let process = ServerProcess::start(settings, given, Predecessor::Serving).await?;
        process.running.wait_until_serving().await;
        Ok(process)
    };
    let process: ServerProcess = match starting.await {
        Ok(process) => process,
        Err(error) => {
            predecessor.report_failure(&error).await;
            return Err(error);
        }
    };
    predecessor
        .take_data_folder(&process.running.core.data_dir)
        .await?;
    process.running.begin_work().await?;
    Ok(process)
}

/// A server that has been started, with what is to be done at its end.
struct ServerProcess {
    running: RunningServer,
    database: DatabaseServer,
    provisioners: ProvisionerRegistry,
    /// Opened once more, for a successor.
    listeners: Vec<(ListenerName, OwnedFd)>,
    tasks: TaskTracker,
    /// Ends the background tasks of the provisioners, which outlive the server: their units keep running.
    watch: CancellationToken,
}

/// Why a server ends.
enum ServerEnd {
    Terminated,
    Interrupted,
    Replaced(Box<ReadySuccessor>),
}

impl ServerProcess {
    async fn start(
        settings: Settings,
        mut given: GivenListeners,
        predecessor: Predecessor,
    ) -> Result<Self, Error> {
        let dir = match predecessor {
            Predecessor::Exited => DataDir::open(&settings.data_dir)?,
            Predecessor::Serving => DataDir::open_shared(&settings.data_dir)?,
        };
        let mut listeners = ProcessListeners::open(&settings, &mut given).await?;
        if predecessor == Predecessor::Exited {
            given.refuse_rest()?;
        }
        let duplicates = listeners.duplicate()?;
        let api_addr = listeners.address_or(ListenerName::Api, settings.api.listen)?;
        let router_addr = listeners.address_or(ListenerName::Router, settings.router.listen)?;
        let keys = datadir::load_or_create_keys(&settings.secrets, &dir)?;
        let database = match predecessor {
            Predecessor::Exited => DatabaseServer::start_or_connect(&settings, &dir).await?,
            Predecessor::Serving => DatabaseServer::connect_running(&settings).await?,
        };
        let db = database.open_pool(&settings).await?;
        db::run_migrations(&db).await?;
        let platforms_dir = install_platforms(&dir).await?;
        let watch = CancellationToken::new();
        let tasks = TaskTracker::new();
        let host = dir.load_or_create_host_id()?;
        let provisioners = open_provisioners(&settings, &dir, &host, &tasks, &watch)?;
        let parts = ServerParts {
            provisioners: provisioners.clone(),
            pass_env: read_pass_env(&settings),
            settings,
            db,
            keys,
            data_dir: dir,
            platforms_dir,
            host,
            api: listeners.take(ListenerName::Api),
            api_https: listeners.take(ListenerName::ApiHttps),
            api_addr,
            ssh: listeners.take(ListenerName::Ssh),
            router: listeners.take(ListenerName::Router),
            router_https: listeners.take(ListenerName::RouterHttps),
            router_addr,
            predecessor,
        };
        Ok(Self {
            running: server::start_server(parts).await?,
            database,
            provisioners,
            listeners: duplicates,
            tasks,
            watch,
        })
    }

    async fn run_to_end(mut self) -> Result<(), Error> {
        let settings = self.running.core.settings.clone();
        let supervision = CancellationToken::new();
        if let DatabaseServer::Managed(_) = &self.database {
            let (dir, patience) = (
                Arc::clone(&self.running.core.data_dir),
                settings.database.start_timeout,
            );
            self.tasks
                .spawn(supervise_postgres(dir, patience, supervision.clone()));
        }
        let ended = self.wait_for_end().await;
        supervision.cancel();
        if let Ok(ServerEnd::Replaced(successor)) = ended {
            let drain = settings.upgrade.drain_timeout;
            self.running.hand_over(drain).await;
            successor
                .pass_data_folder(&self.running.core.data_dir, drain)
                .await;
            return self.wait_for_clients().await;
        }
        tracing::info!("shutting down: draining requests in progress");
        self.running.drain_and_stop().await;
        self.watch.cancel();
        if !matches!(ended?, ServerEnd::Interrupted) {
            return Ok(());
        }
        let stop_units = async {
            print_line("tancho is stopping the units of its apps");
            stop_all_units(&self.provisioners, settings.apps.stop_grace).await
        };
        let stop_postgres = async {
            let DatabaseServer::Managed(postgres) = self.database else {
                return Ok(());
            };
            print_line("tancho is stopping its Postgres");
            postgres.shut_down(POSTGRES_STOP_TIMEOUT).await
        };
        run_both(stop_units, stop_postgres).await
    }

    /// Announces that the server is ready, and waits for its end.
    async fn wait_for_end(&mut self) -> Result<ServerEnd, Error> {
        let core = &self.running.core;
        let listeners = std::mem::take(&mut self.listeners);
        let handover = HandoverServer::bind(&core.data_dir, listeners, core.settings.upgrade.ready_timeout)?;
        print_startup(&self.running).await?;
        systemd::notify_ready();
        tokio::select! {
            signalled = wait_for_signal() => signalled.map(|is_interrupt| match is_interrupt {
                true => ServerEnd::Interrupted,
                false => ServerEnd::Terminated,
            }),
            successor = handover.wait_for_successor() => Ok(ServerEnd::Replaced(Box::new(successor))),
        }
    }

    /// Lets the clients of a server that was replaced finish; a signal ends that.
    async fn wait_for_clients(self) -> Result<(), Error> {
        tokio::select! {
            () = self.running.drain_and_stop() => {}
            signalled = wait_for_signal() => drop(signalled?),
        }
        self.watch.cancel();
        Ok(())
    }
}

/// Prints the login of a new first administrator (once), warns of accounts that share an e-mail address, then
/// prints the addresses of the server.
async fn print_startup(running: &RunningServer) -> Result<(), Error> {
    if let Some(login) = users::ensure_admin(&running.core).await? {
        let password = login
            .password
            .as_ref()
            .map_or("(as in the settings)", Secret::expose_secret);
        print_line(&format!(
            "tancho administrator email={} password={password}",
            login.email
        ));
    }
    users::warn_of_duplicate_emails(&running.core).await?;
    let url_or_none = |address: Option<SocketAddr>| {
        address.map_or_else(|| "none".to_owned(), |address| format!("http://{address}"))
    };
    let (api, router) = (url_or_none(running.api_addr), url_or_none(running.router_addr));
    let ssh = match &running.core.public.ssh {
        None => "none".to_owned(),
        Some(ssh) => format!("{}:{} host_key={}", ssh.host, ssh.port, ssh.fingerprint),
    };
    let https = [
        ("api_https", running.api_https_addr),
        ("router_https", running.router_https_addr),
    ];
    let https: String = https
        .iter()
        .filter_map(|(name, address)| Some(format!(" {name}=https://{}", (*address)?)))
        .collect();
    print_line(&format!(
        "tancho ready api={api} router={router} ssh={ssh}{https}"
    ));
    Ok(())
}

async fn install_platforms(dir: &DataDir) -> Result<PathBuf, Error> {
    let folder = dir.platforms_dir();
    let install = move || platforms::install_platforms(&folder, Path::new("/proc/self/exe"));
    let installed = tokio::task::spawn_blocking(install)
        .await
        .map_err(Error::internal)?;
    installed
        .map_err(|error| Error::invalid(format!("Cannot write the platforms to the data folder: {error}.")))
}

fn read_pass_env(settings: &Settings) -> Vec<(String, String)> {
    let named = settings.builds.pass_environment.iter();
    named
        .filter_map(|name| Some((name.clone(), process_variable(name)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_see_the_variables_that_the_operator_names_and_no_others() {
        let mut settings = Settings::defaults();
        settings.builds.pass_environment = vec!["PATH".to_owned(), "NO_SUCH_VARIABLE_7319".to_owned()];
        let passed = read_pass_env(&settings);
        assert_eq!(passed.len(), 1, "{passed:?}");
        assert!(passed[0].0 == "PATH" && !passed[0].1.is_empty());
    }
}
