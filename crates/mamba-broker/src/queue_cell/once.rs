//! A queue that takes each message once: duplicates stay outside.

use std::sync::Arc;

use mamba_queue::{Lasting, Overflow};
use mamba_store::{Seen, SeenId};
use mamba_types::LogPosition;

use super::{
    Aftermath, QueueCell, State,
    arrival::{Arrival, Enqueued},
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

    /// Takes in what is no duplicate. `ids` are the messages', in their order; `along` are the ids of an exchange that are to be
    /// written down with them, by item.
    pub(super) fn take_in_once(
        self: &Arc<Self>,
        state: &mut State,
        arrivals: &mut Vec<Arrival>,
        ids: Vec<Option<Id>>,
        along: &[(u32, Seen)],
        (enqueued, after): (&mut Enqueued, &mut Aftermath),
    ) {
        let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
        let all_admitted = state.queue.settings().overflow == Overflow::DropHead;
        let mut admitted = Vec::new();
        let mut seen = Vec::new();
        let ids = ids.into_iter().chain(std::iter::repeat(None));
        for (arrival, id) in arrivals.drain(..).zip(ids) {
            let known = id
                .zip(state.memory.as_mut())
                .is_some_and(|(id, memory)| memory.cache.contains(&id.hash, now_ms));
            if known {
                self.leave_out(state, arrival.item, enqueued);
                continue;
            }
            if !all_admitted && !state.queue.admits(arrival.incoming.message.body_len()) {
                enqueued.rejected.push(arrival.item);
                Self::refuse(state, arrival, &mut after.dead);
                continue;
            }
            let at = arrival.incoming.at;
            if let Some((id, memory)) = id.zip(state.memory.as_mut()) {
                if at == LogPosition::NONE {
                    memory.insert(&id, Lasting::Volatile, now_ms);
                } else {
                    memory.insert(&id, Lasting::Stored, now_ms);
                    seen.push(Seen {
                        owner: self.id,
                        id: SeenId {
                            hash: id.hash,
                            expires_at_ms: id.expires_at(now_ms),
                        },
                        at,
                    });
                }
            }
            if let Ok(found) = along.binary_search_by_key(&arrival.item, |(item, _)| *item) {
                seen.push(along[found].1);
            }
            admitted.push(arrival);
            if !all_admitted {
                self.take_in(state, admitted.drain(..), &seen, enqueued, after);
                self.noted(state, &mut seen, enqueued);
            }
        }
        if !admitted.is_empty() {
            self.take_in(state, admitted.drain(..), &seen, enqueued, after);
            self.noted(state, &mut seen, enqueued);
        }
    }

    fn leave_out(&self, state: &mut State, item: u32, enqueued: &mut Enqueued) {
        if let Some(memory) = &mut state.memory {
            memory.duplicates += 1;
            enqueued.position = enqueued.position.max(memory.noted_at);
        }
        enqueued.duplicates.push(item);
    }

    /// The ids are in the log.
    fn noted(&self, state: &mut State, seen: &mut Vec<Seen>, enqueued: &mut Enqueued) {
        if let Some(memory) = &mut state.memory
            && seen.iter().any(|seen| seen.owner == self.id)
        {
            memory.noted_at = memory.noted_at.max(enqueued.position);
        }
        seen.clear();
    }

    /// Puts back the ids that survived a restart.
    pub(crate) fn restore_ids(&self, ids: &[SeenId], now_ms: u64) {
        if let Some(memory) = &mut self.state.lock().memory {
            memory.restore(ids, now_ms);
        }
    }
}
