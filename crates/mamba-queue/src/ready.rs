//! Messages waiting for a consumer, in the order they will be delivered.

use std::collections::{BTreeMap, VecDeque};

use crate::queue::Stored;

/// Messages of one priority. `returned` goes first: whatever was delivered once lies before everything
/// fresh, because fresh messages leave strictly from the front.
#[derive(Debug, Default)]
struct Level {
    returned: BTreeMap<u64, Stored>,
    fresh: VecDeque<Stored>,
}

impl Level {
    fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.fresh.is_empty()
    }
}

/// The ready messages: one level, or one per priority in use, highest first.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Sorted by priority, highest first; a level exists while it holds messages, except the first one made.
    levels: Vec<(u8, Level)>,
    count: usize,
    body_bytes: u64,
}

/// Slots an emptied level keeps after a burst, so that the memory goes back.
const IDLE_CAPACITY: usize = 64;
/// Slots below which an emptied level keeps its memory: bursts come again.
const SHRINK_ABOVE: usize = 16_384;

impl Ready {
    pub(crate) const fn new() -> Self {
        Self {
            levels: Vec::new(),
            count: 0,
            body_bytes: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) const fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub(crate) fn push(&mut self, priority: u8, message: Stored) {
        self.count += 1;
        self.body_bytes += message.message.body_len() as u64;
        self.level(priority).fresh.push_back(message);
    }

    /// Puts a message back before everything fresh; `rank` orders the returned ones among themselves.
    pub(crate) fn put_back(&mut self, priority: u8, rank: u64, message: Stored) {
        self.count += 1;
        self.body_bytes += message.message.body_len() as u64;
        self.level(priority).returned.insert(rank, message);
    }

    pub(crate) fn pop(&mut self) -> Option<Stored> {
        let index = self
            .levels
            .iter()
            .position(|(_, level)| !level.is_empty())?;
        self.pop_level(index)
    }

    fn pop_level(&mut self, index: usize) -> Option<Stored> {
        let level_count = self.levels.len();
        let level = &mut self.levels[index].1;
        let message = match level.returned.pop_first() {
            Some((_, message)) => message,
            None => level.fresh.pop_front()?,
        };
        self.count -= 1;
        self.body_bytes -= message.message.body_len() as u64;
        if level.is_empty() {
            if level_count > 1 {
                self.levels.remove(index);
            } else if level.fresh.capacity() > SHRINK_ABOVE {
                level.fresh.shrink_to(IDLE_CAPACITY);
            }
        }
        Some(message)
    }

    /// The next message of each priority.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &Stored> {
        self.levels.iter().filter_map(|(_, level)| {
            level
                .returned
                .values()
                .next()
                .or_else(|| level.fresh.front())
        })
    }

    /// Takes the first head, of any priority, that `is_wanted` says so of.
    pub(crate) fn pop_if(&mut self, is_wanted: impl Fn(&Stored) -> bool) -> Option<Stored> {
        let wanted = |level: &Level| {
            level
                .returned
                .values()
                .next()
                .or_else(|| level.fresh.front())
                .is_some_and(&is_wanted)
        };
        let index = self.levels.iter().position(|(_, level)| wanted(level))?;
        self.pop_level(index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.levels
            .iter()
            .flat_map(|(_, level)| level.returned.values().chain(&level.fresh))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stored> {
        self.levels
            .iter_mut()
            .flat_map(|(_, level)| level.returned.values_mut().chain(&mut level.fresh))
    }

    /// Empties it and hands over what was there, in order.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Stored> + use<> {
        let levels = std::mem::replace(self, Self::new()).levels;
        levels
            .into_iter()
            .flat_map(|(_, level)| level.returned.into_values().chain(level.fresh))
    }

    fn level(&mut self, priority: u8) -> &mut Level {
        let index = match self.levels.first() {
            Some((first, _)) if *first == priority => 0,
            _ => self
                .levels
                .binary_search_by(|(p, _)| priority.cmp(p))
                .unwrap_or_else(|index| {
                    self.levels.insert(index, (priority, Level::default()));
                    index
                }),
        };
        &mut self.levels[index].1
    }
}
