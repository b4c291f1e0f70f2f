//! From a complete `basic.publish` to the queues: checks, route, batch, enqueue, confirm.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use mamba_auth::{Resource, Right, TopicRight};
use mamba_codec::{
    Change, HeaderChange, Parts, Properties, Returned, content_header, encode_table,
    rewrite_header, scan_properties, table as parse_table, table_entries, table_get, write_return,
};
use mamba_queue::Incoming;
use mamba_routing::{RouteInput, Routes, Stamp};
use mamba_session::{Content, Publish};
use mamba_types::{
    ChannelId, FieldTable, FieldValue, HardError, Limits, LogPosition, Message, RecordMeta,
    SoftError, Violation, message, table::ShortString,
};

use super::{
    Core, Now,
    channel::{Channel, Mode, ReplyConsumer, Uncommitted},
    delay::{self, Late},
    topology::TOPIC,
    trace::{Published, Tracer},
};
use crate::{
    broker::{Broker, DRAWN_LEN},
    deduplication::{ExchangeIds, Kept, Passage},
    exchange_stats::ExchangeTally,
    lazy_properties::LazyProperties,
    queue_cell::{Arrival, QueueCell, QueueRef},
    vhost::Vhost,
};

/// A batch is handed to the queues when it holds this many octets of records…
const BATCH_BYTES_MAX: usize = 65_536;
/// … or this many messages.
const BATCH_MESSAGES_MAX: usize = 2048;
/// A body from here on is not copied into the batch's chunk but stays where it was assembled.
const OWN_CHUNK_FROM: usize = 16_384;
/// Routes a connection remembers; at the limit it starts over.
const CACHED_ROUTES_MAX: usize = 4096;
/// Exchanges a connection remembers that it counts for; at the limit it starts over.
const COUNTED_EXCHANGES_MAX: usize = 1024;
/// Longest time a per-message TTL may ask for, in milliseconds: ten years.
const EXPIRATION_MAX_MS: u64 = 315_360_000_000;
/// Where replies go: the bare name in a request, with a token after a dot once rewritten.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// Octets of records one transaction may gather.
const TRANSACTION_BYTES_MAX: usize = 256 << 20;

/// Where messages of one (exchange, routing key) go, as long as its stamps are current.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) queues: Vec<Arc<QueueCell>>,
    stamps: Vec<Stamp>,
    /// What the exchange has seen, if it takes each message once.
    ids: Option<Arc<ExchangeIds>>,
    /// Some queue stores persistent messages.
    stores_persistent: bool,
    /// Some queue stores every message.
    stores_all: bool,
    /// Its messages wait in the queues until they are ready.
    waits: bool,
    /// It goes through a delayed exchange: what becomes of a message with an `x-delay`.
    delayed: Option<Box<Delayed>>,
    /// The token of a direct reply-to consumer; there are no queues then.
    reply_token: Option<Box<str>>,
    /// Where publishes to its exchange are counted; `None` for replies.
    pub(crate) exchange: Option<Arc<ExchangeTally>>,
}

/// The two parts of a route through a delayed exchange.
#[derive(Debug)]
struct Delayed {
    /// Queues that are reached without it.
    at_once: Option<Arc<Route>>,
    /// Queues that are reached through it alone.
    late: Arc<Route>,
}

impl Route {
    /// A route on which the last `waiting` queues are reached through a delayed exchange alone.
    fn through(
        queues: Vec<Arc<QueueCell>>,
        waiting: usize,
        stamps: Vec<Stamp>,
        ids: Option<Arc<ExchangeIds>>,
        exchange: Arc<ExchangeTally>,
    ) -> Self {
        let exchange = Some(exchange);
        let delayed = (waiting > 0).then(|| {
            let (at_once, late) = queues.split_at(queues.len() - waiting);
            let at_once = (!at_once.is_empty()).then(|| {
                Arc::new(Self {
                    ids: ids.clone(),
                    exchange: exchange.clone(),
                    ..Self::to(at_once.to_vec(), Vec::new())
                })
            });
            let late = Arc::new(Self {
                waits: true,
                // Who waits does so in the log.
                stores_persistent: true,
                stores_all: true,
                exchange: exchange.clone(),
                ..Self::to(late.to_vec(), Vec::new())
            });
            Box::new(Delayed { at_once, late })
        });
        Self {
            delayed,
            ids,
            exchange,
            ..Self::to(queues, stamps)
        }
    }

    fn to(queues: Vec<Arc<QueueCell>>, stamps: Vec<Stamp>) -> Self {
        Self {
            stores_persistent: queues.iter().any(|queue| queue.stores(true)),
            stores_all: queues.iter().any(|queue| queue.stores(false)),
            queues,
            stamps,
            ids: None,
            waits: false,
            delayed: None,
            reply_token: None,
            exchange: None,
        }
    }

    fn stores(&self, persistent: bool) -> bool {
        self.stores_all || (persistent && self.stores_persistent)
    }

    /// Who keeps a message that lies at `at` in the log, or not there.
    fn keeps(&self, persistent: bool, at: LogPosition) -> Kept {
        match self.queues.as_slice() {
            _ if at == LogPosition::NONE || !self.stores(persistent) => Kept::InMemory,
            [_] => Kept::Once(at),
            _ => Kept::Shared,
        }
    }

    /// If it leads nowhere and the exchange has taken such a message before: the log position that makes that one safe.
    pub(crate) fn repeats(&self, header: &[u8], now_ms: u64) -> Option<LogPosition> {
        let ids = self.ids.as_ref().filter(|_| self.queues.is_empty())?;
        ids.duplicate(header, now_ms)
    }

    /// The name of the direct reply-to consumer it leads to.
    pub(super) fn reply(&self) -> Option<&[u8]> {
        self.reply_token.as_deref().map(str::as_bytes)
    }

    /// Whether it leads to a direct reply-to consumer.
    pub(crate) const fn is_reply(&self) -> bool {
        self.reply_token.is_some()
    }

    /// Its exchange gave a message back that nothing is bound for.
    pub(crate) fn count_returned(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.returned();
        }
    }

    /// Its exchange dropped a message that nothing is bound for.
    pub(crate) fn count_dropped(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.dropped();
        }
    }

    fn is_current(&self) -> bool {
        self.stamps.iter().all(Stamp::is_current)
    }
}

/// Where a message of the batch lies.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the chunk that goes to the log.
    Stored { offset: u32, len: u32 },
    /// In the chunk that stays in memory.
    Transient { offset: u32, len: u32 },
    /// A large message with a buffer of its own.
    Own { index: u32, stored: bool },
    /// It reaches no queue and only waits for its confirm.
    Nowhere,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    place: Place,
    route: u32,
    channel: ChannelId,
    confirm: bool,
    /// The confirm waits for the log.
    waits: bool,
}

/// Publishes gathered from one turn of reading.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    stored: Vec<u8>,
    transient: Vec<u8>,
    own: Vec<Message>,
    items: Vec<Item>,
    routes: Vec<Arc<Route>>,
    /// The one exchange of its routes that takes each message once.
    ids: Option<Arc<ExchangeIds>>,
    /// Where in `routes` a route stands, by its address.
    known: HashMap<usize, u32, foldhash::fast::FixedState>,
    arrivals: Vec<Arrival>,
}

/// A connection's memory of where messages go, and of the properties it saw last.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    pub(crate) batch: Batch,
    routes: HashMap<Box<[u8]>, Arc<Route>, foldhash::fast::FixedState>,
    /// Where it counts what it publishes to an exchange.
    exchanges: HashMap<Box<str>, Arc<ExchangeTally>, foldhash::fast::FixedState>,
    last: Option<(Vec<u8>, Arc<Route>)>,
    /// The generation of rights that the routes were allowed under.
    rights: u64,
    key: Vec<u8>,
    scratch: Routes<QueueRef>,
    /// The last properties that were checked and ask for nothing but being passed on, and what they said.
    plain: Vec<u8>,
    plain_meta: RecordMeta,
}

/// What the properties ask for beyond being passed on.
struct Checked<'a> {
    meta: RecordMeta,
    properties: Properties<'a>,
    /// CC and BCC keys.
    extra_keys: Vec<Vec<u8>>,
    /// The content header to pass on, when it differs from the one received.
    rewritten: Option<Vec<u8>>,
    plain: bool,
}

fn precondition(text: String) -> Violation {
    Violation::channel(SoftError::PreconditionFailed, text)
}

impl Core {
    /// Takes one publish. The batch is handed over by [`Core::flush`].
    pub(crate) fn publish(
        &mut self,
        id: ChannelId,
        publish: Publish<'_>,
        now: Now,
        out: &mut mamba_codec::Output,
    ) -> Result<(), Violation> {
        let Publish {
            mandatory,
            immediate,
            content,
        } = publish;
        if immediate {
            return Err(Violation::connection(
                HardError::NotImplemented,
                "immediate=true",
            ));
        }
        if let Content::TooLarge { size, .. } = content {
            let max = self.broker.config.limits.message_size_max;
            let word = if max == mamba_types::limits::BODY_SIZE_CAP {
                "max size"
            } else {
                "configured max size"
            };
            return Err(precondition(format!(
                "message size {size} is larger than {word} {max}"
            )));
        }
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        let Some(login) = &self.login else {
            return Ok(());
        };
        if !channel.has_published {
            channel.has_published = true;
            self.counts.publishers_started += 1;
        }
        let publisher = &mut self.publisher;
        publisher.know_rights(login.user.generation());
        let (exchange, routing_key, header) =
            (content.exchange(), content.routing_key(), content.header());

        publisher.set_key(exchange, routing_key);
        let mut route = publisher.cached();
        if route.is_none() {
            check_target(exchange, &login.vhost, login)?;
        }
        let properties = header.get(12..).unwrap_or_default();
        let memo = !publisher.plain.is_empty() && publisher.plain == properties;
        let (mut meta, rewritten, extra_keys) = if memo && route.is_some() {
            (publisher.plain_meta, None, Vec::new())
        } else {
            let checked = check_properties(header, &self.broker, channel.reply.as_ref())?;
            if route.is_none() || !checked.extra_keys.is_empty() {
                check_topics(exchange, routing_key, &checked.extra_keys, login)?;
            }
            check_user_id(checked.properties.user_id, login)?;
            if !checked.extra_keys.is_empty() {
                route = None;
            }
            if route.is_none() {
                route = Some(publisher.resolve(
                    exchange,
                    routing_key,
                    &checked,
                    &login.vhost,
                    &self.broker.config.limits,
                )?);
                for queue in route.iter().flat_map(|route| &route.queues) {
                    let again = || self.broker.definitions_on_their_way();
                    if let Some(commit) = queue.definition_on_its_way(again)
                        // Once each: a route that cannot be cached comes by here with every message.
                        && !self.definitions.iter().any(|known| Arc::ptr_eq(known, &commit))
                    {
                        commit.ring_when_decided(&self.outbox);
                        self.definitions.push(commit);
                    }
                }
            }
            if checked.plain {
                publisher.plain.clear();
                publisher.plain.extend_from_slice(properties);
                publisher.plain_meta = checked.meta;
            }
            (checked.meta, checked.rewritten, checked.extra_keys)
        };
        meta.accepted_at_ms = now.unix_ms;
        let Some(route) = route else { return Ok(()) };
        let late = match &route.delayed {
            Some(delayed) => {
                let limits = &self.broker.config.limits;
                let late = delay::look(header, rewritten.as_deref(), now.unix_ms, limits)?;
                late.map(|late| (&**delayed, late))
            }
            None => None,
        };

        if self.traced {
            let published = Published {
                exchange,
                routing_key,
                extra_keys: &extra_keys,
                header: rewritten.as_deref().unwrap_or(header),
                body: content.body(),
            };
            Tracer::new(&self.broker, &self.presence, login).publish(id, &published, &route);
        }
        channel.stats.publish += 1;
        self.counts.received(content.body().len());
        self.counts.messages_routed += route.queues.len() as u64;
        if let Some(exchange) = &route.exchange {
            exchange.published(route.queues.len());
        }
        let confirm = match &mut channel.mode {
            Mode::Plain => false,
            Mode::Confirm(_) => true,
            Mode::Transaction(transaction) => {
                self.counts.messages_received_confirm += 1;
                let message = build(content, rewritten.as_deref(), meta);
                // A transient one that was assembled for memory has no checksum yet, and the log goes by that.
                let message = if !meta.persistent && route.stores(false) {
                    message.sealed()
                } else {
                    message
                };
                transaction.bytes += message.record_len();
                if transaction.bytes > TRANSACTION_BYTES_MAX {
                    let text = format!(
                        "the transaction holds more than {TRANSACTION_BYTES_MAX} octets: commit more often"
                    );
                    return Err(Violation::connection(HardError::ResourceError, text));
                }
                let mut publish = |route: &Arc<Route>, message: Message| {
                    transaction.publishes.push(Uncommitted {
                        route: Arc::clone(route),
                        message,
                        mandatory,
                    });
                };
                if let Some((delayed, late)) = &late {
                    publish(&delayed.late, late.message(&message));
                    if let Some(at_once) = &delayed.at_once {
                        publish(at_once, message);
                    }
                } else {
                    publish(&route, message);
                }
                return Ok(());
            }
        };
        self.counts.messages_received_confirm += u64::from(confirm);
        if let Some(token) = &route.reply_token {
            self.broker
                .reply(token, build(content, rewritten.as_deref(), meta));
            publisher.batch.unroutable(confirm, id, &route);
            return Ok(());
        }
        if route.queues.is_empty() {
            if route.ids.is_some() {
                // Those before it may be what it repeats.
                self.flush_publishes();
                let header = rewritten.as_deref().unwrap_or(header);
                if let Some(waits) = route.repeats(header, now.unix_ms) {
                    self.counts.messages_deduplicated += 1;
                    if confirm {
                        self.note_confirm(id, Some(waits), route.exchange.as_ref());
                    }
                    return Ok(());
                }
            }
            let Some(channel) = self.channels.get_mut(&id) else {
                return Ok(());
            };
            if mandatory {
                self.counts.messages_unroutable_returned += 1;
                channel.stats.return_unroutable += 1;
                route.count_returned();
                let parts = Parts {
                    exchange,
                    routing_key,
                    header: rewritten.as_deref().unwrap_or(header),
                    body: content.body(),
                };
                write_return(
                    out,
                    id,
                    SoftError::NoRoute.code(),
                    "NO_ROUTE",
                    Returned::Parts(parts),
                    self.frame_max,
                );
            } else {
                self.counts.messages_unroutable_dropped += 1;
                channel.stats.drop_unroutable += 1;
                route.count_dropped();
            }
            self.publisher.batch.unroutable(confirm, id, &route);
            return Ok(());
        }
        if !self.publisher.batch.takes(&route) {
            self.flush_publishes();
        }
        let batch = &mut self.publisher.batch;
        let is_full = match late {
            None => batch.push(id, confirm, route, content, rewritten.as_deref(), meta),
            Some((delayed, late)) => batch.push_late(
                id,
                confirm,
                delayed,
                &late,
                (content, rewritten.as_deref(), meta),
            ),
        };
        if is_full {
            self.flush_publishes();
        }
        Ok(())
    }

    /// Hands the gathered publishes to their queues and notes what their confirms wait for.
    pub(crate) fn flush_publishes(&mut self) {
        let batch = &mut self.publisher.batch;
        if batch.items.is_empty() {
            return;
        }
        let log = self.broker.store.0.log();
        let ids = batch.ids.take();
        let stored = batch.take_stored();
        let transient = Bytes::copy_from_slice(&batch.transient);
        batch.transient.clear();
        let chunk = (!stored.is_empty()).then(|| log.append_messages(stored.clone()));
        let base = chunk
            .as_ref()
            .map_or(LogPosition::NONE, mamba_store::Appended::at);
        let own: Vec<_> = batch
            .items
            .iter()
            .filter_map(|item| match item.place {
                Place::Own {
                    index,
                    stored: true,
                } => Some((
                    index,
                    log.append_messages(batch.own[index as usize].record().clone()),
                )),
                Place::Own { stored: false, .. }
                | Place::Stored { .. }
                | Place::Transient { .. }
                | Place::Nowhere => None,
            })
            .collect();
        let message_of = |item: &Item| {
            Some(match item.place {
                Place::Stored { offset, len } => {
                    let message = Message::from_record(
                        stored.slice(offset as usize..(offset + len) as usize),
                    );
                    (message, LogPosition(base.0 + u64::from(offset)))
                }
                Place::Transient { offset, len } => (
                    Message::from_record(transient.slice(offset as usize..(offset + len) as usize)),
                    LogPosition::NONE,
                ),
                Place::Own { index, .. } => {
                    let message = batch.own[index as usize].clone();
                    let appended = own
                        .binary_search_by_key(&index, |(index, _)| *index)
                        .ok()
                        .map(|at| own[at].1.at());
                    (message, appended.unwrap_or(LogPosition::NONE))
                }
                Place::Nowhere => return None,
            })
        };
        let now_ms = self.login.as_ref().map_or(0, |login| login.vhost.unix_ms());
        let mut passage = ids.as_ref().map(|ids| ids.enter(now_ms));
        let mut held_back: Vec<u32> = Vec::new();
        if let Some(passage) = &mut passage {
            for (item, index) in batch.items.iter().zip(0u32..) {
                let Some((message, at)) = message_of(item) else {
                    continue;
                };
                let route = &batch.routes[item.route as usize];
                // What goes on through a delayed exchange is none of this one's affairs.
                if route.ids.is_none() {
                    continue;
                }
                let kept = route.keeps(message.persistent(), at);
                if !passage.pass(index, &message, kept) {
                    held_back.push(index);
                }
            }
        }
        let arrival = |index: u32, queue: &QueueCell, waits: bool| {
            if held_back.binary_search(&index).is_ok() {
                return None;
            }
            let (message, at) = message_of(&batch.items[index as usize])?;
            let stored = waits || queue.stores(message.persistent());
            let at = if stored { at } else { LogPosition::NONE };
            Some(Arrival {
                incoming: Incoming {
                    message,
                    at,
                    returns: 0,
                    redelivered: false,
                },
                item: index,
            })
        };

        let mut position = LogPosition::NONE;
        let mut rejected: Vec<u32> = Vec::new();
        let mut duplicates: Vec<u32> = Vec::new();
        let mut unburied = Vec::new();
        let along = passage.as_ref().map(Passage::along).unwrap_or_default();
        let mut arrivals = std::mem::take(&mut batch.arrivals);
        let mut enqueue = |queue: &Arc<QueueCell>, waits: bool, arrivals: &mut Vec<Arrival>| {
            let count = arrivals.len();
            let enqueued = if waits {
                queue.hold(arrivals)
            } else if passage.is_some() {
                // Dead letters may go through an exchange of this kind themselves.
                let mut dead = Vec::new();
                let enqueued = queue.enqueue_only(arrivals, along, &mut dead);
                unburied.push((Arc::clone(queue), dead));
                enqueued
            } else {
                queue.enqueue(arrivals)
            };
            position = position.max(enqueued.position);
            rejected.extend(enqueued.rejected);
            duplicates.extend(enqueued.duplicates);
            if enqueued.long {
                self.pacing.note_long(queue, count);
            }
            for (queue, count) in &enqueued.long_beyond {
                self.pacing.note_long(queue, *count);
            }
        };
        match batch.routes.as_slice() {
            [route] => {
                for queue in &route.queues {
                    arrivals.extend(
                        (0..position_of(batch.items.len()))
                            .filter_map(|index| arrival(index, queue, route.waits)),
                    );
                    enqueue(queue, route.waits, &mut arrivals);
                }
            }
            routes => {
                for ((queue, waits), items) in by_queue(routes, &batch.items) {
                    let items = items.into_iter();
                    arrivals.extend(items.filter_map(|index| arrival(index, queue, waits)));
                    enqueue(queue, waits, &mut arrivals);
                }
            }
        }
        rejected.sort_unstable();
        duplicates.sort_unstable();
        if let Some(passage) = passage {
            let passed = passage.leave(position, &rejected, &duplicates, log);
            position = position.max(passed.position);
            duplicates.extend(passed.duplicates);
            rejected.extend(passed.rejected);
            rejected.sort_unstable();
            duplicates.sort_unstable();
        }
        self.counts.messages_deduplicated += duplicates.len() as u64;
        for (queue, dead) in unburied {
            for (queue, count) in &queue.bury(dead).long {
                self.pacing.note_long(queue, *count);
            }
        }
        drop(chunk);
        self.stored_up_to = self.stored_up_to.max(position);
        self.published_stored |= position != LogPosition::NONE;
        batch.arrivals = arrivals;
        let items = std::mem::take(&mut batch.items);
        let routes = std::mem::take(&mut batch.routes);
        for (item, index) in items.iter().zip(0u32..) {
            if !item.confirm {
                continue;
            }
            // Of a duplicate, what it repeats has to be safe.
            let waits = if item.waits || duplicates.binary_search(&index).is_ok() {
                position
            } else {
                LogPosition::NONE
            };
            // One queue's refusal outweighs the others' consent.
            let taken = rejected.binary_search(&index).is_err();
            let exchange = routes[item.route as usize].exchange.as_ref();
            self.note_confirm(item.channel, taken.then_some(waits), exchange);
        }
        let batch = &mut self.publisher.batch;
        batch.items = items;
        batch.items.clear();
        batch.routes = routes;
        batch.routes.clear();
        batch.known.clear();
        batch.own.clear();
    }

    /// Notes that a publish is to be confirmed when the log has come to that position, or `None`: that it was refused.
    fn note_confirm(
        &mut self,
        id: ChannelId,
        taken: Option<LogPosition>,
        exchange: Option<&Arc<ExchangeTally>>,
    ) {
        let Some(Channel {
            mode: Mode::Confirm(confirms),
            unconfirmed,
            ..
        }) = self.channels.get_mut(&id).map(Box::as_mut)
        else {
            return;
        };
        if confirms.pending() == 0 {
            self.confirming.push(id);
        }
        unconfirmed.published(exchange);
        match taken {
            Some(position) => confirms.published(position),
            None => confirms.rejected(),
        };
    }

    /// Enqueues one committed message and returns the log position that makes it safe; `None` when a queue refused
    /// it.
    pub(crate) fn enqueue_committed(&mut self, uncommitted: &Uncommitted) -> Option<LogPosition> {
        let Uncommitted { route, message, .. } = uncommitted;
        let log = self.broker.store.0.log();
        let now_ms = self.login.as_ref().map_or(0, |login| login.vhost.unix_ms());
        // Its time to live begins as it enters its queues; one that is delayed waits since it was published.
        let is_late = !route.waits && message.accepted_at_ms() != now_ms;
        let entering = is_late.then(|| {
            message.with_meta(RecordMeta {
                accepted_at_ms: now_ms,
                ..message.meta()
            })
        });
        let message = entering.as_ref().unwrap_or(message);
        let appended = route
            .stores(message.persistent())
            .then(|| log.append_messages(message.record().clone()));
        let ids = route.ids.as_ref().filter(|_| !route.queues.is_empty());
        let mut passage = ids.map(|ids| ids.enter(now_ms));
        let mut passes = true;
        if let Some(passage) = &mut passage {
            let at = appended
                .as_ref()
                .map_or(LogPosition::NONE, mamba_store::Appended::at);
            passes = passage.pass(0, message, route.keeps(message.persistent(), at));
        }
        let along = passage.as_ref().map(Passage::along).unwrap_or_default();
        let mut position = LogPosition::NONE;
        let mut rejected = Vec::new();
        let mut duplicates = Vec::new();
        let mut unburied = Vec::new();
        for queue in route.queues.iter().filter(|_| passes) {
            let stored = appended
                .as_ref()
                .filter(|_| route.waits || queue.stores(message.persistent()));
            let at = stored.map_or(LogPosition::NONE, mamba_store::Appended::at);
            let mut arrivals = vec![Arrival::alone(message.clone(), at)];
            let mut dead = Vec::new();
            let enqueued = if route.waits {
                queue.hold(&mut arrivals)
            } else {
                queue.enqueue_only(&mut arrivals, along, &mut dead)
            };
            unburied.push((queue, dead));
            position = position.max(enqueued.position);
            rejected.extend(enqueued.rejected);
            duplicates.extend(enqueued.duplicates);
        }
        if let Some(passage) = passage {
            let passed = passage.leave(position, &rejected, &duplicates, log);
            position = position.max(passed.position);
            duplicates.extend(passed.duplicates);
        }
        self.counts.messages_deduplicated += duplicates.len() as u64;
        for (queue, dead) in unburied {
            queue.bury(dead);
        }
        if let Some(token) = &route.reply_token {
            self.broker.reply(token, message.clone());
        }
        rejected.is_empty().then_some(position)
    }
}

/// A queue, and whether it is its waiting room that is meant.
type Target<'a> = (&'a Arc<QueueCell>, bool);

/// Each queue of the batch with the items it gets, in order.
fn by_queue<'a>(routes: &'a [Arc<Route>], items: &[Item]) -> Vec<(Target<'a>, Vec<u32>)> {
    let mut targets: Vec<(Target<'a>, Vec<u32>)> = Vec::new();
    let mut known: HashMap<(u64, bool), usize, foldhash::fast::FixedState> = HashMap::default();
    let by_route: Vec<Vec<usize>> = routes
        .iter()
        .map(|route| {
            let index = |queue: &'a Arc<QueueCell>| {
                *known.entry((queue.id.0, route.waits)).or_insert_with(|| {
                    targets.push(((queue, route.waits), Vec::new()));
                    targets.len() - 1
                })
            };
            route.queues.iter().map(index).collect()
        })
        .collect();
    for (item, index) in items.iter().zip(0u32..) {
        for &target in &by_route[item.route as usize] {
            targets[target].1.push(index);
        }
    }
    targets
}

impl Batch {
    /// Whether a message of this route can go along: a batch passes one exchange that takes each message once.
    fn takes(&self, route: &Route) -> bool {
        match (&self.ids, &route.ids) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => true,
        }
    }

    /// Adds a message; true when the batch is full.
    fn push(
        &mut self,
        channel: ChannelId,
        confirm: bool,
        route: Arc<Route>,
        content: Content<'_>,
        rewritten: Option<&[u8]>,
        meta: RecordMeta,
    ) -> bool {
        let stored = route.stores(meta.persistent);
        let place = match content {
            Content::Whole {
                exchange,
                routing_key,
                header,
                body,
            } => {
                let buffer = self.buffer(stored);
                let header = rewritten.unwrap_or(header);
                let start =
                    message::begin(buffer, meta, exchange, routing_key, header, body_len(body));
                buffer.extend_from_slice(body);
                self.finish(stored, start)
            }
            other => self.place(build(other, rewritten, meta), stored),
        };
        self.push_item(channel, confirm, stored, &route, place)
    }

    /// Adds a message of which some queues may take a copy at once and others let it wait; true when the batch is full.
    fn push_late(
        &mut self,
        channel: ChannelId,
        confirm: bool,
        delayed: &Delayed,
        late: &Late,
        (content, rewritten, meta): (Content<'_>, Option<&[u8]>, RecordMeta),
    ) -> bool {
        let route = Arc::clone(&delayed.late);
        let Some(at_once) = &delayed.at_once else {
            let header = Some(late.header.as_slice());
            return self.push(channel, confirm, route, content, header, late.meta(meta));
        };
        let message = build(content, rewritten, meta);
        let place = self.place(late.message(&message), true);
        self.push_item(channel, false, true, &route, place);
        // Its confirm, or the refusal of a queue, speaks for both.
        let place = self.place(message, at_once.stores(meta.persistent));
        self.push_item(channel, confirm, true, at_once, place)
    }

    /// Copies a message to others of its kind, unless it is large.
    fn place(&mut self, message: Message, stored: bool) -> Place {
        if message.record_len() >= OWN_CHUNK_FROM {
            let message = if stored { message.sealed() } else { message };
            self.own.push(message);
            return Place::Own {
                index: position_of(self.own.len() - 1),
                stored,
            };
        }
        let buffer = self.buffer(stored);
        let start = buffer.len();
        buffer.extend_from_slice(message.record());
        self.finish(stored, start)
    }

    /// Where records go that the log writes, or those that it does not.
    const fn buffer(&mut self, stored: bool) -> &mut Vec<u8> {
        if stored {
            &mut self.stored
        } else {
            &mut self.transient
        }
    }

    /// Ends the record that begins at `start` of its buffer.
    fn finish(&mut self, stored: bool, start: usize) -> Place {
        let buffer = self.buffer(stored);
        if stored {
            message::finish(buffer, start);
        }
        let (offset, len) = (position_of(start), position_of(buffer.len() - start));
        if stored {
            Place::Stored { offset, len }
        } else {
            Place::Transient { offset, len }
        }
    }

    fn push_item(
        &mut self,
        channel: ChannelId,
        confirm: bool,
        waits: bool,
        route: &Arc<Route>,
        place: Place,
    ) -> bool {
        if route.ids.is_some() {
            self.ids.clone_from(&route.ids);
        }
        let route = self.route_index(Arc::clone(route));
        self.items.push(Item {
            place,
            route,
            channel,
            confirm,
            waits,
        });
        self.stored.len() + self.transient.len() >= BATCH_BYTES_MAX
            || self.items.len() >= BATCH_MESSAGES_MAX
            || !self.own.is_empty()
    }

    /// The records that go to the log, in one piece. Those of one route lie together, so that each queue's are one run in the log and
    /// are read back in one go.
    fn take_stored(&mut self) -> Bytes {
        let stored = if self.routes.len() > 1 {
            self.stored_by_route()
        } else {
            Bytes::copy_from_slice(&self.stored)
        };
        self.stored.clear();
        stored
    }

    fn stored_by_route(&mut self) -> Bytes {
        let mut starts = vec![0usize; self.routes.len()];
        for item in &self.items {
            if let Place::Stored { len, .. } = item.place {
                starts[item.route as usize] += len as usize;
            }
        }
        let mut end = 0;
        for start in &mut starts {
            end += std::mem::replace(start, end);
        }
        let mut arranged = vec![0; end];
        for item in &mut self.items {
            if let Place::Stored { offset, len } = &mut item.place {
                let from = *offset as usize..(*offset + *len) as usize;
                let start = &mut starts[item.route as usize];
                let to = *start..*start + *len as usize;
                *offset = position_of(*start);
                *start = to.end;
                arranged[to].copy_from_slice(&self.stored[from]);
            }
        }
        Bytes::from(arranged)
    }

    /// Notes a message that reaches no queue, for its confirm.
    fn unroutable(&mut self, confirm: bool, channel: ChannelId, route: &Arc<Route>) {
        if confirm {
            let route = self.route_index(Arc::clone(route));
            self.items.push(Item {
                place: Place::Nowhere,
                route,
                channel,
                confirm,
                waits: false,
            });
        }
    }

    fn route_index(&mut self, route: Arc<Route>) -> u32 {
        if self
            .routes
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, &route))
        {
            return position_of(self.routes.len() - 1);
        }
        let next = position_of(self.routes.len());
        // The batch keeps its routes alive: no two of them share an address.
        let known = *self
            .known
            .entry(Arc::as_ptr(&route) as usize)
            .or_insert(next);
        if known == next {
            self.routes.push(route);
        }
        known
    }
}

fn position_of(of: usize) -> u32 {
    u32::try_from(of).expect("a batch is far smaller than 4 GiB")
}

fn body_len(body: &[u8]) -> u32 {
    u32::try_from(body.len()).expect("a body is at most 512 MiB")
}

/// The message on its own.
fn build(content: Content<'_>, rewritten: Option<&[u8]>, meta: RecordMeta) -> Message {
    match (content, rewritten) {
        (Content::Assembled(assembled), None) => assembled.into_message(meta),
        (content, rewritten) => {
            let header = rewritten.unwrap_or_else(|| content.header());
            Message::build(
                meta,
                content.exchange(),
                content.routing_key(),
                header,
                content.body(),
            )
        }
    }
}

impl Publisher {
    /// Forgets what was checked under rights that may have changed.
    fn know_rights(&mut self, generation: u64) {
        if self.rights != generation {
            self.rights = generation;
            self.routes.clear();
            self.last = None;
            self.plain.clear();
        }
    }

    fn set_key(&mut self, exchange: &[u8], routing_key: &[u8]) {
        self.key.clear();
        self.key
            .push(u8::try_from(exchange.len()).unwrap_or(u8::MAX));
        self.key.extend_from_slice(exchange);
        self.key.extend_from_slice(routing_key);
    }

    /// The route for the key set, if it is known and still true.
    fn cached(&mut self) -> Option<Arc<Route>> {
        if let Some((key, route)) = &self.last
            && *key == self.key
            && route.is_current()
        {
            return Some(Arc::clone(route));
        }
        let route = self.routes.get(self.key.as_slice())?;
        if !route.is_current() {
            self.routes.remove(self.key.as_slice());
            return None;
        }
        let route = Arc::clone(route);
        self.remember_last(&route);
        Some(route)
    }

    fn remember_last(&mut self, route: &Arc<Route>) {
        match &mut self.last {
            Some((key, last)) => {
                key.clone_from(&self.key);
                *last = Arc::clone(route);
            }
            None => self.last = Some((self.key.clone(), Arc::clone(route))),
        }
    }

    fn resolve(
        &mut self,
        exchange: &[u8],
        routing_key: &[u8],
        checked: &Checked<'_>,
        vhost: &Vhost,
        limits: &Limits,
    ) -> Result<Arc<Route>, Violation> {
        let name = exchange_name(exchange, vhost)?;
        if name.is_empty()
            && let Some(token) = reply_token(routing_key)
        {
            return Ok(Arc::new(Route {
                reply_token: Some(token.into()),
                ..Route::to(Vec::new(), Vec::new())
            }));
        }
        let mut keys = vec![routing_key];
        keys.extend(checked.extra_keys.iter().map(Vec::as_slice));
        let lazy = LazyProperties::new(&checked.properties, limits);
        let input = RouteInput {
            keys: &keys,
            properties: &lazy,
        };
        self.scratch.clear();
        let table = vhost.table.read();
        table.route(name, &input, &mut self.scratch)?;
        let ids = self
            .scratch
            .deduplicates
            .then(|| vhost.ids_of(name))
            .flatten();
        let exchange = tally(&mut self.exchanges, name, vhost);
        drop(table);
        let queues = self.scratch.queues.drain(..).map(|queue| queue.0).collect();
        let cacheable = self.scratch.cacheable && checked.extra_keys.is_empty();
        let stamps = std::mem::take(&mut self.scratch.stamps);
        let route = Arc::new(Route::through(
            queues,
            self.scratch.waiting,
            stamps,
            ids,
            exchange,
        ));
        if cacheable {
            if self.routes.len() >= CACHED_ROUTES_MAX {
                self.routes.clear();
            }
            self.routes
                .insert(self.key.as_slice().into(), Arc::clone(&route));
            self.remember_last(&route);
        }
        Ok(route)
    }
}

/// The connection's tally of an exchange. Call it under the table's lock.
fn tally(
    known: &mut HashMap<Box<str>, Arc<ExchangeTally>, foldhash::fast::FixedState>,
    exchange: &str,
    vhost: &Vhost,
) -> Arc<ExchangeTally> {
    if let Some(tally) = known.get(exchange)
        && tally.is_current()
    {
        return Arc::clone(tally);
    }
    if known.len() >= COUNTED_EXCHANGES_MAX {
        known.clear();
    }
    let tally = Arc::new(vhost.exchange_stats(exchange).open());
    known.insert(exchange.into(), Arc::clone(&tally));
    tally
}

/// A reply's routing key, if its token has the form that [`Broker::draw_name`] gives it.
pub(crate) fn reply_token(routing_key: &[u8]) -> Option<&str> {
    let token = routing_key
        .strip_prefix(REPLY_TO.as_bytes())?
        .strip_prefix(b".")?;
    let is_drawn = token.len() == DRAWN_LEN
        && token
            .iter()
            .all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(octet));
    std::str::from_utf8(routing_key).ok().filter(|_| is_drawn)
}

fn exchange_name<'a>(exchange: &'a [u8], vhost: &Vhost) -> Result<&'a str, Violation> {
    std::str::from_utf8(exchange).map_err(|_| {
        let text = format!(
            "no exchange '{}' in vhost '{}'",
            String::from_utf8_lossy(exchange),
            vhost.name
        );
        Violation::channel(SoftError::NotFound, text)
    })
}

/// The checks on the exchange: permission, existence, internal (`spec: errors §8`).
fn check_target(exchange: &[u8], vhost: &Vhost, login: &super::LoggedIn) -> Result<(), Violation> {
    let name = exchange_name(exchange, vhost)?;
    login.user.check(Right::Write, Resource::Exchange(name))?;
    vhost.table.read().check_publish(name)
}

/// The topic permissions, for each key the message is routed by.
fn check_topics(
    exchange: &[u8],
    routing_key: &[u8],
    extra_keys: &[Vec<u8>],
    login: &super::LoggedIn,
) -> Result<(), Violation> {
    if !login.user.has_topics() {
        return Ok(());
    }
    let vhost = &login.vhost;
    let name = exchange_name(exchange, vhost)?;
    let is_topic = |exchange: &mamba_routing::Exchange| &*exchange.spec().kind == TOPIC;
    if !vhost.table.read().exchange(name).is_some_and(is_topic) {
        return Ok(());
    }
    let extra = extra_keys.iter().map(Vec::as_slice);
    for key in std::iter::once(routing_key).chain(extra) {
        let key = String::from_utf8_lossy(key);
        login.user.check_topic(TopicRight::Write, name, &key)?;
    }
    Ok(())
}

/// The user-id, if there is one, has to be the connection's user.
fn check_user_id(user_id: Option<&[u8]>, login: &super::LoggedIn) -> Result<(), Violation> {
    match user_id {
        Some(user_id) if user_id != login.user.name.as_bytes() && !login.user.impersonator() => {
            let claimed = String::from_utf8_lossy(user_id);
            Err(precondition(format!(
                "user_id property set to '{claimed}' but authenticated user was '{}'",
                login.user.name
            )))
        }
        _ => Ok(()),
    }
}

/// The checks on the properties: reply-to, expiration, CC and BCC, in that order.
fn check_properties<'a>(
    header: &'a [u8],
    broker: &Broker,
    reply: Option<&ReplyConsumer>,
) -> Result<Checked<'a>, Violation> {
    let limits = &broker.config.limits;
    let content = content_header(header).map_err(|error| error.violation())?;
    let properties =
        scan_properties(content.properties, limits).map_err(|error| error.violation())?;
    let mut change = HeaderChange::default();
    if properties.reply_to == Some(REPLY_TO.as_bytes()) {
        match reply {
            Some(reply) => change.reply_to = Change::Set(reply.token.as_bytes()),
            None => {
                return Err(precondition(
                    "fast reply consumer does not exist".to_owned(),
                ));
            }
        }
    }
    let expiration_ms = properties.expiration.map(check_expiration).transpose()?;
    let mut extra_keys = Vec::new();
    let mut without_bcc = None;
    if let Some(headers) = properties.headers {
        extra_keys_of(headers, "CC", limits, &mut extra_keys)?;
        if extra_keys_of(headers, "BCC", limits, &mut extra_keys)? {
            without_bcc = Some(encoded_without_bcc(headers, limits)?);
        }
    }
    let normalised = match (&without_bcc, properties.headers) {
        (None, Some(headers)) if !is_normal(headers) => {
            Some(encode_table(&parsed(headers, limits)?))
        }
        _ => None,
    };
    if let Some(headers) = without_bcc.as_ref().or(normalised.as_ref()) {
        change.headers = Change::Set(headers);
    }
    let rewritten = (change.reply_to != Change::Keep
        || change.headers != Change::Keep
        || properties.reserved_flags)
        .then(|| rewrite_header(header, &change));
    Ok(Checked {
        meta: RecordMeta {
            persistent: properties.persistent(),
            priority: properties.priority,
            dead_lettered: false,
            expiration_ms,
            accepted_at_ms: 0,
            not_before: false,
            died: None,
        },
        plain: rewritten.is_none() && extra_keys.is_empty(),
        properties,
        extra_keys,
        rewritten,
    })
}

/// Collects the routing keys of a CC or BCC header; whether the header is there.
fn extra_keys_of(
    headers: &[u8],
    name: &str,
    limits: &Limits,
    keys: &mut Vec<Vec<u8>>,
) -> Result<bool, Violation> {
    let Some(value) = table_get(headers, name.as_bytes()) else {
        return Ok(false);
    };
    let Ok(FieldValue::FieldArray(array)) = value.value(limits) else {
        return Err(precondition(format!(
            "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
            value.type_word()
        )));
    };
    for item in array.as_slice() {
        if let FieldValue::LongString(key) = item {
            keys.push(key.as_bytes().to_vec());
        }
    }
    Ok(true)
}

fn parsed(headers: &[u8], limits: &Limits) -> Result<FieldTable, Violation> {
    parse_table(headers, limits).map_err(|error| {
        Violation::connection(HardError::SyntaxError, format!("message headers: {error}"))
    })
}

/// Whether headers already look as they go out: sorted by name, each name once, small `l`, booleans 0 or 1
/// (`spec: wire §11`). Looks at the outermost table only.
fn is_normal(headers: &[u8]) -> bool {
    let mut before: Option<&[u8]> = None;
    table_entries(headers).all(|(name, value)| {
        let rises = before.is_none_or(|before| before < name);
        before = Some(name);
        let is_plain = match value.tag {
            b'L' => false,
            b't' => matches!(value.octets, [0 | 1]),
            _ => true,
        };
        rises && is_plain
    })
}

fn encoded_without_bcc(headers: &[u8], limits: &Limits) -> Result<Vec<u8>, Violation> {
    let mut kept = FieldTable::default();
    for (key, value) in &parsed(headers, limits)? {
        if key.as_str() != "BCC" {
            kept.insert(ShortString::from(key.as_str()), value.clone());
        }
    }
    Ok(encode_table(&kept))
}

/// `expiration` as milliseconds: a decimal number (`spec: semantics §7`).
fn check_expiration(octets: &[u8]) -> Result<u64, Violation> {
    let text = String::from_utf8_lossy(octets);
    let invalid = |reason: String| {
        Err(precondition(format!(
            "invalid expiration '{text}': {reason}"
        )))
    };
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let end = digits
        .iter()
        .position(|digit| !digit.is_ascii_digit())
        .unwrap_or(digits.len());
    if end == 0 {
        return invalid("no_integer".to_owned());
    }
    let (number, rest) = digits.split_at(end);
    if !rest.is_empty() {
        return invalid(format!(
            "{{leftover_string,\"{}\"}}",
            String::from_utf8_lossy(rest)
        ));
    }
    let number = String::from_utf8_lossy(number);
    let number = number.trim_start_matches('0');
    let number = if number.is_empty() { "0" } else { number };
    if negative && number != "0" {
        return invalid(format!("{{value_negative,-{number}}}"));
    }
    match number.parse::<u64>() {
        Ok(milliseconds) if milliseconds <= EXPIRATION_MAX_MS => Ok(milliseconds),
        _ => invalid(format!("{{value_too_large,{number}}}")),
    }
}
