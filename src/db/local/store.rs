//! The few statements that check and set up the server. They are not checked at build time, because they
//! concern databases and roles.

use std::io;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Row};

use super::SUPERUSER;
use crate::kernel::secret::Secret;

/// The result of probing a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// Accepts Tancho's role, which has no privileges beyond its database.
    Ready,
    /// Starting or stopping: retry.
    NotYet,
    /// Rejects Tancho's role, or the role has more privileges than it should.
    NeedsSetup,
}

/// Connects and runs a query.
pub(super) async fn probe_connection(options: &PgConnectOptions) -> sqlx::Result<ProbeResult> {
    match is_set_up(options).await {
        Ok(false) => Ok(ProbeResult::NeedsSetup),
        Ok(true) => Ok(ProbeResult::Ready),
        Err(error) if is_transient(&error) => Ok(ProbeResult::NotYet),
        // 28P01: wrong password; 28000: no matching rule, or no such role; 3D000: no such database.
        Err(error) if matches!(sqlstate_of(&error).as_deref(), Some("28P01" | "28000" | "3D000")) => {
            Ok(ProbeResult::NeedsSetup)
        }
        Err(error) => Err(error),
    }
}

/// True if Tancho's role is not a superuser and owns what `ownership_script` gives it. The schema is given
/// together with the rest and the database after it, so an interrupted setup is detected.
async fn is_set_up(options: &PgConnectOptions) -> sqlx::Result<bool> {
    let mut connection = options.connect().await?;
    let row = sqlx::query(
        "select current_setting('is_superuser') = 'off'
            and (select pg_get_userbyid(datdba) = current_user from pg_database where datname = current_database())
            and not exists (select from pg_namespace where nspname = 'public' and nspowner = 10)",
    )
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    row.try_get(0)
}

/// True if a retry may help: the server is starting, stopping or not there yet.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
        ),
        // 57P03: not accepting connections now; 57P01: terminated by a shutdown; 53300: too many connections.
        error => matches!(sqlstate_of(error).as_deref(), Some("57P03" | "57P01" | "53300")),
    }
}

fn sqlstate_of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Returns the script that creates the role with its password, for the single-user mode: an empty line ends a
/// command. In folders created by an earlier Tancho, the role of that name is the superuser that Postgres
/// requires; it is renamed. The user of a session cannot be renamed, so a temporary role does it, which
/// `ownership_script` removes.
pub(super) fn roles_script(role: &'static str, password: &Secret) -> Secret {
    let password = password.expose_secret();
    Secret::new(format!(
        "do $$ begin
           if exists (select from pg_roles where oid = 10 and rolname = '{role}') then
             if not exists (select from pg_roles where rolname = '{role}_rename') then
               create role {role}_rename superuser;
             end if;
             set session authorization {role}_rename;
             alter role {role} rename to {SUPERUSER};
           end if;
         end $$;\n\n\
         do $$ begin
           if not exists (select from pg_roles where rolname = '{role}') then
             create role {role};
           end if;
         end $$;\n\n\
         alter role {role} with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
           password '{password}';\n\n"
    ))
}

/// Returns the script that creates the database; fails if it exists.
pub(super) fn database_script(name: &'static str) -> Secret {
    Secret::new(format!("create database {name} owner {name};\n\n"))
}

/// Returns the script that gives the role the superuser's objects in its database. Sequences of columns,
/// indexes and the row types of tables follow their tables; objects of extensions stay with them.
pub(super) fn ownership_script(role: &'static str) -> Secret {
    Secret::new(format!(
        "drop role if exists {role}_rename;\n\n\
         do $$ declare change text; begin
           for change in
             select format('alter schema %I owner to {role}', nspname)
               from pg_namespace where nspowner = 10 and (oid >= 16384 or nspname = 'public')
             union all
             select format('alter table %s owner to {role}', c.oid::regclass)
               from pg_class c
               where c.relowner = 10 and c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
                 and not exists (
                   select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                     and (d.deptype = 'e' or c.relkind = 'S' and d.deptype in ('a', 'i')))
             union all
             select format('alter routine %s owner to {role}', p.oid::regprocedure)
               from pg_proc p
               where p.proowner = 10 and p.oid >= 16384
                 and not exists (
                   select from pg_depend d
                     where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
             union all
             select format('alter type %s owner to {role}', t.oid::regtype)
               from pg_type t left join pg_class c on c.oid = t.typrelid
               where t.typowner = 10 and t.oid >= 16384
                 and (t.typtype in ('e', 'd', 'r') or t.typtype = 'c' and c.relkind = 'c')
                 and not exists (
                   select from pg_depend d
                     where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')
           loop
             execute change;
           end loop;
         end $$;\n\n\
         alter database {role} owner to {role};\n\n"
    ))
}
