//! The API server's frame: the tables of routes mounted into one tree, and what stands around every
//! handler, from the outside in: request id and log line, panics caught, deadline, door, body bounds.
//!
//! Which edition owns a path: a path without a version is classic if the classic table has it with that
//! method, else modern; a path with a version is modern, and matches that exact version only
//! (contract/modern 1.2).

pub mod classic;
mod events;
pub mod git;
mod guard;
mod health;
pub mod kit;
pub mod modern;
pub mod serve;
pub mod table;
mod trace;
pub mod wording;

use std::collections::HashSet;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::core::Core;
use crate::healers::Healers;
use crate::http::guard::Guard;
use crate::http::table::{Line, Route, Table, mount};
use crate::http::wording::Cause;
use crate::kernel::problem::Problem;

/// The whole API as one service.
pub fn api(core: Core, healers: Healers) -> Router {
    let classic = classic::table();
    let (versioned, unversioned) = split(modern::table(), &classic);
    let limit = usize::try_from(core.settings.api.max_body_bytes.0).unwrap_or(usize::MAX);
    let dress = |route: &Route, handler: MethodRouter<Core>| {
        let guard = Guard::new(core.clone(), route);
        let handler = match route.uploads {
            // An upload has no deadline as a whole, but its bytes have to come.
            true => handler
                .layer::<_, std::convert::Infallible>(DefaultBodyLimit::disable())
                .layer(RequestBodyTimeoutLayer::new(core.settings.api.request_timeout)),
            false => handler.layer(DefaultBodyLimit::max(limit)),
        };
        handler.layer(middleware::from_fn_with_state(guard, guard::pass))
    };
    let mut router = Router::new();
    for lines in [classic.lines, versioned, unversioned, git::table().lines] {
        router = mount(router, lines, dress);
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(healers))
        .layer(Extension(health::Checkup::default()))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(core.clone(), trace::log))
        .with_state(core)
}

/// The modern routes under their versions, and again without where the classic table leaves room.
fn split(modern: Table, classic: &Table) -> (Vec<Line>, Vec<Line>) {
    let taken: HashSet<(String, &str)> = classic
        .lines
        .iter()
        .map(|line| (line.route.method.to_string(), line.route.path))
        .collect();
    let mut seen = taken;
    let mut unversioned = Vec::new();
    for line in &modern.lines {
        if seen.insert((line.route.method.to_string(), line.route.path)) {
            let route = Route {
                since: None,
                ..line.route.clone()
            };
            unversioned.push(Line {
                route,
                handler: line.handler.clone(),
            });
        }
    }
    (modern.lines, unversioned)
}

async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

async fn wrong_method() -> Response {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        "405 this path does not know that method\n",
    )
        .into_response()
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    let mut response = wording::modern::Refusal(Problem::internal("panic")).into_response();
    response.extensions_mut().insert(Cause(format!("panic: {text}")));
    response
}
