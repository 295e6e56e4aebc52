//! Turns log events into records of systemd's journal: with a priority, and each field also on its own, so that
//! `journalctl -p warning ONWIRE_PEER=syracuse` finds what it names.
//!
//! `tracing-journald` does this too, but sends in the thread that logs, and so a journal that is full would stop the data path.
//! Here the records go to the thread that writes the log.

use std::{
    fmt::{Debug, Write as _},
    io::Write as _,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context};

use super::output_line::OutputLine;

/// A longer value is cut: the kernel refuses a record of more than 200 kB or so.
const VALUE_MAX: usize = 32 << 10;

/// The layer; `writer` takes one record a call.
pub(super) struct JournalLayer<W> {
    pub writer: W,
}

impl<S: Subscriber, W: for<'a> MakeWriter<'a> + 'static> Layer<S> for JournalLayer<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let text = format!("{}{}", fields.message, fields.as_text);
        let target = event.metadata().target();
        let record = record(*event.metadata().level(), &text, &format!("{}ONWIRE_TARGET={target}\n", fields.as_fields));
        // The log counts what cannot be written.
        let _ = self.writer.make_writer().write_all(record.as_bytes());
    }
}

/// One record; `more` are lines with further fields.
pub(super) fn record(level: Level, text: &str, more: &str) -> String {
    // Those of syslog(3).
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=onwire\nMESSAGE={}\n{more}", cut(&OutputLine(text).to_string()))
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    /// As they are in the text.
    as_text: String,
    /// A line for each.
    as_fields: String,
}

impl Fields {
    fn add(&mut self, name: &str, in_text: &dyn Debug, plain: &str) {
        // Writing to a string cannot fail.
        let _ = match name {
            "message" => write!(self.message, "{in_text:?}"),
            _ => write!(self.as_text, " {name}={in_text:?}"),
        };
        if name != "message" {
            let name: String =
                name.chars().map(|it| if it.is_ascii_alphanumeric() { it.to_ascii_uppercase() } else { '_' }).collect();
            let _ = writeln!(self.as_fields, "ONWIRE_{name}={}", cut(&OutputLine(plain).to_string()));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field.name(), value, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), &value, value);
    }
}

fn cut(value: &str) -> &str {
    let end = (0..=VALUE_MAX.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
    &value[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{Registry, prelude::*};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn recorded(log: impl FnOnce()) -> Vec<String> {
        let kept = Kept::default();
        let sink = kept.clone();
        let layer = JournalLayer { writer: move || sink.clone() };
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        std::mem::take(&mut *kept.0.lock().unwrap())
    }

    #[test]
    fn a_record_has_its_priority_and_each_field_on_its_own() {
        let records = recorded(|| tracing::warn!(peer = "syracuse", lane = 3, "the link is {}", "down"));
        assert_eq!(
            records,
            ["PRIORITY=4\nSYSLOG_IDENTIFIER=onwire\nMESSAGE=the link is down peer=\"syracuse\" lane=3\n\
              ONWIRE_PEER=syracuse\nONWIRE_LANE=3\nONWIRE_TARGET=onwire::cli::journal::tests\n"]
        );
        let levels = recorded(|| {
            tracing::error!("a");
            tracing::info!("b");
            tracing::debug!("c");
        });
        let priorities: Vec<_> = levels.iter().map(|record| record.lines().next().unwrap().to_owned()).collect();
        assert_eq!(priorities, ["PRIORITY=3", "PRIORITY=6", "PRIORITY=7"]);
    }

    #[test]
    fn text_of_others_makes_no_field_and_a_long_value_is_cut() {
        let records = recorded(|| tracing::info!(name = "x\nPRIORITY=0", "a\nMESSAGE_ID=1 {}", "ä".repeat(VALUE_MAX)));
        let [record] = &records[..] else { panic!("{records:?}") };
        let names: Vec<_> = record.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert_eq!(names, ["PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE", "ONWIRE_NAME", "ONWIRE_TARGET"]);
        assert!(record.len() < VALUE_MAX + 200 && record.contains("ONWIRE_NAME=x\\nPRIORITY=0\n"), "{}", record.len());
    }
}
