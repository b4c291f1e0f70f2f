//! Things that are made and unmade over and over, one at a time per worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::args::{Churn, Plan};
use crate::clock::{MILLISECOND, SECOND, cpu_ns, now_ns};
use crate::error::Error;
use crate::report::{duration, per_second, percentile_row, percentiles_json, seconds};
use crate::stats::{Collector, Counters, Recorder};
use crate::topology::{bind, connect, declare_queue, delete_queue, unbind};
use crate::transport::{CHANNEL, Transport, Wishes};
use crate::wire::{ShortStr, id, method};
use crate::worker::precise_sleep;

/// Binding keys that a worker goes through.
const KEYS: u64 = 1000;

/// Runs the churn of the plan; true when all went well.
pub(crate) fn run(plan: &Plan, churn: Churn, interrupted: &AtomicBool) -> bool {
    let stop = AtomicBool::new(false);
    let workers: Vec<(Counters, Recorder)> = (0..plan.args.churn_workers.max(1))
        .map(|_| (Counters::default(), Recorder::new()))
        .collect();
    let (sender, ended) = channel();
    thread::scope(|scope| {
        for (index, (counters, recorder)) in workers.iter().enumerate() {
            let (sender, stop) = (sender.clone(), &stop);
            scope.spawn(move || {
                let _ = sender.send(work(plan, churn, index, counters, recorder, stop));
            });
        }
        let fine = watch(plan, churn, &workers, &ended, interrupted);
        stop.store(true, Ordering::Relaxed);
        fine
    })
}

fn watch(
    plan: &Plan,
    churn: Churn,
    workers: &[(Counters, Recorder)],
    ended: &Receiver<Result<(), Error>>,
    interrupted: &AtomicBool,
) -> bool {
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
    let nanoseconds =
        |secs: f64| u64::try_from(Duration::from_secs_f64(secs).as_nanos()).unwrap_or(u64::MAX);
    let started_ns = now_ns();
    let mut from = (started_ns, 0, cpu_ns());
    let warm_ns = started_ns + nanoseconds(plan.args.warmup);
    let mut warming_up = plan.args.warmup > 0.0;
    let end_ns = plan
        .duration_secs
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
            if !plan.args.json && !plan.args.quiet {
                println!(
                    "{:8.1} s  {} {:>9.0}/s  p50 {} p99 {} max {}{}",
                    seconds(now - started_ns),
                    name(churn),
                    per_second(done - last.1, now - last.0),
                    duration(collector.interval.value_at_percentile(50.0)),
                    duration(collector.interval.value_at_percentile(99.0)),
                    duration(collector.interval.max()),
                    if warming_up { "  (warm-up)" } else { "" }
                );
            }
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
    let (elapsed_ns, done) = (now_ns() - from.0, operations() - from.1);
    let cpu = cpu_ns() - from.2;
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    if plan.args.json {
        let report = json!({
            "churn": name(churn),
            "workers": workers.len(),
            "elapsed_secs": seconds(elapsed_ns),
            "operations": done,
            "rate": per_second(done, elapsed_ns),
            "latency_ns": percentiles_json(&collector.total),
            "cpu_secs": seconds(cpu),
            "failures": failures,
        });
        println!("{report}");
    } else {
        let mut text = format!(
            "\n{:.2} s measured\n  {} {:.0}/s, {done} in all\n",
            seconds(elapsed_ns),
            name(churn),
            per_second(done, elapsed_ns),
        );
        percentile_row(&mut text, "each", &collector.total);
        println!(
            "{text}  load generator used {:.2} s of processor time",
            seconds(cpu)
        );
    }
    failures.is_empty()
}

fn name(churn: Churn) -> &'static str {
    match churn {
        Churn::Connection => "connections opened and closed",
        Churn::Channel => "channels opened and closed",
        Churn::Queue => "queues declared and deleted",
        Churn::Bind => "bindings made and removed",
    }
}

fn work(
    plan: &Plan,
    churn: Churn,
    index: usize,
    counters: &Counters,
    recorder: &Recorder,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let mut worker = Worker::new(plan, churn, index)?;
    let interval_ns = plan
        .args
        .rate
        .map(|rate| Duration::from_secs_f64(1.0 / rate));
    if interval_ns.is_some() {
        precise_sleep();
    }
    let workers = u64::try_from(plan.args.churn_workers.max(1)).unwrap_or(1);
    let quota = plan
        .args
        .messages
        .map_or(u64::MAX, |messages| messages.div_ceil(workers));
    let mut due_ns = now_ns();
    let mut number = 0;
    while number < quota && !stop.load(Ordering::Relaxed) {
        let now = now_ns();
        if interval_ns.is_some() && due_ns > now {
            let wait_ns = (due_ns - now).min(100 * MILLISECOND);
            thread::sleep(Duration::from_nanos(wait_ns));
            continue;
        }
        // With a rate, the time that an operation had to wait for its turn counts.
        let began_ns = if interval_ns.is_some() { due_ns } else { now };
        worker.turn(number)?;
        number += 1;
        counters.published.set(number);
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
    churn: Churn,
    /// Absent when connections are what is churned.
    transport: Option<Transport>,
    queue: ShortStr,
    exchange: ShortStr,
    keys: Vec<ShortStr>,
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan, churn: Churn, index: usize) -> Result<Self, Error> {
        let name = format!("{}-churn-{}", plan.args.queue, index + 1);
        let queue = ShortStr::new("--queue", &name)?;
        let exchange = match plan.args.exchange.as_str() {
            "" => ShortStr::new("--exchange", "amq.direct")?,
            _ => plan.exchange.clone(),
        };
        let mut transport = match churn {
            Churn::Connection => None,
            Churn::Channel | Churn::Queue | Churn::Bind => Some(connect(plan)?),
        };
        let mut keys = Vec::new();
        if let (Churn::Bind, Some(transport)) = (churn, transport.as_mut()) {
            declare_queue(transport, &queue, plan.durable, &plan.queue_arguments)?;
            keys = (0..KEYS)
                .map(|number| ShortStr::new("the binding key", &format!("key-{number}")))
                .collect::<Result<_, _>>()?;
        }
        Ok(Self {
            plan,
            churn,
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
        match self.churn {
            Churn::Connection => Ok(()),
            Churn::Channel => {
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
            Churn::Queue => {
                declare_queue(
                    transport,
                    &self.queue,
                    self.plan.durable,
                    &self.plan.queue_arguments,
                )?;
                delete_queue(transport, &self.queue)
            }
            Churn::Bind => {
                let key = usize::try_from(number % KEYS).unwrap_or(0);
                bind(transport, &self.queue, &self.exchange, &self.keys[key])?;
                unbind(transport, &self.queue, &self.exchange, &self.keys[key])
            }
        }
    }

    fn end(self) -> Result<(), Error> {
        let Some(mut transport) = self.transport else {
            return Ok(());
        };
        if self.churn == Churn::Bind {
            delete_queue(&mut transport, &self.queue)?;
        }
        transport.close_and_wait()
    }
}
