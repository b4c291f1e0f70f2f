//! The log against a disk in memory: what comes back, what is cut, what is never pretended.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use mamba_store::{
    Disk, EnqueuedRun, LiveRun, Log, LogConfig, LogStatus, LogThreads, Recovered, Relocated,
    RelocationCursor, Settled, SyncMode,
};
use mamba_types::{LogPosition, QueueId, Sequence};
use support::{Back, Calls, Faults, Image, MemoryDisk, message, read_back, record, run_of};

const NODE: [u8; 16] = *b"the test's node!";
const Q: QueueId = QueueId(7);

fn config() -> LogConfig {
    LogConfig {
        retry: Duration::from_millis(1),
        file_size: 4096,
        ..LogConfig::new(NODE)
    }
}

fn open_with(disk: &MemoryDisk, config: LogConfig) -> (Log, LogThreads, Recovered) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open(Path::new("/log"), config, disk, &|queue| queue.0 < 100).unwrap()
}

fn open(disk: &MemoryDisk) -> (Log, LogThreads, Recovered) {
    open_with(disk, config())
}

/// Enqueues one message and returns what settles it and what to wait for.
fn enqueue(log: &Log, queue: QueueId, sequence: u64, body: &[u8]) -> (Settled, LogPosition) {
    enqueue_with(log, queue, sequence, body, EnqueuedRun::default())
}

/// Enqueues one message with the level and the flags of `like`.
fn enqueue_with(
    log: &Log,
    queue: QueueId,
    sequence: u64,
    body: &[u8],
    like: EnqueuedRun,
) -> (Settled, LogPosition) {
    let message = message(body);
    let chunk = log.append_messages(message.record().clone());
    let run = EnqueuedRun {
        level: like.level,
        may_be_delivered: like.may_be_delivered,
        delivery_count: like.delivery_count,
        volatile: like.volatile,
        ..run_of(sequence, chunk.at(), &[message])
    };
    let settled = Settled {
        sequence: Sequence(sequence),
        at: chunk.at(),
        octets: run.octets,
    };
    (settled, log.append_enqueued(queue, &[run]))
}

fn settle(log: &Log, queue: QueueId, settled: Settled) -> LogPosition {
    log.append_settled(queue, &[settled])
}

/// All of a queue; nothing of it may be damaged.
fn messages(log: &Log, recovered: &Recovered, queue: QueueId) -> Vec<Back> {
    let (back, damaged) = read_back(log, recovered, queue);
    assert_eq!(damaged, []);
    back
}

/// (sequence, body) of a queue.
fn bodies(log: &Log, recovered: &Recovered, queue: QueueId) -> Vec<(u64, Vec<u8>)> {
    messages(log, recovered, queue)
        .into_iter()
        .map(|one| (one.sequence, one.message.body().to_vec()))
        .collect()
}

#[test]
fn messages_come_back_and_settled_ones_do_not() {
    let disk = MemoryDisk::default();
    let (log, threads, first) = open(&disk);
    assert!(first.report.clean && first.queues.is_empty());
    let (one, _) = enqueue(&log, Q, 1, b"one");
    enqueue(&log, Q, 2, b"two");
    enqueue(&log, QueueId(8), 1, b"other");
    settle(&log, Q, one);
    assert!(log.flush());
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), [(2, b"two".to_vec())]);
    assert_eq!(bodies(&log, &back, QueueId(8)), [(1, b"other".to_vec())]);
    assert_eq!(back.report.live, 2);
    assert!(!back.report.clean);
    assert_eq!(back.report.torn_octets, 0);
    assert!(back.report.quarantined.is_empty());
}

#[test]
fn many_files_and_large_chunks_come_back() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let mut expected = Vec::new();
    for sequence in 1..=200 {
        let len = if sequence % 50 == 0 { 20_000 } else { 300 };
        let body = vec![u8::try_from(sequence).unwrap(); len];
        enqueue(&log, Q, sequence, &body);
        expected.push((sequence, body));
    }
    assert!(log.stats().files > 10);
    drop(threads);
    let (log, threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), expected);
    for one in messages(&log, &back, Q) {
        settle(&log, Q, one.settled);
    }
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert!(back.queues.is_empty());
}

#[test]
fn a_fan_out_shares_its_octets() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let both = [message(b"a"), message(b"b")];
    let chunk = log.append_messages(both.each_ref().map(|one| one.record().clone()).concat().into());
    for queue in 1..=3 {
        log.append_enqueued(QueueId(queue), &[run_of(5, chunk.at(), &both)]);
    }
    drop(chunk);
    drop(threads);
    let (log, _threads, back) = open(&disk);
    let second = |queue| messages(&log, &back, QueueId(queue))[1].settled.at;
    assert!(second(1) == second(2) && second(2) == second(3));
    assert_eq!(
        bodies(&log, &back, QueueId(2)),
        [(5, b"a".to_vec()), (6, b"b".to_vec())]
    );
}

#[test]
fn unknown_queues_are_dropped() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    enqueue(&log, QueueId(100), 1, b"x");
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert!(back.queues.is_empty());
    assert_eq!(back.report.unknown_queue, 1);
}

fn flags(log: &Log, recovered: &Recovered) -> Vec<(u64, bool, u32)> {
    messages(log, recovered, Q)
        .into_iter()
        .map(|one| (one.sequence, one.redelivered, one.delivery_count))
        .collect()
}

fn live(from: u64, to: u64, delivered: bool, delivery_count: u32) -> LiveRun {
    LiveRun {
        level: 0,
        from: Sequence(from),
        to: Sequence(to),
        delivered,
        delivery_count,
    }
}

/// Writes a checkpoint with these states.
fn checkpoint(log: &Log, states: &[(QueueId, &[LiveRun])]) {
    let checkpoint = log.begin_checkpoint();
    for (queue, runs) in states {
        log.append_state(*queue, runs);
    }
    log.checkpoint_done(checkpoint);
}

#[test]
fn after_a_crash_what_may_have_been_delivered_is_redelivered() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    for sequence in 1..=4 {
        enqueue(&log, Q, sequence, b"x");
    }
    log.append_delivered(Q, Sequence(2));
    log.append_delivery_count(Q, Sequence(2), 3);
    drop(threads);
    let (log, threads, back) = open(&disk);
    let expected = [(1, true, 0), (2, true, 3), (3, false, 0), (4, false, 0)];
    assert_eq!(flags(&log, &back), expected);

    // A clean stop knows better, and what it knows outlives the next crash.
    let exact = [live(1, 2, false, 0), live(2, 3, true, 3), live(3, 5, false, 0)];
    checkpoint(&log, &[(Q, &exact)]);
    assert!(log.clean_stop());
    drop(threads);
    let expected = [(1, false, 0), (2, true, 3), (3, false, 0), (4, false, 0)];
    for clean in [true, false] {
        let (log, _threads, back) = open(&disk);
        assert_eq!(back.report.clean, clean);
        assert_eq!(flags(&log, &back), expected);
    }
}

#[test]
fn a_state_is_exact_and_what_comes_after_it_adds() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    for sequence in 1..=6 {
        enqueue(&log, Q, sequence, b"x");
    }
    log.append_delivered(Q, Sequence(4));
    // 2 is gone without a word of its own.
    let state = [live(1, 2, false, 0), live(3, 5, true, 1), live(5, 7, false, 0)];
    log.append_state(Q, &state);
    let (seven, _) = enqueue(&log, Q, 7, b"x");
    enqueue(&log, Q, 9, b"x");
    settle(&log, Q, seven);
    drop(threads);
    let (log, threads, back) = open(&disk);
    let expected = [(1, false, 0), (3, true, 1), (4, true, 1), (5, false, 0), (6, false, 0), (9, false, 0)];
    assert_eq!(flags(&log, &back), expected);
    log.append_delivered(Q, Sequence(5));
    drop(threads);
    let (log, threads, back) = open(&disk);
    let expected = [(1, true, 0), (3, true, 1), (4, true, 1), (5, true, 0), (6, false, 0), (9, false, 0)];
    assert_eq!(flags(&log, &back), expected);
    // A purge.
    log.append_state(Q, &[]);
    enqueue(&log, Q, 10, b"x");
    drop(threads);
    let (log, _threads, back) = open(&disk);
    assert_eq!(flags(&log, &back), [(10, false, 0)]);
}

#[test]
fn volatile_messages_are_gone_after_a_restart() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let volatile = EnqueuedRun { volatile: true, ..EnqueuedRun::default() };
    for sequence in 1..=30 {
        let like = if sequence % 3 == 0 { volatile } else { EnqueuedRun::default() };
        enqueue_with(&log, Q, sequence, &[1; 500], like);
    }
    assert!(log.flush());
    let recovered = log.load(&mamba_store::LoadRequest {
        queue: Q,
        level: 0,
        from: Sequence(1),
        to: Sequence(31),
        octets_max: 1 << 20,
        messages_max: 100,
    });
    assert_eq!(recovered.messages.len(), 30);
    drop(threads);
    let (log, _threads, back) = open(&disk);
    let sequences: Vec<_> = messages(&log, &back, Q).iter().map(|one| one.sequence).collect();
    let expected: Vec<_> = (1..=30).filter(|sequence| sequence % 3 != 0).collect();
    assert_eq!(sequences, expected);
    assert_eq!(back.queues[&Q].runs.len(), 1, "what went elsewhere does not break a range");
}

#[test]
fn levels_are_kept_apart() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let mut high = Vec::new();
    for sequence in 1..=40 {
        let level = if sequence % 4 == 0 { 9 } else { 2 };
        let like = EnqueuedRun { level, ..EnqueuedRun::default() };
        let (settled, _) = enqueue_with(&log, Q, sequence, &[1; 200], like);
        if level == 9 {
            high.push(settled);
        }
    }
    log.append_settled(Q, &high[3..]);
    drop(threads);
    let (log, _threads, back) = open(&disk);
    let back = messages(&log, &back, Q);
    let of = |level| -> Vec<_> {
        let back = back.iter().filter(|one| one.level == level);
        back.map(|one| one.sequence).collect()
    };
    assert_eq!(of(9), [4, 8, 12]);
    assert_eq!(of(2), (1..=40).filter(|one| one % 4 != 0).collect::<Vec<_>>());
}

#[test]
fn wakers_are_called_once() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let (one, position) = enqueue(&log, Q, 1, b"x");
    let calls = Arc::new(Calls::default());
    log.wake_at(position, Arc::<Calls>::clone(&calls));
    assert!(log.flush());
    assert_eq!(calls.count(), 1);
    assert!(log.is_durable(position));
    log.wake_at(position, Arc::<Calls>::clone(&calls));
    assert_eq!(calls.count(), 2);
    // A settlement becomes durable too when somebody waits for it.
    let settled = settle(&log, Q, one);
    log.wake_at(settled, Arc::<Calls>::clone(&calls));
    assert!(log.flush());
    assert_eq!(calls.count(), 3);
    drop(threads);
    log.wake_at(LogPosition(u64::MAX), Arc::<Calls>::clone(&calls));
    assert_eq!(calls.count(), 4);
}

#[test]
fn short_writes_lose_nothing() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    disk.set_faults(Faults {
        short_writes: Some(7),
        ..Faults::default()
    });
    let mut expected = Vec::new();
    for sequence in 1..=50 {
        let body = vec![u8::try_from(sequence).unwrap(); 100 * usize::try_from(sequence).unwrap()];
        enqueue(&log, Q, sequence, &body);
        expected.push((sequence, body));
    }
    assert!(log.flush());
    drop(threads);
    disk.set_faults(Faults::default());
    let (_log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), expected);
}

#[test]
fn a_full_disk_confirms_nothing_and_recovers_by_itself() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    disk.set_faults(Faults {
        room: Some(100),
        ..Faults::default()
    });
    let (_, position) = enqueue(&log, Q, 1, &[1; 2000]);
    let calls = Arc::new(Calls::default());
    log.wake_at(position, Arc::<Calls>::clone(&calls));
    disk.wait_for_faults(3);
    assert!(matches!(log.status(), LogStatus::DiskFull { .. }));
    assert!(!log.is_durable(position) && calls.count() == 0);
    assert!(log.backlog_bytes() > 2000);
    disk.set_faults(Faults::default());
    assert!(log.flush());
    assert_eq!((log.status(), calls.count()), (LogStatus::Ok, 1));
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), [(1, vec![1; 2000])]);
}

#[test]
fn a_failed_sync_is_never_forgiven() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let (_, kept) = enqueue(&log, Q, 1, b"kept");
    assert!(log.flush());
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    let calls = Arc::new(Calls::default());
    let (_, lost) = enqueue(&log, Q, 2, b"lost");
    log.wake_at(lost, Arc::<Calls>::clone(&calls));
    assert!(!log.flush());
    assert_eq!(calls.count(), 1);
    disk.set_faults(Faults::default());
    let (_, later) = enqueue(&log, Q, 3, b"later");
    assert!(!log.flush() && log.failed());
    assert!(log.is_durable(kept) && !log.is_durable(lost) && !log.is_durable(later));
    assert!(matches!(log.status(), LogStatus::Failed { .. }));
    assert_eq!(log.backlog_bytes(), 0);
    drop(threads);
    let (_log, _threads, back) = open(&MemoryDisk::from_image(&disk.synced()));
    assert_eq!(bodies(&log, &back, Q), [(1, b"kept".to_vec())]);
}

#[test]
fn a_failed_write_fails_the_log() {
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open(&disk);
    disk.set_faults(Faults {
        write_fails: true,
        ..Faults::default()
    });
    enqueue(&log, Q, 1, b"x");
    assert!(!log.flush());
    assert!(matches!(log.status(), LogStatus::Failed { .. }));
}

#[test]
fn a_panicking_waker_fails_the_log_and_leaves_nobody_waiting() {
    struct Panics;
    impl mamba_store::DurableWaker for Panics {
        fn durable(&self) {
            panic!("injected");
        }
    }
    struct Tells(std::sync::mpsc::Sender<()>);
    impl mamba_store::DurableWaker for Tells {
        fn durable(&self) {
            self.0.send(()).unwrap();
        }
    }
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open(&disk);
    disk.set_faults(Faults {
        room: Some(0),
        ..Faults::default()
    });
    let (_, position) = enqueue(&log, Q, 1, b"x");
    log.wake_at(position, Arc::new(Panics));
    let (tell, told) = std::sync::mpsc::channel();
    log.wake_at(LogPosition(u64::MAX), Arc::new(Tells(tell)));
    disk.set_faults(Faults::default());
    told.recv().unwrap();
    assert!(log.failed());
}

#[test]
fn the_lazier_modes_come_back_after_a_process_crash() {
    let interval = SyncMode::Interval {
        interval: Duration::from_millis(20),
        batch: 10,
    };
    for sync in [interval, SyncMode::Os] {
        let disk = MemoryDisk::default();
        let (log, _threads, _) = open_with(&disk, LogConfig { sync, ..config() });
        let mut expected = Vec::new();
        for sequence in 1..=100 {
            enqueue(&log, Q, sequence, &[9; 200]);
            expected.push((sequence, vec![9; 200]));
        }
        assert!(log.flush());
        let crashed = MemoryDisk::from_image(&disk.written());
        let (_log, _threads, back) = open(&crashed);
        assert_eq!(bodies(&log, &back, Q), expected);
    }
}

/// Waits until the keeper has brought the log to at most `files` files. A few appends set it to work; more would only
/// pile up new files behind a live message while the keeper is not scheduled.
fn shrink_to(log: &Log, files: u64) {
    for round in 0..10_000 {
        if log.stats().files <= files {
            return;
        }
        if round < 4 {
            let (settled, _) = enqueue(log, Q, 1_000_000 + round, b"drive");
            settle(log, Q, settled);
            assert!(log.flush());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    panic!("the log never shrank: {:?}", log.stats());
}

#[test]
fn settled_files_are_had_back() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let mut places = Vec::new();
    for sequence in 1..=100 {
        places.push(enqueue(&log, Q, sequence, &[1; 500]).0);
    }
    assert!(log.flush() && log.stats().files > 10);
    for settled in &places[..99] {
        settle(&log, Q, *settled);
    }
    shrink_to(&log, 6);
    drop(threads);
    assert!(disk.written().len() < 12);
    let (_log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), [(100, vec![1; 500])]);
    assert_eq!(back.report.torn_octets, 0);
    assert!(back.report.quarantined.is_empty());
}

/// Flips a bit of the octet at a log position.
fn damage(image: &mut Image, at: LogPosition) {
    let base = |path: &Path| {
        let stem = path.file_stem()?.to_str()?;
        u64::from_str_radix(stem, 16).ok()
    };
    let (path, octets) = image
        .iter_mut()
        .rev()
        .find(|(path, _)| {
            path.extension().is_some_and(|end| end == "log")
                && base(path).is_some_and(|base| base <= at.0)
        })
        .unwrap();
    octets[usize::try_from(at.0 - base(path).unwrap()).unwrap()] ^= 1;
}

#[test]
fn a_hole_in_what_was_never_synced_is_no_damage_at_any_later_start() {
    let disk = MemoryDisk::default();
    let lazy = LogConfig {
        sync: SyncMode::Os,
        ..config()
    };
    let (log, _threads, _) = open_with(&disk, lazy);
    enqueue(&log, Q, 1, b"one");
    let (two, _) = enqueue(&log, Q, 2, b"two");
    enqueue(&log, Q, 3, b"three");
    assert!(log.flush());
    let mut image = disk.written();
    damage(&mut image, two.at);
    let disk = MemoryDisk::from_image(&image);
    for round in 1..=3 {
        let (log, threads, back) = open(&disk);
        let expected = [(1, b"one".to_vec()), (3, b"three".to_vec())];
        assert_eq!(bodies(&log, &back, Q), expected, "start {round}");
        assert!(back.report.quarantined.is_empty(), "start {round}");
        assert!(back.report.torn_octets > 0, "start {round}");
        let (settled, _) = enqueue(&log, QueueId(1), round, b"x");
        settle(&log, QueueId(1), settled);
        drop(threads);
    }
}

#[test]
fn a_hole_in_what_was_synced_is_reported_and_costs_only_itself() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let mut places = Vec::new();
    for sequence in 1..=50 {
        places.push(enqueue(&log, Q, sequence, &[7; 300]).0);
        assert!(log.flush());
    }
    drop(threads);
    let mut image = disk.written();
    damage(&mut image, places[20]);
    let (_log, _threads, back) = open(&MemoryDisk::from_image(&image));
    assert_eq!(back.report.live, 49);
    assert!(bodies(&log, &back, Q).iter().all(|(sequence, _)| *sequence != 21));
    assert_eq!(back.report.quarantined.len(), 1);
    assert!(back.report.quarantined[0].contains(&places[20]));
    assert_eq!(back.report.torn_octets, 0);
}

#[test]
fn a_missing_file_in_the_middle_is_reported() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    for sequence in 1..=50 {
        enqueue(&log, Q, sequence, &[7; 300]);
        assert!(log.flush());
    }
    drop(threads);
    let mut image = disk.written();
    let logs = |path: &&std::path::PathBuf| path.extension().is_some_and(|e| e == "log");
    let second = image.keys().filter(logs).nth(1).unwrap().clone();
    image.remove(&second);
    let (_log, _threads, back) = open(&MemoryDisk::from_image(&image));
    assert_eq!(back.report.quarantined.len(), 1);
    assert!((40..50).contains(&back.report.live), "{:?}", back.report);
}

#[test]
fn starts_do_not_pile_up_reserved_room() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    enqueue(&log, Q, 1, b"stays");
    drop(threads);
    for _ in 0..50 {
        let (_log, threads, back) = open(&disk);
        assert_eq!(back.report.live, 1);
        drop(threads);
    }
    let octets: usize = disk.written().values().map(Vec::len).sum();
    assert!(octets < 4 * 4096, "{octets}");
}

#[test]
fn a_watermark_that_ran_ahead_survives_its_file() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    log.append_delivered(Q, Sequence(1000));
    for sequence in 1..=100 {
        let (settled, _) = enqueue(&log, QueueId(1), sequence, &[1; 500]);
        settle(&log, QueueId(1), settled);
    }
    shrink_to(&log, 3);
    enqueue(&log, Q, 500, b"x");
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert_eq!(flags(&back), [(500, true, 0)]);
}

#[test]
fn a_chunk_that_is_not_enqueued_yet_keeps_its_file() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let chunk = log.append_messages(record(b"slow"));
    for sequence in 1..=100 {
        let (settled, _) = enqueue(&log, QueueId(1), sequence, &[1; 500]);
        settle(&log, QueueId(1), settled);
    }
    assert!(log.flush());
    let run = EnqueuedRun {
        first: Sequence(1),
        count: 1,
        at: chunk.at(),
        ..EnqueuedRun::default()
    };
    log.append_enqueued(Q, &[run]);
    drop(chunk);
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), [(1, b"slow".to_vec())]);
}

/// A small log whose every octet matters, the state after each entry, and where its entries end.
fn small_log() -> (Image, Vec<(u64, Vec<u64>)>) {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_with(
        &disk,
        LogConfig {
            file_size: 1 << 20,
            ..config()
        },
    );
    let mut states = vec![(0, vec![])];
    let mut live = Vec::new();
    let mut places = Vec::new();
    for sequence in 1..=6u8 {
        let (at, end) = enqueue(&log, Q, sequence.into(), &vec![sequence; sequence.into()]);
        live.push(u64::from(sequence));
        places.push(at);
        assert!(log.flush());
        states.push((end.0, live.clone()));
        if sequence % 2 == 0 {
            let gone = usize::from(sequence) / 2 - 1;
            let end = settle(&log, Q, gone as u64 + 1, places[gone]);
            live.retain(|one| *one != gone as u64 + 1);
            assert!(log.flush());
            states.push((end.0, live.clone()));
        }
    }
    drop(threads);
    let mut image = disk.written();
    image.retain(|path, octets| {
        let used = usize::try_from(states[states.len() - 1].0).unwrap();
        octets.truncate(used);
        path.extension().is_some_and(|extension| extension == "log")
    });
    assert_eq!(image.len(), 1);
    (image, states)
}

fn sequences(recovered: &Recovered) -> Vec<u64> {
    bodies(recovered, Q)
        .into_iter()
        .map(|(sequence, body)| {
            let octet = u8::try_from(sequence).unwrap();
            assert_eq!(body, vec![octet; octet.into()]);
            sequence
        })
        .collect()
}

#[test]
fn every_cut_leaves_exactly_what_was_durable_before_it() {
    let (image, states) = small_log();
    let (path, octets) = image.first_key_value().unwrap();
    for cut in 0..=octets.len() {
        let mut cut_image = Image::new();
        cut_image.insert(path.clone(), octets[..cut].to_vec());
        let disk = MemoryDisk::from_image(&cut_image);
        let (_, expected) = states
            .iter()
            .rev()
            .find(|(end, _)| *end <= cut as u64)
            .unwrap();
        let (log, threads, back) = open(&disk);
        assert_eq!(&sequences(&back), expected, "cut at {cut}");
        assert!(back.report.quarantined.is_empty(), "cut at {cut}");
        // The log goes on, and what it cut stays cut.
        enqueue(&log, QueueId(9), 1, b"after");
        drop(threads);
        let (_log, _threads, again) = open(&disk);
        assert_eq!(&sequences(&again), expected, "cut at {cut}");
        assert_eq!(bodies(&log, &again, QueueId(9)), [(1, b"after".to_vec())]);
        assert!(again.report.quarantined.is_empty(), "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_is_found_and_costs_only_its_entry() {
    let (image, states) = small_log();
    let (path, octets) = image.first_key_value().unwrap();
    let expected = &states[states.len() - 1].1;
    for bit in 0..octets.len() * 8 {
        let mut flipped = octets.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let disk = MemoryDisk::from_image(&Image::from([(path.clone(), flipped)]));
        let dir = Path::new("/log");
        let (_log, _threads, back) = match Log::open(dir, config(), Arc::new(disk), &|_| true) {
            Ok(opened) => opened,
            Err(error) => panic!("bit {bit}: {error}"),
        };
        let report = &back.report;
        // A lost SETTLED brings one message back; a lost message is one less. Nothing else changes.
        let found = !report.quarantined.is_empty() || report.torn_octets > 0;
        let sequences = sequences(&back);
        // Only bodies that nobody needs any more are not looked at.
        assert!(found || sequences == *expected, "bit {bit}: {report:?}");
        let missing = expected.iter().filter(|one| !sequences.contains(one));
        let more = sequences.iter().filter(|one| !expected.contains(one));
        assert!(missing.count() + more.count() <= 1, "bit {bit}");
    }
}

#[test]
fn stale_records_of_a_recycled_file_are_never_delivered() {
    // Records of one size lie in the same places in each life of a file. The second life's entry reached
    // the disk, its body did not: the old body is sound, and belongs to an acknowledged message.
    let body = |octet: u8| vec![octet; 2000];
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    enqueue(&log, Q, 1, &body(1));
    assert!(log.flush());
    let before = disk.written();
    drop(threads);
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    enqueue(&log, Q, 1, &body(2));
    assert!(log.flush());
    let mut torn = disk.written();
    drop(threads);
    for (path, octets) in &mut torn {
        let Some(old) = before.get(path) else {
            continue;
        };
        let at = octets.iter().position(|octet| *octet == 2).unwrap_or(0);
        let end = at.max(300) + 1500;
        // Put the old record in the new one's place, checksum and all.
        if let Some(record) = octets.windows(4).position(|four| four == [2; 4]) {
            let start = record.saturating_sub(49);
            octets[start..end].copy_from_slice(&old[start..end]);
            let rest = end..octets.len().min(old.len());
            octets[rest.clone()].copy_from_slice(&old[rest]);
        }
    }
    let (_log, _threads, back) = open(&MemoryDisk::from_image(&torn));
    for (_, found) in bodies(&log, &back, Q) {
        assert_ne!(found, body(1).clone());
    }
}

#[test]
fn another_folders_log_and_another_version_are_refused() {
    let (image, _) = small_log();
    let open = |image: &Image, node| {
        let disk = Arc::new(MemoryDisk::from_image(image));
        Log::open(Path::new("/log"), LogConfig::new(node), disk, &|_| true).map(drop)
    };
    let error = open(&image, [1; 16]).unwrap_err();
    assert!(error.to_string().contains("another node"), "{error}");
    let mut newer = image;
    for octets in newer.values_mut() {
        octets[8] = 2;
        let crc = crc32c::crc32c(&octets[8..56]);
        octets[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let error = open(&newer, NODE).unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn messages_beyond_one_write_come_back() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_with(&disk, LogConfig::new(NODE));
    let chunk: Bytes = (0..2000u32)
        .flat_map(|number| record(&number.to_le_bytes()).to_vec())
        .collect();
    for batch in 0..600u64 {
        let part = chunk.clone();
        let appended = log.append_messages(part);
        let run = EnqueuedRun {
            first: Sequence(1 + batch * 2000),
            count: 2000,
            at: appended.at(),
            ..EnqueuedRun::default()
        };
        log.append_enqueued(Q, &[run]);
        let settled: Vec<_> = (0..1999)
            .map(|number| Settled {
                sequence: Sequence(1 + batch * 2000 + number),
                at: appended.at(),
            })
            .collect();
        log.append_settled(Q, &settled);
    }
    drop(threads);
    let (_log, _threads, back) = open_with(&disk, LogConfig::new(NODE));
    assert_eq!(back.report.live, 600);
    for (index, (sequence, body)) in bodies(&log, &back, Q).into_iter().enumerate() {
        assert_eq!(sequence, 2000 * (index as u64 + 1));
        assert_eq!(body, 1999u32.to_le_bytes());
    }
}
