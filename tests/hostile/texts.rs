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

#[test]
fn large_documents_are_read_or_refused_in_time() {
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
        ("blanks", fill(" ")),
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
            // Some hundred milliseconds without optimisation; a parser that goes wrong takes minutes.
            assert!(
                begun.elapsed().as_secs() < 30,
                "{title} {kind}: {:?}",
                begun.elapsed()
            );
        }
    }
}
