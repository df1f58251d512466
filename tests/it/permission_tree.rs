//! The permissions: their tree is that of the contract (`docs/compatibility/modern-api.md`, section 6), read from its
//! table, and decisions are those of a model of that section.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tancho::kernel::held_permission::{HeldPermission, ServiceAction};
use tancho::kernel::ids::ServiceId;
use tancho::kernel::permission::{ContextKind, Permission, PermissionContext, all_permissions};
use tancho::kernel::request_context::{PermissionGrant, RequestContext};
use uuid::Uuid;

/// Permissions of this server that the contract does not have.
const OWN: [&str; 13] = [
    "app.update.swap",
    "healer",
    "healer.read",
    "orphan",
    "orphan.give-up",
    "orphan.read",
    "orphan.retry",
    "saga",
    "saga.give-up",
    "saga.read",
    "saga.retry",
    "sealing-key",
    "sealing-key.rotate",
];

/// Splits at commas and spaces outside of parentheses.
fn split_items(text: &str) -> Vec<String> {
    let (mut items, mut depth) = (vec![String::new()], 0);
    for c in text.chars() {
        match c {
            ',' | ' ' if depth == 0 => items.push(String::new()),
            c => {
                depth += i32::from(c == '(') - i32::from(c == ')');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

/// Expands `a.b.(c d)` below a path: the path of each word, parents first.
fn expand(item: &str, below: &str, found: &mut Vec<String>) {
    let (words, group) = match item.split_once('(') {
        Some((words, group)) => (words.trim_end_matches('.'), group.strip_suffix(')')),
        None => (item, None),
    };
    let mut path = below.to_owned();
    for word in words.split('.') {
        path = format!("{path}.{word}");
        found.push(path.clone());
    }
    for inner in group.map(split_items).unwrap_or_default() {
        expand(&inner, &path, found);
    }
}

/// Reads the table of the contract: every path with the contexts that it states.
fn contract_tree() -> BTreeMap<String, Vec<String>> {
    let file = format!("{}/docs/compatibility/modern-api.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    let (_, section) = text.split_once("\n## 6. Permissions").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let mut tree = BTreeMap::from([(String::new(), words("global"))]);
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [group, contexts, leaves] = cells.as_slice() else {
            panic!("{row}");
        };
        let group = group.split(' ').next().unwrap();
        if group == "Group" {
            continue;
        }
        tree.insert(group.to_owned(), words(contexts));
        if leaves.contains('<') || *leaves == "–" {
            continue;
        }
        let mut last = String::new();
        for item in split_items(&leaves.replace("**", "")) {
            if let Some(own) = item.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
                tree.insert(last.clone(), words(own));
                continue;
            }
            let mut paths = Vec::new();
            expand(&item, group, &mut paths);
            for path in &paths {
                let parent = path.rsplit_once('.').unwrap().0;
                let inherited = tree[parent].clone();
                tree.entry(path.clone()).or_insert(inherited);
            }
            last = paths.pop().unwrap();
        }
    }
    tree
}

#[test]
fn permission_tree_and_its_contexts_are_those_of_the_contract() {
    let mut tree = contract_tree();
    assert!(tree.len() > 200, "only {} permissions were read", tree.len());
    let mut own = BTreeSet::new();
    for permission in all_permissions() {
        let path = permission.as_str();
        let Some(contexts) = tree.remove(path) else {
            own.insert(path);
            continue;
        };
        let names = |kinds: Vec<ContextKind>| -> BTreeSet<String> {
            kinds.into_iter().map(|kind| kind.as_str().to_owned()).collect()
        };
        let wanted: BTreeSet<String> = contexts.into_iter().collect();
        assert_eq!(names(permission.allowed_contexts()), wanted, "{path}");
    }
    assert!(tree.is_empty(), "missing: {:?}", tree.keys());
    assert_eq!(own, BTreeSet::from(OWN));
}

/// What somebody holds, or asks for, as the model sees it: words of a path, below a service where it is an action.
type ModelPath = Vec<String>;

fn fixed_path(permission: Permission) -> ModelPath {
    match permission.as_str() {
        "" => Vec::new(),
        path => path.split('.').map(str::to_owned).collect(),
    }
}

fn action_path(service: usize, action: &str) -> ModelPath {
    let words = action.split('.').filter(|word| !word.is_empty());
    ["service-action".to_owned(), format!("#{service}")]
        .into_iter()
        .chain(words.map(str::to_owned))
        .collect()
}

fn service_id(service: usize) -> ServiceId {
    ServiceId(Uuid::from_u128(1 + service as u128))
}

const ACTIONS: [&str; 5] = ["", "rules", "rules.view", "rules.view.all", "rulesets"];

/// A held permission with its path in the model.
fn held() -> impl Strategy<Value = (HeldPermission, ModelPath)> {
    let fixed = prop::sample::select(all_permissions().collect::<Vec<_>>())
        .prop_map(|permission| (permission.into(), fixed_path(permission)));
    let action = (0..3_usize, prop::sample::select(&ACTIONS[..])).prop_map(|(service, action)| {
        let held = ServiceAction {
            service: service_id(service),
            action: action.into(),
            service_name: format!("s{service}").into(),
        };
        (HeldPermission::ServiceAction(held), action_path(service, action))
    });
    // Short paths more often, because they include others.
    let root = Just((HeldPermission::from(Permission::ALL), Vec::new()));
    let actions = Just((
        Permission::SERVICE_ACTION.into(),
        fixed_path(Permission::SERVICE_ACTION),
    ));
    prop_oneof![8 => fixed, 4 => action, 1 => root, 1 => actions]
}

fn context() -> impl Strategy<Value = PermissionContext> {
    let object = ("(team|app|pool|service|service-instance|job)", "(red|blue)")
        .prop_map(|(kind, name)| PermissionContext::new(ContextKind::parse(&kind).unwrap(), name));
    prop_oneof![1 => Just(PermissionContext::global()), 4 => object]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// A check succeeds if some held path begins the asked one, and is held globally or in one of the contexts.
    #[test]
    fn decisions_are_those_of_the_model(
        grants in prop::collection::vec((held(), context()), 0..5),
        asked in held(),
        on in prop::collection::vec(context(), 0..4),
    ) {
        // Nobody asks for a permission in the global context: that is the empty list.
        let on: Vec<PermissionContext> = on.into_iter().filter(|c| c.kind != ContextKind::Global).collect();
        let (asked, asked_path) = asked;
        let call = RequestContext {
            grants: grants
                .iter()
                .map(|((permission, _), context)| PermissionGrant {
                    permission: permission.clone(),
                    context: context.clone(),
                })
                .collect(),
            ..RequestContext::new_internal()
        };
        let counting: Vec<&PermissionContext> = grants
            .iter()
            .filter(|((_, path), _)| asked_path.starts_with(path))
            .map(|(_, context)| context)
            .collect();
        let is_global = counting.iter().any(|context| context.kind == ContextKind::Global);
        let expected = is_global || counting.iter().any(|context| on.contains(context));
        match &asked {
            HeldPermission::Fixed(permission) => {
                prop_assert_eq!(call.has_permission(*permission, &on), expected);
                prop_assert_eq!(call.has_global_permission(*permission), is_global);
                prop_assert_eq!(call.has_permission_anywhere(*permission), !counting.is_empty());
                let teams: BTreeSet<String> = counting
                    .iter()
                    .filter(|context| context.kind == ContextKind::Team)
                    .map(|context| context.value.clone())
                    .collect();
                let scopes = call.visible_scopes(*permission, ContextKind::Team);
                let wanted = (!is_global).then(|| teams.into_iter().collect::<Vec<_>>());
                prop_assert_eq!(scopes, wanted);
            }
            HeldPermission::ServiceAction(action) => {
                prop_assert_eq!(call.has_service_action(action.service, &action.action, &on), expected);
            }
        }
        // Somebody may grant what they hold themselves, and nothing else.
        for context in &on {
            let grant = PermissionGrant { permission: asked.clone(), context: context.clone() };
            prop_assert_eq!(call.holds_grant(&grant), is_global || counting.contains(&context));
        }
    }
}
