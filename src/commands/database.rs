//! Connects a command to its database and supervises the managed Postgres.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::datadir::DataDir;
use crate::db::local::LocalPostgres;
use crate::db::{self, Db};
use crate::kernel::error::Error;

/// How often the managed Postgres is checked.
const SUPERVISE_INTERVAL: Duration = Duration::from_secs(1);

/// The database named by the settings: an external one or the managed Postgres.
pub(super) enum DatabaseServer {
    External(Box<PgConnectOptions>),
    Managed(LocalPostgres),
}

impl DatabaseServer {
    /// Opens the database for the process that owns the data folder; starts the managed Postgres if
    /// necessary.
    pub(super) async fn start_or_connect(settings: &Settings, dir: &DataDir) -> Result<Self, Error> {
        match settings.database.is_managed() {
            true => Ok(Self::Managed(
                LocalPostgres::start_or_take_over(dir, settings.database.start_timeout).await?,
            )),
            false => Self::parse_external(settings),
        }
    }

    /// Connects to the database beside the process that owns the data folder.
    pub(super) async fn connect_running(settings: &Settings) -> Result<Self, Error> {
        match settings.database.is_managed() {
            true => Ok(Self::Managed(
                LocalPostgres::connect_running(&DataDir::open_unlocked(&settings.data_dir)?).await?,
            )),
            false => Self::parse_external(settings),
        }
    }

    pub(super) fn parse_external(settings: &Settings) -> Result<Self, Error> {
        let options = settings.database.url.expose_secret().parse();
        options
            .map(|options| Self::External(Box::new(options)))
            .map_err(|_| {
                Error::invalid(
                    "database.url is not a URL of the form postgres://user:password@host/database.",
                )
            })
    }

    fn connect_options(&self) -> PgConnectOptions {
        match self {
            Self::External(options) => PgConnectOptions::clone(options),
            Self::Managed(postgres) => postgres.connect_options(),
        }
    }

    pub(super) async fn open_pool(&self, settings: &Settings) -> Result<Db, Error> {
        db::open_pool(self.connect_options(), &settings.database).await
    }
}

/// Restarts the managed Postgres when it has died.
pub(super) async fn supervise_postgres(dir: Arc<DataDir>, patience: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SUPERVISE_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        let alive = matches!(LocalPostgres::find_running(&dir), Ok(Some(_)));
        if alive {
            continue;
        }
        tracing::warn!("the managed Postgres has died; restarting it");
        if let Err(error) = LocalPostgres::start_or_take_over(&dir, patience).await {
            tracing::error!(error = %error.report(), "cannot start the managed Postgres");
        }
    }
}
