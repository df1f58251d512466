//! The classic edition against its documents: the tables of `tests/classic` replayed over real HTTP, and
//! the checks that nothing is missing from them.

mod healers;
mod lists;
mod replay;
mod reset;
mod row;
mod service;
mod tables;

use std::time::Duration;

use crate::house::House;

/// The newest letter in the folder to somebody that holds `mark`, once it is there.
async fn mailed(house: &House, to: &str, mark: &str) -> String {
    let folder = house.running.core.dirs.mail();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let mut paths: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "eml"))
            .collect();
        paths.sort();
        let texts = paths
            .iter()
            .rev()
            .filter_map(|path| std::fs::read_to_string(path).ok());
        let mut found = texts.filter(|text| text.contains(&format!("To: {to}")) && text.contains(mark));
        if let Some(text) = found.next() {
            return text;
        }
        assert!(tokio::time::Instant::now() < deadline, "no letter to {to}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The line of a letter that is nothing but hexadecimal digits.
fn secret_line(letter: &str) -> String {
    let is_secret = |line: &&str| line.len() >= 12 && line.chars().all(|c| c.is_ascii_hexdigit());
    letter
        .lines()
        .find(is_secret)
        .unwrap_or_else(|| panic!("no secret in {letter}"))
        .to_owned()
}
