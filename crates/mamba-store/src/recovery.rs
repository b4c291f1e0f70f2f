//! Reading the log back: what is live, what was cut, what is damaged.

use std::{collections::BTreeMap, ops::Range};

use mamba_types::{LogPosition, Message, QueueId, Sequence};

use crate::definitions::StoredDefinitions;

/// Everything a folder held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Exchanges, queues and bindings.
    pub definitions: StoredDefinitions,
    /// Live messages of the queues in `definitions`; a queue without messages is absent.
    pub queues: BTreeMap<QueueId, RecoveredQueue>,
    /// What recovery met.
    pub report: RecoveryReport,
}

/// What one queue held.
#[derive(Clone, Debug, Default)]
pub struct RecoveredQueue {
    /// In sequence order.
    pub messages: Vec<RecoveredMessage>,
}

/// One live message.
#[derive(Clone, Debug)]
pub struct RecoveredMessage {
    /// Its place in the queue.
    pub sequence: Sequence,
    /// The message; a fan-out's message shares its octets between queues.
    pub message: Message,
    /// Where its record lies; hand it back when the message is settled.
    pub at: LogPosition,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// How often it came back, as last told by `append_delivery_count` or its run.
    pub delivery_count: u32,
}

/// What recovery met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The last stop was a clean one.
    pub clean: bool,
    /// Log files read.
    pub files: u64,
    /// Octets of valid entries.
    pub octets: u64,
    /// Valid entries.
    pub entries: u64,
    /// Live (queue, message) pairs handed back.
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
