//! The message log: staging, group commit, faults, reclaiming space.

pub(crate) mod files;
mod here;
pub(crate) mod index;
mod live;
mod load;
mod relocate;
pub(crate) mod scan;
mod staging;
mod writer;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use mamba_types::{LogPosition, QueueId, Sequence};
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::{
    files::{FileInfo, Hold},
    index::Covered,
    staging::{Staging, Urgency},
    writer::{Shared, Writer},
};
pub use self::{
    here::CommitHere,
    load::{Damage, LoadRequest, Loaded, LoadedMessage},
    relocate::{Relocated, Relocation, RelocationBatch, RelocationCursor},
};
use crate::{
    disk::Disk,
    error::OpenError,
    format::{EnqueuedItem, FILE_ENTRY_LEN, Kind, SeenItem, SequenceItem, StateItem, file_name},
    recovery::Recovered,
};

/// Staged octets above which the broker should stop reading from publishers ([`Log::backlog_bytes`]).
pub const BACKLOG_BYTES_MAX: u64 = 16 << 20;
/// Files the log may have beyond twice its live octets before it asks for relocation.
const SLACK_FILES: u64 = 8;
/// Files after which a checkpoint is due.
const CHECKPOINT_FILES: usize = 4;
/// Staged octets nobody waits for that are written without delay all the same.
const SOON_BYTES: u64 = 1 << 20;
/// How often a wait for a sync looks whether it has come.
const SYNC_POLL: Duration = Duration::from_millis(1);

/// When an appended state counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// After `fdatasync`: survives power loss.
    Fsync,
    /// After `write`: survives the process, not the machine. Synced in the background, so that a power cut loses at most
    /// `interval` of time or `batch` messages.
    Interval {
        /// Longest time between two syncs while there is something to sync.
        interval: Duration,
        /// Enqueued messages after which a sync happens earlier.
        batch: u64,
    },
    /// After `write`: survives the process, not the machine; the system writes when it likes.
    Os,
}

/// Messages of one level of a queue with consecutive sequences whose records lie back to back in one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnqueuedRun {
    /// Sequence of the first message.
    pub first: Sequence,
    /// Messages; at least 1.
    pub count: u32,
    /// Where the first one's record lies in the log: the chunk's position plus the record's offset in it.
    pub at: LogPosition,
    /// Octets of the records.
    pub octets: u32,
    /// Octets of the bodies in them.
    pub body_octets: u32,
    /// The level of the queue they wait in: reading back goes level by level. 0 in a queue without priorities.
    pub level: u8,
    /// They may have been delivered already.
    pub may_be_delivered: bool,
    /// Delivery count of each; 0 for new messages.
    pub delivery_count: u32,
    /// They are in the log for want of memory only and are gone after a restart.
    pub volatile: bool,
}

/// An id that a queue or an exchange remembers, so that a message with the same one is not taken twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenId {
    /// What stands for the id; how it is made is the caller's affair, but it has to stay the same over restarts.
    pub hash: [u8; 16],
    /// When it is forgotten, in milliseconds since 1970, from 1 up; `None`: when there is no room for it.
    pub expires_at_ms: Option<u64>,
}

/// An id, and who has seen it with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The queue or exchange that remembers it.
    pub owner: QueueId,
    /// The id.
    pub id: SeenId,
    /// The record of the message it came with, if the runs appended along with it are all there is of that message. Otherwise
    /// [`LogPosition::NONE`]: then the id does not count after a power cut that lost anything before it.
    pub at: LogPosition,
}

/// A message that left its queue for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its place in the queue.
    pub sequence: Sequence,
    /// Where its record lies; [`LogPosition::NONE`] if it never was in the log: then nothing is written.
    pub at: LogPosition,
    /// Octets of its record.
    pub octets: u32,
}

/// A part of a queue's live state: of one level, everything that the log holds in a range of sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRun {
    /// The level.
    pub level: u8,
    /// First sequence.
    pub from: Sequence,
    /// First sequence that is not in the range any more.
    pub to: Sequence,
    /// They may have been delivered already.
    pub delivered: bool,
    /// How often each came back.
    pub delivery_count: u32,
}

/// A checkpoint under way: between [`Log::checkpoint_due`] and [`Log::checkpoint_done`] the state of every queue that is not empty
/// is written.
#[derive(Debug)]
pub struct Checkpoint {
    from: u64,
}

/// While it lives, no log file is removed, reused or cut.
#[derive(Debug)]
pub struct LogHold {
    shared: Arc<Shared>,
}

impl Drop for LogHold {
    fn drop(&mut self) {
        self.shared.staging.lock().holds -= 1;
        self.shared.wake_keeper();
    }
}

/// A log file as it stands on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Position of its first octet.
    pub base: LogPosition,
    /// Where it is.
    pub path: std::path::PathBuf,
    /// Octets that have been written to it; what may stand behind them is of no account.
    pub len: u64,
}

/// A chunk in the log. The log keeps the chunk's file while this lives, so that the records can be enqueued:
/// drop it after the last [`Log::append_enqueued`] that names them.
#[derive(Debug)]
pub struct Appended {
    at: LogPosition,
    _hold: Arc<Hold>,
}

impl Appended {
    /// Position of the first record's first octet; the record at offset `n` of the chunk lies `n` further.
    #[must_use]
    pub const fn at(&self) -> LogPosition {
        self.at
    }
}

/// Told once when a position became durable or never will.
pub trait DurableWaker: Send + Sync {
    /// Ask [`Log::durable`] and [`Log::status`] which. Must not block.
    fn durable(&self);
}

/// How the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogStatus {
    /// Well.
    Ok,
    /// No space; nothing becomes durable until there is, staged data is kept and tried again every second.
    DiskFull {
        /// What the system said, and where.
        reason: Arc<str>,
    },
    /// Nothing will ever become durable again in this process: restart after the disk was looked at.
    Failed {
        /// What the system said, and where.
        reason: Arc<str>,
    },
}

/// Told each new status of the log.
pub type StatusListener = Arc<dyn Fn(&LogStatus) + Send + Sync>;

/// Told that something happens in the log; see the methods of [`Log`] that take one.
pub type Listener = Arc<dyn Fn() + Send + Sync>;

/// Bounds of the classes of [`LogStats::sync_times`], in microseconds.
pub const SYNC_BOUNDS_MICROS: [u64; 13] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000,
];

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// `fdatasync` calls that succeeded.
    pub syncs: u64,
    /// Time spent in them.
    pub sync_time: Duration,
    /// Octets written.
    pub bytes_written: u64,
    /// Entries written.
    pub entries: u64,
    /// Groups written, each with one `write` and, by mode, one sync.
    pub groups: u64,
    /// Groups by entries: index `i` counts those with `2^i ..` entries; the last one all above.
    pub group_entries: [u64; 16],
    /// Syncs by what they took: index `i` counts those of at most `SYNC_BOUNDS_MICROS[i]` that the one before does not count; the
    /// last one all above.
    pub sync_times: [u64; SYNC_BOUNDS_MICROS.len() + 1],
    /// Log files on disk, spares not counted.
    pub files: u64,
    /// Octets in them.
    pub log_bytes: u64,
    /// Estimate of the octets in them that are live.
    pub live_bytes: u64,
    /// Log files whose index lies beside them.
    pub sealed_files: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Files emptied by copying what lived in them.
    pub relocations: u64,
}

/// How to keep a log.
#[derive(Clone)]
pub struct LogConfig {
    /// When an appended state counts as durable.
    pub sync: SyncMode,
    /// Octets per file; a larger entry gets a larger file. At least 4096.
    pub file_size: u64,
    /// Pause between two tries when the disk is full.
    pub retry: Duration,
    /// The folder's identity: a log written for another one is refused.
    pub node_id: [u8; 16],
    /// Called on the writer's thread whenever [`Log::status`] changes.
    pub on_status: Option<StatusListener>,
}

impl LogConfig {
    /// `fsync`, 64 MiB files, a try each second.
    #[must_use]
    pub fn new(node_id: [u8; 16]) -> Self {
        Self {
            sync: SyncMode::Fsync,
            file_size: 64 << 20,
            retry: Duration::from_secs(1),
            node_id,
            on_status: None,
        }
    }

    /// What marks this folder's entries: an entry cannot be forged without knowing it.
    pub(crate) fn log_id(&self) -> u32 {
        crc32c::crc32c(&self.node_id)
    }
}

/// Handle to the message log; clones share it.
///
/// The `append_*` functions do no I/O: they put the entry into a staging area (log order is the order of the
/// calls) and wake the writer if it sleeps. They may be called under a queue's lock. After a failure they
/// keep nothing and the positions they return never become durable.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    pen: Arc<Pen>,
    /// No threads: [`Log::turn`] drives it.
    driven: bool,
}

/// The log's threads; dropping it writes and syncs what is staged and ends them.
#[derive(Debug)]
pub struct LogThreads {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    /// Of a log without threads.
    driven: Option<Arc<Pen>>,
}

/// Whoever holds the lock writes: the writer's thread whenever it is awake, else a thread that commits on its own.
struct Pen(Mutex<Writer>);

impl fmt::Debug for Pen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pen")
    }
}

impl Drop for LogThreads {
    fn drop(&mut self) {
        self.shared.staging.lock().stop = true;
        self.shared.wake_writer.notify_one();
        if let Some(pen) = self.driven.take() {
            let mut writer = pen.0.lock();
            while writer.turn() != writer::Turn::Ended {}
        }
        if let Some(thread) = self.writer.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
        writer::stop_keeper(&self.shared);
        if let Some(thread) = self.keeper.take() {
            let _ = thread.join();
        }
    }
}

impl Log {
    /// Reads the log in `dir` (created if absent) back and goes on in a fresh file. Messages of queues that `known`
    /// denies are dropped.
    ///
    /// # Errors
    /// [`OpenError`] says what to do; damage inside files is no error but part of the report.
    pub fn open(
        dir: &Path,
        config: LogConfig,
        disk: Arc<dyn Disk>,
        known: &dyn Fn(QueueId) -> bool,
    ) -> Result<(Self, LogThreads, Recovered), OpenError> {
        let (shared, writer, recovered) = Self::read(dir, config, disk, known)?;
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|error| OpenError::io("start a thread for", dir, error))
        };
        let keeper = Arc::clone(&shared);
        let mut threads = LogThreads {
            shared: Arc::clone(&shared),
            writer: None,
            keeper: Some(spawn(
                "log-keeper",
                Box::new(move || writer::keep(&keeper)),
            )?),
            driven: None,
        };
        let pen = Arc::new(Pen(Mutex::new(writer)));
        let log = Self {
            shared: Arc::clone(&shared),
            pen: Arc::clone(&pen),
            driven: false,
        };
        let life = Arc::clone(&shared);
        let run = Box::new(move || writer::run(&life, &pen.0));
        threads.writer = Some(spawn("log-writer", run)?);
        shared.wake_keeper();
        Ok((log, threads, recovered))
    }

    /// Like [`Log::open`], without threads: nothing is written or given back unless [`Log::turn`] is called. For
    /// simulations, where one seed has to mean one run.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_manual(
        dir: &Path,
        config: LogConfig,
        disk: Arc<dyn Disk>,
        known: &dyn Fn(QueueId) -> bool,
    ) -> Result<(Self, LogThreads, Recovered), OpenError> {
        let (shared, writer, recovered) = Self::read(dir, config, disk, known)?;
        let pen = Arc::new(Pen(Mutex::new(writer)));
        let threads = LogThreads {
            shared: Arc::clone(&shared),
            writer: None,
            keeper: None,
            driven: Some(Arc::clone(&pen)),
        };
        shared.wake_keeper();
        let log = Self {
            shared,
            pen,
            driven: true,
        };
        Ok((log, threads, recovered))
    }

    /// One round of the writer and one of the keeper, for a log opened with [`Log::open_manual`]. Returns
    /// whether anything was done; a full disk is tried again by each call.
    pub fn turn(&self) -> bool {
        if !self.driven {
            return false;
        }
        let turn = self.pen.0.lock().turn();
        let kept = writer::keep_turn(&self.shared);
        // While the disk is full, the writer asks the keeper for room in every turn.
        turn == writer::Turn::Done || (kept && turn != writer::Turn::Full)
    }

    fn read(
        dir: &Path,
        config: LogConfig,
        disk: Arc<dyn Disk>,
        known: &dyn Fn(QueueId) -> bool,
    ) -> Result<(Arc<Shared>, Writer, Recovered), OpenError> {
        disk.create_dir(dir)
            .map_err(|error| OpenError::io("create", dir, error))?;
        let scanned = scan::scan(dir, &config, &*disk, known)?;
        if let Some(last) = scanned.files.last().filter(|last| !last.unreadable) {
            // The room reserved behind its end is of no use any more.
            let path = dir.join(file_name(last.base));
            disk.open(&path)
                .and_then(|file| file.set_len(last.end - last.base))
                .map_err(|error| OpenError::io("cut", path, error))?;
        }
        let mut staging = Staging {
            log_id: config.log_id(),
            file_size: config.file_size,
            watermarks: scanned.watermarks,
            next: scanned.end + FILE_ENTRY_LEN,
            from: scanned.end + FILE_ENTRY_LEN,
            ..Staging::default()
        };
        for file in scanned.files {
            staging.files.push(file);
        }
        staging.checkpoint = scanned.checkpoint;
        staging.files.push(FileInfo {
            undurable_from: scanned.undurable_from,
            ..FileInfo::new(scanned.end)
        });
        staging.files.newest().end = staging.next;
        let (sync_to, end) = (scanned.undurable_from, scanned.end);
        let shared = Arc::new(Shared::new(
            config,
            disk,
            dir.to_owned(),
            staging,
            scanned.spares,
        ));
        let writer = Writer::open(Arc::clone(&shared), end, sync_to)?;
        Ok((shared, writer, scanned.recovered))
    }

    /// Appends a chunk of back-to-back, finished message records. It is worth nothing until enqueued.
    ///
    /// # Panics
    /// If the chunk is 4 GiB or larger.
    #[must_use]
    pub fn append_messages(&self, chunk: Bytes) -> Appended {
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        let (at, hold) = staging.push_payload(Kind::Messages, chunk, synced);
        self.done(staging, Urgency::Later);
        Appended {
            at: LogPosition(at),
            _hold: hold,
        }
    }

    /// Says that messages are in `queue`. Returns the position to wait for before confirming them.
    pub fn append_enqueued(&self, queue: QueueId, runs: &[EnqueuedRun]) -> LogPosition {
        let waited_for = runs.iter().any(|run| !run.volatile);
        let urgency = if waited_for {
            Urgency::Now
        } else {
            Urgency::Soon
        };
        self.enqueue(queue, runs, urgency)
    }

    /// Like [`Log::append_enqueued`], for messages whose old place in the log counts until the new one is durable: nobody waits, so
    /// it rides along, or goes within some 50 milliseconds.
    pub fn append_moved_in(&self, queue: QueueId, runs: &[EnqueuedRun]) -> LogPosition {
        self.enqueue(queue, runs, Urgency::Lazy)
    }

    fn enqueue(&self, queue: QueueId, runs: &[EnqueuedRun], urgency: Urgency) -> LogPosition {
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        for run in runs {
            debug_assert!(run.count > 0 && run.at != LogPosition::NONE);
            staging.push_enqueued(&item_of(queue, run, None), synced);
        }
        self.done(staging, urgency)
    }

    /// Says that messages are in `queue`, like [`Log::append_enqueued`], and that the ids they came with have been seen: after a
    /// crash either both is true or neither. `runs` may be empty, if other entries have enqueued the messages.
    pub fn append_seen(&self, queue: QueueId, runs: &[EnqueuedRun], ids: &[Seen]) -> LogPosition {
        let runs: Vec<_> = runs.iter().map(|run| item_of(queue, run, None)).collect();
        let ids: Vec<_> = ids
            .iter()
            .map(|seen| SeenItem {
                owner: seen.owner,
                id: seen.id,
                at: Some(seen.at.0).filter(|at| *at > 0),
            })
            .collect();
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        staging.push_seen(&runs, &ids, synced);
        self.done(staging, Urgency::Now)
    }

    /// Writes down all ids that a queue or exchange remembers, oldest first: part of a checkpoint. One that remembers nothing
    /// need not say so.
    ///
    /// # Panics
    /// If the ids take 4 GiB or more: that is more than 170 million.
    pub fn append_seen_state(
        &self,
        owner: QueueId,
        ids: impl ExactSizeIterator<Item = SeenId>,
    ) -> LogPosition {
        let mut payload = Vec::with_capacity(8 + ids.len() * SeenId::LEN);
        payload.extend_from_slice(&owner.0.to_le_bytes());
        ids.for_each(|id| id.write(&mut payload));
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        staging.push_payload(Kind::SeenState, Bytes::from(payload), synced);
        staging.files.newest().tells_ids = true;
        self.done(staging, Urgency::Soon)
    }

    /// Says that messages left `queue` for good: acknowledged, expired, purged, dead-lettered, dropped.
    ///
    /// Becomes durable within some milliseconds or with the next commit; nobody needs to wait, but may
    /// ([`Log::wake_at`] speeds it up). What has not been written itself is settled along with it. Every message counts once only;
    /// ascending order is cheapest.
    pub fn append_settled(&self, queue: QueueId, settled: &[Settled]) -> LogPosition {
        self.settle(queue, settled, Urgency::Soon, |_| 0)
    }

    /// Like [`Log::append_settled`], for messages that live on elsewhere: what has been appended before, their new records
    /// among it, is durable before the file of the old ones goes. It may take some 50 milliseconds.
    pub fn append_moved_on(&self, queue: QueueId, settled: &[Settled]) -> LogPosition {
        self.settle(queue, settled, Urgency::Lazy, |staging| staging.next)
    }

    fn settle(
        &self,
        queue: QueueId,
        settled: &[Settled],
        urgency: Urgency,
        gate: impl FnOnce(&Staging) -> u64,
    ) -> LogPosition {
        let in_log = |settled: &&Settled| settled.at != LogPosition::NONE;
        let mut rest = settled.iter().filter(in_log).peekable();
        if rest.peek().is_none() {
            return LogPosition::NONE;
        }
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        while let Some(first) = rest.next() {
            let mut count = 1;
            while count < u32::MAX
                && rest
                    .next_if(|next| next.sequence.0 == first.sequence.0 + u64::from(count))
                    .is_some()
            {
                count += 1;
            }
            let item = SequenceItem {
                queue,
                sequence: first.sequence,
                number: count,
            };
            staging.push_item(Kind::Settled, SequenceItem::LEN, synced, |to| {
                item.write(to);
            });
        }
        let gate = gate(&staging);
        staging.died(settled, gate);
        let begins = staging.from;
        let is_staged = settled.iter().filter(in_log).all(|one| one.at.0 >= begins);
        let urgency = if is_staged { Urgency::Later } else { urgency };
        self.done(staging, urgency)
    }

    /// Says that all sequences of `queue` up to `up_to` may have been delivered. May run ahead of what was
    /// delivered, so that one entry serves many deliveries.
    pub fn append_delivered(&self, queue: QueueId, up_to: Sequence) -> LogPosition {
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        staging.push_delivered(queue, up_to, synced);
        self.done(staging, Urgency::Soon)
    }

    /// Says how often a message came back.
    pub fn append_delivery_count(
        &self,
        queue: QueueId,
        sequence: Sequence,
        count: u32,
    ) -> LogPosition {
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        let item = SequenceItem {
            queue,
            sequence,
            number: count,
        };
        staging.push_item(Kind::DeliveryCount, SequenceItem::LEN, synced, |to| {
            item.write(to);
        });
        self.done(staging, Urgency::Soon)
    }

    /// Writes down all that lives of a queue: what was enqueued before and lies in none of `runs` is gone. `runs` are in order of
    /// level and sequence.
    ///
    /// Part of a checkpoint, and the way to say that a long range was purged.
    ///
    /// # Panics
    /// If the runs take 4 GiB or more: that is more than 170 million.
    pub fn append_state(&self, queue: QueueId, runs: &[LiveRun]) -> LogPosition {
        let mut payload = Vec::with_capacity(8 + runs.len() * StateItem::LEN);
        payload.extend_from_slice(&queue.0.to_le_bytes());
        for run in runs {
            StateItem {
                from: run.from,
                to: run.to,
                delivery_count: run.delivery_count,
                level: run.level,
                delivered: run.delivered,
            }
            .write(&mut payload);
        }
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        staging.watermarks.remove(&queue);
        staging.push_payload(Kind::State, Bytes::from(payload), synced);
        self.done(staging, Urgency::Soon)
    }

    /// A deleted queue: its watermark is forgotten, and its live messages no longer hold space.
    ///
    /// Call it after the deletion is durable in the definitions. `live` are those of the queue's messages whose place is known;
    /// [`Log::dropped`] is told the others.
    pub fn forget_queue(&self, queue: QueueId, live: &[Settled]) {
        let mut staging = self.shared.staging.lock();
        staging.watermarks.remove(&queue);
        staging.died(live, 0);
        self.free_dead(staging);
    }

    /// Messages that were only on the disk died unread: all that the log holds of a level of `queue` in `[from, to)`. This is about
    /// the space they take; [`Log::append_state`] makes it last. May read index files: not under a queue's lock.
    pub fn dropped(&self, queue: QueueId, level: u8, from: Sequence, to: Sequence) {
        let range = (from.0, to.0);
        let holders: Vec<_> = {
            let staging = self.shared.staging.lock();
            let holds = |file: &&FileInfo| {
                !file.moved && file.index.overlaps(queue, level, range.0, range.1)
            };
            let files = staging.files.iter().filter(holds);
            files.map(|file| (file.base, file.index.clone())).collect()
        };
        // Of a message in two places only the last one was alive.
        let copies = holders
            .iter()
            .any(|(_, index)| index.has_copies(queue, level, range.0, range.1));
        let mut covered = Covered::default();
        for (base, index) in holders.into_iter().rev() {
            let disk = &*self.shared.disk;
            let totals = if copies {
                index.totals_beside(disk, queue, level, range, &mut covered)
            } else {
                index.totals(disk, queue, level, range, |_| true)
            };
            let Ok(totals) = totals else {
                // The file stays until the next start counts anew.
                continue;
            };
            let mut staging = self.shared.staging.lock();
            if let Some(file) = staging.files.at_base(base) {
                file.died(totals.count, totals.octets, 0);
            }
        }
        self.free_dead(self.shared.staging.lock());
    }

    /// Begins a checkpoint if it is time for one: write the state of every queue that holds anything, each under its lock, then
    /// call [`Log::checkpoint_done`].
    #[must_use]
    pub fn checkpoint_due(&self) -> Option<Checkpoint> {
        if self.failed() {
            return None;
        }
        let mut staging = self.shared.staging.lock();
        // Now and then, because nobody tells when the last reader of a file is done.
        staging.files.look_again();
        let since = staging.checkpoint.max(staging.checkpoint_end);
        let due = staging.files.count_since(since) > CHECKPOINT_FILES
            && staging.pending_checkpoint.is_none();
        due.then_some(Checkpoint { from: staging.next })
    }

    /// Begins a checkpoint whether it is time for one or not.
    #[must_use]
    pub fn begin_checkpoint(&self) -> Checkpoint {
        Checkpoint {
            from: self.shared.staging.lock().next,
        }
    }

    /// All states have been written: recovery need not look at what is older, once this is durable.
    ///
    /// The states speak of what came before them: they must not outlive it. So what is older than the checkpoint is synced
    /// first, which blocks the thread; not under any lock. Without effect, and [`LogPosition::NONE`], if that cannot be: the log
    /// failed or the disk is full.
    pub fn checkpoint_done(&self, checkpoint: Checkpoint) -> LogPosition {
        if !self.wait_synced(checkpoint.from) {
            return LogPosition::NONE;
        }
        let payload = Bytes::copy_from_slice(&checkpoint.from.to_le_bytes());
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        // Recovery will not look at what is older; a queue that was empty has written no state.
        let old = |(_, (_, at)): &(&QueueId, &(Sequence, u64))| *at < checkpoint.from;
        let old: Vec<_> = staging.watermarks.iter().filter(old).collect();
        let old: Vec<_> = old
            .into_iter()
            .map(|(queue, (up_to, _))| (*queue, *up_to))
            .collect();
        for (queue, up_to) in old {
            staging.push_delivered(queue, up_to, synced);
        }
        staging.push_payload(Kind::Checkpoint, payload, synced);
        staging.pending_checkpoint = Some((checkpoint.from, staging.next));
        staging.sync_to = staging.next;
        self.done(staging, Urgency::Now)
    }

    /// Has `listener` called on the writer's thread whenever a new file begins: a good moment to ask
    /// [`Log::checkpoint_due`] and [`Log::relocation_candidate`]. It must not block.
    pub fn on_new_file(&self, listener: Listener) {
        *self.shared.on_new_file.lock() = Some(listener);
    }

    /// Has `listener` called on a thread that is about to wait for the disk in [`CommitHere::commit`]: other work of that thread can
    /// still go elsewhere. It must not block.
    pub fn on_commit_here(&self, listener: Listener) {
        *self.shared.on_commit_here.lock() = Some(listener);
    }

    /// Keeps all log files as they are, for a copy of the running log.
    #[must_use]
    pub fn hold(&self) -> LogHold {
        self.shared.staging.lock().holds += 1;
        LogHold {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The log files and what has been written to each; with a [`LogHold`] they stay.
    #[must_use]
    pub fn files(&self) -> Vec<LogFile> {
        let written = self.shared.written.load(Ordering::Acquire);
        let staging = self.shared.staging.lock();
        let files = staging.files.iter().filter(|file| file.base < written);
        files
            .map(|file| LogFile {
                base: LogPosition(file.base),
                path: self.shared.dir.join(file_name(file.base)),
                len: file.end.min(written) - file.base,
            })
            .collect()
    }

    /// Everything before this position can be read back.
    #[must_use]
    pub fn written(&self) -> LogPosition {
        LogPosition(self.shared.written.load(Ordering::Acquire))
    }

    /// Everything appended so far lies before this position: who waits for it finds all of that written.
    #[must_use]
    pub fn staged(&self) -> LogPosition {
        LogPosition(self.shared.staged.load(Ordering::Acquire))
    }

    /// Everything appended before this position is durable, in the sense of the [`SyncMode`].
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        LogPosition(self.shared.durable.load(Ordering::Acquire))
    }

    /// Whether the state at `position` is durable.
    #[must_use]
    pub fn is_durable(&self, position: LogPosition) -> bool {
        self.durable() >= position
    }

    /// Calls `waker` once when `position` is durable or the log has failed; at once, on this thread, if that
    /// is so already. Otherwise on the writer's thread.
    pub fn wake_at(&self, position: LogPosition, waker: Arc<dyn DurableWaker>) {
        self.shared.wake_at(position, waker);
    }

    /// How the log is.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.shared.status()
    }

    /// Whether the log has failed for good or is closed; cheaper than [`Log::status`].
    #[must_use]
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Whether the disk is full; cheaper than [`Log::status`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Acquire)
    }

    /// Whether the log has no threads and does its work in [`Log::turn`].
    #[must_use]
    pub const fn is_driven(&self) -> bool {
        self.driven
    }

    /// Waits until `position` is durable, and for nothing if the log failed, the disk is full, or the log is driven without
    /// threads. Returns whether it is. It blocks the thread.
    pub fn wait_durable(&self, position: LogPosition) -> bool {
        if self.driven || self.is_durable(position) {
            return self.is_durable(position);
        }
        self.wait_for(position, || self.failed() || self.is_full())
    }

    /// Octets staged and not yet written: above [`BACKLOG_BYTES_MAX`], stop reading from publishers.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        if self.failed() {
            return 0;
        }
        self.staged().0.saturating_sub(self.written().0)
    }

    /// Counters for metrics.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let counters = &self.shared.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (files, sealed_files, (log_bytes, live_bytes)) = {
            let staging = self.shared.staging.lock();
            let sealed = staging.files.iter().filter(|file| file.index.is_sealed());
            (
                staging.files.len() as u64,
                sealed.count() as u64,
                staging.files.octets(),
            )
        };
        LogStats {
            syncs: load(&counters.syncs),
            sync_time: Duration::from_nanos(load(&counters.sync_nanos)),
            bytes_written: load(&counters.bytes_written),
            entries: load(&counters.entries),
            groups: load(&counters.groups),
            group_entries: std::array::from_fn(|class| load(&counters.group_entries[class])),
            sync_times: std::array::from_fn(|class| load(&counters.sync_times[class])),
            files,
            log_bytes,
            live_bytes,
            sealed_files,
            checkpoints: load(&counters.checkpoints),
            relocations: load(&counters.relocations),
        }
    }

    /// Marks a clean stop and waits until it is durable, or cannot be: the log failed or the disk is full. Returns whether it
    /// is. A checkpoint with the exact state of all queues goes before it.
    ///
    /// Nothing may be appended afterwards: an entry after it makes the stop an unclean one.
    #[must_use]
    pub fn clean_stop(&self) -> bool {
        // The entry says how far the log was synced: in every mode everything before it, so that the next start need not doubt it.
        let end = self.shared.staged.load(Ordering::Acquire);
        if !self.wait_synced(end) {
            return false;
        }
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        staging.push_payload(Kind::CleanStop, Bytes::new(), synced);
        staging.sync_to = staging.next;
        staging.clean_stopped = true;
        let end = self.done(staging, Urgency::Now);
        // A full disk gets one more try of the writer's.
        let patience = self.shared.disk.now() + 2 * self.shared.config.retry;
        self.wait_for(end, || {
            matches!(self.status(), LogStatus::DiskFull { .. })
                && self.shared.disk.now() >= patience
        })
    }

    /// Waits until everything appended before is durable or the log has failed. Returns whether it is. For
    /// tests and stops: it blocks the thread, for as long as the disk is full.
    #[must_use]
    pub fn flush(&self) -> bool {
        let end = LogPosition(self.shared.staged.load(Ordering::Acquire));
        self.wait_for(end, || false)
    }

    /// Waits for a position until it is durable, the log failed, or `give_up` says so every now and then.
    fn wait_for(&self, end: LogPosition, give_up: impl Fn() -> bool) -> bool {
        struct Flag(Mutex<bool>, Condvar);
        impl DurableWaker for Flag {
            fn durable(&self) {
                *self.0.lock() = true;
                self.1.notify_one();
            }
        }
        let flag = Arc::new(Flag(Mutex::new(false), Condvar::new()));
        self.wake_at(end, Arc::<Flag>::clone(&flag));
        let mut done = flag.0.lock();
        while !*done && !give_up() {
            if self.driven {
                drop(done);
                let idle = !self.turn();
                done = flag.0.lock();
                if idle {
                    break;
                }
            } else {
                flag.1.wait_for(&mut done, Duration::from_millis(20));
            }
        }
        self.is_durable(end)
    }

    /// Has everything before `position` synced, whatever the mode, and waits for it. Returns whether it is: not if the log failed, or
    /// the disk stays full for a second try of the writer's.
    fn wait_synced(&self, position: u64) -> bool {
        let is_synced = || self.shared.synced.load(Ordering::Acquire) >= position;
        if is_synced() {
            return true;
        }
        {
            let mut staging = self.shared.staging.lock();
            staging.sync_to = staging.sync_to.max(position);
            let wake = staging.note(Urgency::Now);
            drop(staging);
            if wake {
                self.shared.wake_writer.notify_one();
            }
        }
        let patience = self.shared.disk.now() + 2 * self.shared.config.retry;
        while !is_synced() {
            let out_of_room = self.is_full() && self.shared.disk.now() >= patience;
            if self.failed() || out_of_room {
                break;
            }
            if !self.driven {
                std::thread::sleep(SYNC_POLL);
            } else if !self.turn() {
                break;
            }
        }
        is_synced()
    }

    fn synced(&self) -> u64 {
        self.shared.synced.load(Ordering::Relaxed)
    }

    /// Ends an append: publishes its end and wakes the writer where needed, after the lock is free.
    fn done(&self, mut staging: MutexGuard<'_, Staging>, urgency: Urgency) -> LogPosition {
        let end = staging.next;
        self.shared.staged.store(end, Ordering::Release);
        let many = end.saturating_sub(self.shared.written.load(Ordering::Relaxed)) > SOON_BYTES;
        let urgency = if many { Urgency::Now } else { urgency };
        let wake = if here::commits_here() {
            staging.want(urgency);
            false
        } else {
            staging.note(urgency)
        };
        drop(staging);
        if wake {
            self.shared.wake_writer.notify_one();
        }
        LogPosition(end)
    }

    fn free_dead(&self, mut staging: MutexGuard<'_, Staging>) {
        let written = self.shared.written.load(Ordering::Acquire);
        let checkpoint = staging.checkpoint;
        let dead = staging.files.freeable(written, checkpoint).is_some();
        drop(staging);
        if dead {
            self.shared.wake_keeper();
        }
    }
}

fn item_of(queue: QueueId, run: &EnqueuedRun, copied_from: Option<u64>) -> EnqueuedItem {
    debug_assert!(run.count > 0 && run.at != LogPosition::NONE);
    EnqueuedItem {
        queue,
        first: run.first,
        at: run.at.0,
        count: run.count,
        octets: run.octets,
        body_octets: run.body_octets,
        delivery_count: run.delivery_count,
        level: run.level,
        may_be_delivered: run.may_be_delivered,
        volatile: run.volatile,
        copied_from,
    }
}
