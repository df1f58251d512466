//! `git` as a child: by argv, in an environment of our own, so that neither the machine's configuration nor
//! a variable of the server reaches it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::kernel::problem::Problem;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The answer of a short question that is kept, at most.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// Of what git complains of, in bytes.
const LONGEST_COMPLAINT: usize = 4 * 1024;
/// Memory that git may ask for in one piece: a small pack can unpack to objects of any size.
const MOST_PIECE: u64 = 1 << 30;
/// Less is too little for git's own work.
const LEAST_PIECE: u64 = 64 << 20;
/// What a pack may be larger than the room, so that git says first, and better, what is wrong.
const OVERHEAD: u64 = 1 << 20;
/// Of the processor, for what is taken in: a small pack can unpack to any number of objects.
const PROCESSOR: Duration = Duration::from_secs(1800);

/// Runs what its arguments say within two bounds: the size of a file in blocks of 512 bytes, and seconds of the processor.
/// A file that would be larger is an error to who writes it, instead of its death.
macro_rules! bounded {
    ($redirections:literal) => {
        concat!(
            r#"trap '' XFSZ; ulimit -c 0 && ulimit -f "$1" && ulimit -t "$2" && shift 2 && exec "$@""#,
            $redirections
        )
    };
}
const BOUNDED: &str = bounded!("");
/// The same, with its standard input as descriptor 3 and nothing to read itself.
const BOUNDED_BESIDE: &str = bounded!(" 3<&0 0</dev/null");

/// A `git` in a repository that ends when it is dropped.
pub(super) fn git(repository: &Path) -> Command {
    child("git", repository)
}

/// Bounds of a git that takes in what strangers have packed, and of each of its children.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The bytes by which the repository may grow.
    pub(super) room: u64,
    /// The bytes that any object may unpack to.
    pub(super) largest: u64,
}

impl Bounds {
    fn blocks(self) -> u64 {
        self.room.saturating_add(OVERHEAD).div_ceil(512)
    }
}

/// A `git` that takes in objects.
pub(super) fn taking_git(repository: &Path, bounds: Bounds) -> Command {
    taking(BOUNDED, repository, bounds)
}

/// A `git` that takes in objects, and finds somebody to talk to at descriptor 3 (`fd::3` among its remotes).
pub(super) fn taking_git_beside(repository: &Path, bounds: Bounds, socket: OwnedFd) -> Command {
    let mut command = taking(BOUNDED_BESIDE, repository, bounds);
    command.stdin(Stdio::from(socket));
    command
}

fn taking(script: &str, repository: &Path, bounds: Bounds) -> Command {
    let mut command = child("sh", repository);
    let largest = bounds.largest.clamp(LEAST_PIECE, MOST_PIECE);
    command
        .args(["-c", script, "sh"])
        .arg(bounds.blocks().to_string())
        .arg(PROCESSOR.as_secs().to_string())
        .args(["git", "-c", "pack.threads=1"])
        .env("GIT_ALLOC_LIMIT", largest.to_string());
    command
}

fn child(program: &str, repository: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOC_LIMIT", MOST_PIECE.to_string())
        .env("GIT_DIR", repository)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Why git could not be started.
pub(super) fn cannot_start(error: io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::unavailable(
            "This server has no git: its administrator has to install it before repositories can be used.",
        )
        .because(error),
        _ => Problem::internal(error),
    }
}

/// Runs a question to its end; its status and the first `most` bytes of what it said.
pub(super) async fn read(command: &mut Command, most: u64) -> Result<(i32, Vec<u8>), Problem> {
    let mut child = command.spawn().map_err(cannot_start)?;
    let stdout = child.stdout.take().ok_or_else(|| Problem::internal("no pipe"))?;
    let mut said = Vec::new();
    stdout
        .take(most)
        .read_to_end(&mut said)
        .await
        .map_err(Problem::internal)?;
    if said.len() as u64 == most {
        // It has more to say, and nobody to say it to.
        child.kill().await.map_err(Problem::internal)?;
        return Ok((0, said));
    }
    let status = child.wait().await.map_err(Problem::internal)?;
    Ok((status.code().unwrap_or(-1), said))
}

/// Runs a short question; its status and what it said.
pub(super) async fn ask(command: &mut Command) -> Result<(i32, String), Problem> {
    let (status, said) = read(command, LONGEST_ANSWER).await?;
    Ok((status, String::from_utf8_lossy(&said).trim_end().to_owned()))
}

/// Runs what may fail for a reason that somebody has to know: whether it went well, and the end of what it complained
/// of.
pub(super) async fn complain(command: &mut Command) -> Result<(bool, String), Problem> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot_start)?;
    let mut stderr = child.stderr.take().ok_or_else(|| Problem::internal("no pipe"))?;
    let (mut said, mut chunk) = (Vec::new(), vec![0; LONGEST_COMPLAINT]);
    loop {
        match stderr.read(&mut chunk).await.map_err(Problem::internal)? {
            0 => break,
            read => said.extend_from_slice(&chunk[..read]),
        }
        let before = said.len().saturating_sub(LONGEST_COMPLAINT);
        said.drain(..before);
    }
    let status = child.wait().await.map_err(Problem::internal)?;
    Ok((status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Runs what must go well.
pub(super) async fn order(command: &mut Command) -> Result<String, Problem> {
    match ask(command).await? {
        (0, said) => Ok(said),
        (status, _) => Err(Problem::internal(format!("git ended with status {status}"))),
    }
}
