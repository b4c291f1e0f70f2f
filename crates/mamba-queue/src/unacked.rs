//! Deliveries that are out and not settled, addressed by a small number that the delivery carries along, so
//! that an acknowledgement costs no search.

use mamba_types::Sequence;

use crate::{ConsumerId, queue::Stored, queue::UnackedKey};

#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) stored: Stored,
    pub(crate) consumer: Option<ConsumerId>,
}

#[derive(Debug)]
enum Slot {
    Free { next: Option<u32> },
    Out(Out),
}

#[derive(Debug)]
pub(crate) struct Unacked {
    slots: Vec<Slot>,
    free: Option<u32>,
    count: usize,
    body_bytes: u64,
}

impl Unacked {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: None,
            count: 0,
            body_bytes: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub(crate) fn insert(&mut self, out: Out) -> UnackedKey {
        self.count += 1;
        self.body_bytes += out.stored.message.body_len() as u64;
        if let Some(index) = self.free {
            let slot = &mut self.slots[index as usize];
            if let Slot::Free { next } = *slot {
                self.free = next;
            }
            *slot = Slot::Out(out);
            return UnackedKey(index);
        }
        let index =
            u32::try_from(self.slots.len()).expect("a channel's unacked_max is far below 2^32");
        self.slots.push(Slot::Out(out));
        UnackedKey(index)
    }

    /// Takes a delivery out; `None` when that key no longer holds that sequence number.
    pub(crate) fn remove(&mut self, key: UnackedKey, sequence: Sequence) -> Option<Out> {
        let slot = self.slots.get_mut(key.0 as usize)?;
        match slot {
            Slot::Out(out) if out.stored.sequence == sequence => {}
            Slot::Out(_) | Slot::Free { .. } => return None,
        }
        let Slot::Out(out) = std::mem::replace(slot, Slot::Free { next: self.free }) else {
            return None;
        };
        self.free = Some(key.0);
        self.count -= 1;
        self.body_bytes -= out.stored.message.body_len() as u64;
        if self.count == 0 && self.slots.len() > 1024 {
            self.slots = Vec::new();
            self.free = None;
        }
        Some(out)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Out> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Out(out) => Some(out),
            Slot::Free { .. } => None,
        })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Out> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Out(out) => Some(out),
            Slot::Free { .. } => None,
        })
    }
}
