//! A queue's consumers and whose turn it is (`spec: semantics §13, §15, §16`).

use std::{collections::VecDeque, sync::Arc};

use crate::filters::Selector;

/// The connection's side of a consumer, as the queue sees it.
pub trait Port {
    /// Octets that may be handed to this consumer's connection now; 0 means "not now", and the owner of the
    /// port calls [`crate::Queue::resume`] when that changes.
    fn room(&self) -> usize;

    /// Whether the channel-wide prefetch limit admits one more delivery.
    fn channel_admits(&self) -> bool;

    /// Counts one delivery that needs an acknowledgement against the channel-wide limit.
    fn count_delivery(&self);
}

/// A consumer's place in its queue; never mistaken for a later consumer in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerId {
    slot: u32,
    generation: u32,
}

/// What a `basic.consume` asks for.
#[derive(Clone, Debug, Default)]
pub struct Subscription {
    /// Deliveries count as settled when handed over.
    pub no_ack: bool,
    /// No other consumer beside this one.
    pub exclusive: bool,
    /// `x-priority`: higher is served first.
    pub priority: i64,
    /// Unsettled deliveries allowed; 0 means no limit.
    pub prefetch: u32,
    /// The messages it wants; `None`: all.
    pub filter: Option<Arc<dyn Selector>>,
}

#[derive(Debug)]
pub(crate) struct Consumer<P> {
    pub(crate) port: P,
    pub(crate) subscription: Subscription,
    /// The slot of its filter's group.
    pub(crate) group: Option<usize>,
    pub(crate) unacked: u32,
    /// Its group has nothing for it: named in the list of those who wait for something new.
    pub(crate) waits: bool,
    /// In its priority's ring; a blocked consumer waits outside.
    listed: bool,
    /// About to go: gets nothing any more.
    retired: bool,
    /// Octets left to hand over in the current call, read from the port once per call.
    pub(crate) room: usize,
    /// The call `room` belongs to.
    pub(crate) room_call: u64,
    /// Order of arrival.
    arrival: u64,
    generation: u32,
}

impl<P> Consumer<P> {
    /// Deliveries it may still have out.
    pub(crate) const fn credit(&self) -> u32 {
        match self.subscription.prefetch {
            _ if self.subscription.no_ack => u32::MAX,
            0 => u32::MAX,
            prefetch => prefetch.saturating_sub(self.unacked),
        }
    }

    pub(crate) const fn has_prefetch(&self) -> bool {
        self.credit() > 0
    }
}

/// All consumers of a queue.
#[derive(Debug)]
pub(crate) struct Consumers<P> {
    slots: Vec<Option<Consumer<P>>>,
    generations: Vec<u32>,
    /// Consumers that may get messages, by priority, highest first; each ring's front is next.
    rings: Vec<(i64, VecDeque<u32>)>,
    /// With single active consumer: the one that gets messages.
    active: Option<ConsumerId>,
    single_active: bool,
    count: usize,
    arrivals: u64,
}

impl<P> Consumers<P> {
    pub(crate) const fn new(single_active: bool) -> Self {
        Self {
            slots: Vec::new(),
            generations: Vec::new(),
            rings: Vec::new(),
            active: None,
            single_active,
            count: 0,
            arrivals: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn active(&self) -> Option<ConsumerId> {
        self.active
    }

    pub(crate) fn any_exclusive(&self) -> bool {
        self.iter()
            .any(|(_, consumer)| consumer.subscription.exclusive)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConsumerId, &Consumer<P>)> {
        self.slots.iter().zip(0u32..).filter_map(|(slot, index)| {
            slot.as_ref().map(|consumer| {
                (
                    ConsumerId {
                        slot: index,
                        generation: consumer.generation,
                    },
                    consumer,
                )
            })
        })
    }

    pub(crate) fn get(&self, id: ConsumerId) -> Option<&Consumer<P>> {
        self.slots
            .get(id.slot as usize)?
            .as_ref()
            .filter(|consumer| consumer.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: ConsumerId) -> Option<&mut Consumer<P>> {
        self.slots
            .get_mut(id.slot as usize)?
            .as_mut()
            .filter(|consumer| consumer.generation == id.generation)
    }

    pub(crate) fn add(
        &mut self,
        port: P,
        subscription: Subscription,
        group: Option<usize>,
    ) -> ConsumerId {
        let index = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.slots.push(None);
                self.generations.push(0);
                self.slots.len() - 1
            });
        let slot = u32::try_from(index).expect("a node has far fewer consumers than 2^32");
        self.generations[index] = self.generations[index].wrapping_add(1);
        let generation = self.generations[index];
        self.arrivals += 1;
        self.count += 1;
        self.slots[index] = Some(Consumer {
            port,
            subscription,
            group,
            unacked: 0,
            waits: false,
            listed: false,
            retired: false,
            room: 0,
            room_call: 0,
            arrival: self.arrivals,
            generation,
        });
        let id = ConsumerId { slot, generation };
        if self.single_active && self.active.is_none() {
            self.active = Some(id);
        }
        self.list(id);
        id
    }

    /// Takes a consumer out. With single active consumer, the next one takes over: highest priority, then
    /// longest waiting.
    pub(crate) fn remove(&mut self, id: ConsumerId) -> Option<Consumer<P>> {
        self.get(id)?;
        self.unlist(id);
        let consumer = self.slots[id.slot as usize].take()?;
        self.count -= 1;
        if self.active == Some(id) {
            self.active = None;
            self.activate_best();
        }
        Some(consumer)
    }

    /// With single active consumer: makes the best waiting consumer the active one if `better` than now.
    pub(crate) fn activate_best(&mut self) {
        if !self.single_active {
            return;
        }
        let best = self
            .iter()
            .max_by_key(|(_, consumer)| {
                (
                    consumer.subscription.priority,
                    std::cmp::Reverse(consumer.arrival),
                )
            })
            .map(|(id, _)| id);
        if best != self.active {
            if let Some(old) = self.active.take() {
                self.unlist(old);
            }
            self.active = best;
        }
        if let Some(id) = best {
            self.list(id);
        }
    }

    /// The priority of the most important consumer that waits behind the active one.
    pub(crate) fn best_waiting_priority(&self) -> Option<i64> {
        self.iter()
            .filter(|(id, _)| Some(*id) != self.active)
            .map(|(_, c)| c.subscription.priority)
            .max()
    }

    /// Puts a consumer at the end of its priority's ring, unless it is there or may not be.
    pub(crate) fn list(&mut self, id: ConsumerId) {
        if self.single_active && self.active != Some(id) {
            return;
        }
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        if consumer.listed || consumer.retired {
            return;
        }
        consumer.listed = true;
        let priority = consumer.subscription.priority;
        let index = self
            .rings
            .binary_search_by(|(p, _)| priority.cmp(p))
            .unwrap_or_else(|index| {
                self.rings.insert(index, (priority, VecDeque::new()));
                index
            });
        self.rings[index].1.push_back(id.slot);
    }

    /// Whether it is one that gets messages at all: with single active consumer, only that one.
    pub(crate) fn may_be_served(&self, id: ConsumerId) -> bool {
        !self.single_active || self.active == Some(id)
    }

    /// Takes a consumer out of the turn: it is blocked or gone.
    pub(crate) fn unlist(&mut self, id: ConsumerId) {
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        if !consumer.listed {
            return;
        }
        consumer.listed = false;
        let priority = consumer.subscription.priority;
        if let Ok(index) = self.rings.binary_search_by(|(p, _)| priority.cmp(p)) {
            let ring = &mut self.rings[index].1;
            if ring.front() == Some(&id.slot) {
                ring.pop_front();
            } else {
                ring.retain(|slot| *slot != id.slot);
            }
            if ring.is_empty() {
                self.rings.remove(index);
            }
        }
    }

    /// Takes a consumer out of the turn for good.
    pub(crate) fn retire(&mut self, id: ConsumerId) {
        self.unlist(id);
        if let Some(consumer) = self.get_mut(id) {
            consumer.retired = true;
        }
    }

    /// Whose turn it is.
    pub(crate) fn next(&self) -> Option<ConsumerId> {
        let slot = *self.rings.first()?.1.front()?;
        let consumer = self.slots[slot as usize].as_ref()?;
        Some(ConsumerId {
            slot,
            generation: consumer.generation,
        })
    }

    /// Ends the turn of the consumer that [`Self::next`] named.
    pub(crate) fn rotate(&mut self) {
        if let Some((_, ring)) = self.rings.first_mut()
            && ring.len() > 1
        {
            ring.rotate_left(1);
        }
    }
}
