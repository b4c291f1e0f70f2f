//! Committing on the thread of the only one who waits, against a disk in memory.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{
    path::Path,
    sync::Arc,
    thread::{self, ThreadId},
    time::Duration,
};

use mamba_store::{Disk, DurableWaker, Log, LogConfig, LogStatus, LogThreads, Recovered};
use mamba_types::{LogPosition, QueueId};
use parking_lot::Mutex;
use support::{Faults, MemoryDisk, message, read_back, run_of};

const Q: QueueId = QueueId(7);
const ME: u64 = 1;
const ANOTHER: u64 = 2;

fn open(disk: &MemoryDisk) -> (Log, LogThreads, Recovered) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = LogConfig {
        retry: Duration::from_millis(1),
        ..LogConfig::new(*b"the test's node!")
    };
    Log::open(Path::new("/log"), config, disk, &|_| true).unwrap()
}

fn enqueue(log: &Log, sequence: u64) -> LogPosition {
    let message = message(&sequence.to_le_bytes());
    let chunk = log.append_messages(message.record().clone());
    log.append_enqueued(Q, &[run_of(sequence, chunk.at(), &[message])])
}

/// Has `who` wait until he counts as the only one.
fn stay_alone(log: &Log, who: u64) {
    for _ in 0..20 {
        log.waits(who);
    }
}

/// Remembers on which thread it was called.
#[derive(Default)]
struct Where(Mutex<Option<ThreadId>>);

impl DurableWaker for Where {
    fn durable(&self) {
        *self.0.lock() = Some(thread::current().id());
    }
}

#[test]
fn the_only_one_who_waits_commits_on_its_own_thread() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    stay_alone(&log, ME);
    let mut here = 0;
    for sequence in 1..=200 {
        let commit = log.commit_here(ME).unwrap();
        let position = enqueue(&log, sequence);
        let place = Arc::new(Where::default());
        log.wake_at(position, Arc::<Where>::clone(&place));
        commit.commit();
        drop(commit);
        assert!(log.wait_durable(position));
        here += u32::from(*place.0.lock() == Some(thread::current().id()));
    }
    // The writer's thread may have been awake now and then.
    assert!(here > 0);
    drop(threads);
    let image = disk.synced();
    let (log, _threads, back) = open(&MemoryDisk::from_image(&image));
    assert_eq!(read_back(&log, &back, Q).0.len(), 200);
}

#[test]
fn who_does_not_commit_wakes_the_writer() {
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open(&disk);
    stay_alone(&log, ME);
    for sequence in 1..=50 {
        let commit = log.commit_here(ME).unwrap();
        let position = enqueue(&log, sequence);
        drop(commit);
        assert!(log.wait_durable(position));
    }
}

#[test]
fn among_several_nobody_is_alone() {
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open(&disk);
    assert!(log.commit_here(ME).is_none());
    log.waits(ME);
    assert!(log.commit_here(ME).is_none());
    stay_alone(&log, ME);
    assert!(log.commit_here(ANOTHER).is_none());
    assert!(log.commit_here(ME).is_some());
    log.waits(ANOTHER);
    assert!(log.commit_here(ME).is_none());
    for _ in 0..100 {
        log.waits(ME);
        log.waits(ANOTHER);
        assert!(log.commit_here(ME).is_none() && log.commit_here(ANOTHER).is_none());
    }
}

/// What others append meanwhile wakes the writer as always, also for what the one alone has appended.
#[test]
fn others_do_not_wait_for_it() {
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open(&disk);
    stay_alone(&log, ME);
    let commit = log.commit_here(ME).unwrap();
    let own = enqueue(&log, 1);
    let another = thread::scope(|scope| scope.spawn(|| enqueue(&log, 2)).join().unwrap());
    assert!(log.wait_durable(another) && log.is_durable(own));
    commit.commit();
}

#[test]
fn a_full_disk_is_left_to_the_writer() {
    let disk = MemoryDisk::default();
    let (log, threads, _) = open(&disk);
    stay_alone(&log, ME);
    disk.set_faults(Faults {
        room: Some(0),
        ..Faults::default()
    });
    let commit = log.commit_here(ME).unwrap();
    let position = enqueue(&log, 1);
    commit.commit();
    drop(commit);
    disk.wait_for_faults(3);
    assert!(matches!(log.status(), LogStatus::DiskFull { .. }));
    let commit = log.commit_here(ME).unwrap();
    let later = enqueue(&log, 2);
    commit.commit();
    drop(commit);
    assert!(!log.is_durable(position) && !log.is_durable(later));
    disk.set_faults(Faults::default());
    assert!(log.wait_durable(later) || log.flush());
    assert!(log.is_durable(position) && log.is_durable(later));
    drop(threads);
    let (log, _threads, back) = open(&disk);
    assert_eq!(read_back(&log, &back, Q).0.len(), 2);
}

#[test]
fn a_failed_sync_fails_the_log() {
    let disk = MemoryDisk::default();
    let (log, _threads, _) = open(&disk);
    stay_alone(&log, ME);
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    let commit = log.commit_here(ME).unwrap();
    let position = enqueue(&log, 1);
    commit.commit();
    drop(commit);
    assert!(!log.wait_durable(position) && log.failed());
    let commit = log.commit_here(ME).unwrap();
    assert!(!log.wait_durable(enqueue(&log, 2)));
    commit.commit();
}
