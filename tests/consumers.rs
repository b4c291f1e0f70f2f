//! Consumers: dispatch, priority, single active and exclusive consumers, cancellation, get, prefetch, settlement, redelivery, direct reply-to.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use amq_protocol::protocol::{AMQPClass, basic};
use support::*;

/// A connection, its channel 1, and an exclusive queue.
fn setup() -> (Client, Channel, String) {
    let client = Client::connect();
    let (channel, name) = (client.channel(1), name());
    channel.own_queue(&name);
    (client, channel, name)
}

fn put_all(client: &Client, queue: &str, bodies: &[&str]) {
    for body in bodies {
        client.put(queue, body);
    }
}

/// Waits until this many messages are ready.
#[track_caller]
fn wait_ready(channel: &Channel, queue: &str, count: u32) {
    eventually(&format!("{count} ready messages"), || {
        channel.ready(queue) == count
    });
}

mod consume_method {
    use super::*;

    #[test]
    fn consume_ok_before_the_first_delivery() {
        let (client, channel, name) = setup();
        put_all(&client, &name, &["x"; 10]);
        channel.send(&consume(&name, "tag", "no_ack", table([])));
        assert!(
            matches!(
                channel.method(),
                AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_))
            ),
            "consume-ok is first"
        );
        let first = channel.delivery();
        assert_eq!(
            (first.consumer.as_str(), first.tag, first.redelivered),
            ("tag", 1, false)
        );
        assert_eq!(
            (first.exchange.as_str(), first.key.as_str()),
            ("", name.as_str())
        );
    }

    #[test]
    fn nowait_has_no_consume_ok() {
        let (client, channel, name) = setup();
        channel.send(&consume(&name, "tag", "nowait", table([])));
        client.put(&name, "x");
        assert_eq!(channel.delivery().consumer, "tag");
        channel.expect_nothing();
    }

    #[test]
    fn server_named_tags() {
        let (_client, channel, name) = setup();
        let tag = channel.consume(&name, "", "");
        let random = tag.strip_prefix("amq.ctag-").expect("the prefix");
        assert_eq!(random.len(), 22, "{tag}");
        assert_ne!(channel.consume(&name, "", ""), tag);
    }

    #[test]
    fn delivery_tags_count_deliveries_and_gets() {
        let (client, channel, name) = setup();
        put_all(&client, &name, &["a", "b", "c", "d"]);
        assert_eq!(channel.get(&name, "no_ack").expect("a message").tag, 1);
        assert_eq!(channel.get(&name, "").expect("a message").tag, 2);
        channel.consume(&name, "t", "no_ack");
        assert_eq!((channel.delivery().tag, channel.delivery().tag), (3, 4));
        assert!(channel.get(&name, "").is_none());
        client.put(&name, "e");
        assert_eq!(channel.delivery().tag, 5);
    }

    #[test]
    fn order_is_publish_order() {
        let (client, channel, name) = setup();
        let publisher = client.channel(2);
        for number in 0..5000 {
            publisher.publish("", &name, format!("{number}"));
        }
        channel.consume(&name, "t", "no_ack");
        for number in 0..5000 {
            assert_eq!(channel.delivery().text(), format!("{number}"));
        }
    }

    #[test]
    fn without_ack_messages_are_gone_when_sent() {
        let (client, channel, name) = setup();
        put_all(&client, &name, &["a", "b"]);
        channel.consume(&name, "t", "no_ack");
        assert_eq!(channel.bodies(2), ["a", "b"]);
        channel.close();
        let channel = client.channel(1);
        assert_eq!(channel.ready(&name), 0);
    }

    #[test]
    fn many_queues_on_one_channel() {
        let (client, channel, name) = setup();
        for number in 0..20 {
            let queue = format!("{name}.{number}");
            channel.own_queue(&queue);
            channel.consume(&queue, &queue, "no_ack");
        }
        for number in 0..20 {
            let queue = format!("{name}.{number}");
            client.put(&queue, "x");
            assert_eq!(channel.delivery().consumer, queue);
        }
    }
}

mod dispatch {
    use super::*;

    #[test]
    fn round_robin() {
        let (client, channel, name) = setup();
        for tag in ["a", "b", "c"] {
            channel.consume(&name, tag, "no_ack");
        }
        put_all(&client, &name, &["x"; 9]);
        let tags: Vec<String> = (0..9).map(|_| channel.delivery().consumer).collect();
        assert_eq!(tags[..3], tags[3..6]);
        assert_eq!(tags[..3], tags[6..]);
        let mut first = tags[..3].to_vec();
        first.sort();
        assert_eq!(first, ["a", "b", "c"]);
    }

    #[test]
    fn over_connections() {
        let (one, two, name) = (Client::connect(), Client::connect(), name());
        let (first, second) = (one.channel(1), two.channel(1));
        first.queue(&name, "auto_delete", table([]));
        first.consume(&name, "a", "no_ack");
        second.consume(&name, "b", "no_ack");
        put_all(&one, &name, &["1", "2", "3", "4"]);
        let mut all = [first.bodies(2), second.bodies(2)].concat();
        all.sort();
        assert_eq!(all, ["1", "2", "3", "4"]);
    }

    #[test]
    fn priority_first() {
        let (client, channel, name) = setup();
        channel.call(&qos(2, ""));
        channel.consume(&name, "plain", "");
        channel.consume_with(&name, "high", "", table([("x-priority", int(10))]));
        channel.consume_with(&name, "low", "", table([("x-priority", int(-1))]));
        put_all(&client, &name, &["1", "2", "3", "4", "5"]);
        let tags: Vec<String> = (0..5).map(|_| channel.delivery().consumer).collect();
        assert_eq!(tags, ["high", "high", "plain", "plain", "low"]);
        channel.send(&ack(1, ""));
        wait_ready(&channel, &name, 0);
        put_all(&client, &name, &["6"]);
        assert_eq!(channel.delivery().consumer, "high");
    }

    #[test]
    fn a_consumer_that_is_full_does_not_hold_the_others() {
        let (client, channel, name) = setup();
        let other = client.channel(2);
        channel.call(&qos(1, ""));
        channel.consume(&name, "slow", "");
        other.consume(&name, "fast", "no_ack");
        put_all(&client, &name, &["x"; 10]);
        channel.delivery();
        assert_eq!(other.bodies(9).len(), 9);
        channel.expect_nothing();
    }
}

mod exclusive_consumer {
    use super::*;

    #[test]
    fn frees_the_queue_when_it_goes() {
        let (client, channel, name) = setup();
        channel.consume(&name, "one", "exclusive");
        channel.call(&cancel("one", ""));
        channel.consume(&name, "two", "exclusive");
        channel.close();
        client.channel(2).consume(&name, "three", "");
    }

    #[test]
    fn does_not_block_get_and_publish() {
        let (client, channel, name) = setup();
        channel.call(&qos(1, ""));
        channel.consume(&name, "one", "exclusive");
        put_all(&client, &name, &["a", "b"]);
        assert_eq!(channel.delivery().text(), "a");
        assert_eq!(
            client
                .channel(2)
                .get(&name, "no_ack")
                .expect("a message")
                .text(),
            "b"
        );
    }
}

mod single_active {
    use super::*;

    fn queue(channel: &Channel, name: &str) {
        channel.queue(
            name,
            "exclusive",
            table([("x-single-active-consumer", boolean(true))]),
        );
    }

    #[test]
    fn the_first_gets_everything() {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        queue(&channel, &name);
        channel.consume(&name, "one", "no_ack");
        channel.consume(&name, "two", "no_ack");
        put_all(&client, &name, &["x"; 6]);
        assert!((0..6).all(|_| channel.delivery().consumer == "one"));
        assert_eq!(channel.consumers(&name), 2);
    }

    #[test]
    fn the_next_follows() {
        let client = Client::connect();
        let (first, second, third, name) = (
            client.channel(1),
            client.channel(2),
            client.channel(3),
            name(),
        );
        queue(&first, &name);
        first.call(&qos(1, ""));
        first.consume(&name, "one", "");
        second.consume(&name, "two", "no_ack");
        third.consume(&name, "three", "no_ack");
        put_all(&client, &name, &["a", "b"]);
        assert_eq!(first.delivery().text(), "a");
        second.expect_nothing();
        // Its unacked message returns with its channel.
        first.close();
        assert_eq!(second.bodies(2), ["a", "b"]);
        second.call(&cancel("two", ""));
        client.put(&name, "c");
        assert_eq!(third.delivery().text(), "c");
    }

    #[test]
    fn the_highest_priority_follows() {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        queue(&channel, &name);
        channel.consume(&name, "one", "no_ack");
        channel.consume(&name, "two", "no_ack");
        channel.consume_with(&name, "three", "no_ack", table([("x-priority", int(5))]));
        client.put(&name, "x");
        assert_eq!(channel.delivery().consumer, "one");
        channel.call(&cancel("one", ""));
        client.put(&name, "x");
        assert_eq!(channel.delivery().consumer, "three");
    }

    #[test]
    fn cancelling_keeps_what_is_unacked() {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        queue(&channel, &name);
        channel.consume(&name, "one", "");
        channel.consume(&name, "two", "");
        client.put(&name, "a");
        let first = channel.delivery();
        assert_eq!(first.consumer, "one");
        channel.call(&cancel("one", ""));
        client.put(&name, "b");
        let second = channel.delivery();
        assert_eq!(
            (second.consumer.as_str(), second.text().as_str()),
            ("two", "b")
        );
        channel.send(&ack(first.tag, ""));
        channel.flow();
    }

    #[test]
    fn get_works_beside() {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        queue(&channel, &name);
        channel.call(&qos(1, ""));
        channel.consume(&name, "one", "");
        put_all(&client, &name, &["a", "b"]);
        channel.delivery();
        assert_eq!(channel.get(&name, "no_ack").expect("a message").text(), "b");
    }
}

mod cancel_method {
    use super::*;

    #[test]
    fn ends_deliveries_and_keeps_unacked_ones() {
        let (client, channel, name) = setup();
        channel.consume(&name, "t", "");
        client.put(&name, "a");
        let got = channel.delivery();
        let AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)) = channel.call(&cancel("t", ""))
        else {
            panic!("cancel-ok")
        };
        assert_eq!(ok.consumer_tag.as_str(), "t");
        client.put(&name, "b");
        channel.expect_nothing();
        assert_eq!((channel.ready(&name), channel.consumers(&name)), (1, 0));
        channel.send(&ack(got.tag, ""));
        channel.flow();
        assert_eq!(channel.drain(&name), ["b"]);
    }

    #[test]
    fn nothing_is_delivered_after_cancel_ok() {
        let (client, channel, name) = setup();
        let publisher = client.channel(2);
        channel.consume(&name, "t", "no_ack");
        for _ in 0..1000 {
            publisher.publish("", &name, "x");
        }
        channel.send(&cancel("t", ""));
        // In the order of the wire: deliveries, then cancel-ok, then nothing.
        while !matches!(
            client.event(1),
            Event::Method(AMQPClass::Basic(basic::AMQPMethod::CancelOk(_)))
        ) {}
        publisher.flow();
        channel.expect_nothing();
    }

    #[test]
    fn the_tag_is_free_again() {
        let (client, channel, name) = setup();
        for _ in 0..3 {
            channel.consume(&name, "t", "no_ack");
            client.put(&name, "x");
            assert_eq!(channel.delivery().text(), "x");
            channel.call(&cancel("t", ""));
        }
    }

    #[test]
    fn of_another_channels_tag_is_nothing() {
        let (client, channel, name) = setup();
        channel.consume(&name, "t", "no_ack");
        client.channel(2).call(&cancel("t", ""));
        client.put(&name, "x");
        assert_eq!(channel.delivery().text(), "x");
    }
}

mod get_method {
    use super::*;

    #[test]
    fn counts_what_is_left() {
        let (client, channel, name) = setup();
        put_all(&client, &name, &["a", "b", "c"]);
        for (body, left) in [("a", 2), ("b", 1), ("c", 0)] {
            let got = channel.get(&name, "no_ack").expect("a message");
            assert_eq!(
                (got.text().as_str(), got.left, got.redelivered),
                (body, left, false)
            );
        }
        assert!(channel.get(&name, "no_ack").is_none());
    }

    #[test]
    fn get_empty_octets() {
        let (client, channel, name) = setup();
        channel.send(&get(&name, ""));
        assert_eq!(client.frame().payload, [0, 60, 0, 72, 0]);
    }

    #[test]
    fn is_not_limited_by_prefetch() {
        let (client, channel, name) = setup();
        for flags in ["", "global"] {
            channel.call(&qos(1, flags));
            put_all(&client, &name, &["a", "b", "c"]);
            for _ in 0..3 {
                channel.get(&name, "").expect("a message");
            }
            channel.send(&ack(0, "multiple"));
        }
    }

    #[test]
    fn names_exchange_and_key() {
        let (client, channel, name) = setup();
        channel.exchange(&name, "topic");
        channel.bind(&name, &name, "a.#");
        client.put_with(&name, "a.b", &plain(), "x");
        let got = channel.get(&name, "no_ack").expect("a message");
        assert_eq!((got.exchange, got.key), (name, "a.b".to_owned()));
    }
}

mod prefetch {
    use super::*;

    #[test]
    fn per_consumer() {
        let (client, channel, name) = setup();
        channel.call(&qos(2, ""));
        channel.consume(&name, "a", "");
        channel.consume(&name, "b", "");
        put_all(&client, &name, &["x"; 6]);
        let tags: Vec<u64> = (0..4).map(|_| channel.delivery().tag).collect();
        channel.expect_nothing();
        assert_eq!(channel.ready(&name), 2);
        channel.send(&ack(tags[0], ""));
        channel.delivery();
        channel.expect_nothing();
        channel.send(&ack(0, "multiple"));
        channel.delivery();
    }

    #[test]
    fn is_for_consumers_that_come_later() {
        let (client, channel, name) = setup();
        channel.call(&qos(1, ""));
        channel.consume(&name, "one", "");
        channel.call(&qos(3, ""));
        put_all(&client, &name, &["x"; 3]);
        channel.delivery();
        channel.expect_nothing();
        channel.consume(&name, "three", "");
        assert_eq!(
            (channel.delivery().consumer, channel.delivery().consumer),
            ("three".to_owned(), "three".to_owned())
        );
    }

    #[test]
    fn zero_is_no_limit() {
        let (client, channel, name) = setup();
        channel.call(&qos(1, ""));
        channel.call(&qos(0, ""));
        channel.consume(&name, "t", "");
        put_all(&client, &name, &["x"; 50]);
        assert_eq!(channel.bodies(50).len(), 50);
    }

    #[test]
    fn does_not_limit_no_ack() {
        let (client, channel, name) = setup();
        channel.call(&qos(1, ""));
        channel.consume(&name, "t", "no_ack");
        put_all(&client, &name, &["x"; 50]);
        assert_eq!(channel.bodies(50).len(), 50);
    }

    #[test]
    fn global_is_shared() {
        let (client, channel, name) = setup();
        let other = format!("{name}.other");
        channel.own_queue(&other);
        channel.call(&qos(3, "global"));
        channel.consume(&name, "a", "");
        channel.consume(&other, "b", "");
        put_all(&client, &name, &["x"; 5]);
        put_all(&client, &other, &["y"; 5]);
        assert_eq!(channel.bodies(3).len(), 3);
        channel.expect_nothing();
        channel.send(&ack(2, "multiple"));
        assert_eq!(channel.bodies(2).len(), 2);
        channel.expect_nothing();
    }

    #[test]
    fn global_counts_for_existing_consumers() {
        let (client, channel, name) = setup();
        channel.consume(&name, "a", "");
        channel.call(&qos(2, "global"));
        put_all(&client, &name, &["x"; 5]);
        assert_eq!(channel.bodies(2).len(), 2);
        channel.expect_nothing();
        channel.call(&qos(0, "global"));
        assert_eq!(channel.bodies(3).len(), 3);
    }

    #[test]
    fn global_and_per_consumer_both_hold() {
        let (client, channel, name) = setup();
        channel.call(&qos(1, ""));
        channel.consume(&name, "a", "");
        channel.consume(&name, "b", "");
        channel.consume(&name, "c", "");
        channel.call(&qos(2, "global"));
        put_all(&client, &name, &["x"; 5]);
        let tags = [channel.delivery(), channel.delivery()];
        assert_ne!(tags[0].consumer, tags[1].consumer);
        channel.expect_nothing();
    }

    #[test]
    fn global_is_per_channel() {
        let (client, channel, name) = setup();
        let other = client.channel(2);
        channel.call(&qos(1, "global"));
        other.call(&qos(2, "global"));
        channel.consume(&name, "a", "");
        other.consume(&name, "b", "");
        put_all(&client, &name, &["x"; 5]);
        assert_eq!((channel.bodies(1).len(), other.bodies(2).len()), (1, 2));
        channel.expect_nothing();
        other.expect_nothing();
    }

    #[test]
    fn every_settlement_returns_credit() {
        let (client, channel, name) = setup();
        channel.call(&qos(1, ""));
        channel.consume(&name, "t", "");
        put_all(&client, &name, &["a", "b", "c", "d"]);
        let settle = [ack(1, ""), nack(2, ""), reject(3, ""), ack(4, "multiple")];
        for (method, body) in settle.iter().zip(["a", "b", "c", "d"]) {
            assert_eq!(channel.delivery().text(), body);
            channel.expect_nothing();
            channel.send(method);
        }
    }

    #[test]
    fn of_the_largest_count() {
        let (client, channel, name) = setup();
        channel.call(&qos(u16::MAX, ""));
        channel.consume(&name, "t", "");
        put_all(&client, &name, &["x"; 10]);
        assert_eq!(channel.bodies(10).len(), 10);
    }
}

mod settlement {
    use super::*;

    /// Fetches all messages, settles, and says what is then ready, in order.
    #[track_caller]
    fn check(settle: &[AMQPClass], left: &[&str]) {
        let (client, channel, name) = setup();
        put_all(&client, &name, &["1", "2", "3", "4", "5"]);
        for tag in 1..=5 {
            assert_eq!(channel.get(&name, "").expect("a message").tag, tag);
        }
        for method in settle {
            channel.send(method);
        }
        channel.flow();
        wait_ready(&channel, &name, u32::try_from(left.len()).unwrap());
        assert_eq!(channel.drain(&name), left);
    }

    #[test]
    fn ack_one() {
        check(
            &[ack(3, ""), nack(0, "multiple requeue")],
            &["1", "2", "4", "5"],
        );
    }

    #[test]
    fn ack_multiple() {
        check(
            &[ack(3, "multiple"), nack(0, "multiple requeue")],
            &["4", "5"],
        );
    }

    #[test]
    fn ack_all() {
        check(&[ack(0, "multiple"), nack(0, "multiple requeue")], &[]);
    }

    #[test]
    fn ack_multiple_over_a_gap() {
        check(
            &[ack(2, ""), ack(4, "multiple"), nack(0, "multiple requeue")],
            &["5"],
        );
    }

    #[test]
    fn nack_requeues_in_place() {
        check(
            &[nack(2, "requeue"), nack(4, "requeue"), nack(1, "requeue")],
            &["1", "2", "4"],
        );
    }

    #[test]
    fn nack_multiple_requeues() {
        check(&[nack(3, "multiple requeue")], &["1", "2", "3"]);
    }

    #[test]
    fn nack_drops() {
        check(
            &[nack(2, ""), nack(0, "multiple requeue")],
            &["1", "3", "4", "5"],
        );
        check(&[nack(4, "multiple"), nack(0, "multiple requeue")], &["5"]);
    }

    #[test]
    fn reject_requeues_and_drops() {
        check(&[reject(2, "requeue"), reject(1, "")], &["2"]);
    }

    #[test]
    fn order_of_requeues_does_not_matter() {
        check(
            &[5, 1, 4, 2, 3].map(|tag| reject(tag, "requeue")),
            &["1", "2", "3", "4", "5"],
        );
    }

    #[test]
    fn requeued_before_what_was_ready() {
        let (client, channel, name) = setup();
        put_all(&client, &name, &["1", "2", "3"]);
        channel.get(&name, "").expect("a message");
        channel.get(&name, "").expect("a message");
        client.put(&name, "4");
        channel.send(&nack(2, "requeue"));
        channel.flow();
        wait_ready(&channel, &name, 3);
        let first = channel.get(&name, "no_ack").expect("a message");
        assert_eq!((first.text().as_str(), first.redelivered), ("2", true));
        let second = channel.get(&name, "no_ack").expect("a message");
        assert_eq!((second.text().as_str(), second.redelivered), ("3", false));
    }

    #[test]
    fn over_several_queues() {
        let (client, channel, name) = setup();
        let other = format!("{name}.other");
        channel.own_queue(&other);
        put_all(&client, &name, &["1", "3"]);
        put_all(&client, &other, &["2", "4"]);
        for queue in [&name, &other, &name, &other] {
            channel.get(queue, "").expect("a message");
        }
        channel.send(&ack(3, "multiple"));
        channel.send(&nack(4, "requeue"));
        channel.flow();
        wait_ready(&channel, &other, 1);
        assert_eq!(
            (channel.drain(&name), channel.drain(&other)),
            (vec![], vec!["4".to_owned()])
        );
    }

    #[test]
    fn many_out_of_order() {
        let (client, channel, name) = setup();
        let publisher = client.channel(2);
        for number in 0..2000 {
            publisher.publish("", &name, format!("{number}"));
        }
        publisher.flow();
        channel.consume(&name, "t", "");
        let mut tags: Vec<u64> = (0..2000).map(|_| channel.delivery().tag).collect();
        let mut random = Random::new(7);
        for index in (1..tags.len()).rev() {
            tags.swap(index, random.below(index + 1));
        }
        for tag in &tags {
            channel.send(&ack(*tag, ""));
        }
        channel.send(&ack(0, "multiple"));
        channel.flow();
        client.close();
    }
}

mod redelivery {
    use super::*;

    #[test]
    fn is_marked_after_requeue() {
        let (client, channel, name) = setup();
        client.put(&name, "x");
        for round in 0..3 {
            let mut got = None;
            eventually("a message", || {
                got = channel.get(&name, "");
                got.is_some()
            });
            let got = got.expect("a message");
            assert_eq!(got.redelivered, round > 0);
            channel.send(&nack(got.tag, "requeue"));
            channel.flow();
        }
    }

    #[test]
    fn is_marked_after_the_channel_closed() {
        let (client, channel, name) = setup();
        client.put(&name, "x");
        channel.consume(&name, "t", "");
        assert!(!channel.delivery().redelivered);
        channel.close();
        let other = client.channel(2);
        other.consume(&name, "t", "");
        assert!(other.delivery().redelivered);
    }

    #[test]
    fn is_marked_after_the_connection_was_lost() {
        let (client, name) = (Client::connect(), name());
        let channel = client.channel(1);
        channel.queue(&name, "", table([]));
        put_all(&client, &name, &["1", "2"]);
        channel.get(&name, "").expect("a message");
        client.vanish();
        let client = Client::connect();
        let channel = client.channel(1);
        wait_ready(&channel, &name, 2);
        let first = channel.get(&name, "no_ack").expect("a message");
        assert_eq!((first.text().as_str(), first.redelivered), ("1", true));
        assert!(!channel.get(&name, "no_ack").expect("a message").redelivered);
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn goes_to_another_consumer_when_one_leaves() {
        let (client, channel, name) = setup();
        let other = client.channel(2);
        channel.consume(&name, "one", "");
        put_all(&client, &name, &["1", "2", "3"]);
        channel.bodies(3);
        other.consume(&name, "two", "");
        channel.close();
        let all: Vec<(String, bool)> = (0..3)
            .map(|_| other.delivery())
            .map(|got| (got.text(), got.redelivered))
            .collect();
        assert_eq!(
            all,
            [
                ("1".to_owned(), true),
                ("2".to_owned(), true),
                ("3".to_owned(), true)
            ]
        );
    }
}

mod recover_method {
    use super::*;

    #[test]
    fn requeues_everything_of_the_channel() {
        let (client, channel, name) = setup();
        put_all(&client, &name, &["1", "2"]);
        channel.get(&name, "").expect("a message");
        channel.get(&name, "").expect("a message");
        let answer = channel.call(&recover("requeue"));
        assert!(
            matches!(answer, AMQPClass::Basic(basic::AMQPMethod::RecoverOk(_))),
            "{answer:?}"
        );
        wait_ready(&channel, &name, 2);
        let again = channel.get(&name, "").expect("a message");
        assert_eq!(
            (again.text().as_str(), again.redelivered, again.tag),
            ("1", true, 3)
        );
        channel.send(&ack(1, ""));
        channel.expect_error(
            406,
            "PRECONDITION_FAILED - unknown delivery tag 1",
            (60, 80),
        );
    }

    #[test]
    fn redelivers_to_consumers() {
        let (client, channel, name) = setup();
        channel.consume(&name, "t", "");
        put_all(&client, &name, &["1", "2"]);
        channel.bodies(2);
        channel.call(&recover("requeue"));
        let again = [channel.delivery(), channel.delivery()];
        assert_eq!([again[0].text(), again[1].text()], ["1", "2"]);
        assert!(again.iter().all(|got| got.redelivered));
    }

    #[test]
    fn async_says_nothing() {
        let (client, channel, name) = setup();
        client.put(&name, "1");
        channel.get(&name, "").expect("a message");
        channel.send(&recover_async("requeue"));
        channel.expect_nothing();
        wait_ready(&channel, &name, 1);
    }

    #[test]
    fn with_nothing_outstanding() {
        let (_client, channel, _) = setup();
        channel.call(&recover("requeue"));
    }
}

mod direct_reply_to {
    use super::*;

    const REPLY_TO: &str = "amq.rabbitmq.reply-to";

    /// A request as the responder sees it: the reply-to that came.
    #[track_caller]
    fn request(requester: &Channel, queue: &str) -> String {
        requester.publish_with(
            "",
            queue,
            "",
            &plain().with_reply_to(REPLY_TO.into()),
            "ping",
        );
        let mut got = None;
        eventually("the request", || {
            got = requester.client.channel(50).get(queue, "no_ack");
            requester.client.unopened(50).close();
            got.is_some()
        });
        got.expect("a request")
            .properties
            .reply_to()
            .as_ref()
            .expect("reply-to")
            .to_string()
    }

    #[test]
    fn request_and_reply() {
        let (_client, channel, name) = setup();
        channel.consume(REPLY_TO, "replies", "no_ack");
        let address = request(&channel, &name);
        assert!(address.starts_with(&format!("{REPLY_TO}.")), "{address}");
        assert_eq!(request(&channel, &name), address, "the address is stable");
        let responder = Client::connect();
        responder.put_with(
            "",
            &address,
            &plain().with_correlation_id("7".into()),
            "pong",
        );
        let got = channel.delivery();
        assert_eq!(
            (got.text().as_str(), got.consumer.as_str(), got.redelivered),
            ("pong", "replies", false)
        );
        assert_eq!(
            (got.exchange.as_str(), got.key.as_str(), got.tag),
            ("", address.as_str(), 1)
        );
        assert_eq!(
            got.properties
                .correlation_id()
                .as_ref()
                .map(|id| id.as_str()),
            Some("7")
        );
    }

    #[test]
    fn declare_tells_whether_the_requester_is_there() {
        let (client, channel, name) = setup();
        channel.consume(REPLY_TO, "", "no_ack");
        let address = request(&channel, &name);
        let responder = Client::connect();
        let ok = responder.channel(1).queue(&address, "passive", table([]));
        assert_eq!(
            (ok.queue.as_str(), ok.message_count, ok.consumer_count),
            (address.as_str(), 0, 1)
        );
        let ok = responder.unopened(1).queue(REPLY_TO, "", table([]));
        assert_eq!((ok.message_count, ok.consumer_count), (0, 1));
        client.close();
        responder
            .unopened(1)
            .send(&queue_declare(&address, "passive", table([])));
        let text = format!("NOT_FOUND - no queue '{address}' in vhost '/'");
        let event = format!("{:?}", responder.event(1));
        assert!(
            event.contains("reply_code: 404") && event.contains(&text[..60]),
            "{event}"
        );
    }

    #[test]
    fn cancel_frees_it() {
        let (_client, channel, _) = setup();
        channel.consume(REPLY_TO, "one", "no_ack");
        channel.call(&cancel("one", ""));
        channel.consume(REPLY_TO, "two", "no_ack");
    }

    #[test]
    fn a_reply_to_nobody_is_confirmed() {
        let (client, channel, name) = setup();
        channel.consume(REPLY_TO, "", "no_ack");
        let address = request(&channel, &name);
        client.close();
        Client::connect().put(&address, "too late");
    }

    #[test]
    fn a_malformed_address_is_unroutable() {
        let (_client, channel, _) = setup();
        channel.publish_with(
            "",
            "amq.rabbitmq.reply-to.bogus",
            "mandatory",
            &plain(),
            "x",
        );
        assert_eq!(channel.returned().0.reply_code, 312);
    }

    #[test]
    fn on_each_channel_its_own() {
        let (client, channel, name) = setup();
        let other = client.channel(2);
        channel.consume(REPLY_TO, "", "no_ack");
        other.consume(REPLY_TO, "", "no_ack");
        let (one, two) = (request(&channel, &name), request(&other, &name));
        assert_ne!(one, two);
        client.put(&two, "two");
        client.put(&one, "one");
        assert_eq!(
            (
                channel.delivery().text().as_str(),
                other.delivery().text().as_str()
            ),
            ("one", "two")
        );
    }
}

mod together {
    use super::*;
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    const PUBLISHERS: u64 = 3;
    const EACH: u64 = 1500;

    /// What one consumer saw: bodies it acked, and bodies in the order of their first deliveries.
    struct Seen {
        acked: Vec<String>,
        fresh: Vec<String>,
    }

    fn publish_all(queue: &str, publisher: u64) {
        let client = Client::connect();
        let channel = client.channel(1);
        channel.call(&confirm_select());
        for window in 0..EACH / 100 {
            for number in window * 100..(window + 1) * 100 {
                channel.publish("", queue, format!("{publisher}.{number}"));
            }
            let settled = channel.confirms(window * 100 + 1, (window + 1) * 100);
            assert!(settled.values().all(|accepted| *accepted));
        }
    }

    /// Acks most, requeues some one by one or with its channel, until it gets an `end`.
    fn consume_all(queue: &str, seed: u64, settled: &AtomicU64) -> Seen {
        let client = Client::connect();
        let mut random = Random::new(seed);
        let mut seen = Seen {
            acked: Vec::new(),
            fresh: Vec::new(),
        };
        let mut channel = client.channel(1);
        channel.call(&qos(20, ""));
        channel.consume(queue, "t", "");
        loop {
            let got = channel.delivery();
            if got.text() == "end" {
                channel.send(&ack(got.tag, ""));
                channel.close();
                return seen;
            }
            if !got.redelivered {
                seen.fresh.push(got.text());
            }
            match random.below(50) {
                0 => {
                    channel.close();
                    channel = client.channel(1);
                    channel.call(&qos(20, ""));
                    channel.consume(queue, "t", "");
                }
                1..=4 => channel.send(&nack(got.tag, "requeue")),
                _ => {
                    channel.send(&ack(got.tag, ""));
                    seen.acked.push(got.text());
                    settled.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whatever consumers do, each message is settled once, none is lost, and first deliveries keep the order of each publisher.
    #[test]
    fn nothing_is_lost_and_nothing_comes_twice() {
        let (queue, settled) = (name(), AtomicU64::new(0));
        let client = Client::connect();
        let channel = client.channel(1);
        channel.queue(&queue, "", table([]));
        let seen: Vec<Seen> = thread::scope(|scope| {
            let consumers: Vec<_> = (1..=3)
                .map(|seed| {
                    let (queue, settled) = (&queue, &settled);
                    scope.spawn(move || consume_all(queue, seed, settled))
                })
                .collect();
            for publisher in 0..PUBLISHERS {
                let queue = &queue;
                scope.spawn(move || publish_all(queue, publisher));
            }
            eventually("everything is settled", || {
                settled.load(Ordering::Relaxed) >= PUBLISHERS * EACH
            });
            for _ in 0..3 {
                client.put(&queue, "end");
            }
            consumers
                .into_iter()
                .map(|consumer| consumer.join().unwrap())
                .collect()
        });
        assert_eq!(channel.ready(&queue), 0);
        channel.call(&queue_delete(&queue, ""));
        let acked: Vec<&String> = seen.iter().flat_map(|seen| &seen.acked).collect();
        let distinct: BTreeSet<&String> = acked.iter().copied().collect();
        assert_eq!(distinct.len(), acked.len(), "a settled message came again");
        assert_eq!(
            u64::try_from(distinct.len()).unwrap(),
            PUBLISHERS * EACH,
            "a message was lost"
        );
        for consumer in &seen {
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            for body in &consumer.fresh {
                let (publisher, number) = body.split_once('.').unwrap();
                let number = number.parse().unwrap();
                let before = last.insert(publisher, number);
                assert!(
                    before.is_none_or(|before| before < number),
                    "{body} after {before:?}"
                );
            }
        }
    }
}
