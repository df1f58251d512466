//! TLS in front of the proxy: handshakes, hostile ones too, and what a request over TLS is told.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::{ChallengeAnswer, HttpsHosts, HttpsPolicy};
use super::*;
use crate::net::{CertificateSet, CertificateTable, TlsTerminator, certified_key};

struct TlsProxy {
    plain: RunningProxy,
    addr: SocketAddr,
    table: Arc<CertificateTable>,
    roots: RootCertStore,
    serving: JoinHandle<()>,
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Starts a proxy that has a certificate for `blog.test`, on a plain listener and on one of TLS.
async fn start_tls_proxy(settings: ProxySettings, routes: HostRoutes) -> TlsProxy {
    let plain = start_proxy(settings, routes).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (table, key) = (
        Arc::new(CertificateTable::default()),
        certified_key(&["blog.test"]),
    );
    let mut roots = RootCertStore::empty();
    roots.add(key.cert[0].clone()).unwrap();
    table.replace_all(CertificateSet {
        certificates: vec![("blog.test".to_owned(), key)],
        ..CertificateSet::default()
    });
    let tls = TlsTerminator::new(Arc::clone(&table)).unwrap();
    let (proxy, cancel) = (plain.proxy.clone(), plain.cancel.clone());
    let serving = tokio::spawn(async move { proxy.serve_tls(listener, tls, cancel).await });
    TlsProxy {
        plain,
        addr,
        table,
        roots,
        serving,
    }
}

/// A client that trusts these certificates.
struct TlsProxyClient {
    roots: RootCertStore,
}

impl TlsProxyClient {
    async fn connect(
        &self,
        addr: SocketAddr,
        host: &str,
        protocol: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        within_deadline(self.connector(&[protocol]).connect(name, stream)).await
    }

    fn connector(&self, protocols: &[&str]) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

impl TlsProxy {
    fn connector(&self, protocols: &[&str]) -> TlsConnector {
        let roots = self.roots.clone();
        TlsProxyClient { roots }.connector(protocols)
    }

    async fn try_connect(&self, host: &str, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        within_deadline(self.connector(protocols).connect(name, stream)).await
    }

    async fn connect(&self, host: &str) -> TlsStream<TcpStream> {
        self.try_connect(host, &["http/1.1"]).await.unwrap()
    }

    async fn get(&self, lines: &str) -> String {
        let mut client = self.connect("blog.test").await;
        let request = format!("GET /x?y=1 HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n{lines}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within_deadline(client.read_to_string(&mut answer)).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn unit_is_told_that_the_client_used_tls() {
    let unit = head_echo_unit().await;
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let seen = rig.get("X-Forwarded-Proto: gopher\r\n").await;
    assert_eq!(status_of(&seen), "200");
    let (_, head) = seen.split_once("\r\n\r\n").unwrap();
    assert_eq!(header_value(head, "x-forwarded-proto"), Some("https"));
    assert_eq!(header_value(head, "x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn http2_is_chosen_by_alpn_and_only_if_offered() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let stream = rig.try_connect("blog.test", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, conn) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let driving = tokio::spawn(conn);
    let request = http::Request::get("https://blog.test/").body(http_body_util::Empty::<bytes::Bytes>::new());
    let answer = within_deadline(sender.send_request(request.unwrap()))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    driving.abort();
    let stream = rig.try_connect("blog.test", &[]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    assert!(rig.try_connect("blog.test", &["gopher"]).await.is_err());
}

#[tokio::test]
async fn unknown_hosts_get_no_certificate_and_leave_nothing() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    for host in ["other.test", "a.blog.test", "127.0.0.1", "test"] {
        let error = rig.try_connect(host, &["http/1.1"]).await.unwrap_err();
        let error = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        assert!(
            matches!(error, Some(rustls::Error::AlertReceived(_))),
            "{host}: {error:?}"
        );
    }
    assert_eq!(status_of(&rig.get("").await), "200");
    wait_until(|| rig.plain.proxy.read_stats().connections == 0).await;
}

#[tokio::test]
async fn slow_and_broken_handshakes_end_in_time() {
    let settings = ProxySettings {
        header_timeout: Duration::from_millis(300),
        max_connections_per_address: 4,
        ..ProxySettings::default()
    };
    let rig = start_tls_proxy(settings, blog_routes([])).await;
    // A record that never ends, one byte at a time; nothing; a record of rubbish; half a handshake.
    let hello: Vec<u8> = [0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb]
        .into_iter()
        .chain([0; 4000])
        .collect();
    let drip = async {
        let mut client = TcpStream::connect(rig.addr).await.unwrap();
        for byte in &hello {
            if client.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
    };
    within_deadline(drip).await;
    for bytes in [
        &[][..],
        &[0x16, 3, 1, 0, 4, 9, 9, 9, 9],
        &[0x80, 0x2e, 1, 3, 1],
        &hello[..200],
    ] {
        let mut client = TcpStream::connect(rig.addr).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = within_deadline(client.read_to_end(&mut rest)).await;
    }
    wait_until(|| rig.plain.proxy.read_stats().connections == 0).await;
    // One address may hold so many handshakes, and no more.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(TcpStream::connect(rig.addr).await.unwrap());
    }
    wait_until(|| rig.plain.proxy.read_stats().connections == 4).await;
    let mut over = TcpStream::connect(rig.addr).await.unwrap();
    assert_eq!(within_deadline(over.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn plain_http_on_the_port_of_tls_is_told_so() {
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([])).await;
    let answer = send_get(rig.addr, "blog.test", "").await;
    assert_eq!(status_of(&answer), "400");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        header_value(head, "content-length"),
        Some(body.len().to_string().as_str())
    );
    assert!(body.contains("https://"), "{body}");
}

#[tokio::test]
async fn connections_survive_a_change_of_certificates() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = rig.connect("blog.test").await;
    rig.table.replace_all(CertificateSet::default());
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    within_deadline(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("ok"), "{answer}");
    assert!(
        rig.try_connect("blog.test", &[]).await.is_err(),
        "a new one gets no certificate"
    );
}

#[tokio::test]
async fn tunnels_and_large_bodies_pass_through_tls() {
    const SIZE: usize = 3 << 20;
    let unit = raw_unit(|mut raw, _| async move {
        let head = raw.read_head().await;
        if header_value(&head, "upgrade").is_some() {
            raw.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
                .await;
            let text = raw.read_exact(4).await;
            raw.send(&text).await;
            return;
        }
        raw.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n{}",
            "x".repeat(SIZE)
        ))
        .await;
    })
    .await;
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    assert!(rig.get("").await.ends_with(&"x".repeat(SIZE)));
    let mut client = rig.connect("blog.test").await;
    let ask = b"GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    client.write_all(ask).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    let mut answer = String::new();
    let _ = within_deadline(client.read_to_string(&mut answer)).await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.ends_with("ping"),
        "{answer}"
    );
}

#[tokio::test]
async fn plain_requests_are_redirected_and_browsers_told_as_the_policy_says() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let settings = ProxySettings {
        https_port: 8443,
        ..ProxySettings::default()
    };
    let rig = start_tls_proxy(settings, blog_routes([unit.addr])).await;
    let plain = rig.plain.addr;
    assert_eq!(
        status_of(&send_get(plain, "blog.test", "").await),
        "200",
        "no policy yet"
    );
    let set = |policy| {
        let hosts: HttpsHosts = [("blog.test".to_owned(), policy)].into_iter().collect();
        rig.plain.proxy.set_https_hosts(hosts);
    };
    set(HttpsPolicy::default());
    let moved = send_get(plain, "Blog.Test:80", "X-Forwarded-Proto: https\r\n").await;
    assert_eq!(status_of(&moved), "308");
    assert_eq!(
        header_value(&moved, "location"),
        Some("https://blog.test:8443/x?y=1")
    );
    assert_eq!(header_value(&moved, "content-length"), Some("0"));
    let post = "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(status_of(&send_raw(plain, &format!("{post}GET")).await), "308");
    let proof = "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n";
    assert_eq!(status_of(&send_raw(plain, proof).await), "200");
    let over_tls = rig.get("").await;
    assert_eq!(status_of(&over_tls), "200");
    assert_eq!(header_value(&over_tls, "strict-transport-security"), None);
    set(HttpsPolicy {
        redirects: false,
        hsts_seconds: 600,
    });
    let answer = send_get(plain, "blog.test", "").await;
    assert_eq!(status_of(&answer), "200");
    assert_eq!(header_value(&answer, "strict-transport-security"), None);
    let over_tls = rig.get("").await;
    assert_eq!(
        header_value(&over_tls, "strict-transport-security"),
        Some("max-age=600")
    );
}

#[tokio::test]
async fn requests_that_a_trusted_proxy_received_over_tls_are_not_redirected() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let settings = ProxySettings {
        trust_forwarded: true,
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let hosts: HttpsHosts = [("blog.test".to_owned(), HttpsPolicy::default())]
        .into_iter()
        .collect();
    rig.proxy.set_https_hosts(hosts);
    let over_tls = send_get(rig.addr, "blog.test", "X-Forwarded-Proto: https\r\n").await;
    assert_eq!(status_of(&over_tls), "200");
    let plain = send_get(rig.addr, "blog.test", "X-Forwarded-Proto: http\r\n").await;
    assert_eq!(header_value(&plain, "location"), Some("https://blog.test/x?y=1"));
}

#[tokio::test]
async fn handshakes_end_when_the_proxy_stops() {
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([])).await;
    let mut waiting = TcpStream::connect(rig.addr).await.unwrap();
    waiting.write_all(&[0x16, 3, 1]).await.unwrap();
    wait_until(|| rig.plain.proxy.read_stats().connections == 1).await;
    rig.plain.cancel.cancel();
    assert_eq!(within_deadline(waiting.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn authority_gets_proofs_and_only_for_their_host() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp").await;
    let rig = start_tls_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let answer = ChallengeAnswer {
        host: "blog.test".to_owned(),
        text: "x.proof".to_owned(),
    };
    rig.plain.proxy.set_challenges([("x".to_owned(), answer)].into());
    let ask = async |host: &str, token: &str| {
        let line = format!(
            "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        send_raw(rig.plain.addr, &line).await
    };
    assert!(ask("Blog.test", "x").await.ends_with("x.proof"));
    assert!(
        ask("blog.test", "y").await.ends_with("app"),
        "an app may prove its hosts itself"
    );
    assert_eq!(status_of(&ask("other.test", "x").await), "404");
    let proof = certified_key(&["blog.test"]);
    rig.table.replace_all(CertificateSet {
        proofs: [("blog.test".to_owned(), proof.clone())].into(),
        ..CertificateSet::default()
    });
    let mut roots = RootCertStore::empty();
    roots.add(proof.cert[0].clone()).unwrap();
    let asking = TlsProxyClient { roots };
    let mut stream = asking.connect(rig.addr, "blog.test", "acme-tls/1").await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(
        within_deadline(stream.read_to_end(&mut rest)).await.unwrap(),
        0,
        "nothing else is served"
    );
    assert!(
        asking
            .connect(rig.addr, "other.test", "acme-tls/1")
            .await
            .is_err()
    );
    assert!(asking.connect(rig.addr, "blog.test", "http/1.1").await.is_err());
}
