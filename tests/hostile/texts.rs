//! Files of apps and services: Procfile, tsuru.yaml, service manifests.

use serde::Deserialize;
use tancho::builders::{Procfile, TsuruYaml};
use tancho::kernel::error::{Error, ErrorKind};
use tancho::services::manifest;

use super::*;

pub(super) const TABLE: &str = include_str!("texts.jsonl");

#[derive(Deserialize)]
struct TextRow {
    kind: String,
    title: String,
    text: String,
    says: String,
}

fn parse(kind: &str, text: &str) -> Result<(), Error> {
    match kind {
        "procfile" => Procfile::parse(text).map(drop),
        "tsuru.yaml" => TsuruYaml::parse(text).map(drop),
        "manifest" => manifest::ManifestFields::from_yaml(text)?
            .into_manifest()
            .map(drop),
        other => panic!("no such kind: {other}"),
    }
}

#[test]
fn hostile_files_are_rejected() {
    let mut others = Vec::new();
    for row in parse_rows::<TextRow>(TABLE) {
        let title = format!("{}: {}", row.kind, row.title);
        let error = parse(&row.kind, &row.text).expect_err(&title);
        assert!(
            matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unreadable),
            "{title}: {error}"
        );
        if !error.message().contains(&row.says) {
            others.push(format!("{title}: {error}"));
        }
        assert_printable_sentence(&title, error.message());
    }
    assert!(others.is_empty(), "refused in other words: {others:#?}");
}

#[test]
fn large_documents_are_parsed_or_rejected_in_time() {
    let size = 250 << 10;
    let fill = |part: &str| part.repeat(size / part.len());
    let documents = [
        ("flow", fill("[")),
        ("flow maps", fill("{a: ")),
        ("lists", fill("- ")),
        ("list of texts", fill("- a\n")),
        (
            "anchors",
            (0..10_000).map(|n| format!("a{n}: &a{n} x\n")).collect(),
        ),
        ("aliases", format!("a: &a x\nb: [{}]", fill("*a, "))),
        (
            "one alias of much",
            format!(
                "a: &a [{}]\n{}",
                "x, ".repeat(5_000),
                (0..1000).map(|n| format!("b{n}: *a\n")).collect::<String>()
            ),
        ),
        (
            "merges",
            format!(
                "a: &a {{b: c}}\n{}",
                (0..5_000)
                    .map(|n| format!("d{n}: {{<<: *a}}\n"))
                    .collect::<String>()
            ),
        ),
        ("keys", (0..20_000).map(|n| format!("k{n}: v\n")).collect()),
        ("the same key", fill("k: v\n")),
        ("one text", format!("a: \"{}\"", fill("x"))),
        ("escapes", format!("a: \"{}\"", fill("\\u0041"))),
        ("folded", format!("a: >\n{}", fill("  x\n\n"))),
        ("quotes", fill("'")),
        ("colons", fill(": ")),
        ("questions", fill("? ")),
        ("comments", fill("# x\n")),
        ("documents", fill("---\n")),
        ("tags", fill("!!a ")),
        ("spaces", fill(" ")),
        ("tabs", format!("a:{}b", fill("\t"))),
        (
            "a deep indentation",
            (0..700).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        ),
    ];
    for (title, text) in documents {
        for kind in ["tsuru.yaml", "manifest", "procfile"] {
            let begun = std::time::Instant::now();
            let _ = parse(kind, &text);
            // Some hundred milliseconds without optimisation; a parser with a performance bug takes minutes.
            assert!(
                begun.elapsed().as_secs() < 30,
                "{title} {kind}: {:?}",
                begun.elapsed()
            );
        }
    }
}
