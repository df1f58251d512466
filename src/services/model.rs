//! What services, instances and binds are, and who may do what with them.

use std::collections::BTreeMap;

use crate::kernel::call::Call;
use crate::kernel::ids::{AppId, BindId, InstanceId, ServiceId};
use crate::kernel::names::{AppName, InstanceName, ServiceName, TeamName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::services::broker::Dialect;

/// Which edition asks: they differ in what a caller is told about things they may not see, and in the
/// names of instances, which the classic edition treats as global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    Classic,
    Modern,
}

/// A service as kept.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: ServiceId,
    pub name: ServiceName,
    /// Empty: the name is used.
    pub username: String,
    /// Sealed; place: service.password, service_id.
    pub password: Vec<u8>,
    pub endpoint: String,
    pub doc: String,
    pub is_restricted: bool,
    pub dialect: Option<Dialect>,
    /// Teams that may change it.
    pub owners: Vec<TeamName>,
    /// Teams that may use it, if it is restricted.
    pub teams: Vec<TeamName>,
}

impl Service {
    /// Where a permission to change it may be held.
    pub fn owner_contexts(&self) -> Vec<Context> {
        self.contexts(&self.owners)
    }

    fn contexts(&self, teams: &[TeamName]) -> Vec<Context> {
        let mut contexts: Vec<Context> = teams.iter().map(Context::team).collect();
        contexts.push(Context::new(ContextKind::Service, &self.name));
        contexts
    }

    /// Whether the caller may make instances of it and read about it.
    pub fn is_open_to(&self, call: &Call) -> bool {
        !self.is_restricted || call.may(Permission::SERVICE_READ, &self.contexts(&self.teams))
    }

    /// Whether the caller may know that it exists.
    pub fn is_visible_to(&self, call: &Call) -> bool {
        self.is_open_to(call) || call.may(Permission::SERVICE_READ, &self.owner_contexts())
    }
}

/// The problem of a service that is not there, or not for the caller.
pub fn no_service(name: &ServiceName) -> Problem {
    Problem::not_found(format!("Service {name} not found."))
}

/// The state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    Creating,
    Ready,
    Removing,
}

impl InstanceState {
    /// Reads the word of the table.
    pub fn parse(word: &str) -> Self {
        match word {
            "creating" => InstanceState::Creating,
            "ready" => InstanceState::Ready,
            _ => InstanceState::Removing,
        }
    }
}

/// An instance as kept.
#[derive(Clone, Debug)]
pub struct Instance {
    pub id: InstanceId,
    pub service_id: ServiceId,
    pub service: ServiceName,
    pub name: InstanceName,
    pub plan: String,
    pub team_owner: TeamName,
    /// E-mail address of who made it.
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
}

impl Instance {
    /// `service/instance`, as events and contexts name it.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    /// Where a permission on it may be held.
    pub fn contexts(&self) -> Vec<Context> {
        let mut contexts: Vec<Context> = self.teams.iter().map(Context::team).collect();
        contexts.push(Context::new(ContextKind::ServiceInstance, self.full_name()));
        contexts
    }

    /// Refuses what needs an instance at work.
    pub fn ensure_ready(&self) -> Result<(), Problem> {
        let doing = match self.state {
            InstanceState::Ready => return Ok(()),
            InstanceState::Creating => "still being created",
            InstanceState::Removing => "being removed",
        };
        Err(Problem::precondition(format!(
            "The service instance {} is {doing}.",
            self.name
        )))
    }
}

/// An instance to be.
#[derive(Clone, Debug)]
pub struct NewInstance {
    pub service: ServiceName,
    pub name: InstanceName,
    pub plan: String,
    /// `None`: the caller's only team (modern), the first of them (classic).
    pub team: Option<TeamName>,
    pub description: String,
    pub tags: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    pub pool: String,
}

/// Changes of an instance; `None` leaves as it is.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct InstancePatch {
    pub description: Option<String>,
    pub team_owner: Option<TeamName>,
    pub plan: Option<String>,
    pub tags: Option<Vec<String>>,
    pub parameters: Option<BTreeMap<String, String>>,
}

/// A bind with what a call to its service needs.
#[derive(Clone, Debug)]
pub struct Bind {
    pub id: BindId,
    pub instance_id: InstanceId,
    pub service_id: ServiceId,
    pub instance: InstanceName,
    pub app_id: AppId,
    pub app: AppName,
    pub label: String,
    pub cnames: Vec<String>,
    pub pool: String,
}

/// Longest description, in characters (contract/classic 1.12).
const MAX_DESCRIPTION: usize = 2000;
/// Tags and parameters of one instance, at most.
const MAX_ITEMS: usize = 100;
/// Longest tag, plan, key or value, in bytes.
const MAX_TEXT: usize = 4096;

/// Checks the free texts of an instance. Errors: `Invalid`, naming the field.
pub fn check_texts(
    description: &str,
    plan: &str,
    tags: &[String],
    parameters: &BTreeMap<String, String>,
) -> Result<(), Problem> {
    let bad = |text: &str| text.len() > MAX_TEXT || text.contains('\0');
    if description.chars().count() > MAX_DESCRIPTION || description.contains('\0') {
        return Err(Problem::invalid(format!(
            "The description is longer than {MAX_DESCRIPTION} characters."
        )));
    }
    if bad(plan) || plan.chars().any(char::is_control) {
        return Err(Problem::invalid("That is not the name of a plan."));
    }
    if tags.len() > MAX_ITEMS || tags.iter().any(|t| bad(t)) {
        return Err(Problem::invalid(format!(
            "There are at most {MAX_ITEMS} tags of at most {MAX_TEXT} bytes."
        )));
    }
    if parameters.len() > MAX_ITEMS || parameters.iter().any(|(k, v)| k.is_empty() || bad(k) || bad(v)) {
        return Err(Problem::invalid(format!(
            "There are at most {MAX_ITEMS} parameters of at most {MAX_TEXT} bytes, each with a name."
        )));
    }
    Ok(())
}
