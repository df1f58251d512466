//! The hook by which git asks this process, and the pipes between them.
//!
//! Each push has a folder with two named pipes: in `ask` the hook says where the new objects lie and what
//! the push wants, in `answer` it is told what to say to the pusher and, at last, yes or no. A pipe that
//! ends without either is a no, so a server that is killed moves nothing.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access, mkfifo};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;

use crate::kernel::problem::Problem;
use crate::repositories::model::Wish;

/// Names of folders of pushes under way.
pub(super) const PUSH: &str = "push-";
/// The variable in which the hook finds the folder of its push.
pub(super) const VARIABLE: &str = "TANCHO_PUSH";
/// Refs in one push, at most.
const MOST_WISHES: usize = 10_000;
const SCRIPT: &str = r#"#!/bin/sh
# Written by Tancho at each start: asks the server whether the refs may move.
exec 3<"$TANCHO_PUSH/answer" 4>"$TANCHO_PUSH/ask" || exit 1
printf '%s\n' "$GIT_OBJECT_DIRECTORY" >&4
while IFS= read -r line; do printf '%s\n' "$line" >&4; done
printf '.\n' >&4
while IFS= read -r line <&3; do
    case $line in
        yes) exit 0 ;;
        no) exit 1 ;;
        *) printf '%s\n' "${line#-}" ;;
    esac
done
echo 'The server stopped before this push came to its end: push again.'
exit 1
"#;

/// The folder of the hook, for `core.hooksPath`.
pub(super) fn folder(repositories: &Path) -> PathBuf {
    repositories.join("hooks")
}

fn script(repositories: &Path) -> PathBuf {
    folder(repositories).join("pre-receive")
}

/// Writes the hook.
pub(super) fn install(repositories: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder(repositories)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = script(repositories);
    std::fs::write(&path, SCRIPT)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
}

/// The server's side of one push's pipes. They go when it is dropped.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) folder: PathBuf,
    ask: BufReader<pipe::Receiver>,
    answer: pipe::Sender,
}

/// What the hook has asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// Where the new objects lie; `None`: none have come.
    pub(super) quarantine: Option<PathBuf>,
    pub(super) wishes: Vec<Wish>,
}

impl Pipes {
    /// Pipes that wait for a hook. Errors: also a hook that git would pass over, which must not happen.
    pub(super) fn lay(repositories: &Path) -> Result<Self, Problem> {
        access(&script(repositories), AccessFlags::X_OK).map_err(Problem::internal)?;
        let folder = repositories.join(format!("{PUSH}{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(Problem::internal)?;
        Self::open(&folder).map_err(|error| {
            // Best effort: what stays is swept at the next start.
            let _ = std::fs::remove_dir_all(&folder);
            Problem::internal(error)
        })
    }

    fn open(folder: &Path) -> io::Result<Self> {
        let (ask, answer) = (folder.join("ask"), folder.join("answer"));
        for path in [&ask, &answer] {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        // Both ways, so that neither side has to wait for the other to open.
        let mut both = pipe::OpenOptions::new();
        both.read_write(true);
        Ok(Self {
            ask: BufReader::new(both.open_receiver(ask)?),
            answer: both.open_sender(answer)?,
            folder: folder.to_owned(),
        })
    }

    /// Waits until the hook has asked. It is heard to the end in any case, for it listens only then.
    pub(super) async fn asked(&mut self) -> Result<Asked, Problem> {
        let objects = self.line().await?;
        let (mut wishes, mut wrong) = (Vec::new(), None);
        loop {
            let line = self.line().await?;
            if line == "." {
                break;
            }
            match Wish::parse(&line) {
                Ok(wish) if wishes.len() < MOST_WISHES => wishes.push(wish),
                Ok(_) => {
                    wrong = Some(Problem::invalid(format!(
                        "One push moves at most {MOST_WISHES} branches and tags."
                    )));
                }
                Err(problem) => wrong = Some(problem),
            }
        }
        match wrong {
            Some(problem) => Err(problem),
            None => Ok(Asked {
                quarantine: (!objects.is_empty()).then(|| PathBuf::from(objects)),
                wishes,
            }),
        }
    }

    async fn line(&mut self) -> Result<String, Problem> {
        let mut line = Vec::new();
        self.ask
            .read_until(b'\n', &mut line)
            .await
            .map_err(Problem::internal)?;
        line.pop();
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Says something to the pusher.
    pub(super) async fn say(&mut self, text: &str) {
        for line in text.lines() {
            self.tell(&format!("-{line}\n")).await;
        }
    }

    /// Lets the refs move, or not.
    pub(super) async fn decide(&mut self, yes: bool) {
        self.tell(if yes { "yes\n" } else { "no\n" }).await;
    }

    async fn tell(&mut self, line: &str) {
        if let Err(error) = self.answer.write_all(line.as_bytes()).await {
            // The hook hears the end of the pipe, which is a no.
            tracing::warn!(%error, "a push cannot be answered");
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // Best effort: what stays is swept at the next start.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
