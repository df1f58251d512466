//! Completeness: each of the 44 endpoints has a route, an example row, a row for each status, and a line in
//! docs/compatibility; each classic route has a row.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use tancho::http::classic;
use tancho::web::route_table::{AuthPolicy, RouteInfo};

use super::row::{ExampleRow, read_rows};

/// Method and path, and the statuses.
type Endpoint = (&'static str, &'static [u16]);

/// The endpoints of the reference by chapter, with each status that the reference or contract/classic gives.
const REFERENCE: [(&str, &[Endpoint]); 9] = [
    (
        "Apps",
        &[
            ("GET /apps", &[200, 401]),
            ("GET /apps/{app}", &[200, 401, 403, 404]),
            ("DELETE /apps/{app}", &[200, 401, 403, 404, 409]),
            ("POST /apps", &[200, 400, 401, 403, 409]),
            ("GET /apps/{app}/restart", &[200, 401, 403, 404, 409]),
            ("GET /apps/{app}/env", &[200, 400, 401, 403, 404]),
            ("POST /apps/{app}/env", &[200, 400, 401, 403, 404, 409]),
            ("DELETE /apps/{app}/env", &[200, 400, 401, 403, 404, 409]),
            ("PUT /swap", &[200, 401, 403, 404, 409]),
        ],
    ),
    (
        "Services",
        &[
            ("GET /services", &[200, 401]),
            ("POST /services", &[200, 400, 401, 403, 500]),
            ("DELETE /services/{service}", &[204, 401, 403, 404]),
            ("PUT /services", &[200, 400, 401, 403, 404, 500]),
            ("GET /services/{service}", &[200, 401, 403, 404]),
            ("GET /services/{service}/doc", &[200, 401, 403, 404]),
            ("PUT /services/{service}/doc", &[200, 401, 403, 404]),
            ("PUT /services/{service}/{team}", &[200, 401, 403, 404, 409]),
            ("DELETE /services/{service}/{team}", &[200, 401, 403, 404]),
        ],
    ),
    (
        "Service instances",
        &[
            ("POST /services/instances", &[200, 400, 401, 403, 404, 409, 500]),
            (
                "DELETE /services/instances/{instance}",
                &[200, 401, 403, 404, 412],
            ),
            (
                "PUT /services/instances/{instance}/{app}",
                &[200, 401, 403, 404, 409, 412, 500],
            ),
            (
                "DELETE /services/instances/{instance}/{app}",
                &[200, 401, 403, 404, 412],
            ),
            ("GET /services/instances", &[200, 401]),
            ("GET /services/instances/{instance}", &[200, 401, 403, 404]),
            (
                "GET /services/instances/{instance}/status",
                &[200, 401, 403, 404, 500],
            ),
        ],
    ),
    ("Quotas", &[("GET /quota/{email}", &[200, 401, 403, 404])]),
    (
        "Healers",
        &[
            ("GET /healers", &[200, 401]),
            ("GET /healers/{healer}", &[200, 401, 404]),
        ],
    ),
    ("Platforms", &[("GET /platforms", &[200, 401])]),
    (
        "Users",
        &[
            ("POST /users", &[200, 400, 401, 409]),
            ("POST /users/{email}/password", &[200, 400, 404]),
            ("POST /users/{email}/tokens", &[200, 400, 401, 404]),
            ("DELETE /users/tokens", &[200, 401]),
            ("PUT /users/password", &[200, 400, 401, 403]),
            ("DELETE /users", &[200, 401, 403]),
            ("POST /users/keys", &[200, 400, 401, 409]),
            ("DELETE /users/keys", &[200, 400, 401, 404]),
        ],
    ),
    (
        "Teams",
        &[
            ("GET /teams", &[200, 401]),
            ("GET /teams/{team}", &[200, 401, 403, 404]),
            ("POST /teams", &[200, 400, 401, 409]),
            ("DELETE /teams/{team}", &[200, 401, 403, 404]),
            ("PUT /teams/{team}/{user}", &[200, 401, 403, 404, 409]),
            ("DELETE /teams/{team}/{user}", &[200, 401, 403, 404]),
        ],
    ),
    ("Tokens", &[("POST /tokens", &[200, 400, 401, 403])]),
];

fn endpoints() -> impl Iterator<Item = Endpoint> {
    REFERENCE.into_iter().flat_map(|(_, list)| list.iter().copied())
}

fn name(route: &RouteInfo) -> String {
    format!("{} {}", route.method, route.path)
}

/// Returns true if the request of a row is for the endpoint that it names.
fn is_sent_to(row: &ExampleRow, endpoint: &str) -> bool {
    let path = |line: &str| -> Vec<String> {
        let path = line.split(['?', ' ']).nth(1).unwrap_or_default();
        path.split('/').map(str::to_owned).collect()
    };
    let (sent, meant) = (path(&row.send), path(endpoint));
    let same = |(one, other): (&String, &String)| other.starts_with('{') || one == other;
    sent.len() == meant.len() && sent.iter().zip(&meant).all(same)
}

fn statuses(table: &[ExampleRow]) -> BTreeMap<&str, BTreeSet<u16>> {
    let mut found: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    for row in table.iter().filter(|row| !row.endpoint.is_empty()) {
        found.entry(&row.endpoint).or_default().insert(row.status);
    }
    found
}

#[test]
fn each_of_the_44_reference_endpoints_has_a_route() {
    let routes: BTreeSet<String> = classic::classic_routes().list_routes().iter().map(name).collect();
    let missing: Vec<&str> = endpoints()
        .map(|(e, _)| e)
        .filter(|e| !routes.contains(*e))
        .collect();
    assert_eq!(endpoints().count(), 44);
    assert!(missing.is_empty(), "no route: {missing:?}");
}

#[test]
fn every_endpoint_status_and_route_has_a_test_row() {
    let (examples, provoked) = (read_rows("examples"), read_rows("statuses"));
    let (shown, seen) = (statuses(&examples), statuses(&provoked));
    let mut faults = Vec::new();
    for (endpoint, wanted) in endpoints() {
        if !shown.contains_key(endpoint) {
            faults.push(format!("{endpoint} has no example"));
        }
        let found = seen.get(endpoint).cloned().unwrap_or_default();
        let wanted: BTreeSet<u16> = wanted.iter().copied().collect();
        for status in wanted.symmetric_difference(&found) {
            faults.push(format!(
                "{endpoint}: {status} is missing in the list or in the rows"
            ));
        }
    }
    let all: Vec<&ExampleRow> = examples.iter().chain(&provoked).collect();
    for route in classic::classic_routes().list_routes() {
        let name = name(&route);
        if !all.iter().any(|row| row.endpoint == name) {
            faults.push(format!("the route {name} is in no row"));
        }
    }
    for row in all.iter().filter(|row| !row.endpoint.is_empty()) {
        if !is_sent_to(row, &row.endpoint) {
            faults.push(format!("{} is not for {}", row.send, row.endpoint));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn describe_auth_policy(door: AuthPolicy) -> &'static str {
    match door {
        AuthPolicy::Public => "anybody",
        AuthPolicy::AnyToken => "any token",
        AuthPolicy::UserToken | AuthPolicy::UserTokenOrPassword => "a user",
        AuthPolicy::UserOrAppToken => "a user, or the app's token",
        AuthPolicy::UserWithPermission(_) => "an administrator",
    }
}

/// Returns the table in docs/compatibility.
fn documented_table() -> String {
    let routes = classic::classic_routes().list_routes();
    let mut table = String::from("| | Method | Path | Who |\n|---|---|---|---|\n");
    for (chapter, list) in REFERENCE {
        for (n, (endpoint, _)) in list.iter().enumerate() {
            let of_path = |route: &&RouteInfo| name(route) == *endpoint;
            let route = routes.iter().find(of_path).unwrap();
            let chapter = if n == 0 { chapter } else { "" };
            let (method, path, who) = (&route.method, route.path, describe_auth_policy(route.auth_policy));
            writeln!(table, "| {chapter} | {method} | `{path}` | {who} |").unwrap();
        }
    }
    table
}

#[test]
fn documentation_lists_the_44_endpoints_as_in_the_route_table() {
    let path = format!("{}/docs/compatibility/README.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(path).unwrap();
    let (_, rest) = page.split_once("<!-- classic endpoints: begin -->\n").unwrap();
    let (found, _) = rest.split_once("<!-- classic endpoints: end -->").unwrap();
    let wanted = documented_table();
    assert!(
        found.trim() == wanted.trim(),
        "docs/compatibility/README.md should have:\n{wanted}"
    );
}
