//! A queue against a plain list that is obviously right, under generated commands.
//!
//! The model knows where every message is, sorts the ready ones anew for each delivery, and judges each delivery
//! rather than predicting it: the right message, to a consumer that may have it, none more entitled left out.
//!
//! A map plays the disk. It never forgets, as the log does not: a range that covers a message which is settled or out
//! would bring it back.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use mamba_queue::{
    ConsumerId, DeathReason, Effects, Fetch, Incoming, Outcome, Overflow, PageIn, PagedRun, Peeked,
    Port, Queue, QueueKind, Removed, Scan, Selector, Settings, Settled, Stored, Subscription,
    UnackedKey, Window,
};
use mamba_types::{LogPosition, Message, RecordMeta, Sequence};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Octets a delivery costs its port beyond its record.
const OVERHEAD: usize = 64;
/// Octets of a record that are not body.
const RECORD: usize = 49;
/// So small that a handful of messages reaches its edges.
const WINDOW: Window = Window {
    head_bytes: 6 * RECORD,
    low_bytes: 3 * RECORD,
    tail_bytes: 4 * RECORD,
};

/// Wants messages of some kinds: one bit for each.
#[derive(Debug)]
struct Kinds {
    mask: u8,
    identity: String,
}

impl Kinds {
    fn filter(mask: u8) -> Arc<dyn Selector> {
        let identity = format!("{mask:04b}");
        Arc::new(Self { mask, identity })
    }
}

/// The kind of a message is its routing key.
fn is_in(mask: u8, kind: u8) -> bool {
    mask & 1 << kind != 0
}

impl Selector for Kinds {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn matches(&self, message: &Message) -> bool {
        is_in(self.mask, message.routing_key()[0] - b'a')
    }
}

/// Where a stored message pretends to lie.
const fn place(sequence: u64) -> LogPosition {
    LogPosition(1000 * sequence)
}

/// A channel with an optional shared prefetch limit.
#[derive(Debug)]
struct Channel {
    limit: Option<u32>,
    out: Cell<u32>,
}

#[derive(Clone, Debug)]
struct TestPort {
    room: Rc<Cell<usize>>,
    channel: Rc<Channel>,
}

impl Port for TestPort {
    fn room(&self) -> usize {
        self.room.get()
    }

    fn channel_admits(&self) -> bool {
        self.channel
            .limit
            .is_none_or(|limit| self.channel.out.get() < limit)
    }

    fn count_delivery(&self) {
        self.channel.out.set(self.channel.out.get() + 1);
    }
}

/// What may happen to a queue. Every command but `Quietly` is followed by a dispatch.
#[derive(Clone, Debug)]
enum Command {
    Enqueue {
        /// Priority and kind.
        priorities: Vec<(Option<u8>, u8)>,
        stored: bool,
        body: usize,
        expiration_ms: Option<u64>,
    },
    Subscribe {
        subscription: Subscription,
        /// The kinds it wants, if not all.
        mask: Option<u8>,
        channel: Index,
        room: usize,
    },
    Unsubscribe(Index),
    Settle {
        picks: Vec<Index>,
        outcome: Outcome,
    },
    /// Settles what was settled before.
    SettleAgain(Index),
    Fetch {
        no_ack: bool,
    },
    /// Deliveries without acknowledgement turn out not to have left, the last ones first.
    GiveBack(Index),
    Purge,
    /// Time passes. With `waited`, what has no time to wait may still be delivered.
    Expire {
        passed_ms: u64,
        waited: bool,
    },
    Room {
        consumer: Index,
        room: usize,
    },
    /// Resumes a consumer that may not even be blocked.
    Resume(Index),
    /// Messages leave memory: those that were written before `readable` was (or all), beyond so many messages at
    /// either end.
    /// With `store`, those that are not in the log go there first.
    PageOut {
        readable: Option<Index>,
        keep: usize,
        store: bool,
    },
    /// From now on readings take their time, or do not.
    Slow(bool),
    /// A reading comes back with so many messages, perhaps without one of them, or with nothing.
    Read {
        pick: Index,
        messages: usize,
        lost: Option<Index>,
        fails: bool,
    },
    /// A reading comes back that a purge has overtaken.
    ReadTooLate(Index),
    /// Everything in memory is gone, and the log is read.
    Restart {
        assume_delivered: bool,
    },
    /// The command, and no dispatch yet.
    Quietly(Box<Self>),
}

fn mask() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![1 => Just(None), 1 => (0u8..16).prop_map(Some)]
}

fn command() -> impl Strategy<Value = Command> {
    let index = any::<Index>;
    let outcome = || {
        prop_oneof![
            3 => Just(Outcome::Ack),
            3 => Just(Outcome::Requeue),
            1 => Just(Outcome::Discard),
            1 => Just(Outcome::Unsent),
        ]
    };
    let subscription = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        -1i64..2,
        0u32..4,
    )
        .prop_map(|(no_ack, exclusive, priority, prefetch)| Subscription {
            no_ack,
            exclusive,
            priority,
            prefetch,
            filter: None,
        });
    let room = prop_oneof![2 => Just(1_000_000usize), 1 => Just(0), 1 => 1usize..600];
    let loud = prop_oneof![
        6 => (
            vec((prop_oneof![Just(None), (0u8..5).prop_map(Some)], 0u8..4), 1..5),
            any::<bool>(),
            0usize..20,
            prop_oneof![6 => Just(None), 1 => Just(Some(0)), 2 => (0u64..100).prop_map(Some)],
        ).prop_map(|(priorities, stored, body, expiration_ms)| {
            Command::Enqueue { priorities, stored, body, expiration_ms }
        }),
        4 => (subscription, mask(), index(), room.clone()).prop_map(|(subscription, mask, channel, room)| {
            Command::Subscribe { subscription, mask, channel, room }
        }),
        3 => index().prop_map(Command::Unsubscribe),
        6 => (vec(index(), 1..4), outcome())
            .prop_map(|(picks, outcome)| Command::Settle { picks, outcome }),
        1 => index().prop_map(Command::SettleAgain),
        2 => any::<bool>().prop_map(|no_ack| Command::Fetch { no_ack }),
        1 => index().prop_map(Command::GiveBack),
        1 => Just(Command::Purge),
        2 => (0u64..50, any::<bool>())
            .prop_map(|(passed_ms, waited)| Command::Expire { passed_ms, waited }),
        2 => (index(), room).prop_map(|(consumer, room)| Command::Room { consumer, room }),
        1 => index().prop_map(Command::Resume),
        5 => (index(), 0usize..6, any::<bool>())
            .prop_map(|(readable, keep, store)| Command::PageOut { readable: Some(readable), keep, store }),
        1 => any::<bool>().prop_map(Command::Slow),
        4 => (index(), 1usize..6, prop::option::weighted(0.1, index()), prop::bool::weighted(0.1))
            .prop_map(|(pick, messages, lost, fails)| Command::Read { pick, messages, lost, fails }),
        1 => index().prop_map(Command::ReadTooLate),
        1 => any::<bool>().prop_map(|assume_delivered| Command::Restart { assume_delivered }),
    ];
    (loud, prop::bool::weighted(0.15)).prop_map(|(command, quietly)| {
        if quietly {
            Command::Quietly(Box::new(command))
        } else {
            command
        }
    })
}

/// Messages that go out and come back while others leave memory.
fn paging_command() -> impl Strategy<Value = Command> {
    let index = any::<Index>;
    let outcome = prop_oneof![
        2 => Just(Outcome::Requeue),
        1 => Just(Outcome::Failed),
        2 => Just(Outcome::Unsent),
        1 => Just(Outcome::Ack)
    ];
    let priority = prop_oneof![2 => Just(None), 1 => (0u8..2).prop_map(Some)];
    prop_oneof![
        30 => (vec((priority, 0u8..4), 1..6), prop::bool::weighted(0.9)).prop_map(|(priorities, stored)| {
            Command::Enqueue { priorities, stored, body: 1, expiration_ms: None }
        }),
        80 => Just(Command::Fetch { no_ack: false }),
        40 => (vec(index(), 1..3), outcome)
            .prop_map(|(picks, outcome)| Command::Settle { picks, outcome }),
        // Everything was written.
        60 => (0usize..4, any::<bool>()).prop_map(|(keep, store)| Command::PageOut {
            readable: None,
            keep,
            store,
        }),
        10 => (index(), 0usize..4)
            .prop_map(|(readable, keep)| Command::PageOut { readable: Some(readable), keep, store: false }),
        10 => any::<bool>().prop_map(Command::Slow),
        40 => (index(), 1usize..4, prop::bool::weighted(0.1)).prop_map(
            |(pick, messages, fails)| Command::Read { pick, messages, lost: None, fails }
        ),
        1 => Just(Command::Purge),
        5 => any::<bool>().prop_map(|assume_delivered| Command::Restart { assume_delivered }),
    ]
}

/// Consumers with filters on a queue that is mostly on the disk.
fn filter_command() -> impl Strategy<Value = Command> {
    let index = any::<Index>;
    let outcome = prop_oneof![
        2 => Just(Outcome::Requeue),
        1 => Just(Outcome::Unsent),
        3 => Just(Outcome::Ack)
    ];
    let priority = prop_oneof![3 => Just(None), 1 => (0u8..2).prop_map(Some)];
    let subscription =
        (prop::bool::weighted(0.1), 1u32..4).prop_map(|(no_ack, prefetch)| Subscription {
            no_ack,
            prefetch,
            ..Subscription::default()
        });
    prop_oneof![
        30 => (vec((priority, 0u8..4), 1..8), prop::bool::weighted(0.9)).prop_map(|(priorities, stored)| {
            Command::Enqueue { priorities, stored, body: 1, expiration_ms: None }
        }),
        20 => (subscription, mask(), index()).prop_map(|(subscription, mask, channel)| {
            Command::Subscribe { subscription, mask, channel, room: 1_000_000 }
        }),
        8 => index().prop_map(Command::Unsubscribe),
        20 => Just(Command::Fetch { no_ack: false }),
        50 => (vec(index(), 1..4), outcome)
            .prop_map(|(picks, outcome)| Command::Settle { picks, outcome }),
        40 => (0usize..4, any::<bool>()).prop_map(|(keep, store)| Command::PageOut {
            readable: None,
            keep,
            store,
        }),
        10 => any::<bool>().prop_map(Command::Slow),
        40 => (index(), 1usize..6, prop::bool::weighted(0.1)).prop_map(
            |(pick, messages, fails)| Command::Read { pick, messages, lost: None, fails }
        ),
        2 => index().prop_map(Command::GiveBack),
        1 => Just(Command::Purge),
        2 => any::<bool>().prop_map(|assume_delivered| Command::Restart { assume_delivered }),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let limit = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    let max_priority = prop_oneof![Just(0), Just(3u8)];
    let rarely =
        |value: std::ops::Range<u64>| prop_oneof![3 => Just(None), 1 => value.prop_map(Some)];
    let overflow = prop_oneof![
        2 => Just(Overflow::DropHead),
        1 => Just(Overflow::RejectPublish),
        1 => Just(Overflow::RejectPublishDeadLetter),
    ];
    let bounds = (rarely(0..100), rarely(0..8), rarely(0..60), overflow);
    (
        any::<bool>(),
        prop::bool::weighted(0.4),
        max_priority,
        limit,
        any::<bool>(),
        bounds,
    )
        .prop_map(
            |(quorum, single_active_consumer, max_priority, limit, dead_letters, bounds)| {
                Settings {
                    kind: if quorum {
                        QueueKind::Quorum
                    } else {
                        QueueKind::Classic
                    },
                    single_active_consumer,
                    max_priority,
                    delivery_limit: limit.filter(|_| quorum),
                    retry: None,
                    dead_letters,
                    message_ttl_ms: bounds.0,
                    max_length: bounds.1,
                    max_length_bytes: bounds.2,
                    overflow: bounds.3,
                    ..Settings::default()
                }
            },
        )
}

/// A message as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    sequence: Sequence,
    priority: Option<u8>,
    kind: u8,
    at: LogPosition,
    body: usize,
    expiration_ms: Option<u64>,
    accepted_at_ms: u64,
    returns: u32,
    redelivered: bool,
    /// Where it stands among the fresh ones.
    arrival: u64,
    /// On the disk only, the queue says.
    paged: bool,
}

impl Known {
    /// Whether it is that message as it lies in the queue.
    fn is(&self, stored: &Stored) -> bool {
        self.redelivered == (stored.redelivered || stored.returns > 0)
            && self.sequence == stored.sequence
            && self.at == stored.at
            && self.priority == stored.message.priority()
            && [b'a' + self.kind] == stored.message.routing_key()
            && self.body == stored.message.body_len()
            && self.expiration_ms == stored.message.expiration_ms()
            && self.accepted_at_ms == stored.message.accepted_at_ms()
            && self.returns == stored.returns
    }

    /// Whether it is that message as it is handed over.
    fn is_handed_over_as(&self, stored: &Stored) -> bool {
        self.is(stored) && self.redelivered == stored.redelivered
    }

    fn message(&self) -> Message {
        let meta = RecordMeta {
            priority: self.priority,
            expiration_ms: self.expiration_ms,
            accepted_at_ms: self.accepted_at_ms,
            ..RecordMeta::default()
        };
        Message::build(
            meta,
            b"",
            &[b'a' + self.kind],
            &[0; 14],
            &vec![b'm'; self.body],
        )
    }

    fn settled(&self) -> Option<Settled> {
        (self.at != LogPosition::NONE).then_some(Settled {
            sequence: self.sequence,
            at: self.at,
            octets: u32::try_from(self.message().record_len()).expect("it is small"),
        })
    }
}

/// Priority, then returned before fresh, then the order inside.
type Place = (Reverse<u8>, bool, u64);

#[derive(Debug)]
struct OutThere {
    known: Known,
    key: UnackedKey,
    consumer: Option<ConsumerId>,
    channel: Option<Rc<Channel>>,
}

#[derive(Debug)]
struct Member {
    id: ConsumerId,
    port: TestPort,
    subscription: Subscription,
    mask: Option<u8>,
    /// When it was last served, and since when it could be.
    served: u64,
    entitled_since: Option<u64>,
    /// The queue said that only room was missing, and none came since.
    starved: bool,
}

#[derive(Debug, Default)]
struct Expected {
    settled: Vec<Settled>,
    returned: Vec<(Sequence, u32)>,
    dead: Vec<(Sequence, DeathReason)>,
    moved: Vec<(Settled, Sequence)>,
}

struct Model {
    settings: Settings,
    ready: Vec<(Place, Known)>,
    out: Vec<OutThere>,
    members: Vec<Member>,
    active: Option<ConsumerId>,
    /// Handed over without acknowledgement; may still be given back.
    handed_over: Vec<Known>,
    settled_before: Vec<(UnackedKey, Sequence)>,
    entered: usize,
    gone: usize,
    clock: u64,
    now_ms: u64,
    /// The time as the queue was told last.
    told_ms: u64,
    /// Messages from this one on have just come.
    fresh_from: Sequence,
    /// The sequence number the next message gets.
    next: Sequence,
    /// What the disk has lost without the queue's having noticed: level, sequence, octets of the body.
    lost: Vec<(u8, Sequence, usize)>,
}

impl Model {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            ready: Vec::new(),
            out: Vec::new(),
            members: Vec::new(),
            active: None,
            handed_over: Vec::new(),
            settled_before: Vec::new(),
            entered: 0,
            gone: 0,
            clock: 0,
            now_ms: 5000,
            told_ms: 0,
            fresh_from: Sequence(1),
            next: Sequence(1),
            lost: Vec::new(),
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn level(&self, known: &Known) -> Reverse<u8> {
        let max = self.settings.max_priority;
        Reverse(known.priority.unwrap_or(0).min(max))
    }

    fn enter(&mut self, mut known: Known) {
        known.arrival = self.tick();
        self.next = known.sequence.next();
        self.entered += 1;
        self.ready
            .push(((self.level(&known), true, known.arrival), known));
    }

    /// Back without counting as a return.
    fn give_back(&mut self, mut known: Known) {
        known.redelivered = true;
        let place = match self.settings.kind {
            QueueKind::Classic => (self.level(&known), true, known.arrival),
            QueueKind::Quorum => (self.level(&known), false, self.tick()),
        };
        self.ready.push((place, known));
    }

    fn requeue(&mut self, mut known: Known, expected: &mut Expected) {
        known.returns += 1;
        known.redelivered = true;
        let limit = self.settings.delivery_limit;
        if limit.is_some_and(|limit| known.returns > limit) {
            self.die(&known, DeathReason::DeliveryLimit, expected);
            return;
        }
        if self.settings.kind == QueueKind::Quorum && limit.is_none() {
            let old = known.settled();
            known.sequence = self.next;
            self.next = self.next.next();
            self.fresh_from = self.next;
            expected.moved.extend(old.map(|old| (old, known.sequence)));
            known.arrival = self.tick();
            self.ready
                .push(((self.level(&known), true, known.arrival), known));
        } else {
            if self.settings.kind == QueueKind::Quorum && known.at != LogPosition::NONE {
                expected.returned.push((known.sequence, known.returns));
            }
            self.give_back(known);
        }
    }

    fn die(&mut self, known: &Known, reason: DeathReason, expected: &mut Expected) {
        self.gone += 1;
        if self.settings.dead_letters {
            expected.dead.push((known.sequence, reason));
        } else {
            expected.settled.extend(known.settled());
        }
    }

    /// When a message's time is over.
    fn deadline(&self, known: &Known) -> Option<u64> {
        let times = [known.expiration_ms, self.settings.message_ttl_ms];
        let time = times.into_iter().flatten().min()?;
        Some(known.accepted_at_ms + time)
    }

    /// The first message of each level.
    fn heads(&mut self) -> impl Iterator<Item = (usize, &Known)> {
        self.sort();
        let ready = &self.ready;
        let is_first = |at: usize| at == 0 || ready[at - 1].0.0 != ready[at].0.0;
        (0..ready.len())
            .filter(move |at| is_first(*at) && !ready[*at].1.paged)
            .map(|at| (at, &ready[at].1))
    }

    fn next_deadline(&mut self) -> Option<u64> {
        let heads: Vec<Known> = self.heads().map(|(_, known)| known.clone()).collect();
        heads.iter().filter_map(|known| self.deadline(known)).min()
    }

    fn expire(&mut self, expected: &mut Expected) {
        loop {
            let heads: Vec<_> = self.heads().map(|(at, k)| (at, k.clone())).collect();
            let is_over = |known: &Known| {
                let deadline = self.deadline(known);
                deadline.is_some_and(|at| at <= self.told_ms)
                    && (deadline > Some(known.accepted_at_ms) || known.sequence < self.fresh_from)
            };
            let Some((at, known)) = heads.into_iter().find(|(_, known)| is_over(known)) else {
                return;
            };
            self.ready.remove(at);
            self.die(&known, DeathReason::Expired, expected);
        }
    }

    /// Whether the ready messages and one more of this size, if any, are too many.
    fn is_too_long(&self, more: Option<usize>) -> bool {
        let messages = self.ready.len() + self.lost.len() + usize::from(more.is_some());
        let bodies: usize = self.ready.iter().map(|(_, known)| known.body).sum();
        let bodies = bodies + self.lost.iter().map(|lost| lost.2).sum::<usize>();
        let bytes = bodies + more.unwrap_or(0);
        let above = |max: Option<u64>, value: usize| max.is_some_and(|max| value as u64 > max);
        above(self.settings.max_length, messages) || above(self.settings.max_length_bytes, bytes)
    }

    fn trim(&mut self, expected: &mut Expected) {
        while self.settings.overflow == Overflow::DropHead && self.is_too_long(None) {
            let Some(known) = self.pop() else {
                assert!(!self.ready.is_empty(), "an empty queue is not too long");
                return;
            };
            self.die(&known, DeathReason::MaxLength, expected);
        }
    }

    fn sort(&mut self) {
        self.ready.sort_by_key(|(place, _)| *place);
    }

    /// The next message, unless it must be read first.
    fn pop(&mut self) -> Option<Known> {
        self.sort();
        let can_go = self.ready.first().is_some_and(|(_, known)| !known.paged);
        can_go.then(|| self.ready.remove(0).1)
    }

    /// Where the next message of these kinds stands.
    fn first_of(&mut self, mask: u8) -> Option<usize> {
        self.sort();
        let is_one = |(_, known): &(Place, Known)| is_in(mask, known.kind);
        self.ready.iter().position(is_one)
    }

    /// The level of the next message if it must be read first.
    fn blocked(&mut self) -> Option<u8> {
        self.sort();
        let (_, known) = self.ready.first().filter(|(_, known)| known.paged)?;
        Some(self.level(known).0)
    }

    fn note_what_is_paged(&mut self, queue: &Queue<TestPort>) {
        let max = self.settings.max_priority;
        for (_, known) in &mut self.ready {
            let level = known.priority.unwrap_or(0).min(max);
            known.paged = queue.is_paged(level, known.sequence);
        }
    }

    fn member(&self, id: ConsumerId) -> &Member {
        let found = self.members.iter().find(|member| member.id == id);
        found.expect("a delivery to a consumer that is not there")
    }

    fn unacked(&self, id: ConsumerId) -> usize {
        self.out
            .iter()
            .filter(|out| out.consumer == Some(id))
            .count()
    }

    fn channel_out(&self, channel: &Rc<Channel>) -> usize {
        let through = |out: &&OutThere| {
            out.channel
                .as_ref()
                .is_some_and(|known| Rc::ptr_eq(known, channel))
        };
        self.out.iter().filter(through).count()
    }

    /// With single active consumer: the best of all, the oldest among equals.
    fn best(&self) -> Option<&Member> {
        self.members
            .iter()
            .rev()
            .max_by_key(|member| member.subscription.priority)
    }

    /// Whether the active consumer is to hand over as soon as it holds nothing.
    fn active_gives_way(&self, active: &Member) -> bool {
        self.settings.kind == QueueKind::Quorum
            && self
                .best()
                .is_some_and(|best| best.subscription.priority > active.subscription.priority)
    }

    fn choose_active(&mut self) {
        if !self.settings.single_active_consumer {
            return;
        }
        let stays = self.active.is_some_and(|id| {
            self.members.iter().any(|member| member.id == id)
                && !(self.active_gives_way(self.member(id)) && self.unacked(id) == 0)
        });
        if !stays {
            self.active = self.best().map(|member| member.id);
        }
    }

    fn is_entitled(&self, member: &Member) -> bool {
        self.wants_room(member) && member.port.room.get() > 0
    }

    /// Whether nothing but room can keep it from getting messages.
    fn wants_room(&self, member: &Member) -> bool {
        let Member {
            port, subscription, ..
        } = member;
        let credit = subscription.no_ack
            || subscription.prefetch == 0
            || self.unacked(member.id) < subscription.prefetch as usize;
        let admitted = port
            .channel
            .limit
            .is_none_or(|limit| self.channel_out(&port.channel) < limit as usize);
        let turn = !self.settings.single_active_consumer
            || (self.active == Some(member.id) && !self.active_gives_way(member));
        credit && admitted && turn
    }

    fn note_who_is_entitled(&mut self) {
        let now = self.tick();
        for at in 0..self.members.len() {
            let entitled = self.is_entitled(&self.members[at]);
            let since = &mut self.members[at].entitled_since;
            *since = entitled.then(|| since.unwrap_or(now));
        }
    }

    /// Judges one delivery and books it.
    fn deliver(&mut self, id: ConsumerId, key: Option<UnackedKey>, stored: &Stored) {
        let mask = self.member(id).mask;
        let reachable = self.blocked().is_none();
        let known = match mask {
            None => self.pop(),
            Some(mask) => self.first_of(mask).map(|at| self.ready.remove(at).1),
        };
        let known = known.expect("a delivery from an empty queue");
        assert!(
            known.is_handed_over_as(stored),
            "{known:?} is next, not {stored:?}"
        );
        let member = self.member(id);
        assert!(self.is_entitled(member), "{member:?} may not have it");
        for other in &self.members {
            let Some(since) = other.entitled_since else {
                continue;
            };
            // What others want may not be there, or not be known yet.
            if other.mask != mask && !(other.mask.is_none() && reachable) {
                continue;
            }
            let (theirs, ours) = (other.subscription.priority, member.subscription.priority);
            assert!(theirs <= ours, "{other:?} goes before {member:?}");
            assert!(
                theirs < ours
                    || mask.is_some()
                    || other.id == id
                    || member.served <= since.max(other.served),
                "{other:?} was there before {member:?} was served"
            );
        }
        assert_eq!(key.is_none(), member.subscription.no_ack);
        let port = member.port.clone();
        let cost = stored.message.record_len() + OVERHEAD;
        port.room.set(port.room.get().saturating_sub(cost));
        match key {
            Some(key) => self.out.push(OutThere {
                known,
                key,
                consumer: Some(id),
                channel: Some(port.channel),
            }),
            None => {
                self.gone += 1;
                self.handed_over.push(known);
            }
        }
        let now = self.tick();
        let member = self.members.iter_mut().find(|member| member.id == id);
        member.expect("it was found above").served = now;
        self.note_who_is_entitled();
    }
}

struct Harness {
    queue: Queue<TestPort>,
    model: Model,
    channels: Vec<Rc<Channel>>,
    /// Everything that ever was in the log, by level and sequence.
    disk: BTreeMap<(u8, Sequence), Known>,
    /// What of it does not survive a restart.
    volatile: BTreeSet<(u8, Sequence)>,
    readings: Vec<PageIn>,
    scans: Vec<Scan>,
    overtaken: Vec<PageIn>,
    slow: bool,
    /// A filter was there.
    filtered: bool,
}

impl Harness {
    fn new(settings: Settings, channel_limit: Option<u32>) -> Self {
        let channel = |limit| {
            Rc::new(Channel {
                limit,
                out: Cell::new(0),
            })
        };
        let mut harness = Self {
            queue: Queue::new(settings, Sequence(1)),
            model: Model::new(settings),
            channels: vec![channel(None), channel(channel_limit)],
            disk: BTreeMap::new(),
            volatile: BTreeSet::new(),
            readings: Vec::new(),
            scans: Vec::new(),
            overtaken: Vec::new(),
            slow: false,
            filtered: false,
        };
        harness.queue.set_window(WINDOW);
        harness
    }

    fn write(&mut self, known: &Known) {
        if known.at != LogPosition::NONE {
            let key = (self.model.level(known).0, known.sequence);
            self.disk.insert(key, known.clone());
        }
    }

    fn restore(&mut self, returns: u32, redelivered: bool) {
        let sequence = self.queue.next_sequence();
        let known = Known {
            sequence,
            priority: None,
            kind: 0,
            at: place(sequence.0),
            body: 3,
            expiration_ms: None,
            accepted_at_ms: self.model.now_ms - 40,
            returns,
            redelivered: redelivered || returns > 0,
            arrival: 0,
            paged: false,
        };
        self.write(&known);
        self.queue.restore_paged(PagedRun {
            level: self.model.level(&known).0,
            from: sequence,
            to: sequence.next(),
            count: 1,
            body_bytes: known.body as u64,
            estimated: false,
            redelivered,
            returns,
        });
        self.model.enter(known);
        self.model.fresh_from = self.model.next;
        self.model.note_what_is_paged(&self.queue);
        self.check();
    }

    /// Tells the queue the octets it does not know since a restart.
    fn measure(&mut self) {
        for run in self.queue.estimated_runs(usize::MAX) {
            let range = (run.level, run.from)..(run.level, run.to);
            let bodies = self.disk.range(range).map(|(_, known)| known.body as u64);
            self.queue.measured(&run, bodies.sum());
        }
        assert!(self.queue.estimated_runs(1).is_empty());
    }

    fn run(&mut self, command: Command) {
        let (command, quietly) = match command {
            Command::Quietly(command) => (*command, true),
            command => (command, false),
        };
        let (mut effects, mut expected) = (Effects::default(), Expected::default());
        self.model.note_what_is_paged(&self.queue);
        self.perform(command, &mut effects, &mut expected);
        assert!(effects.deliveries.is_empty() && effects.starved.is_empty());
        for moved in &effects.moved {
            let is_it = |known: &&Known| known.sequence == moved.stored.sequence;
            let known = self.model.ready.iter().map(|(_, known)| known).find(is_it);
            let known = known.expect("a message was moved").clone();
            self.write(&known);
        }
        self.model.choose_active();
        self.model.note_who_is_entitled();
        for round in 0..1000 {
            self.readings.append(&mut effects.wanted);
            self.scans.append(&mut effects.scans);
            if round > 0 {
                if self.slow || quietly || self.is_idle() {
                    break;
                }
                if self.readings.is_empty() {
                    let scan = self.scans.remove(0);
                    self.scan(&scan, usize::MAX, &mut effects);
                } else {
                    let reading = self.readings.remove(0);
                    self.read(reading, usize::MAX, None);
                }
            }
            if !quietly {
                self.dispatch(&mut effects, &mut expected);
                self.model.note_what_is_paged(&self.queue);
                self.queue.trim(&mut effects);
                if std::mem::take(&mut effects.unmeasured) {
                    self.measure();
                    self.queue.trim(&mut effects);
                }
                self.model.trim(&mut expected);
            }
        }
        assert!(self.slow || quietly || self.is_idle());
        assert_eq!(effects.settled, expected.settled);
        assert_eq!(effects.returned, expected.returned);
        let dead: Vec<_> = effects
            .dead
            .iter()
            .map(|(s, why)| (s.sequence, *why))
            .collect();
        assert_eq!(dead, expected.dead);
        let moved = effects.moved.iter();
        let moved: Vec<_> = moved.map(|m| (m.from, m.stored.sequence)).collect();
        assert_eq!(moved, expected.moved);
        self.check();
    }

    /// Nothing is being read.
    fn is_idle(&self) -> bool {
        self.readings.is_empty() && self.scans.is_empty()
    }

    /// Answers a reading for a filter. The disk still has what is settled.
    fn scan(&mut self, scan: &Scan, messages: usize, into: &mut Effects) {
        let range = self
            .disk
            .range((scan.level, scan.from)..(scan.level, scan.to));
        let mut found: Vec<Known> = range.map(|(_, known)| known.clone()).collect();
        let next = found.get(messages).map_or(scan.to, |known| known.sequence);
        found.truncate(messages);
        let stored = found.into_iter().map(|known| Stored {
            sequence: known.sequence,
            message: known.message(),
            at: known.at,
            returns: 0,
            redelivered: false,
        });
        let scanned = scan.look_at(stored, next);
        self.model.note_what_is_paged(&self.queue);
        let mut effects = Effects::default();
        assert_eq!(self.queue.scanned(scan, scanned, &mut effects), 0);
        self.judge(&mut effects, into, None);
        self.model.note_what_is_paged(&self.queue);
        self.queue.check_invariants();
    }

    /// Judges what a dispatch did.
    fn judge(
        &mut self,
        effects: &mut Effects,
        into: &mut Effects,
        mut expected: Option<&mut Expected>,
    ) {
        into.settled.append(&mut effects.settled);
        into.dead.append(&mut effects.dead);
        into.wanted.append(&mut effects.wanted);
        into.scans.append(&mut effects.scans);
        for delivery in &effects.deliveries {
            if let Some(expected) = &mut expected {
                self.model.expire(expected);
            }
            self.model
                .deliver(delivery.consumer, delivery.key, &delivery.stored);
        }
        for member in &mut self.model.members {
            let has_room = member.port.room.get() > 0;
            if effects.starved.contains(&member.id) {
                assert!(!has_room, "{member:?} has room");
                member.starved = true;
            }
            member.starved &= !has_room;
        }
    }

    /// Answers a reading.
    fn read(&mut self, reading: PageIn, messages: usize, lost: Option<Index>) {
        let PageIn {
            level, from, to, ..
        } = reading;
        let mut found: Vec<Known> = self
            .disk
            .range((level, from)..(level, to))
            .map(|(_, known)| known.clone())
            .collect();
        self.model.note_what_is_paged(&self.queue);
        for known in &found {
            let is_it = |(_, other): &&(Place, Known)| other.sequence == known.sequence;
            let ready = self.model.ready.iter().find(is_it);
            assert!(
                ready.is_some_and(|(_, known)| known.paged),
                "{known:?} is in the range of {reading:?}"
            );
        }
        let next = found.get(messages).map_or(to, |known| known.sequence);
        found.truncate(messages);
        if let Some(lost) = lost
            && !found.is_empty()
        {
            let known = found.remove(lost.index(found.len()));
            self.disk.remove(&(level, known.sequence));
            self.model
                .ready
                .retain(|(_, other)| other.sequence != known.sequence);
            self.model.lost.push((level, known.sequence, known.body));
        }
        let stored = |known: Known| Stored {
            sequence: known.sequence,
            message: known.message(),
            at: known.at,
            returns: 0,
            redelivered: false,
        };
        let stored = found.into_iter().map(stored).collect();
        let missing = self.queue.paged_in(level, reading.token, stored, next);
        if missing > 0 {
            let before = self.model.lost.len();
            let lost = &mut self.model.lost;
            lost.retain(|(of, sequence, _)| *of != level || *sequence >= next);
            assert_eq!(missing, (before - lost.len()) as u64);
            self.model.gone += before - lost.len();
        }
        self.model.note_what_is_paged(&self.queue);
    }

    fn page_out(&mut self, readable: Option<Index>, keep: usize, store: bool) {
        let keep = keep * RECORD;
        if store {
            for (level, stored) in self.queue.unstored_beyond(keep) {
                assert_eq!(stored.at, LogPosition::NONE);
                stored.at = place(stored.sequence.0);
                let ready = self.model.ready.iter_mut();
                let mut ready = ready.map(|(_, known)| known);
                let known = ready.find(|known| known.sequence == stored.sequence);
                let known = known.expect("only ready messages are paged out");
                known.at = stored.at;
                self.volatile.insert((level, stored.sequence));
                self.disk.insert((level, stored.sequence), known.clone());
            }
        }
        let next = self.model.next.0;
        let below = usize::try_from(next).expect("there are few");
        let readable = readable.map_or(next, |index| 1 + index.index(below) as u64);
        let readable = place(readable);
        let before = self.queue.resident_bytes();
        let dropped = self.queue.page_out(readable, keep);
        assert_eq!(self.queue.resident_bytes() + dropped, before);
        self.model.note_what_is_paged(&self.queue);
        for (_, known) in self.model.ready.iter().filter(|(_, known)| known.paged) {
            let end = known.at.0 + known.message().record_len() as u64;
            assert!(known.at != LogPosition::NONE && end <= place(known.sequence.0 + 1).0);
        }
        assert_eq!(self.queue.page_out(readable, keep), 0);
    }

    /// Starts again with what is in the log.
    fn restart(&mut self, assume_delivered: bool) {
        let model = &mut self.model;
        let out = model.out.drain(..).map(|out| (out.known, true));
        let ready = model.ready.drain(..).map(|(_, known)| (known, false));
        let alive: BTreeMap<Sequence, (Known, bool)> = ready
            .chain(out)
            .map(|(known, is_out)| (known.sequence, (known, is_out)))
            .collect();
        let runs = self.queue.live_runs(assume_delivered);
        let next = self.queue.next_sequence();
        self.queue = Queue::new(model.settings, next);
        (model.told_ms, model.fresh_from) = (0, next);
        self.queue.set_window(WINDOW);
        self.disk.retain(|key, _| !self.volatile.contains(key));
        let mut recovered = Vec::new();
        for run in runs {
            let range = (run.level, run.from)..(run.level, run.to);
            let (mut count, mut body_bytes) = (0, 0);
            for (_, known) in self.disk.range(range) {
                let (known, is_out) = alive.get(&known.sequence).expect("it is dead");
                let known = known.clone();
                assert!(run.delivered || !known.redelivered && !is_out);
                assert!(assume_delivered || run.delivered == (known.redelivered || *is_out));
                assert_eq!(run.returns, known.returns);
                count += 1;
                body_bytes += known.body as u64;
                recovered.push(Known {
                    redelivered: run.delivered,
                    ..known
                });
            }
            if count > 0 {
                // As if the run were a part of what was enqueued together.
                let estimated = run.from.0 % 2 == 0;
                self.queue.restore_paged(PagedRun {
                    level: run.level,
                    from: run.from,
                    to: run.to,
                    count,
                    body_bytes: if estimated { 7 * count } else { body_bytes },
                    estimated,
                    redelivered: run.delivered,
                    returns: run.returns,
                });
            }
        }
        let survives = |(known, _): &&(Known, bool)| {
            let key = (model.level(known).0, known.sequence);
            known.at != LogPosition::NONE && !self.volatile.contains(&key)
        };
        assert_eq!(alive.values().filter(survives).count(), recovered.len());
        model.gone = model.entered - recovered.len();
        recovered.sort_by_key(|known| known.sequence);
        for mut known in recovered {
            known.arrival = model.tick();
            let place = (model.level(&known), true, known.arrival);
            model.ready.push((place, known));
        }
        model.note_what_is_paged(&self.queue);
        model.members.clear();
        model.active = None;
        model.handed_over.clear();
        model.settled_before.clear();
        model.lost.clear();
        for channel in &self.channels {
            channel.out.set(0);
        }
        self.volatile.clear();
        self.readings.clear();
        self.scans.clear();
        self.overtaken.clear();
    }

    /// Whether a message would come back to a place between paged ones without being able to go to the disk: it goes
    /// to the front then, which the list does not know.
    fn loses_its_place(&self, known: &Known) -> bool {
        let level = self.model.level(known).0;
        let mut runs = self.queue.paged_runs();
        known.at == LogPosition::NONE
            && self.model.settings.kind == QueueKind::Classic
            && runs.any(|run| run.level == level && run.from < known.sequence)
    }

    fn perform(&mut self, command: Command, effects: &mut Effects, expected: &mut Expected) {
        match command {
            Command::PageOut {
                readable,
                keep,
                store,
            } => return self.page_out(readable, keep, store),
            Command::Slow(slow) => self.slow = slow,
            Command::Read {
                pick,
                messages,
                lost,
                fails,
            } if !self.is_idle() => {
                let pick = pick.index(self.readings.len() + self.scans.len());
                let Some(reading) = self.readings.get(pick).copied() else {
                    let scan = self.scans.remove(pick - self.readings.len());
                    if fails {
                        self.queue.load_failed(scan.level, scan.token);
                    } else {
                        self.model.choose_active();
                        self.model.note_who_is_entitled();
                        self.scan(&scan, messages, effects);
                    }
                    return;
                };
                self.readings.remove(pick);
                if fails {
                    self.queue.load_failed(reading.level, reading.token);
                } else {
                    // Which part of a run has lost one is not known once filters have split it.
                    let lost = lost.filter(|_| !self.filtered);
                    self.read(reading, messages, lost);
                }
                return;
            }
            Command::ReadTooLate(pick) if !self.overtaken.is_empty() => {
                let reading = pick.get(&self.overtaken);
                let (level, token) = (reading.level, reading.token);
                assert_eq!(self.queue.paged_in(level, token, Vec::new(), reading.to), 0);
                self.queue.load_failed(level, token);
                return;
            }
            Command::Restart { assume_delivered } => return self.restart(assume_delivered),
            _ => {}
        }
        let coming_back: Vec<bool> = self
            .model
            .out
            .iter()
            .map(|out| self.loses_its_place(&out.known))
            .collect();
        let stays_out = match command {
            Command::Settle {
                outcome: Outcome::Requeue | Outcome::Failed | Outcome::Unsent,
                ..
            } => coming_back.contains(&true),
            Command::GiveBack(_) => {
                let handed_over = &self.model.handed_over;
                handed_over.iter().any(|known| self.loses_its_place(known))
            }
            _ => false,
        };
        if stays_out {
            return;
        }
        if self.model.settings.overflow != Overflow::DropHead {
            // Nothing is refused by an estimate; with the truth the queue has to agree with the model.
            self.measure();
        }
        let model = &mut self.model;
        match command {
            Command::Enqueue {
                priorities,
                stored,
                body,
                expiration_ms,
            } => {
                let first = self.queue.next_sequence();
                let filtered = model.members.iter().any(|member| member.mask.is_some());
                let expiration_ms = expiration_ms.filter(|_| !filtered);
                let mut incoming = Vec::new();
                let rejects = model.settings.overflow != Overflow::DropHead;
                let rejected = rejects && model.is_too_long(Some(body));
                assert_eq!(self.queue.admits(1, body), !rejected);
                for ((priority, kind), sequence) in priorities.into_iter().zip(first.0..) {
                    let at = match stored {
                        true => place(sequence),
                        false => LogPosition::NONE,
                    };
                    let known = Known {
                        sequence: Sequence(sequence),
                        priority,
                        kind,
                        at,
                        body,
                        expiration_ms,
                        accepted_at_ms: model.now_ms,
                        returns: 0,
                        redelivered: false,
                        arrival: 0,
                        paged: false,
                    };
                    incoming.push(Incoming {
                        message: known.message(),
                        at,
                        returns: 0,
                        redelivered: false,
                    });
                    if stored {
                        let key = (model.level(&known).0, known.sequence);
                        self.disk.insert(key, known.clone());
                    }
                    model.enter(known);
                }
                model.fresh_from = model.fresh_from.min(first);
                assert_eq!(self.queue.enqueue(incoming), first);
            }
            Command::Subscribe {
                mut subscription,
                mask,
                channel,
                room,
            } => {
                // What a filter finds expired behind others is a rule of its own.
                let expires = model.settings.message_ttl_ms.is_some()
                    || model.ready.iter().any(|(_, k)| k.expiration_ms.is_some())
                    || model
                        .out
                        .iter()
                        .any(|out| out.known.expiration_ms.is_some())
                    || model.handed_over.iter().any(|k| k.expiration_ms.is_some());
                let mask = mask.filter(|_| model.lost.is_empty() && !expires);
                self.filtered |= mask.is_some();
                subscription.filter = mask.map(Kinds::filter);
                let port = TestPort {
                    room: Rc::new(Cell::new(room)),
                    channel: Rc::clone(channel.get(&self.channels)),
                };
                let refused = model.settings.kind == QueueKind::Classic
                    && (model.members.iter().any(|m| m.subscription.exclusive)
                        || subscription.exclusive
                            && (!model.members.is_empty()
                                || model.settings.single_active_consumer));
                let id = self.queue.subscribe(port.clone(), subscription.clone());
                assert_eq!(id.is_err(), refused);
                subscription.exclusive &= model.settings.kind == QueueKind::Classic;
                if let Ok(id) = id {
                    model.members.push(Member {
                        id,
                        port,
                        subscription,
                        mask,
                        served: 0,
                        entitled_since: None,
                        starved: false,
                    });
                }
            }
            Command::Unsubscribe(pick) if !model.members.is_empty() => {
                let member = model.members.remove(pick.index(model.members.len()));
                let removed = match model.members.is_empty() {
                    true => Removed::WasLast,
                    false => Removed::OthersRemain,
                };
                assert_eq!(self.queue.unsubscribe(member.id), removed);
                assert_eq!(self.queue.unsubscribe(member.id), Removed::Unknown);
                self.queue.resume(member.id);
            }
            Command::Settle { picks, outcome } => {
                let mut keys = Vec::new();
                for pick in picks {
                    if model.out.is_empty() {
                        break;
                    }
                    let out = model.out.remove(pick.index(model.out.len()));
                    keys.push((out.key, out.known.sequence));
                    model.settled_before.push((out.key, out.known.sequence));
                    if let Some(channel) = &out.channel {
                        channel.out.set(channel.out.get() - 1);
                    }
                    match outcome {
                        Outcome::Ack => {
                            model.gone += 1;
                            expected.settled.extend(out.known.settled());
                        }
                        Outcome::Discard => {
                            model.die(&out.known, DeathReason::Rejected, expected);
                        }
                        Outcome::Requeue | Outcome::Failed => {
                            model.requeue(out.known, expected);
                        }
                        Outcome::Unsent => model.give_back(out.known),
                    }
                }
                self.queue.settle(keys, outcome, effects);
                // The channel's owner: a limit that was reached may not be any more.
                for member in &model.members {
                    if member.port.channel.limit.is_some() {
                        self.queue.resume(member.id);
                    }
                }
            }
            Command::SettleAgain(pick) if !model.settled_before.is_empty() => {
                let again = *pick.get(&model.settled_before);
                let is_out = |out: &OutThere| (out.key, out.known.sequence) == again;
                if !model.out.iter().any(is_out) {
                    self.queue.settle([again], Outcome::Requeue, effects);
                }
            }
            Command::Fetch { no_ack } => {
                let fetched = self.queue.fetch(no_ack, effects);
                let blocked = model.blocked();
                let (fetched, known) = match (fetched, model.pop()) {
                    (Fetch::Message(fetched), Some(known)) => (fetched, known),
                    (Fetch::Wanted, None) => {
                        let level = blocked.expect("nothing is to be read first");
                        let mut readings = self.readings.iter().chain(&effects.wanted);
                        assert!(
                            readings.any(|reading| reading.level == level)
                                || self.scans.iter().any(|scan| scan.level == level)
                        );
                        return;
                    }
                    (Fetch::Empty, None) => return assert_eq!(blocked, None),
                    (fetched, known) => panic!("{fetched:?} instead of {known:?}"),
                };
                assert!(known.is_handed_over_as(&fetched.stored));
                assert_eq!(fetched.remaining, model.ready.len() + model.lost.len());
                assert_eq!(fetched.key.is_none(), no_ack);
                match fetched.key {
                    Some(key) => model.out.push(OutThere {
                        known,
                        key,
                        consumer: None,
                        channel: None,
                    }),
                    None => {
                        model.gone += 1;
                        expected.settled.extend(known.settled());
                    }
                }
            }
            Command::GiveBack(pick) if !model.handed_over.is_empty() => {
                let from = pick.index(model.handed_over.len());
                for known in model.handed_over.split_off(from) {
                    self.queue.give_back(Stored {
                        sequence: known.sequence,
                        message: known.message(),
                        at: known.at,
                        returns: known.returns,
                        redelivered: known.redelivered,
                    });
                    model.gone -= 1;
                    model.give_back(known);
                }
            }
            Command::Purge => {
                model.sort();
                let paged: Vec<_> = self.queue.paged_runs().copied().collect();
                let count = model.ready.len() + model.lost.len();
                assert_eq!(self.queue.purge(effects), count);
                assert_eq!(effects.dropped, paged);
                model.gone += count;
                model.lost.clear();
                self.overtaken.append(&mut self.readings);
                for scan in self.scans.drain(..) {
                    let overtaken = scan.look_at([], scan.to);
                    assert_eq!(self.queue.scanned(&scan, overtaken, effects), 0);
                }
                let ready = model.ready.drain(..);
                expected.settled.extend(
                    ready.filter_map(|(_, known)| known.settled().filter(|_| !known.paged)),
                );
            }
            Command::Expire { passed_ms, waited } => {
                model.now_ms += passed_ms;
                if waited {
                    self.queue.expire_waited(model.now_ms, effects);
                } else {
                    self.queue.expire(model.now_ms, effects);
                }
                model.told_ms = model.now_ms;
                if !waited {
                    model.fresh_from = model.next;
                }
                model.expire(expected);
            }
            Command::Room { consumer, room } if !model.members.is_empty() => {
                let member = consumer.get(&model.members);
                member.port.room.set(room);
                if room > 0 {
                    self.queue.resume(member.id);
                }
            }
            Command::Resume(pick) if !model.members.is_empty() => {
                self.queue.resume(pick.get(&model.members).id);
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, into: &mut Effects, expected: &mut Expected) {
        self.model.note_what_is_paged(&self.queue);
        let mut effects = Effects::default();
        self.queue.dispatch(&mut effects);
        self.judge(&mut effects, into, Some(&mut *expected));
        let model = &mut self.model;
        if model.members.iter().any(|member| model.is_entitled(member)) {
            model.expire(expected);
        }
        if model.ready.is_empty() {
            return;
        }
        let mut readings = self.readings.iter().chain(&into.wanted);
        let mut scans = self.scans.iter().chain(&into.scans);
        let is_reading = readings.next().is_some() || scans.next().is_some();
        let blocked = model.blocked();
        for at in 0..model.members.len() {
            if let Some(mask) = model.members[at].mask {
                // What is being read may be for it, or come before what is.
                if is_reading || model.first_of(mask).is_none() {
                    continue;
                }
            } else if let Some(level) = blocked {
                let mut readings = self.readings.iter().chain(&into.wanted);
                let mut scans = self.scans.iter().chain(&into.scans);
                let is_read = readings.any(|reading| reading.level == level)
                    || scans.any(|scan| scan.level == level);
                assert!(is_read || !model.is_entitled(&model.members[at]));
                continue;
            }
            let member = &model.members[at];
            assert!(!model.is_entitled(member), "{member:?} was left out");
            assert!(
                member.starved || !model.wants_room(member),
                "nobody is told that {member:?} wants room"
            );
        }
    }

    fn check(&mut self) {
        let (queue, model) = (&self.queue, &mut self.model);
        queue.check_invariants();
        model.note_what_is_paged(queue);
        model.sort();
        let bytes = |known: &mut dyn Iterator<Item = &Known>| -> u64 {
            known.map(|known| known.body as u64).sum()
        };
        assert_eq!(queue.ready_count(), model.ready.len() + model.lost.len());
        let is_paged = |(_, known): &&(Place, Known)| known.paged;
        let paged = model.ready.iter().filter(is_paged).count() + model.lost.len();
        assert_eq!(queue.paged_count(), paged as u64);
        let octets = |known: &Known| known.message().record_len() + size_of::<Stored>();
        let in_memory = model.ready.iter().filter(|(_, known)| !known.paged);
        let resident: usize = in_memory.map(|(_, known)| octets(known)).sum();
        assert_eq!(queue.resident_bytes(), resident);
        for (_, known) in model.ready.iter().filter(is_paged) {
            let key = (model.level(known).0, known.sequence);
            assert!(self.disk.contains_key(&key), "{known:?} is nowhere");
        }
        if model.settings.kind == QueueKind::Classic {
            let (mut greatest, mut behind) = (None, None);
            for (_, known) in &model.ready {
                if known.paged {
                    behind = Some(model.level(known));
                } else if queue.has_filters() || behind != Some(model.level(known)) {
                    greatest = greatest.max(Some(known.sequence));
                }
            }
            assert_eq!(queue.deliverable_to(), greatest);
        }
        assert_eq!(queue.unacked_count(), model.out.len());
        assert_eq!(queue.consumer_count(), model.members.len());
        assert_eq!(queue.next_deadline(), model.next_deadline());
        if queue.paged_runs().all(|run| !run.estimated) {
            assert_eq!(
                queue.ready_bytes(),
                bytes(&mut model.ready.iter().map(|(_, known)| known))
                    + model.lost.iter().map(|lost| lost.2 as u64).sum::<u64>()
            );
        }
        assert_eq!(
            queue.unacked_bytes(),
            bytes(&mut model.out.iter().map(|out| &out.known))
        );
        assert_eq!(
            queue.ready_count() + queue.unacked_count() + model.gone,
            model.entered
        );
        let listed: Vec<_> = queue.messages().collect();
        let (ready, out) = listed.split_at(listed.len() - model.out.len());
        let in_memory = model.ready.iter().filter(|(_, known)| !known.paged);
        assert_eq!(ready.len(), in_memory.clone().count());
        for (stored, (_, known)) in ready.iter().zip(in_memory) {
            assert!(known.is(stored), "{known:?} is listed as {stored:?}");
        }
        for stored in out {
            assert!(model.out.iter().any(|out| out.known.is(stored)));
        }
        if model.lost.is_empty() {
            check_peek(queue, &model.ready);
        }
        for channel in &self.channels {
            assert_eq!(channel.out.get() as usize, model.channel_out(channel));
        }
        for member in &model.members {
            let prefetch = member.subscription.prefetch as usize;
            let unacked = model.unacked(member.id);
            assert!(prefetch == 0 || unacked <= prefetch);
            assert!(queue.port(member.id).is_some());
        }
    }
}

/// Whether pages show what is ready, in order.
fn check_peek(queue: &Queue<TestPort>, ready: &[(Place, Known)]) {
    let mut rest = ready.iter().map(|(_, known)| known);
    for part in queue.peek(0, u64::MAX) {
        match part {
            Peeked::Message(stored) => {
                assert!(rest.next().expect("it is ready").is_handed_over_as(&stored));
            }
            Peeked::OnDisk { run, skip, take } => {
                assert_eq!((skip, take), (0, run.count));
                for known in rest
                    .by_ref()
                    .take(usize::try_from(take).expect("there are few"))
                {
                    assert!(known.paged && run.from <= known.sequence && known.sequence < run.to);
                }
            }
        }
    }
    assert_eq!(rest.next(), None);
    for (offset, count) in [(1, 2), (3, 1), (2, 100)] {
        let shown = queue
            .peek(offset, count)
            .into_iter()
            .map(|part| match part {
                Peeked::Message(_) => 1,
                Peeked::OnDisk { take, .. } => take,
            });
        let there = (ready.len() as u64).saturating_sub(offset);
        assert_eq!(shown.sum::<u64>(), there.min(count));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_does_what_a_list_would(
        settings in settings(),
        channel_limit in prop_oneof![Just(None), (1u32..4).prop_map(Some)],
        restored in vec((0u32..2, any::<bool>()), 0..4),
        commands in vec(command(), 0..80),
    ) {
        let mut harness = Harness::new(settings, channel_limit);
        for (returns, redelivered) in restored {
            harness.restore(returns, redelivered);
        }
        for command in commands {
            harness.run(command);
        }
    }

    #[test]
    fn a_queue_that_pages_keeps_the_order(
        quorum in prop::bool::weighted(0.2),
        max_priority in 0u8..2,
        commands in vec(paging_command(), 0..120),
    ) {
        let settings = Settings {
            kind: if quorum { QueueKind::Quorum } else { QueueKind::Classic },
            max_priority,
            ..Settings::default()
        };
        let mut harness = Harness::new(settings, None);
        for command in commands {
            harness.run(command);
        }
    }

    #[test]
    fn filters_get_what_they_match(
        quorum in prop::bool::weighted(0.3),
        single_active_consumer in prop::bool::weighted(0.1),
        max_priority in 0u8..2,
        commands in vec(filter_command(), 0..120),
    ) {
        let settings = Settings {
            kind: if quorum { QueueKind::Quorum } else { QueueKind::Classic },
            single_active_consumer,
            max_priority,
            delivery_limit: quorum.then_some(3),
            ..Settings::default()
        };
        let mut harness = Harness::new(settings, None);
        for command in commands {
            harness.run(command);
        }
    }
}
