//! Outstanding deliveries of one channel.

use std::collections::VecDeque;

use mamba_types::DeliveryTag;

/// A delivery tag that is not outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTag(pub DeliveryTag);

/// Deliveries by tag, in the order of their tags.
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
        let _ = (tag, delivery);
        todo!()
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
        settled: impl FnMut(T),
    ) -> Result<(), UnknownTag> {
        let _ = (tag, multiple, settled);
        todo!()
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
        let _ = (tag, multiple);
        todo!()
    }

    /// Puts back what [`take`](Self::take) took.
    pub fn put_back(&mut self, taken: Vec<(DeliveryTag, T)>) {
        let _ = taken;
        todo!()
    }

    /// Takes out everything, in order of tags.
    pub fn drain(&mut self) -> impl Iterator<Item = (DeliveryTag, T)> + '_ {
        self.live = 0;
        self.slots
            .drain(..)
            .filter_map(|(tag, slot)| Some((tag, slot?)))
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
}
