//! `app run` and `app shell`, over HTTP and WebSockets.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::recorded::test_service;
use crate::test_server::{TestServer, TestUser};

mod requests;
mod sessions;
mod units;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server with the app `shop` of the team `web-team`, and users.
struct ExecFixture {
    tancho: TestServer,
    root: TestUser,
    /// Member of `web-team`.
    ana: TestUser,
    /// Member of no team.
    bob: TestUser,
}

impl ExecFixture {
    /// Without a deploy; units are fake.
    async fn new() -> Self {
        Self::on(TestServer::start().await).await
    }

    async fn on(tancho: TestServer) -> Self {
        let root = tancho.login_admin().await;
        let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
        tancho.create_team(&ana, "web-team").await;
        test_service::install_platforms(&tancho);
        let fixture = Self {
            tancho,
            root,
            ana,
            bob,
        };
        let form = "name=shop&platform=procfile&teamOwner=web-team&plan=small";
        fixture.send(Method::POST, "/1.0/apps", form).await;
        fixture
    }

    /// With a unit of each of two processes.
    async fn with_units() -> Self {
        let fixture = Self::new().await;
        test_service::listen_for_all_units(&fixture.tancho).await;
        fixture.deploy("web: serve\nworker: work\n").await;
        fixture
    }

    /// With a unit that is a process of this machine.
    async fn with_local_unit() -> Self {
        let fixture = Self::on(TestServer::start_with_local_units().await).await;
        let env = "Envs.0.Name=API_KEY&Envs.0.Value=k-12345&Private=true&NoRestart=true";
        fixture.send(Method::POST, "/1.0/apps/shop/env", env).await;
        fixture
            .deploy("web: /usr/bin/python3 -m http.server $PORT\n")
            .await;
        fixture
    }

    /// Sends a form as `ana`, which must succeed.
    async fn send(&self, method: Method, path: &str, form: &str) -> String {
        let answer = self.form(&self.ana, method, path, form).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(
            status.is_success() && !text.contains("\"Error\""),
            "{path} {form}: {status} {text}"
        );
        text
    }

    async fn form(&self, user: &TestUser, method: Method, path: &str, form: &str) -> Response {
        let request = self.tancho.request_as(user, method, path);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body(form.to_owned()).send().await.unwrap()
    }

    async fn deploy(&self, procfile: &str) {
        let request = self
            .tancho
            .request_as(&self.ana, Method::POST, "/1.0/apps/shop/deploy")
            .header("content-type", "application/gzip")
            .body(test_service::archive(procfile));
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(text.ends_with("\nOK\n"), "{text}");
    }

    /// Requests a run as `ana`.
    async fn start_run(&self, form: &[(&str, &str)]) -> Response {
        let request = self
            .tancho
            .request_as(&self.ana, Method::POST, "/1.0/apps/shop/run");
        request.form(form).send().await.unwrap()
    }

    /// Runs a command as `ana`; returns the output and the error.
    async fn run(&self, form: &[(&str, &str)]) -> (String, Option<String>) {
        let answer = self.start_run(form).await;
        assert_eq!(answer.status(), 200, "{form:?}");
        assert_eq!(answer.headers()["content-type"], "application/x-json-stream");
        read_run(&answer.text().await.unwrap())
    }

    /// Opens a shell as a user.
    async fn open_shell(&self, user: &TestUser, query: &str) -> ShellClient {
        self.connect(&user.token, "shop", query, "ws://localhost")
            .await
            .unwrap()
    }

    async fn connect(
        &self,
        token: &str,
        app: &str,
        query: &str,
        origin: &str,
    ) -> Result<ShellClient, WsError> {
        let address = self.tancho.running.api_addr.unwrap();
        let url = format!("ws://{address}/1.0/apps/{app}/shell?{query}");
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", format!("bearer {token}").parse().unwrap());
        headers.insert("origin", origin.parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(ShellClient {
            socket,
            text: String::new(),
        })
    }

    /// Returns the events of a kind, newest first.
    async fn events(&self, kind: &str) -> Vec<Value> {
        let path = format!("/1.1/events?kindname={kind}");
        self.tancho
            .read_json(&self.root, &path)
            .await
            .as_array()
            .unwrap()
            .clone()
    }

    /// Waits until the newest event of a kind has ended; returns it.
    async fn ended_event(&self, kind: &str) -> Value {
        wait_for("the event has ended", async || {
            let newest = self.events(kind).await.into_iter().next()?;
            (newest["Running"] == false).then_some(newest)
        })
        .await
    }

    async fn count_sessions(&self) -> i64 {
        let count = sqlx::query_scalar("select count(*) from exec_session");
        count.fetch_one(&self.tancho.running.core.db).await.unwrap()
    }

    async fn wait_until_no_session(&self) {
        wait_for("no session is left", async || {
            (self.count_sessions().await == 0).then_some(())
        })
        .await;
    }

    /// Requests the cancellation of the newest event of a kind.
    async fn cancel(&self, kind: &str) {
        let id = self.events(kind).await[0]["UniqueID"]
            .as_str()
            .unwrap()
            .to_owned();
        let path = format!("/1.1/events/{id}/cancel");
        let reason = serde_json::json!({ "reason": "enough" });
        let (status, text) = self
            .tancho
            .send_json(&self.ana, Method::POST, &path, Some(reason))
            .await;
        assert!(status < 300, "{status} {text}");
    }
}

/// Returns the output of a run as a client shows it, and the error that ends it.
fn read_run(text: &str) -> (String, Option<String>) {
    let (mut output, mut failure) = (String::new(), None);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_str(line).unwrap();
        output.push_str(line["Message"].as_str().unwrap());
        failure = line["Error"].as_str().map(str::to_owned);
    }
    (output, failure)
}

/// The client of a shell.
struct ShellClient {
    socket: WebSocketStream<TcpStream>,
    /// What has arrived and was not waited for yet.
    text: String,
}

impl ShellClient {
    async fn type_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Waits for a text; returns what came up to its end.
    async fn read_until(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            match self.next_message(deadline).await {
                Some(Message::Text(text)) => self.text.push_str(&text),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("{wanted:?} did not come: {:?}, then {other:?}", self.text),
            }
        }
    }

    async fn next_message(&mut self, deadline: Instant) -> Option<Message> {
        let next = tokio::time::timeout_at(deadline.into(), self.socket.next()).await;
        next.unwrap_or_else(|_| panic!("nothing more came in time: {:?}", self.text))
            .map(Result::unwrap)
    }

    /// Reads to the end; returns the text and the code with which the server closed.
    async fn read_to_close(mut self) -> (String, u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_message(deadline).await {
                Some(Message::Text(text)) => self.text.push_str(&text),
                Some(Message::Close(Some(frame))) => return (self.text, frame.code.into()),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("not closed in order: {:?}, then {other:?}", self.text),
            }
        }
    }
}
