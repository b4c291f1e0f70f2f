//! The queue's waiting room: messages that are not ready before a time (`x-delay`, `x-delayed-retry-*`), and dead letters that
//! no queue takes yet (`x-dead-letter-strategy: at-least-once`).
//!
//! In the log they stand under an identity of their own ([`QueueId::waiting_room`]); their records say when they are
//! ready, so that a restart can tell. All of them are in the log: transient ones flagged volatile, without anybody
//! waiting for that. When they are due, they are enqueued with new records and the old ones settled, in this order in one
//! log, so that no crash loses one between the two. Dead letters, whose records say why they died, are published again
//! instead; those that are refused again wait on in the same place.
//!
//! What is due soon after something else has been read [`Ahead`] by a pager, so that whoever keeps the deadlines releases it
//! himself. Otherwise a pager reads it when it is due.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use mamba_queue::{DeathReason, Doubt, Incoming, LiveRun, Stored, Waiting, WaitingRoom};
use mamba_store::{
    Appended, LoadRequest, LoadedMessage, Log, RecoveredRun, Relocated, Relocation,
    RelocationBatch, RelocationCursor, Settled,
};
use mamba_types::{
    LogPosition, Message, QueueId, RecordMeta, Sequence,
    message::{self, TIME_MAX_MS},
};

use super::{
    Aftermath, Arrival, QueueCell, State,
    ahead::Ahead,
    arrival::{Enqueued, Entry},
    journal::{Runs, state_run},
    narrow, paged_run, settled_of,
};
use crate::{
    dead_letters,
    paging::{Job, Progress},
    vhost::Vhost,
};

/// Messages released at once…
const RELEASE_MESSAGES_MAX: usize = 2048;
/// … and octets of records after which the rest waits for the next time.
const RELEASE_BYTES_MAX: usize = 1 << 20;
/// Messages released at once by who keeps the deadlines.
const AT_ONCE_MAX: usize = 256;
/// Messages between two that are due, which are rather read and thrown away than skipped with a reading of their own.
const GAP_MAX: u64 = 64;
/// Messages read at once after a restart, and octets of records.
const RECALL_MESSAGES_MAX: usize = 16_384;
const RECALL_BYTES_MAX: usize = 4 << 20;
/// Pause before a full disk or a failed log is tried again, in milliseconds.
const PAUSE_MS: u64 = 1000;
/// Pause before a refused dead letter is tried again, in milliseconds; twice as long after each time…
const LETTER_PAUSE_MS: u64 = 1000;
/// … until it is this long.
const LETTER_PAUSE_MAX_MS: u64 = 60_000;

/// A queue's waiting room, made when somebody waits for the first time.
#[derive(Debug)]
pub(super) struct Room {
    first: Sequence,
    held: Option<Box<WaitingRoom>>,
    ahead: Ahead,
    /// The queue is deleted: nobody comes in any more.
    closed: bool,
    /// Somebody releases what is due.
    releasing: bool,
    /// When the node's timers will look at it, in milliseconds since 1970.
    timer_at: Option<u64>,
}

impl Room {
    pub(super) const fn new(first: Sequence) -> Self {
        Self {
            first,
            held: None,
            ahead: Ahead::new(),
            closed: false,
            releasing: false,
            timer_at: None,
        }
    }

    fn open(&mut self) -> &mut WaitingRoom {
        self.held
            .get_or_insert_with(|| Box::new(WaitingRoom::new(self.first)))
    }
}

/// What was taken out because it is due.
struct Taken {
    messages: Vec<Waiting>,
    /// The room's, then.
    doubt: Doubt,
    purges: u64,
}

/// What was read of the messages that are due.
#[derive(Default)]
struct Due {
    /// In the order they were due, with how often they came back.
    messages: Vec<(LoadedMessage, u32)>,
    /// How many of those taken out are answered: read, or lost.
    answered: usize,
    lost: u64,
}

/// What became of the reading of a message.
#[derive(Clone)]
enum Read {
    NotYet,
    Lost,
    Found(LoadedMessage),
}

/// Gives the space of the waiting messages of a deleted queue free.
pub(super) fn forget(queue: QueueId, waiting: &[LiveRun], log: &Log) {
    for run in waiting {
        log.dropped(queue.waiting_room(), run.level, run.from, run.to);
    }
}

impl QueueCell {
    /// Takes in messages that are not ready before the time their records say.
    pub(crate) fn hold(self: &Arc<Self>, arrivals: &mut Vec<Arrival>) -> Enqueued {
        let mut enqueued = Enqueued::NOTHING;
        // What a queue has seen is under its own lock. When they are ready, they are not looked at again.
        let ids = self.ids_of(arrivals);
        let mut state = (!ids.is_empty()).then(|| self.state.lock());
        let seen = state.as_mut().map_or_else(Vec::new, |state| {
            self.keep_out(state, arrivals, ids, &mut enqueued)
        });
        let mut room = self.room.lock();
        if room.closed {
            arrivals.clear();
            return enqueued;
        }
        let mut earliest = u64::MAX;
        let mut lasting = Runs::new(false);
        let mut volatile = Runs::new(false);
        volatile.volatile = true;
        for Arrival { incoming, .. } in arrivals.drain(..) {
            let Incoming { message, at, .. } = &incoming;
            let due_ms = message.accepted_at_ms();
            earliest = earliest.min(due_ms);
            let sequence = room.open().admit(due_ms, 0, message.body_len());
            let runs = if self.stores(message.persistent()) {
                &mut lasting
            } else {
                &mut volatile
            };
            runs.add(sequence, 0, *at, message, 0);
        }
        let id = self.id.waiting_room();
        if !volatile.list.is_empty() {
            self.log.append_enqueued(id, &volatile.list);
        }
        if !lasting.list.is_empty() {
            let position = if seen.is_empty() {
                self.log.append_enqueued(id, &lasting.list)
            } else {
                self.log.append_seen(id, &lasting.list, &seen)
            };
            enqueued.position = enqueued.position.max(position);
        }
        self.arm_room(&mut room, earliest);
        drop(room);
        if let Some(state) = &mut state {
            self.noted(state, &seen, &enqueued);
        }
        enqueued
    }

    /// Returned messages that wait before they are tried again: from the queue to its waiting room. Returns the log
    /// position that makes it durable.
    pub(super) fn let_wait(self: &Arc<Self>, state: &mut State) -> LogPosition {
        let delayed = &mut state.effects.delayed;
        if delayed.is_empty() {
            return LogPosition::NONE;
        }
        let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
        let mut settled: Vec<Settled> = Vec::new();
        let mut room = self.room.lock();
        for (stored, delay_ms) in delayed.drain(..) {
            // A part of this millisecond has passed.
            let due_ms = now_ms.saturating_add(delay_ms).saturating_add(1);
            let meta = RecordMeta {
                accepted_at_ms: due_ms.min(TIME_MAX_MS),
                not_before: true,
                ..stored.message.meta()
            };
            self.move_in(&mut room, &stored.message.with_meta(meta), stored.returns);
            settled.extend(settled_of(&stored));
        }
        drop(room);
        settled.sort_unstable_by_key(|settled| settled.sequence);
        self.log.append_moved_on(self.id, &settled)
    }

    /// Dead letters that no queue takes: they wait and are tried again. The queue may settle them after it.
    pub(crate) fn keep<'a>(
        self: &Arc<Self>,
        letters: impl Iterator<Item = &'a (Stored, DeathReason)>,
    ) {
        let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
        let mut room = self.room.lock();
        if room.closed {
            return;
        }
        for (stored, reason) in letters {
            let meta = RecordMeta {
                accepted_at_ms: now_ms + letter_pause_ms(1),
                not_before: true,
                died: Some(*reason),
                ..stored.message.meta()
            };
            self.move_in(&mut room, &stored.message.with_meta(meta), 1);
        }
    }

    /// Gives a message of the queue its place in the waiting room, and its new record one in the log.
    fn move_in(self: &Arc<Self>, room: &mut Room, message: &Message, returns: u32) {
        let due_ms = message.accepted_at_ms();
        let appended = self.log.append_messages(message.record().clone());
        let sequence = room.open().admit(due_ms, returns, message.body_len());
        let mut runs = Runs::new(true);
        runs.volatile = !self.stores(message.persistent());
        runs.add(sequence, 0, appended.at(), message, returns);
        self.log.append_moved_in(self.id.waiting_room(), &runs.list);
        self.arm_room(room, due_ms);
    }

    /// Has the node's timers look at the waiting room at `due_ms`, unless they do earlier.
    fn arm_room(self: &Arc<Self>, room: &mut Room, due_ms: u64) {
        if !room.releasing
            && room.timer_at.is_none_or(|armed| due_ms < armed)
            && let Some(home) = self.home.upgrade()
        {
            room.timer_at = Some(due_ms);
            home.timers.add(due_ms, self);
        }
    }

    /// The node's timers have come: what is due is taken out, and released, by a pager if it has to be read.
    pub(super) fn wake_room(self: &Arc<Self>, now_ms: u64) {
        let mut room = self.room.lock();
        room.timer_at = None;
        // Who releases looks again at the end.
        let is_free = !room.releasing;
        let Room { held, ahead, .. } = &mut *room;
        let Some(held) = held.as_mut().filter(|_| is_free) else {
            return;
        };
        let due = held.take_due(now_ms, RELEASE_MESSAGES_MAX);
        let is_due = !due.is_empty();
        let is_at_hand = due.len() <= AT_ONCE_MAX && ahead.has_all(due);
        let next = held.next_due();
        let reads_ahead = ahead.begins(next, self.paging.read_bytes(), now_ms);
        // Already here, so that the timers need not be woken for it.
        if let Some(due_ms) = next.filter(|due_ms| *due_ms > now_ms) {
            self.arm_room(&mut room, due_ms);
        }
        room.releasing = is_due;
        drop(room);
        if reads_ahead {
            self.paging.request(self, Job::ReadAhead);
        }
        if is_due && !(is_at_hand && self.release() == Progress::Done) {
            self.paging.request(self, Job::Release);
        }
    }

    /// Nothing is taken out any more: who releases has done so, unless more is due by now.
    fn rests(self: &Arc<Self>, now_ms: u64) -> bool {
        let mut room = self.room.lock();
        let next = room.held.as_ref().and_then(|held| held.next_due());
        if next.is_some_and(|due_ms| due_ms <= now_ms) {
            return false;
        }
        room.releasing = false;
        self.paging.account(room.ahead.forget_before(now_ms + 1), 0);
        if let Some(due_ms) = next {
            self.arm_room(&mut room, due_ms);
        }
        true
    }

    /// Reads what is due soon.
    pub(crate) fn read_ahead(self: &Arc<Self>) -> Progress {
        let Some(home) = self.home.upgrade() else {
            return Progress::Done;
        };
        let octets_max = self.paging.read_bytes();
        let (soon, reading, octets_max) = {
            let mut room = self.room.lock();
            let Room { held, ahead, .. } = &mut *room;
            let Some(held) = held else {
                return Progress::Done;
            };
            let (soon, reading) = ahead.wanted(home.unix_ms(), held);
            (soon, reading, octets_max.saturating_sub(ahead.octets()))
        };
        let due = self.read_due(&soon, BTreeMap::new(), octets_max);
        self.paging.count_read(due.messages.len(), 0);
        let mut room = self.room.lock();
        let asked = (&soon[..], due.answered);
        let octets = room
            .ahead
            .take_in(reading, asked, due.messages, home.unix_ms());
        self.paging.account(0, octets);
        Progress::Done
    }

    /// Makes messages ready that are due, some at a time.
    pub(crate) fn release(self: &Arc<Self>) -> Progress {
        let Some(home) = self.home.upgrade() else {
            return Progress::Done;
        };
        let now_ms = home.unix_ms();
        let stuck = self.log.is_full() || self.log.failed();
        let (taken, at_hand) = {
            let mut room = self.room.lock();
            let Room { held, ahead, .. } = &mut *room;
            let Some(held) = held else {
                return Progress::Done;
            };
            let messages = if stuck {
                held.put_back();
                Vec::new()
            } else {
                held.take_due(now_ms, RELEASE_MESSAGES_MAX).to_vec()
            };
            let taken = Taken {
                messages,
                doubt: held.doubted(),
                purges: held.purges(),
            };
            if taken.messages.is_empty() {
                let next = held.next_due();
                room.releasing = false;
                if let Some(due_ms) = next {
                    let at = if stuck { now_ms + PAUSE_MS } else { due_ms };
                    self.arm_room(&mut room, at);
                }
                return Progress::Done;
            }
            let (at_hand, octets) = ahead.take(&taken.messages);
            self.paging.account(octets, 0);
            (taken, at_hand)
        };
        let known = at_hand.len();
        let due = self.read_due(&taken.messages, at_hand, RELEASE_BYTES_MAX);
        let read = due.messages.len().saturating_sub(known);
        self.paging.count_read(read, due.lost);
        if due.answered == 0 {
            self.with_room_as_it_was(taken.purges, WaitingRoom::put_back);
            return Progress::TooEarly;
        }
        let again = self.bury_due(&home, &due, now_ms);
        self.make_ready(due, again, &taken, now_ms);
        if self.rests(home.unix_ms()) {
            Progress::Done
        } else {
            Progress::More
        }
    }

    /// Publishes the dead letters among what is due. Returns those that are refused again, by ascending sequence.
    fn bury_due(self: &Arc<Self>, home: &Vhost, due: &Due, now_ms: u64) -> Vec<Waiting> {
        let letter = |(one, returns): &(LoadedMessage, u32)| {
            let stored = Stored {
                sequence: one.sequence,
                message: one.message.clone(),
                at: one.at,
                returns: *returns,
                redelivered: true,
            };
            Some((stored, one.message.died()?))
        };
        let letters: Vec<_> = due.messages.iter().filter_map(letter).collect();
        if letters.is_empty() {
            return Vec::new();
        }
        let refused = dead_letters::bury_again(self, home, &letters);
        let mut again: Vec<Waiting> = refused
            .into_iter()
            .map(|at| {
                let stored = &letters[at as usize].0;
                let returns = stored.returns.saturating_add(1);
                Waiting {
                    due_ms: now_ms + letter_pause_ms(returns),
                    sequence: stored.sequence,
                    returns,
                }
            })
            .collect();
        again.sort_unstable_by_key(|waiting| waiting.sequence);
        again
    }

    /// Unless it has been purged meanwhile.
    fn with_room_as_it_was<R>(
        &self,
        purges: u64,
        act: impl FnOnce(&mut WaitingRoom) -> R,
    ) -> Option<R> {
        let mut room = self.room.lock();
        let held = room.held.as_mut().filter(|held| held.purges() == purges)?;
        Some(act(held))
    }

    /// Reads messages but those at hand, neighbours in the log together, until they are so many octets or not written yet.
    /// Returns as many as are read in the order they are due.
    fn read_due(
        &self,
        taken: &[Waiting],
        mut at_hand: BTreeMap<Sequence, LoadedMessage>,
        octets_max: usize,
    ) -> Due {
        let mut read: Vec<Read> = taken
            .iter()
            .map(|waiting| at_hand.remove(&waiting.sequence))
            .map(|known| known.map_or(Read::NotYet, Read::Found))
            .collect();
        let is_missing = |place: &usize| matches!(read[*place], Read::NotYet);
        let mut order: Vec<usize> = (0..taken.len()).filter(is_missing).collect();
        order.sort_unstable_by_key(|place| taken[*place].sequence);
        let is_near =
            |one: &usize, next: &usize| taken[*next].sequence.0 - taken[*one].sequence.0 <= GAP_MAX;
        let mut groups: Vec<&[usize]> = order.chunk_by(is_near).collect();
        // The first must not wait for the others' sake again and again.
        if let Some(first) = groups.iter().position(|group| group.contains(&0)) {
            groups.swap(0, first);
        }
        let mut octets = 0;
        for group in groups {
            if octets >= octets_max {
                break;
            }
            self.read_group(taken, group, &mut read, (&mut octets, octets_max));
        }
        // Neighbours of many octets may stand before it.
        if matches!(read.first(), Some(Read::NotYet)) {
            self.read_group(taken, &[0], &mut read, (&mut 0, octets_max));
        }
        let mut due = Due::default();
        for (read, waiting) in read.into_iter().zip(taken) {
            match read {
                Read::NotYet => break,
                Read::Lost => due.lost += 1,
                Read::Found(message) => due.messages.push((message, waiting.returns)),
            }
            due.answered += 1;
        }
        due
    }

    /// Reads the messages at these places of `taken`, by ascending sequence.
    fn read_group(
        &self,
        taken: &[Waiting],
        mut group: &[usize],
        read: &mut [Read],
        (octets, octets_max): (&mut usize, usize),
    ) {
        let id = self.id.waiting_room();
        while let (Some(first), Some(last)) = (group.first(), group.last())
            && *octets < octets_max
        {
            let (from, to) = (taken[*first].sequence, taken[*last].sequence.next());
            let loaded = self.log.load(&LoadRequest {
                queue: id,
                level: 0,
                from,
                to,
                octets_max,
                messages_max: usize::MAX,
            });
            self.report_damage(id, &loaded.damaged);
            if loaded.next <= from {
                return;
            }
            let answered = group.partition_point(|place| taken[*place].sequence < loaded.next);
            let mut messages = loaded.messages.into_iter().peekable();
            for place in &group[..answered] {
                let sequence = taken[*place].sequence;
                while messages.next_if(|one| one.sequence < sequence).is_some() {}
                read[*place] = match messages.next_if(|one| one.sequence == sequence) {
                    Some(message) => {
                        *octets += message.message.record_len();
                        Read::Found(message)
                    }
                    None => Read::Lost,
                };
            }
            group = &group[answered..];
        }
    }

    /// Enqueues what is due and settles it in the waiting room, dead letters as well, but for those that wait on.
    fn make_ready(self: &Arc<Self>, due: Due, again: Vec<Waiting>, taken: &Taken, now_ms: u64) {
        let rest = taken.messages.len() - due.answered;
        let mut messages = due.messages;
        let waits_on = |one: &LoadedMessage| {
            again
                .binary_search_by_key(&one.sequence, |waiting| waiting.sequence)
                .is_ok()
        };
        messages.retain(|(one, _)| !waits_on(one));
        let settled: Vec<Settled> = messages.iter().map(|(one, _)| settled_one(one)).collect();
        let body_bytes = messages
            .iter()
            .map(|(one, _)| one.message.body_len() as u64);
        let body_bytes = body_bytes.sum();
        messages.retain(|(one, _)| one.message.died().is_none());
        // Keeps the records' file until they are enqueued.
        let (arrivals, _chunk) = self.as_ready(messages, taken.doubt, now_ms);
        let mut enqueued = Enqueued::NOTHING;
        let mut after = Aftermath::default();
        let mut state = self.state.lock();
        // A purge takes the queue's lock first: none comes between this and the enqueueing.
        let is_there = !state.deleted && self.with_room_as_it_was(taken.purges, |_| ()).is_some();
        if !is_there {
            return;
        }
        let arrivals = arrivals.into_iter();
        let outcome = (&mut enqueued, &mut after);
        self.take_in(&mut state, arrivals, Entry::Moved, outcome);
        let mut room = self.room.lock();
        self.settle_waiting(settled);
        room.open().left(rest, body_bytes, again);
        drop(room);
        self.balance(&mut state);
        drop(state);
        self.finish(after);
    }

    fn settle_waiting(&self, mut settled: Vec<Settled>) {
        settled.sort_unstable_by_key(|settled| settled.sequence);
        self.log.append_moved_on(self.id.waiting_room(), &settled);
    }

    /// The messages as the queue takes them: accepted now. Those that it stores lie in one chunk.
    fn as_ready(
        &self,
        due: Vec<(LoadedMessage, u32)>,
        doubt: Doubt,
        now_ms: u64,
    ) -> (Vec<Arrival>, Option<Appended>) {
        let mut chunk = Vec::new();
        let mut places: Vec<(usize, usize)> = Vec::new();
        let ready = |message: &Message| RecordMeta {
            accepted_at_ms: now_ms,
            not_before: false,
            ..message.meta()
        };
        for (LoadedMessage { message, .. }, _) in &due {
            if self.stores(message.persistent()) {
                let start = chunk.len();
                chunk.extend_from_slice(message.record());
                message::set_meta(&mut chunk, start, ready(message));
                message::finish(&mut chunk, start);
                places.push((start, chunk.len()));
            }
        }
        let chunk = Bytes::from(chunk);
        let appended = (!chunk.is_empty()).then(|| self.log.append_messages(chunk.clone()));
        let base = appended.as_ref().map_or(LogPosition::NONE, Appended::at);
        let mut places = places.into_iter();
        let arrivals = due.into_iter().map(|(loaded, returns)| {
            let LoadedMessage {
                message, sequence, ..
            } = loaded;
            let redelivered = doubt.covers(sequence, message.accepted_at_ms());
            let place = self.stores(message.persistent()).then(|| places.next());
            let (message, at) = match place.flatten() {
                Some((start, end)) => (
                    Message::from_record(chunk.slice(start..end)),
                    LogPosition(base.0 + start as u64),
                ),
                None => (message.with_meta(ready(&message)), LogPosition::NONE),
            };
            Arrival {
                incoming: Incoming {
                    message,
                    at,
                    returns,
                    redelivered,
                },
                item: 0,
            }
        });
        (arrivals.collect(), appended)
    }

    /// Puts back what survived a stop, clean or not; [`Self::open_room`] has it read.
    pub(crate) fn restore_room(&self, runs: &[RecoveredRun], was_clean: bool, now_ms: u64) {
        let mut room = self.room.lock();
        let held = room.open();
        // Nothing has left a waiting room before its time, so only what is due by now can have been released without the log's
        // knowing. That may not have been resolved when the node stopped the next time.
        let is_doubted = |run: &RecoveredRun| run.redelivered && run.delivery_count == 0;
        for run in runs {
            held.restore(paged_run(run));
        }
        if !was_clean || runs.iter().any(is_doubted) {
            held.doubt(now_ms);
        }
    }

    /// Has pagers read, after a restart, when the waiting messages are ready.
    pub(super) fn open_room(self: &Arc<Self>) {
        if self.room.lock().held.is_some() {
            self.paging.request(self, Job::Recall);
        }
    }

    /// Reads when messages are ready that waited before a restart, some at a time.
    pub(crate) fn recall(self: &Arc<Self>) -> Progress {
        let id = self.id.waiting_room();
        let (wanted, purges) = {
            let room = self.room.lock();
            let Some(held) = room.held.as_ref().filter(|_| !room.closed) else {
                return Progress::Done;
            };
            (held.unread(RECALL_MESSAGES_MAX as u64), held.purges())
        };
        let Some((from, to)) = wanted else {
            return Progress::Done;
        };
        let loaded = self.log.load(&LoadRequest {
            queue: id,
            level: 0,
            from,
            to,
            octets_max: RECALL_BYTES_MAX,
            messages_max: RECALL_MESSAGES_MAX,
        });
        self.report_damage(id, &loaded.damaged);
        if loaded.next <= from {
            return self.too_early();
        }
        let found = loaded.messages.iter().map(|one| {
            let message = &one.message;
            (one.sequence, message.accepted_at_ms(), message.body_len())
        });
        let lost = self.with_room_as_it_was(purges, |held| held.read(found, loaded.next));
        self.paging
            .count_read(loaded.messages.len(), lost.unwrap_or(0));
        let mut room = self.room.lock();
        if let Some(due_ms) = room.held.as_ref().and_then(|held| held.next_due()) {
            self.arm_room(&mut room, due_ms);
        }
        Progress::More
    }

    /// Drops all messages, ready or waiting; returns how many were ready.
    pub(crate) fn purge(self: &Arc<Self>) -> usize {
        let purged = self.change(|queue, effects| {
            let mut room = self.room.lock();
            let waiting = room.held.as_mut().filter(|held| held.count() > 0);
            let waiting = waiting.map(|held| held.purge()).unwrap_or_default();
            self.paging.account(room.ahead.clear(), 0);
            if !waiting.is_empty() {
                self.log.append_state(self.id.waiting_room(), &[]);
            }
            drop(room);
            (queue.purge(effects), waiting)
        });
        let (count, waiting) = purged.unwrap_or_default();
        for run in waiting {
            self.log
                .dropped(self.id.waiting_room(), run.level, run.from, run.to);
        }
        count
    }

    /// The queue is deleted, and everything that waits with it.
    pub(super) fn close_room(&self) -> Vec<LiveRun> {
        let mut room = self.room.lock();
        room.closed = true;
        self.paging.account(room.ahead.clear(), 0);
        room.held
            .take()
            .map_or_else(Vec::new, |held| held.live_runs())
    }

    /// Messages that wait, and octets of their bodies.
    pub(super) fn waiting_counts(&self) -> (u64, u64) {
        let room = self.room.lock();
        room.held
            .as_ref()
            .map_or((0, 0), |held| (held.count(), held.body_bytes()))
    }

    /// Writes the waiting room's part of a checkpoint.
    pub(super) fn checkpoint_room(&self) {
        let room = self.room.lock();
        if let Some(held) = room.held.as_ref().filter(|held| held.count() > 0) {
            let runs: Vec<_> = held.live_runs().into_iter().map(state_run).collect();
            self.log.append_state(self.id.waiting_room(), &runs);
        }
    }

    /// Copies what waits in a log file that is to be given back. False if that has to wait.
    pub(crate) fn relocate_room(&self, relocation: &mut Relocation) -> bool {
        let id = self.id.waiting_room();
        let mut cursor = RelocationCursor::default();
        while let Some(batch) = self.log.relocation_batch(relocation, id, &mut cursor) {
            let RelocationBatch {
                level,
                volatile,
                loaded,
            } = batch;
            self.report_damage(id, &loaded.damaged);
            let first = loaded.messages.first().map(|message| message.sequence);
            let last = loaded.messages.last().map(|message| message.sequence);
            let (Some(first), Some(last)) = (first, last) else {
                continue;
            };
            let mut room = self.room.lock();
            let Room { held, ahead, .. } = &mut *room;
            let Some(held) = held else {
                return true;
            };
            if held.is_taking() {
                // Somebody knows the old places.
                return false;
            }
            self.paging.account(ahead.clear(), 0);
            let mut runs = held.live_in(first, last.next()).into_iter().peekable();
            let mut live: Vec<Relocated> = Vec::new();
            for message in loaded.messages {
                while runs.next_if(|run| run.to <= message.sequence).is_some() {}
                let run = runs.peek().filter(|run| run.from <= message.sequence);
                live.extend(run.map(|run| Relocated {
                    sequence: message.sequence,
                    message: message.message,
                    at: message.at,
                    delivery_count: run.returns,
                    may_be_delivered: run.delivered,
                }));
            }
            if !live.is_empty() {
                self.log.relocate(relocation, id, level, volatile, &live);
            }
        }
        true
    }
}

/// How long a dead letter waits that was refused `times` times, in milliseconds.
fn letter_pause_ms(times: u32) -> u64 {
    let doublings = times.saturating_sub(1).min(16);
    (LETTER_PAUSE_MS << doublings).min(LETTER_PAUSE_MAX_MS)
}

fn settled_one(loaded: &LoadedMessage) -> Settled {
    Settled {
        sequence: loaded.sequence,
        at: loaded.at,
        octets: narrow(loaded.message.record_len()),
    }
}
