//! Real crashes: clients work, the broker is killed with SIGKILL at any moment, and nothing that was promised may be missing.
//!
//! Every choice follows from one seed; threads and the operating system do the rest, so that a seed is a workload rather than a run.
//! No verdict depends on time: what a client knows is what it received before the end.
//!
//! * `MAMBAMQ_CRASH_ROUNDS`: crashes of the test, 6 unless told; a long run takes 200 and more.
//! * `MAMBAMQ_CRASH_SEED`: the workload of a failed run. Without it, each run draws a new one.
//! * `MAMBAMQ_CRASH_SYNC`: `fsync`, `interval` or `os` in every round instead of any of them. A killed process loses nothing in all three.
//! * `MAMBAMQ_TEST_BINARY`: another binary than the one just built, such as a release build.
//!
//! A failure prints the command that repeats it and keeps the data folder as it was after the crash, before the broker started again.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::disallowed_types, reason = "tests have no parking_lot")]
#![allow(
    clippy::disallowed_methods,
    reason = "a failing test is bounded by the clock"
)]
#![allow(clippy::print_stdout, reason = "what was skipped or run is said")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use amq_protocol::protocol::{AMQPClass, basic, channel, exchange, queue};
use support::*;

/// A stuck client or broker fails the test after this.
const PATIENCE: Duration = Duration::from_secs(60);
/// What waits for its time is given up for lost after this.
const WAIT_MAX: Duration = Duration::from_secs(10);
const PUBLISHERS: u64 = 3;
/// The publisher number of the worker that declares and deletes.
const BUILDER: u64 = 100;
/// The publisher number of messages that only look whether a binding exists.
const PROBE: u64 = 101;
/// Messages that are said again after a crash.
const REPEATED_MAX: usize = 500;
/// The publisher number of the one that says everything twice.
const REPEATER: u64 = 102;
const FAN_OUT: &str = "crash.fan";
const DIRECT: &str = "crash.direct";
const LATER: &str = "crash.later";
const MARKER: &str = "crash.marker";

/// What is special about a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nature {
    Classic,
    Quorum,
    Priority,
    /// Purged now and then.
    Purged,
    /// Its consumer does not ack.
    AutoAck,
    /// Its consumers may have filters.
    Filtered,
    /// It takes each message once, and one publisher says everything twice.
    Once,
    /// Its dead letters go to another queue of the group that begins with this one. Whatever happens in between, each message is in
    /// one of them, or in two after a crash.
    Moving(u8),
}

const SHARED: [(&str, Nature); 15] = [
    ("crash.classic", Nature::Classic),
    ("crash.many", Nature::Classic),
    ("crash.quorum", Nature::Quorum),
    ("crash.priority", Nature::Priority),
    ("crash.purged", Nature::Purged),
    ("crash.auto", Nature::AutoAck),
    ("crash.work", Nature::Moving(WORK)),
    ("crash.wait", Nature::Moving(WORK)),
    ("crash.short", Nature::Moving(SHORT)),
    ("crash.dead", Nature::Moving(SHORT)),
    ("crash.retry", Nature::Moving(RETRY)),
    ("crash.failed", Nature::Moving(RETRY)),
    ("crash.late", Nature::Moving(LATE)),
    ("crash.filtered", Nature::Filtered),
    ("crash.once", Nature::Once),
];
/// What is rejected here waits in the next queue for its time to pass, and comes back.
const WORK: u8 = 6;
/// What is too much here goes to the next queue.
const SHORT: u8 = 8;
/// What comes back here waits before it is tried again, and goes to the next queue after some times.
const RETRY: u8 = 10;
/// What comes here was delayed on its way.
const LATE: u8 = 12;
const ONCE: u8 = 14;
const FANNED: [u8; 4] = [0, 1, 2, 3];
/// Kinds of messages that filters ask for: the remainder of a message's number.
const KINDS: u64 = 3;
/// Queues that come and go, numbered after the shared ones.
const CHURNED: usize = 6;

fn queue_name(queue: u8) -> String {
    SHARED.get(usize::from(queue)).map_or_else(
        || format!("crash.churn.{queue}"),
        |(name, _)| (*name).to_owned(),
    )
}

fn nature(queue: u8) -> Nature {
    match SHARED.get(usize::from(queue)) {
        Some((_, nature)) => *nature,
        None if queue.is_multiple_of(2) => Nature::Classic,
        None => Nature::Quorum,
    }
}

/// The first queue of its group; itself if it is in none.
fn home(queue: u8) -> u8 {
    match nature(queue) {
        Nature::Moving(home) => home,
        _ => queue,
    }
}

fn declaration(queue: u8) -> AMQPClass {
    let dead_letters_to = |queue: u8, more: (&str, Value)| {
        table([
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&queue_name(queue))),
            more,
        ])
    };
    let arguments = match nature(queue) {
        Nature::Moving(_) if queue == WORK => {
            dead_letters_to(WORK + 1, ("x-queue-type", text("classic")))
        }
        Nature::Moving(WORK) => dead_letters_to(WORK, ("x-message-ttl", int(20))),
        Nature::Moving(_) if queue == SHORT => {
            dead_letters_to(SHORT + 1, ("x-max-length", int(20)))
        }
        Nature::Moving(_) if queue == RETRY => table([
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&queue_name(RETRY + 1))),
            ("x-delayed-retry-type", text("all")),
            ("x-delayed-retry-min", int(5)),
            ("x-delayed-retry-max", int(20)),
            ("x-delivery-limit", int(3)),
        ]),
        Nature::Once => table([
            ("x-message-deduplication", Value::Boolean(true)),
            ("x-cache-size", int(1_000_000)),
        ]),
        Nature::Quorum => table([
            ("x-queue-type", text("quorum")),
            ("x-delivery-limit", int(1_000_000)),
        ]),
        Nature::Priority => table([("x-max-priority", int(5))]),
        _ => table([]),
    };
    queue_declare(&queue_name(queue), "durable", arguments)
}

/// Whether what is rejected here is gone: no other queue of its group gets it.
fn ends_here(queue: u8) -> bool {
    [SHORT + 1, RETRY + 1, LATE].contains(&queue)
}

fn churned() -> impl Iterator<Item = u8> {
    (0..CHURNED).map(|number| u8::try_from(SHARED.len() + number).unwrap())
}

/// A message: its publisher in the upper 16 bits, a number that only grows in the lower 48.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Id(u64);

impl Id {
    fn new(publisher: u64, number: u64) -> Self {
        Self(publisher << 48 | number)
    }

    fn publisher(self) -> u64 {
        self.0 >> 48
    }

    fn number(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.publisher(), self.number())
    }
}

const BODY_MIN: usize = 16;

/// The body follows from identity and size, so that any octet that is not its own shows.
fn body(id: Id, size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size);
    body.extend(id.0.to_be_bytes());
    body.extend(u64::try_from(size).unwrap().to_be_bytes());
    let mut random = Random::new(id.0);
    while body.len() + 8 <= size {
        body.extend(random.next().to_be_bytes());
    }
    body.resize(size, 0x5a);
    body
}

fn identify(octets: &[u8]) -> Result<Id, String> {
    let Some(id) = octets.first_chunk::<8>() else {
        return Err(format!("a body of {} octets", octets.len()));
    };
    let id = Id(u64::from_be_bytes(*id));
    if octets.len() < BODY_MIN || body(id, octets.len()) != octets {
        return Err(format!(
            "a body of {} octets that calls itself {id:?} and is not",
            octets.len()
        ));
    }
    Ok(id)
}

/// A moment, in the order of things that clients sent and received.
type Stamp = u64;

/// What all clients of a round share.
#[derive(Default)]
struct Shared {
    clock: AtomicU64,
    /// Confirms and deliveries so far: what the moment of the crash is counted in.
    progress: AtomicU64,
    connected: AtomicUsize,
    go: AtomicBool,
    violations: Mutex<Vec<String>>,
}

impl Shared {
    fn now(&self) -> Stamp {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn progressed(&self, by: u64) {
        self.progress.fetch_add(by, Ordering::Relaxed);
    }

    fn violation(&self, text: String) {
        let mut violations = self.violations.lock().unwrap();
        if violations.len() < 50 {
            violations.push(text);
        }
    }

    /// Connects, then waits for the others: nobody is surprised by the crash before it works.
    fn connect(&self, address: std::net::SocketAddr) -> Client {
        let client = Client::with(&Options {
            address: Some(address),
            ..Options::default()
        });
        self.connected.fetch_add(1, Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while !self.go.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "the others never connected");
            thread::sleep(Duration::from_millis(1));
        }
        client
    }
}

/// A publish as its client saw it.
struct Sent {
    id: Id,
    queues: Vec<u8>,
    persistent: bool,
    priority: u8,
    at: Stamp,
    /// `Some(true)` for basic.ack.
    confirm: Option<bool>,
}

/// What a consumer did with a delivery.
#[derive(Clone, Copy)]
enum Done {
    Holds,
    /// Acked: it may be gone.
    Settled,
    /// Rejected: it is gone, or a dead letter.
    Discarded,
    /// Given back at that moment.
    Returned(Stamp),
}

struct Got {
    queue: u8,
    id: Id,
    redelivered: bool,
    at: Stamp,
    /// Deliveries of one session came over one consumer, in this order.
    session: u64,
    done: Done,
    /// Was on its way when the channel was closed: it may have gone to somebody else before it was read here.
    late: bool,
}

/// What the builder did, in order.
enum Built {
    Sent(Sent),
    /// Asked for at the first moment, answered at the second.
    Purged(u8, Option<Stamp>),
    /// Everything purged before is gone for good, as a later confirm says.
    PurgesAreDurable,
    Deleted(u8),
}

/// What is known of something that can be there or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    There,
    Absent,
    /// The crash came before the answer.
    Unknown,
}

#[derive(Clone)]
struct Topology {
    queues: BTreeMap<u8, Known>,
    bindings: BTreeMap<u8, Known>,
    exchanges: BTreeMap<u8, Known>,
}

impl Topology {
    fn new() -> Self {
        let absent: BTreeMap<u8, Known> = churned().map(|queue| (queue, Known::Absent)).collect();
        Self {
            queues: absent.clone(),
            bindings: absent.clone(),
            exchanges: absent,
        }
    }
}

fn pick_size(random: &mut Random) -> usize {
    match random.below(400) {
        0 => random.below(2 << 20) + BODY_MIN,
        1..=3 => random.below(256 << 10) + BODY_MIN,
        4..=39 => random.below(16 << 10) + BODY_MIN,
        _ => random.below(1 << 10) + BODY_MIN,
    }
}

/// Publishes with a window of unconfirmed messages until its plan or the broker ends.
fn publisher(
    shared: &Shared,
    address: std::net::SocketAddr,
    seed: u64,
    publisher: u64,
    first: u64,
) -> Vec<Sent> {
    let mut random = Random::new(seed);
    let client = shared.connect(address);
    let channel = client.unopened(1);
    if !opens(&channel) {
        return Vec::new();
    }
    let mut sent: Vec<Sent> = Vec::new();
    let (count, window) = (random.below(3000) + 200, random.below(300) + 1);
    let mut octets = 0;
    let mut open = 0;
    let mut oldest = 0;
    loop {
        while sent.len() < count && octets < 24 << 20 && open < window {
            let id = Id::new(publisher, first + u64::try_from(sent.len()).unwrap());
            let size = pick_size(&mut random);
            let persistent = random.below(5) != 0;
            let priority = u8::try_from(random.below(7)).unwrap();
            let (exchange, key, queues) = if random.below(3) == 0 {
                (FAN_OUT, String::new(), FANNED.to_vec())
            } else {
                let queue = u8::try_from(random.below(SHARED.len())).unwrap();
                let exchange = if queue == LATE { LATER } else { "" };
                (exchange, queue_name(queue), vec![queue])
            };
            let properties = if persistent {
                persistent_with
            } else {
                plain_with
            }(priority);
            let properties = match nature(queues[0]) {
                Nature::Filtered => properties.with_headers(table([("kind", kind_of(id))])),
                _ if exchange == LATER => {
                    let delay = i32::try_from(random.below(40)).unwrap();
                    properties.with_headers(table([("x-delay", int(delay))]))
                }
                _ => properties,
            };
            let at = shared.now();
            channel.publish_with(exchange, &key, "", &properties, body(id, size));
            octets += size;
            open += 1;
            sent.push(Sent {
                id,
                queues,
                persistent,
                // The queue knows no priority above its own.
                priority: priority.min(5),
                at,
                confirm: None,
            });
        }
        if open == 0 {
            return sent;
        }
        let event = client.try_take(1, PATIENCE, |_| true);
        let (tag, multiple, accepted) = match event {
            Ok(Event::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))) => {
                (ack.delivery_tag, ack.multiple, true)
            }
            Ok(Event::Method(AMQPClass::Basic(basic::AMQPMethod::Nack(nack)))) => {
                (nack.delivery_tag, nack.multiple, false)
            }
            Ok(other) => {
                shared.violation(format!("a confirm was due, {other:?} came"));
                return sent;
            }
            Err(Silence::Closed) => return sent,
            Err(Silence::Timeout) => {
                shared.violation(format!(
                    "publisher {publisher} waited {PATIENCE:?} for a confirm"
                ));
                return sent;
            }
        };
        let last = usize::try_from(tag).unwrap();
        let from = if multiple { oldest } else { last - 1 };
        for one in &mut sent[from..last] {
            if one.confirm.is_none() {
                one.confirm = Some(accepted);
                open -= 1;
                shared.progressed(1);
            }
        }
        while sent.get(oldest).is_some_and(|one| one.confirm.is_some()) {
            oldest += 1;
        }
    }
}

fn kind_of(id: Id) -> Value {
    int(i32::try_from(id.number() % KINDS).unwrap())
}

/// Says everything again that it said before, in order, then something new; everything with an id, and to the queue that takes
/// each message once. Returns what it said and whether it was confirmed.
fn repeater(
    shared: &Shared,
    address: std::net::SocketAddr,
    seed: u64,
    before: Vec<u64>,
    first: u64,
) -> Vec<Sent> {
    let mut random = Random::new(seed);
    let client = shared.connect(address);
    let channel = client.unopened(1);
    if !opens(&channel) {
        return Vec::new();
    }
    let mut sent: Vec<Sent> = Vec::new();
    let fresh = u64::try_from(random.below(300)).unwrap();
    for number in before.into_iter().chain(first..first + fresh) {
        let id = Id::new(REPEATER, number);
        let known = int(i32::try_from(number).unwrap());
        let headers = table([("x-deduplication-header", known)]);
        let at = shared.now();
        // The size follows from the number: it is the same message.
        let size = BODY_MIN + usize::try_from(number % 700).unwrap();
        channel.publish_with(
            "",
            &queue_name(ONCE),
            "",
            &persistent().with_headers(headers),
            body(id, size),
        );
        sent.push(Sent {
            id,
            queues: vec![ONCE],
            persistent: true,
            priority: 0,
            at,
            confirm: None,
        });
    }
    let mut oldest = 0;
    while oldest < sent.len() {
        let (tag, accepted) = match client.try_take(1, PATIENCE, |_| true) {
            Ok(Event::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))) => {
                (ack.delivery_tag, true)
            }
            Ok(other) => {
                shared.violation(format!("a confirm was due, {other:?} came"));
                return sent;
            }
            Err(Silence::Closed) => return sent,
            Err(Silence::Timeout) => {
                shared.violation("the repeater waited for a confirm".to_owned());
                return sent;
            }
        };
        // Nothing is sent between: a confirm is for all up to it.
        let last = usize::try_from(tag).unwrap();
        for one in &mut sent[oldest..last.max(oldest)] {
            one.confirm = Some(accepted);
            shared.progressed(1);
        }
        oldest = oldest.max(last);
    }
    sent
}

/// Opens a channel with confirms, unless the crash comes before.
fn opens(channel: &Channel) -> bool {
    channel.try_call(&channel_open()).is_ok() && channel.try_call(&confirm_select()).is_ok()
}

fn persistent_with(priority: u8) -> BasicProperties {
    persistent().with_priority(priority)
}

fn plain_with(priority: u8) -> BasicProperties {
    plain().with_priority(priority)
}

/// Takes, acks, gives back and holds, until the broker ends.
fn consumer(
    shared: &Shared,
    address: std::net::SocketAddr,
    seed: u64,
    queue: u8,
    first_session: u64,
) -> Vec<Got> {
    let mut random = Random::new(seed);
    let client = shared.connect(address);
    let mut got: Vec<Got> = Vec::new();
    let auto = nature(queue) == Nature::AutoAck;
    let mut channel = client.unopened(1);
    if !opens(&channel) {
        return got;
    }
    for session in 0..20 {
        let begin = got.len();
        // Those not settled yet, by delivery tag.
        let mut open: BTreeMap<u64, usize> = BTreeMap::new();
        let prefetch = u16::try_from(random.below(200) + 1).unwrap();
        let quota = random.below(1500) + 20;
        let flags = if auto { "no_ack" } else { "" };
        let wanted = (nature(queue) == Nature::Filtered && random.below(3) > 0)
            .then(|| u64::try_from(random.below(3)).unwrap());
        let arguments = wanted.map_or_else(
            || table([]),
            |kind| table([("x-filter", text(&format!("headers.kind = {kind}")))]),
        );
        let subscribed = channel.try_call(&qos(prefetch, "")).is_ok()
            && channel
                .try_call(&consume(&queue_name(queue), "c", flags, arguments))
                .is_ok();
        if !subscribed {
            return got;
        }
        while got.len() - begin < quota {
            let event = client.try_take(1, Duration::from_millis(100), |_| true);
            let content = match event {
                Ok(event @ Event::Content(..)) => content(event).expect("a delivery"),
                Ok(other) => {
                    shared.violation(format!("a delivery was due, {other:?} came"));
                    return got;
                }
                Err(Silence::Closed) => return got,
                // All are held, or the queue is empty: go on with another session.
                Err(Silence::Timeout) => break,
            };
            let at = shared.now();
            shared.progressed(1);
            let id = match identify(&content.body) {
                Ok(id) => id,
                Err(why) => {
                    shared.violation(format!("{}: {why}", queue_name(queue)));
                    continue;
                }
            };
            if wanted.is_some_and(|kind| id.number() % KINDS != kind) {
                shared.violation(format!("{id:?} came to a filter for {wanted:?}"));
            }
            open.insert(content.tag, got.len());
            got.push(Got {
                queue,
                id,
                redelivered: content.redelivered,
                at,
                session: first_session + session,
                done: if auto { Done::Settled } else { Done::Holds },
                late: false,
            });
            if auto {
                continue;
            }
            let choice = random.below(100);
            let tag = content.tag;
            let up_to: Vec<u64> = open.range(..=tag).map(|(tag, _)| *tag).collect();
            let (method, tags, done) = match choice {
                // Some are never answered.
                0..=9 => continue,
                10..=24 => continue,
                25..=39 => (ack(tag, "multiple"), up_to, Done::Settled),
                40..=44 => (
                    nack(tag, "multiple requeue"),
                    up_to,
                    Done::Returned(shared.now()),
                ),
                45..=49 => (
                    nack(tag, "requeue"),
                    vec![tag],
                    Done::Returned(shared.now()),
                ),
                50..=54 => (reject(tag, ""), vec![tag], Done::Discarded),
                55..=57 => (
                    reject(tag, "requeue"),
                    vec![tag],
                    Done::Returned(shared.now()),
                ),
                _ => (ack(tag, ""), vec![tag], Done::Settled),
            };
            for tag in tags {
                let index = open.remove(&tag).expect("an open delivery");
                got[index].done = done;
            }
            channel.send(&method);
        }
        // A closed channel gives back what it held.
        let returned = Done::Returned(shared.now());
        for index in open.values() {
            got[*index].done = returned;
        }
        channel.send(&channel_close());
        // What was still on its way counts as received.
        loop {
            match client.try_take(1, PATIENCE, |_| true) {
                Ok(event @ Event::Content(..)) => {
                    let content = content(event).expect("a delivery");
                    match identify(&content.body) {
                        Ok(id) => got.push(Got {
                            queue,
                            id,
                            redelivered: content.redelivered,
                            at: shared.now(),
                            session: first_session + session,
                            done: if auto { Done::Settled } else { returned },
                            late: true,
                        }),
                        Err(why) => shared.violation(format!("{}: {why}", queue_name(queue))),
                    }
                }
                Ok(Event::Method(AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)))) => break,
                Ok(other) => {
                    shared.violation(format!("channel.close-ok was due, {other:?} came"));
                    return got;
                }
                Err(Silence::Closed) => return got,
                Err(Silence::Timeout) => {
                    shared.violation("no channel.close-ok".to_owned());
                    return got;
                }
            }
        }
        channel = client.unopened(1);
        if channel.try_call(&channel_open()).is_err() {
            return got;
        }
    }
    got
}

/// Declares, binds, publishes, purges, unbinds and deletes, one after the other.
fn builder(
    shared: &Shared,
    address: std::net::SocketAddr,
    seed: u64,
    first: u64,
    mut topology: Topology,
) -> (Vec<Built>, Topology) {
    let mut random = Random::new(seed);
    let client = shared.connect(address);
    let channel = client.unopened(1);
    if !opens(&channel) {
        return (Vec::new(), topology);
    }
    let mut built: Vec<Built> = Vec::new();
    let mut number = first;
    for _ in 0..600 {
        let churned = u8::try_from(SHARED.len() + random.below(CHURNED)).unwrap();
        let there = topology.queues[&churned] == Known::There;
        let bound = topology.bindings[&churned] == Known::There;
        let name = queue_name(churned);
        // Whatever is asked for is in doubt until its answer.
        match random.below(20) {
            0..=3 if !there => {
                topology.queues.insert(churned, Known::Unknown);
                if !answered(shared, &channel, &declaration(churned), |answer| {
                    matches!(answer, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_)))
                }) {
                    return (built, topology);
                }
                topology.queues.insert(churned, Known::There);
                topology.bindings.insert(churned, Known::Absent);
            }
            0..=3 if !bound => {
                topology.bindings.insert(churned, Known::Unknown);
                if !answered(
                    shared,
                    &channel,
                    &queue_bind(&name, DIRECT, &name, table([])),
                    |answer| matches!(answer, AMQPClass::Queue(queue::AMQPMethod::BindOk(_))),
                ) {
                    return (built, topology);
                }
                topology.bindings.insert(churned, Known::There);
            }
            4 if bound => {
                topology.bindings.insert(churned, Known::Unknown);
                if !answered(
                    shared,
                    &channel,
                    &queue_unbind(&name, DIRECT, &name, table([])),
                    |answer| matches!(answer, AMQPClass::Queue(queue::AMQPMethod::UnbindOk(_))),
                ) {
                    return (built, topology);
                }
                topology.bindings.insert(churned, Known::Absent);
            }
            5 if there => {
                topology.queues.insert(churned, Known::Unknown);
                topology.bindings.insert(churned, Known::Unknown);
                if !answered(shared, &channel, &queue_delete(&name, ""), |answer| {
                    matches!(answer, AMQPClass::Queue(queue::AMQPMethod::DeleteOk(_)))
                }) {
                    return (built, topology);
                }
                topology.queues.insert(churned, Known::Absent);
                topology.bindings.insert(churned, Known::Absent);
                built.push(Built::Deleted(churned));
            }
            6 => {
                // Mostly its own; now and then one that others publish to.
                let purged = if there { churned } else { 4 };
                built.push(Built::Purged(purged, None));
                if !answered(
                    shared,
                    &channel,
                    &queue_purge(&queue_name(purged)),
                    |answer| matches!(answer, AMQPClass::Queue(queue::AMQPMethod::PurgeOk(_))),
                ) {
                    return (built, topology);
                }
                built.pop();
                built.push(Built::Purged(purged, Some(shared.now())));
            }
            7..=8 => {
                let known = topology.exchanges[&churned];
                let exchange = format!("crash.exchange.{churned}");
                topology.exchanges.insert(churned, Known::Unknown);
                let (method, after) = if known == Known::There {
                    (exchange_delete(&exchange, ""), Known::Absent)
                } else {
                    (
                        exchange_declare(&exchange, "topic", "durable", table([])),
                        Known::There,
                    )
                };
                if !answered(shared, &channel, &method, |answer| {
                    matches!(
                        answer,
                        AMQPClass::Exchange(
                            exchange::AMQPMethod::DeclareOk(_) | exchange::AMQPMethod::DeleteOk(_)
                        )
                    )
                }) {
                    return (built, topology);
                }
                topology.exchanges.insert(churned, after);
            }
            _ if there => {
                let exchange = if bound && random.below(2) == 0 {
                    DIRECT
                } else {
                    ""
                };
                let id = Id::new(BUILDER, number);
                number += 1;
                let size = pick_size(&mut random);
                let at = shared.now();
                channel.publish_with(exchange, &name, "", &persistent(), body(id, size));
                let settled = client.try_take(1, PATIENCE, |event| {
                    matches!(event, Event::Method(AMQPClass::Basic(_)))
                });
                let confirm = match settled {
                    Ok(Event::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(_)))) => Some(true),
                    Ok(Event::Method(AMQPClass::Basic(basic::AMQPMethod::Nack(_)))) => Some(false),
                    Ok(other) => {
                        shared.violation(format!("a confirm was due, {other:?} came"));
                        return (built, topology);
                    }
                    Err(Silence::Timeout) => {
                        shared.violation("the builder got no confirm".to_owned());
                        None
                    }
                    Err(Silence::Closed) => None,
                };
                built.push(Built::Sent(Sent {
                    id,
                    queues: vec![churned],
                    persistent: true,
                    priority: 0,
                    at,
                    confirm,
                }));
                if confirm.is_none() {
                    return (built, topology);
                }
                if confirm == Some(true) {
                    built.push(Built::PurgesAreDurable);
                }
                shared.progressed(1);
            }
            _ => {}
        }
    }
    (built, topology)
}

/// Whether the call was answered as it should; anything else than the end of the broker is a violation.
fn answered(
    shared: &Shared,
    channel: &Channel,
    method: &AMQPClass,
    fits: impl Fn(&AMQPClass) -> bool,
) -> bool {
    match channel.try_call(method) {
        Ok(answer) if fits(&answer) => {
            shared.progressed(1);
            true
        }
        Ok(answer) => {
            shared.violation(format!("{method:?} was answered with {answer:?}"));
            false
        }
        Err(Silence::Timeout) => {
            shared.violation(format!("{method:?} was not answered"));
            false
        }
        Err(Silence::Closed) => false,
    }
}

/// What must, may and must not be in a queue.
struct Entry {
    priority: u8,
    at: Stamp,
    /// Confirmed, and of a kind that survives: it must come.
    promised: bool,
    /// Gone if the broker is restarted.
    transient: bool,
    /// Some client got it, and the log says so.
    received: bool,
    /// Acked, rejected or purged: it need not come.
    settled: bool,
    /// Purged: after a later confirm it must not come.
    purged: bool,
}

/// The whole truth, as far as clients can know it.
#[derive(Default)]
struct Oracle {
    entries: BTreeMap<(u8, Id), Entry>,
    violations: Vec<String>,
    delivered: u64,
    drained: u64,
    /// What the queue that takes each message once has certainly taken.
    taken: BTreeSet<Id>,
}

impl Oracle {
    fn violation(&mut self, queue: u8, id: Id, what: &str) {
        if self.violations.len() < 50 {
            self.violations
                .push(format!("{} message {id:?}: {what}", queue_name(queue)));
        }
    }

    fn sent(&mut self, sent: &Sent) {
        for queue in &sent.queues {
            let survives = sent.persistent || nature(*queue) == Nature::Quorum;
            self.entries.insert(
                (home(*queue), sent.id),
                Entry {
                    priority: if nature(*queue) == Nature::Priority {
                        sent.priority
                    } else {
                        0
                    },
                    at: sent.at,
                    promised: survives && sent.confirm == Some(true),
                    transient: !survives,
                    received: false,
                    // Without acks, what was on its way in the crash is gone.
                    settled: nature(*queue) == Nature::AutoAck,
                    purged: false,
                },
            );
        }
    }

    /// The repeater's: what was taken before is refused, and may be there from then.
    fn repeated(&mut self, sent: &[Sent]) {
        for one in sent {
            if !self.taken.contains(&one.id) {
                let received = self
                    .entries
                    .get(&(ONCE, one.id))
                    .is_some_and(|entry| entry.received);
                self.sent(one);
                if let Some(entry) = self.entries.get_mut(&(ONCE, one.id)) {
                    entry.received = received;
                }
            }
            if one.confirm == Some(true) {
                self.taken.insert(one.id);
            }
        }
    }

    /// Confirmed, and not settled since: it must be there.
    fn due(&self, home: u8) -> BTreeSet<Id> {
        self.entries
            .iter()
            .filter(|((of, _), entry)| *of == home && entry.promised && !entry.settled)
            .map(|((_, id), _)| *id)
            .collect()
    }

    fn built(&mut self, built: &[Built]) {
        for step in built {
            match step {
                Built::Sent(sent) => self.sent(sent),
                Built::Purged(queue, answered) => {
                    for ((of, _), entry) in &mut self.entries {
                        if of == queue && answered.is_none_or(|at| entry.at < at) {
                            entry.settled = true;
                            // Others may have published in between, or hold some.
                            entry.purged = answered.is_some() && nature(*queue) != Nature::Purged;
                        }
                    }
                }
                Built::PurgesAreDurable => self.entries.retain(|_, entry| !entry.purged),
                Built::Deleted(queue) => self.entries.retain(|(of, _), _| of != queue),
            }
        }
    }

    /// Deliveries of one round, by moment.
    ///
    /// That a message was handed over is written to the log along with what comes next: what was received before `noted` is certainly
    /// there. `MAMBAMQ_CRASH_STRICT` demands the redelivered flag for the rest too.
    fn got(&mut self, mut got: Vec<Got>, noted: Stamp) {
        got.sort_by_key(|one| one.at);
        let strict = std::env::var_os("MAMBAMQ_CRASH_STRICT").is_some();
        let mut unnoted = Vec::new();
        // What this round's clients did with it last.
        let mut last: HashMap<(u8, Id), Done> = HashMap::new();
        let mut order: HashMap<(u64, u64, u8), u64> = HashMap::new();
        for one in &got {
            self.delivered += 1;
            if one.queue == ONCE {
                self.taken.insert(one.id);
            }
            let key = (home(one.queue), one.id);
            let Some(entry) = self.entries.get_mut(&key) else {
                self.violation(
                    one.queue,
                    one.id,
                    "delivered, and never published here or gone for good",
                );
                continue;
            };
            if let Nature::Moving(_) = nature(one.queue) {
                // It moves on by itself, and after a crash it may be in two of the queues, or places of one.
                entry.settled |= match one.done {
                    Done::Settled => true,
                    // Only the last queue has no dead letters.
                    Done::Discarded => ends_here(one.queue),
                    Done::Holds | Done::Returned(_) => false,
                };
                continue;
            }
            if one.late {
                continue;
            }
            let received = std::mem::replace(&mut entry.received, true);
            if one.at > noted && !received && !strict {
                unnoted.push(key);
            }
            let priority = entry.priority;
            if matches!(one.done, Done::Settled | Done::Discarded) {
                entry.settled = true;
            }
            if received && !one.redelivered {
                self.violation(
                    one.queue,
                    one.id,
                    "delivered again without the redelivered flag",
                );
            }
            match last.insert(key, one.done) {
                Some(Done::Settled | Done::Discarded) => {
                    self.violation(one.queue, one.id, "delivered again after it was settled");
                }
                Some(Done::Holds) => {
                    self.violation(one.queue, one.id, "delivered again while a client holds it");
                }
                Some(Done::Returned(at)) if at > one.at => {
                    self.violation(one.queue, one.id, "delivered again before it was returned");
                }
                _ => {}
            }
            if !one.redelivered {
                let line = (one.session, one.id.publisher(), priority);
                let before = order.insert(line, one.id.number());
                if before.is_some_and(|before| before >= one.id.number()) {
                    self.violation(one.queue, one.id, "delivered behind a later one");
                }
            }
        }
        for one in got.iter().filter(|one| one.late && one.at < noted) {
            if let Some(entry) = self.entries.get_mut(&(home(one.queue), one.id)) {
                entry.received = true;
            }
        }
        for key in unnoted {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.received = false;
            }
        }
    }

    fn crashed(&mut self) {
        self.entries.retain(|_, entry| !entry.transient);
        for entry in self.entries.values_mut() {
            // Without a later confirm, the purge may be forgotten.
            entry.purged = false;
        }
    }

    /// All that a queue held after a restart, by one consumer.
    fn drained(&mut self, queue: u8, all: &[(Id, bool)], how: &str) {
        let mut seen = BTreeSet::new();
        let mut order: HashMap<(u64, u8), u64> = HashMap::new();
        for (id, redelivered) in all {
            if id.publisher() == PROBE {
                continue;
            }
            self.drained += 1;
            if !seen.insert(*id) {
                self.violation(queue, *id, "came twice after a restart");
                continue;
            }
            let Some(entry) = self.entries.get(&(queue, *id)) else {
                self.violation(
                    queue,
                    *id,
                    "came after a restart, and was never published here or is gone for good",
                );
                continue;
            };
            let priority = entry.priority;
            if queue == ONCE {
                self.taken.insert(*id);
            }
            if entry.received && !redelivered {
                self.violation(
                    queue,
                    *id,
                    "came again after a restart without the redelivered flag",
                );
            }
            let before = order.insert((id.publisher(), priority), id.number());
            if before.is_some_and(|before| before >= id.number()) {
                self.violation(queue, *id, "came behind a later one after a restart");
            }
        }
        self.nothing_is_lost(queue, &seen, how);
    }

    /// All that a group of queues held after a restart.
    fn drained_group(&mut self, home: u8, all: &[Id]) {
        self.drained += all.len() as u64;
        for id in all {
            if !self.entries.contains_key(&(home, *id)) {
                self.violation(home, *id, "is in its group and was never published there");
            }
        }
        let seen = all.iter().copied().collect();
        self.nothing_is_lost(home, &seen, "consumers of all its group");
    }

    fn nothing_is_lost(&mut self, queue: u8, seen: &BTreeSet<Id>, how: &str) {
        let due = self.due(queue);
        let missing: Vec<Id> = due.difference(seen).copied().collect();
        for id in &missing {
            self.violation(queue, *id, "LOST: confirmed, never settled, and not there");
        }
        if !missing.is_empty() {
            self.violations.push(format!(
                "{}: {} of {} due messages are lost: {how} found {}",
                queue_name(queue),
                missing.len(),
                due.len(),
                seen.len(),
            ));
        }
        // All of it is acked, and the acks are in the log.
        self.entries.retain(|(of, _), _| *of != queue);
    }
}

/// Fetches everything a group of queues holds, wherever it is on its way between them.
fn drain_group(client: &Client, group: u8, oracle: &mut Oracle) {
    let channel = client.channel(3);
    let names: Vec<String> = (group..)
        .take_while(|queue| SHARED.len() > usize::from(*queue) && home(*queue) == group)
        .map(queue_name)
        .collect();
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    let mut take =
        |patience: Duration, all: &mut Vec<Id>| match client.try_take(3, patience, |_| true) {
            Ok(event @ Event::Content(..)) => {
                let content = content(event).expect("a delivery");
                match identify(&content.body) {
                    Ok(id) => all.push(id),
                    Err(why) => wrong.push(format!("{}: {why}", names[0])),
                }
                channel.send(&ack(content.tag, ""));
                true
            }
            Err(Silence::Timeout) => false,
            other => panic!("a delivery was due, {other:?} came"),
        };
    // The last one is the one that messages leave by themselves: once it is empty, nothing moves any more, but for what waits.
    let is_empty = || names.iter().rev().all(|name| channel.ready(name) == 0);
    let due = oracle.due(group);
    let begin = Instant::now();
    let is_done = |all: &[Id]| {
        let all: BTreeSet<Id> = all.iter().copied().collect();
        is_empty() && (due.is_subset(&all) || begin.elapsed() > WAIT_MAX)
    };
    loop {
        for name in &names {
            channel.consume(name, name, "");
        }
        while take(Duration::from_millis(200), &mut all) || !is_empty() {
            assert!(begin.elapsed() < PATIENCE, "{names:?} are never empty");
        }
        for name in &names {
            channel.call(&cancel(name, ""));
        }
        // All that was handed over came before that answer.
        while take(Duration::from_millis(1), &mut all) {}
        if is_done(&all) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{names:?} are never empty");
    }
    oracle.violations.extend(wrong);
    channel.flow();
    client.put_persistent(MARKER, "drained");
    channel.close();
    oracle.drained_group(group, &all);
}

/// Fetches everything a queue holds, one way or the other.
fn drain(client: &Client, queue: u8, random: &mut Random, oracle: &mut Oracle) {
    let name = queue_name(queue);
    let channel = client.channel(3);
    let mut all = Vec::new();
    let mut take = |content: &Content, oracle: &mut Oracle| match identify(&content.body) {
        Ok(id) => all.push((id, content.redelivered)),
        Err(why) => oracle.violations.push(format!("{name}: {why}")),
    };
    let ready = channel.ready(&name);
    let choice = random.below(3);
    let how = format!(
        "{ready} were counted, {}",
        ["basic.get", "a consumer with prefetch 100", "a consumer"][choice]
    );
    if choice == 0 {
        while let Some(content) = channel.get(&name, "no_ack") {
            take(&content, oracle);
        }
    }
    let left = channel.ready(&name);
    if choice == 0 && left > 0 {
        oracle.violations.push(format!(
            "{name}: basic.get-empty, and {left} of {ready} messages are still counted"
        ));
    }
    if left > 0 {
        channel.call(&qos(if choice == 1 { 100 } else { 0 }, ""));
        channel.consume(&name, "drain", "");
        for count in 1..=left {
            let event = client.try_take(3, PATIENCE, |_| true);
            let Ok(event @ Event::Content(..)) = event else {
                oracle.violations.push(format!(
                    "{name}: says it holds {left} messages; after {} came {event:?}",
                    count - 1
                ));
                break;
            };
            let content = content(event).expect("a delivery");
            if count % 50 == 0 || count == left {
                channel.send(&ack(content.tag, "multiple"));
            }
            take(&content, oracle);
        }
        channel.flow();
    }
    // The channel's answer says that the acks were taken; a confirm that comes later, that they are in the log.
    channel.flow();
    client.put_persistent(MARKER, "drained");
    while let Some(content) = channel.get(&name, "no_ack") {
        take(&content, oracle);
    }
    channel.close();
    oracle.drained(queue, &all, &how);
}

/// Looks at everything that was declared, settles what the crash left in doubt.
fn look_at_topology(
    client: &Client,
    topology: &mut Topology,
    probe: &mut u64,
    oracle: &mut Oracle,
) {
    let mut check = |what: String, known: &mut Known, found: bool| {
        let wrong = match known {
            Known::There => !found,
            Known::Absent => found,
            Known::Unknown => false,
        };
        if wrong {
            oracle.violations.push(format!(
                "{what} was {known:?}, found after the restart: {found}"
            ));
        }
        *known = if found { Known::There } else { Known::Absent };
    };
    let found = |method: &AMQPClass| {
        let channel = client.channel(4);
        let answer = channel.try_call(method);
        let closed = matches!(
            answer,
            Ok(AMQPClass::Channel(channel::AMQPMethod::Close(_)))
        );
        if closed {
            channel.send(&channel_close_ok());
        } else {
            channel.close();
        }
        !closed
    };
    for (queue, known) in &mut topology.queues {
        let name = queue_name(*queue);
        let there = found(&queue_declare(&name, "passive", table([])));
        check(name, known, there);
    }
    for (number, known) in &mut topology.exchanges {
        let name = format!("crash.exchange.{number}");
        let there = found(&exchange_declare(&name, "topic", "passive", table([])));
        check(name, known, there);
    }
    let channel = client.channel(4);
    channel.call(&confirm_select());
    for (queue, known) in &mut topology.bindings {
        let name = queue_name(*queue);
        *probe += 1;
        channel.publish_with(
            DIRECT,
            &name,
            "mandatory",
            &plain(),
            body(Id::new(PROBE, *probe), BODY_MIN),
        );
        let mut bound = true;
        loop {
            match client.event(4) {
                Event::Content(AMQPClass::Basic(basic::AMQPMethod::Return(_)), ..) => bound = false,
                Event::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(_))) => break,
                other => panic!("a confirm was due, {other:?} came"),
            }
        }
        check(format!("the binding of {name}"), known, bound);
    }
    channel.close();
    let gone: Vec<u8> = topology
        .queues
        .iter()
        .filter(|(_, known)| **known == Known::Absent)
        .map(|(queue, _)| *queue)
        .collect();
    oracle.entries.retain(|(queue, _), _| !gone.contains(queue));
}

/// A run of the harness.
struct Run {
    seed: u64,
    rounds: u64,
    random: Random,
    config: PathBuf,
    memory: bool,
}

impl Run {
    fn environment(name: &str) -> Option<u64> {
        let value = std::env::var(name).ok()?;
        Some(
            value
                .parse()
                .unwrap_or_else(|_| panic!("{name}={value}: a number was expected")),
        )
    }

    /// The next start's settings: small log files, so that much happens to them within a round.
    fn configure(&mut self) -> String {
        let sync = std::env::var("MAMBAMQ_CRASH_SYNC").unwrap_or_else(|_| {
            ["fsync", "fsync", "interval", "os"][self.random.below(4)].to_owned()
        });
        let size = ["1MiB", "1MiB", "2MiB", "8MiB"][self.random.below(4)];
        let memory = ["1MiB", "1MiB", "4MiB", "32MiB"][self.random.below(4)];
        let mut text = format!("[store]\nsync = \"{sync}\"\nlog_file_size = \"{size}\"\n");
        if self.memory {
            text += &format!("[memory]\nmessages = \"{memory}\"\n");
        }
        fs::write(&self.config, text).unwrap();
        format!("sync {sync}, log files of {size}, memory {memory}")
    }
}

/// Whether this broker can be told how much memory messages may take.
fn knows_memory_budget(folder: &Path) -> bool {
    let file = folder.with_extension("probe.toml");
    fs::write(&file, "[memory]\nmessages = \"1MiB\"\n").unwrap();
    let known = broker::bare_command()
        .arg("check-config")
        .arg(&file)
        .output()
        .unwrap()
        .status
        .success();
    fs::remove_file(&file).unwrap();
    known
}

fn copy_folder(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn nothing_confirmed_is_lost_whenever_the_broker_is_killed() {
    if elsewhere("the broker there is not ours to kill") {
        return;
    }
    let seed = Run::environment("MAMBAMQ_CRASH_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(now.unwrap().as_nanos() % 1_000_000_007).unwrap()
    });
    let folder = broker::fresh_folder();
    let mut run = Run {
        seed,
        rounds: Run::environment("MAMBAMQ_CRASH_ROUNDS").unwrap_or(6),
        random: Random::new(seed),
        config: folder.with_extension("toml"),
        memory: knows_memory_budget(&folder),
    };
    println!("{} crashes; to repeat: {}", run.rounds, repeat_line(&run));
    crashes(&mut run, folder);
}

fn repeat_line(run: &Run) -> String {
    let mut line = format!(
        "MAMBAMQ_CRASH_SEED={} MAMBAMQ_CRASH_ROUNDS={}",
        run.seed, run.rounds
    );
    for name in ["MAMBAMQ_CRASH_SYNC", "MAMBAMQ_TEST_BINARY"] {
        if let Ok(value) = std::env::var(name) {
            line += &format!(" {name}={value}");
        }
    }
    line + " cargo test --test crash"
}

fn crashes(run: &mut Run, folder: PathBuf) {
    let before = folder.with_extension("crashed");
    let config = run.config.to_str().unwrap().to_owned();
    let start = |folder: PathBuf| Broker::start_on(folder, &["--config", &config]);
    let mut oracle = Oracle::default();
    let mut topology = Topology::new();
    // The next number of each publisher; never used twice.
    let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut clock, mut sessions, mut probe) = (0, 0, 0);
    // What the repeater said last.
    let mut repeated: Vec<u64> = Vec::new();

    run.configure();
    let mut node = start(folder);
    {
        let client = Client::to(&node);
        let channel = client.channel(1);
        channel.call(&exchange_declare(FAN_OUT, "fanout", "durable", table([])));
        channel.call(&exchange_declare(DIRECT, "direct", "durable", table([])));
        let delayed = table([("x-delayed-type", text("direct"))]);
        channel.call(&exchange_declare(
            LATER,
            "x-delayed-message",
            "durable",
            delayed,
        ));
        channel.queue(MARKER, "durable", table([("x-max-length", int(1))]));
        for queue in (0..).take(SHARED.len()) {
            channel.call(&declaration(queue));
        }
        for queue in FANNED {
            channel.bind(&queue_name(queue), FAN_OUT, "");
        }
        channel.bind(&queue_name(LATE), LATER, &queue_name(LATE));
    }
    for round in 1..=run.rounds {
        let shared = Arc::new(Shared {
            clock: AtomicU64::new(clock),
            ..Shared::default()
        });
        let address = node.amqp;
        let mut publishers: Vec<JoinHandle<Vec<Sent>>> = Vec::new();
        for number in 1..=PUBLISHERS {
            let (shared, seed) = (Arc::clone(&shared), run.random.next());
            let first = *numbers.entry(number).or_insert(1);
            publishers.push(thread::spawn(move || {
                publisher(&shared, address, seed, number, first)
            }));
        }
        let mut consumers: Vec<JoinHandle<Vec<Got>>> = Vec::new();
        for queue in (0..).take(SHARED.len()) {
            for _ in 0..run.random.below(3) {
                let (shared, seed) = (Arc::clone(&shared), run.random.next());
                let first = sessions;
                sessions += 1000;
                consumers.push(thread::spawn(move || {
                    consumer(&shared, address, seed, queue, first)
                }));
            }
        }
        let repeater = {
            let (shared, seed) = (Arc::clone(&shared), run.random.next());
            let first = *numbers.entry(REPEATER).or_insert(1);
            let before = std::mem::take(&mut repeated);
            thread::spawn(move || repeater(&shared, address, seed, before, first))
        };
        let builder = {
            let (shared, seed) = (Arc::clone(&shared), run.random.next());
            let first = *numbers.entry(BUILDER).or_insert(1);
            let topology = topology.clone();
            thread::spawn(move || builder(&shared, address, seed, first, topology))
        };

        // The crash comes after so much work, or when there is none left.
        let moment = u64::try_from(run.random.below(8000)).unwrap();
        let workers = publishers.len() + consumers.len() + 2;
        let working = |publishers: &[JoinHandle<Vec<Sent>>], builder: bool| {
            !builder || publishers.iter().any(|one| !one.is_finished())
        };
        let deadline = Instant::now() + PATIENCE;
        while shared.connected.load(Ordering::SeqCst) < workers && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        shared.go.store(true, Ordering::SeqCst);
        while shared.progress.load(Ordering::Relaxed) < moment
            && working(&publishers, builder.is_finished())
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_micros(200));
        }
        let progress = shared.progress.load(Ordering::Relaxed);
        let killed = node.kill();

        let sent: Vec<Vec<Sent>> = publishers
            .into_iter()
            .map(|one| one.join().expect("a publisher failed"))
            .collect();
        let got: Vec<Got> = consumers
            .into_iter()
            .flat_map(|one| one.join().expect("a consumer failed"))
            .collect();
        let (built, known) = builder.join().expect("the builder failed");
        let again = repeater.join().expect("the repeater failed");
        repeated = again.iter().map(|one| one.id.number()).collect();
        if let Some(last) = repeated.iter().max() {
            let next = numbers.entry(REPEATER).or_insert(1);
            *next = (*next).max(last + 1);
        }
        repeated.drain(..repeated.len().saturating_sub(REPEATED_MAX));
        oracle.repeated(&again);
        topology = known;
        for sent in &sent {
            for one in sent {
                oracle.sent(one);
                numbers.insert(one.id.publisher(), one.id.number() + 1);
            }
        }
        for step in &built {
            if let Built::Sent(one) = step {
                numbers.insert(one.id.publisher(), one.id.number() + 1);
            }
        }
        clock = shared.now();
        let (published, received) = (sent.iter().map(Vec::len).sum::<usize>(), got.len());
        let confirmed = sent.iter().flatten().filter(|one| {
            one.persistent
                && one.confirm == Some(true)
                && one
                    .queues
                    .iter()
                    .any(|queue| nature(*queue) != Nature::AutoAck)
        });
        oracle.got(got, confirmed.map(|one| one.at).max().unwrap_or(0));
        oracle.built(&built);
        oracle.crashed();
        oracle
            .violations
            .extend(shared.violations.lock().unwrap().drain(..));

        copy_folder(&killed, &before);
        let settings = run.configure();
        // Recovery is killed too now and then, wherever it is.
        let mut interrupted = 0;
        while interrupted < 3 && run.random.below(4) == 0 {
            interrupted += 1;
            let mut child = broker::command(&killed)
                .args(["--config", &config, "--listen", "127.0.0.1:0"])
                .args(["--metrics-listen", "off", "--stop-with-stdin"])
                .spawn()
                .unwrap();
            thread::sleep(Duration::from_micros(
                u64::try_from(run.random.below(60_000)).unwrap(),
            ));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        node = start(killed);
        // A clean stop in between must change nothing.
        let stopped = run.random.below(5) == 0;
        if stopped {
            node.terminate();
            let status = node.wait_for_exit();
            assert!(status.success(), "SIGTERM ended the broker with {status}");
            node = start(node.kill());
        }
        let client = Client::to(&node);
        look_at_topology(&client, &mut topology, &mut probe, &mut oracle);
        let drains = round == run.rounds || run.random.below(2) == 0;
        if drains {
            let present = topology
                .queues
                .iter()
                .filter(|(_, known)| **known == Known::There)
                .map(|(queue, _)| *queue);
            for queue in (0..).take(SHARED.len()).chain(present) {
                // Not all, so that some grow old.
                if round != run.rounds && run.random.below(4) == 0 {
                    continue;
                }
                match nature(queue) {
                    Nature::Moving(group) if group == queue => {
                        drain_group(&client, group, &mut oracle);
                    }
                    Nature::Moving(_) => {}
                    _ => drain(&client, queue, &mut run.random, &mut oracle),
                }
            }
        }
        println!(
            "round {round}: {published} published, {received} received, killed after {progress} steps; then {settings}, {interrupted} broken recoveries{}{}",
            if stopped { ", a clean stop" } else { "" },
            if drains { ", drained" } else { "" },
        );
        assert!(
            oracle.violations.is_empty(),
            "round {round}:\n{}\nThe data folder as the crash left it: {}\nThe broker's log: {}\nTo repeat: {}",
            oracle.violations.join("\n"),
            before.display(),
            node.folder().with_extension("log").display(),
            repeat_line(run),
        );
    }
    println!(
        "{} deliveries before and {} after crashes",
        oracle.delivered, oracle.drained
    );
    drop(node);
    fs::remove_dir_all(&before).unwrap();
    fs::remove_file(&run.config).unwrap();
}

/// A killed process loses nothing in any sync mode: the operating system has what was confirmed.
#[test]
fn every_sync_mode_survives_a_killed_broker() {
    if elsewhere("the broker there is not ours to kill") {
        return;
    }
    for sync in ["fsync", "interval", "os"] {
        let folder = broker::fresh_folder();
        let config = folder.with_extension("toml");
        fs::write(&config, format!("[store]\nsync = \"{sync}\"\n")).unwrap();
        let flags = ["--config", config.to_str().unwrap()];
        let node = Broker::start_on(folder, &flags);
        let client = Client::to(&node);
        let channel = client.channel(1);
        channel.queue("q", "durable", table([]));
        channel.call(&confirm_select());
        for number in 0..1000 {
            channel.publish_with("", "q", "", &persistent(), format!("{number}"));
        }
        assert!(channel.confirms(1, 1000).values().all(|accepted| *accepted));
        let node = Broker::start_on(node.kill(), &flags);
        let expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        assert_eq!(Client::to(&node).channel(1).drain("q"), expected, "{sync}");
        drop(node);
        fs::remove_file(&config).unwrap();
    }
}

/// `basic.get` answers get-empty only when there is nothing, also when what is there lies on the disk alone.
#[test]
fn basic_get_finds_what_lies_on_the_disk() {
    if elsewhere("the broker there is not ours to kill") {
        return;
    }
    let folder = broker::fresh_folder();
    let config = folder.with_extension("toml");
    let budget = if knows_memory_budget(&folder) {
        "[memory]\nmessages = \"1MiB\"\n"
    } else {
        ""
    };
    fs::write(
        &config,
        format!("[store]\nlog_file_size = \"1MiB\"\n{budget}"),
    )
    .unwrap();
    let flags = ["--config", config.to_str().unwrap()];
    let mut node = Broker::start_on(folder, &flags);
    for crash in [false, true] {
        let client = Client::to(&node);
        let channel = client.channel(1);
        channel.queue("q", "durable", table([]));
        channel.call(&confirm_select());
        let count = 8000;
        for number in 1..=count {
            channel.publish_with("", "q", "", &persistent(), body(Id::new(1, number), 1000));
        }
        assert!(
            channel
                .confirms(1, count)
                .values()
                .all(|accepted| *accepted)
        );
        if crash {
            node = Broker::start_on(node.kill(), &flags);
        }
        let client = Client::to(&node);
        let channel = client.channel(1);
        for number in 1..=count {
            let Some(got) = channel.get("q", "no_ack") else {
                panic!(
                    "get-empty after {} of {count}, after a crash: {crash}; the queue counts {}",
                    number - 1,
                    channel.ready("q")
                );
            };
            assert_eq!(identify(&got.body), Ok(Id::new(1, number)));
        }
        assert!(channel.get("q", "no_ack").is_none());
    }
    drop(node);
    fs::remove_file(&config).unwrap();
}
