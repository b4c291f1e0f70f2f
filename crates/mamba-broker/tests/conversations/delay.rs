//! Delayed messages and retries by the broker's own clock.

use mamba_codec::encode_table;
use protocol::exchange;

use super::*;

impl Client<'_> {
    fn exchange(&mut self, name: &str, arguments: &[(&str, FieldValue)]) {
        let mut table = FieldTable::default();
        for (key, value) in arguments {
            table.insert((*key).into(), value.clone());
        }
        let declare = exchange::Declare {
            exchange: name.into(),
            kind: "x-delayed-message".into(),
            durable: true,
            arguments: table,
            ..exchange::Declare::default()
        };
        self.send(
            ONE,
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)),
        );
    }

    fn bind(&mut self, queue: &str, exchange: &str) {
        let bind = queue::Bind {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: queue.into(),
            ..queue::Bind::default()
        };
        self.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
    }

    fn publish_late(&mut self, exchange: &str, key: &str, delay: FieldValue, body: &[u8]) {
        let publish = basic::Publish {
            exchange: exchange.into(),
            routing_key: key.into(),
            ..basic::Publish::default()
        };
        let mut octets = Vec::new();
        write_method(
            &mut octets,
            ONE,
            &AMQPClass::Basic(basic::AMQPMethod::Publish(publish)),
        );
        let mut headers = FieldTable::default();
        headers.insert("x-delay".into(), delay);
        let headers = encode_table(&headers);
        let mut header = vec![0, 60, 0, 0];
        header.extend((body.len() as u64).to_be_bytes());
        header.extend([0x30, 0]);
        header.extend(u32::try_from(headers.len()).unwrap().to_be_bytes());
        header.extend(&headers);
        header.push(2);
        for (kind, payload) in [(2u8, header.as_slice()), (3, body)] {
            octets.extend([kind, 0, 1]);
            octets.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
            octets.extend(payload);
            octets.push(0xCE);
        }
        self.say(&octets);
    }

    fn reject(&mut self, delivery_tag: u64) {
        let reject = basic::Reject {
            delivery_tag,
            requeue: true,
        };
        self.send(ONE, AMQPClass::Basic(basic::AMQPMethod::Reject(reject)));
    }

    fn nack(&mut self, delivery_tag: u64) {
        let nack = basic::Nack {
            delivery_tag,
            requeue: true,
            ..basic::Nack::default()
        };
        self.send(ONE, AMQPClass::Basic(basic::AMQPMethod::Nack(nack)));
    }

    fn wait_for_bodies(&mut self, count: usize) {
        for _ in 0..5000 {
            self.listen();
            if self.bodies().len() == count {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!("{count} bodies were not heard, but {:?}", self.heard);
    }
}

fn declared(client: &mut Client<'_>, arguments: &[(&str, FieldValue)]) {
    client.exchange("x", &[("x-delayed-type", text("direct"))]);
    client.declare("q", true, arguments);
    client.bind("q", "x");
    client.select_confirms();
}

#[test]
fn messages_come_at_their_time_and_in_its_order() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        declared(&mut client, &[]);
        for (delay, body) in [(3000, b"c"), (1000, b"a"), (2000, b"b"), (1000, b"A")] {
            client.publish_late("x", "q", int(delay), body);
        }
        client.publish_late("x", "q", int(0), b"n");
        client.publish_late("x", "q", int(-5), b"m");
        client.wait_for("Ack");
    }
    assert_eq!((world.ready("q"), world.delayed("q")), (2, 4));
    assert_eq!(
        world.broker.next_deadline(),
        Some(START_MS + 1001),
        "a part of the millisecond had passed"
    );
    world.pass(1000 * MS);
    assert_eq!(world.ready("q"), 2);
    world.pass_to("q", MS, 4);
    assert_eq!(world.delayed("q"), 2);
    world.pass_to("q", 10_000 * MS, 6);
    assert!(world.broker.next_deadline().is_none());
    let mut client = world.client();
    client.consume("q", true);
    client.wait_for_bodies(6);
    assert_eq!(client.bodies(), "nmaAbc");
}

#[test]
fn what_waits_survives_a_restart_and_what_is_overdue_comes_at_once() {
    let folder = TempDir::new().unwrap();
    {
        let mut world = World::open(&folder, START_MS);
        {
            let mut client = world.client();
            declared(&mut client, &[]);
            for number in 0..500 {
                let delay = 1000 + 10 * ((number * 37) % 500);
                client.publish_late("x", "q", int(delay), b"x");
            }
            client.wait_for("Ack");
        }
        world.pass_to("q", 2001 * MS, 101);
    }
    let mut world = World::open(&folder, START_MS + 3001);
    assert_eq!(world.ready("q") + world.delayed("q"), 500);
    world.pass_to("q", Duration::ZERO, 201);
    assert_eq!(world.delayed("q"), 299);
    world.pass_to("q", 60_000 * MS, 500);
    assert_eq!(world.delayed("q"), 0);
}

#[test]
fn the_time_to_live_begins_when_a_message_is_ready() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        declared(&mut client, &[("x-message-ttl", int(500))]);
        client.publish_late("x", "q", int(1000), b"a");
        client.wait_for("Ack");
    }
    world.pass_to("q", 1001 * MS, 1);
    world.pass(499 * MS);
    assert_eq!(world.ready("q"), 1);
    world.pass(MS);
    assert_eq!(world.ready("q"), 0);
}

#[test]
fn a_purge_cancels_and_a_deletion_drops() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        declared(&mut client, &[]);
        for _ in 0..10 {
            client.publish_late("x", "q", int(1000), b"a");
        }
        client.wait_for("Ack");
        assert_eq!(world.delayed("q"), 10);
        let purge = queue::Purge {
            queue: "q".into(),
            ..queue::Purge::default()
        };
        client.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Purge(purge)));
        assert!(client.heard("message_count: 0"), "{:?}", client.heard);
        client.publish_late("x", "q", int(2000), b"b");
    }
    assert_eq!(world.delayed("q"), 1);
    world.pass(1500 * MS);
    assert_eq!(world.ready("q"), 0);
    let live = |world: &World| world.broker.store().log().stats().live_bytes;
    assert!(live(&world) > 0);
    let mut client = world.client();
    let delete = queue::Delete {
        queue: "q".into(),
        ..queue::Delete::default()
    };
    client.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Delete(delete)));
    client.wait_for("DeleteOk");
    assert_eq!(live(&world), 0);
}

#[test]
fn nonsense_is_refused() {
    let folder = TempDir::new().unwrap();
    let world = World::open(&folder, START_MS);
    for (value, reason) in [
        (
            text("soon"),
            "expected a number of milliseconds, got 'soon' of type 'longstr'",
        ),
        (FieldValue::Boolean(true), "got 'true' of type 'bool'"),
        (
            int(i64::MAX),
            "9223372036854775807 milliseconds from now are later than",
        ),
        (
            FieldValue::Double(1e300),
            "milliseconds from now are later than",
        ),
    ] {
        let mut client = world.client();
        declared(&mut client, &[]);
        client.publish_late("x", "q", value, b"a");
        assert!(client.heard(reason), "{:?}", client.heard);
    }
    // A number of any kind does, and years are no nonsense.
    let mut client = world.client();
    declared(&mut client, &[]);
    for value in [
        text("1000"),
        FieldValue::ShortShortUInt(9),
        FieldValue::Double(10.9),
        int(200 * 365 * 86_400_000),
    ] {
        client.publish_late("x", "q", value, b"a");
    }
    assert_eq!(world.delayed("q"), 4);
}

#[test]
fn only_those_behind_the_delayed_exchange_wait() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        declared(&mut client, &[]);
        client.declare("other", true, &[]);
        let bind = exchange::Bind {
            destination: "x".into(),
            source: "amq.fanout".into(),
            ..exchange::Bind::default()
        };
        client.send(ONE, AMQPClass::Exchange(exchange::AMQPMethod::Bind(bind)));
        client.bind("other", "amq.fanout");
        client.publish_late("amq.fanout", "q", int(1000), b"a");
        client.wait_for("Ack");
    }
    assert_eq!((world.ready("q"), world.delayed("q")), (0, 1));
    assert_eq!((world.ready("other"), world.delayed("other")), (1, 0));
    world.pass_to("q", 1001 * MS, 1);
}

fn retrying(kind: &str, queue_type: &str) -> [(&'static str, FieldValue); 7] {
    [
        ("x-queue-type", text(queue_type)),
        ("x-delayed-retry-type", text(kind)),
        ("x-delayed-retry-min", int(1000)),
        ("x-delayed-retry-max", int(1500)),
        ("x-delivery-limit", int(2)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ]
}

#[test]
fn a_rejected_message_waits_longer_each_time_and_then_dies() {
    for queue_type in ["classic", "quorum"] {
        let folder = TempDir::new().unwrap();
        {
            let mut world = World::open(&folder, START_MS);
            {
                let mut client = world.client();
                client.declare("dead", true, &[]);
                client.declare("q", true, &retrying("all", queue_type));
                client.select_confirms();
                client.publish("q", true, b"a");
                client.wait_for("Ack");
                client.consume("q", false);
                client.wait_for("redelivered: false");
                client.reject(1);
            }
            assert_eq!((world.ready("q"), world.delayed("q")), (0, 1));
            world.pass(1000 * MS);
            assert_eq!(world.ready("q"), 0);
            world.pass_to("q", MS, 1);
            let mut client = world.client();
            client.consume("q", false);
            client.wait_for("redelivered: true");
            client.nack(1);
            assert_eq!(world.delayed("q"), 1);
            drop(client);
            world.pass(1000 * MS);
            assert_eq!(world.ready("q"), 0, "twice the time, but for the maximum");
        }
        // The count survives the restart.
        let mut world = World::open(&folder, START_MS + 2000);
        world.pass_to("q", 502 * MS, 1);
        {
            let mut client = world.client();
            client.consume("q", false);
            client.wait_for("redelivered: true");
            client.reject(1);
        }
        assert_eq!(
            (world.ready("q"), world.delayed("q")),
            (0, 0),
            "{queue_type}"
        );
        assert_eq!(world.ready("dead"), 1, "{queue_type}");
    }
}

#[test]
fn the_type_says_what_waits() {
    for (kind, rejected, nacked) in [
        ("all", 1, 1),
        ("failed", 1, 0),
        ("returned", 0, 1),
        ("disabled", 0, 0),
    ] {
        let folder = TempDir::new().unwrap();
        let world = World::open(&folder, START_MS);
        let mut client = world.client();
        client.declare("q", true, &retrying(kind, "classic"));
        let get = || {
            AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get {
                queue: "q".into(),
                no_ack: false,
            }))
        };
        client.publish("q", true, b"a");
        client.send(ONE, get());
        client.wait_for("GetOk");
        client.reject(1);
        assert_eq!(world.delayed("q"), rejected, "{kind} rejected");
        client.publish("q", true, b"b");
        client.heard.clear();
        client.send(ONE, get());
        client.wait_for("GetOk");
        client.nack(2);
        assert_eq!(world.delayed("q") - rejected, nacked, "{kind} nacked");
        // The channel's end is a failure.
        drop(client);
    }
}
