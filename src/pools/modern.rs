//! Pools and their constraints in the modern edition (contract/modern 2.14).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::{PoolName, TeamName};
use crate::kernel::permission::Permission;
use crate::pools::constraints::{ConstraintField, PoolConstraint, PoolExpression, SetConstraint};
use crate::pools::model::{CreatePool, PoolPatch};
use crate::pools::views::PoolView;
use crate::pools::{actions, constraints};
use crate::web::answers::{CreatedAnswer, EmptyAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A constraint.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PoolConstraintView {
    pool_expr: String,
    field: String,
    values: Vec<String>,
    blacklist: bool,
}

impl From<PoolConstraint> for PoolConstraintView {
    fn from(constraint: PoolConstraint) -> Self {
        Self {
            pool_expr: constraint.pool_expr,
            field: constraint.field,
            values: constraint.names,
            blacklist: constraint.is_denylist,
        }
    }
}

/// `GET /1.0/pools`
pub async fn list_pools(ctx: Ctx) -> ModernResult<Json<Vec<PoolView>>> {
    let pools = actions::list_visible_pools(&ctx.core, &ctx.request, None).await?;
    Ok(Json(pools.into_iter().map(PoolView::from).collect()))
}

/// `GET /pools/{pool}`, the one path that the client requests without a version.
pub async fn get_pool(ctx: Ctx, Path(name): Path<PoolName>) -> ModernResult<Json<PoolView>> {
    let mut pools = actions::list_visible_pools(&ctx.core, &ctx.request, Some(&name)).await?;
    let pool = pools.pop().ok_or_else(|| Error::pool_not_found(name))?;
    Ok(Json(pool.into()))
}

/// Reads labels; `None` if there are none, or null.
fn read_labels(params: &Params) -> Result<Option<BTreeMap<String, String>>, Error> {
    match params.get_value("labels") {
        None => Ok(None),
        Some(value) if value == "" => Ok(None),
        Some(_) => params.get_string_map("labels").map(Some),
    }
}

/// `POST /1.0/pools`, `{name, public, default, force, provisioner, labels}`.
pub async fn create_pool(ctx: Ctx, params: Params) -> ModernResult<CreatedAnswer> {
    let new = CreatePool {
        name: PoolName::parse(&params.require_string("name")?)?,
        provisioner: params.get_string("provisioner")?,
        is_public: params.get_bool("public")?,
        is_default: params.get_bool("default")?,
        force: params.get_bool("force")?,
        labels: read_labels(&params)?.unwrap_or_default(),
    };
    actions::create_pool(&ctx.core, &ctx.request, &new).await?;
    Ok(EmptyAnswer)
}

/// `PUT /1.0/pools/{pool}`, `{public, default, force, labels}`; what is absent or null stays.
pub async fn update_pool(ctx: Ctx, Path(name): Path<PoolName>, params: Params) -> ModernResult {
    let patch = PoolPatch {
        is_public: params.get_optional_bool("public")?,
        is_default: params.get_optional_bool("default")?,
        force: params.get_bool("force")?,
        labels: read_labels(&params)?,
    };
    Ok(actions::update_pool(&ctx.core, &ctx.request, &name, &patch).await?)
}

/// `DELETE /1.0/pools/{pool}`
pub async fn remove_pool(ctx: Ctx, Path(name): Path<PoolName>) -> ModernResult {
    Ok(actions::remove_pool(&ctx.core, &ctx.request, &name).await?)
}

fn read_teams(params: &Params) -> Result<Vec<TeamName>, Error> {
    let names = params.get_strings("team")?;
    names.iter().map(|name| TeamName::parse(name)).collect()
}

/// `POST /1.0/pools/{pool}/team`, form `team`, repeated.
pub async fn add_teams(ctx: Ctx, Path(name): Path<PoolName>, params: Params) -> ModernResult {
    Ok(actions::add_teams(&ctx.core, &ctx.request, &name, &read_teams(&params)?).await?)
}

/// `DELETE /1.0/pools/{pool}/team?team=…`
pub async fn remove_teams(ctx: Ctx, Path(name): Path<PoolName>, params: Params) -> ModernResult {
    Ok(actions::remove_teams(&ctx.core, &ctx.request, &name, &read_teams(&params)?).await?)
}

/// `GET /1.3/constraints`
pub async fn list_constraints(ctx: Ctx) -> ModernResult<Json<Vec<PoolConstraintView>>> {
    let found = constraints::list_constraints(&ctx.core, &ctx.request).await?;
    Ok(Json(found.into_iter().map(PoolConstraintView::from).collect()))
}

/// `PUT /1.3/constraints[?append=true]`, `{PoolExpr, Field, Values, Blacklist}`; no values remove it.
pub async fn set_constraint(ctx: Ctx, params: Params) -> ModernResult {
    let request = SetConstraint {
        expression: PoolExpression::parse(&params.require_string("PoolExpr")?)?,
        field: ConstraintField::parse(&params.require_string("Field")?)?,
        names: params.get_strings("Values")?,
        is_denylist: params.get_bool("Blacklist")?,
        append: params.get_bool("append")?,
    };
    Ok(constraints::set_constraint(&ctx.core, &ctx.request, &request).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/pools", UserToken, list_pools)
        .add_versioned_route("1.0", POST, "/pools", UserWithPermission(Permission::POOL_CREATE), create_pool)
        .add_versioned_route("1.8", GET, "/pools/{pool}", UserToken, get_pool)
        .add_versioned_route("1.0", PUT, "/pools/{pool}", UserWithPermission(Permission::POOL_UPDATE), update_pool)
        .add_versioned_route("1.0", DELETE, "/pools/{pool}", UserWithPermission(Permission::POOL_DELETE), remove_pool)
        .add_versioned_route("1.0", POST, "/pools/{pool}/team", UserWithPermission(Permission::POOL_UPDATE_TEAM_ADD), add_teams)
        .add_versioned_route("1.0", DELETE, "/pools/{pool}/team", UserWithPermission(Permission::POOL_UPDATE_TEAM_REMOVE), remove_teams)
        .add_versioned_route("1.3", GET, "/constraints", UserWithPermission(Permission::POOL_READ_CONSTRAINTS), list_constraints)
        .add_versioned_route("1.3", PUT, "/constraints", UserWithPermission(Permission::POOL_UPDATE_CONSTRAINTS_SET), set_constraint)
}
