//! Who may import whom: imports point downwards only, SQL stays in stores, HTTP in the edition files
//! (`classic.rs`, `modern.rs`, and `wire.rs` for what both say alike).
//! Read from the sources, so it costs nothing to run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the house from the ground up. A module imports its own row's and lower rows' modules.
/// `http::kit`, `http::wording` and `http::table` are the frame, which edition files stand on. `ssh::client` is
/// for whoever calls another server, and knows nothing of ours.
const ROWS: &[&[&str]] = &[
    &["kernel"],
    &["config"],
    &["telemetry", "datadir", "confine"],
    &["db"],
    &["events"],
    &[
        "sagas",
        "provisioners",
        "builders",
        "proxy",
        "outbound",
        "mail",
        "ssh-client",
    ],
    &["core"],
    &["frame"],
    &["quotas", "sealing"],
    &["users"],
    &["teams", "plans", "pools", "platforms"],
    &["envs"],
    &["apps"],
    &["releases"],
    &["units"],
    &["services", "deploys"],
    &["repositories"],
    &["ssh", "forges"],
    &["lifecycle", "healers"],
    &["http"],
    &["server"],
    &["cli"],
    &["commands"],
];

/// Files outside `store.rs` that may hold SQL, each with its reason.
const SQL_TOO: &[&str] = &[
    // `pg_notify` and `select 1`, which belong to no slice.
    "src/db/mod.rs",
];

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The module that a file belongs to, as the rows name it.
fn home(file: &str) -> String {
    let rest = file.strip_prefix("src/").unwrap();
    let first = rest.split('/').next().unwrap().trim_end_matches(".rs");
    match rest.split('/').nth(1) {
        Some("kit" | "wording" | "table.rs") if first == "http" => "frame".into(),
        Some("client") if first == "ssh" => "ssh-client".into(),
        _ => first.into(),
    }
}

/// What a path after `crate::` names, as the rows name it: `http::kit::…` is the frame.
fn named(path: &str) -> String {
    let mut words = path
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty());
    let first = words.next().unwrap_or_default();
    match (first, words.next()) {
        ("http", Some("kit" | "wording" | "table")) => "frame".into(),
        ("ssh", Some("client")) => "ssh-client".into(),
        _ => first.into(),
    }
}

/// All that a source imports from this crate: `use crate::a::b`, `use crate::{a, b::c}`, `crate::a::b()`.
fn imports(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(named(
                &rest[..rest.find([';', ' ', '(', ',', ')']).unwrap_or(rest.len())],
            )),
            Some(list) => found.extend(top_level(list).iter().map(|item| named(item))),
        }
    }
    found
}

/// The items of `a, b::{c, d}, e}…`.
fn top_level(list: &str) -> Vec<String> {
    let (mut items, mut item, mut depth) = (Vec::new(), String::new(), 0);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {}
        }
        if !(c == ',' && depth == 0) {
            item.push(c);
        }
    }
    items.push(item);
    items.retain(|item| !item.trim().is_empty());
    items
}

#[test]
fn imports_point_downwards() {
    let mut faults = Vec::new();
    for (file, source) in all_sources() {
        let home = home(&file);
        if ["main", "lib"].contains(&home.as_str()) {
            continue;
        }
        let own = row(&home).unwrap_or_else(|| panic!("{file}: give {home} a row in tests/layers.rs"));
        for import in imports(&source) {
            match row(&import) {
                Some(other) if other > own => faults.push(format!("{file} reaches up to {import}")),
                _ => {}
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn sql_is_in_stores_alone() {
    let holds = |source: &str| source.contains("sqlx::query");
    let faults: Vec<String> = all_sources()
        .into_iter()
        .filter(|(file, source)| {
            holds(source)
                && !file.ends_with("store.rs")
                && !file.contains("/tests")
                && !SQL_TOO.contains(&file.as_str())
        })
        .map(|(file, _)| file)
        .collect();
    assert!(faults.is_empty(), "SQL outside a store: {}", faults.join(", "));
}

#[test]
fn http_is_in_edition_files_alone() {
    let faults: Vec<String> = all_sources()
        .into_iter()
        .filter(|(file, source)| {
            let edition = ["/classic.rs", "/modern.rs", "/wire.rs"]
                .iter()
                .any(|name| file.ends_with(name));
            let allowed = edition || file.starts_with("src/http/") || file == "src/server.rs";
            source.contains("axum::") && !allowed
        })
        .map(|(file, _)| file)
        .collect();
    assert!(
        faults.is_empty(),
        "axum outside an edition file: {}",
        faults.join(", ")
    );
}

#[test]
fn the_reader_of_imports_sees_all_forms() {
    let source =
        "use crate::a::b; use crate::{c::{d, e}, f}; fn x() { crate::http::kit::y(); } // crate::not";
    assert_eq!(imports(source), ["a", "c", "f", "frame"]);
}
