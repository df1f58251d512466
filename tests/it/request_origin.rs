//! Which requests are meant for this server, who may register, and which hosts are routed to apps.

use std::os::unix::process::CommandExt;
use std::process::Command;

use reqwest::Method;
use serde_json::json;
use tancho::kernel::public_hosts::PlatformHosts;
use tancho::routing;

use crate::test_server::{PASSWORD, TestServer};

/// Sends a registration with these headers; returns the status.
async fn register(tancho: &TestServer, email: &str, headers: &[(&str, &str)]) -> u16 {
    let body = json!({ "email": email, "password": PASSWORD }).to_string();
    let mut request = tancho.request(Method::POST, "/users").body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap().status().as_u16()
}

async fn exists(tancho: &TestServer, email: &str) -> bool {
    let users = tancho
        .read_json(&tancho.login("root@example.com").await, "/1.0/users")
        .await;
    let users = users.as_array().unwrap();
    users.iter().any(|user| user["Email"] == email)
}

#[tokio::test]
async fn requests_for_foreign_hosts_or_from_foreign_origins_are_rejected() {
    let tancho = TestServer::start().await;
    tancho.login_admin().await;
    let port = tancho.running.api_addr.unwrap().port();
    let own = format!("http://127.0.0.1:{port}");
    for (headers, expected) in [
        (vec![("host", "rebind.evil.example")], 421),
        (
            vec![
                ("host", "rebind.evil.example"),
                ("origin", "http://rebind.evil.example"),
            ],
            421,
        ),
        (
            vec![("origin", "http://evil.example"), ("content-type", "text/plain")],
            403,
        ),
        (vec![("origin", "http://evil.localhost:8888")], 403),
        (vec![("origin", "null")], 403),
        (
            vec![("sec-fetch-site", "cross-site"), ("content-type", "text/plain")],
            403,
        ),
    ] {
        assert_eq!(
            register(&tancho, "eve@example.com", &headers).await,
            expected,
            "{headers:?}"
        );
    }
    assert!(!exists(&tancho, "eve@example.com").await);
    for path in [
        "/apps",
        "/1.0/apps",
        "/git/shop.git/info/refs?service=git-upload-pack",
        "/nothing",
    ] {
        let request = tancho
            .request(Method::GET, path)
            .header("host", "rebind.evil.example");
        assert_eq!(request.send().await.unwrap().status(), 421, "{path}");
    }
    for path in ["/healthcheck", "/healthcheck/", "/1.0/healthcheck/", "/metrics"] {
        let request = tancho.request(Method::GET, path).header("host", "10.1.2.3");
        assert_eq!(request.send().await.unwrap().status(), 200, "{path}");
    }
    let localhost = format!("localhost:{port}");
    for (email, headers) in [
        ("ana@example.com", vec![]),
        ("bob@example.com", vec![("host", localhost.as_str())]),
        (
            "cleo@example.com",
            vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")],
        ),
    ] {
        let status = register(&tancho, email, &headers).await;
        assert!(status == 200 || status == 201, "{headers:?}: {status}");
        assert!(exists(&tancho, email).await);
    }
    tancho.running.drain_and_stop().await;
}

#[expect(clippy::print_stdout, reason = "script/test shows what was left out")]
#[tokio::test]
async fn registration_from_an_app_process_is_refused_when_apps_have_own_uids() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP registration by an app: without root, apps have no users of their own");
        return;
    }
    let tancho = TestServer::start().await;
    tancho.login_admin().await;
    let first = tancho.running.core.settings.local.first_uid;
    let register_as = |uid: u32, path: &str, email: &str| {
        let body = format!("email={email}&password={PASSWORD}");
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", &body])
            .arg(format!("{}{path}", tancho.url))
            .uid(uid)
            .gid(uid);
        tokio::task::spawn_blocking(move || String::from_utf8(curl.output().unwrap().stdout).unwrap())
    };
    for (uid, path) in [
        (first + 7, "/users"),
        (first, "/1.0/users"),
        (first + 100_000, "/users"),
    ] {
        assert_eq!(
            register_as(uid, path, "eve@example.com").await.unwrap(),
            "403",
            "{uid}"
        );
    }
    assert!(!exists(&tancho, "eve@example.com").await);
    // An account of the machine, and root.
    for (uid, email) in [(65_534, "ana@example.com"), (0, "bob@example.com")] {
        assert_eq!(
            register_as(uid, "/1.0/users", email).await.unwrap(),
            "201",
            "{uid}"
        );
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_token_cannot_register_users() {
    let tancho = TestServer::start().await;
    tancho.login_admin().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "web").await;
    let new = Some(json!({ "name": "shop", "platform": "procfile" }));
    assert_eq!(
        tancho.send_json(&ana, Method::POST, "/1.0/apps", new).await.0,
        201
    );
    let env = tancho.read_json(&ana, "/apps/shop/env").await;
    let token = env
        .as_array()
        .unwrap()
        .iter()
        .find(|variable| variable["name"] == "TSURU_APP_TOKEN")
        .unwrap();
    let authorization = format!("bearer {}", token["value"].as_str().unwrap());
    let headers = [("authorization", authorization.as_str())];
    assert_eq!(register(&tancho, "eve@example.com", &headers).await, 403);
    assert!(!exists(&tancho, "eve@example.com").await);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_platform_and_excess_cnames_are_refused() {
    let tancho =
        TestServer::start_with(|settings| settings.api.public_url = "https://paas.example.org".into()).await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "web").await;
    let new = Some(json!({ "name": "shop", "platform": "procfile" }));
    assert_eq!(
        tancho.send_json(&ana, Method::POST, "/1.0/apps", new).await.0,
        201
    );
    let add = async |names: Vec<String>| {
        let body = Some(json!({ "cname": names }));
        tancho
            .send_json(&ana, Method::POST, "/1.0/apps/shop/cname", body)
            .await
    };
    for bad in [
        "*.com",
        "*.localhost",
        "x.localhost",
        "localhost",
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "*.example.org",
        "paas.example.org",
        "PAAS.example.org",
        "healthcheck.invalid",
    ] {
        // All or none are added.
        let (status, words) = add(vec!["fine.example.net".into(), bad.into()]).await;
        assert_eq!(status, 400, "{bad}: {words}");
    }
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("n{n}.example.net"))
            .collect::<Vec<_>>()
    };
    assert_eq!(add(many(101)).await.0, 400);
    assert_eq!(tancho.read_json(&ana, "/1.0/apps/shop").await["cname"], json!([]));
    assert_eq!(add(many(99)).await.0, 200);
    assert_eq!(add(vec!["*.shop.example.net".into()]).await.0, 200);
    assert_eq!(add(vec!["one.too.many".into()]).await.0, 400);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn existing_forbidden_cnames_are_not_routed_and_can_be_removed() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "web").await;
    let new = Some(json!({ "name": "shop", "platform": "procfile" }));
    assert_eq!(
        tancho.send_json(&ana, Method::POST, "/1.0/apps", new).await.0,
        201
    );
    let db = &tancho.running.core.db;
    for cname in [
        "127.0.0.1",
        "*.com",
        "*.localhost",
        "www.example.net",
        "*.example.net",
    ] {
        sqlx::query("insert into app_cname (app_id, cname) select app_id, $1 from app")
            .bind(cname)
            .execute(db)
            .await
            .unwrap();
    }
    let table = routing::load_table(db, &PlatformHosts::new("localhost", ""))
        .await
        .unwrap();
    for host in ["127.0.0.1", "evil.com", "gone.localhost", "a.b.example.net"] {
        assert!(table.find_host(host).is_none(), "{host}");
    }
    for host in ["shop.localhost", "www.example.net", "a.example.net"] {
        assert!(table.find_host(host).is_some(), "{host}");
    }
    let path = "/1.0/apps/shop/cname?cname=127.0.0.1&cname=*.com";
    assert_eq!(tancho.send_json(&ana, Method::DELETE, path, None).await.0, 200);
    tancho.running.drain_and_stop().await;
}
