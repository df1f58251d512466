//! Postgres' programs: finding them, their versions, and running them.
//!
//! `pg_ctl` starts the server, because it detaches it (own session, parent gone) on every system that
//! Postgres supports. Paths are passed by `PGDATA` and the working directory, never by a command line that a
//! shell might parse.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::SUPERUSER;
use super::account::OsAccount;
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// The oldest version that Tancho supports.
const MIN_VERSION: u32 = 14;

/// A folder with `postgres`, `initdb` and `pg_ctl` of one version.
#[derive(Debug)]
pub(super) struct PostgresPrograms {
    bin: PathBuf,
    major: u32,
    /// The timeout of one program.
    patience: Duration,
}

/// Why a program failed.
#[derive(Debug)]
pub(super) struct ProgramFailure {
    error: Error,
    /// The SQLSTATE with which the single-user mode failed.
    pub(super) code: Option<String>,
}

impl From<ProgramFailure> for Error {
    fn from(failure: ProgramFailure) -> Self {
        failure.error
    }
}

/// A program to run in a server's folder.
struct ProgramRun<'a> {
    name: &'a str,
    args: &'a [&'a str],
    input: Option<&'a Secret>,
}

impl PostgresPrograms {
    /// Finds the programs for a folder of the given version, or for a new one: those in `PATH`, else the
    /// newest.
    pub(super) async fn find_programs(
        account: Option<OsAccount>,
        wanted: Option<u32>,
        patience: Duration,
    ) -> Result<Self, Error> {
        let mut seen: Vec<u32> = Vec::new();
        for bin in find_candidates() {
            let Some(major) = read_major_version(&bin, account, patience).await else {
                continue;
            };
            if major >= MIN_VERSION && wanted.is_none_or(|wanted| wanted == major) {
                return Ok(Self { bin, major, patience });
            }
            seen.push(major);
        }
        Err(missing_programs_error(wanted, &seen))
    }

    /// Returns the major version.
    pub(super) fn major_version(&self) -> u32 {
        self.major
    }

    /// Initializes an empty folder. Its default rules let nobody log in; the server reads other ones
    /// (`folder::write_settings`).
    pub(super) async fn run_initdb(&self, folder: &Path, account: Option<OsAccount>) -> Result<(), Error> {
        let username = format!("--username={SUPERUSER}");
        let args = [
            username.as_str(),
            "--auth-local=reject",
            "--auth-host=reject",
            "--encoding=UTF8",
            // Byte order: the same on every machine and after every upgrade.
            "--locale=C",
            "--no-instructions",
        ];
        let program = ProgramRun {
            name: "initdb",
            args: &args,
            input: None,
        };
        Ok(self.run_in_folder(program, folder, account).await?)
    }

    /// Starts the server on a folder, detached; does not wait until it is ready.
    pub(super) async fn start_server(&self, folder: &Path, account: Option<OsAccount>) -> Result<(), Error> {
        let program = ProgramRun {
            name: "pg_ctl",
            args: &["start", "--no-wait", "--silent", "--log=start.log"],
            input: None,
        };
        Ok(self.run_in_folder(program, folder, account).await?)
    }

    /// Runs statements as the superuser while no server runs. They are passed by a pipe, so that no command
    /// line, variable or log contains them; the first failing one ends the run.
    pub(super) async fn run_single_user(
        &self,
        folder: &Path,
        account: Option<OsAccount>,
        database: &str,
        script: &Secret,
    ) -> Result<(), ProgramFailure> {
        let settings = [
            "exit_on_error=on",
            "logging_collector=off",
            "log_destination=stderr",
            "log_min_messages=error",
            "log_min_error_statement=panic",
            "log_statement=none",
            "log_min_duration_statement=-1",
            "log_checkpoints=off",
            "log_line_prefix=%e ",
            "password_encryption=scram-sha-256",
        ];
        let mut args = vec!["--single", "-j"];
        args.extend(settings.iter().flat_map(|setting| ["-c", setting]));
        args.push(database);
        let program = ProgramRun {
            name: "postgres",
            args: &args,
            input: Some(script),
        };
        self.run_in_folder(program, folder, account).await
    }

    /// Runs any of the programs, for tests.
    #[cfg(test)]
    pub(super) async fn run_program(
        &self,
        name: &str,
        args: &[&str],
        folder: &Path,
        account: Option<OsAccount>,
    ) {
        let input = None;
        self.run_in_folder(ProgramRun { name, args, input }, folder, account)
            .await
            .unwrap();
    }

    async fn run_in_folder(
        &self,
        program: ProgramRun<'_>,
        folder: &Path,
        account: Option<OsAccount>,
    ) -> Result<(), ProgramFailure> {
        let mut command = build_command(&self.bin.join(program.name), account);
        command
            .args(program.args)
            .env("PGDATA", folder)
            .current_dir(folder);
        let failed = |why: String, code: Option<String>| ProgramFailure {
            error: Error::unavailable(format!(
                "Postgres' {} failed in {}: {why}",
                program.name,
                folder.display()
            )),
            code,
        };
        let output = collect_output(command, program.input, self.patience)
            .await
            .map_err(|error| failed(format!("{error}."), None))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let (why, code) = read_failure(&output.stderr);
                Err(failed(why, code))
            }
        }
    }
}

/// Builds a command that inherits nothing but `PATH`: no variables (they contain secrets), no input.
fn build_command(program: &Path, account: Option<OsAccount>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()),
        )
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

async fn collect_output(
    mut command: Command,
    input: Option<&Secret>,
    patience: Duration,
) -> std::io::Result<Output> {
    let finished = async {
        let Some(input) = input else {
            return command.output().await;
        };
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // The input fits into the pipe. Errors show up on the program's standard error.
            let _ = stdin.write_all(input.expose_secret().as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(patience, finished).await {
        Ok(output) => output,
        Err(_) => Err(std::io::Error::other(format!(
            "it took longer than {} seconds",
            patience.as_secs()
        ))),
    }
}

/// Returns the line with the reason of a failure as a sentence, and the SQLSTATE in front of it.
fn read_failure(said: &[u8]) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(said);
    let fatal = text.lines().find_map(|line| {
        let (code, rest) = line.split_once(' ')?;
        let is_code = code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric());
        (is_code && rest.starts_with("FATAL: ")).then(|| (code.to_owned(), rest.to_owned()))
    });
    match fatal {
        Some((code, line)) => (last_line(line.as_bytes()), Some(code)),
        None => (last_line(said), None),
    }
}

/// Returns the last line of a program's output, as a sentence.
pub(super) fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    format!("{}.", line.unwrap_or("it gave no reason").trim_end_matches('.'))
}

/// Parses `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → 15. `None` also if the account may not run
/// it.
async fn read_major_version(bin: &Path, account: Option<OsAccount>, patience: Duration) -> Option<u32> {
    let mut command = build_command(&bin.join("postgres"), account);
    command.arg("--version");
    let output = collect_output(command, None, patience).await.ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

/// Returns the folders that contain the programs, best first, without duplicates.
fn find_candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|bin| bin.is_absolute());
    let mut found: Vec<PathBuf> = Vec::new();
    for bin in in_path.chain(usual_folders()) {
        // A link in PATH points to the folder of its companions.
        let real = bin.join("postgres").canonicalize().ok();
        let home = real.as_deref().and_then(Path::parent).map(Path::to_owned);
        let whole = home.into_iter().chain([bin]).find(|bin| {
            ["postgres", "initdb", "pg_ctl"]
                .iter()
                .all(|program| bin.join(program).is_file())
        });
        if let Some(bin) = whole.filter(|bin| !found.contains(bin)) {
            found.push(bin);
        }
    }
    found
}

/// The install locations of Debian, Red Hat, Alpine, Homebrew and Postgres' own build; the newest first.
fn usual_folders() -> Vec<PathBuf> {
    let mut numbered: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, before, after) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
    ] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        numbered.extend(entries.filter_map(|entry| {
            let number = number_after(before, &entry.file_name())?;
            Some((number, entry.path().join(after)))
        }));
    }
    numbered.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let fixed = ["/usr/local/pgsql/bin", "/opt/homebrew/bin", "/usr/bin"].map(PathBuf::from);
    numbered.into_iter().map(|(_, bin)| bin).chain(fixed).collect()
}

fn number_after(before: &str, name: &OsStr) -> Option<u32> {
    name.to_str()?.strip_prefix(before)?.parse().ok()
}

fn missing_programs_error(wanted: Option<u32>, seen: &[u32]) -> Error {
    let there = match seen {
        [] => "none is installed on this machine".to_owned(),
        seen => format!(
            "this machine has version {}",
            seen.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ")
        ),
    };
    let words = match wanted {
        Some(wanted) => format!(
            "The data folder was created by Postgres {wanted}, but {there}; install that version (Debian: `apt \
             install postgresql-{wanted}`), or move the data with pg_upgrade."
        ),
        None => format!(
            "Tancho needs Postgres {MIN_VERSION} or later, but {there}; install it (Debian: `apt install postgresql`), or \
             name an external server with --database-url."
        ),
    };
    Error::invalid(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_is_parsed_from_program_output() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("psql 15\n"), None);
    }

    #[test]
    fn sqlstate_and_reason_of_a_failed_statement_are_parsed() {
        let said = b"42P04 FATAL:  database \"tancho\" already exists\n00000 LOG:  checkpoint\n";
        let (why, code) = read_failure(said);
        assert_eq!(code.as_deref(), Some("42P04"));
        assert_eq!(why, "FATAL:  database \"tancho\" already exists.");
        assert_eq!(
            read_failure(b"initdb: error: x\n"),
            ("initdb: error: x.".into(), None)
        );
    }

    #[test]
    fn missing_programs_error_names_their_package() {
        let words = missing_programs_error(None, &[]).to_string();
        assert!(words.contains("apt install postgresql`"), "{words}");
        let words = missing_programs_error(Some(13), &[15, 17]).to_string();
        assert!(
            words.contains("15 and 17") && words.contains("postgresql-13"),
            "{words}"
        );
    }
}
