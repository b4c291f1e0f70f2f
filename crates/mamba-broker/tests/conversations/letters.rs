//! `x-dead-letter-strategy: at-least-once`: dead letters that no queue takes wait in their source.

use protocol::exchange;

use super::*;

/// A full queue that refuses, and a source whose dead letters go there.
fn full_target(client: &mut Client<'_>, strategy: &str) {
    client.declare(
        "dead",
        true,
        &[
            ("x-max-length", int(1)),
            ("x-overflow", text("reject-publish")),
        ],
    );
    source(client, strategy, "", "dead");
    client.publish("dead", true, b"0");
}

fn source(client: &mut Client<'_>, strategy: &str, exchange: &str, key: &str) {
    client.declare(
        "q",
        true,
        &[
            ("x-queue-type", text("quorum")),
            ("x-overflow", text("reject-publish")),
            ("x-dead-letter-strategy", text(strategy)),
            ("x-dead-letter-exchange", text(exchange)),
            ("x-dead-letter-routing-key", text(key)),
        ],
    );
}

impl Client<'_> {
    /// Publishes these messages to the source, and rejects them.
    fn kill(&mut self, bodies: &[&[u8]]) {
        for body in bodies {
            self.publish("q", true, body);
            let get = basic::Get {
                queue: "q".into(),
                no_ack: false,
            };
            self.heard.clear();
            self.send(ONE, AMQPClass::Basic(basic::AMQPMethod::Get(get)));
            self.wait_for("GetOk");
        }
        let nack = basic::Nack {
            delivery_tag: 0,
            multiple: true,
            requeue: false,
        };
        self.send(ONE, AMQPClass::Basic(basic::AMQPMethod::Nack(nack)));
    }

    fn bind_fanout(&mut self, queue: &str) {
        let bind = queue::Bind {
            queue: queue.into(),
            exchange: "amq.fanout".into(),
            ..queue::Bind::default()
        };
        self.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
    }

    fn take(&mut self, queue: &str) -> String {
        let get = basic::Get {
            queue: queue.into(),
            no_ack: true,
        };
        self.heard.clear();
        self.send(ONE, AMQPClass::Basic(basic::AMQPMethod::Get(get)));
        self.wait_for("GetOk");
        self.bodies()
    }
}

#[test]
fn a_letter_waits_until_its_target_has_room() {
    let folder = TempDir::new().unwrap();
    {
        let mut world = World::open(&folder, START_MS);
        full_target(&mut world.client(), "at-least-once");
        world.client().kill(&[b"a", b"b"]);
        assert_eq!((world.ready("q"), world.delayed("q")), (0, 2));
        // Each time it is refused the pause is twice as long.
        world.pass(1000 * MS);
        assert_eq!((world.ready("dead"), world.delayed("q")), (1, 2));
        assert_eq!(world.client().take("dead"), "0");
        world.pass(1999 * MS);
        assert_eq!((world.ready("dead"), world.delayed("q")), (0, 2));
        world.pass_to("dead", MS, 1);
        assert_eq!(world.delayed("q"), 1);
        assert_eq!(world.client().take("dead"), "a");
    }
    // After a restart it is tried at once.
    let mut world = World::open(&folder, START_MS + 4000);
    assert_eq!((world.ready("q"), world.delayed("q")), (0, 1));
    world.pass_to("dead", Duration::ZERO, 1);
    assert_eq!(world.delayed("q"), 0);
    assert_eq!(world.client().take("dead"), "b");
    assert!(world.broker.next_deadline().is_none());
}

#[test]
fn without_the_strategy_it_is_dropped() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    full_target(&mut world.client(), "at-most-once");
    world.client().kill(&[b"a"]);
    assert_eq!((world.ready("q"), world.delayed("q")), (0, 0));
    world.pass(60_000 * MS);
    assert_eq!(world.ready("dead"), 1);
}

#[test]
fn a_letter_waits_until_there_is_a_queue_for_it() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        source(&mut client, "at-least-once", "later", "k");
        client.kill(&[b"a"]);
    }
    for _ in 0..10 {
        world.pass(60_000 * MS);
        assert_eq!(world.delayed("q"), 1);
    }
    {
        let mut client = world.client();
        client.declare("dead", true, &[]);
        let declare = exchange::Declare {
            exchange: "later".into(),
            kind: "direct".into(),
            ..exchange::Declare::default()
        };
        client.send(
            ONE,
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)),
        );
        let bind = queue::Bind {
            queue: "dead".into(),
            exchange: "later".into(),
            routing_key: "k".into(),
            ..queue::Bind::default()
        };
        client.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
    }
    world.pass_to("dead", 60_000 * MS, 1);
    assert_eq!(world.delayed("q"), 0);
}

#[test]
fn a_letter_to_several_queues_comes_to_each_once() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        full_target(&mut client, "at-least-once");
        client.delete("q");
        client.declare("other", true, &[]);
        client.bind_fanout("dead");
        client.bind_fanout("other");
        source(&mut client, "at-least-once", "amq.fanout", "k");
        client.kill(&[b"a", b"b"]);
    }
    for _ in 0..10 {
        world.pass(60_000 * MS);
    }
    assert_eq!((world.ready("other"), world.delayed("q")), (0, 2));
    world.client().take("dead");
    world.pass_to("other", 60_000 * MS, 1);
    assert_eq!((world.ready("dead"), world.delayed("q")), (1, 1));
    world.client().take("dead");
    world.pass_to("other", 60_000 * MS, 2);
    assert_eq!((world.ready("dead"), world.delayed("q")), (1, 0));
    let mut client = world.client();
    assert_eq!(client.take("other") + &client.take("other"), "ab");
}

#[test]
fn a_purge_cancels_and_a_deletion_drops() {
    let folder = TempDir::new().unwrap();
    let mut world = World::open(&folder, START_MS);
    {
        let mut client = world.client();
        full_target(&mut client, "at-least-once");
        client.take("dead");
        client.kill(&[b"a", b"b"]);
        assert_eq!(client.take("dead"), "a");
        assert_eq!(world.delayed("q"), 1);
        let purge = queue::Purge {
            queue: "q".into(),
            ..queue::Purge::default()
        };
        client.send(ONE, AMQPClass::Queue(queue::AMQPMethod::Purge(purge)));
    }
    assert_eq!(world.delayed("q"), 0);
    world.pass(60_000 * MS);
    assert_eq!(world.ready("dead"), 0);
    let live = |world: &World| world.broker.store().log().stats().live_bytes;
    {
        let mut client = world.client();
        client.publish("dead", true, b"0");
        client.kill(&[b"c"]);
        assert_eq!(world.delayed("q"), 1);
        client.take("dead");
        assert!(live(&world) > 0);
        client.delete("q");
    }
    assert_eq!(live(&world), 0);
    world.pass(60_000 * MS);
    assert_eq!(world.ready("dead"), 0);
}
