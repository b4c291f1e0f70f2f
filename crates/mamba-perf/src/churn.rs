//! Things that are made and unmade over and over, or in large numbers, one at a time per worker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::args::Mode;
use crate::clock::{MILLISECOND, SECOND, cpu_ns, now_ns};
use crate::consumer::ask_to_consume;
use crate::error::Error;
use crate::plan::Plan;
use crate::report::{
    self, duration, per_second, percentile_row, percentiles_json, progress, seconds,
};
use crate::stats::{Collector, Counters, Recorder};
use crate::topology::{bind, connect, declare_queue, delete_queue, unbind};
use crate::transport::{CHANNEL, Transport, Wishes};
use crate::wire::{ShortStr, id, method};
use crate::worker::precise_sleep;

/// Binding keys that a worker goes through.
const KEYS: u64 = 1000;
/// How often a run that holds its queues says so, in nanoseconds.
const HOLD_LINE_NS: u64 = 10 * SECOND;

/// What a worker does in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Connect, log in, open a channel, close.
    Connection,
    /// Open and close a channel.
    Channel,
    /// Declare and delete a queue.
    Queue,
    /// Bind a queue and unbind it.
    Bind,
    /// Subscribe to a queue and cancel.
    Consumer,
    /// Declare the plan's next queue.
    DeclareNext,
    /// Delete the plan's next queue.
    DeleteNext,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connections opened and closed",
            Self::Channel => "channels opened and closed",
            Self::Queue => "queues declared and deleted",
            Self::Bind => "bindings made and removed",
            Self::Consumer => "consumers added and cancelled",
            Self::DeclareNext => "queues declared",
            Self::DeleteNext => "queues deleted",
        }
    }

    /// Whether it goes through the plan's queues, each once, however long that takes.
    fn is_count(self) -> bool {
        matches!(self, Self::DeclareNext | Self::DeleteNext)
    }
}

/// Runs a mode that churns; true when all went well.
pub(crate) fn run(plan: &Plan, operation: Operation, interrupted: &AtomicBool) -> bool {
    let measured = measure(plan, operation, interrupted);
    let mut json = measured.json(plan.args.mode);
    json["workers"] = plan.workers.into();
    report::outcome(&plan.args, &json, &measured.text());
    measured.failures.is_empty()
}

/// Declares the plan's queues, holds them and deletes them; true when all went well.
pub(crate) fn count_queues(plan: &Plan, interrupted: &AtomicBool) -> bool {
    let declared = measure(plan, Operation::DeclareNext, interrupted);
    progress(&plan.args, declared.text().trim_end());
    let mut fine = declared.failures.is_empty();
    if fine && !plan.args.keep {
        hold(plan, interrupted);
    }
    let mut json = declared.json(plan.args.mode);
    let mut text = String::new();
    if !plan.args.keep {
        // What was declared goes, even if not all was.
        let deleted = measure(plan, Operation::DeleteNext, &AtomicBool::new(false));
        fine &= deleted.failures.is_empty();
        json["deleted"] = deleted.json(plan.args.mode);
        text = deleted.text();
    }
    report::outcome(&plan.args, &json, &text);
    fine
}

/// Waits for `--duration`, or until interrupted.
fn hold(plan: &Plan, interrupted: &AtomicBool) {
    let started_ns = now_ns();
    let end_ns = plan
        .args
        .duration
        .map_or(u64::MAX, |secs| started_ns + nanoseconds(secs));
    let mut line_ns = started_ns + HOLD_LINE_NS;
    while now_ns() < end_ns && !interrupted.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_nanos(50 * MILLISECOND));
        if now_ns() > line_ns {
            line_ns += HOLD_LINE_NS;
            let held = format!(
                "{:8.1} s  {} queues held",
                seconds(now_ns() - started_ns),
                plan.queues.len()
            );
            progress(&plan.args, &held);
        }
    }
}

/// What was measured of one operation.
struct Measured {
    operation: Operation,
    elapsed_ns: u64,
    cpu_ns: u64,
    done: u64,
    times: Collector,
    failures: Vec<String>,
}

impl Measured {
    fn json(&self, mode: Mode) -> Json {
        json!({
            "mode": mode.name(),
            "elapsed_secs": seconds(self.elapsed_ns),
            "operations": self.done,
            "rate": per_second(self.done, self.elapsed_ns),
            "latency_ns": percentiles_json(&self.times.total),
            "cpu_secs": seconds(self.cpu_ns),
            "failures": self.failures,
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "\n{:.2} s measured\n  {} {:.0}/s, {} in all\n",
            seconds(self.elapsed_ns),
            self.operation.name(),
            per_second(self.done, self.elapsed_ns),
            self.done,
        );
        percentile_row(&mut text, "each", &self.times.total);
        text.push_str(&format!(
            "  load generator used {:.2} s of processor time\n",
            seconds(self.cpu_ns)
        ));
        text
    }
}

/// Lets the plan's workers do an operation until the time or the number of them is over.
fn measure(plan: &Plan, operation: Operation, interrupted: &AtomicBool) -> Measured {
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    let workers: Vec<(Counters, Recorder)> = (0..plan.workers)
        .map(|_| (Counters::default(), Recorder::new()))
        .collect();
    let (sender, ended) = channel();
    thread::scope(|scope| {
        for (index, (counters, recorder)) in workers.iter().enumerate() {
            let (sender, stop, next) = (sender.clone(), &stop, &next);
            scope.spawn(move || {
                let done = work(plan, operation, index, counters, recorder, next, stop);
                let _ = sender.send(done);
            });
        }
        let measured = watch(plan, operation, &workers, &ended, interrupted);
        stop.store(true, Ordering::Relaxed);
        measured
    })
}

fn watch(
    plan: &Plan,
    operation: Operation,
    workers: &[(Counters, Recorder)],
    ended: &Receiver<Result<(), Error>>,
    interrupted: &AtomicBool,
) -> Measured {
    let mut collector = Collector::new(
        workers
            .iter()
            .map(|(_, recorder)| recorder.clone())
            .collect(),
    );
    let operations = || {
        workers
            .iter()
            .map(|(counters, _)| counters.published.value())
            .sum::<u64>()
    };
    let started_ns = now_ns();
    let mut from = (started_ns, 0, cpu_ns());
    let warm_secs = if operation.is_count() {
        0.0
    } else {
        plan.args.warmup
    };
    let warm_ns = started_ns + nanoseconds(warm_secs);
    let mut warming_up = warm_secs > 0.0;
    let end_ns = plan
        .duration_secs
        .filter(|_| !operation.is_count())
        .map_or(u64::MAX, |secs| warm_ns + nanoseconds(secs));
    let mut last = (started_ns, 0);
    let mut running = workers.len();
    let mut failures: Vec<String> = Vec::new();
    let mut now = started_ns;
    while now < end_ns && running > 0 && failures.is_empty() && !interrupted.load(Ordering::Relaxed)
    {
        match ended.recv_timeout(Duration::from_nanos((end_ns - now).min(20 * MILLISECOND))) {
            Ok(Ok(())) => running -= 1,
            Ok(Err(error)) => failures.push(error.to_string()),
            Err(_) => {}
        }
        now = now_ns();
        if now >= last.0 + SECOND {
            collector.collect();
            let done = operations();
            let line = format!(
                "{:8.1} s  {} {:>9.0}/s  {done} so far  p50 {} p99 {} max {}{}",
                seconds(now - started_ns),
                operation.name(),
                per_second(done - last.1, now - last.0),
                duration(collector.interval.value_at_percentile(50.0)),
                duration(collector.interval.value_at_percentile(99.0)),
                duration(collector.interval.max()),
                if warming_up { "  (warm-up)" } else { "" }
            );
            progress(&plan.args, &line);
            last = (now, done);
        }
        if warming_up && now >= warm_ns {
            warming_up = false;
            collector.collect();
            collector.restart();
            from = (now, operations(), cpu_ns());
        }
    }
    collector.collect();
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    Measured {
        operation,
        elapsed_ns: now_ns() - from.0,
        cpu_ns: cpu_ns() - from.2,
        done: operations() - from.1,
        times: collector,
        failures,
    }
}

fn nanoseconds(secs: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(secs).as_nanos()).unwrap_or(u64::MAX)
}

/// Takes numbers from `next` and does the operation with each, until there is no more to do.
fn work(
    plan: &Plan,
    operation: Operation,
    index: usize,
    counters: &Counters,
    recorder: &Recorder,
    next: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let mut worker = Worker::new(plan, operation, index)?;
    let interval_ns = plan
        .args
        .rate
        .map(|rate| Duration::from_secs_f64(1.0 / rate));
    if interval_ns.is_some() {
        precise_sleep();
    }
    let limit = if operation.is_count() {
        u64::try_from(plan.queues.len()).unwrap_or(u64::MAX)
    } else {
        plan.args.messages.unwrap_or(u64::MAX)
    };
    let mut due_ns = now_ns();
    while !stop.load(Ordering::Relaxed) {
        let now = now_ns();
        if interval_ns.is_some() && due_ns > now {
            let wait_ns = (due_ns - now).min(100 * MILLISECOND);
            thread::sleep(Duration::from_nanos(wait_ns));
            continue;
        }
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= limit {
            break;
        }
        // With a rate, the time that an operation had to wait for its turn counts.
        let began_ns = if interval_ns.is_some() { due_ns } else { now };
        worker.turn(number)?;
        counters.published.add(1);
        recorder
            .batch()
            .saturating_record((now_ns() - began_ns).max(1));
        due_ns += interval_ns.map_or(0, |interval| {
            u64::try_from(interval.as_nanos()).unwrap_or(0)
        });
    }
    worker.end()
}

struct Worker<'a> {
    plan: &'a Plan,
    operation: Operation,
    /// Absent when connections are what is churned.
    transport: Option<Transport>,
    queue: ShortStr,
    exchange: ShortStr,
    keys: Vec<ShortStr>,
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan, operation: Operation, index: usize) -> Result<Self, Error> {
        let name = format!("{}-churn-{}", plan.args.queue, index + 1);
        let queue = ShortStr::new("--queue", &name)?;
        let exchange = match plan.args.exchange.as_str() {
            "" => ShortStr::new("--exchange", "amq.direct")?,
            _ => plan.exchange.clone(),
        };
        let mut transport = (operation != Operation::Connection)
            .then(|| connect(plan))
            .transpose()?;
        if let (Operation::Bind | Operation::Consumer, Some(transport)) =
            (operation, transport.as_mut())
        {
            declare_queue(transport, &queue, plan.durable, &plan.queue_arguments)?;
        }
        let mut keys = Vec::new();
        if operation == Operation::Bind {
            keys = (0..KEYS)
                .map(|number| ShortStr::new("the binding key", &format!("key-{number}")))
                .collect::<Result<_, _>>()?;
        }
        Ok(Self {
            plan,
            operation,
            transport,
            queue,
            exchange,
            keys,
        })
    }

    fn turn(&mut self, number: u64) -> Result<(), Error> {
        let Some(transport) = self.transport.as_mut() else {
            let wishes = Wishes {
                name: "mambamq perf churn",
                heartbeat_secs: self.plan.args.heartbeat,
                read_buffer_size: None,
            };
            let mut transport = Transport::open(&self.plan.uri, &wishes)?;
            transport.open_channel()?;
            return transport.close_and_wait();
        };
        match self.operation {
            Operation::Connection => Ok(()),
            Operation::Channel => {
                method(
                    &mut transport.outbound,
                    CHANNEL + 1,
                    id::CHANNEL_OPEN,
                    |fields| {
                        fields.octet(0);
                    },
                );
                transport.call("channel.open", id::CHANNEL_OPEN_OK)?;
                method(
                    &mut transport.outbound,
                    CHANNEL + 1,
                    id::CHANNEL_CLOSE,
                    |fields| {
                        fields
                            .short(200)
                            .shortstr(&ShortStr::default())
                            .short(0)
                            .short(0);
                    },
                );
                transport
                    .call("channel.close", id::CHANNEL_CLOSE_OK)
                    .map(drop)
            }
            Operation::Queue => {
                declare_queue(
                    transport,
                    &self.queue,
                    self.plan.durable,
                    &self.plan.queue_arguments,
                )?;
                delete_queue(transport, &self.queue)
            }
            Operation::Bind => {
                let key = usize::try_from(number % KEYS).unwrap_or(0);
                bind(transport, &self.queue, &self.exchange, &self.keys[key])?;
                unbind(transport, &self.queue, &self.exchange, &self.keys[key])
            }
            Operation::Consumer => {
                subscribe(transport, &self.queue, self.plan)?;
                cancel(transport)
            }
            Operation::DeclareNext => {
                let queue = next_queue(self.plan, number);
                declare_queue(
                    transport,
                    queue,
                    self.plan.durable,
                    &self.plan.queue_arguments,
                )
                .map(drop)
            }
            Operation::DeleteNext => delete_queue(transport, next_queue(self.plan, number)),
        }
    }

    fn end(self) -> Result<(), Error> {
        let Some(mut transport) = self.transport else {
            return Ok(());
        };
        if matches!(self.operation, Operation::Bind | Operation::Consumer) {
            delete_queue(&mut transport, &self.queue)?;
        }
        transport.close_and_wait()
    }
}

fn subscribe(transport: &mut Transport, queue: &ShortStr, plan: &Plan) -> Result<(), Error> {
    ask_to_consume(transport, queue, &consumer_tag()?, plan);
    transport
        .call("basic.consume", id::BASIC_CONSUME_OK)
        .map(drop)
}

fn cancel(transport: &mut Transport) -> Result<(), Error> {
    let tag = consumer_tag()?;
    method(
        &mut transport.outbound,
        CHANNEL,
        id::BASIC_CANCEL,
        |fields| {
            fields.shortstr(&tag).octet(0);
        },
    );
    transport
        .call("basic.cancel", id::BASIC_CANCEL_OK)
        .map(drop)
}

fn next_queue(plan: &Plan, number: u64) -> &ShortStr {
    let index = usize::try_from(number).unwrap_or(usize::MAX) % plan.queues.len();
    &plan.queues[index].wire_name
}

fn consumer_tag() -> Result<ShortStr, Error> {
    ShortStr::new("the consumer tag", "churn")
}
