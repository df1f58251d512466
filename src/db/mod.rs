//! The database: how it is opened, brought up to date and listened to.
//!
//! Time and uniqueness belong to it: code compares times with `now()` in SQL, and asks constraints, not
//! itself, whether a name is free. A statement that takes part in somebody's transaction takes
//! `tx: &mut PgConnection`; a lone read takes any executor.

pub mod listen;
pub mod local;
mod retry;

pub use retry::retry;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};

use crate::config::DatabaseSettings;
use crate::kernel::problem::{Kind, Problem};

/// The handle to the database: a bounded set of connections, cheap to clone.
pub type Db = PgPool;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Opens the database. Errors: `Unavailable` when it cannot be reached in time.
pub async fn open(options: PgConnectOptions, settings: &DatabaseSettings) -> Result<Db, Problem> {
    let timeout = format!("{}s", settings.statement_timeout.as_secs());
    let options = options.application_name("tancho").options([
        ("statement_timeout", timeout.as_str()),
        ("idle_in_transaction_session_timeout", "60s"),
        // A migration says what is there already, which is no news.
        ("client_min_messages", "warning"),
    ]);
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let probe = options.clone();
    let opened = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .min_connections(1)
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(Duration::from_secs(300))
        // A dead connection shows at its first use; asking before each use would double every round trip.
        .test_before_acquire(false)
        .connect_with(options)
        .await;
    let mut cause = match opened {
        Ok(db) => return Ok(db),
        Err(error) => error,
    };
    // The set of connections only knows that it was not in time; a single one knows why.
    if matches!(cause, sqlx::Error::PoolTimedOut)
        && let Ok(Err(error)) = tokio::time::timeout(settings.acquire_timeout, probe.connect()).await
    {
        cause = error;
    }
    Err(Problem::unavailable(format!("The database at {place} cannot be reached.")).because(cause))
}

/// Brings the schema up to date, under an advisory lock, so that replicas may start together.
/// Errors: `Precondition` when the database was made by a newer Tancho.
pub async fn migrate(db: &Db) -> Result<(), Problem> {
    use sqlx::migrate::MigrateError;
    MIGRATIONS.run(db).await.map_err(|e| match e {
        MigrateError::VersionMissing(version) => Problem::precondition(format!(
            "The database is at schema {version}, which this Tancho does not know: it is too old for it. Start the newer release."
        )),
        MigrateError::VersionMismatch(version) => Problem::precondition(format!(
            "Schema {version} of the database differs from the one in this Tancho: it was made by another build."
        )),
        other => Problem::new(Kind::Unavailable, "The schema of the database could not be brought up to date.").because(other),
    })
}

/// Whether the schema is the one of this Tancho, without a change to it: for what runs beside servers, which may be
/// of another version. Errors: `Precondition`, saying which of the two is the newer one.
pub async fn check_schema(db: &Db) -> Result<(), Problem> {
    use sqlx::migrate::{Migrate, MigrateError};
    let mut connection = db.acquire().await?;
    let applied = match connection.list_applied_migrations(&MIGRATIONS.table_name).await {
        Ok(applied) => applied.iter().map(|migration| migration.version).collect(),
        Err(MigrateError::Execute(error)) if is_missing_table(&error) => Vec::new(),
        Err(error) => {
            return Err(Problem::unavailable("The schema of the database could not be read.").because(error));
        }
    };
    if let Some(unknown) = applied
        .iter()
        .find(|version| !MIGRATIONS.version_exists(**version))
    {
        return Err(Problem::precondition(format!(
            "The database is at schema {unknown}, which this Tancho does not know: use the newer binary, the one of its servers."
        )));
    }
    match MIGRATIONS
        .iter()
        .find(|migration| !applied.contains(&migration.version))
    {
        Some(missing) => Err(Problem::precondition(format!(
            "The database does not have schema {} of this Tancho yet: start a server of this version first.",
            missing.version
        ))),
        None => Ok(()),
    }
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .is_some_and(|code| code == "42P01")
}

impl From<sqlx::Error> for Problem {
    /// What may pass by itself is `Unavailable`; all else is our bug.
    fn from(error: sqlx::Error) -> Self {
        let passing = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Tls(_) => true,
            sqlx::Error::Database(e) => e.code().is_some_and(|code| is_passing(&code)),
            sqlx::Error::Protocol(_) => true,
            _ => false,
        };
        if passing {
            Problem::unavailable("The database is out of reach; try again in a moment.").because(error)
        } else {
            Problem::internal(error)
        }
    }
}

/// SQLSTATEs of a server that is starting, stopping, full or cancelled the statement, and of lost races.
fn is_passing(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("53") || code.starts_with("57") || retry::is_lost_race(code)
}

/// True if the error is a violation of the named constraint.
pub fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.constraint())
        .is_some_and(|name| name == constraint)
}

/// Words a violated constraint for the user; any other error stays what it is.
pub fn on_constraint<T>(
    result: sqlx::Result<T>,
    constraint: &str,
    problem: impl FnOnce() -> Problem,
) -> Result<T, Problem> {
    result.map_err(|error| {
        if violates(&error, constraint) {
            problem()
        } else {
            error.into()
        }
    })
}

/// Sends a notice to all replicas once the transaction commits.
pub async fn notify(
    tx: &mut sqlx::PgConnection,
    channel: listen::Channel,
    payload: &str,
) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify($1, $2)", channel.as_str(), payload)
        .execute(tx)
        .await
        .map(drop)
}

/// Asks the database for a sign of life, for a short while. Errors: `Unavailable`.
pub async fn ping(db: &Db) -> Result<(), Problem> {
    let asked = tokio::time::timeout(
        Duration::from_secs(3),
        sqlx::query!("select 1 as one").fetch_one(db),
    );
    match asked.await {
        Ok(answered) => Ok(answered.map(drop)?),
        Err(_) => Err(Problem::unavailable("no answer within 3 seconds")),
    }
}
