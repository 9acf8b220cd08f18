//! Log lines: to standard error, as text or JSON, with every value escaped.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};

use tracing::Subscriber;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, Writer};

use crate::settings::{LogFormat, LogLevel, Server};

/// Sends the log of the whole program to standard error.
///
/// # Errors
/// If the process has a logger already.
pub(crate) fn init(server: &Server) -> anyhow::Result<()> {
    let wants_colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber =
        subscriber(server.log_level, server.log_format, wants_colour, || Unfailing(io::stderr()));
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

/// Standard error, as far as it goes: a full disk or a reader that is gone costs the log, and not the
/// server.
struct Unfailing(io::Stderr);

impl io::Write for Unfailing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

fn subscriber<W>(
    level: LogLevel,
    format: LogFormat,
    wants_colour: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .log_internal_errors(false)
        .with_ansi(wants_colour)
        .with_max_level(filter(level));
    match format {
        LogFormat::Text => {
            let fields = format::debug_fn(write_field).delimited(" ");
            Box::new(builder.fmt_fields(fields).finish())
        }
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

/// Writes `name=value`, or the message alone. What a peer sent can hold line breaks and terminal
/// codes: escaped, one event stays one line and cannot pass for another.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaping(writer), "{value:?}")
}

struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if wharf_chat::commands_terminal(character) {
                write!(self.0, "{}", character.escape_default())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(level, format, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const HOSTILE: &str = "a\nINFO all is well\r\u{1b}[2J\u{202e}\0";

    #[test]
    fn text_lines_escape_what_a_peer_sent() {
        let text = logged(LogLevel::Info, LogFormat::Text, || {
            tracing::info!(peer = %HOSTILE, name = HOSTILE, "hello {HOSTILE}");
        });
        let line = text.strip_suffix('\n').expect("one line");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert!(line.contains("hello a\\nINFO all is well"), "{line:?}");
        assert!(line.contains("peer=a\\nINFO"), "{line:?}");
    }

    #[test]
    fn json_lines_are_one_object_each() {
        let text = logged(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(peer = %HOSTILE, "hello {HOSTILE}");
            tracing::warn!(bytes = 3, "second");
        });
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["message"], format!("hello {HOSTILE}"));
        assert_eq!(objects[0]["peer"], HOSTILE);
        assert_eq!((&objects[1]["level"], &objects[1]["bytes"]), (&"WARN".into(), &3.into()));
    }

    #[test]
    fn the_level_decides_what_is_written() {
        for (level, expected) in [
            (LogLevel::Off, 0),
            (LogLevel::Error, 1),
            (LogLevel::Warn, 2),
            (LogLevel::Info, 3),
            (LogLevel::Debug, 4),
            (LogLevel::Trace, 5),
        ] {
            let text = logged(level, LogFormat::Text, || {
                tracing::error!("1");
                tracing::warn!("2");
                tracing::info!("3");
                tracing::debug!("4");
                tracing::trace!("5");
            });
            assert_eq!(text.lines().count(), expected, "{level:?}: {text}");
        }
    }
}
