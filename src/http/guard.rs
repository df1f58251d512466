//! The door of a route: finds out who calls and turns away who may not pass.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::core::Core;
use crate::http::table::{Door, Route};
use crate::http::trace::RequestId;
use crate::http::wording::{classic, modern};
use crate::kernel::call::{Actor, Call, TokenKind};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::users::{self, tokens};

/// What a door needs to know.
#[derive(Clone)]
pub(super) struct Guard {
    core: Core,
    door: Door,
    modern: bool,
    uploads: bool,
}

impl Guard {
    pub(super) fn new(core: Core, route: &Route) -> Self {
        Self {
            core,
            door: route.door,
            modern: route.modern,
            uploads: route.uploads,
        }
    }

    /// What a client says of a body that is larger than allowed is believed; what it does not say is counted
    /// while it is read.
    fn too_large(&self, headers: &HeaderMap) -> Option<Problem> {
        let api = &self.core.settings.api;
        let most = match self.uploads {
            true => api.max_upload_bytes.0,
            false => api.max_body_bytes.0,
        };
        let length: u64 = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
        // What frames an upload is not counted by who reads it.
        let frame = if self.uploads { 64 << 10 } else { 0 };
        (length > most.saturating_add(frame)).then(|| {
            Problem::too_large(format!(
                "The body is larger than the {most} bytes that this server accepts."
            ))
        })
    }

    fn refuse(&self, problem: Problem) -> Response {
        let mut response = match self.modern {
            true => modern::Refusal(problem).into_response(),
            false => classic::Refusal(problem).into_response(),
        };
        if self.door == Door::Basic && response.status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"tancho\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Lets a request pass with its `Call`, within the deadline.
pub(super) async fn pass(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let app = match RawPathParams::from_request_parts(&mut parts, &()).await {
        Ok(params) => params
            .iter()
            .find(|(name, _)| *name == "app")
            .map(|(_, value)| value.to_owned()),
        Err(_) => None,
    };
    // One deadline for all of it: a database that hangs may well do so while it is asked who calls.
    let deadline = tokio::time::Instant::now() + guard.core.settings.api.request_timeout;
    let admitted = admit(&guard, &parts.headers, &parts.extensions, app.as_deref());
    let call = match tokio::time::timeout_at(deadline, admitted).await {
        Ok(Ok(call)) => call,
        Ok(Err(problem)) => return guard.refuse(problem),
        Err(_) => {
            return guard.refuse(Problem::unavailable(
                "The database does not answer; nothing was changed. Try again in a moment.",
            ));
        }
    };
    if let Some(problem) = guard.too_large(&parts.headers) {
        return guard.refuse(problem);
    }
    parts.extensions.insert(call);
    let answer = next.run(Request::from_parts(parts, body));
    if guard.uploads {
        return answer.await;
    }
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(response) => response,
        Err(_) => guard.refuse(Problem::unavailable(
            "This took too long; what it began goes on. Look again in a moment.",
        )),
    }
}

async fn admit(
    guard: &Guard,
    headers: &HeaderMap,
    extensions: &axum::http::Extensions,
    app: Option<&str>,
) -> Result<Call, Problem> {
    let request_id = extensions
        .get::<RequestId>()
        .map_or_else(|| Arc::from(""), |id| Arc::clone(&id.0));
    let mut call = Call {
        actor: Actor::Nobody,
        grants: Arc::new([]),
        token_kind: TokenKind::None,
        token_digest: None,
        request_id,
        source_ip: Arc::from(source(guard, headers, extensions)),
    };
    if let Some(token) = bearer(headers)
        && let Some((digest, known)) = tokens::authenticate(&guard.core, &token).await?
    {
        call.actor = known.actor;
        call.grants = known.grants;
        call.token_kind = known.token_kind;
        call.token_digest = Some(digest);
    }
    if guard.door == Door::Basic
        && call.actor == Actor::Nobody
        && let Some((name, password)) = basic(headers)
        && let Some(known) = users::admit(&guard.core, &call, &name, &password).await?
    {
        call = known;
    }
    let denied = || {
        Problem::unauthenticated(match guard.door {
            Door::Basic => "Give a token as the password, or your e-mail address and its password.",
            _ => "You must provide a valid Authorization header",
        })
    };
    match (guard.door, &call.actor) {
        (Door::Open, _) => Ok(call),
        (_, Actor::Nobody | Actor::Internal) => Err(denied()),
        (Door::Token, _) | (Door::User | Door::Basic | Door::UserOrItsApp, Actor::User { .. }) => Ok(call),
        (Door::UserOrItsApp, Actor::App { name, .. }) if Some(name.as_str()) == app => Ok(call),
        (Door::May(permission), Actor::User { .. }) if call.may_somewhere(permission) => Ok(call),
        (Door::May(_), Actor::User { .. }) => {
            Err(Problem::forbidden("You don't have permission to do this action"))
        }
        (_, Actor::App { .. }) => Err(Problem::forbidden("The token of an app cannot be used here.")),
    }
}

/// The token: the last of one or two words of the header (contract/classic 0.2).
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        [token] | [_, token] if !token.is_empty() && token.len() <= 256 => Some(Secret::new(*token)),
        _ => None,
    }
}

/// Name and password of Basic auth.
fn basic(headers: &HeaderMap) -> Option<(String, Secret)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, coded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok()?;
    let (name, password) = plain.split_once(':')?;
    Some((name.to_owned(), Secret::new(password)))
}

/// The caller's address: the peer's, or the one that a trusted proxy names.
fn source(guard: &Guard, headers: &HeaderMap, extensions: &axum::http::Extensions) -> String {
    let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>() else {
        return String::new();
    };
    let trusted = |ip: IpAddr| {
        guard
            .core
            .settings
            .api
            .trusted_proxies
            .iter()
            .any(|network| network.contains(ip))
    };
    let mut ip = peer.ip();
    if !trusted(ip) {
        return ip.to_string();
    }
    let forwarded = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|v| v.to_str().ok());
    let hops: Vec<IpAddr> = forwarded
        .flat_map(|v| v.split(','))
        .filter_map(|hop| hop.trim().parse().ok())
        .collect();
    for hop in hops.into_iter().rev() {
        ip = hop;
        if !trusted(hop) {
            break;
        }
    }
    ip.to_string()
}
