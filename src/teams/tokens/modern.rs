//! Team tokens in the modern edition (contract/modern 2.4).

use axum::Json;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::TeamTokenName;
use crate::kernel::permission::Permission;
use crate::kernel::secret::Secret;
use crate::teams::tokens::actions;
use crate::teams::tokens::model::{ExpiryChange, NewTeamToken, TeamToken, TokenChange};
use crate::web::answers::CreatedJson;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path, TimeOrZero};

/// A team token. Its value is empty except in the responses to its creation and regeneration.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TeamTokenView {
    token: String,
    token_id: TeamTokenName,
    description: String,
    created_at: DateTime<Utc>,
    expires_at: TimeOrZero,
    last_access: TimeOrZero,
    creator_email: String,
    team: String,
    roles: Vec<TokenRoleView>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct TokenRoleView {
    name: String,
    contextvalue: String,
}

impl TeamTokenView {
    fn new(token: TeamToken, value: Option<&Secret>) -> Self {
        Self {
            token: value.map_or_else(String::new, |value| value.expose_secret().to_owned()),
            token_id: token.name,
            description: token.description,
            created_at: token.created_at,
            expires_at: TimeOrZero(token.expires_at),
            last_access: TimeOrZero(token.last_used_at),
            creator_email: token.created_by,
            team: token.team.to_string(),
            roles: token
                .roles
                .into_iter()
                .map(|(name, contextvalue)| TokenRoleView { name, contextvalue })
                .collect(),
        }
    }
}

fn read_expiry(params: &Params) -> Result<ExpiryChange, Error> {
    ExpiryChange::from_seconds(params.get_integer("expires_in")?.unwrap_or(0))
}

/// `GET /1.6/tokens`.
pub async fn list_tokens(ctx: Ctx) -> ModernResult<Json<Vec<TeamTokenView>>> {
    let tokens = actions::list_tokens(&ctx.core, &ctx.request).await?;
    Ok(Json(
        tokens
            .into_iter()
            .map(|token| TeamTokenView::new(token, None))
            .collect(),
    ))
}

/// `GET /1.7/tokens/{token}`.
pub async fn get_token(ctx: Ctx, Path(name): Path<TeamTokenName>) -> ModernResult<Json<TeamTokenView>> {
    let token = actions::find_token(&ctx.core, &ctx.request, &name).await?;
    Ok(Json(TeamTokenView::new(token, None)))
}

/// `POST /1.6/tokens`, `{token_id, description, expires_in, team}`; the response contains the value.
pub async fn create_token(ctx: Ctx, params: Params) -> ModernResult<CreatedJson<TeamTokenView>> {
    let new = NewTeamToken {
        name: params.parse_field("token_id")?,
        team: params.parse_field("team")?,
        description: params.get_string("description")?.unwrap_or_default(),
        expires_in: read_expiry(&params)?,
    };
    let (token, value) = actions::create_token(&ctx.core, &ctx.request, new).await?;
    Ok(CreatedJson(TeamTokenView::new(token, Some(&value))))
}

/// `PUT /1.6/tokens/{token}`, `{regenerate, description, expires_in}`; empty fields stay unchanged, and a
/// negative `expires_in` means that the token does not expire.
pub async fn update_token(
    ctx: Ctx,
    Path(name): Path<TeamTokenName>,
    params: Params,
) -> ModernResult<Json<TeamTokenView>> {
    let change = TokenChange {
        regenerate: params.get_bool("regenerate")?,
        description: params.get_string("description")?.unwrap_or_default(),
        expires_in: read_expiry(&params)?,
    };
    let (token, value) = actions::update_token(&ctx.core, &ctx.request, &name, change).await?;
    Ok(Json(TeamTokenView::new(token, value.as_ref())))
}

/// `DELETE /1.6/tokens/{token}`.
pub async fn delete_token(ctx: Ctx, Path(name): Path<TeamTokenName>) -> ModernResult {
    Ok(actions::delete_token(&ctx.core, &ctx.request, &name).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.6", GET, "/tokens", UserToken, list_tokens)
        .add_versioned_route("1.6", POST, "/tokens", UserWithPermission(Permission::TEAM_TOKEN_CREATE), create_token)
        .add_versioned_route("1.7", GET, "/tokens/{token}", UserToken, get_token)
        .add_versioned_route("1.6", PUT, "/tokens/{token}", UserToken, update_token)
        .add_versioned_route("1.6", DELETE, "/tokens/{token}", UserToken, delete_token)
}
