//! A repository found, or made, for who may use it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::core::Core;
use crate::events::{self, NewEvent, Target};
use crate::kernel::call::Call;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::{Kind, Problem};
use crate::repositories::children::{git, order};
use crate::repositories::model::{Service, branch_ref};
use crate::repositories::{disk, hook, store};

/// Names of repositories that are being made.
const NEW: &str = "new-";

/// An app's repository on this host.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(super) app: App,
    pub(super) path: PathBuf,
}

/// Where an app's repository is.
#[derive(Clone, Debug)]
pub enum Place {
    Here(Box<Repository>),
    There(Elsewhere),
}

/// A repository that another host has.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    app: AppName,
    pub host: String,
    /// Where the API of that host is reached; `None`: it has not said.
    pub(super) url: Option<String>,
    /// Where its SSH server is, host and port; `None`: it has none, or has not said.
    pub ssh_address: Option<String>,
}

impl Elsewhere {
    /// What is said to who asks here, when it cannot be passed on.
    pub fn problem(&self, core: &Core) -> Problem {
        Problem::conflict(format!(
            "The repository of {} lies on the host {}, and this is {}: use the address of that host.",
            self.app, self.host, core.host
        ))
    }
}

/// Opens the repository of `<app>.git` on this host, as `find`. Errors: also `Conflict` if another has it.
pub(super) async fn open(
    core: &Core,
    call: &Call,
    repository: &str,
    service: Service,
) -> Result<Repository, Problem> {
    match find(core, call, repository, service).await? {
        Place::Here(repository) => Ok(*repository),
        Place::There(elsewhere) => Err(elsewhere.problem(core)),
    }
}

/// Finds the repository of `<app>.git`, and makes it here if there is none. Errors: `NotFound` for an unknown
/// app and for one that the caller may not use, in the same words.
pub async fn find(core: &Core, call: &Call, repository: &str, service: Service) -> Result<Place, Problem> {
    let gone = || Problem::not_found("There is no such repository, or you may not use it.");
    let name = repository.strip_suffix(".git").unwrap_or(repository);
    let name = AppName::parse(name).map_err(|_| gone())?;
    let app = match apps::find_for(core, call, &name, Permission::APP_READ).await {
        Err(problem) if matches!(problem.kind(), Kind::NotFound | Kind::Forbidden) => return Err(gone()),
        found => found?,
    };
    // The token of an app reads its own app's description, but neither its source, nor does it deploy.
    let may = |permission| call.may(permission, &app.contexts());
    match (may(Permission::APP_READ), may(service.permission())) {
        (false, _) => return Err(gone()),
        (true, false) => {
            return Err(Problem::forbidden(format!(
                "You may read the repository of {name}, but not push to it."
            )));
        }
        _ => {}
    }
    apps::ensure_live(&app)?;
    let row = store::claim(&core.db, app.id, &core.host).await?;
    if row.host != core.host {
        let reached = store::find_host(&core.db, &row.host).await?;
        let (url, ssh_address) = reached.map(|reached| (reached.url, reached.ssh_address)).unzip();
        return Ok(Place::There(Elsewhere {
            app: name,
            host: row.host,
            url,
            ssh_address: ssh_address.filter(|address| !address.is_empty()),
        }));
    }
    let branch = row.branch.as_ref().unwrap_or(&core.settings.git.default_branch);
    let path = core.dirs.repository(row.id);
    match path.exists() {
        true => point(&path, branch).await?,
        false => make(core, &path, branch).await?,
    }
    Ok(Place::Here(Box::new(Repository { app, path })))
}

/// An app's repository as it is shown.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) url: String,
    pub(super) http_url: String,
    /// What is deployed.
    pub(super) branch: BranchName,
    /// Who has it; empty: nobody yet.
    pub(super) host: String,
    pub(super) bytes: i64,
}

/// Describes an app's repository.
pub(super) async fn describe(core: &Core, call: &Call, name: &AppName) -> Result<Described, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_READ_INFO).await?;
    let found = store::find(&core.db, app.id).await?;
    let (host, branch, bytes) = found.map_or((None, None, 0), |row| (row.host, row.branch, row.bytes));
    Ok(Described {
        url: core.public.repository_url(name),
        http_url: core.public.repository_http_url(name),
        branch: branch.unwrap_or_else(|| core.settings.git.default_branch.clone()),
        host: host.unwrap_or_default(),
        bytes,
    })
}

/// Chooses the branch whose pushes are deployed. What runs stays until the next push.
pub(super) async fn choose_branch(
    core: &Core,
    call: &Call,
    name: &AppName,
    branch: &BranchName,
) -> Result<(), Problem> {
    let mut tx = core.db.begin().await?;
    let app = change(core, &mut tx, call, name, json!({ "branch": branch })).await?;
    store::set_branch(&mut tx, app, branch).await?;
    tx.commit().await?;
    Ok(())
}

/// Gives up the repository of an app: whoever looks at it next, wherever that is, begins a new one. For one
/// whose host does not come back, or that is full. What runs stays.
pub(super) async fn give_up(core: &Core, call: &Call, name: &AppName) -> Result<(), Problem> {
    let mut tx = core.db.begin().await?;
    let app = change(core, &mut tx, call, name, json!({ "repository": "given up" })).await?;
    if let Some(branch) = store::give_up(&mut tx, app).await? {
        store::set_branch(&mut tx, app, &branch).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Records a change of an app's repository by who may make it.
async fn change(
    core: &Core,
    tx: &mut PgConnection,
    call: &Call,
    name: &AppName,
    data: Value,
) -> Result<AppId, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_UPDATE).await?;
    call.allow(Permission::APP_UPDATE, &app.contexts())?;
    apps::ensure_live(&app)?;
    let new = NewEvent::new(Target::app(name), Permission::APP_UPDATE, app.contexts(), data);
    events::record(tx, call, &new).await?;
    Ok(app.id)
}

/// Removes the files of an app's repository, if this host has them. What another host has, its healer removes
/// once the app is gone.
pub async fn remove_files(core: &Core, app: AppId) -> Result<(), Problem> {
    match store::find_id(&core.db, app, &core.host).await? {
        Some(id) => disk::remove(&core.dirs.repository(id)).await,
        None => Ok(()),
    }
}

/// Made aside and moved into place: there is none or a whole one, and the first of two wins.
async fn make(core: &Core, path: &Path, branch: &BranchName) -> Result<(), Problem> {
    let fresh = core
        .dirs
        .repositories()
        .join(format!("{NEW}{}", uuid::Uuid::new_v4().simple()));
    let mut init = git(&fresh);
    init.args(["init", "--bare", "--quiet", "--template="])
        .arg(format!("--initial-branch={branch}"));
    order(&mut init).await?;
    if let Err(error) = tokio::fs::rename(&fresh, path).await {
        tokio::fs::remove_dir_all(&fresh)
            .await
            .map_err(Problem::internal)?;
        if !path.exists() {
            return Err(Problem::internal(error));
        }
    }
    Ok(())
}

/// Lets `HEAD` name what is deployed, so that this is what a clone checks out.
async fn point(path: &Path, branch: &BranchName) -> Result<(), Problem> {
    let name = branch_ref(branch);
    let head = tokio::fs::read_to_string(path.join("HEAD"))
        .await
        .map_err(Problem::internal)?;
    if head.trim_end() != format!("ref: {name}") {
        order(git(path).args(["symbolic-ref", "HEAD", &name])).await?;
    }
    Ok(())
}

/// Where another machine reaches what listens at an address: this machine's name, if that is all its addresses.
fn reached(bound: SocketAddr) -> Result<String, Problem> {
    if !bound.ip().is_unspecified() {
        return Ok(bound.to_string());
    }
    let name = nix::unistd::gethostname().map_err(Problem::internal)?;
    Ok(format!("{}:{}", name.to_string_lossy(), bound.port()))
}

/// Writes the hook, removes what a life before has left behind, and tells the other replicas where this one is
/// reached. For the start of who owns the folder.
pub async fn prepare(core: &Core, api: SocketAddr, ssh: Option<SocketAddr>) -> Result<(), Problem> {
    let url = match core.settings.git.replica_url.as_str() {
        "" => format!("http://{}", reached(api)?),
        url => url.to_owned(),
    };
    let ssh_address = match (ssh, core.settings.ssh.replica_address.as_str()) {
        (None, _) => String::new(),
        (Some(bound), "") => reached(bound)?,
        (Some(_), address) => address.to_owned(),
    };
    store::note_host(&core.db, &core.host, &store::Reached { url, ssh_address }).await?;
    let folder = core.dirs.repositories();
    let preparing = move || -> std::io::Result<()> {
        hook::install(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW) || name.starts_with(hook::PUSH) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    };
    tokio::task::spawn_blocking(preparing)
        .await
        .map_err(Problem::internal)?
        .map_err(Problem::internal)
}
