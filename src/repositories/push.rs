//! A push: checks it, and deploys the default branch before its ref moves.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::fcntl::{Flock, FlockArg};

use crate::core::Core;
use crate::events::{self, EventOutcome, EventUpdate};
use crate::kernel::error::Error;
use crate::kernel::names::BranchName;
use crate::kernel::request_context::RequestContext;
use crate::repositories::actions::Repository;
use crate::repositories::git_command::{GitLimits, git_command, git_user};
use crate::repositories::hook::{self, HookPipes, HookRequest};
use crate::repositories::model::{RefUpdate, branch_ref, choose_default_branch};
use crate::repositories::quota::{self, RepositoryLock};
use crate::repositories::refs::{self, PreparedRefs};
use crate::repositories::tree::DeployableTree;
use crate::repositories::waiting::{self, ProgressSink};
use crate::repositories::{disk, store};

/// For a deploy to end when the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A push in progress.
pub(super) struct PushSession {
    core: Core,
    call: RequestContext,
    repository: Repository,
    pipes: HookPipes,
    /// The bytes by which the repository may grow.
    bytes_left: u64,
    /// Held until all pushed objects have arrived.
    receive_lock: Option<RepositoryLock>,
    /// For a push that deploys: held until git has moved the refs.
    deploy_lock: Option<Flock<File>>,
    /// Held while git moves the refs.
    refs_lock: Option<RepositoryLock>,
}

impl PushSession {
    /// Waits for the receive lock. Errors: `Unavailable` if it cannot be taken in time.
    pub(super) async fn new(
        core: &Core,
        call: &RequestContext,
        repository: Repository,
        client: &dyn ProgressSink,
    ) -> Result<Self, Error> {
        let turn = RepositoryLock::for_receiving(&repository.path);
        let line = "Another push or fetch into this repository is in progress: waiting for it to end.";
        let receiving = Some(waiting::wait_with_progress(turn, client, line).await?);
        let left = quota::remaining_bytes(&repository.path, core.settings.git.max_repository_bytes.0).await?;
        Ok(Self {
            bytes_left: left,
            receive_lock: receiving,
            core: core.clone(),
            call: call.clone(),
            repository,
            pipes: HookPipes::create_pipes(&core.data_dir.repositories_dir(), git_user(core))?,
            deploy_lock: None,
            refs_lock: None,
        })
    }

    /// Returns the folder in which the hook finds the pipes.
    pub(super) fn hook_folder(&self) -> &Path {
        &self.pipes.folder
    }

    /// Returns the limits for git while it receives objects.
    pub(super) fn git_limits(&self) -> GitLimits {
        GitLimits {
            max_growth_bytes: self.bytes_left,
            max_object_bytes: self.core.settings.builds.max_unpacked_bytes.0,
        }
    }

    /// Waits for the hook's request and responds to it.
    pub(super) async fn handle_hook(&mut self) {
        let request = self.pipes.read_request(&self.repository.path).await;
        self.receive_lock = None;
        let judged = match request {
            Ok(request) => self.handle_request(&request).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &judged {
            tracing::info!(error = %error.report(), app = %self.repository.app.name, "push refused");
            self.pipes
                .send_message(&format!("ERROR: {}", error.message()))
                .await;
        }
        self.pipes.send_verdict(judged.is_ok()).await;
    }

    async fn handle_request(&mut self, request: &HookRequest) -> Result<(), Error> {
        self.check_quarantine_size(request).await?;
        refs::check_ref_names(&request.updates)?;
        let app = self.repository.app.id;
        let chosen = store::find_deploy_branch(&self.core.db, app).await?;
        let usual = &self.core.settings.git.default_branch;
        let branch = chosen.unwrap_or_else(|| choose_default_branch(&request.updates, usual));
        let name = branch_ref(&branch);
        match request.updates.iter().find(|update| update.name == name) {
            None => {
                self.pipes.send_message(&not_deployed_message(&branch)).await;
                self.refs_lock = Some(RepositoryLock::for_ref_updates(&self.repository.path).await?);
                self.record_push(None).await
            }
            Some(update) => {
                self.deploy_branch(request, &branch, update).await?;
                // A push that was deployed is never refused afterwards.
                if let Err(error) = self.record_push(Some(&branch)).await {
                    tracing::warn!(error = %error.report(), "cannot record a deployed push");
                }
                Ok(())
            }
        }
    }

    /// Records the push, and the branch that it deployed.
    async fn record_push(&self, deployed: Option<&BranchName>) -> Result<(), Error> {
        let bytes = disk::measure_folder(&self.repository.path).await?;
        let mut tx = self.core.db.begin().await?;
        store::record_push(&mut tx, self.repository.app.id, deployed, bytes).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Refuses a push whose quarantine would make the repository larger than its quota.
    async fn check_quarantine_size(&self, request: &HookRequest) -> Result<(), Error> {
        let Some(quarantine) = &request.quarantine else {
            return Ok(());
        };
        match disk::measure_folder(quarantine).await?.unsigned_abs() > self.bytes_left {
            false => Ok(()),
            true => Err(Error::too_large(format!(
                "This push would make the repository larger than its quota of {} bytes.",
                self.core.settings.git.max_repository_bytes.0
            ))),
        }
    }

    async fn deploy_branch(
        &mut self,
        request: &HookRequest,
        branch: &BranchName,
        update: &RefUpdate,
    ) -> Result<(), Error> {
        let Some(commit) = &update.new else {
            return Err(Error::invalid(format!(
                "The branch {branch} is the deployed branch and cannot be deleted."
            )));
        };
        self.deploy_lock = Some(self.lock_deploys()?);
        let tip = ["rev-parse", "--verify", "--quiet", &update.name];
        let (_, tip) = git_command(&self.core, &self.repository.path)
            .args(tip)
            .run_query()
            .await?;
        if tip != update.old.as_deref().unwrap_or_default() {
            return Err(Error::conflict(format!(
                "The branch {branch} has been changed by another push: fetch it, then push again."
            )));
        }
        let kind = self
            .deployable_tree(request)
            .git_with_objects()
            .args(["cat-file", "-t", commit]);
        match kind.run_query().await?.1.as_str() {
            "commit" => {}
            "" => {
                return Err(Error::invalid(
                    "This push does not contain the commit of its branch.",
                ));
            }
            kind => {
                return Err(Error::invalid(format!(
                    "A branch must point to a commit, but this object is a {kind}."
                )));
            }
        }
        self.deployable_tree(request).check_commit(commit).await?;
        self.deployable_tree(request)
            .check_connectivity(&request.updates)
            .await?;
        let locked = self.lock_refs(request).await?;
        let deployed = self.deploy_commit(request, branch, commit).await;
        if deployed.is_ok() {
            // A push that deploys nothing moves its refs quickly; a hanging one must not undo a completed
            // deploy.
            self.refs_lock = RepositoryLock::for_ref_updates(&self.repository.path).await.ok();
        }
        locked.unlock_refs().await;
        deployed
    }

    /// Locks all refs of the push, so that they can be moved after the deploy has succeeded.
    async fn lock_refs(&self, request: &HookRequest) -> Result<PreparedRefs, Error> {
        let path = &self.repository.path;
        let seeing = || self.deployable_tree(request).git_with_objects();
        match PreparedRefs::lock_refs(seeing(), &request.updates).await {
            Ok(locked) => Ok(locked),
            Err(error) => {
                let hook = hook::hook_path(&self.core.data_dir.repositories_dir());
                match refs::remove_stale_locks(path, &hook).await? {
                    true => PreparedRefs::lock_refs(seeing(), &request.updates).await,
                    false => Err(error),
                }
            }
        }
    }

    async fn deploy_commit(
        &mut self,
        request: &HookRequest,
        branch: &BranchName,
        commit: &str,
    ) -> Result<(), Error> {
        let event = self.deployable_tree(request).deploy_commit(commit).await?;
        let short = &commit[..commit.len().min(12)];
        self.pipes
            .send_message(&format!("Deploying {short} of {branch} (event {event})"))
            .await;
        let mut following = events::follow_event(&self.core.db, &self.core.notices, &event);
        let stopping = self.wait_for_shutdown();
        tokio::pin!(stopping);
        loop {
            let update = tokio::select! {
                update = following.next() => update?,
                error = &mut stopping => return Err(error),
            };
            let Some(update) = update else { break };
            match update {
                EventUpdate::Line { message, .. } => self.pipes.send_message(&message).await,
                EventUpdate::End(EventOutcome::Done) => return Ok(()),
                EventUpdate::End(failed) => return failed.into_result(),
            }
        }
        Err(Error::internal("an event ended without an outcome"))
    }

    /// Completes shortly after the server begins to stop: the deploy, which only this host can run, may be at
    /// its last step. Otherwise it pauses until the server is back, which is too long for a client to wait.
    fn wait_for_shutdown(&self) -> impl Future<Output = Error> + use<> {
        let (stop, drain) = (
            self.core.stop_requests.clone(),
            self.core.settings.api.drain_timeout,
        );
        async move {
            stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE.min(drain / 2)).await;
            Error::unavailable(
                "This server is shutting down; the branch was not moved. The deploy continues when the server is back: \
                 push again then.",
            )
        }
    }

    fn deployable_tree<'a>(&'a self, request: &'a HookRequest) -> DeployableTree<'a> {
        DeployableTree {
            core: &self.core,
            call: &self.call,
            repository: &self.repository,
            hook_request: Some(request),
        }
    }

    /// The event of a deploy locks the app while it runs; this lock is held until the refs have moved.
    fn lock_deploys(&self) -> Result<Flock<File>, Error> {
        let path = self.repository.path.join("tancho.lock");
        let mut options = File::options();
        let file = options.create(true).read(true).write(true).truncate(false);
        // The folder belongs to git's user, and this process may write where git may not.
        let file = file.mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let file = file.open(path).map_err(Error::internal)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(file, _)| Error::conflict(deploy_locked_message(file)))?;
        file.set_len(0).map_err(Error::internal)?;
        (&*file)
            .write_all(self.call.event_owner().1.as_bytes())
            .map_err(Error::internal)?;
        Ok(file)
    }
}

fn not_deployed_message(branch: &BranchName) -> String {
    format!("Stored but not deployed: only pushes to {branch} are deployed.")
}

/// Builds the error that names the owner of the deploy lock.
fn deploy_locked_message(mut file: File) -> String {
    let mut owner = String::new();
    // An unreadable owner is left out.
    let _ = file.read_to_string(&mut owner);
    let since = file.metadata().and_then(|file| file.modified());
    match since.map(DateTime::<Utc>::from) {
        Ok(since) if !owner.is_empty() => format!(
            "Another push to this app is being deployed, that of {owner} since {}: wait until it ends, then push \
             again.",
            since.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        _ => "Another push to this app is being deployed: wait until it ends, then push again.".into(),
    }
}
