//! A server that receives webhooks, and responds as a test tells it.

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A request as it was received.
#[derive(Debug)]
pub(super) struct ReceivedHook {
    pub(super) method: String,
    /// Path and query; a whole URL if the receiver is a proxy.
    pub(super) uri: String,
    pub(super) headers: axum::http::HeaderMap,
    pub(super) body: String,
}

impl ReceivedHook {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that the request is signed as documented.
    pub(super) fn assert_signed(&self, secret: &str) {
        let signature = self.header("tancho-signature");
        let (time, digits) = signature.split_once(",v1=").unwrap();
        let time = time.strip_prefix("t=").unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
        let age = now - time.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{signature}");
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{time}.{}", self.body).as_bytes());
        assert!(
            mac.verify_slice(&hex::decode(digits).unwrap()).is_ok(),
            "{signature}"
        );
    }
}

/// How the receiver responds to its next requests; 200 after the last.
type PlannedReplies = Arc<Mutex<VecDeque<(u16, Option<&'static str>)>>>;

/// The running receiver.
pub(super) struct WebhookReceiver {
    pub(super) url: String,
    requests: mpsc::UnboundedReceiver<ReceivedHook>,
    replies: PlannedReplies,
}

#[derive(Clone)]
struct ReceiverState {
    sender: mpsc::UnboundedSender<ReceivedHook>,
    replies: PlannedReplies,
}

impl WebhookReceiver {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::unbounded_channel();
        let replies = PlannedReplies::default();
        let state = ReceiverState {
            sender,
            replies: Arc::clone(&replies),
        };
        let router = Router::new().fallback(receive).with_state(state);
        tokio::spawn(axum::serve(listener, router).into_future());
        Self {
            url,
            requests,
            replies,
        }
    }

    /// Plans the status of the next response, and its `Retry-After`. Status 0: there is none.
    pub(super) fn plan(&self, status: u16, retry_after: Option<&'static str>) {
        self.replies.lock().unwrap().push_back((status, retry_after));
    }

    pub(super) async fn next(&mut self) -> ReceivedHook {
        let next = tokio::time::timeout(Duration::from_secs(30), self.requests.recv());
        next.await.expect("a webhook is received").unwrap()
    }

    /// Asserts that nothing else was received so far.
    pub(super) fn assert_silent(&mut self) {
        let more = self.requests.try_recv();
        assert!(more.is_err(), "{more:?}");
    }
}

async fn receive(State(state): State<ReceiverState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let received = ReceivedHook {
        method: parts.method.to_string(),
        uri: parts.uri.to_string(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let planned = state.replies.lock().unwrap().pop_front();
    // The test may have ended.
    let _ = state.sender.send(received);
    let (status, retry_after) = planned.unwrap_or((200, None));
    if status == 0 {
        return std::future::pending().await;
    }
    let status = StatusCode::from_u16(status).unwrap();
    match retry_after {
        Some(value) => (status, [("retry-after", value)]).into_response(),
        None => status.into_response(),
    }
}
