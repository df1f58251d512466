//! Log lines: human-readable or one JSON object per line, filtered by the settings.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::config::{LogFormat, LogSettings};
use crate::kernel::error::Error;

/// Sends the log of the whole process to standard error. A second call changes nothing, so that tests may
/// call it. Errors: `Invalid` if the filter is malformed.
pub fn init_logging(settings: &LogSettings) -> Result<(), Error> {
    let colours = std::io::stderr().is_terminal();
    let subscriber = build_subscriber(settings, colours, std::io::stderr)?;
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("logging is already initialized");
    }
    Ok(())
}

/// Checks the filter. Errors: as `init_logging`.
pub fn check_filter(settings: &LogSettings) -> Result<(), Error> {
    parse_filter(&settings.filter).map(|_| ())
}

/// Builds the subscriber that `init_logging` installs, for another writer:
/// `tracing::subscriber::with_default(…)` in a test.
pub fn build_subscriber<W>(
    settings: &LogSettings,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
        LogFormat::Text => Box::new(lines.with_ansi(colours)),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_span_list(false)),
    };
    let filtered = lines.with_filter(parse_filter(&settings.filter)?);
    Ok(Box::new(tracing_subscriber::registry().with(filtered)))
}

fn parse_filter(text: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(text).map_err(|error| {
        Error::invalid(format!(
            "The setting `log.filter` is invalid: {error}; use one such as info, or info,tancho::proxy=debug."
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::Settings;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let settings = LogSettings {
            format,
            filter: filter.to_owned(),
        };
        let subscriber = build_subscriber(&settings, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("request", id = 7).entered();
            tracing::info!(app = "shop", "unit started");
            tracing::debug!("noise");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_one_line_with_its_fields() {
        let text = logged(LogFormat::Text, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("INFO request{id=7}: ") && text.contains("unit started app=\"shop\""),
            "{text}"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "debug");
        assert_eq!(text.lines().count(), 2, "{text}");
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first["message"], "unit started");
        assert_eq!(first["app"], "shop");
        assert_eq!(first["span"]["id"], 7);
    }

    #[test]
    fn malformed_filter_is_rejected() {
        let mut settings = Settings::defaults().log;
        assert!(check_filter(&settings).is_ok());
        settings.filter = "tancho=loudly".to_owned();
        assert!(
            check_filter(&settings)
                .unwrap_err()
                .message()
                .contains("`log.filter`")
        );
    }
}
