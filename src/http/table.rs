//! The table of routes as data: method, path, door and handler of each, so that tests, metrics and the
//! README can read what the server offers.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::core::Core;
use crate::kernel::permission::Permission;

/// Who may pass a route at all. What they may do to the thing behind it is asked by the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Anybody, without a token.
    Open,
    /// Any valid token, a user's or an app's.
    Token,
    /// A user's token.
    User,
    /// A user's token, or their e-mail address and password, as Basic auth: what programs like `git` send.
    Basic,
    /// A user's token, or the token of the app in the path.
    UserOrItsApp,
    /// A user who holds the permission on something at least.
    May(Permission),
}

/// One line of a table.
#[derive(Clone, Debug)]
pub struct Route {
    /// `None`: classic, unversioned. Else the one version under which the modern edition has it.
    pub since: Option<&'static str>,
    pub method: Method,
    pub path: &'static str,
    pub door: Door,
    /// Answers in the words of the modern edition.
    pub modern: bool,
    /// Takes a body of any length, which its handler bounds, and as long as it needs.
    pub uploads: bool,
}

/// A route and what answers it.
#[derive(Clone)]
pub struct Line {
    pub route: Route,
    pub handler: MethodRouter<Core>,
}

/// The routes of one edition.
#[derive(Default)]
pub struct Table {
    pub lines: Vec<Line>,
}

impl Table {
    /// Adds a classic route.
    #[must_use]
    pub fn on<H, T>(self, method: Method, path: &'static str, door: Door, handler: H) -> Self
    where
        H: Handler<T, Core>,
        T: 'static,
    {
        self.line(None, method, path, door, handler)
    }

    /// Adds a modern route with the version that it has in the API.
    #[must_use]
    pub fn since<H, T>(
        self,
        version: &'static str,
        method: Method,
        path: &'static str,
        door: Door,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Core>,
        T: 'static,
    {
        self.line(Some(version), method, path, door, handler)
    }

    fn line<H, T>(
        mut self,
        since: Option<&'static str>,
        method: Method,
        path: &'static str,
        door: Door,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Core>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("the tables use standard methods");
        let route = Route {
            since,
            method,
            path,
            door,
            modern: since.is_some(),
            uploads: false,
        };
        self.lines.push(Line {
            route,
            handler: on(filter, handler),
        });
        self
    }

    /// The route just added takes uploads.
    #[must_use]
    pub fn uploading(mut self) -> Self {
        if let Some(line) = self.lines.last_mut() {
            line.route.uploads = true;
        }
        self
    }

    /// The routes alone.
    pub fn routes(&self) -> Vec<Route> {
        self.lines.iter().map(|line| line.route.clone()).collect()
    }
}

/// The path under which the server knows a route: with its version, if it has one.
pub fn full_path(route: &Route) -> String {
    match route.since {
        Some(version) => format!("/{version}{}", route.path),
        None => route.path.to_owned(),
    }
}

/// Mounts lines; `dress` puts the edition's layers around each handler.
pub fn mount(
    mut router: Router<Core>,
    lines: Vec<Line>,
    dress: impl Fn(&Route, MethodRouter<Core>) -> MethodRouter<Core> + Copy,
) -> Router<Core> {
    for line in lines {
        let handler = dress(&line.route, line.handler);
        router = router.route(&full_path(&line.route), handler);
    }
    router
}
