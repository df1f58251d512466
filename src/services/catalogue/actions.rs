//! The verbs of providers.

use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::ServiceId;
use crate::kernel::names::{ServiceName, TeamName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::seal::{Column, Place};
use crate::services::broker::{Broker, ServicePlan};
use crate::services::catalogue::store::{self, Columns};
use crate::services::instances::{self, Told};
use crate::services::manifest::Manifest;
use crate::services::model::{Edition, Service, no_service};

/// Longest documentation, in bytes.
const MAX_DOC: usize = 512 * 1024;

/// A service and the names of its instances.
#[derive(Clone, Debug)]
pub struct Listed {
    pub service: String,
    pub instances: Vec<String>,
}

/// The problem of a service that is there, but for others.
pub(in crate::services) fn not_open() -> Problem {
    Problem::forbidden("You don't have access to this service.")
}

/// A service of which the caller may make instances and read. Errors: `NotFound`; for the classic edition
/// `Forbidden` where it is restricted to others.
pub(in crate::services) async fn find_open(
    core: &Core,
    call: &Call,
    name: &ServiceName,
    edition: Edition,
) -> Result<Service, Problem> {
    let service = store::find(&core.db, name)
        .await?
        .ok_or_else(|| no_service(name))?;
    match edition {
        Edition::Classic if !service.is_open_to(call) => Err(not_open()),
        Edition::Modern if !service.is_visible_to(call) => Err(no_service(name)),
        _ => Ok(service),
    }
}

async fn find_owned(
    core: &Core,
    call: &Call,
    name: &ServiceName,
    permission: Permission,
    edition: Edition,
) -> Result<Service, Problem> {
    let service = store::find(&core.db, name)
        .await?
        .ok_or_else(|| no_service(name))?;
    if edition == Edition::Modern && !service.is_visible_to(call) {
        return Err(no_service(name));
    }
    call.allow(permission, &service.owner_contexts())?;
    Ok(service)
}

/// The team that is to own a new thing: the given one, or the only one that it can be
/// (contract/modern §6). Errors: `Invalid` when there is a choice.
pub(in crate::services) async fn pick_team(
    core: &Core,
    call: &Call,
    permission: Permission,
    given: Option<TeamName>,
) -> Result<TeamName, Problem> {
    if let Some(team) = given {
        call.allow(permission, &[Context::team(&team)])?;
        return match store::team_exists(&core.db, &team).await? {
            true => Ok(team),
            false => Err(Problem::invalid(format!("Team {team} not found."))),
        };
    }
    let only = match call.reach(permission, ContextKind::Team) {
        None => store::only_team(&core.db).await?,
        Some(teams) if teams.is_empty() => {
            call.allow(permission, &[])?;
            None
        }
        Some(teams) => match teams.as_slice() {
            [team] => Some(TeamName::parse(team)?),
            _ => None,
        },
    };
    only.ok_or_else(|| Problem::invalid("You must provide a team to execute this action."))
}

/// The teams that will own a new service: classic all of the caller's, modern one.
async fn owners_of_new(
    core: &Core,
    call: &Call,
    manifest: &Manifest,
    edition: Edition,
) -> Result<Vec<String>, Problem> {
    if edition == Edition::Modern || manifest.team.is_some() {
        let team = pick_team(core, call, Permission::SERVICE_CREATE, manifest.team.clone()).await?;
        return Ok(vec![team.to_string()]);
    }
    let teams = call.teams();
    if teams.is_empty() {
        return Err(Problem::forbidden(
            "You must be a member of a team to create a service.",
        ));
    }
    let contexts: Vec<Context> = teams.iter().map(Context::team).collect();
    call.allow(Permission::SERVICE_CREATE, &contexts)?;
    Ok(teams.iter().map(TeamName::to_string).collect())
}

fn event(
    service: &ServiceName,
    kind: Permission,
    contexts: Vec<Context>,
    data: serde_json::Value,
) -> NewEvent {
    NewEvent::new(Target::new(TargetKind::Service, service), kind, contexts, data)
}

fn start_data(manifest: &Manifest) -> serde_json::Value {
    json!({
        "id": manifest.id,
        "username": manifest.username,
        "endpoint": manifest.endpoint,
        "team": manifest.team,
    })
}

/// Makes a service of a manifest. It is not called yet.
pub async fn create(core: &Core, call: &Call, manifest: Manifest, edition: Edition) -> Result<(), Problem> {
    let owners = owners_of_new(core, call, &manifest, edition).await?;
    let id = ServiceId::new();
    let contexts: Vec<Context> = owners.iter().map(Context::team).collect();
    let (password, endpoints) = sealed(core, id, &manifest)?;
    let mut tx = core.db.begin().await?;
    let columns = columns(&manifest, &password, &endpoints);
    db::on_constraint(
        store::insert(&mut tx, id, &manifest.id, &columns).await,
        "service_name_key",
        || Problem::new(Kind::ServiceExists, "service already exists"),
    )?;
    if teams_are_there(store::insert_owners(&mut tx, id, &owners).await)? == 0 {
        return Err(Problem::forbidden(
            "You must be a member of a team to create a service.",
        ));
    }
    let data = start_data(&manifest);
    events::record(
        &mut tx,
        call,
        &event(&manifest.id, Permission::SERVICE_CREATE, contexts, data),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

fn sealed(core: &Core, id: ServiceId, manifest: &Manifest) -> Result<(Vec<u8>, serde_json::Value), Problem> {
    let place = Place::new(Column::SERVICE_PASSWORD, &[&id]);
    let endpoints = serde_json::to_value(&manifest.endpoints).map_err(Problem::internal)?;
    Ok((core.keys.seal(&place, &manifest.password), endpoints))
}

fn columns<'a>(manifest: &'a Manifest, password: &'a [u8], endpoints: &'a serde_json::Value) -> Columns<'a> {
    Columns {
        username: &manifest.username,
        password,
        endpoint: &manifest.endpoint,
        endpoints,
        dialect: manifest.dialect,
    }
}

/// Replaces what the manifest says; documentation, teams and instances stay.
pub async fn update(core: &Core, call: &Call, manifest: Manifest, edition: Edition) -> Result<(), Problem> {
    let service = find_owned(core, call, &manifest.id, Permission::SERVICE_UPDATE, edition).await?;
    let team = match &manifest.team {
        Some(team) if !service.owners.contains(team) => {
            Some(pick_team(core, call, Permission::SERVICE_UPDATE, Some(team.clone())).await?)
        }
        team => team.clone(),
    };
    let (password, endpoints) = sealed(core, service.id, &manifest)?;
    let mut tx = core.db.begin().await?;
    store::update(&mut tx, service.id, &columns(&manifest, &password, &endpoints)).await?;
    store::reset_unit_calls(&mut tx, service.id).await?;
    if let Some(team) = team {
        teams_are_there(store::insert_owners(&mut tx, service.id, &[team.to_string()]).await)?;
        store::delete_owners_but(&mut tx, service.id, &team).await?;
    }
    let new = event(
        &service.name,
        Permission::SERVICE_UPDATE,
        service.owner_contexts(),
        start_data(&manifest),
    );
    events::record(&mut tx, call, &new).await?;
    tx.commit().await?;
    core.outbound.forget(service.id.0);
    Ok(())
}

/// Removes a service without instances. It is not called.
pub async fn remove(core: &Core, call: &Call, name: &ServiceName, edition: Edition) -> Result<(), Problem> {
    let service = find_owned(core, call, name, Permission::SERVICE_DELETE, edition).await?;
    let mut tx = core.db.begin().await?;
    let new = event(
        name,
        Permission::SERVICE_DELETE,
        service.owner_contexts(),
        json!({ "name": name }),
    );
    events::record(&mut tx, call, &new).await?;
    db::on_constraint(
        store::delete(&mut tx, service.id).await,
        "service_instance_service_id_fkey",
        || {
            Problem::forbidden(
                "This service cannot be removed because it has instances.\nPlease remove these instances before removing the service.",
            )
        },
    )?;
    tx.commit().await?;
    core.outbound.forget(service.id.0);
    Ok(())
}

/// The services that the caller owns, each with all its instances.
pub async fn list(core: &Core, call: &Call) -> Result<Vec<Listed>, Problem> {
    let teams = call.reach(Permission::SERVICE_READ, ContextKind::Team);
    let names = call.reach(Permission::SERVICE_READ, ContextKind::Service);
    Ok(store::list_owned_by(&core.db, teams.as_deref(), &names.unwrap_or_default()).await?)
}

/// The instances of a service that the caller may see, with what the service tells about each.
pub async fn info(
    core: &Core,
    call: &Call,
    name: &ServiceName,
    edition: Edition,
) -> Result<Vec<Told>, Problem> {
    let service = find_open(core, call, name, edition).await?;
    instances::tell_of(core, call, &service).await
}

/// The documentation of a service.
pub async fn doc(core: &Core, call: &Call, name: &ServiceName, edition: Edition) -> Result<String, Problem> {
    Ok(find_open(core, call, name, edition).await?.doc)
}

/// Replaces the documentation of a service.
pub async fn set_doc(
    core: &Core,
    call: &Call,
    name: &ServiceName,
    doc: &str,
    edition: Edition,
) -> Result<(), Problem> {
    let service = find_owned(core, call, name, Permission::SERVICE_UPDATE_DOC, edition).await?;
    if doc.len() > MAX_DOC {
        return Err(Problem::too_large("The documentation is longer than 512 KiB."));
    }
    if doc.contains('\0') {
        return Err(Problem::invalid("The documentation must be text."));
    }
    let mut tx = core.db.begin().await?;
    store::update_doc(&mut tx, service.id, doc).await?;
    let data = json!({ "bytes": doc.len() });
    let new = event(
        name,
        Permission::SERVICE_UPDATE_DOC,
        service.owner_contexts(),
        data,
    );
    events::record(&mut tx, call, &new).await?;
    tx.commit().await?;
    Ok(())
}

/// Lets a team use the service, should it be restricted.
pub async fn grant(
    core: &Core,
    call: &Call,
    name: &ServiceName,
    team: &TeamName,
    edition: Edition,
) -> Result<(), Problem> {
    let kind = Permission::SERVICE_UPDATE_GRANT_ACCESS;
    let service = find_owned(core, call, name, kind, edition).await?;
    ensure_team(core, team).await?;
    let mut tx = core.db.begin().await?;
    let new = event(name, kind, service.owner_contexts(), json!({ "team": team }));
    events::record(&mut tx, call, &new).await?;
    if !teams_are_there(store::insert_team(&mut tx, service.id, team).await)? {
        return Err(Problem::conflict("This team already has access to this service."));
    }
    tx.commit().await?;
    Ok(())
}

/// Takes the use of the service from a team; its instances stay. The last team keeps it.
pub async fn revoke(
    core: &Core,
    call: &Call,
    name: &ServiceName,
    team: &TeamName,
    edition: Edition,
) -> Result<(), Problem> {
    let kind = Permission::SERVICE_UPDATE_REVOKE_ACCESS;
    let service = find_owned(core, call, name, kind, edition).await?;
    ensure_team(core, team).await?;
    let mut tx = core.db.begin().await?;
    let new = event(name, kind, service.owner_contexts(), json!({ "team": team }));
    events::record(&mut tx, call, &new).await?;
    // Read anew under the lock of the event: two revokes at once must not take both of the last two.
    let service = store::find(&mut *tx, name)
        .await?
        .ok_or_else(|| no_service(name))?;
    if !service.teams.is_empty() && service.teams.len() < 2 && service.teams.contains(team) {
        return Err(Problem::forbidden(
            "You can not revoke the access from this team, because it is the only team with access to this service.",
        ));
    }
    if !store::delete_team(&mut tx, service.id, team).await? {
        return Err(Problem::not_found(
            "This team does not have access to this service.",
        ));
    }
    tx.commit().await?;
    Ok(())
}

pub(in crate::services) async fn ensure_team(core: &Core, team: &TeamName) -> Result<(), Problem> {
    match store::team_exists(&core.db, team).await? {
        true => Ok(()),
        false => Err(Problem::not_found("Team not found")),
    }
}

/// Words for a team that was removed, or got another name, since it was looked up.
pub(in crate::services) fn teams_are_there<T>(result: sqlx::Result<T>) -> Result<T, Problem> {
    const KEYS: [&str; 4] = [
        "service_instance_team_owner_fkey",
        "service_instance_team_team_fkey",
        "service_owner_team_fkey",
        "service_team_team_fkey",
    ];
    result.map_err(|error| match KEYS.iter().any(|key| db::violates(&error, key)) {
        true => Problem::conflict("A team that this is about was removed or renamed just now; try again."),
        false => error.into(),
    })
}

/// The plans that the service offers now. Errors: `Failed` when it does not answer.
pub async fn plans(
    core: &Core,
    call: &Call,
    name: &ServiceName,
    edition: Edition,
) -> Result<Vec<ServicePlan>, Problem> {
    let service = find_open(core, call, name, edition).await?;
    Broker::new(core, &service)?
        .plans()
        .await
        .map_err(|fault| fault.problem)
}
