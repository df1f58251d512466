//! Git's smart HTTP: what a service has, then what is asked of it. The same in both editions.

use std::convert::Infallible;
use std::io::Write;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
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
use crate::repositories::actions;
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

/// `GET /git/{app}.git/info/refs?service=…`
pub async fn advertise(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(repository): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let named = query.as_deref().and_then(|query| query.strip_prefix("service="));
        let service = named.and_then(Service::parse).ok_or_else(|| {
            Problem::forbidden("This server speaks the smart protocol only: use git 1.6.6 or later.")
        })?;
        let repository = actions::open(&core, &call, &repository, service).await?;
        let has = talk::advertise(&core, &repository, manner(service, &headers)).await?;
        let line = format!("# service={}\n", service.name());
        let mut text = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
        text.extend_from_slice(&has);
        Ok(said(service, "advertisement", Body::from(text)))
    };
    answer
        .await
        .unwrap_or_else(|problem| Refusal(problem).into_response())
}

/// `POST /git/{app}.git/git-upload-pack`
pub async fn upload_pack(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(repository): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = serve(&core, &call, &repository, Service::UploadPack, &headers, body).await;
    answer.unwrap_or_else(|problem| Refusal(problem).into_response())
}

/// `POST /git/{app}.git/git-receive-pack`
pub async fn receive_pack(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(repository): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = serve(&core, &call, &repository, Service::ReceivePack, &headers, body).await;
    answer.unwrap_or_else(|problem| Refusal(problem).into_response())
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
    let protocol = headers.get("git-protocol").and_then(|value| value.to_str().ok());
    Manner {
        service,
        stateless: true,
        protocol,
    }
}

/// Starts the service and lets it speak with the client.
async fn serve(
    core: &Core,
    call: &Call,
    repository: &str,
    service: Service,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let repository = actions::open(core, call, repository, service).await?;
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if kind != Some(format!("application/x-{}-request", service.name()).as_str()) {
        return Err(Problem::invalid(
            "Only git asks here, with the content type of its own.",
        ));
    }
    let (talk, stdin) = Talk::start(core, call, &repository, manner(service, headers)).await?;
    let limit = match service {
        Service::UploadPack => LONGEST_REQUEST,
        // Git knows the limit of what comes in, and says so better.
        Service::ReceivePack => core.settings.git.max_repository_bytes.0.saturating_add(FRAME),
    };
    let packed = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|value| value == "gzip" || value == "x-gzip");
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
