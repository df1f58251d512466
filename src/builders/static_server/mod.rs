//! A small static file server for apps of the platform `static`: this program, re-executed as
//! `static-server <dir>` in a unit.
//!
//! `tower-http` serves the files: content types, ranges (`Range`), and precompressed variants (`.br`, `.gz`,
//! `.zst`). In front of it, a filter maps URLs to files: `index.html` for folders, `404.html` for missing
//! files, no name that begins with a dot (except `.well-known`), nothing outside that a link points to.
//! Behind it, validators are set that depend on the content alone: a browser must never get 304 for content
//! that it does not have, whatever the files' times are. The server lists no folders and writes nothing.

mod validators;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_RANGE, LAST_MODIFIED,
    LOCATION, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tower_http::services::ServeFile;

use validators::{ContentTags, PreconditionResult, check_preconditions};

type StaticBody = UnsyncBoxBody<Bytes, io::Error>;

/// How long a connection may stay idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long responses may take to finish on shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// File name extensions of precompressed files, by content encoding.
const ENCODINGS: [(&str, &str); 3] = [("br", ".br"), ("gzip", ".gz"), ("zstd", ".zst")];

/// The files that are served.
struct StaticSite {
    root: PathBuf,
    tags: ContentTags,
}

/// Serves `dir` on all addresses until SIGTERM or SIGINT, then lets running responses finish. Creates its own
/// runtime. Errors: the folder does not exist, or the port is in use.
pub fn run_server(dir: &Path, port: u16) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
        let stop = CancellationToken::new();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let signalled = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = serve_folder(dir, listener, stop.clone()) => served,
            () = signalled => Ok(()),
        }
    })
}

/// Serves `dir` on a listener until the token is cancelled.
pub async fn serve_folder(dir: &Path, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
    let site = Arc::new(StaticSite {
        root: dir.canonicalize()?,
        tags: ContentTags::default(),
    });
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Mostly out of descriptors: let some connections end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let site = site.clone();
        let service = service_fn(move |request| {
            let site = site.clone();
            async move { Ok::<_, Infallible>(handle_request(&site, &request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // Errors here come from clients that disconnect.
            let _ = connection.await;
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(SHUTDOWN_TIMEOUT) => {}
    }
    Ok(())
}

async fn handle_request<B>(site: &StaticSite, request: &Request<B>) -> Response<StaticBody> {
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        let mut response = text_response(
            StatusCode::METHOD_NOT_ALLOWED,
            "Only GET and HEAD are served here.\n",
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut response = match resolve_url(&site.root, request.uri().path()).await {
        UrlTarget::File(path) => match serve_file(site, &path, request.method(), request.headers()).await {
            Ok(response) => response,
            Err(_) => not_found_response(site).await,
        },
        UrlTarget::Folder(location) => redirect_response(&location, request.uri().query()),
        UrlTarget::Nothing => not_found_response(site).await,
    };
    if head {
        *response.body_mut() = empty_body();
    }
    response
}

enum UrlTarget {
    File(PathBuf),
    /// A folder requested without the trailing slash; the path with it.
    Folder(String),
    Nothing,
}

/// Resolves a URL path to a file that may be served.
async fn resolve_url(root: &Path, url: &str) -> UrlTarget {
    let Ok(path) = percent_encoding::percent_decode_str(url).decode_utf8() else {
        return UrlTarget::Nothing;
    };
    let mut file = root.to_owned();
    let mut plain = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let hidden = part.starts_with('.') && part != ".well-known";
        if hidden || part.contains(['\0', '\\']) {
            return UrlTarget::Nothing;
        }
        file.push(part);
        plain.push('/');
        plain.extend(percent_encoding::utf8_percent_encode(
            part,
            percent_encoding::NON_ALPHANUMERIC,
        ));
    }
    let Ok(found) = tokio::fs::metadata(&file).await else {
        return UrlTarget::Nothing;
    };
    if found.is_dir() {
        if !path.ends_with('/') {
            return UrlTarget::Folder(plain + "/");
        }
        file.push("index.html");
    } else if path.ends_with('/') {
        return UrlTarget::Nothing;
    }
    match is_servable(root, &file).await {
        true => UrlTarget::File(file),
        false => UrlTarget::Nothing,
    }
}

/// Returns whether a path is a file that may be served. Links may point inside the folder, but not out of it,
/// nor to hidden files.
async fn is_servable(root: &Path, file: &Path) -> bool {
    let plain = tokio::fs::metadata(file).await.is_ok_and(|found| found.is_file());
    plain
        && tokio::fs::canonicalize(file)
            .await
            .is_ok_and(|real| is_visible(root, &real))
}

fn is_visible(root: &Path, real: &Path) -> bool {
    real.strip_prefix(root).is_ok_and(|rest| {
        rest.iter()
            .all(|part| part == ".well-known" || !part.as_encoded_bytes().starts_with(b"."))
    })
}

/// Serves a file as the request's headers ask for it: a range, compressed, or only if it has changed.
async fn serve_file(
    site: &StaticSite,
    path: &Path,
    method: &Method,
    headers: &HeaderMap,
) -> io::Result<Response<StaticBody>> {
    let plain_tag = site.tags.tag_of(path).await?;
    let range = headers.get(RANGE).filter(|range| {
        let unit_known = range.as_bytes().starts_with(b"bytes=") && !range.as_bytes().contains(&b',');
        let same = headers.get(IF_RANGE).is_none_or(|tag| *tag == plain_tag);
        unit_known && same
    });
    let mut inner = Request::new(Empty::<Bytes>::new());
    *inner.method_mut() = method.clone();
    if let Some(range) = range {
        inner.headers_mut().insert(RANGE, range.clone());
    } else if let Some(accepted) = headers.get(ACCEPT_ENCODING)
        && precompressed_are_servable(&site.root, path).await
    {
        inner.headers_mut().insert(ACCEPT_ENCODING, accepted.clone());
    }
    let mut server = ServeFile::new(path)
        .precompressed_br()
        .precompressed_gzip()
        .precompressed_zstd();
    let mut response = server.try_call(inner).await?.map(|body| body.boxed_unsync());
    let encoding = response.headers().get(CONTENT_ENCODING).cloned();
    let tag = match ENCODINGS
        .iter()
        .find(|(name, _)| encoding.as_ref().is_some_and(|e| e == name))
    {
        Some((_, ending)) => site.tags.tag_of(&with_suffix(path, ending)).await?,
        None => plain_tag,
    };
    set_file_headers(&mut response);
    response.headers_mut().insert(ETAG, tag.clone());
    Ok(match check_preconditions(headers, &tag) {
        _ if !response.status().is_success() => response,
        PreconditionResult::Send => response,
        PreconditionResult::NotModified => without_body(response, StatusCode::NOT_MODIFIED),
        PreconditionResult::PreconditionFailed => without_body(response, StatusCode::PRECONDITION_FAILED),
    })
}

/// Sets the headers that every file has. No `Last-Modified`: after a rollback the older version would pass
/// for unchanged.
fn set_file_headers(response: &mut Response<StaticBody>) {
    let headers = response.headers_mut();
    headers.remove(LAST_MODIFIED);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let texts = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let texts = texts.filter(|kind| kind.starts_with("text/") && !kind.contains("charset"));
    if let Some(Ok(with_charset)) = texts.map(|kind| format!("{kind}; charset=utf-8").try_into()) {
        headers.insert(CONTENT_TYPE, with_charset);
    }
}

fn without_body(mut response: Response<StaticBody>, status: StatusCode) -> Response<StaticBody> {
    *response.status_mut() = status;
    *response.body_mut() = empty_body();
    for name in [http::header::CONTENT_LENGTH, http::header::CONTENT_RANGE] {
        response.headers_mut().remove(name);
    }
    response
}

/// Returns whether every precompressed variant of a file that exists may be served.
async fn precompressed_are_servable(root: &Path, path: &Path) -> bool {
    for (_, ending) in ENCODINGS {
        let compressed = with_suffix(path, ending);
        let is_there = tokio::fs::symlink_metadata(&compressed).await.is_ok();
        if is_there && !is_servable(root, &compressed).await {
            return false;
        }
    }
    true
}

fn with_suffix(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

async fn not_found_response(site: &StaticSite) -> Response<StaticBody> {
    let page = site.root.join("404.html");
    if is_servable(&site.root, &page).await
        && let Ok(mut response) = serve_file(site, &page, &Method::GET, &HeaderMap::new()).await
    {
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().remove(ETAG);
        return response;
    }
    text_response(StatusCode::NOT_FOUND, "Not found.\n")
}

fn redirect_response(location: &str, query: Option<&str>) -> Response<StaticBody> {
    let location = match query {
        Some(query) => format!("{location}?{query}"),
        None => location.to_owned(),
    };
    let mut response = text_response(StatusCode::MOVED_PERMANENTLY, "The folder ends with a slash.\n");
    if let Ok(location) = location.try_into() {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn text_response(status: StatusCode, words: &'static str) -> Response<StaticBody> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Full::from(words).map_err(|never| match never {}).boxed_unsync())
        .expect("the headers are well-formed")
}

fn empty_body() -> StaticBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
