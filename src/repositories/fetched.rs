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
use crate::repositories::children::{complain, git, git_beside, order};
use crate::repositories::model::Service;
use crate::repositories::push::Tree;
use crate::repositories::{disk, store};

/// For a whole fetch.
const DEADLINE: Duration = Duration::from_secs(600);
/// Between looks at what a fetch has brought.
const LOOK: Duration = Duration::from_millis(500);
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
    let (mut fetching, url) = fetcher(&repository.path, remote);
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
    let most = core.settings.git.max_repository_bytes.0;
    let (done, said) = tokio::select! {
        ended = complain(&mut fetching) => ended?,
        () = grown(&repository.path, most) => {
            return Err(Problem::too_large(format!(
                "What was fetched makes the repository larger than the {most} bytes that it may have."
            )));
        }
        () = tokio::time::sleep(DEADLINE) => {
            return Err(Problem::failed("The forge has not sent all of the branch in time."));
        }
    };
    if !done {
        return Err(Problem::failed(format!(
            "The branch {branch} cannot be fetched: {}",
            reason(&said)
        )));
    }
    order(git(&repository.path).args(["rev-parse", "--verify", &kept])).await
}

/// A git for one kind of remote alone, and how the remote is called there.
fn fetcher(repository: &Path, remote: Remote) -> (Command, String) {
    let (mut command, url, settings) = match remote {
        Remote::Open(socket) => {
            let settings = vec![("protocol.fd.allow", "always".to_owned())];
            (git_beside(repository, socket), "fd::3".to_owned(), settings)
        }
        Remote::Http {
            url,
            address,
            authorization,
        } => {
            let mut command = git(repository);
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

/// Waits until a folder is larger than it may be.
async fn grown(folder: &Path, most: u64) {
    loop {
        tokio::time::sleep(LOOK).await;
        // What cannot be looked at now is looked at again.
        if matches!(disk::size(folder).await, Ok(bytes) if bytes.unsigned_abs() > most) {
            return;
        }
    }
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
