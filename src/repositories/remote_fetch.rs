//! Fetches commits from a remote repository and deploys them without a push. An internal ref keeps the last
//! one, whatever its branch is called; branches that users push are not changed.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use sqlx::PgConnection;
use url::Url;

use crate::core::Core;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::repositories::actions::open_local;
use crate::repositories::git_command::{GitCommand, GitLimits, git_command, limited_git_command};
use crate::repositories::model::GitService;
use crate::repositories::quota::{self, RepositoryLock};
use crate::repositories::refs::FORGE_REF;
use crate::repositories::tree::DeployableTree;
use crate::repositories::{disk, fsck, store};

/// The maximum standard output of a fetch, which normally prints nothing.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
/// The maximum length of git's reason for a failure, in characters.
const MAX_REASON_CHARS: usize = 300;

/// A remote repository.
#[derive(Debug)]
pub enum RemoteRepository {
    Http {
        /// Without a secret.
        url: Url,
        /// The one address of its host to connect to.
        address: IpAddr,
        /// A header, for a repository that requires authentication.
        authorization: Option<Secret>,
    },
    /// A socket whose peer speaks the protocol of `git upload-pack`.
    Socket(OwnedFd),
}

/// Returns the host of an app's repository, and claims it for this host if there is none yet.
pub async fn find_or_claim_host(core: &Core, tx: &mut PgConnection, app: AppId) -> Result<String, Error> {
    Ok(store::claim_repository(tx, app, &core.host).await?.host)
}

/// Fetches a branch into an app's repository; returns the commit at its tip. Errors: `Failed`, with git's
/// message, if the remote fails.
pub async fn fetch_branch(
    core: &Core,
    call: &RequestContext,
    app: &AppName,
    remote: RemoteRepository,
    branch: &BranchName,
) -> Result<String, Error> {
    let repository = open_local(core, call, app.as_str(), GitService::ReceivePack).await?;
    let path = &repository.path;
    let _packing = RepositoryLock::for_packing(path).await?;
    let _receiving = RepositoryLock::for_receiving(path).await?;
    disk::remove_stale_packs(path).await?;
    let most = core.settings.git.max_repository_bytes.0;
    let full = || {
        Error::too_large(format!(
            "The fetched branch would make the repository larger than its quota of {most} bytes."
        ))
    };
    let remaining = quota::remaining_bytes(path, most).await?;
    if remaining == 0 {
        return Err(full());
    }
    let bounds = GitLimits {
        max_growth_bytes: remaining,
        max_object_bytes: core.settings.builds.max_unpacked_bytes.0,
    };
    let (fetching, url) = build_fetch_command(core, path, bounds, remote);
    let fetching = fetching
        .args([
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
        ])
        .args(["--no-recurse-submodules", "--", &url])
        .arg(format!("+refs/heads/{branch}:{FORGE_REF}"));
    let answer = fetching
        .read_output(MAX_OUTPUT_BYTES)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::Failed => Error::failed("The fetch from the forge timed out."),
            _ => error,
        })?;
    if answer.status == Some(0) {
        // So that the healer maintains it.
        let bytes = disk::measure_folder(path).await?;
        let mut tx = core.db.begin().await?;
        store::record_push(&mut tx, repository.app.id, None, bytes).await?;
        tx.commit().await?;
        return git_command(core, path)
            .args(["rev-parse", "--verify", FORGE_REF])
            .run_checked()
            .await;
    }
    disk::remove_stale_packs(path).await?;
    match answer.stderr.contains("File too large") {
        true => Err(full()),
        false => Err(Error::failed(format!(
            "The branch {branch} cannot be fetched: {}",
            extract_reason(&answer.stderr)
        ))),
    }
}

/// Builds the git command for one kind of remote, and the name of the remote in it.
fn build_fetch_command(
    core: &Core,
    repository: &Path,
    bounds: GitLimits,
    remote: RemoteRepository,
) -> (GitCommand, String) {
    let command = limited_git_command(core, repository, bounds);
    let (mut command, url, settings) = match remote {
        RemoteRepository::Socket(socket) => {
            let settings = vec![("protocol.fd.allow", "always".to_owned())];
            (command.with_remote_socket(socket), "fd::3".to_owned(), settings)
        }
        RemoteRepository::Http {
            url,
            address,
            authorization,
        } => {
            let mut command = command.allow_network();
            if let Some(header) = &authorization {
                // Not by argv, which all processes of the machine can read.
                command = command
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", "http.extraHeader")
                    .env("GIT_CONFIG_VALUE_0", header.expose_secret());
            }
            let settings = http_fetch_settings(&url, address);
            (command, url.to_string(), settings)
        }
    };
    for setting in fsck::config_settings(fsck::ObjectSource::Fetch) {
        command = command.with_config(setting);
    }
    command = command.with_config("fetch.unpackLimit=1");
    for (key, value) in settings {
        command = command.with_config(format!("{key}={value}"));
    }
    (command, url)
}

fn http_fetch_settings(url: &Url, address: IpAddr) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("protocol.https.allow", "always".to_owned()),
        ("protocol.http.allow", "always".to_owned()),
        ("http.followRedirects", "false".to_owned()),
        ("http.lowSpeedLimit", "1".to_owned()),
        ("http.lowSpeedTime", "60".to_owned()),
    ];
    // An IP address needs no name resolution.
    if let (Some(url::Host::Domain(name)), Some(port)) = (url.host(), url.port_or_known_default()) {
        settings.push(("http.curloptResolve", format!("{name}:{port}:{address}")));
    }
    settings
}

/// Returns git's reason for a failure: one line, which advice may follow.
fn extract_reason(said: &str) -> String {
    let fatal = said.lines().rev().find(|line| line.starts_with("fatal: "));
    let line = fatal.or_else(|| said.lines().last()).unwrap_or_default();
    line.chars().take(MAX_REASON_CHARS).collect()
}

/// Deploys a fetched commit. Returns the event to follow.
pub async fn deploy_fetched_commit(
    core: &Core,
    call: &RequestContext,
    app: &AppName,
    commit: &str,
) -> Result<EventId, Error> {
    let repository = open_local(core, call, app.as_str(), GitService::ReceivePack).await?;
    let tree = DeployableTree {
        core,
        call,
        repository: &repository,
        hook_request: None,
    };
    tree.check_commit(commit).await?;
    tree.deploy_commit(commit).await
}
