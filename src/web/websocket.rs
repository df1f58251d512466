//! WebSockets. A client does not show the body of a response that refuses the upgrade, so a refusal is sent over the
//! WebSocket itself: the upgrade takes place, a text `Error: …` is sent, and the WebSocket is closed (contract/modern
//! 1.6).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::kernel::error::Error;
use crate::web::answers::WebSocketAnswer;
use crate::web::errors::ErrorCause;

/// Clients send what a user types, in frames of at most 32 KB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The messages of errors are sentences.
const MAX_ERROR_BYTES: usize = 4096;

/// True if the request asks for a WebSocket.
pub fn is_websocket_request(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The upgrade of a request, which either its handler takes or, if that fails, `refuse_in_websocket`.
#[derive(Clone, Default)]
pub struct PendingUpgrade(Arc<Mutex<Option<WebSocketUpgrade>>>);

impl PendingUpgrade {
    fn new(upgrade: WebSocketUpgrade) -> Self {
        let upgrade = upgrade
            .max_message_size(MAX_MESSAGE_BYTES)
            .max_frame_size(MAX_MESSAGE_BYTES);
        Self(Arc::new(Mutex::new(Some(upgrade))))
    }

    fn take(&self) -> Option<WebSocketUpgrade> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// True if the request asks for a WebSocket.
    pub fn is_requested(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Upgrades the connection; `serve` then gets the WebSocket. If the client is gone by then, `serve` is dropped.
    pub fn accept<F>(
        &self,
        serve: impl FnOnce(WebSocket) -> F + Send + 'static,
    ) -> Result<WebSocketAnswer, Error>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let upgrade = self.take();
        let upgrade = upgrade.ok_or_else(|| Error::internal("the request asks for no WebSocket"))?;
        Ok(upgrade.on_upgrade(serve).into())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PendingUpgrade {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// A layer that sends refusals over the WebSocket. Requests for none are answered as usual.
pub async fn refuse_in_websocket(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return next.run(Request::from_parts(parts, body)).await;
    };
    let pending = PendingUpgrade::new(upgrade);
    parts.extensions.insert(pending.clone());
    let response = next.run(Request::from_parts(parts, body)).await;
    let Some(upgrade) = pending.take() else {
        return response;
    };
    let cause = response.extensions().get::<ErrorCause>().cloned();
    let message = refusal_message(response).await;
    let mut response = upgrade.on_upgrade(move |mut socket| async move {
        // A client that is gone needs no message.
        let _ = socket.send(Message::text(message)).await;
        let _ = socket.send(close_message()).await;
    });
    if let Some(cause) = cause {
        response.extensions_mut().insert(cause);
    }
    response
}

async fn refusal_message(response: Response) -> String {
    if response.status() == StatusCode::UNAUTHORIZED {
        return "Error: Your session has expired, or you gave no token: log in and try again.\n".to_owned();
    }
    let body = axum::body::to_bytes(Body::new(response.into_body()), MAX_ERROR_BYTES).await;
    let body = body.unwrap_or_default();
    format!("Error: {}\n", String::from_utf8_lossy(&body).trim_end())
}

/// Returns the message that ends a WebSocket normally.
pub(super) fn close_message() -> Message {
    Message::Close(Some(CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    }))
}
