//! What a queue writes to the log about its messages.

use std::sync::{Arc, Weak};

use mamba_queue::{Moved, Stored};
use mamba_store::{DurableWaker, EnqueuedRun, LiveRun, Relocated, Settled};
use mamba_types::{LogPosition, Message, Sequence};

use super::{QueueCell, State, narrow, settled_in_log, settled_of};
use crate::paging::Job;

/// Stored messages as runs of consecutive sequences of one level whose records lie back to back.
pub(super) struct Runs {
    pub(super) list: Vec<EnqueuedRun>,
    pub(super) may_be_delivered: bool,
    pub(super) volatile: bool,
}

impl Runs {
    pub(super) const fn new(may_be_delivered: bool) -> Self {
        Self {
            list: Vec::new(),
            may_be_delivered,
            volatile: false,
        }
    }

    pub(super) fn add(
        &mut self,
        sequence: Sequence,
        level: u8,
        at: LogPosition,
        message: &Message,
        returns: u32,
    ) {
        if at == LogPosition::NONE {
            return;
        }
        let octets = narrow(message.record_len());
        let body_octets = narrow(message.body_len());
        match self.list.last_mut() {
            Some(run)
                if run.at.0 + u64::from(run.octets) == at.0
                    && run.first.0 + u64::from(run.count) == sequence.0
                    && run.level == level
                    && run.delivery_count == returns =>
            {
                run.count += 1;
                run.octets += octets;
                run.body_octets += body_octets;
            }
            _ => self.list.push(EnqueuedRun {
                first: sequence,
                count: 1,
                at,
                octets,
                body_octets,
                level,
                may_be_delivered: self.may_be_delivered,
                delivery_count: returns,
                volatile: self.volatile,
            }),
        }
    }
}

/// What lives of a queue or waiting room, as the log writes it down.
pub(super) const fn state_run(run: mamba_queue::LiveRun) -> LiveRun {
    LiveRun {
        level: run.level,
        from: run.from,
        to: run.to,
        delivered: run.delivered,
        delivery_count: run.returns,
    }
}

impl QueueCell {
    /// Tells the log, before the fact and in one entry, that what is within reach of consumers may be delivered. Messages that come
    /// while there are consumers carry the flag themselves.
    pub(super) fn note_delivered(self: &Arc<Self>, state: &mut State) {
        if state.queue.consumer_count() > 0
            && let Some(up_to) = state.queue.deliverable_to()
            && up_to > state.noted
            && self.stores(true)
        {
            state.noted = up_to;
            state.noted_at = self.log.append_delivered(self.id, up_to);
        }
    }

    /// Whether deliveries wait until the log knows of them: after a crash they have to come back marked as redelivered. With a full
    /// disk, or none, consumers go on without. If they wait, the queue goes on by itself when the log rings.
    pub(super) fn is_held(self: &Arc<Self>, state: &mut State) -> bool {
        if state.noted_at == LogPosition::NONE || state.queue.consumer_count() == 0 {
            return false;
        }
        if self.log.is_durable(state.noted_at) || self.log.failed() || self.log.is_full() {
            state.noted_at = LogPosition::NONE;
            return false;
        }
        if state.resumes_at < state.noted_at {
            state.resumes_at = state.noted_at;
            let resume = Resume(Arc::downgrade(self));
            self.log.wake_at(state.noted_at, Arc::new(resume));
        }
        true
    }

    /// What goes to the queue's end gets a new place in it, and a new record.
    pub(super) fn place_moved(&self, state: &mut State) {
        let State {
            queue,
            effects,
            noted,
            ..
        } = state;
        for Moved { from, stored } in effects.moved.drain(..) {
            // It goes to the end of the queue: a new place in it, and a new record.
            let appended = self.log.append_messages(stored.message.record().clone());
            let mut runs = Runs::new(true);
            runs.volatile = !self.stores(stored.message.persistent());
            let level = queue.level_of(&stored.message);
            runs.add(
                stored.sequence,
                level,
                appended.at(),
                &stored.message,
                stored.returns,
            );
            self.log.append_enqueued(self.id, &runs.list);
            queue.set_place(stored.sequence, appended.at());
            // With it the log learns that it may be delivered.
            if noted.next() == stored.sequence {
                *noted = stored.sequence;
            }
            effects.settled.push(from);
        }
    }

    pub(super) fn settle_in_log(self: &Arc<Self>, state: &mut State) -> LogPosition {
        let State { effects, .. } = state;
        let mut position = LogPosition::NONE;
        if !effects.settled.is_empty() {
            let settled: Vec<Settled> = effects.settled.drain(..).map(settled_in_log).collect();
            position = self.log.append_settled(self.id, &settled);
        }
        for (sequence, count) in effects.returned.drain(..) {
            position = self.log.append_delivery_count(self.id, sequence, count);
        }
        if !effects.dropped.is_empty() {
            position = self.write_state(state);
        }
        position
    }

    /// Writes down all that lives in the queue.
    pub(super) fn write_state(self: &Arc<Self>, state: &mut State) -> LogPosition {
        let mut runs: Vec<LiveRun> = state
            .queue
            .live_runs(false)
            .into_iter()
            .map(state_run)
            .collect();
        if !state.burying.is_empty() {
            let settings = self.declaration.settings;
            let dying = state
                .burying
                .iter()
                .filter(|stored| stored.at != LogPosition::NONE);
            runs.extend(dying.map(|stored| LiveRun {
                level: settings.level_of(&stored.message),
                from: stored.sequence,
                to: stored.sequence.next(),
                delivered: stored.redelivered,
                delivery_count: stored.returns,
            }));
        }
        runs.extend(self.in_flight.lock().runs());
        runs.sort_unstable_by_key(|run| (run.level, run.from));
        let position = self.log.append_state(self.id, &runs);
        state.noted = Sequence(0);
        self.note_delivered(state);
        position
    }

    /// Writes the queue's part of a checkpoint.
    pub(crate) fn checkpoint(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let holds = state.queue.ready_count() + state.queue.unacked_count() > 0
            || !state.burying.is_empty()
            || !self.in_flight.lock().is_empty();
        if !state.deleted && holds {
            self.write_state(&mut state);
        }
        if let Some(memory) = &state.memory {
            let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
            memory.write_state(self.id, &self.log, now_ms);
        }
        drop(state);
        self.checkpoint_room();
    }

    /// Notes in the log that deliveries without acknowledgement have left for good.
    pub(crate) fn sent(&self, settled: &[Settled]) {
        // First here, then in the log: a state written in between may leave them out, but not bring them back.
        self.in_flight.lock().remove(settled);
        self.log.append_settled(self.id, settled);
    }

    /// Dead letters have found their new queues, or none.
    pub(crate) fn buried(&self, settled: &[Settled]) -> LogPosition {
        let mut state = self.state.lock();
        let gone = |stored: &Stored| {
            settled
                .binary_search_by_key(&stored.sequence, |settled| settled.sequence)
                .is_ok()
        };
        state.burying.retain(|stored| !gone(stored));
        self.log.append_moved_on(self.id, settled)
    }

    /// Takes back a delivery without acknowledgement that never left. A checkpoint may have taken it for gone, and its file with it:
    /// it is written again. A deleted queue takes nothing back: the new record may go at once.
    pub(crate) fn take_back(self: &Arc<Self>, mut stored: Stored) {
        if stored.at != LogPosition::NONE {
            self.in_flight.lock().remove(settled_of(&stored).as_slice());
            let level = self.declaration.settings.level_of(&stored.message);
            let volatile = !self.stores(stored.message.persistent());
            let again = Relocated {
                sequence: stored.sequence,
                message: stored.message.clone(),
                at: stored.at,
                delivery_count: stored.returns,
                may_be_delivered: true,
            };
            stored.at = self.log.append_again(self.id, level, volatile, &again);
        }
        let settled = settled_of(&stored);
        if self.change(|queue, _| queue.give_back(stored)).is_none() {
            self.log.append_settled(self.id, settled.as_slice());
        }
    }
}

/// Has a queue deliver again once the log knows enough.
pub(super) struct Resume(pub(super) Weak<QueueCell>);

impl DurableWaker for Resume {
    fn durable(&self) {
        // On the log's thread: what takes a queue's lock is for the pagers.
        if let Some(queue) = self.0.upgrade() {
            queue.paging.request(&queue, Job::Resume);
        }
    }
}
