//! Git's smart HTTP: what a service has, then what is asked of it. The same in both editions.

use std::convert::Infallible;
use std::io::Write;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use flate2::write::GzDecoder;
use futures_util::{StreamExt, stream};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

use crate::core::Core;
use crate::http::kit::Caller;
use crate::http::wording::modern::Refusal;
use crate::kernel::call::Call;
use crate::kernel::problem::Problem;
use crate::repositories::actions::{self, Elsewhere, Place};
use crate::repositories::model::Service;
use crate::repositories::talk::{self, Manner, Talk};

/// Unpacked at a time; a thousand times as much may come out.
const PACKED: usize = 4 * 1024;
/// Chunks on their way to the client.
const AHEAD: usize = 8;
/// Of a request for what a client lacks: the names of what it has.
const LONGEST_REQUEST: u64 = 64 << 20;
/// Beside its objects, a push names what it moves.
const FRAME: u64 = 4 << 20;

/// What of a request another replica needs, beside where it comes from.
const PASSED_ON: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::ACCEPT,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::USER_AGENT,
    PROTOCOL,
];
/// What of its answer the client needs.
const PASSED_BACK: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    header::CACHE_CONTROL,
    header::WWW_AUTHENTICATE,
];
const PROTOCOL: HeaderName = HeaderName::from_static("git-protocol");
/// Marks what another replica has passed on: it goes no further.
const PASSED: HeaderName = HeaderName::from_static("tancho-passed-on");

/// `GET /git/{app}.git/info/refs?service=…`
pub async fn advertise(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query();
    let named = query.and_then(|query| query.strip_prefix("service="));
    let service = named
        .and_then(Service::parse)
        .filter(|service| *service != Service::UploadArchive)
        .ok_or_else(|| {
            Problem::forbidden("This server speaks the smart protocol only: use git 1.6.6 or later.")
        })?;
    let repository = match actions::find(&core, &call, &name, service).await? {
        Place::Here(repository) => repository,
        Place::There(elsewhere) => return pass_on(&core, &call, &elsewhere, request).await,
    };
    let has = talk::advertise(&core, &repository, manner(service, request.headers())).await?;
    let line = format!("# service={}\n", service.name());
    let mut text = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    text.extend_from_slice(&has);
    Ok(said(service, "advertisement", Body::from(text)))
}

/// `POST /git/{app}.git/git-upload-pack`
pub async fn upload_pack(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    serve(&core, &call, &name, Service::UploadPack, request).await
}

/// `POST /git/{app}.git/git-receive-pack`
pub async fn receive_pack(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    serve(&core, &call, &name, Service::ReceivePack, request).await
}

/// Lets the replica answer that has the repository.
async fn pass_on(
    core: &Core,
    call: &Call,
    elsewhere: &Elsewhere,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let (Some(url), None) = (&elsewhere.url, parts.headers.get(PASSED)) else {
        return Err(elsewhere.problem(core).into());
    };
    let mut headers = chosen(&parts.headers, &PASSED_ON);
    headers.insert(PASSED, HeaderValue::from_static("yes"));
    if let Ok(source) = HeaderValue::from_str(&call.source_ip) {
        headers.insert("x-forwarded-for", source);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{url}{path}");
    let asked = core
        .outbound
        .pass_on(parts.method, &url, headers, body.into_data_stream());
    let answer = asked.await.map_err(|error| {
        Problem::unavailable(format!(
            "The host {}, which has this repository, does not answer: try again when it is back.",
            elsewhere.host
        ))
        .because(error)
    })?;
    let (status, headers) = (answer.status(), chosen(answer.headers(), &PASSED_BACK));
    Ok((status, headers, Body::from_stream(answer.bytes_stream())).into_response())
}

fn chosen(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let found = names
        .iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    found.collect()
}

fn said(service: Service, what: &str, body: Body) -> Response {
    let content_type = format!("application/x-{}-{what}", service.name());
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (
            header::CACHE_CONTROL,
            "no-cache, max-age=0, must-revalidate".to_owned(),
        ),
    ];
    (headers, body).into_response()
}

fn manner(service: Service, headers: &HeaderMap) -> Manner<'_> {
    Manner {
        service,
        stateless: true,
        protocol: headers.get(PROTOCOL).and_then(|value| value.to_str().ok()),
    }
}

/// Starts the service and lets it speak with the client.
async fn serve(
    core: &Core,
    call: &Call,
    name: &str,
    service: Service,
    request: Request,
) -> Result<Response, Refusal> {
    let repository = match actions::find(core, call, name, service).await? {
        Place::Here(repository) => repository,
        Place::There(elsewhere) => return pass_on(core, call, &elsewhere, request).await,
    };
    let (parts, body) = request.into_parts();
    let is = |name: HeaderName, values: &[&str]| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| values.contains(&value))
    };
    let kind = format!("application/x-{}-request", service.name());
    if !is(header::CONTENT_TYPE, &[&kind]) {
        return Err(Problem::invalid("Only git asks here, with the content type of its own.").into());
    }
    let (talk, stdin) = Talk::start(core, call, &repository, manner(service, &parts.headers)).await?;
    let limit = match service {
        Service::UploadPack | Service::UploadArchive => LONGEST_REQUEST,
        // Git knows the limit of what comes in, and says so better.
        Service::ReceivePack => core.settings.git.max_repository_bytes.0.saturating_add(FRAME),
    };
    let packed = is(header::CONTENT_ENCODING, &["gzip", "x-gzip"]);
    core.tasks.spawn(feed(body, packed, limit, stdin));
    let (sender, receiver) = mpsc::channel(AHEAD);
    core.tasks.spawn(talk.hear(sender));
    let chunks = stream::unfold(receiver, |mut receiver| async move {
        let chunk: Result<Bytes, Infallible> = Ok(receiver.recv().await?);
        Some((chunk, receiver))
    });
    Ok(said(service, "result", Body::from_stream(chunks)))
}

/// Brings what the client sends to git. What git no longer reads is thrown away for a while, so that the
/// client comes to read why.
async fn feed(body: Body, packed: bool, limit: u64, stdin: ChildStdin) {
    let mut chunks = body.into_data_stream();
    let mut unpacking = packed.then(|| GzDecoder::new(Vec::new()));
    let (mut stdin, mut count) = (Some(stdin), 0u64);
    while let Some(Ok(chunk)) = chunks.next().await {
        for part in chunk.chunks(if packed { PACKED } else { chunk.len().max(1) }) {
            let plain = match &mut unpacking {
                None => part.to_vec(),
                Some(decoder) => match decoder.write_all(part).and_then(|()| decoder.flush()) {
                    Ok(()) => std::mem::take(decoder.get_mut()),
                    // Git misses the rest, and says so.
                    Err(_) => return,
                },
            };
            count = count.saturating_add(plain.len() as u64);
            if count > limit {
                // What comes now is thrown away. Git has refused already, or misses the rest and says so.
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
        // A git that has gone needs no rest.
        let _ = pipe.write_all(decoder.get_ref()).await;
    }
}
