//! The change of an app: its checks, the permissions that it requires, and what must be restarted afterwards.

use sqlx::PgConnection;

use crate::apps::actions::{choice_just_removed, ensure_live, find_authorized_app, is_missing_choice};
use crate::apps::metadata::{AppMetadata, MetadataChange, MetadataPatch};
use crate::apps::model::{App, AppDescription, AppKind};
use crate::apps::plan_override::PlanOverrideChange;
use crate::apps::processes::{self, ProcessChange};
use crate::apps::store::{self, AppPatch, NewApp};
use crate::core::Core;
use crate::db::map_constraint_violation;
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::pools::{self, ConstraintField};
use crate::quotas::{self, QuotaSubject};
use crate::{plans, platforms, teams};

const MAX_DESCRIPTION: usize = 2000;
/// Maximum number of tags of an app, and of characters of a tag.
const MAX_TAGS: usize = 100;
const MAX_TAG: usize = 255;
/// Maximum size of all metadata of an app and its processes, as JSON: lists of apps read it.
const MAX_METADATA_BYTES: usize = 256 * 1024;

/// A change of an app; `None` leaves a field as it is.
#[derive(Debug, Default)]
pub struct AppChange {
    pub description: Option<String>,
    pub tags: Option<Vec<String>>,
    pub team_owner: Option<TeamName>,
    /// Another plan takes the override of the present one away, save what the change overrides.
    pub plan: Option<PlanName>,
    pub plan_override: PlanOverrideChange,
    /// The pool that the caller takes the app to be in: apps do not move.
    pub pool: Option<PoolName>,
    pub platform: Option<PlatformName>,
    /// The next build begins without what earlier ones have kept; so it does after a change of the platform.
    pub resets_image: bool,
    pub metadata: MetadataPatch,
    pub processes: Vec<ProcessChange>,
}

/// What must be restarted for a change to take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartScope {
    Nothing,
    Processes(Vec<String>),
    AllProcesses,
}

impl AppChange {
    /// Returns the permissions that its fields require.
    pub fn required_permissions(&self) -> Vec<Permission> {
        let asked = [
            (self.description.is_some(), Permission::APP_UPDATE_DESCRIPTION),
            (self.tags.is_some(), Permission::APP_UPDATE_TAGS),
            (self.team_owner.is_some(), Permission::APP_UPDATE_TEAMOWNER),
            (self.plan.is_some(), Permission::APP_UPDATE_PLAN),
            (
                !self.plan_override.is_empty(),
                Permission::APP_UPDATE_PLANOVERRIDE,
            ),
            (self.platform.is_some(), Permission::APP_UPDATE_PLATFORM),
            (self.resets_image, Permission::APP_UPDATE_IMAGE_RESET),
            (!self.metadata.is_empty(), Permission::APP_UPDATE_METADATA),
            (!self.processes.is_empty(), Permission::APP_UPDATE_PROCESSES),
        ];
        asked
            .into_iter()
            .filter_map(|(is, permission)| is.then_some(permission))
            .collect()
    }
}

/// Returns the app if the caller may make the change: each field requires its own permission. Errors:
/// `Invalid` for an empty change or an invalid value.
pub async fn check_change(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    change: &AppChange,
) -> Result<App, Error> {
    let app = find_authorized_app(core, call, name, Permission::APP_READ_INFO).await?;
    let permissions = change.required_permissions();
    check_values(core, call, &app, change, &permissions).await?;
    Ok(app)
}

/// Checks a change of an app or a job, for which the caller must hold these permissions. Errors: as `check_change`.
pub async fn check_values(
    core: &Core,
    call: &RequestContext,
    app: &App,
    change: &AppChange,
    permissions: &[Permission],
) -> Result<(), Error> {
    ensure_live(app)?;
    if change.pool.as_ref().is_some_and(|pool| *pool != app.pool) {
        return Err(Error::invalid(format!(
            "Moving to another pool is no longer supported: create a new {} in that pool.",
            app.kind.as_str()
        )));
    }
    if permissions.is_empty() {
        return Err(Error::invalid(
            "There is nothing to change: provide at least one field.",
        ));
    }
    for permission in permissions {
        call.authorize(*permission, &app.permission_contexts())?;
    }
    if let Some(text) = &change.description {
        check_description(text)?;
    }
    if let Some(tags) = &change.tags {
        check_tags(tags)?;
    }
    if let Some(plan) = change.plan.as_ref().filter(|plan| **plan != app.plan) {
        pools::choose_plan(&core.db, &app.pool, Some(plan)).await?;
    }
    change.plan_override.check()?;
    if let Some(factor) = change.plan_override.cpu_burst {
        plans::check_burst_allowed(&core.db, change.plan.as_ref().unwrap_or(&app.plan), factor).await?;
    }
    if let Some(platform) = &change.platform {
        platforms::check_platform_usable(&core.db, platform).await?;
    }
    processes::check_changes(&core.db, &app.pool, &change.processes).await?;
    if let Some(team) = change.team_owner.as_ref().filter(|team| **team != app.team_owner) {
        if !teams::team_exists(&core.db, team).await? {
            return Err(Error::invalid(format!("Team {team:?} does not exist.")));
        }
        pools::check_allowed(&core.db, app.pool.as_str(), ConstraintField::Team, team.as_str()).await?;
    }
    Ok(())
}

/// Changes an app that this transaction has locked. Errors: `NotFound` if it is gone, `Conflict` if it is
/// being removed; `Invalid` for an unknown process, invalid metadata, or too many items.
pub async fn apply_change(
    tx: &mut PgConnection,
    app: &App,
    change: AppChange,
) -> Result<RestartScope, Error> {
    // Read under the lock, so that neither of two concurrent changes is lost.
    let full = store::find_description(&mut *tx, app.kind, &app.name)
        .await?
        .filter(|full| full.app.id == app.id)
        .ok_or_else(|| Error::not_found(format!("{} not found.", app.title())))?;
    ensure_live(&full.app)?;
    processes::check_known(&full, &change.processes)?;
    let metadata = merge_metadata(&full, &change)?;
    if app.kind == AppKind::App
        && let Some(team) = change
            .team_owner
            .as_ref()
            .filter(|team| **team != full.app.team_owner)
    {
        quotas::check_app_quota(tx, QuotaSubject::Team(team)).await?;
    }
    let patch = AppPatch {
        description: change.description,
        tags: change.tags,
        team_owner: change.team_owner.clone(),
        platform: change.platform,
        resets_image: change.resets_image,
        metadata,
    };
    match store::update_app(&mut *tx, app.id, &patch).await {
        Err(error) if is_missing_choice(&error) => return Err(choice_just_removed()),
        updated => updated?,
    }
    if let Some(team) = &change.team_owner {
        store::insert_team(tx, app.id, team).await?;
    }
    let updated = store::update_plan(&mut *tx, app.id, change.plan.as_ref(), &change.plan_override).await;
    let gone = || Error::invalid("The plan does not exist any more: use another one.");
    let has_new_plan = map_constraint_violation(updated, "app_plan_fkey", gone)?;
    let processes = processes::save_plans(tx, app.id, &change.processes).await?;
    Ok(match (has_new_plan, processes.is_empty()) {
        (true, _) => RestartScope::AllProcesses,
        (false, false) => RestartScope::Processes(processes),
        (false, true) => RestartScope::Nothing,
    })
}

/// Returns the new metadata of an app; `None` if the change has none. Errors: `Invalid`, also if all of it is
/// too large; what was too large before may become smaller.
fn merge_metadata(full: &AppDescription, change: &AppChange) -> Result<Option<serde_json::Value>, Error> {
    let metadata_change = MetadataChange::new(&change.metadata, &change.processes);
    if metadata_change.is_empty() {
        return Ok(None);
    }
    let mut metadata = AppMetadata::from_stored(full.app.metadata.clone())?;
    metadata.apply_change(metadata_change)?;
    let metadata = serde_json::to_value(metadata).map_err(Error::internal)?;
    let (before, after) = (full.app.metadata.to_string().len(), metadata.to_string().len());
    match after > MAX_METADATA_BYTES && after > before {
        true => Err(Error::invalid(format!(
            "The metadata of an app and its processes has at most {MAX_METADATA_BYTES} bytes: remove some."
        ))),
        false => Ok(Some(metadata)),
    }
}

/// Saves metadata and settings of processes of an app that this transaction has created.
pub(super) async fn save_first_settings(
    tx: &mut PgConnection,
    new: &NewApp<'_>,
    metadata: &MetadataPatch,
    processes: &[ProcessChange],
) -> Result<(), Error> {
    if metadata.is_empty() && processes.is_empty() {
        return Ok(());
    }
    let full = store::find_description(&mut *tx, new.kind, new.name)
        .await?
        .ok_or_else(|| Error::internal("the app just created was not found"))?;
    processes::check_known(&full, processes)?;
    let change = AppChange {
        metadata: metadata.clone(),
        processes: processes.to_vec(),
        ..AppChange::default()
    };
    let patch = AppPatch {
        metadata: merge_metadata(&full, &change)?,
        ..AppPatch::default()
    };
    store::update_app(&mut *tx, new.id, &patch).await?;
    processes::save_plans(tx, new.id, processes).await.map(drop)
}

pub(super) fn check_tags(tags: &[String]) -> Result<(), Error> {
    if tags.len() > MAX_TAGS || tags.iter().any(|tag| tag.chars().count() > MAX_TAG) {
        return Err(Error::invalid(format!(
            "An app has at most {MAX_TAGS} tags, of at most {MAX_TAG} characters each."
        )));
    }
    Ok(())
}

pub(super) fn check_description(text: &str) -> Result<(), Error> {
    if text.chars().count() > MAX_DESCRIPTION {
        return Err(Error::invalid(format!(
            "A description has at most {MAX_DESCRIPTION} characters."
        )));
    }
    Ok(())
}
