//! A service of a few lines; the name of an instance selects how it fails.

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use tokio_util::task::AbortOnDropHandle;

/// A running service; it stops when dropped.
pub(super) struct FailingService {
    pub(super) url: String,
    _task: AbortOnDropHandle<()>,
}

impl FailingService {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            axum::serve(listener, Router::new().fallback(answer))
                .await
                .unwrap();
        });
        Self {
            url,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn answer(method: Method, uri: Uri, body: String) -> (StatusCode, &'static str) {
    let path: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let is = |word: &str| path.get(1).is_some_and(|name| name.starts_with(word));
    match (method, path.as_slice()) {
        (Method::POST, ["resources"]) if body.contains("name=refused") => {
            (StatusCode::INTERNAL_SERVER_ERROR, "no room")
        }
        (Method::POST, ["resources"]) => (StatusCode::CREATED, ""),
        (Method::GET, ["resources", "plans"]) => (
            StatusCode::OK,
            r#"[{"name":"small","description":"a small one"}]"#,
        ),
        (Method::POST, ["resources", _, "bind-app"]) if is("pending") => {
            (StatusCode::PRECONDITION_FAILED, "not ready")
        }
        (Method::POST, ["resources", _, "bind-app"]) if is("broken") => {
            (StatusCode::INTERNAL_SERVER_ERROR, "broken")
        }
        (Method::POST, ["resources", _, "bind-app"]) => {
            (StatusCode::CREATED, r#"{"DATABASE_HOST":"localhost"}"#)
        }
        (Method::GET, ["resources", _, "status"]) if is("sick") => (StatusCode::IM_A_TEAPOT, "tea"),
        (Method::GET, ["resources", _, "status"]) => (StatusCode::NO_CONTENT, ""),
        (Method::GET, ["resources", _]) => (StatusCode::OK, r#"[{"label":"size","value":"1"}]"#),
        _ => (StatusCode::OK, ""),
    }
}
