//! Requests with settings of their own: through a proxy, or without verification of certificates. They pass
//! the same bulkhead, circuit breaker and check of addresses as all others; the address of a proxy is checked
//! as that of a receiver. What a proxy connects to is its own matter: it is not in this network. Redirects are
//! not followed, and the body of the response is not read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::ServicesSettings;
use crate::outbound::addresses::PublicOnlyResolver;
use crate::outbound::{OutboundClient, OutboundError, OutboundErrorKind, classify_error, outcome_label};
use crate::telemetry::metrics;

/// How many clients are kept in memory; a new one takes some milliseconds.
const MAX_CLIENTS: usize = 64;

/// A request to be sent.
pub struct CustomRequest {
    pub method: Method,
    pub url: Url,
    pub proxy: Option<Url>,
    /// Certificates are not verified.
    pub skips_verification: bool,
    pub headers: HeaderMap,
    /// `None` sends no body at all.
    pub body: Option<Vec<u8>>,
}

/// The head of a response, whatever its status.
#[derive(Debug)]
pub struct CustomResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// Clients by proxy and whether they skip the verification of certificates.
#[derive(Default)]
pub(super) struct CustomClients(Mutex<HashMap<(Option<Url>, bool), reqwest::Client>>);

impl OutboundClient {
    /// Sends a request through a bulkhead, within one deadline for everything. `key`: as for `send_request`.
    pub async fn send_custom(
        &self,
        bulkhead: Uuid,
        key: &str,
        request: CustomRequest,
    ) -> Result<CustomResponse, OutboundError> {
        self.check_literal(&request.url)?;
        request
            .proxy
            .iter()
            .try_for_each(|proxy| self.check_literal(proxy))?;
        let began = Instant::now();
        let deadline = began + self.0.settings.call_timeout;
        let result = self
            .call_with_permit(bulkhead, key, deadline, self.send_with_own_client(request))
            .await;
        let status = result.as_ref().map(|response| response.status);
        metrics::record_service_call(outcome_label(status.map_err(|error| error.kind)), began.elapsed());
        result
    }

    async fn send_with_own_client(&self, request: CustomRequest) -> Result<CustomResponse, OutboundError> {
        let client = self.find_or_build_client(request.proxy, request.skips_verification)?;
        let mut builder = client
            .request(request.method, request.url)
            .headers(request.headers);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let response = builder.send().await.map_err(|error| classify_error(&error))?;
        Ok(CustomResponse {
            status: response.status(),
            headers: response.headers().clone(),
        })
    }

    fn find_or_build_client(
        &self,
        proxy: Option<Url>,
        skips_verification: bool,
    ) -> Result<reqwest::Client, OutboundError> {
        let (lock, key) = (&self.0.custom.0, (proxy, skips_verification));
        if key == (None, false) {
            return Ok(self.0.http.clone());
        }
        if let Some(client) = lock.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(client.clone());
        }
        let mut builder = client_builder(&self.0.settings, self.0.may_call_private)
            .tls_danger_accept_invalid_certs(skips_verification);
        if let Some(proxy) = &key.0 {
            builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(cannot_build)?);
        }
        let client = builder.build().map_err(cannot_build)?;
        let mut clients = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Returns the settings that all clients of other operators' servers have.
pub(super) fn client_builder(settings: &ServicesSettings, may_call_private: bool) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("tancho/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        // A proxy of this process' environment would connect on Tancho's behalf, bypassing the check of addresses.
        .no_proxy()
        // One connection per call: a kept one may have died unnoticed, and then it is unknown whether the
        // request arrived.
        .pool_max_idle_per_host(0);
    match may_call_private {
        true => builder,
        false => builder.dns_resolver(PublicOnlyResolver),
    }
}

fn cannot_build(error: reqwest::Error) -> OutboundError {
    tracing::warn!(%error, "cannot build an HTTP client");
    OutboundError::not_sent(OutboundErrorKind::Unreachable)
}
