//! Log lines that callers post: agents and scripts with the app's own token, and users with the permission.

use crate::caller_limits::LOG_LINES_PER_SECOND;
use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::ids::AppId;
use crate::units::logs::{PLATFORM_SOURCE, acquire_append_slot, add_lines, new_lines, store};

/// Maximum number of lines in one request.
pub const MAX_POSTED_LINES: usize = 1000;
/// Maximum length of a source, in characters.
const MAX_SOURCE: usize = 100;

/// Lines to add to the log of an app.
#[derive(Debug)]
pub struct PostLogRequest<'a> {
    pub app_id: AppId,
    /// What wrote them, as the caller names it.
    pub source: &'a str,
    /// The unit that wrote them; empty if none.
    pub unit: &'a str,
    pub messages: &'a [String],
}

/// Adds lines, all or none. Errors: `TooLarge` for more lines than a request may have, `Invalid` for an
/// invalid source or an unknown unit, `TooMany` above the rate limit of the app.
pub async fn post_lines(core: &Core, request: &PostLogRequest<'_>) -> Result<(), Error> {
    check_source(request.source)?;
    let lines = new_lines(request.app_id, request.source, request.unit, request.messages);
    if lines.len() > MAX_POSTED_LINES {
        return Err(Error::too_large(format!(
            "A request may add at most {MAX_POSTED_LINES} log lines, and this one has {}: split it.",
            lines.len()
        )));
    }
    // Checked before the wait, so that a request over the limit is refused at once.
    if !core
        .caller_limits
        .log_rates
        .try_take(&request.app_id, lines.len())
    {
        return Err(Error::too_many(format!(
            "An app may write at most {LOG_LINES_PER_SECOND} log lines per second: try again in a moment."
        )));
    }
    let _slot = acquire_append_slot(core, request.app_id).await?;
    if !request.unit.is_empty() && !store::has_unit(&core.db, request.app_id, request.unit).await? {
        return Err(Error::invalid(format!(
            "The app has no unit {}: name one of its units, or none.",
            quote_excerpt(request.unit)
        )));
    }
    if lines.is_empty() {
        return Ok(());
    }
    add_lines(core, request.app_id, &lines).await
}

/// Refuses invalid sources, and the source that is reserved for the platform.
fn check_source(source: &str) -> Result<(), Error> {
    let is_valid = source.len() <= MAX_SOURCE && source.chars().all(|c| c.is_ascii_graphic());
    if !is_valid {
        return Err(Error::invalid(format!(
            "{} is not a valid log source: use at most {MAX_SOURCE} ASCII characters without spaces.",
            quote_excerpt(source)
        )));
    }
    match source.eq_ignore_ascii_case(PLATFORM_SOURCE) {
        true => Err(Error::invalid(format!(
            "The log source {PLATFORM_SOURCE} is reserved for the platform: use another."
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_source_reserved_for_platform_or_invalid_is_refused() {
        for good in ["app", "web", "nginx/access", "cron-1", "tsuru-agent"] {
            assert!(check_source(good).is_ok(), "{good}");
        }
        for bad in [
            "tsuru",
            "Tsuru",
            "TSURU",
            " tsuru",
            "tsuru\u{200b}",
            "\u{442}suru",
            "a\u{1b}[2J",
            "a b",
        ] {
            assert!(check_source(bad).is_err(), "{bad:?}");
        }
    }
}
