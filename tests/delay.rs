//! Delayed messages and retries over TCP: order, confirms, purge, mandatory, fan-out, restarts and crashes.

mod support;

use amq_protocol::{
    protocol::{AMQPClass, BasicProperties, queue},
    types::FieldTable,
};
use support::*;

const DELAYED: &str = "x-delayed-message";

fn delayed_exchange(channel: &Channel, name: &str, inner: &str, flags: &str) {
    let arguments = table([("x-delayed-type", text(inner))]);
    channel.call(&exchange_declare(name, DELAYED, flags, arguments));
}

fn late(delay_ms: i32) -> BasicProperties {
    headers([("x-delay", int(delay_ms))]).with_delivery_mode(2)
}

/// A channel in confirm mode, a delayed exchange of this type, and a queue bound to it by its own name.
fn setup(inner: &str, arguments: FieldTable) -> (Client, Channel, String) {
    let client = Client::connect();
    let channel = client.channel(1);
    let name = name();
    delayed_exchange(&channel, &name, inner, "auto_delete");
    channel.queue(&name, "exclusive", arguments);
    channel.bind(&name, &name, &name);
    channel.call(&confirm_select());
    (client, channel, name)
}

fn skip() -> bool {
    elsewhere("a plugin there, or not there at all")
}

mod exchange {
    use super::*;

    #[test]
    fn needs_a_type_to_route_like() {
        if skip() {
            return;
        }
        let client = Client::connect();
        let channel = client.channel(1);
        for arguments in [
            table([]),
            table([("x-delayed-type", int(1))]),
            table([("x-delayed-type", text(DELAYED))]),
        ] {
            channel.send(&exchange_declare("d", DELAYED, "", arguments));
            channel.expect_error(
                406,
                "PRECONDITION_FAILED - Invalid argument, 'x-delayed-type' must be an existing exchange type",
                (40, 10),
            );
        }
        let arguments = table([("x-delayed-type", text("nonsense"))]);
        channel.send(&exchange_declare("d", DELAYED, "", arguments));
        channel.expect_error(
            406,
            "PRECONDITION_FAILED - unknown exchange type 'nonsense'",
            (40, 10),
        );
    }

    #[test]
    fn is_the_same_with_the_same_type_only() {
        if skip() {
            return;
        }
        let client = Client::connect();
        let channel = client.channel(1);
        let name = name();
        delayed_exchange(&channel, &name, "topic", "");
        delayed_exchange(&channel, &name, "topic", "");
        let arguments = table([("x-delayed-type", text("direct"))]);
        channel.send(&exchange_declare(&name, DELAYED, "", arguments));
        channel.expect_error(
            406,
            &format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-delayed-type' for exchange '{name}' in vhost '/': received 'direct' but current is 'topic'"
            ),
            (40, 10),
        );
        channel.call(&exchange_delete(&name, ""));
    }

    #[test]
    fn routes_like_its_type() {
        if skip() {
            return;
        }
        let (client, channel, name) = setup("topic", table([]));
        channel.bind(&name, &name, "a.*");
        channel.publish_with(&name, "a.b", "", &late(20), "matches");
        channel.publish_with(&name, "b.a", "", &late(20), "does not");
        channel.publish_with(&name, "a.c", "", &plain(), "at once");
        channel.confirms(1, 3);
        channel.consume(&name, "c", "no_ack");
        assert_eq!(channel.bodies(2), ["at once", "matches"]);
        client.close();
    }
}

mod message {
    use super::*;

    #[test]
    fn comes_later_with_its_delay_spent() {
        if skip() {
            return;
        }
        let (_client, channel, name) = setup("direct", table([]));
        channel.consume(&name, "c", "no_ack");
        for (delay, body) in [(120, "last"), (60, "second"), (0, "first")] {
            channel.publish_with(&name, &name, "", &late(delay), body);
        }
        channel.confirms(1, 3);
        let (first, second, last) = (channel.delivery(), channel.delivery(), channel.delivery());
        assert_eq!(
            [first.text(), second.text(), last.text()],
            ["first", "second", "last"]
        );
        assert_eq!(first.header("x-delay"), Some(int(0)));
        assert_eq!(last.header("x-delay"), Some(int(-120)));
        assert_eq!(last.header("x-delivery-count"), None);
    }

    #[test]
    fn may_be_text_and_must_be_a_number() {
        if skip() {
            return;
        }
        let (client, channel, name) = setup("direct", table([]));
        let delay = headers([("x-delay", text("10"))]);
        channel.publish_with(&name, &name, "", &delay, "text");
        channel.confirms(1, 1);
        channel.consume(&name, "c", "no_ack");
        assert_eq!(channel.delivery().header("x-delay"), Some(int(-10)));
        let delay = headers([("x-delay", text("soon"))]);
        channel.publish_with(&name, &name, "", &delay, "nonsense");
        channel.expect_close(
            406,
            "PRECONDITION_FAILED - invalid header 'x-delay': expected a number of milliseconds, got 'soon' of type 'longstr'",
            (60, 40),
        );
        client.close();
    }

    #[test]
    fn for_nobody_is_returned_at_once() {
        if skip() {
            return;
        }
        let (_client, channel, name) = setup("direct", table([]));
        channel.publish_with(&name, "nobody", "mandatory", &late(60_000), "x");
        let (returned, ..) = channel.returned();
        assert_eq!(returned.reply_code, 312);
        channel.confirms(1, 1);
    }

    #[test]
    fn goes_to_every_queue() {
        if skip() {
            return;
        }
        let (_client, channel, name) = setup("fanout", table([]));
        let other = format!("{name}.other");
        channel.own_queue(&other);
        channel.bind(&other, &name, "");
        channel.publish_with(&name, "", "", &late(30), "x");
        channel.confirms(1, 1);
        for queue in [&name, &other] {
            channel.consume(queue, queue, "no_ack");
        }
        assert_eq!(channel.bodies(2), ["x", "x"]);
    }

    #[test]
    fn is_cancelled_by_a_purge() {
        if skip() {
            return;
        }
        let (_client, channel, name) = setup("direct", table([]));
        channel.publish_with(&name, &name, "", &late(200), "cancelled");
        channel.publish_with(&name, &name, "", &plain(), "ready");
        channel.confirms(1, 2);
        let AMQPClass::Queue(queue::AMQPMethod::PurgeOk(ok)) = channel.call(&queue_purge(&name))
        else {
            panic!("no purge-ok");
        };
        assert_eq!(ok.message_count, 1, "ready messages only");
        // Due after the cancelled one: when it is here, that one would be.
        channel.publish_with(&name, &name, "", &late(250), "later");
        channel.confirms(3, 3);
        channel.consume(&name, "c", "no_ack");
        assert_eq!(channel.bodies(1), ["later"]);
        channel.expect_nothing();
    }

    #[test]
    fn of_a_transaction_waits_as_well() {
        if skip() {
            return;
        }
        let (client, _channel, name) = setup("direct", table([]));
        let channel = client.channel(2);
        channel.call(&tx_select());
        channel.publish_with(&name, &name, "", &late(50), "late");
        channel.publish_with(&name, &name, "", &plain(), "now");
        channel.call(&tx_commit());
        channel.consume(&name, "c", "no_ack");
        assert_eq!(channel.bodies(2), ["now", "late"]);
    }
}

mod restart {
    use super::*;

    /// What waits is on the metrics page, survives a restart and a crash, and comes once.
    fn survives(end: fn(Broker) -> Broker) {
        let broker = Broker::start(&[]);
        {
            let client = Client::to(&broker);
            let channel = client.channel(1);
            delayed_exchange(&channel, "x", "direct", "durable");
            channel.queue("q", "durable", table([]));
            channel.bind("q", "x", "k");
            channel.call(&confirm_select());
            for number in 0..200 {
                let delay = if number < 100 { 1 } else { 2000 + number };
                channel.publish_with("x", "k", "", &late(delay), format!("{number:03}"));
            }
            channel.publish_with(
                "x",
                "k",
                "",
                &headers([("x-delay", int(86_400_000))]).with_delivery_mode(1),
                "transient",
            );
            channel.confirms(1, 201);
            eventually("half of them are ready", || channel.ready("q") == 100);
            let delayed = broker.metric("mambamq_queue_messages_delayed");
            assert_eq!(delayed, Some(101.0));
        }
        let broker = end(broker);
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.consume("q", "c", "no_ack");
        let expected: Vec<String> = (0..200).map(|number| format!("{number:03}")).collect();
        assert_eq!(channel.bodies(200), expected);
        channel.expect_nothing();
        assert_eq!(broker.metric("mambamq_queue_messages_delayed"), Some(0.0));
    }

    #[test]
    fn clean() {
        if !skip() {
            survives(Broker::restart);
        }
    }

    #[test]
    fn after_a_kill() {
        if !skip() {
            survives(Broker::crash_and_restart);
        }
    }
}

/// A consumer got a message in the moment it was due, and the node died: the log need not know yet that it has left its waiting
/// place. It comes again, and says so.
#[test]
fn delivered_before_a_kill() {
    if skip() {
        return;
    }
    let mut broker = Broker::start(&[]);
    for round in 0..5 {
        let doomed = Client::to(&broker);
        let channel = doomed.channel(1);
        delayed_exchange(&channel, "x", "direct", "durable");
        channel.queue("q", "durable", table([]));
        channel.bind("q", "x", "q");
        channel.call(&confirm_select());
        channel.consume("q", "c", "");
        for number in 0..3 {
            channel.publish_with("x", "q", "", &late(30 * number + 1), format!("{round}"));
        }
        channel.confirms(1, 3);
        for _ in 0..3 {
            assert!(!channel.delivery().redelivered, "round {round}");
        }
        broker = broker.crash_and_restart();
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.consume("q", "c", "");
        for _ in 0..3 {
            let again = channel.delivery();
            assert_eq!(again.text(), format!("{round}"));
            assert!(again.redelivered, "round {round}");
            channel.send(&ack(again.tag, ""));
        }
        channel.call(&queue_delete("q", ""));
    }
}

/// `x-dead-letter-strategy: at-least-once`.
mod letters {
    use super::*;

    /// Letters for a full queue survive, and come once when it has room.
    fn survive(end: fn(Broker) -> Broker) {
        let broker = Broker::start(&[]);
        {
            let client = Client::to(&broker);
            let channel = client.channel(1);
            let full = table([
                ("x-max-length", int(1)),
                ("x-overflow", text("reject-publish")),
            ]);
            channel.queue("dead", "durable", full);
            let source = table([
                ("x-queue-type", text("quorum")),
                ("x-overflow", text("reject-publish")),
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text("dead")),
            ]);
            channel.queue("q", "durable", source);
            client.put_persistent("dead", "first");
            for body in ["a", "b", "c"] {
                client.put_persistent("q", body);
                let got = channel.get("q", "").expect("a message");
                channel.send(&reject(got.tag, ""));
            }
            eventually("they wait", || {
                broker.metric("mambamq_queue_messages_delayed") == Some(3.0)
            });
            assert_eq!((channel.ready("q"), channel.ready("dead")), (0, 1));
            // The log's writer may be a moment behind; a confirm says that it is not.
            channel.queue("log", "durable", table([]));
            client.put_persistent("log", "written");
        }
        let broker = end(broker);
        let client = Client::to(&broker);
        let channel = client.channel(1);
        assert_eq!(channel.ready("q"), 0);
        channel.consume("dead", "c", "no_ack");
        assert_eq!(channel.delivery().text(), "first");
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let letter = channel.delivery();
            let reason = letter.header("x-first-death-reason");
            assert_eq!(reason, Some(text("rejected")));
            assert_eq!(letter.header("x-last-death-queue"), Some(text("q")));
            bodies.push(letter.text());
        }
        bodies.sort();
        assert_eq!(bodies, ["a", "b", "c"]);
        channel.expect_nothing();
        assert_eq!(broker.metric("mambamq_queue_messages_delayed"), Some(0.0));
    }

    #[test]
    fn survive_a_stop() {
        if !skip() {
            survive(Broker::restart);
        }
    }

    #[test]
    fn survive_a_kill() {
        if !skip() {
            survive(Broker::crash_and_restart);
        }
    }
}

mod retry {
    use super::*;

    fn retrying(kind: &str, dead: &str) -> FieldTable {
        table([
            ("x-delayed-retry-type", text(kind)),
            ("x-delayed-retry-min", int(30)),
            ("x-delayed-retry-max", int(50)),
            ("x-delivery-limit", int(2)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(dead)),
        ])
    }

    /// Rejects until it is dead; the header counts.
    #[test]
    fn until_dead() {
        if skip() {
            return;
        }
        let client = Client::connect();
        let channel = client.channel(1);
        let (name, dead) = (name(), name());
        channel.own_queue(&dead);
        channel.queue(&name, "exclusive", retrying("all", &dead));
        channel.publish("", &name, "work");
        channel.consume(&name, "c", "");
        for count in 0..3 {
            let delivery = channel.delivery();
            assert_eq!(delivery.redelivered, count > 0);
            let shown = (count > 0).then(|| long(count));
            assert_eq!(delivery.header("x-delivery-count"), shown);
            channel.send(&reject(delivery.tag, "requeue"));
        }
        channel.consume(&dead, "d", "no_ack");
        let letter = channel.delivery();
        assert_eq!(letter.text(), "work");
        assert_eq!(
            letter.header("x-first-death-reason"),
            Some(text("delivery_limit"))
        );
    }

    #[test]
    fn a_classic_queue_counts_to_its_limit() {
        if skip() {
            return;
        }
        let client = Client::connect();
        let channel = client.channel(1);
        let name = name();
        let limit = table([("x-delivery-limit", int(1))]);
        channel.queue(&name, "exclusive", limit);
        channel.publish("", &name, "work");
        channel.consume(&name, "c", "");
        let first = channel.delivery();
        assert_eq!(first.header("x-delivery-count"), None);
        channel.send(&nack(first.tag, "requeue"));
        let second = channel.delivery();
        assert_eq!(second.header("x-delivery-count"), Some(long(1)));
        channel.send(&nack(second.tag, "requeue"));
        channel.expect_nothing();
        assert_eq!(channel.ready(&name), 0);
    }

    #[test]
    fn a_minimum_above_the_maximum_is_refused() {
        if skip() {
            return;
        }
        let client = Client::connect();
        let channel = client.channel(1);
        let name = name();
        let arguments = table([
            ("x-delayed-retry-min", int(10)),
            ("x-delayed-retry-max", int(9)),
        ]);
        channel.send(&queue_declare(&name, "exclusive", arguments));
        channel.expect_close(
            406,
            &format!(
                "PRECONDITION_FAILED - invalid arg 'x-delayed-retry-max' for queue '{name}' in vhost '/': \"9 is less than x-delayed-retry-min, which is 10\""
            ),
            (50, 10),
        );
    }

    #[test]
    fn a_basic_get_is_tried_again_too() {
        if skip() {
            return;
        }
        let client = Client::connect();
        let channel = client.channel(1);
        let name = name();
        channel.queue(&name, "exclusive", retrying("failed", &name));
        channel.publish("", &name, "work");
        let Some(got) = channel.get(&name, "") else {
            panic!("no message");
        };
        channel.send(&reject(got.tag, "requeue"));
        channel.consume(&name, "c", "no_ack");
        assert!(channel.delivery().redelivered);
    }
}
