//! The real broker beside the model: both are told the same, then compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use mamba_broker::{
    Broker, BrokerConfig, Now,
    peek::{PEEK_MESSAGES_MAX, PeekedMessage},
};
use mamba_codec::{AMQPClass, content_header, protocol, scan_properties, table as parse_table};
use mamba_policy::Scope;
use mamba_sim::{
    client::{Client, Delivered, Heard, Publish, table},
    disk::{Crash, SimDisk},
};
use mamba_store::Store;
use mamba_types::{FieldTable, FieldValue, Limits};
use proptest::sample::Index;
use protocol::{basic, confirm, exchange, queue, tx};
use serde_json::{Value, json};

use crate::model::{
    Consumer, DEAD, Entry, Got, How, KIND, LATER, MAIN, Message, Model, ONCE, ONCE_TTL, Observed,
    Overflow, Policy, REST, Seen, Spec, Targets, Wrong,
};

const START_MS: u64 = 1_700_000_000_000;
/// Turns after which everything must have come to rest.
const TURNS_MAX: usize = 1000;
/// Turns until a node dies whose disk did nothing.
const CRASH_TURNS_MAX: usize = 12;
/// Octets of a body at least: its number.
pub(crate) const BODY_MIN: usize = 8;
/// What messages may be known by, to those that take each once.
pub(crate) const IDS: u64 = 8;

/// Where a message is published to.
#[derive(Clone, Debug)]
pub(crate) enum To {
    /// The queue of that number.
    Queue(usize),
    /// The direct exchange, with the key of that number; its alternate exchange takes the rest.
    Main(usize),
    /// The fanout exchange.
    Rest,
    /// The exchange of delayed messages, to be ready after so long.
    Later(Option<u64>),
    /// The exchange that takes each message once.
    Once,
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Publish {
        client: usize,
        to: To,
        count: usize,
        persistent: bool,
        priority: Option<u8>,
        expiration: Option<u64>,
        size: usize,
        /// A queue in the CC header.
        cc: Option<usize>,
        /// It comes with headers, among them made-up deaths.
        headers: bool,
        /// What filters ask for.
        kind: i64,
        /// What the first one is known by; each has the number after that of the one before last.
        once: Option<u64>,
    },
    Consume {
        client: usize,
        queue: usize,
        no_ack: bool,
        exclusive: bool,
        prefetch: u16,
        priority: i64,
        /// Wants messages of this kind only.
        filter: Option<i64>,
    },
    Cancel(Index),
    Get {
        client: usize,
        queue: usize,
        no_ack: bool,
    },
    Settle {
        pick: Index,
        multiple: bool,
        how: How,
    },
    Recover(usize),
    /// What a client has published and settled since the last time happens, if it is one with transactions.
    Commit(usize),
    Rollback(usize),
    Leave(usize),
    Purge(usize),
    Delete(usize),
    Declare(usize),
    Pass(u64),
    /// The node is down for so long.
    Restart(u64),
    /// The node dies while a client settles one message and another publishes.
    Crash {
        settle: Option<(usize, How)>,
        publishes: Vec<Self>,
        /// So many calls of the disk after the work has begun.
        calls: u64,
        how: Crash,
    },
    Maintain,
    SetPolicy(Policy),
    ClearPolicy {
        operator: bool,
        name: String,
    },
}

/// How a world is made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) specs: Vec<Spec>,
    /// Octets of messages in memory.
    pub(crate) memory: usize,
    pub(crate) log_file_size: u64,
    /// Octets of all bodies. Without, they differ, and the node is never stopped: after a start, the octets of messages that came
    /// together and of which some are gone are an estimate until they are read.
    pub(crate) size: Option<usize>,
    /// Consumers may have filters. What dies behind others dies in the order in which filters come to it, so there are no dead letters.
    pub(crate) filters: bool,
    /// Half of the clients use transactions.
    pub(crate) transactions: bool,
    /// Ids are forgotten when there are too many, and all of them outlive the node. Otherwise there is room for all: which id had gone
    /// when the node stopped depends on when the log wrote them all down.
    pub(crate) few_ids: bool,
}

impl Plan {
    /// Whether a queue's messages come back from the disk in parts, and so die in parts. Where their letters go then differs from
    /// what happens when all die at once: such a world has none.
    fn reads_in_parts(&self) -> bool {
        self.memory == 0 && self.size.is_none_or(|size| size > 100)
    }

    fn has_dead_letters(&self) -> bool {
        !self.reads_in_parts() && !self.filters
    }

    fn without_what_differs(mut self) -> Self {
        let has_dead_letters = self.has_dead_letters();
        for spec in &mut self.specs {
            spec.dead_letters.take_if(|_| !has_dead_letters);
            if let Some(once) = spec.once.as_mut().filter(|_| !self.few_ids) {
                once.size = 1000;
            }
        }
        self
    }
}

impl World {
    /// Two clients work, and the node dies. What is there afterwards has to be what some moment in between would have left, as far as
    /// confirms say no more; from there the model goes on.
    fn crash(
        &mut self,
        settle: Option<(usize, How)>,
        publishes: &[Command],
        calls: u64,
        how: Crash,
    ) -> Result<(), Wrong> {
        self.all_leave()?;
        if let Some((queue, _)) = settle {
            let get = Command::Get {
                client: queue,
                queue,
                no_ack: false,
            };
            self.run(&get)?;
        }
        // The model at each moment a crash can go back to.
        let mut moments = vec![self.model.clone()];
        let mut confirmed_at = Vec::new();
        let mut published = 0;
        for publish in publishes {
            let (_, messages, said) = self.make(publish)?;
            self.session(0)?.client.publish_together(&said, ());
            let range = published..published + said.len();
            published = range.end;
            // What reaches a stored queue only as a dead letter of one in memory is not what a confirm is about.
            let targets = self.model.targets(&messages[0]);
            let mut queues = targets.iter().map(|(name, _)| &self.model.queues[name]);
            let stored = queues.all(|queue| messages.iter().all(|one| queue.stores(one)));
            confirmed_at.push((range, stored && !targets.is_empty()));
            let ids = messages.iter().filter_map(|message| message.once);
            self.doubtful_ids.extend(ids);
            let mut after = moments[moments.len() - 1].clone();
            after.publish(&messages, &mut Observed::new())?;
            moments.push(after);
        }
        let held = self.model.held.first_key_value();
        if let Some(((&(client, tag), _), (_, settled))) = held.zip(settle) {
            let method = match settled {
                How::Ack => basic::AMQPMethod::Ack(basic::Ack {
                    delivery_tag: tag,
                    multiple: false,
                }),
                _ => basic::AMQPMethod::Reject(basic::Reject {
                    delivery_tag: tag,
                    requeue: false,
                }),
            };
            let settled = if settled == How::Ack {
                How::Ack
            } else {
                How::Discard
            };
            self.session(client)?
                .client
                .say(&AMQPClass::Basic(method), ());
            let mut after = moments[moments.len() - 1].clone();
            after.settle(client, &[tag], settled, &mut Observed::new())?;
            moments.push(after);
        }
        self.disk.crash_at(Some(self.disk.calls() + calls));
        // A nack promises nothing of the queues that took the message.
        let mut acked = vec![None; published];
        for _ in 0..CRASH_TURNS_MAX {
            self.disk.pass(Duration::from_millis(10));
            let now = self.now();
            let Some(broker) = &self.broker else { break };
            broker.store().turn();
            broker.page_in_once();
            for session in self.sessions.values_mut() {
                session.client.feed(usize::MAX, now);
                for heard in session.client.hear(now) {
                    if let Heard::Confirm {
                        tag,
                        multiple,
                        nack,
                    } = heard
                    {
                        let last = usize::try_from(tag).map_err(|_| "a tag of ages")?;
                        let first = if multiple { 0 } else { last - 1 };
                        for one in &mut acked[first..last] {
                            one.get_or_insert(!nack);
                        }
                    }
                }
            }
            if self.disk.is_off() {
                break;
            }
        }
        self.disk.cut();
        self.sessions.clear();
        self.broker = None;
        self.disk.crash(how);
        self.start()?;
        self.rest()?;
        self.crashes += 1;
        let is_certain = |(range, stored): &(Range<usize>, bool)| {
            *stored
                && acked[range.clone()]
                    .iter()
                    .all(|acked| *acked == Some(true))
        };
        let certain = confirmed_at.iter().rposition(is_certain);
        let certain = certain.map_or(0, |at| at + 1);
        let now = self.now().unix_ms;
        let moments = moments.split_off(certain);
        let mut after = Vec::new();
        for mut moment in moments {
            moment.crash(now)?;
            after.push(moment);
        }
        if after.iter().any(|moment| moment.is_beyond) {
            self.model.is_beyond = true;
            return Ok(());
        }
        let mut found = BTreeMap::new();
        for name in after[0].queues.keys() {
            found.insert(name.clone(), self.found(name)?);
        }
        self.model = Model::found_after_crash(after, found)?;
        let waits = self.compare(&Observed::new());
        waits.map_err(|wrong| format!("after a crash: {wrong}"))
    }

    /// What is ready in a queue, without touching it.
    fn found(&self, name: &str) -> Result<Vec<Entry>, Wrong> {
        let page = self.broker()?.peek("/", name, 0, PEEK_MESSAGES_MAX);
        let page = page.map_err(|error| error.to_string())?;
        if page.ready != page.messages.len() as u64 {
            return Err(format!("{name} says it has {}: {page:?}", page.ready));
        }
        let entry = |peeked: PeekedMessage| {
            let PeekedMessage {
                message,
                redelivered,
                returns,
                ..
            } = peeked;
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            let header = content_header(message.header()).map_err(|error| format!("{error:?}"))?;
            let seen = seen(&Delivered {
                tag: 0,
                redelivered,
                exchange: text(message.exchange()),
                routing_key: text(message.routing_key()),
                properties: header.properties.to_vec(),
                body: message.body().to_vec(),
            })?;
            let once = seen.headers.inner().get("x-deduplication-header");
            let once = once.and_then(mamba_types::table::integer);
            Ok(Entry {
                message: Message {
                    id: seen.id,
                    exchange: seen.exchange,
                    key: seen.key,
                    persistent: seen.persistent,
                    priority: seen.priority,
                    expiration: seen.expiration,
                    headers: seen.headers,
                    size: seen.size,
                    at: message.accepted_at_ms(),
                    delay: None,
                    once: once.and_then(|id| u64::try_from(id).ok()),
                    dead_lettered: message.dead_lettered(),
                },
                arrival: 0,
                returned: None,
                returns,
                redelivered,
                ttl: None,
            })
        };
        page.messages.into_iter().map(entry).collect()
    }
}

struct Session {
    client: Client<()>,
    published: u64,
    /// The last delivery tag.
    last_tag: u64,
    /// With transactions: what is not committed, in order.
    uncommitted: Option<Vec<Uncommitted>>,
}

/// What waits for a commit.
#[derive(Clone, Debug)]
enum Uncommitted {
    Publish(Message, Targets),
    Settle(Vec<u64>, How),
}

impl Session {
    /// Whether a delivery is answered, if only for a commit.
    fn has_answered(&self, tag: u64) -> bool {
        let uncommitted = self.uncommitted.iter().flatten();
        uncommitted
            .into_iter()
            .any(|one| matches!(one, Uncommitted::Settle(tags, _) if tags.contains(&tag)))
    }

    fn has_published(&self) -> bool {
        let mut uncommitted = self.uncommitted.iter().flatten();
        uncommitted.any(|one| matches!(one, Uncommitted::Publish(..)))
    }
}

pub(crate) struct World {
    plan: Plan,
    disk: SimDisk,
    broker: Option<Arc<Broker>>,
    started: Instant,
    passed: u64,
    sessions: BTreeMap<usize, Session>,
    model: Model,
    next_id: u64,
    next_tag: u64,
    nacked: u64,
    timed_out: u64,
    crashes: u64,
    /// Ids of which nobody knows whether they have been seen, since a crash.
    doubtful_ids: BTreeSet<u64>,
}

/// What was heard besides deliveries.
type Replies = Vec<(usize, Heard)>;

fn body_of(id: u64, size: usize) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    body.resize(size, id.to_le_bytes()[0]);
    body
}

fn seen(delivered: &Delivered) -> Result<Seen, Wrong> {
    let broken = || format!("what came is broken: {delivered:?}");
    let limits = Limits::default();
    let properties = scan_properties(&delivered.properties, &limits).map_err(|_| broken())?;
    let headers = match properties.headers {
        Some(headers) => parse_table(headers, &limits).map_err(|_| broken())?,
        None => FieldTable::default(),
    };
    let expiration = properties.expiration.map(|octets| {
        let text = std::str::from_utf8(octets).ok()?;
        text.parse().ok()
    });
    let id = delivered.body.first_chunk().ok_or_else(broken)?;
    let id = u64::from_le_bytes(*id);
    if delivered.body != body_of(id, delivered.body.len()) {
        return Err(broken());
    }
    Ok(Seen {
        id,
        size: delivered.body.len(),
        exchange: delivered.exchange.clone(),
        key: delivered.routing_key.clone(),
        persistent: properties.delivery_mode == Some(2),
        priority: properties.priority,
        expiration: expiration
            .map(|parsed| parsed.ok_or_else(broken))
            .transpose()?,
        headers,
        redelivered: delivered.redelivered,
    })
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the beginning; only differences are looked at"
    )]
    pub(crate) fn new(plan: Plan) -> Result<Self, Wrong> {
        let mut world = Self {
            plan: plan.without_what_differs(),
            disk: SimDisk::new(1),
            broker: None,
            started: Instant::now(),
            passed: 0,
            sessions: BTreeMap::new(),
            model: Model::new(START_MS),
            next_id: 1,
            next_tag: 1,
            nacked: 0,
            timed_out: 0,
            crashes: 0,
            doubtful_ids: BTreeSet::new(),
        };
        world.model.in_parts = world.plan.memory == 0;
        world.start()?;
        world.say(0, &exchange_declare(ONCE, "fanout", None))?;
        world.say(0, &exchange_declare(REST, "fanout", None))?;
        world.say(0, &exchange_declare(MAIN, "direct", Some(REST)))?;
        world.say(0, &exchange_declare(DEAD, "fanout", None))?;
        world.say(0, &exchange_declare(LATER, "x-delayed-message", None))?;
        for index in 0..world.plan.specs.len() {
            world.run(&Command::Declare(index))?;
        }
        Ok(world)
    }

    fn now(&self) -> Now {
        Now {
            instant: self.started + Duration::from_millis(self.passed),
            unix_ms: START_MS + self.passed,
        }
    }

    fn broker(&self) -> Result<&Arc<Broker>, Wrong> {
        self.broker.as_ref().ok_or_else(|| "no broker".to_owned())
    }

    fn start(&mut self) -> Result<(), Wrong> {
        let mut config = BrokerConfig::new(PathBuf::from("/data"));
        config.log_file_size = self.plan.log_file_size;
        config.message_memory = self.plan.memory;
        let disk = Arc::new(self.disk.clone());
        let opened = Broker::open_on(
            config,
            |config| Store::open_manual(config, disk),
            7,
            self.now().unix_ms,
        );
        self.broker = Some(opened.map_err(|error| format!("the broker does not start: {error}"))?);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Wrong> {
        let broker = self.broker.take().ok_or("no broker")?;
        if !broker.stop() {
            return Err("the broker did not stop cleanly".to_owned());
        }
        drop(broker);
        self.disk.crash(Crash::Power);
        Ok(())
    }

    /// The client of that number, connected if it is not.
    fn session(&mut self, number: usize) -> Result<&mut Session, Wrong> {
        if !self.sessions.contains_key(&number) {
            let broker = self.broker()?;
            let client = Client::connect(broker, self.now()).ok_or("nobody can connect")?;
            let session = Session {
                client,
                published: 0,
                last_tag: 0,
                uncommitted: None,
            };
            self.sessions.insert(number, session);
            let now = self.now().unix_ms;
            self.model.began.insert(number, now);
            if self.plan.transactions && number >= self.plan.specs.len() {
                self.say(
                    number,
                    &AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})),
                )?;
                self.session(number)?.uncommitted = Some(Vec::new());
            } else {
                let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
                self.say(number, &AMQPClass::Confirm(select))?;
            }
        }
        let session = self.sessions.get_mut(&number);
        session.ok_or_else(|| "no session".to_owned())
    }

    /// Says one thing and lets everything come to rest. Returns the deliveries and the other things heard.
    fn say(&mut self, client: usize, method: &AMQPClass) -> Result<(Observed, Replies), Wrong> {
        self.session(client)?.client.say(method, ());
        self.rest()
    }

    /// Several clients say one thing each before the broker gets to anything else. The model hears nothing of it. Returns the deliveries.
    pub(crate) fn say_at_once(&mut self, said: &[(usize, AMQPClass)]) -> Result<Observed, Wrong> {
        for (client, _) in said {
            self.session(*client)?;
        }
        for (client, method) in said {
            self.session(*client)?.client.say(method, ());
        }
        Ok(self.rest()?.0)
    }

    /// Lets the broker do what it has to do, until nothing happens any more.
    fn rest(&mut self) -> Result<(Observed, Replies), Wrong> {
        let now = self.now();
        let (mut observed, mut replies) = (Observed::new(), Replies::new());
        for _ in 0..TURNS_MAX {
            // What nobody waits for is written after a while.
            self.disk.pass(Duration::from_millis(10));
            let mut idle = match &self.broker {
                Some(broker) => !(broker.store().turn() | broker.page_in_once()),
                None => true,
            };
            for (number, session) in &mut self.sessions {
                idle &= session.client.feed(usize::MAX, now).is_empty();
                for heard in session.client.hear(now) {
                    idle = false;
                    if let Heard::Deliver { message, .. } | Heard::GetOk { message, .. } = &heard {
                        session.count(message)?;
                    }
                    match heard {
                        Heard::Deliver {
                            consumer_tag,
                            message,
                        } => {
                            let tag = consumer_tag.trim_start_matches('c').parse();
                            let tag = tag.map_err(|_| format!("an unknown tag {consumer_tag}"))?;
                            let got = got(&message)?;
                            observed.entry((*number, tag)).or_default().push_back(got);
                        }
                        other => replies.push((*number, other)),
                    }
                }
            }
            if idle {
                return Ok((observed, replies));
            }
        }
        Err("the broker never comes to rest".to_owned())
    }

    /// Everything a command has come to must be what the model says.
    fn compare(&self, observed: &Observed) -> Result<(), Wrong> {
        if let Some((lane, got)) = observed.iter().find(|(_, got)| !got.is_empty()) {
            return Err(format!("{lane:?} got what was not due: {got:?}"));
        }
        self.model.check()?;
        let vhost = self.broker()?.vhost("/").ok_or("no virtual host")?;
        let there: Vec<String> = vhost.queues().iter().map(|q| q.name.to_string()).collect();
        let due: Vec<&String> = self.model.queues.keys().collect();
        if there.iter().collect::<Vec<_>>() != due {
            return Err(format!("queues {there:?} are there, not {due:?}"));
        }
        for (name, queue) in &self.model.queues {
            let cell = vhost.queue(name).ok_or("it was just there")?;
            let counts = cell.counts();
            let out = queue.out.iter().map(|out| out.entry.message.size as u64);
            let waiting = queue.waiting.iter();
            let waiting = waiting.map(|waiting| waiting.message.size as u64);
            let due = [
                queue.ready.len() as u64,
                queue.out.len() as u64,
                queue.bytes(),
                out.sum(),
                queue.consumers.len() as u64,
                queue.waiting.len() as u64,
                waiting.sum(),
            ];
            let there = [
                counts.ready,
                counts.unacked,
                counts.ready_bytes,
                counts.unacked_bytes,
                counts.consumers,
                counts.delayed,
                counts.delayed_bytes,
            ];
            if there != due {
                return Err(format!(
                    "{name} has {there:?} (ready, unacked, their octets, consumers, delayed, their octets), not {due:?}: {queue:#?}"
                ));
            }
        }
        let (sleeps, due) = (self.broker()?.next_deadline(), self.model.next_deadline());
        if due.is_some() && sleeps.is_none_or(|sleeps| Some(sleeps) > due) {
            return Err(format!(
                "the broker sleeps until {sleeps:?}, but {due:?} is due"
            ));
        }
        Ok(())
    }

    fn name(&self, queue: usize) -> String {
        self.plan.specs[queue % self.plan.specs.len()].name.clone()
    }

    /// The queue's name, if it is there.
    fn known(&self, queue: usize) -> Option<String> {
        let name = self.name(queue);
        self.model.queues.contains_key(&name).then_some(name)
    }

    /// The client that does what this one was to do, when it is to hold deliveries of that queue. Each client holds those of one
    /// queue: which of several gets its messages back first is nobody's business.
    fn holder(&self, client: usize, queue: usize) -> usize {
        let queues = self.plan.specs.len();
        client / queues * queues + queue % queues
    }

    /// One command to both sides, and what is due then.
    pub(crate) fn run(&mut self, command: &Command) -> Result<(), Wrong> {
        let result = self.run_known(command);
        match self.model.is_beyond {
            true => Ok(()),
            false => result,
        }
    }

    fn run_known(&mut self, command: &Command) -> Result<(), Wrong> {
        if self.model.is_beyond {
            return Ok(());
        }
        self.run_one(command)?;
        let late = self.next_late().map(|(due, _)| due);
        let due = self.broker()?.next_deadline().into_iter().chain(late).min();
        if due.is_some_and(|due| due <= self.now().unix_ms) {
            self.pass(0)?;
        }
        Ok(())
    }

    fn run_one(&mut self, command: &Command) -> Result<(), Wrong> {
        let mut observed = Observed::new();
        match command.clone() {
            Command::Publish { .. } => observed = self.publish(command)?,
            Command::Consume {
                client,
                queue,
                no_ack,
                exclusive,
                prefetch,
                priority,
                filter,
            } => {
                let Some(name) = self.known(queue) else {
                    return Ok(());
                };
                let client = match no_ack {
                    true => client,
                    false => self.holder(client, queue),
                };
                if self.session(client)?.has_published() {
                    // If its transaction fails, what is on its way to it comes back unseen.
                    return Ok(());
                }
                let filter = filter.filter(|_| self.plan.filters);
                let mut arguments = vec![("x-priority", FieldValue::LongLongInt(priority))];
                if let Some(kind) = filter {
                    let expression = format!("headers.{KIND} = {kind}");
                    arguments.push(("x-filter", FieldValue::LongString(expression.into())));
                }
                let qos = basic::AMQPMethod::Qos(basic::Qos {
                    prefetch_count: prefetch,
                    global: false,
                });
                self.say(client, &AMQPClass::Basic(qos))?;
                self.next_tag += 1;
                let tag = self.next_tag;
                let consume = basic::AMQPMethod::Consume(basic::Consume {
                    queue: name.as_str().into(),
                    consumer_tag: format!("c{tag}").into(),
                    no_ack,
                    exclusive,
                    arguments: table(&arguments),
                    ..basic::Consume::default()
                });
                (observed, _) = self.say(client, &AMQPClass::Basic(consume))?;
                let consumer = Consumer {
                    client,
                    tag,
                    no_ack,
                    exclusive,
                    prefetch,
                    priority,
                    filter,
                    retired: false,
                };
                if !self.model.consume(&name, consumer, &mut observed)? {
                    let closed = self.session(client)?.client.closed().map(str::to_owned);
                    if !closed.is_some_and(|text| text.contains("in exclusive use")) {
                        return Err(format!("{name} took an exclusive consumer beside another"));
                    }
                    self.model.leave(client, &mut observed)?;
                    self.sessions.remove(&client);
                    self.rest()?;
                }
            }
            Command::Cancel(pick) => {
                let consumers: Vec<(usize, u64, String)> = self
                    .model
                    .queues
                    .values()
                    .flat_map(|queue| {
                        let name = &queue.spec.name;
                        let consumers = queue.consumers.iter();
                        consumers.map(|one| (one.client, one.tag, name.clone()))
                    })
                    .collect();
                if consumers.is_empty() {
                    return Ok(());
                }
                let (client, tag, name) = pick.get(&consumers).clone();
                let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
                    consumer_tag: format!("c{tag}").into(),
                    nowait: false,
                });
                (observed, _) = self.say(client, &AMQPClass::Basic(cancel))?;
                self.model.cancel(&name, tag, &mut observed)?;
            }
            Command::Get {
                client,
                queue,
                no_ack,
            } => {
                let Some(name) = self.known(queue) else {
                    return Ok(());
                };
                let Spec {
                    quorum,
                    single_active,
                    ..
                } = self.model.queues[&name].spec;
                if quorum && single_active {
                    return Ok(());
                }
                let client = match no_ack {
                    true => client,
                    false => self.holder(client, queue),
                };
                let get = basic::AMQPMethod::Get(basic::Get {
                    queue: name.as_str().into(),
                    no_ack,
                });
                let (mut deliveries, mut replies) = self.say(client, &AMQPClass::Basic(get))?;
                let came = match replies.pop() {
                    Some((_, Heard::GetOk { message, remaining })) => {
                        Some((got(&message)?, remaining))
                    }
                    Some((_, Heard::Method(class)))
                        if matches!(*class, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))) =>
                    {
                        None
                    }
                    other => return Err(format!("basic.get was answered with {other:?}")),
                };
                self.model
                    .get(&name, client, no_ack, came, &mut deliveries)?;
                observed = deliveries;
            }
            Command::Settle {
                pick,
                multiple,
                how,
            } => {
                let is_open = |(client, tag): &&(usize, u64)| {
                    let session = self.sessions.get(client);
                    session.is_none_or(|session| !session.has_answered(*tag))
                };
                let held: Vec<(usize, u64)> =
                    self.model.held.keys().filter(is_open).copied().collect();
                if held.is_empty() {
                    return Ok(());
                }
                let (client, tag) = *pick.get(&held);
                let is_settled = |(holder, other): &&(usize, u64)| {
                    *holder == client && (*other == tag || multiple && *other < tag)
                };
                let settled = held.iter().filter(is_settled);
                let tags: Vec<u64> = settled.map(|(_, tag)| *tag).collect();
                let method = match how {
                    How::Ack => basic::AMQPMethod::Ack(basic::Ack {
                        delivery_tag: tag,
                        multiple,
                    }),
                    How::Discard | How::Fail if !multiple => {
                        basic::AMQPMethod::Reject(basic::Reject {
                            delivery_tag: tag,
                            requeue: how == How::Fail,
                        })
                    }
                    // There is no reject of several.
                    How::Discard | How::Fail | How::Return => {
                        basic::AMQPMethod::Nack(basic::Nack {
                            delivery_tag: tag,
                            multiple,
                            requeue: how != How::Discard,
                        })
                    }
                };
                (observed, _) = self.say(client, &AMQPClass::Basic(method))?;
                let how = match how {
                    How::Fail if multiple => How::Return,
                    how => how,
                };
                match &mut self.session(client)?.uncommitted {
                    None => self.model.settle(client, &tags, how, &mut observed)?,
                    Some(uncommitted) => match uncommitted.last_mut() {
                        // Neighbours are settled in one step.
                        Some(Uncommitted::Settle(before, was)) if *was == how => {
                            before.extend(tags)
                        }
                        _ => uncommitted.push(Uncommitted::Settle(tags, how)),
                    },
                }
            }
            Command::Recover(client) if self.session(client)?.uncommitted.is_some() => {}
            Command::Commit(client) => observed = self.commit(client)?,
            Command::Rollback(client) => {
                let session = self.session(client)?;
                let Some(uncommitted) = &mut session.uncommitted else {
                    return Ok(());
                };
                uncommitted.clear();
                let rollback = AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}));
                let (deliveries, replies) = self.say(client, &rollback)?;
                observed = deliveries;
                expect(&replies, "RollbackOk")?;
                let late = self.next_late();
                if late.is_some_and(|(due, _)| due <= self.now().unix_ms) {
                    // What came back should have been settled by now.
                    self.lose_late(client, &mut observed)?;
                }
            }
            Command::Recover(client) => {
                let recover = basic::AMQPMethod::Recover(basic::Recover { requeue: true });
                (observed, _) = self.say(client, &AMQPClass::Basic(recover))?;
                let held = self
                    .model
                    .held
                    .keys()
                    .filter(|(holder, _)| *holder == client);
                let held: Vec<u64> = held.map(|(_, tag)| *tag).collect();
                self.model
                    .settle(client, &held, How::Return, &mut observed)?;
            }
            Command::Leave(client) => {
                if self.sessions.remove(&client).is_none() {
                    return Ok(());
                }
                (observed, _) = self.rest()?;
                self.model.leave(client, &mut observed)?;
            }
            Command::Purge(queue) => {
                let Some(name) = self.known(queue) else {
                    return Ok(());
                };
                let purge = queue::AMQPMethod::Purge(queue::Purge {
                    queue: name.as_str().into(),
                    nowait: false,
                });
                let (deliveries, replies) = self.say(0, &AMQPClass::Queue(purge))?;
                observed = deliveries;
                let count = self.model.purge(&name, &mut observed)?;
                expect(&replies, &format!("PurgeOk {{ message_count: {count} }}"))?;
            }
            Command::Delete(queue) => {
                let Some(name) = self.known(queue) else {
                    return Ok(());
                };
                let delete = queue::AMQPMethod::Delete(queue::Delete {
                    queue: name.as_str().into(),
                    ..queue::Delete::default()
                });
                let (_, replies) = self.say(0, &AMQPClass::Queue(delete))?;
                let count = self.model.delete(&name);
                expect(&replies, &format!("DeleteOk {{ message_count: {count} }}"))?;
            }
            Command::Declare(queue) => {
                let spec = self.plan.specs[queue % self.plan.specs.len()].clone();
                let is_new = !self.model.queues.contains_key(&spec.name);
                let (_, replies) = self.say(0, &declare(&spec))?;
                let (ready, consumers) = self.model.declare(&spec);
                let ok = format!("message_count: {ready}, consumer_count: {consumers}");
                expect(&replies, &ok)?;
                if is_new {
                    for (exchange, key) in &spec.bindings {
                        let bind = queue::AMQPMethod::Bind(queue::Bind {
                            queue: spec.name.as_str().into(),
                            exchange: exchange.as_str().into(),
                            routing_key: key.as_str().into(),
                            ..queue::Bind::default()
                        });
                        self.say(0, &AMQPClass::Queue(bind))?;
                    }
                }
            }
            Command::Pass(time) => self.pass(time)?,
            Command::Restart(_) if self.plan.size.is_none() => {}
            Command::Restart(time) => {
                self.all_leave()?;
                self.stop()?;
                // Which of several queues is the first to let go of what is over, after it was read back, is nobody's business.
                if self.model.queues_due(self.now().unix_ms + time) < 2 {
                    self.passed += time;
                }
                self.start()?;
                self.model.restart(self.now().unix_ms)?;
                self.rest()?;
            }
            Command::Crash { .. } if self.plan.size.is_none() => {}
            Command::Crash {
                settle,
                publishes,
                calls,
                how,
            } => self.crash(settle, &publishes, calls, how)?,
            Command::SetPolicy(mut policy) => {
                if !self.plan.has_dead_letters() {
                    policy.dead_letter_exchange = None;
                    policy.dead_letter_key = None;
                    // A policy says something.
                    policy.max_length.get_or_insert(5);
                }
                let (scope, json) = policy_json(&policy);
                let parsed = mamba_policy::Policy::from_json(scope, &policy.name, &json);
                let parsed = parsed.map_err(|error| error.to_string())?;
                let now = self.now().unix_ms;
                let set = self.broker()?.set_policy("/", parsed, now);
                set.map_err(|error| error.to_string())?;
                (observed, _) = self.rest()?;
                let id = (policy.operator, policy.name.clone());
                self.model
                    .set_policy((id.0, &id.1), Some(policy), &mut observed)?;
            }
            Command::ClearPolicy { operator, name } => {
                let (scope, now) = (scope(operator), self.now().unix_ms);
                // There may be none.
                let _ = self.broker()?.clear_policy("/", scope, &name, now);
                (observed, _) = self.rest()?;
                self.model
                    .set_policy((operator, &name), None, &mut observed)?;
            }
            Command::Maintain => {
                self.broker()?.maintain();
                (observed, _) = self.rest()?;
            }
        }
        self.compare(&observed)
    }

    fn all_leave(&mut self) -> Result<(), Wrong> {
        while let Some((client, session)) = self.sessions.pop_first() {
            drop(session);
            let (mut observed, _) = self.rest()?;
            self.model.leave(client, &mut observed)?;
            self.compare(&observed)?;
        }
        Ok(())
    }

    /// What a publish says: who publishes, the messages as they are in the model, and as they are said.
    pub(crate) fn make(
        &mut self,
        command: &Command,
    ) -> Result<(usize, Vec<Message>, Vec<Publish>), Wrong> {
        let Command::Publish {
            client,
            to,
            count,
            persistent,
            priority,
            expiration,
            size,
            cc,
            headers,
            kind,
            once,
        } = command
        else {
            return Err("no publish".to_owned());
        };
        let consumes = |client: usize| {
            let mut queues = self.model.queues.values();
            queues.any(|queue| queue.consumers.iter().any(|one| one.client == client))
        };
        // If a transaction fails, what is on its way to its client comes back unseen: one that consumes does not publish.
        let client = &match self.plan.transactions && consumes(*client) {
            true => *client % self.plan.specs.len(),
            false => *client,
        };
        let persistent = &(*persistent || self.plan.few_ids && once.is_some());
        let is_certain = |id: &u64| !self.doubtful_ids.contains(id);
        let delay = match to {
            To::Later(delay) => *delay,
            To::Queue(_) | To::Main(_) | To::Rest | To::Once => None,
        };
        let (exchange, key) = match to {
            To::Queue(queue) => (String::new(), self.name(*queue)),
            To::Main(key) => (MAIN.to_owned(), format!("k{key}")),
            To::Rest => (REST.to_owned(), String::new()),
            To::Once => (ONCE.to_owned(), String::new()),
            To::Later(_) => (LATER.to_owned(), String::new()),
        };
        let size = &self.plan.size.unwrap_or(*size);
        let text = |text: &str| FieldValue::LongString(text.into());
        let mut entries = Vec::new();
        if let Some(cc) = cc {
            let keys = vec![text(&self.name(*cc)), text("k0")];
            entries.push(("CC", FieldValue::FieldArray(keys.into())));
        }
        if *headers {
            let mut death = FieldTable::default();
            death.insert("queue".into(), text("q0"));
            death.insert("reason".into(), text("expired"));
            death.insert("count".into(), FieldValue::LongLongInt(5));
            let deaths = vec![FieldValue::FieldTable(death)];
            entries.push(("a", FieldValue::Boolean(true)));
            entries.push(("x-death", FieldValue::FieldArray(deaths.into())));
            entries.push(("x-first-death-queue", text("made up")));
        }
        let delay_header = delay.and_then(|delay| i64::try_from(delay).ok());
        entries.extend(delay_header.map(|delay| ("x-delay", FieldValue::LongLongInt(delay))));
        if self.plan.filters {
            entries.push((KIND, FieldValue::LongLongInt(*kind)));
        }
        let (mut messages, mut publishes) = (Vec::new(), Vec::new());
        for number in 0..*count as u64 {
            // Some come twice together.
            let once = once.map(|first| (first + number / 2) % IDS);
            let once = once.filter(is_certain);
            let mut headers = table(&entries);
            if let Some(id) = once.and_then(|id| i64::try_from(id).ok()) {
                headers.insert("x-deduplication-header".into(), FieldValue::LongLongInt(id));
            }
            let id = self.next_id;
            self.next_id += 1;
            messages.push(Message {
                id,
                exchange: exchange.clone(),
                key: key.clone(),
                persistent: *persistent,
                priority: *priority,
                expiration: *expiration,
                headers: headers.clone(),
                size: *size,
                at: self.now().unix_ms,
                delay: delay.filter(|delay| *delay > 0),
                once,
                dead_lettered: false,
            });
            publishes.push(Publish {
                exchange: exchange.clone(),
                routing_key: key.clone(),
                persistent: *persistent,
                priority: *priority,
                expiration_ms: *expiration,
                headers,
                body: body_of(id, *size),
            });
        }
        Ok((*client, messages, publishes))
    }

    fn publish(&mut self, command: &Command) -> Result<Observed, Wrong> {
        let (client, messages, publishes) = self.make(command)?;
        let session = self.session(client)?;
        session.client.publish_together(&publishes, ());
        if session.uncommitted.is_some() {
            let targets = self.model.targets(&messages[0]);
            let session = self.session(client)?;
            let messages = messages.into_iter();
            let publishes = messages.map(|one| Uncommitted::Publish(one, targets.clone()));
            session
                .uncommitted
                .iter_mut()
                .for_each(|all| all.extend(publishes.clone()));
            let (observed, replies) = self.rest()?;
            return match replies.is_empty() {
                true => Ok(observed),
                false => Err(format!("a publish was answered with {replies:?}")),
            };
        }
        let first = session.published + 1;
        session.published += messages.len() as u64;
        let last = session.published;
        let (mut observed, replies) = self.rest()?;
        let taken = self.model.publish(&messages, &mut observed)?;
        let mut answers: BTreeMap<u64, bool> = BTreeMap::new();
        for (_, heard) in replies {
            let Heard::Confirm {
                tag,
                multiple,
                nack,
            } = heard
            else {
                return Err(format!("a publish was answered with {heard:?}"));
            };
            let from = if multiple { first } else { tag };
            for tag in (from..=tag).filter(|tag| *tag >= first && *tag <= last) {
                answers.entry(tag).or_insert(!nack);
            }
        }
        self.nacked += taken.iter().filter(|taken| !**taken).count() as u64;
        let due: BTreeMap<u64, bool> = (first..).zip(taken).collect();
        if answers != due {
            return Err(format!("the confirms are {answers:?}, not {due:?}"));
        }
        Ok(observed)
    }

    fn commit(&mut self, client: usize) -> Result<Observed, Wrong> {
        let Some(uncommitted) = &mut self.session(client)?.uncommitted else {
            return Ok(Observed::new());
        };
        let uncommitted = std::mem::take(uncommitted);
        let commit = AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}));
        let (mut observed, replies) = self.say(client, &commit)?;
        let mut is_refused = false;
        // Publishes before settlements.
        for one in &uncommitted {
            if let Uncommitted::Publish(message, targets) = one {
                let message = std::slice::from_ref(message);
                let taken = self
                    .model
                    .publish_to(message, targets, true, &mut observed)?;
                is_refused |= taken.contains(&false);
            }
        }
        let mut settlements: Vec<(Vec<u64>, How)> = Vec::new();
        for one in uncommitted {
            if let Uncommitted::Settle(tags, how) = one {
                match settlements.last_mut() {
                    Some((before, was)) if *was == how => before.extend(tags),
                    _ => settlements.push((tags, how)),
                }
            }
        }
        for (tags, how) in settlements {
            self.model.settle(client, &tags, how, &mut observed)?;
        }
        if !is_refused {
            expect(&replies, "CommitOk")?;
            return Ok(observed);
        }
        let closed = self.session(client)?.client.closed();
        if closed.is_none_or(|text| !text.contains("partial tx completion")) {
            return Err(format!(
                "a refused transaction was answered with {replies:?}"
            ));
        }
        self.nacked += 1;
        self.model.leave(client, &mut observed)?;
        self.sessions.remove(&client);
        self.rest()?;
        Ok(observed)
    }

    /// Time passes, with a stop whenever the broker asked for one.
    fn pass(&mut self, time: u64) -> Result<(), Wrong> {
        let end = self.passed + time;
        for _ in 0..TURNS_MAX {
            let next = self.broker()?.next_deadline();
            let next = next.map_or(end, |at| at.saturating_sub(START_MS));
            let next = next.clamp(self.passed, end);
            let late = self.next_late();
            let late = late.filter(|(at, _)| *at - START_MS <= next);
            if let Some((at, clients)) = late {
                self.end_late(at - START_MS, clients)?;
                continue;
            }
            self.passed = next;
            let now = self.now().unix_ms;
            self.broker()?.tick(now);
            let (mut observed, _) = self.rest()?;
            self.model.tick(now, &mut observed)?;
            self.compare(&observed)?;
            if self.passed == end {
                return Ok(());
            }
        }
        Err("the broker asks for time without end".to_owned())
    }

    /// The next moment at which a delivery has to be settled, and the clients that hold such; what waits for a commit is settled.
    fn next_late(&self) -> Option<(u64, BTreeSet<usize>)> {
        self.model.next_late(|client, tag| {
            let session = self.sessions.get(&client);
            session.is_some_and(|session| session.has_answered(tag))
        })
    }

    /// A client that settles nothing in time loses its channel.
    fn end_late(&mut self, at: u64, mut clients: BTreeSet<usize>) -> Result<(), Wrong> {
        let Some(late) = clients.pop_first() else {
            return Ok(());
        };
        // One at a time: what one gives back may be on its way to another whose time is over as well.
        for other in clients {
            self.run_one(&Command::Leave(other))?;
        }
        if self
            .next_late()
            .is_none_or(|(due, clients)| due != at + START_MS || !clients.contains(&late))
        {
            return Ok(());
        }
        // After a rollback it may have been due before.
        self.passed = self.passed.max(at);
        self.model.now = self.now().unix_ms;
        let (mut observed, _) = self.rest()?;
        self.lose_late(late, &mut observed)?;
        let (more, _) = self.rest()?;
        self.compare(&observed)?;
        self.compare(&more)
    }

    fn lose_late(&mut self, client: usize, observed: &mut Observed) -> Result<(), Wrong> {
        let closed = self.session(client)?.client.closed();
        if closed.is_none_or(|text| !text.contains("timed out")) {
            return Err(format!("client {client} keeps a delivery for too long"));
        }
        self.timed_out += 1;
        self.sessions.remove(&client);
        self.model.leave(client, observed)
    }

    /// Reads all that is left, in order.
    pub(crate) fn drain(&mut self) -> Result<(), Wrong> {
        for client in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.run(&Command::Leave(client))?;
        }
        for queue in 0..self.plan.specs.len() {
            self.run(&Command::Consume {
                client: queue,
                queue,
                no_ack: true,
                exclusive: false,
                prefetch: 0,
                priority: 0,
                filter: None,
            })?;
        }
        if self.model.is_beyond {
            return Ok(());
        }
        let left = self.model.queues.values().map(|queue| queue.ready.len());
        let left: usize = left.sum();
        if left > 0 {
            return Err(format!("{left} messages stay behind"));
        }
        // Their books go to the model's.
        let names: Vec<String> = self.model.queues.keys().cloned().collect();
        for name in names {
            self.model.delete(&name);
        }
        Ok(())
    }
}

impl World {
    /// How often what happened.
    pub(crate) fn reached(&self) -> BTreeMap<String, u64> {
        let read_back = self
            .broker
            .as_ref()
            .map_or(0, |broker| broker.snapshot().messages_read_back);
        let mut reached = BTreeMap::from([
            ("nacked".to_owned(), self.nacked),
            ("timed out".to_owned(), self.timed_out),
            ("crashes".to_owned(), self.crashes),
            ("queues expired".to_owned(), self.model.queues_expired),
            ("read back".to_owned(), read_back),
        ]);
        for (fate, count) in &self.model.fates {
            *reached.entry(format!("{fate:?}")).or_default() += count;
        }
        reached
    }
}

fn got(delivered: &Delivered) -> Result<Got, Wrong> {
    Ok(Got {
        tag: delivered.tag,
        seen: seen(delivered)?,
    })
}

impl Session {
    /// Delivery tags follow one another.
    fn count(&mut self, delivered: &Delivered) -> Result<(), Wrong> {
        self.last_tag += 1;
        if delivered.tag != self.last_tag {
            return Err(format!(
                "delivery tag {} came instead of {}",
                delivered.tag, self.last_tag
            ));
        }
        Ok(())
    }
}

fn expect(replies: &Replies, text: &str) -> Result<(), Wrong> {
    let fits = |(_, heard): &(usize, Heard)| format!("{heard:?}").contains(text);
    match replies.iter().any(fits) {
        true => Ok(()),
        false => Err(format!("{replies:?} came instead of {text}")),
    }
}

const fn scope(operator: bool) -> Scope {
    match operator {
        true => Scope::OperatorPolicy,
        false => Scope::Policy,
    }
}

fn policy_json(policy: &Policy) -> (Scope, Value) {
    let names: Vec<&str> = policy.queues.iter().map(String::as_str).collect();
    let mut definition = serde_json::Map::new();
    let settings = [
        ("message-ttl", policy.ttl.map(Value::from)),
        ("expires", policy.expires.map(Value::from)),
        ("max-length", policy.max_length.map(Value::from)),
        ("max-length-bytes", policy.max_bytes.map(Value::from)),
        (
            "overflow",
            policy.overflow.map(|way| overflow_word(way).into()),
        ),
        (
            "dead-letter-exchange",
            policy.dead_letter_exchange.clone().map(Value::from),
        ),
        (
            "dead-letter-routing-key",
            policy.dead_letter_key.clone().map(Value::from),
        ),
        ("delivery-limit", policy.delivery_limit.map(Value::from)),
    ];
    for (key, value) in settings {
        definition.extend(value.map(|value| (key.to_owned(), value)));
    }
    let json = json!({
        "pattern": format!("^({})$", names.join("|")),
        "apply-to": "queues",
        "priority": policy.priority,
        "definition": definition,
    });
    (scope(policy.operator), json)
}

const fn overflow_word(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::DropHead => "drop-head",
        Overflow::RejectPublish => "reject-publish",
        Overflow::RejectPublishDeadLetter => "reject-publish-dlx",
    }
}

fn exchange_declare(name: &str, kind: &str, alternate: Option<&str>) -> AMQPClass {
    let text = |text: &str| FieldValue::LongString(text.into());
    let alternate = alternate.map(|to| ("alternate-exchange", text(to)));
    let delayed = (name == LATER).then(|| ("x-delayed-type", text("fanout")));
    let arguments = alternate.into_iter().chain(delayed);
    let mut arguments: Vec<_> = arguments.collect();
    if name == ONCE {
        let number = |number: u64| FieldValue::LongLongInt(i64::try_from(number).unwrap_or(0));
        arguments.push(("x-message-deduplication", FieldValue::Boolean(true)));
        arguments.push(("x-cache-ttl", number(ONCE_TTL)));
        arguments.push(("x-cache-size", number(1000)));
    }
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        durable: true,
        arguments: table(&arguments),
        ..exchange::Declare::default()
    }))
}

fn declare(spec: &Spec) -> AMQPClass {
    let text = |text: &str| FieldValue::LongString(text.into());
    let mut arguments = Vec::new();
    let mut integer = |key, value: Option<u64>| {
        let value = value.and_then(|value| i64::try_from(value).ok());
        arguments.extend(value.map(|value| (key, FieldValue::LongLongInt(value))));
    };
    integer("x-message-ttl", spec.ttl);
    integer("x-expires", spec.expires);
    integer("x-max-length", spec.max_length);
    integer("x-max-length-bytes", spec.max_bytes);
    let levels = Some(u64::from(spec.max_priority)).filter(|max| *max > 0);
    integer("x-max-priority", levels);
    integer("x-consumer-timeout", spec.consumer_timeout);
    if let Some(once) = spec.once {
        integer("x-cache-size", Some(once.size as u64));
        integer("x-cache-ttl", once.ttl);
        arguments.push(("x-message-deduplication", FieldValue::Boolean(true)));
    }
    if spec.quorum {
        arguments.push(("x-queue-type", text("quorum")));
    }
    if let Some(limit) = spec.delivery_limit {
        arguments.push(("x-delivery-limit", FieldValue::LongLongInt(limit)));
    }
    if let Some(retry) = spec.retry {
        let what = match (retry.failed, retry.returned) {
            (true, true) => "all",
            (true, false) => "failed",
            (false, true) => "returned",
            (false, false) => "disabled",
        };
        arguments.push(("x-delayed-retry-type", text(what)));
        let number = |number: u64| FieldValue::LongLongInt(i64::try_from(number).unwrap_or(0));
        arguments.push(("x-delayed-retry-min", number(retry.min)));
        arguments.extend(retry.max.map(|max| ("x-delayed-retry-max", number(max))));
    }
    if spec.single_active {
        arguments.push(("x-single-active-consumer", FieldValue::Boolean(true)));
    }
    if spec.overflow != Overflow::DropHead {
        arguments.push(("x-overflow", text(overflow_word(spec.overflow))));
    }
    if let Some(to) = &spec.dead_letters {
        arguments.push(("x-dead-letter-exchange", text(&to.exchange)));
        if let Some(key) = &to.key {
            arguments.push(("x-dead-letter-routing-key", text(key)));
        }
    }
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: spec.name.as_str().into(),
        durable: spec.durable,
        auto_delete: spec.auto_delete,
        arguments: table(&arguments),
        ..queue::Declare::default()
    }))
}
