//! The context of a handler: the server's parts and the caller.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::core::Core;
use crate::events;
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::kernel::request_context::{Actor, RequestContext, TokenKind};
use crate::web::answers::ShapedAnswer;
use crate::web::stream::{self, StreamFormat};

/// The first argument of every handler.
#[derive(Clone)]
pub struct Ctx {
    pub core: Core,
    /// The caller, as admitted by the route's policy. Anonymous on a public route without a token.
    pub request: RequestContext,
}

impl Ctx {
    /// Streams the progress of an event. Errors: the event's failure before its first line.
    pub async fn stream_event<K>(
        &self,
        event: &EventId,
        format: StreamFormat,
    ) -> Result<ShapedAnswer<K>, Error> {
        let follower = events::follow_event(&self.core.db, &self.core.notices, event);
        Ok(stream::stream_event(event, follower, format).await?.into())
    }

    /// Waits until an event has ended. Errors: its failure.
    pub async fn wait_for_event(&self, event: &EventId) -> Result<(), Error> {
        let follower = events::follow_event(&self.core.db, &self.core.notices, event);
        follower.wait_for_outcome().await?.into_result()
    }
}

impl FromRequestParts<Core> for Ctx {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, core: &Core) -> Result<Self, Infallible> {
        let request = parts.extensions.get::<RequestContext>().cloned();
        Ok(Self {
            core: core.clone(),
            request: request.unwrap_or_else(|| RequestContext {
                actor: Actor::Nobody,
                grants: Arc::new([]),
                token_kind: TokenKind::None,
                ..RequestContext::new_internal()
            }),
        })
    }
}
