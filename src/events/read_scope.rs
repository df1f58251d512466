//! The events that a caller may read: with `app.read.events` on an app the events of that app, likewise for
//! each kind of target, and always the caller's own events.

use uuid::Uuid;

use crate::events::model::EventTargetKind;
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::request_context::{Actor, RequestContext};

/// The events that a caller may read.
#[derive(Clone, Debug, Default)]
pub struct EventReadScope {
    /// An administrator, who reads everything.
    pub(super) all: bool,
    /// The id of the calling user, app or team token.
    pub(super) caller_id: Option<Uuid>,
    /// Kinds of targets of which the caller may read all events.
    pub(super) kinds: Vec<String>,
    /// Kinds of targets of which the caller may read events on one context: its kind and its name.
    pub(super) granted: GrantedContexts,
}

/// Three parallel columns of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct GrantedContexts {
    pub(super) target_kinds: Vec<String>,
    pub(super) kinds: Vec<String>,
    pub(super) names: Vec<String>,
}

impl EventReadScope {
    /// Returns the scope of a caller.
    pub fn for_caller(call: &RequestContext) -> Self {
        let mut scope = Self {
            all: call.is_admin(),
            caller_id: match &call.actor {
                Actor::User { id, .. } => Some(id.0),
                Actor::App { id, .. } => Some(id.0),
                Actor::TeamToken { id, .. } => Some(id.0),
                Actor::Nobody | Actor::Internal => None,
            },
            ..Self::default()
        };
        for target in EventTargetKind::ALL {
            let Some(permission) = read_permission(target) else {
                continue;
            };
            if call.has_global_permission(permission) {
                scope.kinds.push(target.as_str().to_owned());
                continue;
            }
            let mut held: Vec<_> = call
                .grants
                .iter()
                .filter(|grant| {
                    grant.context.kind != ContextKind::Global && grant.permission.covers(permission)
                })
                .map(|grant| (grant.context.kind.as_str(), grant.context.value.as_str()))
                .collect();
            held.sort_unstable();
            held.dedup();
            for (kind, name) in held {
                scope.granted.target_kinds.push(target.as_str().to_owned());
                scope.granted.kinds.push(kind.to_owned());
                scope.granted.names.push(name.to_owned());
            }
        }
        scope
    }
}

/// Returns the permission to read events of a kind of target; `None` if only administrators may.
pub fn read_permission(target: EventTargetKind) -> Option<Permission> {
    match target {
        EventTargetKind::App => Some(Permission::APP_READ_EVENTS),
        EventTargetKind::Job => Some(Permission::JOB_READ_EVENTS),
        EventTargetKind::Service => Some(Permission::SERVICE_READ_EVENTS),
        EventTargetKind::ServiceInstance => Some(Permission::SERVICE_INSTANCE_READ_EVENTS),
        EventTargetKind::Team => Some(Permission::TEAM_READ_EVENTS),
        EventTargetKind::User => Some(Permission::USER_READ_EVENTS),
        EventTargetKind::Role => Some(Permission::ROLE_READ_EVENTS),
        EventTargetKind::Platform => Some(Permission::PLATFORM_READ_EVENTS),
        EventTargetKind::Plan => Some(Permission::PLAN_READ_EVENTS),
        EventTargetKind::Pool => Some(Permission::POOL_READ_EVENTS),
        EventTargetKind::Router => Some(Permission::ROUTER_READ_EVENTS),
        EventTargetKind::EventBlock => Some(Permission::EVENT_BLOCK_READ_EVENTS),
        EventTargetKind::Webhook => Some(Permission::WEBHOOK_READ_EVENTS),
        EventTargetKind::Volume => Some(Permission::VOLUME_READ_EVENTS),
        EventTargetKind::Global => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::permission::PermissionContext;
    use crate::kernel::request_context::PermissionGrant;

    fn scope(permission: Permission, context: PermissionContext) -> EventReadScope {
        EventReadScope::for_caller(&RequestContext {
            grants: vec![PermissionGrant {
                permission: permission.into(),
                context,
            }]
            .into(),
            ..RequestContext::new_internal()
        })
    }

    #[test]
    fn unrelated_permission_reads_no_events() {
        let one = scope(Permission::APP_READ_INFO, PermissionContext::for_team("red"));
        assert!(!one.all && one.kinds.is_empty() && one.granted.names.is_empty());
    }

    #[test]
    fn permission_on_context_reads_events_of_its_target_kind() {
        let one = scope(Permission::APP_READ, PermissionContext::for_team("red"));
        assert_eq!(one.granted.target_kinds, ["app"]);
        assert_eq!(one.granted.kinds, ["team"]);
        assert_eq!(one.granted.names, ["red"]);
        let everywhere = scope(Permission::APP, PermissionContext::global());
        assert!(!everywhere.all && everywhere.granted.names.is_empty());
        assert_eq!(everywhere.kinds, ["app"]);
        assert!(scope(Permission::ALL, PermissionContext::global()).all);
    }
}
