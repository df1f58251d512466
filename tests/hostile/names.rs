//! Names of everything: a path, a host, a header or a line of a shell must never be made of one.

use serde::Deserialize;
use tancho::kernel::names::{
    AppName, CName, Email, EnvName, InstanceName, PlanName, PlatformName, PoolName, ProcessName, RoleName,
    ServiceName, TeamName,
};
use tancho::kernel::problem::{Kind, Problem};
use tancho::provisioners::UnitId;
use tancho::proxy::Host;

use super::*;

pub(super) const TABLE: &str = include_str!("names.jsonl");

#[derive(Deserialize)]
struct Row {
    kind: String,
    text: String,
    says: String,
}

pub(super) const KINDS: [&str; 14] = [
    "app", "team", "service", "instance", "pool", "plan", "platform", "role", "process", "env", "cname",
    "email", "unit", "host",
];

/// What a parser makes of a text: the name again, or why not.
pub(super) fn parse(kind: &str, text: &str) -> Result<String, Problem> {
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
        // The router tells nobody why: it answers 400.
        "host" => Host::read(text.as_bytes())
            .map(|host| host.as_str().to_owned())
            .ok_or_else(|| Problem::invalid("That is no host.")),
        other => panic!("no such kind: {other}"),
    }
}

#[test]
fn no_hostile_name_passes() {
    for row in rows::<Row>(TABLE) {
        let title = format!("{} {:?}", row.kind, row.text);
        let problem = parse(&row.kind, &row.text).expect_err(&title);
        assert_eq!(problem.kind(), Kind::Invalid, "{title}");
        assert!(problem.words().contains(&row.says), "{title}: {problem}");
        assert_fit_to_show(&title, problem.words());
    }
}
