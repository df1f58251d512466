//! Reads and replaces the manifest of a service's operations, and decides on proxied requests.

use serde_json::json;

use crate::core::Core;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::held_permission::covers_action;
use crate::kernel::ids::ServiceId;
use crate::kernel::names::ServiceName;
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::services::catalogue;
use crate::services::model::Disclosure;
use crate::services::operations::model::OperationManifest;
use crate::services::operations::store;

/// Returns the manifest of a service; an empty one, which is not enabled, if it has none. Errors: `NotFound`,
/// `Forbidden`.
pub(super) async fn find_manifest(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
) -> Result<OperationManifest, Error> {
    let kind = Permission::SERVICE_UPDATE;
    let service = catalogue::find_owned_service(core, call, name, kind, Disclosure::Hide).await?;
    let found = store::find_manifest(&core.db, service.id).await?;
    Ok(found.unwrap_or_default())
}

/// Replaces the manifest of a service. Errors: `NotFound`, `Forbidden`, `Invalid`; `Conflict` if a role holds an
/// action that the new manifest does not have.
pub(super) async fn replace_manifest(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    manifest: &OperationManifest,
) -> Result<(), Error> {
    let kind = Permission::SERVICE_UPDATE;
    let service = catalogue::find_owned_service(core, call, name, kind, Disclosure::Hide).await?;
    manifest.validate()?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "enabled": manifest.enabled, "operations": manifest.operations.len() });
    let target = EventTarget::new(EventTargetKind::Service, name);
    let event = NewEvent::new(target, kind, service.owner_contexts(), data);
    events::record_event(&mut tx, call, &event).await?;
    catalogue::reload_service(&mut tx, &service).await?;
    store::lock_service(&mut tx, service.id).await?;
    for (held, role) in store::list_held_actions(&mut tx, service.id).await? {
        let is_kept = manifest
            .operations
            .iter()
            .any(|operation| covers_action(&held, &operation.action));
        if !is_kept {
            return Err(Error::conflict(format!(
                "The role {role} holds the action {:?}, which the new manifest does not have: remove it from the role first.",
                quote_excerpt(&held)
            )));
        }
    }
    store::replace_manifest(&mut tx, service.id, manifest).await?;
    Ok(tx.commit().await?)
}

/// What a proxied request to an instance needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::services) enum ProxyDecision {
    /// It is allowed; with the action of its operation, if it matches one.
    Allowed {
        action: Option<String>,
    },
    Denied,
}

/// Decides on a proxied request by the manifest of the service and the permissions of the caller in the contexts
/// of the instance.
pub(in crate::services) async fn decide_proxy(
    core: &Core,
    call: &RequestContext,
    service: ServiceId,
    contexts: &[PermissionContext],
    (method, path): (&str, &[String]),
) -> Result<ProxyDecision, Error> {
    let has_general = call.has_permission(Permission::SERVICE_INSTANCE_UPDATE_PROXY, contexts);
    let general = |action: Option<String>, counts: bool| match has_general && counts {
        true => ProxyDecision::Allowed { action },
        false => ProxyDecision::Denied,
    };
    let manifest = store::find_manifest(&core.db, service).await?;
    let Some(manifest) = manifest.filter(|manifest| manifest.enabled) else {
        return Ok(general(None, true));
    };
    let Some(operation) = manifest.find_operation(method, path)? else {
        return Ok(general(None, !manifest.strict_actions));
    };
    let action = Some(operation.action.clone());
    match call.has_service_action(service, &operation.action, contexts) {
        true => Ok(ProxyDecision::Allowed { action }),
        false => Ok(general(action, manifest.legacy_compat)),
    }
}
