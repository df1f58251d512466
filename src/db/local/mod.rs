//! The managed Postgres: a server that Tancho runs under the data folder when no external database is
//! configured.
//!
//! States of the folder: absent → created under another name by `initdb` → renamed (so an existing folder is
//! complete) → in use or stopped. States of the server: stopped → set up, if necessary → starting (perhaps
//! recovering) → ready → stopping.
//!
//! It listens on a Unix socket in a private folder, never on TCP; only its account and root can reach the
//! socket. Where Tancho is not root, that account also runs the units. Therefore only one role can log in, by
//! a password in a file that only Tancho reads, and that role is not a superuser ([`roles`]): it cannot read
//! files or run programs. Folders of earlier versions are converted at their next start.
//!
//! The server is detached: it has its own session and none of Tancho's file descriptors. So it survives the
//! end of Tancho, by Ctrl-C or SIGKILL, and the next start finds it by its pid file and takes it over.
//! Commits are durable: `fsync` stays on. When started by root, it runs as `postgres`, or as `nobody` if
//! there is no such user.
//!
//! A slow start is not a failure: Tancho waits as long as a process lives, up to
//! `database.start_timeout_seconds`. A server that was killed from outside, without a reason in its log, is
//! launched again.
//!
//! There is never a second server on the folder: the lock of `DataDir` and Postgres' own lock both prevent
//! it. This module does not supervise; when `check_health` fails, call `start_or_take_over` again. Socket and
//! password stay the same, so the connect options stay valid.

mod account;
mod folder;
mod password;
mod process;
mod programs;
mod roles;
mod start_log;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use self::account::OsAccount;
use self::process::Postmaster;
use self::programs::PostgresPrograms;
use self::start_log::StartLog;
use self::store::ProbeResult;
use crate::datadir::DataDir;
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// Only part of the socket's file name: nothing listens on a port.
const PORT: u16 = 5432;
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// The role that Tancho uses, and the name of its database.
const ROLE_NAME: &str = "tancho";
/// The superuser that Postgres requires; nobody logs in as it.
const SUPERUSER: &str = "tancho_superuser";

/// How long processes that a killed server left behind may take to exit.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may take to flush before it gets an immediate shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an immediate shutdown may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long no process may be found before a launched server counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(1);
/// The maximum number of launches per start, if each server is killed from outside.
const MAX_LAUNCHES: u32 = 3;
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A server that has accepted a connection.
#[derive(Debug)]
pub struct LocalPostgres {
    folder: PathBuf,
    socket: PathBuf,
    password: Secret,
    pid: i32,
}

impl LocalPostgres {
    /// Creates the folder if there is none, takes over the server running on it or starts one, and sets up
    /// its role and database if necessary. `patience` is the time a slow start may take. Requires a folder
    /// opened with `DataDir::open`. Errors: `Unavailable` with Postgres' own message, `Invalid` when programs
    /// are missing or have the wrong version.
    pub async fn start_or_take_over(dir: &DataDir, patience: Duration) -> Result<Self, Error> {
        if !dir.is_locked() {
            return Err(Error::internal(
                "the managed Postgres may only be started by the holder of the data folder's lock",
            ));
        }
        let _one_at_a_time = dir.postgres_start_lock().lock().await;
        let folder = dir.postgres_dir();
        let account = OsAccount::for_folder(&folder, dir.runs_as_root())?;
        // A running server needs no programs; they may be in the middle of an upgrade.
        let programs = match Postmaster::find_running(&folder) {
            Some(_) => None,
            None => Some(
                PostgresPrograms::find_programs(account, folder::read_version(&folder)?, patience).await?,
            ),
        };
        if let Some(programs) = &programs {
            folder::ensure_folder(dir, programs, account).await?;
        }
        let socket = folder::prepare_socket_folder(dir, account)?;
        let known = password::read_password(dir)?;
        let needs_set_up = known.is_none();
        let password = match known {
            Some(known) => known,
            None => password::create_password(dir)?,
        };
        let starting = ServerStart {
            dir,
            folder: &folder,
            socket: &socket,
            password: &password,
            account,
            patience,
        };
        let pid = starting.run_until_ready(programs, needs_set_up).await?;
        Ok(Self {
            folder,
            socket,
            password,
            pid,
        })
    }

    /// Connects to the server running on the folder, without starting one. Errors: `Unavailable` if there is
    /// none or it does not respond.
    pub async fn connect_running(dir: &DataDir) -> Result<Self, Error> {
        password::read_password(dir)?;
        match Self::find_running(dir)? {
            Some(running) => running.check_health().await.map(|()| running),
            None => Err(Error::unavailable(format!(
                "Tancho's Postgres is not running in {}; start it with `tancho`.",
                dir.path().display()
            ))),
        }
    }

    /// Finds the server running on the folder, whether it responds or not.
    pub fn find_running(dir: &DataDir) -> Result<Option<Self>, Error> {
        let folder = dir.postgres_dir();
        let Some(postmaster) = Postmaster::find_running(&folder) else {
            return Ok(None);
        };
        let socket = folder::find_socket_folder(dir)?;
        Ok(Some(Self {
            folder,
            socket,
            // Without a password it rejects connections, but it can be stopped.
            password: password::read_password(dir).ok().flatten().unwrap_or_default(),
            pid: postmaster.pid,
        }))
    }

    /// Returns the connect options. They do not change when the server is restarted.
    pub fn connect_options(&self) -> PgConnectOptions {
        build_connect_options(&self.socket, &self.password)
    }

    /// Returns the process id of the server.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Checks that the server responds. Errors: `Unavailable`.
    pub async fn check_health(&self) -> Result<(), Error> {
        let answer =
            tokio::time::timeout(PROBE_TIMEOUT, store::probe_connection(&self.connect_options())).await;
        let silent = || {
            Error::unavailable("Tancho's Postgres does not respond; its log is in the folder postgres/log.")
        };
        match answer {
            Ok(Ok(ProbeResult::Ready)) => Ok(()),
            Ok(Err(error)) => Err(silent().with_source(error)),
            Ok(Ok(ProbeResult::NotYet)) | Err(_) => Err(silent()),
            Ok(Ok(ProbeResult::NeedsSetup)) => Err(Error::unavailable(
                "Tancho's Postgres rejects the password in postgres.pgpass; restart Tancho to repair it.",
            )),
        }
    }

    /// Stops the server: it ends connections and flushes; after `patience` it gets an immediate shutdown,
    /// which costs a recovery at the next start but no commit. Errors: `Unavailable` if it still runs.
    pub async fn shut_down(&self, patience: Duration) -> Result<(), Error> {
        if !stop_server(&self.folder, patience).await {
            return Err(Error::unavailable(format!(
                "Tancho's Postgres (pid {}) does not stop; end it with `kill -9 {}`.",
                self.pid, self.pid
            )));
        }
        folder::remove_tmp_socket_folder(&self.folder);
        Ok(())
    }
}

/// Stops the server on the folder, if there is one. Returns true if no process is left.
async fn stop_server(folder: &Path, patience: Duration) -> bool {
    for (signal, patience) in [(Signal::SIGINT, patience), (Signal::SIGQUIT, QUIT_TIMEOUT)] {
        let Some(postmaster) = Postmaster::find_running(folder) else {
            break;
        };
        postmaster.send_signal(signal);
        if wait_until_empty(folder, patience).await {
            break;
        }
    }
    wait_until_empty(folder, LEFTOVERS_TIMEOUT).await
}

fn build_connect_options(socket: &Path, password: &Secret) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(PORT)
        .username(ROLE_NAME)
        .password(password.expose_secret())
        .database(ROLE_NAME)
        .ssl_mode(PgSslMode::Disable)
}

/// Waits until no server process is left on the folder.
async fn wait_until_empty(folder: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Postmaster::find_running(folder).is_some() || process::is_busy(folder) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    true
}

/// One start, from any state of the folder to a server that responds.
struct ServerStart<'a> {
    dir: &'a DataDir,
    folder: &'a Path,
    socket: &'a Path,
    password: &'a Secret,
    account: Option<OsAccount>,
    patience: Duration,
}

/// The progress of a start.
struct StartProgress {
    programs: Option<PostgresPrograms>,
    /// Role, password and database must be set up before the next launch.
    needs_setup: bool,
    setup_done: bool,
    launches: u32,
    log: StartLog,
}

impl ServerStart<'_> {
    async fn run_until_ready(
        &self,
        programs: Option<PostgresPrograms>,
        needs_set_up: bool,
    ) -> Result<i32, Error> {
        let deadline = Instant::now() + self.patience;
        let mut progress = StartProgress {
            programs,
            needs_setup: needs_set_up,
            setup_done: false,
            launches: 0,
            log: StartLog::default(),
        };
        loop {
            match Postmaster::find_running(self.folder) {
                Some(_) if progress.needs_setup => self.stop_for_setup().await?,
                Some(postmaster) if postmaster.is_ready => match self.probe_server().await? {
                    ProbeResult::Ready => return Ok(postmaster.pid),
                    ProbeResult::NotYet => {}
                    ProbeResult::NeedsSetup if progress.setup_done => {
                        return Err(Error::unavailable(
                            "Tancho's Postgres rejects its own role; its log is in the folder postgres/log.",
                        ));
                    }
                    ProbeResult::NeedsSetup => progress.needs_setup = true,
                },
                Some(_) => {}
                None if progress.launches > 0 && !self.is_gone().await => {}
                None => {
                    self.check_failure(&progress)?;
                    self.launch_server(&mut progress).await?;
                }
            }
            if Instant::now() >= deadline {
                return Err(Error::unavailable(format!(
                    "Tancho's Postgres in {} was not ready after {} seconds (`database.start_timeout_seconds`) and \
                     is still starting; {}.",
                    self.folder.display(),
                    self.patience.as_secs(),
                    progress.log.last_lines(self.folder)
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// True if a launched server is really gone: processes may start and exit while they are listed.
    async fn is_gone(&self) -> bool {
        let until = Instant::now() + GONE_AFTER;
        while Instant::now() < until {
            if Postmaster::find_running(self.folder).is_some() || process::is_busy(self.folder) {
                return false;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        true
    }

    /// Checks whether another launch makes sense. Errors: the reason that the last server logged, if it
    /// failed by itself.
    fn check_failure(&self, progress: &StartProgress) -> Result<(), Error> {
        // A server stopped by Tancho has not failed.
        if progress.launches == 0 || progress.needs_setup {
            return Ok(());
        }
        let place = self.folder.display();
        if let Some(reason) = progress.log.find_reason(self.folder) {
            return Err(Error::unavailable(format!(
                "Tancho's Postgres does not start in {place}: {}.",
                reason.trim_end_matches('.')
            )));
        }
        let words = progress.log.last_lines(self.folder);
        if progress.launches >= MAX_LAUNCHES {
            return Err(Error::unavailable(format!(
                "Tancho's Postgres does not start in {place}: something kills it each time (is there enough memory?); \
                 {words}."
            )));
        }
        tracing::warn!(%words, "the managed Postgres was killed while starting; restarting it");
        Ok(())
    }

    /// Probes a ready server; it may have begun to stop.
    async fn probe_server(&self) -> Result<ProbeResult, Error> {
        let answer = tokio::time::timeout(
            PROBE_TIMEOUT,
            store::probe_connection(&build_connect_options(self.socket, self.password)),
        )
        .await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let words = "Tancho's Postgres returns an error; its log is in the folder postgres/log.";
                Err(Error::unavailable(words).with_source(error))
            }
            Err(_) => Ok(ProbeResult::NotYet),
        }
    }

    async fn stop_for_setup(&self) -> Result<(), Error> {
        tracing::info!("stopping the managed Postgres briefly to set up its role and password");
        match stop_server(self.folder, STOP_TIMEOUT).await {
            true => Ok(()),
            false => Err(Error::unavailable(
                "Tancho's Postgres does not stop, so its role cannot be set up; stop it and start Tancho again.",
            )),
        }
    }

    async fn launch_server(&self, progress: &mut StartProgress) -> Result<(), Error> {
        let programs = match progress.programs.take() {
            Some(found) => found,
            None => {
                PostgresPrograms::find_programs(
                    self.account,
                    folder::read_version(self.folder)?,
                    self.patience,
                )
                .await?
            }
        };
        if !wait_until_empty(self.folder, LEFTOVERS_TIMEOUT).await {
            process::signal_leftovers(self.folder);
            wait_until_empty(self.folder, LEFTOVERS_TIMEOUT).await;
        }
        process::remove_stale_locks(self.folder, self.socket);
        folder::write_settings(self.dir, self.socket)?;
        if progress.needs_setup {
            roles::set_up_roles(&programs, self.folder, self.account, self.password).await?;
            (progress.needs_setup, progress.setup_done) = (false, true);
        }
        progress.log = StartLog::record_positions(self.folder);
        progress.launches += 1;
        programs.start_server(self.folder, self.account).await
    }
}
