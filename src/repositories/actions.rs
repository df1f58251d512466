//! A repository found, or made, for who may use it.

use std::path::{Path, PathBuf};

use crate::apps::{self, App};
use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::{Kind, Problem};
use crate::repositories::children::{git, order};
use crate::repositories::model::{Service, branch_ref};
use crate::repositories::{hook, store};

/// Names of repositories that are being made.
const NEW: &str = "new-";

/// An app's repository on this host.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(super) app: App,
    pub(super) path: PathBuf,
}

/// Opens the repository of `<app>.git`, and makes it if there is none. Errors: `NotFound` for an unknown app
/// and for one that the caller may not use, in the same words; `Conflict` if another host has it.
pub async fn open(
    core: &Core,
    call: &Call,
    repository: &str,
    service: Service,
) -> Result<Repository, Problem> {
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
        return Err(Problem::conflict(format!(
            "The repository of {name} lies on the host {}, and this is {}: use the address of that host.",
            row.host, core.host
        )));
    }
    let branch = row.branch.as_ref().unwrap_or(&core.settings.git.default_branch);
    let path = core.dirs.repository(row.id);
    match path.exists() {
        true => point(&path, branch).await?,
        false => make(core, &path, branch).await?,
    }
    Ok(Repository { app, path })
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

/// Writes the hook, and removes what a life before has left behind. For the start of who owns the folder.
pub async fn prepare(core: &Core) -> Result<(), Problem> {
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
