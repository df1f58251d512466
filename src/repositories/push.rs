//! What a push may do: the deploy of the default branch before its ref moves.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::core::Core;
use crate::deploys::{self, Order, Source, Upload};
use crate::events::{self, Outcome, Told};
use crate::kernel::call::Call;
use crate::kernel::ids::EventId;
use crate::kernel::names::BranchName;
use crate::kernel::problem::Problem;
use crate::repositories::actions::Repository;
use crate::repositories::children::{Bounds, ask, cannot_start, git, order};
use crate::repositories::hook::{Asked, Pipes};
use crate::repositories::model::{Wish, branch_ref, first_default};
use crate::repositories::room::{self, Turn};
use crate::repositories::{disk, store};

const CHUNK: usize = 64 * 1024;
/// For a deploy to end when the server stops.
const LAST_STEP: Duration = Duration::from_secs(5);
/// Beside the files, an archive has heads and fillings.
const FRAME: u64 = 2048;

/// A push under way.
pub(super) struct Push {
    core: Core,
    call: Call,
    repository: Repository,
    pipes: Pipes,
    /// The bytes by which the repository may grow.
    left: u64,
    /// Held until all that is pushed has come.
    receiving: Option<Turn>,
    /// Held until git has moved the refs.
    lock: Option<Flock<File>>,
}

impl Push {
    /// One whose turn it is.
    pub(super) async fn new(core: &Core, call: &Call, repository: Repository) -> Result<Self, Problem> {
        let receiving = Some(Turn::to_receive(&repository.path).await?);
        let left = room::left(&repository.path, core.settings.git.max_repository_bytes.0).await?;
        Ok(Self {
            left,
            receiving,
            core: core.clone(),
            call: call.clone(),
            repository,
            pipes: Pipes::lay(&core.dirs.repositories())?,
            lock: None,
        })
    }

    /// Where the hook finds us.
    pub(super) fn folder(&self) -> &Path {
        &self.pipes.folder
    }

    /// What git may take in.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            room: self.left,
            largest: self.core.settings.builds.max_unpacked_bytes.0,
        }
    }

    /// Waits for the hook and answers it.
    pub(super) async fn converse(&mut self) {
        let asked = self.pipes.asked().await;
        self.receiving = None;
        let judged = match asked {
            Ok(asked) => self.judge(&asked).await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = &judged {
            tracing::info!(problem = %problem.chain(), app = %self.repository.app.name, "a push is refused");
            self.pipes.say(&format!("ERROR: {}", problem.words())).await;
        }
        self.pipes.decide(judged.is_ok()).await;
    }

    async fn judge(&mut self, asked: &Asked) -> Result<(), Problem> {
        self.measure(asked).await?;
        let app = self.repository.app.id;
        let chosen = store::find_branch(&self.core.db, app).await?;
        let usual = &self.core.settings.git.default_branch;
        let branch = chosen.unwrap_or_else(|| first_default(&asked.wishes, usual));
        let name = branch_ref(&branch);
        let wish = asked.wishes.iter().find(|wish| wish.name == name);
        match wish {
            None => self.pipes.say(&kept(&branch)).await,
            Some(wish) => self.deploy_branch(asked, &branch, wish).await?,
        }
        let bytes = disk::size(&self.repository.path).await?;
        let mut tx = self.core.db.begin().await?;
        store::pushed(&mut tx, app, wish.map(|_| &branch), bytes).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Refuses what makes the repository too large with what git has written beside it.
    async fn measure(&self, asked: &Asked) -> Result<(), Problem> {
        let Some(quarantine) = &asked.quarantine else {
            return Ok(());
        };
        match disk::size(quarantine).await?.unsigned_abs() > self.left {
            false => Ok(()),
            true => Err(Problem::too_large(format!(
                "What is pushed makes the repository larger than the {} bytes that it may have.",
                self.core.settings.git.max_repository_bytes.0
            ))),
        }
    }

    async fn deploy_branch(
        &mut self,
        asked: &Asked,
        branch: &BranchName,
        wish: &Wish,
    ) -> Result<(), Problem> {
        let Some(commit) = &wish.new else {
            return Err(Problem::invalid(format!(
                "The branch {branch} is the one that is deployed: it cannot be deleted."
            )));
        };
        self.lock = Some(self.lock()?);
        // Git looks as well, but only once everything is deployed.
        let tip = ["rev-parse", "--verify", "--quiet", &wish.name];
        let (_, tip) = ask(git(&self.repository.path).args(tip)).await?;
        if tip != wish.old.as_deref().unwrap_or_default() {
            return Err(Problem::conflict(format!(
                "The branch {branch} has been pushed by somebody else meanwhile: fetch it, then push again."
            )));
        }
        let kind = order(self.tree(asked).looking().args(["cat-file", "-t", commit])).await?;
        if kind != "commit" {
            return Err(Problem::invalid(format!(
                "A branch leads to a commit, and this is a {kind}."
            )));
        }
        self.tree(asked).check(commit).await?;
        self.deploy(asked, branch, commit).await
    }

    async fn deploy(&mut self, asked: &Asked, branch: &BranchName, commit: &str) -> Result<(), Problem> {
        let event = self.tree(asked).deploy(commit).await?;
        let short = &commit[..commit.len().min(12)];
        self.pipes
            .say(&format!("Deploying {short} of {branch} (event {event})"))
            .await;
        let mut following = events::follow(&self.core.db, &self.core.notices, &event);
        let stopping = self.stopping();
        tokio::pin!(stopping);
        loop {
            let told = tokio::select! {
                told = following.next() => told?,
                problem = &mut stopping => return Err(problem),
            };
            let Some(told) = told else { break };
            match told {
                Told::Line { message, .. } => self.pipes.say(&message).await,
                Told::End(Outcome::Done) => return Ok(()),
                Told::End(failed) => return failed.into_result(),
            }
        }
        Err(Problem::internal("an event ended without an outcome"))
    }

    /// Comes when the server stops, a little later: the deploy, which is this host's alone, may be at its last step.
    /// If not, it lies still until the server is back, and nobody can be kept waiting for so long.
    fn stopping(&self) -> impl Future<Output = Problem> + use<> {
        let (stop, drain) = (self.core.stop.clone(), self.core.settings.api.drain);
        async move {
            stop.cancelled().await;
            tokio::time::sleep(LAST_STEP.min(drain / 2)).await;
            Problem::unavailable(
                "This server is being stopped, and the branch stays where it was. The deploy goes on when the server \
                 is back: push again then.",
            )
        }
    }

    fn tree<'a>(&'a self, asked: &'a Asked) -> Tree<'a> {
        Tree {
            core: &self.core,
            call: &self.call,
            repository: &self.repository,
            quarantine: asked.quarantine.as_deref(),
        }
    }

    /// The event of a deploy keeps others away while it runs; this one also until the refs have moved.
    fn lock(&self) -> Result<Flock<File>, Problem> {
        let path = self.repository.path.join("tancho.lock");
        let mut options = File::options();
        let file = options.create(true).read(true).write(true).truncate(false);
        let file = file.open(path).map_err(Problem::internal)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(file, _)| Problem::conflict(taken(file)))?;
        file.set_len(0).map_err(Problem::internal)?;
        (&*file)
            .write_all(self.call.owner().1.as_bytes())
            .map_err(Problem::internal)?;
        Ok(file)
    }
}

/// What may be deployed: commits of a repository, and those that are about to become its own.
pub(super) struct Tree<'a> {
    pub(super) core: &'a Core,
    pub(super) call: &'a Call,
    pub(super) repository: &'a Repository,
    /// Where objects lie that are not the repository's yet.
    pub(super) quarantine: Option<&'a Path>,
}

impl Tree<'_> {
    /// A git that sees all of them.
    fn looking(&self) -> Command {
        let mut command = git(&self.repository.path);
        if let Some(quarantine) = self.quarantine {
            command.env("GIT_OBJECT_DIRECTORY", quarantine).env(
                "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                self.repository.path.join("objects"),
            );
        }
        command
    }

    /// Refuses what would be deployed without what it needs, and what is too large to be.
    pub(super) async fn check(&self, commit: &str) -> Result<(), Problem> {
        let settings = &self.core.settings.builds;
        let mut listing = self.looking();
        listing.args(["ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit]);
        let mut child = listing.spawn().map_err(cannot_start)?;
        let stdout = child.stdout.take().ok_or_else(|| Problem::internal("no pipe"))?;
        let (mut entries, mut entry) = (BufReader::new(stdout), Vec::new());
        let (mut files, mut bytes) = (0, 0u64);
        while entries
            .read_until(0, &mut entry)
            .await
            .map_err(Problem::internal)?
            > 0
        {
            bytes = bytes.saturating_add(file_size(&entry)?);
            files += 1;
            if files > settings.max_files || bytes > settings.max_unpacked_bytes.0 {
                return Err(Problem::too_large(format!(
                    "The commit has more than the {} files and folders or {} bytes that one deploy may have.",
                    settings.max_files, settings.max_unpacked_bytes.0
                )));
            }
            entry.clear();
        }
        if !child.wait().await.map_err(Problem::internal)?.success() {
            return Err(Problem::internal("git cannot list what was pushed"));
        }
        let attributes = [
            "grep",
            "-q",
            "-e",
            "filter=lfs",
            commit,
            "--",
            ":(glob)**/.gitattributes",
        ];
        match ask(self.looking().args(attributes)).await?.0 {
            0 => Err(Problem::invalid(
                "A .gitattributes file asks for Git LFS, which is not kept here: commit the files themselves \
                 (`git lfs migrate export`).",
            )),
            1 => Ok(()),
            _ => Err(Problem::internal("git grep failed")),
        }
    }

    /// Deploys a commit. Answers the event to follow.
    pub(super) async fn deploy(&self, commit: &str) -> Result<EventId, Problem> {
        let about = [
            "log",
            "-1",
            "--no-show-signature",
            "--format=%an <%ae>%n%B",
            commit,
        ];
        let about = order(self.looking().args(about)).await?.replace('\0', "");
        let (author, message) = about.split_once('\n').unwrap_or((&about, ""));
        let about = Order {
            origin: "git".into(),
            message: message.trim().to_owned(),
            commit: commit.to_owned(),
            author: author.chars().take(200).collect(),
            beside: false,
        };
        let archive = self.archive(commit).await?;
        let source = Source::Archive(archive);
        deploys::deploy(self.core, self.call, &self.repository.app.name, about, source).await
    }

    async fn archive(&self, commit: &str) -> Result<Upload, Problem> {
        let settings = &self.core.settings.builds;
        let frames = settings.max_files.saturating_mul(FRAME);
        let limit = settings.max_unpacked_bytes.0.saturating_add(frames);
        let mut upload = Upload::begin(&self.core.dirs.uploads(), limit).await?;
        let mut packing = self.looking();
        let mut child = packing
            .args(["archive", "--format=tar", commit])
            .spawn()
            .map_err(cannot_start)?;
        let mut stdout = child.stdout.take().ok_or_else(|| Problem::internal("no pipe"))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match stdout.read(&mut chunk).await.map_err(Problem::internal)? {
                0 => break,
                n => upload.write(&Bytes::copy_from_slice(&chunk[..n])).await?,
            }
        }
        match child.wait().await.map_err(Problem::internal)?.success() {
            true => Ok(upload),
            false => Err(Problem::internal("git archive failed")),
        }
    }
}

fn kept(branch: &BranchName) -> String {
    format!("Kept, and not deployed: pushes of {branch} are.")
}

/// Who has the lock of a push.
fn taken(mut file: File) -> String {
    let mut owner = String::new();
    // What cannot be read is left out.
    let _ = file.read_to_string(&mut owner);
    let since = file.metadata().and_then(|file| file.modified());
    match since.map(DateTime::<Utc>::from) {
        Ok(since) if !owner.is_empty() => format!(
            "Another push of this app is being deployed, that of {owner} since {}: wait for its end, then push \
             again.",
            since.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        _ => "Another push of this app is being deployed: wait for its end, then push again.".into(),
    }
}

/// The size of one entry of `git ls-tree -l`. Errors: `Invalid` for a submodule.
fn file_size(entry: &[u8]) -> Result<u64, Problem> {
    let text = String::from_utf8_lossy(entry);
    let (about, path) = text.split_once('\t').unwrap_or((&text, ""));
    let mut words = about.split_ascii_whitespace();
    if words.next() == Some("160000") {
        let path = path.trim_end_matches('\0');
        return Err(Problem::invalid(format!(
            "{path} is a submodule, and submodules are not fetched here: commit its files instead."
        )));
    }
    Ok(words.nth(2).and_then(|size| size.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_sizes_and_submodules_are_refused() {
        let id = "a1".repeat(20);
        let entry = |mode: &str, kind: &str, size: &str| format!("{mode} {kind} {id} {size:>7}\ta/b c\0");
        assert_eq!(file_size(entry("100644", "blob", "123").as_bytes()).unwrap(), 123);
        assert_eq!(file_size(entry("120000", "blob", "7").as_bytes()).unwrap(), 7);
        let refused = file_size(entry("160000", "commit", "-").as_bytes()).unwrap_err();
        assert!(refused.words().starts_with("a/b c is a submodule"), "{refused:?}");
    }
}
