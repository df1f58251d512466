//! Commits that are fetched from a repository elsewhere, and deployed without a push. They are kept below
//! `refs/forge/`; branches that people push stay as they are.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use url::Url;

use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::repositories::actions::open;
use crate::repositories::children::{Bounds, complain, git, order, taking_git, taking_git_beside};
use crate::repositories::model::Service;
use crate::repositories::push::Tree;
use crate::repositories::room::{self, Turn};
use crate::repositories::{disk, store};

/// For a whole fetch.
const DEADLINE: Duration = Duration::from_secs(600);
/// Of what git says when it fails.
const LONGEST_REASON: usize = 300;

/// A repository elsewhere.
#[derive(Debug)]
pub enum Remote {
    Http {
        /// Without a secret.
        url: Url,
        /// The one address of its host that is connected to.
        address: IpAddr,
        /// A header, if the repository is not open to all.
        authorization: Option<Secret>,
    },
    /// The other end of this socket speaks as `git upload-pack` does.
    Open(OwnedFd),
}

/// The host on which an app's repository lies; this one, if it has none yet.
pub async fn host(core: &Core, app: AppId) -> Result<String, Problem> {
    Ok(store::claim(&core.db, app, &core.host).await?.host)
}

/// Fetches a branch into an app's repository; the commit at its tip. Errors: `Failed` when the other side does,
/// in git's own words.
pub async fn fetch(
    core: &Core,
    call: &Call,
    app: &AppName,
    remote: Remote,
    branch: &BranchName,
) -> Result<String, Problem> {
    let repository = open(core, call, app.as_str(), Service::ReceivePack).await?;
    let path = &repository.path;
    let _turn = Turn::to_pack(path).await?;
    disk::sweep_packs(path).await?;
    let most = core.settings.git.max_repository_bytes.0;
    let full = || {
        Problem::too_large(format!(
            "What was fetched makes the repository larger than the {most} bytes that it may have."
        ))
    };
    let room = room::left(path, most).await?;
    if room == 0 {
        return Err(full());
    }
    let bounds = Bounds {
        room,
        largest: core.settings.builds.max_unpacked_bytes.0,
    };
    let (mut fetching, url) = fetcher(path, bounds, remote);
    let kept = format!("refs/forge/{branch}");
    fetching
        .args([
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
        ])
        .args(["--no-recurse-submodules", "--", &url])
        .arg(format!("+refs/heads/{branch}:{kept}"));
    let (done, said) = tokio::select! {
        ended = complain(&mut fetching) => ended?,
        () = tokio::time::sleep(DEADLINE) => {
            return Err(Problem::failed("The forge has not sent all of the branch in time."));
        }
    };
    if done {
        // So that the healer looks after it.
        let bytes = disk::size(path).await?;
        let mut tx = core.db.begin().await?;
        store::pushed(&mut tx, repository.app.id, None, bytes).await?;
        tx.commit().await?;
        return order(git(path).args(["rev-parse", "--verify", &kept])).await;
    }
    disk::sweep_packs(path).await?;
    match said.contains("File too large") {
        true => Err(full()),
        false => Err(Problem::failed(format!(
            "The branch {branch} cannot be fetched: {}",
            reason(&said)
        ))),
    }
}

/// A git for one kind of remote alone, and how the remote is called there.
fn fetcher(repository: &Path, bounds: Bounds, remote: Remote) -> (Command, String) {
    let (mut command, url, settings) = match remote {
        Remote::Open(socket) => {
            let settings = vec![("protocol.fd.allow", "always".to_owned())];
            (
                taking_git_beside(repository, bounds, socket),
                "fd::3".to_owned(),
                settings,
            )
        }
        Remote::Http {
            url,
            address,
            authorization,
        } => {
            let mut command = taking_git(repository, bounds);
            if let Some(header) = &authorization {
                // Not by argv, which all processes of the machine can read.
                command
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", "http.extraHeader")
                    .env("GIT_CONFIG_VALUE_0", header.expose());
            }
            let settings = by_http(&url, address);
            (command, url.to_string(), settings)
        }
    };
    let always = [
        ("protocol.allow", "never"),
        ("fetch.fsckObjects", "true"),
        ("fetch.unpackLimit", "1"),
        ("gc.auto", "0"),
    ];
    for (key, value) in always {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    for (key, value) in settings {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    (command, url)
}

fn by_http(url: &Url, address: IpAddr) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("protocol.https.allow", "always".to_owned()),
        ("protocol.http.allow", "always".to_owned()),
        ("http.followRedirects", "false".to_owned()),
        ("http.lowSpeedLimit", "1".to_owned()),
        ("http.lowSpeedTime", "60".to_owned()),
    ];
    // An address needs no looking up.
    if let (Some(url::Host::Domain(name)), Some(port)) = (url.host(), url.port_or_known_default()) {
        settings.push(("http.curloptResolve", format!("{name}:{port}:{address}")));
    }
    settings
}

/// Why git has failed: it says so in one line, and sometimes gives advice after it.
fn reason(said: &str) -> String {
    let fatal = said.lines().rev().find(|line| line.starts_with("fatal: "));
    let line = fatal.or_else(|| said.lines().last()).unwrap_or_default();
    line.chars().take(LONGEST_REASON).collect()
}

/// Deploys a commit that has been fetched. Answers the event to follow.
pub async fn deploy_fetched(
    core: &Core,
    call: &Call,
    app: &AppName,
    commit: &str,
) -> Result<EventId, Problem> {
    let repository = open(core, call, app.as_str(), Service::ReceivePack).await?;
    let tree = Tree {
        core,
        call,
        repository: &repository,
        quarantine: None,
    };
    tree.check(commit).await?;
    tree.deploy(commit).await
}
