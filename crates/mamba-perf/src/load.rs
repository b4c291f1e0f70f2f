//! A run with messages: starts the workers, watches them, adds up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::args::Mode;
use crate::clock::{MILLISECOND, SECOND, cpu_ns, now_ns};
use crate::consumer::{self, SeenByQueue};
use crate::error::Error;
use crate::plan::Plan;
use crate::publisher::{self, Sent};
use crate::report::{self, Summary, line, seconds};
use crate::stats::{Collector, Counters, Recorder, Totals};
use crate::topology;
use crate::verify::{Fingerprint, Seen, Verdict};
use crate::worker::{Control, Event, Reporter, Stage};

/// How often the directing thread looks around, in nanoseconds.
const TICK_NS: u64 = 20 * MILLISECOND;
const THREAD_STACK_SIZE: usize = 256 * 1024;

/// How a run ended.
pub(crate) struct Outcome {
    /// Whether all went well.
    pub(crate) fine: bool,
    /// For programs, and for people; absent when not even the connections stood.
    pub(crate) report: Option<(Json, String)>,
    /// From the first message to the last, warm-up included.
    pub(crate) overall: Totals,
    /// What each publisher sent, for verification.
    pub(crate) sent: Vec<Sent>,
}

/// Runs the plan and prints the outcome; true when all went well.
pub(crate) fn run(plan: Plan, interrupted: &Arc<AtomicBool>) -> Result<bool, Error> {
    let args = plan.args.clone();
    let outcome = perform(plan, None, interrupted)?;
    if let Some((json, text)) = &outcome.report {
        report::outcome(&args, json, text);
    }
    Ok(outcome.fine)
}

/// Runs the plan. What consumers get is compared with `sent_before` if an earlier run published it.
pub(crate) fn perform(
    plan: Plan,
    sent_before: Option<Vec<Sent>>,
    interrupted: &Arc<AtomicBool>,
) -> Result<Outcome, Error> {
    let found = topology::create(&plan)?;
    if found > 0 && plan.publishers > 0 {
        eprintln!(
            "note: the queues already hold {found} messages, which will be consumed too (--purge removes them)"
        );
    }
    let mut run = Run::start(plan, interrupted.clone())?;
    run.direct();
    let mut outcome = run.finish(sent_before);
    if let Err(error) = topology::remove(&run.control.plan) {
        eprintln!("cannot delete the queues: {error}");
        outcome.fine = false;
    }
    Ok(outcome)
}

struct Run {
    control: Arc<Control>,
    interrupted: Arc<AtomicBool>,
    events: Receiver<Event>,
    counters: Vec<Arc<Counters>>,
    publishers: Vec<JoinHandle<Sent>>,
    consumers: Vec<JoinHandle<SeenByQueue>>,
    latency: Collector,
    confirm_latency: Collector,
    server: String,
    connected: usize,
    subscribed: usize,
    published: usize,
    failures: Vec<String>,
    /// When the first message may have moved.
    started_ns: u64,
    measure: Measure,
    last_line_ns: u64,
    last_line: Totals,
    seconds: Vec<Json>,
}

/// The measured part of a run: state at its beginning, and at its end once that is reached.
#[derive(Default)]
struct Measure {
    from: Mark,
    to: Option<Mark>,
    warming_up: bool,
}

#[derive(Clone, Copy, Default)]
struct Mark {
    at_ns: u64,
    cpu_ns: u64,
    totals: Totals,
}

impl Run {
    fn start(plan: Plan, interrupted: Arc<AtomicBool>) -> Result<Self, Error> {
        let (sender, events) = channel();
        let control = Control::new(plan);
        let plan = &control.plan;
        let mut run = Self {
            control: control.clone(),
            interrupted,
            events,
            counters: Vec::new(),
            publishers: Vec::new(),
            consumers: Vec::new(),
            latency: Collector::new(Vec::new()),
            confirm_latency: Collector::new(Vec::new()),
            server: String::new(),
            connected: 0,
            subscribed: 0,
            published: 0,
            failures: Vec::new(),
            started_ns: 0,
            measure: Measure::default(),
            last_line_ns: 0,
            last_line: Totals::default(),
            seconds: Vec::new(),
        };
        let recorders = |wanted: bool, count: usize| -> Vec<Recorder> {
            let count = if wanted { count } else { 0 };
            std::iter::repeat_with(Recorder::new).take(count).collect()
        };
        let latency = recorders(plan.args.latency, plan.consumers);
        let answers = plan.window > 0 || plan.args.tx > 0;
        let confirm_latency = recorders(plan.args.latency && answers, plan.publishers);
        for index in 0..plan.consumers {
            let (control, counters, recorder, reporter) = (
                control.clone(),
                run.new_counters(),
                latency.get(index).cloned(),
                Reporter {
                    who: format!("consumer {}", index + 1),
                    events: sender.clone(),
                },
            );
            run.consumers.push(spawn(move || {
                consumer::run(&control, index, counters, recorder, reporter)
            })?);
        }
        for index in 0..plan.publishers {
            let (control, counters, recorder, reporter) = (
                control.clone(),
                run.new_counters(),
                confirm_latency.get(index).cloned(),
                Reporter {
                    who: format!("publisher {}", index + 1),
                    events: sender.clone(),
                },
            );
            run.publishers.push(spawn(move || {
                publisher::run(&control, index, counters, recorder, reporter)
            })?);
        }
        run.latency = Collector::new(latency);
        run.confirm_latency = Collector::new(confirm_latency);
        Ok(run)
    }

    fn new_counters(&mut self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.counters.push(counters.clone());
        counters
    }

    /// Leads the workers through the run.
    fn direct(&mut self) {
        let (publishers, consumers) = (self.control.plan.publishers, self.control.plan.consumers);
        self.pump_until(u64::MAX, |run| run.connected == publishers + consumers);
        self.begin();
        self.control.enter(Stage::Subscribe);
        if publishers > 0 {
            self.pump_until(u64::MAX, |run| run.subscribed == consumers);
            // Nothing has been published yet, so that the clock starts here.
            self.begin();
            self.control.enter(Stage::Publish);
        }
        let plan = &self.control.plan;
        if plan.args.warmup > 0.0 {
            let warm_ns = self.started_ns + nanoseconds(plan.args.warmup);
            self.measure.warming_up = true;
            self.pump_until(warm_ns, Self::is_done);
            self.measure.warming_up = false;
            // A run that is over already is measured as a whole.
            if now_ns() >= warm_ns {
                self.collect();
                self.latency.restart();
                self.confirm_latency.restart();
                self.measure.from = self.mark(now_ns());
            }
        }
        let end_ns = match self.control.plan.duration_secs {
            Some(secs) => self.measure.from.at_ns + nanoseconds(secs),
            None => u64::MAX,
        };
        self.pump_until(end_ns, Self::is_done);
        self.control.stop_publishing();
        let plan = &self.control.plan;
        let latency = plan.args.mode == Mode::Latency;
        // The messages that are late belong to the latencies.
        if plan.duration_secs.is_some() && now_ns() >= end_ns && !latency {
            self.end_measure(now_ns());
        }
        // Confirms that are still out, and with --messages or --verify all that is on its way.
        let plan = &self.control.plan;
        if plan.args.verify || plan.args.messages.is_some() || latency {
            self.drain();
        }
        self.end_measure(self.last_progress());
        self.pump_until(u64::MAX, |run| run.published == publishers);
        self.control.stop();
    }

    fn begin(&mut self) {
        let now = now_ns();
        self.started_ns = now;
        self.last_line_ns = now;
        self.measure.from = self.mark(now);
    }

    fn mark(&self, at_ns: u64) -> Mark {
        Mark {
            at_ns,
            cpu_ns: cpu_ns(),
            totals: self.totals(),
        }
    }

    fn end_measure(&mut self, at_ns: u64) {
        if self.measure.to.is_none() {
            self.collect();
            let mut mark = self.mark(at_ns);
            mark.at_ns = mark.at_ns.max(self.measure.from.at_ns + 1);
            self.measure.to = Some(mark);
        }
    }

    fn totals(&self) -> Totals {
        Totals::sum(self.counters.iter().map(AsRef::as_ref))
    }

    fn last_progress(&self) -> u64 {
        let last = self
            .counters
            .iter()
            .map(|counters| counters.last_progress_ns.value())
            .max();
        last.unwrap_or(0)
    }

    /// Whether as many messages moved as `--messages` asks for.
    fn is_done(&self) -> bool {
        let plan = &self.control.plan;
        if plan.publishers > 0 {
            return self.published == plan.publishers;
        }
        let limit = plan.args.messages.unwrap_or(u64::MAX);
        self.totals().consumed >= limit || plan.args.mode == Mode::Backlog && self.is_stuck()
    }

    /// Whether nothing moved for as long as `--drain-timeout` allows.
    fn is_stuck(&self) -> bool {
        let since_ns = self.last_progress().max(self.started_ns);
        now_ns() > since_ns + nanoseconds(self.control.plan.args.drain_timeout)
    }

    /// Waits until everything published is consumed, or nothing more comes.
    fn drain(&mut self) {
        let (publishers, consumers) = (self.control.plan.publishers, self.control.plan.consumers);
        self.pump_until(u64::MAX, |run| run.published == publishers);
        if consumers == 0 || publishers == 0 {
            return;
        }
        let copies = if self.control.plan.fan_out {
            self.control.plan.queues.len()
        } else {
            1
        };
        let patience_ns = nanoseconds(self.control.plan.args.drain_timeout);
        let mut last = (self.totals().consumed, now_ns());
        self.pump_until(u64::MAX, |run| {
            let totals = run.totals();
            let expected = (totals.published - totals.returned - totals.nacked)
                * u64::try_from(copies).unwrap_or(1);
            if totals.consumed != last.0 {
                last = (totals.consumed, now_ns());
            }
            let late = now_ns() > last.1 + patience_ns;
            if late {
                eprintln!(
                    "note: {} of {expected} messages were consumed; no more came for {} s",
                    totals.consumed, run.control.plan.args.drain_timeout
                );
            }
            late || totals.consumed >= expected
        });
    }

    /// Handles events and prints lines until `end_ns`, until `done` says so, or until the run fails or is interrupted.
    fn pump_until(&mut self, end_ns: u64, mut done: impl FnMut(&Self) -> bool) {
        loop {
            let now = now_ns();
            if !self.failures.is_empty()
                || self.interrupted.load(Ordering::Relaxed)
                || now >= end_ns
                || done(self)
            {
                return;
            }
            let next_ns = if self.started_ns > 0 {
                let line_ns = self.last_line_ns + SECOND;
                if now >= line_ns {
                    self.print_line(now);
                }
                line_ns.max(now + 1)
            } else {
                u64::MAX
            };
            let wait_ns = (end_ns.min(next_ns) - now).min(TICK_NS);
            match self.events.recv_timeout(Duration::from_nanos(wait_ns)) {
                Ok(event) => self.event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected(server) => {
                self.connected += 1;
                self.server = server;
            }
            Event::Subscribed => self.subscribed += 1,
            Event::Published => self.published += 1,
            Event::Notice(text) => eprintln!("note: {text}"),
            Event::Failed { who, error } => {
                let text = format!("{who}: {error}");
                // A broker that goes away is told once, not by every worker.
                if self.failures.len() < 10 && !self.failures.contains(&text) {
                    eprintln!("error: {text}");
                }
                self.failures.push(text);
            }
        }
    }

    fn collect(&mut self) {
        self.latency.collect();
        self.confirm_latency.collect();
    }

    fn print_line(&mut self, now: u64) {
        if self.measure.to.is_none() {
            self.collect();
        }
        let totals = self.totals();
        let change = totals - self.last_line;
        let ns = now - self.last_line_ns;
        let at_ns = now - self.started_ns;
        self.last_line = totals;
        self.last_line_ns = now;
        self.seconds.push(json!({
            "at_secs": seconds(at_ns),
            "secs": seconds(ns),
            "warm_up": self.measure.warming_up,
            "published": change.published,
            "confirmed": change.confirmed,
            "consumed": change.consumed,
            "acked": change.acked,
        }));
        let collector = if self.latency.is_active() {
            &self.latency
        } else {
            &self.confirm_latency
        };
        let latency = collector.is_active().then_some(&collector.interval);
        let plan = &self.control.plan;
        let line = line(plan, at_ns, ns, &change, latency, self.measure.warming_up);
        report::progress(&plan.args, &line);
    }

    /// Waits for the workers and judges.
    fn finish(&mut self, sent_before: Option<Vec<Sent>>) -> Outcome {
        self.control.stop();
        let sent: Vec<Sent> = std::mem::take(&mut self.publishers)
            .into_iter()
            .map(|worker| worker.join().unwrap_or_default())
            .collect();
        let seen: Vec<SeenByQueue> = std::mem::take(&mut self.consumers)
            .into_iter()
            .map(|worker| worker.join().unwrap_or_default())
            .collect();
        while let Ok(event) = self.events.try_recv() {
            if !matches!(event, Event::Failed { .. }) || self.failures.is_empty() {
                self.event(event);
            }
        }
        if self.started_ns == 0 {
            return Outcome {
                fine: false,
                report: None,
                overall: Totals::default(),
                sent,
            };
        }
        self.end_measure(now_ns());
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        let plan = &self.control.plan;
        // Only a run that came to its end knows what should have arrived.
        let complete = !interrupted && self.failures.is_empty();
        let known = sent_before.as_ref().unwrap_or(&sent);
        let verdict = (plan.args.verify && plan.consumers > 0)
            .then(|| judge(plan, complete.then_some(known), &seen));
        let to = self.measure.to.unwrap_or_default();
        let summary = Summary {
            plan,
            server: &self.server,
            elapsed_ns: to.at_ns.saturating_sub(self.measure.from.at_ns),
            cpu_ns: to.cpu_ns.saturating_sub(self.measure.from.cpu_ns),
            measured: to.totals - self.measure.from.totals,
            overall: self.totals(),
            latency: &self.latency.total,
            confirm_latency: &self.confirm_latency.total,
            verdict,
            seconds: &self.seconds,
            failures: &self.failures,
            interrupted,
        };
        summary.warn_of_overload();
        Outcome {
            fine: self.failures.is_empty() && verdict.is_none_or(|verdict| verdict.is_fine()),
            report: Some((summary.json(), summary.text())),
            overall: summary.overall,
            sent,
        }
    }
}

/// Compares what was sent with what was seen on each queue.
fn judge(plan: &Plan, sent: Option<&Vec<Sent>>, seen: &[SeenByQueue]) -> Verdict {
    let targets = plan.targets.len();
    let mut by_queue: HashMap<(usize, usize), Seen> = HashMap::new();
    for (queue, streams) in seen.iter().flatten() {
        for (stream, found) in streams.iter().enumerate() {
            if found.received.count > 0 {
                by_queue.entry((*queue, stream)).or_default().merge(found);
            }
        }
    }
    // What this process published is known, by queue and stream; of the rest we judge what is seen.
    let mut expected: HashMap<(usize, usize), Fingerprint> = HashMap::new();
    let nothing = Vec::new();
    for (publisher, sent) in sent.unwrap_or(&nothing).iter().enumerate() {
        for (target, fingerprint) in sent {
            let stream = publisher * targets + target;
            if plan.fan_out {
                for queue in 0..plan.queues.len() {
                    expected.insert((queue, stream), *fingerprint);
                }
            } else {
                expected.insert((*target, stream), *fingerprint);
            }
        }
    }
    let mut keys: Vec<(usize, usize)> = by_queue.keys().chain(expected.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut verdict = Verdict::default();
    for key in keys {
        let found = by_queue.get(&key).copied().unwrap_or_default();
        let one = found.judge(expected.get(&key).copied());
        if !one.is_fine() {
            eprintln!(
                "verify: queue {:?}, publisher {}: {} consumed, {} lost, {} too many, {} out of order",
                plan.queues[key.0].name,
                key.1 / targets + 1,
                found.received.count,
                one.lost,
                one.surplus,
                one.out_of_order
            );
        }
        verdict.merge(one);
    }
    verdict
}

fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    thread::Builder::new()
        .stack_size(THREAD_STACK_SIZE)
        .spawn(work)
        .map_err(Error::Socket)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "options are checked to be positive and small"
)]
fn nanoseconds(secs: f64) -> u64 {
    (secs * 1e9) as u64
}
