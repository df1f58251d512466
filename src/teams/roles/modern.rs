//! Roles and permissions in the modern edition (contract/modern 2.3).

use std::collections::HashSet;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::{Email, GroupName, RoleName, TeamTokenName};
use crate::kernel::permission::{self, ContextKind, Permission, SERVICE_ACTION_PREFIX};
use crate::teams::roles::actions::{self, RoleChange};
use crate::teams::roles::assign::{self, NamedHolder};
use crate::teams::roles::model::{DEFAULT_ROLE_EVENTS, Role};
use crate::web::answers::{CreatedAnswer, EmptyAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A role, with the field names that clients expect.
#[derive(Debug, JsonSchema, Serialize)]
pub struct RoleView {
    name: String,
    context: &'static str,
    #[serde(rename = "Description")]
    description: String,
    scheme_names: Vec<String>,
    /// Actions of services.
    dynamic_scheme_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<String>,
}

impl From<Role> for RoleView {
    fn from(role: Role) -> Self {
        let (fixed, actions): (Vec<_>, Vec<_>) = role
            .permissions
            .iter()
            .partition(|permission| permission.fixed().is_some());
        Self {
            name: role.name,
            context: role.kind.as_str(),
            description: role.description,
            scheme_names: fixed.iter().map(ToString::to_string).collect(),
            dynamic_scheme_names: actions.iter().map(ToString::to_string).collect(),
            events: role.default_events,
        }
    }
}

/// A permission; the root has an empty name.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PermissionView {
    name: String,
    contexts: Vec<&'static str>,
}

impl PermissionView {
    fn new(name: String, like: Permission) -> Self {
        let contexts = like.allowed_contexts().into_iter().map(ContextKind::as_str);
        Self {
            name,
            contexts: contexts.collect(),
        }
    }
}

/// Returns the actions of services as permissions, each after its parents; `service-action` is in the tree.
fn list_action_views(actions: &[(String, String)]) -> Vec<PermissionView> {
    let (mut views, mut seen) = (Vec::new(), HashSet::new());
    for (service, action) in actions {
        let service = format!("{SERVICE_ACTION_PREFIX}{service}");
        let path = format!("{service}.{action}");
        // The name of a service may have dots too.
        for (at, _) in path.match_indices('.').skip(1).chain([(path.len(), "")]) {
            if seen.insert(path[..at].to_owned()) {
                views.push(PermissionView::new(
                    path[..at].to_owned(),
                    Permission::SERVICE_ACTION,
                ));
            }
        }
    }
    views
}

/// `GET /1.0/permissions`: the root first, parents before children; clients depend on this order.
pub async fn list_permissions(ctx: Ctx) -> ModernResult<Json<Vec<PermissionView>>> {
    let actions = actions::list_service_actions(&ctx.core, &ctx.request).await?;
    let fixed = permission::all_permissions()
        .map(|permission| PermissionView::new(permission.as_str().to_owned(), permission));
    Ok(Json(fixed.chain(list_action_views(&actions)).collect()))
}

/// `GET /1.0/roles`.
pub async fn list_roles(ctx: Ctx) -> ModernResult<Json<Vec<RoleView>>> {
    let roles = actions::list_roles(&ctx.core, &ctx.request).await?;
    Ok(Json(roles.into_iter().map(RoleView::from).collect()))
}

/// `GET /1.0/roles/{role}`.
pub async fn get_role(ctx: Ctx, Path(role): Path<RoleName>) -> ModernResult<Json<RoleView>> {
    Ok(Json(
        actions::find_role(&ctx.core, &ctx.request, role.as_str())
            .await?
            .into(),
    ))
}

fn parse_context_kind(word: &str) -> Result<ContextKind, Error> {
    ContextKind::parse(word)
        .map_err(|_| Error::invalid(format!("invalid context type {:?}", quote_excerpt(word))))
}

/// `POST /1.0/roles`, form `name,context,description`.
pub async fn create_role(ctx: Ctx, params: Params) -> ModernResult<CreatedAnswer> {
    let name = RoleName::parse(&params.require_string("name")?)?;
    let kind = parse_context_kind(&params.require_string("context")?)?;
    let description = params.get_string("description")?.unwrap_or_default();
    actions::create_role(&ctx.core, &ctx.request, &name, kind, &description).await?;
    Ok(EmptyAnswer)
}

/// `PUT /1.4/roles`, form `name,newName,description,contextType`; empty fields stay unchanged.
pub async fn update_role(ctx: Ctx, params: Params) -> ModernResult {
    let name = params.require_string("name")?;
    let change = RoleChange {
        name: params.parse_field("newName")?,
        kind: params
            .get_string("contextType")?
            .map(|word| parse_context_kind(&word))
            .transpose()?,
        description: params.get_string("description")?,
    };
    Ok(actions::update_role(&ctx.core, &ctx.request, &name, change).await?)
}

/// `DELETE /1.0/roles/{role}`: 412 while the role is assigned.
pub async fn remove_role(ctx: Ctx, Path(role): Path<RoleName>) -> ModernResult {
    Ok(actions::remove_role(&ctx.core, &ctx.request, role.as_str()).await?)
}

/// `POST /1.0/roles/{role}/permissions`, form `permission` repeated.
pub async fn add_permissions(ctx: Ctx, Path(role): Path<RoleName>, params: Params) -> ModernResult {
    let names = params.get_strings("permission")?;
    if names.is_empty() {
        return Err(Error::invalid("permission is missing.").into());
    }
    Ok(actions::add_permissions(&ctx.core, &ctx.request, role.as_str(), &names).await?)
}

/// `DELETE /1.0/roles/{role}/permissions/{permission}`; `*` is the root.
pub async fn remove_permission(ctx: Ctx, Path((role, permission)): Path<(RoleName, String)>) -> ModernResult {
    Ok(actions::remove_permission(&ctx.core, &ctx.request, role.as_str(), &permission).await?)
}

async fn assign_to(ctx: &Ctx, role: &RoleName, holder: &NamedHolder, params: &Params) -> ModernResult {
    let value = params.get_string("context")?.unwrap_or_default();
    Ok(assign::assign_role(&ctx.core, &ctx.request, role, holder, &value).await?)
}

async fn dissociate_from(ctx: &Ctx, role: &RoleName, holder: &NamedHolder, params: &Params) -> ModernResult {
    let value = params.get_string("context")?.unwrap_or_default();
    Ok(assign::dissociate_role(&ctx.core, &ctx.request, role, holder, &value).await?)
}

/// `POST /1.0/roles/{role}/user`, form `email,context`.
pub async fn assign_role_to_user(ctx: Ctx, Path(role): Path<RoleName>, params: Params) -> ModernResult {
    let holder = NamedHolder::User(Email::parse(&params.require_string("email")?)?);
    assign_to(&ctx, &role, &holder, &params).await
}

/// `DELETE /1.0/roles/{role}/user/{email}?context=`.
pub async fn dissociate_role_from_user(
    ctx: Ctx,
    Path((role, email)): Path<(RoleName, Email)>,
    params: Params,
) -> ModernResult {
    dissociate_from(&ctx, &role, &NamedHolder::User(email), &params).await
}

/// `POST /1.6/roles/{role}/token`, form `token_id,context`.
pub async fn assign_role_to_token(ctx: Ctx, Path(role): Path<RoleName>, params: Params) -> ModernResult {
    let holder = NamedHolder::TeamToken(TeamTokenName::parse(&params.require_string("token_id")?)?);
    assign_to(&ctx, &role, &holder, &params).await
}

/// `DELETE /1.6/roles/{role}/token/{token}?context=`.
pub async fn dissociate_role_from_token(
    ctx: Ctx,
    Path((role, token)): Path<(RoleName, TeamTokenName)>,
    params: Params,
) -> ModernResult {
    dissociate_from(&ctx, &role, &NamedHolder::TeamToken(token), &params).await
}

/// `POST /1.9/roles/{role}/group`, form `group_name,context`.
pub async fn assign_role_to_group(ctx: Ctx, Path(role): Path<RoleName>, params: Params) -> ModernResult {
    let holder = NamedHolder::Group(GroupName::parse(&params.require_string("group_name")?)?);
    assign_to(&ctx, &role, &holder, &params).await
}

/// `DELETE /1.9/roles/{role}/group/{group}?context=`.
pub async fn dissociate_role_from_group(
    ctx: Ctx,
    Path((role, group)): Path<(RoleName, GroupName)>,
    params: Params,
) -> ModernResult {
    dissociate_from(&ctx, &role, &NamedHolder::Group(group), &params).await
}

/// `GET /1.0/role/default`.
pub async fn list_default_roles(ctx: Ctx) -> ModernResult<Json<Vec<RoleView>>> {
    let roles = actions::list_default_roles(&ctx.core, &ctx.request).await?;
    Ok(Json(roles.into_iter().map(RoleView::from).collect()))
}

/// `POST /1.0/role/default`, form `user-create` and `team-create`, each repeated.
pub async fn add_default_roles(ctx: Ctx, params: Params) -> ModernResult {
    Ok(actions::add_default_roles(&ctx.core, &ctx.request, &read_default_roles(&params)?).await?)
}

/// `DELETE /1.0/role/default?user-create=&team-create=`.
pub async fn remove_default_roles(ctx: Ctx, params: Params) -> ModernResult {
    Ok(actions::remove_default_roles(&ctx.core, &ctx.request, &read_default_roles(&params)?).await?)
}

/// Returns pairs of event and role, in one order, so that concurrent requests cannot deadlock.
fn read_default_roles(params: &Params) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::new();
    for (event, _) in DEFAULT_ROLE_EVENTS {
        let roles = params.get_strings(event)?;
        pairs.extend(roles.into_iter().map(|role| (event.to_owned(), role)));
    }
    if pairs.is_empty() {
        return Err(Error::invalid("Send a role for user-create or team-create."));
    }
    pairs.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(pairs)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/permissions", UserToken, list_permissions)
        .add_versioned_route("1.0", GET, "/roles", UserWithPermission(Permission::ROLE_READ), list_roles)
        .add_versioned_route("1.0", POST, "/roles", UserWithPermission(Permission::ROLE_CREATE), create_role)
        .add_versioned_route("1.4", PUT, "/roles", UserToken, update_role)
        .add_versioned_route("1.0", GET, "/roles/{role}", UserWithPermission(Permission::ROLE_READ), get_role)
        .add_versioned_route("1.0", DELETE, "/roles/{role}", UserWithPermission(Permission::ROLE_DELETE), remove_role)
        .add_versioned_route("1.0", POST, "/roles/{role}/permissions", UserWithPermission(Permission::ROLE_UPDATE_PERMISSION_ADD), add_permissions)
        .add_versioned_route("1.0", DELETE, "/roles/{role}/permissions/{permission}", UserWithPermission(Permission::ROLE_UPDATE_PERMISSION_REMOVE), remove_permission)
        .add_versioned_route("1.0", POST, "/roles/{role}/user", UserWithPermission(Permission::ROLE_UPDATE_ASSIGN), assign_role_to_user)
        .add_versioned_route("1.0", DELETE, "/roles/{role}/user/{email}", UserWithPermission(Permission::ROLE_UPDATE_DISSOCIATE), dissociate_role_from_user)
        .add_versioned_route("1.6", POST, "/roles/{role}/token", UserWithPermission(Permission::ROLE_UPDATE_ASSIGN), assign_role_to_token)
        .add_versioned_route("1.6", DELETE, "/roles/{role}/token/{token}", UserWithPermission(Permission::ROLE_UPDATE_DISSOCIATE), dissociate_role_from_token)
        .add_versioned_route("1.9", POST, "/roles/{role}/group", UserWithPermission(Permission::ROLE_UPDATE_ASSIGN), assign_role_to_group)
        .add_versioned_route("1.9", DELETE, "/roles/{role}/group/{group}", UserWithPermission(Permission::ROLE_UPDATE_DISSOCIATE), dissociate_role_from_group)
        .add_versioned_route("1.0", GET, "/role/default", UserWithPermission(Permission::ROLE_READ), list_default_roles)
        .add_versioned_route("1.0", POST, "/role/default", UserWithPermission(Permission::ROLE_DEFAULT_CREATE), add_default_roles)
        .add_versioned_route("1.0", DELETE, "/role/default", UserWithPermission(Permission::ROLE_DEFAULT_DELETE), remove_default_roles)
}
