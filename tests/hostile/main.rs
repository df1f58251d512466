//! Hostile input: tables of rows (`*.jsonl`), each with the expected rejection, and fuzz tests of the same
//! parsers (`fuzz`).
#![expect(clippy::unwrap_used, reason = "all of this file is tests and their helpers")]

mod archives;
mod fuzz;
mod heads;
mod names;
mod slow;
mod texts;

use serde::de::DeserializeOwned;

/// Parses the rows of a table.
fn parse_rows<T: DeserializeOwned>(table: &str) -> Vec<T> {
    let rows = table.lines().map(|line| serde_json::from_str(line));
    rows.collect::<Result<_, _>>().expect("each line is a row")
}

/// Asserts that an error message is one short sentence without terminal control characters.
fn assert_printable_sentence(row: &str, words: &str) {
    let bad = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}');
    assert!(
        !words.is_empty() && words.len() < 1000 && !words.chars().any(bad),
        "{row}: {words:?}"
    );
}

#[test]
fn tables_have_enough_rows() {
    let tables = [archives::TABLE, heads::TABLE, names::TABLE, texts::TABLE];
    let count: usize = tables.iter().map(|table| table.lines().count()).sum();
    assert!(count >= 350, "{count} rows");
}
