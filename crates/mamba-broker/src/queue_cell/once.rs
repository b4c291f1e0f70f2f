//! A queue that takes each message once: duplicates stay outside.

use std::sync::Arc;

use mamba_queue::Lasting;
use mamba_store::{Seen, SeenId};
use mamba_types::LogPosition;

use super::{
    Aftermath, QueueCell, State,
    arrival::{Arrival, Enqueued, Entry},
};
use crate::deduplication::Id;

impl QueueCell {
    /// What messages are known by, if it matters to this queue. Empty if not.
    pub(super) fn ids_of(&self, arrivals: &[Arrival]) -> Vec<Option<Id>> {
        let Some(rules) = &self.deduplication else {
            return Vec::new();
        };
        let id_of = |arrival: &Arrival| rules.id_of(&arrival.incoming.message);
        arrivals.iter().map(id_of).collect()
    }

    /// Takes in what is no duplicate. `ids` are the messages', in their order, or none; `along` are the ids of an exchange that are
    /// to be written down with them, by item. `all_fit` says that the queue refuses none of them.
    pub(super) fn take_in_once(
        self: &Arc<Self>,
        state: &mut State,
        arrivals: &mut Vec<Arrival>,
        ids: Vec<Option<Id>>,
        along: &[(u32, Seen)],
        all_fit: bool,
        (enqueued, after): (&mut Enqueued, &mut Aftermath),
    ) {
        let now_ms = self.now_ms();
        let mut admitted = Vec::new();
        let mut seen = Vec::new();
        let ids = ids.into_iter().chain(std::iter::repeat(None));
        for (arrival, id) in arrivals.drain(..).zip(ids) {
            if Self::repeats(state, id.as_ref(), now_ms) {
                Self::leave_out(state, arrival.item, enqueued);
                continue;
            }
            if !all_fit && !state.queue.admits(1, arrival.incoming.message.body_len()) {
                enqueued.rejected.push(arrival.item);
                Self::refuse(state, arrival, &mut after.dead);
                continue;
            }
            let at = arrival.incoming.at;
            seen.extend(id.and_then(|id| self.remember(state, &id, at, now_ms)));
            if let Ok(found) = along.binary_search_by_key(&arrival.item, |(item, _)| *item) {
                seen.push(along[found].1);
            }
            admitted.push(arrival);
            if !all_fit {
                let outcome = (&mut *enqueued, &mut *after);
                self.take_in(state, admitted.drain(..), Entry::WithIds(&seen), outcome);
                self.noted(state, &seen, enqueued);
                seen.clear();
            }
        }
        if !admitted.is_empty() {
            let outcome = (&mut *enqueued, &mut *after);
            self.take_in(state, admitted.drain(..), Entry::WithIds(&seen), outcome);
            self.noted(state, &seen, enqueued);
        }
    }

    /// Takes duplicates out of messages that are to wait, and remembers the others. Returns the ids to be written down with them.
    pub(super) fn keep_out(
        &self,
        state: &mut State,
        arrivals: &mut Vec<Arrival>,
        ids: Vec<Option<Id>>,
        enqueued: &mut Enqueued,
    ) -> Vec<Seen> {
        if state.deleted {
            return Vec::new();
        }
        let now_ms = self.now_ms();
        let mut seen = Vec::new();
        let mut ids = ids.into_iter();
        arrivals.retain(|arrival| {
            let Some(id) = ids.next().flatten() else {
                return true;
            };
            if Self::repeats(state, Some(&id), now_ms) {
                Self::leave_out(state, arrival.item, enqueued);
                return false;
            }
            // All that waits lies in the log, but not all of it stays.
            let lasts = self.stores(arrival.incoming.message.persistent());
            let at = Some(arrival.incoming.at).filter(|_| lasts);
            seen.extend(self.remember(state, &id, at.unwrap_or(LogPosition::NONE), now_ms));
            true
        });
        seen
    }

    /// The ids are in the log.
    pub(super) fn noted(&self, state: &mut State, seen: &[Seen], enqueued: &Enqueued) {
        if let Some(memory) = &mut state.memory
            && seen.iter().any(|seen| seen.owner == self.id)
        {
            memory.noted_at = memory.noted_at.max(enqueued.position);
        }
    }

    /// Puts back the ids that survived a restart.
    pub(crate) fn restore_ids(&self, ids: &[SeenId], now_ms: u64) {
        if let Some(memory) = &mut self.state.lock().memory {
            memory.restore(ids, now_ms);
        }
    }

    fn now_ms(&self) -> u64 {
        self.home.upgrade().map_or(0, |home| home.unix_ms())
    }

    fn repeats(state: &State, id: Option<&Id>, now_ms: u64) -> bool {
        id.zip(state.memory.as_ref())
            .is_some_and(|(id, memory)| memory.cache.contains(&id.hash, now_ms))
    }

    fn leave_out(state: &mut State, item: u32, enqueued: &mut Enqueued) {
        if let Some(memory) = &mut state.memory {
            memory.duplicates += 1;
            enqueued.position = enqueued.position.max(memory.noted_at);
        }
        enqueued.duplicates.push(item);
    }

    /// Remembers the id of a message that lies at `at` in the log, or is gone after a restart. Returns what to write down.
    fn remember(&self, state: &mut State, id: &Id, at: LogPosition, now_ms: u64) -> Option<Seen> {
        let memory = state.memory.as_mut()?;
        if at == LogPosition::NONE {
            memory.insert(id, Lasting::Volatile, now_ms);
            return None;
        }
        memory.insert(id, Lasting::Stored, now_ms);
        Some(Seen {
            owner: self.id,
            id: SeenId {
                hash: id.hash,
                expires_at_ms: id.expires_at(now_ms),
            },
            at,
        })
    }
}
