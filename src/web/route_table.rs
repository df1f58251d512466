//! The route table as data: method, path, policy and handler of each route, so that tests and metrics can
//! list what the server offers. Each edition file ends with a function that adds its routes.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::SchemaGenerator;

use crate::core::Core;
use crate::kernel::permission::Permission;
use crate::web::signature::{DescribeHandler, HandlerSignature};

/// `GET`, for the tables.
pub const GET: Method = Method::GET;
/// `POST`, for the tables.
pub const POST: Method = Method::POST;
/// `PUT`, for the tables.
pub const PUT: Method = Method::PUT;
/// `PATCH`, for the tables.
pub const PATCH: Method = Method::PATCH;
/// `DELETE`, for the tables.
pub const DELETE: Method = Method::DELETE;

/// Whom a route admits. The action checks the permission on the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthPolicy {
    /// Anonymous callers too.
    Public,
    /// Any valid token, of a user, a team or an app.
    AnyToken,
    /// The token of a user or a team.
    UserToken,
    /// The token of a user or a team, or a user's e-mail address and password, as Basic authentication: what programs
    /// like `git` send.
    UserTokenOrPassword,
    /// The token of a user or a team, or of the app in the path.
    UserOrAppToken,
    /// A user or a team token that holds the permission on at least one object.
    UserWithPermission(Permission),
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    /// `None`: classic, unversioned. Otherwise the one version that the modern edition has it under.
    pub version: Option<&'static str>,
    pub method: Method,
    pub path: &'static str,
    pub auth_policy: AuthPolicy,
    /// Uses the error responses of the modern edition.
    pub modern: bool,
    /// Accepts a body of any length, which its handler bounds, without an overall deadline.
    pub uploads: bool,
    /// A multipart body may have a file in it, which need not be text.
    pub takes_file: bool,
    /// Waits for a service's response, so the service's time-out is added to its own.
    pub asks_service: bool,
    /// Open without a token to everybody on this machine, except apps.
    pub refuses_apps: bool,
    /// Upgrades to a WebSocket, over which it also sends its errors.
    pub websocket: bool,
}

/// A route with its handler.
#[derive(Clone)]
pub struct RouteEntry {
    pub info: RouteInfo,
    pub handler: MethodRouter<Core>,
    /// The handler with its module, for the description of the API.
    pub handler_name: &'static str,
    /// Describes what the handler takes and answers.
    pub describe: fn(&mut SchemaGenerator) -> HandlerSignature,
}

/// The routes of one edition.
#[derive(Default)]
pub struct RouteTable {
    pub entries: Vec<RouteEntry>,
}

impl RouteTable {
    /// Adds a classic route.
    #[must_use]
    pub fn add_route<H, T, A>(
        self,
        method: Method,
        path: &'static str,
        policy: AuthPolicy,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Core> + DescribeHandler<A>,
        T: 'static,
    {
        self.add_entry(None, method, path, policy, handler)
    }

    /// Adds a modern route with its version in the API.
    #[must_use]
    pub fn add_versioned_route<H, T, A>(
        self,
        version: &'static str,
        method: Method,
        path: &'static str,
        policy: AuthPolicy,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Core> + DescribeHandler<A>,
        T: 'static,
    {
        self.add_entry(Some(version), method, path, policy, handler)
    }

    fn add_entry<H, T, A>(
        mut self,
        version: Option<&'static str>,
        method: Method,
        path: &'static str,
        policy: AuthPolicy,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Core> + DescribeHandler<A>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("the tables use standard methods");
        let route = RouteInfo {
            version,
            method,
            path,
            auth_policy: policy,
            modern: version.is_some(),
            uploads: false,
            takes_file: false,
            asks_service: false,
            refuses_apps: false,
            websocket: false,
        };
        self.entries.push(RouteEntry {
            info: route,
            handler: on(filter, handler),
            handler_name: std::any::type_name::<H>(),
            describe: H::describe_handler,
        });
        self
    }

    fn mark_last(mut self, mark: impl FnOnce(&mut RouteInfo)) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            mark(&mut entry.info);
        }
        self
    }

    /// Marks the last added route as accepting uploads.
    #[must_use]
    pub fn accept_uploads(self) -> Self {
        self.mark_last(|route| route.uploads = true)
    }

    /// Marks the last added route as taking a file in a multipart body of ordinary size.
    #[must_use]
    pub fn take_file(self) -> Self {
        self.mark_last(|route| route.takes_file = true)
    }

    /// Marks the last added route as waiting for a service's response.
    #[must_use]
    pub fn allow_service_time(self) -> Self {
        self.mark_last(|route| route.asks_service = true)
    }

    /// Marks the last added route as closed to apps without a token.
    #[must_use]
    pub fn refuse_apps(self) -> Self {
        self.mark_last(|route| route.refuses_apps = true)
    }

    /// Marks the last added route as a WebSocket.
    #[must_use]
    pub fn use_websocket(self) -> Self {
        self.mark_last(|route| route.websocket = true)
    }

    /// Returns the routes without their handlers.
    pub fn list_routes(&self) -> Vec<RouteInfo> {
        self.entries.iter().map(|entry| entry.info.clone()).collect()
    }
}

/// Returns the path of a route in the server, with its version if it has one.
pub fn full_path(route: &RouteInfo) -> String {
    match route.version {
        Some(version) => format!("/{version}{}", route.path),
        None => route.path.to_owned(),
    }
}

/// Mounts entries; `apply_layers` wraps each handler in the edition's layers.
pub fn mount_routes(
    mut router: Router<Core>,
    entries: Vec<RouteEntry>,
    apply_layers: impl Fn(&RouteInfo, MethodRouter<Core>) -> MethodRouter<Core> + Copy,
) -> Router<Core> {
    for entry in entries {
        let handler = apply_layers(&entry.info, entry.handler);
        router = router.route(&full_path(&entry.info), handler);
    }
    router
}
