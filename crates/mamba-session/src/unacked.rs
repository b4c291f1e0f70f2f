//! Outstanding deliveries of one channel.

use std::collections::VecDeque;

use mamba_types::DeliveryTag;

/// A delivery tag that is not outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTag(pub DeliveryTag);

/// Deliveries by tag, in the order of their tags.
///
/// A delivery settled out of turn leaves an empty slot behind; empty slots go when they reach the front, or
/// together when they outnumber the deliveries. The first and the last slot are never empty.
#[derive(Debug)]
pub struct Unacked<T> {
    slots: VecDeque<(DeliveryTag, Option<T>)>,
    live: usize,
}

impl<T> Default for Unacked<T> {
    fn default() -> Self {
        Self {
            slots: VecDeque::new(),
            live: 0,
        }
    }
}

impl<T> Unacked<T> {
    /// Nothing outstanding.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a delivery. Tags must rise.
    pub fn push(&mut self, tag: DeliveryTag, delivery: T) {
        debug_assert!(self.slots.back().is_none_or(|(last, _)| *last < tag));
        self.slots.push_back((tag, Some(delivery)));
        self.live += 1;
    }

    /// Takes out the delivery `tag`, or with `multiple` all up to it, in order; tag 0 with `multiple` takes all and
    /// never fails.
    ///
    /// # Errors
    /// [`UnknownTag`] if `tag` is not outstanding; nothing is taken then.
    pub fn settle(
        &mut self,
        tag: DeliveryTag,
        multiple: bool,
        mut settled: impl FnMut(T),
    ) -> Result<(), UnknownTag> {
        self.remove(tag, multiple, |_, delivery| settled(delivery))
    }

    /// Like [`settle`](Self::settle), keeping the tags, for transactions.
    ///
    /// # Errors
    /// [`UnknownTag`] if `tag` is not outstanding; nothing is taken then.
    pub fn take(
        &mut self,
        tag: DeliveryTag,
        multiple: bool,
    ) -> Result<Vec<(DeliveryTag, T)>, UnknownTag> {
        let mut taken = Vec::new();
        self.remove(tag, multiple, |tag, delivery| taken.push((tag, delivery)))?;
        Ok(taken)
    }

    /// Puts back what [`take`](Self::take) took, in any order.
    pub fn put_back(&mut self, taken: Vec<(DeliveryTag, T)>) {
        if taken.is_empty() {
            return;
        }
        let outstanding = std::mem::take(&mut self.slots)
            .into_iter()
            .filter(|(_, slot)| slot.is_some());
        let mut slots: Vec<_> = outstanding
            .chain(
                taken
                    .into_iter()
                    .map(|(tag, delivery)| (tag, Some(delivery))),
            )
            .collect();
        slots.sort_by_key(|(tag, _)| *tag);
        self.live = slots.len();
        self.slots = slots.into();
    }

    /// Takes out everything, in order of tags.
    pub fn drain(&mut self) -> impl Iterator<Item = (DeliveryTag, T)> + use<T> {
        self.live = 0;
        std::mem::take(&mut self.slots)
            .into_iter()
            .filter_map(|(tag, slot)| Some((tag, slot?)))
    }

    /// The deliveries outstanding, in order of tags.
    pub fn iter(&self) -> impl Iterator<Item = (DeliveryTag, &T)> + '_ {
        self.slots
            .iter()
            .filter_map(|(tag, slot)| Some((*tag, slot.as_ref()?)))
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> + '_ {
        self.slots.iter_mut().filter_map(|(_, slot)| slot.as_mut())
    }

    /// Deliveries outstanding.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Nothing outstanding.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    fn remove(
        &mut self,
        tag: DeliveryTag,
        multiple: bool,
        mut removed: impl FnMut(DeliveryTag, T),
    ) -> Result<(), UnknownTag> {
        if multiple {
            let count = if tag.0 == 0 {
                self.slots.len()
            } else {
                self.find(tag).ok_or(UnknownTag(tag))? + 1
            };
            for _ in 0..count {
                if let Some((tag, Some(delivery))) = self.slots.pop_front() {
                    self.live -= 1;
                    removed(tag, delivery);
                }
            }
        } else {
            let at = self.find(tag).ok_or(UnknownTag(tag))?;
            let delivery = if at == 0 {
                self.slots.pop_front().and_then(|(_, delivery)| delivery)
            } else if at + 1 == self.slots.len() {
                self.slots.pop_back().and_then(|(_, delivery)| delivery)
            } else {
                self.slots.get_mut(at).and_then(|(_, slot)| slot.take())
            };
            self.live -= 1;
            if let Some(delivery) = delivery {
                removed(tag, delivery);
            }
        }
        self.tidy();
        Ok(())
    }

    /// Where the outstanding delivery `tag` is.
    fn find(&self, tag: DeliveryTag) -> Option<usize> {
        let (first, _) = self.slots.front()?;
        // Without gaps, the tag itself says where; a gap only moves it forward.
        let guess = usize::try_from(tag.0.checked_sub(first.0)?).ok()?;
        let at = match self.slots.get(guess) {
            Some((found, _)) if *found == tag => guess,
            _ => self
                .slots
                .binary_search_by_key(&tag, |(tag, _)| *tag)
                .ok()?,
        };
        let (_, slot) = self.slots.get(at)?;
        slot.is_some().then_some(at)
    }

    fn tidy(&mut self) {
        while let Some((_, None)) = self.slots.front() {
            self.slots.pop_front();
        }
        while let Some((_, None)) = self.slots.back() {
            self.slots.pop_back();
        }
        if self.slots.len() > 2 * self.live + SLACK {
            self.slots.retain(|(_, slot)| slot.is_some());
        }
        if self.slots.capacity() > KEPT && self.slots.len() < self.slots.capacity() / 8 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }
}

/// Empty slots that are tolerated however few deliveries there are.
const SLACK: usize = 32;

/// Slots whose memory stays between bursts.
const KEPT: usize = 4096;
