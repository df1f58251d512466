//! `tancho serve`: opens the data folder, the listeners and the database, cheapest first, so that a port or
//! folder in use is reported at once; then prints one line, `tancho ready …`, on standard output. SIGTERM
//! drains and leaves units and the managed Postgres running, so that an upgrade stops no app. SIGINT (Ctrl-C)
//! stops them too.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::database::{DatabaseServer, supervise_postgres};
use super::{
    POSTGRES_STOP_TIMEOUT, bind_listener, open_provisioners, print_line, run_both, stop_all_units,
    wait_for_signal,
};
use crate::builders::platforms;
use crate::config::{ServerRole, Settings, process_variable};
use crate::datadir::{self, DataDir};
use crate::kernel::drain_plan::Predecessor;
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;
use crate::server::{self, RunningServer, ServerParts};
use crate::{db, users};

/// Runs the server until a signal ends it.
pub(super) async fn run_serve(settings: Settings) -> Result<(), Error> {
    let dir = DataDir::open(&settings.data_dir)?;
    let api = bind_for_role(&settings, ServerRole::Api, "api", settings.api.listen).await?;
    let api_addr = api
        .as_ref()
        .map_or(Ok(settings.api.listen), TcpListener::local_addr)
        .map_err(Error::internal)?;
    let ssh = bind_if_set(&settings, ServerRole::Api, "ssh", settings.ssh.listen).await?;
    let (api_https, router_https) = bind_https(&settings).await?;
    let router = bind_for_role(&settings, ServerRole::Router, "router", settings.router.listen).await?;
    let router_addr = router
        .as_ref()
        .map_or(Ok(settings.router.listen), TcpListener::local_addr)
        .map_err(Error::internal)?;
    let keys = datadir::load_or_create_keys(&settings.secrets, &dir)?;
    let database = DatabaseServer::start_or_connect(&settings, &dir).await?;
    let db = database.open_pool(&settings).await?;
    db::run_migrations(&db).await?;
    let platforms_dir = install_platforms(&dir).await?;
    let pass_env = read_pass_env(&settings);
    // The provisioners outlive the server: their units keep running.
    let watch = CancellationToken::new();
    let tasks = TaskTracker::new();
    let host = dir.load_or_create_host_id()?;
    let provisioners = open_provisioners(&settings, &dir, &host, &tasks, &watch)?;
    let grace = settings.apps.stop_grace;
    let postgres_patience = settings.database.start_timeout;
    let parts = ServerParts {
        provisioners: provisioners.clone(),
        settings,
        db,
        keys,
        data_dir: dir,
        platforms_dir,
        pass_env,
        host,
        api,
        api_https,
        api_addr,
        ssh,
        router,
        router_https,
        router_addr,
        predecessor: Predecessor::Exited,
    };
    let running = server::start_server(parts).await?;
    let supervision = CancellationToken::new();
    if let DatabaseServer::Managed(_) = &database {
        let dirs = Arc::clone(&running.core.data_dir);
        tasks.spawn(supervise_postgres(dirs, postgres_patience, supervision.clone()));
    }
    let signalled = match print_startup(&running).await {
        Ok(()) => wait_for_signal().await,
        Err(error) => Err(error),
    };
    tracing::info!("shutting down: draining requests in progress");
    supervision.cancel();
    running.drain_and_stop().await;
    watch.cancel();
    if !signalled? {
        return Ok(());
    }
    let stop_units = async {
        print_line("tancho is stopping the units of its apps");
        stop_all_units(&provisioners, grace).await
    };
    let stop_postgres = async {
        let DatabaseServer::Managed(postgres) = database else {
            return Ok(());
        };
        print_line("tancho is stopping its Postgres");
        postgres.shut_down(POSTGRES_STOP_TIMEOUT).await
    };
    run_both(stop_units, stop_postgres).await
}

/// A listener for what processes of this role serve; `None` without the role.
async fn bind_for_role(
    settings: &Settings,
    role: ServerRole,
    what: &str,
    address: SocketAddr,
) -> Result<Option<TcpListener>, Error> {
    match settings.roles.contains(&role) {
        true => bind_listener(what, address).await.map(Some),
        false => Ok(None),
    }
}

/// The same for an address that may be unset.
async fn bind_if_set(
    settings: &Settings,
    role: ServerRole,
    what: &str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, Error> {
    match address {
        Some(address) => bind_for_role(settings, role, what, address).await,
        None => Ok(None),
    }
}

/// The listeners of TLS.
async fn bind_https(settings: &Settings) -> Result<(Option<TcpListener>, Option<TcpListener>), Error> {
    let (api, router) = (settings.api.https_listen, settings.router.https_listen);
    let api = bind_if_set(settings, ServerRole::Api, "api", api).await?;
    Ok((
        api,
        bind_if_set(settings, ServerRole::Router, "router", router).await?,
    ))
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

    #[tokio::test]
    async fn port_is_bound_only_by_a_process_with_its_role() {
        let mut settings = Settings::defaults();
        settings.roles = vec![ServerRole::Worker];
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let api = bind_for_role(&settings, ServerRole::Api, "api", any).await;
        assert!(api.unwrap().is_none());
        settings.roles.push(ServerRole::Api);
        let api = bind_for_role(&settings, ServerRole::Api, "api", any).await;
        assert!(api.unwrap().is_some());
    }

    #[test]
    fn builds_see_the_variables_that_the_operator_names_and_no_others() {
        let mut settings = Settings::defaults();
        settings.builds.pass_environment = vec!["PATH".to_owned(), "NO_SUCH_VARIABLE_7319".to_owned()];
        let passed = read_pass_env(&settings);
        assert_eq!(passed.len(), 1, "{passed:?}");
        assert!(passed[0].0 == "PATH" && !passed[0].1.is_empty());
    }
}
