//! Environment and restart in the classic edition (contract/classic 1.1.5–1.1.8).

use axum::Json;
use axum::http::Method;

use crate::kernel::error::Error;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::secret::Secret;
use crate::releases::wire::{self, EnvVarView};
use crate::releases::{self, EnvChange, NewVar};
use crate::web::answers::NegotiatedStream;
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::{UserOrAppToken, UserToken};
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Params, Path};

/// `GET /apps/{app}/env`: names in a JSON array as the body, or as `env` in the query; none means all.
pub async fn get_env(
    ctx: Ctx,
    Path(app): Path<AppName>,
    params: Params,
) -> ClassicResult<Json<Vec<EnvVarView>>> {
    Ok(Json(wire::list_vars(&ctx, &app, &params).await?))
}

/// `POST /apps/{app}/env`: a JSON object of strings, or the form of later clients.
pub async fn set_env(ctx: Ctx, Path(name): Path<AppName>, params: Params) -> ClassicResult {
    let change = match params.has_field("envs") {
        true => wire::parse_env_change(&params)?,
        false => EnvChange {
            vars: parse_plain_vars(&params)?,
            skip_private: true,
            ..EnvChange::default()
        },
    };
    let event = releases::set_env(&ctx.core, &ctx.request, &name, change).await?;
    Ok(ctx.wait_for_event(&event).await?)
}

fn parse_plain_vars(params: &Params) -> Result<Vec<NewVar>, Error> {
    if params.raw_body.trim_ascii().is_empty() || params.get_body_strings()?.is_some() {
        return Err(Error::invalid(
            "Send the variables as a JSON object of strings, such as {\"NAME\": \"value\"}.",
        ));
    }
    let vars = params.get_body_map()?;
    vars.into_iter()
        .map(|(name, value)| {
            Ok(NewVar {
                name: EnvName::parse(&name)?,
                value: Secret::new(value),
                alias: String::new(),
                private: false,
            })
        })
        .collect()
}

/// `DELETE /apps/{app}/env`: names in a JSON array as the body, or as `env`.
pub async fn unset_env(ctx: Ctx, Path(name): Path<AppName>, params: Params) -> ClassicResult {
    let (names, public_only) = (params.get_names("env")?, params.get_body_strings()?.is_some());
    if names.is_empty() {
        return Err(Error::invalid("Name the variables to remove, as a JSON array of strings.").into());
    }
    let event = releases::unset_env(
        &ctx.core,
        &ctx.request,
        &name,
        &names,
        params.get_bool("norestart")?,
        public_only,
    )
    .await?;
    Ok(ctx.wait_for_event(&event).await?)
}

/// `GET` and `POST /apps/{app}/restart`, with `process` and `version` of later clients. Streams the progress:
/// as text for the `GET` of the reference client, as JSON lines for the `POST` of later clients.
pub async fn restart_app(
    ctx: Ctx,
    Path(app): Path<AppName>,
    method: Method,
    params: Params,
) -> ClassicResult<NegotiatedStream> {
    let form = match method == Method::POST {
        true => StreamFormat::Json,
        false => StreamFormat::Text { mark: "" },
    };
    let target = wire::parse_restart_target(&params)?;
    let event = releases::restart_app(&ctx.core, &ctx.request, &app, &target).await?;
    Ok(ctx.stream_event(&event, form).await?)
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/apps/{app}/restart", UserToken, restart_app)
        .add_route(POST, "/apps/{app}/restart", UserToken, restart_app)
        .add_route(GET, "/apps/{app}/env", UserOrAppToken, get_env)
        .add_route(POST, "/apps/{app}/env", UserToken, set_env)
        .add_route(DELETE, "/apps/{app}/env", UserToken, unset_env)
}
