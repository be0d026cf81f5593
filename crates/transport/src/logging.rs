//! The log of a program: structured lines on standard error, as JSON or as text.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in each line, for machines.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = LogError;
    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a format.
    #[error("log format \"{0}\" is unknown; use text or json")]
    Format(String),
    /// Not a level or a list of them.
    #[error(
        "log level \"{level}\" is not understood ({source}); use error, warn, info, debug or trace, \
         or a list such as info,access=debug"
    )]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// It was set up before.
    #[error("logging was already set up in this process")]
    Twice,
}

/// Sends the log of this process to standard error. `level` is one level for all, or a list by target such as
/// `info,access=debug`; the access log's target is `access`. The environment is not read.
///
/// # Errors
/// [`LogError`] when the level is not understood or logging was set up before.
pub fn init_logging(format: LogFormat, level: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|source| LogError::Level { level: level.to_owned(), source })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Forgiving(io::stderr()));
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

/// Takes every line. One that cannot be written, as on a full disk, is lost, and nothing else with it: the subscriber would
/// report the failure on standard error, and panic where that fails too, in whatever task had something to say.
struct Forgiving<W>(W);

impl<W: Write> Write for Forgiving<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.0.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(self.0.flush());
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_full_disk_costs_the_line_alone() {
        let mut log = Forgiving(Full);
        log.write_all(b"a line\n").unwrap();
        log.flush().unwrap();
    }

    #[test]
    fn wrong_settings_say_what_is_right() {
        let error = init_logging(LogFormat::Json, "access=loud").unwrap_err().to_string();
        assert!(error.contains("access=loud") && error.contains("debug"), "{error}");
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("json"));
        init_logging(LogFormat::Text, "off,access=error").unwrap();
        assert!(matches!(init_logging(LogFormat::Text, "info"), Err(LogError::Twice)));
    }
}
