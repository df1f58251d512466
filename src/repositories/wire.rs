//! Git's smart HTTP protocol: the ref advertisement, then the service request. The same in both editions of
//! the API.

use std::convert::Infallible;
use std::io::Write;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use flate2::write::GzDecoder;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::request_context::RequestContext;
use crate::repositories::actions::{self, RemoteReplica, RepositoryLocation};
use crate::repositories::git_session::{self, GitProtocol, GitSession};
use crate::repositories::http_push::HttpPush;
use crate::repositories::model::GitService;
use crate::repositories::waiting::NoProgress;
use crate::web::answers::ForwardedAnswer;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserTokenOrPassword;
use crate::web::route_table::{GET, POST, RouteTable};
use crate::web::{Ctx, Path};

/// The compressed input per step; it may expand a thousandfold.
const GZIP_CHUNK: usize = 4 * 1024;
/// The buffer between the request body and git, for pushes.
const CHUNK: usize = 64 * 1024;
/// Buffered response chunks per client.
const RESPONSE_BUFFER: usize = 8;
/// The limit on fetch requests, which list the objects that the client has.
const MAX_FETCH_REQUEST_BYTES: u64 = 64 << 20;
/// What a push may contain besides objects: its ref updates.
const PUSH_OVERHEAD_BYTES: u64 = 4 << 20;

/// Request headers that are forwarded to another replica, besides the client's address.
const FORWARDED_HEADERS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::ACCEPT,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::USER_AGENT,
    GIT_PROTOCOL_HEADER,
];
/// Response headers that are returned to the client.
const RETURNED_HEADERS: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    header::CACHE_CONTROL,
    header::WWW_AUTHENTICATE,
];
const GIT_PROTOCOL_HEADER: HeaderName = HeaderName::from_static("git-protocol");
/// Marks a forwarded request, which is not forwarded again.
const FORWARDED_MARKER: HeaderName = HeaderName::from_static("tancho-passed-on");

/// `GET /git/{app}.git/info/refs?service=…`
pub async fn advertise_refs(
    ctx: Ctx,
    Path(name): Path<String>,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    let query = request.uri().query();
    let named = query.and_then(|query| query.strip_prefix("service="));
    let service = named
        .and_then(GitService::parse)
        .filter(|service| *service != GitService::UploadArchive)
        .ok_or_else(|| {
            Error::forbidden("This server speaks the smart protocol only: use git 1.6.6 or later.")
        })?;
    let repository = match actions::find_or_create_repository(&ctx.core, &ctx.request, &name, service).await?
    {
        RepositoryLocation::Local(repository) => repository,
        RepositoryLocation::Remote(elsewhere) => {
            return forward_request(&ctx.core, &ctx.request, &elsewhere, request).await;
        }
    };
    let has = git_session::advertise_refs(
        &ctx.core,
        &ctx.request,
        &repository,
        request_protocol(service, request.headers()),
    )
    .await?;
    let line = format!("# service={}\n", service.program_name());
    let mut text = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    text.extend_from_slice(&has);
    Ok(git_response(service, "advertisement", Body::from(text)).into())
}

/// `POST /git/{app}.git/git-upload-pack`
pub async fn upload_pack(
    ctx: Ctx,
    Path(name): Path<String>,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    serve_git(&ctx.core, &ctx.request, &name, GitService::UploadPack, request).await
}

/// `POST /git/{app}.git/git-receive-pack`
pub async fn receive_pack(
    ctx: Ctx,
    Path(name): Path<String>,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    serve_git(&ctx.core, &ctx.request, &name, GitService::ReceivePack, request).await
}

/// Forwards the request to the replica that has the repository.
async fn forward_request(
    core: &Core,
    call: &RequestContext,
    elsewhere: &RemoteReplica,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    let (parts, body) = request.into_parts();
    let (Some(url), None) = (&elsewhere.url, parts.headers.get(FORWARDED_MARKER)) else {
        return Err(elsewhere.wrong_host_error(core).into());
    };
    let mut headers = select_headers(&parts.headers, &FORWARDED_HEADERS);
    headers.insert(FORWARDED_MARKER, HeaderValue::from_static("yes"));
    if let Ok(source) = HeaderValue::from_str(&call.source_ip) {
        headers.insert("x-forwarded-for", source);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{url}{path}");
    let asked = core
        .outbound
        .forward_to_replica(parts.method, &url, headers, body.into_data_stream());
    let answer = asked.await.map_err(|error| {
        Error::unavailable(format!(
            "The host {}, which has this repository, does not respond: try again when it is back.",
            elsewhere.host
        ))
        .with_source(error)
    })?;
    let (status, headers) = (
        answer.status(),
        select_headers(answer.headers(), &RETURNED_HEADERS),
    );
    Ok((status, headers, Body::from_stream(answer.bytes_stream()))
        .into_response()
        .into())
}

fn select_headers(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let found = names
        .iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    found.collect()
}

fn git_response(service: GitService, what: &str, body: Body) -> Response {
    let content_type = format!("application/x-{}-{what}", service.program_name());
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (
            header::CACHE_CONTROL,
            "no-cache, max-age=0, must-revalidate".to_owned(),
        ),
    ];
    (headers, body).into_response()
}

fn request_protocol(service: GitService, headers: &HeaderMap) -> GitProtocol<'_> {
    GitProtocol {
        service,
        stateless: true,
        version: headers
            .get(GIT_PROTOCOL_HEADER)
            .and_then(|value| value.to_str().ok()),
    }
}

/// Runs the service for the client.
async fn serve_git(
    core: &Core,
    call: &RequestContext,
    name: &str,
    service: GitService,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    let repository = match actions::find_or_create_repository(core, call, name, service).await? {
        RepositoryLocation::Local(repository) => repository,
        RepositoryLocation::Remote(elsewhere) => {
            return forward_request(core, call, &elsewhere, request).await;
        }
    };
    let (parts, body) = request.into_parts();
    let is = |name: HeaderName, values: &[&str]| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| values.contains(&value))
    };
    let kind = format!("application/x-{}-request", service.program_name());
    if !is(header::CONTENT_TYPE, &[&kind]) {
        return Err(
            Error::invalid(format!("This endpoint is for git: send the content type {kind}.")).into(),
        );
    }
    let limit = match service {
        GitService::UploadPack | GitService::UploadArchive => MAX_FETCH_REQUEST_BYTES,
        // Git enforces the limit itself, with a better message.
        GitService::ReceivePack => core
            .settings
            .git
            .max_repository_bytes
            .0
            .saturating_add(PUSH_OVERHEAD_BYTES),
    };
    let packed = is(header::CONTENT_ENCODING, &["gzip", "x-gzip"]);
    let (sender, receiver) = mpsc::channel(RESPONSE_BUFFER);
    let protocol = request_protocol(service, &parts.headers);
    match service {
        GitService::UploadPack | GitService::UploadArchive => {
            let (session, stdin) =
                GitSession::start_session(core, call, &repository, protocol, &NoProgress).await?;
            core.tasks.spawn(feed_body(body, packed, limit, stdin));
            core.tasks.spawn(session.stream_output(sender));
        }
        GitService::ReceivePack => {
            let (plain, writer) = tokio::io::duplex(CHUNK);
            core.tasks.spawn(feed_body(body, packed, limit, writer));
            let push = HttpPush {
                core: core.clone(),
                call: call.clone(),
                repository: *repository,
                protocol: protocol.version.map(str::to_owned),
                sender,
            };
            core.tasks.spawn(push.receive_push(plain));
        }
    }
    let chunks = stream::unfold(receiver, |mut receiver| async move {
        let chunk: Result<Bytes, Infallible> = Ok(receiver.recv().await?);
        Some((chunk, receiver))
    });
    Ok(git_response(service, "result", Body::from_stream(chunks)).into())
}

/// Forwards the request body to git. What git no longer reads is discarded, so that the client reaches git's
/// error message.
async fn feed_body(body: Body, packed: bool, limit: u64, stdin: impl AsyncWrite + Unpin) {
    let mut chunks = body.into_data_stream();
    let mut unpacking = packed.then(|| GzDecoder::new(Vec::new()));
    let (mut stdin, mut count) = (Some(stdin), 0u64);
    while let Some(Ok(chunk)) = chunks.next().await {
        for part in chunk.chunks(if packed { GZIP_CHUNK } else { chunk.len().max(1) }) {
            let plain = match &mut unpacking {
                None => part.to_vec(),
                Some(decoder) => match decoder.write_all(part).and_then(|()| decoder.flush()) {
                    Ok(()) => std::mem::take(decoder.get_mut()),
                    // Git reports the missing rest.
                    Err(_) => return,
                },
            };
            count = count.saturating_add(plain.len() as u64);
            if count > limit {
                // The rest is discarded. Git has refused already, or reports that the rest is missing.
                stdin = None;
            }
            if let Some(pipe) = &mut stdin
                && pipe.write_all(&plain).await.is_err()
            {
                stdin = None;
            }
        }
    }
    if let (Some(decoder), Some(pipe)) = (&mut unpacking, &mut stdin)
        && decoder.try_finish().is_ok()
    {
        // Git may have exited.
        let _ = pipe.write_all(decoder.get_ref()).await;
    }
}

/// The routes of `git`, which belong to no edition.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/git/{repository}/info/refs", UserTokenOrPassword, advertise_refs)
        .add_route(POST, "/git/{repository}/git-upload-pack", UserTokenOrPassword, upload_pack)
        .accept_uploads()
        .add_route(POST, "/git/{repository}/git-receive-pack", UserTokenOrPassword, receive_pack)
        .accept_uploads()
}
