//! Looking for a filter's matches among what lies on the disk only.

use std::sync::{Arc, atomic::Ordering};

use mamba_queue::Scan;
use mamba_store::LoadRequest;

use super::{
    QueueCell, State,
    memory::{READ_MESSAGES_MAX, stored},
};
use crate::paging::Progress;

impl QueueCell {
    /// Reads a part of the queue, looks at it without the queue's lock, and hands out what matches and is still there. What does not
    /// match is not kept.
    pub(crate) fn scan(self: &Arc<Self>, scan: &Scan) -> Progress {
        let relocations = self.relocations.load(Ordering::Acquire);
        // What is damaged is reported by whoever reads the queue's front.
        let loaded = self.log.load(&LoadRequest {
            queue: self.id,
            level: scan.level,
            from: scan.from,
            to: scan.to,
            octets_max: scan.octets.min(self.paging.read_bytes()),
            messages_max: READ_MESSAGES_MAX,
        });
        if loaded.next <= scan.from {
            return self.too_early();
        }
        let count = loaded.messages.len() as u64;
        self.paging.scanned.fetch_add(count, Ordering::Relaxed);
        let scanned = scan.look_at(loaded.messages.into_iter().map(stored), loaded.next);
        let last = scanned.last_match();
        self.announce(last);
        self.change_state(|state| {
            let known = !self.stores(true) || last.is_none_or(|last| last <= state.noted);
            let moved = self.relocations.load(Ordering::Acquire) != relocations;
            if moved || !known || self.is_held(state) {
                // Copied meanwhile, or the log does not know yet that they may be delivered: once more, later.
                state.queue.load_failed(scan.level, scan.token);
                return;
            }
            let State { queue, effects, .. } = state;
            let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
            queue.expire_waited(now_ms, effects);
            let missing = queue.scanned(scan, scanned, effects);
            self.report_missing(missing);
        });
        Progress::Done
    }
}
