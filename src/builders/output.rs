//! The output of a build: splits bytes into lines, masks secrets, applies limits, and keeps the line that
//! names the cause of an error.

use tokio::sync::mpsc;

use super::command::StopCondition;
use super::failure_reason::FailureReason;
use crate::kernel::log_text::{clean_line, clip_line};
use crate::kernel::secret::Secret;

/// The longest line that is forwarded, in bytes.
const MAX_SHOWN_BYTES: usize = 4 << 10;
/// How much of an unfinished line is buffered, in bytes: more than is shown, so that a secret at the cut is
/// recognized.
const MAX_KEPT_BYTES: usize = 64 << 10;
/// Shorter values are not masked: `1`, `true` and `8080` would match everywhere.
const SHORTEST_MASKED: usize = 6;

/// The output of one build, shared by all of its steps.
pub(super) struct BuildOutput {
    lines: mpsc::Sender<String>,
    stop: StopCondition,
    secrets: Vec<Secret>,
    bytes_left: u64,
    max_bytes: u64,
    reason: FailureReason,
}

impl BuildOutput {
    pub(super) fn new<'a>(
        lines: mpsc::Sender<String>,
        stop: StopCondition,
        secrets: impl Iterator<Item = &'a Secret>,
        max_bytes: u64,
    ) -> Self {
        let mut secrets: Vec<Secret> = secrets
            .flat_map(|s| s.expose_secret().lines().map(str::trim))
            .filter(|line| line.len() >= SHORTEST_MASKED)
            .map(Secret::new)
            .collect();
        // A value may contain another one: the longer one is replaced first.
        secrets.sort_by_key(|s| std::cmp::Reverse(s.expose_secret().len()));
        Self {
            lines,
            stop,
            secrets,
            bytes_left: max_bytes,
            max_bytes,
            reason: FailureReason::default(),
        }
    }

    /// Replaces secrets by `***`.
    pub(super) fn mask_secrets(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| {
            if text.contains(secret.expose_secret()) {
                text.replace(secret.expose_secret(), "***")
            } else {
                text
            }
        })
    }

    /// Forwards a line; waits while the reader is slow, until the build must stop. Beyond the output limit,
    /// lines are only searched for the reason of a failure.
    pub(super) async fn write_line(&mut self, line: &str) {
        // Colour codes are removed first: they could split a secret.
        let line = strip_ansi_codes(line);
        let line = clip_line(clean_line(&self.mask_secrets(&line)), MAX_SHOWN_BYTES).into_owned();
        self.reason.push_line(line.trim());
        if self.bytes_left == 0 {
            return;
        }
        let size = line.len() as u64 + 1;
        let line = if size > self.bytes_left {
            self.bytes_left = 0;
            format!(
                " ---> The output is longer than {} bytes; the rest is left out.",
                self.max_bytes
            )
        } else {
            self.bytes_left -= size;
            line
        };
        tokio::select! {
            // The receiver may be closed: the build continues.
            _ = self.lines.send(line) => {}
            () = self.stop.wait_until_met() => {}
        }
    }

    /// Starts another step: forgets the lines of the one before.
    pub(super) fn start_step(&mut self) {
        self.reason = FailureReason::default();
    }

    /// Returns the line of this step that names the cause of a failure.
    pub(super) fn failure_reason(&self) -> Option<String> {
        self.reason.get()
    }
}

/// Splits bytes into lines. A terminal overwrites what precedes a lone carriage return, so only the rest is
/// kept.
#[derive(Default)]
pub(super) struct LineSplitter {
    line: Vec<u8>,
}

impl LineSplitter {
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = MAX_KEPT_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                lines.extend(self.finish_line());
            }
        }
        lines
    }

    /// Ends the output: an unfinished line counts as a line.
    pub(super) fn finish_output(&mut self) -> Option<String> {
        if self.line.is_empty() {
            None
        } else {
            self.finish_line()
        }
    }

    fn finish_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\r").unwrap_or(&line);
        let text = text
            .rsplit(|b| *b == b'\r')
            .find(|t| !t.is_empty())
            .unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Removes ANSI colour codes.
fn strip_ansi_codes(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_independently_of_chunks() {
        let mut splitter = LineSplitter::default();
        let mut lines = splitter.push_bytes(b"on");
        lines.extend(splitter.push_bytes(b"e\r\ntwo\n\n10%\r100%\nla"));
        lines.extend(splitter.push_bytes(b"st"));
        lines.extend(splitter.finish_output());
        assert_eq!(lines, ["one", "two", "", "100%", "last"]);
    }

    #[tokio::test]
    async fn secrets_are_masked_even_where_a_line_is_cut() {
        let (tx, mut rx) = mpsc::channel(10);
        let secret = Secret::new("correct-horse-battery");
        let stop = StopCondition::begin(Default::default(), &Default::default());
        let mut output = BuildOutput::new(tx, stop, [&secret].into_iter(), 1 << 20);
        let line = format!("{}{}", "x".repeat(MAX_SHOWN_BYTES - 8), secret.expose_secret());
        output.write_line(&line).await;
        assert!(!rx.recv().await.unwrap().contains("correct"));
        output
            .write_line("\u{1b}[31mpassword is correct-horse-battery\u{1b}[0m")
            .await;
        assert_eq!(rx.recv().await.unwrap(), "password is ***");
        assert_eq!(output.failure_reason().unwrap(), "password is ***");
        output.write_line("correct-\u{1b}[1mhorse-battery").await;
        assert_eq!(rx.recv().await.unwrap(), "***");
        output.write_line("a\u{7}b\u{202e}c\0").await;
        assert_eq!(rx.recv().await.unwrap(), "a\u{fffd}b\u{fffd}c\u{fffd}");
    }
}
