//! Reading the log back: what is live, what was cut, what is damaged.

use std::{collections::BTreeMap, ops::Range};

use mamba_types::{LogPosition, QueueId, Sequence};

use crate::{definitions::StoredDefinitions, log::SeenId};

/// Everything a folder held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Exchanges, queues and bindings.
    pub definitions: StoredDefinitions,
    /// Live messages of the queues in `definitions`; a queue without messages is absent.
    pub queues: BTreeMap<QueueId, RecoveredQueue>,
    /// Ids that the queues and exchanges in `definitions` remember, in the order in which they came. One that came again after it
    /// had been forgotten stands here twice.
    pub seen: BTreeMap<QueueId, Vec<SeenId>>,
    /// What recovery met.
    pub report: RecoveryReport,
}

/// What one queue held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredQueue {
    /// By level, and by sequence inside a level.
    pub runs: Vec<RecoveredRun>,
}

/// Live messages of one level of a queue with a common history: all that the log holds of that level in `[from, to)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredRun {
    /// The level they wait in.
    pub level: u8,
    /// The first sequence that may be in the run.
    pub from: Sequence,
    /// The first sequence that is not.
    pub to: Sequence,
    /// Messages; at least 1.
    pub count: u64,
    /// Octets of their bodies.
    pub body_bytes: u64,
    /// The octets are an estimate, because the run covers only a part of what was enqueued together;
    /// [`crate::Log::body_octets`] counts them.
    pub estimated: bool,
    /// They may have been delivered before.
    pub redelivered: bool,
    /// How often they came back, as last told by `append_delivery_count`, their run or their state.
    pub delivery_count: u32,
}

/// What recovery met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The last stop was a clean one.
    pub clean: bool,
    /// Log files there are.
    pub files: u64,
    /// Those of them whose entries had to be read; of the others an index told enough.
    pub files_scanned: u64,
    /// Octets of valid entries read.
    pub octets: u64,
    /// Valid entries read.
    pub entries: u64,
    /// Live (queue, message) pairs.
    pub live: u64,
    /// Live pairs of queues that have no definition any more; dropped.
    pub unknown_queue: u64,
    /// Enqueued pairs whose record is not in the log (any more); ignored.
    pub dangling: u64,
    /// Octets of an unfinished write that were cut off. Nothing in them was ever reported durable.
    pub torn_octets: u64,
    /// Ranges that had been reported durable and cannot be read: damage. Messages in them are lost.
    pub quarantined: Vec<Range<LogPosition>>,
}
