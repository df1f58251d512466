//! Files that apps and services bring: Procfile, tsuru.yaml, the manifest of a service.

use serde::Deserialize;
use tancho::builders::{Procfile, TsuruYaml};
use tancho::kernel::problem::{Kind, Problem};
use tancho::services::manifest;

use super::*;

pub(super) const TABLE: &str = include_str!("texts.jsonl");

#[derive(Deserialize)]
struct Row {
    kind: String,
    title: String,
    text: String,
    says: String,
}

fn parse(kind: &str, text: &str) -> Result<(), Problem> {
    match kind {
        "procfile" => Procfile::parse(text).map(drop),
        "tsuru.yaml" => TsuruYaml::parse(text).map(drop),
        "manifest" => manifest::Fields::from_yaml(text)?.check().map(drop),
        other => panic!("no such kind: {other}"),
    }
}

#[test]
fn no_hostile_text_passes() {
    let mut others = Vec::new();
    for row in rows::<Row>(TABLE) {
        let title = format!("{}: {}", row.kind, row.title);
        let problem = parse(&row.kind, &row.text).expect_err(&title);
        assert!(
            matches!(problem.kind(), Kind::Invalid | Kind::Unreadable),
            "{title}: {problem}"
        );
        if !problem.words().contains(&row.says) {
            others.push(format!("{title}: {problem}"));
        }
        assert_fit_to_show(&title, problem.words());
    }
    assert!(others.is_empty(), "refused in other words: {others:#?}");
}
