//! Certificates from the request of a user to the handshake of a browser: a router follows the database.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::Method;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tancho::config::{Settings, TlsSettings};
use tancho::kernel::ids::ReplicaId;
use tancho::server::{self, RouterHttps, RouterParts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::swap::app_with_unit;
use crate::test_server::{TestServer, TestUser};

/// An authority that clients trust.
pub(crate) struct TestAuthority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub(crate) struct IssuedPair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue_with(&self, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> IssuedPair {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.0).unwrap().pem() + &self.0.pem();
        IssuedPair {
            chain,
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn issue(&self, hosts: &[&str]) -> IssuedPair {
        self.issue_with(hosts, |_| {})
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        connector(self.0.der().clone())
    }
}

/// Makes a client that trusts one root.
pub(crate) fn connector(root: CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A server with the apps `shop` and `blog` of ana, and a router with TLS beside it.
struct CertificateFixture {
    tancho: TestServer,
    ana: TestUser,
    authority: TestAuthority,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl CertificateFixture {
    async fn start() -> Self {
        Self::start_with(None, |_| {}).await
    }

    async fn start_with(operator: Option<TlsSettings>, change: impl FnOnce(&mut Settings)) -> Self {
        let tancho = TestServer::start_with(change).await;
        let root = tancho.login_admin().await;
        let ana = tancho.create_user("ana").await;
        tancho.create_team(&ana, "red").await;
        for name in ["shop", "blog"] {
            app_with_unit(&tancho, &ana, name).await;
        }
        drop(root);
        let (plain, tls) = start_router(&tancho, operator).await;
        let fixture = Self {
            tancho,
            ana,
            authority: TestAuthority::new(),
            plain,
            tls,
        };
        fixture
            .change(Method::POST, "/1.0/apps/shop/cname", "cname=www.shop.test")
            .await;
        fixture
    }

    async fn send(&self, method: Method, path: &str, form: &str) -> (u16, String) {
        let request = self.tancho.request_as(&self.ana, method, path);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(form.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn change(&self, method: Method, path: &str, form: &str) {
        let (status, text) = self.send(method, path, form).await;
        assert_eq!(status, 200, "{path}: {text}");
    }

    async fn set(&self, app: &str, host: &str, pair: &IssuedPair) -> (u16, String) {
        let form = [("cname", host), ("certificate", &pair.chain), ("key", &pair.key)];
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        self.send(Method::PUT, &format!("/1.2/apps/{app}/certificate"), &form)
            .await
    }

    async fn set_well(&self, app: &str, host: &str, pair: &IssuedPair) {
        let (status, text) = self.set(app, host, pair).await;
        assert_eq!((status, text.as_str()), (200, ""), "{app} {host}");
    }

    async fn list(&self, app: &str) -> Value {
        let list = self
            .tancho
            .read_json(&self.ana, &format!("/1.24/apps/{app}/certificate"))
            .await;
        list["routers"]["proxy"]["cnames"].clone()
    }

    async fn connect(&self, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.tls).await?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        self.authority.connector().connect(name, stream).await
    }

    /// Waits until a handshake for a host gets this certificate, or none.
    async fn wait_for_certificate(&self, host: &str, pair: Option<&IssuedPair>) {
        use rustls::pki_types::pem::PemObject;
        let wanted = pair.map(|pair| CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap());
        let look = async {
            loop {
                let stream = self.connect(host).await.ok();
                let found = stream.map(|stream| stream.get_ref().1.peer_certificates().unwrap()[0].clone());
                if found == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), look).await;
        assert!(in_time.is_ok(), "{host} has another certificate");
    }

    async fn get_over_tls(&self, host: &str) -> String {
        let mut stream = self.connect(host).await.unwrap();
        get(&mut stream, host).await
    }

    /// Waits until a host is served over TLS by this app.
    async fn wait_for_app(&self, host: &str, app: &str) {
        let look = async {
            while !self.get_over_tls(host).await.ends_with(app) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), look).await;
        assert!(in_time.is_ok(), "{host} is not served by {app}");
    }

    async fn get_plain(&self, host: &str) -> String {
        let mut stream = TcpStream::connect(self.plain).await.unwrap();
        get(&mut stream, host).await
    }

    /// Waits until a plain request to a host is answered like this.
    async fn wait_for_plain(&self, host: &str, start: &str) -> String {
        let look = async {
            loop {
                let answer = self.get_plain(host).await;
                if answer.starts_with(start) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), look).await;
        in_time.unwrap_or_else(|_| panic!("{host} never answered {start}"))
    }

    async fn end(self) {
        self.tancho.running.drain_and_stop().await;
    }
}

async fn get(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), host: &str) -> String {
    let request = format!("GET /a?b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Starts a router on the database of a server; returns its addresses without and with TLS.
async fn start_router(tancho: &TestServer, operator: Option<TlsSettings>) -> (SocketAddr, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (listener.local_addr().unwrap(), tls.local_addr().unwrap());
    start_router_on(tancho, operator, (listener, tls)).await;
    addresses
}

/// The same on two listeners.
pub(crate) async fn start_router_on(
    tancho: &TestServer,
    operator: Option<TlsSettings>,
    (listener, tls): (TcpListener, TcpListener),
) {
    let core = &tancho.running.core;
    let mut settings = core.settings.clone();
    settings.tls = operator.unwrap_or(settings.tls);
    let https = RouterHttps::open(tls, Arc::clone(&core.keys), &settings.tls)
        .await
        .unwrap();
    let parts = RouterParts {
        settings,
        db: core.db.clone(),
        replica: ReplicaId::new(),
        notices: core.notices.clone(),
        drain: core.drain.clone(),
        serving: CancellationToken::new(),
        stop: core.stop.clone(),
    };
    tokio::spawn(server::run_router(parts, (listener, Some(https))));
}

#[tokio::test]
async fn certificate_is_served_replaced_and_removed() {
    let fixture = CertificateFixture::start().await;
    assert_eq!(fixture.list("shop").await, json!({}));
    let (first, second) = (
        fixture.authority.issue(&["www.shop.test"]),
        fixture.authority.issue(&["*.shop.test", "shop.test"]),
    );
    fixture.set_well("shop", "WWW.shop.test", &first).await;
    fixture.wait_for_certificate("www.shop.test", Some(&first)).await;
    fixture.wait_for_app("www.shop.test", "shop").await;
    fixture.wait_for_certificate("shop.localhost", None).await;
    let moved = fixture.wait_for_plain("www.shop.test", "HTTP/1.1 308").await;
    let location = format!("location: https://www.shop.test:{}/a?b\r\n", fixture.tls.port());
    assert!(moved.contains(&location), "{moved}");
    assert!(
        fixture
            .get_plain("shop.localhost")
            .await
            .starts_with("HTTP/1.1 200")
    );
    // A connection outlives the certificate it began with.
    let mut open = fixture.connect("www.shop.test").await.unwrap();
    fixture.set_well("shop", "www.shop.test", &second).await;
    fixture.wait_for_certificate("www.shop.test", Some(&second)).await;
    assert!(get(&mut open, "www.shop.test").await.ends_with("shop"));
    let list = fixture.list("shop").await;
    assert_eq!(list["www.shop.test"]["certificate"], json!(second.chain));
    assert_eq!(list["www.shop.test"]["issuer"], "");
    let legacy = fixture
        .tancho
        .read_json(&fixture.ana, "/1.2/apps/shop/certificate")
        .await;
    assert_eq!(legacy["proxy"]["www.shop.test"], json!(second.chain));
    let unset = "/1.2/apps/shop/certificate?cname=www.shop.test";
    fixture.change(Method::DELETE, unset, "").await;
    fixture.wait_for_certificate("www.shop.test", None).await;
    fixture.wait_for_plain("www.shop.test", "HTTP/1.1 200").await;
    let (status, text) = fixture.send(Method::DELETE, unset, "").await;
    assert_eq!(
        (status, text.contains("no certificate for www.shop.test")),
        (404, true),
        "{text}"
    );
    let events: Vec<String> =
        sqlx::query_scalar("select kind from event where kind like 'app.update.certificate%' and outcome = 'done' order by started_at")
            .fetch_all(&fixture.tancho.running.core.db)
            .await
            .unwrap();
    let (set, unset) = ("app.update.certificate.set", "app.update.certificate.unset");
    assert_eq!(events, [set, set, unset]);
    fixture.end().await;
}

#[tokio::test]
async fn unusable_certificates_are_refused_and_change_nothing() {
    let fixture = CertificateFixture::start().await;
    let good = fixture.authority.issue(&["www.shop.test"]);
    let other = fixture.authority.issue(&["www.shop.test"]);
    let with = |chain: &str, key: &str| IssuedPair {
        chain: chain.to_owned(),
        key: key.to_owned(),
    };
    let expired = fixture.authority.issue_with(&["www.shop.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    });
    let early = fixture.authority.issue_with(&["www.shop.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2090, 2, 1);
    });
    for (host, pair, status, words) in [
        (
            "www.shop.test",
            with("no certificate\n", "no key\n"),
            400,
            "not PEM",
        ),
        (
            "www.shop.test",
            with("", &good.key),
            400,
            "certificate is missing",
        ),
        ("www.shop.test", with(&good.chain, ""), 400, "key is missing"),
        (
            "www.shop.test",
            with(&good.chain, &other.key),
            400,
            "does not belong",
        ),
        (
            "www.shop.test",
            with(&"x".repeat(100_000), &good.key),
            400,
            "too large",
        ),
        ("www.shop.test", expired, 400, "has expired on 2020-02-01"),
        ("www.shop.test", early, 400, "not valid before"),
        (
            "www.shop.test",
            fixture.authority.issue(&["shop.test"]),
            400,
            "not for www.shop.test: it is for shop.test",
        ),
        ("shop.localhost", good.clone(), 400, "not for shop.localhost"),
        ("www.blog.test", good.clone(), 404, "has no cname www.blog.test"),
        ("blog.localhost", good.clone(), 404, "has no cname blog.localhost"),
        ("", good.clone(), 400, "cname is missing"),
        ("a..b", good.clone(), 400, "ame"),
    ] {
        let (got, text) = fixture.set("shop", host, &pair).await;
        assert!(
            got == status && text.contains(words),
            "{host} {words}: {got} {text}"
        );
        assert!(text.len() < 400 && !text.contains("PRIVATE"), "{text}");
    }
    assert_eq!(fixture.list("shop").await, json!({}));
    let events: i64 =
        sqlx::query_scalar("select count(*) from event where kind like 'app.update.certificate%'")
            .fetch_one(&fixture.tancho.running.core.db)
            .await
            .unwrap();
    assert_eq!(events, 0);
    fixture.end().await;
}

#[tokio::test]
async fn certificate_goes_with_its_host() {
    let fixture = CertificateFixture::start().await;
    let (own, cname) = (
        fixture.authority.issue(&["shop.localhost"]),
        fixture.authority.issue(&["www.shop.test"]),
    );
    fixture.set_well("shop", "shop.localhost", &own).await;
    fixture.set_well("shop", "www.shop.test", &cname).await;
    fixture.wait_for_certificate("shop.localhost", Some(&own)).await;
    fixture
        .change(Method::POST, "/swap?app1=shop&app2=blog", "")
        .await;
    assert_eq!(fixture.list("shop").await, json!({}));
    let hosts: Vec<String> = fixture
        .list("blog")
        .await
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(hosts, ["shop.localhost", "www.shop.test"]);
    fixture.wait_for_certificate("www.shop.test", Some(&cname)).await;
    fixture.wait_for_app("shop.localhost", "blog").await;
    let (status, _) = fixture.set("shop", "shop.localhost", &own).await;
    assert_eq!(status, 404, "it is the host of blog now");
    fixture
        .change(Method::DELETE, "/1.0/apps/blog/cname?cname=www.shop.test", "")
        .await;
    fixture.wait_for_certificate("www.shop.test", None).await;
    fixture
        .change(Method::POST, "/1.0/apps/shop/cname", "cname=www.shop.test")
        .await;
    assert_eq!(
        fixture.list("shop").await,
        json!({}),
        "another owner of the name has no certificate"
    );
    let (status, text) = fixture
        .send(Method::POST, "/1.0/apps", "name=third&platform=go&teamOwner=red")
        .await;
    assert_eq!(status, 201, "{text}");
    let third = fixture.authority.issue(&["third.localhost"]);
    fixture.set_well("third", "third.localhost", &third).await;
    fixture
        .wait_for_certificate("third.localhost", Some(&third))
        .await;
    let (status, text) = fixture.send(Method::DELETE, "/1.0/apps/third", "").await;
    assert!(status == 200 && !text.contains("\"Error\""), "{status} {text}");
    fixture.wait_for_certificate("third.localhost", None).await;
    fixture.end().await;
}

#[tokio::test]
async fn app_chooses_redirect_and_hsts() {
    let fixture = CertificateFixture::start().await;
    let pair = fixture.authority.issue(&["www.shop.test"]);
    fixture.set_well("shop", "www.shop.test", &pair).await;
    fixture.wait_for_plain("www.shop.test", "HTTP/1.1 308").await;
    let router = "/1.5/apps/shop/routers/proxy";
    fixture
        .change(Method::PUT, router, "Opts.https-redirect=false&Opts.hsts=600")
        .await;
    fixture.wait_for_plain("www.shop.test", "HTTP/1.1 200").await;
    let answer = fixture.get_over_tls("www.shop.test").await;
    assert!(
        answer.contains("strict-transport-security: max-age=600\r\n"),
        "{answer}"
    );
    fixture
        .change(Method::PUT, router, "Opts.https-redirect=true")
        .await;
    fixture.wait_for_plain("www.shop.test", "HTTP/1.1 308").await;
    assert!(
        fixture
            .get_over_tls("www.shop.test")
            .await
            .contains("max-age=600"),
        "what is not given stays"
    );
    for (form, words) in [
        ("", "has the options"),
        ("Opts.tls=on", "has the options"),
        ("Opts.hsts=-1", "from 0 to"),
        ("Opts.hsts=99999999", "from 0 to"),
        ("Opts.hsts=99999999999", "too large"),
        ("Opts.hsts=long", "whole number"),
        ("Opts.https-redirect=maybe", "true or false"),
    ] {
        let (status, text) = fixture.send(Method::PUT, router, form).await;
        assert!(status == 400 && text.contains(words), "{form}: {status} {text}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn unreadable_certificate_leaves_the_others_served() {
    let fixture = CertificateFixture::start().await;
    let (own, cname) = (
        fixture.authority.issue(&["shop.localhost"]),
        fixture.authority.issue(&["www.shop.test"]),
    );
    fixture.set_well("shop", "www.shop.test", &cname).await;
    fixture.wait_for_certificate("www.shop.test", Some(&cname)).await;
    // A key that was copied from another row.
    sqlx::raw_sql(
        "insert into certificate (host, app_id, label, chain, key, not_before, not_after)
         select 'blog.localhost', a.app_id, 'blog', c.chain, c.key, c.not_before, c.not_after
         from app a, certificate c where a.name = 'blog'",
    )
    .execute(&fixture.tancho.running.core.db)
    .await
    .unwrap();
    fixture.set_well("shop", "shop.localhost", &own).await;
    fixture.wait_for_certificate("shop.localhost", Some(&own)).await;
    assert!(fixture.connect("blog.localhost").await.is_err());
    fixture.wait_for_app("www.shop.test", "shop").await;
    fixture.end().await;
}

#[tokio::test]
async fn operator_certificate_covers_apps_and_api() {
    let authority = TestAuthority::new();
    let pair = authority.issue(&["*.apps.test", "paas.example.com"]);
    let folder = std::env::temp_dir().join(format!("tancho-it-tls-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).unwrap();
    let operator = TlsSettings {
        certificate_file: folder.join("chain.pem"),
        key_file: folder.join("key.pem"),
    };
    std::fs::write(&operator.certificate_file, &pair.chain).unwrap();
    std::fs::write(&operator.key_file, &pair.key).unwrap();
    let mut fixture = CertificateFixture::start_with(Some(operator.clone()), |settings| {
        settings.router.domain = "apps.test".to_owned()
    })
    .await;
    fixture.authority = authority;
    fixture.wait_for_certificate("shop.apps.test", Some(&pair)).await;
    fixture.wait_for_app("blog.apps.test", "blog").await;
    let unknown = fixture.get_over_tls("nothing.apps.test").await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    fixture.wait_for_plain("shop.apps.test", "HTTP/1.1 308").await;
    let router = "/1.5/apps/shop/routers/proxy";
    fixture
        .change(Method::PUT, router, "Opts.https-redirect=false")
        .await;
    fixture.wait_for_plain("shop.apps.test", "HTTP/1.1 200").await;
    assert!(
        fixture
            .get_plain("blog.apps.test")
            .await
            .starts_with("HTTP/1.1 308")
    );
    let own = fixture.authority.issue(&["shop.apps.test"]);
    fixture.set_well("shop", "shop.apps.test", &own).await;
    fixture.wait_for_certificate("shop.apps.test", Some(&own)).await;
    // The API, whatever name a client uses.
    let api = TestServer::start_with(|settings| {
        settings.tls = operator;
        settings.api.https_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    fixture.tls = api.running.api_https_addr.unwrap();
    fixture
        .wait_for_certificate("paas.example.com", Some(&pair))
        .await;
    let mut stream = fixture.connect("paas.example.com").await.unwrap();
    let answer = get(&mut stream, "localhost").await;
    assert!(
        answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 401"),
        "{answer}"
    );
    api.running.drain_and_stop().await;
    fixture.end().await;
    std::fs::remove_dir_all(folder).unwrap();
}
