//! The hook that connects git with this process, and the pipes between them.
//!
//! Each push has a folder with two named pipes. In `ask`, the hook writes where the new objects are and which
//! refs the push updates; from `answer`, it reads messages for the client and finally `yes` or `no`. End of
//! file without either means no, so that a killed server moves no refs.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access, mkfifo};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;

use crate::datadir::atomic_file;
use crate::kernel::error::Error;
use crate::repositories::model::RefUpdate;

/// The name prefix of the folders of running pushes.
pub(super) const PUSH_FOLDER_PREFIX: &str = "push-";
/// The environment variable with the folder of the push.
pub(super) const PUSH_FOLDER_VARIABLE: &str = "TANCHO_PUSH";
/// The limit on ref updates per push.
const MAX_REF_UPDATES: usize = 10_000;
const HOOK_SCRIPT: &str = r#"#!/bin/sh
# Written by Tancho at each start: requests the server's permission to move the refs.
exec 3<"$TANCHO_PUSH/answer" 4>"$TANCHO_PUSH/ask" || exit 1
printf '%s\n' "$GIT_OBJECT_DIRECTORY" "$GIT_SHALLOW_FILE" >&4
while IFS= read -r line; do printf '%s\n' "$line" >&4; done
printf '.\n' >&4
while IFS= read -r line <&3; do
    case $line in
        yes) exit 0 ;;
        no) exit 1 ;;
        *) printf '%s\n' "${line#-}" ;;
    esac
done
echo 'The server stopped before this push was complete: push again.'
exit 1
"#;

/// The folder of the hook, for `core.hooksPath`.
pub(super) fn hooks_folder(repositories: &Path) -> PathBuf {
    repositories.join("hooks")
}

/// The path of the hook, which is written at each start.
pub(super) fn hook_path(repositories: &Path) -> PathBuf {
    hooks_folder(repositories).join("pre-receive")
}

/// Writes the hook.
pub(super) fn install_hook(repositories: &Path) -> io::Result<()> {
    match std::fs::create_dir(hooks_folder(repositories)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = hook_path(repositories);
    // Git runs it as another user, who must not change it. Replaced as a whole: a push may be about to run it.
    std::fs::set_permissions(hooks_folder(repositories), std::fs::Permissions::from_mode(0o755))?;
    atomic_file::write_file(&path, HOOK_SCRIPT.as_bytes(), 0o755, None)
}

/// The server's side of the pipes of one push. Dropping it removes them.
#[derive(Debug)]
pub(super) struct HookPipes {
    pub(super) folder: PathBuf,
    request_pipe: BufReader<pipe::Receiver>,
    response_pipe: pipe::Sender,
}

/// The hook's request.
#[derive(Debug)]
pub(super) struct HookRequest {
    /// The quarantine folder with the new objects; `None`: there are none.
    pub(super) quarantine: Option<PathBuf>,
    /// The file that lists shallow commits of the push; `None`: there are none.
    pub(super) shallow: Option<PathBuf>,
    pub(super) updates: Vec<RefUpdate>,
}

impl HookPipes {
    /// Creates the pipes for a hook. Errors: also if the hook is missing or not executable, because git would
    /// skip it.
    pub(super) fn create_pipes(repositories: &Path, git_user: Option<u32>) -> Result<Self, Error> {
        access(&hook_path(repositories), AccessFlags::X_OK).map_err(Error::internal)?;
        let folder = repositories.join(format!("{PUSH_FOLDER_PREFIX}{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(Error::internal)?;
        Self::open_pipes(&folder, git_user).map_err(|error| {
            // Best effort: leftovers are removed at the next start.
            let _ = std::fs::remove_dir_all(&folder);
            Error::internal(error)
        })
    }

    fn open_pipes(folder: &Path, git_user: Option<u32>) -> io::Result<Self> {
        let (ask, answer) = (folder.join("ask"), folder.join("answer"));
        for path in [&ask, &answer] {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        if let Some(user) = git_user {
            for path in [&ask, &answer, folder] {
                std::os::unix::fs::lchown(path, Some(user), Some(user))?;
            }
        }
        // Opened for reading and writing, so that opening does not wait for the other side.
        let mut both = pipe::OpenOptions::new();
        both.read_write(true);
        Ok(Self {
            request_pipe: BufReader::new(both.open_receiver(ask)?),
            response_pipe: both.open_sender(answer)?,
            folder: folder.to_owned(),
        })
    }

    /// Waits for the hook's request, for a git process in `repository`. Reads it to the end in any case,
    /// because the hook reads the answer only then.
    pub(super) async fn read_request(&mut self, repository: &Path) -> Result<HookRequest, Error> {
        let (objects, shallow) = (self.read_line().await?, self.read_line().await?);
        let (mut updates, mut wrong) = (Vec::new(), None);
        loop {
            let line = self.read_line().await?;
            if line == "." {
                break;
            }
            match RefUpdate::parse(&line) {
                Ok(update) if updates.len() < MAX_REF_UPDATES => updates.push(update),
                Ok(_) => {
                    wrong = Some(Error::invalid(format!(
                        "One push moves at most {MAX_REF_UPDATES} branches and tags."
                    )));
                }
                Err(error) => wrong = Some(error),
            }
        }
        match wrong {
            Some(error) => Err(error),
            None => Ok(HookRequest {
                quarantine: check_parent(&objects, &repository.join("objects"))?,
                shallow: check_parent(&shallow, repository)?,
                updates,
            }),
        }
    }

    async fn read_line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        self.request_pipe
            .read_until(b'\n', &mut line)
            .await
            .map_err(Error::internal)?;
        line.pop();
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Sends a message to the client.
    pub(super) async fn send_message(&mut self, text: &str) {
        for line in text.lines() {
            self.write_line(&format!("-{line}\n")).await;
        }
    }

    /// Accepts or rejects the push.
    pub(super) async fn send_verdict(&mut self, yes: bool) {
        self.write_line(if yes { "yes\n" } else { "no\n" }).await;
    }

    async fn write_line(&mut self, line: &str) {
        if let Err(error) = self.response_pipe.write_all(line.as_bytes()).await {
            // The hook reads end of file, which rejects the push.
            tracing::warn!(%error, "cannot answer the hook of a push");
        }
    }
}

/// Checks that a path from git is an entry of `folder`; `None` if the path is empty. Git processes untrusted
/// data, so its output is not trusted.
fn check_parent(path: &str, folder: &Path) -> Result<Option<PathBuf>, Error> {
    let path = PathBuf::from(path);
    match path.parent() {
        None => Ok(None),
        Some(parent) if parent == folder && path.file_name().is_some() => Ok(Some(path)),
        Some(_) => Err(Error::internal(
            "git names a path outside the repository of the push",
        )),
    }
}

impl Drop for HookPipes {
    fn drop(&mut self) {
        // Best effort: leftovers are removed at the next start.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_path_outside_the_repository_is_refused() {
        let folder = Path::new("/data/repositories/a.git/objects");
        let good = "/data/repositories/a.git/objects/tmp_objdir-incoming-x";
        assert_eq!(check_parent(good, folder).unwrap(), Some(PathBuf::from(good)));
        assert_eq!(check_parent("", folder).unwrap(), None);
        for bad in [
            "/data/repositories/b.git/objects/x",
            "/data/repositories/a.git/objects/..",
            "/data/repositories/a.git/objects/x/y",
            "objects/x",
            "/",
        ] {
            assert!(!matches!(check_parent(bad, folder), Ok(Some(_))), "{bad}");
        }
    }
}
