//! Names of all kinds: an invalid name must never reach a path, a host, a header or a shell command.

use serde::Deserialize;
use tancho::kernel::error::{Error, ErrorKind};
use tancho::kernel::names::{
    AppName, CName, Email, EnvName, InstanceName, PlanName, PlatformName, PoolName, ProcessName, RoleName,
    ServiceName, TeamName,
};
use tancho::provisioners::UnitId;
use tancho::proxy::HostName;

use super::*;

pub(super) const TABLE: &str = include_str!("names.jsonl");

#[derive(Deserialize)]
struct NameRow {
    kind: String,
    text: String,
    says: String,
}

pub(super) const KINDS: [&str; 14] = [
    "app", "team", "service", "instance", "pool", "plan", "platform", "role", "process", "env", "cname",
    "email", "unit", "host",
];

/// Parses a string as a name: returns the name again, or the error.
pub(super) fn parse(kind: &str, text: &str) -> Result<String, Error> {
    match kind {
        "app" => AppName::parse(text).map(|name| name.to_string()),
        "team" => TeamName::parse(text).map(|name| name.to_string()),
        "service" => ServiceName::parse(text).map(|name| name.to_string()),
        "instance" => InstanceName::parse(text).map(|name| name.to_string()),
        "pool" => PoolName::parse(text).map(|name| name.to_string()),
        "plan" => PlanName::parse(text).map(|name| name.to_string()),
        "platform" => PlatformName::parse(text).map(|name| name.to_string()),
        "role" => RoleName::parse(text).map(|name| name.to_string()),
        "process" => ProcessName::parse(text).map(|name| name.to_string()),
        "env" => EnvName::parse(text).map(|name| name.to_string()),
        "cname" => CName::parse(text).map(|name| name.to_string()),
        "email" => Email::parse(text).map(|name| name.to_string()),
        "unit" => UnitId::parse(text).map(|name| name.to_string()),
        // The router reports no reason: it responds 400.
        "host" => HostName::parse(text.as_bytes())
            .map(|host| host.as_str().to_owned())
            .ok_or_else(|| Error::invalid("This is not a host.")),
        other => panic!("no such kind: {other}"),
    }
}

#[test]
fn hostile_names_are_rejected() {
    for row in parse_rows::<NameRow>(TABLE) {
        let title = format!("{} {:?}", row.kind, row.text);
        let error = parse(&row.kind, &row.text).expect_err(&title);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{title}");
        assert!(error.message().contains(&row.says), "{title}: {error}");
        assert_printable_sentence(&title, error.message());
    }
}
