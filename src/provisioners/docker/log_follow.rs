//! The logs of units: each is followed over one connection, so that a silent unit costs nothing.
//!
//! A position is the time of the last line in nanoseconds, plus one: the engine gives each line one, and finds lines
//! by it. A follower that is read on where it stands sends each line once, in order. Lines of the same time are
//! never cut apart, so that a new follower finds none twice and misses none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine::{EngineClient, EngineError};
use super::{ASK_TIMEOUT, LogLine, LogPosition, LogStream, ProvisionError, UnitId, lock};
use crate::kernel::log_text::{MAX_LINE_BYTES, clean_line, clip_line};

/// Lines of a unit that wait to be read; the engine keeps the others.
const BUFFERED_LINES: usize = 256;
/// How long the first lines of a new follower are waited for.
const FIRST_LINES: Duration = Duration::from_millis(200);
/// After the end of a run, its log is asked for again no sooner.
const REOPEN_AFTER: Duration = Duration::from_millis(500);
/// Nobody has read for so long: a follower is closed.
const IDLE: Duration = Duration::from_secs(120);
/// How long a removal waits until the last lines are read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The followers of this host's units. Clones share them.
#[derive(Clone)]
pub(super) struct UnitFollowers {
    engine: EngineClient,
    followers: Arc<Mutex<HashMap<UnitId, UnitFollower>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A line with its time in nanoseconds.
type TimedLine = (u64, LogLine);

/// What comes of the log of one unit.
struct UnitFollower {
    /// Where the next line is looked for.
    position: u64,
    lines: mpsc::Receiver<TimedLine>,
    /// A line that was taken and not returned.
    next: Option<TimedLine>,
    ended_at: Option<Instant>,
    read_at: Instant,
}

impl UnitFollower {
    /// Takes the next line that is there.
    fn take_line(&mut self) -> Option<TimedLine> {
        if let Some(line) = self.next.take() {
            return Some(line);
        }
        match self.lines.try_recv() {
            Ok(line) => Some(line),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => {
                self.ended_at.get_or_insert_with(Instant::now);
                None
            }
        }
    }

    /// Takes at most so many lines, and those of the same time as the last of them.
    fn take_lines(&mut self, max: usize) -> Vec<LogLine> {
        let mut taken = Vec::new();
        let mut last = None;
        while let Some((at, line)) = self.take_line() {
            if taken.len() >= max && (last != Some(at) || taken.len() >= 2 * max) {
                self.next = Some((at, line));
                break;
            }
            last = Some(at);
            self.position = self.position.max(at + 1);
            taken.push(line);
        }
        self.read_at = Instant::now();
        taken
    }

    fn is_usable(&self, from: u64) -> bool {
        self.position == from && self.ended_at.is_none_or(|at| at.elapsed() < REOPEN_AFTER)
    }

    fn is_drained(&self) -> bool {
        self.next.is_none() && self.lines.is_closed() && self.lines.is_empty()
    }
}

impl UnitFollowers {
    pub(super) fn new(engine: EngineClient, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            engine,
            followers: Arc::default(),
            tasks,
            stop,
        }
    }

    /// Reads on from a position; see `UnitRunner::read_log`.
    pub(super) async fn read_lines(
        &self,
        unit: &UnitId,
        container: &str,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        let known = lock(&self.followers).remove(unit);
        let mut follower = match known.filter(|known| known.is_usable(from.0)) {
            Some(known) => known,
            None => self.open_follower(unit, container, from.0).await?,
        };
        let lines = follower.take_lines(max_lines);
        let position = LogPosition(follower.position);
        lock(&self.followers).insert(unit.clone(), follower);
        Ok((lines, position))
    }

    /// Waits until the log of a unit that has ended is read, if anybody reads it.
    pub(super) async fn wait_until_read(&self, unit: &UnitId) {
        let deadline = Instant::now() + LAST_LINES;
        while Instant::now() < deadline {
            match lock(&self.followers).get(unit) {
                Some(follower) if !follower.is_drained() => {}
                _ => return,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Closes the follower of a unit that is gone.
    pub(super) fn forget(&self, unit: &UnitId) {
        lock(&self.followers).remove(unit);
    }

    async fn open_follower(
        &self,
        unit: &UnitId,
        container: &str,
        from: u64,
    ) -> Result<UnitFollower, ProvisionError> {
        lock(&self.followers).retain(|_, follower| follower.read_at.elapsed() < IDLE);
        self.engine.check_up()?;
        let docker = self.engine.connect().await?;
        match self
            .engine
            .ask(ASK_TIMEOUT, docker.inspect_container(container, None))
            .await
        {
            Ok(_) => {}
            Err(EngineError::Missing(_)) => return Err(super::unit_gone(unit)),
            Err(error) => return Err(error.into()),
        }
        let (sender, lines) = mpsc::channel(BUFFERED_LINES);
        let (engine, container, stop) = (self.engine.clone(), container.to_owned(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = follow_log(&engine, &container, from, sender) => {}
                () = stop.cancelled() => {}
            }
        });
        let mut follower = UnitFollower {
            position: from,
            lines,
            next: None,
            ended_at: None,
            read_at: Instant::now(),
        };
        if let Ok(first) = tokio::time::timeout(FIRST_LINES, follower.lines.recv()).await {
            follower.next = first;
        }
        Ok(follower)
    }
}

/// Sends the lines of a container from a time on, until it ends or nobody takes them.
async fn follow_log(engine: &EngineClient, container: &str, from: u64, sender: mpsc::Sender<TimedLine>) {
    let Ok(docker) = engine.connect().await else {
        return;
    };
    // The engine takes whole seconds.
    let since = i32::try_from(from / 1_000_000_000).unwrap_or(i32::MAX);
    let options = LogsOptionsBuilder::new()
        .follow(true)
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .since(since)
        .build();
    let mut parts = std::pin::pin!(docker.logs(container, Some(options)));
    let mut joiner = LineJoiner::default();
    loop {
        let part = tokio::select! {
            part = parts.next() => part,
            () = sender.closed() => return,
        };
        let Some(Ok(part)) = part else { return };
        let Some((at, line)) = joiner.add_part(&part) else {
            continue;
        };
        if at >= from && sender.send((at, line)).await.is_err() {
            return;
        }
    }
}

/// Puts together the lines that the engine sends in parts.
#[derive(Default)]
struct LineJoiner {
    begun: HashMap<LogStream, (DateTime<Utc>, Vec<u8>)>,
}

impl LineJoiner {
    /// Adds a part, which begins with a time; returns the line that it ends.
    fn add_part(&mut self, part: &LogOutput) -> Option<TimedLine> {
        let stream = match part {
            LogOutput::StdErr { .. } => LogStream::Stderr,
            _ => LogStream::Stdout,
        };
        let bytes = part.as_ref();
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let at: DateTime<Utc> = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let text = &bytes[space + 1..];
        let (_, line) = self.begun.entry(stream).or_insert_with(|| (at, Vec::new()));
        let room = (2 * MAX_LINE_BYTES).saturating_sub(line.len());
        line.extend_from_slice(&text[..text.len().min(room)]);
        if text.last() != Some(&b'\n') {
            return None;
        }
        let (at, line) = self.begun.remove(&stream)?;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        let line = LogLine {
            at,
            stream,
            message: clip_line(clean_line(text), MAX_LINE_BYTES).into_owned(),
        };
        let nanos = at
            .timestamp_nanos_opt()
            .and_then(|nanos| u64::try_from(nanos).ok())?;
        Some((nanos, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut {
            message: text.to_owned().into(),
        }
    }

    #[test]
    fn parts_of_a_line_are_joined_per_stream() {
        let mut joiner = LineJoiner::default();
        assert!(
            joiner
                .add_part(&out("2026-11-30T21:40:28.000000001Z be"))
                .is_none()
        );
        let error = LogOutput::StdErr {
            message: "2026-11-30T21:40:28.000000002Z oh \u{1b}no\r\n".into(),
        };
        let (_, line) = joiner.add_part(&error).unwrap();
        assert_eq!(
            (line.stream, line.message.as_str()),
            (LogStream::Stderr, "oh \u{fffd}no")
        );
        let (at, line) = joiner
            .add_part(&out("2026-11-30T21:40:28.000000003Z gin\n"))
            .unwrap();
        assert_eq!((at % 1000, line.message.as_str()), (1, "begin"));
        assert!(joiner.add_part(&out("no time\n")).is_none());
        let long = format!("2026-11-30T21:40:28Z {}", "x".repeat(MAX_LINE_BYTES));
        for _ in 0..5 {
            assert!(joiner.add_part(&out(&long)).is_none());
        }
        let (_, line) = joiner.add_part(&out("2026-11-30T21:40:28Z \n")).unwrap();
        assert_eq!(line.message.len(), MAX_LINE_BYTES);
    }

    #[tokio::test]
    async fn lines_of_the_same_time_are_not_cut_apart() {
        let (sender, lines) = mpsc::channel(10);
        let line = LogLine {
            at: DateTime::UNIX_EPOCH,
            stream: LogStream::Stdout,
            message: String::new(),
        };
        for at in [5, 6, 6, 6, 7] {
            sender.try_send((at, line.clone())).unwrap();
        }
        let mut follower = UnitFollower {
            position: 0,
            lines,
            next: None,
            ended_at: None,
            read_at: Instant::now(),
        };
        assert_eq!((follower.take_lines(2).len(), follower.position), (4, 7));
        drop(sender);
        assert!(!follower.is_drained() && follower.is_usable(7));
        assert_eq!((follower.take_lines(2).len(), follower.position), (1, 8));
        assert!(follower.is_drained() && follower.take_lines(2).is_empty());
    }
}
