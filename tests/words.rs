//! The words of the code: no two types share a bare name, and no message says "text" for a string or "blank" for
//! a space. Checked by reading the sources.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn list_sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            list_sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// Returns the lines of all sources with their files, without comments and tests.
fn source_lines() -> Vec<(String, String)> {
    let mut files = Vec::new();
    list_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files.sort();
    let mut lines = Vec::new();
    for path in files {
        let source = fs::read_to_string(&path).unwrap();
        let code = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            lines.push((path.display().to_string(), line.to_owned()));
        }
    }
    lines
}

/// Returns the name of the type that a line declares.
fn declared_type(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().peekable();
    while words.peek().is_some_and(|word| word.starts_with("pub")) {
        // `pub(in path)` has a space.
        if words.next() == Some("pub(in") {
            words.next();
        }
    }
    let keyword = words.next()?;
    let is_type = ["struct", "enum", "trait", "union"].contains(&keyword)
        || (keyword == "type" && !line.starts_with(' '));
    let name = words.next().filter(|_| is_type)?;
    let end = name
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(name.len());
    name.starts_with(|c: char| c.is_ascii_uppercase())
        .then_some(&name[..end])
}

#[test]
fn no_two_types_share_a_name() {
    let mut declared = BTreeMap::<String, Vec<String>>::new();
    for (file, line) in source_lines() {
        if let Some(name) = declared_type(&line) {
            declared.entry(name.to_owned()).or_default().push(file);
        }
    }
    assert!(declared.len() > 100, "the types are not found");
    let shared: Vec<_> = declared.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(shared.is_empty(), "{shared:#?}");
}

#[test]
fn declared_type_is_found_in_all_forms() {
    for (line, name) in [
        ("pub struct App {", Some("App")),
        ("    pub(super) enum UnitState<T> {", Some("UnitState")),
        ("pub(in crate::teams) struct RoleRow(i32);", Some("RoleRow")),
        ("trait UnitRunner: Send {", Some("UnitRunner")),
        ("type Rows = Vec<i32>;", Some("Rows")),
        ("    type Error = Error;", None),
        ("pub fn struct_of() {", None),
    ] {
        assert_eq!(declared_type(line), name, "{line}");
    }
}

/// Returns the words of the string literals of a line; what stands between braces is code.
fn message_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for literal in line.split('"').skip(1).step_by(2) {
        // A message has spaces; a path, a key or a media type has none.
        if !literal.contains(' ') || literal.contains("::") {
            continue;
        }
        let mut depth = 0;
        let visible: String = literal
            .chars()
            .filter(|c| {
                depth += i32::from(*c == '{');
                let is_visible = depth == 0;
                depth -= i32::from(*c == '}');
                is_visible
            })
            .collect();
        let split = visible.split(|c: char| !c.is_ascii_alphanumeric() && !"./-_".contains(c));
        words.extend(split.map(|word| word.trim_end_matches('.').to_lowercase()));
    }
    words
}

#[test]
fn messages_name_strings_and_spaces() {
    let faults: Vec<String> = source_lines()
        .into_iter()
        .filter(|(_, line)| {
            let words = message_words(line);
            ["text", "texts", "blank", "blanks"]
                .iter()
                .any(|word| words.iter().any(|found| found == word))
        })
        .map(|(file, line)| format!("{file}: {}", line.trim()))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn message_words_are_those_that_a_user_sees() {
    let words = message_words(r#"Err(format!("{text} is no text.", text = "x")) // "a""#);
    assert!(words.contains(&"text".to_owned()), "{words:?}");
    let words = message_words(r#"format!("{text} has text/plain, and $1::text")"#);
    assert!(!words.contains(&"text".to_owned()), "{words:?}");
    assert!(
        message_words(r#"("text", "a key")"#)
            .iter()
            .all(|word| word != "text")
    );
}
