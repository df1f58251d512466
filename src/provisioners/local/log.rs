//! The log of a unit: two files of at most 1 MiB, `log` and its predecessor `log.1`. Each begins with the
//! position of its first line in the whole log, so that positions survive rotation. A line is `<time> <O|E>
//! <message>`.
//!
//! Writing never fails for the caller and never waits for a reader: lines that the disk refuses, and lines
//! above the rate limit, are dropped and counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat};

use super::{LogLine, LogPosition, LogStream};
use crate::kernel::host_clock::host_now;
use crate::kernel::log_text::{MAX_LINE_BYTES, clean_line, clip_line};

/// The size at which a file is rotated, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The longest line in bytes; the rest is cut.
pub(super) const MAX_LINE: usize = MAX_LINE_BYTES;
/// The limits on lines and bytes per second.
const LINES_A_SECOND: u32 = 5_000;
const BYTES_A_SECOND: usize = 4 << 20;
/// `#`, 20 digits, a line feed.
const HEADER_BYTES: u64 = 22;

/// Writes the log; a shim has one.
pub(super) struct LogWriter {
    folder: PathBuf,
    file: Option<File>,
    /// The position of the first line of the file.
    base: u64,
    /// Bytes of lines in the file.
    length: u64,
    second: Instant,
    lines: u32,
    bytes: usize,
    dropped: u64,
}

impl LogWriter {
    pub(super) fn open(folder: &Path) -> Self {
        let mut writer = Self {
            folder: folder.to_owned(),
            file: None,
            base: 0,
            length: 0,
            second: Instant::now(),
            lines: 0,
            bytes: 0,
            dropped: 0,
        };
        if let Err(_unreadable) = writer.resume_file() {
            let _retried_at_the_next_line = writer.start_file(0);
        }
        writer
    }

    /// Continues the file of an earlier shim.
    fn resume_file(&mut self) -> io::Result<()> {
        let path = self.folder.join("log");
        let mut reader = BufReader::new(File::open(&path)?);
        self.base = read_header(&mut reader)?;
        let mut rest = Vec::new();
        reader.take(2 * MAX_FILE_BYTES).read_to_end(&mut rest)?;
        // An incomplete line after a crash is discarded.
        let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) as u64;
        let file = OpenOptions::new().append(true).open(path)?;
        file.set_len(HEADER_BYTES + whole)?;
        self.length = whole;
        self.file = Some(file);
        Ok(())
    }

    fn start_file(&mut self, base: u64) -> io::Result<()> {
        let path = self.folder.join("log");
        self.file = None;
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(0)?;
        file.write_all(format!("#{base:020}\n").as_bytes())?;
        (self.base, self.length, self.file) = (base, 0, Some(file));
        Ok(())
    }

    /// Writes a line, within the limits.
    pub(super) fn write_line(&mut self, stream: LogStream, text: &[u8]) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            let dropped = std::mem::take(&mut self.dropped);
            (self.second, self.lines, self.bytes) = (Instant::now(), 0, 0);
            if dropped > 0 {
                self.write_record(
                    LogStream::Stderr,
                    &format!("[tancho] {dropped} lines were dropped: the rate limit was exceeded, or the disk is full"),
                );
            }
        }
        if self.lines >= LINES_A_SECOND || self.bytes >= BYTES_A_SECOND {
            self.dropped += 1;
            return;
        }
        self.lines += 1;
        self.bytes += text.len();
        self.write_record(stream, &sanitize_line(text));
    }

    /// Writes a line of the shim itself.
    pub(super) fn write_notice(&mut self, text: &str) {
        self.write_line(LogStream::Stderr, format!("[tancho] {text}").as_bytes());
    }

    fn write_record(&mut self, stream: LogStream, text: &str) {
        let letter = match stream {
            LogStream::Stdout => 'O',
            LogStream::Stderr => 'E',
        };
        let line = format!(
            "{} {letter} {text}\n",
            host_now().to_rfc3339_opts(SecondsFormat::Micros, true)
        );
        if self.append_bytes(line.as_bytes()).is_err() {
            self.dropped += 1;
        }
    }

    fn append_bytes(&mut self, line: &[u8]) -> io::Result<()> {
        if self.length >= MAX_FILE_BYTES {
            fs::rename(self.folder.join("log"), self.folder.join("log.1"))?;
            self.file = None;
            (self.base, self.length) = (self.base + self.length, 0);
        }
        if self.file.is_none() {
            self.start_file(self.base + self.length)?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Err(error) = file.write_all(line) {
            // An incomplete line would shift all later positions.
            if file.set_len(HEADER_BYTES + self.length).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }
}

/// Reads lines from a pipe until its end; calls `each` with every line, cut to `MAX_LINE` and without its
/// line feed.
pub(super) fn read_lines(from: impl Read, mut each: impl FnMut(&[u8])) {
    let mut from = BufReader::with_capacity(16 << 10, from);
    let mut line = Vec::new();
    loop {
        let chunk = match from.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let end = chunk.iter().position(|b| *b == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        // One byte above the limit tells `sanitize_line` that the line was cut.
        line.extend_from_slice(&part[..part.len().min(MAX_LINE + 1 - line.len())]);
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            each(&line);
            line.clear();
        }
    }
    if !line.is_empty() {
        each(&line);
    }
}

/// Returns valid text that is safe to display: at most `MAX_LINE` bytes, with a mark where it was cut.
fn sanitize_line(text: &[u8]) -> String {
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    clip_line(clean_line(&text), MAX_LINE).into_owned()
}

fn read_header(from: &mut impl Read) -> io::Result<u64> {
    let mut header = [0_u8; HEADER_BYTES as usize];
    from.read_exact(&mut header)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the file is not the log of a unit");
    let digits = header
        .strip_prefix(b"#")
        .and_then(|rest| rest.strip_suffix(b"\n"))
        .ok_or_else(wrong)?;
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(wrong)
}

/// Reads at most `max` lines from a position on; returns them and the next position. A position before the
/// oldest line, or beyond the end (in the log of an earlier unit of that name), means the oldest line.
pub(super) fn read_log_lines(
    folder: &Path,
    from: LogPosition,
    max: usize,
) -> io::Result<(Vec<LogLine>, LogPosition)> {
    let mut files = Vec::new();
    // The newer file first: if it is rotated meanwhile, it is read twice, and no line is missed.
    for name in ["log", "log.1"] {
        if let Ok(mut file) = File::open(folder.join(name))
            && let Ok(base) = read_header(&mut file)
        {
            let length = file.metadata()?.len().saturating_sub(HEADER_BYTES);
            files.push((base, length, file));
        }
    }
    files.sort_by_key(|(base, _, _)| *base);
    files.dedup_by_key(|(base, _, _)| *base);
    let (first, end) = match (files.first(), files.last()) {
        (Some((first, _, _)), Some((last, length, _))) => (*first, last + length),
        _ => return Ok((Vec::new(), LogPosition::START)),
    };
    let mut at = if from.0 < first || from.0 > end {
        first
    } else {
        from.0
    };
    let mut found = Vec::new();
    for (base, length, mut file) in files {
        at = at.max(base);
        if at >= base + length {
            continue;
        }
        file.seek(SeekFrom::Start(HEADER_BYTES + at - base))?;
        let mut reader = BufReader::new(file.take(base + length - at));
        let mut line = Vec::new();
        while found.len() < max {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                break;
            }
            at += read as u64;
            found.extend(parse_line(&line));
        }
    }
    Ok((found, LogPosition(at)))
}

fn parse_line(line: &[u8]) -> Option<LogLine> {
    let mut parts = std::str::from_utf8(line).ok()?.splitn(3, ' ');
    let at = DateTime::parse_from_rfc3339(parts.next()?).ok()?.to_utc();
    let stream = match parts.next()? {
        "O" => LogStream::Stdout,
        "E" => LogStream::Stderr,
        _ => return None,
    };
    Some(LogLine {
        at,
        stream,
        message: parts.next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct LogFixture(PathBuf);

    impl LogFixture {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("tancho-log-{}", uuid::Uuid::new_v4()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for LogFixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn log_position_survives_rotation() {
        let scratch = LogFixture::new();
        let mut writer = LogWriter::open(&scratch.0);
        let mut at = LogPosition::START;
        let mut seen = 0;
        for n in 0..3_000 {
            writer.second = Instant::now();
            (writer.lines, writer.bytes) = (0, 0);
            writer.write_line(LogStream::Stdout, format!("{n} {}", "x".repeat(1_000)).as_bytes());
            if n % 500 == 499 {
                let (lines, next) = read_log_lines(&scratch.0, at, 10_000).unwrap();
                for line in &lines {
                    assert!(
                        line.message.starts_with(&format!("{seen} ")),
                        "{seen}: {}",
                        line.message
                    );
                    seen += 1;
                }
                at = next;
            }
        }
        assert_eq!(seen, 3_000);
        let size: u64 = ["log", "log.1"]
            .iter()
            .map(|f| fs::metadata(scratch.0.join(f)).unwrap().len())
            .sum();
        assert!(size < 2 * MAX_FILE_BYTES + 50_000, "{size}");
        let mut again = LogWriter::open(&scratch.0);
        again.write_line(LogStream::Stderr, b"resumed");
        let (lines, _) = read_log_lines(&scratch.0, at, 10).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].message.as_str(), lines[0].stream),
            ("resumed", LogStream::Stderr)
        );
    }

    #[test]
    fn reading_in_pages_returns_every_line() {
        let scratch = LogFixture::new();
        let mut writer = LogWriter::open(&scratch.0);
        for n in 0..10 {
            writer.write_line(LogStream::Stdout, n.to_string().as_bytes());
        }
        let (mut at, mut seen) = (LogPosition::START, Vec::new());
        loop {
            let (lines, next) = read_log_lines(&scratch.0, at, 3).unwrap();
            if lines.is_empty() {
                break;
            }
            seen.extend(lines.into_iter().map(|line| line.message));
            at = next;
        }
        assert_eq!(seen.join(" "), "0 1 2 3 4 5 6 7 8 9");
        let beyond = read_log_lines(&scratch.0, LogPosition(1 << 40), 1).unwrap();
        assert_eq!(beyond.0[0].message, "0");
    }

    #[test]
    fn lines_above_the_rate_limit_are_dropped_and_counted() {
        let scratch = LogFixture::new();
        let mut writer = LogWriter::open(&scratch.0);
        for _ in 0..LINES_A_SECOND + 7 {
            writer.write_line(LogStream::Stdout, b"x");
        }
        let dropped = writer.dropped;
        assert!(dropped >= 1);
        writer.second = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        writer.write_line(LogStream::Stdout, b"after");
        let (lines, _) = read_log_lines(&scratch.0, LogPosition::START, 100_000).unwrap();
        let notice = &lines[lines.len() - 2].message;
        assert!(
            notice.contains(&format!("{dropped} lines were dropped")),
            "{notice}"
        );
    }

    #[test]
    fn lines_are_cut_and_made_safe() {
        let mut seen = Vec::new();
        let mut text = vec![b'a'; MAX_LINE * 5];
        text.extend(b"\n\xff\x00\x1b[31mred\tx\r\nlast");
        read_lines(&text[..], |line| seen.push(sanitize_line(line)));
        assert!(seen[0].len() == MAX_LINE && seen[0].ends_with("a…"));
        assert_eq!(seen[1], "\u{fffd}\u{fffd}\u{fffd}[31mred\tx");
        assert_eq!(seen[2], "last");
        assert!(sanitize_line(&vec![0xff; MAX_LINE]).len() <= MAX_LINE);
    }

    #[test]
    fn unwritable_log_drops_lines_without_error() {
        let mut writer = LogWriter::open(Path::new("/nonexistent"));
        writer.write_line(LogStream::Stdout, b"x");
        assert_eq!(writer.dropped, 1);
    }
}
