//! The wire: methods and paths, headers of every response, and the routes of the server itself.

use reqwest::Method;
use serde_json::Value;

use crate::test_server::TestServer;

#[tokio::test]
async fn wrong_method_on_a_known_path_is_405_with_the_allowed_methods() {
    let tancho = TestServer::start().await;
    for (method, path, allowed) in [
        ("PATCH", "/1.0/apps", "GET,HEAD,POST"),
        ("DELETE", "/1.0/apps/shop/units/u1", ""),
        ("POST", "/1.1/events", "GET,HEAD"),
        ("DELETE", "/1.1/events/5f3e8a1b9c4d2e0001a7b3c5", "GET,HEAD"),
        ("GET", "/1.0/swap", "POST"),
        ("PUT", "/1.3/events/blocks/xyz", "DELETE"),
        ("PATCH", "/apps/shop", "DELETE,GET,HEAD,PUT"),
        ("TRACE", "/healthcheck", "GET,HEAD"),
    ] {
        let answer = tancho
            .request(method.parse().unwrap(), path)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        if allowed.is_empty() {
            assert_eq!(status, 404, "{method} {path}");
            continue;
        }
        assert_eq!(status, 405, "{method} {path}");
        let mut found: Vec<&str> = answer.headers()["allow"].to_str().unwrap().split(',').collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.join(","), allowed, "{method} {path}");
        assert!(
            answer.text().await.unwrap().starts_with("405 "),
            "{method} {path}"
        );
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn unknown_path_or_version_is_404_for_every_method() {
    let tancho = TestServer::start().await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/1.1/apps", "/2.0/apps", "/1.0", "/1.0/nothing", "/1.00/apps"] {
            let method: Method = method.parse().unwrap();
            let answer = tancho.request(method.clone(), path).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 404, "{method} {path}");
            assert!(!answer.headers().contains_key("allow"), "{method} {path}");
        }
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn options_lists_methods_and_head_is_get_without_a_body() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    let options = tancho
        .request(Method::OPTIONS, "/1.0/teams")
        .send()
        .await
        .unwrap();
    assert_eq!(options.status().as_u16(), 204);
    assert_eq!(options.headers()["allow"], "GET,HEAD,POST");
    assert_eq!(options.text().await.unwrap(), "");
    let head = tancho
        .request_as(&root, Method::HEAD, "/1.0/teams")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert_eq!(head.text().await.unwrap(), "");
    let refused = tancho.request(Method::HEAD, "/1.0/teams").send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 401, "HEAD needs the rights of GET");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn every_response_has_the_oldest_supported_client() {
    let tancho = TestServer::start().await;
    for (method, path) in [
        (Method::GET, "/1.0/"),
        (Method::GET, "/1.0/apps"),
        (Method::GET, "/nothing"),
        (Method::PATCH, "/1.0/apps"),
        (Method::GET, "/1.0/healthcheck"),
    ] {
        let answer = tancho.request(method, path).send().await.unwrap();
        assert_eq!(answer.headers()["supported-tsuru"], "1.0.1", "{path}");
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn server_says_what_it_is_and_what_is_gone() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    for path in ["/", "/1.0/"] {
        let answer = tancho.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert!(answer.text().await.unwrap().contains("tsuru target add"));
    }
    let anonymous = tancho.request(Method::GET, "/1.0/info").send().await.unwrap();
    assert_eq!(anonymous.status().as_u16(), 401);
    let info: Value = tancho.read_json(&root, "/1.0/info").await;
    let fields = info.as_object().unwrap();
    assert!(fields.values().all(Value::is_string), "{info}");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&info["api_version"], &info["provisioners"]),
        (&"1.31".into(), &"local".into())
    );
    assert!(
        info["features"].as_str().unwrap().contains("event-blocks"),
        "{info}"
    );
    for (method, path, status, part) in [
        (Method::POST, "/1.0/swap", 412, "swapping is deprecated"),
        (Method::GET, "/1.0/logs", 400, "GET /apps/{app}/log"),
    ] {
        let (found, text) = tancho.send_json(&root, method, path, None).await;
        assert_eq!((found, text.contains(part)), (status, true), "{path}: {text}");
    }
    tancho.running.drain_and_stop().await;
}
