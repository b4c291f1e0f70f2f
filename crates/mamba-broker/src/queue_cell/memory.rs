//! What a queue keeps in memory, what it drops, and how it is read back.

use std::{sync::Arc, sync::atomic::Ordering};

use bytes::Bytes;
use mamba_queue::{PageIn, Stored, Window};
use mamba_store::{Damage, LoadRequest, LoadedMessage, Settled};
use mamba_types::{LogPosition, QueueId, Sequence, message};

use super::{Aftermath, QueueCell, State, journal::Runs};
use crate::paging::Progress;

/// Change of octets in memory that the node's budget is told.
const ACCOUNT_STEP: usize = 16 << 10;
/// Octets of transient messages written to the log in one go.
const SPILL_BYTES_MAX: usize = 4 << 20;
/// Unwritten octets of the log above which no transient messages are added to them.
const SPILL_BACKLOG_MAX: u64 = 16 << 20;
/// Messages read back at once.
pub(super) const READ_MESSAGES_MAX: usize = 16_384;

/// Runs measured at once.
const MEASURE_RUNS_MAX: usize = 4096;

/// A message read back, without what only its queue knows of it.
pub(super) fn stored(loaded: LoadedMessage) -> Stored {
    Stored {
        sequence: loaded.sequence,
        message: loaded.message,
        at: loaded.at,
        returns: 0,
        redelivered: false,
    }
}

impl QueueCell {
    /// Keeps what the queue has in memory within its share of the node's budget: what is in the log anyway is dropped, and what is
    /// not goes there first.
    pub(super) fn balance(&self, state: &mut State) {
        let resident = state.queue.resident_bytes();
        let share = self.paging.share();
        // What could not be dropped the last time can be dropped only when more of the log has been written.
        let written = self.log.written();
        if resident > share && (written > state.paged_at || resident > 2 * state.kept) {
            let keep = share / 4;
            let log_is_well = !self.log.failed() && self.log.backlog_bytes() < SPILL_BACKLOG_MAX;
            if log_is_well {
                self.spill(state, keep);
            }
            let dropped = state.queue.page_out(written, keep);
            state.paged_at = written;
            state.kept = state.queue.resident_bytes();
            if dropped > 0 {
                self.paging
                    .dropped_bytes
                    .fetch_add(dropped as u64, Ordering::Relaxed);
            }
        }
        let resident = state.queue.resident_bytes();
        if resident.abs_diff(state.accounted) >= ACCOUNT_STEP || resident == 0 {
            self.paging.account(state.accounted, resident);
            state.accounted = resident;
        }
    }

    /// Writes transient messages beyond `keep` octets to the log, for want of memory: nobody waits for that, and a restart
    /// forgets them.
    pub(super) fn spill(&self, state: &mut State, keep: usize) {
        let mut chunk = Vec::new();
        let mut spilled: Vec<(u8, &mut Stored, usize)> = Vec::new();
        for (level, stored) in state.queue.unstored_beyond(keep) {
            if chunk.len() >= SPILL_BYTES_MAX {
                break;
            }
            let start = chunk.len();
            chunk.extend_from_slice(stored.message.record());
            // A transient record has no checksum before it goes to a disk.
            message::finish(&mut chunk, start);
            spilled.push((level, stored, start));
        }
        if spilled.is_empty() {
            return;
        }
        let appended = self.log.append_messages(Bytes::from(chunk));
        let mut runs = Runs::new(false);
        runs.volatile = true;
        for (level, stored, start) in spilled {
            stored.at = LogPosition(appended.at().0 + start as u64);
            runs.add(
                stored.sequence,
                level,
                stored.at,
                &stored.message,
                stored.returns,
            );
        }
        self.log.append_enqueued(self.id, &runs.list);
    }

    /// Looks again at what waited for the log, or for a filter.
    pub(crate) fn resume(self: &Arc<Self>) -> Progress {
        self.state.lock().looking = false;
        self.change(|_, _| ());
        Progress::Done
    }

    /// Counts octets that are an estimate since a restart, some runs at a time; then the length limit holds.
    pub(crate) fn measure(self: &Arc<Self>) -> Progress {
        let runs = {
            let mut state = self.state.lock();
            let mut runs = state.queue.estimated_runs(MEASURE_RUNS_MAX);
            let level = runs.first().map(|run| run.level);
            runs.retain(|run| Some(run.level) == level);
            state.measuring = !runs.is_empty();
            runs
        };
        let Some(first) = runs.first() else {
            self.change(|_, _| ());
            return Progress::Done;
        };
        let ranges: Vec<_> = runs.iter().map(|run| (run.from, run.to)).collect();
        let Some(octets) = self.log.body_octets(self.id, first.level, &ranges) else {
            return self.too_early();
        };
        let mut state = self.state.lock();
        for (run, octets) in runs.iter().zip(octets) {
            state.queue.measured(run, octets);
        }
        Progress::More
    }

    /// What is to be read has not been written. A log that has failed is not written any more: then it stays as it is.
    pub(super) fn too_early(&self) -> Progress {
        match self.log.failed() {
            true => Progress::Done,
            false => Progress::TooEarly,
        }
    }

    /// Drops from memory what can be had back from the disk; for queues nobody uses at the moment.
    pub(crate) fn tidy(&self) {
        let mut state = self.state.lock();
        if !state.deleted {
            self.balance(&mut state);
        }
    }

    /// Reads a part of the queue back that lies on the disk only.
    pub(crate) fn page_in(self: &Arc<Self>, wanted: &PageIn) -> Progress {
        let relocations = self.relocations.load(Ordering::Acquire);
        let window = self.paging.read_bytes();
        let loaded = self.log.load(&LoadRequest {
            queue: self.id,
            level: wanted.level,
            from: wanted.from,
            to: wanted.to,
            octets_max: wanted.octets.min(window).max(1),
            messages_max: READ_MESSAGES_MAX,
        });
        self.report_damage(self.id, &loaded.damaged);
        if loaded.next <= wanted.from {
            return self.too_early();
        }
        let count = loaded.messages.len() as u64;
        self.paging.read.fetch_add(count, Ordering::Relaxed);
        self.announce(loaded.messages.last().map(|last| last.sequence));
        let mut after = Aftermath::default();
        let mut state = self.state.lock();
        if state.deleted {
            return Progress::Done;
        }
        let queue = &mut state.queue;
        if self.relocations.load(Ordering::Acquire) != relocations {
            // Copied meanwhile: read again, from their new places.
            queue.load_failed(wanted.level, wanted.token);
        } else {
            queue.set_window(Window {
                head_bytes: window,
                low_bytes: window / 2,
                tail_bytes: window,
            });
            let messages = loaded.messages.into_iter().map(stored).collect();
            let missing = queue.paged_in(wanted.level, wanted.token, messages, loaded.next);
            self.report_missing(missing);
        }
        // Not balanced: what was just read is for whoever asked for it, whatever its size.
        self.follow(&mut state, &mut after);
        drop(state);
        self.finish(after);
        Progress::Done
    }

    /// Has the log know of messages that will be within reach of consumers in a moment, and waits for it: so that they need not.
    pub(super) fn announce(self: &Arc<Self>, up_to: Option<Sequence>) {
        let Some(up_to) = up_to.filter(|_| self.stores(true)) else {
            return;
        };
        let position = {
            let mut state = self.state.lock();
            if state.queue.consumer_count() == 0 || up_to <= state.noted {
                return;
            }
            state.noted = up_to;
            let position = self.log.append_delivered(self.id, up_to);
            if self.log.is_driven() {
                state.noted_at = position;
                self.is_held(&mut state);
            }
            position
        };
        self.log.wait_durable(position);
    }

    /// Messages of the queue turned out to be nowhere.
    pub(super) fn report_missing(&self, missing: u64) {
        if missing > 0 {
            self.paging
                .quarantined
                .fetch_add(missing, Ordering::Relaxed);
            tracing::error!(vhost = %self.vhost, queue = %self.name, missing, "messages of a queue cannot be read back from the log; the queue goes on without them");
        }
    }

    /// `queue` is the queue's own identity, or its waiting room's.
    pub(super) fn report_damage(&self, queue: QueueId, damaged: &[Damage]) {
        for damage in damaged {
            tracing::error!(
                vhost = %self.vhost,
                queue = %self.name,
                first = damage.first.0,
                messages = damage.count,
                reason = %damage.reason,
                "damaged messages in the log: check the disk, and run `mambamq store verify` when the node is stopped"
            );
            if !damage.unreadable {
                self.log.quarantine(damage);
                let each = damage.octets / damage.count.max(1);
                let settled = (0..u64::from(damage.count)).map(|number| Settled {
                    sequence: Sequence(damage.first.0 + number),
                    at: damage.at,
                    octets: each,
                });
                self.log.append_settled(queue, &settled.collect::<Vec<_>>());
            }
        }
    }
}
