//! What is due when: one list for the node, looked at by one task of the server.
//!
//! A queue has at most one entry, for its next deadline; a queue without deadlines costs nothing.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
};

use mamba_types::QueueId;
use parking_lot::Mutex;

use crate::queue_cell::QueueCell;

/// Rings when something became due earlier than what was known.
pub type Doorbell = Arc<dyn Fn() + Send + Sync>;

/// The node's deadlines.
#[derive(Default)]
pub(crate) struct Timers {
    entries: Mutex<Entries>,
    doorbell: Mutex<Option<Doorbell>>,
}

type Entries = BTreeMap<(u64, QueueId), Weak<QueueCell>>;

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers")
            .field("entries", &self.entries.lock().len())
            .finish_non_exhaustive()
    }
}

impl Timers {
    /// Has the doorbell rung whenever the earliest deadline comes closer.
    pub(crate) fn listen(&self, doorbell: Doorbell) {
        *self.doorbell.lock() = Some(doorbell);
    }

    /// Notes that `queue` has something due at `at_ms`, milliseconds since 1970.
    pub(crate) fn add(&self, at_ms: u64, queue: &Arc<QueueCell>) {
        let mut entries = self.entries.lock();
        let is_earliest = entries
            .first_key_value()
            .is_none_or(|((first, _), _)| at_ms < *first);
        entries.insert((at_ms, queue.id), Arc::downgrade(queue));
        drop(entries);
        if is_earliest && let Some(doorbell) = self.doorbell.lock().as_ref() {
            doorbell();
        }
    }

    /// The earliest deadline, in milliseconds since 1970.
    pub(crate) fn next(&self) -> Option<u64> {
        self.entries
            .lock()
            .first_key_value()
            .map(|((at, _), _)| *at)
    }

    /// Takes out the queues that have something due, earliest first, `max` at most.
    pub(crate) fn due(&self, now_ms: u64, max: usize) -> Vec<Arc<QueueCell>> {
        let mut entries = self.entries.lock();
        let mut due = Vec::new();
        while due.len() < max
            && let Some(entry) = entries.first_entry()
            && entry.key().0 <= now_ms
        {
            due.extend(entry.remove().upgrade());
        }
        due
    }
}
