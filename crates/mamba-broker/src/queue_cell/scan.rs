//! Looking for a filter's matches among what lies on the disk only.

use std::sync::{Arc, atomic::Ordering};

use mamba_queue::Scan;
use mamba_store::LoadRequest;

use super::{
    Aftermath, QueueCell,
    memory::{READ_MESSAGES_MAX, stored},
};
use crate::paging::PagedIn;

impl QueueCell {
    /// Reads a part of the queue, looks at it without the queue's lock, and hands out what matches and is still there. What does not
    /// match is not kept.
    pub(crate) fn scan(self: &Arc<Self>, scan: &Scan) -> PagedIn {
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
        let count = loaded.messages.len() as u64;
        self.paging.scanned.fetch_add(count, Ordering::Relaxed);
        let too_early = loaded.next <= scan.from;
        let scanned = scan.look_at(loaded.messages.into_iter().map(stored), loaded.next);
        let last = scanned.last_match();
        self.announce(last);
        let mut after = Aftermath::default();
        let mut state = self.state.lock();
        if state.deleted {
            return PagedIn::Done;
        }
        let known = !self.stores(true) || last.is_none_or(|last| last <= state.noted);
        let moved = self.relocations.load(Ordering::Acquire) != relocations;
        if too_early || moved || !known || self.is_held(&mut state) {
            // Not written yet, copied meanwhile, or the log does not know yet that they may be delivered: once more, later.
            state.queue.load_failed(scan.level, scan.token);
        } else {
            let super::State { queue, effects, .. } = &mut *state;
            let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
            queue.expire_waited(now_ms, effects);
            let missing = queue.scanned(scan, scanned, effects);
            self.report_missing(missing);
        }
        self.follow(&mut state, &mut after);
        self.balance(&mut state);
        drop(state);
        self.finish(after);
        if too_early {
            PagedIn::TooEarly
        } else {
            PagedIn::Done
        }
    }
}
