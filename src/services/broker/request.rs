//! Sends one request to a service and interprets the response, independent of the operation.

use std::collections::BTreeMap;

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::InstanceName;
use crate::outbound::{OutboundErrorKind, OutboundRequest, OutboundResponse};
use crate::services::broker::dialect::{BrokerEndpoint, Dialect};
use crate::services::broker::{BoundApp, BrokerClient, BrokerError, CallDelivery, OnBehalfOf, response};

/// Form fields, in order.
pub(super) type FormFields = Vec<(String, String)>;

impl BrokerClient {
    pub(super) async fn call_endpoint(
        &self,
        by: &OnBehalfOf,
        method: Method,
        name: &InstanceName,
        way: &BrokerEndpoint,
        fields: &[(String, String)],
    ) -> Result<OutboundResponse, BrokerError> {
        let mut path = vec![name.as_str()];
        path.extend(way.subpath.iter().map(String::as_str));
        self.send_request(by, &method, &path, way.trailing_slash, fields)
            .await
    }

    /// Sends a request whose path has a trailing slash in the oldest dialect. While the dialect is unknown, a
    /// 404 or 405 is retried in the other spelling.
    pub(super) async fn send_with_slash_fallback(
        &self,
        by: &OnBehalfOf,
        method: Method,
        path: &[&str],
        fields: FormFields,
    ) -> Result<OutboundResponse, BrokerError> {
        let slash = self.dialect == Some(Dialect::TrailingSlash);
        let answer = self.send_request(by, &method, path, slash, &fields).await?;
        let missed = |answer: &OutboundResponse| matches!(answer.status.as_u16(), 404 | 405);
        if !missed(&answer) || !matches!(self.dialect, None | Some(Dialect::TrailingSlash)) {
            return Ok(answer);
        }
        let other = self.send_request(by, &method, path, !slash, &fields).await?;
        Ok(if missed(&other) { answer } else { other })
    }

    pub(super) async fn send_request(
        &self,
        by: &OnBehalfOf,
        method: &Method,
        path: &[&str],
        slash: bool,
        fields: &[(String, String)],
    ) -> Result<OutboundResponse, BrokerError> {
        let mut fields = fields.to_vec();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (field, header, value) in [
            ("user", "x-tsuru-user", &by.user),
            ("eventid", "x-tsuru-eventid", &by.event),
        ] {
            if value.is_empty() {
                continue;
            }
            fields.push((field.into(), value.clone()));
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.insert(HeaderName::from_static(header), value);
            }
        }
        let mut url = self.build_url(path, slash);
        let called = format!("{method} {}", url.path());
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&fields)
            .finish();
        // Services read the fields of a DELETE from its body or from its query, depending on their age.
        if *method == Method::DELETE && !form.is_empty() {
            url.set_query(Some(&form));
        }
        let request = OutboundRequest {
            method: method.clone(),
            url,
            authorization: Some(self.authorization.clone()),
            headers,
            form: (*method != Method::GET).then_some(form),
        };
        let bulkhead = self.id.0;
        let caller = match by.share_key.as_str() {
            "" => &self.default_share_key,
            key => key,
        };
        self.outbound
            .send_request(bulkhead, caller, &request)
            .await
            .map_err(|failure| {
                let words = format!("The service {} {} ({called}).", self.name, failure.kind);
                let kind = match failure.kind {
                    OutboundErrorKind::Busy => ErrorKind::Unavailable,
                    _ => ErrorKind::Failed,
                };
                BrokerError {
                    delivery: if failure.sent {
                        CallDelivery::Unknown
                    } else {
                        CallDelivery::NotSent
                    },
                    error: Error::new(kind, words),
                }
            })
    }

    fn build_url(&self, path: &[&str], slash: bool) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("resources").extend(path);
            if slash {
                segments.push("");
            }
        }
        url
    }

    /// Returns the body of a successful response. Errors: the refusal, with the message of the service.
    pub(super) fn check_response(
        &self,
        what: &str,
        answer: OutboundResponse,
    ) -> Result<Vec<u8>, BrokerError> {
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let status = answer.status.as_u16();
        let said = response::sanitize_message(&answer.body, &self.secrets);
        let said = if said.is_empty() { "no reason given" } else { &said };
        let kind = match status {
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Conflict,
            412 => ErrorKind::Precondition,
            _ => ErrorKind::Failed,
        };
        let words = match status {
            404 => format!("{what}: not found by the service {}: {said}", self.name),
            412 => format!("{what}: the service {} is not ready yet: {said}", self.name),
            _ => format!(
                "{what}: the service {} responded: {said} (code: {status})",
                self.name
            ),
        };
        Err(BrokerError {
            delivery: CallDelivery::Refused(status),
            error: Error::new(kind, words),
        })
    }
}

pub(super) fn form_fields(list: &[(&str, &str)]) -> FormFields {
    list.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn parameter_fields(map: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    map.iter()
        .map(|(key, value)| (format!("parameters.{}", key.replace('.', "\\.")), value.clone()))
}

pub(super) fn app_fields(app: &BoundApp) -> FormFields {
    let mut fields = form_fields(&[("app-name", &app.name), ("app-host", &app.host)]);
    fields.extend(app.hosts.iter().map(|host| ("app-hosts".into(), host.clone())));
    if !app.pool.is_empty() {
        fields.push(("app-pool-name".into(), app.pool.clone()));
    }
    fields
}
