//! A queue on this node: the state machine behind its lock, with the log and the outboxes around it.
//!
//! Every change goes through [`QueueCell::change`]: it runs one step of the state machine, hands ready
//! messages to consumers, writes what must survive to the log and fills the outboxes, all under the one lock,
//! so that the log and every consumer see the queue's own order. What needs the disk ([`QueueCell::page_in`],
//! [`QueueCell::relocate`]) reads first and takes the lock after.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mamba_queue::{
    ConsumerId, DeathReason, Effects, Fetch, Fetched, Incoming, Moved, Outcome, Overflow, PageIn,
    PagedRun, Queue, QueueKind, Settings, Stored, UnackedKey, Window,
};
use mamba_routing::QueueHandle;
use mamba_store::{
    Damage, DurableWaker, EnqueuedRun, LiveRun, LoadRequest, Log, RecoveredRun, Relocated,
    Relocation, RelocationBatch, RelocationCursor, Settled,
};
use mamba_types::{FieldTable, LogPosition, Message, QueueId, Sequence, message};
use parking_lot::Mutex;

use crate::{
    arguments,
    commit::{Commit, CommitState},
    dead_letters,
    outbox::{ConsumerPort, Notice, Outbox, Starving},
    pacing::{self, Waiter},
    paging::{Job, PagedIn, Paging},
    vhost::Vhost,
};

/// Change of octets in memory that the node's budget is told.
const ACCOUNT_STEP: usize = 16 << 10;
/// Octets of transient messages written to the log in one go.
const SPILL_BYTES_MAX: usize = 4 << 20;
/// Unwritten octets of the log above which no transient messages are added to them.
const SPILL_BACKLOG_MAX: u64 = 16 << 20;
/// Messages read back at once.
const READ_MESSAGES_MAX: usize = 16_384;
/// Times `basic.get` tells the log of one message only, before it tells of more ahead.
const GETS_EXACT: u64 = 8;
/// Times `basic.get` reads back before it says that the queue is empty.
const FETCH_TRIES: usize = 64;

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
    paging: Arc<Paging>,
    /// What was handed to consumers without acknowledgement and has not been sent: it lives until then.
    in_flight: Mutex<InFlight>,
    /// Counts relocations of its messages: what was read before one does not know the new places.
    relocations: AtomicU64,
    state: Mutex<State>,
}

struct State {
    queue: Queue<ConsumerPort>,
    effects: Effects,
    deleted: bool,
    /// The log knows of everything up to here that it may be delivered…
    noted: Sequence,
    /// … once it is durable up to here; until then nothing is delivered.
    noted_at: LogPosition,
    /// Times the log was told of deliveries by `basic.get`.
    gets_noted: u64,
    /// Octets in memory, as last told to the node's budget.
    accounted: usize,
    /// How far the log was written when the queue was last paged out, and the octets that remained.
    paged_at: LogPosition,
    kept: usize,
    /// Dead letters on their way to other queues: until those have them, they live here.
    burying: Vec<Stored>,
    /// When the node's timers will look at the queue, in milliseconds since 1970.
    timer_at: Option<u64>,
    /// Publishers that wait until the queue is short.
    waiters: Vec<Arc<Waiter>>,
}

/// What a step leaves to do without the queue's lock.
#[derive(Default)]
struct Aftermath {
    dead: Vec<(Stored, DeathReason)>,
    dropped: Vec<PagedRun>,
}

/// Sequences of one queue with their levels, as runs of consecutive ones.
#[derive(Debug, Default)]
struct InFlight {
    /// By first sequence: the one after the last, and the level.
    runs: BTreeMap<u64, (u64, u8)>,
}

impl InFlight {
    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn add(&mut self, sequence: Sequence, level: u8) {
        let sequence = sequence.0;
        if let Some((_, (to, known))) = self.runs.range_mut(..=sequence).next_back()
            && *to == sequence
            && *known == level
        {
            *to += 1;
            return;
        }
        self.runs.insert(sequence, (sequence + 1, level));
    }

    fn remove(&mut self, settled: &[Settled]) {
        let mut rest = settled.iter().map(|settled| settled.sequence.0).peekable();
        while let Some(first) = rest.next() {
            let mut to = first + 1;
            while rest.next_if_eq(&to).is_some() {
                to += 1;
            }
            self.remove_range(first, to);
        }
    }

    fn remove_range(&mut self, from: u64, to: u64) {
        while let Some((&first, &(end, level))) = self
            .runs
            .range(..to)
            .next_back()
            .filter(|(_, (end, _))| *end > from)
        {
            self.runs.remove(&first);
            if first < from {
                self.runs.insert(first, (from, level));
            }
            if end > to {
                self.runs.insert(to, (end, level));
            }
        }
    }

    fn overlaps(&self, first: u64, last: u64) -> bool {
        let before_end = self.runs.range(..=last).next_back();
        before_end.is_some_and(|(_, (to, _))| *to > first)
    }

    fn runs(&self) -> impl Iterator<Item = LiveRun> {
        self.runs.iter().map(|(from, (to, level))| LiveRun {
            level: *level,
            from: Sequence(*from),
            to: Sequence(*to),
            delivered: true,
            delivery_count: 0,
        })
    }
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

/// Stored messages as runs of consecutive sequences of one level whose records lie back to back.
struct Runs {
    list: Vec<EnqueuedRun>,
    may_be_delivered: bool,
    volatile: bool,
}

impl Runs {
    const fn new(may_be_delivered: bool) -> Self {
        Self {
            list: Vec::new(),
            may_be_delivered,
            volatile: false,
        }
    }

    fn add(&mut self, sequence: Sequence, level: u8, at: LogPosition, message: &Message) {
        if at == LogPosition::NONE {
            return;
        }
        let octets = narrow(message.record_len());
        let body_octets = narrow(message.body_len());
        match self.list.last_mut() {
            Some(run)
                if run.at.0 + u64::from(run.octets) == at.0
                    && run.first.0 + u64::from(run.count) == sequence.0
                    && run.level == level =>
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
                delivery_count: 0,
                volatile: self.volatile,
            }),
        }
    }
}

fn narrow(octets: usize) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX)
}

/// What a queue held when it was deleted.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Ready messages.
    pub(crate) ready: u64,
    /// Its messages in memory that have a place in the log.
    pub(crate) stored: Vec<Settled>,
    /// Its messages that are only there.
    pub(crate) paged: Vec<PagedRun>,
}

impl Ended {
    /// Gives the space of its messages free. Call it when the deletion lasts.
    pub(crate) fn forget(self, queue: QueueId, log: &Log) {
        log.forget_queue(queue, &self.stored);
        for run in self.paged {
            log.dropped(queue, run.level, run.from, run.to);
        }
    }
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

/// A message for [`QueueCell::enqueue`].
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) incoming: Incoming,
    /// Its number in the publishing connection's batch.
    pub(crate) item: u32,
}

impl Arrival {
    /// A message that is a batch of its own.
    pub(crate) const fn alone(message: Message, at: LogPosition) -> Self {
        Self {
            incoming: Incoming { message, at },
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
                noted: Sequence(0),
                noted_at: LogPosition::NONE,
                gets_noted: 0,
                accounted: 0,
                paged_at: LogPosition::NONE,
                kept: 0,
                burying: Vec::new(),
                timer_at: None,
                waiters: Vec::new(),
            }),
            definition: OnceLock::new(),
            expires_ms: arguments::expires_ms(&declaration.arguments),
            lease_until: AtomicU64::new(0),
            declaration,
            generation: Arc::new(AtomicU64::new(0)),
            log,
            paging: Arc::clone(&home.paging),
            in_flight: Mutex::default(),
            relocations: AtomicU64::new(0),
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
        let mut after = Aftermath::default();
        let State { queue, effects, .. } = &mut *state;
        let result = step(queue, effects);
        let position = self.follow(&mut state, &mut after);
        self.balance(&mut state);
        drop(state);
        // What died is settled once it is where dead letters go.
        let buried = self.finish(after);
        Some((result, position.max(buried)))
    }

    /// Everything that follows a step, still under the lock. Returns the log position that makes its settlements durable.
    fn follow(self: &Arc<Self>, state: &mut State, after: &mut Aftermath) -> LogPosition {
        self.note_delivered(state);
        let position = self.carry_out(state, after);
        self.arm(state);
        Self::release_waiters(state);
        position
    }

    /// What a step leaves to do without the lock. Returns the log position that makes it durable.
    fn finish(self: &Arc<Self>, after: Aftermath) -> LogPosition {
        for run in after.dropped {
            self.log.dropped(self.id, run.level, run.from, run.to);
        }
        self.bury(after.dead)
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
        let mut after = Aftermath::default();
        let mut state = self.state.lock();
        if state.deleted {
            arrivals.clear();
            return enqueued;
        }
        if self.declaration.settings.overflow == Overflow::DropHead {
            self.take_in(&mut state, arrivals.drain(..), &mut enqueued, &mut after);
        } else {
            // Whether there is room for a message depends on where the one before it went.
            for arrival in arrivals.drain(..) {
                if state.queue.admits(arrival.incoming.message.body_len()) {
                    self.take_in(
                        &mut state,
                        std::iter::once(arrival),
                        &mut enqueued,
                        &mut after,
                    );
                } else {
                    enqueued.rejected.push(arrival.item);
                    self.refuse(arrival, &mut after.dead);
                }
            }
        }
        self.balance(&mut state);
        enqueued.long = state.queue.consumer_count() > 0
            && (state.queue.ready_count() > pacing::LONG_MESSAGES
                || state.queue.ready_bytes() > pacing::LONG_BYTES);
        drop(state);
        dead.append(&mut after.dead);
        enqueued
    }

    fn take_in(
        self: &Arc<Self>,
        state: &mut State,
        arrivals: impl ExactSizeIterator<Item = Arrival>,
        enqueued: &mut Enqueued,
        after: &mut Aftermath,
    ) {
        let queue = &mut state.queue;
        let watched = queue.consumer_count() > 0;
        // Behind what lies on the disk nobody gets them before they have been read back or moved up.
        let mut paged = [false; 256];
        for level in queue.paged_levels() {
            paged[usize::from(level)] = true;
        }
        let all_at_once = watched && queue.paged_count() == 0;
        let mut runs = Runs::new(false);
        let settings = *queue.settings();
        let mut next = queue.next_sequence();
        queue.enqueue(arrivals.map(|arrival| {
            let Incoming { message, at } = &arrival.incoming;
            let level = settings.level_of(message);
            runs.may_be_delivered = watched && !paged[usize::from(level)];
            runs.add(next, level, *at, message);
            next = next.next();
            arrival.incoming
        }));
        if !runs.list.is_empty() {
            enqueued.position = self.log.append_enqueued(self.id, &runs.list);
            if all_at_once {
                state.noted = Sequence(next.0.saturating_sub(1));
            }
        }
        if watched || queue.may_expire() || queue.has_length_limit() {
            self.carry_out(state, after);
            self.arm(state);
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
    fn bury(self: &Arc<Self>, dead: Vec<(Stored, DeathReason)>) -> LogPosition {
        match self.home.upgrade() {
            Some(home) if !dead.is_empty() => dead_letters::bury(self, &home, dead),
            _ => LogPosition::NONE,
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
    fn arm(self: &Arc<Self>, state: &mut State) {
        if let Some(deadline) = state.queue.next_deadline()
            && state.timer_at.is_none_or(|armed| deadline < armed)
            && let Some(home) = self.home.upgrade()
        {
            state.timer_at = Some(deadline);
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

    fn release_waiters(state: &mut State) {
        let queue = &state.queue;
        if !state.waiters.is_empty() && pacing::is_short(queue.ready_count(), queue.ready_bytes()) {
            for waiter in state.waiters.drain(..) {
                waiter.release();
            }
        }
    }

    /// Tells the log, before the fact and in one entry, that what is within reach of consumers may be delivered. Messages that come
    /// while there are consumers carry the flag themselves.
    fn note_delivered(self: &Arc<Self>, state: &mut State) {
        if state.queue.consumer_count() > 0
            && let Some(up_to) = state.queue.deliverable_to()
            && up_to > state.noted
            && self.stores(true)
        {
            state.noted = up_to;
            state.noted_at = self.log.append_delivered(self.id, up_to);
            if !self.log.is_durable(state.noted_at) {
                let resume = Resume(Arc::downgrade(self));
                self.log.wake_at(state.noted_at, Arc::new(resume));
            }
        }
    }

    /// Whether deliveries wait until the log knows of them: after a crash they have to come back marked as redelivered. With a full
    /// disk, or none, consumers go on without.
    fn is_held(&self, state: &mut State) -> bool {
        if state.noted_at == LogPosition::NONE {
            return false;
        }
        let held =
            !self.log.is_durable(state.noted_at) && !self.log.failed() && !self.log.is_full();
        if !held {
            state.noted_at = LogPosition::NONE;
        }
        held
    }

    /// Keeps what the queue has in memory within its share of the node's budget: what is in the log anyway is dropped, and what is
    /// not goes there first.
    fn balance(&self, state: &mut State) {
        let resident = state.queue.resident_bytes();
        let share = self.paging.share();
        // What could not be dropped the last time can be dropped only when more of the log has been written.
        let written = self.log.written();
        if resident > share && (written > state.paged_at || resident > 2 * state.kept) {
            let keep = share / 4;
            let log_is_well = !self.log.failed() && self.log.backlog_bytes() < SPILL_BACKLOG_MAX;
            if log_is_well {
                self.spill(state, keep);
            }
            let dropped = state.queue.page_out(written, keep);
            state.paged_at = written;
            state.kept = state.queue.resident_bytes();
            if dropped > 0 {
                self.paging
                    .dropped_bytes
                    .fetch_add(dropped as u64, Ordering::Relaxed);
            }
        }
        let resident = state.queue.resident_bytes();
        if resident.abs_diff(state.accounted) >= ACCOUNT_STEP || resident == 0 {
            self.paging.account(state.accounted, resident);
            state.accounted = resident;
        }
    }

    /// Writes transient messages beyond `keep` octets to the log, for want of memory: nobody waits for that, and a restart
    /// forgets them.
    fn spill(&self, state: &mut State, keep: usize) {
        let mut chunk = Vec::new();
        let mut spilled: Vec<(u8, &mut Stored, usize)> = Vec::new();
        for (level, stored) in state.queue.unstored_beyond(keep) {
            if chunk.len() >= SPILL_BYTES_MAX {
                break;
            }
            let start = chunk.len();
            chunk.extend_from_slice(stored.message.record());
            // A transient record has no checksum before it goes to a disk.
            message::finish(&mut chunk, start);
            spilled.push((level, stored, start));
        }
        if spilled.is_empty() {
            return;
        }
        let appended = self.log.append_messages(Bytes::from(chunk));
        let mut runs = Runs::new(false);
        runs.volatile = true;
        for (level, stored, start) in spilled {
            stored.at = LogPosition(appended.at().0 + start as u64);
            runs.add(stored.sequence, level, stored.at, &stored.message);
        }
        self.log.append_enqueued(self.id, &runs.list);
    }

    /// Looks again at what waited for the log.
    pub(crate) fn resume(self: &Arc<Self>) {
        self.change(|_, _| ());
    }

    /// Drops from memory what can be had back from the disk; for queues nobody uses at the moment.
    pub(crate) fn tidy(&self) {
        let mut state = self.state.lock();
        if !state.deleted {
            self.balance(&mut state);
        }
    }

    /// Takes one message out for `basic.get`, with the log position to wait for before it leaves. Reads from the disk where it must.
    pub(crate) fn fetch(self: &Arc<Self>, no_ack: bool) -> Option<(Fetched, LogPosition)> {
        self.renew_lease();
        let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
        // Between reading back and looking again somebody else may be faster, but not for ever.
        for _ in 0..FETCH_TRIES {
            let mut after = Aftermath::default();
            let mut state = self.state.lock();
            if state.deleted {
                return None;
            }
            let State { queue, effects, .. } = &mut *state;
            queue.expire(now_ms, effects);
            let within_reach = queue.deliverable_to();
            let fetched = queue.fetch_next(no_ack, effects);
            let mut position = LogPosition::NONE;
            if let Fetch::Message(Fetched { stored, .. }) = &fetched
                && stored.at != LogPosition::NONE
            {
                if stored.sequence > state.noted && self.stores(stored.message.persistent()) {
                    // Exact at first; who gets many need not wait each time.
                    let ahead = state.gets_noted / GETS_EXACT;
                    state.gets_noted += 1;
                    let up_to = Sequence(stored.sequence.0.saturating_add(ahead));
                    let up_to = within_reach.map_or(stored.sequence, |within_reach| {
                        up_to.min(within_reach).max(stored.sequence)
                    });
                    state.noted = up_to;
                    state.noted_at = self.log.append_delivered(self.id, up_to);
                }
                position = state.noted_at;
            }
            self.follow(&mut state, &mut after);
            self.balance(&mut state);
            drop(state);
            self.finish(after);
            match fetched {
                Fetch::Message(fetched) => return Some((fetched, position)),
                Fetch::Empty => return None,
                Fetch::Wanted => self.paging.finish(self.id),
            }
        }
        None
    }

    /// Reads a part of the queue back that lies on the disk only.
    pub(crate) fn page_in(self: &Arc<Self>, wanted: &PageIn) -> PagedIn {
        let relocations = self.relocations.load(Ordering::Acquire);
        let window = self.paging.read_bytes();
        let loaded = self.log.load(&LoadRequest {
            queue: self.id,
            level: wanted.level,
            from: wanted.from,
            to: wanted.to,
            octets_max: wanted.octets.min(window).max(1),
            messages_max: READ_MESSAGES_MAX,
        });
        self.report_damage(&loaded.damaged);
        let count = loaded.messages.len() as u64;
        self.paging.read.fetch_add(count, Ordering::Relaxed);
        let too_early = loaded.next <= wanted.from;
        self.announce(loaded.messages.last().map(|last| last.sequence));
        let mut after = Aftermath::default();
        let mut state = self.state.lock();
        if state.deleted {
            return PagedIn::Done;
        }
        let queue = &mut state.queue;
        if too_early || self.relocations.load(Ordering::Acquire) != relocations {
            // Not written yet, or copied meanwhile: read again, from their new places.
            queue.load_failed(wanted.level, wanted.token);
        } else {
            queue.set_window(Window {
                head_bytes: window,
                low_bytes: window / 2,
                tail_bytes: window,
            });
            let messages = loaded.messages.into_iter().map(|loaded| Stored {
                sequence: loaded.sequence,
                message: loaded.message,
                at: loaded.at,
                returns: 0,
                redelivered: false,
            });
            let missing =
                queue.paged_in(wanted.level, wanted.token, messages.collect(), loaded.next);
            if missing > 0 {
                self.paging
                    .quarantined
                    .fetch_add(missing, Ordering::Relaxed);
                tracing::error!(vhost = %self.vhost, queue = %self.name, missing, "messages of a queue cannot be read back from the log; the queue goes on without them");
            }
        }
        // Not balanced: what was just read is for whoever asked for it, whatever its size.
        self.follow(&mut state, &mut after);
        drop(state);
        self.finish(after);
        if too_early {
            PagedIn::TooEarly
        } else {
            PagedIn::Done
        }
    }

    /// Has the log know of messages that will be within reach of consumers in a moment, and waits for it: so that they need not.
    fn announce(self: &Arc<Self>, up_to: Option<Sequence>) {
        let Some(up_to) = up_to.filter(|_| self.stores(true)) else {
            return;
        };
        let position = {
            let mut state = self.state.lock();
            if state.queue.consumer_count() == 0 || up_to <= state.noted {
                return;
            }
            state.noted = up_to;
            let position = self.log.append_delivered(self.id, up_to);
            if self.log.is_driven() {
                state.noted_at = position;
                let resume = Resume(Arc::downgrade(self));
                self.log.wake_at(position, Arc::new(resume));
            }
            position
        };
        self.log.wait_durable(position);
    }

    fn report_damage(&self, damaged: &[Damage]) {
        for damage in damaged {
            tracing::error!(
                vhost = %self.vhost,
                queue = %self.name,
                first = damage.first.0,
                messages = damage.count,
                reason = %damage.reason,
                "damaged messages in the log: check the disk, and run `mambamq store verify` when the node is stopped"
            );
            if !damage.unreadable {
                self.log.quarantine(damage);
                let each = damage.octets / damage.count.max(1);
                let settled = (0..u64::from(damage.count)).map(|number| Settled {
                    sequence: Sequence(damage.first.0 + number),
                    at: damage.at,
                    octets: each,
                });
                self.log
                    .append_settled(self.id, &settled.collect::<Vec<_>>());
            }
        }
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, after: &mut Aftermath) -> LogPosition {
        let mut position = LogPosition::NONE;
        let now_ms = if state.queue.may_expire() {
            self.home.upgrade().map_or(0, |home| home.unix_ms())
        } else {
            0
        };
        self.place_moved(state);
        loop {
            let held = self.is_held(state);
            let State { queue, effects, .. } = state;
            queue.expire_waited(now_ms, effects);
            if !held {
                queue.dispatch(effects);
            }
            queue.expire(now_ms, effects);
            queue.trim(effects);
            if effects.is_empty() {
                return position;
            }
            position = position.max(self.settle_in_log(state));
            let State {
                queue,
                effects,
                burying,
                ..
            } = state;
            burying.extend(effects.dead.iter().map(|(stored, _)| stored.clone()));
            after.dead.append(&mut effects.dead);
            after.dropped.append(&mut effects.dropped);
            self.deliver(queue, effects);
            for page_in in effects.wanted.drain(..) {
                self.paging.request(Job::PageIn(Arc::clone(self), page_in));
            }
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

    /// What goes to the queue's end gets a new place in it, and a new record.
    fn place_moved(&self, state: &mut State) {
        let State { queue, effects, .. } = state;
        for Moved { from, stored } in effects.moved.drain(..) {
            // It goes to the end of the queue: a new place in it, and a new record.
            let appended = self.log.append_messages(stored.message.record().clone());
            let mut runs = Runs::new(true);
            runs.volatile = !self.stores(stored.message.persistent());
            let level = queue.level_of(&stored.message);
            runs.add(stored.sequence, level, appended.at(), &stored.message);
            for run in &mut runs.list {
                run.delivery_count = stored.returns;
            }
            self.log.append_enqueued(self.id, &runs.list);
            queue.set_place(stored.sequence, appended.at());
            effects.settled.push(from);
        }
    }

    fn settle_in_log(self: &Arc<Self>, state: &mut State) -> LogPosition {
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
    fn write_state(self: &Arc<Self>, state: &mut State) -> LogPosition {
        let mut runs: Vec<LiveRun> = state
            .queue
            .live_runs(false)
            .into_iter()
            .map(|run| LiveRun {
                level: run.level,
                from: run.from,
                to: run.to,
                delivered: run.delivered,
                delivery_count: run.returns,
            })
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
    }

    fn deliver(&self, queue: &Queue<ConsumerPort>, effects: &mut Effects) {
        let mut unacknowledged = effects
            .deliveries
            .iter()
            .filter(|delivery| delivery.key.is_none())
            .map(|delivery| &delivery.stored)
            .filter(|stored| stored.at != LogPosition::NONE)
            .peekable();
        if unacknowledged.peek().is_some() {
            let mut in_flight = self.in_flight.lock();
            for stored in unacknowledged {
                in_flight.add(stored.sequence, queue.level_of(&stored.message));
            }
        }
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
    /// it is written again.
    pub(crate) fn take_back(self: &Arc<Self>, mut stored: Stored) -> Option<()> {
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
        self.change(|queue, _| queue.give_back(stored))
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

    /// Puts back what survived a restart.
    pub(crate) fn restore(&self, runs: &[RecoveredRun]) {
        let mut state = self.state.lock();
        for run in runs {
            state.queue.restore_paged(PagedRun {
                level: run.level,
                from: run.from,
                to: run.to,
                count: run.count,
                body_bytes: run.body_bytes,
                redelivered: run.redelivered,
                returns: run.delivery_count,
            });
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
        self.paging.account(std::mem::take(&mut state.accounted), 0);
        drop(state);
        let stored = old.messages().filter_map(settled_of).collect();
        let paged = old.paged_runs().copied().collect();
        Ok(Ended {
            ready,
            stored,
            paged,
        })
    }

    /// Whether the queue has been deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.state.lock().deleted
    }

    /// Copies what lives of the queue in the file out of it. False if that has to wait.
    pub(crate) fn relocate(&self, relocation: &mut Relocation) -> bool {
        let mut cursor = RelocationCursor::default();
        while let Some(batch) = self.log.relocation_batch(relocation, self.id, &mut cursor) {
            self.report_damage(&batch.loaded.damaged);
            if !self.relocate_batch(relocation, batch) {
                return false;
            }
        }
        true
    }

    fn relocate_batch(&self, relocation: &mut Relocation, batch: RelocationBatch) -> bool {
        let mut state = self.state.lock();
        if state.deleted {
            return true;
        }
        if !state.burying.is_empty() {
            return false;
        }
        let RelocationBatch {
            level,
            volatile,
            loaded,
        } = batch;
        let mut in_memory: Vec<&mut Stored> = Vec::new();
        let mut paged: Vec<PagedRun> = Vec::new();
        let first = loaded.messages.first().map(|message| message.sequence);
        let last = loaded.messages.last().map(|message| message.sequence);
        let (Some(first), Some(last)) = (first, last) else {
            return true;
        };
        if self.in_flight.lock().overlaps(first.0, last.0) {
            return false;
        }
        paged.extend(
            state
                .queue
                .paged_runs()
                .filter(|run| run.level == level && run.from <= last && first < run.to),
        );
        in_memory.extend(
            state
                .queue
                .in_memory_mut()
                .filter(|stored| relocation.contains(stored.at)),
        );
        in_memory.sort_unstable_by_key(|stored| stored.sequence);
        let mut live: Vec<Relocated> = Vec::new();
        for message in loaded.messages {
            let held = in_memory.binary_search_by_key(&message.sequence, |stored| stored.sequence);
            let (delivery_count, may_be_delivered) = if let Ok(index) = held {
                if in_memory[index].at != message.at {
                    continue;
                }
                (in_memory[index].returns, true)
            } else if let Some(run) = paged
                .iter()
                .find(|run| run.from <= message.sequence && message.sequence < run.to)
            {
                (run.returns, run.redelivered)
            } else {
                continue;
            };
            live.push(Relocated {
                sequence: message.sequence,
                message: message.message,
                at: message.at,
                delivery_count,
                may_be_delivered,
            });
        }
        if live.is_empty() {
            return true;
        }
        self.relocations.fetch_add(1, Ordering::AcqRel);
        let places = self
            .log
            .relocate(relocation, self.id, level, volatile, &live);
        for (one, at) in live.iter().zip(places) {
            if let Ok(index) =
                in_memory.binary_search_by_key(&one.sequence, |stored| stored.sequence)
            {
                in_memory[index].at = at;
            }
        }
        true
    }
}

/// For [`Outbox`]'s readers: what a delivery without acknowledgement leaves to note in the log.
pub(crate) fn settled_of(stored: &Stored) -> Option<Settled> {
    (stored.at != LogPosition::NONE).then_some(Settled {
        sequence: stored.sequence,
        at: stored.at,
        octets: narrow(stored.message.record_len()),
    })
}

const fn settled_in_log(settled: mamba_queue::Settled) -> Settled {
    Settled {
        sequence: settled.sequence,
        at: settled.at,
        octets: settled.octets,
    }
}

/// Has a queue deliver again once the log knows enough.
struct Resume(Weak<QueueCell>);

impl DurableWaker for Resume {
    fn durable(&self) {
        // On the log's thread: what takes a queue's lock is for the pagers.
        if let Some(queue) = self.0.upgrade() {
            let paging = Arc::clone(&queue.paging);
            paging.request(Job::Resume(queue));
        }
    }
}

impl Outbox {
    /// Resumes consumers that waited for room.
    pub(crate) fn resume(starving: Vec<Starving>) {
        for Starving { queue, consumer } in starving {
            queue.change(|queue, _| queue.resume(consumer));
        }
    }
}
