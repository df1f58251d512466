//! What a team is.

use crate::events::{NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::names::TeamName;
use crate::kernel::permission::{Context, ContextKind, Permission};

/// A team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    pub name: String,
    pub tags: Vec<String>,
}

/// A member with one of their roles on the team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) email: String,
    pub(super) role: String,
}

/// An app that a team owns or may use, in short.
#[derive(Clone, Debug)]
pub(super) struct TeamApp {
    pub(super) name: String,
    pub(super) platform: String,
    pub(super) pool: String,
    pub(super) plan: String,
    pub(super) owner: String,
    pub(super) team_owner: String,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) teams: Vec<String>,
}

/// All that holds a team.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    pub(super) apps: Vec<String>,
    pub(super) services: Vec<String>,
    pub(super) instances: Vec<String>,
}

impl Uses {
    /// What to tell somebody who wants to remove the team; `None`: nothing holds it.
    pub(super) fn words(&self) -> Option<String> {
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

/// True if the caller may know of the team: they hold something on it, or read all teams.
pub(super) fn is_visible(call: &Call, team: &TeamName) -> bool {
    let on_it = |context: &Context| context.kind == ContextKind::Team && context.value == team.as_str();
    call.may_globally(Permission::TEAM_READ) || call.grants.iter().any(|grant| on_it(&grant.context))
}

/// The permissions that the caller holds on a team, each once, `*` for all.
pub(super) fn permissions_on(call: &Call, team: &str) -> Vec<String> {
    let counts = |context: &Context| {
        context.kind == ContextKind::Global || (context.kind == ContextKind::Team && context.value == team)
    };
    let held = call.grants.iter().filter(|grant| counts(&grant.context));
    let mut names: Vec<String> = held.map(|grant| grant.permission.to_string()).collect();
    names.sort();
    names.dedup();
    names
}

/// An event on a team.
pub(super) fn event(team: &TeamName, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        Target::new(TargetKind::Team, team),
        kind,
        vec![Context::team(team)],
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_team_is_named_by_kind() {
        assert_eq!(Uses::default().words(), None);
        let uses = Uses {
            apps: vec!["shop".into(), "blog".into()],
            instances: vec!["db/one".into()],
            ..Uses::default()
        };
        let words = uses.words().unwrap();
        assert!(
            words.ends_with(":\nApps: shop, blog\nService instances: db/one"),
            "{words}"
        );
    }
}
