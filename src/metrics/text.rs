//! The Prometheus text format, version 0.0.4.
//!
//! Written here and not with a library: the numbers come from one snapshot, a registry would only copy them, dashboards
//! compare the bounds of histograms as text (`le="1e+06"`), and a page with a series for each of many queues has to leave in parts.

use std::{borrow::Cow, fmt::Write as _};

/// Octets of a part of a page.
pub(super) const PART_BYTES: usize = 65_536;

/// Takes a part of a page; false if nobody wants more of it.
type Sink = Box<dyn FnMut(String) -> bool + Send>;

/// A page of metric families. It leaves in parts while it is written, or stays here whole.
#[derive(Default)]
pub(crate) struct Page {
    text: String,
    sink: Option<Sink>,
    closed: bool,
    sent_bytes: u64,
}

/// What the numbers of a family mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

/// Label names and values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A number of a series. Integers stay exact.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// What a family says of an object: a number, or nothing.
pub(super) trait Measured {
    fn number(self) -> Option<Number>;
}

impl Measured for u64 {
    fn number(self) -> Option<Number> {
        Some(Number::Whole(self))
    }
}

impl Measured for f64 {
    fn number(self) -> Option<Number> {
        Some(Number::Real(self))
    }
}

impl Measured for Option<u64> {
    fn number(self) -> Option<Number> {
        self.map(Number::Whole)
    }
}

/// A family of which each object of a sort has at most one series.
pub(super) struct Family<T> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) value: fn(&T) -> Option<Number>,
}

/// A table of families, one per line: kind, name, help, value.
macro_rules! families {
    ($of:ident: $sort:ty; $($kind:ident $name:literal, $help:literal, $value:expr;)*) => {
        &[$($crate::metrics::text::Family {
            name: $name,
            kind: $crate::metrics::text::Kind::$kind,
            help: $help,
            value: |$of: &$sort| {
                // Some are the same for all.
                let _ = $of;
                $crate::metrics::text::Measured::number($value)
            },
        }),*]
    };
}
pub(super) use families;

/// An object with its labels, as they stand in each of its lines.
pub(super) struct Row<T> {
    labels: Box<str>,
    of: T,
}

impl<T> Row<T> {
    pub(super) fn new(labels: Labels<'_>, of: T) -> Self {
        let mut text = String::new();
        write_labels(&mut text, labels);
        Self {
            labels: text.into(),
            of,
        }
    }
}

/// How families are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    Plain,
    /// `rabbitmq_detailed_…`
    Detailed,
}

impl Naming {
    pub(super) fn name(self, name: &str) -> Cow<'_, str> {
        match (self, name.split_once('_')) {
            (Self::Detailed, Some((first, rest))) => format!("{first}_detailed_{rest}").into(),
            _ => name.into(),
        }
    }
}

impl Page {
    /// A page that leaves in parts of about [`PART_BYTES`].
    pub(super) fn streamed(sink: Sink) -> Self {
        Self {
            sink: Some(sink),
            ..Self::default()
        }
    }

    /// Nobody wants more of it: what is written from here on is lost.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Octets written so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.sent_bytes + self.text.len() as u64
    }

    /// Starts a family; its series follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One series of the family started last.
    pub(super) fn series(&mut self, name: &str, labels: Labels<'_>, value: impl Into<Number>) {
        self.text.push_str(name);
        write_labels(&mut self.text, labels);
        self.value(value.into());
    }

    /// Families without labels.
    pub(super) fn plain<T>(&mut self, naming: Naming, families: &[Family<T>], of: &T) {
        for family in families {
            let name = naming.name(family.name);
            self.family(&name, family.kind, family.help);
            if let Some(number) = (family.value)(of) {
                self.text.push_str(&name);
                self.value(number);
            }
        }
    }

    /// Families with a series for each row.
    pub(super) fn rows<T>(&mut self, naming: Naming, families: &[Family<T>], rows: &[Row<T>]) {
        for family in families {
            let name = naming.name(family.name);
            self.family(&name, family.kind, family.help);
            for row in rows {
                if let Some(number) = (family.value)(&row.of) {
                    self.text.push_str(&name);
                    self.text.push_str(&row.labels);
                    self.value(number);
                }
                if self.closed {
                    return;
                }
            }
        }
    }

    /// A histogram: `counts` are cumulative, for the bounds and for all.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        counts: &[(&str, u64)],
        sum: impl Into<Number>,
    ) {
        self.family(name, Kind::Histogram, help);
        let series = format!("{name}_bucket");
        for (bound, count) in counts {
            let labels: Vec<_> = labels.iter().copied().chain([("le", *bound)]).collect();
            self.series(&series, &labels, *count);
        }
        self.series(&format!("{name}_sum"), labels, sum);
        let total = counts.last().map_or(0, |(_, total)| *total);
        self.series(&format!("{name}_count"), labels, total);
    }

    /// Sends what is left.
    pub(super) fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        self.sent_bytes += text.len() as u64;
        if let Some(sink) = &mut self.sink
            && !self.closed
        {
            self.closed = !sink(text);
        }
    }

    /// The page, if it has not left in parts.
    #[cfg(test)]
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn value(&mut self, value: Number) {
        let _ = match value {
            Number::Whole(value) => writeln!(self.text, " {value}"),
            Number::Real(value) => writeln!(self.text, " {value}"),
        };
        if self.sink.is_some() && self.text.len() >= PART_BYTES {
            self.flush();
        }
    }
}

fn write_labels(text: &mut String, labels: Labels<'_>) {
    for (index, (label, value)) in labels.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        text.push_str(label);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn lines() {
        let mut page = Page::default();
        let families: &[Family<u64>] = families! { of: u64; Counter "a_total", "Help.", *of; };
        page.plain(Naming::Plain, families, &3);
        page.rows(
            Naming::Detailed,
            families! { of: Option<u64>; Gauge "b_c", "Other.", *of; },
            &[
                Row::new(&[("x", "1"), ("y", "q\"\\\n")], Some(25)),
                Row::new(&[("x", "2")], None),
            ],
        );
        page.histogram(
            "c",
            "Third.",
            &[("p", "z")],
            &[("1.0", 2), ("+Inf", 5)],
            0.5,
        );
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total 3\n\
            # HELP b_detailed_c Other.\n# TYPE b_detailed_c gauge\nb_detailed_c{x=\"1\",y=\"q\\\"\\\\\\n\"} 25\n\
            # HELP c Third.\n# TYPE c histogram\n\
            c_bucket{p=\"z\",le=\"1.0\"} 2\nc_bucket{p=\"z\",le=\"+Inf\"} 5\n\
            c_sum{p=\"z\"} 0.5\nc_count{p=\"z\"} 5\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_long_page_leaves_in_parts_as_long_as_somebody_wants_them() {
        let parts: Arc<Mutex<Vec<usize>>> = Arc::default();
        let taken = Arc::clone(&parts);
        let mut page = Page::streamed(Box::new(move |part| {
            let mut taken = taken.lock();
            taken.push(part.len());
            taken.len() < 3
        }));
        let rows: Vec<Row<u64>> = (0..100_000)
            .map(|number| Row::new(&[("queue", &format!("queue-{number}"))], number))
            .collect();
        let families: &[Family<u64>] = families! { of: u64; Gauge "a", "Help.", *of; };
        page.rows(Naming::Plain, families, &rows);
        assert!(page.is_closed());
        let parts = parts.lock();
        assert_eq!(parts.len(), 3);
        assert!(
            parts
                .iter()
                .all(|len| (PART_BYTES..PART_BYTES + 100).contains(len))
        );
    }
}
