//! Basic responses: unknown paths and metrics.

use reqwest::{Method, StatusCode};

use crate::test_server::TestServer;

#[tokio::test]
async fn unknown_paths_return_404_with_a_request_id() {
    let tancho = TestServer::start().await;
    let answer = tancho
        .request(Method::GET, "/nothing/here")
        .header("x-request-id", "abc-1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["x-request-id"], "abc-1");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn metrics_count_events_without_naming_apps_or_users() {
    let tancho = TestServer::start().await;
    let admin = tancho.login_admin().await;
    tancho.create_team(&admin, "secretteam").await;
    for (method, path) in [
        (Method::GET, "/1.0/apps/secretapp"),
        (Method::GET, "/secretpath"),
        (Method::from_bytes(b"SECRETVERB").unwrap(), "/1.0/apps"),
    ] {
        tancho.request_as(&admin, method, path).send().await.unwrap();
    }
    for path in ["/metrics", "/1.2/metrics"] {
        let answer = tancho.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let text = answer.text().await.unwrap();
        for part in [
            "tancho_info{version=",
            "# TYPE tancho_http_requests_total counter",
            "tancho_http_requests_total{method=\"GET\",route=\"/1.0/apps/{app}\",status=\"404\"}",
            "tancho_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"}",
            "tancho_http_requests_total{method=\"other\",route=\"/1.0/apps\",status=\"405\"}",
            "tancho_http_request_duration_seconds_bucket{method=\"GET\",route=\"/1.0/apps/{app}\",le=\"0.5\"}",
            "tancho_database_connections{state=\"idle\"}",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.to_lowercase().contains("secret"), "{text}");
    }
    tancho.running.drain_and_stop().await;
}
