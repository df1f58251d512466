//! Guards a route: bounds the time, authenticates the caller, and refuses requests that the route's policy
//! does not admit.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::LengthLimitError;

use crate::caller_limits::caller_key;
use crate::core::Core;
use crate::http::client_address::find_client_address;
use crate::http::holding::HoldingBody;
use crate::http::local_peers;
use crate::http::request_log::RequestId;
use crate::kernel::error::Error;
use crate::kernel::fair_slots::FairSlot;
use crate::kernel::request_context::{Actor, RequestContext, TokenKind};
use crate::kernel::secret::Secret;
use crate::users::{self, tokens};
use crate::web::errors::{classic, modern};
use crate::web::route_table::{AuthPolicy, RouteInfo};
use crate::web::{self, form_parts, text_check};

/// The settings and the route's properties that the guard needs.
#[derive(Clone)]
pub(super) struct RequestGuard {
    core: Core,
    auth_policy: AuthPolicy,
    modern: bool,
    uploads: bool,
    takes_file: bool,
    asks_service: bool,
    refuses_apps: bool,
}

impl RequestGuard {
    pub(super) fn new(core: Core, route: &RouteInfo) -> Self {
        Self {
            core,
            auth_policy: route.auth_policy,
            modern: route.modern,
            uploads: route.uploads,
            takes_file: route.takes_file,
            asks_service: route.asks_service,
            refuses_apps: route.refuses_apps,
        }
    }

    /// Returns how long a request may take. A route that calls a service also has the time of two service
    /// calls: the call may be repeated with the other spelling of an address, and its effect may have to be
    /// undone. So the caller gets the service's result, or the error that it did not respond, and not a
    /// time-out of the API.
    fn time_limit(&self) -> Duration {
        let settings = &self.core.settings;
        match self.asks_service {
            true => settings.api.request_timeout + settings.services.call_timeout * 2,
            false => settings.api.request_timeout,
        }
    }

    /// Checks the length that the client declares in Content-Length. A body without one is counted while it
    /// is read.
    fn check_declared_length(&self, headers: &HeaderMap) -> Option<Error> {
        let api = &self.core.settings.api;
        let most = match self.uploads {
            true => api.max_upload_bytes.0,
            false => api.max_body_bytes.0,
        };
        let length: u64 = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
        // The multipart framing of an upload does not count towards the handler's limit.
        let frame = if self.uploads { 64 << 10 } else { 0 };
        (length > most.saturating_add(frame)).then(|| {
            Error::too_large(format!(
                "The body is larger than the {most} bytes that this server accepts."
            ))
        })
    }

    fn error_response(&self, error: Error) -> Response {
        let mut response = match self.modern {
            true => modern::ModernError(error).into_response(),
            false => classic::ClassicError(error).into_response(),
        };
        if self.auth_policy == AuthPolicy::UserTokenOrPassword
            && response.status() == StatusCode::UNAUTHORIZED
        {
            let challenge = HeaderValue::from_static("Basic realm=\"tancho\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Passes a request on with its `RequestContext`, within the deadline.
pub(super) async fn guard_request(
    State(guard): State<RequestGuard>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    if let Err(error) = text_check::check_uri(&parts.uri) {
        return guard.error_response(error);
    }
    let params = RawPathParams::from_request_parts(&mut parts, &()).await.ok();
    let app = params
        .iter()
        .flatten()
        .find(|(name, _)| *name == "app")
        .map(|(_, value)| value.to_owned());
    // One deadline for everything, because a hanging database may also hang the authentication.
    let deadline = tokio::time::Instant::now() + guard.time_limit();
    let admitted = authenticate_request(&guard, &parts.headers, &parts.extensions, app.as_deref());
    let call = match tokio::time::timeout_at(deadline, admitted).await {
        Ok(Ok(call)) => call,
        Ok(Err(error)) => return guard.error_response(error),
        Err(_) => {
            return guard.error_response(Error::unavailable(
                "The database does not respond; nothing was changed. Try again in a moment.",
            ));
        }
    };
    let slot = match take_slot(&guard.core, &call) {
        Ok(slot) => slot,
        Err(error) => return guard.error_response(error),
    };
    if let Some(error) = guard.check_declared_length(&parts.headers) {
        return guard.error_response(error);
    }
    parts.extensions.insert(call);
    let request = Request::from_parts(parts, body);
    let response = match guard.uploads {
        true => next.run(request).await,
        false => answer_within(deadline, &guard, request, next).await,
    };
    // A streamed response holds its slot until it has ended or the client has disconnected.
    match slot {
        Some(slot) => response.map(|body| Body::new(HoldingBody::new(body, slot))),
        None => response,
    }
}

async fn answer_within(
    deadline: tokio::time::Instant,
    guard: &RequestGuard,
    request: Request,
    next: Next,
) -> Response {
    let answer = async {
        match read_checked_body(guard, request).await {
            Ok(request) => next.run(request).await,
            Err(error) => guard.error_response(error),
        }
    };
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(response) => response,
        Err(_) => guard.error_response(Error::unavailable(
            "The request timed out; the operation continues in the background. Check its result in a moment.",
        )),
    }
}

/// Takes one of the caller's slots for concurrent requests, before anything is changed. Anonymous callers
/// need none: their requests are short, and health checks must never be refused. Errors: `TooMany`.
fn take_slot(core: &Core, call: &RequestContext) -> Result<Option<FairSlot<String>>, Error> {
    if matches!(call.actor, Actor::Nobody | Actor::Internal) {
        return Ok(None);
    }
    match core.caller_limits.requests.try_acquire(&caller_key(call)) {
        Some(slot) => Ok(Some(slot)),
        None => Err(Error::too_many(
            "You have too many concurrent requests; nothing was changed. Wait until one of them has ended, then \
             try again in a second.",
        )),
    }
}

/// Reads the body and checks that it is text, so that handlers do not have to. Errors: `TooLarge`, `Invalid`.
async fn read_checked_body(guard: &RequestGuard, request: Request) -> Result<Request, Error> {
    let (parts, body) = request.into_parts();
    let most = usize::try_from(guard.core.settings.api.max_body_bytes.0).unwrap_or(usize::MAX);
    let body = axum::body::to_bytes(body, most).await.map_err(|error| {
        let is_too_long = error.source().is_some_and(|cause| cause.is::<LengthLimitError>());
        match is_too_long {
            true => Error::too_large("The body is larger than this server accepts."),
            false => Error::invalid("The body could not be read to its end.").with_source(error),
        }
    })?;
    let content_type = web::content_type(&parts.headers);
    if !(guard.takes_file && form_parts::is_multipart(&content_type)) {
        text_check::check_body(&content_type, &body)?;
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

async fn authenticate_request(
    guard: &RequestGuard,
    headers: &HeaderMap,
    extensions: &axum::http::Extensions,
    app: Option<&str>,
) -> Result<RequestContext, Error> {
    let request_id = extensions
        .get::<RequestId>()
        .map_or_else(|| Arc::from(""), |id| Arc::clone(&id.0));
    let mut call = RequestContext {
        actor: Actor::Nobody,
        grants: Arc::new([]),
        token_kind: TokenKind::None,
        token_digest: None,
        request_id,
        source_ip: Arc::from(source_ip(guard, headers, extensions)),
    };
    if let Some(token) = bearer_token(headers)
        && let Some((digest, known)) = tokens::authenticate_token(&guard.core, &token).await?
    {
        call.actor = known.actor;
        call.grants = known.grants;
        call.token_kind = known.token_kind;
        call.token_digest = Some(digest);
    }
    if guard.auth_policy == AuthPolicy::UserTokenOrPassword
        && call.actor == Actor::Nobody
        && let Some((name, password)) = basic_credentials(headers)
        && let Some(known) = users::authenticate_basic(&guard.core, &call, &name, &password).await?
    {
        call = known;
    }
    if guard.refuses_apps {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        local_peers::refuse_app_registration(&guard.core, &call, peer, extensions.get().copied()).await?;
    }
    let denied = || {
        Error::unauthenticated(match guard.auth_policy {
            AuthPolicy::UserTokenOrPassword => {
                "Give a token as the password, or your e-mail address and its password."
            }
            _ => "You must provide a valid Authorization header",
        })
    };
    match (guard.auth_policy, &call.actor) {
        (AuthPolicy::Public, _) => Ok(call),
        (_, Actor::Nobody | Actor::Internal) => Err(denied()),
        (AuthPolicy::AnyToken, _)
        | (
            AuthPolicy::UserToken | AuthPolicy::UserTokenOrPassword | AuthPolicy::UserOrAppToken,
            Actor::User { .. } | Actor::TeamToken { .. },
        ) => Ok(call),
        (AuthPolicy::UserOrAppToken, Actor::App { name, .. }) if Some(name.as_str()) == app => Ok(call),
        (AuthPolicy::UserWithPermission(permission), Actor::User { .. } | Actor::TeamToken { .. })
            if call.has_permission_anywhere(permission) =>
        {
            Ok(call)
        }
        (AuthPolicy::UserWithPermission(_), Actor::User { .. } | Actor::TeamToken { .. }) => {
            Err(Error::forbidden("You don't have permission to do this action"))
        }
        (_, Actor::App { .. }) => Err(Error::forbidden("The token of an app cannot be used here.")),
    }
}

/// Returns the token: the last of one or two words of the header (contract/classic 0.2).
fn bearer_token(headers: &HeaderMap) -> Option<Secret> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        [token] | [_, token] if !token.is_empty() && token.len() <= 256 => Some(Secret::new(*token)),
        _ => None,
    }
}

/// Returns the name and password of Basic authentication.
fn basic_credentials(headers: &HeaderMap) -> Option<(String, Secret)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, coded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok()?;
    let (name, password) = plain.split_once(':').filter(|_| !plain.contains('\0'))?;
    Some((name.to_owned(), Secret::new(password)))
}

/// Returns the caller's address as a string; empty if the connection is unknown.
fn source_ip(guard: &RequestGuard, headers: &HeaderMap, extensions: &axum::http::Extensions) -> String {
    let trusted = &guard.core.settings.api.trusted_proxies;
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| find_client_address(peer.ip(), headers, trusted).to_string())
        .unwrap_or_default()
}
