//! The whole broker without sockets: octets in, octets out, time as an argument.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "conversations/delay.rs"]
mod delay;
#[path = "conversations/letters.rs"]
mod letters;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mamba_broker::{Broker, BrokerConfig, Connection, Now};
use mamba_codec::{
    AMQPClass, FrameKind, Method, encode_table, frame, method, protocol, write_method,
};
use mamba_types::{ChannelId, FieldTable, FieldValue, Limits};
use protocol::{basic, channel, confirm, connection, queue, tx};
use tempfile::TempDir;

const START_MS: u64 = 1_700_000_000_000;
const ONE: ChannelId = ChannelId(1);

/// A broker with a clock of its own.
struct World {
    broker: Arc<Broker>,
    started: Instant,
    passed: Duration,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the beginning"
    )]
    fn open_with(config: BrokerConfig, unix_ms: u64) -> Self {
        let broker = Broker::open(config, 7, unix_ms).unwrap();
        while broker.page_in_once() {}
        Self {
            broker,
            started: Instant::now(),
            passed: Duration::from_millis(unix_ms - START_MS),
        }
    }

    fn open(folder: &TempDir, unix_ms: u64) -> Self {
        Self::open_with(BrokerConfig::new(folder.path()), unix_ms)
    }

    fn now(&self) -> Now {
        Now {
            instant: self.started + self.passed,
            unix_ms: START_MS + u64::try_from(self.passed.as_millis()).unwrap(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.broker.tick(self.now().unix_ms);
        while self.broker.page_in_once() {}
    }

    fn client(&self) -> Client<'_> {
        let address = "127.0.0.1:1".parse().unwrap();
        let connection = self.broker.connect(address, address, self.now()).unwrap();
        let mut client = Client {
            world: self,
            connection,
            heard: Vec::new(),
        };
        client.say(b"AMQP\0\0\x09\x01");
        let start_ok = connection::StartOk {
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
            ..connection::StartOk::default()
        };
        client.send(
            ChannelId(0),
            connection_class(connection::AMQPMethod::StartOk(start_ok)),
        );
        let tune_ok = connection::TuneOk {
            channel_max: 10,
            frame_max: 131_072,
            heartbeat: 0,
        };
        client.send(
            ChannelId(0),
            connection_class(connection::AMQPMethod::TuneOk(tune_ok)),
        );
        let open = connection::Open {
            virtual_host: "/".into(),
        };
        client.send(
            ChannelId(0),
            connection_class(connection::AMQPMethod::Open(open)),
        );
        client.send(
            ONE,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        );
        client.heard.clear();
        client
    }

    fn ready(&self, queue: &str) -> u64 {
        self.broker
            .vhost("/")
            .unwrap()
            .queue(queue)
            .unwrap()
            .counts()
            .ready
    }

    /// Messages of a queue that are not ready yet.
    fn delayed(&self, queue: &str) -> u64 {
        let vhost = self.broker.vhost("/").unwrap();
        vhost.queue(queue).unwrap().counts().delayed
    }

    /// Lets time pass, and gives the log the moment it needs to write what was released.
    fn pass_to(&mut self, queue: &str, time: Duration, ready: u64) {
        self.pass(time);
        for _ in 0..5000 {
            if self.ready(queue) == ready {
                return;
            }
            self.pass(Duration::ZERO);
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!(
            "{} ready, {} delayed",
            self.ready(queue),
            self.delayed(queue)
        );
    }
}

const MS: Duration = Duration::from_millis(1);

fn connection_class(method: connection::AMQPMethod) -> AMQPClass {
    AMQPClass::Connection(method)
}

/// A client that remembers what it heard.
struct Client<'a> {
    world: &'a World,
    connection: Connection,
    heard: Vec<String>,
}

impl Client<'_> {
    fn say(&mut self, octets: &[u8]) {
        let mut at = 0;
        // Replies that wait for the disk hold input back: bounded, because the disk answers.
        for _ in 0..5000 {
            at += self.connection.receive(&octets[at..], self.world.now());
            self.listen();
            if at == octets.len() && self.connection.wants_input() {
                return;
            }
            std::thread::yield_now();
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!("the broker takes no more input; heard {:?}", self.heard);
    }

    fn listen(&mut self) {
        while self.world.broker.page_in_once() {}
        self.connection.pump(self.world.now());
        let output = self.connection.output();
        let mut octets = Vec::new();
        while !output.is_empty() {
            let mut slices = Vec::new();
            output.slices(&mut slices);
            let chunk: Vec<u8> = slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect();
            let taken = chunk.len();
            octets.extend(chunk);
            output.advance(taken);
        }
        let mut rest = octets.as_slice();
        while let Some((parsed, taken)) = frame(rest, 1 << 20).unwrap() {
            match parsed.kind {
                FrameKind::Method => match method(parsed.payload, &Limits::default()).unwrap() {
                    Method::Other(class) => self.heard.push(format!("{class:?}")),
                    other => self.heard.push(format!("{other:?}")),
                },
                FrameKind::Body => self
                    .heard
                    .push(String::from_utf8_lossy(parsed.payload).into_owned()),
                FrameKind::Header | FrameKind::Heartbeat => {}
            }
            rest = &rest[taken..];
        }
    }

    fn send(&mut self, channel: ChannelId, method: AMQPClass) {
        let mut octets = Vec::new();
        write_method(&mut octets, channel, &method);
        self.say(&octets);
    }

    fn heard(&self, text: &str) -> bool {
        self.heard.iter().any(|heard| heard.contains(text))
    }

    /// Waits for the disk until `text` was heard; bounded.
    fn wait_for(&mut self, text: &str) {
        for _ in 0..5000 {
            self.listen();
            if self.heard(text) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!("{text} was not heard, but {:?}", self.heard);
    }

    fn declare(&mut self, name: &str, durable: bool, arguments: &[(&str, FieldValue)]) {
        let mut table = FieldTable::default();
        for (key, value) in arguments {
            table.insert((*key).into(), value.clone());
        }
        let declare = queue::Declare {
            queue: name.into(),
            durable,
            arguments: table,
            ..queue::Declare::default()
        };
        self.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
    }

    fn delete(&mut self, name: &str) {
        let delete = queue::Delete {
            queue: name.into(),
            ..queue::Delete::default()
        };
        self.heard.retain(|heard| !heard.contains("DeleteOk"));
        self.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Delete(delete)));
        self.wait_for("DeleteOk");
    }

    fn publish(&mut self, routing_key: &str, persistent: bool, body: &[u8]) {
        self.publish_in_parts(routing_key, persistent, body, usize::MAX);
    }

    fn publish_in_parts(&mut self, routing_key: &str, persistent: bool, body: &[u8], part: usize) {
        let publish = basic::Publish {
            routing_key: routing_key.into(),
            ..basic::Publish::default()
        };
        let mut octets = Vec::new();
        write_method(
            &mut octets,
            ONE,
            &AMQPClass::Basic(basic::AMQPMethod::Publish(publish)),
        );
        let mut header = vec![0, 60, 0, 0];
        header.extend((body.len() as u64).to_be_bytes());
        header.extend([0x10, 0, if persistent { 2 } else { 1 }]);
        let body = body.chunks(part).map(|part| (3, part));
        for (kind, payload) in std::iter::once((2, header.as_slice())).chain(body) {
            octets.extend([kind, 0, 1]);
            octets.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
            octets.extend(payload);
            octets.push(0xCE);
        }
        self.say(&octets);
    }

    fn consume(&mut self, name: &str, no_ack: bool) {
        let consume = basic::Consume {
            queue: name.into(),
            consumer_tag: "c".into(),
            no_ack,
            ..basic::Consume::default()
        };
        self.send(ONE, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
    }

    /// The messages that were heard.
    fn bodies(&self) -> String {
        let bodies = self.heard.iter().filter(|heard| heard.len() == 1);
        bodies.map(String::as_str).collect()
    }

    fn select_confirms(&mut self) {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        self.send(ONE, AMQPClass::Confirm(select));
    }
}

fn int(value: i64) -> FieldValue {
    FieldValue::LongLongInt(value)
}

fn text(value: &str) -> FieldValue {
    FieldValue::LongString(value.into())
}

#[test]
fn publish_reaches_a_consumer_on_another_connection() {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    let (mut publisher, mut consumer) = (world.client(), world.client());
    publisher.declare("q", false, &[]);
    consumer.consume("q", true);
    publisher.publish("q", false, b"hello");
    consumer.listen();
    assert!(consumer.heard("hello"));
    assert_eq!(world.ready("q"), 0);
}

#[test]
fn a_lost_connection_gives_back_what_it_held() {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    let mut publisher = world.client();
    publisher.declare("q", false, &[]);
    let mut consumer = world.client();
    consumer.consume("q", false);
    publisher.publish("q", false, b"one");
    consumer.listen();
    assert_eq!(world.ready("q"), 0);
    drop(consumer);
    assert_eq!(world.ready("q"), 1);
}

#[test]
fn what_was_confirmed_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    {
        let world = World::open(&folder, START_MS);
        let mut client = world.client();
        client.declare("q", true, &[]);
        client.select_confirms();
        client.publish("q", true, b"kept");
        client.publish("q", false, b"not kept");
        client.wait_for("Ack");
    }
    let world = World::open(&folder, START_MS);
    assert_eq!(world.ready("q"), 1);
    let mut client = world.client();
    client.consume("q", true);
    client.wait_for("kept");
}

/// Deadlines used to be armed by the next change of a queue only: a delay queue stood still after a restart until
/// somebody touched it.
#[test]
fn messages_expire_into_the_dead_letter_exchange_after_a_restart() {
    let folder = TempDir::new().unwrap();
    {
        let world = World::open(&folder, START_MS);
        let mut client = world.client();
        client.declare("target", true, &[]);
        let arguments = [
            ("x-message-ttl", int(5000)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("target")),
        ];
        client.declare("delay", true, &arguments);
        client.select_confirms();
        client.publish("delay", true, b"later");
        client.wait_for("Ack");
    }
    let mut world = World::open(&folder, START_MS + 1000);
    assert_eq!((world.ready("delay"), world.ready("target")), (1, 0));
    assert!(
        world
            .broker
            .next_deadline()
            .is_some_and(|deadline| deadline <= START_MS + 5000)
    );
    world.pass(Duration::from_secs(5));
    assert_eq!((world.ready("delay"), world.ready("target")), (0, 1));
}

#[test]
fn an_unused_queue_expires_and_a_used_one_does_not() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        client.declare("short", false, &[("x-expires", int(1000))]);
    }
    let exists = |world: &World| world.broker.vhost("/").unwrap().queue("short").is_some();
    world.pass(Duration::from_millis(999));
    assert!(exists(&world));
    {
        let mut client = world.client();
        client.declare("short", false, &[("x-expires", int(1000))]);
    }
    world.pass(Duration::from_millis(999));
    assert!(exists(&world), "declaring it again began its time anew");
    world.pass(Duration::from_millis(1));
    assert!(!exists(&world));
    assert!(
        world.broker.next_deadline().is_none(),
        "nothing is left of it"
    );
}

/// A delivery without acknowledgement that never left a connection was written to the log again although its queue had been deleted
/// meanwhile. Then its old place was given up a second time, and the new one never: it kept its file for ever.
#[test]
fn what_a_deleted_queue_does_not_take_back_leaves_the_log() {
    let folder = TempDir::new().unwrap();
    let config = BrokerConfig {
        log_file_size: 4096,
        ..BrokerConfig::new(folder.path())
    };
    let world = World::open_with(config, START_MS);
    let mut owner = world.client();
    owner.declare("q", true, &[]);
    owner.declare("other", true, &[]);
    let mut consumer = world.client();
    consumer.consume("q", true);
    owner.select_confirms();
    owner.publish("q", true, b"on its way");
    owner.wait_for("Ack");
    // Its log file is closed.
    owner.publish("other", true, &[b'x'; 8192]);
    owner.publish("other", true, b"x");
    owner.delete("q");
    owner.delete("other");
    drop(consumer);
    assert_eq!(world.broker.snapshot().log_live_bytes, 0);
}

/// A quorum queue's time to live used to begin with its first use only: unused, it stayed; and when one of its messages expired
/// before that, the whole queue went with it.
#[test]
fn a_quorum_queue_expires_after_its_declaration_and_not_before() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    let mut client = world.client();
    let arguments = [
        ("x-queue-type", text("quorum")),
        ("x-expires", int(1000)),
        ("x-message-ttl", int(100)),
    ];
    client.declare("short", true, &arguments);
    client.publish("short", true, b"gone in a moment");
    drop(client);
    let exists = |world: &World| world.broker.vhost("/").unwrap().queue("short").is_some();
    world.pass(Duration::from_millis(100));
    assert!(exists(&world), "it went with its message");
    assert_eq!(world.ready("short"), 0);
    world.pass(Duration::from_millis(900));
    assert!(!exists(&world), "it stays though nobody used it");
}

/// The log was to be told first that a message might be delivered which it knew about, or need not know about. Until then the
/// message counted as ready, which a queue of length zero does not allow: it was dropped under the eyes of its consumer.
#[track_caller]
fn requeue_through_length_zero(arguments: &[(&str, FieldValue)]) {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    let mut client = world.client();
    let limit = [("x-max-length", int(0))];
    client.declare("q", true, &[&limit, arguments].concat());
    client.consume("q", false);
    client.publish("q", false, b"again");
    for tag in 1..4 {
        client.wait_for("again");
        client.heard.clear();
        let reject = basic::Reject {
            delivery_tag: tag,
            requeue: true,
        };
        client.send(ONE, AMQPClass::Basic(basic::AMQPMethod::Reject(reject)));
    }
    client.wait_for("again");
}

#[test]
fn a_requeued_message_comes_back_through_a_queue_of_length_zero() {
    let quorum = ("x-queue-type", text("quorum"));
    let unlimited = ("x-delivery-limit", int(-1));
    requeue_through_length_zero(&[]);
    requeue_through_length_zero(std::slice::from_ref(&quorum));
    requeue_through_length_zero(&[quorum, unlimited]);
}

/// Each hop of a chain of dead-letter queues used to take a frame of the stack: a client could end the process.
#[test]
fn a_long_chain_of_dead_letter_queues_needs_no_stack() {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    let mut client = world.client();
    const HOPS: usize = 400;
    for hop in 0..HOPS {
        let next = format!("q{}", hop + 1);
        let arguments = [
            ("x-max-length", int(0)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&next)),
        ];
        client.declare(&format!("q{hop}"), false, &arguments);
    }
    client.declare(&format!("q{HOPS}"), false, &[]);
    // On a thread with a small stack, so that the test needs few hops.
    std::thread::scope(|scope| {
        let run = || client.publish("q0", false, b"far");
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn_scoped(scope, run)
            .unwrap();
    });
    assert_eq!(world.ready(&format!("q{HOPS}")), 1);
}

/// A cancel sends what is on its way ahead of its reply; a wish to close that lay among it used to be lost.
#[test]
fn a_shutdown_reaches_a_client_that_is_cancelling() {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    let mut client = world.client();
    client.declare("q", false, &[]);
    client.consume("q", true);
    world.broker.close_connections("shutdown");
    let cancel = basic::Cancel {
        consumer_tag: "c".into(),
        nowait: false,
    };
    let mut octets = Vec::new();
    write_method(
        &mut octets,
        ONE,
        &AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)),
    );
    assert_eq!(
        client.connection.receive(&octets, world.now()),
        octets.len()
    );
    client.listen();
    assert!(client.heard("CONNECTION_FORCED"), "{:?}", client.heard);
}

#[test]
fn a_rejecting_queue_nacks_its_publisher() {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    let mut client = world.client();
    client.declare(
        "q",
        false,
        &[
            ("x-max-length", int(1)),
            ("x-overflow", text("reject-publish")),
        ],
    );
    client.select_confirms();
    client.publish("q", false, b"fits");
    client.publish("q", false, b"does not");
    client.wait_for("Nack");
    assert_eq!(world.ready("q"), 1);
}

#[test]
fn headers_leave_sorted_and_in_one_form() {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    let mut client = world.client();
    client.declare("q", false, &[]);
    client.consume("q", true);
    let mut sorted = FieldTable::default();
    sorted.insert("a".into(), int(1));
    sorted.insert("b".into(), int(2));
    // The same entries as they may come: unsorted, and with a capital tag.
    let mut unsorted = Vec::new();
    for (name, value) in [(b'b', 2u64), (b'a', 1)] {
        unsorted.extend([1, name, b'L']);
        unsorted.extend(value.to_be_bytes());
    }
    let publish = basic::Publish {
        routing_key: "q".into(),
        ..basic::Publish::default()
    };
    let mut octets = Vec::new();
    write_method(
        &mut octets,
        ONE,
        &AMQPClass::Basic(basic::AMQPMethod::Publish(publish)),
    );
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
    header.extend(u32::try_from(unsorted.len()).unwrap().to_be_bytes());
    header.extend(&unsorted);
    octets.extend([2, 0, 1]);
    octets.extend(u32::try_from(header.len()).unwrap().to_be_bytes());
    octets.extend(&header);
    octets.push(0xCE);
    let before = client.connection.receive(&octets, world.now());
    assert_eq!(before, octets.len());
    client.connection.pump(world.now());
    let mut slices = Vec::new();
    client.connection.output().slices(&mut slices);
    let out: Vec<u8> = slices
        .iter()
        .flat_map(|slice| slice.iter().copied())
        .collect();
    let wanted = encode_table(&sorted);
    assert!(out.windows(wanted.len()).any(|window| window == wanted));
}

/// A body of several frames is assembled in a buffer of its own, for a transient message without a checksum. A transaction put
/// that into the log of a quorum queue as it was, so that the next start took it for an unfinished write.
#[test]
fn what_a_transaction_committed_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let body = vec![b'x'; 20_000];
    {
        let world = World::open(&folder, START_MS);
        let mut client = world.client();
        client.declare("q", true, &[("x-queue-type", text("quorum"))]);
        let select = tx::AMQPMethod::Select(tx::Select {});
        client.send(ONE, AMQPClass::Tx(select));
        client.publish_in_parts("q", false, &body, 4096);
        let commit = tx::AMQPMethod::Commit(tx::Commit {});
        client.send(ONE, AMQPClass::Tx(commit));
        client.wait_for("CommitOk");
    }
    let world = World::open(&folder, START_MS);
    assert_eq!(world.ready("q"), 1);
}
