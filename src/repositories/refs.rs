//! The refs that a push moves. A push is atomic: all of its refs move, or none. Refusals by git are detected
//! before anything is deployed: the refs are locked by a git transaction that is prepared, and not committed,
//! until the deploy has ended.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::ChildStdin;

use crate::kernel::error::Error;
use crate::kernel::log_text::{clean_line, clip_line};
use crate::repositories::disk;
use crate::repositories::git_command::{GitChild, GitCommand};
use crate::repositories::git_output::read_tail;
use crate::repositories::model::RefUpdate;

/// The refs that clients see and move: branches and tags. Others are internal or obsolete.
pub(super) const VISIBLE_REFS: [&str; 3] = [
    "transfer.hideRefs=refs/",
    "transfer.hideRefs=!refs/heads/",
    "transfer.hideRefs=!refs/tags/",
];
/// The last commit fetched from a forge.
pub(super) const FORGE_REF: &str = "refs/tancho/forge";

/// For git to lock the refs of a push.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum length of the reason for a ref that cannot be moved, in bytes.
const MAX_REASON_BYTES: usize = 400;
/// The maximum number of refs listed in an error.
const MAX_LISTED: usize = 3;

/// Returns true for a branch or a tag.
pub(super) fn is_visible(name: &[u8]) -> bool {
    name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/")
}

/// Refuses a push that moves anything but branches and tags.
pub(super) fn check_ref_names(updates: &[RefUpdate]) -> Result<(), Error> {
    let others: Vec<&str> = updates
        .iter()
        .map(|update| update.name.as_str())
        .filter(|name| !is_visible(name.as_bytes()))
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let mut named = others[..others.len().min(MAX_LISTED)].join(", ");
    if others.len() > MAX_LISTED {
        named.push_str(", …");
    }
    Err(Error::invalid(format!(
        "Only branches and tags can be pushed, and this push also has: {named}. Push with `--all` or `--tags`, or name \
         the branches, instead of `--mirror`."
    )))
}

/// The locked refs of a push; none of them has been moved.
pub(super) struct PreparedRefs {
    child: GitChild,
    stdin: ChildStdin,
}

impl PreparedRefs {
    /// Locks the refs with a git command that sees the objects of the push. Errors: `Conflict`, with git's
    /// reason, if a ref cannot be moved.
    pub(super) async fn lock_refs(git: GitCommand, updates: &[RefUpdate]) -> Result<Self, Error> {
        // Not killed on drop, or its locks would remain. It releases them when its standard input is closed.
        let git = git.args(["update-ref", "--stdin", "-z"]).keep_alive_on_drop();
        let mut child = git.stdin(Stdio::piped()).pipe_stderr().spawn()?;
        let missing = || Error::internal("no pipe");
        let mut stdin = child.child.stdin.take().ok_or_else(missing)?;
        let mut stdout = BufReader::new(child.child.stdout.take().ok_or_else(missing)?);
        let stderr = child.child.stderr.take();
        let commands = build_transaction(updates);
        let locking = async {
            // A git that has already exited reads no more, and has reported the reason.
            let _ = stdin.write_all(&commands).await;
            let _ = stdin.flush().await;
            let mut line = String::new();
            while stdout.read_line(&mut line).await? > 0 {
                if line == "prepare: ok\n" {
                    return Ok(Ok(()));
                }
                line.clear();
            }
            let mut complaint = Vec::new();
            read_tail(stderr, &mut complaint).await?;
            std::io::Result::Ok(Err(String::from_utf8_lossy(&complaint).into_owned()))
        };
        let locked = tokio::time::timeout(LOCK_TIMEOUT, locking)
            .await
            .map_err(|_| Error::unavailable("git could not lock the branches in time: push again."))?;
        match locked.map_err(Error::internal)? {
            Ok(()) => Ok(Self { child, stdin }),
            Err(complaint) => Err(refusal_error(&complaint)),
        }
    }

    /// Unlocks the refs.
    pub(super) async fn unlock_refs(mut self) {
        // If this fails, git exits and releases its locks.
        let _ = self.stdin.write_all(b"abort\0").await;
        drop(self.stdin);
        let _ = tokio::time::timeout(LOCK_TIMEOUT, self.child.wait()).await;
    }
}

/// Builds the input of `git update-ref`, from the start of a transaction to its preparation.
fn build_transaction(updates: &[RefUpdate]) -> Vec<u8> {
    let mut commands = b"start\0".to_vec();
    for RefUpdate { old, new, name } in updates {
        match (old, new) {
            (old, Some(new)) => {
                // Without an old object: a name of zeros, which requires that the ref does not exist.
                let old = old.clone().unwrap_or_else(|| "0".repeat(new.len()));
                commands.extend_from_slice(format!("update {name}\0{new}\0{old}\0").as_bytes());
            }
            (Some(old), None) => commands.extend_from_slice(format!("delete {name}\0{old}\0").as_bytes()),
            // Already deleted: git accepts this too.
            (None, None) => {}
        }
    }
    commands.extend_from_slice(b"prepare\0");
    commands
}

/// Builds the error for refs that cannot be moved, without paths of this server.
fn refusal_error(complaint: &str) -> Error {
    let line = complaint.lines().rev().find(|line| line.starts_with("fatal: "));
    let line = line.or_else(|| complaint.lines().next()).unwrap_or_default();
    let reason = line.trim_start_matches("fatal: ").trim_start_matches("prepare: ");
    if complaint.contains(".lock': File exists") {
        return Error::conflict("Another push is updating one of these branches: push again in a moment.")
            .with_source(complaint.to_owned());
    }
    let reason = clip_line(clean_line(reason), MAX_REASON_BYTES);
    Error::conflict(format!(
        "git refuses this push: {reason}. Nothing was built and no branch was moved."
    ))
}

/// Removes locks of refs that are older than the hook, which is written at each start: their holders are
/// gone. Returns true if there were any.
pub(super) async fn remove_stale_locks(repository: &Path, hook: &Path) -> Result<bool, Error> {
    let (repository, hook) = (repository.to_owned(), hook.to_owned());
    disk::run_blocking(move || {
        let start = std::fs::metadata(hook)?.modified()?;
        let mut found = false;
        let mut folders = vec![repository.clone(), repository.join("refs")];
        while let Some(folder) = folders.pop() {
            // A push that ends meanwhile removes its own locks, and then the empty folders.
            let Some(entries) = disk::skip_missing(std::fs::read_dir(&folder))? else {
                continue;
            };
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() && folder != repository {
                    folders.push(entry.path());
                } else if kind.is_file() && is_stale_lock(&entry.path(), start)? {
                    disk::skip_missing(std::fs::remove_file(entry.path()))?;
                    found = true;
                }
            }
        }
        Ok(found)
    })
    .await
}

fn is_stale_lock(path: &Path, start: SystemTime) -> std::io::Result<bool> {
    if path.extension().is_none_or(|extension| extension != "lock") {
        return Ok(false);
    }
    match disk::skip_missing(std::fs::symlink_metadata(path))? {
        Some(lock) => Ok(lock.modified()? < start),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(old: Option<&str>, new: Option<&str>, name: &str) -> RefUpdate {
        RefUpdate {
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    #[test]
    fn branches_and_tags_are_accepted_and_other_refs_are_named_in_the_error() {
        let (id, other) = ("a".repeat(40), "b".repeat(40));
        let good = [
            update(None, Some(&id), "refs/heads/main"),
            update(Some(&id), None, "refs/tags/v1"),
        ];
        assert!(check_ref_names(&good).is_ok());
        for name in [
            "refs/replace/x",
            "refs/forge/main",
            "refs/tancho/forge",
            "refs/notes/commits",
            "refs/headsx",
            "refs/pull/1/head",
            "HEAD",
        ] {
            let refused = check_ref_names(&[good[0].clone(), update(None, Some(&other), name)]).unwrap_err();
            assert!(refused.message().contains(name), "{refused:?}");
        }
    }

    #[test]
    fn lock_removed_by_its_push_is_ignored() {
        let gone = std::env::temp_dir().join(format!("tancho-{}.lock", uuid::Uuid::new_v4().simple()));
        assert!(!is_stale_lock(&gone, SystemTime::now()).unwrap());
    }

    #[test]
    fn ref_transaction_states_old_and_new_objects() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let updates = [
            update(None, Some(&a), "refs/heads/new"),
            update(Some(&a), Some(&b), "refs/heads/moved"),
            update(Some(&a), None, "refs/heads/gone"),
            update(None, None, "refs/heads/never"),
        ];
        let expected = format!(
            "start\0update refs/heads/new\0{a}\0{}\0update refs/heads/moved\0{b}\0{a}\0delete refs/heads/gone\0{a}\0prepare\0",
            "0".repeat(40)
        );
        assert_eq!(build_transaction(&updates), expected.as_bytes());
    }

    #[test]
    fn refusal_contains_the_reason_of_git_without_paths() {
        let refused =
            refusal_error("fatal: prepare: cannot lock ref 'refs/heads/a/b': 'refs/heads/a' exists\n");
        assert!(refused.message().contains("'refs/heads/a' exists"), "{refused:?}");
        let locked = "fatal: prepare: cannot lock ref 'refs/heads/a': Unable to create '/var/x/refs/heads/a.lock': File exists.\n\nAnother";
        assert!(!refusal_error(locked).message().contains("/var"), "{locked}");
    }
}
