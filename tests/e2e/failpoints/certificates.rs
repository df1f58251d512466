//! Orders of certificates, from pebble.

use std::net::SocketAddr;

use reqwest::{Method, RequestBuilder};

use crate::failpoints::{FailpointFixture, ReachedPoint, Scenario};
use crate::pebble::PebbleServer;
use crate::test_instance::TestInstance;

/// An order for a cname of `app0`.
pub(super) struct OrderCertificateScenario {
    _pebble: PebbleServer,
}

/// Returns an address that is free now, for a listener that has it after each start.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl OrderCertificateScenario {
    /// Starts pebble, and configures Tancho for it. `None`: pebble is missing.
    pub(super) async fn start(tancho: &mut TestInstance) -> Option<Self> {
        let (http, https) = (free_address(), free_address());
        let pebble = PebbleServer::start(http, https).await?;
        println!("pebble shows its roots at {}", pebble.management_address());
        tancho.router_listen = http.to_string();
        tancho.set("TANCHO_ROUTER_HTTPS_LISTEN", &https.to_string());
        tancho.set("TANCHO_ACME_DIRECTORY_URL", &pebble.directory_url());
        tancho.set("TANCHO_ACME_ROOT_FILE", pebble.root_file().to_str().unwrap());
        tancho.set("TANCHO_ACME_AUTOMATIC", "false");
        Some(Self { _pebble: pebble })
    }

    fn host(fixture: &FailpointFixture) -> String {
        format!("h{}.shop.test", fixture.round)
    }
}

impl Scenario for OrderCertificateScenario {
    const KIND: &'static str = "certificate.order";

    fn points_per_round(&self) -> usize {
        // No event identifies its subject.
        1
    }

    async fn prepare(&self, fixture: &FailpointFixture, _number: usize) {
        let host = Self::host(fixture);
        let form = [("cname", host.as_str())];
        fixture
            .tancho
            .change(Method::POST, "/1.0/apps/app0/cname", &form)
            .await;
    }

    fn launch(&self, fixture: &FailpointFixture, _number: usize) -> RequestBuilder {
        let form = [
            ("cname", Self::host(fixture)),
            ("issuer", "letsencrypt".to_owned()),
        ];
        fixture
            .tancho
            .request_as_admin(Method::PUT, "/1.24/apps/app0/certissuer")
            .form(&form)
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let host = Self::host(fixture);
        let list = fixture.tancho.read_json("/1.24/apps/app0/certificate").await;
        let found = &list["routers"]["proxy"]["cnames"][&host];
        let (certificate, error) = (found["certificate"].as_str(), found["error"].as_str());
        // What was stored stays, whatever fails afterwards.
        let steps = &fixture.kinds[Self::KIND];
        let is_there = reached.done || reached.point.step_was_done(steps, "fetch");
        let is_right = match is_there {
            true => certificate.is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")) && error.is_none(),
            false => {
                certificate == Some("") && error.is_some_and(|words| words.contains("failed by a failpoint"))
            }
        };
        let wrong = (!is_right).then(|| format!("{found} for a certificate that is there: {is_there}"));
        wrong.into_iter().collect()
    }

    /// An order that has failed would be tried again, at the points of later rounds.
    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        let path = format!("/1.0/apps/app0/cname?cname={}", Self::host(fixture));
        fixture.tancho.change(Method::DELETE, &path, &[]).await;
    }
}
