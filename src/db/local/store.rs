//! The few statements that make sure of the server. They are not checked at build time: they are about databases,
//! not in one.

use std::io;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

/// A connection and an answer.
pub(super) async fn ask(options: &PgConnectOptions) -> sqlx::Result<()> {
    let mut connection = options.connect().await?;
    connection.ping().await?;
    connection.close().await
}

/// Makes the database unless it is there. Two may try at once. `name` is a word of ours.
pub(super) async fn ensure_database(options: &PgConnectOptions, name: &'static str) -> sqlx::Result<()> {
    match ask(&options.clone().database(name)).await {
        Err(error) if code(&error).as_deref() == Some("3D000") => create_database(options, name).await,
        answer => answer,
    }
}

async fn create_database(options: &PgConnectOptions, name: &'static str) -> sqlx::Result<()> {
    let mut connection = options.clone().database("postgres").connect().await?;
    let made = sqlx::query(AssertSqlSafe(format!("create database {name}")))
        .execute(&mut connection)
        .await;
    connection.close().await?;
    match made {
        // 42P04: it is there; 23505: somebody makes it at this moment.
        Err(error) if matches!(code(&error).as_deref(), Some("42P04" | "23505")) => Ok(()),
        made => made.map(|_| ()),
    }
}

/// Whether asking again may help: the server is starting, stopping or not there yet.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
        ),
        // 57P03: not accepting connections now; 57P01: ended by a shutdown; 53300: too many connections.
        error => matches!(code(error).as_deref(), Some("57P03" | "57P01" | "53300")),
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}
