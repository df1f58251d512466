//! Permissions, duplicate names, and invalid names.

use super::*;

#[tokio::test]
async fn concurrent_binds_create_one_bind() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture
        .request_ok(
            "POST",
            "/services/instances",
            r#"{"name":"my-db","service_name":"mysql"}"#,
        )
        .await;
    let path = "/services/instances/my-db/shop";
    let bind = || fixture.send_request("ana", "PUT", path, "");
    let (a, b, c) = tokio::join!(bind(), bind(), bind());
    let mut codes = [a.0.as_u16(), b.0.as_u16(), c.0.as_u16()];
    codes.sort_unstable();
    assert_eq!(codes, [200, 409, 409], "{a:?} {b:?} {c:?}");
    assert_eq!(
        flask.get("/__state").await["binds"]["my-db"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn duplicate_names_are_refused_with_the_status_of_each_edition() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.service("mysql", &flask).await;
    fixture.service("other", &flask).await;
    let manifest = format!("id: mysql\nendpoint:\n  production: {}\n", flask.url);
    assert_eq!(
        fixture
            .send_request("ana", "POST", "/services", &*manifest)
            .await
            .0,
        500
    );
    let form = [("id", "mysql"), ("password", "pw"), ("endpoint", "x.test")];
    assert_eq!(
        fixture.send_form("ana", "POST", "/1.0/services", &form).await.0,
        409
    );
    let new = r#"{"name":"my-db","service_name":"mysql"}"#;
    let (a, b) = tokio::join!(
        fixture.send_request("ana", "POST", "/services/instances", new),
        fixture.send_request("ana", "POST", "/services/instances", new)
    );
    let mut codes = [a.0.as_u16(), b.0.as_u16()];
    codes.sort_unstable();
    assert_eq!(codes, [200, 409], "{a:?} {b:?}");
    let elsewhere = new.replace("\"mysql\"", "\"other\"");
    assert_eq!(
        fixture
            .send_request("ana", "POST", "/services/instances", elsewhere)
            .await
            .0,
        409,
        "names are global"
    );
    // The other service already has an instance of that name, which must not be deleted.
    let (status, text) = fixture
        .send_form(
            "ana",
            "POST",
            "/1.0/services/other/instances",
            &[("name", "my-db")],
        )
        .await;
    assert_eq!(status, 409, "{text}");
    assert!(flask.get("/__state").await["instances"].get("my-db").is_some());
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn hostile_names_and_manifests_are_refused() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.service("mysql", &flask).await;
    for name in [
        "",
        "a",
        "1db",
        "a/b",
        "../x",
        "a b",
        "a%2fb",
        "a\\u0000b",
        "é-db",
        "a;drop",
        &"x".repeat(64),
    ] {
        let body = format!(r#"{{"name":"{name}","service_name":"mysql"}}"#);
        let (status, text) = fixture
            .send_request("ana", "POST", "/services/instances", body)
            .await;
        assert_eq!(status, 400, "{name}: {text}");
    }
    for body in [
        r#"{"name": "mymysql": "service_name": "mysql"}"#,
        r#"{"name":["a"],"service_name":{}}"#,
        "[1]",
    ] {
        let (status, text) = fixture
            .send_request("ana", "POST", "/services/instances", body)
            .await;
        assert_eq!(status, 400, "{body}: {text}");
    }
    for (manifest, expected) in [
        ("id: [", 500),
        ("id: a: b", 500),
        ("", 400),
        ("id: instances\nendpoint: {production: x}", 400),
        ("id: '../x'\nendpoint: {production: x}", 400),
        ("id: nowhere", 400),
        ("id: nowhere\nendpoint: {production: 'file:///etc/passwd'}", 400),
    ] {
        let (status, text) = fixture.send_request("ana", "POST", "/services", manifest).await;
        assert_eq!(status, expected, "{manifest}: {text}");
    }
    for path in [
        "/services/..%2fx",
        "/services/instances/a%2fb",
        "/services/nowhere/doc",
    ] {
        assert_eq!(
            fixture.send_request("ana", "GET", path, "").await.0,
            404,
            "{path}"
        );
    }
    let (status, text) = fixture.send_request("ana", "GET", "/services/a%00b", "").await;
    assert_eq!(
        status, 400,
        "an invalid string is rejected before the lookup: {text}"
    );
    assert!(flask.calls().await.is_empty(), "none of it reached the service");
    fixture.end().await;
}

#[tokio::test]
async fn services_are_accessible_to_granted_teams_only() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.team("blue").await;
    fixture.user("bob", &[("team-member", "blue")]).await;
    fixture.user("lone", &[]).await;
    fixture.app("shop", "red").await;
    fixture.app("blog", "blue").await;
    fixture.service("mysql", &flask).await;
    fixture
        .request_ok(
            "POST",
            "/services/instances",
            r#"{"name":"my-db","service_name":"mysql"}"#,
        )
        .await;
    let manifest = format!("id: mysql\nendpoint:\n  production: {}\n", flask.url);
    let other = format!("id: second\nendpoint:\n  production: {}\n", flask.url);
    for (who, verb, path, body, expected) in [
        ("nobody", "GET", "/services", "", 401),
        ("nobody", "PUT", "/services/instances/my-db/shop", "", 401),
        ("lone", "POST", "/services", &*other, 403),
        (
            "lone",
            "POST",
            "/services/instances",
            r#"{"name":"new-db","service_name":"mysql"}"#,
            403,
        ),
        ("bob", "PUT", "/services", &*manifest, 403),
        ("bob", "DELETE", "/services/mysql", "", 403),
        ("bob", "DELETE", "/services/none", "", 404),
        ("bob", "PUT", "/services/mysql/doc", "text", 403),
        ("bob", "PUT", "/services/mysql/blue", "", 403),
        ("bob", "GET", "/services/instances/my-db", "", 403),
        ("bob", "GET", "/services/instances/my-db/status", "", 403),
        ("bob", "DELETE", "/services/instances/my-db", "", 403),
        ("bob", "PUT", "/services/instances/my-db/blog", "", 403),
        ("bob", "PUT", "/services/instances/my-db/shop", "", 403),
        ("ana", "PUT", "/services/instances/my-db/blog", "", 403),
        ("ana", "PUT", "/services/instances/none/shop", "", 404),
        ("ana", "PUT", "/services/instances/my-db/none", "", 404),
        ("bob", "DELETE", "/1.0/services/mysql/instances/my-db", "", 404),
        ("lone", "DELETE", "/1.0/services/mysql/instances/my-db", "", 403),
        ("ana", "PUT", "/services/mysql/doc", "Mysql exports the ...", 200),
        ("bob", "GET", "/services/mysql/doc", "", 200),
        ("ana", "PUT", "/services/mysql/nobody", "", 404),
        ("ana", "PUT", "/services/mysql/blue", "", 200),
        ("ana", "PUT", "/services/mysql/blue", "", 409),
        ("ana", "DELETE", "/services/mysql/blue", "", 403),
        ("ana", "PUT", "/services/mysql/red", "", 200),
        ("ana", "DELETE", "/services/mysql/blue", "", 200),
        ("ana", "DELETE", "/services/mysql/blue", "", 404),
    ] {
        let (status, text) = fixture.send_request(who, verb, path, body).await;
        assert_eq!(status, expected, "{who} {verb} {path}: {text}");
    }
    assert_eq!(
        fixture.request_ok("GET", "/services/mysql/doc", "").await,
        "Mysql exports the ..."
    );
    // Restricted to red: bob learns nothing that he does not need.
    sqlx::query("update service set is_restricted = true")
        .execute(fixture.db())
        .await
        .unwrap();
    for (path, expected) in [
        ("/services/mysql", 403),
        ("/1.0/services/mysql", 404),
        ("/services/mysql/plans", 403),
    ] {
        assert_eq!(
            fixture.send_request("bob", "GET", path, "").await.0,
            expected,
            "{path}"
        );
    }
    let new = r#"{"name":"bobs-db","service_name":"mysql"}"#;
    assert_eq!(
        fixture
            .send_request("bob", "POST", "/services/instances", new)
            .await
            .0,
        403
    );
    let list = fixture
        .send_request("bob", "GET", "/services/instances", "")
        .await
        .1;
    assert_eq!(parsed(&list), json!([]));
    fixture.end().await;
}
