//! The types and rules of routers.

use reqwest::Url;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::RouterName;
use crate::kernel::permission::Permission;

/// The name of the built-in router, and its type.
pub const BUILT_IN: &str = "proxy";
/// The one type of routers that can be added.
const API_TYPE: &str = "api";

/// The maximum size of a configuration as JSON, in bytes.
const MAX_CONFIG_BYTES: usize = 16 << 10;
/// The maximum number of readiness gates, and the maximum length of one in bytes.
const MAX_GATES: usize = 100;
const MAX_GATE: usize = 255;

/// A router that an operator has added.
#[derive(Clone, Debug)]
pub(super) struct AddedRouter {
    pub(super) id: Uuid,
    pub(super) name: RouterName,
    pub(super) kind: String,
    pub(super) readiness_gates: Vec<String>,
    pub(super) config: Map<String, Value>,
}

/// A change of a router; `None` leaves a field as it is.
#[derive(Clone, Debug)]
pub(super) struct RouterPatch {
    pub(super) kind: Option<String>,
    pub(super) readiness_gates: Option<Vec<String>>,
    pub(super) config: Option<Map<String, Value>>,
}

impl AddedRouter {
    /// Makes a new router. Errors: `Invalid`.
    pub(super) fn new(name: RouterName, patch: RouterPatch) -> Result<Self, Error> {
        let mut router = Self {
            id: Uuid::new_v4(),
            name,
            kind: String::new(),
            readiness_gates: Vec::new(),
            config: Map::new(),
        };
        router.apply_patch(patch)?;
        Ok(router)
    }

    /// Changes the router. Errors: `Invalid`.
    pub(super) fn apply_patch(&mut self, patch: RouterPatch) -> Result<(), Error> {
        self.kind = patch.kind.unwrap_or_else(|| self.kind.clone());
        self.readiness_gates = patch
            .readiness_gates
            .unwrap_or_else(|| self.readiness_gates.clone());
        self.config = patch.config.unwrap_or_else(|| self.config.clone());
        if self.kind != API_TYPE {
            return Err(Error::invalid(format!(
                "Routers of the type {:?} cannot be added: use the type {API_TYPE}.",
                quote_excerpt(&self.kind)
            )));
        }
        let fits = |gate: &String| gate.len() <= MAX_GATE && !gate.contains(char::is_control);
        if self.readiness_gates.len() > MAX_GATES || !self.readiness_gates.iter().all(fits) {
            return Err(Error::invalid(format!(
                "A router has at most {MAX_GATES} readiness gates of at most {MAX_GATE} bytes, without control characters."
            )));
        }
        if json!(self.config).to_string().len() > MAX_CONFIG_BYTES {
            return Err(Error::invalid(format!(
                "The configuration of a router has at most {MAX_CONFIG_BYTES} bytes."
            )));
        }
        self.api_url().map(drop)
    }

    /// Returns the URL of the router's API. Errors: `Invalid`.
    pub(super) fn api_url(&self) -> Result<Url, Error> {
        let wrong = || {
            Error::invalid(
                "config must have an api-url: an http or https URL, without a user, a query or a fragment.",
            )
        };
        let text = self
            .config
            .get("api-url")
            .and_then(Value::as_str)
            .ok_or_else(wrong)?;
        let url = Url::parse(text).map_err(|_| wrong())?;
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        match matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain {
            true => Ok(url),
            false => Err(wrong()),
        }
    }

    /// Returns the data of an event: of the configuration only the keys, since the values may be secret.
    pub(super) fn event_data(&self) -> Value {
        let keys: Vec<&String> = self.config.keys().collect();
        json!({
            "name": self.name, "type": self.kind, "readinessGates": self.readiness_gates, "config": keys,
        })
    }
}

/// What an encrypted configuration is bound to.
pub(super) fn config_associated_data(router: Uuid) -> AssociatedData {
    AssociatedData::new(SealedColumn::ROUTER_CONFIG, &[&router])
}

/// Builds an event on a router.
pub(super) fn router_event(router: &RouterName, kind: Permission, data: Value) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Router, router),
        kind,
        Vec::new(),
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(kind: &str, config: Value) -> Result<AddedRouter, Error> {
        let patch = RouterPatch {
            kind: Some(kind.to_owned()),
            readiness_gates: None,
            config: config.as_object().cloned(),
        };
        AddedRouter::new(RouterName::parse("edge").unwrap(), patch)
    }

    #[test]
    fn router_needs_a_known_type_and_a_plain_url() {
        let good = json!({ "api-url": "https://edge.example.com:8443/api", "headers": { "x-zone": "a" } });
        assert!(router("api", good.clone()).is_ok());
        assert!(router("galeb", good).unwrap_err().message().contains("type api"));
        for bad in [
            json!({}),
            json!({ "api-url": 3 }),
            json!({ "api-url": "edge" }),
            json!({ "api-url": "ftp://edge.example.com" }),
            json!({ "api-url": "http://u:p@edge.example.com" }),
            json!({ "api-url": "http://edge.example.com?token=1" }),
            json!({ "api-url": "http://edge.example.com", "headers": { "x": "a".repeat(20_000) } }),
        ] {
            assert!(router("api", bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn patch_leaves_absent_parts_and_event_has_no_config_values() {
        let mut edge = router("api", json!({ "api-url": "http://edge.example.com" })).unwrap();
        let patch = RouterPatch {
            kind: None,
            readiness_gates: Some(vec!["edge.example.com/ready".to_owned()]),
            config: None,
        };
        edge.apply_patch(patch).unwrap();
        assert_eq!(edge.config["api-url"], "http://edge.example.com");
        let data = edge.event_data().to_string();
        assert!(data.contains("api-url") && !data.contains("http:"), "{data}");
        let many = RouterPatch {
            kind: None,
            readiness_gates: Some(vec!["a".to_owned(); 101]),
            config: None,
        };
        assert!(edge.apply_patch(many).is_err());
    }
}
