//! The model of webhooks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::WebhookId;
use crate::kernel::names::{TeamName, WebhookName};
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::secret::Secret;

/// The events that a webhook is about; an empty list matches all.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct WebhookFilter {
    /// Kinds of targets.
    pub(super) target_types: Vec<String>,
    pub(super) target_values: Vec<String>,
    /// `permission` is the type of all events here.
    pub(super) kind_types: Vec<String>,
    pub(super) kind_names: Vec<String>,
    pub(super) error_only: bool,
    pub(super) success_only: bool,
}

/// The part of a webhook that is stored encrypted.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct WebhookRequest {
    pub(super) url: String,
    /// Empty: no proxy.
    pub(super) proxy_url: String,
    pub(super) headers: BTreeMap<String, Vec<String>>,
    /// A template; empty: the event as JSON.
    pub(super) body: String,
    /// Signs the requests.
    pub(super) secret: String,
}

/// What users set of a webhook. Of the request, an empty secret stands for none given.
pub(super) struct WebhookSpec {
    pub(super) description: String,
    pub(super) filter: WebhookFilter,
    /// Empty: POST.
    pub(super) method: String,
    /// Certificates of the receiver are not verified.
    pub(super) insecure: bool,
    pub(super) request: WebhookRequest,
}

/// A webhook.
pub(super) struct Webhook {
    pub(super) id: WebhookId,
    pub(super) name: WebhookName,
    pub(super) team: TeamName,
    pub(super) spec: WebhookSpec,
}

impl WebhookRequest {
    /// Returns it as it is encrypted.
    pub(super) fn to_secret(&self) -> Result<Secret, Error> {
        serde_json::to_string(self)
            .map(Secret::new)
            .map_err(Error::internal)
    }

    /// Reads it as it was encrypted.
    pub(super) fn from_secret(secret: &Secret) -> Result<Self, Error> {
        // The cause would quote the content.
        serde_json::from_str(secret.expose_secret())
            .map_err(|_| Error::internal("the request of a webhook cannot be decoded"))
    }

    /// Hides what may be secret, for users who may read the webhook but not change it: all but the server's
    /// address and the names of the headers.
    pub(super) fn mask(&mut self) {
        self.url = mask_url(&self.url);
        self.proxy_url = mask_url(&self.proxy_url);
        self.headers
            .values_mut()
            .flatten()
            .for_each(|value| *value = MASK.to_owned());
        if !self.body.is_empty() {
            self.body = MASK.to_owned();
        }
        self.secret.clear();
    }
}

const MASK: &str = "***";

/// Returns scheme, host and port of a URL; paths and queries may contain secrets.
pub(super) fn url_origin(url: &str) -> String {
    url::Url::parse(url).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization())
}

fn mask_url(url: &str) -> String {
    match url.is_empty() {
        true => String::new(),
        false => format!("{}/{MASK}", url_origin(url)),
    }
}

/// Returns the associated data of an encrypted request.
pub(super) fn request_associated_data(id: WebhookId) -> AssociatedData {
    AssociatedData::new(SealedColumn::WEBHOOK_REQUEST, &[&id])
}

/// Builds the event of a change of a webhook. It contains no secrets.
pub(super) fn webhook_event(
    name: &WebhookName,
    kind: Permission,
    teams: &[&TeamName],
    spec: Option<&WebhookSpec>,
) -> NewEvent {
    let mut data = serde_json::json!({ "name": name, "team_owner": teams.last() });
    if let Some(spec) = spec {
        data["description"] = spec.description.clone().into();
        data["event_filter"] = serde_json::json!(spec.filter);
        data["method"] = spec.method.clone().into();
        data["insecure"] = spec.insecure.into();
        data["server"] = url_origin(&spec.request.url).into();
        data["proxy"] = url_origin(&spec.request.proxy_url).into();
        data["headers"] = spec.request.headers.keys().cloned().collect();
    }
    NewEvent::new(
        EventTarget::new(EventTargetKind::Webhook, name),
        kind,
        teams.iter().map(PermissionContext::for_team).collect(),
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_request() -> WebhookRequest {
        WebhookRequest {
            url: "https://hooks.example.com:8443/services/canary?token=canary".into(),
            proxy_url: "http://proxy.example.com:3128/canary".into(),
            headers: BTreeMap::from([("Authorization".into(), vec!["canary".into(), "canary".into()])]),
            body: "canary".into(),
            secret: "canary".into(),
        }
    }

    #[test]
    fn masked_request_shows_servers_and_header_names_only() {
        let mut request = secret_request();
        request.mask();
        assert_eq!(request.url, "https://hooks.example.com:8443/***");
        assert_eq!(request.proxy_url, "http://proxy.example.com:3128/***");
        let shown = serde_json::to_string(&request).unwrap();
        assert!(
            shown.contains("Authorization") && !shown.contains("canary"),
            "{shown}"
        );
    }

    #[test]
    fn event_of_a_webhook_contains_no_secret() {
        let spec = WebhookSpec {
            description: "tells the chat".into(),
            filter: WebhookFilter::default(),
            method: String::new(),
            insecure: false,
            request: secret_request(),
        };
        let (name, team) = (
            WebhookName::parse("chat").unwrap(),
            TeamName::parse("red").unwrap(),
        );
        let event = webhook_event(&name, Permission::WEBHOOK_CREATE, &[&team], Some(&spec));
        let data = event.start_data.to_string();
        assert!(
            !data.contains("canary") && data.contains("hooks.example.com"),
            "{data}"
        );
        assert!(data.contains("Authorization"), "{data}");
    }

    #[test]
    fn request_is_read_as_it_was_encrypted() {
        let secret = secret_request().to_secret().unwrap();
        let read = WebhookRequest::from_secret(&secret).unwrap();
        assert_eq!(read.url, secret_request().url);
        assert!(WebhookRequest::from_secret(&Secret::new("canary")).is_err());
    }
}
