//! Pebble, the test server of Let's Encrypt: an authority that speaks ACME. `script/test` builds it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

/// Returns a program in PATH. Without it the test is skipped, or fails where `CI` is set.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.exists());
    if found.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!is_ci, "{name} is missing");
        eprintln!("SKIP orders of certificates: {name} is missing here");
    }
    found
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// A program that ends with its test.
struct TestProgram(Child);

impl TestProgram {
    fn start(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for TestProgram {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority that reaches every host at 127.0.0.1.
pub(crate) struct PebbleServer {
    _programs: [TestProgram; 2],
    folder: PathBuf,
    port: u16,
    management_port: u16,
}

impl Drop for PebbleServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl PebbleServer {
    /// Starts it; it asks for proofs at the ports of these addresses.
    pub(crate) async fn start(http: SocketAddr, tls: SocketAddr) -> Option<Self> {
        let (pebble, dns) = (find_program("pebble")?, find_program("pebble-challtestsrv")?);
        let folder = std::env::temp_dir().join(format!("tancho-it-pebble-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let (root, chain, key) = issue_own_certificate();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (port, management_port, dns_port) = (free_port().await, free_port().await, free_port().await);
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management_port}"),
            "certificate": file("chain.pem", &chain), "privateKey": file("key.pem", &key),
            "httpPort": http.port(), "tlsPort": tls.port(),
            "domainBlocklist": ["blocked.test"], "retryAfter": { "authz": 1, "order": 1 },
            "profiles": { "default": { "description": "90 days", "validityPeriod": 7_776_000 } },
        } });
        file("root.pem", &root);
        let config = file("config.json", &config.to_string());
        let dns_address = format!("127.0.0.1:{dns_port}");
        let names = TestProgram::start(
            &dns,
            &[
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
                "-dnsserver",
                &dns_address,
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
                "-doh",
                "",
                "-management",
                &format!("127.0.0.1:{}", free_port().await),
            ],
            &[],
        );
        let server = TestProgram::start(
            &pebble,
            &["-config", &config, "-dnsserver", &dns_address],
            &[
                ("PEBBLE_VA_NOSLEEP", "1"),
                ("PEBBLE_WFE_NONCEREJECT", "10"),
                ("PEBBLE_AUTHZREUSE", "0"),
            ],
        );
        let pebble = Self {
            _programs: [names, server],
            folder,
            port,
            management_port,
        };
        for port in [port, management_port] {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                assert!(tokio::time::Instant::now() < deadline, "pebble does not listen");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Some(pebble)
    }

    pub(crate) fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// The root that its own servers are trusted by.
    pub(crate) fn root_file(&self) -> PathBuf {
        self.folder.join("root.pem")
    }

    /// Where it tells the root of the certificates that it issues.
    pub(crate) fn management_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.management_port))
    }
}

/// Makes a certificate for `localhost`; returns its root, its chain and its key.
fn issue_own_certificate() -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let own = own.signed_by(&key, &root).unwrap();
    (root.pem(), own.pem() + &root.pem(), key.serialize_pem())
}
