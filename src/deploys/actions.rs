//! What a user orders: a deploy, a rollback, a list of them.

use serde_json::json;

use crate::apps::{self, App};
use crate::core::Core;
use crate::deploys::rollback::{Rollback, RollbackData};
use crate::deploys::saga::{Deploy, DeployData};
use crate::deploys::store::{self, DeployRow};
use crate::deploys::upload::Upload;
use crate::events::{self, NewEvent, Target};
use crate::kernel::call::Call;
use crate::kernel::ids::EventId;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::sagas::{self, Lane, NewSaga};

const ORIGINS: [&str; 6] = [
    "app-deploy",
    "git",
    "rollback",
    "drag-and-drop",
    "image",
    "rebuild",
];
const MAX_TEXT: usize = 2000;
/// What is said to who asks for a new version beside the old one.
const REPLACES: &str =
    " !     Versions do not run side by side here yet: this one replaces the one that runs.";

/// What a deploy says of itself.
#[derive(Clone, Debug, Default)]
pub struct Order {
    pub origin: String,
    pub message: String,
    pub commit: String,
    /// Who wrote the commit.
    pub author: String,
    /// The caller wants it beside the version that runs, which it replaces all the same.
    pub beside: bool,
}

/// What is deployed.
#[derive(Debug)]
pub enum Source {
    Archive(Upload),
}

/// Refuses who may not deploy, before anything is uploaded.
pub async fn may_deploy(core: &Core, call: &Call, name: &AppName) -> Result<App, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_DEPLOY_UPLOAD).await?;
    apps::ensure_live(&app)?;
    Ok(app)
}

/// Deploys. Answers the event to follow.
pub async fn deploy(
    core: &Core,
    call: &Call,
    name: &AppName,
    mut order: Order,
    source: Source,
) -> Result<EventId, Problem> {
    let permission = match order.origin.as_str() {
        "git" => Permission::APP_DEPLOY_GIT,
        _ => Permission::APP_DEPLOY_UPLOAD,
    };
    let app = apps::find_for(core, call, name, permission).await?;
    apps::ensure_live(&app)?;
    if order.origin.is_empty() {
        order.origin = "app-deploy".into();
    }
    if !ORIGINS.contains(&order.origin.as_str()) {
        return Err(Problem::invalid("Invalid deployment origin"));
    }
    order.message = order.message.chars().take(MAX_TEXT).collect();
    let Source::Archive(upload) = source;
    if upload.size() == 0 {
        return Err(Problem::invalid(
            "The archive is empty: send a .tar.gz of the app's files.",
        ));
    }
    let mut tx = core.db.begin().await?;
    let data = json!({ "origin": order.origin, "message": order.message, "commit": order.commit, "author": order.author });
    let new = NewEvent::new(Target::app(name), Permission::APP_DEPLOY, app.contexts(), data).cancelable();
    let event = events::begin(&mut tx, call, &new).await?;
    store::insert(&mut tx, &event, app.id, None, &order, &call.owner().1).await?;
    if order.beside {
        events::say(&mut *tx, &event, REPLACES).await?;
    }
    let archive = format!("{event}.archive");
    upload.keep(&archive).await?;
    let data = DeployData {
        app: app.id,
        archive,
        version: None,
        release: None,
        switched: false,
    };
    let saga = NewSaga {
        kind: Deploy::KIND,
        lane: Lane::People,
        event: Some(&event),
        host: Some(&core.host),
        data: &data,
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(event)
}

/// Goes back to a version, named by its number, its image or its commit: its files and, unless `keep_env`, the variables that users had set when it was
/// first released. Answers the event to follow.
pub async fn rollback(
    core: &Core,
    call: &Call,
    name: &AppName,
    image: &str,
    keep_env: bool,
) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_DEPLOY_ROLLBACK).await?;
    apps::ensure_live(&app)?;
    let gone = || Problem::not_found(format!("App {name} has no version {image:?} to go back to."));
    let version = match parse_image(image) {
        Some(version) if store::is_runnable(&core.db, app.id, version).await? => version,
        _ => find_commit(core, &app, image).await?.ok_or_else(gone)?,
    };
    let mut tx = core.db.begin().await?;
    let data = json!({ "origin": "rollback", "image": format!("v{version}"), "keepEnv": keep_env });
    let new = NewEvent::new(Target::app(name), Permission::APP_DEPLOY, app.contexts(), data).cancelable();
    let event = events::begin(&mut tx, call, &new).await?;
    let order = Order {
        origin: "rollback".into(),
        ..Order::default()
    };
    store::insert(&mut tx, &event, app.id, Some(version), &order, &call.owner().1).await?;
    let data = RollbackData {
        app: app.id,
        version,
        keep_env,
        release: None,
        switched: false,
    };
    let saga = NewSaga {
        kind: Rollback::KIND,
        lane: Lane::People,
        event: Some(&event),
        host: None,
        data: &data,
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(event)
}

/// The newest version that can be run of a commit, by the first digits of its name at least. Errors: `Invalid`
/// if they fit several commits.
async fn find_commit(core: &Core, app: &App, prefix: &str) -> Result<Option<i32>, Problem> {
    if !is_commit(prefix) {
        return Ok(None);
    }
    let found = store::find_commits(&core.db, app.id, &prefix.to_ascii_lowercase()).await?;
    match found.as_slice() {
        [] => Ok(None),
        [version] => Ok(Some(*version)),
        _ => Err(Problem::invalid(format!(
            "{prefix:?} is the beginning of several commits that were deployed: give more of it."
        ))),
    }
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `3`, `v3`, or an image name that ends in `:v3`.
fn parse_image(image: &str) -> Option<i32> {
    let tag = image.rsplit(':').next().unwrap_or(image);
    tag.strip_prefix('v')
        .unwrap_or(tag)
        .parse()
        .ok()
        .filter(|n| *n > 0)
}

/// Deploys of an app (empty: of all that the caller sees), newest first.
pub async fn list(
    core: &Core,
    call: &Call,
    app: &str,
    event: &str,
    limit: i64,
) -> Result<Vec<DeployRow>, Problem> {
    if let Ok(name) = AppName::parse(app) {
        apps::find_for(core, call, &name, Permission::APP_READ_DEPLOY).await?;
    }
    let reach = apps::visible(call);
    Ok(store::list(&core.db, app, event, reach.as_ref(), limit.clamp(1, 1000)).await?)
}

#[cfg(test)]
mod tests {
    use super::{is_commit, parse_image};

    #[test]
    fn images_name_versions_in_three_ways() {
        for (image, version) in [
            ("3", Some(3)),
            ("v12", Some(12)),
            ("registry/tsuru/app-x:v4", Some(4)),
            ("v0", None),
            ("vx", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(parse_image(image), version, "{image}");
        }
    }

    #[test]
    fn commits_are_named_by_seven_digits_at_least() {
        assert!(is_commit("a1b2c3d") && is_commit(&"A1".repeat(20)));
        for not in ["a1b2c3", "a1b2c3g", "a1b2c3%", "", &"a".repeat(65)] {
            assert!(!is_commit(not), "{not}");
        }
    }
}
