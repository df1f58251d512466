//! A small server of files, for apps of the platform `static`: this program, re-executed as
//! `static-server <dir>` in a unit.
//!
//! It serves GET and HEAD below one folder: `index.html` for folders, `404.html` for what is not there,
//! `304` for what has not changed. Names that begin with a dot are never served, except `.well-known`,
//! nor is anything that a link leads to outside. It lists nothing and writes nothing.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, IF_MODIFIED_SINCE, LAST_MODIFIED, LOCATION,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::fs::File;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

type Body = BoxBody<Bytes, io::Error>;

/// How long a connection may stay without a request.
const IDLE: Duration = Duration::from_secs(90);
/// How long answers may take to end when we stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// HTTP dates, always in GMT.
const DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// Serves `dir` on all addresses until SIGTERM or SIGINT, then lets running answers end. Brings its own
/// runtime. Errors: the folder is not there, the port is taken.
pub fn main(dir: &Path, port: u16) -> io::Result<()> {
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
            served = serve(dir, listener, stop.clone()) => served,
            () = signalled => Ok(()),
        }
    })
}

/// Serves `dir` on a listener until the token is cancelled.
pub async fn serve(dir: &Path, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
    let root = dir.canonicalize()?;
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, mostly: let some connections end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let root = root.clone();
        let answer = service_fn(move |request| {
            let root = root.clone();
            async move { Ok::<_, Infallible>(respond(&root, &request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), answer);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away is its own affair.
            let _ = connection.await;
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(PATIENCE) => {}
    }
    Ok(())
}

async fn respond<B>(root: &Path, request: &Request<B>) -> Response<Body> {
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        let mut answer = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "Only GET and HEAD are served here.\n",
        );
        answer
            .headers_mut()
            .insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let mut answer = match find(root, request.uri().path()).await {
        Found::File(path) => file(&path, StatusCode::OK, since(request)).await,
        Found::Folder(location) => redirect(&location, request.uri().query()),
        Found::Nothing => not_found(root).await,
    };
    if head {
        *answer.body_mut() = empty();
    }
    answer
}

enum Found {
    File(PathBuf),
    /// A folder asked for without its last slash; the path with it.
    Folder(String),
    Nothing,
}

/// The file that a path of a URL names, if it may be served.
async fn find(root: &Path, url: &str) -> Found {
    let Ok(path) = percent_encoding::percent_decode_str(url).decode_utf8() else {
        return Found::Nothing;
    };
    let mut file = root.to_owned();
    let mut plain = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let hidden = part.starts_with('.') && part != ".well-known";
        if hidden || part.contains(['\0', '\\']) {
            return Found::Nothing;
        }
        file.push(part);
        plain.push('/');
        plain.extend(percent_encoding::utf8_percent_encode(
            part,
            percent_encoding::NON_ALPHANUMERIC,
        ));
    }
    let Ok(found) = tokio::fs::metadata(&file).await else {
        return Found::Nothing;
    };
    if found.is_dir() {
        if !path.ends_with('/') {
            return Found::Folder(plain + "/");
        }
        file.push("index.html");
    } else if path.ends_with('/') {
        return Found::Nothing;
    }
    // Links may lead about in the folder, not out of it, nor to what is hidden in it.
    match tokio::fs::canonicalize(&file).await {
        Ok(real) if is_open(root, &real) => Found::File(real),
        _ => Found::Nothing,
    }
}

fn is_open(root: &Path, real: &Path) -> bool {
    real.strip_prefix(root).is_ok_and(|rest| {
        rest.iter()
            .all(|part| part == ".well-known" || !part.as_encoded_bytes().starts_with(b"."))
    })
}

async fn file(path: &Path, status: StatusCode, since: Option<SystemTime>) -> Response<Body> {
    let opened = async {
        let file = File::open(path).await?;
        let found = file.metadata().await?;
        if found.is_file() {
            Ok((file, found))
        } else {
            Err(io::Error::other("not a file"))
        }
    };
    let Ok((file, found)) = opened.await else {
        return text(StatusCode::NOT_FOUND, "Not found.\n");
    };
    let modified = found.modified().ok();
    let mut answer = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type(path))
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(CACHE_CONTROL, "no-cache");
    if let Some(modified) = modified {
        answer = answer.header(
            LAST_MODIFIED,
            DateTime::<Utc>::from(modified).format(DATE).to_string(),
        );
    }
    let unchanged = since
        .zip(modified)
        .is_some_and(|(since, modified)| whole_seconds(modified) <= since);
    let answer = if unchanged && status == StatusCode::OK {
        answer.status(StatusCode::NOT_MODIFIED).body(empty())
    } else {
        let frames = ReaderStream::with_capacity(file, 64 << 10).map_ok(Frame::data);
        answer
            .header(CONTENT_LENGTH, found.len())
            .body(StreamBody::new(frames).boxed())
    };
    answer.expect("the headers are well-formed")
}

async fn not_found(root: &Path) -> Response<Body> {
    let page = root.join("404.html");
    match tokio::fs::canonicalize(&page).await {
        Ok(real) if is_open(root, &real) => file(&real, StatusCode::NOT_FOUND, None).await,
        _ => text(StatusCode::NOT_FOUND, "Not found.\n"),
    }
}

fn redirect(location: &str, query: Option<&str>) -> Response<Body> {
    let location = match query {
        Some(query) => format!("{location}?{query}"),
        None => location.to_owned(),
    };
    let mut answer = text(StatusCode::MOVED_PERMANENTLY, "The folder ends with a slash.\n");
    if let Ok(location) = location.try_into() {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

fn text(status: StatusCode, words: &'static str) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Full::from(words).map_err(|never| match never {}).boxed())
        .expect("the headers are well-formed")
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// What `If-Modified-Since` says, in the one form that clients send.
fn since<B>(request: &Request<B>) -> Option<SystemTime> {
    let text = request.headers().get(IF_MODIFIED_SINCE)?.to_str().ok()?;
    let time = chrono::NaiveDateTime::parse_from_str(text, DATE).ok()?;
    Some(time.and_utc().into())
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn content_type(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "atom" => "application/atom+xml",
        "rss" => "application/rss+xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        _ => "application/octet-stream",
    }
}
