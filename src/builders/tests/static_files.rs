//! The server of files, over a real connection.

use std::os::unix::fs::symlink;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Sends a request just as it is; answers status, head and body.
async fn ask(port: u16, method: &str, path: &str, header: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn files_are_served_and_nothing_else() {
    let home = Home::new();
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let server = tokio::spawn({
        let (root, stop) = (root.clone(), stop.clone());
        async move { static_server::serve(&root, listener, stop).await }
    });

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
        let (found, _, text) = ask(port, "GET", path, "").await;
        assert_eq!((found, text.as_str()), (status, body), "{path}");
    }

    let (status, head, body) = ask(port, "HEAD", "/app.js", "").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(
        head.contains("content-length: 4") && head.contains("text/javascript"),
        "{head}"
    );
    let modified = head.lines().find(|l| l.starts_with("last-modified")).unwrap();
    let date =
        chrono::DateTime::<chrono::Utc>::from(fs::metadata(root.join("app.js")).unwrap().modified().unwrap());
    let date = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    assert!(modified.ends_with(&date.to_ascii_lowercase()));
    let (status, _, body) = ask(port, "GET", "/app.js", &format!("If-Modified-Since: {date}\r\n")).await;
    assert_eq!((status, body.as_str()), (304, ""));

    assert_eq!(ask(port, "POST", "/", "Content-Length: 0\r\n").await.0, 405);
    let (status, head, _) = ask(port, "GET", "//sub%20dir?a=b", "").await;
    assert_eq!(status, 301);
    assert!(head.contains("location: /sub%20dir/?a=b\r\n"), "{head}");

    fs::write(root.join("404.html"), "gone").unwrap();
    let (status, _, body) = ask(port, "GET", "/nothing", "").await;
    assert_eq!((status, body.as_str()), (404, "gone"));

    stop.cancel();
    server.await.unwrap().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}
