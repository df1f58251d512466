//! Passes a request of a user on to the service, for its proxies.

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::kernel::error::{Error, ErrorKind};
use crate::outbound::{BodyStream, OutboundErrorKind, StreamedRequest, StreamedResponse};
use crate::services::broker::{BrokerClient, OnBehalfOf};

/// A request to be passed on.
pub struct UserRequest<'a> {
    pub method: Method,
    /// The decoded segments of the path below the endpoint.
    pub segments: &'a [String],
    pub trailing_slash: bool,
    pub query: &'a str,
    pub headers: HeaderMap,
    /// `None`: the request has no body.
    pub body: Option<BodyStream>,
    pub max_body_bytes: u64,
}

impl BrokerClient {
    /// Passes a request on with the credentials of the service. Errors: `Unavailable` if too many requests
    /// wait, `TooLarge`, `Failed` if the service does not respond.
    pub async fn forward_request(
        &self,
        by: &OnBehalfOf,
        request: UserRequest<'_>,
    ) -> Result<StreamedResponse, Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(request.segments);
            if request.trailing_slash {
                segments.push("");
            }
        }
        url.set_query((!request.query.is_empty()).then_some(request.query));
        let mut headers = request.headers;
        for (name, value) in [("x-tsuru-user", &by.user), ("x-tsuru-eventid", &by.event)] {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
                && !value.is_empty()
            {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let request = StreamedRequest {
            method: request.method,
            url,
            authorization: self.authorization.clone(),
            headers,
            body: request.body,
            max_body_bytes: request.max_body_bytes,
        };
        let sent = self
            .outbound
            .stream_request(self.id.0, &by.share_key, request)
            .await;
        let answer = sent.map_err(|failure| match failure.kind {
            OutboundErrorKind::RequestTooLarge => {
                Error::too_large("The body is larger than this server accepts.")
            }
            kind => Error::new(
                match kind {
                    OutboundErrorKind::Busy => ErrorKind::Unavailable,
                    _ => ErrorKind::Failed,
                },
                format!("The service {} {kind}.", self.name),
            ),
        })?;
        match answer.status.is_informational() {
            true => Err(Error::failed(format!(
                "The service {} switched to another protocol, which is not passed on.",
                self.name
            ))),
            false => Ok(answer),
        }
    }
}
