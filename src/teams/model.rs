//! The model of teams.

use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::names::TeamName;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;

/// A team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    pub name: String,
    pub tags: Vec<String>,
}

/// A member with one of their roles on the team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TeamMembership {
    pub(super) email: String,
    pub(super) role: String,
}

/// Everything that references a team.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TeamReferences {
    pub(super) apps: Vec<String>,
    pub(super) services: Vec<String>,
    pub(super) instances: Vec<String>,
}

impl TeamReferences {
    /// Returns the error text for a user who wants to remove the team; `None` if nothing references it.
    pub(super) fn describe_references(&self) -> Option<String> {
        let kinds = [
            ("Apps", &self.apps),
            ("Services", &self.services),
            ("Service instances", &self.instances),
        ];
        let lines: Vec<String> = kinds
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| format!("{kind}: {}", names.join(", ")))
            .collect();
        (!lines.is_empty()).then(|| {
            format!(
                "This team cannot be removed because there are still references to it:\n{}",
                lines.join("\n")
            )
        })
    }
}

/// True if the caller may see the team: they hold a permission on it, or read all teams.
pub(super) fn is_visible(call: &RequestContext, team: &TeamName) -> bool {
    let on_it =
        |context: &PermissionContext| context.kind == ContextKind::Team && context.value == team.as_str();
    call.has_global_permission(Permission::TEAM_READ) || call.grants.iter().any(|grant| on_it(&grant.context))
}

/// Returns the permissions that the caller holds on a team, without duplicates; `*` for all.
pub(super) fn permissions_on(call: &RequestContext, team: &str) -> Vec<String> {
    let counts = |context: &PermissionContext| {
        context.kind == ContextKind::Global || (context.kind == ContextKind::Team && context.value == team)
    };
    let held = call.grants.iter().filter(|grant| counts(&grant.context));
    let mut names: Vec<String> = held.map(|grant| grant.permission.to_string()).collect();
    names.sort();
    names.dedup();
    names
}

/// Builds an event on a team.
pub(super) fn team_event(team: &TeamName, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Team, team),
        kind,
        vec![PermissionContext::for_team(team)],
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn team_references_are_listed_by_kind() {
        assert_eq!(TeamReferences::default().describe_references(), None);
        let uses = TeamReferences {
            apps: vec!["shop".into(), "blog".into()],
            instances: vec!["db/one".into()],
            ..TeamReferences::default()
        };
        let words = uses.describe_references().unwrap();
        assert!(
            words.ends_with(":\nApps: shop, blog\nService instances: db/one"),
            "{words}"
        );
    }
}
