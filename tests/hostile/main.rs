//! What strangers may send and must not get away with: tables of rows (`*.jsonl`), each with the refusal that
//! it is to meet, and the same parsers fed with what nobody thought of (`fuzz`).
#![expect(clippy::unwrap_used, reason = "all of this file is tests and their helpers")]

mod archives;
mod fuzz;
mod heads;
mod names;
mod slow;
mod texts;

use serde::de::DeserializeOwned;

/// The rows of a table.
fn rows<T: DeserializeOwned>(table: &str) -> Vec<T> {
    let rows = table.lines().map(|line| serde_json::from_str(line));
    rows.collect::<Result<_, _>>().expect("each line is a row")
}

/// What a stranger is told: one short sentence without anything that a terminal would obey.
fn assert_fit_to_show(row: &str, words: &str) {
    let bad = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}');
    assert!(
        !words.is_empty() && words.len() < 1000 && !words.chars().any(bad),
        "{row}: {words:?}"
    );
}

#[test]
fn the_tables_are_as_long_as_promised() {
    let tables = [archives::TABLE, heads::TABLE, names::TABLE, texts::TABLE];
    let count: usize = tables.iter().map(|table| table.lines().count()).sum();
    assert!(count >= 350, "{count} rows");
}
