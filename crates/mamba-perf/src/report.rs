//! What the user sees: a line per second, a summary, or one JSON object.

use hdrhistogram::Histogram;
use serde_json::{Map, Value as Json, json};

use crate::args::{Args, Mode};
use crate::clock::SECOND;
use crate::plan::Plan;
use crate::stats::{PERCENTILES, Totals};
use crate::verify::Verdict;

/// The part of the wanted rate below which a latency run is called an overload.
const OVERLOAD: f64 = 0.95;

/// Shows a line while the run goes on: on standard output, or on standard error when that is for the JSON object.
pub(crate) fn progress(args: &Args, line: &str) {
    match (args.quiet, args.json) {
        (true, _) => {}
        (false, true) => eprintln!("{line}"),
        (false, false) => println!("{line}"),
    }
}

/// Prints the outcome of a run.
pub(crate) fn outcome(args: &Args, json: &Json, text: &str) {
    if args.json {
        println!("{json}");
    } else {
        print!("{text}");
    }
}

/// Seconds as a fraction.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

/// `count` per second over `ns`.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn per_second(count: u64, ns: u64) -> f64 {
    if ns == 0 {
        0.0
    } else {
        count as f64 * SECOND as f64 / ns as f64
    }
}

/// One line for what happened in the last `ns`.
pub(crate) fn line(
    plan: &Plan,
    at_ns: u64,
    ns: u64,
    totals: &Totals,
    latency: Option<&Histogram<u64>>,
    warming_up: bool,
) -> String {
    let mut line = format!("{:8.1} s", seconds(at_ns));
    let mut rate = |name: &str, count: u64| {
        line.push_str(&format!("  {name} {:>9.0}/s", per_second(count, ns)));
    };
    if plan.publishers > 0 {
        rate("published", totals.published);
        if plan.window > 0 {
            rate("confirmed", totals.confirmed);
        }
        if plan.args.tx > 0 {
            rate("commits", totals.committed);
        }
        if totals.nacked > 0 {
            rate("nacked", totals.nacked);
        }
        if totals.returned > 0 {
            rate("returned", totals.returned);
        }
    }
    if plan.consumers > 0 {
        rate("consumed", totals.consumed);
        if !plan.args.auto_ack {
            rate("acked", totals.acked);
        }
    }
    if let Some(latency) = latency.filter(|latency| !latency.is_empty()) {
        line.push_str(&format!(
            "  latency p50 {} p99 {} max {}",
            duration(latency.value_at_percentile(50.0)),
            duration(latency.value_at_percentile(99.0)),
            duration(latency.max()),
        ));
    }
    if warming_up {
        line.push_str("  (warm-up)");
    }
    line
}

/// A duration with three digits and a fitting unit.
pub(crate) fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000_000 => (seconds(ns) * 1e6, "us"),
        1_000_000..1_000_000_000 => (seconds(ns) * 1e3, "ms"),
        _ => (seconds(ns), "s"),
    };
    let digits = match value {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// The outcome of a run with messages.
pub(crate) struct Summary<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) server: &'a str,
    pub(crate) elapsed_ns: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) measured: Totals,
    /// From the first message to the last, warm-up included.
    pub(crate) overall: Totals,
    pub(crate) latency: &'a Histogram<u64>,
    pub(crate) confirm_latency: &'a Histogram<u64>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) seconds: &'a [Json],
    pub(crate) failures: &'a [String],
    pub(crate) interrupted: bool,
}

impl Summary<'_> {
    /// Lines for people.
    pub(crate) fn text(&self) -> String {
        let totals = &self.measured;
        let mut out = format!(
            "\n{:.2} s measured against {}{}\n",
            seconds(self.elapsed_ns),
            self.server,
            if self.interrupted {
                ", interrupted"
            } else {
                ""
            }
        );
        let mut row = |name: &str, count: u64, octets: Option<u64>| {
            out.push_str(&format!(
                "  {name:<10} {:>12.0}/s {count:>14}",
                per_second(count, self.elapsed_ns)
            ));
            if let Some(octets) = octets {
                let rate = per_second(octets, self.elapsed_ns) / f64::from(1 << 20);
                out.push_str(&format!(" {rate:>10.1} MiB/s"));
            }
            out.push('\n');
        };
        if self.plan.publishers > 0 {
            row("published", totals.published, Some(totals.published_bytes));
            if self.plan.window > 0 {
                row("confirmed", totals.confirmed, None);
            }
            if self.plan.args.tx > 0 {
                row("commits", totals.committed, None);
            }
        }
        if self.plan.consumers > 0 {
            row("consumed", totals.consumed, Some(totals.consumed_bytes));
            if !self.plan.args.auto_ack {
                row("acked", totals.acked, None);
            }
        }
        for (name, count) in [
            ("nacked", totals.nacked),
            ("returned", totals.returned),
            ("redelivered", totals.redelivered),
        ] {
            if count > 0 {
                row(name, count, None);
            }
        }
        percentile_row(&mut out, "latency", self.latency);
        let confirms = if self.plan.args.tx > 0 {
            "commit"
        } else {
            "confirm"
        };
        percentile_row(&mut out, confirms, self.confirm_latency);
        let messages = totals.published + totals.consumed;
        out.push_str(&format!(
            "  load generator used {:.2} s of processor time",
            seconds(self.cpu_ns)
        ));
        if let Some(each) = self.cpu_ns.checked_div(messages) {
            out.push_str(&format!(", {each} ns per message published or consumed"));
        }
        out.push('\n');
        if let Some(verdict) = &self.verdict {
            let complete = !self.interrupted && self.failures.is_empty();
            out.push_str(&verdict_text(verdict, &self.overall, complete));
        }
        out
    }

    /// Says so when the rate of a latency run was out of reach: its latencies grow for as long as it runs.
    pub(crate) fn warn_of_overload(&self) {
        let Some(rate) = self.plan.args.rate else {
            return;
        };
        if self.plan.args.mode != Mode::Latency || self.plan.publishers == 0 {
            return;
        }
        let publishers = u32::try_from(self.plan.publishers).unwrap_or(u32::MAX);
        let wanted = rate * f64::from(publishers);
        let published = per_second(self.measured.published, self.elapsed_ns);
        if self.plan.args.messages.is_none() && published < OVERLOAD * wanted {
            eprintln!(
                "note: {published:.0} messages/s went out in place of {wanted:.0}: these are latencies of an overload"
            );
        }
    }

    /// The same for programs. Durations are nanoseconds where the name ends in `_ns`.
    pub(crate) fn json(&self) -> Json {
        let totals = &self.measured;
        let rate = |count| per_second(count, self.elapsed_ns);
        json!({
            "mode": self.plan.args.mode.name(),
            "server": self.server,
            "publishers": self.plan.publishers,
            "consumers": self.plan.consumers,
            "queues": self.plan.queues.len(),
            "size": self.plan.sizes,
            "target_rate": self.plan.args.rate,
            "elapsed_secs": seconds(self.elapsed_ns),
            "interrupted": self.interrupted,
            "totals": totals_json(totals),
            "rates": {
                "published": rate(totals.published),
                "confirmed": rate(totals.confirmed),
                "consumed": rate(totals.consumed),
                "acked": rate(totals.acked),
                "committed": rate(totals.committed),
            },
            "overall": totals_json(&self.overall),
            "latency_ns": percentiles_json(self.latency),
            "confirm_latency_ns": percentiles_json(self.confirm_latency),
            "cpu_secs": seconds(self.cpu_ns),
            "seconds": self.seconds,
            "verify": self.verdict.map(|verdict| json!({
                "ok": verdict.is_fine(),
                "lost": verdict.lost,
                "surplus": verdict.surplus,
                "out_of_order": verdict.out_of_order,
                "differs": verdict.differs,
            })),
            "failures": self.failures,
        })
    }
}

fn verdict_text(verdict: &Verdict, overall: &Totals, complete: bool) -> String {
    let published = match overall.published {
        0 => String::new(),
        count => format!("{count} published, "),
    };
    if verdict.is_fine() && !complete {
        return format!(
            "  verified in part: {published}{} consumed before the end, none of these skipped or out of order\n",
            overall.consumed
        );
    }
    if verdict.is_fine() {
        return format!(
            "  verified: {published}{} consumed, nothing lost, duplicated or out of order\n",
            overall.consumed
        );
    }
    let mut text = format!(
        "  VERIFICATION FAILED: {} lost, {} too many, {} out of order",
        verdict.lost, verdict.surplus, verdict.out_of_order
    );
    if verdict.differs {
        text.push_str("; as many as sent, but not the same messages");
    }
    text.push('\n');
    text
}

/// A line with percentiles, unless nothing was recorded.
pub(crate) fn percentile_row(out: &mut String, name: &str, histogram: &Histogram<u64>) {
    if histogram.is_empty() {
        return;
    }
    out.push_str(&format!("  {name:<10}"));
    for (label, percentile) in PERCENTILES {
        let value = duration(histogram.value_at_percentile(percentile));
        out.push_str(&format!(" {label} {value}"));
    }
    out.push_str(&format!(" max {}\n", duration(histogram.max())));
}

/// Percentiles in nanoseconds; null when nothing was recorded.
pub(crate) fn percentiles_json(histogram: &Histogram<u64>) -> Json {
    if histogram.is_empty() {
        return Json::Null;
    }
    let mut object: Map<String, Json> = PERCENTILES
        .iter()
        .map(|(label, percentile)| {
            let value = histogram.value_at_percentile(*percentile);
            ((*label).to_owned(), value.into())
        })
        .collect();
    object.insert("min".to_owned(), histogram.min().into());
    object.insert("max".to_owned(), histogram.max().into());
    object.insert("mean".to_owned(), histogram.mean().into());
    object.insert("count".to_owned(), histogram.len().into());
    Json::Object(object)
}

fn totals_json(totals: &Totals) -> Json {
    json!({
        "published": totals.published,
        "published_bytes": totals.published_bytes,
        "confirmed": totals.confirmed,
        "nacked": totals.nacked,
        "returned": totals.returned,
        "committed": totals.committed,
        "consumed": totals.consumed,
        "consumed_bytes": totals.consumed_bytes,
        "acked": totals.acked,
        "redelivered": totals.redelivered,
    })
}
