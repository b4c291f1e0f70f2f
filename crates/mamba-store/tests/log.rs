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
    Relocation, RelocationCursor, Settled, SyncMode,
};
use mamba_types::{LogPosition, QueueId, Sequence};
use support::{Back, Calls, Faults, Image, MemoryDisk, message, read_back, run_of};

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
    let (log, _threads, back) = open(&disk);
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
    let chunk = log.append_messages(
        both.each_ref()
            .map(|one| one.record().clone())
            .concat()
            .into(),
    );
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
    let exact = [
        live(1, 2, false, 0),
        live(2, 3, true, 3),
        live(3, 5, false, 0),
    ];
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
    let state = [
        live(1, 2, false, 0),
        live(3, 5, true, 1),
        live(5, 7, false, 0),
    ];
    log.append_state(Q, &state);
    let (seven, _) = enqueue(&log, Q, 7, b"x");
    enqueue(&log, Q, 9, b"x");
    settle(&log, Q, seven);
    drop(threads);
    let (log, threads, back) = open(&disk);
    let expected = [
        (1, false, 0),
        (3, true, 1),
        (4, true, 1),
        (5, false, 0),
        (6, false, 0),
        (9, false, 0),
    ];
    assert_eq!(flags(&log, &back), expected);
    log.append_delivered(Q, Sequence(5));
    drop(threads);
    let (log, threads, back) = open(&disk);
    let expected = [
        (1, true, 0),
        (3, true, 1),
        (4, true, 1),
        (5, true, 0),
        (6, false, 0),
        (9, false, 0),
    ];
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
    let volatile = EnqueuedRun {
        volatile: true,
        ..EnqueuedRun::default()
    };
    for sequence in 1..=30 {
        let like = if sequence % 3 == 0 {
            volatile
        } else {
            EnqueuedRun::default()
        };
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
    let sequences: Vec<_> = messages(&log, &back, Q)
        .iter()
        .map(|one| one.sequence)
        .collect();
    let expected: Vec<_> = (1..=30).filter(|sequence| sequence % 3 != 0).collect();
    assert_eq!(sequences, expected);
    assert_eq!(
        back.queues[&Q].runs.len(),
        1,
        "what went elsewhere does not break a range"
    );
}

#[test]
fn levels_are_kept_apart() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let mut high = Vec::new();
    for sequence in 1..=40 {
        let level = if sequence % 4 == 0 { 9 } else { 2 };
        let like = EnqueuedRun {
            level,
            ..EnqueuedRun::default()
        };
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
    assert_eq!(
        of(2),
        (1..=40).filter(|one| one % 4 != 0).collect::<Vec<_>>()
    );
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
    let (log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), expected);
}

#[test]
fn small_groups_seldom_go_where_nothing_was_written() {
    let disk = MemoryDisk::default();
    let config = LogConfig {
        file_size: 1 << 20,
        ..config()
    };
    let (log, threads, _) = open_with(&disk, config.clone());
    let before = disk.first_writes();
    for sequence in 1..=300 {
        let (_, position) = enqueue(&log, Q, sequence, &[7; 500]);
        assert!(log.wait_durable(position));
    }
    // 64 KiB hold some hundred of them.
    assert!(disk.first_writes() - before < 10);
    drop(threads);
    let (log, _threads, recovered) = open_with(&MemoryDisk::from_image(&disk.synced()), config);
    assert_eq!(bodies(&log, &recovered, Q).len(), 300);
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
    let (log, _threads, back) = open(&disk);
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
    let (log, _threads, back) = open(&MemoryDisk::from_image(&disk.synced()));
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
        let (log, _threads, back) = open(&crashed);
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
    let (log, _threads, back) = open(&disk);
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
fn damage_in_a_record_costs_only_itself_and_is_told_when_it_is_read() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let mut places = Vec::new();
    for sequence in 1..=50 {
        places.push(enqueue(&log, Q, sequence, &[7; 300]).0);
        assert!(log.flush());
    }
    drop(threads);
    let mut image = disk.written();
    damage(&mut image, LogPosition(places[20].at.0 + 100));
    let (log, _threads, back) = open(&MemoryDisk::from_image(&image));
    assert_eq!(back.report.live, 50);
    let (messages, damaged) = read_back(&log, &back, Q);
    assert_eq!(messages.len(), 49);
    assert!(messages.iter().all(|one| one.sequence != 21));
    assert_eq!(damaged.len(), 1);
    assert_eq!(
        (damaged[0].first, damaged[0].count, damaged[0].at),
        (Sequence(21), 1, places[20].at)
    );
    assert!(!damaged[0].unreadable);
    assert_eq!(back.report.torn_octets, 0);
}

#[test]
fn a_lost_entry_of_what_was_synced_is_reported() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let mut ends = Vec::new();
    for sequence in 1..=50 {
        ends.push(enqueue(&log, Q, sequence, &[7; 300]).1);
        assert!(log.flush());
    }
    drop(threads);
    let mut image = disk.written();
    let at = LogPosition(ends[20].0 - 10);
    damage(&mut image, at);
    let (log, _threads, back) = open(&MemoryDisk::from_image(&image));
    assert_eq!(back.report.live, 49);
    assert!(
        bodies(&log, &back, Q)
            .iter()
            .all(|(sequence, _)| *sequence != 21)
    );
    assert_eq!(back.report.quarantined.len(), 1);
    assert!(back.report.quarantined[0].contains(&at));
    assert_eq!(back.report.torn_octets, 0);
}

/// The log files of an image, oldest first.
fn log_files(image: &Image) -> Vec<std::path::PathBuf> {
    let logs = |path: &&std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".log")
    };
    image.keys().filter(logs).cloned().collect()
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
    let second = log_files(&image)[1].clone();
    image.remove(&second);
    let (log, _threads, back) = open(&MemoryDisk::from_image(&image));
    assert_eq!(back.report.quarantined.len(), 1);
    assert!((40..50).contains(&back.report.live), "{:?}", back.report);
    messages(&log, &back, Q);
}

/// A log without threads.
fn open_manual(disk: &MemoryDisk) -> (Log, LogThreads, Recovered) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open_manual(Path::new("/log"), config(), disk, &|queue| queue.0 < 100).unwrap()
}

/// Lets the log do all there is to do.
fn drive(log: &Log) {
    for _ in 0..1000 {
        if !log.turn() {
            return;
        }
    }
    panic!("the log never rests");
}

/// Many files: of `Q` every fifth message lives, everything else is settled, and a checkpoint says so.
fn old_log(disk: &MemoryDisk) -> Vec<(u64, Vec<u8>)> {
    let (log, threads, _) = open_manual(disk);
    let mut expected = Vec::new();
    for sequence in 1..=100 {
        let body = vec![u8::try_from(sequence).unwrap(); 400];
        let (settled, _) = enqueue(&log, Q, sequence, &body);
        let other = enqueue(&log, QueueId(1), sequence, &body).0;
        settle(&log, QueueId(1), other);
        if sequence % 5 == 0 || sequence < 10 {
            expected.push((sequence, body));
        } else {
            settle(&log, Q, settled);
        }
        assert!(log.flush());
        drive(&log);
    }
    let states: Vec<_> = expected
        .iter()
        .map(|(one, _)| live(*one, one + 1, false, 0))
        .collect();
    checkpoint(&log, &[(Q, &states)]);
    assert!(log.flush());
    drive(&log);
    assert!(log.stats().sealed_files > 3, "{:?}", log.stats());
    drop(threads);
    expected
}

#[test]
fn indexes_spare_reading_what_is_older_than_the_checkpoint() {
    let disk = MemoryDisk::default();
    let expected = old_log(&disk);
    let image = disk.written();
    let (log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), expected);
    assert!(
        back.report.files > 10 && back.report.files_scanned < 5,
        "{:?}",
        back.report
    );
    assert_eq!(back.report.live, expected.len() as u64);

    // Without them all files are read, and the outcome is the same.
    let mut bare = image.clone();
    bare.retain(|path, _| path.extension().is_none_or(|end| end != "idx"));
    let (log, _threads, slow) = open(&MemoryDisk::from_image(&bare));
    assert_eq!(bodies(&log, &slow, Q), expected);
    assert_eq!(slow.report.files, slow.report.files_scanned);
    assert_eq!(slow.queues, back.queues);
    assert!(slow.report.quarantined.is_empty());

    // One without a log file goes, as does a half-written one.
    let mut stale = image;
    let gone = stale
        .keys()
        .find(|path| path.extension().is_some_and(|end| end == "idx"))
        .unwrap();
    let octets = stale[gone].clone();
    for name in ["/log/0000000000000001.idx", "/log/0000000000000001.idx.new"] {
        stale.insert(name.into(), octets.clone());
    }
    let disk = MemoryDisk::from_image(&stale);
    let (log, _threads, back) = open(&disk);
    assert_eq!(bodies(&log, &back, Q), expected);
    let left = disk.written();
    assert!(
        !left
            .keys()
            .any(|path| path.to_str().unwrap().contains("/log/0000000000000001."))
    );
}

#[test]
fn a_damaged_index_costs_nothing() {
    let disk = MemoryDisk::default();
    let expected = old_log(&disk);
    let image = disk.written();
    let is_index = |path: &Path| path.extension().is_some_and(|end| end == "idx");
    let indexes: Vec<_> = image
        .keys()
        .filter(|path| is_index(path))
        .cloned()
        .collect();
    for path in &indexes[..3] {
        for at in (0..image[path].len()).step_by(3) {
            let mut bent = image.clone();
            bent.get_mut(path).unwrap()[at] ^= 4;
            let (log, _threads, back) = open(&MemoryDisk::from_image(&bent));
            assert_eq!(
                bodies(&log, &back, Q),
                expected,
                "octet {at} of {}",
                path.display()
            );
        }
        for len in (0..image[path].len()).step_by(64) {
            let mut cut = image.clone();
            cut.get_mut(path).unwrap().truncate(len);
            let (log, _threads, back) = open(&MemoryDisk::from_image(&cut));
            assert_eq!(
                bodies(&log, &back, Q),
                expected,
                "{} cut to {len}",
                path.display()
            );
        }
    }
}

#[test]
fn a_cut_file_before_the_checkpoint_is_reported_without_its_index() {
    let disk = MemoryDisk::default();
    let expected = old_log(&disk);
    let mut image = disk.written();
    let third = log_files(&image)[2].clone();
    image.remove(&third.with_extension("idx")).unwrap();
    for len in (500..3500).step_by(100) {
        let mut cut = image.clone();
        cut.get_mut(&third).unwrap().truncate(len);
        let (log, _threads, back) = open(&MemoryDisk::from_image(&cut));
        assert_eq!(back.report.quarantined.len(), 1, "cut to {len}");
        let left = bodies(&log, &back, Q);
        assert!(left.iter().all(|one| expected.contains(one)));
    }
}

#[test]
fn files_given_back_before_a_checkpoint_are_not_missed() {
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open_manual(&disk);
    let (first, _) = enqueue(&log, Q, 1, b"stays");
    let churn = |sequences: std::ops::Range<u64>| {
        for sequence in sequences {
            let (settled, _) = enqueue(&log, Q, sequence, &[1; 500]);
            settle(&log, Q, settled);
        }
        assert!(log.flush());
        drive(&log);
    };
    churn(2..100);
    let many = log.stats().files;
    checkpoint(&log, &[(Q, &[live(1, 2, true, 4)])]);
    assert!(log.flush());
    drive(&log);
    assert!(log.stats().files < many / 2, "{:?}", log.stats());
    let image = disk.written();
    // In the checkpoint's own file, and later.
    churn(100..130);
    for image in [image, disk.written()] {
        let (log, _threads, back) = open(&MemoryDisk::from_image(&image));
        assert_eq!(flags(&log, &back), [(1, true, 4)]);
        assert!(back.report.quarantined.is_empty());
        assert_eq!(messages(&log, &back, Q)[0].settled, first);
    }
}

#[test]
fn a_settlement_in_a_file_given_back_is_not_forgotten() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_manual(&disk);
    // The message dies in a later file than its own, which stays for another one.
    enqueue(&log, Q, 1, b"stays");
    let (dies, _) = enqueue(&log, QueueId(1), 1, b"dies");
    let churn = |from: u64| {
        for sequence in from..from + 30 {
            let (settled, _) = enqueue(&log, QueueId(2), sequence, &[1; 500]);
            settle(&log, QueueId(2), settled);
        }
        assert!(log.flush());
        drive(&log);
    };
    checkpoint(
        &log,
        &[
            (Q, &[live(1, 2, false, 0)]),
            (QueueId(1), &[live(1, 2, false, 0)]),
        ],
    );
    churn(1);
    settle(&log, QueueId(1), dies);
    churn(100);
    checkpoint(&log, &[(Q, &[live(1, 2, false, 0)])]);
    assert!(log.flush());
    drive(&log);
    drop(threads);
    let (log, _threads, back) = open(&disk);
    assert_eq!(back.queues.keys().collect::<Vec<_>>(), [&Q]);
    assert_eq!(bodies(&log, &back, Q), [(1, b"stays".to_vec())]);
    assert!(back.report.quarantined.is_empty());
}

#[test]
fn a_clean_stop_is_read_back_from_the_end_alone() {
    let disk = MemoryDisk::default();
    let expected = old_log(&disk);
    let (log, threads, back) = open_manual(&disk);
    assert!(!back.report.clean);
    let states: Vec<_> = expected
        .iter()
        .map(|(one, _)| live(*one, one + 1, *one < 20, 1))
        .collect();
    checkpoint(&log, &[(Q, &states)]);
    assert!(log.clean_stop());
    drop(threads);
    let (log, _threads, back) = open(&disk);
    assert!(back.report.clean);
    assert!(back.report.files_scanned <= 3, "{:?}", back.report);
    assert_eq!(bodies(&log, &back, Q), expected);
    assert!(
        flags(&log, &back)
            .iter()
            .all(|(one, delivered, count)| *delivered == (*one < 20) && *count == 1)
    );
    assert_eq!((back.report.torn_octets, back.report.dangling), (0, 0));
}

#[test]
fn a_clean_stop_leaves_no_reserved_room_to_read() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    enqueue(&log, Q, 1, b"one");
    assert!(log.clean_stop());
    drop(threads);
    let image = disk.written();
    let newest = log_files(&image).pop().unwrap();
    assert!(image[&newest].len() < 1000, "{}", image[&newest].len());
    let (log, _threads, back) = open(&disk);
    assert!(back.report.clean);
    assert_eq!(bodies(&log, &back, Q), [(1, b"one".to_vec())]);
}

#[test]
fn a_file_the_disk_refuses_to_read_is_kept_and_costs_only_itself() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    for sequence in 1..=50 {
        enqueue(&log, Q, sequence, &[7; 300]);
    }
    assert!(log.flush());
    drop(threads);
    let image = disk.written();
    let files = log_files(&image);
    for number in [0, 2, files.len() - 1] {
        let disk = MemoryDisk::from_image(&image);
        disk.set_readable(&files[number], false);
        let (log, threads, back) = open_manual(&disk);
        let lost = 50 - back.report.live;
        assert!((1..10).contains(&lost), "{number}: {:?}", back.report);
        assert!(!back.report.quarantined.is_empty());
        for one in messages(&log, &back, Q) {
            settle(&log, Q, one.settled);
        }
        for sequence in 100..120 {
            let (settled, _) = enqueue(&log, Q, sequence, &[1; 500]);
            settle(&log, Q, settled);
        }
        checkpoint(&log, &[]);
        assert!(log.flush());
        drive(&log);
        drop(threads);
        assert!(disk.written()[&files[number]].starts_with(&image[&files[number]][..3000]));
        // Nobody remembers its messages after the checkpoint; before that they would be back.
        disk.set_readable(&files[number], true);
        let (_log, _threads, again) = open(&disk);
        assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
    }
}

/// Copies what lives of the file to empty into the newest one, as the queues would; every message of `Q` lives that `lives` says.
fn relocate(log: &Log, lives: impl Fn(u64) -> bool) -> Option<Relocation> {
    let mut relocation = log.relocation_candidate()?;
    for queue in relocation.queues() {
        let mut cursor = RelocationCursor::default();
        while let Some(batch) = log.relocation_batch(&relocation, queue, &mut cursor) {
            assert_eq!(batch.loaded.damaged, []);
            let of_queue = batch.loaded.messages.into_iter().filter(|_| queue == Q);
            let alive: Vec<_> = of_queue
                .filter(|one| lives(one.sequence.0))
                .map(|one| Relocated {
                    sequence: one.sequence,
                    message: one.message,
                    at: one.at,
                    delivery_count: 2,
                    may_be_delivered: true,
                })
                .collect();
            let places = log.relocate(&mut relocation, queue, batch.level, batch.volatile, &alive);
            assert_eq!(places.len(), alive.len());
        }
    }
    Some(relocation)
}

/// A log with files that are worth emptying: of `Q` the sequences live that `lives` says.
fn sparse_log(disk: &MemoryDisk, lives: impl Fn(u64) -> bool) -> (Log, LogThreads) {
    let (log, threads, _) = open_manual(disk);
    let mut states = Vec::new();
    for sequence in 1..=200 {
        let (settled, _) = enqueue(&log, Q, sequence, &[1; 400]);
        if lives(sequence) {
            states.push(live(sequence, sequence + 1, false, 0));
        } else {
            settle(&log, Q, settled);
        }
    }
    checkpoint(&log, &[(Q, &states)]);
    for sequence in 1..=20 {
        let (settled, _) = enqueue(&log, QueueId(1), sequence, &[1; 400]);
        settle(&log, QueueId(1), settled);
    }
    assert!(log.flush());
    drive(&log);
    (log, threads)
}

#[test]
fn a_pinned_file_is_had_back_by_relocation() {
    let lives = |sequence| sequence % 10 == 1;
    let disk = MemoryDisk::default();
    let (log, threads) = sparse_log(&disk, lives);
    let files = log.stats().files;
    let mut rounds = 0;
    while let Some(relocation) = relocate(&log, lives) {
        log.relocated(relocation);
        assert!(log.flush());
        drive(&log);
        rounds += 1;
        assert!(rounds < 100, "{:?} of {files}", log.stats());
    }
    let stats = log.stats();
    let bound = 2 * stats.live_bytes + 8 * 4096;
    assert!(
        rounds > 3 && stats.log_bytes <= bound,
        "{stats:?} of {files}"
    );
    drop(threads);
    let (log, _threads, back) = open(&disk);
    let back = messages(&log, &back, Q);
    let sequences: Vec<_> = back.iter().map(|one| one.sequence).collect();
    assert_eq!(
        sequences,
        (1..=200).filter(|one| lives(*one)).collect::<Vec<_>>()
    );
    assert!(
        back.iter()
            .any(|one| one.redelivered && one.delivery_count == 2)
    );
    assert!(
        back.iter()
            .any(|one| !one.redelivered && one.delivery_count == 0)
    );
}

/// Opens the image and checks that exactly the sequences are there that `lives` says; returns them.
fn check_sparse(image: &Image, lives: impl Fn(u64) -> bool) -> Vec<Back> {
    let (log, _threads, back) = open(&MemoryDisk::from_image(image));
    assert!(back.report.quarantined.is_empty(), "{:?}", back.report);
    let back = messages(&log, &back, Q);
    let sequences: Vec<_> = back.iter().map(|one| one.sequence).collect();
    assert_eq!(
        sequences,
        (1..=200).filter(|one| lives(*one)).collect::<Vec<_>>()
    );
    back
}

#[test]
fn copies_count_when_their_file_is_moved_or_gone_and_not_before() {
    let lives = |sequence| sequence % 10 == 1;
    let disk = MemoryDisk::default();
    let (log, threads) = sparse_log(&disk, lives);
    let originals: Vec<_> = check_sparse(&disk.written(), lives)
        .iter()
        .map(|one| one.settled)
        .collect();
    let copied = |back: &[Back]| {
        let settled = back.iter().zip(&originals);
        settled
            .filter(|(one, original)| one.settled.at != original.at)
            .count()
    };
    let relocation = relocate(&log, lives).unwrap();
    assert!(log.flush());
    let unmoved = disk.written();
    assert_eq!(copied(&check_sparse(&unmoved, lives)), 0);

    let hold = log.hold();
    log.relocated(relocation);
    assert!(log.flush());
    // Something must say that the entry before it is synced.
    enqueue(&log, QueueId(1), 1000, b"x");
    assert!(log.flush());
    drive(&log);
    let moved = disk.written();
    assert_eq!(log_files(&unmoved), log_files(&moved));
    let count = copied(&check_sparse(&moved, lives));
    assert!(count > 0);

    drop(hold);
    drive(&log);
    let gone = disk.written();
    assert!(log_files(&gone).len() < log_files(&moved).len());
    assert_eq!(copied(&check_sparse(&gone, lives)), count);
    drop(threads);
}

#[test]
fn a_relocation_that_was_cut_short_does_not_count_twice() {
    let lives = |sequence| sequence % 10 == 1;
    let disk = MemoryDisk::default();
    let (log, threads) = sparse_log(&disk, lives);
    let relocation = relocate(&log, lives).unwrap();
    let image = disk.written();
    let in_file: Vec<_> = check_sparse(&image, lives)
        .into_iter()
        .filter(|one| relocation.contains(one.settled.at))
        .collect();
    assert!(!in_file.is_empty());
    drop(relocation);
    // The process dies, and the file is emptied anew.
    drop(threads);
    let disk = MemoryDisk::from_image(&disk.written());
    let (log, _threads, back) = open_manual(&disk);
    messages(&log, &back, Q);
    let relocation = relocate(&log, lives).unwrap();
    assert!(relocation.contains(in_file[0].settled.at));
    log.relocated(relocation);
    assert!(log.flush());
    enqueue(&log, QueueId(1), 1000, b"x");
    assert!(log.flush());
    check_sparse(&disk.written(), lives);
    drive(&log);
    check_sparse(&disk.written(), lives);
}

#[test]
fn a_message_appended_again_is_there_once() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_manual(&disk);
    let (one, _) = enqueue(&log, Q, 1, b"again");
    let (two, _) = enqueue(&log, Q, 2, b"gone");
    // A checkpoint took both for gone; one came back.
    checkpoint(&log, &[]);
    for sequence in 1..=30 {
        let (settled, _) = enqueue(&log, QueueId(1), sequence, &[1; 500]);
        settle(&log, QueueId(1), settled);
    }
    assert!(log.flush());
    let again = Relocated {
        sequence: Sequence(1),
        message: message(b"again"),
        at: one.at,
        delivery_count: 1,
        may_be_delivered: true,
    };
    let at = log.append_again(Q, 0, false, &again);
    settle(&log, Q, two);
    assert!(log.flush() && at != one.at);
    let (back_log, _threads, back) = open(&MemoryDisk::from_image(&disk.written()));
    assert_eq!(flags(&back_log, &back), [(1, true, 1)]);
    // When the file with its first place is gone, too.
    drive(&log);
    drop(threads);
    let (log, _threads, back) = open(&disk);
    assert_eq!(flags(&log, &back), [(1, true, 1)]);
    assert_eq!(messages(&log, &back, Q)[0].settled.at, at);
}

/// A message came back twice: its first copy's file was given back before the original's. Recovery found the original and the second
/// copy, whose origin was gone, and counted the message twice.
#[test]
fn a_copy_of_a_copy_counts_once() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_manual(&disk);
    let fill = |from: u64| {
        for sequence in from..from + 12 {
            let (settled, _) = enqueue(&log, QueueId(1), sequence, &[1; 500]);
            settle(&log, QueueId(1), settled);
        }
    };
    let again = |at| {
        let again = Relocated {
            sequence: Sequence(1),
            message: message(b"again"),
            at,
            delivery_count: 0,
            may_be_delivered: true,
        };
        log.append_again(Q, 0, false, &again)
    };
    let (one, _) = enqueue(&log, Q, 1, b"again");
    enqueue(&log, Q, 2, b"keeps the original's file");
    fill(1);
    let first = again(one.at);
    fill(21);
    again(first);
    fill(41);
    checkpoint(&log, &[(Q, &[live(1, 3, true, 0)])]);
    drive(&log);
    let files: Vec<_> = log.files().iter().map(|file| file.base).collect();
    let holds = |at: LogPosition| {
        let next = files.partition_point(|base| *base <= at);
        files[next - 1].0 + 4096 > at.0
    };
    assert!(holds(one.at) && !holds(first), "{files:?}");
    drop(threads);
    let (log, _threads, back) = open(&disk);
    assert_eq!(back.report.live, 2);
    assert_eq!(flags(&log, &back), [(1, true, 0), (2, true, 0)]);
}

/// A message went to another queue, and the power cut lost its new record, but not the state of the old queue that followed it. The
/// state was believed, and the checkpoint it was part of: the message was in neither.
#[test]
fn a_state_behind_a_torn_write_takes_nothing_away() {
    for sync in [SyncMode::Fsync, SyncMode::Os] {
        let disk = MemoryDisk::default();
        let memory: Arc<dyn Disk> = Arc::new(disk.clone());
        let config = LogConfig { sync, ..config() };
        let known = |queue: QueueId| queue.0 < 100;
        let (log, threads, _) =
            Log::open_manual(Path::new("/log"), config.clone(), memory, &known).unwrap();
        let (one, _) = enqueue(&log, Q, 1, b"moves");
        // Synced, as it was when it was confirmed.
        checkpoint(&log, &[(Q, &[live(1, 2, false, 0)])]);
        drive(&log);
        enqueue(&log, QueueId(8), 1, &[1; 1500]);
        log.append_moved_on(Q, &[one]);
        let other = [live(1, 2, false, 0)];
        disk.set_faults(Faults {
            sync_fails: true,
            ..Faults::default()
        });
        checkpoint(&log, &[(Q, &[]), (QueueId(8), &other)]);
        drive(&log);
        // Of what was not synced, one sector in the middle of the new record does not arrive.
        let mut sectors = 0;
        let image = disk.torn(|| {
            sectors += 1;
            sectors != 2
        });
        assert!(sectors > 3, "{sectors}");
        drop(threads);
        let disk = MemoryDisk::from_image(&image);
        let (log, _threads, back) = open_with(&disk, config);
        assert!(back.report.torn_octets > 0, "{:?}", back.report);
        assert_eq!(bodies(&log, &back, Q), [(1, b"moves".to_vec())]);
        assert_eq!(bodies(&log, &back, QueueId(8)), []);
    }
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
    let (log, _threads, back) = open(&disk);
    assert_eq!(flags(&log, &back), [(500, true, 0)]);
}

#[test]
fn a_watermark_of_an_empty_queue_survives_a_checkpoint() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_manual(&disk);
    log.append_delivered(Q, Sequence(1000));
    for round in 1..=4 {
        enqueue(&log, QueueId(2), round, b"stays");
        for sequence in 1..=20 {
            let (settled, _) = enqueue(&log, QueueId(1), round * 100 + sequence, &[1; 500]);
            settle(&log, QueueId(1), settled);
        }
        let state = [live(1, round + 1, false, 0)];
        checkpoint(&log, &[(QueueId(2), &state)]);
        assert!(log.flush());
        drive(&log);
    }
    enqueue(&log, Q, 500, b"x");
    drop(threads);
    let (log, _threads, back) = open(&disk);
    assert!(back.report.files_scanned < back.report.files);
    assert_eq!(flags(&log, &back), [(500, true, 0)]);
}

#[test]
fn what_went_to_other_levels_does_not_leave_pieces() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_manual(&disk);
    let mut high = Vec::new();
    for sequence in 1..=60 {
        let level = u8::from(sequence % 2 == 0);
        let like = EnqueuedRun {
            level,
            ..EnqueuedRun::default()
        };
        let (settled, _) = enqueue_with(&log, Q, sequence, &[1; 300], like);
        if level == 1 {
            high.push(settled);
        }
    }
    for settled in &high[5..] {
        settle(&log, Q, *settled);
    }
    assert!(log.flush());
    drop(threads);
    let (log, _threads, back) = open(&disk);
    let runs: Vec<_> = back.queues[&Q]
        .runs
        .iter()
        .map(|run| (run.level, run.count))
        .collect();
    assert_eq!(runs, [(0, 30), (1, 5)]);
    messages(&log, &back, Q);
}

#[test]
fn a_chunk_that_is_not_enqueued_yet_keeps_its_file() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let slow = [message(b"slow")];
    let chunk = log.append_messages(slow[0].record().clone());
    for sequence in 1..=100 {
        let (settled, _) = enqueue(&log, QueueId(1), sequence, &[1; 500]);
        settle(&log, QueueId(1), settled);
    }
    assert!(log.flush());
    log.append_enqueued(Q, &[run_of(1, chunk.at(), &slow)]);
    drop(chunk);
    drop(threads);
    let (log, _threads, back) = open(&disk);
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
        let (settled, end) = enqueue(&log, Q, sequence.into(), &vec![sequence; sequence.into()]);
        live.push(u64::from(sequence));
        places.push(settled);
        assert!(log.flush());
        states.push((end.0, live.clone()));
        if sequence % 2 == 0 {
            let gone = usize::from(sequence) / 2 - 1;
            let end = settle(&log, Q, places[gone]);
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

/// The sequences that come back whole, and whether reading them met damage.
fn sequences(log: &Log, recovered: &Recovered) -> (Vec<u64>, bool) {
    let (back, damaged) = read_back(log, recovered, Q);
    let sequences = back.into_iter().map(|one| {
        let octet = u8::try_from(one.sequence).unwrap();
        assert_eq!(one.message.body(), vec![octet; octet.into()]);
        one.sequence
    });
    (sequences.collect(), !damaged.is_empty())
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
        let found = sequences(&log, &back);
        assert_eq!((&found.0, found.1), (expected, false), "cut at {cut}");
        assert!(back.report.quarantined.is_empty(), "cut at {cut}");
        // The log goes on, and what it cut stays cut.
        enqueue(&log, QueueId(9), 1, b"after");
        drop(threads);
        let (log, _threads, again) = open(&disk);
        let found = sequences(&log, &again);
        assert_eq!((&found.0, found.1), (expected, false), "cut at {cut}");
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
        let (log, _threads, back) = match Log::open(dir, config(), Arc::new(disk), &|_| true) {
            Ok(opened) => opened,
            Err(error) => panic!("bit {bit}: {error}"),
        };
        let report = &back.report;
        // A lost SETTLED brings one message back; a lost message is one less. Nothing else changes, except that behind
        // what may be an unfinished write nothing is settled.
        let (sequences, damaged) = sequences(&log, &back);
        let found = !report.quarantined.is_empty() || report.torn_octets > 0 || damaged;
        // Only bodies that nobody needs any more are not looked at.
        assert!(found || sequences == *expected, "bit {bit}: {report:?}");
        let missing = expected.iter().filter(|one| !sequences.contains(one));
        let more = sequences.iter().filter(|one| !expected.contains(one));
        let (missing, more) = (missing.count(), more.count());
        assert!(missing <= 1, "bit {bit}");
        assert!(missing + more <= 1 || report.torn_octets > 0, "bit {bit}");
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
    let (log, _threads, back) = open(&MemoryDisk::from_image(&torn));
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
        octets[8] = 3;
        let crc = crc32c::crc32c(&octets[8..56]);
        octets[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let error = open(&newer, NODE).unwrap_err();
    assert!(error.to_string().contains("format 3"), "{error}");
}

#[test]
fn messages_beyond_one_write_come_back() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open_with(&disk, LogConfig::new(NODE));
    let records: Vec<_> = (0..2000u32)
        .map(|number| message(&number.to_le_bytes()))
        .collect();
    let octets: Vec<_> = records
        .iter()
        .flat_map(|one| one.record().to_vec())
        .collect();
    let chunk = Bytes::from(octets);
    for batch in 0..600u64 {
        let first = 1 + batch * 2000;
        let appended = log.append_messages(chunk.clone());
        log.append_enqueued(Q, &[run_of(first, appended.at(), &records)]);
        let octets = u32::try_from(records[0].record_len()).unwrap();
        let settled: Vec<_> = (0..1999)
            .map(|number| Settled {
                sequence: Sequence(first + number),
                at: LogPosition(appended.at().0 + number * u64::from(octets)),
                octets,
            })
            .collect();
        log.append_settled(Q, &settled);
    }
    drop(threads);
    let (log, _threads, back) = open_with(&disk, LogConfig::new(NODE));
    assert_eq!(back.report.live, 600);
    for (index, (sequence, body)) in bodies(&log, &back, Q).into_iter().enumerate() {
        assert_eq!(sequence, 2000 * (index as u64 + 1));
        assert_eq!(body, 1999u32.to_le_bytes());
    }
}
