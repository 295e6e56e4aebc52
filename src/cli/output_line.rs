//! Escapes text from other hosts, so that it fits on one line: what a peer, a client or a mirror has sent can neither
//! end a line nor control a terminal. Does not change what the text means.

use std::fmt::{self, Debug, Display, Write};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// Displays a value with escapes (`\n`, `\u{1b}`) for characters that end a line, control a terminal or change the
/// direction of the text.
pub struct OutputLine<T>(pub T);

impl<T: Display> Display for OutputLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Writes a field of a log line.
pub fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(Escaping(writer), "{value:?}"),
        name => {
            writer.write_str(name)?;
            writer.write_char('=')?;
            write!(Escaping(writer), "{value:?}")
        }
    }
}

struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, found) in text.char_indices().filter(|(_, found)| is_unfit(*found)) {
            self.0.write_str(&text[plain..at])?;
            write!(self.0, "{}", found.escape_debug())?;
            plain = at + found.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

/// Control characters, other line ends, and characters that change the direction of the text or are invisible in it.
fn is_unfit(found: char) -> bool {
    found.is_control()
        || matches!(found, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;
    use crate::cli::log::{Reader, subscriber};
    use crate::config::LogLevel;

    #[test]
    fn line_ends_and_terminal_controls_are_escaped_and_the_rest_stays() {
        let shown = |text: &str| OutputLine(text).to_string();
        assert_eq!(shown("slot \"käse\" of \\a, 100 µs"), "slot \"käse\" of \\a, 100 µs");
        assert_eq!(shown("a\r\nERROR b\t\x1b[2J\0"), "a\\r\\nERROR b\\t\\u{1b}[2J\\0");
        assert_eq!(shown("\u{202e}x\u{2028}\u{9b}31m"), "\\u{202e}x\\u{2028}\\u{9b}31m");
    }

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(text: &str, reader: Reader) -> String {
        let kept = Kept::default();
        let sink = kept.clone();
        let (subscriber, _) = subscriber(LogLevel::Info, reader, move || sink.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(gate = %text, connection = 7, name = text, "ended: {text}");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_level_of_a_log_changes_while_it_is_written() {
        use tracing_subscriber::filter::LevelFilter;
        for reader in [Reader::Text, Reader::Json, Reader::Journal] {
            let kept = Kept::default();
            let sink = kept.clone();
            let (subscriber, set_level) = subscriber(LogLevel::Info, reader, move || sink.clone());
            tracing::subscriber::with_default(subscriber, || {
                for (number, level) in
                    [LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::ERROR].into_iter().enumerate()
                {
                    set_level(level);
                    tracing::debug!("debug {number}");
                    tracing::info!("info {number}");
                }
            });
            let said = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            let is_said = ["info 0", "debug 1", "info 1", "debug 0", "info 2"].map(|text| said.contains(text));
            assert_eq!(is_said, [true, true, true, false, false], "{said}");
        }
    }

    #[test]
    fn a_log_line_has_its_fields() {
        let said = logged("pg", Reader::Text);
        assert!(said.ends_with(" WARN ended: pg gate=pg connection=7 name=\"pg\"\n"), "{said}");
    }

    proptest! {
        #[test]
        fn bytes_from_another_host_never_begin_a_line_in_the_log(
            text in "(\\PC|[\\x00-\\x1f\\x7f-\\x9f]|\u{2028}|\u{202e}){0,20}",
        ) {
            for reader in [Reader::Text, Reader::Json] {
                let said = logged(&format!("x\nERROR \x1b[31m{text}"), reader);
                let line = said.strip_suffix('\n').unwrap();
                match reader {
                    Reader::Json => prop_assert!(!line.contains(|it: char| it < ' '), "{:?}", line),
                    _ => prop_assert!(!line.contains(char::is_control), "{:?}", line),
                }
            }
        }
    }
}
