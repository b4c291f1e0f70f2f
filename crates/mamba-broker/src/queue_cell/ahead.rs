//! Delayed messages read before they are due, so that their release needs no disk.
//!
//! Only what follows closely on something else is read ahead: a message that is due alone costs nothing more than its own
//! release. The octets count to the node's budget for messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use mamba_queue::{Waiting, WaitingRoom};
use mamba_store::LoadedMessage;
use mamba_types::{Message, Sequence};

/// How far ahead is read, in milliseconds.
const AHEAD_MS: u64 = 1000;
/// Messages read ahead at most.
const AHEAD_MESSAGES_MAX: usize = 2048;

/// What a reading was begun with: if things are otherwise at its end, its places may be old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading(u64);

/// Messages of a waiting room that have been read and are not due yet.
#[derive(Debug)]
pub(super) struct Ahead {
    /// By the time they are due.
    messages: BTreeMap<(u64, Sequence), LoadedMessage>,
    octets: usize,
    /// What is due until then has been looked for, in milliseconds since 1970.
    until_ms: u64,
    /// A pager has been asked to read.
    reading: bool,
    /// Times that all was forgotten.
    clears: u64,
}

impl Ahead {
    pub(super) const fn new() -> Self {
        Self {
            messages: BTreeMap::new(),
            octets: 0,
            until_ms: 0,
            reading: false,
            clears: 0,
        }
    }

    /// Whether all of these are here.
    pub(super) fn has_all(&self, due: &[Waiting]) -> bool {
        due.iter()
            .all(|waiting| self.messages.contains_key(&key(waiting)))
    }

    /// Whether a pager has to read more, up to so many octets, now that the next message is due then; if so, it counts as asked.
    pub(super) fn begins(&mut self, next_ms: Option<u64>, octets_max: usize, now_ms: u64) -> bool {
        let begins = !self.reading
            && self.until_ms <= now_ms + AHEAD_MS / 2
            && self.octets <= octets_max / 2
            && next_ms.is_some_and(|due_ms| due_ms <= now_ms + AHEAD_MS);
        self.reading |= begins;
        begins
    }

    /// What to read: the messages due soon that are not here.
    pub(super) fn wanted(&mut self, now_ms: u64, held: &WaitingRoom) -> (Vec<Waiting>, Reading) {
        let mut soon = held.soon(now_ms + AHEAD_MS, AHEAD_MESSAGES_MAX);
        self.until_ms = match soon.last() {
            Some(last) if soon.len() == AHEAD_MESSAGES_MAX => last.due_ms,
            _ => now_ms + AHEAD_MS,
        };
        soon.retain(|waiting| !self.messages.contains_key(&key(waiting)));
        (soon, Reading(self.clears))
    }

    /// Octets of messages that are here.
    pub(super) const fn octets(&self) -> usize {
        self.octets
    }

    /// Takes what was read of `asked`, all in the order they are due: the first `answered` ones. Returns the octets that came.
    pub(super) fn take_in(
        &mut self,
        reading: Reading,
        (asked, answered): (&[Waiting], usize),
        found: Vec<(LoadedMessage, u32)>,
        now_ms: u64,
    ) -> usize {
        self.reading = false;
        if reading != Reading(self.clears) {
            return 0;
        }
        if let Some(next) = asked.get(answered) {
            self.until_ms = next.due_ms;
        }
        let before = self.octets;
        let mut asked = asked.iter();
        for (loaded, _) in found {
            let waiting = asked.find(|waiting| waiting.sequence == loaded.sequence);
            // What was due meanwhile has been released without.
            let Some(waiting) = waiting.filter(|waiting| waiting.due_ms > now_ms) else {
                continue;
            };
            // Neighbours share one buffer, and most of it is of no use.
            let record = Bytes::copy_from_slice(loaded.message.record());
            self.octets += record.len();
            let message = Message::from_record(record);
            self.messages
                .insert(key(waiting), LoadedMessage { message, ..loaded });
        }
        self.octets - before
    }

    /// Takes out those of `due` that are here, and says how many octets they are.
    pub(super) fn take(&mut self, due: &[Waiting]) -> (BTreeMap<Sequence, LoadedMessage>, usize) {
        let taken: BTreeMap<_, _> = due
            .iter()
            .filter_map(|waiting| self.messages.remove(&key(waiting)))
            .map(|loaded| (loaded.sequence, loaded))
            .collect();
        let octets = taken.values().map(record_len).sum();
        self.octets -= octets;
        (taken, octets)
    }

    /// Forgets what was due before then and has been released without. Returns how many octets that were.
    pub(super) fn forget_before(&mut self, time_ms: u64) -> usize {
        let rest = self.messages.split_off(&(time_ms, Sequence(0)));
        let gone = std::mem::replace(&mut self.messages, rest);
        let octets = gone.values().map(record_len).sum();
        self.octets -= octets;
        octets
    }

    /// Forgets everything. Returns how many octets it was.
    pub(super) fn clear(&mut self) -> usize {
        self.clears += 1;
        self.until_ms = 0;
        self.messages.clear();
        std::mem::take(&mut self.octets)
    }
}

const fn key(waiting: &Waiting) -> (u64, Sequence) {
    (waiting.due_ms, waiting.sequence)
}

fn record_len(loaded: &LoadedMessage) -> usize {
    loaded.message.record_len()
}
