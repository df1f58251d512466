//! The database of a command, and the care for a managed one.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::datadir::DataDir;
use crate::db::local::LocalPostgres;
use crate::db::{self, Db};
use crate::kernel::problem::Problem;

/// How often the managed Postgres is asked whether it lives.
const CARE: Duration = Duration::from_secs(1);

/// The database as the settings name it: one that is given, or the managed one.
pub(super) enum Database {
    Given(Box<PgConnectOptions>),
    Managed(LocalPostgres),
}

impl Database {
    /// The database of a process that owns the data folder: a managed one is started if need be.
    pub(super) async fn own(settings: &Settings, dir: &DataDir) -> Result<Self, Problem> {
        match settings.database.is_managed() {
            true => Ok(Self::Managed(LocalPostgres::start(dir).await?)),
            false => Self::given(settings),
        }
    }

    /// The database of a process beside the one that owns the data folder.
    pub(super) async fn beside(settings: &Settings) -> Result<Self, Problem> {
        match settings.database.is_managed() {
            true => Ok(Self::Managed(
                LocalPostgres::connect_running(&DataDir::peek(&settings.data_dir)?).await?,
            )),
            false => Self::given(settings),
        }
    }

    pub(super) fn given(settings: &Settings) -> Result<Self, Problem> {
        let options = settings.database.url.expose().parse();
        options
            .map(|options| Self::Given(Box::new(options)))
            .map_err(|_| {
                Problem::invalid(
                    "database.url is not a URL of the form postgres://user:password@host/database.",
                )
            })
    }

    fn options(&self) -> PgConnectOptions {
        match self {
            Self::Given(options) => PgConnectOptions::clone(options),
            Self::Managed(postgres) => postgres.connect_options(),
        }
    }

    pub(super) async fn open(&self, settings: &Settings) -> Result<Db, Problem> {
        db::open(self.options(), &settings.database).await
    }
}

/// Starts the managed Postgres again when it has died.
pub(super) async fn care_for_postgres(dir: Arc<DataDir>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(CARE) => {}
            () = stop.cancelled() => return,
        }
        let alive = matches!(LocalPostgres::find(&dir), Ok(Some(_)));
        if alive {
            continue;
        }
        tracing::warn!("the managed Postgres is gone; it is started again");
        if let Err(problem) = LocalPostgres::start(&dir).await {
            tracing::error!(problem = %problem.chain(), "the managed Postgres does not start");
        }
    }
}
