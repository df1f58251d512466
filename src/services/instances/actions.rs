//! The verbs of users of services.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::{EventId, InstanceId};
use crate::kernel::names::{InstanceName, ServiceName, TeamName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::sagas::{self, Lane, NewSaga};
use crate::services::broker::{Broker, ServicePlan, Status};
use crate::services::catalogue;
use crate::services::instances::lists::{self, Filter};
use crate::services::instances::saga;
use crate::services::instances::store::{self, New};
use crate::services::model::{
    Edition, Instance, InstanceState, NewInstance, Service, check_texts, no_service,
};
use crate::services::orphans;

/// How long a user waits for what services tell about their instances, all together.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions to one service at once.
const ASKED_AT_ONCE: usize = 8;

/// Which instance is meant.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// By its name alone (classic).
    Named(InstanceName),
    /// By its service and name.
    Of(ServiceName, InstanceName),
}

/// An instance with what its service tells about it; `None` when the service did not.
#[derive(Clone, Debug)]
pub struct Told {
    pub instance: Instance,
    pub info: Option<BTreeMap<String, String>>,
    /// What the service may still hold for us; known where one instance is asked for.
    pub open: Vec<orphans::Open>,
}

fn not_found() -> Problem {
    Problem::not_found("service instance not found")
}

/// An instance on which the caller holds the permission. Errors: `NotFound`; `Forbidden` for whoever may
/// read it but not do this, and in the classic edition for everybody without access.
pub async fn find_for(
    core: &Core,
    call: &Call,
    wanted: &Wanted,
    permission: Permission,
    edition: Edition,
) -> Result<Instance, Problem> {
    let (service, name) = match wanted {
        Wanted::Named(name) => (None, name),
        Wanted::Of(service, name) => (Some(service), name),
    };
    let mut found = store::find(&core.db, service, name).await?;
    if found.is_empty() {
        return Err(not_found());
    }
    // Of several services' instances of one name those count that the caller may see.
    if found.len() > 1 {
        found.retain(|i| call.may(Permission::SERVICE_INSTANCE_READ, &i.contexts()));
    }
    if found.len() > 1 {
        let services: Vec<String> = found.iter().map(|i| i.service.to_string()).collect();
        return Err(Problem::conflict(format!(
            "Several services have an instance {name}: {}. Name the service as well.",
            services.join(", ")
        )));
    }
    let denied = || Problem::forbidden("You don't have access to this service instance.");
    let instance = found.pop().ok_or_else(denied)?;
    let contexts = instance.contexts();
    if !call.may(permission, &contexts) && !call.may(Permission::SERVICE_INSTANCE_READ, &contexts) {
        return Err(match edition {
            Edition::Classic => denied(),
            Edition::Modern => not_found(),
        });
    }
    call.allow(permission, &contexts)?;
    Ok(instance)
}

/// The teams that will have access to a new instance, the owner first.
async fn teams_of_new(
    core: &Core,
    call: &Call,
    service: &Service,
    new: &NewInstance,
    edition: Edition,
) -> Result<Vec<TeamName>, Problem> {
    let permission = Permission::SERVICE_INSTANCE_CREATE;
    if edition == Edition::Modern {
        let team = catalogue::pick_team(core, call, permission, new.team.clone()).await?;
        return Ok(vec![team]);
    }
    let mut teams = call.teams();
    if service.is_restricted {
        teams.retain(|team| service.teams.contains(team));
    }
    teams.retain(|team| call.may(permission, &[Context::team(team)]));
    if teams.is_empty() {
        return Err(Problem::forbidden(
            "You must be a member of a team to create a service instance.",
        ));
    }
    if let Some(owner) = &new.team {
        let at = teams.iter().position(|team| team == owner);
        let at =
            at.ok_or_else(|| Problem::forbidden(format!("You are not a member of the team {owner}.")))?;
        teams.swap(0, at);
    }
    Ok(teams)
}

/// Makes an instance and waits until the service has made it. Errors: what the service said.
pub async fn create(core: &Core, call: &Call, new: NewInstance, edition: Edition) -> Result<(), Problem> {
    check_texts(&new.description, &new.plan, &new.tags, &new.parameters)?;
    let event = db::retry(|| begin(core, call, &new, edition)).await?;
    events::follow(&core.db, &core.notices, &event)
        .outcome()
        .await?
        .into_result()
}

/// Begins to make it. Errors: `Conflict` when the name is taken, or a team that has a part in it has just gone.
async fn begin(core: &Core, call: &Call, new: &NewInstance, edition: Edition) -> Result<EventId, Problem> {
    let service = catalogue::find_open(core, call, &new.service, edition).await?;
    if !service.is_open_to(call) {
        return Err(catalogue::not_open());
    }
    let teams = teams_of_new(core, call, &service, new, edition).await?;
    let id = InstanceId::new();
    let mut tx = core.db.begin().await?;
    store::hold_name(&mut tx, &new.name).await?;
    let taken = || Problem::conflict("The service instance already exists.");
    if edition == Edition::Classic && !store::find(&mut *tx, None, &new.name).await?.is_empty() {
        return Err(taken());
    }
    let owner = call.owner().1;
    let row = New {
        id,
        service_id: service.id,
        name: &new.name,
        plan: &new.plan,
        team_owner: &teams[0],
        owner: &owner,
        description: &new.description,
        tags: &new.tags,
        parameters: &new.parameters,
        pool: &new.pool,
    };
    match store::insert(&mut tx, &row).await {
        Err(error) if db::violates(&error, "service_instance_name_key") => return Err(taken()),
        Err(error) if db::violates(&error, "service_instance_service_id_fkey") => {
            return Err(no_service(&service.name));
        }
        inserted => catalogue::teams_are_there(inserted)?,
    }
    catalogue::teams_are_there(store::insert_teams(&mut tx, id, &teams).await)?;
    if orphans::holds_instance(&mut tx, service.id, &new.name).await? {
        // Out of the transaction: the nudge must not be rolled back with it.
        drop(tx);
        orphans::nudge(&core.db, service.id, &new.name).await?;
        return Err(Problem::conflict(format!(
            "The service {} has not yet confirmed that an earlier instance {} is gone; try again in a moment.",
            service.name, new.name
        )));
    }
    let mut contexts: Vec<Context> = teams.iter().map(Context::team).collect();
    contexts.push(Context::new(
        ContextKind::ServiceInstance,
        format!("{}/{}", service.name, new.name),
    ));
    let data = json!({
        "service": service.name, "name": new.name, "plan": new.plan, "owner": teams[0],
        "description": new.description, "tags": new.tags, "pool": new.pool,
        "parameters": new.parameters.keys().collect::<Vec<_>>(),
    });
    let target = Target::new(
        TargetKind::ServiceInstance,
        format!("{}/{}", service.name, new.name),
    );
    let event = NewEvent::new(target, Permission::SERVICE_INSTANCE_CREATE, contexts, data);
    let event = events::begin(&mut tx, call, &event).await?;
    let saga = NewSaga {
        kind: saga::KIND,
        lane: Lane::People,
        event: Some(&event),
        host: None,
        data: &saga::Data::new(id),
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(event)
}

/// The instances of one service that the caller may see, each with what the service tells about it: a few
/// questions at once, one deadline for all.
pub async fn tell_of(core: &Core, call: &Call, service: &Service) -> Result<Vec<Told>, Problem> {
    let broker = Broker::new(core, service)?;
    let instances: Vec<Instance> = {
        let filter = Filter {
            service: Some(service.name.to_string()),
            ..Filter::default()
        };
        let groups = lists::list(core, call, &filter).await?;
        groups.into_iter().flat_map(|group| group.instances).collect()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE.min(core.settings.services.timeout);
    let at_once = ASKED_AT_ONCE.min(core.settings.services.concurrency_per_service);
    let told = stream::iter(instances).map(|instance| {
        let broker = &broker;
        async move {
            let info = tokio::time::timeout_at(deadline, broker.info(&instance.name)).await;
            Told {
                instance,
                info: info.ok().flatten(),
                open: Vec::new(),
            }
        }
    });
    Ok(told.buffered(at_once.max(1)).collect().await)
}

/// An instance with what its service tells, and the description of its plan if the service has one.
pub async fn info(
    core: &Core,
    call: &Call,
    wanted: &Wanted,
    edition: Edition,
) -> Result<(Told, String), Problem> {
    let instance = find_for(core, call, wanted, Permission::SERVICE_INSTANCE_READ, edition).await?;
    let broker = broker(core, &instance).await?;
    let patience = PATIENCE.min(core.settings.services.timeout);
    let plans = async {
        match edition {
            Edition::Modern if !instance.plan.is_empty() => broker.plans().await.unwrap_or_default(),
            _ => Vec::new(),
        }
    };
    let (info, plans) = tokio::join!(
        tokio::time::timeout(patience, broker.info(&instance.name)),
        tokio::time::timeout(patience, plans),
    );
    let plans: Vec<ServicePlan> = plans.unwrap_or_default();
    let plan = plans.into_iter().find(|plan| plan.name == instance.plan);
    let open = orphans::list_open_of_instance(&core.db, instance.service_id, &instance.name).await?;
    let told = Told {
        info: info.ok().flatten(),
        open,
        instance,
    };
    Ok((told, plan.map(|plan| plan.description).unwrap_or_default()))
}

async fn broker(core: &Core, instance: &Instance) -> Result<Broker, Problem> {
    let service = catalogue::find_by_id(&core.db, instance.service_id)
        .await?
        .ok_or_else(|| no_service(&instance.service))?;
    Broker::new(core, &service)
}

/// How the instance is, in one sentence: our own view while it comes or goes, else the service's.
pub async fn status(core: &Core, call: &Call, wanted: &Wanted, edition: Edition) -> Result<String, Problem> {
    let permission = Permission::SERVICE_INSTANCE_READ_STATUS;
    let instance = find_for(core, call, wanted, permission, edition).await?;
    let word = match instance.state {
        InstanceState::Creating => "pending".into(),
        InstanceState::Removing if instance.reason.is_empty() => "being removed".into(),
        InstanceState::Removing => format!("being removed; so far: {}", instance.reason),
        InstanceState::Ready => {
            let status = broker(core, &instance).await?.status(&instance.name).await;
            match status.map_err(|fault| fault.problem)? {
                Status::Up => "up".into(),
                Status::Pending => "pending".into(),
                Status::Down => "down".into(),
                Status::Says(text) => text,
                Status::Untold => "not implemented for this service".into(),
            }
        }
    };
    Ok(format!("Service instance \"{}\" is {word}", instance.name))
}

/// Gives a team access to an instance.
pub async fn grant(core: &Core, call: &Call, wanted: &Wanted, team: &TeamName) -> Result<(), Problem> {
    let kind = Permission::SERVICE_INSTANCE_UPDATE_GRANT;
    let instance = find_for(core, call, wanted, kind, Edition::Modern).await?;
    catalogue::ensure_team(core, team).await?;
    let mut tx = core.db.begin().await?;
    record_access(&mut tx, call, &instance, kind, team).await?;
    let new = store::insert_teams(&mut tx, instance.id, std::slice::from_ref(team)).await;
    if catalogue::teams_are_there(new)? == 0 {
        return Err(Problem::conflict(
            "This team already has access to this service instance.",
        ));
    }
    tx.commit().await?;
    Ok(())
}

/// Takes a team's access to an instance. The team that owns it keeps it.
pub async fn revoke(core: &Core, call: &Call, wanted: &Wanted, team: &TeamName) -> Result<(), Problem> {
    let kind = Permission::SERVICE_INSTANCE_UPDATE_REVOKE;
    let instance = find_for(core, call, wanted, kind, Edition::Modern).await?;
    catalogue::ensure_team(core, team).await?;
    if instance.team_owner == *team {
        return Err(Problem::forbidden(
            "You can not revoke the access from the team that owns the service instance.",
        ));
    }
    let mut tx = core.db.begin().await?;
    record_access(&mut tx, call, &instance, kind, team).await?;
    if !store::delete_team(&mut tx, instance.id, team).await? {
        return Err(Problem::not_found(
            "This team does not have access to this service instance.",
        ));
    }
    tx.commit().await?;
    Ok(())
}

async fn record_access(
    tx: &mut sqlx::PgConnection,
    call: &Call,
    instance: &Instance,
    kind: Permission,
    team: &TeamName,
) -> Result<(), Problem> {
    let target = Target::new(TargetKind::ServiceInstance, instance.full_name());
    let event = NewEvent::new(target, kind, instance.contexts(), json!({ "team": team }));
    events::record(tx, call, &event).await.map(drop)
}
