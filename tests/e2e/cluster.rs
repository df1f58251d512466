//! A Postgres that belongs to no Tancho.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, Executor, PgConnection};

use crate::test_instance::{list_names, seconds};

/// A cluster of the distribution's Postgres, removed when dropped.
pub(crate) struct PostgresCluster {
    bin: PathBuf,
    folder: PathBuf,
}

impl PostgresCluster {
    pub(crate) fn start(folder: PathBuf) -> Self {
        let versions = list_names("/usr/lib/postgresql".as_ref());
        let bin = Path::new("/usr/lib/postgresql")
            .join(versions.last().unwrap())
            .join("bin");
        fs::create_dir(&folder).unwrap();
        let cluster = Self { bin, folder };
        if nix::unistd::geteuid().is_root() {
            let status = Command::new("chown")
                .arg("postgres")
                .arg(&cluster.folder)
                .status()
                .unwrap();
            assert!(status.success());
        }
        let data = cluster.folder.join("data");
        let data = data.to_str().unwrap();
        cluster.run(
            "initdb",
            &["-D", data, "-A", "trust", "-U", "postgres", "--no-sync"],
        );
        cluster.start_server();
        cluster
    }

    /// Starts the server, and waits until it is ready.
    pub(crate) fn start_server(&self) {
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c max_connections=40",
            self.folder.display()
        );
        let data = self.data();
        let log = format!("{data}/log");
        self.run(
            "pg_ctl",
            &["-D", &data, "-w", "-s", "-o", &options, "-l", &log, "start"],
        );
    }

    /// Stops the server in a mode of `pg_ctl`.
    pub(crate) fn stop_server(&self, mode: &str) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-s", "-m", mode, "stop"]);
    }

    /// Sends SIGKILL to the server and all its processes.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        let deadline = Instant::now() + seconds(20);
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "Postgres outlives SIGKILL");
        }
        // Where no init process reaps them, dead pids look alive to the next start.
        for lock in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
            let _ = fs::remove_file(self.folder.join(lock));
        }
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // The process may have exited.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Returns the server's processes: all of them work in its data folder, and no others do. (Its clients
    /// have the folder in their environment.)
    fn processes(&self) -> Vec<i32> {
        let numbers = list_names(Path::new("/proc"))
            .into_iter()
            .filter_map(|name| name.parse().ok());
        let data = PathBuf::from(self.data());
        numbers
            .filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data))
            .collect()
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        assert!(self.is_run(program, arguments), "{program}");
    }

    fn is_run(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = match nix::unistd::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args([
                    "--reuid",
                    "postgres",
                    "--regid",
                    "postgres",
                    "--clear-groups",
                    "--",
                ]);
                command.arg(self.bin.join(program));
                command
            }
            false => Command::new(self.bin.join(program)),
        };
        command
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(Stdio::null()).status().unwrap().success()
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@localhost/{database}?host={}",
            self.folder.display()
        )
    }

    pub(crate) async fn sql(&self, database: &str, sql: &str) {
        let mut db = PgConnection::connect(&self.url(database)).await.unwrap();
        db.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.unwrap();
        db.close().await.unwrap();
    }

    /// The number that a query answers.
    pub(crate) async fn number(&self, database: &str, sql: &str) -> i64 {
        let mut db = PgConnection::connect(&self.url(database)).await.unwrap();
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
        let number = query.fetch_one(&mut db).await.unwrap();
        db.close().await.unwrap();
        number
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        // A failed test may have stopped it already.
        self.is_run(
            "pg_ctl",
            &["-D", &self.data(), "-w", "-s", "-m", "immediate", "stop"],
        );
        let _ = fs::remove_dir_all(&self.folder);
    }
}
