//! From a queue to its dead-letter exchange (`spec: semantics §9`).
//!
//! The targets have the message in the log before the source lets go of it: both entries lie in one log, in this
//! order, so that no crash can lose the message between the two queues. With `x-dead-letter-strategy: at-least-once` a
//! letter that nobody takes goes to the source's waiting room instead, and tries again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use mamba_codec::{
    Change, HeaderChange, Properties, content_header, rewrite_header, scan_properties, table_get,
};
use mamba_queue::{DeathReason, Incoming, Stored};
use mamba_routing::{RouteInput, Routes, Stamp};
use mamba_store::Settled;
use mamba_types::{
    Limits, LogPosition, Message, RecordMeta,
    message::{begin, finish},
};

use crate::{
    death::{Death, is_cycle},
    deaths::Strategy,
    lazy_properties::LazyProperties,
    queue_cell::{Arrival, DeadLetterTarget, QueueCell, QueueRef, settled_at_place},
    vhost::Vhost,
};

/// Letters go to their queues when there are so many of them…
const BATCH_MESSAGES_MAX: usize = 2048;
/// … or so many octets of records.
const BATCH_BYTES_MAX: usize = 65_536;
/// Octets of a content header before its properties: class, weight, body size.
const PROPERTIES_AT: usize = 12;

/// Dead letters of a queue, to be published.
type Work = VecDeque<(Arc<QueueCell>, Vec<(Stored, DeathReason)>)>;

/// Publishes dead messages of `source` to its dead-letter exchange, then settles them. What dies of that in turn is
/// worked off here as well: a long chain of queues costs time, not stack.
pub(crate) fn bury(
    source: &Arc<QueueCell>,
    vhost: &Vhost,
    dead: Vec<(Stored, DeathReason)>,
) -> Buried {
    let mut buried = Buried::default();
    let work = Work::from([(Arc::clone(source), dead)]);
    work_off(vhost, work, &mut buried);
    buried
}

/// Publishes letters again that waited in `source`. Returns the places in `letters` of those that nobody takes yet, ascending;
/// the others may be settled.
pub(crate) fn bury_again(
    source: &Arc<QueueCell>,
    vhost: &Vhost,
    letters: &[(Stored, DeathReason)],
) -> Vec<u32> {
    let mut buried = Buried::default();
    let mut work = Work::new();
    let refused = publish(source, vhost, letters, &mut work, &mut buried.long);
    vhost.deaths.confirm((letters.len() - refused.len()) as u64);
    work_off(vhost, work, &mut buried);
    refused
}

fn work_off(vhost: &Vhost, mut work: Work, buried: &mut Buried) {
    while let Some((source, dead)) = work.pop_front() {
        let mut settled: Vec<Settled> = dead
            .iter()
            .map(|(stored, _)| settled_at_place(stored))
            .collect();
        settled.sort_unstable_by_key(|settled| settled.sequence);
        #[cfg(feature = "mutants")]
        if mamba_store::mutants::on(mamba_store::mutants::Mutant::SettledFirst) {
            source.buried(&std::mem::take(&mut settled));
        }
        let refused = publish(&source, vhost, &dead, &mut work, &mut buried.long);
        count(&source, vhost, &dead, refused.len());
        if !refused.is_empty() {
            source.keep(refused.into_iter().map(|at| &dead[at as usize]));
        }
        if !settled.is_empty() {
            buried.position = buried.position.max(source.buried(&settled));
        }
    }
}

/// Counts dead messages of `source`, of which `kept` wait for a queue that takes them.
fn count(source: &QueueCell, vhost: &Vhost, dead: &[(Stored, DeathReason)], kept: usize) {
    let strategy = match source.dead_letter_target() {
        None => Strategy::Disabled,
        Some(target) if target.at_least_once => Strategy::AtLeastOnce,
        Some(_) => Strategy::AtMostOnce,
    };
    let kind = source.declaration.settings.kind;
    // Those that die together mostly do so for one reason.
    for run in dead.chunk_by(|(_, one), (_, next)| one == next) {
        if let Some((_, reason)) = run.first() {
            vhost.deaths.add(*reason, kind, strategy, run.len() as u64);
        }
    }
    if strategy == Strategy::AtLeastOnce {
        vhost.deaths.confirm((dead.len() - kept) as u64);
    }
}

/// Publishes dead messages of `source` to its dead-letter exchange; adds what dies of that to `work`, and queues that have
/// grown long to `long`. Returns the places in `dead` of those that have to be kept, ascending.
fn publish(
    source: &QueueCell,
    vhost: &Vhost,
    dead: &[(Stored, DeathReason)],
    work: &mut Work,
    long: &mut Vec<(Arc<QueueCell>, usize)>,
) -> Vec<u32> {
    // Without a target, a policy took it away since: the messages are dropped.
    let Some(target) = source.dead_letter_target() else {
        return Vec::new();
    };
    let mut letters = Letters::default();
    let mut kept: Vec<u32> = Vec::new();
    let mut kind: Option<Kind> = None;
    for ((stored, reason), item) in dead.iter().zip(0u32..) {
        let message = &stored.message;
        let known = kind.take().filter(|kind| kind.fits(message, *reason));
        let known = known.unwrap_or_else(|| Kind::of(source, &target, message, *reason, vhost));
        // One that goes to several queues waits until all have room: none is to get it with each try.
        let is_alone = target.at_least_once && known.queues.len() > 1;
        if is_alone || !letters.have_room_for(message, &known) {
            letters.send(source, work, long, &mut kept);
        }
        let is_wanted = !known.is_unroutable
            && (!is_alone || known.queues.iter().all(|queue| queue.admits(message)));
        if is_wanted {
            letters.write(message, &known, item, vhost.unix_ms());
        } else {
            kept.push(item);
        }
        kind = Some(known);
    }
    letters.send(source, work, long, &mut kept);
    if !target.at_least_once {
        return Vec::new();
    }
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// What became of dead letters.
#[derive(Debug)]
pub(crate) struct Buried {
    /// The log position that makes all of it durable.
    pub(crate) position: LogPosition,
    /// Queues with consumers that have grown long by them, and how many letters they got.
    pub(crate) long: Vec<(Arc<QueueCell>, usize)>,
}

impl Default for Buried {
    fn default() -> Self {
        Self {
            position: LogPosition::NONE,
            long: Vec::new(),
        }
    }
}

/// What becomes of messages with the same address and properties that die in one queue for one reason. Those that die
/// together are mostly of one kind: their headers are written and their route is found once.
struct Kind {
    /// One of them.
    message: Message,
    reason: DeathReason,
    exchange: String,
    routing_key: Vec<u8>,
    /// The new properties.
    properties: Vec<u8>,
    queues: Vec<Arc<QueueCell>>,
    /// No queue is bound for it, or the exchange is missing.
    is_unroutable: bool,
    /// Whether messages of this kind all go the same way, and as long as these are current.
    cacheable: bool,
    stamps: Vec<Stamp>,
}

impl Kind {
    fn of(
        source: &QueueCell,
        target: &DeadLetterTarget,
        message: &Message,
        reason: DeathReason,
        vhost: &Vhost,
    ) -> Self {
        let limits = Limits::default();
        let properties = content_header(message.header())
            .ok()
            .and_then(|header| scan_properties(header.properties, &limits).ok())
            .unwrap_or_default();
        let old_keys = routing_keys(message, &properties);
        let expiration = message.expiration_ms().map(|ms| ms.to_string());
        let death = Death {
            queue: source.name.as_bytes(),
            reason: reason.word(),
            exchange: message.exchange(),
            keys: &old_keys,
            expiration: expiration.as_deref().map(str::as_bytes),
            unix_secs: vhost.unix_ms() / 1000,
        };
        let headers = death.recorded_in(
            properties.headers.unwrap_or_default(),
            message.dead_lettered(),
        );
        let keys = match &target.routing_key {
            Some(key) => vec![key.as_bytes()],
            None => old_keys,
        };
        let change = HeaderChange {
            headers: Change::Set(&headers),
            expiration: Change::Remove,
            ..HeaderChange::default()
        };
        let properties = Properties {
            headers: Some(&headers),
            ..properties
        };
        let mut routes: Routes<QueueRef> = Routes::new();
        let input = RouteInput {
            keys: &keys,
            properties: &LazyProperties::new(&properties, &limits),
        };
        // A missing exchange takes nothing.
        let found = vhost
            .table
            .read()
            .route(&target.exchange, &input, &mut routes)
            .is_ok();
        let is_allowed = |queue: &Arc<QueueCell>| {
            let cycle =
                reason != DeathReason::Rejected && is_cycle(&headers, queue.name.as_bytes());
            if cycle {
                tracing::warn!(vhost = %queue.vhost, queue = %queue.name, "messages went round in a cycle of dead-letter exchanges and are dropped");
            }
            !cycle
        };
        Self {
            is_unroutable: routes.queues.is_empty(),
            message: message.clone(),
            reason,
            exchange: target.exchange.clone(),
            routing_key: keys.first().copied().unwrap_or_default().to_vec(),
            properties: rewrite_header(message.header(), &change).split_off(PROPERTIES_AT),
            queues: routes
                .queues
                .drain(..)
                .map(|queue| queue.0)
                .filter(is_allowed)
                .collect(),
            cacheable: found && routes.cacheable,
            stamps: std::mem::take(&mut routes.stamps),
        }
    }

    fn fits(&self, message: &Message, reason: DeathReason) -> bool {
        let known = &self.message;
        self.cacheable
            && self.reason == reason
            && known.dead_lettered() == message.dead_lettered()
            && known.address() == message.address()
            && known.header().get(PROPERTIES_AT..) == message.header().get(PROPERTIES_AT..)
            && self.stamps.iter().all(Stamp::is_current)
    }
}

/// The publish's key and those of CC; BCC was removed when it came.
pub(crate) fn routing_keys<'a>(message: &'a Message, properties: &Properties<'a>) -> Vec<&'a [u8]> {
    let more = properties
        .headers
        .and_then(|headers| table_get(headers, b"CC"))
        .and_then(|value| value.array());
    let mut keys = vec![message.routing_key()];
    keys.extend(more.into_iter().flatten().filter_map(|key| key.string()));
    keys
}

/// Letters on their way to their queues: each is written once, each queue gets all of its letters in one step.
#[derive(Default)]
struct Letters {
    /// Records for the log…
    stored: Vec<u8>,
    /// … and for memory only.
    transient: Vec<u8>,
    count: usize,
    /// Each queue with the places of its letters, and which queue stands where.
    targets: Vec<(Arc<QueueCell>, Vec<Place>)>,
    known: HashMap<u64, usize, foldhash::fast::FixedState>,
}

#[derive(Clone, Copy)]
struct Place {
    /// Whose letter it is: its number among the dead.
    item: u32,
    stored: bool,
    offset: usize,
    len: usize,
}

impl Letters {
    /// Whether another letter fits; a large one goes alone.
    const fn have_room_for(&self, message: &Message, kind: &Kind) -> bool {
        let octets = message.record_len() + kind.properties.len();
        self.count < BATCH_MESSAGES_MAX
            && self.stored.len() + self.transient.len() + octets <= BATCH_BYTES_MAX
    }

    /// Writes what becomes of a message.
    fn write(&mut self, message: &Message, kind: &Kind, item: u32, now_ms: u64) {
        if kind.queues.is_empty() {
            return;
        }
        let meta = RecordMeta {
            dead_lettered: true,
            expiration_ms: None,
            accepted_at_ms: now_ms,
            not_before: false,
            died: None,
            ..message.meta()
        };
        let stored = kind
            .queues
            .iter()
            .any(|queue| queue.stores(meta.persistent));
        let buffer = if stored {
            &mut self.stored
        } else {
            &mut self.transient
        };
        let mut header = Vec::with_capacity(PROPERTIES_AT + kind.properties.len());
        header.extend(message.header().iter().take(PROPERTIES_AT));
        header.extend_from_slice(&kind.properties);
        let body = message.body();
        let body_len = u32::try_from(body.len()).expect("a record's body is at most 512 MiB");
        let offset = begin(
            buffer,
            meta,
            kind.exchange.as_bytes(),
            &kind.routing_key,
            &header,
            body_len,
        );
        buffer.extend_from_slice(body);
        if stored {
            finish(buffer, offset);
        }
        let place = Place {
            item,
            stored,
            offset,
            len: buffer.len() - offset,
        };
        self.count += 1;
        for queue in &kind.queues {
            let at = *self.known.entry(queue.id.0).or_insert_with(|| {
                self.targets.push((Arc::clone(queue), Vec::new()));
                self.targets.len() - 1
            });
            self.targets[at].1.push(place);
        }
    }

    /// Hands the letters of `source` to their queues; adds what dies of that to `work`, queues that have grown long to `long`, and
    /// the numbers of letters that a queue did not take to `refused`.
    fn send(
        &mut self,
        source: &QueueCell,
        work: &mut Work,
        long: &mut Vec<(Arc<QueueCell>, usize)>,
        refused: &mut Vec<u32>,
    ) {
        let stored = Bytes::copy_from_slice(&self.stored);
        let transient = Bytes::copy_from_slice(&self.transient);
        self.stored.clear();
        self.transient.clear();
        self.known.clear();
        self.count = 0;
        // Held until all of it is enqueued.
        let appended = (!stored.is_empty()).then(|| source.log().append_messages(stored.clone()));
        let base = appended
            .as_ref()
            .map_or(LogPosition::NONE, mamba_store::Appended::at);
        for (queue, places) in self.targets.drain(..) {
            let arrival = |place: Place| {
                let chunk = if place.stored { &stored } else { &transient };
                let record = chunk.slice(place.offset..place.offset + place.len);
                let message = Message::from_record(record);
                let at = if place.stored && queue.stores(message.persistent()) {
                    LogPosition(base.0 + place.offset as u64)
                } else {
                    LogPosition::NONE
                };
                Arrival {
                    incoming: Incoming {
                        message,
                        at,
                        returns: 0,
                        redelivered: false,
                    },
                    item: place.item,
                }
            };
            let mut arrivals: Vec<Arrival> = places.into_iter().map(arrival).collect();
            let mut died = Vec::new();
            let count = arrivals.len();
            let enqueued = queue.enqueue_only(&mut arrivals, &[], &mut died);
            if enqueued.long {
                long.push((Arc::clone(&queue), count));
            }
            if !enqueued.rejected.is_empty() && !queue.settings().dead_letters_refused() {
                refused.extend(enqueued.rejected);
            }
            if !died.is_empty() {
                work.push_back((queue, died));
            }
        }
    }
}
