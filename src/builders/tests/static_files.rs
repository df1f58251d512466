//! The static file server, over a real connection.

use std::os::unix::fs::symlink;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Sends a request unchanged; returns status, head and body.
async fn send_request(port: u16, method: &str, path: &str, header: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Serves a folder; returns the port, the stop token, and the server task.
async fn start(
    root: &Path,
) -> (
    u16,
    CancellationToken,
    tokio::task::JoinHandle<std::io::Result<()>>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let server = tokio::spawn({
        let (root, stop) = (root.to_owned(), stop.clone());
        async move { static_server::serve_folder(&root, listener, stop).await }
    });
    (port, stop, server)
}

/// A header of a response.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn not_modified_is_sent_only_for_the_same_content() {
    let home = BuildFixture::new();
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut tags = Vec::new();
    // Two versions whose files have the same length and time, as from archives without times.
    for (version, text) in [("v1", "old code"), ("v2", "new code")] {
        let root = home.path(version);
        fs::create_dir(&root).unwrap();
        fs::write(root.join("app.js"), text).unwrap();
        fs::File::options()
            .write(true)
            .open(root.join("app.js"))
            .unwrap()
            .set_modified(time)
            .unwrap();
        let (port, stop, _) = start(&root).await;
        let (status, head, body) = send_request(port, "GET", "/app.js", "").await;
        assert_eq!((status, body.as_str()), (200, text));
        assert_eq!(header(&head, "last-modified"), None, "{head}");
        assert_eq!(header(&head, "cache-control"), Some("no-cache"));
        let tag = header(&head, "etag").unwrap().to_owned();
        // A browser that has the other version, or that asks by date.
        for other in &tags {
            let (status, _, body) =
                send_request(port, "GET", "/app.js", &format!("If-None-Match: {other}\r\n")).await;
            assert_eq!((status, body.as_str()), (200, text));
        }
        let late = "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n";
        assert_eq!(send_request(port, "GET", "/app.js", late).await.0, 200);
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let (status, head, body) =
                send_request(port, "GET", "/app.js", &format!("If-None-Match: {known}\r\n")).await;
            assert_eq!((status, body.as_str()), (304, ""), "{known}");
            assert_eq!(header(&head, "etag"), Some(tag.as_str()));
        }
        assert_eq!(
            send_request(port, "GET", "/app.js", "If-Match: \"x\"\r\n")
                .await
                .0,
            412
        );
        assert_eq!(
            send_request(port, "GET", "/app.js", &format!("If-Match: {tag}\r\n"))
                .await
                .0,
            200
        );
        tags.push(tag);
        stop.cancel();
    }
    assert_ne!(tags[0], tags[1]);
}

#[tokio::test]
async fn parts_of_files_and_compressed_ones_are_served() {
    let home = BuildFixture::new();
    let root = home.path("root");
    fs::create_dir(&root).unwrap();
    for (name, text) in [
        ("film.mp4", "0123456789"),
        ("app.css", "plain"),
        ("app.css.gz", "packed"),
        ("page.html", "<p>"),
        ("linked.txt", "plain"),
        ("empty", ""),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    fs::write(home.path("secret"), "secret").unwrap();
    symlink("../secret", root.join("linked.txt.gz")).unwrap();
    let (port, stop, _) = start(&root).await;
    let (_, head, _) = send_request(port, "GET", "/film.mp4", "").await;
    let tag = header(&head, "etag").unwrap().to_owned();
    assert_eq!(header(&head, "accept-ranges"), Some("bytes"), "{head}");
    assert_eq!(header(&head, "content-type"), Some("video/mp4"));
    for (range, status, body) in [
        ("Range: bytes=0-1\r\n".to_owned(), 206, "01"),
        ("Range: bytes=8-\r\n".to_owned(), 206, "89"),
        ("Range: bytes=-3\r\n".to_owned(), 206, "789"),
        ("Range: bytes=5-99\r\n".to_owned(), 206, "56789"),
        (format!("Range: bytes=0-1\r\nIf-Range: {tag}\r\n"), 206, "01"),
        (
            "Range: bytes=0-1\r\nIf-Range: \"other\"\r\n".to_owned(),
            200,
            "0123456789",
        ),
        (
            "Range: bytes=0-1\r\nIf-Range: Fri, 01 Jan 2100 00:00:00 GMT\r\n".to_owned(),
            200,
            "0123456789",
        ),
        ("Range: bytes=0-1,4-5\r\n".to_owned(), 200, "0123456789"),
        ("Range: lines=0-1\r\n".to_owned(), 200, "0123456789"),
        (format!("Range: bytes=0-1\r\nIf-None-Match: {tag}\r\n"), 304, ""),
    ] {
        let (found, head, text) = send_request(port, "GET", "/film.mp4", &range).await;
        assert_eq!((found, text.as_str()), (status, body), "{range}{head}");
    }
    let (status, head, _) = send_request(port, "GET", "/film.mp4", "Range: bytes=10-\r\n").await;
    assert_eq!(
        (status, header(&head, "content-range")),
        (416, Some("bytes */10"))
    );
    let (status, head, body) = send_request(port, "HEAD", "/film.mp4", "").await;
    assert_eq!(
        (status, header(&head, "content-length"), body.as_str()),
        (200, Some("10"), "")
    );
    assert_eq!(send_request(port, "GET", "/empty", "").await.0, 200);

    let (_, plain, _) = send_request(port, "GET", "/app.css", "").await;
    let (_, packed, body) = send_request(port, "GET", "/app.css", "Accept-Encoding: gzip, br\r\n").await;
    assert_eq!(
        (header(&packed, "content-encoding"), body.as_str()),
        (Some("gzip"), "packed")
    );
    assert_eq!(header(&packed, "content-type"), Some("text/css; charset=utf-8"));
    assert_eq!(header(&packed, "vary"), Some("accept-encoding"), "{packed}");
    assert_ne!(header(&plain, "etag"), header(&packed, "etag"));
    let (_, head, body) = send_request(port, "GET", "/linked.txt", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(
        (header(&head, "content-encoding"), body.as_str()),
        (None, "plain")
    );
    assert_eq!(header(&head, "content-type"), Some("text/plain; charset=utf-8"));
    stop.cancel();
}

#[tokio::test]
async fn files_are_served_and_nothing_else() {
    let home = BuildFixture::new();
    fs::write(home.path("secret.txt"), "secret").unwrap();
    let root = home.path("root");
    fs::create_dir_all(root.join("sub dir/.hidden")).unwrap();
    fs::create_dir_all(root.join(".well-known")).unwrap();
    for (name, text) in [
        ("index.html", "start"),
        ("app.js", "code"),
        (".env", "secret"),
        ("sub dir/index.html", "sub"),
        ("sub dir/.hidden/x", "secret"),
        (".well-known/x", "known"),
        ("empty", ""),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    fs::create_dir(root.join("bare")).unwrap();
    symlink("../secret.txt", root.join("out")).unwrap();
    symlink(".env", root.join("open-env")).unwrap();
    symlink("app.js", root.join("inside")).unwrap();
    let (port, stop, server) = start(&root).await;

    for (path, status, body) in [
        ("/", 200, "start"),
        ("/?q=1", 200, "start"),
        ("/index.html", 200, "start"),
        ("/app.js", 200, "code"),
        ("/inside", 200, "code"),
        ("/empty", 200, ""),
        ("/sub%20dir/", 200, "sub"),
        ("/.well-known/x", 200, "known"),
        ("/app.js/", 404, "Not found.\n"),
        ("/bare/", 404, "Not found.\n"),
        ("/nothing", 404, "Not found.\n"),
        ("/.env", 404, "Not found.\n"),
        ("/open-env", 404, "Not found.\n"),
        ("/%2eenv", 404, "Not found.\n"),
        ("/sub%20dir/.hidden/x", 404, "Not found.\n"),
        ("/out", 404, "Not found.\n"),
        ("/../secret.txt", 404, "Not found.\n"),
        ("/%2e%2e/secret.txt", 404, "Not found.\n"),
        ("/..%2fsecret.txt", 404, "Not found.\n"),
        ("/a/..%5c..%5csecret.txt", 404, "Not found.\n"),
        ("/app.js%00", 404, "Not found.\n"),
        ("/%ff", 404, "Not found.\n"),
    ] {
        let (found, _, text) = send_request(port, "GET", path, "").await;
        assert_eq!((found, text.as_str()), (status, body), "{path}");
    }

    let (status, head, body) = send_request(port, "HEAD", "/app.js", "").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(
        head.contains("content-length: 4") && head.contains("text/javascript"),
        "{head}"
    );
    assert_eq!(
        send_request(port, "POST", "/", "Content-Length: 0\r\n").await.0,
        405
    );
    let (status, head, _) = send_request(port, "GET", "//sub%20dir?a=b", "").await;
    assert_eq!(status, 301);
    assert!(head.contains("location: /sub%20dir/?a=b\r\n"), "{head}");

    fs::write(root.join("404.html"), "gone").unwrap();
    let (status, _, body) = send_request(port, "GET", "/nothing", "").await;
    assert_eq!((status, body.as_str()), (404, "gone"));

    stop.cancel();
    server.await.unwrap().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}
