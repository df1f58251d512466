//! Lists of instances by service, each of one statement.

use std::collections::BTreeSet;

use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::names::ServiceName;
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::services::catalogue::Listed;
use crate::services::instances::store::{self, Narrow, Reach};
use crate::services::model::Instance;

/// What a list is narrowed by; empty does not narrow.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub service: Option<String>,
    pub name: Option<String>,
    pub team_owner: Option<String>,
    pub pool: Option<String>,
    pub plan: Option<String>,
    pub tags: Vec<String>,
}

/// A service and those of its instances that the caller may see.
#[derive(Clone, Debug)]
pub struct Group {
    pub service: ServiceName,
    pub instances: Vec<Instance>,
}

impl Group {
    /// The plans that its instances have.
    pub fn plans(&self) -> BTreeSet<&str> {
        let plans = self.instances.iter().map(|i| i.plan.as_str());
        plans.filter(|plan| !plan.is_empty()).collect()
    }
}

fn reach(call: &Call) -> Reach {
    let (service, instance) = (Permission::SERVICE_READ, Permission::SERVICE_INSTANCE_READ);
    Reach {
        service_teams: call.reach(service, ContextKind::Team),
        services: call.reach(service, ContextKind::Service).unwrap_or_default(),
        instance_teams: call.reach(instance, ContextKind::Team),
        instances: call
            .reach(instance, ContextKind::ServiceInstance)
            .unwrap_or_default(),
    }
}

/// The services that the caller may use, with the names of their instances.
pub async fn list_names(core: &Core, call: &Call) -> Result<Vec<Listed>, Problem> {
    Ok(store::list_names(&core.db, &reach(call)).await?)
}

/// The services that the caller may use, with their instances, in one query.
pub async fn list(core: &Core, call: &Call, filter: &Filter) -> Result<Vec<Group>, Problem> {
    let reach = reach(call);
    let narrow = Narrow {
        reach: &reach,
        service: filter.service.as_deref(),
        name: filter.name.as_deref(),
        team_owner: filter.team_owner.as_deref(),
        pool: filter.pool.as_deref(),
        plan: filter.plan.as_deref(),
        tags: &filter.tags,
    };
    let mut groups: Vec<Group> = Vec::new();
    for line in store::list(&core.db, &narrow).await? {
        if groups.last().is_none_or(|group| group.service != line.service) {
            groups.push(Group {
                service: line.service,
                instances: Vec::new(),
            });
        }
        if let (Some(group), Some(instance)) = (groups.last_mut(), line.instance) {
            group.instances.push(instance);
        }
    }
    Ok(groups)
}
