//! Postgres' programs: where they are, which version they are, and running them.
//!
//! `pg_ctl` does the start, because it detaches the server (own session, parent gone) on every system that
//! Postgres knows. Paths reach the programs by `PGDATA` and the working directory, never by a command line that
//! a shell might read.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use super::account::Account;
use crate::kernel::problem::Problem;

/// The oldest version that Tancho is written for.
const OLDEST: u32 = 14;

/// `initdb` takes well under a second on a good disk.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with `postgres`, `initdb` and `pg_ctl` of one version.
#[derive(Debug)]
pub(super) struct Programs {
    bin: PathBuf,
    major: u32,
}

impl Programs {
    /// The programs for a folder of the wanted version, or for a new one: those in `PATH`, else the newest.
    pub(super) async fn find(account: Option<Account>, wanted: Option<u32>) -> Result<Self, Problem> {
        let mut seen: Vec<u32> = Vec::new();
        for bin in candidates() {
            let Some(major) = major(&bin, account).await else {
                continue;
            };
            if major >= OLDEST && wanted.is_none_or(|wanted| wanted == major) {
                return Ok(Self { bin, major });
            }
            seen.push(major);
        }
        Err(none_found(wanted, &seen))
    }

    /// The major version.
    pub(super) fn major(&self) -> u32 {
        self.major
    }

    /// Fills an empty folder.
    pub(super) async fn init(&self, folder: &Path, account: Option<Account>) -> Result<(), Problem> {
        let args = [
            "--username=tancho",
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            // The order of bytes: the same on every machine and after every upgrade.
            "--locale=C",
            "--no-instructions",
        ];
        self.run("initdb", &args, folder, account).await
    }

    /// Starts the server on a folder, detached; does not wait for it to be ready.
    pub(super) async fn start(&self, folder: &Path, account: Option<Account>) -> Result<(), Problem> {
        let args = ["start", "--no-wait", "--silent", "--log=start.log"];
        self.run("pg_ctl", &args, folder, account).await
    }

    async fn run(
        &self,
        program: &str,
        args: &[&str],
        folder: &Path,
        account: Option<Account>,
    ) -> Result<(), Problem> {
        let mut command = command(&self.bin.join(program), account);
        command.args(args).env("PGDATA", folder).current_dir(folder);
        let failed = |why: String| {
            Problem::unavailable(format!(
                "Postgres' {program} failed in {}: {why}",
                folder.display()
            ))
        };
        let output = output(command)
            .await
            .map_err(|error| failed(format!("{error}.")))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(last_line(&output.stderr))),
        }
    }
}

/// A program with nothing of ours but `PATH`: no variables (they hold secrets), no input.
fn command(program: &Path, account: Option<Account>) -> Command {
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

async fn output(mut command: Command) -> std::io::Result<Output> {
    match tokio::time::timeout(DEADLINE, command.output()).await {
        Ok(output) => output,
        Err(_) => Err(std::io::Error::other("it takes too long")),
    }
}

/// What a program said last, as a sentence.
pub(super) fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    format!("{}.", line.unwrap_or("it gave no reason").trim_end_matches('.'))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → 15. `None` also when the account may not run it.
async fn major(bin: &Path, account: Option<Account>) -> Option<u32> {
    let mut command = command(&bin.join("postgres"), account);
    command.arg("--version");
    let output = output(command).await.ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

/// Folders that hold the programs, the best first, each once.
fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|bin| bin.is_absolute());
    let mut found: Vec<PathBuf> = Vec::new();
    for bin in in_path.chain(usual_folders()) {
        // A link in PATH points to where its companions are.
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

/// Where Debian, Red Hat, Alpine, Homebrew and Postgres' own build put them; the newest first.
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

fn none_found(wanted: Option<u32>, seen: &[u32]) -> Problem {
    let there = match seen {
        [] => "none is on this machine".to_owned(),
        seen => format!(
            "this machine has version {}",
            seen.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ")
        ),
    };
    let words = match wanted {
        Some(wanted) => format!(
            "The data folder was made by Postgres {wanted}, but {there}; install that version (Debian: `apt install \
             postgresql-{wanted}`), or move the data with pg_upgrade."
        ),
        None => format!(
            "Tancho needs Postgres {OLDEST} or later, but {there}; install it (Debian: `apt install postgresql`), or \
             name a server with --database-url."
        ),
    };
    Problem::invalid(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_program_says() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("psql 15\n"), None);
    }

    #[test]
    fn missing_programs_are_named_with_their_package() {
        let words = none_found(None, &[]).to_string();
        assert!(words.contains("apt install postgresql`"), "{words}");
        let words = none_found(Some(13), &[15, 17]).to_string();
        assert!(
            words.contains("15 and 17") && words.contains("postgresql-13"),
            "{words}"
        );
    }
}
