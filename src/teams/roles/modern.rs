//! Roles and permissions in the modern edition (contract/modern 2.3).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;

use crate::core::Core;
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::{Email, RoleName};
use crate::kernel::permission::{self, ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::teams::roles::actions::{self, Change};
use crate::teams::roles::model::{OCCASIONS, Role};

/// A role, with the spelling that clients know.
#[derive(Debug, Serialize)]
pub struct RoleView {
    name: String,
    context: &'static str,
    #[serde(rename = "Description")]
    description: String,
    scheme_names: Vec<String>,
    dynamic_scheme_names: [(); 0],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<String>,
}

impl From<Role> for RoleView {
    fn from(role: Role) -> Self {
        Self {
            name: role.name,
            context: role.kind.as_str(),
            description: role.description,
            scheme_names: role.permissions.iter().map(ToString::to_string).collect(),
            dynamic_scheme_names: [],
            events: role.occasions,
        }
    }
}

/// A permission; the root has no name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PermissionView {
    name: &'static str,
    contexts: Vec<&'static str>,
}

/// `GET /1.0/permissions`: the root first, parents before children; clients depend on it.
pub async fn permissions() -> Json<Vec<PermissionView>> {
    let view = |permission: Permission| PermissionView {
        name: permission.as_str(),
        contexts: permission
            .contexts()
            .into_iter()
            .map(ContextKind::as_str)
            .collect(),
    };
    Json(permission::all().map(view).collect())
}

/// `GET /1.0/roles`.
pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Vec<RoleView>>, Refusal> {
    let roles = actions::list(&core, &call).await?;
    Ok(Json(roles.into_iter().map(RoleView::from).collect()))
}

/// `GET /1.0/roles/{role}`.
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(role): Path<String>,
) -> Result<Json<RoleView>, Refusal> {
    Ok(Json(actions::find(&core, &call, &role).await?.into()))
}

fn context(word: &str) -> Result<ContextKind, Problem> {
    ContextKind::parse(word).map_err(|_| Problem::invalid(format!("invalid context type {word:?}")))
}

/// `POST /1.0/roles`, form `name,context,description`.
pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<StatusCode, Refusal> {
    let name = RoleName::parse(&input.required("name")?)?;
    let kind = context(&input.required("context")?)?;
    let description = input.text("description")?.unwrap_or_default();
    actions::create(&core, &call, &name, kind, &description).await?;
    Ok(StatusCode::CREATED)
}

/// `PUT /1.4/roles`, form `name,newName,description,contextType`; what is empty stays.
pub async fn update(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let name = input.required("name")?;
    let change = Change {
        name: input.parsed("newName")?,
        kind: input
            .text("contextType")?
            .map(|word| context(&word))
            .transpose()?,
        description: input.text("description")?,
    };
    Ok(actions::update(&core, &call, &name, change).await?)
}

/// `DELETE /1.0/roles/{role}`: 412 while somebody holds it.
pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(role): Path<String>,
) -> Result<(), Refusal> {
    Ok(actions::remove(&core, &call, &role).await?)
}

/// `POST /1.0/roles/{role}/permissions`, form `permission` repeated.
pub async fn add_permissions(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(role): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let names = input.texts("permission")?;
    if names.is_empty() {
        return Err(Problem::invalid("permission is missing.").into());
    }
    let permissions: Result<Vec<Permission>, Problem> =
        names.iter().map(|name| Permission::parse(name)).collect();
    Ok(actions::add_permissions(&core, &call, &role, &permissions?).await?)
}

/// `DELETE /1.0/roles/{role}/permissions/{permission}`; `*` is the root.
pub async fn remove_permission(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((role, permission)): Path<(String, String)>,
) -> Result<(), Refusal> {
    let permission = Permission::parse(&permission)?;
    Ok(actions::remove_permission(&core, &call, &role, permission).await?)
}

/// `POST /1.0/roles/{role}/user`, form `email,context`.
pub async fn assign(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(role): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let email = Email::parse(&input.required("email")?)?;
    let value = input.text("context")?.unwrap_or_default();
    Ok(actions::assign(&core, &call, &role, &email, &value).await?)
}

/// `DELETE /1.0/roles/{role}/user/{email}?context=`.
pub async fn dissociate(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((role, email)): Path<(String, String)>,
    input: Input,
) -> Result<(), Refusal> {
    let email = Email::parse(&email)?;
    let value = input.text("context")?.unwrap_or_default();
    Ok(actions::dissociate(&core, &call, &role, &email, &value).await?)
}

/// `GET /1.0/role/default`.
pub async fn list_defaults(
    State(core): State<Core>,
    Caller(call): Caller,
) -> Result<Json<Vec<RoleView>>, Refusal> {
    let roles = actions::list_defaults(&core, &call).await?;
    Ok(Json(roles.into_iter().map(RoleView::from).collect()))
}

/// `POST /1.0/role/default`, form `user-create` and `team-create`, each repeated.
pub async fn add_defaults(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<(), Refusal> {
    Ok(actions::add_defaults(&core, &call, &defaults(&input)?).await?)
}

/// `DELETE /1.0/role/default?user-create=&team-create=`.
pub async fn remove_defaults(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<(), Refusal> {
    Ok(actions::remove_defaults(&core, &call, &defaults(&input)?).await?)
}

/// Pairs of occasion and role, in one order, so that no two requests wait for each other.
fn defaults(input: &Input) -> Result<Vec<(String, String)>, Problem> {
    let mut pairs = Vec::new();
    for (occasion, _) in OCCASIONS {
        let roles = input.texts(occasion)?;
        pairs.extend(roles.into_iter().map(|role| (occasion.to_owned(), role)));
    }
    if pairs.is_empty() {
        return Err(Problem::invalid("Name a role for user-create or team-create."));
    }
    pairs.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(pairs)
}
