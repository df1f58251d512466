//! The tree of a commit to deploy: checks it and archives it. It is the tree of exactly the named object: no
//! replacement, graft or attribute of the server applies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::core::Core;
use crate::deploys::{self, ArchiveUpload, DeployOptions, DeploySource};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::kernel::log_text::{clean_line, clip_line};
use crate::kernel::request_context::RequestContext;
use crate::repositories::actions::Repository;
use crate::repositories::git_command::{GitCommand, git_command};
use crate::repositories::git_output::read_tail;
use crate::repositories::hook::HookRequest;
use crate::repositories::model::RefUpdate;

const CHUNK: usize = 64 * 1024;
/// Headers and padding of an archive entry, in addition to its file.
const ENTRY_OVERHEAD_BYTES: u64 = 2048;
/// For git to list or archive the files of a commit.
const GIT_TIMEOUT: Duration = Duration::from_secs(600);
/// The maximum length of git's reason, in bytes.
const MAX_REASON_BYTES: usize = 300;
/// The beginning of every Git LFS pointer.
const LFS_POINTER_PATTERN: &str = "^version https://git-lfs.github.com/spec/";
/// The maximum size of the list of files that may be pointers.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// The maximum size of their attributes: each path again, with the name and the value of its attribute.
const MAX_ATTRIBUTES_BYTES: u64 = 16 << 20;
/// The maximum number of pointers listed in an error.
const MAX_LISTED: usize = 3;

/// The commits that may be deployed: those of a repository, and those that a push is about to add.
pub(super) struct DeployableTree<'a> {
    pub(super) core: &'a Core,
    pub(super) call: &'a RequestContext,
    pub(super) repository: &'a Repository,
    /// The push that contains the commits; `None`: they are in the repository already.
    pub(super) hook_request: Option<&'a HookRequest>,
}

impl DeployableTree<'_> {
    /// Returns a git command that sees all of these objects.
    pub(super) fn git_with_objects(&self) -> GitCommand {
        let path = &self.repository.path;
        let mut command = git_command(self.core, path);
        let Some(request) = self.hook_request else {
            return command;
        };
        if let Some(quarantine) = &request.quarantine {
            command = command
                .env("GIT_OBJECT_DIRECTORY", quarantine)
                .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", path.join("objects"));
        }
        match &request.shallow {
            Some(shallow) => command.env("GIT_SHALLOW_FILE", shallow),
            None => command,
        }
    }

    /// Refuses a push that lacks objects which are reachable from its refs. Git refuses it as well, but only
    /// after the deploy.
    pub(super) async fn check_connectivity(&self, updates: &[RefUpdate]) -> Result<(), Error> {
        let new: Vec<&str> = updates
            .iter()
            .filter_map(|update| update.new.as_deref())
            .collect();
        let mut input = new.join("\n");
        input.push('\n');
        let walk = ["rev-list", "--objects", "--quiet", "--stdin", "--not", "--all"];
        let walk = self
            .git_with_objects()
            .args(walk)
            .run_with_input(input.into_bytes(), MAX_LIST_BYTES);
        let (status, _) = walk.await?;
        match status {
            Some(0) => Ok(()),
            _ => Err(Error::invalid(
                "This push lacks objects of its branches; nothing was built and no branch was moved: run \
                 `git fsck` in the repository that it was pushed from.",
            )),
        }
    }

    /// Refuses a commit that is too large to deploy or lacks files that it needs.
    pub(super) async fn check_commit(&self, commit: &str) -> Result<(), Error> {
        let sizes = tokio::time::timeout(GIT_TIMEOUT, self.check_sizes(commit));
        sizes.await.map_err(|_| timeout_error())??;
        self.check_lfs_pointers(commit).await
    }

    async fn check_sizes(&self, commit: &str) -> Result<(), Error> {
        let settings = &self.core.settings.builds;
        let listing = ["ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit];
        let mut child = self.git_with_objects().args(listing).spawn()?;
        let stdout = child.child.stdout.take();
        let stdout = stdout.ok_or_else(|| Error::internal("no pipe"))?;
        let (mut entries, mut entry) = (BufReader::new(stdout), Vec::new());
        let (mut files, mut bytes) = (0, 0u64);
        while entries.read_until(0, &mut entry).await.map_err(Error::internal)? > 0 {
            bytes = bytes.saturating_add(parse_entry_size(&entry)?);
            files += 1;
            if files > settings.max_files || bytes > settings.max_unpacked_bytes.0 {
                return Err(Error::too_large(format!(
                    "The commit has more than the {} files and folders or {} bytes that one deploy may have.",
                    settings.max_files, settings.max_unpacked_bytes.0
                )));
            }
            entry.clear();
        }
        match child.wait().await.map_err(Error::internal)? {
            Some(0) => Ok(()),
            _ => Err(Error::internal("git cannot list what was pushed")),
        }
    }

    /// Refuses Git LFS pointers in place of their contents: files that look like one, and for which the
    /// attributes of the tree, as git reads them, request the LFS filter. Other files are ordinary files.
    async fn check_lfs_pointers(&self, commit: &str) -> Result<(), Error> {
        let attributes = [
            "grep",
            "-q",
            "-e",
            "filter=lfs",
            commit,
            "--",
            ":(glob)**/.gitattributes",
        ];
        match self.git_with_objects().args(attributes).run_query().await?.0 {
            Some(0) => {}
            Some(1) => return Ok(()),
            _ => return Err(Error::internal("git grep failed")),
        }
        let finding = ["grep", "-l", "-z", "-I", "-e", LFS_POINTER_PATTERN, commit];
        let found = self.git_with_objects().args(finding).read_output(MAX_LIST_BYTES);
        let found = found.await.map_err(too_many_pointers_error)?;
        let prefix = format!("{commit}:");
        let paths: Vec<u8> = found
            .stdout
            .split_inclusive(|byte| *byte == 0)
            .filter_map(|path| path.strip_prefix(prefix.as_bytes()))
            .flatten()
            .copied()
            .collect();
        if paths.is_empty() {
            return Ok(());
        }
        let pointers = self.filter_lfs_paths(commit, paths).await?;
        if pointers.is_empty() {
            return Ok(());
        }
        let mut named = pointers[..pointers.len().min(MAX_LISTED)].join(", ");
        if pointers.len() > MAX_LISTED {
            named.push_str(", …");
        }
        Err(Error::invalid(format!(
            "These files are Git LFS pointers, and this server does not store LFS objects: {named}. Commit the files \
             themselves (`git lfs migrate export`)."
        )))
    }

    /// Returns those of the NUL-terminated paths to which the attributes of a commit assign the Git LFS
    /// filter.
    async fn filter_lfs_paths(&self, commit: &str, paths: Vec<u8>) -> Result<Vec<String>, Error> {
        let index = TemporaryFile::new_in(&self.repository.path);
        // Attributes are read from an index, because a bare repository has no files.
        self.git_with_objects()
            .env("GIT_INDEX_FILE", &index.0)
            .args(["read-tree", commit])
            .run_checked()
            .await?;
        let asking = self.git_with_objects().env("GIT_INDEX_FILE", &index.0).args([
            "check-attr",
            "--cached",
            "-z",
            "--stdin",
            "filter",
        ]);
        let asking = asking.run_with_input(paths, MAX_ATTRIBUTES_BYTES);
        let (status, said) = asking.await.map_err(too_many_pointers_error)?;
        if status != Some(0) {
            return Err(Error::internal("git check-attr failed"));
        }
        let words: Vec<&[u8]> = said.split(|byte| *byte == 0).collect();
        let ours = words
            .chunks_exact(3)
            .filter(|answer| answer[2] == b"lfs")
            .map(|answer| clean_line(&String::from_utf8_lossy(answer[0])).into_owned());
        Ok(ours.collect())
    }

    /// Deploys a commit. Returns the event to follow.
    pub(super) async fn deploy_commit(&self, commit: &str) -> Result<EventId, Error> {
        let about = [
            "log",
            "-1",
            "--no-show-signature",
            "--format=%an <%ae>%n%B",
            commit,
        ];
        let about = self
            .git_with_objects()
            .args(about)
            .run_checked_and_cut()
            .await?
            .replace('\0', "");
        let (author, message) = about.split_once('\n').unwrap_or((&about, ""));
        let about = DeployOptions {
            origin: "git".into(),
            message: message.trim().to_owned(),
            commit: commit.to_owned(),
            author: author.chars().take(200).collect(),
            ..DeployOptions::default()
        };
        let archive = tokio::time::timeout(GIT_TIMEOUT, self.create_archive(commit));
        let source = DeploySource::Archive(archive.await.map_err(|_| timeout_error())??);
        deploys::deploy_app(self.core, self.call, &self.repository.app.name, about, source).await
    }

    async fn create_archive(&self, commit: &str) -> Result<ArchiveUpload, Error> {
        let settings = &self.core.settings.builds;
        let frames = settings.max_files.saturating_mul(ENTRY_OVERHEAD_BYTES);
        let limit = settings.max_unpacked_bytes.0.saturating_add(frames);
        let mut upload = ArchiveUpload::begin_in(&self.core.data_dir.uploads_dir(), limit).await?;
        let packing = self.git_with_objects().args(["archive", "--format=tar", commit]);
        let mut child = packing.pipe_stderr().spawn()?;
        let stdout = child.child.stdout.take();
        let mut stdout = stdout.ok_or_else(|| Error::internal("no pipe"))?;
        let (stderr, mut complaint) = (child.child.stderr.take(), Vec::new());
        let writing = async {
            let mut chunk = vec![0; CHUNK];
            loop {
                match stdout.read(&mut chunk).await.map_err(Error::internal)? {
                    0 => return Ok(()),
                    n => upload.write_chunk(&Bytes::copy_from_slice(&chunk[..n])).await?,
                }
            }
        };
        let complaining = async { read_tail(stderr, &mut complaint).await.map_err(Error::internal) };
        tokio::try_join!(writing, complaining)?;
        match child.wait().await.map_err(Error::internal)? {
            Some(0) => Ok(upload),
            _ => Err(archive_error(&String::from_utf8_lossy(&complaint))),
        }
    }
}

fn timeout_error() -> Error {
    Error::failed(format!(
        "git took longer than {} seconds to read this commit and was stopped.",
        GIT_TIMEOUT.as_secs()
    ))
}

/// Refuses a commit with too many candidates to check which of them are pointers.
fn too_many_pointers_error(error: Error) -> Error {
    match error.kind() {
        ErrorKind::TooLarge => Error::too_large(
            "Too many files of this commit look like Git LFS pointers, and this server does not store LFS objects: commit the \
             files themselves (`git lfs migrate export`).",
        ),
        _ => error,
    }
}

/// Builds the error for a failed archive. The content of the commit causes it, such as a placeholder that git
/// cannot expand.
fn archive_error(complaint: &str) -> Error {
    let reason = complaint.lines().next_back().unwrap_or("no reason given");
    let reason = clip_line(clean_line(reason), MAX_REASON_BYTES).into_owned();
    Error::invalid(format!(
        "git cannot archive the files of this commit ({reason}): check those that .gitattributes marks with \
         `export-subst`."
    ))
}

/// The name of a file that git creates in a repository. The file is removed when this is dropped.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new_in(repository: &Path) -> Self {
        let name = format!("tancho-{}.index", uuid::Uuid::new_v4().simple());
        Self(repository.join(name))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Best effort: a remaining file is removed with the repository.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Returns the size of an entry of `git ls-tree -l`. Errors: `Invalid` for a submodule.
fn parse_entry_size(entry: &[u8]) -> Result<u64, Error> {
    let text = String::from_utf8_lossy(entry);
    let (about, path) = text.split_once('\t').unwrap_or((&text, ""));
    let mut words = about.split_ascii_whitespace();
    if words.next() == Some("160000") {
        let path = path.trim_end_matches('\0');
        return Err(Error::invalid(format!(
            "{path} is a submodule, and submodules are not fetched: commit its files instead."
        )));
    }
    Ok(words.nth(2).and_then(|size| size.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_entry_size_is_parsed_and_submodule_is_refused() {
        let id = "a1".repeat(20);
        let entry = |mode: &str, kind: &str, size: &str| format!("{mode} {kind} {id} {size:>7}\ta/b c\0");
        assert_eq!(
            parse_entry_size(entry("100644", "blob", "123").as_bytes()).unwrap(),
            123
        );
        assert_eq!(
            parse_entry_size(entry("120000", "blob", "7").as_bytes()).unwrap(),
            7
        );
        let refused = parse_entry_size(entry("160000", "commit", "-").as_bytes()).unwrap_err();
        assert!(
            refused.message().starts_with("a/b c is a submodule"),
            "{refused:?}"
        );
    }

    #[test]
    fn archive_error_has_the_last_line_of_git_without_control_characters() {
        let refused = archive_error("warning: x\nBUG: gpg-interface.c:1: invalid \u{1b}[31mtrust level\n");
        assert!(refused.message().contains("trust level"), "{refused:?}");
        assert!(!refused.message().contains('\u{1b}') && !refused.message().contains("warning"));
    }
}
