//! A queue against a plain list that is obviously right, under generated commands.
//!
//! The model knows where every message is, sorts the ready ones anew for each delivery, and judges each delivery
//! rather than predicting it: the right message, to a consumer that may have it, none more entitled left out.

use std::{cell::Cell, cmp::Reverse, rc::Rc};

use mamba_queue::{
    ConsumerId, DeathReason, Effects, Incoming, Outcome, Overflow, Port, Queue, QueueKind, Removed,
    Settings, Settled, Stored, Subscription, UnackedKey,
};
use mamba_types::{LogPosition, Message, RecordMeta, Sequence};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Octets a delivery costs its port beyond its record.
const OVERHEAD: usize = 64;
/// Where stored messages pretend to lie: the sequence number and this.
const LOG_START: u64 = 1000;

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
        priorities: Vec<Option<u8>>,
        stored: bool,
        body: usize,
        expiration_ms: Option<u64>,
    },
    Subscribe {
        subscription: Subscription,
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
    /// The command, and no dispatch yet.
    Quietly(Box<Self>),
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
        });
    let room = prop_oneof![2 => Just(1_000_000usize), 1 => Just(0), 1 => 1usize..600];
    let loud = prop_oneof![
        6 => (
            vec(prop_oneof![Just(None), (0u8..5).prop_map(Some)], 1..5),
            any::<bool>(),
            0usize..20,
            prop_oneof![6 => Just(None), 1 => Just(Some(0)), 2 => (0u64..100).prop_map(Some)],
        ).prop_map(|(priorities, stored, body, expiration_ms)| {
            Command::Enqueue { priorities, stored, body, expiration_ms }
        }),
        4 => (subscription, index(), room.clone()).prop_map(|(subscription, channel, room)| {
            Command::Subscribe { subscription, channel, room }
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
    ];
    (loud, prop::bool::weighted(0.15)).prop_map(|(command, quietly)| {
        if quietly {
            Command::Quietly(Box::new(command))
        } else {
            command
        }
    })
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
                    dead_letters,
                    message_ttl_ms: bounds.0,
                    max_length: bounds.1,
                    max_length_bytes: bounds.2,
                    overflow: bounds.3,
                }
            },
        )
}

/// A message as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    sequence: Sequence,
    priority: Option<u8>,
    at: LogPosition,
    body: usize,
    expiration_ms: Option<u64>,
    accepted_at_ms: u64,
    returns: u32,
    redelivered: bool,
    /// Where it stands among the fresh ones.
    arrival: u64,
}

impl Known {
    /// Whether it is that message as it lies in the queue.
    fn is(&self, stored: &Stored) -> bool {
        self.redelivered == (stored.redelivered || stored.returns > 0)
            && self.sequence == stored.sequence
            && self.at == stored.at
            && self.priority == stored.message.priority()
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
        Message::build(meta, b"", b"q", &[0; 14], &vec![b'm'; self.body])
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
    /// The sequence number the next message gets.
    next: Sequence,
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
            next: Sequence(1),
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
            .filter(move |at| is_first(*at))
            .map(|at| (at, &ready[at].1))
    }

    fn next_deadline(&mut self) -> Option<u64> {
        let heads: Vec<Known> = self.heads().map(|(_, known)| known.clone()).collect();
        heads.iter().filter_map(|known| self.deadline(known)).min()
    }

    fn expire(&mut self, waited: bool, expected: &mut Expected) {
        loop {
            let heads: Vec<_> = self.heads().map(|(at, k)| (at, k.clone())).collect();
            let is_over = |known: &Known| {
                let deadline = self.deadline(known);
                deadline.is_some_and(|at| at <= self.now_ms)
                    && !(waited && deadline == Some(known.accepted_at_ms))
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
        let messages = self.ready.len() + usize::from(more.is_some());
        let bodies: usize = self.ready.iter().map(|(_, known)| known.body).sum();
        let bytes = bodies + more.unwrap_or(0);
        let above = |max: Option<u64>, value: usize| max.is_some_and(|max| value as u64 > max);
        above(self.settings.max_length, messages) || above(self.settings.max_length_bytes, bytes)
    }

    fn trim(&mut self, expected: &mut Expected) {
        while self.settings.overflow == Overflow::DropHead && self.is_too_long(None) {
            let known = self.pop().expect("an empty queue is not too long");
            self.die(&known, DeathReason::MaxLength, expected);
        }
    }

    fn sort(&mut self) {
        self.ready.sort_by_key(|(place, _)| *place);
    }

    fn pop(&mut self) -> Option<Known> {
        self.sort();
        (!self.ready.is_empty()).then(|| self.ready.remove(0).1)
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
        let known = self.pop().expect("a delivery from an empty queue");
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
            let (theirs, ours) = (other.subscription.priority, member.subscription.priority);
            assert!(theirs <= ours, "{other:?} goes before {member:?}");
            assert!(
                theirs < ours || other.id == id || member.served <= since.max(other.served),
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
}

impl Harness {
    fn new(settings: Settings, channel_limit: Option<u32>) -> Self {
        let channel = |limit| {
            Rc::new(Channel {
                limit,
                out: Cell::new(0),
            })
        };
        Self {
            queue: Queue::new(settings, Sequence(1)),
            model: Model::new(settings),
            channels: vec![channel(None), channel(channel_limit)],
        }
    }

    fn restore(&mut self, returns: u32, redelivered: bool) {
        let sequence = self.queue.next_sequence();
        let known = Known {
            sequence,
            priority: None,
            at: LogPosition(LOG_START + sequence.0),
            body: 3,
            expiration_ms: None,
            accepted_at_ms: self.model.now_ms - 40,
            returns,
            redelivered: redelivered || returns > 0,
            arrival: 0,
        };
        self.queue.restore(Stored {
            sequence,
            message: known.message(),
            at: known.at,
            returns,
            redelivered,
        });
        self.model.enter(known);
        self.check();
    }

    fn run(&mut self, command: Command) {
        let (command, quietly) = match command {
            Command::Quietly(command) => (*command, true),
            command => (command, false),
        };
        let (mut effects, mut expected) = (Effects::default(), Expected::default());
        self.perform(command, &mut effects, &mut expected);
        assert!(effects.deliveries.is_empty() && effects.starved.is_empty());
        self.model.choose_active();
        self.model.note_who_is_entitled();
        if !quietly {
            self.dispatch(&mut effects);
            self.queue.trim(&mut effects);
            self.model.trim(&mut expected);
        }
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

    fn perform(&mut self, command: Command, effects: &mut Effects, expected: &mut Expected) {
        let model = &mut self.model;
        match command {
            Command::Enqueue {
                priorities,
                stored,
                body,
                expiration_ms,
            } => {
                let first = self.queue.next_sequence();
                let mut incoming = Vec::new();
                let rejects = model.settings.overflow != Overflow::DropHead;
                let rejected = rejects && model.is_too_long(Some(body));
                assert_eq!(self.queue.admits(body), !rejected);
                for (priority, sequence) in priorities.into_iter().zip(first.0..) {
                    let at = match stored {
                        true => LogPosition(LOG_START + sequence),
                        false => LogPosition::NONE,
                    };
                    let known = Known {
                        sequence: Sequence(sequence),
                        priority,
                        at,
                        body,
                        expiration_ms,
                        accepted_at_ms: model.now_ms,
                        returns: 0,
                        redelivered: false,
                        arrival: 0,
                    };
                    incoming.push(Incoming {
                        message: known.message(),
                        at,
                    });
                    model.enter(known);
                }
                assert_eq!(self.queue.enqueue(incoming), first);
            }
            Command::Subscribe {
                mut subscription,
                channel,
                room,
            } => {
                let port = TestPort {
                    room: Rc::new(Cell::new(room)),
                    channel: Rc::clone(channel.get(&self.channels)),
                };
                let refused = model.settings.kind == QueueKind::Classic
                    && (model.members.iter().any(|m| m.subscription.exclusive)
                        || subscription.exclusive
                            && (!model.members.is_empty()
                                || model.settings.single_active_consumer));
                let id = self.queue.subscribe(port.clone(), subscription);
                assert_eq!(id.is_err(), refused);
                subscription.exclusive &= model.settings.kind == QueueKind::Classic;
                if let Ok(id) = id {
                    model.members.push(Member {
                        id,
                        port,
                        subscription,
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
                        Outcome::Requeue => model.requeue(out.known, expected),
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
                let known = model.pop();
                assert_eq!(fetched.is_some(), known.is_some());
                let (Some(fetched), Some(known)) = (fetched, known) else {
                    return;
                };
                assert!(known.is_handed_over_as(&fetched.stored));
                assert_eq!(fetched.remaining, model.ready.len());
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
                assert_eq!(self.queue.purge(effects), model.ready.len());
                model.gone += model.ready.len();
                let ready = model.ready.drain(..);
                expected
                    .settled
                    .extend(ready.filter_map(|(_, known)| known.settled()));
            }
            Command::Expire { passed_ms, waited } => {
                model.now_ms += passed_ms;
                if waited {
                    self.queue.expire_waited(model.now_ms, effects);
                } else {
                    self.queue.expire(model.now_ms, effects);
                }
                model.expire(waited, expected);
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

    fn dispatch(&mut self, effects: &mut Effects) {
        self.queue.dispatch(effects);
        for delivery in &effects.deliveries {
            self.model
                .deliver(delivery.consumer, delivery.key, &delivery.stored);
        }
        let model = &mut self.model;
        for member in &mut model.members {
            let has_room = member.port.room.get() > 0;
            if effects.starved.contains(&member.id) {
                assert!(!has_room, "{member:?} has room");
                member.starved = true;
            }
            member.starved &= !has_room;
        }
        if model.ready.is_empty() {
            return;
        }
        for member in &model.members {
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
        model.sort();
        let bytes = |known: &mut dyn Iterator<Item = &Known>| -> u64 {
            known.map(|known| known.body as u64).sum()
        };
        assert_eq!(queue.ready_count(), model.ready.len());
        assert_eq!(queue.unacked_count(), model.out.len());
        assert_eq!(queue.consumer_count(), model.members.len());
        assert_eq!(queue.next_deadline(), model.next_deadline());
        assert_eq!(
            queue.ready_bytes(),
            bytes(&mut model.ready.iter().map(|(_, known)| known))
        );
        assert_eq!(
            queue.unacked_bytes(),
            bytes(&mut model.out.iter().map(|out| &out.known))
        );
        assert_eq!(
            queue.ready_count() + queue.unacked_count() + model.gone,
            model.entered
        );
        let listed: Vec<_> = queue.messages().collect();
        let (ready, out) = listed.split_at(model.ready.len());
        for (stored, (_, known)) in ready.iter().zip(&model.ready) {
            assert!(known.is(stored), "{known:?} is listed as {stored:?}");
        }
        for stored in out {
            assert!(model.out.iter().any(|out| out.known.is(stored)));
        }
        let seen = |known: &&Known| known.redelivered;
        let seen = model.ready.iter().map(|(_, known)| known).filter(seen);
        assert_eq!(
            queue.delivered_before().count(),
            seen.count() + model.out.len()
        );
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
}
