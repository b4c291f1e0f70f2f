//! A queue on this node: the state machine behind its lock, with the log and the outboxes around it.
//!
//! Every change goes through [`QueueCell::change`]: it runs one step of the state machine, hands ready
//! messages to consumers, writes what must survive to the log and fills the outboxes, all under the one lock,
//! so that the log and every consumer see the queue's own order. What needs the disk ([`QueueCell::page_in`],
//! [`QueueCell::relocate`]) reads first and takes the lock after.

mod ahead;
mod arrival;
mod deadlines;
mod in_flight;
mod journal;
mod memory;
mod once;
mod relocation;
mod scan;
mod settings;
mod stats;
mod usage;
mod view;
mod waiting;

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mamba_queue::{
    ConsumerId, DeathReason, Effects, Fetch, Fetched, LiveRun, Outcome, PagedRun, Peeked, Queue,
    QueueKind, Settings, Stored, UnackedKey,
};
use mamba_routing::QueueHandle;
use mamba_store::{Log, RecoveredRun, Settled};
use mamba_types::{FieldTable, LogPosition, QueueId, Sequence};
use parking_lot::{Mutex, RwLock};

use in_flight::InFlight;
use settings::Effective;
use usage::Usage;
use waiting::Room;

use crate::{
    arguments,
    commit::{Commit, CommitState},
    dead_letters::{self, Buried},
    deaths::{DEATH_REASONS, Deaths, Strategy},
    deduplication::{DeduplicationCounts, Memory, Rules},
    outbox::{ConsumerPort, Notice, Outbox, Starving},
    pacing::{self, Waiter},
    paging::{Job, Paging},
    vhost::Vhost,
};

pub(crate) use arrival::Arrival;
pub(crate) use settings::DeadLetterTarget;
pub use view::{ConsumerView, QueueView};

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
    /// The arguments as declared, with `x-queue-type` made explicit. Shared with the queue declared before, if it has the same: a
    /// table takes more memory than all the rest of an idle queue's declaration.
    pub arguments: Arc<FieldTable>,
    /// What the arguments mean to the queue, without its policies.
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
    definition: Mutex<Option<Arc<Commit>>>,
    /// It takes each message once.
    deduplication: Option<Rules>,
    /// Where dead letters go now.
    dead_letter_target: RwLock<Option<Arc<DeadLetterTarget>>>,
    /// How long it may be unused, in milliseconds; 0: for ever.
    expires_ms: AtomicU64,
    /// Its messages say how often they came back.
    counts_returns: AtomicBool,
    /// When the queue expires unless it is used, in milliseconds since 1970; 0 before its first lease.
    lease_until: AtomicU64,
    log: Log,
    paging: Arc<Paging>,
    /// How messages died on the node.
    deaths: Arc<Deaths>,
    /// The virtual host's time, in milliseconds since 1970.
    clock: Arc<AtomicU64>,
    /// What was handed to consumers without acknowledgement and has not been sent: it lives until then.
    in_flight: Mutex<InFlight>,
    /// Counts relocations of its messages: what was read before one does not know the new places.
    relocations: AtomicU64,
    pub(crate) stats: stats::QueueStats,
    state: Mutex<State>,
    /// Messages that are not ready yet. Taken alone or under `state`, never the other way round.
    room: Mutex<Room>,
}

struct State {
    queue: Queue<ConsumerPort>,
    effects: Effects,
    /// What it remembers, if it takes each message once.
    memory: Option<Box<Memory>>,
    deleted: bool,
    /// The log knows of everything up to here that it may be delivered…
    noted: Sequence,
    /// … once it is durable up to here; until then nothing is delivered.
    noted_at: LogPosition,
    /// The log rings for the queue when it is durable up to here.
    resumes_at: LogPosition,
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
    /// A pager will let filters go on looking.
    looking: bool,
    /// A pager counts what the length limit has to know.
    measuring: bool,
    usage: Usage,
}

/// What a step leaves to do without the queue's lock.
#[derive(Default)]
struct Aftermath {
    dead: Vec<(Stored, DeathReason)>,
    dropped: Vec<PagedRun>,
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
    /// Messages that wait until they are ready; not among the others.
    pub delayed: u64,
    /// Octets of their bodies.
    pub delayed_bytes: u64,
    /// Consumers.
    pub consumers: u64,
    /// What it did about duplicates, if it takes each message once.
    pub deduplication: Option<DeduplicationCounts>,
}

/// What survived a restart, as queues and waiting rooms take it.
const fn paged_run(run: &RecoveredRun) -> PagedRun {
    PagedRun {
        level: run.level,
        from: run.from,
        to: run.to,
        count: run.count,
        body_bytes: run.body_bytes,
        estimated: run.estimated,
        redelivered: run.redelivered,
        returns: run.delivery_count,
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
    /// Its messages that were not ready yet.
    pub(crate) waiting: Vec<LiveRun>,
}

impl Ended {
    /// Gives the space of its messages free. Call it when the deletion lasts.
    pub(crate) fn forget(self, queue: QueueId, log: &Log) {
        log.forget_queue(queue, &self.stored);
        for run in self.paged {
            log.dropped(queue, run.level, run.from, run.to);
        }
        waiting::forget(queue, &self.waiting, log);
    }
}

/// The handle routing returns.
#[derive(Clone)]
pub struct QueueRef(pub(crate) Arc<QueueCell>);

impl QueueHandle for QueueRef {
    fn id(&self) -> QueueId {
        self.0.id
    }

    fn name(&self) -> &Arc<str> {
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

impl QueueCell {
    pub(crate) fn new(
        id: QueueId,
        home: &Arc<Vhost>,
        name: Arc<str>,
        mut declaration: Declaration,
        first: Sequence,
        log: Log,
    ) -> Arc<Self> {
        home.share_arguments(&mut declaration.arguments);
        let deduplication = Rules::of_queue(&declaration.arguments);
        let Effective {
            settings,
            dead_letter_target,
            expires_ms,
        } = Effective::of(&declaration, &name, &home.policies());
        Arc::new(Self {
            id,
            name,
            vhost: Arc::clone(&home.name),
            home: Arc::downgrade(home),
            state: Mutex::new(State {
                queue: Queue::new(settings, first),
                effects: Effects::default(),
                memory: deduplication.as_ref().map(Memory::new).map(Box::new),
                deleted: false,
                noted: Sequence(0),
                noted_at: LogPosition::NONE,
                resumes_at: LogPosition(0),
                gets_noted: 0,
                accounted: 0,
                paged_at: LogPosition::NONE,
                kept: 0,
                burying: Vec::new(),
                timer_at: None,
                waiters: Vec::new(),
                looking: false,
                measuring: false,
                usage: Usage::new(home.unix_ms()),
            }),
            counts_returns: AtomicBool::new(settings.counts_returns()),
            definition: Mutex::default(),
            deduplication,
            dead_letter_target: RwLock::new(dead_letter_target),
            expires_ms: AtomicU64::new(expires_ms),
            lease_until: AtomicU64::new(0),
            declaration,
            generation: Arc::new(AtomicU64::new(0)),
            log,
            paging: Arc::clone(&home.paging),
            deaths: Arc::clone(&home.deaths),
            clock: home.clock(),
            in_flight: Mutex::default(),
            relocations: AtomicU64::new(0),
            stats: stats::QueueStats::default(),
            room: Mutex::new(Room::new(first)),
        })
    }

    /// Whether a message of this persistence goes to the log on its way into this queue.
    pub(crate) fn stores(&self, persistent: bool) -> bool {
        match self.declaration.settings.kind {
            QueueKind::Quorum => true,
            QueueKind::Classic => persistent && self.declaration.durable,
        }
    }

    /// Who reads back what it has on the disk only.
    pub(crate) const fn paging(&self) -> &Arc<Paging> {
        &self.paging
    }

    /// The log its stored messages go to.
    pub(crate) const fn log(&self) -> &Log {
        &self.log
    }

    /// Whether it follows the rules of quorum queues.
    pub(crate) fn is_quorum(&self) -> bool {
        self.declaration.settings.kind == QueueKind::Quorum
    }

    /// Its `x-queue-type`.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        arguments::queue_type(self.declaration.settings.kind).name()
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
        self.change_state(|State { queue, effects, .. }| step(queue, effects))
    }

    /// The same for a step that needs what is around the state machine as well.
    fn change_state<R>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut State) -> R,
    ) -> Option<(R, LogPosition)> {
        let mut state = self.state.lock();
        if state.deleted {
            return None;
        }
        let mut after = Aftermath::default();
        let result = step(&mut state);
        let position = self.follow(&mut state, &mut after);
        self.balance(&mut state);
        self.note_use(&mut state);
        drop(state);
        // What died is settled once it is where dead letters go.
        let buried = self.finish(after);
        Some((result, position.max(buried)))
    }

    /// Everything that follows a step, still under the lock. Returns the log position that makes its settlements durable.
    fn follow(self: &Arc<Self>, state: &mut State, after: &mut Aftermath) -> LogPosition {
        self.place_moved(state);
        self.note_delivered(state);
        let position = self.carry_out(state, after);
        self.arm(state);
        Self::release_waiters(state);
        position
    }

    /// Ends a step: the queue was used, and its consumers keep up or not.
    fn note_use(&self, state: &mut State) {
        let now_ms = self.clock.load(Ordering::Relaxed);
        state.usage.step(now_ms, state.queue.is_saturated());
    }

    /// Counts what a step dropped for want of a dead-letter exchange.
    fn count_discarded(&self, effects: &mut Effects) {
        if effects.discarded == [0; 4] {
            return;
        }
        let kind = self.declaration.settings.kind;
        for (reason, count) in DEATH_REASONS.into_iter().zip(effects.discarded) {
            self.deaths.add(reason, kind, Strategy::Disabled, count);
        }
        effects.discarded = [0; 4];
    }

    /// What a step leaves to do without the lock. Returns the log position that makes it durable.
    fn finish(self: &Arc<Self>, after: Aftermath) -> LogPosition {
        for run in after.dropped {
            self.log.dropped(self.id, run.level, run.from, run.to);
        }
        self.bury(after.dead).position
    }

    /// Dead-letters what died; never under the queue's lock, because other queues' locks are taken.
    pub(crate) fn bury(self: &Arc<Self>, dead: Vec<(Stored, DeathReason)>) -> Buried {
        match self.home.upgrade() {
            Some(home) if !dead.is_empty() => dead_letters::bury(self, &home, dead),
            _ => Buried::default(),
        }
    }

    /// Remembers what makes the queue itself durable.
    pub(crate) fn set_definition(&self, commit: Arc<Commit>) {
        *self.definition.lock() = Some(commit);
    }

    /// What has to be durable before the queue, and anything in it, can be relied upon. If it failed, `again` tells what the
    /// queue is owed since then.
    pub(crate) fn definition_on_its_way(
        &self,
        again: impl FnOnce() -> Option<Arc<Commit>>,
    ) -> Option<Arc<Commit>> {
        let mut definition = self.definition.lock();
        match definition.as_ref()?.state() {
            CommitState::Pending => {}
            CommitState::Done => *definition = None,
            CommitState::Failed => *definition = again(),
        }
        definition.clone()
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

    /// Takes one message out for `basic.get`, with the log position to wait for before it leaves. Reads from the disk where it must.
    pub(crate) fn fetch(self: &Arc<Self>, no_ack: bool) -> Option<(Fetched, LogPosition)> {
        self.renew_lease();
        let now_ms = self.home.upgrade().map_or(0, |home| home.unix_ms());
        // Between reading back and looking again somebody else may be faster, but not for ever.
        for _ in 0..FETCH_TRIES {
            let ((fetched, position), _) =
                self.change_state(|state| self.fetch_in_memory(state, no_ack, now_ms))?;
            match fetched {
                Fetch::Message(fetched) => {
                    self.stats.got(no_ack, fetched.stored.redelivered);
                    return Some((fetched, position));
                }
                Fetch::Empty => {
                    self.stats.found_empty();
                    return None;
                }
                Fetch::Wanted => self.paging.finish(self.id),
            }
        }
        None
    }

    /// The same as far as the next message is in memory.
    fn fetch_in_memory(
        &self,
        state: &mut State,
        no_ack: bool,
        now_ms: u64,
    ) -> (Fetch, LogPosition) {
        let State { queue, effects, .. } = state;
        queue.expire(now_ms, effects);
        let within_reach = queue.deliverable_to();
        let fetched = queue.fetch(no_ack, effects);
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
        (fetched, position)
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, after: &mut Aftermath) -> LogPosition {
        let mut position = LogPosition::NONE;
        let now_ms = if state.queue.may_expire() {
            self.home.upgrade().map_or(0, |home| home.unix_ms())
        } else {
            0
        };
        position = position.max(self.let_wait(state));
        loop {
            let held = self.is_held(state);
            let State { queue, effects, .. } = state;
            queue.expire_waited(now_ms, effects);
            // Held back, messages wait for consumers: which of them are too many, or had no time to wait, shows when those have had
            // their share.
            if !held {
                queue.dispatch(effects);
                queue.expire(now_ms, effects);
                queue.trim(effects);
            }
            self.count_discarded(effects);
            if effects.is_empty() {
                return position;
            }
            position = position.max(self.settle_in_log(state));
            let State {
                queue,
                effects,
                burying,
                looking,
                measuring,
                ..
            } = state;
            burying.extend(effects.dead.iter().map(|(stored, _)| stored.clone()));
            after.dead.append(&mut effects.dead);
            after.dropped.append(&mut effects.dropped);
            self.deliver(queue, effects);
            for page_in in effects.wanted.drain(..) {
                self.paging.request(self, Job::PageIn(page_in));
            }
            for scan in effects.scans.drain(..) {
                self.paging.request(self, Job::Scan(scan));
            }
            if effects.unfinished && !std::mem::replace(looking, true) {
                self.paging.request(self, Job::Resume);
            }
            if effects.unmeasured && !std::mem::replace(measuring, true) {
                self.paging.request(self, Job::Measure);
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

    fn deliver(&self, queue: &Queue<ConsumerPort>, effects: &mut Effects) {
        self.stats.delivered(&effects.deliveries);
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

    fn counts_of(&self, state: &State) -> QueueCounts {
        let (delayed, delayed_bytes) = self.waiting_counts();
        QueueCounts {
            ready: state.queue.ready_count() as u64,
            unacked: state.queue.unacked_count() as u64,
            ready_bytes: state.queue.ready_bytes(),
            unacked_bytes: state.queue.unacked_bytes(),
            consumers: state.queue.consumer_count() as u64,
            deduplication: state.memory.as_ref().map(|memory| memory.counts()),
            delayed,
            delayed_bytes,
        }
    }

    /// Counters of this moment.
    pub fn counts(&self) -> QueueCounts {
        let state = self.state.lock();
        self.counts_of(&state)
    }

    /// The ready messages, and a page of them; what is on the disk is named only.
    pub(crate) fn peek_parts(&self, offset: u64, count: u64) -> (u64, Vec<Peeked>) {
        let state = self.state.lock();
        let ready = state.queue.ready_count() as u64;
        (ready, state.queue.peek(offset, count))
    }

    /// Puts back what survived a restart.
    pub(crate) fn restore(&self, runs: &[RecoveredRun]) {
        let mut state = self.state.lock();
        for run in runs {
            state.queue.restore_paged(paged_run(run));
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
        let waiting = self.close_room();
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
        state.memory = None;
        self.paging.account(std::mem::take(&mut state.accounted), 0);
        drop(state);
        let stored = old.messages().filter_map(settled_of).collect();
        let paged = old.paged_runs().copied().collect();
        Ok(Ended {
            ready,
            stored,
            paged,
            waiting,
        })
    }

    /// Whether the queue has been deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.state.lock().deleted
    }
}

/// For [`Outbox`]'s readers: what a delivery without acknowledgement leaves to note in the log.
pub(crate) fn settled_of(stored: &Stored) -> Option<Settled> {
    (stored.at != LogPosition::NONE).then(|| settled_at_place(stored))
}

/// The message's end, wherever its record lies, or nowhere.
pub(crate) fn settled_at_place(stored: &Stored) -> Settled {
    Settled {
        sequence: stored.sequence,
        at: stored.at,
        octets: narrow(stored.message.record_len()),
    }
}

const fn settled_in_log(settled: mamba_queue::Settled) -> Settled {
    Settled {
        sequence: settled.sequence,
        at: settled.at,
        octets: settled.octets,
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
