//! What a build says: bytes into lines, secrets out of them, bounds on both, and the last line kept for
//! the error.

use tokio::sync::mpsc;

use super::run::Watch;
use crate::kernel::secret::Secret;

/// Longest line that is passed on, in bytes.
const LINE: usize = 4 << 10;
/// What is kept of a line until it ends: more than is shown, so that a secret at the cut is seen whole.
const KEPT: usize = 64 << 10;
/// Shorter values are not masked: `1`, `true` and `8080` would be everywhere.
const SHORTEST_MASKED: usize = 6;
/// Longest last line in an error, in characters.
const LAST: usize = 300;

/// The voice of a build: one for all of its steps.
pub(super) struct Voice {
    lines: mpsc::Sender<String>,
    watch: Watch,
    masked: Vec<Secret>,
    left: u64,
    most: u64,
    last: Option<String>,
}

impl Voice {
    pub(super) fn new<'a>(
        lines: mpsc::Sender<String>,
        watch: Watch,
        secrets: impl Iterator<Item = &'a Secret>,
        most: u64,
    ) -> Self {
        let mut masked: Vec<Secret> = secrets
            .flat_map(|s| s.expose().lines().map(str::trim))
            .filter(|line| line.len() >= SHORTEST_MASKED)
            .map(Secret::new)
            .collect();
        // A value may contain another: the longer goes first.
        masked.sort_by_key(|s| std::cmp::Reverse(s.expose().len()));
        Self {
            lines,
            watch,
            masked,
            left: most,
            most,
            last: None,
        }
    }

    /// Puts stars in the place of secrets.
    pub(super) fn mask(&self, text: &str) -> String {
        self.masked.iter().fold(text.to_owned(), |text, secret| {
            if text.contains(secret.expose()) {
                text.replace(secret.expose(), "***")
            } else {
                text
            }
        })
    }

    /// Passes a line on; waits when the reader is slow, until the build must stop. Beyond the bound only the last line is kept.
    pub(super) async fn say(&mut self, line: &str) {
        let line = cut(self.mask(line), LINE);
        let plain = without_escapes(&line);
        if !plain.trim().is_empty() {
            self.last = Some(plain.trim().chars().take(LAST).collect());
        }
        if self.left == 0 {
            return;
        }
        let size = line.len() as u64 + 1;
        let line = if size > self.left {
            self.left = 0;
            format!(
                " ---> The output is longer than {} bytes; the rest is left out.",
                self.most
            )
        } else {
            self.left -= size;
            line
        };
        tokio::select! {
            // Nobody listens any more: the build goes on all the same.
            _ = self.lines.send(line) => {}
            () = self.watch.over() => {}
        }
    }

    /// Forgets the last line: another step begins.
    pub(super) fn begin(&mut self) {
        self.last = None;
    }

    /// The last line that was not blank, without colours.
    pub(super) fn last(&self) -> Option<String> {
        self.last.clone()
    }
}

/// Bytes into lines. What stands before a lone carriage return was overwritten on a terminal, so only
/// what follows it is kept.
#[derive(Default)]
pub(super) struct Splitter {
    line: Vec<u8>,
}

impl Splitter {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = KEPT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                lines.extend(self.finish_line());
            }
        }
        lines
    }

    /// The end of the output: a line without an end counts.
    pub(super) fn finish(&mut self) -> Option<String> {
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
        Some(String::from_utf8_lossy(text).replace('\0', ""))
    }
}

fn cut(mut line: String, most: usize) -> String {
    if line.len() > most {
        let at = line.floor_char_boundary(most - 3);
        line.truncate(at);
        line.push('…');
    }
    line
}

/// Drops ANSI sequences and control characters.
fn without_escapes(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
        } else if c == '\t' || !c.is_control() {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_chunks() {
        let mut splitter = Splitter::default();
        let mut lines = splitter.push(b"on");
        lines.extend(splitter.push(b"e\r\ntwo\n\n10%\r100%\nla"));
        lines.extend(splitter.push(b"st"));
        lines.extend(splitter.finish());
        assert_eq!(lines, ["one", "two", "", "100%", "last"]);
    }

    #[tokio::test]
    async fn secrets_are_masked_even_where_a_line_is_cut() {
        let (tx, mut rx) = mpsc::channel(10);
        let secret = Secret::new("correct-horse-battery");
        let watch = Watch {
            cancel: tokio_util::sync::CancellationToken::new(),
            deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(60),
            allowed: std::time::Duration::from_secs(60),
            full: tokio_util::sync::CancellationToken::new(),
            room: crate::kernel::size::Bytes(1 << 30),
        };
        let mut voice = Voice::new(tx, watch, [&secret].into_iter(), 1 << 20);
        let line = format!("{}{}", "x".repeat(LINE - 8), secret.expose());
        voice.say(&line).await;
        assert!(!rx.recv().await.unwrap().contains("correct"));
        voice
            .say("\u{1b}[31mpassword is correct-horse-battery\u{1b}[0m")
            .await;
        assert_eq!(voice.last().unwrap(), "password is ***");
    }
}
