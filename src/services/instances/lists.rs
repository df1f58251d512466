//! Lists of instances by service, each with one SQL statement.

use std::collections::BTreeSet;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::names::ServiceName;
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::request_context::RequestContext;
use crate::services::catalogue::ServiceInstanceNames;
use crate::services::instances::store::{self, InstanceListQuery, ServiceReadScopes};
use crate::services::model::Instance;

/// The filters of a list; empty fields do not filter.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    pub service: Option<String>,
    pub name: Option<String>,
    pub team_owner: Option<String>,
    pub pool: Option<String>,
    pub plan: Option<String>,
    /// The name of an app that the instance is bound to.
    pub app: Option<String>,
    pub tags: Vec<String>,
}

/// A service and its instances that the caller may see.
#[derive(Clone, Debug)]
pub struct ServiceInstances {
    pub service: ServiceName,
    pub instances: Vec<Instance>,
}

impl ServiceInstances {
    /// Returns the plans of the instances.
    pub fn plan_names(&self) -> BTreeSet<&str> {
        let plans = self.instances.iter().map(|i| i.plan.as_str());
        plans.filter(|plan| !plan.is_empty()).collect()
    }
}

fn visible_scopes(call: &RequestContext) -> ServiceReadScopes {
    let (service, instance) = (Permission::SERVICE_READ, Permission::SERVICE_INSTANCE_READ);
    ServiceReadScopes {
        service_teams: call.visible_scopes(service, ContextKind::Team),
        services: call
            .visible_scopes(service, ContextKind::Service)
            .unwrap_or_default(),
        instance_teams: call.visible_scopes(instance, ContextKind::Team),
        instances: call
            .visible_scopes(instance, ContextKind::ServiceInstance)
            .unwrap_or_default(),
    }
}

/// Lists the services that the caller may use, with the names of their instances; with `app`, only of those
/// bound to that app.
pub async fn list_instance_names(
    core: &Core,
    call: &RequestContext,
    app: Option<&str>,
) -> Result<Vec<ServiceInstanceNames>, Error> {
    Ok(store::list_instance_names(&core.db, &visible_scopes(call), app).await?)
}

/// Lists the services that the caller may use, with their instances, in one query.
pub async fn list_instances(
    core: &Core,
    call: &RequestContext,
    filter: &InstanceFilter,
) -> Result<Vec<ServiceInstances>, Error> {
    let scopes = visible_scopes(call);
    let query = InstanceListQuery {
        scopes: &scopes,
        service: filter.service.as_deref(),
        name: filter.name.as_deref(),
        team_owner: filter.team_owner.as_deref(),
        pool: filter.pool.as_deref(),
        plan: filter.plan.as_deref(),
        app: filter.app.as_deref(),
        tags: &filter.tags,
    };
    let mut groups: Vec<ServiceInstances> = Vec::new();
    for row in store::list_instances(&core.db, &query).await? {
        if groups.last().is_none_or(|group| group.service != row.service) {
            groups.push(ServiceInstances {
                service: row.service,
                instances: Vec::new(),
            });
        }
        if let (Some(group), Some(instance)) = (groups.last_mut(), row.instance) {
            group.instances.push(instance);
        }
    }
    Ok(groups)
}
