//! The log against a plain map under random work and random crashes.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use mamba_store::{
    Disk, EnqueuedRun, LiveRun, LoadRequest, Log, LogConfig, LogThreads, Recovered, Relocated,
    RelocationCursor, Settled, SyncMode,
};
use mamba_types::{LogPosition, QueueId, Sequence};
use proptest::prelude::*;
use support::{Back, Faults, Image, MemoryDisk, message, read_back, run_of};

#[derive(Clone, Debug)]
enum Step {
    /// A chunk of so many messages of such a size into each of the queues; in so many levels by turns.
    Publish {
        queues: u8,
        count: u8,
        size: u16,
        levels: u8,
        volatile: bool,
    },
    /// Settles the last one of every `of` live messages, counted from the oldest on.
    Settle {
        of: u8,
    },
    /// Every `of`-th live message of the first two queues goes on to the third, and a checkpoint may follow at once.
    Move {
        of: u8,
        checkpoint: bool,
    },
    /// Every `of`-th live message had left and came back: it is written again.
    Again {
        of: u8,
    },
    /// So many messages that are settled at once: the log grows around those that stay.
    Churn {
        count: u8,
    },
    Deliver,
    Count,
    Flush,
    Checkpoint,
    /// A checkpoint that is never completed.
    HalfCheckpoint,
    /// All of a queue goes at once.
    Purge {
        queue: u8,
    },
    /// Empties a file, or gives up before the end.
    Relocate {
        finish: bool,
    },
    /// Everything that lives can be read.
    Read,
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
        6 => (1..=3u8, 1..=5u8, 0..900u16, 1..=2u8, 0..6u8).prop_map(
            |(queues, count, size, levels, volatile)| Step::Publish {
                queues,
                count,
                size,
                levels,
                volatile: volatile == 0,
            },
        ),
        4 => (1..=4u8).prop_map(|of| Step::Settle { of }),
        3 => (1..=4u8, any::<bool>()).prop_map(|(of, checkpoint)| Step::Move { of, checkpoint }),
        2 => (1..=4u8).prop_map(|of| Step::Again { of }),
        3 => (1..=40u8).prop_map(|count| Step::Churn { count }),
        1 => Just(Step::Deliver),
        1 => Just(Step::Count),
        1 => Just(Step::Flush),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::HalfCheckpoint),
        1 => (1..=3u8).prop_map(|queue| Step::Purge { queue }),
        3 => any::<bool>().prop_map(|finish| Step::Relocate { finish }),
        1 => Just(Step::Read),
        1 => (0..3000u16).prop_map(|room| Step::Fill { room }),
        1 => Just(Step::BreakSync),
        3 => Just(Step::Heal),
        2 => stop.prop_map(Step::Stop),
    ]
}

#[derive(Clone, Debug)]
struct Entry {
    level: u8,
    body: Vec<u8>,
    at: LogPosition,
    octets: u32,
    volatile: bool,
    /// Durable from here on.
    enqueued: LogPosition,
    /// Gone for sure from here on.
    settled: Option<LogPosition>,
    /// Where it has gone on to.
    moved_to: Option<(u64, u64)>,
    redelivered_from: Option<LogPosition>,
    count: (u32, LogPosition),
}

/// Who does the log's work.
#[derive(Clone, Copy, Debug)]
enum Driver {
    Threads,
    /// Nobody but the test, so that one seed means one run.
    Steps,
}

struct Harness {
    disk: MemoryDisk,
    sync: SyncMode,
    driver: Driver,
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

fn open(disk: &MemoryDisk, sync: SyncMode, driver: Driver) -> (Log, LogThreads, Recovered) {
    let config = LogConfig {
        sync,
        file_size: 4096,
        retry: Duration::from_millis(1),
        ..LogConfig::new([3; 16])
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let open = match driver {
        Driver::Threads => Log::open,
        Driver::Steps => Log::open_manual,
    };
    open(Path::new("/log"), config, disk, &|_| true).unwrap()
}

impl Harness {
    fn new(sync: SyncMode, driver: Driver) -> Self {
        let disk = MemoryDisk::default();
        let (log, threads, _) = open(&disk, sync, driver);
        Self {
            disk,
            sync,
            driver,
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
                levels,
                volatile,
            } => self.publish(queues, count, size, levels, volatile),
            Step::Settle { of } => self.settle(of),
            Step::Move { of, checkpoint } => {
                self.move_on(of);
                if checkpoint {
                    self.checkpoint(true);
                }
            }
            Step::Again { of } => self.again(of),
            Step::Churn { count } => self.churn(count),
            Step::Deliver => self.deliver(),
            Step::Count => self.count(),
            Step::Flush => {
                self.flush();
            }
            Step::Checkpoint => self.checkpoint(true),
            Step::HalfCheckpoint => self.checkpoint(false),
            Step::Purge { queue } => self.purge(queue.into()),
            Step::Read => self.read(),
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
            Step::Relocate { finish } => self.relocate(finish),
            Step::Stop(stop) => self.stop(stop),
        }
        // Settlements and the like do not hurry.
        for _ in 0..2 {
            self.log.turn();
        }
    }

    /// Whether everything is written and durable.
    fn flush(&self) -> bool {
        if self.faults {
            return false;
        }
        let flushed = self.log.flush();
        assert!(flushed || self.broken);
        flushed
    }

    fn set_faults(&mut self, faults: Faults) {
        self.faults = faults.room.is_some() || faults.sync_fails;
        self.filled |= faults.room.is_some();
        self.disk.set_faults(faults);
    }

    fn publish(&mut self, queues: u8, count: u8, size: u16, levels: u8, volatile: bool) {
        let first = (self.epoch << 40) + self.next;
        let messages: Vec<_> = (0..u64::from(count))
            .map(|number| {
                // The body names the message, so that a stale record cannot pass for it.
                let mut body = (first + number).to_le_bytes().to_vec();
                body.resize(8 + usize::from(size), size.to_le_bytes()[0]);
                message(&body)
            })
            .collect();
        let records: Vec<_> = messages.iter().map(|one| one.record().clone()).collect();
        let chunk = self.log.append_messages(records.concat().into());
        self.next += u64::from(count);
        for queue in 1..=u64::from(queues) {
            let mut at = chunk.at();
            let mut runs = Vec::new();
            let portion = if levels == 1 { messages.len() } else { 1 };
            for (number, part) in messages.chunks(portion).enumerate() {
                let number = (number * portion) as u64;
                let run = EnqueuedRun {
                    level: u8::try_from(number % u64::from(levels)).unwrap(),
                    volatile,
                    ..run_of(first + number, at, part)
                };
                at = LogPosition(at.0 + u64::from(run.octets));
                runs.push(run);
            }
            let enqueued = self.log.append_enqueued(QueueId(queue), &runs);
            let mut at = chunk.at();
            for (number, message) in messages.iter().enumerate() {
                let number = number as u64;
                let octets = u32::try_from(message.record_len()).unwrap();
                let entry = Entry {
                    level: u8::try_from(number % u64::from(levels)).unwrap(),
                    body: message.body().to_vec(),
                    at,
                    octets,
                    volatile,
                    enqueued,
                    settled: None,
                    moved_to: None,
                    redelivered_from: None,
                    count: (0, LogPosition::NONE),
                };
                self.model.insert((queue, first + number), entry);
                at = LogPosition(at.0 + u64::from(octets));
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
                    octets: entry.octets,
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

    /// The keys of every `of`-th live message that survives a restart.
    fn some(&mut self, of: u8) -> Vec<(u64, u64)> {
        let stored = self.live().filter(|(_, entry)| !entry.volatile);
        stored
            .skip(usize::from(of) - 1)
            .step_by(of.into())
            .map(|(key, _)| *key)
            .collect()
    }

    fn move_on(&mut self, of: u8) {
        for key in self.some(of).into_iter().filter(|(queue, _)| *queue < 3) {
            let entry = self.model[&key].clone();
            let new = message(&entry.body);
            let chunk = self.log.append_messages(new.record().clone());
            let target = (3, (self.epoch << 40) + self.next);
            self.next += 1;
            let run = run_of(target.1, chunk.at(), &[new]);
            let enqueued = self.log.append_enqueued(QueueId(target.0), &[run]);
            let settled = Settled {
                sequence: Sequence(key.1),
                at: entry.at,
                octets: entry.octets,
            };
            let end = self.log.append_moved_on(QueueId(key.0), &[settled]);
            let old = self.model.get_mut(&key).unwrap();
            (old.settled, old.moved_to) = (Some(end), Some(target));
            let entry = Entry {
                level: 0,
                at: chunk.at(),
                octets: run.octets,
                enqueued,
                settled: None,
                moved_to: None,
                redelivered_from: None,
                count: (0, LogPosition::NONE),
                ..entry
            };
            self.model.insert(target, entry);
        }
    }

    fn again(&mut self, of: u8) {
        for key in self.some(of) {
            let entry = self.model.get_mut(&key).unwrap();
            let again = Relocated {
                sequence: Sequence(key.1),
                message: message(&entry.body),
                at: entry.at,
                delivery_count: entry.count.0,
                may_be_delivered: entry.redelivered_from.is_some(),
            };
            entry.at = self
                .log
                .append_again(QueueId(key.0), entry.level, false, &again);
        }
    }

    fn churn(&mut self, count: u8) {
        for _ in 0..count {
            self.publish(1, 1, 800, 1, false);
            let ((queue, sequence), entry) =
                self.live().filter(|(key, _)| key.0 == 1).last().unwrap();
            let (queue, settled) = (
                *queue,
                Settled {
                    sequence: Sequence(*sequence),
                    at: entry.at,
                    octets: entry.octets,
                },
            );
            let end = self.log.append_settled(QueueId(queue), &[settled]);
            self.model
                .get_mut(&(queue, settled.sequence.0))
                .unwrap()
                .settled = Some(end);
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

    /// What lives of a queue, in as few ranges as their flags allow.
    fn state_of(&mut self, queue: u64) -> Vec<LiveRun> {
        let mut runs: Vec<LiveRun> = Vec::new();
        for level in 0..2 {
            for ((_, sequence), entry) in self.live().filter(|(key, _)| key.0 == queue) {
                if entry.level != level {
                    continue;
                }
                let (delivered, delivery_count) = (entry.redelivered_from.is_some(), entry.count.0);
                match runs.last_mut() {
                    Some(run)
                        if run.level == level
                            && run.to.0 == *sequence
                            && run.delivered == delivered
                            && run.delivery_count == delivery_count =>
                    {
                        run.to = Sequence(sequence + 1);
                    }
                    _ => runs.push(LiveRun {
                        level,
                        from: Sequence(*sequence),
                        to: Sequence(sequence + 1),
                        delivered,
                        delivery_count,
                    }),
                }
            }
        }
        runs
    }

    fn checkpoint(&mut self, complete: bool) {
        let checkpoint = self.log.begin_checkpoint();
        for queue in 1..=3 {
            let runs = self.state_of(queue);
            if !runs.is_empty() {
                self.log.append_state(QueueId(queue), &runs);
            }
        }
        if complete {
            self.log.checkpoint_done(checkpoint);
        }
    }

    fn purge(&mut self, queue: u64) {
        let log = self.log.clone();
        let end = log.append_state(QueueId(queue), &[]);
        let of_queue = self.live().filter(|(key, _)| key.0 == queue);
        for ((_, sequence), entry) in of_queue {
            let (from, to) = (Sequence(*sequence), Sequence(sequence + 1));
            log.dropped(QueueId(queue), entry.level, from, to);
            entry.settled = Some(end);
        }
    }

    fn relocate(&mut self, finish: bool) {
        let log = self.log.clone();
        let Some(mut relocation) = log.relocation_candidate() else {
            return;
        };
        for queue in relocation.queues() {
            let mut cursor = RelocationCursor::default();
            while let Some(batch) = log.relocation_batch(&relocation, queue, &mut cursor) {
                assert_eq!(batch.loaded.damaged, []);
                let mut alive = Vec::new();
                for one in batch.loaded.messages {
                    let entry = self.model.get(&(queue.0, one.sequence.0));
                    let Some(entry) =
                        entry.filter(|entry| entry.settled.is_none() && entry.at == one.at)
                    else {
                        continue;
                    };
                    assert_eq!(entry.volatile, batch.volatile);
                    assert_eq!(entry.level, batch.level);
                    assert_eq!(entry.body, one.message.body());
                    alive.push(Relocated {
                        sequence: one.sequence,
                        at: one.at,
                        message: one.message,
                        delivery_count: entry.count.0,
                        may_be_delivered: entry.redelivered_from.is_some(),
                    });
                }
                let places =
                    log.relocate(&mut relocation, queue, batch.level, batch.volatile, &alive);
                for (one, at) in alive.iter().zip(places) {
                    self.model.get_mut(&(queue.0, one.sequence.0)).unwrap().at = at;
                }
            }
        }
        if finish {
            log.relocated(relocation);
        }
    }

    /// Whatever lives can be read, once it is written.
    fn read(&mut self) {
        if !self.flush() {
            return;
        }
        let log = self.log.clone();
        for (queue, level) in [(1, 0), (1, 1), (2, 0), (3, 1)] {
            let mut found = BTreeMap::new();
            let mut from = Sequence(0);
            while from < Sequence(u64::MAX) {
                let loaded = log.load(&LoadRequest {
                    queue: QueueId(queue),
                    level,
                    from,
                    to: Sequence(u64::MAX),
                    octets_max: 3000,
                    messages_max: 7,
                });
                assert_eq!(loaded.damaged, []);
                assert!(loaded.next > from);
                from = loaded.next;
                found.extend(loaded.messages.into_iter().map(|one| (one.sequence.0, one)));
            }
            for ((_, sequence), entry) in self.live().filter(|(key, _)| key.0 == queue) {
                if entry.level == level {
                    let one = &found[sequence];
                    assert_eq!((one.message.body(), one.at), (&entry.body[..], entry.at));
                }
            }
        }
    }

    fn stop(&mut self, stop: Stop) {
        let mut durable = self.log.durable();
        let mut clean = false;
        let image = match stop {
            Stop::Close => {
                drop(self.threads.take());
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
                // Those who stop in order know that nobody has seen anything.
                for entry in self.model.values_mut() {
                    entry.redelivered_from = None;
                }
                self.checkpoint(true);
                clean = self.log.clean_stop();
                assert!(clean || self.faults || self.broken);
                drop(self.threads.take());
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
        drop(self.threads.take());
        self.disk = MemoryDisk::from_image(&image);
        (self.faults, self.broken) = (false, false);
        let (log, threads, back) = open(&self.disk, self.sync, self.driver);
        // A stop that gave up waiting may have been written all the same.
        clean |= matches!(stop, Stop::Clean) && back.report.clean;
        let mut found = BTreeMap::new();
        for queue in back.queues.keys() {
            let (messages, damaged) = read_back(&log, &back, *queue);
            assert_eq!(damaged, []);
            found.extend(
                messages
                    .into_iter()
                    .map(|one| ((queue.0, one.sequence), one)),
            );
        }
        assert_eq!(found.len() as u64, back.report.live);
        let modes_agree = self.sync == SyncMode::Fsync || !matches!(stop, Stop::Power(_));
        if modes_agree {
            self.check(&found, durable, clean);
        }
        assert_eq!(back.report.clean, clean);
        assert!(back.report.quarantined.is_empty(), "{:?}", back.report);
        self.adopt(found);
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
    fn check(&self, found: &BTreeMap<(u64, u64), Back>, durable: LogPosition, clean: bool) {
        let mut left = found.clone();
        for (key, entry) in &self.model {
            let gone = entry.volatile || entry.settled.is_some_and(|end| end <= durable);
            let there = entry.enqueued <= durable && entry.settled.is_none() && !gone;
            if let Some(target) = &entry.moved_to
                && entry.enqueued <= durable
                && self.model[target].settled.is_none()
            {
                let somewhere = found.contains_key(key) || found.contains_key(target);
                assert!(somewhere, "{key:?} is lost on its way to {target:?}");
            }
            let Some(one) = left.remove(key) else {
                assert!(!there, "{key:?} was durable and is gone");
                continue;
            };
            assert!(!gone, "{key:?} was settled and is back");
            assert_eq!(one.message.body(), entry.body, "{key:?}");
            assert_eq!(one.level, entry.level, "{key:?}");
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
        assert!(left.is_empty(), "invented: {:?}", left.keys());
    }

    /// The recovered state is the new truth.
    fn adopt(&mut self, found: BTreeMap<(u64, u64), Back>) {
        self.model.clear();
        for (key, one) in found {
            let entry = Entry {
                level: one.level,
                body: one.message.body().to_vec(),
                at: one.settled.at,
                octets: one.settled.octets,
                volatile: false,
                enqueued: LogPosition::NONE,
                settled: None,
                moved_to: None,
                redelivered_from: one.redelivered.then_some(LogPosition::NONE),
                count: (one.delivery_count, LogPosition::NONE),
            };
            self.model.insert(key, entry);
        }
    }
}

fn run(sync: SyncMode, driver: Driver, steps: &[Step]) {
    let mut harness = Harness::new(sync, driver);
    for step in steps {
        harness.apply(step);
    }
    harness.stop(Stop::Close);
}

/// The lazier modes promise nothing about the power.
fn without_power_cuts(steps: Vec<Step>) -> Vec<Step> {
    let keep = |step: &Step| !matches!(step, Step::Stop(Stop::Power(_)));
    steps.into_iter().filter(keep).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_work_and_any_crash(steps in prop::collection::vec(step(), 1..80)) {
        run(SyncMode::Fsync, Driver::Threads, &steps);
    }

    #[test]
    fn any_work_and_any_crash_step_by_step(steps in prop::collection::vec(step(), 1..120)) {
        run(SyncMode::Fsync, Driver::Steps, &steps);
    }

    #[test]
    fn the_lazier_modes_survive_the_process(steps in prop::collection::vec(step(), 1..40)) {
        let steps = without_power_cuts(steps);
        let interval = SyncMode::Interval { interval: Duration::from_millis(5), batch: 8 };
        for sync in [SyncMode::Os, interval] {
            run(sync, Driver::Threads, &steps);
            run(sync, Driver::Steps, &steps);
        }
    }
}
