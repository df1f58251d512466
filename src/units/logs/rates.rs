//! How fast an app may write to its log: what is beyond the rate is dropped, and one line says how much.

use std::collections::HashMap;

use crate::caller_limits::LOG_LINES_PER_SECOND;
use crate::kernel::ids::AppId;
use crate::kernel::log_text::{MAX_LINE_BYTES, clean_line, clip_line};
use crate::kernel::rate_limiter::RateLimiter;
use crate::units::logs::batch::LogRead;
use crate::units::logs::{NewLogLine, PLATFORM_SOURCE};

/// Returns the lines that pass the rate limit. They are charged once they are written.
pub(super) fn limit_lines(rates: &RateLimiter<AppId>, reads: &[LogRead]) -> Vec<NewLogLine> {
    let mut kept = Vec::new();
    let mut left: HashMap<AppId, usize> = HashMap::new();
    let mut dropped: HashMap<AppId, usize> = HashMap::new();
    for read in reads {
        let app_id = read.app_id;
        let left = left.entry(app_id).or_insert_with(|| rates.available(&app_id));
        let allowed = read.lines.len().min(*left);
        *left -= allowed;
        kept.extend(read.lines.iter().take(allowed).map(|line| NewLogLine {
            app_id,
            at: Some(line.at),
            source: read.process.clone(),
            unit: read.unit.to_string(),
            message: clip_line(clean_line(&line.message), MAX_LINE_BYTES).into_owned(),
        }));
        if allowed < read.lines.len() {
            *dropped.entry(app_id).or_default() += read.lines.len() - allowed;
        }
    }
    for (app_id, count) in dropped {
        kept.push(NewLogLine {
            app_id,
            at: None,
            source: PLATFORM_SOURCE.into(),
            unit: String::new(),
            message: format!(
                "{count} lines were dropped: an app may write at most {LOG_LINES_PER_SECOND} log lines per second"
            ),
        });
    }
    kept
}

/// Charges written lines of units to the rates of their apps.
pub(super) fn charge_lines(rates: &RateLimiter<AppId>, lines: &[NewLogLine]) {
    let mut written: HashMap<AppId, usize> = HashMap::new();
    for line in lines.iter().filter(|line| !line.unit.is_empty()) {
        *written.entry(line.app_id).or_default() += 1;
    }
    for (app_id, count) in written {
        rates.charge(&app_id, count);
    }
}
