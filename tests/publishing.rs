//! Publishing: mandatory, confirms, CC and BCC, user-id, transactions.

mod support;

use amq_protocol::protocol::{AMQPClass, basic};
use support::*;

fn setup() -> (Client, Channel, String) {
    let client = Client::connect();
    let (channel, name) = (client.channel(1), name());
    channel.own_queue(&name);
    (client, channel, name)
}

mod mandatory {
    use super::*;

    #[test]
    fn unroutable_comes_back() {
        let (_client, channel, name) = setup();
        let properties = headers([("b", text("2")), ("a", int(1))])
            .with_message_id("id".into())
            .with_delivery_mode(2);
        channel.publish_with("amq.direct", &name, "mandatory", &properties, "body");
        let (method, returned, body) = channel.returned();
        assert_eq!(
            (method.reply_code, method.reply_text.as_str()),
            (312, "NO_ROUTE")
        );
        assert_eq!(
            (method.exchange.as_str(), method.routing_key.as_str()),
            ("amq.direct", name.as_str())
        );
        assert_eq!((returned, body), (properties, b"body".to_vec()));
    }

    #[test]
    fn by_the_default_exchange() {
        let (_client, channel, name) = setup();
        channel.publish_with("", &format!("{name}.missing"), "mandatory", &plain(), "");
        let (method, _, body) = channel.returned();
        assert_eq!(
            (method.reply_code, method.exchange.as_str(), body.len()),
            (312, "", 0)
        );
    }

    #[test]
    fn large_bodies_come_back_whole() {
        let (_client, channel, _) = setup();
        let body = Random::new(5).bytes(400_000);
        channel.publish_with("amq.direct", "nowhere", "mandatory", &plain(), &body);
        assert!(channel.returned().2 == body);
    }

    #[test]
    fn routed_does_not() {
        let (_client, channel, name) = setup();
        channel.publish_with("", &name, "mandatory", &plain(), "x");
        channel.expect_nothing();
        assert_eq!(channel.drain(&name), ["x"]);
    }

    #[test]
    fn not_mandatory_is_dropped() {
        let (_client, channel, _) = setup();
        channel.publish("amq.direct", "nowhere", "x");
        channel.expect_nothing();
    }

    #[test]
    fn the_return_comes_before_the_confirm() {
        let (_client, channel, _) = setup();
        channel.call(&confirm_select());
        channel.publish_with("amq.direct", "nowhere", "mandatory", &plain(), "x");
        let first = channel.client.event(1);
        assert!(
            matches!(
                first,
                Event::Content(AMQPClass::Basic(basic::AMQPMethod::Return(_)), ..)
            ),
            "{first:?}"
        );
        let second = channel.client.event(1);
        assert!(
            matches!(
                second,
                Event::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(_)))
            ),
            "{second:?}"
        );
    }

    #[test]
    fn bcc_is_taken_off_returns() {
        let (_client, channel, _) = setup();
        let properties = headers([
            ("BCC", array(vec![text("nowhere")])),
            ("CC", array(vec![text("nowhere")])),
            ("a", int(1)),
        ]);
        channel.publish_with("amq.direct", "nowhere", "mandatory", &properties, "x");
        let (_, returned, _) = channel.returned();
        assert_eq!(
            returned,
            headers([("CC", array(vec![text("nowhere")])), ("a", int(1))])
        );
    }
}

mod confirms {
    use super::*;

    #[test]
    fn number_from_one() {
        let (_client, channel, name) = setup();
        channel.publish("", &name, "before select");
        channel.call(&confirm_select());
        channel.publish("", &name, "first");
        assert_eq!(channel.confirms(1, 1).len(), 1);
        channel.publish("", &name, "second");
        assert_eq!(channel.confirms(2, 2).len(), 1);
        channel.expect_nothing();
        assert_eq!(channel.ready(&name), 3);
    }

    /// Publishes many and waits for all confirms; each sequence number is settled once.
    #[track_caller]
    fn check(
        queue_flags: &str,
        arguments: &[(&str, Value)],
        properties: &BasicProperties,
        count: u64,
    ) {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        let mut table = table([]);
        for (key, value) in arguments {
            table.insert((*key).into(), value.clone());
        }
        channel.queue(&name, queue_flags, table);
        channel.call(&confirm_select());
        for number in 0..count {
            channel.publish_with("", &name, "", properties, format!("{number}"));
        }
        assert!(
            channel
                .confirms(1, count)
                .values()
                .all(|accepted| *accepted)
        );
        assert_eq!(u64::from(channel.ready(&name)), count);
        let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        assert_eq!(channel.drain(&name), expected);
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn of_transient_messages() {
        check("exclusive", &[], &plain(), 2000);
    }

    #[test]
    fn of_persistent_messages() {
        check("durable", &[], &persistent(), 2000);
    }

    #[test]
    fn of_transient_messages_in_a_durable_queue() {
        check("durable", &[], &plain(), 500);
    }

    #[test]
    fn of_quorum_queues() {
        check(
            "durable",
            &[("x-queue-type", text("quorum"))],
            &plain(),
            500,
        );
    }

    #[test]
    fn one_by_one() {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.queue(&name, "durable auto_delete", table([]));
        channel.call(&confirm_select());
        for sequence in 1..=50 {
            channel.publish_with("", &name, "", &persistent(), "x");
            let answer = channel.method();
            let AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!(
                (ack.delivery_tag, ack.multiple),
                (sequence, false),
                "a single confirm is not multiple"
            );
        }
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn of_a_mix_of_fates() {
        let (_client, channel, name) = setup();
        let (full, durable) = (format!("{name}.full"), format!("{name}.durable"));
        channel.queue(
            &full,
            "exclusive",
            table([
                ("x-max-length", int(0)),
                ("x-overflow", text("reject-publish")),
            ]),
        );
        channel.queue(&durable, "durable auto_delete", table([]));
        channel.call(&confirm_select());
        let targets = [name.as_str(), "nowhere", &full, &durable];
        for number in 0..400 {
            channel.publish_with("", targets[number % 4], "", &persistent(), "x");
        }
        let settled = channel.confirms(1, 400);
        for (sequence, accepted) in settled {
            assert_eq!(accepted, sequence % 4 != 3, "{sequence}");
        }
        channel.call(&queue_delete(&durable, ""));
    }

    #[test]
    fn of_messages_consumed_at_once() {
        let client = Client::connect();
        let (channel, consumer, name) = (client.channel(1), client.channel(2), name());
        channel.queue(&name, "durable auto_delete", table([]));
        consumer.consume(&name, "t", "no_ack");
        channel.call(&confirm_select());
        for _ in 0..500 {
            channel.publish_with("", &name, "", &persistent(), "x");
        }
        assert!(channel.confirms(1, 500).values().all(|accepted| *accepted));
        assert_eq!(consumer.bodies(500).len(), 500);
    }

    #[test]
    fn of_fan_out() {
        let (client, channel, name) = setup();
        channel.exchange(&name, "fanout");
        let queues: Vec<String> = (0..10).map(|number| format!("{name}.{number}")).collect();
        for queue in &queues {
            channel.queue(queue, "durable auto_delete", table([]));
            channel.bind(queue, &name, "");
        }
        let publisher = client.channel(2);
        publisher.call(&confirm_select());
        for _ in 0..100 {
            publisher.publish_with(&name, "", "", &persistent(), "x");
        }
        assert!(
            publisher
                .confirms(1, 100)
                .values()
                .all(|accepted| *accepted)
        );
        for queue in &queues {
            assert_eq!(channel.ready(queue), 100);
            channel.call(&queue_delete(queue, ""));
        }
    }

    #[test]
    fn are_per_channel() {
        let (client, channel, name) = setup();
        let other = client.channel(2);
        channel.call(&confirm_select());
        other.call(&confirm_select());
        for _ in 0..3 {
            channel.publish("", &name, "x");
            other.publish("", &name, "x");
        }
        assert_eq!(
            (channel.confirms(1, 3).len(), other.confirms(1, 3).len()),
            (3, 3)
        );
    }

    #[test]
    fn start_again_on_a_new_channel() {
        let (client, channel, name) = setup();
        channel.call(&confirm_select());
        channel.publish("", &name, "x");
        channel.confirms(1, 1);
        channel.close();
        let channel = client.channel(1);
        channel.publish("", &name, "x");
        channel.expect_nothing();
        channel.call(&confirm_select());
        channel.publish("", &name, "x");
        channel.confirms(1, 1);
    }

    #[test]
    fn select_nowait() {
        let (client, channel, name) = setup();
        client.raw(&frame(1, 1, &[0, 85, 0, 10, 1]));
        channel.publish("", &name, "x");
        channel.confirms(1, 1);
        channel.expect_nothing();
    }

    #[test]
    fn of_empty_and_large_bodies() {
        let (_client, channel, name) = setup();
        channel.call(&confirm_select());
        for (sequence, size) in [(1, 0), (2, 1), (3, 131_064), (4, 131_065), (5, 5_000_000)] {
            channel.publish("", &name, vec![b'x'; size]);
            assert!(
                channel.confirms(sequence, sequence)[&sequence],
                "{size} octets"
            );
        }
    }
}

mod sender_selected {
    use super::*;

    #[test]
    fn cc_and_bcc_are_routing_keys() {
        let (_client, channel, name) = setup();
        let queues = ["to", "cc", "bcc", "other"].map(|word| format!("{name}.{word}"));
        for queue in &queues {
            channel.own_queue(queue);
        }
        let properties = headers([
            ("CC", array(vec![text(&queues[1]), int(7)])),
            ("BCC", array(vec![text(&queues[2])])),
            ("a", int(1)),
        ]);
        channel.publish_with("", &queues[0], "", &properties, "x");
        channel.flow();
        for queue in &queues[..3] {
            eventually("it is routed", || channel.ready(queue) == 1);
            let got = channel.get(queue, "no_ack").expect("a message");
            assert_eq!(got.key, queues[0], "the key of the publish");
            assert!(got.header("BCC").is_none(), "BCC is taken off");
            assert_eq!(got.header("a"), Some(int(1)));
            let Some(Value::FieldArray(copies)) = got.header("CC") else {
                panic!("CC stays: {got:?}")
            };
            assert_eq!(copies.as_slice()[0], text(&queues[1]));
        }
        assert_eq!(channel.ready(&queues[3]), 0);
    }

    #[test]
    fn one_copy_per_queue() {
        let (client, channel, name) = setup();
        let keys = array(vec![text(&name), text(&name)]);
        client.put_with(
            "",
            &name,
            &headers([("CC", keys.clone()), ("BCC", keys)]),
            "x",
        );
        assert_eq!(channel.drain(&name), ["x"]);
    }

    #[test]
    fn every_exchange_type_asks_all_keys() {
        let (client, channel, name) = setup();
        channel.exchange(&name, "topic");
        channel.bind(&name, &name, "copy.*");
        client.put_with(
            &name,
            "first",
            &headers([("CC", array(vec![text("copy.this")]))]),
            "x",
        );
        assert_eq!(channel.drain(&name), ["x"]);
    }

    #[test]
    fn names_are_case_sensitive() {
        let (client, channel, name) = setup();
        client.put_with(
            "",
            "nowhere",
            &headers([("cc", array(vec![text(&name)]))]),
            "x",
        );
        client.put_with("", "nowhere", &headers([("Bcc", text(&name))]), "x");
        assert_eq!(channel.ready(&name), 0);
    }

    #[test]
    fn cc_makes_a_mandatory_message_routable() {
        let (_client, channel, name) = setup();
        let properties = headers([("CC", array(vec![text(&name)]))]);
        channel.publish_with("", "nowhere", "mandatory", &properties, "x");
        channel.expect_nothing();
        eventually("it is routed", || channel.ready(&name) == 1);
    }
}

mod transactions {
    use super::*;

    fn transactional() -> (Client, Channel, Channel, String) {
        let (client, other, name) = setup();
        let channel = client.channel(2);
        channel.call(&tx_select());
        (client, channel, other, name)
    }

    #[test]
    fn publishes_wait_for_commit() {
        let (_client, channel, other, name) = transactional();
        for body in ["1", "2"] {
            channel.publish("", &name, body);
        }
        channel.flow();
        assert_eq!(other.ready(&name), 0);
        channel.call(&tx_commit());
        assert_eq!(other.drain(&name), ["1", "2"]);
        // The next transaction has begun.
        channel.publish("", &name, "3");
        channel.flow();
        assert_eq!(other.ready(&name), 0);
        channel.call(&tx_commit());
        assert_eq!(other.drain(&name), ["3"]);
    }

    #[test]
    fn rollback_discards_publishes() {
        let (_client, channel, other, name) = transactional();
        channel.publish("", &name, "1");
        channel.call(&tx_rollback());
        channel.call(&tx_commit());
        assert_eq!(other.ready(&name), 0);
    }

    #[test]
    fn closing_discards_publishes() {
        let (_client, channel, other, name) = transactional();
        channel.publish("", &name, "1");
        channel.close();
        assert_eq!(other.ready(&name), 0);
    }

    #[test]
    fn acks_wait_for_commit() {
        let (client, channel, other, name) = transactional();
        client.put(&name, "1");
        let got = channel.get(&name, "").expect("a message");
        channel.send(&ack(got.tag, ""));
        channel.close();
        eventually("it is back", || other.ready(&name) == 1);
        let channel = client.channel(2);
        channel.call(&tx_select());
        let got = channel.get(&name, "").expect("a message");
        channel.send(&ack(got.tag, ""));
        channel.call(&tx_commit());
        channel.close();
        assert_eq!(other.ready(&name), 0);
    }

    #[test]
    fn rollback_makes_acks_undone() {
        let (client, channel, other, name) = transactional();
        client.put(&name, "1");
        let got = channel.get(&name, "").expect("a message");
        channel.send(&ack(got.tag, ""));
        channel.call(&tx_rollback());
        assert_eq!(other.ready(&name), 0, "still outstanding");
        channel.send(&ack(got.tag, ""));
        channel.call(&tx_commit());
        channel.close();
        assert_eq!(other.ready(&name), 0);
    }

    #[test]
    fn nacks_wait_for_commit() {
        let (client, channel, other, name) = transactional();
        client.put(&name, "1");
        client.put(&name, "2");
        let tags = [(); 2].map(|()| channel.get(&name, "").expect("a message").tag);
        channel.send(&nack(tags[0], "requeue"));
        channel.send(&reject(tags[1], ""));
        channel.flow();
        assert_eq!(other.ready(&name), 0);
        channel.call(&tx_commit());
        eventually("one is back", || other.ready(&name) == 1);
        assert_eq!(other.drain(&name), ["1"]);
    }

    #[test]
    fn an_unknown_tag_is_an_error_at_once() {
        let (_client, channel, _other, _) = transactional();
        channel.send(&ack(5, ""));
        channel.expect_error(
            406,
            "PRECONDITION_FAILED - unknown delivery tag 5",
            (60, 80),
        );
    }

    #[test]
    fn a_missing_exchange_is_an_error_at_once() {
        let (_client, channel, _other, name) = transactional();
        channel.publish(&name, "", "x");
        channel.expect_error(404, &expand("NOT_FOUND - no %x", &name), (60, 40));
    }

    #[test]
    fn returns_come_with_commit() {
        let (_client, channel, _other, _) = transactional();
        channel.publish_with("amq.direct", "nowhere", "mandatory", &plain(), "x");
        channel.expect_nothing();
        channel.send(&tx_commit());
        let first = channel.client.event(2);
        assert!(
            matches!(
                first,
                Event::Content(AMQPClass::Basic(basic::AMQPMethod::Return(_)), ..)
            ),
            "{first:?}"
        );
        channel.answer();
    }

    #[test]
    fn routing_is_decided_at_publish() {
        let (_client, channel, other, name) = transactional();
        other.exchange(&name, "fanout");
        other.bind(&name, &name, "");
        channel.publish(&name, "", "x");
        channel.flow();
        other.call(&queue_unbind(&name, &name, "", table([])));
        channel.call(&tx_commit());
        assert_eq!(other.drain(&name), ["x"]);
    }

    #[test]
    fn persistent_messages() {
        let (client, channel, _, name) = transactional();
        let durable = format!("{name}.durable");
        channel.queue(&durable, "durable", table([]));
        for _ in 0..100 {
            channel.publish_with("", &durable, "", &persistent(), "x");
        }
        channel.call(&tx_commit());
        let other = client.channel(3);
        assert_eq!(other.ready(&durable), 100);
        other.call(&queue_delete(&durable, ""));
    }

    #[test]
    fn deliveries_go_on() {
        let (client, channel, _other, name) = transactional();
        channel.consume(&name, "t", "");
        client.put(&name, "1");
        assert_eq!(channel.delivery().text(), "1");
        channel.call(&tx_rollback());
        client.put(&name, "2");
        assert_eq!(channel.delivery().text(), "2");
    }
}
