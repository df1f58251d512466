//! Changes of an app: its quota, its settings, its versions, in the modern edition.

mod builds;
mod info;
mod listing;
mod quota;
mod sides;
mod update;
mod versions;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::accounts::{ApiResponse, RequestBody, send_request};
use crate::recorded::test_service;
use crate::test_server::{TestServer, TestUser};

/// A server with the app `shop` of `ana`, for which nothing is deployed yet.
struct AppFixture {
    tancho: TestServer,
    root: TestUser,
    ana: TestUser,
    bob: TestUser,
}

impl AppFixture {
    async fn start() -> Self {
        let tancho =
            TestServer::start_with(|settings| settings.apps.drain_timeout = Duration::from_millis(50)).await;
        let root = tancho.login_admin().await;
        let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
        tancho.create_team(&ana, "red").await;
        test_service::install_platforms(&tancho);
        test_service::listen_for_all_units(&tancho).await;
        let fixture = Self {
            tancho,
            root,
            ana,
            bob,
        };
        fixture.create_app("shop").await;
        fixture
    }

    async fn create_app(&self, name: &str) {
        let new = json!({ "name": name, "platform": "procfile", "plan": "small" });
        self.send("POST /1.0/apps", RequestBody::Bare(new))
            .await
            .expect_status(201);
    }

    /// Sends a request of `ana`.
    async fn send(&self, line: &str, body: RequestBody<'_>) -> ApiResponse {
        send_request(&self.tancho, Some(&self.ana), line, body).await
    }

    /// Sends a request of `root`.
    async fn send_as_root(&self, line: &str, body: RequestBody<'_>) -> ApiResponse {
        send_request(&self.tancho, Some(&self.root), line, body).await
    }

    /// Sends a request of `ana` that must succeed, also in its stream.
    async fn change(&self, line: &str, body: RequestBody<'_>) -> ApiResponse {
        let answer = self.send(line, body).await.expect_status(200);
        assert!(!answer.body.contains("\"Error\""), "{line}: {answer:?}");
        answer
    }

    /// Sends the archive of a Procfile; returns the status and the text.
    async fn send_archive(&self, path: &str, procfile: &str) -> (u16, String) {
        let request = self.tancho.request_as(&self.ana, Method::POST, path);
        let request = request
            .header("content-type", "application/gzip")
            .body(test_service::archive(procfile));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Deploys a Procfile; returns the whole text.
    async fn deploy(&self, procfile: &str) -> String {
        self.send_archive("/1.0/apps/shop/deploy", procfile).await.1
    }

    /// Deploys a Procfile, which must succeed.
    async fn deploy_ok(&self, procfile: &str) {
        let text = self.deploy(procfile).await;
        assert!(text.ends_with("\nOK\n"), "{text}");
    }

    async fn read(&self, path: &str) -> Value {
        self.tancho.read_json(&self.ana, path).await
    }

    async fn info(&self) -> Value {
        self.read("/1.0/apps/shop").await
    }

    async fn stop(self) {
        self.tancho.running.drain_and_stop().await;
    }
}
