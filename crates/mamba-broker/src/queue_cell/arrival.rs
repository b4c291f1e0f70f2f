//! Messages on their way into a queue.

use std::sync::Arc;

use mamba_queue::{DeathReason, Incoming, Overflow, Stored};
use mamba_store::Seen;
use mamba_types::{LogPosition, Message, Sequence};

use super::{Aftermath, QueueCell, State, journal::Runs};
use crate::pacing;

/// What became of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Enqueued {
    /// The log position that makes the stored messages safe.
    pub(crate) position: LogPosition,
    /// The queue has grown long although it has consumers.
    pub(crate) long: bool,
    /// Items of the batch that the queue's length limit refused.
    pub(crate) rejected: Vec<u32>,
    /// Items that the queue had taken before: `position` makes what they repeat safe.
    pub(crate) duplicates: Vec<u32>,
    /// Other queues that have grown long by the dead letters of the batch, and how many they got.
    pub(crate) long_beyond: Vec<(Arc<QueueCell>, usize)>,
}

impl Enqueued {
    pub(super) const NOTHING: Self = Self {
        position: LogPosition::NONE,
        long: false,
        rejected: Vec::new(),
        duplicates: Vec::new(),
        long_beyond: Vec::new(),
    };
}

/// A message for [`QueueCell::enqueue`].
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) incoming: Incoming,
    /// Its number in the publishing connection's batch.
    pub(crate) item: u32,
}

impl Arrival {
    /// A message that is a batch of its own.
    pub(crate) const fn alone(message: Message, at: LogPosition) -> Self {
        Self {
            incoming: Incoming {
                message,
                at,
                returns: 0,
                redelivered: false,
            },
            item: 0,
        }
    }
}

/// How the log learns of arrivals.
#[derive(Clone, Copy)]
pub(super) enum Entry<'a> {
    /// Somebody may wait for it.
    Awaited,
    /// The same, along with ids they came with.
    WithIds(&'a [Seen]),
    /// They have another place in the log until then.
    Moved,
}

impl QueueCell {
    /// Takes a batch of messages in.
    pub(crate) fn enqueue(self: &Arc<Self>, arrivals: &mut Vec<Arrival>) -> Enqueued {
        let mut dead = Vec::new();
        let mut enqueued = self.enqueue_only(arrivals, &[], &mut dead);
        enqueued.long_beyond = self.bury(dead).long;
        enqueued
    }

    /// Like [`Self::enqueue`], and leaves what died of it to the caller. `along` are ids of an exchange to be written down together
    /// with the items they came with.
    pub(crate) fn enqueue_only(
        self: &Arc<Self>,
        arrivals: &mut Vec<Arrival>,
        along: &[(u32, Seen)],
        dead: &mut Vec<(Stored, DeathReason)>,
    ) -> Enqueued {
        let mut enqueued = Enqueued::NOTHING;
        let ids = self.ids_of(arrivals);
        let mut after = Aftermath::default();
        let mut state = self.state.lock();
        if state.deleted {
            arrivals.clear();
            return enqueued;
        }
        let body_len = |arrival: &Arrival| arrival.incoming.message.body_len();
        let all_fit = state.queue.settings().overflow == Overflow::DropHead
            || state
                .queue
                .admits(arrivals.len(), arrivals.iter().map(body_len).sum());
        if !ids.is_empty() || !along.is_empty() {
            let outcome = (&mut enqueued, &mut after);
            self.take_in_once(&mut state, arrivals, ids, along, all_fit, outcome);
        } else if all_fit {
            let arrivals = arrivals.drain(..);
            let outcome = (&mut enqueued, &mut after);
            self.take_in(&mut state, arrivals, Entry::Awaited, outcome);
        } else {
            // Whether there is room for a message depends on where the one before it went.
            for arrival in arrivals.drain(..) {
                if state.queue.admits(1, body_len(&arrival)) {
                    let arrivals = std::iter::once(arrival);
                    let outcome = (&mut enqueued, &mut after);
                    self.take_in(&mut state, arrivals, Entry::Awaited, outcome);
                } else {
                    enqueued.rejected.push(arrival.item);
                    Self::refuse(&state, arrival, &mut after.dead);
                }
            }
        }
        self.balance(&mut state);
        self.note_use(&mut state);
        enqueued.long = state.queue.consumer_count() > 0
            && (state.queue.ready_count() > pacing::LONG_MESSAGES
                || state.queue.ready_bytes() > pacing::LONG_BYTES);
        drop(state);
        dead.append(&mut after.dead);
        enqueued
    }

    /// Whether its length limit has room for this one.
    pub(crate) fn admits(&self, message: &Message) -> bool {
        let state = self.state.lock();
        state.queue.admits(1, message.body_len()) || state.queue.settings().dead_letters_refused()
    }

    pub(super) fn take_in(
        self: &Arc<Self>,
        state: &mut State,
        arrivals: impl ExactSizeIterator<Item = Arrival>,
        entry: Entry<'_>,
        (enqueued, after): (&mut Enqueued, &mut Aftermath),
    ) {
        let count = arrivals.len() as u64;
        self.stats.published(count);
        let queue = &mut state.queue;
        let was_empty = queue.ready_count() + queue.unacked_count() == 0;
        let watched = queue.consumer_count() > 0;
        // Behind what lies on the disk nobody gets them before they have been read back or moved up, but for filters.
        let mut paged = [false; 256];
        for level in queue.paged_levels() {
            paged[usize::from(level)] = true;
        }
        let filtered = queue.has_filters();
        let known_before = state.noted.0 + 1 >= queue.next_sequence().0;
        let all_at_once = watched && (queue.paged_count() == 0 || filtered && known_before);
        let mut runs = Runs::new(false);
        let settings = *queue.settings();
        let mut next = queue.next_sequence();
        queue.enqueue(arrivals.map(|arrival| {
            let Incoming {
                message,
                at,
                returns,
                redelivered,
            } = &arrival.incoming;
            let level = settings.level_of(message);
            runs.may_be_delivered = *redelivered
                || *returns > 0
                || (watched && (filtered || !paged[usize::from(level)]));
            runs.add(next, level, *at, message, *returns);
            next = next.next();
            arrival.incoming
        }));
        if self.declaration.durable && !self.is_quorum() {
            let stored: u64 = runs.list.iter().map(|run| u64::from(run.count)).sum();
            state.usage.came(stored > 0, stored < count, was_empty);
        }
        if !runs.list.is_empty() {
            let position = match entry {
                Entry::Awaited | Entry::WithIds([]) => {
                    self.log.append_enqueued(self.id, &runs.list)
                }
                Entry::WithIds(seen) => self.log.append_seen(self.id, &runs.list, seen),
                Entry::Moved => self.log.append_moved_in(self.id, &runs.list),
            };
            enqueued.position = enqueued.position.max(position);
        }
        if all_at_once {
            // Also when none is stored: of those the log need not know, should they come back.
            state.noted = Sequence(next.0.saturating_sub(1));
        }
        if watched || queue.may_expire() || queue.has_length_limit() {
            self.carry_out(state, after);
            self.arm(state);
        }
    }

    /// A message the length limit refused: dropped, or dead-lettered without ever having been in the queue.
    pub(super) fn refuse(state: &State, arrival: Arrival, dead: &mut Vec<(Stored, DeathReason)>) {
        let settings = state.queue.settings();
        if settings.dead_letters_refused() {
            let message = arrival.incoming.message;
            let stored = Stored {
                sequence: Sequence(0),
                message,
                at: LogPosition::NONE,
                returns: 0,
                redelivered: false,
            };
            dead.push((stored, DeathReason::MaxLength));
        }
    }
}
