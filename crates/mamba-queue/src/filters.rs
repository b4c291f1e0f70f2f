//! Consumers that want some messages only: one group per distinct filter, and how far each has looked.
//!
//! A group goes through a level in the order of delivery and looks at every message once. [`Cursor`] says where it stands in one
//! level; what it has passed does not match, and is looked at again only if it was out and came back.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use mamba_types::{Message, Sequence};

use crate::{
    consumers::ConsumerId,
    paging::{Candidates, Target},
};

/// Distinct filters the consumers of one queue may have.
pub const FILTERS_MAX: usize = 64;
/// Messages looked at in one call of [`crate::Queue::dispatch`]: it runs under the queue's lock.
pub(crate) const LOOKS_MAX: usize = 16_384;
/// Messages that came back and are remembered one by one; with more, everything behind the first is looked at again.
const AGAIN_MAX: usize = 4096;
/// Octets of records the first reading for a filter asks for; as long as nothing matches, each one asks for twice as many.
pub(crate) const SCAN_OCTETS_MIN: usize = 64 << 10;

/// Which messages a consumer wants.
///
/// The answer depends on the message alone: it is asked once, and may be asked without the queue's lock.
pub trait Selector: Debug + Send + Sync {
    /// The same for filters that match the same messages.
    fn identity(&self) -> &str;

    /// Whether the message is wanted.
    fn matches(&self, message: &Message) -> bool;
}

/// How far a group has looked through one level.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    /// What came back to a quorum queue was seen if its rank is lower.
    pub(crate) rank: u64,
    /// Lower sequences were seen…
    pub(crate) to: Sequence,
    /// … but for these, which came back since. May name messages that are not here any more.
    pub(crate) again: BTreeSet<Sequence>,
    /// Of what stands aside before others with lower sequences, lower ones than this were seen.
    pub(crate) jumped: Sequence,
    /// The end of the reading that is under way for the group, as long as its answer is good. What comes back before that is
    /// remembered although the group has not come to it, for the reading may pass it unseen.
    pub(crate) reading: Option<Sequence>,
}

impl Cursor {
    /// A message is back in its place. `jumped` if it did not go there, but before everything paged.
    pub(crate) fn came_back(&mut self, sequence: Sequence, jumped: bool) {
        let seen = match jumped {
            true => self.jumped,
            false => self.reading.map_or(self.to, |end| self.to.max(end)),
        };
        if sequence >= seen {
            return;
        }
        self.again.insert(sequence);
        if self.again.len() > AGAIN_MAX
            && let Some(first) = self.again.first().copied()
        {
            self.to = self.to.min(first);
            self.again.clear();
            self.jumped = Sequence(0);
            self.reading = None;
        }
    }
}

/// The consumers of one filter.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) selector: Arc<dyn Selector>,
    members: usize,
    /// Tells it from a later group in the same slot.
    pub(crate) serial: u64,
    /// Out of the turn: there is nothing for them before something new comes.
    waiting: Vec<ConsumerId>,
    /// What has to be read before the group can go on, and in which level.
    pub(crate) target: Option<(u8, Target)>,
    /// Octets its next reading asks for.
    pub(crate) scan_octets: usize,
    /// Matches that were read and can be handed out in this call.
    pub(crate) candidates: Option<Candidates>,
}

/// All groups of a queue, by slot.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    groups: Vec<Option<Group>>,
    count: usize,
    serials: u64,
    /// Whose turn to read it is.
    turn: usize,
    /// Unfiltered consumers that found nothing at the front in this call.
    front: Vec<ConsumerId>,
    /// Messages that may still be looked at in this call.
    pub(crate) looks: usize,
    /// Somebody stopped looking for that reason.
    pub(crate) unfinished: bool,
}

impl Filters {
    pub(crate) const fn new() -> Self {
        Self {
            groups: Vec::new(),
            count: 0,
            serials: 0,
            turn: 0,
            front: Vec::new(),
            looks: 0,
            unfinished: false,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The slot of the group with this filter, made if need be; `None` if there are too many.
    pub(crate) fn join(&mut self, selector: &Arc<dyn Selector>) -> Option<usize> {
        let same = |group: &&mut Group| group.selector.identity() == selector.identity();
        let slots = self.groups.iter_mut().enumerate();
        let known = slots
            .filter_map(|(slot, group)| Some((slot, group.as_mut()?)))
            .find(|(_, group)| same(group));
        if let Some((slot, group)) = known {
            group.members += 1;
            return Some(slot);
        }
        if self.count == FILTERS_MAX {
            return None;
        }
        self.count += 1;
        self.serials += 1;
        let group = Group {
            selector: Arc::clone(selector),
            members: 1,
            serial: self.serials,
            waiting: Vec::new(),
            target: None,
            scan_octets: SCAN_OCTETS_MIN,
            candidates: None,
        };
        match self.groups.iter().position(Option::is_none) {
            Some(slot) => {
                self.groups[slot] = Some(group);
                Some(slot)
            }
            None => {
                self.groups.push(Some(group));
                Some(self.groups.len() - 1)
            }
        }
    }

    /// A consumer leaves. Returns whether its group went with it.
    pub(crate) fn leave(&mut self, slot: usize) -> bool {
        let Some(entry) = self.groups.get_mut(slot) else {
            return false;
        };
        let Some(group) = entry else {
            return false;
        };
        group.members -= 1;
        if group.members > 0 {
            return false;
        }
        *entry = None;
        self.count -= 1;
        true
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Group> {
        self.groups.get_mut(slot)?.as_mut()
    }

    /// A consumer has nothing to take in this call, or until something new comes.
    pub(crate) fn wait(&mut self, group: Option<usize>, id: ConsumerId) {
        match group {
            None => self.front.push(id),
            Some(slot) => {
                if let Some(group) = self.get_mut(slot) {
                    group.waiting.push(id);
                }
            }
        }
    }

    /// Unfiltered consumers that stepped aside for the rest of the call.
    pub(crate) fn take_front(&mut self) -> Vec<ConsumerId> {
        std::mem::take(&mut self.front)
    }

    /// The slots, beginning with the one whose turn to read it is.
    pub(crate) fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        let (turn, count) = (self.turn, self.groups.len());
        (0..count).map(move |step| (turn + step) % count)
    }

    /// A group reads: the next one's turn.
    pub(crate) const fn end_turn(&mut self, slot: usize) {
        self.turn = slot + 1;
    }

    /// Something new came: everybody may look again, in order.
    pub(crate) fn wake(&mut self) -> Vec<ConsumerId> {
        let mut waiting = Vec::new();
        for slot in self.slots() {
            if let Some(group) = self.get_mut(slot) {
                waiting.append(&mut group.waiting);
                group.target = None;
            }
        }
        waiting
    }
}
