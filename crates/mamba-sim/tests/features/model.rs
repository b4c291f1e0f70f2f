//! What a virtual host's queues have to do, in plain lists: slow, and right by inspection.
//!
//! The model says which message is next and what becomes of it. It does not say which of several consumers gets it: that
//! it reads off what was delivered, and demands that this consumer was entitled to it. Everything delivered has to be
//! asked for in that way: what is left over was not due.
//!
//! Where the specification leaves open which of two queues acts first, the model does what the broker does: queues a
//! message is routed to by their place in the routing table, queues with something due by age, dead letters of dead
//! letters after those that came before them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use mamba_types::{
    FieldTable, FieldValue,
    table::{self, FieldArray, ShortString},
};

/// What the broker did that it must not do.
pub(crate) type Wrong = String;

/// The exchange publishers use besides the default one: direct, with an alternate exchange.
pub(crate) const MAIN: &str = "main";
/// Its alternate exchange: fanout.
pub(crate) const REST: &str = "rest";
/// An exchange for dead letters: fanout.
pub(crate) const DEAD: &str = "dead";
/// An exchange of delayed messages: fanout.
pub(crate) const LATER: &str = "later";
/// An exchange that takes each message once: fanout.
pub(crate) const ONCE: &str = "once";
/// Ids it remembers: more than there are.
const ONCE_SIZE: usize = 1000;
/// For how long, in milliseconds.
pub(crate) const ONCE_TTL: u64 = 120;
/// An exchange that does not exist.
pub(crate) const MISSING: &str = "missing";

/// What gives way at a length limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    #[default]
    DropHead,
    RejectPublish,
    RejectPublishDeadLetter,
}

/// Where dead letters go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeadLetters {
    pub(crate) exchange: String,
    pub(crate) key: Option<String>,
}

/// What comes back waits `min`, times its returns, and `max` at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Retry {
    pub(crate) failed: bool,
    pub(crate) returned: bool,
    pub(crate) min: u64,
    pub(crate) max: Option<u64>,
}

/// Octets of letters that certainly go to their queues in one step…
const LETTERS_MAX: usize = 65_536;
/// … and what one takes at most beside its body.
const LETTER_OCTETS: usize = 1200;

/// How a queue takes each message once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Once {
    /// Ids remembered.
    pub(crate) size: usize,
    /// For how long.
    pub(crate) ttl: Option<u64>,
}

/// A queue as it is declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) quorum: bool,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) single_active: bool,
    pub(crate) max_priority: u8,
    pub(crate) ttl: Option<u64>,
    pub(crate) expires: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) overflow: Overflow,
    pub(crate) dead_letters: Option<DeadLetters>,
    /// Negative is none.
    pub(crate) delivery_limit: Option<i64>,
    pub(crate) retry: Option<Retry>,
    pub(crate) once: Option<Once>,
    /// How long a delivery may stay unsettled.
    pub(crate) consumer_timeout: Option<u64>,
    /// Exchanges and keys it is bound by.
    pub(crate) bindings: Vec<(String, String)>,
}

/// A policy or operator policy for queues.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) operator: bool,
    pub(crate) name: String,
    /// Queues it matches.
    pub(crate) queues: BTreeSet<String>,
    pub(crate) priority: i64,
    pub(crate) ttl: Option<u64>,
    pub(crate) expires: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) overflow: Option<Overflow>,
    pub(crate) dead_letter_exchange: Option<String>,
    pub(crate) dead_letter_key: Option<String>,
    pub(crate) delivery_limit: Option<i64>,
}

impl Policy {
    /// Whether it applies: a policy with a key that the queue's type does not know applies to none of that type.
    fn applies(&self, spec: &Spec) -> bool {
        self.queues.contains(&spec.name) && (spec.quorum || self.delivery_limit.is_none())
    }
}

/// The smaller of two limits; a negative one is none.
fn limit(left: i64, right: i64) -> i64 {
    match left < 0 || right < 0 {
        true => left.max(right),
        false => left.min(right),
    }
}

/// What holds for a queue by its declaration and the policies that apply to it, one of each sort.
fn effective(declared: &Spec, policies: &[Policy]) -> Spec {
    let best = |operator: bool| {
        let applying = policies.iter().filter(|policy| policy.operator == operator);
        applying
            .filter(|policy| policy.applies(declared))
            .max_by_key(|policy| (policy.priority, policy.name.clone()))
    };
    // The operator's word before the other's.
    let applied: Vec<&Policy> = [best(true), best(false)].into_iter().flatten().collect();
    let smallest = |own: Option<u64>, of: fn(&Policy) -> Option<u64>| {
        let policies = applied.iter().filter_map(|policy| of(policy));
        own.into_iter().chain(policies).min()
    };
    let by_policy = applied.iter().find_map(|policy| policy.overflow);
    let by_argument = Some(declared.overflow).filter(|overflow| *overflow != Overflow::DropHead);
    let overflow = match declared.quorum {
        true => by_policy.or(by_argument),
        false => by_argument.or(by_policy),
    };
    let overflow = overflow.filter(|overflow| {
        // A quorum queue takes it for the default.
        !declared.quorum || *overflow != Overflow::RejectPublishDeadLetter
    });
    let own = declared.dead_letters.clone();
    let exchange = applied
        .iter()
        .find_map(|policy| policy.dead_letter_exchange.clone());
    let key = applied
        .iter()
        .find_map(|policy| policy.dead_letter_key.clone());
    let limits = applied.iter().filter_map(|policy| policy.delivery_limit);
    Spec {
        ttl: smallest(declared.ttl, |policy| policy.ttl),
        expires: smallest(declared.expires, |policy| policy.expires),
        max_length: smallest(declared.max_length, |policy| policy.max_length),
        max_bytes: smallest(declared.max_bytes, |policy| policy.max_bytes),
        overflow: overflow.unwrap_or(Overflow::DropHead),
        dead_letters: match own {
            Some(own) => Some(DeadLetters {
                exchange: own.exchange,
                key: own.key.or(key),
            }),
            None => exchange.map(|exchange| DeadLetters { exchange, key }),
        },
        delivery_limit: declared
            .delivery_limit
            .into_iter()
            .chain(limits)
            .reduce(limit),
        ..declared.clone()
    }
}

/// A message, wherever it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) expiration: Option<u64>,
    pub(crate) headers: FieldTable,
    pub(crate) size: usize,
    /// When it came to where it is.
    pub(crate) at: u64,
    /// How long it waits before it is ready.
    pub(crate) delay: Option<u64>,
    /// What it is known by.
    pub(crate) once: Option<u64>,
    pub(crate) dead_lettered: bool,
}

/// A message as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) size: usize,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) expiration: Option<u64>,
    pub(crate) headers: FieldTable,
    pub(crate) redelivered: bool,
}

/// A delivery, with its tag.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) tag: u64,
    pub(crate) seen: Seen,
}

/// Everything that was delivered and has not been accounted for: by client and consumer, in order.
pub(crate) type Observed = BTreeMap<(usize, u64), VecDeque<Got>>;

/// How a client answers a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Ack,
    /// Given back: nack or recover.
    Return,
    /// Rejected to come back, or its client is gone.
    Fail,
    Discard,
}

/// Why a message left its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Acked,
    /// Handed over without acknowledgement.
    Handed,
    Purged,
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
    /// The node was stopped, and it was not stored.
    Transient,
}

impl Fate {
    /// The word in `x-death`; none when it is no death.
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Rejected => Some("rejected"),
            Self::Expired => Some("expired"),
            Self::MaxLength => Some("maxlen"),
            Self::DeliveryLimit => Some("delivery_limit"),
            Self::Acked | Self::Handed | Self::Purged | Self::Transient => None,
        }
    }
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    /// Unique, and growing in the order of arrival.
    pub(crate) arrival: u64,
    /// In a quorum queue: its rank among those that came back.
    pub(crate) returned: Option<u64>,
    pub(crate) returns: u32,
    pub(crate) redelivered: bool,
    /// The queue's time to live when it came.
    pub(crate) ttl: Option<u64>,
}

impl Entry {
    fn ttl(&self) -> Option<u64> {
        self.ttl.into_iter().chain(self.message.expiration).min()
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.message.at + self.ttl()?)
    }
}

/// A delivery that is not settled.
#[derive(Clone, Debug)]
pub(crate) struct Out {
    pub(crate) entry: Entry,
    pub(crate) client: usize,
    pub(crate) tag: u64,
    /// `None`: it was asked for.
    pub(crate) consumer: Option<u64>,
    /// When it has to be settled.
    pub(crate) due: Option<u64>,
}

impl Consumer {
    fn wants(&self, message: &Message) -> bool {
        self.filter.is_none_or(|kind| {
            let value = message.headers.inner().get(KIND);
            value.and_then(table::integer) == Some(kind)
        })
    }
}

/// A message that is not ready before a time.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) due: u64,
    pub(crate) message: Message,
    /// Unique, and growing in the order of arrival.
    pub(crate) arrival: u64,
    pub(crate) returns: u32,
}

/// The ids that a queue or an exchange has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// In order of coming: the id, when it is forgotten, whether it outlives the node.
    ids: Vec<(u64, Option<u64>, bool)>,
}

impl Known {
    fn contains(&self, id: u64, now: u64) -> bool {
        let is_it = |known: &(u64, Option<u64>, bool)| {
            known.0 == id && known.1.is_none_or(|until| until > now)
        };
        self.ids.iter().any(is_it)
    }

    fn insert(&mut self, id: u64, rules: Once, stored: bool, now: u64) {
        self.ids.retain(|known| known.0 != id);
        while self.ids.len() >= rules.size {
            self.ids.remove(0);
        }
        self.ids.push((id, rules.ttl.map(|ttl| now + ttl), stored));
    }
}

/// The header that filters ask for.
pub(crate) const KIND: &str = "kind";

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) client: usize,
    pub(crate) tag: u64,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) prefetch: u16,
    pub(crate) priority: i64,
    /// Wants messages of this kind only.
    pub(crate) filter: Option<i64>,
    /// It is about to go.
    pub(crate) retired: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) declared: Spec,
    /// What holds now.
    pub(crate) spec: Spec,
    /// Grows with every declaration of a new queue.
    pub(crate) age: u64,
    pub(crate) ready: Vec<Entry>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) out: Vec<Out>,
    /// In the order they came.
    pub(crate) consumers: Vec<Consumer>,
    pub(crate) active: Option<u64>,
    pub(crate) unused_until: Option<u64>,
    pub(crate) known: Known,
    pub(crate) entered: u64,
    pub(crate) fates: BTreeMap<Fate, u64>,
}

type Deaths = Vec<(Message, Fate)>;

impl Queue {
    fn level(&self, message: &Message) -> u8 {
        message.priority.unwrap_or(0).min(self.spec.max_priority)
    }

    fn place(&self, entry: &Entry) -> (Reverse<u8>, bool, u64) {
        let rank = entry.returned.unwrap_or(entry.arrival);
        (
            Reverse(self.level(&entry.message)),
            entry.returned.is_none(),
            rank,
        )
    }

    /// The first ready message of each level, the highest level first.
    fn heads(&self) -> Vec<usize> {
        let mut heads: BTreeMap<Reverse<u8>, usize> = BTreeMap::new();
        for (index, entry) in self.ready.iter().enumerate() {
            let head = heads.entry(self.place(entry).0).or_insert(index);
            if self.place(entry) < self.place(&self.ready[*head]) {
                *head = index;
            }
        }
        heads.into_values().collect()
    }

    /// The ready message that is next.
    fn next(&self) -> Option<usize> {
        self.heads().first().copied()
    }

    /// The first message of some level whose time is over.
    fn expired(&self, now: u64, fresh_from: u64) -> Option<usize> {
        let heads = self.heads().into_iter();
        heads
            .into_iter()
            .find(|index| self.is_over(&self.ready[*index], now, fresh_from))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.ready
            .iter()
            .map(|entry| entry.message.size as u64)
            .sum()
    }

    fn is_full(&self, more: u64, more_bytes: u64) -> bool {
        let Spec {
            max_length,
            max_bytes,
            ..
        } = self.spec;
        max_length.is_some_and(|max| self.ready.len() as u64 + more > max)
            || max_bytes.is_some_and(|max| self.bytes() + more_bytes > max)
    }

    pub(crate) fn unacked_of(&self, consumer: u64) -> usize {
        let of = |out: &&Out| out.consumer == Some(consumer);
        self.out.iter().filter(of).count()
    }

    /// Who may have a message.
    fn able(&self) -> Vec<&Consumer> {
        let waits_for_better = |consumer: &Consumer| {
            let best = self.consumers.iter().map(|other| other.priority).max();
            self.spec.quorum && best > Some(consumer.priority)
        };
        self.consumers
            .iter()
            .filter(|consumer| {
                let unacked = self.unacked_of(consumer.tag);
                let has_credit = consumer.no_ack
                    || consumer.prefetch == 0
                    || unacked < usize::from(consumer.prefetch);
                let is_active = !self.spec.single_active
                    || self.active == Some(consumer.tag) && !waits_for_better(consumer);
                !consumer.retired && has_credit && is_active
            })
            .collect()
    }

    /// Who may be next with which ready message. With `in_parts`, what a filter wants may still have to be read when a consumer of lower
    /// priority takes what is there.
    fn entitled(&self, in_parts: bool) -> Vec<(Consumer, usize)> {
        let able = self.able();
        let candidates = able.into_iter().filter_map(|consumer| {
            let next = match consumer.filter {
                None => self.next(),
                Some(_) => self.first_of(consumer),
            };
            Some((consumer.clone(), next?))
        });
        let candidates: Vec<(Consumer, usize)> = candidates.collect();
        if in_parts && self.consumers.iter().any(|one| one.filter.is_some()) {
            return candidates;
        }
        let best = candidates.iter().map(|(one, _)| one.priority).max();
        let is_best = |(one, _): &(Consumer, usize)| Some(one.priority) == best;
        candidates.into_iter().filter(is_best).collect()
    }

    /// The first ready message that the consumer wants.
    fn first_of(&self, consumer: &Consumer) -> Option<usize> {
        let wanted = self.ready.iter().enumerate();
        let wanted = wanted.filter(|(_, entry)| consumer.wants(&entry.message));
        let first = wanted.min_by_key(|(_, entry)| self.place(entry));
        first.map(|(index, _)| index)
    }

    /// A message that a filter comes to and whose time is over: those behind others are noticed only so.
    fn expired_for_filters(&self, now: u64, fresh_from: u64) -> Option<usize> {
        let able = self.able().into_iter();
        let filtering = able.filter(|consumer| consumer.filter.is_some());
        let mut firsts = filtering.filter_map(|consumer| self.first_of(consumer));
        firsts.find(|first| self.is_over(&self.ready[*first], now, fresh_from))
    }

    /// Whether its time is over. What has no time to wait is not, when it came as `fresh_from` or later.
    fn is_over(&self, entry: &Entry, now: u64, fresh_from: u64) -> bool {
        entry.deadline().is_some_and(|at| at <= now)
            && (entry.ttl() > Some(0) || entry.arrival < fresh_from)
    }

    /// Single active consumer: somebody else may have to take over.
    fn take_over(&mut self) {
        if !self.spec.single_active {
            return;
        }
        let is_there = |tag: u64| self.consumers.iter().any(|consumer| consumer.tag == tag);
        self.active = self.active.filter(|tag| is_there(*tag));
        // The first of the highest priority.
        let best = self
            .consumers
            .iter()
            .rev()
            .max_by_key(|consumer| consumer.priority);
        let Some(best) = best else { return };
        let Some(active) = self
            .consumers
            .iter()
            .find(|consumer| Some(consumer.tag) == self.active)
        else {
            self.active = Some(best.tag);
            return;
        };
        if self.spec.quorum && best.priority > active.priority && self.unacked_of(active.tag) == 0 {
            self.active = Some(best.tag);
        }
    }

    /// The entry leaves the queue for good.
    fn leave(&mut self, entry: Entry, fate: Fate, deaths: &mut Deaths) {
        *self.fates.entry(fate).or_default() += 1;
        if fate.word().is_some() && self.spec.dead_letters.is_some() {
            deaths.push((entry.message, fate));
        }
    }

    /// Whether it keeps such a message over a restart.
    pub(crate) const fn stores(&self, message: &Message) -> bool {
        self.spec.quorum || self.spec.durable && message.persistent
    }

    fn renew(&mut self, now: u64) {
        self.unused_until = self.spec.expires.map(|expires| now + expires);
    }

    /// The message as a client is to see it.
    fn shown(&self, entry: &Entry) -> Seen {
        let Message {
            id,
            exchange,
            key,
            persistent,
            priority,
            expiration,
            headers,
            size,
            ..
        } = entry.message.clone();
        let mut headers = headers;
        let Spec {
            quorum,
            delivery_limit,
            retry,
            ..
        } = self.spec;
        let counts = quorum
            || delivery_limit.is_some_and(|limit| limit >= 0)
            || retry.is_some_and(|retry| retry.failed || retry.returned);
        if counts && entry.returns > 0 {
            let count = FieldValue::LongLongInt(i64::from(entry.returns));
            headers.insert("x-delivery-count".into(), count);
        }
        Seen {
            id,
            size,
            exchange,
            key,
            persistent,
            priority,
            expiration,
            headers,
            redelivered: entry.redelivered,
        }
    }

    fn check(&self) -> Result<(), Wrong> {
        let name = &self.spec.name;
        let gone: u64 = self.fates.values().sum();
        let here = (self.ready.len() + self.waiting.len() + self.out.len()) as u64;
        if here + gone != self.entered {
            return Err(format!(
                "{name}: {here} here, {:?} gone, {} came",
                self.fates, self.entered
            ));
        }
        let places: BTreeSet<u64> = self
            .ready
            .iter()
            .chain(self.out.iter().map(|out| &out.entry))
            .map(|entry| entry.arrival)
            .chain(self.waiting.iter().map(|waiting| waiting.arrival))
            .collect();
        if (places.len() as u64) < here {
            return Err(format!("{name}: a message is in two places"));
        }
        if self.spec.overflow == Overflow::DropHead && self.is_full(0, 0) {
            return Err(format!("{name} is longer than its limit"));
        }
        Ok(())
    }
}

/// A virtual host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    policies: Vec<Policy>,
    /// What became of messages in queues that are gone, and how many queues went by themselves.
    pub(crate) fates: BTreeMap<Fate, u64>,
    pub(crate) queues_expired: u64,
    pub(crate) queues: BTreeMap<String, Queue>,
    /// The routing table's order of queues.
    slots: Vec<Option<String>>,
    free: Vec<usize>,
    ages: u64,
    arrivals: u64,
    returns: u64,
    /// What clients hold, by client and delivery tag: the queue and its age.
    pub(crate) held: BTreeMap<(usize, u64), (String, u64)>,
    /// What the exchange that takes each message once has seen.
    once: Known,
    /// When clients connected.
    pub(crate) began: BTreeMap<usize, u64>,
    /// Messages may have to be read from the disk, in parts.
    pub(crate) in_parts: bool,
    /// So much has died at once that it went to where dead letters go in parts: what follows from that is not known here.
    pub(crate) is_beyond: bool,
}

/// Queues a message goes to, with their ages.
pub(crate) type Targets = Vec<(String, u64)>;

/// What became of published messages.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Those that some queue refused, by index.
    refused: BTreeSet<usize>,
    /// What died of it, by queue.
    deaths: Vec<(String, Deaths)>,
}

/// When a delivery has to be settled: connections count tenths of a second since they began.
fn settled_by(
    began: &BTreeMap<usize, u64>,
    client: usize,
    timeout: Option<u64>,
    now: u64,
) -> Option<u64> {
    let began = began.get(&client).copied()?;
    Some(began + 100 * ((now - began) / 100 + timeout?.div_ceil(100)))
}

fn text(text: &str) -> FieldValue {
    FieldValue::LongString(text.into())
}

/// The routing keys of a message: its own, and those of CC.
fn keys_of(message: &Message) -> Vec<String> {
    let mut keys = vec![message.key.clone()];
    if let Some(FieldValue::FieldArray(more)) = message.headers.inner().get("CC") {
        let more = more.as_slice().iter().filter_map(table::text);
        keys.extend(more.map(str::to_owned));
    }
    keys
}

fn deaths_of(headers: &FieldTable) -> Vec<FieldTable> {
    let Some(FieldValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        return Vec::new();
    };
    let tables = deaths.as_slice().iter().filter_map(|death| match death {
        FieldValue::FieldTable(death) => Some(death.clone()),
        _ => None,
    });
    tables.collect()
}

fn has(death: &FieldTable, key: &str, value: &str) -> bool {
    death.inner().get(key) == Some(&text(value))
}

impl Model {
    /// The model at this moment, without queues.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }

    fn queue(&mut self, name: &str) -> Result<&mut Queue, Wrong> {
        self.queues
            .get_mut(name)
            .ok_or_else(|| format!("no queue {name}"))
    }

    /// Where a message goes, in order.
    pub(crate) fn route(&self, exchange: &str, keys: &[String]) -> Vec<String> {
        let bound = |exchange: &str| -> BTreeSet<&String> {
            let fits = |(from, key): &(String, String)| {
                from == exchange && (exchange != MAIN || keys.contains(key))
            };
            self.queues
                .values()
                .filter(|queue| queue.spec.bindings.iter().any(fits))
                .map(|queue| &queue.spec.name)
                .collect()
        };
        let names: BTreeSet<&String> = match exchange {
            "" => self
                .queues
                .keys()
                .filter(|name| keys.contains(name))
                .collect(),
            MAIN if bound(MAIN).is_empty() => bound(REST),
            other => bound(other),
        };
        let slots = self.slots.iter().flatten();
        slots.filter(|name| names.contains(name)).cloned().collect()
    }

    /// A queue is declared. Returns its ready messages and consumers.
    pub(crate) fn declare(&mut self, spec: &Spec) -> (u64, u64) {
        let now = self.now;
        if let Some(queue) = self.queues.get_mut(&spec.name) {
            if !queue.spec.quorum {
                queue.renew(now);
            }
            return (queue.ready.len() as u64, queue.consumers.len() as u64);
        }
        self.ages += 1;
        self.take_slot(&spec.name);
        let mut queue = Queue {
            declared: spec.clone(),
            spec: effective(spec, &self.policies),
            age: self.ages,
            ready: Vec::new(),
            waiting: Vec::new(),
            out: Vec::new(),
            consumers: Vec::new(),
            active: None,
            unused_until: None,
            known: Known::default(),
            entered: 0,
            fates: BTreeMap::new(),
        };
        queue.renew(now);
        self.queues.insert(spec.name.clone(), queue);
        (0, 0)
    }

    fn take_slot(&mut self, name: &str) {
        match self.free.pop() {
            Some(slot) => self.slots[slot] = Some(name.to_owned()),
            None => self.slots.push(Some(name.to_owned())),
        }
    }

    /// A queue is deleted. Returns its ready messages.
    pub(crate) fn delete(&mut self, name: &str) -> u64 {
        let Some(queue) = self.queues.remove(name) else {
            return 0;
        };
        for (fate, count) in &queue.fates {
            *self.fates.entry(*fate).or_default() += count;
        }
        let slot = self
            .slots
            .iter()
            .position(|slot| slot.as_deref() == Some(name));
        if self.queues.is_empty() {
            self.slots.clear();
            self.free.clear();
        } else if let Some(slot) = slot {
            self.slots[slot] = None;
            self.free.push(slot);
        }
        queue.ready.len() as u64
    }

    /// Where a message would go now.
    pub(crate) fn targets(&self, message: &Message) -> Targets {
        let names = self.route(&message.exchange, &keys_of(message)).into_iter();
        names
            .map(|name| (name.clone(), self.queues[&name].age))
            .collect()
    }

    /// Messages are published together, with the same keys. Says which of them were taken by all queues.
    pub(crate) fn publish(
        &mut self,
        messages: &[Message],
        observed: &mut Observed,
    ) -> Result<Vec<bool>, Wrong> {
        let Some(first) = messages.first() else {
            return Ok(Vec::new());
        };
        // Through the exchange that takes each message once, dead letters wait until all queues have theirs.
        let apart = first.exchange == ONCE;
        self.publish_to(messages, &self.targets(first), apart, observed)
    }

    /// Messages go to queues that were found for them. With `apart`, what dies of it is buried at the end.
    pub(crate) fn publish_to(
        &mut self,
        messages: &[Message],
        targets: &Targets,
        apart: bool,
        observed: &mut Observed,
    ) -> Result<Vec<bool>, Wrong> {
        let now = self.now;
        let mut going: Vec<usize> = (0..messages.len()).collect();
        let mut repeated: Vec<(usize, usize)> = Vec::new();
        let is_once = messages.first().is_some_and(|first| first.exchange == ONCE);
        if is_once && !targets.is_empty() {
            let mut fresh: BTreeMap<u64, usize> = BTreeMap::new();
            going.retain(|index| {
                let Some(id) = messages[*index].once else {
                    return true;
                };
                if self.once.contains(id, now) {
                    return false;
                }
                if let Some(first) = fresh.get(&id) {
                    repeated.push((*index, *first));
                    return false;
                }
                fresh.insert(id, *index);
                true
            });
        }
        let mut published = Published::default();
        for (name, age) in targets {
            if self.queues.get(name).is_none_or(|queue| queue.age != *age) {
                continue;
            }
            let batch: Vec<Message> = going.iter().map(|index| messages[*index].clone()).collect();
            if messages[0].delay.is_some() {
                // Limits do not see it before it is ready.
                self.hold(name, batch)?;
                continue;
            }
            let (rejected, deaths) = self.enqueue(name, batch, observed)?;
            published
                .refused
                .extend(rejected.into_iter().map(|index| going[index]));
            match apart {
                true => published.deaths.push((name.clone(), deaths)),
                false => self.bury(name, deaths, observed)?,
            }
        }
        let stored = |index: usize| {
            let mut queues = targets.iter().filter_map(|(name, _)| self.queues.get(name));
            queues.any(|queue| queue.stores(&messages[index]))
        };
        let rules = Once {
            size: ONCE_SIZE,
            ttl: Some(ONCE_TTL),
        };
        if is_once && !targets.is_empty() {
            let remembered: Vec<(u64, bool)> = going
                .iter()
                .filter(|index| !published.refused.contains(*index))
                .filter_map(|index| Some((messages[*index].once?, stored(*index))))
                .collect();
            for (id, stored) in remembered {
                self.once.insert(id, rules, stored, now);
            }
        }
        for (index, first) in repeated {
            if published.refused.contains(&first) {
                published.refused.insert(index);
            }
        }
        for (name, deaths) in published.deaths {
            self.bury(&name, deaths, observed)?;
        }
        Ok((0..messages.len())
            .map(|index| !published.refused.contains(&index))
            .collect())
    }

    /// Whether the queue has taken a message with this id already; remembers the id if not.
    fn repeats(&mut self, name: &str, message: &Message) -> Result<bool, Wrong> {
        let now = self.now;
        let queue = self.queue(name)?;
        let id = message.once.filter(|_| !message.dead_lettered);
        let Some((_, id)) = queue.spec.once.zip(id) else {
            return Ok(false);
        };
        Ok(queue.known.contains(id, now))
    }

    /// The queue takes the message.
    fn remember(&mut self, name: &str, message: &Message) -> Result<(), Wrong> {
        let now = self.now;
        let queue = self.queue(name)?;
        let id = message.once.filter(|_| !message.dead_lettered);
        if let Some((rules, id)) = queue.spec.once.zip(id) {
            let stored = queue.stores(message);
            queue.known.insert(id, rules, stored, now);
        }
        Ok(())
    }

    /// Messages come to a queue that are not ready yet.
    fn hold(&mut self, name: &str, messages: Vec<Message>) -> Result<(), Wrong> {
        for mut message in messages {
            if self.repeats(name, &message)? {
                continue;
            }
            self.remember(name, &message)?;
            self.arrivals += 1;
            let arrival = self.arrivals;
            let delay = message.delay.unwrap_or(0);
            // A part of the millisecond it came in had passed.
            let due = message.at + delay + 1;
            let passed = i32::try_from(delay).map_err(|_| "a delay of ages")?;
            message
                .headers
                .insert("x-delay".into(), FieldValue::LongInt(-passed));
            let queue = self.queue(name)?;
            queue.entered += 1;
            queue.waiting.push(Waiting {
                due,
                message,
                arrival,
                returns: 0,
            });
        }
        Ok(())
    }

    /// What is due in a queue becomes ready, at its end.
    fn release(&mut self, name: &str, observed: &mut Observed) -> Result<(), Wrong> {
        let now = self.now;
        let queue = self.queue(name)?;
        let waiting = std::mem::take(&mut queue.waiting);
        let (mut due, rest): (Vec<_>, _) = waiting.into_iter().partition(|one| one.due <= now);
        queue.waiting = rest;
        if due.is_empty() {
            return Ok(());
        }
        due.sort_by_key(|one| (one.due, one.arrival));
        let fresh_from = self.arrivals + 1;
        for Waiting {
            mut message,
            returns,
            ..
        } in due
        {
            message.at = now;
            self.arrivals += 1;
            let arrival = self.arrivals;
            let queue = self.queue(name)?;
            queue.ready.push(Entry {
                message,
                arrival,
                returned: None,
                returns,
                redelivered: returns > 0,
                ttl: queue.spec.ttl,
            });
        }
        let deaths = self.run(name, fresh_from, observed)?;
        self.bury(name, deaths, observed)
    }

    /// Messages come to a queue. Returns those it refuses, and what died of it.
    fn enqueue(
        &mut self,
        name: &str,
        messages: Vec<Message>,
        observed: &mut Observed,
    ) -> Result<(Vec<usize>, Deaths), Wrong> {
        let (mut rejected, mut deaths) = (Vec::new(), Deaths::new());
        let mut fresh_from = self.arrivals + 1;
        let octets = messages.iter().map(|message| message.size as u64).sum();
        let queue = self.queue(name)?;
        // Whether there is room for a message depends on where the one before it went.
        let one_by_one = queue.spec.overflow != Overflow::DropHead
            && queue.is_full(messages.len() as u64, octets);
        for (index, mut message) in messages.into_iter().enumerate() {
            if self.repeats(name, &message)? {
                continue;
            }
            message.at = self.now;
            self.arrivals += 1;
            let arrival = self.arrivals;
            let queue = self.queue(name)?;
            let overflow = queue.spec.overflow;
            if one_by_one && queue.is_full(1, message.size as u64) {
                rejected.push(index);
                if overflow == Overflow::RejectPublishDeadLetter
                    && queue.spec.dead_letters.is_some()
                {
                    deaths.push((message, Fate::MaxLength));
                }
                continue;
            }
            queue.entered += 1;
            self.remember(name, &message)?;
            let queue = self.queue(name)?;
            queue.ready.push(Entry {
                message,
                arrival,
                returned: None,
                returns: 0,
                redelivered: false,
                ttl: queue.spec.ttl,
            });
            if one_by_one {
                deaths.extend(self.run(name, fresh_from, observed)?);
                fresh_from = self.arrivals + 1;
            }
        }
        deaths.extend(self.run(name, fresh_from, observed)?);
        Ok((rejected, deaths))
    }

    /// Whatever a queue has to do after any change: messages are delivered, expire, give way. Those from `fresh_from` on have just
    /// come. Returns what died.
    fn run(
        &mut self,
        name: &str,
        fresh_from: u64,
        observed: &mut Observed,
    ) -> Result<Deaths, Wrong> {
        let (now, in_parts) = (self.now, self.in_parts);
        let began = self.began.clone();
        let queue = self.queue(name)?;
        let mut deaths = Deaths::new();
        let mut handed = Vec::new();
        let age = queue.age;
        loop {
            queue.take_over();
            // What has no time to wait may still be delivered.
            while let Some(over) = queue.expired(now, fresh_from) {
                let entry = queue.ready.remove(over);
                queue.leave(entry, Fate::Expired, &mut deaths);
            }
            while let Some(over) = queue.expired_for_filters(now, fresh_from) {
                let entry = queue.ready.remove(over);
                queue.leave(entry, Fate::Expired, &mut deaths);
            }
            let entitled = queue.entitled(in_parts);
            if entitled.is_empty() {
                break;
            }
            let is_next = |(consumer, next): &&(Consumer, usize)| {
                let shown = queue.shown(&queue.ready[*next]);
                observed
                    .get(&(consumer.client, consumer.tag))
                    .and_then(VecDeque::front)
                    .is_some_and(|got| got.seen == shown)
            };
            let Some((consumer, next)) = entitled.iter().find(is_next).cloned() else {
                let due: Vec<_> = entitled
                    .iter()
                    .map(|(consumer, next)| (consumer, queue.shown(&queue.ready[*next])))
                    .collect();
                return Err(format!(
                    "{name}: one of {due:?} was due; what came is {observed:?}"
                ));
            };
            let got = observed
                .get_mut(&(consumer.client, consumer.tag))
                .and_then(VecDeque::pop_front)
                .ok_or("nothing was observed")?;
            let entry = queue.ready.remove(next);
            if consumer.no_ack {
                queue.leave(entry, Fate::Handed, &mut deaths);
                continue;
            }
            handed.push((consumer.client, got.tag));
            queue.out.push(Out {
                entry,
                client: consumer.client,
                tag: got.tag,
                consumer: Some(consumer.tag),
                due: settled_by(&began, consumer.client, queue.spec.consumer_timeout, now),
            });
        }
        while let Some(over) = queue.expired(now, u64::MAX) {
            let entry = queue.ready.remove(over);
            queue.leave(entry, Fate::Expired, &mut deaths);
        }
        while queue.spec.overflow == Overflow::DropHead
            && queue.is_full(0, 0)
            && let Some(next) = queue.next()
        {
            let entry = queue.ready.remove(next);
            queue.leave(entry, Fate::MaxLength, &mut deaths);
        }
        for key in handed {
            self.held.insert(key, (name.to_owned(), age));
        }
        Ok(deaths)
    }

    /// What died in a queue goes to where its dead letters go, and what dies of that as well.
    fn bury(&mut self, name: &str, deaths: Deaths, observed: &mut Observed) -> Result<(), Wrong> {
        let mut work = VecDeque::from([(name.to_owned(), deaths)]);
        while let Some((name, deaths)) = work.pop_front() {
            let Some(to) = self.queue(&name)?.spec.dead_letters.clone() else {
                continue;
            };
            // Each target gets all of its letters in one step.
            let mut letters: Vec<(String, Vec<Message>)> = Vec::new();
            for (message, fate) in deaths {
                let Some(reason) = fate.word() else { continue };
                let message = self.dead_letter(&name, message, reason, &to);
                let keys = match &to.key {
                    Some(key) => vec![key.clone()],
                    None => keys_of(&message),
                };
                for target in self.route(&to.exchange, &keys) {
                    if fate != Fate::Rejected && goes_round(&message, &target) {
                        continue;
                    }
                    let message = message.clone();
                    match letters.iter_mut().find(|(known, _)| *known == target) {
                        Some((_, messages)) => messages.push(message),
                        None => letters.push((target, vec![message])),
                    }
                }
            }
            let octets = |message: &Message| message.size + LETTER_OCTETS;
            let all = letters.iter().flat_map(|(_, messages)| messages);
            self.is_beyond |= all.map(octets).sum::<usize>() > LETTERS_MAX;
            for (target, messages) in letters {
                let (_, died) = self.enqueue(&target, messages, observed)?;
                if !died.is_empty() {
                    work.push_back((target, died));
                }
            }
        }
        Ok(())
    }

    /// The message as it leaves for the dead-letter exchange.
    fn dead_letter(
        &self,
        queue: &str,
        mut message: Message,
        reason: &str,
        to: &DeadLetters,
    ) -> Message {
        let mut deaths = match message.dead_lettered {
            true => deaths_of(&message.headers),
            // What a publisher says about earlier deaths is not believed.
            false => Vec::new(),
        };
        let same = |death: &FieldTable| has(death, "queue", queue) && has(death, "reason", reason);
        let mut death = match deaths.iter().position(same) {
            Some(index) => deaths.remove(index),
            None => {
                let mut death = FieldTable::default();
                let keys: Vec<_> = keys_of(&message).iter().map(|key| text(key)).collect();
                death.insert("count".into(), FieldValue::LongLongInt(0));
                death.insert("reason".into(), text(reason));
                death.insert("queue".into(), text(queue));
                death.insert("time".into(), FieldValue::Timestamp(self.now / 1000));
                death.insert("exchange".into(), text(&message.exchange));
                death.insert("routing-keys".into(), FieldValue::FieldArray(keys.into()));
                if let Some(expiration) = message.expiration {
                    death.insert("original-expiration".into(), text(&expiration.to_string()));
                }
                death
            }
        };
        let count = death.inner().get("count").and_then(table::integer);
        let count = FieldValue::LongLongInt(count.unwrap_or(0) + 1);
        death.insert("count".into(), count);
        deaths.insert(0, death);
        let array: Vec<_> = deaths.into_iter().map(FieldValue::FieldTable).collect();
        let array = FieldValue::FieldArray(FieldArray::from(array));
        message.headers.insert("x-death".into(), array);
        for (what, value) in [
            ("queue", queue),
            ("reason", reason),
            ("exchange", &message.exchange),
        ] {
            let first = format!("x-first-death-{what}");
            if !message.dead_lettered || !message.headers.contains_key(&first) {
                message
                    .headers
                    .insert(ShortString::from(first), text(value));
            }
            let last = ShortString::from(format!("x-last-death-{what}"));
            message.headers.insert(last, text(value));
        }
        message.dead_lettered = true;
        message.expiration = None;
        message.exchange.clone_from(&to.exchange);
        if let Some(key) = &to.key {
            message.key.clone_from(key);
        }
        message
    }

    /// A consumer comes. False if it is refused.
    pub(crate) fn consume(
        &mut self,
        name: &str,
        consumer: Consumer,
        observed: &mut Observed,
    ) -> Result<bool, Wrong> {
        let queue = self.queue(name)?;
        if !queue.spec.quorum {
            let alone = queue.consumers.is_empty() && !queue.spec.single_active;
            let taken = queue.consumers.iter().any(|other| other.exclusive);
            if taken || consumer.exclusive && !alone {
                return Ok(false);
            }
        }
        queue.consumers.push(consumer);
        if queue.active.is_none() && queue.spec.single_active {
            queue.active = queue.consumers.last().map(|consumer| consumer.tag);
        }
        self.go_on(name, Deaths::new(), observed)?;
        Ok(true)
    }

    /// What follows a change of a queue.
    fn go_on(
        &mut self,
        name: &str,
        mut deaths: Deaths,
        observed: &mut Observed,
    ) -> Result<(), Wrong> {
        deaths.extend(self.run(name, u64::MAX, observed)?);
        self.bury(name, deaths, observed)
    }

    /// A consumer goes.
    pub(crate) fn cancel(
        &mut self,
        name: &str,
        tag: u64,
        observed: &mut Observed,
    ) -> Result<(), Wrong> {
        let now = self.now;
        let queue = self.queue(name)?;
        queue.consumers.retain(|consumer| consumer.tag != tag);
        let was_last = queue.consumers.is_empty();
        if was_last {
            queue.renew(now);
        }
        let is_over = was_last && queue.spec.auto_delete;
        self.go_on(name, Deaths::new(), observed)?;
        if is_over {
            self.delete(name);
        }
        Ok(())
    }

    /// `basic.get`, and what came of it: the delivery and the number of ready messages left.
    pub(crate) fn get(
        &mut self,
        name: &str,
        client: usize,
        no_ack: bool,
        came: Option<(Got, u32)>,
        observed: &mut Observed,
    ) -> Result<(), Wrong> {
        let now = self.now;
        let began = self.began.clone();
        let queue = self.queue(name)?;
        queue.renew(now);
        let mut deaths = Deaths::new();
        while let Some(over) = queue.expired(now, u64::MAX) {
            let entry = queue.ready.remove(over);
            queue.leave(entry, Fate::Expired, &mut deaths);
        }
        let due = queue.next().map(|next| queue.ready.remove(next));
        let left = queue.ready.len();
        match (due, came) {
            (None, None) => {}
            (Some(entry), Some((got, remaining)))
                if queue.shown(&entry) == got.seen && left == remaining as usize =>
            {
                if no_ack {
                    queue.leave(entry, Fate::Handed, &mut deaths);
                } else {
                    let age = queue.age;
                    queue.out.push(Out {
                        entry,
                        client,
                        tag: got.tag,
                        consumer: None,
                        due: settled_by(&began, client, queue.spec.consumer_timeout, now),
                    });
                    self.held.insert((client, got.tag), (name.to_owned(), age));
                }
            }
            (due, came) => {
                let due = due.map(|entry| queue.shown(&entry));
                return Err(format!(
                    "{name}: {due:?} was due, with {left} left; {came:?} came"
                ));
            }
        }
        self.go_on(name, deaths, observed)
    }

    /// A client settles deliveries.
    pub(crate) fn settle(
        &mut self,
        client: usize,
        tags: &[u64],
        how: How,
        observed: &mut Observed,
    ) -> Result<(), Wrong> {
        let mut by_queue: BTreeMap<(u64, String), Vec<u64>> = BTreeMap::new();
        for tag in tags {
            let Some((name, age)) = self.held.remove(&(client, *tag)) else {
                return Err(format!("client {client} does not hold {tag}"));
            };
            by_queue.entry((age, name)).or_default().push(*tag);
        }
        for ((age, name), tags) in by_queue {
            let now = self.now;
            let mut returns = self.returns;
            let mut arrivals = self.arrivals;
            let Some(queue) = self.queues.get_mut(&name).filter(|queue| queue.age == age) else {
                continue;
            };
            let mut deaths = Deaths::new();
            for tag in tags {
                let is_it = |out: &Out| out.client == client && out.tag == tag;
                let Some(index) = queue.out.iter().position(is_it) else {
                    return Err(format!("{name} does not know of {client}'s {tag}"));
                };
                let mut entry = queue.out.remove(index).entry;
                match how {
                    How::Ack => queue.leave(entry, Fate::Acked, &mut deaths),
                    How::Discard => queue.leave(entry, Fate::Rejected, &mut deaths),
                    How::Return | How::Fail => {
                        entry.returns += 1;
                        entry.redelivered = true;
                        let default = if queue.spec.quorum { 20 } else { -1 };
                        let limit = queue.spec.delivery_limit.unwrap_or(default);
                        let retry = queue.spec.retry.filter(|retry| match how {
                            How::Fail => retry.failed,
                            _ => retry.returned,
                        });
                        if limit >= 0 && i64::from(entry.returns) > limit {
                            queue.leave(entry, Fate::DeliveryLimit, &mut deaths);
                        } else if let Some(retry) = retry {
                            let wait = retry.min * u64::from(entry.returns);
                            arrivals += 1;
                            queue.waiting.push(Waiting {
                                due: now + 1 + retry.max.map_or(wait, |max| wait.min(max)),
                                message: entry.message,
                                arrival: arrivals,
                                returns: entry.returns,
                            });
                        } else if !queue.spec.quorum {
                            queue.ready.push(entry);
                        } else if limit < 0 {
                            // To the end, with the time to live of those that come now.
                            arrivals += 1;
                            entry.arrival = arrivals;
                            entry.returned = None;
                            entry.ttl = queue.spec.ttl;
                            queue.ready.push(entry);
                        } else {
                            returns += 1;
                            entry.returned = Some(returns);
                            queue.ready.push(entry);
                        }
                    }
                }
            }
            self.returns = returns;
            self.arrivals = arrivals;
            self.go_on(&name, deaths, observed)?;
        }
        Ok(())
    }

    /// A client is gone, its channel or its connection.
    pub(crate) fn leave(&mut self, client: usize, observed: &mut Observed) -> Result<(), Wrong> {
        let mut gone = Vec::new();
        for queue in self.queues.values_mut() {
            for consumer in &mut queue.consumers {
                if consumer.client == client {
                    consumer.retired = true;
                    gone.push((consumer.tag, queue.spec.name.clone()));
                }
            }
        }
        let held = self.held.keys().filter(|(holder, _)| *holder == client);
        let held: Vec<u64> = held.map(|(_, tag)| *tag).collect();
        self.settle(client, &held, How::Fail, observed)?;
        gone.sort();
        for (tag, name) in gone {
            self.cancel(&name, tag, observed)?;
        }
        Ok(())
    }

    /// A policy is set, in place of the one of its sort and name; without `policy`, that one is cleared.
    pub(crate) fn set_policy(
        &mut self,
        (operator, name): (bool, &str),
        policy: Option<Policy>,
        observed: &mut Observed,
    ) -> Result<(), Wrong> {
        let now = self.now;
        self.policies
            .retain(|known| known.operator != operator || known.name != name);
        self.policies.extend(policy);
        for name in self.queues.keys().cloned().collect::<Vec<_>>() {
            let policies = self.policies.clone();
            let queue = self.queue(&name)?;
            let spec = effective(&queue.declared, &policies);
            let before = std::mem::replace(&mut queue.spec, spec);
            let renewed = before.expires != queue.spec.expires;
            self.go_on(&name, Deaths::new(), observed)?;
            if renewed {
                self.queue(&name)?.renew(now);
            }
        }
        Ok(())
    }

    /// Drops everything ready; returns how many.
    pub(crate) fn purge(&mut self, name: &str, observed: &mut Observed) -> Result<u64, Wrong> {
        let queue = self.queue(name)?;
        let ready = std::mem::take(&mut queue.ready);
        let count = ready.len() as u64;
        let waiting = std::mem::take(&mut queue.waiting).len() as u64;
        *queue.fates.entry(Fate::Purged).or_default() += count + waiting;
        self.go_on(name, Deaths::new(), observed)?;
        Ok(count)
    }

    /// The next moment at which a delivery has to be settled, and the clients that hold such.
    pub(crate) fn next_late(
        &self,
        is_answered: impl Fn(usize, u64) -> bool,
    ) -> Option<(u64, BTreeSet<usize>)> {
        let out = || {
            let out = self.queues.values().flat_map(|queue| &queue.out);
            out.filter(|out| !is_answered(out.client, out.tag))
        };
        let next = out().filter_map(|out| out.due).min()?;
        let late = out().filter(|out| out.due == Some(next));
        Some((next, late.map(|out| out.client).collect()))
    }

    /// The next moment at which something is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let lease = |queue: &Queue| queue.unused_until.filter(|_| queue.consumers.is_empty());
        let messages = |queue: &Queue| {
            let heads = queue.heads().into_iter();
            heads.filter_map(|head| queue.ready[head].deadline()).min()
        };
        self.queues
            .values()
            .flat_map(|queue| {
                let waiting = queue.waiting.iter().map(|waiting| waiting.due);
                lease(queue)
                    .into_iter()
                    .chain(messages(queue))
                    .chain(waiting.min())
            })
            .min()
    }

    /// It is `now`: whatever is due happens.
    pub(crate) fn tick(&mut self, now: u64, observed: &mut Observed) -> Result<(), Wrong> {
        self.now = now;
        let mut by_age: Vec<(u64, String)> = self
            .queues
            .values()
            .map(|queue| (queue.age, queue.spec.name.clone()))
            .collect();
        by_age.sort();
        for (_, name) in &by_age {
            self.go_on(name, Deaths::new(), observed)?;
            let queue = self.queue(name)?;
            if queue.consumers.is_empty() && queue.unused_until.is_some_and(|until| until <= now) {
                self.queues_expired += 1;
                self.delete(name);
            }
        }
        // What waited comes after it was read.
        for (_, name) in &by_age {
            if self.queues.contains_key(name) {
                self.release(name, observed)?;
            }
        }
        Ok(())
    }

    /// Queues in which a message is over at that moment, wherever it stands, or has waited.
    pub(crate) fn queues_due(&self, at: u64) -> usize {
        let is_due = |queue: &&Queue| {
            let mut ready = queue.ready.iter();
            ready.any(|entry| entry.deadline().is_some_and(|over| over <= at))
                || queue.waiting.iter().any(|waiting| waiting.due <= at)
        };
        self.queues.values().filter(is_due).count()
    }

    /// The node is stopped and started again; its clients have gone before.
    pub(crate) fn restart(&mut self, now: u64) -> Result<(), Wrong> {
        self.now = now;
        self.held.clear();
        self.queues.retain(|_, queue| queue.spec.durable);
        self.slots.clear();
        self.free.clear();
        for name in self.queues.keys().cloned().collect::<Vec<_>>() {
            self.take_slot(&name);
        }
        for queue in self.queues.values_mut() {
            let (kept, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut queue.ready)
                .into_iter()
                .partition(|entry| queue.spec.quorum || entry.message.persistent);
            queue.ready = kept;
            let quorum = queue.spec.quorum;
            let waiting = queue.waiting.len();
            queue
                .waiting
                .retain(|waiting| quorum || waiting.message.persistent);
            let lost = lost.len() + waiting - queue.waiting.len();
            *queue.fates.entry(Fate::Transient).or_default() += lost as u64;
            for entry in &mut queue.ready {
                // The order of coming back is forgotten: what came back is older than the rest.
                entry.returned = None;
                entry.ttl = queue.spec.ttl;
            }
            queue.known.ids.retain(|(_, _, stored)| *stored);
            queue.renew(now);
        }
        self.once.ids.retain(|(_, _, stored)| *stored);
        // What stands at the head now may be over.
        let names: Vec<String> = self.queues.keys().cloned().collect();
        for name in &names {
            self.go_on(name, Deaths::new(), &mut Observed::new())?;
        }
        Ok(())
    }

    /// The node dies, and starts again: what clients held comes back.
    pub(crate) fn crash(&mut self, now: u64) -> Result<(), Wrong> {
        for queue in self.queues.values_mut() {
            for Out { mut entry, .. } in std::mem::take(&mut queue.out) {
                entry.redelivered = true;
                queue.ready.push(entry);
            }
            queue.consumers.clear();
        }
        self.restart(now)
    }

    /// What was found after a crash, if it is allowed: `moments` are what the work before the crash would have come to, had it ended
    /// there.
    pub(crate) fn found_after_crash(
        moments: Vec<Self>,
        found: BTreeMap<String, Vec<Entry>>,
    ) -> Result<Self, Wrong> {
        type Places = BTreeMap<u64, Vec<String>>;
        let places_in = |moment: &Self| {
            let mut places = Places::new();
            for (name, queue) in &moment.queues {
                for entry in &queue.ready {
                    places
                        .entry(entry.message.id)
                        .or_default()
                        .push(name.clone());
                }
            }
            places
        };
        let mut there = Places::new();
        for (name, entries) in &found {
            for entry in entries {
                there
                    .entry(entry.message.id)
                    .or_default()
                    .push(name.clone());
            }
        }
        let moments_places: Vec<Places> = moments.iter().map(places_in).collect();
        let most = |id: &u64| {
            let counts = moments_places
                .iter()
                .map(|places| places.get(id).map_or(0, Vec::len));
            counts.max().unwrap_or(0)
        };
        // On its way to a dead-letter queue when the node died, one may be in both, and may push another out of the second.
        let is_doubled = there.iter().any(|(id, places)| places.len() > most(id));
        for (id, places) in &there {
            if most(id) == 0 {
                return Err(format!(
                    "after a crash: message {id} is in {places:?}, and was gone for good"
                ));
            }
            let allowed = |place: &String| {
                moments_places
                    .iter()
                    .any(|all| all.get(id).is_some_and(|all| all.contains(place)))
            };
            if !is_doubled && let Some(place) = places.iter().find(|place| !allowed(place)) {
                return Err(format!(
                    "after a crash: message {id} has no business in {place}"
                ));
            }
        }
        // Each place it has at every moment, or at least some place.
        for (id, places) in &moments_places[0] {
            let always = |place: &&String| {
                moments_places
                    .iter()
                    .all(|all| all.get(id).is_some_and(|all| all.contains(place)))
            };
            let is_there =
                |place: &String| there.get(id).is_some_and(|there| there.contains(place));
            let may_be_pushed_out = |place: &String| {
                let spec = &moments[0].queues[place].spec;
                is_doubled && (spec.max_length.is_some() || spec.max_bytes.is_some())
            };
            let lost = places
                .iter()
                .filter(always)
                .find(|place| !is_there(place) && !may_be_pushed_out(place));
            let is_somewhere = moments_places.iter().all(|all| all.contains_key(id));
            if let Some(place) = lost {
                return Err(format!(
                    "after a crash: message {id} of {place} is lost; {there:?} are there"
                ));
            }
            if is_somewhere && !is_doubled && !there.contains_key(id) {
                return Err(format!("after a crash: message {id} is lost on its way"));
            }
        }
        let mut model = moments[0].clone();
        for (name, mut entries) in found {
            for entry in &mut entries {
                let known = moments
                    .iter()
                    .flat_map(|moment| &moment.queues[&name].ready);
                let known: Vec<&Entry> = known
                    .filter(|one| one.message.id == entry.message.id)
                    .collect();
                let same = |one: &&&Entry| {
                    let Message { at, delay, .. } = entry.message;
                    Message {
                        at,
                        delay,
                        ..one.message.clone()
                    } == entry.message
                };
                if !is_doubled && !known.iter().any(|one| same(&one)) {
                    return Err(format!(
                        "after a crash: {entry:?} in {name} is not {known:?}"
                    ));
                }
                if !is_doubled && !entry.redelivered && known.iter().all(|one| one.redelivered) {
                    return Err(format!("after a crash: {entry:?} in {name} is not marked"));
                }
                model.arrivals += 1;
                entry.arrival = model.arrivals;
            }
            let queue = model.queue(&name)?;
            let gone: u64 = queue.fates.values().sum();
            entries
                .iter_mut()
                .for_each(|entry| entry.ttl = queue.spec.ttl);
            queue.entered = gone + (entries.len() + queue.waiting.len()) as u64;
            queue.ready = entries;
        }
        Ok(model)
    }

    pub(crate) fn check(&self) -> Result<(), Wrong> {
        self.queues.values().try_for_each(Queue::check)
    }
}

/// Whether the message died in `queue` before, and was never rejected since.
fn goes_round(message: &Message, queue: &str) -> bool {
    for death in deaths_of(&message.headers) {
        if has(&death, "reason", "rejected") {
            return false;
        }
        if has(&death, "queue", queue) {
            return true;
        }
    }
    false
}
