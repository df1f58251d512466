//! The log lines of a server since its launch: from its start log, or from its own log, which takes over
//! early.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

const START_LOG: &str = "start.log";

/// How many lines are shown if none of them has the reason.
const SHOWN_LINES: usize = 3;

/// The maximum read per file, from its end.
const MAX_BYTES: u64 = 16 * 1024;

/// The positions of the logs before a launch.
#[derive(Debug, Default)]
pub(super) struct StartLog {
    lengths: Vec<(PathBuf, u64)>,
}

impl StartLog {
    /// Records where the logs end. Each launch has its own start log, so that it does not grow.
    pub(super) fn record_positions(folder: &Path) -> Self {
        let _ = fs::remove_file(folder.join(START_LOG));
        let length = |path: PathBuf| {
            let length = path.metadata().map_or(0, |meta| meta.len());
            (path, length)
        };
        Self {
            lengths: log_files(folder).into_iter().map(length).collect(),
        }
    }

    /// Returns the line with the reason why the server exited: the last one of that kind. `None`: there is
    /// none, so it was killed from outside or still runs.
    pub(super) fn find_reason(&self, folder: &Path) -> Option<String> {
        self.read_lines(folder)
            .iter()
            .rfind(|line| is_reason(line))
            .cloned()
    }

    /// Returns the last lines as the end of a sentence.
    pub(super) fn last_lines(&self, folder: &Path) -> String {
        let lines = self.read_lines(folder);
        match lines.len().checked_sub(SHOWN_LINES) {
            _ if lines.is_empty() => "it has logged nothing".to_owned(),
            skipped => format!(
                "its last log lines: {}",
                lines[skipped.unwrap_or(0)..].join(" / ")
            ),
        }
    }

    /// Returns the lines since the launch, those of the start log first.
    fn read_lines(&self, folder: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        for path in log_files(folder) {
            let known = self.lengths.iter().find(|(known, _)| *known == path);
            let from = known.map_or(0, |(_, length)| *length);
            let said = read_from(&path, from).unwrap_or_default();
            let text = String::from_utf8_lossy(&said);
            let filled = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.extend(filled.map(str::to_owned));
        }
        lines
    }
}

/// True if a line has the reason why the server exited. Errors sent to single clients have the same form.
fn is_reason(line: &str) -> bool {
    const TO_CLIENTS: [&str; 7] = [
        "the database system is ",
        "password authentication ",
        "no pg_hba.conf entry ",
        "terminating ",
        "canceling ",
        "connection to client ",
        "sorry, too many clients",
    ];
    match line.split_once("FATAL: ") {
        Some((_, words)) => !TO_CLIENTS
            .iter()
            .any(|start| words.trim_start().starts_with(start)),
        None => line.contains("PANIC: "),
    }
}

fn log_files(folder: &Path) -> Vec<PathBuf> {
    let logs = fs::read_dir(folder.join("log")).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = logs.map(|entry| entry.path()).collect();
    logs.sort_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok());
    logs.insert(0, folder.join(START_LOG));
    logs
}

/// A file shorter than before has been truncated by rotation.
fn read_from(path: &Path, from: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = if from > length { 0 } else { from };
    file.seek(io::SeekFrom::Start(from.max(length.saturating_sub(MAX_BYTES))))?;
    let mut said = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut said)?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_errors_are_not_a_reason_for_server_exit() {
        for line in [
            "2026-01-01 UTC [7] FATAL:  could not create shared memory segment: No space left on device",
            "2026-01-01 UTC [7] PANIC:  could not locate a valid checkpoint record",
            "postgres: FATAL:  data directory \"x\" has wrong ownership",
        ] {
            assert!(is_reason(line), "{line}");
        }
        for line in [
            "2026-01-01 UTC [7] FATAL:  the database system is starting up",
            "2026-01-01 UTC [7] FATAL:  password authentication failed for user \"tancho\"",
            "2026-01-01 UTC [7] FATAL:  terminating connection due to administrator command",
            "2026-01-01 UTC [7] LOG:  database system was shut down",
        ] {
            assert!(!is_reason(line), "{line}");
        }
    }

    #[test]
    fn only_lines_logged_since_the_launch_count() {
        let folder = std::env::temp_dir().join(format!("tancho-start-log-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("log")).unwrap();
        let log = folder.join("log/postgres-Mon.log");
        fs::write(&log, "[1] FATAL:  an old reason\n").unwrap();
        let begun = StartLog::record_positions(&folder);
        assert_eq!(begun.find_reason(&folder), None);
        assert_eq!(begun.last_lines(&folder), "it has logged nothing");
        fs::write(folder.join(START_LOG), "LOG:  redirecting\n").unwrap();
        let words = begun.last_lines(&folder);
        assert_eq!(words, "its last log lines: LOG:  redirecting");
        fs::write(&log, "[1] FATAL:  an old reason\n[2] FATAL:  a new one\n").unwrap();
        assert_eq!(
            begun.find_reason(&folder).as_deref(),
            Some("[2] FATAL:  a new one")
        );
        // Truncated by Postgres, and shorter.
        fs::write(&log, "[3] PANIC:  x\n").unwrap();
        assert_eq!(begun.find_reason(&folder).as_deref(), Some("[3] PANIC:  x"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
