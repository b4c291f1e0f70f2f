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

#[derive(Default)]
struct Entries {
    by_time: BTreeMap<(u64, QueueId), Weak<QueueCell>>,
    by_queue: BTreeMap<QueueId, u64>,
}

impl Entries {
    fn remove(&mut self, queue: QueueId) {
        if let Some(at) = self.by_queue.remove(&queue) {
            self.by_time.remove(&(at, queue));
        }
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers")
            .field("entries", &self.entries.lock().by_queue.len())
            .finish_non_exhaustive()
    }
}

impl Timers {
    /// Has the doorbell rung whenever the earliest deadline comes closer.
    pub(crate) fn listen(&self, doorbell: Doorbell) {
        *self.doorbell.lock() = Some(doorbell);
    }

    /// Notes that `queue` has something due at `at_ms`, milliseconds since 1970, unless it has something earlier.
    pub(crate) fn add(&self, at_ms: u64, queue: &Arc<QueueCell>) {
        let mut entries = self.entries.lock();
        if entries
            .by_queue
            .get(&queue.id)
            .is_some_and(|known| *known <= at_ms)
        {
            return;
        }
        entries.remove(queue.id);
        let is_earliest = entries
            .by_time
            .first_key_value()
            .is_none_or(|((first, _), _)| at_ms < *first);
        entries
            .by_time
            .insert((at_ms, queue.id), Arc::downgrade(queue));
        entries.by_queue.insert(queue.id, at_ms);
        drop(entries);
        if is_earliest && let Some(doorbell) = self.doorbell.lock().as_ref() {
            doorbell();
        }
    }

    /// Forgets a queue that is gone.
    pub(crate) fn remove(&self, queue: QueueId) {
        self.entries.lock().remove(queue);
    }

    /// The earliest deadline, in milliseconds since 1970.
    pub(crate) fn next(&self) -> Option<u64> {
        self.entries
            .lock()
            .by_time
            .first_key_value()
            .map(|((at, _), _)| *at)
    }

    /// Takes out the queues that have something due, earliest first, `max` at most.
    pub(crate) fn due(&self, now_ms: u64, max: usize) -> Vec<Arc<QueueCell>> {
        let mut entries = self.entries.lock();
        let mut due = Vec::new();
        while due.len() < max
            && let Some(entry) = entries.by_time.first_entry()
            && entry.key().0 <= now_ms
        {
            let ((_, id), queue) = entry.remove_entry();
            entries.by_queue.remove(&id);
            due.extend(queue.upgrade());
        }
        due
    }
}
