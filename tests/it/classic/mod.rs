//! The classic edition against its documentation: the tables of `tests/classic` are replayed over real HTTP,
//! and checked for completeness.

mod healers;
mod lists;
mod replay;
mod reset;
mod row;
mod service;
mod tables;

use std::time::Duration;

use crate::test_server::TestServer;

/// Waits for the newest mail in the folder to a user that contains `mark`.
async fn find_mail(tancho: &TestServer, to: &str, mark: &str) -> String {
    let folder = tancho.running.core.data_dir.mail_dir();
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
        assert!(tokio::time::Instant::now() < deadline, "no mail to {to}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the line of a mail that consists of hexadecimal digits.
fn secret_line(letter: &str) -> String {
    let is_secret = |line: &&str| line.len() >= 12 && line.chars().all(|c| c.is_ascii_hexdigit());
    letter
        .lines()
        .find(is_secret)
        .unwrap_or_else(|| panic!("no secret in {letter}"))
        .to_owned()
}
