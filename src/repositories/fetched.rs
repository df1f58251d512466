//! Commits that are fetched from a repository elsewhere, and deployed without a push. They are kept below
//! `refs/forge/`; branches that people push stay as they are.

use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use url::Url;

use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::repositories::actions::open;
use crate::repositories::children::{cannot_start, git, order};
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
pub struct Remote {
    /// `http(s)`, without a secret.
    pub url: Url,
    /// The one address of its host that is connected to.
    pub address: IpAddr,
    /// A header, if the repository is not open to all.
    pub authorization: Option<Secret>,
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
    remote: &Remote,
    branch: &BranchName,
) -> Result<String, Problem> {
    let repository = open(core, call, app.as_str(), Service::ReceivePack).await?;
    let mut fetching = git(&repository.path);
    let pinned = match (remote.url.host(), remote.url.port_or_known_default()) {
        (Some(url::Host::Domain(name)), Some(port)) => format!("{name}:{port}:{}", remote.address),
        // An address needs no looking up.
        _ => String::new(),
    };
    for (key, value) in [
        ("protocol.allow", "never"),
        ("protocol.https.allow", "always"),
        ("protocol.http.allow", "always"),
        ("http.followRedirects", "false"),
        ("http.curloptResolve", &pinned),
        ("http.lowSpeedLimit", "1"),
        ("http.lowSpeedTime", "60"),
        ("fetch.fsckObjects", "true"),
        ("fetch.unpackLimit", "1"),
        ("gc.auto", "0"),
    ] {
        if !value.is_empty() {
            fetching.arg("-c").arg(format!("{key}={value}"));
        }
    }
    if let Some(header) = &remote.authorization {
        // Not by argv, which all processes of the machine can read.
        fetching
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "http.extraHeader")
            .env("GIT_CONFIG_VALUE_0", header.expose());
    }
    let kept = format!("refs/forge/{branch}");
    fetching
        .args([
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
        ])
        .args(["--no-recurse-submodules", "--", remote.url.as_str()])
        .arg(format!("+refs/heads/{branch}:{kept}"))
        .stderr(Stdio::piped());
    let most = core.settings.git.max_repository_bytes.0;
    let output = tokio::select! {
        output = fetching.output() => output.map_err(cannot_start)?,
        () = grown(&repository.path, most) => {
            return Err(Problem::too_large(format!(
                "What was fetched makes the repository larger than the {most} bytes that it may have."
            )));
        }
        () = tokio::time::sleep(DEADLINE) => {
            return Err(Problem::failed("The forge has not sent all of the branch in time."));
        }
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason: String = said
            .lines()
            .last()
            .unwrap_or_default()
            .chars()
            .take(LONGEST_REASON)
            .collect();
        return Err(Problem::failed(format!(
            "The branch {branch} cannot be fetched: {reason}"
        )));
    }
    order(git(&repository.path).args(["rev-parse", "--verify", &kept])).await
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
