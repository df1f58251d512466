//! Actions on services: create, update, remove, document, grant and revoke access, list plans.

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::db;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::ServiceId;
use crate::kernel::names::{ServiceName, TeamName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::services::broker::{BrokerClient, ServicePlan};
use crate::services::catalogue::store::{self, ServiceColumns};
use crate::services::catalogue::team_checks::{ensure_team_exists, map_missing_team, missing_team};
use crate::services::instances::{self, InstanceWithInfo};
use crate::services::manifest::ServiceManifest;
use crate::services::model::{DefaultOwner, Disclosure, Service};
use crate::teams;

/// Maximum length of the documentation, in bytes.
const MAX_DOC: usize = 512 * 1024;

/// A service and the names of its instances.
#[derive(Clone, Debug)]
pub struct ServiceInstanceNames {
    pub service: String,
    pub instances: Vec<String>,
}

/// Returns the error for an existing service that is restricted to others.
pub(in crate::services) fn service_access_denied() -> Error {
    Error::forbidden("You don't have access to this service.")
}

/// Finds a service that the caller may use and read. Errors: `NotFound`; for a service that is restricted to
/// others, the error that `disclosure` selects.
pub(in crate::services) async fn find_usable_service(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    disclosure: Disclosure,
) -> Result<Service, Error> {
    let service = store::find_service(&core.db, name)
        .await?
        .ok_or_else(|| Error::service_not_found(name))?;
    match disclosure {
        Disclosure::Deny if !service.is_usable_by(call) => Err(service_access_denied()),
        Disclosure::Hide if !service.is_visible_to(call) => Err(Error::service_not_found(name)),
        _ => Ok(service),
    }
}

/// Reads the service again under the lock of an event on it; nobody else changes it until the transaction
/// ends. Errors: `NotFound` if it was removed since the lookup, or replaced by another service of its name.
pub(in crate::services) async fn reload_service(
    tx: &mut PgConnection,
    service: &Service,
) -> Result<Service, Error> {
    store::find_service(tx, &service.name)
        .await?
        .filter(|now| now.id == service.id)
        .ok_or_else(|| Error::service_not_found(&service.name))
}

/// Finds a service on which the caller holds the permission. Errors: `NotFound`, `Forbidden`.
pub(in crate::services) async fn find_owned_service(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    permission: Permission,
    disclosure: Disclosure,
) -> Result<Service, Error> {
    let service = store::find_service(&core.db, name)
        .await?
        .ok_or_else(|| Error::service_not_found(name))?;
    if disclosure == Disclosure::Hide && !service.is_visible_to(call) {
        return Err(Error::service_not_found(name));
    }
    call.authorize(permission, &service.owner_contexts())?;
    Ok(service)
}

/// Returns the teams that will own a new service: the named team, or those that `default_owner` selects.
async fn resolve_owner_teams(
    core: &Core,
    call: &RequestContext,
    manifest: &ServiceManifest,
    default_owner: DefaultOwner,
) -> Result<Vec<String>, Error> {
    if default_owner == DefaultOwner::One || manifest.team.is_some() {
        let team =
            teams::choose_owner_team(core, call, manifest.team.clone(), Permission::SERVICE_CREATE).await?;
        return Ok(vec![team.to_string()]);
    }
    let teams = call.caller_teams();
    if teams.is_empty() {
        return Err(Error::forbidden(
            "You must be a member of a team to create a service.",
        ));
    }
    let contexts: Vec<PermissionContext> = teams.iter().map(PermissionContext::for_team).collect();
    call.authorize(Permission::SERVICE_CREATE, &contexts)?;
    Ok(teams.iter().map(TeamName::to_string).collect())
}

fn new_service_event(
    service: &ServiceName,
    kind: Permission,
    contexts: Vec<PermissionContext>,
    data: serde_json::Value,
) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Service, service),
        kind,
        contexts,
        data,
    )
}

fn manifest_event_data(manifest: &ServiceManifest) -> serde_json::Value {
    json!({
        "id": manifest.id,
        "username": manifest.username,
        "endpoint": manifest.endpoint,
        "team": manifest.team,
    })
}

/// Creates a service from a manifest. Does not call the service.
pub async fn create_service(
    core: &Core,
    call: &RequestContext,
    manifest: ServiceManifest,
    default_owner: DefaultOwner,
) -> Result<(), Error> {
    let owners = resolve_owner_teams(core, call, &manifest, default_owner).await?;
    let id = ServiceId::new();
    let contexts: Vec<PermissionContext> = owners.iter().map(PermissionContext::for_team).collect();
    let (password, endpoints) = encode_manifest(core, id, &manifest)?;
    let mut tx = core.db.begin().await?;
    let columns = service_columns(&manifest, &password, &endpoints);
    db::map_constraint_violation(
        store::insert_service(&mut tx, id, &manifest.id, &columns).await,
        "service_name_key",
        || Error::new(ErrorKind::ServiceExists, "service already exists"),
    )?;
    if map_missing_team(store::insert_owners(&mut tx, id, &owners).await)? == 0 {
        return Err(Error::forbidden(
            "You must be a member of a team to create a service.",
        ));
    }
    let data = manifest_event_data(&manifest);
    events::record_event(
        &mut tx,
        call,
        &new_service_event(&manifest.id, Permission::SERVICE_CREATE, contexts, data),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

fn encode_manifest(
    core: &Core,
    id: ServiceId,
    manifest: &ServiceManifest,
) -> Result<(Vec<u8>, serde_json::Value), Error> {
    let associated = AssociatedData::new(SealedColumn::SERVICE_PASSWORD, &[&id]);
    let endpoints = serde_json::to_value(&manifest.endpoints).map_err(Error::internal)?;
    Ok((core.keys.encrypt(&associated, &manifest.password), endpoints))
}

fn service_columns<'a>(
    manifest: &'a ServiceManifest,
    password: &'a [u8],
    endpoints: &'a serde_json::Value,
) -> ServiceColumns<'a> {
    ServiceColumns {
        username: &manifest.username,
        password,
        endpoint: &manifest.endpoint,
        endpoints,
        dialect: manifest.dialect,
    }
}

/// Replaces the values of the manifest; documentation, teams and instances stay.
pub async fn update_service(
    core: &Core,
    call: &RequestContext,
    manifest: ServiceManifest,
    disclosure: Disclosure,
) -> Result<(), Error> {
    let service =
        find_owned_service(core, call, &manifest.id, Permission::SERVICE_UPDATE, disclosure).await?;
    let team = match &manifest.team {
        Some(team) if !service.owners.contains(team) => {
            Some(teams::choose_owner_team(core, call, Some(team.clone()), Permission::SERVICE_UPDATE).await?)
        }
        team => team.clone(),
    };
    let (password, endpoints) = encode_manifest(core, service.id, &manifest)?;
    let mut tx = core.db.begin().await?;
    let new = new_service_event(
        &service.name,
        Permission::SERVICE_UPDATE,
        service.owner_contexts(),
        manifest_event_data(&manifest),
    );
    events::record_event(&mut tx, call, &new).await?;
    reload_service(&mut tx, &service).await?;
    store::update_service(
        &mut tx,
        service.id,
        &service_columns(&manifest, &password, &endpoints),
    )
    .await?;
    store::reset_unit_calls(&mut tx, service.id).await?;
    if let Some(team) = team {
        map_missing_team(store::insert_owners(&mut tx, service.id, &[team.to_string()]).await)?;
        store::delete_owners_except(&mut tx, service.id, &team).await?;
        // The team may have been removed or renamed since the lookup; a service always has owners.
        if reload_service(&mut tx, &service).await?.owners.is_empty() {
            return Err(missing_team());
        }
    }
    tx.commit().await?;
    core.outbound.forget_bulkhead(service.id.0);
    Ok(())
}

/// Removes a service without instances. Does not call the service.
pub async fn remove_service(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    disclosure: Disclosure,
) -> Result<(), Error> {
    let service = find_owned_service(core, call, name, Permission::SERVICE_DELETE, disclosure).await?;
    let mut tx = core.db.begin().await?;
    let new = new_service_event(
        name,
        Permission::SERVICE_DELETE,
        service.owner_contexts(),
        json!({ "name": name }),
    );
    events::record_event(&mut tx, call, &new).await?;
    reload_service(&mut tx, &service).await?;
    db::map_constraint_violation(
        store::delete_service(&mut tx, service.id).await,
        "service_instance_service_id_fkey",
        || {
            Error::forbidden(
                "This service cannot be removed because it has instances.\nPlease remove these instances before removing the service.",
            )
        },
    )?;
    tx.commit().await?;
    core.outbound.forget_bulkhead(service.id.0);
    Ok(())
}

/// Lists the services that the caller owns, each with all its instances.
pub async fn list_owned_services(
    core: &Core,
    call: &RequestContext,
) -> Result<Vec<ServiceInstanceNames>, Error> {
    let teams = call.visible_scopes(Permission::SERVICE_READ, ContextKind::Team);
    let names = call.visible_scopes(Permission::SERVICE_READ, ContextKind::Service);
    Ok(store::list_services_owned_by(&core.db, teams.as_deref(), &names.unwrap_or_default()).await?)
}

/// Lists the instances of a service that the caller may see, each with the information from the service.
pub async fn list_service_instances(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    disclosure: Disclosure,
) -> Result<Vec<InstanceWithInfo>, Error> {
    let service = find_usable_service(core, call, name, disclosure).await?;
    instances::list_instances_with_info(core, call, &service).await
}

/// Returns the documentation of a service.
pub async fn get_service_doc(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    disclosure: Disclosure,
) -> Result<String, Error> {
    Ok(find_usable_service(core, call, name, disclosure).await?.doc)
}

/// Replaces the documentation of a service.
pub async fn set_service_doc(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    doc: &str,
    disclosure: Disclosure,
) -> Result<(), Error> {
    let service = find_owned_service(core, call, name, Permission::SERVICE_UPDATE_DOC, disclosure).await?;
    if doc.len() > MAX_DOC {
        return Err(Error::too_large("The documentation is longer than 512 KiB."));
    }
    if doc.contains('\0') {
        return Err(Error::invalid("The documentation must not contain NUL bytes."));
    }
    let mut tx = core.db.begin().await?;
    let data = json!({ "bytes": doc.len() });
    let new = new_service_event(
        name,
        Permission::SERVICE_UPDATE_DOC,
        service.owner_contexts(),
        data,
    );
    events::record_event(&mut tx, call, &new).await?;
    reload_service(&mut tx, &service).await?;
    store::update_service_doc(&mut tx, service.id, doc).await?;
    tx.commit().await?;
    Ok(())
}

/// Grants a team the use of a service; it counts if the service is restricted.
pub async fn grant_service_access(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    team: &TeamName,
    disclosure: Disclosure,
) -> Result<(), Error> {
    let kind = Permission::SERVICE_UPDATE_GRANT_ACCESS;
    let service = find_owned_service(core, call, name, kind, disclosure).await?;
    ensure_team_exists(core, team).await?;
    let mut tx = core.db.begin().await?;
    let new = new_service_event(name, kind, service.owner_contexts(), json!({ "team": team }));
    events::record_event(&mut tx, call, &new).await?;
    reload_service(&mut tx, &service).await?;
    if !map_missing_team(store::insert_service_team(&mut tx, service.id, team).await)? {
        return Err(Error::conflict("This team already has access to this service."));
    }
    tx.commit().await?;
    Ok(())
}

/// Revokes the use of a service from a team; the instances of the team stay. The last team keeps its access.
pub async fn revoke_service_access(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    team: &TeamName,
    disclosure: Disclosure,
) -> Result<(), Error> {
    let kind = Permission::SERVICE_UPDATE_REVOKE_ACCESS;
    let service = find_owned_service(core, call, name, kind, disclosure).await?;
    ensure_team_exists(core, team).await?;
    let mut tx = core.db.begin().await?;
    let new = new_service_event(name, kind, service.owner_contexts(), json!({ "team": team }));
    events::record_event(&mut tx, call, &new).await?;
    // Two concurrent revokes must not remove the last two teams.
    let service = reload_service(&mut tx, &service).await?;
    if !service.teams.is_empty() && service.teams.len() < 2 && service.teams.contains(team) {
        return Err(Error::forbidden(
            "You can not revoke the access from this team, because it is the only team with access to this service.",
        ));
    }
    if !store::delete_service_team(&mut tx, service.id, team).await? {
        return Err(Error::not_found(
            "This team does not have access to this service.",
        ));
    }
    tx.commit().await?;
    Ok(())
}

/// Lists the plans that the service offers now. Errors: `Failed` if it does not respond.
pub async fn list_service_plans(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    disclosure: Disclosure,
) -> Result<Vec<ServicePlan>, Error> {
    let service = find_usable_service(core, call, name, disclosure).await?;
    BrokerClient::new(core, &service)?
        .for_caller(call)
        .fetch_plans()
        .await
        .map_err(|fault| fault.error)
}
