//! The log against a plain map under random work and random crashes.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use mamba_store::{
    CleanStop, Disk, EnqueuedRun, Log, LogConfig, LogThreads, Recovered, Settled, SyncMode,
};
use mamba_types::{LogPosition, QueueId, Sequence};
use proptest::prelude::*;
use support::{Faults, Image, MemoryDisk, record};

#[derive(Clone, Debug)]
enum Step {
    /// A chunk of so many messages of such a size into each of the queues.
    Publish {
        queues: u8,
        count: u8,
        size: u16,
    },
    /// Settles the last one of every `of` live messages, counted from the oldest on.
    Settle {
        of: u8,
    },
    /// So many messages that are settled at once: the log grows around those that stay.
    Churn {
        count: u8,
    },
    Deliver,
    Count,
    Flush,
    Relocate,
    /// The disk takes so many octets more.
    Fill {
        room: u16,
    },
    /// `fdatasync` fails from now on.
    BreakSync,
    /// The disk is well again.
    Heal,
    Stop(Stop),
}

#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Everything staged is written.
    Close,
    Clean,
    /// The process dies: what was written stays.
    Killed,
    /// The power goes: of what was not synced, any sector may be missing.
    Power(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let stop = prop_oneof![
        Just(Stop::Close),
        Just(Stop::Clean),
        Just(Stop::Killed),
        any::<u64>().prop_map(Stop::Power),
    ];
    prop_oneof![
        6 => (1..=3u8, 1..=5u8, 0..900u16)
            .prop_map(|(queues, count, size)| Step::Publish { queues, count, size }),
        4 => (1..=4u8).prop_map(|of| Step::Settle { of }),
        2 => (1..=40u8).prop_map(|count| Step::Churn { count }),
        1 => Just(Step::Deliver),
        1 => Just(Step::Count),
        1 => Just(Step::Flush),
        2 => Just(Step::Relocate),
        1 => (0..3000u16).prop_map(|room| Step::Fill { room }),
        1 => Just(Step::BreakSync),
        3 => Just(Step::Heal),
        2 => stop.prop_map(Step::Stop),
    ]
}

#[derive(Clone, Debug)]
struct Entry {
    body: Vec<u8>,
    at: LogPosition,
    /// Durable from here on.
    enqueued: LogPosition,
    /// Gone for sure from here on.
    settled: Option<LogPosition>,
    redelivered_from: Option<LogPosition>,
    count: (u32, LogPosition),
}

struct Harness {
    disk: MemoryDisk,
    sync: SyncMode,
    log: Log,
    threads: Option<LogThreads>,
    epoch: u64,
    next: u64,
    /// The disk has a fault now.
    faults: bool,
    /// A sync may have failed: the log may have.
    broken: bool,
    /// The disk was full some time ago.
    filled: bool,
    model: BTreeMap<(u64, u64), Entry>,
}

fn open(disk: &MemoryDisk, sync: SyncMode) -> (Log, LogThreads, Recovered) {
    let config = LogConfig {
        sync,
        file_size: 4096,
        retry: Duration::from_millis(1),
        ..LogConfig::new([3; 16])
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open(Path::new("/log"), config, disk, &|_| true).unwrap()
}

impl Harness {
    fn new(sync: SyncMode) -> Self {
        let disk = MemoryDisk::default();
        let (log, threads, _) = open(&disk, sync);
        Self {
            disk,
            sync,
            log,
            threads: Some(threads),
            epoch: 1,
            next: 0,
            faults: false,
            broken: false,
            filled: false,
            model: BTreeMap::new(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Publish {
                queues,
                count,
                size,
            } => self.publish(queues, count, size),
            Step::Settle { of } => self.settle(of),
            Step::Churn { count } => self.churn(count),
            Step::Deliver => self.deliver(),
            Step::Count => self.count(),
            Step::Flush => {
                if !self.faults {
                    assert!(self.log.flush() || self.broken);
                }
            }
            Step::Fill { room } => self.set_faults(Faults {
                room: Some(room.into()),
                ..Faults::default()
            }),
            Step::BreakSync => {
                self.broken = true;
                self.set_faults(Faults {
                    sync_fails: true,
                    ..Faults::default()
                });
            }
            Step::Heal => self.set_faults(Faults::default()),
            Step::Relocate => self.relocate(),
            Step::Stop(stop) => self.stop(stop),
        }
    }

    fn set_faults(&mut self, faults: Faults) {
        self.faults = faults.room.is_some() || faults.sync_fails;
        self.filled |= faults.room.is_some();
        self.disk.set_faults(faults);
    }

    fn publish(&mut self, queues: u8, count: u8, size: u16) {
        let first = (self.epoch << 40) + self.next;
        let bodies: Vec<Vec<u8>> = (0..u64::from(count))
            .map(|number| {
                // The body names the message, so that a stale record cannot pass for it.
                let mut body = (first + number).to_le_bytes().to_vec();
                body.resize(8 + usize::from(size), size.to_le_bytes()[0]);
                body
            })
            .collect();
        let records: Vec<_> = bodies.iter().map(|body| record(body)).collect();
        let chunk = self.log.append_messages(records.concat().into());
        self.next += u64::from(count);
        for queue in 1..=u64::from(queues) {
            let run = EnqueuedRun {
                first: Sequence(first),
                count: count.into(),
                at: chunk.at(),
                ..EnqueuedRun::default()
            };
            let enqueued = self.log.append_enqueued(QueueId(queue), &[run]);
            let mut at = chunk.at();
            for (number, body) in bodies.iter().enumerate() {
                let entry = Entry {
                    body: body.clone(),
                    at,
                    enqueued,
                    settled: None,
                    redelivered_from: None,
                    count: (0, LogPosition::NONE),
                };
                self.model.insert((queue, first + number as u64), entry);
                at = LogPosition(at.0 + records[number].len() as u64);
            }
        }
    }

    fn live(&mut self) -> impl Iterator<Item = (&(u64, u64), &mut Entry)> {
        self.model
            .iter_mut()
            .filter(|(_, entry)| entry.settled.is_none())
    }

    fn settle(&mut self, of: u8) {
        let log = self.log.clone();
        let mut gone: BTreeMap<u64, Vec<Settled>> = BTreeMap::new();
        for (number, ((queue, sequence), entry)) in self.live().enumerate() {
            if (number + 1) % usize::from(of) == 0 {
                gone.entry(*queue).or_default().push(Settled {
                    sequence: Sequence(*sequence),
                    at: entry.at,
                });
            }
        }
        for (queue, settled) in gone {
            let end = log.append_settled(QueueId(queue), &settled);
            for one in settled {
                let key = (queue, one.sequence.0);
                self.model.get_mut(&key).unwrap().settled = Some(end);
            }
        }
    }

    fn churn(&mut self, count: u8) {
        for _ in 0..count {
            self.publish(1, 1, 800);
            let ((queue, sequence), entry) =
                self.live().filter(|(key, _)| key.0 == 1).last().unwrap();
            let (queue, sequence, at) = (QueueId(*queue), Sequence(*sequence), entry.at);
            let end = self.log.append_settled(queue, &[Settled { sequence, at }]);
            self.model.get_mut(&(queue.0, sequence.0)).unwrap().settled = Some(end);
        }
    }

    fn deliver(&mut self) {
        let up_to = (self.epoch << 40) + self.next;
        let end = self.log.append_delivered(QueueId(1), Sequence(up_to));
        for ((queue, _), entry) in self.live() {
            if *queue == 1 {
                entry.redelivered_from.get_or_insert(end);
            }
        }
    }

    fn count(&mut self) {
        let log = self.log.clone();
        if let Some(((queue, sequence), entry)) = self.live().next() {
            let count = entry.count.0 + 1;
            let end = log.append_delivery_count(QueueId(*queue), Sequence(*sequence), count);
            entry.count = (count, end);
        }
    }

    fn relocate(&mut self) {
        let log = self.log.clone();
        let Some(range) = log.relocation_candidate() else {
            return;
        };
        let mut old = Vec::new();
        for ((queue, sequence), entry) in self.live() {
            if !range.contains(&entry.at) {
                continue;
            }
            let chunk = log.append_messages(record(&entry.body));
            let run = EnqueuedRun {
                first: Sequence(*sequence),
                count: 1,
                at: chunk.at(),
                may_be_delivered: entry.redelivered_from.is_some(),
                delivery_count: entry.count.0,
            };
            log.append_enqueued(QueueId(*queue), &[run]);
            old.push(entry.at);
            entry.at = chunk.at();
        }
        assert!(!old.is_empty(), "nothing pins the candidate");
        log.relocated(&old);
    }

    fn stop(&mut self, stop: Stop) {
        let mut durable = self.log.durable();
        let mut threads = self.threads.take();
        let mut clean = false;
        let image = match stop {
            Stop::Close => {
                drop(threads.take());
                durable = self.log.durable();
                let end = self.last_position();
                assert!(
                    self.faults || self.broken || durable >= end,
                    "{:?}",
                    self.log.status()
                );
                self.at_least()
            }
            Stop::Clean => {
                clean = self.log.clean_stop(&CleanStop::default());
                assert!(clean || self.faults || self.broken);
                drop(threads.take());
                durable = self.log.durable();
                self.at_least()
            }
            Stop::Killed => self.disk.written(),
            Stop::Power(seed) => {
                let mut seed = seed | 1;
                self.disk.torn(|| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed & 4 == 0
                })
            }
        };
        drop(threads);
        self.disk = MemoryDisk::from_image(&image);
        (self.faults, self.broken) = (false, false);
        let (log, threads, back) = open(&self.disk, self.sync);
        // A stop that gave up waiting may have been written all the same.
        clean |= matches!(stop, Stop::Clean) && back.report.clean;
        let modes_agree = self.sync == SyncMode::Fsync || !matches!(stop, Stop::Power(_));
        if modes_agree {
            self.check(&back, durable, clean);
        }
        assert_eq!(back.report.clean, clean);
        assert!(back.report.quarantined.is_empty(), "{:?}", back.report);
        self.adopt(&back);
        self.filled = false;
        (self.log, self.threads) = (log, Some(threads));
        self.epoch += 1;
        self.next = 0;
    }

    /// What a stop leaves, as far as the mode promises.
    fn at_least(&self) -> Image {
        if self.sync == SyncMode::Fsync {
            self.disk.synced()
        } else {
            self.disk.written()
        }
    }

    fn last_position(&self) -> LogPosition {
        let ends = self
            .model
            .values()
            .flat_map(|entry| [Some(entry.enqueued), entry.settled]);
        ends.flatten().max().unwrap_or_default()
    }

    /// What was durable is there, what was durably settled is not, and nothing else is.
    fn check(&self, back: &Recovered, durable: LogPosition, clean: bool) {
        let mut found = BTreeMap::new();
        for (queue, recovered) in &back.queues {
            assert!(recovered.messages.is_sorted_by_key(|one| one.sequence));
            for one in &recovered.messages {
                found.insert((queue.0, one.sequence.0), one);
            }
        }
        for (key, entry) in &self.model {
            let gone = entry.settled.is_some_and(|end| end <= durable);
            let there = entry.enqueued <= durable && entry.settled.is_none();
            let Some(one) = found.remove(key) else {
                assert!(!there, "{key:?} was durable and is gone");
                continue;
            };
            assert!(!gone, "{key:?} was settled and is back");
            assert_eq!(one.message.body(), entry.body, "{key:?}");
            let redelivered = entry.redelivered_from.is_some_and(|end| end <= durable);
            if clean {
                assert!(!one.redelivered, "a clean stop is exact: {key:?}");
            } else if redelivered && !self.filled {
                // A full disk needs a file's room more than the marks in it.
                assert!(one.redelivered, "{key:?} lost its mark");
            }
            if entry.count.1 <= durable {
                assert_eq!(one.delivery_count, entry.count.0, "{key:?}");
            }
        }
        assert!(found.is_empty(), "invented: {:?}", found.keys());
    }

    /// The recovered state is the new truth.
    fn adopt(&mut self, back: &Recovered) {
        self.model.clear();
        for (queue, recovered) in &back.queues {
            for one in &recovered.messages {
                let entry = Entry {
                    body: one.message.body().to_vec(),
                    at: one.at,
                    enqueued: LogPosition::NONE,
                    settled: None,
                    redelivered_from: one.redelivered.then_some(LogPosition::NONE),
                    count: (one.delivery_count, LogPosition::NONE),
                };
                self.model.insert((queue.0, one.sequence.0), entry);
            }
        }
    }
}

fn run(sync: SyncMode, steps: &[Step]) {
    let mut harness = Harness::new(sync);
    for step in steps {
        harness.apply(step);
    }
    harness.stop(Stop::Close);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_work_and_any_crash(steps in prop::collection::vec(step(), 1..80)) {
        run(SyncMode::Fsync, &steps);
    }

    #[test]
    fn the_lazier_modes_survive_the_process(steps in prop::collection::vec(step(), 1..40)) {
        let steps: Vec<_> = steps
            .into_iter()
            .filter(|step| !matches!(step, Step::Stop(Stop::Power(_))))
            .collect();
        run(SyncMode::Os, &steps);
        let interval = SyncMode::Interval { interval: Duration::from_millis(5), batch: 8 };
        run(interval, &steps);
    }
}
