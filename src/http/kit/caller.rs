//! The caller of a request, as the door has let them in.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::kernel::call::{Actor, Call, TokenKind};

/// Extracts the `Call` that the door made. Behind an open door that is nobody.
#[derive(Clone, Debug)]
pub struct Caller(pub Call);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let call = parts.extensions.get::<Call>().cloned();
        Ok(Self(call.unwrap_or_else(|| Call {
            actor: Actor::Nobody,
            grants: std::sync::Arc::new([]),
            token_kind: TokenKind::None,
            ..Call::internal()
        })))
    }
}
