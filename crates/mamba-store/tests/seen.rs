//! Ids in the log: with their messages or not at all, for as long as somebody remembers them.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use mamba_store::{Appended, Disk, Log, LogConfig, LogThreads, Recovered, Seen, SeenId, Settled};
use mamba_types::{LogPosition, QueueId, Sequence};
use support::{Faults, MemoryDisk, message, read_back, run_of};

const Q: QueueId = QueueId(7);
const OTHER: QueueId = QueueId(8);
const EXCHANGE: QueueId = QueueId(9);
const UNKNOWN: QueueId = QueueId(1000);

fn open(disk: &MemoryDisk) -> (Log, LogThreads, Recovered) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = LogConfig {
        retry: Duration::from_millis(1),
        file_size: 4096,
        ..LogConfig::new(*b"the test's node!")
    };
    Log::open(Path::new("/log"), config, disk, &|queue| queue.0 < 100).unwrap()
}

fn id(number: u64) -> SeenId {
    let mut hash = [0xAB; 16];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    SeenId {
        hash,
        expires_at_ms: (number % 2 == 1).then_some(1_000 + number),
    }
}

fn seen(owner: QueueId, number: u64, at: LogPosition) -> Seen {
    Seen {
        owner,
        id: id(number),
        at,
    }
}

/// One message for `queue` with the id of its sequence, seen by `owner`.
fn take_once(log: &Log, queue: QueueId, sequence: u64, owner: QueueId) -> Settled {
    let message = message(format!("message {sequence} of a queue").as_bytes());
    let chunk = log.append_messages(message.record().clone());
    let settled = Settled {
        sequence: Sequence(sequence),
        at: chunk.at(),
        octets: u32::try_from(message.record_len()).unwrap(),
    };
    let run = run_of(sequence, chunk.at(), &[message]);
    let end = log.append_seen(queue, &[run], &[seen(owner, sequence, chunk.at())]);
    assert!(end > chunk.at());
    settled
}

/// One message for two queues; `owner` has seen its id once both have it.
fn take_for_both(log: &Log, sequence: u64, owner: QueueId) {
    let message = message(format!("message {sequence} of two").as_bytes());
    let chunk: Appended = log.append_messages(message.record().clone());
    for queue in [Q, OTHER] {
        let run = run_of(sequence, chunk.at(), std::slice::from_ref(&message));
        log.append_enqueued(queue, &[run]);
    }
    log.append_seen(owner, &[], &[seen(owner, sequence, LogPosition::NONE)]);
}

fn sequences(log: &Log, recovered: &Recovered, queue: QueueId) -> BTreeSet<u64> {
    let (back, damaged) = read_back(log, recovered, queue);
    assert_eq!(damaged, []);
    back.into_iter().map(|one| one.sequence).collect()
}

fn ids(recovered: &Recovered, owner: QueueId) -> Vec<SeenId> {
    recovered.seen.get(&owner).cloned().unwrap_or_default()
}

/// The ids of these numbers.
fn of(numbers: impl IntoIterator<Item = u64>) -> Vec<SeenId> {
    numbers.into_iter().map(id).collect()
}

#[test]
fn ids_come_back_in_order_and_the_unknown_ones_not() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    for sequence in 1..=100 {
        take_once(
            &log,
            Q,
            sequence,
            if sequence % 3 == 0 { EXCHANGE } else { Q },
        );
    }
    log.append_seen(UNKNOWN, &[], &[seen(UNKNOWN, 1, LogPosition::NONE)]);
    assert!(log.flush());
    assert!(log.stats().files > 3);
    drop(threads);
    for _ in 0..3 {
        let (log, _threads, back) = open(&disk);
        assert_eq!(sequences(&log, &back, Q).len(), 100);
        assert_eq!(
            ids(&back, Q),
            of((1..=100).filter(|number| number % 3 != 0))
        );
        assert_eq!(
            ids(&back, EXCHANGE),
            of((1..=100).filter(|number| number % 3 == 0))
        );
        assert_eq!(ids(&back, UNKNOWN), []);
        assert!(back.report.quarantined.is_empty());
    }
}

#[test]
fn a_state_takes_the_place_of_what_came_before() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    take_once(&log, Q, 1, Q);
    take_once(&log, Q, 2, EXCHANGE);
    log.append_seen_state(Q, of([11, 12]).into_iter());
    take_once(&log, Q, 3, Q);
    assert!(log.flush());
    drop(threads);
    let (log, threads, back) = open(&disk);
    assert_eq!(ids(&back, Q), of([11, 12, 3]));
    assert_eq!(ids(&back, EXCHANGE), of([2]));
    // Whoever says nothing in a checkpoint remembers nothing.
    let checkpoint = log.begin_checkpoint();
    log.append_seen_state(Q, of([3]).into_iter());
    log.checkpoint_done(checkpoint);
    assert!(log.clean_stop());
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert_eq!(ids(&back, Q), of([3]));
    assert_eq!(ids(&back, EXCHANGE), []);
}

#[test]
fn a_file_with_ids_stays_until_a_checkpoint_has_them() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    let first = take_once(&log, Q, 1, Q);
    log.append_settled(Q, &[first]);
    // Files of messages that are gone are given back, but not the first one.
    for sequence in 2..200 {
        let message = message(&[7; 300]);
        let chunk = log.append_messages(message.record().clone());
        let run = run_of(sequence, chunk.at(), &[message]);
        log.append_enqueued(OTHER, &[run]);
        let settled = Settled {
            sequence: Sequence(sequence),
            at: chunk.at(),
            octets: run.octets,
        };
        log.append_settled(OTHER, &[settled]);
    }
    assert!(log.flush());
    drop(threads);
    let (log, threads, back) = open(&disk);
    assert_eq!(ids(&back, Q), of([1]));
    assert_eq!(back.report.live, 0);
    let checkpoint = log.begin_checkpoint();
    log.append_seen_state(Q, of([1]).into_iter());
    let end = log.checkpoint_done(checkpoint);
    assert!(log.wait_durable(end));
    // The next file lets the log look again.
    let mut last = 0;
    for sequence in 300..2_000 {
        let settled = take_once(&log, OTHER, sequence, OTHER);
        log.append_settled(OTHER, &[settled]);
        assert!(log.flush());
        last = sequence;
        if log
            .files()
            .first()
            .is_some_and(|file| file.base.0 > first.at.0)
        {
            break;
        }
    }
    assert!(last < 1_999, "the first file never goes");
    drop(threads);
    let (_log, _threads, back) = open(&disk);
    assert_eq!(ids(&back, Q), of([1]));
    assert_eq!(ids(&back, OTHER), of(300..=last));
}

/// A checkpoint that writes more than the files after which one is due is no reason for the next one.
#[test]
fn a_large_checkpoint_does_not_ask_for_another() {
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open(&disk);
    for _ in 0..2 {
        let checkpoint = log.begin_checkpoint();
        for owner in 1..20 {
            log.append_seen_state(QueueId(owner), of(0..200).into_iter());
        }
        let end = log.checkpoint_done(checkpoint);
        assert!(log.wait_durable(end));
        assert!(log.flush());
        assert!(log.checkpoint_due().is_none());
    }
}

#[test]
fn after_a_power_cut_there_are_message_and_id_or_neither() {
    let mut numbers = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        numbers
    };
    let (mut torn, mut kept) = (0, 0);
    for _ in 0..200 {
        let disk = MemoryDisk::default();
        let (log, threads, _) = open(&disk);
        for sequence in 1..=10 {
            take_once(
                &log,
                Q,
                sequence,
                if sequence % 2 == 0 { EXCHANGE } else { Q },
            );
        }
        assert!(log.flush());
        disk.set_faults(Faults {
            sync_fails: true,
            ..Faults::default()
        });
        // All of this in one write of which no one knows what arrives.
        let count = 1 + random() % 30;
        for sequence in 11..11 + count {
            take_once(
                &log,
                Q,
                sequence,
                if sequence % 2 == 0 { EXCHANGE } else { Q },
            );
        }
        assert!(!log.flush());
        drop(threads);
        let chance = random() % 100;
        let image = disk.torn(|| random() % 100 < chance);
        let disk = MemoryDisk::from_image(&image);
        let (log, _threads, back) = open(&disk);
        let there = sequences(&log, &back, Q);
        let seen: BTreeSet<_> = ids(&back, Q)
            .into_iter()
            .chain(ids(&back, EXCHANGE))
            .collect();
        assert_eq!(seen, of(there.iter().copied()).into_iter().collect());
        assert!((1..=10).all(|sequence| there.contains(&sequence)));
        assert!(back.report.quarantined.is_empty());
        torn += u64::from((there.len() as u64) < 10 + count);
        kept += u64::from(there.len() > 10);
    }
    assert!(torn > 20 && kept > 20, "{torn} torn, {kept} kept");
}

#[test]
fn an_id_of_many_queues_is_not_remembered_without_all_of_them() {
    let mut numbers = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move || {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        numbers
    };
    let mut counted = 0;
    for _ in 0..200 {
        let disk = MemoryDisk::default();
        let (log, threads, _) = open(&disk);
        take_for_both(&log, 1, EXCHANGE);
        assert!(log.flush());
        disk.set_faults(Faults {
            sync_fails: true,
            ..Faults::default()
        });
        for sequence in 2..2 + random() % 20 {
            take_for_both(&log, sequence, EXCHANGE);
        }
        let _ = log.flush();
        drop(threads);
        let chance = random() % 100;
        let image = disk.torn(|| random() % 100 < chance);
        let disk = MemoryDisk::from_image(&image);
        let (log, _threads, back) = open(&disk);
        let (one, other) = (sequences(&log, &back, Q), sequences(&log, &back, OTHER));
        for number in 1..25 {
            if ids(&back, EXCHANGE).contains(&id(number)) {
                assert!(one.contains(&number) && other.contains(&number), "{number}");
                counted += 1;
            }
        }
        assert!(ids(&back, EXCHANGE).contains(&id(1)));
    }
    assert!(counted > 300, "{counted}");
}
