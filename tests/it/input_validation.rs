//! Input validation on every route: bytes that are not UTF-8, wrong types, invalid names, numbers out of
//! range, expensive patterns, long lists. Each is rejected with one short sentence and changes nothing.

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tancho::http::{classic, git, modern};
use tancho::web::route_table::{RouteInfo, full_path};

use crate::test_server::{TestServer, TestUser};

/// A valid value for each path parameter, of a resource that does not exist.
const PARAMS: [(&str, &str); 29] = [
    ("app", "nothing"),
    ("job", "nothing"),
    ("team", "nothing"),
    ("service", "nothing"),
    ("instance", "nothing"),
    ("role", "nothing"),
    ("pool", "nothing"),
    ("platform", "nothing"),
    ("plan", "nothing"),
    ("router", "nothing"),
    ("cluster", "nothing"),
    ("email", "nobody@example.com"),
    ("user", "nobody@example.com"),
    ("event", "0123456789abcdef01234567"),
    ("saga", "00000000-0000-0000-0000-000000000000"),
    ("orphan", "00000000-0000-0000-0000-000000000000"),
    ("unit", "nothing"),
    ("key", "nothing"),
    ("permission", "app.read"),
    ("healer", "nothing"),
    ("repository", "nothing.git"),
    ("name", "nothing"),
    ("version", "1"),
    ("token", "nothing"),
    ("group", "nothing"),
    ("webhook", "nothing"),
    ("volume", "nothing"),
    ("block", "0123456789abcdef01234567"),
    ("*path", "nothing"),
];

/// Parameters with a rule, and what the error calls them.
const NAMES: [(&str, &str); 16] = [
    ("app", "App"),
    ("job", "Job"),
    ("team", "Team"),
    ("service", "Service"),
    ("instance", "Service instance"),
    ("role", "Role"),
    ("pool", "Pool"),
    ("platform", "Platform"),
    ("plan", "Plan"),
    ("router", "Router"),
    ("cluster", "Cluster"),
    ("user", "User"),
    ("saga", "Saga"),
    ("token", "Token"),
    ("webhook", "Webhook"),
    ("volume", "Volume"),
];

fn all_routes() -> Vec<RouteInfo> {
    [
        classic::classic_routes(),
        modern::modern_routes(),
        git::git_routes(),
    ]
    .iter()
    .flat_map(|table| table.list_routes())
    .collect()
}

/// Returns the path of a route with values for its parameters, one of which may be given.
fn path_with(route: &RouteInfo, given: Option<(&str, &str)>) -> String {
    let mut path = full_path(route);
    for (param, usual) in PARAMS {
        let value = given
            .filter(|(name, _)| *name == param)
            .map_or(usual, |(_, value)| value);
        path = path.replace(&format!("{{{param}}}"), value);
    }
    assert!(
        !path.contains('{'),
        "{path} has a parameter that the test does not know"
    );
    path
}

fn params(route: &RouteInfo) -> Vec<&'static str> {
    let has = |param: &&str| route.path.contains(&format!("{{{param}}}"));
    PARAMS.map(|(param, _)| param).into_iter().filter(has).collect()
}

async fn answer(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Asserts that an error is one sentence that a terminal can show.
fn assert_short(what: &str, text: &str) {
    let words = text.trim_end();
    assert!(
        !words.is_empty() && words.len() < 400 && !words.contains(char::is_control),
        "{what}: {text:?}"
    );
}

async fn assert_refused(what: &str, request: RequestBuilder) {
    let (status, text) = answer(request).await;
    assert_eq!(status, 400, "{what}: {text}");
    assert_short(what, &text);
}

async fn with_app() -> (TestServer, TestUser) {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    tancho.create_team(&root, "red").await;
    let new = json!({ "name": "shop", "platform": "python" });
    let (status, text) = tancho.send_json(&root, Method::POST, "/apps", Some(new)).await;
    assert_eq!(status, 200, "{text}");
    (tancho, root)
}

#[tokio::test]
async fn invalid_utf8_and_nul_bytes_are_rejected_by_every_route() {
    let (tancho, root) = with_app().await;
    let before = tancho.read_json(&root, "/1.0/apps/shop").await;
    for route in all_routes() {
        let request = |path: &str| tancho.request_as(&root, route.method.clone(), path);
        for bad in ["a%00b", "%c3%28"] {
            for param in params(&route) {
                let path = path_with(&route, Some((param, bad)));
                assert_refused(&format!("{} {path}", route.method), request(&path)).await;
            }
            let path = format!("{}?name={bad}", path_with(&route, None));
            assert_refused(&format!("{} {path}", route.method), request(&path)).await;
        }
        if route.uploads {
            continue;
        }
        let path = path_with(&route, None);
        let form = "application/x-www-form-urlencoded";
        let bodies: [(&str, &'static [u8]); 3] = [
            ("", br#"{"name": [{"x\u0000": 1}]}"#),
            (form, b"name=a%00b"),
            ("text/yaml", b"id: \xff"),
        ];
        for (kind, body) in bodies {
            let what = format!("{} {path} {kind} {}", route.method, String::from_utf8_lossy(body));
            assert_refused(&what, request(&path).header("content-type", kind).body(body)).await;
        }
    }
    assert_eq!(tancho.read_json(&root, "/1.0/apps/shop").await, before);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn escaped_nul_sequences_are_accepted_as_text() {
    let (tancho, root) = with_app().await;
    let description = r"\u0000 and %00 and \0 are no bytes";
    let change = json!({ "description": description });
    let (status, text) = tancho
        .send_json(&root, Method::PUT, "/1.0/apps/shop", Some(change))
        .await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(
        tancho.read_json(&root, "/1.0/apps/shop").await["description"],
        description
    );
    assert_eq!(tancho.read_json(&root, "/1.0/apps?owner=%2500").await, json!([]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_name_in_a_path_returns_the_same_404_on_every_route() {
    let (tancho, root) = with_app().await;
    let long = format!("A{}", "x".repeat(8000));
    for route in all_routes() {
        for param in params(&route) {
            let Some((_, what)) = NAMES.iter().find(|(name, _)| *name == param) else {
                continue;
            };
            for bad in ["%2e%2e%2fx", "!", long.as_str()] {
                let path = path_with(&route, Some((param, bad)));
                let (status, text) = answer(tancho.request_as(&root, route.method.clone(), &path)).await;
                let title = format!("{} {}", route.method, &path[..path.len().min(200)]);
                assert_eq!(status, 404, "{title}: {text}");
                let fits = text.starts_with(&format!("{what} ")) && text.ends_with(" not found.\n");
                assert!(fits && text.len() < 120, "{title}: {text}");
            }
        }
    }
    let anonymous = tancho.request(Method::GET, "/1.0/apps/!!");
    assert_eq!(
        answer(anonymous).await.0,
        401,
        "without login the name is not checked"
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn wrong_json_type_is_rejected_without_side_effects() {
    let (tancho, root) = with_app().await;
    let cases = [
        ("POST", "/apps", json!({ "name": ["a"], "platform": "python" })),
        ("POST", "/apps", json!({ "name": "a", "platform": ["python"] })),
        (
            "POST",
            "/apps",
            json!({ "name": { "0": "a" }, "platform": "python" }),
        ),
        ("POST", "/apps", json!({ "name": true, "platform": "python" })),
        (
            "POST",
            "/1.0/apps",
            json!({ "name": "a", "platform": "python", "tag": { "0": "x" } }),
        ),
        (
            "POST",
            "/1.0/apps",
            json!({ "name": "a", "platform": "python", "tag": [["x"]] }),
        ),
        ("POST", "/1.0/teams", json!({ "name": ["blue"] })),
        ("POST", "/1.0/teams", json!({ "name": 7 })),
        ("PUT", "/1.0/apps/shop", json!({ "description": ["x"] })),
        ("PUT", "/1.0/apps/shop", json!({ "tags": "x", "plan": ["large"] })),
        ("PUT", "/1.0/apps/shop", json!({ "metadata": [] })),
        (
            "PUT",
            "/1.0/apps/shop",
            json!({ "metadata": { "labels": [{ "name": ["a"], "value": "b" }] } }),
        ),
        (
            "POST",
            "/apps/shop/cname",
            json!({ "cname": { "0": "a.example.com" } }),
        ),
        ("POST", "/apps/shop/cname", json!({ "cname": [1] })),
        (
            "PUT",
            "/1.0/users/root@example.com/quota",
            json!({ "limit": ["3"] }),
        ),
        (
            "PUT",
            "/1.0/users/root@example.com/quota",
            json!({ "limit": 1.5 }),
        ),
        (
            "PUT",
            "/1.0/users/root@example.com/quota",
            json!({ "limit": true }),
        ),
    ];
    for (method, path, body) in cases {
        let what = format!("{method} {path} {body}");
        let request = tancho
            .request_as(&root, method.parse().unwrap(), path)
            .body(body.to_string());
        assert_refused(&what, request).await;
    }
    for body in [
        "[[[[",
        r#"{"name": "\ud800", "platform": "python"}"#,
        &"[".repeat(100_000),
        "\"a\"",
        "1",
    ] {
        let request = tancho
            .request_as(&root, Method::POST, "/apps")
            .header("content-type", "application/json");
        assert_refused(&body[..body.len().min(60)], request.body(body.to_owned())).await;
    }
    assert_eq!(
        tancho.read_json(&root, "/apps").await.as_array().unwrap().len(),
        1
    );
    assert_eq!(
        tancho
            .read_json(&root, "/1.0/teams")
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn env_request_with_an_invalid_name_list_is_rejected() {
    let (tancho, root) = with_app().await;
    for path in ["/apps/shop/env", "/1.0/apps/shop/env"] {
        for body in [
            r#"{"A": 1}"#,
            r#""TSURU_APPNAME""#,
            "TSURU_APPNAME",
            "[1]",
            r#"[["A"]]"#,
            "x=y",
        ] {
            let request = tancho.request_as(&root, Method::GET, path).body(body);
            assert_refused(&format!("{path} {body}"), request).await;
        }
        for (body, count) in [(r#"["TSURU_APPNAME"]"#, 1), (r#"["NONE"]"#, 0)] {
            let (status, text) = answer(tancho.request_as(&root, Method::GET, path).body(body)).await;
            assert_eq!(status, 200, "{path} {body}: {text}");
            let vars: Vec<Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(vars.len(), count, "{path} {body}: {text}");
        }
        for body in ["", "null", "[]"] {
            let (status, text) = answer(tancho.request_as(&root, Method::GET, path).body(body)).await;
            assert!(
                status == 200 && text.contains("TSURU_APP_TOKEN"),
                "{path} {body}: {text}"
            );
        }
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn out_of_range_numbers_and_long_strings_cause_no_server_error() {
    let (tancho, root) = with_app().await;
    let numbers = [
        "-1",
        "0",
        "9223372036854775807",
        "-9223372036854775808",
        "99999999999999999999",
        "1e9",
        "0x10",
        "",
    ];
    for number in numbers {
        for (method, path) in [
            ("GET", format!("/1.0/deploys?limit={number}")),
            ("GET", format!("/1.1/events?limit={number}&skip={number}")),
            ("GET", format!("/1.0/apps/shop/log?lines={number}")),
            ("GET", format!("/apps/shop/log?lines={number}")),
            (
                "PUT",
                format!("/1.0/apps/shop/units?units={number}&version={number}"),
            ),
            (
                "DELETE",
                format!("/1.0/apps/shop/units?units={number}&version={number}"),
            ),
            ("PUT", format!("/1.0/teams/red/quota?limit={number}")),
            ("PUT", format!("/1.0/apps/shop/quota?limit={number}")),
        ] {
            let (status, text) = answer(tancho.request_as(&root, method.parse().unwrap(), &path)).await;
            assert!(status < 500, "{method} {path}: {status} {text}");
            if number.len() == 20 && number.starts_with('9') {
                assert!((400..500).contains(&status), "{method} {path}: {status} {text}");
            }
        }
    }
    let long = "x".repeat(20_000);
    let keys: Vec<String> = (0..2_000).map(|n| format!("k{n}=1")).collect();
    for query in [
        format!("name={long}"),
        format!("{long}=1"),
        "a.b.c=1&a=2&a.b=3".into(),
        keys.join("&"),
    ] {
        let (status, text) =
            answer(tancho.request_as(&root, Method::GET, &format!("/1.0/apps?{query}"))).await;
        assert!(status < 500 && text.len() < 5_000, "{status} {}", text.len());
    }
    let doubled = r#"{"name": "one", "name": "two", "Name": "three", "platform": "python"}"#;
    let (status, text) = answer(tancho.request_as(&root, Method::POST, "/apps").body(doubled)).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(
        tancho
            .read_json(&root, "/1.0/apps?name=^two$")
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn expensive_patterns_do_not_slow_the_server_down() {
    let tancho =
        TestServer::start_with(|settings| settings.database.acquire_timeout = Duration::from_secs(2)).await;
    let root = tancho.login_admin().await;
    tancho.create_team(&root, "red").await;
    for name in ["shop", "shelf", &"a".repeat(63)] {
        let new = json!({ "name": name, "platform": "python" });
        let (status, text) = tancho.send_json(&root, Method::POST, "/apps", Some(new)).await;
        assert_eq!(status, 200, "{text}");
    }
    let began = Instant::now();
    for expression in [
        r"^(a%2B)(a%2B)(a%2B)(a%2B)(a%2B)(a%2B)\1\2\3\4\5\6$",
        "(a{1000}){1000}",
        "(",
        &"(".repeat(500),
        &"a".repeat(2000),
    ] {
        for path in ["/apps", "/1.0/apps"] {
            let request = tancho.request_as(&root, Method::GET, &format!("{path}?name={expression}"));
            assert_refused(expression, request).await;
        }
    }
    let slow = "^(a%2B)%2B(a%2B)%2B(a%2B)%2Bb$";
    assert_eq!(
        tancho.read_json(&root, &format!("/apps?name={slow}")).await,
        json!([])
    );
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for (expression, names) in [
        ("^sh", vec!["shelf", "shop"]),
        ("op$", vec!["shop"]),
        ("s(ho|x)p", vec!["shop"]),
    ] {
        let apps = tancho
            .read_json(&root, &format!("/1.0/apps?name={expression}"))
            .await;
        let found: Vec<&str> = apps
            .as_array()
            .unwrap()
            .iter()
            .map(|app| app["name"].as_str().unwrap())
            .collect();
        assert_eq!(found, names, "{expression}");
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn long_app_list_is_complete_and_a_slow_reader_holds_no_connection() {
    let tancho = TestServer::start_with(|settings| {
        settings.database.max_connections = 3;
        settings.database.acquire_timeout = Duration::from_secs(5);
    })
    .await;
    let root = tancho.login_admin().await;
    tancho.create_team(&root, "red").await;
    let insert = format!(
        "insert into app (app_id, name, label, platform, plan, pool, team_owner, owner, description)
         select gen_random_uuid(), 'app-' || lpad(n::text, 4, '0'), 'app-' || n, 'python', 'small', 'local', 'red', 'x', '{}'
         from generate_series(1, 1500) n",
        "d".repeat(1500)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
    // They read the head of the response and no more.
    let mut slow = Vec::new();
    for _ in 0..6 {
        slow.push(
            tancho
                .request_as(&root, Method::GET, "/1.0/apps")
                .send()
                .await
                .unwrap(),
        );
    }
    let apps = tancho.read_json(&root, "/1.0/apps").await;
    let names: Vec<&str> = apps
        .as_array()
        .unwrap()
        .iter()
        .map(|app| app["name"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (1..=1500).map(|n| format!("app-{n:04}")).collect();
    assert_eq!(names, expected);
    for answer in slow {
        let apps: Vec<Value> = answer.json().await.unwrap();
        assert_eq!(apps.len(), 1500, "a slow reader gets the whole list, too");
    }
    assert_eq!(
        tancho
            .read_json(&root, "/1.0/apps?name=99$")
            .await
            .as_array()
            .unwrap()
            .len(),
        15
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn too_long_lists_in_a_request_are_rejected_with_the_limit() {
    let (tancho, root) = with_app().await;
    let hosts = |from: usize, count: usize| -> Vec<String> {
        (from..from + count)
            .map(|n| format!("www{n}.example.org"))
            .collect()
    };
    let tags: Vec<String> = (0..101).map(|n| format!("t{n}")).collect();
    let vars: Vec<String> = (0..1001).map(|n| format!("V{n}")).collect();
    for (method, path, body) in [
        ("POST", "/1.0/apps/shop/cname", json!({ "cname": hosts(0, 101) })),
        (
            "DELETE",
            "/1.0/apps/shop/cname",
            json!({ "cname": hosts(0, 101) }),
        ),
        ("PUT", "/1.0/apps/shop", json!({ "tags": tags })),
        ("PUT", "/1.0/apps/shop", json!({ "tags": ["x".repeat(300)] })),
        (
            "POST",
            "/1.0/apps",
            json!({ "name": "new", "platform": "python", "tag": tags }),
        ),
        ("DELETE", "/apps/shop/env", json!(vars)),
        ("DELETE", "/1.0/apps/shop/env", json!({ "env": vars })),
    ] {
        let request = tancho
            .request_as(&root, method.parse().unwrap(), path)
            .body(body.to_string());
        assert_refused(&format!("{method} {path}"), request).await;
    }
    for from in [0, 50] {
        let some = json!({ "cname": hosts(from, 50) });
        let (status, text) = tancho
            .send_json(&root, Method::POST, "/1.0/apps/shop/cname", Some(some))
            .await;
        assert_eq!(status, 200, "{text}");
    }
    let one = json!({ "cname": "more.example.org" });
    let (status, text) = tancho
        .send_json(&root, Method::POST, "/1.0/apps/shop/cname", Some(one))
        .await;
    assert_eq!(status, 400, "{text}");
    let app = tancho.read_json(&root, "/1.0/apps/shop").await;
    assert_eq!(app["cname"].as_array().unwrap().len(), 100);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn errors_quote_at_most_a_short_part_of_the_input() {
    let (tancho, root) = with_app().await;
    let long = "x".repeat(16_000);
    for (method, path, body) in [
        (
            "POST",
            "/1.0/apps".to_owned(),
            json!({ "name": long, "platform": "python" }),
        ),
        (
            "POST",
            "/1.0/apps".to_owned(),
            json!({ "name": "new", "platform": long }),
        ),
        (
            "POST",
            "/1.0/apps".to_owned(),
            json!({ "name": "new", "platform": "python", "plan": long }),
        ),
        ("PUT", format!("/swap?app1={long}&app2=shop"), Value::Null),
        (
            "POST",
            "/1.0/apps/shop/deploy/rollback".to_owned(),
            json!({ "image": long }),
        ),
        (
            "POST",
            "/1.0/apps/shop/cname".to_owned(),
            json!({ "cname": long }),
        ),
        ("POST", "/apps/shop/env".to_owned(), json!({ long.as_str(): 1 })),
        ("POST", format!("/1.0/apps/shop/log?source={long}"), json!(["x"])),
        ("POST", format!("/1.0/apps/shop/log?unit={long}"), json!(["x"])),
        (
            "POST",
            "/1.0/roles".to_owned(),
            json!({ "name": "new", "context": long }),
        ),
        (
            "POST",
            "/1.0/roles/AllowAll/permissions".to_owned(),
            json!({ "permission": [long] }),
        ),
        (
            "POST",
            "/1.0/users".to_owned(),
            json!({ "email": long, "password": "secret123" }),
        ),
        (
            "PUT",
            "/1.0/apps/shop".to_owned(),
            json!({ "metadata": { "labels": [{ "name": long, "value": "x" }] } }),
        ),
    ] {
        let request = tancho.request_as(&root, method.parse().unwrap(), &path);
        let (status, text) = answer(request.body(body.to_string())).await;
        let title = format!("{method} {}", &path[..path.len().min(60)]);
        assert!(
            (400..500).contains(&status) && text.len() < 400,
            "{title}: {status}, {} bytes",
            text.len()
        );
    }
    tancho.running.drain_and_stop().await;
}
