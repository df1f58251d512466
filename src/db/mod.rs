//! The database: connection pool, migrations and notices.
//!
//! The database is the authority on time and uniqueness: code compares times with `now()` in SQL, and relies
//! on constraints, not on prior checks, for unique names. A statement that is part of a transaction takes
//! `tx: &mut PgConnection`; a single read takes any executor.

pub mod local;
pub mod notices;
mod retry;

pub use retry::retry_transaction;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};

use crate::config::DatabaseSettings;
use crate::kernel::error::{Error, ErrorKind};

/// The connection pool, cheap to clone.
pub type Db = PgPool;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Opens the pool. Errors: `Unavailable` if the database cannot be reached in time.
pub async fn open_pool(options: PgConnectOptions, settings: &DatabaseSettings) -> Result<Db, Error> {
    let timeout = format!("{}s", settings.statement_timeout.as_secs());
    let options = options.application_name("tancho").options([
        ("statement_timeout", timeout.as_str()),
        ("idle_in_transaction_session_timeout", "60s"),
        // Migrations emit notices about existing objects, which are irrelevant.
        ("client_min_messages", "warning"),
    ]);
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let probe = options.clone();
    let opened = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .min_connections(1)
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(Duration::from_secs(300))
        // A dead connection shows at its first use; a test before each use would double every round trip.
        .test_before_acquire(false)
        .connect_with(options)
        .await;
    let mut cause = match opened {
        Ok(db) => return Ok(db),
        Err(error) => error,
    };
    // The pool only reports a timeout; a single connection reports the reason.
    if matches!(cause, sqlx::Error::PoolTimedOut)
        && let Ok(Err(error)) = tokio::time::timeout(settings.acquire_timeout, probe.connect()).await
    {
        cause = error;
    }
    Err(Error::unavailable(format!("Cannot reach the database at {place}.")).with_source(cause))
}

/// Migrates the schema, under an advisory lock, so that replicas may start together. Errors: `Precondition`
/// if the database was migrated by a newer Tancho.
pub async fn run_migrations(db: &Db) -> Result<(), Error> {
    use sqlx::migrate::MigrateError;
    MIGRATIONS.run(db).await.map_err(|e| match e {
        MigrateError::VersionMissing(version) => Error::precondition(format!(
            "The database schema is at version {version}, which this release of Tancho does not support: start the newer release."
        )),
        MigrateError::VersionMismatch(version) => Error::precondition(format!(
            "Migration {version} of the database differs from the one in this Tancho: another build applied it."
        )),
        other => Error::new(ErrorKind::Unavailable, "Cannot migrate the database schema.").with_source(other),
    })
}

/// Checks that the schema is the one of this Tancho, without changing it: for commands that run beside
/// servers of possibly another version. Errors: `Precondition`, saying which of the two is newer.
pub async fn check_schema(db: &Db) -> Result<(), Error> {
    use sqlx::migrate::{Migrate, MigrateError};
    let mut connection = db.acquire().await?;
    let applied = match connection.list_applied_migrations(&MIGRATIONS.table_name).await {
        Ok(applied) => applied.iter().map(|migration| migration.version).collect(),
        Err(MigrateError::Execute(error)) if is_missing_table(&error) => Vec::new(),
        Err(error) => {
            return Err(
                Error::unavailable("Cannot read the version of the database schema.").with_source(error),
            );
        }
    };
    if let Some(unknown) = applied
        .iter()
        .find(|version| !MIGRATIONS.version_exists(**version))
    {
        return Err(Error::precondition(format!(
            "The database schema is at version {unknown}, which this binary does not support: use the newer binary of its servers."
        )));
    }
    match MIGRATIONS
        .iter()
        .find(|migration| !applied.contains(&migration.version))
    {
        Some(missing) => Err(Error::precondition(format!(
            "The database schema is not at version {} of this Tancho yet: start a server of this release first.",
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

impl From<sqlx::Error> for Error {
    /// Transient errors become `Unavailable`; all others are bugs.
    fn from(error: sqlx::Error) -> Self {
        let passing = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Tls(_) => true,
            sqlx::Error::Database(e) => e.code().is_some_and(|code| is_transient(&code)),
            sqlx::Error::Protocol(_) => true,
            _ => false,
        };
        if passing {
            Error::unavailable("The database is unavailable; try again in a moment.").with_source(error)
        } else {
            Error::internal(error)
        }
    }
}

/// SQLSTATEs of a server that is starting, stopping or full, of cancelled statements, and of transaction
/// conflicts.
fn is_transient(code: &str) -> bool {
    code.starts_with("08")
        || code.starts_with("53")
        || code.starts_with("57")
        || retry::is_transaction_conflict(code)
}

/// True if the error is a violation of the named constraint.
pub fn violates_constraint(error: &sqlx::Error, constraint: &str) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.constraint())
        .is_some_and(|name| name == constraint)
}

/// Maps a violated constraint to an error for the user; other errors stay as they are.
pub fn map_constraint_violation<T>(
    result: sqlx::Result<T>,
    constraint: &str,
    violation: impl FnOnce() -> Error,
) -> Result<T, Error> {
    result.map_err(|error| {
        if violates_constraint(&error, constraint) {
            violation()
        } else {
            error.into()
        }
    })
}

/// Sends a notice to all replicas when the transaction commits.
pub async fn send_notice(
    tx: &mut sqlx::PgConnection,
    channel: notices::NoticeChannel,
    payload: &str,
) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify($1, $2)", channel.as_str(), payload)
        .execute(tx)
        .await
        .map(drop)
}

/// Checks that the database responds within a short time. Errors: `Unavailable`.
pub async fn ping(db: &Db) -> Result<(), Error> {
    let asked = tokio::time::timeout(
        Duration::from_secs(3),
        sqlx::query!("select 1 as one").fetch_one(db),
    );
    match asked.await {
        Ok(answered) => Ok(answered.map(drop)?),
        Err(_) => Err(Error::unavailable("no response within 3 seconds")),
    }
}
