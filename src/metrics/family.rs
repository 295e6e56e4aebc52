//! Metrics as rows of tables: name, unit, meaning, and where the value lies in a status; and their text in the format of OpenMetrics
//! or of older Prometheus.
//!
//! The library writes the text; this file gives it values that were taken from one status, so that they fit together.

use std::borrow::Borrow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as LibraryUnit};

/// What every name begins with.
const PREFIX: &str = "onwire";

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, until the process or what it counts begins anew. Its name ends in `_total`.
    Counter,
    /// It rises and falls.
    Gauge,
}

impl Kind {
    /// Its name in the exposition.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// The unit of a metric, which its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things, which the name says.
    Number,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A share of a whole, 0 to 1, or a part for each whole.
    Ratio,
}

impl Unit {
    /// Its word in names; empty for a number.
    pub fn word(self) -> &'static str {
        match self {
            Self::Number => "",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
        }
    }

    fn of_library(self) -> Option<LibraryUnit> {
        (self != Self::Number).then(|| LibraryUnit::Other(self.word().to_owned()))
    }
}

/// The value of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
    /// There is none now: the series is left out.
    Absent,
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Whole(u64::from(is_so))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        if value.is_finite() { Self::Real(value) } else { Self::Absent }
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

/// One metric of a `S`.
#[derive(Debug)]
pub struct Metric<S: 'static> {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    value: fn(&S) -> Value,
}

/// A counter. `name` is without the prefix, the unit and `_total`.
pub const fn counter<S: 'static>(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    value: fn(&S) -> Value,
) -> Metric<S> {
    Metric { name, kind: Kind::Counter, unit, help, value }
}

/// A gauge. `name` is without the prefix and the unit.
pub const fn gauge<S: 'static>(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    value: fn(&S) -> Value,
) -> Metric<S> {
    Metric { name, kind: Kind::Gauge, unit, help, value }
}

/// Metrics of all `S`, which labels tell apart.
#[derive(Debug)]
pub struct Table<S: 'static> {
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The metrics.
    pub metrics: &'static [Metric<S>],
}

/// A metric as it is documented.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// The name of its series.
    pub name: String,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// `seconds`, `bytes`, `ratio`, or nothing.
    pub unit: &'static str,
    /// What it means: one line.
    pub help: &'static str,
}

impl<S> Table<S> {
    /// The metrics of these subjects, each with the values of its labels. Metrics without a value are left out.
    pub fn families<'a, T: Borrow<S>>(&self, subjects: impl IntoIterator<Item = (Vec<&'a str>, T)>) -> Vec<Family> {
        let subjects: Vec<(Vec<&str>, T)> = subjects.into_iter().collect();
        let families = self.metrics.iter().map(|metric| {
            let series = subjects.iter().filter_map(|(values, subject)| {
                let labels = self.labels.iter().zip(values).map(|(name, value)| (*name, (*value).to_owned())).collect();
                match (metric.value)(subject.borrow()) {
                    Value::Absent => None,
                    value => Some((labels, value)),
                }
            });
            let Metric { name, kind, unit, help, .. } = *metric;
            Family { name, kind, unit, help, series: series.collect() }
        });
        families.filter(|family| !family.series.is_empty()).collect()
    }

    /// What there is to say about each metric.
    pub fn described(&self) -> impl Iterator<Item = Described> + use<S> {
        let labels = self.labels;
        self.metrics.iter().map(move |metric| {
            let Metric { name, kind, unit, help, .. } = *metric;
            let unit = unit.word();
            let joint = if unit.is_empty() { "" } else { "_" };
            let end = if kind == Kind::Counter { "_total" } else { "" };
            Described { name: format!("{PREFIX}_{name}{joint}{unit}{end}"), kind: kind.name(), labels, unit, help }
        })
    }
}

/// The labels of a series, with their values.
type Labels = Vec<(&'static str, String)>;

/// All series of a metric.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    series: Vec<(Labels, Value)>,
}

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let unit = self.unit.of_library();
        let mut metric = encoder.encode_descriptor(self.name, self.help, unit.as_ref(), kind)?;
        for (labels, value) in &self.series {
            match labels.is_empty() {
                true => self.encode_value(&mut metric, *value)?,
                false => self.encode_value(&mut metric.encode_family(labels)?, *value)?,
            }
        }
        Ok(())
    }
}

impl Family {
    fn encode_value(&self, encoder: &mut MetricEncoder<'_>, value: Value) -> fmt::Result {
        match (self.kind, value) {
            (Kind::Counter, Value::Whole(value)) => encoder.encode_counter::<[(&str, &str); 0], _, u64>(&value, None),
            (Kind::Counter, Value::Real(value)) => encoder.encode_counter::<[(&str, &str); 0], _, f64>(&value, None),
            (Kind::Gauge, Value::Whole(value)) => encoder.encode_gauge(&value),
            (Kind::Gauge, Value::Real(value)) => encoder.encode_gauge(&value),
            (_, Value::Absent) => Ok(()),
        }
    }
}

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Version 0.0.4 of Prometheus, for programs that ask for no other.
    Prometheus,
}

impl Format {
    /// What a caller wants, from its field `Accept` in lower case.
    pub fn accepted(accept: &str) -> Self {
        match accept.contains("text/plain") && !accept.contains("application/openmetrics-text") {
            true => Self::Prometheus,
            false => Self::OpenMetrics,
        }
    }

    /// For the field `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The text of metrics.
    pub fn text(self, families: Vec<Family>) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        families.into_iter().for_each(|family| registry.register_collector(Box::new(family)));
        let mut output = String::new();
        let written = match self {
            Self::OpenMetrics => text::encode(&mut output, &registry),
            Self::Prometheus => prometheus_text::encode(&mut output, &registry),
        };
        written.expect("text can be written into a string");
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pump {
        litres: u64,
        level: Option<f64>,
    }

    const PUMPS: Table<Pump> = Table {
        labels: &["pump", "house"],
        metrics: &[
            counter("pumped", Unit::Bytes, "What it has pumped.", |pump: &Pump| pump.litres.into()),
            gauge("level", Unit::Number, "How high it is.", |pump: &Pump| pump.level.into()),
        ],
    };

    #[test]
    fn series_have_their_names_labels_and_values_and_absent_ones_are_left_out() {
        let odd = "a \"b\"\\\n";
        let pumps =
            [(vec![odd, "x"], Pump { litres: 3, level: None }), (vec!["c", "x"], Pump { litres: 4, level: None })];
        let text = Format::OpenMetrics.text(PUMPS.families(pumps));
        let expected = "# HELP onwire_pumped_bytes What it has pumped.\n# TYPE onwire_pumped_bytes counter\n\
                        # UNIT onwire_pumped_bytes bytes\nonwire_pumped_bytes_total{pump=\"a \\\"b\\\"\\\\\\n\",house=\"x\"} 3\n\
                        onwire_pumped_bytes_total{pump=\"c\",house=\"x\"} 4\n# EOF\n";
        assert_eq!(text, expected);
        let one = || [(vec!["c", "x"], Pump { litres: 1 << 60, level: Some(0.5) })];
        let text = Format::Prometheus.text(PUMPS.families(one()));
        assert!(text.contains("# TYPE onwire_pumped_bytes_total counter\n") && !text.contains("# EOF"), "{text}");
        assert!(text.contains("onwire_pumped_bytes_total{pump=\"c\",house=\"x\"} 1152921504606846976\n"), "{text}");
        assert!(text.ends_with("onwire_level{pump=\"c\",house=\"x\"} 0.5\n"), "{text}");
        let names: Vec<_> = PUMPS.described().map(|metric| (metric.name, metric.unit)).collect();
        assert_eq!(names, [("onwire_pumped_bytes_total".to_owned(), "bytes"), ("onwire_level".to_owned(), "")]);
        assert_eq!(Format::OpenMetrics.text(PUMPS.families(Vec::<(Vec<&str>, Pump)>::new())), "# EOF\n");
    }

    #[test]
    fn the_older_format_is_for_who_asks_for_it_alone() {
        for (accept, expected) in [
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Prometheus),
            ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn what_is_no_number_is_no_series() {
        for value in [f64::NAN, f64::INFINITY, -f64::INFINITY] {
            assert_eq!(Value::from(value), Value::Absent);
        }
        assert_eq!([Value::from(true), Value::from(None::<u64>)], [Value::Whole(1), Value::Absent]);
    }
}
