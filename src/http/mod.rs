//! The API server: mounts the route tables and wraps every handler in layers. From the outside in: request id
//! and log line, catching of panics, host and origin check, deadline, authentication, body limits.
//!
//! Editions: a path without a version is classic if the classic table has it with that method, else modern. A
//! path with a version is modern and matches that exact version only (contract/modern 1.2).

pub mod classic;
mod client_address;
pub mod git;
mod guard;
mod health;
mod holding;
mod host_check;
mod local_peers;
pub mod modern;
pub mod openapi;
mod request_log;
pub mod serve;

use std::collections::HashSet;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::apps;
use crate::core::Core;
use crate::healers::HealerRegistry;
use crate::http::guard::RequestGuard;
use crate::http::host_check::AllowedHosts;
use crate::kernel::error::Error;
use crate::web::errors::ErrorCause;
use crate::web::errors::modern::ModernError;
use crate::web::route_table::{RouteEntry, RouteInfo, RouteTable, mount_routes};
use crate::web::websocket;

const SUPPORTED_CLIENT_HEADER: HeaderName = HeaderName::from_static("supported-tsuru");

/// Builds the whole API as one service.
pub fn build_api(core: Core, healers: HealerRegistry) -> Router {
    let classic = classic::classic_routes();
    let (versioned, unversioned) = split_modern_routes(modern::modern_routes(), &classic);
    let limit = usize::try_from(core.settings.api.max_body_bytes.0).unwrap_or(usize::MAX);
    let apply_layers = |route: &RouteInfo, handler: MethodRouter<Core>| {
        let guard = RequestGuard::new(core.clone(), route);
        let handler = match route.uploads {
            // An upload has no overall deadline, but its bytes must keep arriving.
            true => handler
                .layer::<_, std::convert::Infallible>(DefaultBodyLimit::disable())
                .layer(RequestBodyTimeoutLayer::new(core.settings.api.request_timeout)),
            false => handler.layer(DefaultBodyLimit::max(limit)),
        };
        let handler = handler.layer(middleware::from_fn_with_state(guard, guard::guard_request));
        match route.websocket {
            true => handler.layer(middleware::from_fn(websocket::refuse_in_websocket)),
            false => handler,
        }
    };
    let mut router = Router::new();
    for entries in [classic.entries, versioned, unversioned, git::git_routes().entries] {
        router = mount_routes(router, entries, apply_layers);
    }
    router
        .fallback(respond_not_found)
        .method_not_allowed_fallback(respond_method_not_allowed)
        .layer(Extension(healers))
        .layer(Extension(apps::InfoCache::start(&core)))
        .layer(Extension(health::SharedHealthCheck::default()))
        .layer(middleware::from_fn_with_state(
            AllowedHosts::new(&core.settings),
            host_check::check_host_and_origin,
        ))
        .layer(CatchPanicLayer::custom(respond_to_panic))
        .layer(middleware::map_response(add_supported_client))
        .layer(middleware::from_fn_with_state(
            core.clone(),
            request_log::log_request,
        ))
        .with_state(core)
}

/// Returns the modern routes with their versions, and those without a version that the classic table does not
/// have.
fn split_modern_routes(modern: RouteTable, classic: &RouteTable) -> (Vec<RouteEntry>, Vec<RouteEntry>) {
    let taken: HashSet<(String, &str)> = classic
        .entries
        .iter()
        .map(|entry| (entry.info.method.to_string(), entry.info.path))
        .collect();
    let mut seen = taken;
    let mut unversioned = Vec::new();
    for entry in &modern.entries {
        if seen.insert((entry.info.method.to_string(), entry.info.path)) {
            let route = RouteInfo {
                version: None,
                ..entry.info.clone()
            };
            unversioned.push(RouteEntry {
                info: route,
                ..entry.clone()
            });
        }
    }
    (modern.entries, unversioned)
}

async fn respond_not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// Responds to a method that the path does not have. The router adds the header `Allow`, which is also the
/// response to `OPTIONS`.
async fn respond_method_not_allowed(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    (
        StatusCode::METHOD_NOT_ALLOWED,
        "405 method not allowed: the header Allow lists the methods of this path\n",
    )
        .into_response()
}

/// Adds the header with the oldest version of the client that this API supports, as clients expect it in
/// every response (contract/modern 1.4).
async fn add_supported_client(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(SUPPORTED_CLIENT_HEADER, HeaderValue::from_static("1.0.1"));
    response
}

fn respond_to_panic(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    let mut response = ModernError(Error::internal("panic")).into_response();
    response
        .extensions_mut()
        .insert(ErrorCause::internal(format!("panic: {text}")));
    response
}
