//! Builds without a deploy, and the later deploys of what they made.

use serde_json::json;

use crate::apps::{self, App};
use crate::core::Core;
use crate::deploys::actions::{DeployOptions, DeploySource, begin_from_source, new_deploy_event};
use crate::deploys::saga::{DeployData, DeploySaga};
use crate::deploys::version_choice::insert_version_deploy;
use crate::deploys::version_tag::VersionTag;
use crate::events::NewEvent;
use crate::kernel::artifact::ImageName;
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::sagas;
use crate::versions::TaggedVersion;

/// Refuses who may not build, before anything is uploaded.
pub async fn authorize_build(core: &Core, call: &RequestContext, name: &AppName) -> Result<App, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_BUILD).await?;
    apps::ensure_live(&app)?;
    Ok(app)
}

/// Builds a version under a tag, to be deployed later by the name of its image, which the last line of the event says.
/// Answers the event to follow.
pub async fn build_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    (tag, order): (VersionTag, DeployOptions),
    source: DeploySource,
) -> Result<EventId, Error> {
    let app = authorize_build(core, call, name).await?;
    begin_from_source(core, call, &app, (order, Some(tag)), source).await
}

/// Begins the deploy of a version that was built before, on the host that holds it.
pub(super) async fn begin_version_deploy(
    core: &Core,
    call: &RequestContext,
    app: &App,
    mut order: DeployOptions,
    (image, built): (&ImageName, TaggedVersion),
) -> Result<EventId, Error> {
    order.origin = "image".into();
    let data = json!({ "origin": order.origin, "message": order.message, "image": image.to_string() });
    let new = new_deploy_event(app, data);
    let owner = call.event_owner().1;
    let TaggedVersion { version, host } = built;
    sagas::start_saga::<DeploySaga>(&core.db, call, &new, async |tx, event| {
        insert_version_deploy(tx, event, app, version, (&order, &owner)).await?;
        Ok(DeployData::for_version(app.id, version, host).with_sides(order.sides))
    })
    .await
}

pub(super) fn new_build_event(app: &App, tag: &VersionTag) -> NewEvent {
    let data = json!({ "tag": tag });
    let contexts = app.permission_contexts();
    NewEvent::new(app.event_target(), Permission::APP_BUILD, contexts, data).allow_cancel()
}
