//! Use cases of repositories: find or create, describe, change.

use std::net::SocketAddr;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::core::Core;
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::drain_plan::Predecessor;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::repositories::git_command::{git_command, git_user};
use crate::repositories::model::{GitService, branch_ref};
use crate::repositories::{disk, hook, programs, store};

/// The name prefix of an unfinished repository.
const NEW_PREFIX: &str = "new-";

/// An app's repository on this host.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(super) app: App,
    pub(super) path: PathBuf,
}

/// The location of an app's repository.
#[derive(Clone, Debug)]
pub enum RepositoryLocation {
    Local(Box<Repository>),
    Remote(RemoteReplica),
}

/// A repository on another host.
#[derive(Clone, Debug)]
pub struct RemoteReplica {
    app: AppName,
    pub host: String,
    /// The URL of that host's API; `None`: not announced.
    pub(super) url: Option<String>,
    /// The address of that host's SSH server, host and port; `None`: it has none, or has not announced it.
    pub ssh_address: Option<String>,
}

impl RemoteReplica {
    /// Builds the error for a request that cannot be forwarded to that host.
    pub fn wrong_host_error(&self, core: &Core) -> Error {
        Error::conflict(format!(
            "The repository of {} is on the host {}, and this is {}: use the address of that host.",
            self.app, self.host, core.host
        ))
    }
}

/// Opens the repository of `<app>.git` on this host, like `find_or_create_repository`. Errors: also
/// `Conflict` if it is on another host.
pub(super) async fn open_local(
    core: &Core,
    call: &RequestContext,
    repository: &str,
    service: GitService,
) -> Result<Repository, Error> {
    match find_or_create_repository(core, call, repository, service).await? {
        RepositoryLocation::Local(repository) => Ok(*repository),
        RepositoryLocation::Remote(elsewhere) => Err(elsewhere.wrong_host_error(core)),
    }
}

/// Finds the repository of `<app>.git`, or creates it here if there is none. Errors: `NotFound`, with the
/// same text for an unknown app and for one that the caller may not use.
pub async fn find_or_create_repository(
    core: &Core,
    call: &RequestContext,
    repository: &str,
    service: GitService,
) -> Result<RepositoryLocation, Error> {
    let gone = || Error::not_found("Repository not found, or you have no access to it.");
    let name = repository.strip_suffix(".git").unwrap_or(repository);
    let name = AppName::parse(name).map_err(|_| gone())?;
    let app = match apps::find_authorized_app(core, call, &name, Permission::APP_READ).await {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Forbidden) => {
            return Err(gone());
        }
        found => found?,
    };
    // The token of an app may read the app's description, but neither its source nor deploy it.
    let may = |permission| call.has_permission(permission, &app.permission_contexts());
    match (may(Permission::APP_READ), may(service.required_permission())) {
        (false, _) => return Err(gone()),
        (true, false) => {
            return Err(Error::forbidden(format!(
                "You may read the repository of {name}, but not push to it."
            )));
        }
        _ => {}
    }
    apps::ensure_live(&app)?;
    let row = store::claim_repository(&core.db, app.id, &core.host).await?;
    if row.host != core.host {
        let reached = store::find_replica_address(&core.db, &row.host).await?;
        let (url, ssh_address) = reached.map(|reached| (reached.url, reached.ssh_address)).unzip();
        return Ok(RepositoryLocation::Remote(RemoteReplica {
            app: name,
            host: row.host,
            url,
            ssh_address: ssh_address.filter(|address| !address.is_empty()),
        }));
    }
    let branch = row.branch.as_ref().unwrap_or(&core.settings.git.default_branch);
    let path = core.data_dir.repository_dir(row.id);
    match path.exists() {
        true => set_head_branch(core, &path, branch).await?,
        false => create_repository(core, &path, branch).await?,
    }
    Ok(RepositoryLocation::Local(Box::new(Repository { app, path })))
}

/// The details of an app's repository.
#[derive(Clone, Debug)]
pub(super) struct RepositoryDetails {
    pub(super) url: String,
    pub(super) http_url: String,
    /// The branch that is deployed.
    pub(super) branch: BranchName,
    /// The host that has it; empty if no host does yet.
    pub(super) host: String,
    pub(super) bytes: i64,
}

/// Describes an app's repository.
pub(super) async fn describe_repository(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
) -> Result<RepositoryDetails, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_READ_INFO).await?;
    let found = store::find_repository(&core.db, app.id).await?;
    let (host, branch, bytes) = found.map_or((None, None, 0), |row| (row.host, row.branch, row.bytes));
    Ok(RepositoryDetails {
        url: core.public.repository_url(name),
        http_url: core.public.repository_http_url(name),
        branch: branch.unwrap_or_else(|| core.settings.git.default_branch.clone()),
        host: host.unwrap_or_default(),
        bytes,
    })
}

/// Sets the branch whose pushes are deployed. The running version stays until the next push.
pub(super) async fn set_deploy_branch(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    branch: &BranchName,
) -> Result<(), Error> {
    let app = authorize_change(core, call, name).await?;
    let mut tx = core.db.begin().await?;
    record_change(&mut tx, call, &app, json!({ "branch": branch })).await?;
    store::set_deploy_branch(&mut tx, app.id, branch).await?;
    tx.commit().await?;
    Ok(())
}

/// Detaches the repository of an app: the next access, on any host, creates a new one. For a repository that
/// is full, or whose host is lost. The running version stays.
pub(super) async fn detach_repository(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
) -> Result<(), Error> {
    let app = authorize_change(core, call, name).await?;
    let mut tx = core.db.begin().await?;
    record_change(&mut tx, call, &app, json!({ "repository": "given up" })).await?;
    if let Some(branch) = store::detach_repository(&mut tx, app.id).await? {
        store::set_deploy_branch(&mut tx, app.id, &branch).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Finds an app and checks that the caller may change its repository.
async fn authorize_change(core: &Core, call: &RequestContext, name: &AppName) -> Result<App, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE).await?;
    call.authorize(Permission::APP_UPDATE, &app.permission_contexts())?;
    apps::ensure_live(&app)?;
    Ok(app)
}

async fn record_change(
    tx: &mut PgConnection,
    call: &RequestContext,
    app: &App,
    data: Value,
) -> Result<(), Error> {
    let new = NewEvent::new(
        EventTarget::for_app(&app.name),
        Permission::APP_UPDATE,
        app.permission_contexts(),
        data,
    );
    events::record_event(tx, call, &new).await?;
    Ok(())
}

/// Removes the files of an app's repository, if they are on this host. Files on another host are removed by
/// its healer once the app is gone.
pub async fn remove_repository_files(core: &Core, app: AppId) -> Result<(), Error> {
    match store::find_local_repository_id(&core.db, app, &core.host).await? {
        Some(id) => disk::remove_repository(&core.data_dir.repository_dir(id)).await,
        None => Ok(()),
    }
}

/// Creates the repository under a temporary name and renames it, so that it is complete or absent, and the
/// first of two concurrent creations wins.
async fn create_repository(core: &Core, path: &Path, branch: &BranchName) -> Result<(), Error> {
    let fresh = core
        .data_dir
        .repositories_dir()
        .join(format!("{NEW_PREFIX}{}", uuid::Uuid::new_v4().simple()));
    tokio::fs::create_dir(&fresh).await.map_err(Error::internal)?;
    if let Some(user) = git_user(core) {
        lchown(&fresh, Some(user), Some(user)).map_err(Error::internal)?;
    }
    let init = git_command(core, &fresh).args(["init", "--bare", "--quiet", "--template="]);
    init.arg(format!("--initial-branch={branch}"))
        .run_checked()
        .await?;
    if let Err(error) = tokio::fs::rename(&fresh, path).await {
        tokio::fs::remove_dir_all(&fresh).await.map_err(Error::internal)?;
        if !path.exists() {
            return Err(Error::internal(error));
        }
    }
    Ok(())
}

/// Sets `HEAD` to the deployed branch, so that a clone checks it out.
async fn set_head_branch(core: &Core, path: &Path, branch: &BranchName) -> Result<(), Error> {
    let name = branch_ref(branch);
    let head = path.join("HEAD");
    let head = disk::run_blocking(move || disk::read_small_file(&head)).await?;
    if head.trim_ascii_end() != format!("ref: {name}").as_bytes() {
        git_command(core, path)
            .args(["symbolic-ref", "HEAD", &name])
            .run_checked()
            .await?;
    }
    Ok(())
}

/// Returns the address at which other machines reach a listener: the machine's name if it listens on all
/// addresses.
fn reachable_address(bound: SocketAddr) -> Result<String, Error> {
    if !bound.ip().is_unspecified() {
        return Ok(bound.to_string());
    }
    let name = nix::unistd::gethostname().map_err(Error::internal)?;
    Ok(format!("{}:{}", name.to_string_lossy(), bound.port()))
}

/// Prepares the folder of repositories: writes the hook, gives repositories to the user of git, removes what
/// an earlier process left, and announces this host's addresses to the other replicas. Called at the start by
/// the process that owns the folder.
pub async fn prepare_repositories(
    core: &Core,
    (api, ssh): (SocketAddr, Option<SocketAddr>),
    predecessor: Predecessor,
) -> Result<(), Error> {
    let url = match core.settings.git.replica_url.as_str() {
        "" => format!("http://{}", reachable_address(api)?),
        url => url.to_owned(),
    };
    let ssh_address = match (ssh, core.settings.ssh.replica_address.as_str()) {
        (None, _) => String::new(),
        (Some(bound), "") => reachable_address(bound)?,
        (Some(_), address) => address.to_owned(),
    };
    store::save_replica_address(&core.db, &core.host, &store::ReplicaAddress { url, ssh_address }).await?;
    let (folder, user) = (core.data_dir.repositories_dir(), git_user(core));
    let preparing = move || -> std::io::Result<()> {
        hook::install_hook(&folder)?;
        programs::link_programs(&programs::programs_folder(&folder))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW_PREFIX) || name.starts_with(hook::PUSH_FOLDER_PREFIX) {
                if predecessor == Predecessor::Serving {
                    continue;
                }
                std::fs::remove_dir_all(entry.path())?;
            } else if name.ends_with(".git") {
                disk::chown_repository(&entry.path(), user)?;
            }
        }
        Ok(())
    };
    tokio::task::spawn_blocking(preparing)
        .await
        .map_err(Error::internal)?
        .map_err(Error::internal)
}
