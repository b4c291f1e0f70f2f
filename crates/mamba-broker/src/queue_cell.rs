//! A queue on this node: the state machine behind its lock, with the log and the outboxes around it.
//!
//! Every change goes through [`QueueCell::change`]: it runs one step of the state machine, hands ready
//! messages to consumers, writes what must survive to the log and fills the outboxes, all under the one lock,
//! so that the log and every consumer see the queue's own order.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use mamba_queue::{
    ConsumerId, DeathReason, Effects, Fetched, Incoming, Outcome, Overflow, Queue, QueueKind,
    Settings, Stored, UnackedKey,
};
use mamba_routing::QueueHandle;
use mamba_store::{EnqueuedRun, Log, Settled};
use mamba_types::{FieldTable, LogPosition, Message, QueueId, Sequence};
use parking_lot::Mutex;

use crate::{
    arguments,
    commit::{Commit, CommitState},
    dead_letters,
    outbox::{ConsumerPort, Notice, Outbox, Starving},
    pacing::{self, Waiter},
    vhost::Vhost,
};

/// What `queue.declare` said.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Survives a restart. Always false for an exclusive queue.
    pub durable: bool,
    /// The one connection that may use it.
    pub exclusive_owner: Option<u64>,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// The arguments as declared, with `x-queue-type` made explicit.
    pub arguments: FieldTable,
    /// What the arguments mean to the queue.
    pub settings: Settings,
}

/// A queue of this node.
pub struct QueueCell {
    /// Identity, never reused.
    pub id: QueueId,
    /// Name inside the virtual host.
    pub name: Arc<str>,
    /// The virtual host's name.
    pub vhost: Arc<str>,
    /// What it was declared as.
    pub declaration: Declaration,
    /// Where its dead letters are routed.
    home: Weak<Vhost>,
    generation: Arc<AtomicU64>,
    /// Its own definition, on its way to the disk or there.
    definition: OnceLock<Arc<Commit>>,
    /// `x-expires`.
    expires_ms: Option<u64>,
    /// When the queue expires unless it is used, in milliseconds since 1970; 0 before its first lease.
    lease_until: AtomicU64,
    log: Log,
    state: Mutex<State>,
}

struct State {
    queue: Queue<ConsumerPort>,
    effects: Effects,
    deleted: bool,
    /// Messages came in while nobody consumed, and the log does not know yet that they may be delivered.
    unnoted: bool,
    /// When the node's timers will look at the queue, in milliseconds since 1970.
    timer_at: Option<u64>,
    /// Publishers that wait until the queue is short.
    waiters: Vec<Arc<Waiter>>,
}

/// A queue's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Messages ready.
    pub ready: u64,
    /// Deliveries unsettled.
    pub unacked: u64,
    /// Octets of ready bodies.
    pub ready_bytes: u64,
    /// Octets of unsettled bodies.
    pub unacked_bytes: u64,
    /// Consumers.
    pub consumers: u64,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Enqueued {
    /// The log position that makes the stored messages safe.
    pub(crate) position: LogPosition,
    /// The queue has grown long although it has consumers.
    pub(crate) long: bool,
    /// Items of the batch that the queue's length limit refused.
    pub(crate) rejected: Vec<u32>,
}

/// Stored arrivals as runs of consecutive sequences whose records lie back to back.
struct Runs {
    list: Vec<EnqueuedRun>,
    next: u64,
    end: LogPosition,
    may_be_delivered: bool,
}

impl Runs {
    const fn new(first: Sequence, may_be_delivered: bool) -> Self {
        Self {
            list: Vec::new(),
            next: first.0,
            end: LogPosition::NONE,
            may_be_delivered,
        }
    }

    fn add(&mut self, arrival: &Arrival) {
        let (sequence, at) = (self.next, arrival.incoming.at);
        self.next += 1;
        if at == LogPosition::NONE {
            return;
        }
        match self.list.last_mut() {
            Some(run) if self.end == at && run.first.0 + u64::from(run.count) == sequence => {
                run.count += 1
            }
            _ => self.list.push(EnqueuedRun {
                first: Sequence(sequence),
                count: 1,
                at,
                may_be_delivered: self.may_be_delivered,
                delivery_count: 0,
            }),
        }
        self.end = LogPosition(at.0 + u64::from(arrival.record_len));
    }
}

/// What a queue held when it was deleted.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Ready messages.
    pub(crate) ready: u64,
    /// Where the records of its stored messages lie.
    pub(crate) stored: Vec<LogPosition>,
}

/// The handle routing returns.
#[derive(Clone)]
pub struct QueueRef(pub(crate) Arc<QueueCell>);

impl QueueHandle for QueueRef {
    fn id(&self) -> QueueId {
        self.0.id
    }

    fn name(&self) -> &str {
        &self.0.name
    }

    fn is_classic(&self) -> bool {
        self.0.declaration.settings.kind == QueueKind::Classic
    }

    fn is_durable(&self) -> bool {
        self.0.declaration.durable
    }

    fn generation(&self) -> &Arc<AtomicU64> {
        &self.0.generation
    }
}

impl fmt::Debug for QueueCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueCell")
            .field("vhost", &self.vhost)
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for QueueRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message for [`QueueCell::enqueue`], with the octet range of its record in the batch's chunk when it is
/// to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) incoming: Incoming,
    /// Octets of the record; records of one run lie back to back.
    pub(crate) record_len: u32,
    /// Its number in the publishing connection's batch.
    pub(crate) item: u32,
}

impl Arrival {
    /// A message that is a batch of its own.
    pub(crate) fn alone(message: Message, at: LogPosition) -> Self {
        let record_len = u32::try_from(message.record_len()).unwrap_or(u32::MAX);
        Self {
            incoming: Incoming { message, at },
            record_len,
            item: 0,
        }
    }
}

impl QueueCell {
    pub(crate) fn new(
        id: QueueId,
        home: &Arc<Vhost>,
        name: Arc<str>,
        declaration: Declaration,
        first: Sequence,
        log: Log,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            vhost: Arc::clone(&home.name),
            home: Arc::downgrade(home),
            state: Mutex::new(State {
                queue: Queue::new(declaration.settings, first),
                effects: Effects::default(),
                deleted: false,
                unnoted: false,
                timer_at: None,
                waiters: Vec::new(),
            }),
            definition: OnceLock::new(),
            expires_ms: arguments::expires_ms(&declaration.arguments),
            lease_until: AtomicU64::new(0),
            declaration,
            generation: Arc::new(AtomicU64::new(0)),
            log,
        })
    }

    /// Whether a message of this persistence goes to the log on its way into this queue.
    pub(crate) fn stores(&self, persistent: bool) -> bool {
        match self.declaration.settings.kind {
            QueueKind::Quorum => true,
            QueueKind::Classic => persistent && self.declaration.durable,
        }
    }

    /// The log its stored messages go to.
    pub(crate) const fn log(&self) -> &Log {
        &self.log
    }

    /// Whether it follows the rules of quorum queues.
    pub(crate) fn is_quorum(&self) -> bool {
        self.declaration.settings.kind == QueueKind::Quorum
    }

    /// `queue 'q' in vhost '/'`, as error texts name it.
    pub(crate) fn printed(&self) -> String {
        format!("queue '{}' in vhost '{}'", self.name, self.vhost)
    }

    /// Runs one step and carries out what follows. `None` when the queue has been deleted.
    pub(crate) fn change<R>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut Queue<ConsumerPort>, &mut Effects) -> R,
    ) -> Option<R> {
        self.change_logged(step).map(|(result, _)| result)
    }

    /// Like [`Self::change`], with the log position that makes the settlements durable.
    fn change_logged<R>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut Queue<ConsumerPort>, &mut Effects) -> R,
    ) -> Option<(R, LogPosition)> {
        let mut state = self.state.lock();
        if state.deleted {
            return None;
        }
        let mut dead = Vec::new();
        let State {
            queue,
            effects,
            unnoted,
            waiters,
            timer_at,
            ..
        } = &mut *state;
        let result = step(queue, effects);
        self.note_delivered(queue, unnoted);
        let position = self.carry_out(queue, effects, &mut dead);
        Self::release_waiters(queue, waiters);
        self.arm(queue, timer_at);
        drop(state);
        self.bury(dead);
        Some((result, position))
    }

    /// Takes a batch of messages in.
    pub(crate) fn enqueue(self: &Arc<Self>, arrivals: &mut Vec<Arrival>) -> Enqueued {
        let mut dead = Vec::new();
        let enqueued = self.enqueue_only(arrivals, &mut dead);
        self.bury(dead);
        enqueued
    }

    /// Like [`Self::enqueue`], and leaves what died of it to the caller.
    pub(crate) fn enqueue_only(
        self: &Arc<Self>,
        arrivals: &mut Vec<Arrival>,
        dead: &mut Vec<(Stored, DeathReason)>,
    ) -> Enqueued {
        let mut enqueued = Enqueued {
            position: LogPosition::NONE,
            long: false,
            rejected: Vec::new(),
        };
        let mut state = self.state.lock();
        if state.deleted {
            arrivals.clear();
            return enqueued;
        }
        if self.declaration.settings.overflow == Overflow::DropHead {
            self.take_in(&mut state, arrivals.drain(..), &mut enqueued, dead);
        } else {
            // Whether there is room for a message depends on where the one before it went.
            for arrival in arrivals.drain(..) {
                if state.queue.admits(arrival.incoming.message.body_len()) {
                    self.take_in(&mut state, std::iter::once(arrival), &mut enqueued, dead);
                } else {
                    enqueued.rejected.push(arrival.item);
                    self.refuse(arrival, dead);
                }
            }
        }
        enqueued.long = state.queue.consumer_count() > 0
            && (state.queue.ready_count() > pacing::LONG_MESSAGES
                || state.queue.ready_bytes() > pacing::LONG_BYTES);
        drop(state);
        enqueued
    }

    fn take_in(
        self: &Arc<Self>,
        state: &mut State,
        arrivals: impl ExactSizeIterator<Item = Arrival>,
        enqueued: &mut Enqueued,
        dead: &mut Vec<(Stored, DeathReason)>,
    ) {
        let State {
            queue,
            effects,
            unnoted,
            timer_at,
            ..
        } = state;
        let watched = queue.consumer_count() > 0;
        let mut runs = Runs::new(queue.next_sequence(), watched);
        queue.enqueue(arrivals.map(|arrival| {
            runs.add(&arrival);
            arrival.incoming
        }));
        if !runs.list.is_empty() {
            enqueued.position = self.log.append_enqueued(self.id, &runs.list);
            *unnoted |= !watched;
        }
        if watched || queue.may_expire() || queue.has_length_limit() {
            self.carry_out(queue, effects, dead);
            self.arm(queue, timer_at);
        }
    }

    /// A message the length limit refused: dropped, or dead-lettered without ever having been in the queue.
    fn refuse(&self, arrival: Arrival, dead: &mut Vec<(Stored, DeathReason)>) {
        let settings = &self.declaration.settings;
        if settings.overflow == Overflow::RejectPublishDeadLetter && settings.dead_letters {
            let message = arrival.incoming.message;
            let stored = Stored {
                sequence: Sequence(0),
                message,
                at: LogPosition::NONE,
                returns: 0,
                redelivered: false,
            };
            dead.push((stored, DeathReason::MaxLength));
        }
    }

    /// Dead-letters what died; never under the queue's lock, because other queues' locks are taken.
    fn bury(self: &Arc<Self>, dead: Vec<(Stored, DeathReason)>) {
        if !dead.is_empty()
            && let Some(home) = self.home.upgrade()
        {
            dead_letters::bury(self, &home, dead);
        }
    }

    /// Remembers what makes the queue itself durable.
    pub(crate) fn set_definition(&self, commit: Arc<Commit>) {
        // Set once, by the declaration that made the queue.
        let _ = self.definition.set(commit);
    }

    /// What has to be durable before the queue, and anything in it, can be relied upon.
    pub(crate) fn definition_on_its_way(&self) -> Option<Arc<Commit>> {
        self.definition
            .get()
            .filter(|commit| commit.state() != CommitState::Done)
            .cloned()
    }

    /// Begins the queue's time after a restart: deadlines are armed, its lease runs anew.
    pub(crate) fn start(self: &Arc<Self>) {
        self.change(|_, _| ());
        self.renew_lease();
    }

    /// Has the node's timers look at the queue when its next message expires.
    fn arm(self: &Arc<Self>, queue: &Queue<ConsumerPort>, timer_at: &mut Option<u64>) {
        if let Some(deadline) = queue.next_deadline()
            && timer_at.is_none_or(|armed| deadline < armed)
            && let Some(home) = self.home.upgrade()
        {
            *timer_at = Some(deadline);
            home.timers.add(deadline, self);
        }
    }

    /// Something is due: messages have expired, or the queue itself. True when the queue is to be deleted.
    pub(crate) fn tick(self: &Arc<Self>, now_ms: u64) -> bool {
        self.state.lock().timer_at = None;
        self.change(|_, _| ());
        self.lease_is_over(now_ms)
    }

    /// The queue is in use: its time to live begins anew.
    pub(crate) fn renew_lease(self: &Arc<Self>) {
        if let (Some(expires_ms), Some(home)) = (self.expires_ms, self.home.upgrade()) {
            let until = home.unix_ms().saturating_add(expires_ms);
            self.lease_until.store(until, Ordering::Release);
            home.timers.add(until, self);
        }
    }

    fn lease_is_over(self: &Arc<Self>, now_ms: u64) -> bool {
        if self.expires_ms.is_none() {
            return false;
        }
        if self.counts().consumers > 0 {
            self.renew_lease();
        }
        let until = self.lease_until.load(Ordering::Acquire);
        if until <= now_ms {
            return true;
        }
        if let Some(home) = self.home.upgrade() {
            home.timers.add(until, self);
        }
        false
    }

    /// Has `waiter` released once the queue is short. `None` if it is short already, else the ready messages.
    pub(crate) fn wait_until_short(&self, waiter: &Arc<Waiter>) -> Option<u64> {
        let mut state = self.state.lock();
        if state.deleted || pacing::is_short(state.queue.ready_count(), state.queue.ready_bytes()) {
            return None;
        }
        state.waiters.push(Arc::clone(waiter));
        Some(state.queue.ready_count() as u64)
    }

    /// Takes a waiter back out; returns the ready messages.
    pub(crate) fn stop_waiting(&self, waiter: &Arc<Waiter>) -> u64 {
        let mut state = self.state.lock();
        state.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        state.queue.ready_count() as u64
    }

    fn release_waiters(queue: &Queue<ConsumerPort>, waiters: &mut Vec<Arc<Waiter>>) {
        if !waiters.is_empty() && pacing::is_short(queue.ready_count(), queue.ready_bytes()) {
            for waiter in waiters.drain(..) {
                waiter.release();
            }
        }
    }

    /// Messages that come while there are consumers carry the flag themselves; those that were there before
    /// the first consumer get it here, in one entry.
    fn note_delivered(&self, queue: &Queue<ConsumerPort>, unnoted: &mut bool) {
        if *unnoted && queue.consumer_count() > 0 {
            *unnoted = false;
            self.log
                .append_delivered(self.id, Sequence(queue.next_sequence().0.saturating_sub(1)));
        }
    }

    /// Takes one message out for `basic.get`.
    pub(crate) fn fetch(self: &Arc<Self>, no_ack: bool) -> Option<Option<Fetched>> {
        self.renew_lease();
        let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
        self.change(|queue, effects| {
            queue.expire(now_ms, effects);
            let fetched = queue.fetch(no_ack, effects)?;
            if fetched.stored.at != LogPosition::NONE && !no_ack {
                self.log.append_delivered(self.id, fetched.stored.sequence);
            }
            Some(fetched)
        })
    }

    fn carry_out(
        self: &Arc<Self>,
        queue: &mut Queue<ConsumerPort>,
        effects: &mut Effects,
        dead: &mut Vec<(Stored, DeathReason)>,
    ) -> LogPosition {
        let mut position = LogPosition::NONE;
        let now_ms = if queue.may_expire() {
            self.home.upgrade().map_or(0, |home| home.unix_ms())
        } else {
            0
        };
        loop {
            queue.expire_waited(now_ms, effects);
            queue.dispatch(effects);
            queue.expire(now_ms, effects);
            queue.trim(effects);
            if effects.is_empty() {
                return position;
            }
            position = position.max(self.settle_in_log(effects));
            dead.append(&mut effects.dead);
            Self::deliver(queue, effects);
            let mut again = false;
            for consumer in effects.starved.drain(..) {
                let starved = queue.port(consumer).map(|port| Arc::clone(&port.outbox));
                let Some(outbox) = starved else { continue };
                if !outbox.starve(Starving {
                    queue: Arc::clone(self),
                    consumer,
                }) {
                    queue.resume(consumer);
                    again = true;
                }
            }
            effects.clear();
            if !again {
                return position;
            }
        }
    }

    fn settle_in_log(&self, effects: &mut Effects) -> LogPosition {
        let mut position = LogPosition::NONE;
        if !effects.settled.is_empty() {
            let settled: Vec<Settled> = effects
                .settled
                .drain(..)
                .map(|settled| Settled {
                    sequence: settled.sequence,
                    at: settled.at,
                })
                .collect();
            position = self.log.append_settled(self.id, &settled);
        }
        for (sequence, count) in effects.returned.drain(..) {
            position = self.log.append_delivery_count(self.id, sequence, count);
        }
        position
    }

    fn deliver(queue: &Queue<ConsumerPort>, effects: &mut Effects) {
        let mut deliveries = effects.deliveries.drain(..).peekable();
        while let Some(first) = deliveries.next() {
            let Some(port) = queue.port(first.consumer) else {
                continue;
            };
            let outbox = &port.outbox;
            let slot_of = |consumer: ConsumerId| {
                queue
                    .port(consumer)
                    .filter(|port| Arc::ptr_eq(&port.outbox, outbox))
                    .map(|port| port.slot)
            };
            let first = Notice::Deliver {
                slot: port.slot,
                delivery: first,
            };
            let rest = std::iter::from_fn(|| {
                let slot = slot_of(deliveries.peek()?.consumer)?;
                deliveries
                    .next()
                    .map(|delivery| Notice::Deliver { slot, delivery })
            });
            outbox.push_all(std::iter::once(first).chain(rest));
        }
    }

    /// Ends deliveries. Returns the log position that makes it durable.
    pub(crate) fn settle(
        self: &Arc<Self>,
        keys: impl Iterator<Item = (UnackedKey, Sequence)>,
        outcome: Outcome,
    ) -> LogPosition {
        let settled = self.change_logged(|queue, effects| queue.settle(keys, outcome, effects));
        settled.map_or(LogPosition::NONE, |((), position)| position)
    }

    /// Notes in the log that deliveries without acknowledgement have left for good.
    pub(crate) fn sent(&self, settled: &[Settled]) {
        self.log.append_settled(self.id, settled);
    }

    /// Counters of this moment.
    pub fn counts(&self) -> QueueCounts {
        let state = self.state.lock();
        QueueCounts {
            ready: state.queue.ready_count() as u64,
            unacked: state.queue.unacked_count() as u64,
            ready_bytes: state.queue.ready_bytes(),
            unacked_bytes: state.queue.unacked_bytes(),
            consumers: state.queue.consumer_count() as u64,
        }
    }

    /// Looks at the queue without changing it.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(&Queue<ConsumerPort>) -> R) -> R {
        look(&self.state.lock().queue)
    }

    /// Puts back what survived a restart.
    pub(crate) fn restore(&self, messages: impl Iterator<Item = Stored>) {
        let mut state = self.state.lock();
        for stored in messages {
            state.unnoted |= !stored.redelivered;
            state.queue.restore(stored);
        }
    }

    /// Ends the queue if `allowed` says so: no message goes in or out any more, its consumers are told.
    /// Returns what `allowed` refused with, or what was there.
    pub(crate) fn end<E>(
        &self,
        allowed: impl FnOnce(&Queue<ConsumerPort>) -> Result<(), E>,
    ) -> Result<Ended, E> {
        let mut state = self.state.lock();
        if state.deleted {
            return Ok(Ended::default());
        }
        allowed(&state.queue)?;
        state.deleted = true;
        self.generation.fetch_add(1, Ordering::AcqRel);
        let ready = state.queue.ready_count() as u64;
        for (_, port) in state.queue.ports() {
            port.outbox.push(Notice::QueueGone { slot: port.slot });
        }
        let settings = *state.queue.settings();
        let next = state.queue.next_sequence();
        let old = std::mem::replace(&mut state.queue, Queue::new(settings, next));
        for waiter in state.waiters.drain(..) {
            waiter.release();
        }
        drop(state);
        let stored = old
            .messages()
            .map(|stored| stored.at)
            .filter(|at| *at != LogPosition::NONE);
        Ok(Ended {
            ready,
            stored: stored.collect(),
        })
    }

    /// Whether the queue has been deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.state.lock().deleted
    }

    /// Moves the records of messages inside `range` to the log's end, so that the range can be reclaimed.
    pub(crate) fn relocate(&self, range: &std::ops::Range<LogPosition>) {
        let mut state = self.state.lock();
        let mut old = Vec::new();
        for stored in state
            .queue
            .messages_mut()
            .filter(|stored| range.contains(&stored.at))
        {
            let appended = self.log.append_messages(stored.message.record().clone());
            let run = EnqueuedRun {
                first: stored.sequence,
                count: 1,
                at: appended.at(),
                may_be_delivered: true,
                delivery_count: stored.returns,
            };
            self.log.append_enqueued(self.id, &[run]);
            old.push(stored.at);
            stored.at = appended.at();
        }
        if !old.is_empty() {
            self.log.relocated(&old);
        }
    }

    /// The sequences of messages that have been delivered before, for a clean stop.
    pub(crate) fn redelivered_at_stop(&self) -> Vec<Sequence> {
        self.inspect(|queue| {
            let mut seen: Vec<Sequence> = queue
                .delivered_before()
                .filter(|stored| stored.at != LogPosition::NONE)
                .map(|stored| stored.sequence)
                .collect();
            seen.sort_unstable();
            seen
        })
    }
}

/// For [`Outbox`]'s readers: what a delivery without acknowledgement leaves to note in the log.
pub(crate) fn settled_of(stored: &Stored) -> Option<Settled> {
    (stored.at != LogPosition::NONE).then_some(Settled {
        sequence: stored.sequence,
        at: stored.at,
    })
}

impl Outbox {
    /// Resumes consumers that waited for room.
    pub(crate) fn resume(starving: Vec<Starving>) {
        for Starving { queue, consumer } in starving {
            queue.change(|queue, _| queue.resume(consumer));
        }
    }
}
