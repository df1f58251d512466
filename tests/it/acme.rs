//! Certificates from a real authority: pebble.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tancho::config::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::certificates::{TestAuthority, connector, start_router_on};
use crate::pebble::PebbleServer;
use crate::swap::app_with_unit;
use crate::test_server::{TestServer, TestUser};

fn configure(settings: &mut Settings, pebble: &PebbleServer) {
    settings.acme.directory_url = pebble.directory_url();
    settings.acme.root_file = pebble.root_file();
    settings.acme.contact = "root@example.com".to_owned();
}

/// Returns the root of the certificates that pebble issues.
async fn read_root(pebble: &PebbleServer) -> CertificateDer<'static> {
    let own = std::fs::read_to_string(pebble.root_file()).unwrap();
    let own = CertificateDer::from_pem_slice(own.as_bytes()).unwrap();
    let stream = TcpStream::connect(pebble.management_address()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream = connector(own).connect(name, stream).await.unwrap();
    let ask = b"GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    CertificateDer::from_pem_slice(answer.as_bytes()).unwrap()
}

async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server that orders certificates, and a router.
struct AcmeFixture {
    tancho: TestServer,
    user: TestUser,
    pebble: PebbleServer,
    root: CertificateDer<'static>,
    tls: SocketAddr,
}

impl AcmeFixture {
    /// `None`: pebble is missing.
    async fn start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (plain, tls) = (listener.local_addr().unwrap(), https.local_addr().unwrap());
        let pebble = PebbleServer::start(plain, tls).await?;
        let tancho = TestServer::start_with(|settings| configure(settings, &pebble)).await;
        let user = tancho.login_admin().await;
        tancho.create_team(&user, "red").await;
        app_with_unit(&tancho, &user, "shop").await;
        start_router_on(&tancho, None, (listener, https)).await;
        Some(Self {
            tancho,
            user,
            root: read_root(&pebble).await,
            pebble,
            tls,
        })
    }

    async fn send(&self, method: Method, path: &str, form: &str) -> (u16, String) {
        let request = self.tancho.request_as(&self.user, method, path);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(form.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn add_cname(&self, host: &str) {
        let (status, text) = self
            .send(Method::POST, "/1.0/apps/shop/cname", &format!("cname={host}"))
            .await;
        assert_eq!(status, 200, "{text}");
    }

    async fn list(&self) -> Value {
        let list = self
            .tancho
            .read_json(&self.user, "/1.24/apps/shop/certificate")
            .await;
        list["routers"]["proxy"]["cnames"].clone()
    }

    /// Requests the app over TLS, trusting the authority; returns the certificate and the response.
    async fn get(&self, host: &str) -> std::io::Result<(CertificateDer<'static>, String)> {
        let stream = TcpStream::connect(self.tls).await?;
        let name = host.to_owned().try_into().unwrap();
        let mut stream = connector(self.root.clone()).connect(name, stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0]
            .clone()
            .into_owned();
        let ask = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok((certificate, answer))
    }

    async fn wait_for_certificate(&self, host: &str) -> CertificateDer<'static> {
        let (certificate, answer) = wait_for(host, async || self.get(host).await.ok()).await;
        assert!(answer.ends_with("shop"), "{answer}");
        certificate
    }

    async fn sql(&self, text: &str) {
        let query = sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned()));
        query.execute(&self.tancho.running.core.db).await.unwrap();
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what)
            .fetch_one(&self.tancho.running.core.db)
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cname_gets_a_certificate_by_itself_and_is_renewed_without_a_failed_request() {
    let Some(fixture) = AcmeFixture::start().await else {
        return;
    };
    fixture.add_cname("www.shop.test").await;
    let first = fixture.wait_for_certificate("www.shop.test").await;
    let list = fixture.list().await;
    assert_eq!(list["www.shop.test"]["issuer"], "letsencrypt");
    assert!(
        list["www.shop.test"]["certificate"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN")
    );
    // Renewed when a third of its life is left; by the other proof, as after a failure.
    let thirds = "select (3 * extract(epoch from (k.not_after - o.wake_at))
                    / extract(epoch from (k.not_after - k.not_before)) * 100)::bigint
                  from certificate_order o join certificate k using (host)";
    let part = fixture.count(thirds).await;
    assert!((99..=108).contains(&part), "{part}");
    for failures in [1, 0] {
        let before = fixture.get("www.shop.test").await.unwrap().0;
        fixture
            .sql(&format!(
                "update certificate_order set wake_at = now(), failures = {failures}; notify tancho_routes"
            ))
            .await;
        let mut requests = 0;
        wait_for("the renewal", async || {
            requests += 1;
            let (now, answer) = fixture.get("www.shop.test").await.unwrap();
            assert!(answer.ends_with("shop"), "{answer}");
            (now != before).then_some(())
        })
        .await;
        assert!(requests > 1);
    }
    assert_ne!(fixture.get("www.shop.test").await.unwrap().0, first);
    assert_eq!(
        fixture.count("select count(*) from certificate_challenge").await,
        0
    );
    assert_eq!(fixture.count("select count(*) from acme_account").await, 1);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_order_is_an_event_and_delays_no_other() {
    let Some(fixture) = AcmeFixture::start().await else {
        return;
    };
    fixture.add_cname("blocked.test").await;
    fixture.add_cname("www.shop.test").await;
    fixture.add_cname("*.wild.test").await;
    fixture.wait_for_certificate("www.shop.test").await;
    let refused = wait_for("the refusal", async || {
        let list = fixture.list().await;
        list["blocked.test"]["error"].as_str().map(str::to_owned)
    })
    .await;
    assert!(refused.starts_with("The authority refused:"), "{refused}");
    let list = fixture.list().await;
    assert_eq!(
        (
            &list["blocked.test"]["certificate"],
            &list["blocked.test"]["issuer"]
        ),
        (&json!(""), &json!("letsencrypt"))
    );
    assert_eq!(list["*.wild.test"], Value::Null, "a wildcard cannot be proven");
    let failed =
        "select count(*) from event where kind = 'app.update.certificate.set' and target_value = 'shop'
                  and error like 'The authority refused:%'";
    assert_eq!(fixture.count(failed).await, 1);
    let waits = "select count(*) from certificate_order where host = 'blocked.test' and failures = 1 and state = 'waiting'
                 and wake_at between now() + interval '50 seconds' and now() + interval '1 minute'";
    assert_eq!(fixture.count(waits).await, 1);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_account_and_orders() {
    const HOSTS: usize = 30;
    let Some(fixture) = AcmeFixture::start().await else {
        return;
    };
    let mut replicas = Vec::new();
    for _ in 0..2 {
        replicas.push(
            fixture
                .tancho
                .start_replica(|settings| configure(settings, &fixture.pebble))
                .await,
        );
    }
    let hosts: Vec<String> = (0..HOSTS)
        .map(|number| format!("cname=h{number}.shop.test"))
        .collect();
    let (status, text) = fixture
        .send(Method::POST, "/1.0/apps/shop/cname", &hosts.join("&"))
        .await;
    assert_eq!(status, 200, "{text}");
    wait_for("all certificates", async || {
        (fixture.count("select count(*) from certificate").await == 30).then_some(())
    })
    .await;
    assert_eq!(
        fixture
            .count("select count(*) from saga where kind = 'certificate.order'")
            .await,
        30
    );
    assert_eq!(fixture.count("select count(*) from acme_account").await, 1);
    assert_eq!(
        fixture
            .count("select count(*) from certificate_order where error <> ''")
            .await,
        0
    );
    for replica in replicas {
        replica.running.drain_and_stop().await;
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuer_is_set_and_unset() {
    let Some(fixture) = AcmeFixture::start().await else {
        return;
    };
    fixture.add_cname("www.shop.test").await;
    fixture.add_cname("*.wild.test").await;
    fixture.wait_for_certificate("www.shop.test").await;
    let path = "/1.24/apps/shop/certissuer";
    let unset = format!("{path}?cname=www.shop.test");
    let (status, text) = fixture.send(Method::DELETE, &unset, "").await;
    assert_eq!(status, 200, "{text}");
    wait_for("no certificate", async || {
        fixture.get("www.shop.test").await.is_err().then_some(())
    })
    .await;
    assert_eq!(fixture.list().await, json!({}));
    let (status, text) = fixture.send(Method::DELETE, &unset, "").await;
    assert!(status == 404 && text.contains("no issuer"), "{status} {text}");
    for (form, status, words) in [
        ("cname=www.shop.test&issuer=nobody", 400, "letsencrypt"),
        ("cname=www.shop.test", 400, "issuer is missing"),
        ("issuer=letsencrypt", 400, "cname is missing"),
        ("cname=www.blog.test&issuer=letsencrypt", 404, "has no cname"),
        ("cname=*.wild.test&issuer=letsencrypt", 400, "wildcard"),
    ] {
        let (got, text) = fixture.send(Method::PUT, path, form).await;
        assert!(got == status && text.contains(words), "{form}: {got} {text}");
    }
    let (status, text) = fixture
        .send(Method::PUT, path, "cname=www.shop.test&issuer=letsencrypt")
        .await;
    assert_eq!(status, 200, "{text}");
    fixture.wait_for_certificate("www.shop.test").await;
    let events = "select count(*) from event where kind in ('certissuer.set', 'certissuer.unset') and outcome = 'done'";
    assert_eq!(fixture.count(events).await, 2);
    // What a user gives replaces what was ordered, and ends the orders.
    let pair = TestAuthority::new().issue(&["www.shop.test"]);
    let form = [
        ("cname", "www.shop.test"),
        ("certificate", &pair.chain),
        ("key", &pair.key),
    ];
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    let (status, text) = fixture
        .send(Method::PUT, "/1.2/apps/shop/certificate", &form)
        .await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(fixture.list().await["www.shop.test"]["issuer"], "");
    assert_eq!(fixture.count("select count(*) from certificate_order").await, 0);
    fixture.tancho.running.drain_and_stop().await;
}
