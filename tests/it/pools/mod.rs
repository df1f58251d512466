//! Pools, what they allow, and who may change them.

mod constraints;
mod lifecycle;
mod provisioners;

use reqwest::Method;
use serde_json::Value;

use crate::test_server::{TestServer, TestUser};

/// A server with an administrator, and with ana, the only member of the team `red`.
pub(crate) struct PoolFixture {
    pub(crate) tancho: TestServer,
    pub(crate) root: TestUser,
    pub(crate) ana: TestUser,
}

impl PoolFixture {
    pub(crate) async fn start() -> Self {
        Self::on(TestServer::start().await).await
    }

    pub(crate) async fn on(tancho: TestServer) -> Self {
        let root = tancho.login_admin().await;
        let ana = tancho.create_user("ana").await;
        tancho.create_team(&ana, "red").await;
        Self { tancho, root, ana }
    }

    /// Sends `METHOD path` as a user, with JSON or nothing.
    pub(crate) async fn send(&self, user: &TestUser, line: &str, body: Value) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let body = (!body.is_null()).then_some(body);
        self.tancho.send_json(user, method, path, body).await
    }

    /// Sends a request of the administrator that must succeed.
    pub(crate) async fn change(&self, line: &str, body: Value) {
        let (status, text) = self.send(&self.root, line, body.clone()).await;
        assert!(status < 300, "{line} {body}: {status} {text}");
    }

    /// Asserts that a request gets a status and a sentence with this text.
    pub(crate) async fn assert_refused(
        &self,
        user: &TestUser,
        line: &str,
        body: Value,
        status: u16,
        text: &str,
    ) {
        let (got, said) = self.send(user, line, body.clone()).await;
        assert!(
            got == status && said.contains(text) && said.len() < 500,
            "{line} {body}: expected {status} {text:?}, got {got} {said}"
        );
    }

    pub(crate) async fn read(&self, user: &TestUser, path: &str) -> Value {
        self.tancho.read_json(user, path).await
    }

    pub(crate) async fn end(self) {
        self.tancho.running.drain_and_stop().await;
    }
}
