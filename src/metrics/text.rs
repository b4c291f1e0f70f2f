//! The Prometheus text format, version 0.0.4.
//!
//! Written here and not with a library: the numbers come from one snapshot, a registry would only copy them, and dashboards
//! compare the bounds of histograms as text (`le="1e+06"`).

use std::fmt::Write as _;

/// A page of metric families.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// What the numbers of a family mean.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
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

impl Page {
    /// Starts a family; its series follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One series of the family started last.
    pub(super) fn series(&mut self, name: &str, labels: Labels<'_>, value: impl Into<Number>) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(
                self.text,
                "{}{label}=\"",
                if index == 0 { '{' } else { ',' }
            );
            for character in text.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = match value.into() {
            Number::Whole(value) => writeln!(self.text, " {value}"),
            Number::Real(value) => writeln!(self.text, " {value}"),
        };
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Into<Number>) {
        self.family(name, Kind::Counter, help);
        self.series(name, &[], value);
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Into<Number>) {
        self.family(name, Kind::Gauge, help);
        self.series(name, &[], value);
    }

    /// A histogram: `counts` are cumulative, for the bounds and for all.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        counts: &[(&str, u64)],
        sum: u64,
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

    /// The finished page.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut page = Page::default();
        page.counter("a_total", "Help.", 3);
        page.family("b", Kind::Gauge, "Other.");
        page.series("b", &[("x", "1"), ("y", "q\"\\\n")], 0.25);
        page.histogram("c", "Third.", &[("p", "z")], &[("1.0", 2), ("+Inf", 5)], 9);
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total 3\n\
            # HELP b Other.\n# TYPE b gauge\nb{x=\"1\",y=\"q\\\"\\\\\\n\"} 0.25\n\
            # HELP c Third.\n# TYPE c histogram\n\
            c_bucket{p=\"z\",le=\"1.0\"} 2\nc_bucket{p=\"z\",le=\"+Inf\"} 5\n\
            c_sum{p=\"z\"} 9\nc_count{p=\"z\"} 5\n";
        assert_eq!(page.into_text(), expected);
    }
}
