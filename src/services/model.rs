//! Services, instances and binds, and the contexts of their permissions.

use std::collections::BTreeMap;

use crate::apps::AppKind;
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, BindId, InstanceId, ServiceId};
use crate::kernel::names::{AppName, InstanceName, PoolName, ServiceName, TeamName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::services::broker::Dialect;

/// What a caller learns about an existing resource that the caller may not access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disclosure {
    /// The same 404 as for a resource that does not exist.
    Hide,
    /// A 403.
    Deny,
}

/// Which teams own a new resource if the caller names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultOwner {
    /// All teams of the caller.
    AllTeams,
    /// The only team in which the caller may create it.
    One,
}

/// The scope in which the name of a new instance must be unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameScope {
    /// The instances of all services.
    AllServices,
    /// The instances of its own service.
    OwnService,
}

/// The rules of an edition for creating an instance.
#[derive(Clone, Copy, Debug)]
pub struct InstanceCreation {
    pub disclosure: Disclosure,
    pub default_owner: DefaultOwner,
    pub name_scope: NameScope,
}

/// A service, as stored.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: ServiceId,
    pub name: ServiceName,
    /// If empty, the name of the service is the user name.
    pub username: String,
    /// Encrypted; associated data: service.password, service_id.
    pub password: Vec<u8>,
    pub endpoint: String,
    pub doc: String,
    pub is_restricted: bool,
    pub dialect: Option<Dialect>,
    /// Teams that may change the service.
    pub owners: Vec<TeamName>,
    /// Teams that may use the service if it is restricted.
    pub teams: Vec<TeamName>,
}

impl Service {
    /// Returns the contexts in which a permission to change the service counts.
    pub fn owner_contexts(&self) -> Vec<PermissionContext> {
        self.team_contexts(&self.owners)
    }

    fn team_contexts(&self, teams: &[TeamName]) -> Vec<PermissionContext> {
        let mut contexts: Vec<PermissionContext> = teams.iter().map(PermissionContext::for_team).collect();
        contexts.push(PermissionContext::new(ContextKind::Service, &self.name));
        contexts
    }

    /// Returns whether the caller may create instances of the service and read about it.
    pub fn is_usable_by(&self, call: &RequestContext) -> bool {
        !self.is_restricted || call.has_permission(Permission::SERVICE_READ, &self.team_contexts(&self.teams))
    }

    /// Returns whether the caller may know that the service exists.
    pub fn is_visible_to(&self, call: &RequestContext) -> bool {
        self.is_usable_by(call) || call.has_permission(Permission::SERVICE_READ, &self.owner_contexts())
    }
}

/// The state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum InstanceState {
    Creating,
    Ready,
    Removing,
}

/// An instance, as stored.
#[derive(Clone, Debug)]
pub struct Instance {
    pub id: InstanceId,
    pub service_id: ServiceId,
    pub service: ServiceName,
    pub name: InstanceName,
    pub plan: String,
    pub team_owner: TeamName,
    /// E-mail address of the creator.
    pub owner: String,
    pub description: String,
    pub tags: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    pub pool: String,
    pub state: InstanceState,
    /// Why the last removal failed.
    pub reason: String,
    pub teams: Vec<TeamName>,
    pub apps: Vec<String>,
    pub jobs: Vec<String>,
}

impl Instance {
    /// Returns `service/instance`, the name of the instance in events and permission contexts.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    /// Returns the contexts in which a permission on the instance counts.
    pub fn permission_contexts(&self) -> Vec<PermissionContext> {
        let mut contexts: Vec<PermissionContext> =
            self.teams.iter().map(PermissionContext::for_team).collect();
        contexts.push(PermissionContext::new(
            ContextKind::ServiceInstance,
            self.full_name(),
        ));
        contexts
    }

    /// Returns an error unless the instance is ready.
    pub fn ensure_ready(&self) -> Result<(), Error> {
        let doing = match self.state {
            InstanceState::Ready => return Ok(()),
            InstanceState::Creating => "still being created",
            InstanceState::Removing => "being removed",
        };
        Err(Error::precondition(format!(
            "The service instance {} is {doing}.",
            self.name
        )))
    }
}

/// The parameters of an instance to create.
#[derive(Clone, Debug)]
pub struct NewInstance {
    pub service: ServiceName,
    pub name: InstanceName,
    pub plan: String,
    /// `None`: the caller's only team (modern), or the caller's first team (classic).
    pub team: Option<TeamName>,
    pub description: String,
    pub tags: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    pub pool: Option<PoolName>,
}

/// Changes to an instance; a field that is `None` stays as it is.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct InstancePatch {
    pub description: Option<String>,
    pub team_owner: Option<TeamName>,
    pub plan: Option<String>,
    pub tags: Option<Vec<String>>,
    pub parameters: Option<BTreeMap<String, String>>,
}

/// A bind, with what a call to its service needs.
#[derive(Clone, Debug)]
pub struct Bind {
    pub id: BindId,
    pub instance_id: InstanceId,
    pub service_id: ServiceId,
    pub service: ServiceName,
    pub instance: InstanceName,
    pub app_id: AppId,
    pub kind: AppKind,
    pub app: AppName,
    pub label: String,
    pub cnames: Vec<String>,
    pub pool: String,
}

/// Maximum length of a description, in characters (contract/classic 1.12).
const MAX_DESCRIPTION: usize = 2000;
/// Maximum number of tags, and of parameters, of one instance.
const MAX_ITEMS: usize = 100;
/// Maximum length of a tag, plan, key or value, in bytes.
const MAX_FIELD_BYTES: usize = 4096;

/// Validates the free-form strings of an instance. Errors: `Invalid`, naming the field.
pub fn validate_instance_fields(
    description: &str,
    plan: &str,
    tags: &[String],
    parameters: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let strings = tags.iter().chain(parameters.keys()).chain(parameters.values());
    if [description, plan]
        .into_iter()
        .chain(strings.map(String::as_str))
        .any(|text| text.contains('\0'))
    {
        return Err(Error::invalid("A string contains a NUL byte: remove it."));
    }
    let bad = |text: &str| text.len() > MAX_FIELD_BYTES;
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(Error::invalid(format!(
            "The description is longer than {MAX_DESCRIPTION} characters."
        )));
    }
    if bad(plan) || plan.chars().any(char::is_control) {
        return Err(Error::invalid(
            "The name of the plan is too long or has control characters.",
        ));
    }
    if tags.len() > MAX_ITEMS || tags.iter().any(|t| bad(t)) {
        return Err(Error::invalid(format!(
            "At most {MAX_ITEMS} tags of at most {MAX_FIELD_BYTES} bytes each are allowed."
        )));
    }
    if parameters.len() > MAX_ITEMS || parameters.iter().any(|(k, v)| k.is_empty() || bad(k) || bad(v)) {
        return Err(Error::invalid(format!(
            "At most {MAX_ITEMS} parameters are allowed, each with a name and of at most {MAX_FIELD_BYTES} bytes."
        )));
    }
    Ok(())
}
