//! What a user orders: a deploy, a rollback, a list of them.

use std::borrow::Cow;

use serde_json::json;

use crate::apps::{self, App, AppKind};
use crate::config::ServerRole;
use crate::core::Core;
use crate::deploys::archive_transfer;
use crate::deploys::builds;
use crate::deploys::dockerfile_version::ImageRecipe;
use crate::deploys::image_version;
use crate::deploys::rollback::{RollbackData, RollbackSaga};
use crate::deploys::saga::{DeployData, DeploySaga};
use crate::deploys::sides::SideOptions;
use crate::deploys::store::{self, DeployRow};
use crate::deploys::upload::ArchiveUpload;
use crate::deploys::version_choice::{find_rollback_version, insert_version_deploy};
use crate::deploys::version_tag::{self, VersionTag};
use crate::events::{self, NewEvent};
use crate::kernel::artifact::ImageName;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::kernel::log_text::clean_line;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::sagas;

const ORIGINS: [&str; 7] = [
    "app-deploy",
    "job-deploy",
    "git",
    "rollback",
    "drag-and-drop",
    "image",
    "rebuild",
];
/// Characters of a message, and of the name of a commit or an author.
const MAX_MESSAGE: usize = 2000;
const MAX_NAME: usize = 200;
/// What is said to who sends a Dockerfile where none is built.
const NO_DOCKERFILE_NOTICE: &str = " !     This pool builds no Dockerfiles: the files are built for the job's platform, and its Procfile says what runs.";

/// What a deploy says of itself.
#[derive(Clone, Debug, Default)]
pub struct DeployOptions {
    pub origin: String,
    pub message: String,
    pub commit: String,
    /// Who wrote the commit.
    pub author: String,
    /// What becomes of the versions that run.
    pub sides: SideOptions,
    /// The Dockerfile that the caller has sent beside the files.
    pub dockerfile: Option<String>,
    /// The tag that the caller has sent, for a version that is only built.
    pub tag: Option<String>,
}

/// What is deployed.
#[derive(Debug)]
pub enum DeploySource {
    Archive(ArchiveUpload),
    /// An image by its name.
    Image(ImageName),
}

/// Refuses what the app's pool does not take. Returns how an archive is built as an image, if it is. Errors: `Invalid`,
/// with what the pool does take.
async fn check_source(
    core: &Core,
    app: &App,
    source: &DeploySource,
    order: &DeployOptions,
) -> Result<Option<ImageRecipe>, Error> {
    let runner = image_version::find_runner(core, app).await?;
    let dockerfile = order.dockerfile.clone();
    match (source, runner.image_store()) {
        (DeploySource::Archive(_), Some(images)) if images.builds_images() => {
            Ok(Some(ImageRecipe { dockerfile }))
        }
        (DeploySource::Archive(_), Some(_)) => Err(Error::invalid(format!(
            "The pool {} runs images only: deploy one, as in `tsuru app deploy --image`.",
            app.pool
        ))),
        (DeploySource::Image(_), None) => Err(image_version::runs_no_images(app)),
        // Today's client can send the files of a job in no other way.
        (DeploySource::Archive(_), None) if dockerfile.is_some() && app.kind == AppKind::App => {
            Err(image_version::runs_no_images(app))
        }
        _ => Ok(None),
    }
}

/// Refuses who may not deploy, before anything is uploaded.
pub async fn authorize_deploy(core: &Core, call: &RequestContext, name: &AppName) -> Result<App, Error> {
    let app = match apps::find_authorized_app(core, call, name, Permission::APP_DEPLOY_UPLOAD).await {
        // What is uploaded may be the files of a Dockerfile, which is known only later.
        Err(error) if error.kind() == ErrorKind::Forbidden => {
            let dockerfile = Permission::APP_DEPLOY_DOCKERFILE;
            let app = apps::find_authorized_app(core, call, name, dockerfile).await;
            app.map_err(|_| error)?
        }
        found => found?,
    };
    apps::ensure_live(&app)?;
    Ok(app)
}

/// Deploys. Answers the event to follow.
pub async fn deploy_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    order: DeployOptions,
    source: DeploySource,
) -> Result<EventId, Error> {
    let permission = match (&source, order.origin.as_str()) {
        (DeploySource::Image(_), _) => Permission::APP_DEPLOY_IMAGE,
        (_, "git") => Permission::APP_DEPLOY_GIT,
        _ if order.dockerfile.is_some() => Permission::APP_DEPLOY_DOCKERFILE,
        _ => Permission::APP_DEPLOY_UPLOAD,
    };
    let app = apps::find_authorized_app(core, call, name, permission).await?;
    deploy_to(core, call, &app, order, source).await
}

/// Deploys to an app or a job of a caller who may do so. Answers the event to follow.
pub async fn deploy_to(
    core: &Core,
    call: &RequestContext,
    app: &App,
    order: DeployOptions,
    source: DeploySource,
) -> Result<EventId, Error> {
    apps::ensure_live(app)?;
    if let DeploySource::Image(image) = &source
        && let Some(built) = version_tag::find_tagged_version(core, app, image).await?
    {
        return builds::begin_version_deploy(core, call, app, order, (image, built)).await;
    }
    begin_from_source(core, call, app, (order, None), source).await
}

/// Begins to deploy a source, or to build it only, under a tag.
pub(super) async fn begin_from_source(
    core: &Core,
    call: &RequestContext,
    app: &App,
    (mut order, tag): (DeployOptions, Option<VersionTag>),
    source: DeploySource,
) -> Result<EventId, Error> {
    check_origin(&order.origin)?;
    let recipe = check_source(core, app, &source, &order).await?;
    if order.origin.is_empty() {
        order.origin = "app-deploy".into();
    }
    order.message = clean_text(&order.message, MAX_MESSAGE);
    order.commit = clean_text(&order.commit, MAX_NAME);
    order.author = clean_text(&order.author, MAX_NAME);
    let mut upload = match source {
        DeploySource::Archive(upload) => upload,
        DeploySource::Image(image) => return begin_image_deploy(core, call, app, order, &image).await,
    };
    if upload.size() == 0 {
        return Err(Error::invalid(
            "The archive is empty: send a .tar.gz of the app's files.",
        ));
    }
    let archive = upload.finish().await?;
    if !archive_transfer::hands_over_archives(core) {
        return begin_deploy(core, call, app, (&order, recipe, tag), (archive, Some(upload))).await;
    }
    archive_transfer::store_archive(core, &archive).await?;
    drop(upload);
    let begun = begin_deploy(core, call, app, (&order, recipe, tag), (archive.clone(), None)).await;
    if begun.is_err() {
        archive_transfer::discard_archive(core, &archive).await;
    }
    begun
}

/// Begins a deploy of an archive in the folder of uploads, or of a stored one if there is no upload.
async fn begin_deploy(
    core: &Core,
    call: &RequestContext,
    app: &App,
    (order, recipe, tag): (&DeployOptions, Option<ImageRecipe>, Option<VersionTag>),
    (archive, upload): (String, Option<ArchiveUpload>),
) -> Result<EventId, Error> {
    let data = json!({ "origin": order.origin, "message": order.message, "commit": order.commit, "author": order.author });
    let new = match &tag {
        Some(tag) => builds::new_build_event(app, tag),
        None => new_deploy_event(app, data),
    };
    let owner = call.event_owner().1;
    sagas::start_saga::<DeploySaga>(&core.db, call, &new, async |tx, event| {
        if tag.is_none() {
            store::insert_deploy(tx, event, app.id, None, order, &owner).await?;
            order.sides.check_running(tx, app).await?;
        }
        if order.dockerfile.is_some() && recipe.is_none() {
            events::append_log(&mut *tx, event, NO_DOCKERFILE_NOTICE).await?;
        }
        let Some(upload) = upload else {
            if !store::assign_archive(tx, &archive, event).await? {
                return Err(Error::unavailable(
                    "The archive took too long to be stored: deploy again.",
                ));
            }
            let data = DeployData::new(app.id, archive, None).with_recipe(recipe);
            return Ok(data.with_sides(order.sides).with_tag(tag));
        };
        // Before the commit, whose outcome may never be known: an archive that nobody needs is swept.
        upload.keep();
        let data = DeployData::new(app.id, archive, Some(core.host.to_string()));
        let data = data.with_recipe(recipe).with_sides(order.sides);
        Ok(data.with_tag(tag))
    })
    .await
}

/// Begins a deploy of an image: on this host if it has a worker, else on any that has one.
async fn begin_image_deploy(
    core: &Core,
    call: &RequestContext,
    app: &App,
    mut order: DeployOptions,
    image: &ImageName,
) -> Result<EventId, Error> {
    order.origin = "image".into();
    let host = core.settings.roles.contains(&ServerRole::Worker);
    let host = host.then(|| core.host.to_string());
    let data = json!({ "origin": order.origin, "message": order.message, "image": image.to_string() });
    let new = new_deploy_event(app, data);
    let owner = call.event_owner().1;
    sagas::start_saga::<DeploySaga>(&core.db, call, &new, async |tx, event| {
        store::insert_deploy(tx, event, app.id, None, &order, &owner).await?;
        order.sides.check_running(tx, app).await?;
        Ok(DeployData::for_image(app.id, image, host).with_sides(order.sides))
    })
    .await
}

pub(super) fn new_deploy_event(app: &App, data: serde_json::Value) -> NewEvent {
    let permission = match app.kind {
        AppKind::App => Permission::APP_DEPLOY,
        AppKind::Job => Permission::JOB_DEPLOY,
    };
    NewEvent::new(app.event_target(), permission, app.permission_contexts(), data).allow_cancel()
}

/// What a caller or a commit says, as it is kept and shown in terminals: its first characters, line by line.
pub(super) fn clean_text(text: &str, max_chars: usize) -> String {
    let kept = text
        .char_indices()
        .nth(max_chars)
        .map_or(text, |(end, _)| &text[..end]);
    let lines: Vec<Cow<'_, str>> = kept.lines().map(clean_line).collect();
    lines.join("\n")
}

/// Goes back to a version, named by its number, its image or its commit: its files and, unless `keep_env`, the variables that users had set when it was
/// first released. Answers the event to follow.
pub async fn rollback_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    image: &str,
    keep_env: bool,
    sides: SideOptions,
) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_DEPLOY_ROLLBACK).await?;
    apps::ensure_live(&app)?;
    let version = find_rollback_version(core, &app, image).await?;
    let data = json!({ "origin": "rollback", "image": format!("v{version}"), "keepEnv": keep_env });
    let new = new_deploy_event(&app, data);
    let order = DeployOptions {
        origin: "rollback".into(),
        sides,
        ..DeployOptions::default()
    };
    let owner = call.event_owner().1;
    sagas::start_saga::<RollbackSaga>(&core.db, call, &new, async |tx, event| {
        insert_version_deploy(tx, event, &app, version, (&order, &owner)).await?;
        Ok(RollbackData::new(app.id, version, keep_env, sides))
    })
    .await
}

/// Builds a version anew from the source of the last one. Errors: `Precondition`, since sources are not kept.
pub async fn rebuild_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    origin: &str,
) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_DEPLOY).await?;
    apps::ensure_live(&app)?;
    check_origin(origin)?;
    Err(Error::precondition(
        "The source of a version is not kept after its build: deploy the files of the app again, or push its repository.",
    ))
}

fn check_origin(origin: &str) -> Result<(), Error> {
    match origin.is_empty() || ORIGINS.contains(&origin) {
        true => Ok(()),
        false => Err(Error::invalid("Invalid deployment origin")),
    }
}

/// Deploys of an app (empty: of all that the caller sees), newest first. Errors: `NotFound` for an app that is not there.
pub async fn list_deploys(
    core: &Core,
    call: &RequestContext,
    app: &str,
    event: &str,
    limit: i64,
) -> Result<Vec<DeployRow>, Error> {
    if !app.is_empty() {
        let name = AppName::parse(app).map_err(|_| Error::app_not_found(app))?;
        apps::find_authorized_app(core, call, &name, Permission::APP_READ_DEPLOY).await?;
    }
    let reach = apps::visible_app_scopes(call, Permission::APP_READ_DEPLOY);
    Ok(store::list_deploys(&core.db, app, event, reach.as_ref(), limit.clamp(1, 1000)).await?)
}

#[cfg(test)]
mod tests {
    use super::clean_text;

    #[test]
    fn deploy_texts_are_truncated_and_cleaned_of_control_characters() {
        assert_eq!(
            clean_text("fix\u{1b}[2J\r\nmore\0", 100),
            "fix\u{fffd}[2J\nmore\u{fffd}"
        );
        assert_eq!(clean_text(&"é".repeat(9), 5), "é".repeat(5));
    }
}
