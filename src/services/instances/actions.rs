//! Actions on instances: create, read, grant and revoke access.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::{EventId, InstanceId};
use crate::kernel::names::{InstanceName, PoolName, ServiceName, TeamName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::pools::{self, ConstraintField};
use crate::sagas;
use crate::services::broker::{BrokerClient, ReportedStatus, ServicePlan};
use crate::services::catalogue;
use crate::services::instances::lists::{self, InstanceFilter};
use crate::services::instances::saga::{CreateInstanceData, CreateInstanceSaga};
use crate::services::instances::store::{self, NewInstanceRow};
use crate::services::model::{
    DefaultOwner, Disclosure, Instance, InstanceCreation, InstanceState, NameScope, NewInstance, Service,
    validate_instance_fields,
};
use crate::services::orphans;
use crate::teams;

/// How long a user waits for the information of services about instances, in total.
const INFO_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of concurrent queries to one service.
const MAX_CONCURRENT_INFO_CALLS: usize = 8;

/// A reference to an instance.
#[derive(Clone, Debug)]
pub enum InstanceRef {
    /// By its name alone (classic).
    ByName(InstanceName),
    /// By its service and name.
    InService(ServiceName, InstanceName),
}

/// An instance with the information that its service gives about it; `None` if the service gave none.
#[derive(Clone, Debug)]
pub struct InstanceWithInfo {
    pub instance: Instance,
    pub info: Option<BTreeMap<String, String>>,
    /// What the service may still hold for Tancho; known only if a single instance was requested.
    pub pending_orphans: Vec<orphans::PendingOrphan>,
}

/// Finds an instance on which the caller holds the permission. Errors: `NotFound`; `Forbidden` if the caller
/// may read the instance but lacks the permission; without any access, the error that `disclosure` selects.
pub async fn find_authorized_instance(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    permission: Permission,
    disclosure: Disclosure,
) -> Result<Instance, Error> {
    let (service, name) = match wanted {
        InstanceRef::ByName(name) => (None, name),
        InstanceRef::InService(service, name) => (Some(service), name),
    };
    let mut found = store::find_instances(&core.db, service, name).await?;
    if found.is_empty() {
        return Err(Error::instance_not_found(name));
    }
    // If instances of several services have the name, only those count that the caller may read.
    if found.len() > 1 {
        found.retain(|i| call.has_permission(Permission::SERVICE_INSTANCE_READ, &i.permission_contexts()));
    }
    if found.len() > 1 {
        let services: Vec<String> = found.iter().map(|i| i.service.to_string()).collect();
        return Err(Error::conflict(format!(
            "Several services have an instance {name}: {}. Name the service as well.",
            services.join(", ")
        )));
    }
    let denied = || Error::forbidden("You don't have access to this service instance.");
    let instance = found.pop().ok_or_else(denied)?;
    let contexts = instance.permission_contexts();
    if !call.has_permission(permission, &contexts)
        && !call.has_permission(Permission::SERVICE_INSTANCE_READ, &contexts)
    {
        return Err(match disclosure {
            Disclosure::Deny => denied(),
            Disclosure::Hide => Error::instance_not_found(name),
        });
    }
    call.authorize(permission, &contexts)?;
    Ok(instance)
}

/// Returns the teams that get access to a new instance, the owner first.
async fn resolve_access_teams(
    core: &Core,
    call: &RequestContext,
    service: &Service,
    new: &NewInstance,
    default_owner: DefaultOwner,
) -> Result<Vec<TeamName>, Error> {
    let permission = Permission::SERVICE_INSTANCE_CREATE;
    if default_owner == DefaultOwner::One {
        let team = teams::choose_owner_team(core, call, new.team.clone(), permission).await?;
        return Ok(vec![team]);
    }
    let mut teams = call.caller_teams();
    if service.is_restricted {
        teams.retain(|team| service.teams.contains(team));
    }
    teams.retain(|team| call.has_permission(permission, &[PermissionContext::for_team(team)]));
    if teams.is_empty() {
        return Err(Error::forbidden(
            "You must be a member of a team to create a service instance.",
        ));
    }
    if let Some(owner) = &new.team {
        let at = teams.iter().position(|team| team == owner);
        let at = at.ok_or_else(|| Error::forbidden(format!("You are not a member of the team {owner}.")))?;
        teams.swap(0, at);
    }
    Ok(teams)
}

/// Creates an instance and waits until the service has created it. Errors: the message of the service.
pub async fn create_instance(
    core: &Core,
    call: &RequestContext,
    new: NewInstance,
    how: InstanceCreation,
) -> Result<(), Error> {
    validate_instance_fields(&new.description, &new.plan, &new.tags, &new.parameters)?;
    let event = db::retry_transaction(|| begin_instance_creation(core, call, &new, how)).await?;
    events::follow_event(&core.db, &core.notices, &event)
        .wait_for_outcome()
        .await?
        .into_result()
}

/// Begins the creation. Errors: `Conflict` if the name is taken, or if a team of the request was just
/// removed.
async fn begin_instance_creation(
    core: &Core,
    call: &RequestContext,
    new: &NewInstance,
    how: InstanceCreation,
) -> Result<EventId, Error> {
    let service = catalogue::find_usable_service(core, call, &new.service, how.disclosure).await?;
    if !service.is_usable_by(call) {
        return Err(catalogue::service_access_denied());
    }
    let teams = resolve_access_teams(core, call, &service, new, how.default_owner).await?;
    if let Some(pool) = &new.pool {
        // The service may have pools of its own; expressions apply to these too.
        let field = ConstraintField::Service;
        pools::check_allowed(&core.db, pool.as_str(), field, service.name.as_str()).await?;
    }
    let id = InstanceId::new();
    let mut tx = core.db.begin().await?;
    store::lock_instance_name(&mut tx, &new.name).await?;
    let taken = || Error::conflict("The service instance already exists.");
    if how.name_scope == NameScope::AllServices
        && !store::find_instances(&mut *tx, None, &new.name).await?.is_empty()
    {
        return Err(taken());
    }
    let owner = call.event_owner().1;
    let row = NewInstanceRow {
        id,
        service_id: service.id,
        name: &new.name,
        plan: &new.plan,
        team_owner: &teams[0],
        owner: &owner,
        description: &new.description,
        tags: &new.tags,
        parameters: &new.parameters,
        pool: new.pool.as_ref().map_or("", PoolName::as_str),
    };
    match store::insert_instance(&mut tx, &row).await {
        Err(error) if db::violates_constraint(&error, "service_instance_name_key") => return Err(taken()),
        Err(error) if db::violates_constraint(&error, "service_instance_service_id_fkey") => {
            return Err(Error::service_not_found(&service.name));
        }
        inserted => catalogue::map_missing_team(inserted)?,
    }
    catalogue::map_missing_team(store::insert_instance_teams(&mut tx, id, &teams).await)?;
    if orphans::has_pending_instance(&mut tx, service.id, &new.name).await? {
        // Outside of the transaction, whose rollback must not undo it.
        drop(tx);
        orphans::wake_instance_orphan(&core.db, service.id, &new.name).await?;
        return Err(Error::conflict(format!(
            "The service {} has not yet confirmed the removal of an earlier instance {}; try again in a moment.",
            service.name, new.name
        )));
    }
    let mut contexts: Vec<PermissionContext> = teams.iter().map(PermissionContext::for_team).collect();
    contexts.push(PermissionContext::new(
        ContextKind::ServiceInstance,
        format!("{}/{}", service.name, new.name),
    ));
    let data = json!({
        "service": service.name, "name": new.name, "plan": new.plan, "owner": teams[0],
        "description": new.description, "tags": new.tags, "pool": new.pool,
        "parameters": new.parameters.keys().collect::<Vec<_>>(),
    });
    let target = EventTarget::new(
        EventTargetKind::ServiceInstance,
        format!("{}/{}", service.name, new.name),
    );
    let event = NewEvent::new(target, Permission::SERVICE_INSTANCE_CREATE, contexts, data);
    let event = events::begin_event(&mut tx, call, &event).await?;
    let data = CreateInstanceData::new(id);
    sagas::enqueue_saga::<CreateInstanceSaga>(&mut tx, Some(&event), &data).await?;
    tx.commit().await?;
    Ok(event)
}

/// Lists the instances of one service that the caller may see, each with the information from the service: a
/// few concurrent queries with one common deadline.
pub async fn list_instances_with_info(
    core: &Core,
    call: &RequestContext,
    service: &Service,
) -> Result<Vec<InstanceWithInfo>, Error> {
    let broker = BrokerClient::new(core, service)?.for_caller(call);
    let instances: Vec<Instance> = {
        let filter = InstanceFilter {
            service: Some(service.name.to_string()),
            ..InstanceFilter::default()
        };
        let groups = lists::list_instances(core, call, &filter).await?;
        groups.into_iter().flat_map(|group| group.instances).collect()
    };
    let deadline = tokio::time::Instant::now() + INFO_TIMEOUT.min(core.settings.services.call_timeout);
    let at_once = MAX_CONCURRENT_INFO_CALLS.min(core.settings.services.concurrency_per_service);
    let list = stream::iter(instances).map(|instance| {
        let broker = &broker;
        async move {
            let info = tokio::time::timeout_at(deadline, broker.fetch_info(&instance.name)).await;
            InstanceWithInfo {
                instance,
                info: info.ok().flatten(),
                pending_orphans: Vec::new(),
            }
        }
    });
    Ok(list.buffered(at_once.max(1)).collect().await)
}

/// Returns an instance with the information from its service and, if `with_plan` is set and the service has
/// plans, the description of its plan.
pub async fn get_instance_info(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    disclosure: Disclosure,
    with_plan: bool,
) -> Result<(InstanceWithInfo, String), Error> {
    let instance =
        find_authorized_instance(core, call, wanted, Permission::SERVICE_INSTANCE_READ, disclosure).await?;
    let broker = open_broker(core, call, &instance).await?;
    let limit = INFO_TIMEOUT.min(core.settings.services.call_timeout);
    let plans = async {
        match with_plan && !instance.plan.is_empty() {
            true => broker.fetch_plans().await.unwrap_or_default(),
            false => Vec::new(),
        }
    };
    let (info, plans) = tokio::join!(
        tokio::time::timeout(limit, broker.fetch_info(&instance.name)),
        tokio::time::timeout(limit, plans),
    );
    let plans: Vec<ServicePlan> = plans.unwrap_or_default();
    let plan = plans.into_iter().find(|plan| plan.name == instance.plan);
    let open =
        orphans::list_pending_orphans_of_instance(&core.db, instance.service_id, &instance.name).await?;
    let item = InstanceWithInfo {
        info: info.ok().flatten(),
        pending_orphans: open,
        instance,
    };
    Ok((item, plan.map(|plan| plan.description).unwrap_or_default()))
}

async fn open_broker(core: &Core, call: &RequestContext, instance: &Instance) -> Result<BrokerClient, Error> {
    let service = catalogue::find_service_by_id(&core.db, instance.service_id)
        .await?
        .ok_or_else(|| Error::service_not_found(&instance.service))?;
    Ok(BrokerClient::new(core, &service)?.for_caller(call))
}

/// Returns the state of an instance in one sentence: Tancho's own state while it is created or removed,
/// otherwise the state that the service reports.
pub async fn get_instance_status(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    disclosure: Disclosure,
) -> Result<String, Error> {
    let permission = Permission::SERVICE_INSTANCE_READ_STATUS;
    let instance = find_authorized_instance(core, call, wanted, permission, disclosure).await?;
    let word = match instance.state {
        InstanceState::Creating => "pending".into(),
        InstanceState::Removing if instance.reason.is_empty() => "being removed".into(),
        InstanceState::Removing => format!("being removed; last error: {}", instance.reason),
        InstanceState::Ready => {
            let status = open_broker(core, call, &instance)
                .await?
                .fetch_status(&instance.name)
                .await;
            match status.map_err(|fault| fault.error)? {
                ReportedStatus::Up => "up".into(),
                ReportedStatus::Pending => "pending".into(),
                ReportedStatus::Down => "down".into(),
                ReportedStatus::Custom(text) => text,
                ReportedStatus::Unsupported => "not implemented for this service".into(),
            }
        }
    };
    Ok(format!("Service instance \"{}\" is {word}", instance.name))
}

/// Grants a team access to an instance.
pub async fn grant_instance_access(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    team: &TeamName,
) -> Result<(), Error> {
    let kind = Permission::SERVICE_INSTANCE_UPDATE_GRANT;
    let instance = find_authorized_instance(core, call, wanted, kind, Disclosure::Hide).await?;
    catalogue::ensure_team_exists(core, team).await?;
    let mut tx = core.db.begin().await?;
    record_access_event(&mut tx, call, &instance, kind, team).await?;
    let new = store::insert_instance_teams(&mut tx, instance.id, std::slice::from_ref(team)).await;
    if catalogue::map_missing_team(new)? == 0 {
        return Err(Error::conflict(
            "This team already has access to this service instance.",
        ));
    }
    tx.commit().await?;
    Ok(())
}

/// Revokes a team's access to an instance. The owner team keeps its access.
pub async fn revoke_instance_access(
    core: &Core,
    call: &RequestContext,
    wanted: &InstanceRef,
    team: &TeamName,
) -> Result<(), Error> {
    let kind = Permission::SERVICE_INSTANCE_UPDATE_REVOKE;
    let instance = find_authorized_instance(core, call, wanted, kind, Disclosure::Hide).await?;
    catalogue::ensure_team_exists(core, team).await?;
    let mut tx = core.db.begin().await?;
    let instance = record_access_event(&mut tx, call, &instance, kind, team).await?;
    if instance.team_owner == *team {
        return Err(Error::forbidden(
            "You can not revoke the access from the team that owns the service instance.",
        ));
    }
    if !store::delete_instance_team(&mut tx, instance.id, team).await? {
        return Err(Error::not_found(
            "This team does not have access to this service instance.",
        ));
    }
    tx.commit().await?;
    Ok(())
}

/// Records the event and returns the instance as it is under the event's lock; nobody else changes it until
/// the transaction ends.
async fn record_access_event(
    tx: &mut sqlx::PgConnection,
    call: &RequestContext,
    instance: &Instance,
    kind: Permission,
    team: &TeamName,
) -> Result<Instance, Error> {
    let target = EventTarget::new(EventTargetKind::ServiceInstance, instance.full_name());
    let event = NewEvent::new(
        target,
        kind,
        instance.permission_contexts(),
        json!({ "team": team }),
    );
    events::record_event(tx, call, &event).await?;
    let now = store::find_instance_by_id(tx, instance.id).await?;
    now.ok_or_else(|| Error::instance_not_found(&instance.name))
}
