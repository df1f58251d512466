//! The managed Postgres: a server of Tancho's own under the data folder, for those who bring none.
//!
//! States of the folder: absent → made aside by `initdb` → renamed into place (so a folder that is there is
//! whole) → running or stopped. States of the server: stopped → starting (perhaps recovering) → ready →
//! stopping.
//!
//! It listens on a Unix socket in a folder of its own, never on TCP, and only its account and root get there.
//! It is detached: own session, no descriptor of ours. So the end of Tancho, by Ctrl-C or SIGKILL, is
//! not its end, and the next start finds it by its pid file and goes on with it. Commits are durable: `fsync`
//! stays on. Started by root, it runs as `postgres`, or as `nobody` where there is no such user.
//!
//! There is never a second server on the folder: the lock of `DataDir` and Postgres' own both see to it.
//! Nothing here supervises; when `health` fails, call `start` again. The socket stays where it is, so the
//! connect options stay good.

mod account;
mod folder;
mod process;
mod programs;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use self::account::Account;
use self::process::Postmaster;
use self::programs::Programs;
use crate::datadir::DataDir;
use crate::kernel::problem::Problem;

/// Only a name of the socket: nothing listens on a port.
const PORT: u16 = 5432;
const SOCKET: &str = ".s.PGSQL.5432";
const NAME: &str = "tancho";

/// Long enough for the recovery of a large log after a crash.
const START: Duration = Duration::from_secs(120);
/// How long processes that a killed server left behind may take to notice.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// How long an immediate shutdown may take.
const QUIT: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// A server that has answered.
#[derive(Debug)]
pub struct LocalPostgres {
    folder: PathBuf,
    socket: PathBuf,
    pid: i32,
}

impl LocalPostgres {
    /// Makes the folder if there is none, takes over the server that runs on it or starts one, makes the
    /// database if it is missing. Asks for a folder opened with `DataDir::open`.
    /// Errors: `Unavailable` with Postgres' own words, `Invalid` when programs are missing or do not fit.
    pub async fn start(dir: &DataDir) -> Result<Self, Problem> {
        if !dir.is_held() {
            return Err(Problem::internal(
                "a Postgres may be started by the holder of the data folder only",
            ));
        }
        let _one_at_a_time = dir.starting().lock().await;
        let folder = dir.postgres();
        let account = Account::for_folder(&folder, dir.is_root())?;
        // A running server needs no programs; they may be in the middle of an upgrade.
        let programs = match Postmaster::find(&folder) {
            Some(_) => None,
            None => Some(Programs::find(account, folder::version(&folder)?).await?),
        };
        if let Some(programs) = &programs {
            folder::ensure(dir, programs, account).await?;
        }
        let socket = folder::socket(dir, account)?;
        let starting = Starting {
            dir,
            folder: &folder,
            socket: &socket,
            account,
        };
        let pid = starting.run(programs).await?;
        Ok(Self { folder, socket, pid })
    }

    /// The server that runs on the folder, without starting one. Errors: `Unavailable` when there is none
    /// or it does not answer.
    pub async fn connect_running(dir: &DataDir) -> Result<Self, Problem> {
        match Self::find(dir)? {
            Some(running) => running.health().await.map(|()| running),
            None => Err(Problem::unavailable(format!(
                "Tancho's Postgres is not running in {}; start it with `tancho`.",
                dir.path().display()
            ))),
        }
    }

    /// The server that runs on the folder, whether it answers or not.
    pub fn find(dir: &DataDir) -> Result<Option<Self>, Problem> {
        let folder = dir.postgres();
        let Some(postmaster) = Postmaster::find(&folder) else {
            return Ok(None);
        };
        let socket = folder::known_socket(dir)?;
        Ok(Some(Self {
            folder,
            socket,
            pid: postmaster.pid,
        }))
    }

    /// How to connect. Nothing of it changes when the server is started again.
    pub fn connect_options(&self) -> PgConnectOptions {
        options(&self.socket).database(NAME)
    }

    /// The server's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks for an answer. Errors: `Unavailable`.
    pub async fn health(&self) -> Result<(), Problem> {
        let answer = tokio::time::timeout(ASK, store::ask(&self.connect_options())).await;
        let silent = || {
            Problem::unavailable("Tancho's Postgres does not answer; its log is in the folder postgres/log.")
        };
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(silent().because(error)),
            Err(_) => Err(silent()),
        }
    }

    /// Stops it: connections are ended and everything is written; after `patience`, it is told to quit at
    /// once, which costs a recovery at the next start but no commit. Errors: `Unavailable` if it still runs.
    pub async fn stop(&self, patience: Duration) -> Result<(), Problem> {
        for (signal, patience) in [(Signal::SIGINT, patience), (Signal::SIGQUIT, QUIT)] {
            let Some(postmaster) = Postmaster::find(&self.folder) else {
                break;
            };
            postmaster.signal(signal);
            if is_empty_within(&self.folder, patience).await {
                break;
            }
        }
        if !is_empty_within(&self.folder, LEFTOVERS).await {
            return Err(Problem::unavailable(format!(
                "Tancho's Postgres (pid {}) does not stop; end it with `kill -9 {}`.",
                self.pid, self.pid
            )));
        }
        folder::forget_far_socket(&self.folder);
        Ok(())
    }
}

fn options(socket: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(PORT)
        .username(NAME)
        .ssl_mode(PgSslMode::Disable)
}

/// Waits until no process of a server is left on the folder.
async fn is_empty_within(folder: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Postmaster::find(folder).is_some() || process::is_busy(folder) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
    true
}

/// One start, from whatever state the folder is in to a server that answers.
struct Starting<'a> {
    dir: &'a DataDir,
    folder: &'a Path,
    socket: &'a Path,
    account: Option<Account>,
}

impl Starting<'_> {
    async fn run(&self, mut programs: Option<Programs>) -> Result<i32, Problem> {
        let deadline = Instant::now() + START;
        let mut is_launched = false;
        loop {
            if let Some(postmaster) = Postmaster::find(self.folder) {
                if postmaster.is_ready && self.answers().await? {
                    return Ok(postmaster.pid);
                }
            } else if is_launched {
                if !process::is_busy(self.folder) {
                    return Err(self.refused());
                }
            } else {
                let found = match programs.take() {
                    Some(found) => found,
                    None => Programs::find(self.account, folder::version(self.folder)?).await?,
                };
                self.launch(&found).await?;
                is_launched = true;
            }
            if Instant::now() >= deadline {
                return Err(self.refused());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether a ready server answers; it may have begun to stop. Makes the database if it is missing.
    async fn answers(&self) -> Result<bool, Problem> {
        let answer = tokio::time::timeout(ASK, store::ensure_database(&options(self.socket), NAME)).await;
        match answer {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) if store::is_passing(&error) => Ok(false),
            Ok(Err(error)) => {
                let words = "Tancho's Postgres refuses to work; its log is in the folder postgres/log.";
                Err(Problem::unavailable(words).because(error))
            }
            Err(_) => Ok(false),
        }
    }

    async fn launch(&self, programs: &Programs) -> Result<(), Problem> {
        if !is_empty_within(self.folder, LEFTOVERS).await {
            process::quit_leftovers(self.folder);
            is_empty_within(self.folder, LEFTOVERS).await;
        }
        process::remove_stale_locks(self.folder, self.socket);
        folder::write_settings(self.dir, self.socket)?;
        folder::remove_start_log(self.folder);
        programs.start(self.folder, self.account).await
    }

    fn refused(&self) -> Problem {
        let said = folder::last_words(self.folder);
        Problem::unavailable(format!(
            "Tancho's Postgres does not start in {}: {said}",
            self.folder.display()
        ))
    }
}
