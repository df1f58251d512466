//! The manifest of a service: its id, where its provisioning API is, and how to log in there
//! (contract/classic 2.7). Old clients send it as YAML, new ones as the fields of a form.
//!
//! It is read as leniently as the reference reads it: unknown keys pass, a number is the text it was
//! written as, a wrong type is an absent value, a stray backtick around the document and the damaged
//! indentation of the printed example are taken away.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::kernel::names::{ServiceName, TeamName};
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::secret::Secret;
use crate::kernel::yaml;
use crate::services::broker::Dialect;

/// A manifest that has passed the rules.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub id: ServiceName,
    /// Empty: the id.
    pub username: String,
    /// Empty where the service wants none.
    pub password: Secret,
    /// The base URL of the provisioning API, with scheme, without a slash at the end.
    pub endpoint: String,
    /// All endpoints as written; only `production` is ever called.
    pub endpoints: BTreeMap<String, String>,
    /// The team that is to own the service.
    pub team: Option<TeamName>,
    /// The dialect that the owner has named.
    pub dialect: Option<Dialect>,
}

/// The fields of a manifest as written; empty is the same as absent.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Fields {
    pub id: String,
    pub username: String,
    pub password: String,
    pub team: String,
    pub dialect: String,
    pub endpoint: BTreeMap<String, String>,
}

impl Fields {
    /// Reads YAML. Errors: `Unreadable` when it is none, with the place.
    pub fn from_yaml(text: &str) -> Result<Self, Problem> {
        let text = text.trim().trim_matches('`').trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let first = match read(text) {
            Ok(fields) => return Ok(fields),
            Err(why) => why,
        };
        // Printed examples have lost the indentation of the first line only.
        read(&dedented(text)).map_err(|_| {
            Problem::new(
                Kind::Unreadable,
                format!("The manifest is not valid YAML: {first}."),
            )
        })
    }

    /// Checks the rules, in the order of the reference: id, password, production endpoint.
    pub fn check(self) -> Result<Manifest, Problem> {
        if self.id.is_empty() {
            return Err(Problem::invalid("Service id is required."));
        }
        let id = ServiceName::parse(&self.id)?;
        if self.password.contains(|c: char| c.is_control()) || self.password.len() > 1024 {
            return Err(Problem::invalid(
                "The password must be at most 1,024 bytes without control characters.",
            ));
        }
        let bad_user = |c: char| c.is_control() || c == ':';
        if self.username.contains(bad_user) || self.username.len() > 255 {
            return Err(Problem::invalid(
                "The username must be at most 255 bytes without colons and control characters.",
            ));
        }
        let production = self.endpoint.get("production").map_or("", String::as_str);
        let endpoint = base_url(production)?;
        if self.endpoint.len() > 16 {
            return Err(Problem::invalid("There are at most 16 endpoints."));
        }
        let dialect = match self.dialect.as_str() {
            "" => None,
            word => Some(Dialect::parse(word)?),
        };
        let team = match self.team.as_str() {
            "" => None,
            team => Some(TeamName::parse(team)?),
        };
        Ok(Manifest {
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

/// Typed first, because that keeps `000000` a text; if a value has a wrong type, then value by value.
fn read(text: &str) -> Result<Fields, String> {
    if let Ok(fields) = yaml::from_str::<Fields>(text) {
        return Ok(fields);
    }
    let value = yaml::from_str::<Value>(text)?;
    let of = |key: &str| value.get(key).map(as_text).unwrap_or_default();
    let endpoint = value.get("endpoint").and_then(Value::as_object);
    Ok(Fields {
        id: of("id"),
        username: of("username"),
        password: of("password"),
        team: of("team"),
        dialect: of("dialect"),
        endpoint: endpoint
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), as_text(value)))
            .collect(),
    })
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// The document with the common indentation of all lines but the first taken away.
fn dedented(text: &str) -> String {
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

/// The base URL of an endpoint: `http://` in front when it names no scheme, no slash at the end.
/// Errors: `Invalid` when it is missing or cannot be called.
pub fn base_url(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Problem::invalid("Service production endpoint is required."));
    }
    let lower = text.to_ascii_lowercase();
    let full = match lower.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let wrong = |why: &str| Problem::invalid(format!("The production endpoint cannot be used: {why}."));
    if text.len() > 2048 || text.contains(char::is_control) {
        return Err(wrong("it is no URL"));
    }
    let url = Url::parse(&full).map_err(|_| wrong("it is no URL"))?;
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

    fn manifest(text: &str) -> Result<Manifest, Problem> {
        Fields::from_yaml(text)?.check()
    }

    #[test]
    fn the_printed_example_is_read_with_all_its_scars() {
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
    fn a_full_manifest_keeps_texts_as_written() {
        let read = manifest(
            "id: s\nusername: u\npassword: 000000\nteam: web team\nextra: [1]\ndialect: 2014\nendpoint:\n  production: https://x.test:8080/api/\n  test: t.test\n",
        )
        .unwrap();
        assert_eq!(read.password.expose(), "000000");
        assert_eq!(read.endpoint, "https://x.test:8080/api");
        assert_eq!(read.endpoints["test"], "t.test");
        assert_eq!(read.team.unwrap().as_str(), "web team");
        assert_eq!(read.dialect, Some(Dialect::PerUnit));
        assert_eq!(read.username, "u");
    }

    #[test]
    fn problems_come_in_order_and_wrong_types_are_absences() {
        let words = |text: &str| {
            let problem = manifest(text).unwrap_err();
            (problem.kind(), problem.words().to_owned())
        };
        for none in [
            "",
            "[a]",
            "just words",
            "id: [a]\n",
            "endpoint: {production: x}",
            "12",
        ] {
            assert_eq!(words(none).0, Kind::Invalid, "{none}");
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
            assert_eq!(words(bad).0, Kind::Unreadable, "{bad}");
        }
        for bad in ["instances", "1x", "a/b", "../x", "a b"] {
            assert_eq!(
                words(&format!("id: '{bad}'\nendpoint: {{production: x}}")).0,
                Kind::Invalid
            );
        }
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
            assert!(base_url(bad).is_err(), "{bad}");
        }
        assert_eq!(base_url("localhost:5000").unwrap(), "http://localhost:5000");
        assert_eq!(base_url("HTTP://x.test//").unwrap(), "http://x.test");
    }
}
