//! The queue itself: enqueue, dispatch, settle, return, purge (`spec: semantics §5, §13–16, §26`).

use std::sync::Arc;

use mamba_types::{DeathReason, LogPosition, Message, Sequence};

use crate::{
    consumers::{ConsumerId, Consumers, Port, Subscription},
    filters::{FILTERS_MAX, Filters, LOOKS_MAX, SCAN_OCTETS_MIN},
    paging::{Candidates, LiveRun, PageIn, PageToken, PagedRun, Scan, Scanned, Target, Window},
    ready::{Next, Ready},
    unacked::{Out, Unacked},
};

/// Octets a delivery is taken to cost its connection beyond the record itself.
const DELIVERY_OVERHEAD: usize = 64;
/// Changes of the time to live that messages in the queue may outlast with the time they came with.
const EARLIER_TTLS_MAX: usize = 16;

/// Which family of rules a queue follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// `x-queue-type: classic`.
    Classic,
    /// `x-queue-type: quorum`: on one node a group of one.
    Quorum,
}

/// What holds for a queue: the first three for ever, the others until [`Queue::configure`] says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The family of rules.
    pub kind: QueueKind,
    /// `x-single-active-consumer`.
    pub single_active_consumer: bool,
    /// `x-max-priority`; 0 keeps one level.
    pub max_priority: u8,
    /// Returns a message survives; the one after drops or dead-letters it. `None`: no limit.
    pub delivery_limit: Option<u32>,
    /// What comes back waits before it is tried again.
    pub retry: Option<Retry>,
    /// There is a dead-letter exchange: what dies is handed to the owner.
    pub dead_letters: bool,
    /// `x-message-ttl`, in milliseconds.
    pub message_ttl_ms: Option<u64>,
    /// `x-consumer-timeout`: how long a delivery may stay unsettled, in milliseconds; 0 for ever. The queue's owner watches it.
    pub consumer_timeout_ms: Option<u64>,
    /// `x-max-length`: ready messages.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`: octets of ready bodies.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`: what gives way at a length limit.
    pub overflow: Overflow,
}

impl Settings {
    /// Whether messages say how often they came back (`x-delivery-count`), over restarts too.
    #[must_use]
    pub const fn counts_returns(&self) -> bool {
        matches!(self.kind, QueueKind::Quorum)
            || self.delivery_limit.is_some()
            || self.retry.is_some()
    }

    /// Whether a message that the length limit refuses goes to the dead-letter exchange.
    #[must_use]
    pub const fn dead_letters_refused(&self) -> bool {
        matches!(self.overflow, Overflow::RejectPublishDeadLetter) && self.dead_letters
    }

    /// The level a message waits at.
    #[must_use]
    pub fn level_of(&self, message: &Message) -> u8 {
        match self.max_priority {
            0 => 0,
            max => message.priority().unwrap_or(0).min(max),
        }
    }
}

/// `x-delayed-retry-*`: how long a message waits that came back (`spec: semantics §26`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Which messages wait.
    pub on: RetryOn,
    /// `x-delayed-retry-min`: this long, times the messages' returns, in milliseconds…
    pub min_ms: u64,
    /// … and at most `x-delayed-retry-max`. `None`: no limit.
    pub max_ms: Option<u64>,
}

/// `x-delayed-retry-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// Every message that comes back.
    All,
    /// Rejected ones, and those of channels and connections that ended.
    Failed,
    /// The others: negatively acknowledged, and recovered.
    Returned,
}

impl Retry {
    /// How long a message waits that came back `returns` times, the last time after `failure` or without; in
    /// milliseconds.
    fn delay_ms(&self, returns: u32, failure: bool) -> Option<u64> {
        let applies = match self.on {
            RetryOn::All => true,
            RetryOn::Failed => failure,
            RetryOn::Returned => !failure,
        };
        let delay = self.min_ms.saturating_mul(u64::from(returns));
        let delay = self.max_ms.map_or(delay, |max| delay.min(max));
        (applies && delay > 0).then_some(delay)
    }
}

/// What gives way at a length limit (`spec: semantics §8`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest messages.
    #[default]
    DropHead,
    /// The new message; its publisher gets a nack.
    RejectPublish,
    /// The same, and the new message is dead-lettered.
    RejectPublishDeadLetter,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kind: QueueKind::Classic,
            single_active_consumer: false,
            max_priority: 0,
            delivery_limit: None,
            retry: None,
            dead_letters: false,
            message_ttl_ms: None,
            consumer_timeout_ms: None,
            max_length: None,
            max_length_bytes: None,
            overflow: Overflow::DropHead,
        }
    }
}

/// A message on its way in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// Where its record lies in the log, or [`LogPosition::NONE`] when it is not stored.
    pub at: LogPosition,
    /// How often it came back to this queue before.
    pub returns: u32,
    /// It may have been delivered before.
    pub redelivered: bool,
}

/// A message in the queue.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its place, for ever.
    pub sequence: Sequence,
    /// The message.
    pub message: Message,
    /// Where its record lies in the log, or [`LogPosition::NONE`].
    pub at: LogPosition,
    /// How often it came back.
    pub returns: u32,
    /// Whether a consumer may have seen it already.
    pub redelivered: bool,
}

impl Stored {
    /// Octets of memory it takes while it is ready: its record, and its place in the queue.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.message.record_len() + size_of::<Self>()
    }
}

/// Names a delivery that is out and unsettled, together with its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnackedKey(pub(crate) u32);

/// A message handed to a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who gets it.
    pub consumer: ConsumerId,
    /// What settles it; `None` for a consumer without acknowledgements.
    pub key: Option<UnackedKey>,
    /// The message.
    pub stored: Stored,
}

/// A message handed out by `basic.get`.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What settles it; `None` without acknowledgement.
    pub key: Option<UnackedKey>,
    /// The message.
    pub stored: Stored,
    /// Ready messages left.
    pub remaining: usize,
}

/// What `basic.get` comes to.
#[derive(Clone, Debug)]
pub enum Fetch {
    /// A message.
    Message(Fetched),
    /// There is none.
    Empty,
    /// The next one must be read in first: a reading is under way or in [`Effects::wanted`]. Fetch again after it.
    Wanted,
}

/// A message that is gone for good; its record may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Which one.
    pub sequence: Sequence,
    /// Where its record lies.
    pub at: LogPosition,
    /// Octets of its record.
    pub octets: u32,
}

/// A stored message that went to the queue's end and is another one now: the log is to take the new one in before it
/// forgets the old one.
#[derive(Clone, Debug)]
pub struct Moved {
    /// The old one.
    pub from: Settled,
    /// The new one. Its record is the old one's, unless the owner writes another and calls [`Queue::set_place`].
    pub stored: Stored,
}

/// What follows from a call. The owner carries it out before it lets go of the queue, in this order:
/// moved messages, settlements and return counts to the log, deliveries to the connections, starved consumers to their
/// ports, readings to the disk.
#[derive(Debug, Default)]
pub struct Effects {
    /// Stored messages that are gone.
    pub settled: Vec<Settled>,
    /// Stored messages of a queue that counts returns, with how often they came back.
    pub returned: Vec<(Sequence, u32)>,
    /// Messages to hand over, in order.
    pub deliveries: Vec<Delivery>,
    /// Consumers that would get more if their port had room.
    pub starved: Vec<ConsumerId>,
    /// Messages that leave for the dead-letter exchange, if the queue has one. The owner settles them once they are
    /// safe elsewhere.
    pub dead: Vec<(Stored, DeathReason)>,
    /// Messages to read back from the log.
    pub wanted: Vec<PageIn>,
    /// Messages to read and look at for filters.
    pub scans: Vec<Scan>,
    /// The length limit does not hold before [`Queue::estimated_runs`] have been measured.
    pub unmeasured: bool,
    /// A filter has not looked at everything yet, so that the lock is not held for long: call [`Queue::dispatch`] again soon.
    pub unfinished: bool,
    /// Paged messages that are gone without having been read.
    pub dropped: Vec<PagedRun>,
    /// Messages that died and went nowhere, for want of a dead-letter exchange: how many, by [`DeathReason`]. What else
    /// follows of that is among the settled ones.
    pub discarded: [u64; 4],
    /// Stored messages with a new sequence number.
    pub moved: Vec<Moved>,
    /// Returned messages that wait so many milliseconds before they are tried again. The owner settles them once the
    /// log has them as waiting.
    pub delayed: Vec<(Stored, u64)>,
}

impl Effects {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settled.is_empty()
            && self.returned.is_empty()
            && self.deliveries.is_empty()
            && self.starved.is_empty()
            && self.dead.is_empty()
            && self.wanted.is_empty()
            && self.scans.is_empty()
            && !self.unmeasured
            && !self.unfinished
            && self.dropped.is_empty()
            && self.moved.is_empty()
            && self.delayed.is_empty()
    }

    /// Empties every list and keeps the memory.
    pub fn clear(&mut self) {
        self.settled.clear();
        self.returned.clear();
        self.deliveries.clear();
        self.starved.clear();
        self.dead.clear();
        self.wanted.clear();
        self.scans.clear();
        self.unmeasured = false;
        self.unfinished = false;
        self.dropped.clear();
        self.moved.clear();
        self.delayed.clear();
        self.discarded = [0; 4];
    }
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Ack,
    /// Rejected, not to come back.
    Discard,
    /// Comes back: nack or recover.
    Requeue,
    /// Comes back after a failure: reject, or its channel ended.
    Failed,
    /// Comes back and does not count: it never left the node.
    Unsent,
}

/// Why a consumer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// 403 (`spec: errors §3.2`).
    #[error("in exclusive use")]
    Exclusive,
    /// Its filter would be one more than [`FILTERS_MAX`] different ones.
    #[error("consumers with {FILTERS_MAX} different filters are there already")]
    TooManyFilters,
}

/// What a consumer's leaving means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was not there.
    Unknown,
    /// Others remain.
    OthersRemain,
    /// It was the last one.
    WasLast,
}

/// One queue. `P` is the connection's side of a consumer.
#[derive(Debug)]
pub struct Queue<P> {
    settings: Settings,
    next: Sequence,
    ready: Ready,
    unacked: Unacked,
    consumers: Consumers<P>,
    /// Ranks returned messages where order of return decides.
    returns: u64,
    /// Numbers calls, so that a port's room is read once per call.
    call: u64,
    /// Some message came with a time of its own.
    has_expirations: bool,
    /// Times to live that earlier settings gave to messages, each with the first sequence it does not hold for,
    /// ascending. Empty unless the time was changed while messages were here.
    earlier_ttls: Vec<(Sequence, Option<u64>)>,
    /// Paged messages before this one come from before a restart: nobody knows whether they have a time of their own.
    unknown_to: Sequence,
    /// The time as told last, in milliseconds since 1970.
    now_ms: u64,
    /// Messages from this one on have just come: those without any time to wait may still be delivered.
    fresh_from: Sequence,
    window: Window,
    filters: Filters,
}

impl<P> Queue<P> {
    pub(crate) const fn ready(&self) -> &Ready {
        &self.ready
    }
}

impl<P: Port> Queue<P> {
    /// An empty queue whose first message gets `first`.
    #[must_use]
    pub const fn new(settings: Settings, first: Sequence) -> Self {
        Self {
            settings,
            next: first,
            ready: Ready::new(),
            unacked: Unacked::new(),
            consumers: Consumers::new(settings.single_active_consumer),
            returns: 0,
            call: 0,
            has_expirations: false,
            earlier_ttls: Vec::new(),
            unknown_to: Sequence(0),
            now_ms: 0,
            fresh_from: first,
            window: Window::DEFAULT,
            filters: Filters::new(),
        }
    }

    /// What holds now.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes what holds; kind, levels and single active consumer stay as they were declared. Messages that are
    /// here keep the time to live they came with (`spec: semantics §7`). Call [`Self::expire`] and [`Self::trim`]
    /// after.
    pub fn configure(&mut self, settings: Settings) {
        let before = self.settings;
        self.settings = Settings {
            kind: before.kind,
            single_active_consumer: before.single_active_consumer,
            max_priority: before.max_priority,
            ..settings
        };
        if before.message_ttl_ms == settings.message_ttl_ms {
            return;
        }
        if self.ready.is_empty() && self.unacked.len() == 0 {
            self.earlier_ttls.clear();
            return;
        }
        self.has_expirations |= before.message_ttl_ms.is_some();
        if self.earlier_ttls.len() == EARLIER_TTLS_MAX {
            // The oldest messages go on with the time of those after them.
            self.earlier_ttls.remove(0);
        }
        self.earlier_ttls.push((self.next, before.message_ttl_ms));
    }

    /// The sequence number the next message will get.
    pub const fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Sets how much stays in memory.
    pub const fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    /// How much stays in memory.
    pub const fn window(&self) -> Window {
        self.window
    }

    /// Ready messages, paged ones included.
    pub const fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Deliveries out and unsettled.
    pub const fn unacked_count(&self) -> usize {
        self.unacked.len()
    }

    /// Octets of ready bodies, paged ones included. While there are [`Self::estimated_runs`] it is an estimate.
    pub const fn ready_bytes(&self) -> u64 {
        self.ready.body_bytes()
    }

    /// The first `max` runs of those whose octets nobody knows since a restart.
    pub fn estimated_runs(&mut self, max: usize) -> Vec<PagedRun> {
        self.ready.estimated_runs(max)
    }

    /// Takes the octets of bodies that the log has in a run of [`Self::estimated_runs`]. If something of the run has
    /// gone meanwhile, what is left is to be measured again. Call [`Self::trim`] when none is left.
    pub fn measured(&mut self, run: &PagedRun, body_bytes: u64) {
        self.ready.measured(run, body_bytes);
    }

    /// Octets of the records of ready messages in memory.
    pub fn resident_bytes(&self) -> usize {
        self.ready.resident_bytes()
    }

    /// Ready messages that are on the disk only.
    pub fn paged_count(&self) -> u64 {
        self.ready.paged_count()
    }

    /// The levels that have messages on the disk only.
    pub fn paged_levels(&self) -> impl Iterator<Item = u8> {
        self.ready.paged_levels()
    }

    /// What is on the disk only, by level, the highest first, and by sequence.
    pub fn paged_runs(&self) -> impl Iterator<Item = &PagedRun> {
        self.ready.paged_runs()
    }

    /// Whether the live message of this level and sequence is on the disk only.
    pub fn is_paged(&self, level: u8, sequence: Sequence) -> bool {
        self.ready.is_paged(level, sequence)
    }

    /// Octets of unsettled bodies.
    pub const fn unacked_bytes(&self) -> u64 {
        self.unacked.body_bytes()
    }

    /// Whether some consumer has a filter.
    pub const fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Consumers, waiting ones included.
    pub const fn consumer_count(&self) -> usize {
        self.consumers.len()
    }

    /// Whether messages are ready and there are consumers, none of which can take one: all have as many as they may hold.
    /// Consumers with filters count as able, because what is ready may not be for them.
    pub fn is_saturated(&self) -> bool {
        self.consumers.len() > 0
            && !self.ready.is_empty()
            && self.filters.is_empty()
            && self.consumers.next().is_none()
    }

    /// The ports of all consumers.
    pub fn ports(&self) -> impl Iterator<Item = (ConsumerId, &P)> {
        self.consumers
            .iter()
            .map(|(id, consumer)| (id, &consumer.port))
    }

    /// All consumers with what they asked for, and whether they are in the turn: with single active consumer, one is.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&P, &Subscription, bool)> {
        let single = self.settings.single_active_consumer;
        let active = self.consumers.active();
        self.consumers.iter().map(move |(id, consumer)| {
            let in_turn = !single || active == Some(id);
            (&consumer.port, &consumer.subscription, in_turn)
        })
    }

    /// A consumer's port, while it is there.
    pub fn port(&self, id: ConsumerId) -> Option<&P> {
        self.consumers.get(id).map(|consumer| &consumer.port)
    }

    /// Every message in memory, ready first, without changing anything.
    pub fn messages(&self) -> impl Iterator<Item = &Stored> {
        self.ready
            .iter()
            .chain(self.unacked.iter().map(|out| &out.stored))
    }

    /// Every message in memory, ready first, to move its record's place in the log.
    pub fn in_memory_mut(&mut self) -> impl Iterator<Item = &mut Stored> {
        self.ready
            .iter_mut()
            .chain(self.unacked.iter_mut().map(|out| &mut out.stored))
    }

    /// Notes where the record of a message in [`Effects::moved`] lies now. Call it before [`Self::dispatch`].
    /// Returns whether the message is ready and in memory.
    pub fn set_place(&mut self, sequence: Sequence, at: LogPosition) -> bool {
        self.ready.set_place(sequence, at)
    }

    /// The level a message waits at.
    pub fn level_of(&self, message: &Message) -> u8 {
        self.priority_of(message)
    }

    /// Puts back what survived a restart, before anything else happens: the runs of a level in ascending order.
    /// Call [`Self::expire`] after, which asks for the messages whose time may be over.
    pub fn restore_paged(&mut self, run: PagedRun) {
        self.next = self.next.max(run.to);
        self.fresh_from = self.next;
        self.unknown_to = self.unknown_to.max(run.to);
        self.ready.push_paged(run);
    }

    /// Takes what was read for a [`PageIn`]: the live messages of the range that come before `next`, in order, with
    /// nothing left out but what the disk has lost. Returns how many were lost; they are not in the queue any more.
    /// The answer to a reading that a purge or [`Self::load_failed`] has overtaken is ignored.
    /// Call [`Self::dispatch`] after.
    pub fn paged_in(
        &mut self,
        level: u8,
        token: PageToken,
        messages: Vec<Stored>,
        next: Sequence,
    ) -> u64 {
        self.has_expirations |= messages
            .iter()
            .any(|stored| stored.message.expiration_ms().is_some());
        let missing = self.ready.paged_in(level, token, messages, next);
        self.wake_filters();
        if self.unknown_to > Sequence(0) && self.paged_runs().all(|run| run.from >= self.unknown_to)
        {
            self.unknown_to = Sequence(0);
        }
        missing
    }

    /// Ends a reading without result, so that it is tried again when the messages are asked for the next time.
    pub fn load_failed(&mut self, level: u8, token: PageToken) {
        self.ready.load_failed(level, token);
        self.wake_filters();
    }

    /// Takes what a [`Scan`] found, and hands out what is still here to consumers that still want it. Returns how many messages the
    /// disk turned out to have lost; they are not in the queue any more. The answer to a reading that a purge has overtaken is
    /// ignored. Call [`Self::dispatch`] after.
    pub fn scanned(&mut self, scan: &Scan, mut scanned: Scanned, effects: &mut Effects) -> u64 {
        if !self.ready.is_loading(scan.level, scan.token) {
            return 0;
        }
        let (slot, serial) = scan.group;
        self.ready.keep_paged(scan.level, &mut scanned);
        let is_good = self.ready.is_scanning(scan.level, slot);
        let group = self.filters.get_mut(slot);
        let Some(group) = group.filter(|g| g.serial == serial && is_good) else {
            self.load_failed(scan.level, scan.token);
            return 0;
        };
        group.scan_octets = match scanned.matches.is_empty() {
            true => scan.octets.saturating_mul(2),
            false if scanned.matches.len() >= scan.matches_max => SCAN_OCTETS_MIN,
            false => scan.octets,
        };
        group.candidates = Some(Candidates {
            level: scan.level,
            waiting: std::mem::take(&mut scanned.matches),
            taken: Vec::new(),
        });
        self.wake_filters();
        self.dispatch(effects);
        let candidates = self.filters.get_mut(slot).and_then(|g| g.candidates.take());
        let Some(Candidates { waiting, taken, .. }) = candidates else {
            return 0;
        };
        if let Some(first) = waiting.front() {
            // Not wanted any more: the group goes on with it.
            scanned.next = first.sequence;
        }
        let ended = (scan.level, scan.from, scan.target);
        let lost = self.ready.scanned(slot, ended, &scanned, &taken);
        self.wake_filters();
        lost
    }

    /// Something new is here, or can be read: filters that found nothing look again.
    fn wake_filters(&mut self) {
        if self.filters.is_empty() {
            return;
        }
        for id in self.filters.wake() {
            if let Some(consumer) = self.consumers.get_mut(id) {
                consumer.waits = false;
            }
            self.consumers.list(id);
        }
        // The active one may be held back for the sake of a better one.
        self.let_better_consumer_take_over();
    }

    /// Drops messages from memory: those beyond `keep` octets of records at the queue's front, and those before the
    /// last `keep` octets of its end ([`Window::tail_bytes`] at most), as far as their records lie in the log before
    /// `readable` and the order allows it. Returns the octets dropped.
    pub fn page_out(&mut self, readable: LogPosition, keep: usize) -> usize {
        let keep_tail = keep.min(self.window.tail_bytes);
        self.ready.page_out(readable, keep, keep_tail)
    }

    /// Messages, with their levels, that [`Self::page_out`] would drop if only they were in the log. The owner
    /// appends them and sets where they lie.
    pub fn unstored_beyond(&mut self, keep: usize) -> impl Iterator<Item = (u8, &mut Stored)> {
        let keep_tail = keep.min(self.window.tail_bytes);
        self.ready
            .unstored_beyond(keep, keep_tail, self.settings.kind)
    }

    /// Everything of this queue that the log holds, ascending by level and sequence. With `assume_delivered`, what
    /// consumers could have got since counts as delivered.
    pub fn live_runs(&self, assume_delivered: bool) -> Vec<LiveRun> {
        let mut live = Vec::new();
        self.ready.add_live(assume_delivered, &mut live);
        live.extend(
            self.unacked
                .iter()
                .map(|out| &out.stored)
                .filter(|stored| stored.at != LogPosition::NONE)
                .map(|stored| LiveRun::of(self.priority_of(&stored.message), stored, true)),
        );
        live.sort_unstable_by_key(|run| (run.level, run.from));
        live.dedup_by(|next, run| {
            let joins = next.level == run.level && next.from == run.to && run.has_flags_of(next);
            if joins {
                run.to = next.to;
            }
            joins
        });
        live
    }

    /// The greatest sequence that can go to consumers before anything else is read in. Messages that came back to a
    /// quorum queue count with the last of them only: the others could go out before.
    /// With filters, what has come behind the paged part can go out as well.
    pub fn deliverable_to(&self) -> Option<Sequence> {
        let front = self.ready.deliverable_to();
        match self.filters.is_empty() {
            true => front,
            false => front.max(self.ready.last_in_tail()),
        }
    }

    /// Appends messages and returns the first one's sequence number; the others follow without gap.
    /// Call [`Self::dispatch`] after.
    pub fn enqueue(&mut self, incoming: impl IntoIterator<Item = Incoming>) -> Sequence {
        let first = self.next;
        // Those before may still wait to be handed out, if nobody has called `expire` since.
        self.fresh_from = self.fresh_from.min(first);
        for Incoming {
            message,
            at,
            returns,
            redelivered,
        } in incoming
        {
            let sequence = self.next;
            self.next = sequence.next();
            let priority = self.priority_of(&message);
            self.has_expirations |= message.expiration_ms().is_some();
            self.ready.push(
                priority,
                Stored {
                    sequence,
                    message,
                    at,
                    returns,
                    redelivered: redelivered || returns > 0,
                },
            );
        }
        self.wake_filters();
        first
    }

    /// Whether there is a limit on the queue's length.
    pub const fn has_length_limit(&self) -> bool {
        self.settings.max_length.is_some() || self.settings.max_length_bytes.is_some()
    }

    /// Whether messages here may expire.
    pub const fn may_expire(&self) -> bool {
        self.has_expirations || self.unknown_to.0 > 0 || self.settings.message_ttl_ms.is_some()
    }

    /// The ready messages, and what decides whether their time is over.
    fn ready_and_times(&mut self) -> (&mut Ready, Times<'_>) {
        let times = Times {
            message_ttl_ms: self.settings.message_ttl_ms,
            earlier: &self.earlier_ttls,
            now_ms: self.now_ms,
            fresh_from: self.fresh_from,
        };
        (&mut self.ready, times)
    }

    /// The next moment at which [`Self::expire`] finds something, in milliseconds since 1970. Messages expire only
    /// at the head of their priority; a head that is not in memory says nothing.
    pub fn next_deadline(&self) -> Option<u64> {
        if !self.may_expire() {
            return None;
        }
        let ttl_of = |stored| ttl_of(self.settings.message_ttl_ms, &self.earlier_ttls, stored);
        self.ready
            .heads()
            .filter_map(|stored| Some(deadline(stored, ttl_of(stored)?)))
            .min()
    }

    /// Takes out the messages at the head whose time is over, and asks for heads that must be read in to know theirs.
    /// Call it after [`Self::dispatch`], so that a message
    /// without any time to wait still reaches a consumer that is ready when it comes.
    pub fn expire(&mut self, now_ms: u64, effects: &mut Effects) {
        self.fresh_from = self.next;
        self.expire_waited(now_ms, effects);
    }

    /// Takes out the messages at the head that have waited their time. Call it before [`Self::dispatch`].
    pub fn expire_waited(&mut self, now_ms: u64, effects: &mut Effects) {
        self.now_ms = now_ms;
        self.expire_heads(effects);
    }

    fn expire_heads(&mut self, effects: &mut Effects) {
        if !self.may_expire() {
            return;
        }
        loop {
            let (ready, times) = self.ready_and_times();
            let Some(stored) = ready.pop_if(|stored| times.is_over(stored)) else {
                break;
            };
            self.drop_or_bury(stored, DeathReason::Expired, effects);
        }
        self.ready.want_heads(self.window, &mut effects.wanted);
    }

    /// The same for the next message alone: enough while nobody has touched the other heads since.
    fn expire_next(&mut self, effects: &mut Effects) {
        if !self.may_expire() {
            return;
        }
        loop {
            let (ready, times) = self.ready_and_times();
            let Some(stored) = ready.pop_next_if(|stored| times.is_over(stored)) else {
                break;
            };
            self.drop_or_bury(stored, DeathReason::Expired, effects);
        }
    }

    /// Whether so many messages with so many octets of bodies fit the queue's length limits, or make others give way.
    pub const fn admits(&self, messages: usize, body_bytes: usize) -> bool {
        match self.settings.overflow {
            Overflow::DropHead => true,
            Overflow::RejectPublish | Overflow::RejectPublishDeadLetter => !self.is_over_limit(
                self.ready.len() as u64 + messages as u64,
                self.ready.body_bytes() + body_bytes as u64,
            ),
        }
    }

    /// An estimate of the octets is not held against anybody.
    const fn is_over_limit(&self, messages: u64, bytes: u64) -> bool {
        let too_many = matches!(self.settings.max_length, Some(max) if messages > max);
        let too_large = matches!(self.settings.max_length_bytes, Some(max) if bytes > max);
        too_many || too_large && !self.ready.is_estimated()
    }

    /// Drops messages from the head until the length limits hold, or the next must be read in first. Call it after
    /// [`Self::dispatch`].
    pub fn trim(&mut self, effects: &mut Effects) {
        effects.unmeasured |= self.settings.max_length_bytes.is_some() && self.ready.is_estimated();
        while self.settings.overflow == Overflow::DropHead
            && self.is_over_limit(self.ready.len() as u64, self.ready.body_bytes())
        {
            let Some(stored) = self.ready.pop() else {
                effects.wanted.extend(self.ready.want_next(self.window));
                return;
            };
            self.drop_or_bury(stored, DeathReason::MaxLength, effects);
            if self.may_expire() {
                // Nobody looks at the time of a head that is not in memory.
                self.ready.want_heads(self.window, &mut effects.wanted);
            }
        }
    }

    /// Hands ready messages to consumers in turn until either runs out, or the next must be read in first. What
    /// comes to the head with its time over, as of the last [`Self::expire_waited`], expires instead.
    pub fn dispatch(&mut self, effects: &mut Effects) {
        if self.ready.is_empty() {
            return;
        }
        self.call += 1;
        self.filters.looks = LOOKS_MAX;
        if self.filters.unfinished {
            self.filters.unfinished = false;
            self.wake_filters();
        }
        let mut is_wanted = false;
        // Without filters messages leave the first level alone: of the heads only its own is another one then.
        let mut heads_expired = false;
        while let Some(id) = self.consumers.next() {
            if !self.may_deliver(id, effects) {
                continue;
            }
            let group = self.consumers.get(id).and_then(|consumer| consumer.group);
            is_wanted |= group.is_none();
            let popped = match group {
                None => {
                    if std::mem::replace(&mut heads_expired, true) {
                        self.expire_next(effects);
                    } else {
                        self.expire_heads(effects);
                    }
                    self.ready.pop()
                }
                Some(slot) => {
                    heads_expired = false;
                    self.take_live_match(slot, effects)
                }
            };
            let Some(stored) = popped else {
                if self.filters.is_empty() {
                    break;
                }
                // Others may find what this one cannot have.
                self.step_aside(id, group);
                continue;
            };
            self.hand_over(id, stored, effects);
            self.consumers.rotate();
            if self.ready.is_empty() {
                is_wanted = false;
                break;
            }
        }
        if !self.filters.is_empty() {
            for id in self.filters.take_front() {
                self.consumers.list(id);
            }
            effects.unfinished |= self.filters.unfinished;
            self.ready.want_overdue(self.window, &mut effects.wanted);
            self.want_scans(effects);
        }
        if is_wanted {
            effects.wanted.extend(self.ready.want_next(self.window));
        }
    }

    /// There is nothing for the consumer in this call, or until something new comes.
    fn step_aside(&mut self, id: ConsumerId, group: Option<usize>) {
        self.consumers.unlist(id);
        if let Some(consumer) = self.consumers.get_mut(id)
            && !(group.is_some() && std::mem::replace(&mut consumer.waits, true))
        {
            self.filters.wait(group, id);
        }
    }

    fn hand_over(&mut self, id: ConsumerId, mut stored: Stored, effects: &mut Effects) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        consumer.room = consumer
            .room
            .saturating_sub(stored.message.record_len() + DELIVERY_OVERHEAD);
        let key = if consumer.subscription.no_ack {
            None
        } else {
            consumer.unacked += 1;
            consumer.port.count_delivery();
            Some(self.unacked.insert(Out {
                stored: stored.clone(),
                consumer: Some(id),
            }))
        };
        stored.redelivered |= stored.returns > 0;
        effects.deliveries.push(Delivery {
            consumer: id,
            key,
            stored,
        });
    }

    /// Takes out the next message for the consumers of a filter. One behind others may have expired without having been noticed.
    fn take_live_match(&mut self, slot: usize, effects: &mut Effects) -> Option<Stored> {
        loop {
            let stored = self.take_match(slot)?;
            if !self.ready_and_times().1.is_over(&stored) {
                return Some(stored);
            }
            self.drop_or_bury(stored, DeathReason::Expired, effects);
        }
    }

    /// Takes out the next message for the consumers of a filter.
    fn take_match(&mut self, slot: usize) -> Option<Stored> {
        let group = self.filters.get_mut(slot)?;
        let selector = Arc::clone(&group.selector);
        let mut candidates = group.candidates.take();
        let candidate = |level, target: Target| {
            let candidates = candidates.as_mut()?;
            let first = candidates.waiting.front()?;
            // What came back meanwhile goes before what was read.
            let is_next = candidates.level == level
                && !matches!(target, Target::Only(one) if one < first.sequence);
            let stored = is_next.then(|| candidates.waiting.pop_front())??;
            candidates.taken.push(stored.sequence);
            Some(stored)
        };
        let mut looks = self.filters.looks;
        let next = self
            .ready
            .take_match(slot, &*selector, &mut looks, candidate);
        self.filters.looks = looks;
        let group = self.filters.get_mut(slot)?;
        group.candidates = candidates;
        match next {
            Next::Match(stored) => return Some(*stored),
            Next::OnDisk(level, target) => group.target = Some((level, target)),
            Next::Unfinished => self.filters.unfinished = true,
            Next::Nothing => {}
        }
        None
    }

    /// Asks for what filters have to look at on the disk: one reading per level at a time, the groups in turn.
    fn want_scans(&mut self, effects: &mut Effects) {
        for slot in self.filters.slots() {
            let Some(group) = self.filters.get_mut(slot) else {
                continue;
            };
            let Some((level, target)) = group.target else {
                continue;
            };
            let Some((from, to, token)) = self.ready.scan(slot, level, target) else {
                continue;
            };
            group.target = None;
            let octets = group.scan_octets.min(self.window.head_bytes).max(1);
            let (group, selector) = ((slot, group.serial), Arc::clone(&group.selector));
            self.filters.end_turn(slot);
            let (matches_max, match_octets) = self.credit_of(slot);
            effects.scans.push(Scan {
                level,
                from,
                to,
                octets,
                token,
                target,
                group,
                selector,
                matches_max,
                match_octets,
            });
        }
    }

    /// Messages, and octets of them, that the consumers of a filter can take now.
    fn credit_of(&self, slot: usize) -> (usize, usize) {
        let (mut messages, mut octets) = (0usize, 0usize);
        for (id, consumer) in self.consumers.iter() {
            let is_served = consumer.group == Some(slot) && self.consumers.may_be_served(id);
            if is_served && consumer.has_prefetch() && consumer.port.channel_admits() {
                messages = messages.saturating_add(consumer.credit() as usize);
                octets = octets.saturating_add(consumer.port.room());
            }
        }
        (messages.max(1), octets)
    }

    /// Whether the consumer whose turn it is can take a message now; takes it out of the turn if not.
    fn may_deliver(&mut self, id: ConsumerId, effects: &mut Effects) -> bool {
        let call = self.call;
        let Some(consumer) = self.consumers.get_mut(id) else {
            return false;
        };
        if !consumer.has_prefetch() || !consumer.port.channel_admits() {
            self.consumers.unlist(id);
            return false;
        }
        if consumer.room_call != call {
            consumer.room_call = call;
            consumer.room = consumer.port.room();
        }
        if consumer.room == 0 {
            self.consumers.unlist(id);
            effects.starved.push(id);
            return false;
        }
        true
    }

    /// Adds a consumer. Call [`Self::dispatch`] after.
    ///
    /// # Errors
    /// [`SubscribeError::Exclusive`] when an exclusive consumer is there, or an exclusive one is asked for beside others
    /// or on a queue with a single active consumer. [`SubscribeError::TooManyFilters`].
    pub fn subscribe(
        &mut self,
        port: P,
        mut subscription: Subscription,
    ) -> Result<ConsumerId, SubscribeError> {
        match self.settings.kind {
            QueueKind::Classic => {
                let alone = self.consumers.len() == 0 && !self.settings.single_active_consumer;
                if self.consumers.any_exclusive() || (subscription.exclusive && !alone) {
                    return Err(SubscribeError::Exclusive);
                }
            }
            QueueKind::Quorum => subscription.exclusive = false,
        }
        let group = match &subscription.filter {
            None => None,
            Some(filter) => {
                let slot = self.filters.join(filter);
                Some(slot.ok_or(SubscribeError::TooManyFilters)?)
            }
        };
        let id = self.consumers.add(port, subscription, group);
        self.let_better_consumer_take_over();
        Ok(id)
    }

    /// Removes a consumer; its unsettled deliveries stay out. Call [`Self::dispatch`] after, because another
    /// consumer may have become active.
    pub fn unsubscribe(&mut self, id: ConsumerId) -> Removed {
        let Some(consumer) = self.consumers.remove(id) else {
            return Removed::Unknown;
        };
        if let Some(slot) = consumer.group
            && self.filters.leave(slot)
        {
            match self.filters.is_empty() {
                true => self.ready.forget_all_cursors(),
                false => self.ready.forget_cursors(slot),
            }
        }
        // The active one may have been held back for the sake of the one that left.
        if let Some(active) = self.consumers.active() {
            self.resume(active);
        }
        if self.consumers.len() == 0 {
            Removed::WasLast
        } else {
            Removed::OthersRemain
        }
    }

    /// A consumer is about to go: it gets nothing any more, but nobody takes its place yet, so that what it holds can
    /// come back first.
    pub fn retire(&mut self, id: ConsumerId) {
        self.consumers.retire(id);
    }

    /// A consumer may have room or credit again. Call [`Self::dispatch`] after.
    pub fn resume(&mut self, id: ConsumerId) {
        self.consumers.list(id);
        self.let_better_consumer_take_over();
    }

    /// Takes one message out for `basic.get`.
    pub fn fetch(&mut self, no_ack: bool, effects: &mut Effects) -> Fetch {
        let popped = self.ready.pop();
        effects.wanted.extend(self.ready.want_next(self.window));
        let Some(mut stored) = popped else {
            return match self.ready.is_empty() {
                true => Fetch::Empty,
                false => Fetch::Wanted,
            };
        };
        stored.redelivered |= stored.returns > 0;
        let key = if no_ack {
            effects.settled.extend(settled(&stored));
            None
        } else {
            Some(self.unacked.insert(Out {
                stored: stored.clone(),
                consumer: None,
            }))
        };
        Fetch::Message(Fetched {
            key,
            stored,
            remaining: self.ready.len(),
        })
    }

    /// Ends deliveries. Unknown keys are skipped: the queue may have been purged of them meanwhile.
    /// Call [`Self::dispatch`] after.
    pub fn settle(
        &mut self,
        keys: impl IntoIterator<Item = (UnackedKey, Sequence)>,
        outcome: Outcome,
        effects: &mut Effects,
    ) {
        if matches!(
            outcome,
            Outcome::Requeue | Outcome::Failed | Outcome::Unsent
        ) {
            self.wake_filters();
        }
        for (key, sequence) in keys {
            let Some(out) = self.unacked.remove(key, sequence) else {
                continue;
            };
            if let Some(id) = out.consumer
                && let Some(consumer) = self.consumers.get_mut(id)
            {
                let was_full = !consumer.has_prefetch();
                consumer.unacked -= 1;
                if was_full {
                    self.consumers.list(id);
                }
            }
            match outcome {
                Outcome::Ack => effects.settled.extend(settled(&out.stored)),
                Outcome::Discard => self.drop_or_bury(out.stored, DeathReason::Rejected, effects),
                Outcome::Requeue | Outcome::Failed => {
                    self.put_back(out.stored, outcome == Outcome::Failed, effects);
                }
                Outcome::Unsent => self.give_back(out.stored),
            }
        }
        self.let_better_consumer_take_over();
    }

    /// Takes back a message that was handed over but never sent: to its original place.
    pub fn give_back(&mut self, mut stored: Stored) {
        // Later messages may have gone out meanwhile: the mark tells the next consumer why it is out of order.
        stored.redelivered = true;
        self.put_in_front(stored);
        self.wake_filters();
    }

    /// Drops all ready messages, paged ones unread, and returns how many there were.
    pub fn purge(&mut self, effects: &mut Effects) -> usize {
        let count = self.ready.len();
        let in_memory = self.ready.take_all(&mut effects.dropped);
        effects
            .settled
            .extend(in_memory.filter_map(|stored| settled(&stored)));
        self.unknown_to = Sequence(0);
        count
    }

    fn put_back(&mut self, mut stored: Stored, failure: bool, effects: &mut Effects) {
        stored.returns = stored.returns.saturating_add(1);
        stored.redelivered = true;
        if self
            .settings
            .delivery_limit
            .is_some_and(|limit| stored.returns > limit)
        {
            self.drop_or_bury(stored, DeathReason::DeliveryLimit, effects);
            return;
        }
        let retry = self.settings.retry;
        if let Some(delay) = retry.and_then(|retry| retry.delay_ms(stored.returns, failure)) {
            effects.delayed.push((stored, delay));
            return;
        }
        if self.settings.kind == QueueKind::Quorum && self.settings.delivery_limit.is_none() {
            self.move_to_tail(stored, effects);
            return;
        }
        if stored.at != LogPosition::NONE && self.settings.counts_returns() {
            effects.returned.push((stored.sequence, stored.returns));
        }
        self.put_in_front(stored);
    }

    /// Puts a message behind all others. It gets a new sequence number, because sequences ascend there.
    fn move_to_tail(&mut self, mut stored: Stored, effects: &mut Effects) {
        let from = settled(&stored);
        stored.sequence = self.next;
        self.next = stored.sequence.next();
        self.fresh_from = self.next;
        if let Some(from) = from {
            effects.moved.push(Moved {
                from,
                stored: stored.clone(),
            });
        }
        let priority = self.priority_of(&stored.message);
        self.ready.push(priority, stored);
    }

    /// Puts a message before those that were never out: to its original place in a classic queue, in the order of
    /// return in a quorum queue.
    fn put_in_front(&mut self, stored: Stored) {
        let priority = self.priority_of(&stored.message);
        match self.settings.kind {
            QueueKind::Classic => self.ready.put_back_in_place(priority, stored),
            QueueKind::Quorum => {
                self.returns += 1;
                self.ready.put_back(priority, self.returns, stored);
            }
        }
    }

    fn drop_or_bury(&self, stored: Stored, reason: DeathReason, effects: &mut Effects) {
        if self.settings.dead_letters {
            effects.dead.push((stored, reason));
        } else {
            effects.discarded[reason as usize] += 1;
            effects.settled.extend(settled(&stored));
        }
    }

    fn priority_of(&self, message: &Message) -> u8 {
        self.settings.level_of(message)
    }

    /// Quorum queues with a single active consumer: a newcomer of higher priority takes over once the active
    /// one holds nothing.
    fn let_better_consumer_take_over(&mut self) {
        if !self.settings.single_active_consumer || self.settings.kind != QueueKind::Quorum {
            return;
        }
        let Some(active) = self.consumers.active() else {
            return;
        };
        let Some(best) = self.consumers.best_waiting_priority() else {
            return;
        };
        let Some(consumer) = self.consumers.get(active) else {
            return;
        };
        if best <= consumer.subscription.priority {
            return;
        }
        if consumer.unacked == 0 {
            self.consumers.activate_best();
        } else {
            self.consumers.unlist(active);
        }
    }

    /// Panics when the queue contradicts itself; for tests.
    ///
    /// # Panics
    /// If counters and contents differ, or a consumer holds more than its prefetch.
    pub fn check_invariants(&self) {
        self.ready.check();
        assert_eq!(self.unacked.iter().count(), self.unacked.len());
        assert_eq!(self.consumers.iter().count(), self.consumers.len());
        for (id, consumer) in self.consumers.iter() {
            let out = self
                .unacked
                .iter()
                .filter(|out| out.consumer == Some(id))
                .count();
            assert_eq!(out, consumer.unacked as usize);
            let prefetch = consumer.subscription.prefetch as usize;
            assert!(
                prefetch == 0 || out <= prefetch,
                "{out} unsettled above a prefetch of {prefetch}"
            );
        }
        let mut sequences: Vec<_> = self.messages().map(|stored| stored.sequence).collect();
        let total = sequences.len();
        sequences.sort_unstable();
        sequences.dedup();
        assert_eq!(sequences.len(), total, "a message is in two places");
        assert!(sequences.last().is_none_or(|last| *last < self.next));
        for stored in self.messages() {
            let level = self.priority_of(&stored.message);
            assert!(
                !self.is_paged(level, stored.sequence),
                "{stored:?} is in memory and paged"
            );
        }
        let mut last: Option<LiveRun> = None;
        for run in self.live_runs(false) {
            if let Some(last) = last.filter(|last| last.level == run.level) {
                assert!(last.to <= run.from, "{last:?} and {run:?} overlap");
            }
            last = Some(run);
        }
    }
}

/// What decides whether a message's time is over.
struct Times<'a> {
    message_ttl_ms: Option<u64>,
    earlier: &'a [(Sequence, Option<u64>)],
    now_ms: u64,
    fresh_from: Sequence,
}

impl Times<'_> {
    /// A message that has just come and has no time to wait may still be delivered.
    fn is_over(&self, stored: &Stored) -> bool {
        ttl_of(self.message_ttl_ms, self.earlier, stored).is_some_and(|ttl| {
            (ttl > 0 || stored.sequence < self.fresh_from) && deadline(stored, ttl) <= self.now_ms
        })
    }
}

/// A message's time to live, in milliseconds: the smaller of its own and the one the queue's settings gave it.
fn ttl_of(
    message_ttl_ms: Option<u64>,
    earlier: &[(Sequence, Option<u64>)],
    stored: &Stored,
) -> Option<u64> {
    let then = earlier.iter().find(|(until, _)| stored.sequence < *until);
    let queue = then.map_or(message_ttl_ms, |(_, ttl)| *ttl);
    match (stored.message.expiration_ms(), queue) {
        (Some(own), Some(queue)) => Some(own.min(queue)),
        (own, queue) => own.or(queue),
    }
}

/// When a message with this time to live expires, in milliseconds since 1970.
fn deadline(stored: &Stored, ttl_ms: u64) -> u64 {
    stored.message.accepted_at_ms().saturating_add(ttl_ms)
}

fn settled(stored: &Stored) -> Option<Settled> {
    (stored.at != LogPosition::NONE).then_some(Settled {
        sequence: stored.sequence,
        at: stored.at,
        octets: u32::try_from(stored.message.record_len()).unwrap_or(u32::MAX),
    })
}
