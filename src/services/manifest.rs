//! The manifest of a service: its id, the URL of its provisioning API, and the credentials for it
//! (contract/classic 2.7). Old clients send it as YAML, new ones as form fields.
//!
//! The parser is as lenient as the reference: unknown keys are ignored, a number becomes the string as it was
//! written, a value of the wrong type counts as absent, and a stray backtick around the document and the
//! damaged indentation of the printed example are removed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{ServiceName, TeamName};
use crate::kernel::secret::Secret;
use crate::kernel::yaml;
use crate::services::broker::Dialect;

/// A manifest that has passed validation.
#[derive(Clone, Debug)]
pub struct ServiceManifest {
    pub id: ServiceName,
    /// If empty, the id is the user name.
    pub username: String,
    /// Empty if the service needs no password.
    pub password: Secret,
    /// The base URL of the provisioning API, with scheme and without a trailing slash.
    pub endpoint: String,
    /// All endpoints as written; only `production` is called.
    pub endpoints: BTreeMap<String, String>,
    /// The team that will own the service.
    pub team: Option<TeamName>,
    /// The dialect that the owner has configured.
    pub dialect: Option<Dialect>,
}

/// The fields of a manifest as written; an empty field counts as absent.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct ManifestFields {
    pub id: String,
    pub username: String,
    pub password: String,
    pub team: String,
    pub dialect: String,
    pub endpoint: BTreeMap<String, String>,
}

impl ManifestFields {
    /// Parses YAML. Errors: `Unreadable` with the position if the text is not valid YAML.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        let text = text.trim().trim_matches('`').trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let first = match parse_yaml(text) {
            Ok(fields) => return Ok(fields),
            Err(why) => why,
        };
        // Printed examples have lost the indentation of their first line only.
        parse_yaml(&dedent_after_first_line(text)).map_err(|_| {
            Error::new(
                ErrorKind::Unreadable,
                format!("The manifest is not valid YAML: {first}."),
            )
        })
    }

    /// Validates like `into_manifest`, but requires a password, for clients that have always sent one. The
    /// check of the password follows that of the id.
    pub fn into_manifest_with_password(self) -> Result<ServiceManifest, Error> {
        if !self.id.is_empty() && self.password.is_empty() {
            return Err(Error::invalid("Service password is required."));
        }
        self.into_manifest()
    }

    /// Validates the fields in the order of the reference: id, password, production endpoint.
    pub fn into_manifest(self) -> Result<ServiceManifest, Error> {
        if self.id.is_empty() {
            return Err(Error::invalid("Service id is required."));
        }
        let id = ServiceName::parse(&self.id)?;
        if self.password.contains(|c: char| c.is_control()) || self.password.len() > 1024 {
            return Err(Error::invalid(
                "The password must be at most 1,024 bytes without control characters.",
            ));
        }
        let bad_user = |c: char| c.is_control() || c == ':';
        if self.username.contains(bad_user) || self.username.len() > 255 {
            return Err(Error::invalid(
                "The username must be at most 255 bytes without colons and control characters.",
            ));
        }
        let production = self.endpoint.get("production").map_or("", String::as_str);
        let endpoint = parse_base_url(production)?;
        if self.endpoint.len() > 16 {
            return Err(Error::invalid("At most 16 endpoints are allowed."));
        }
        let dialect = match self.dialect.as_str() {
            "" => None,
            word => Some(Dialect::parse(word)?),
        };
        let team = match self.team.as_str() {
            "" => None,
            team => Some(TeamName::parse(team)?),
        };
        Ok(ServiceManifest {
            id,
            username: self.username,
            password: Secret::new(self.password),
            endpoint,
            endpoints: self.endpoint,
            team,
            dialect,
        })
    }
}

/// Parses into the typed fields first, which keeps `000000` a string; if a value has the wrong type, parses
/// value by value.
fn parse_yaml(text: &str) -> Result<ManifestFields, String> {
    if let Ok(fields) = yaml::from_str::<ManifestFields>(text) {
        return Ok(fields);
    }
    let value = yaml::from_str::<Value>(text)?;
    let of = |key: &str| value.get(key).map(scalar_to_string).unwrap_or_default();
    let endpoint = value.get("endpoint").and_then(Value::as_object);
    Ok(ManifestFields {
        id: of("id"),
        username: of("username"),
        password: of("password"),
        team: of("team"),
        dialect: of("dialect"),
        endpoint: endpoint
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), scalar_to_string(value)))
            .collect(),
    })
}

fn scalar_to_string(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// Removes the common indentation of all lines but the first.
fn dedent_after_first_line(text: &str) -> String {
    let rest = || text.lines().skip(1).filter(|line| !line.trim().is_empty());
    let indent = rest()
        .map(|line| line.len() - line.trim_start_matches(' ').len())
        .min()
        .unwrap_or(0);
    let lines = text.lines().enumerate();
    let cut = lines.map(|(at, line)| {
        if at == 0 {
            line
        } else {
            line.get(indent..).unwrap_or("")
        }
    });
    cut.collect::<Vec<_>>().join("\n")
}

/// Returns the base URL of an endpoint, with `http://` prepended if it has no scheme, and without a trailing
/// slash. Errors: `Invalid` if it is missing or cannot be called.
pub fn parse_base_url(text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::invalid("Service production endpoint is required."));
    }
    let lower = text.to_ascii_lowercase();
    let full = match lower.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let wrong = |why: &str| Error::invalid(format!("The production endpoint cannot be used: {why}."));
    if text.len() > 2048 || text.contains(char::is_control) {
        return Err(wrong("it is not a valid URL"));
    }
    let url = Url::parse(&full).map_err(|_| wrong("it is not a valid URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("use a host, or an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("put the user and the password into username and password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it must have neither query nor fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Result<ServiceManifest, Error> {
        ManifestFields::from_yaml(text)?.into_manifest()
    }

    #[test]
    fn damaged_documentation_example_is_parsed() {
        for text in [
            "    `id: some_service\nendpoint:\n    production: someservice.com`",
            "`id: some_service\n    endpoint:\n        production: someservice.com`\n",
            "id: some_service\nendpoint:\n  production: someservice.com/\n",
            "{\"id\": \"some_service\", \"endpoint\": {\"production\": \"someservice.com\"}}",
        ] {
            let read = manifest(text).unwrap();
            assert_eq!(
                (read.id.as_str(), read.endpoint.as_str()),
                ("some_service", "http://someservice.com")
            );
            assert!(read.password.is_empty() && read.username.is_empty());
        }
    }

    #[test]
    fn full_manifest_keeps_strings_as_written() {
        let read = manifest(
            "id: s\nusername: u\npassword: 000000\nteam: web team\nextra: [1]\ndialect: 2014\nendpoint:\n  production: https://x.test:8080/api/\n  test: t.test\n",
        )
        .unwrap();
        assert_eq!(read.password.expose_secret(), "000000");
        assert_eq!(read.endpoint, "https://x.test:8080/api");
        assert_eq!(read.endpoints["test"], "t.test");
        assert_eq!(read.team.unwrap().as_str(), "web team");
        assert_eq!(read.dialect, Some(Dialect::PerUnit));
        assert_eq!(read.username, "u");
    }

    #[test]
    fn errors_come_in_reference_order_and_wrong_types_count_as_absent() {
        let words = |text: &str| {
            let error = manifest(text).unwrap_err();
            (error.kind(), error.message().to_owned())
        };
        for none in [
            "",
            "[a]",
            "just words",
            "id: [a]\n",
            "endpoint: {production: x}",
            "12",
        ] {
            assert_eq!(words(none).0, ErrorKind::Invalid, "{none}");
            assert!(words(none).1.contains("id"), "{none}");
        }
        for none in [
            "id: s",
            "id: s\nendpoint: foo",
            "id: s\nendpoint: {test: x}",
            "id: s\nendpoint: {production: ''}",
        ] {
            assert!(words(none).1.contains("production"), "{none}");
        }
        for bad in ["id: s: t", "id: [", "\t- x: {"] {
            assert_eq!(words(bad).0, ErrorKind::Unreadable, "{bad}");
        }
        for bad in ["instances", "1x", "a/b", "../x", "a b"] {
            assert_eq!(
                words(&format!("id: '{bad}'\nendpoint: {{production: x}}")).0,
                ErrorKind::Invalid
            );
        }
    }

    #[test]
    fn missing_password_is_refused_by_the_form_manifest_only() {
        let fields = |text| ManifestFields::from_yaml(text).unwrap();
        let refused = |text| {
            fields(text)
                .into_manifest_with_password()
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert_eq!(
            refused("id: s\nendpoint: {production: x}"),
            "Service password is required."
        );
        assert_eq!(refused("endpoint: {production: x}"), "Service id is required.");
        let whole = fields("id: s\npassword: p\nendpoint: {production: x}");
        assert!(whole.into_manifest_with_password().is_ok());
    }

    #[test]
    fn endpoints_that_cannot_be_called_are_refused() {
        for bad in [
            "ftp://x",
            "http://",
            "u:p@x.test",
            "x.test?a=b",
            "http://x y/",
            "x.test#f",
        ] {
            assert!(parse_base_url(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_base_url("localhost:5000").unwrap(), "http://localhost:5000");
        assert_eq!(parse_base_url("HTTP://x.test//").unwrap(), "http://x.test");
    }
}
