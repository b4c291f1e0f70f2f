//! The message log: staging, group commit, faults, reclaiming space.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use mamba_types::{LogPosition, QueueId, Sequence};

/// Staged octets above which the broker should stop reading from publishers ([`Log::backlog_bytes`]).
pub const BACKLOG_BYTES_MAX: u64 = 64 << 20;

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

/// Messages of one queue with consecutive sequences whose records lie back to back in one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnqueuedRun {
    /// Sequence of the first message.
    pub first: Sequence,
    /// Messages; at least 1.
    pub count: u32,
    /// Where the first one's record lies in the log: the chunk's position plus the record's offset in it.
    pub at: LogPosition,
    /// They may have been delivered already (relocation of delivered messages).
    pub may_be_delivered: bool,
    /// Delivery count of each; 0 for new messages.
    pub delivery_count: u32,
}

/// A message that left its queue for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its place in the queue.
    pub sequence: Sequence,
    /// Where its record lies; [`LogPosition::NONE`] if it never was in the log: then nothing is written.
    pub at: LogPosition,
}

/// Consecutive sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRun {
    /// The first one.
    pub first: Sequence,
    /// How many; at least 1.
    pub count: u32,
}

/// What a clean stop knows exactly and a crash does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanStop {
    /// Per queue, the live sequences that have been delivered before; all others have not.
    pub redelivered: Vec<(QueueId, Vec<SequenceRun>)>,
}

/// A chunk in the log. The log keeps the chunk's file while this lives, so that the records can be enqueued:
/// drop it after the last [`Log::append_enqueued`] that names them.
#[derive(Debug)]
pub struct Appended {
    at: LogPosition,
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
    /// Log files on disk, spares not counted.
    pub files: u64,
    /// Octets in them.
    pub log_bytes: u64,
    /// Estimate of the octets in them that are live.
    pub live_bytes: u64,
}

/// Handle to the message log; clones share it.
///
/// The `append_*` functions do no I/O: they put the entry into a staging area (log order is the order of the
/// calls) and wake the writer if it sleeps. They may be called under a queue's lock.
#[derive(Clone)]
pub struct Log;

impl Log {
    /// Appends a chunk of back-to-back, finished message records. It is worth nothing until enqueued.
    ///
    /// # Panics
    /// If the chunk is 4 GiB or larger.
    #[must_use]
    pub fn append_messages(&self, _chunk: Bytes) -> Appended {
        unimplemented!()
    }

    /// Says that messages are in `queue`. Returns the position to wait for before confirming them.
    pub fn append_enqueued(&self, _queue: QueueId, _runs: &[EnqueuedRun]) -> LogPosition {
        unimplemented!()
    }

    /// Says that messages left `queue` for good: acknowledged, expired, purged, dead-lettered, dropped.
    /// Becomes durable within some milliseconds or with the next commit; nobody needs to wait, but may
    /// ([`Log::wake_at`] speeds it up).
    pub fn append_settled(&self, _queue: QueueId, _settled: &[Settled]) -> LogPosition {
        unimplemented!()
    }

    /// Says that all sequences of `queue` up to `up_to` may have been delivered. May run ahead of what was
    /// delivered, so that one entry serves many deliveries.
    pub fn append_delivered(&self, _queue: QueueId, _up_to: Sequence) -> LogPosition {
        unimplemented!()
    }

    /// Says how often a message came back.
    pub fn append_delivery_count(
        &self,
        _queue: QueueId,
        _sequence: Sequence,
        _count: u32,
    ) -> LogPosition {
        unimplemented!()
    }

    /// A deleted queue: its watermark is forgotten, and its live messages no longer hold space. Call it after
    /// the deletion is durable in the definitions. `live` are the positions of the queue's messages; more than one call may share them out.
    pub fn forget_queue(&self, _queue: QueueId, _live: &[LogPosition]) {
        unimplemented!()
    }

    /// Everything appended before this position is durable, in the sense of the [`SyncMode`].
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        unimplemented!()
    }

    /// Whether the state at `position` is durable.
    #[must_use]
    pub fn is_durable(&self, position: LogPosition) -> bool {
        self.durable() >= position
    }

    /// Calls `waker` once when `position` is durable or the log has failed; at once, on this thread, if that is so already.
    pub fn wake_at(&self, _position: LogPosition, _waker: Arc<dyn DurableWaker>) {
        unimplemented!()
    }

    /// How the log is.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        unimplemented!()
    }

    /// Whether the log has failed for good; cheaper than [`Log::status`].
    #[must_use]
    pub fn failed(&self) -> bool {
        unimplemented!()
    }

    /// Octets staged and not yet written: above [`BACKLOG_BYTES_MAX`], stop reading from publishers.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Counters for metrics.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        unimplemented!()
    }

    /// The oldest file's positions if few live messages pin it and the log has outgrown its bound (twice the
    /// live octets and a constant). For every live message whose record lies in the range: under its queue's lock,
    /// append its record and enqueue it again with the same sequence; then name the old positions in [`Log::relocated`].
    #[must_use]
    pub fn relocation_candidate(&self) -> Option<Range<LogPosition>> {
        unimplemented!()
    }

    /// The records at these old positions, one per (queue, message), have been appended and enqueued again.
    pub fn relocated(&self, _old: &[LogPosition]) {
        unimplemented!()
    }

    /// Writes the state of a clean stop and waits until it is durable. Returns whether it is. Nothing may be appended afterwards.
    #[must_use]
    pub fn clean_stop(&self, _state: &CleanStop) -> bool {
        unimplemented!()
    }

    /// Waits until everything appended before is durable or the log has failed. Returns whether it is. For tests and stops.
    #[must_use]
    pub fn flush(&self) -> bool {
        unimplemented!()
    }
}
