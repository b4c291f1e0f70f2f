//! Consumers that want some messages only (`x-filter`).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{fs, path::PathBuf};

use amq_protocol::{protocol::BasicProperties, types::FieldTable};
use support::*;

fn filter(expression: &str) -> FieldTable {
    table([("x-filter", text(expression))])
}

/// A persistent message of a region.
fn of(region: &str) -> BasicProperties {
    headers([("region", text(region))]).with_delivery_mode(2)
}

/// A connection, its channel 1, and a queue of this type.
fn setup(kind: &str) -> (Client, Channel, String) {
    let client = Client::connect();
    let (channel, name) = (client.channel(1), name());
    channel.queue(&name, "durable", table([("x-queue-type", text(kind))]));
    (client, channel, name)
}

/// One message per word: its region before the colon.
fn put_all(client: &Client, queue: &str, bodies: &str) {
    for body in bodies.split_whitespace() {
        let region = body.split(':').next().unwrap();
        client.put_with("", queue, &of(region), body);
    }
}

/// The next deliveries, as one text.
#[track_caller]
fn bodies(channel: &Channel, count: usize) -> String {
    channel.bodies(count).join(" ")
}

#[track_caller]
fn for_both(test: impl Fn(&Client, &Channel, &str)) {
    if elsewhere("x-filter is ours") {
        return;
    }
    for kind in ["classic", "quorum"] {
        let (client, channel, name) = setup(kind);
        test(&client, &channel, &name);
        channel.call(&queue_delete(&name, ""));
    }
}

mod delivery {
    use super::*;

    #[test]
    fn only_what_matches_and_in_order() {
        for_both(|client, channel, name| {
            put_all(client, name, "eu:1 us:2 eu:3 uk:4 eu:5");
            channel.consume_with(name, "eu", "no_ack", filter("headers.region = 'eu'"));
            assert_eq!(bodies(channel, 3), "eu:1 eu:3 eu:5");
            put_all(client, name, "us:6 eu:7");
            assert_eq!(bodies(channel, 1), "eu:7");
            channel.expect_nothing();
            assert_eq!(channel.ready(name), 3);
        });
    }

    #[test]
    fn several_filters_and_a_consumer_that_takes_what_is_left() {
        for_both(|client, channel, name| {
            let (us, rest) = (client.channel(2), client.channel(3));
            channel.consume_with(name, "eu", "no_ack", filter("headers.region = 'eu'"));
            us.consume_with(
                name,
                "us",
                "no_ack",
                filter("headers.region IN ('us', 'uk')"),
            );
            put_all(client, name, "eu:1 us:2 jp:3 eu:4 uk:5 jp:6");
            assert_eq!(bodies(channel, 2), "eu:1 eu:4");
            assert_eq!(bodies(&us, 2), "us:2 uk:5");
            rest.consume(name, "rest", "no_ack");
            assert_eq!(bodies(&rest, 2), "jp:3 jp:6");
            assert_eq!(channel.ready(name), 0);
        });
    }

    #[test]
    fn consumers_of_one_filter_take_turns() {
        for_both(|client, channel, name| {
            let all = ["a", "b", "c"];
            let spellings = ["priority > 1", "priority>1", "((priority) > 1)"];
            for (tag, expression) in all.into_iter().zip(spellings) {
                channel.consume_with(name, tag, "no_ack", filter(expression));
            }
            for number in 0..6u8 {
                let properties = plain().with_priority(number % 2 * 5);
                client.put_with("", name, &properties, [number]);
                client.put_with("", name, &properties, [number]);
            }
            let tags: Vec<String> = (0..6).map(|_| channel.delivery().consumer).collect();
            assert_eq!(tags[..3], tags[3..]);
            let mut first = tags[..3].to_vec();
            first.sort();
            assert_eq!(first, all);
            channel.expect_nothing();
        });
    }

    #[test]
    fn a_full_consumer_stops_its_filter_and_nobody_else() {
        for_both(|client, channel, name| {
            let other = client.channel(2);
            channel.call(&qos(1, ""));
            channel.consume_with(name, "eu", "", filter("headers.region = 'eu'"));
            other.consume_with(name, "us", "no_ack", filter("headers.region = 'us'"));
            put_all(client, name, "eu:1 eu:2 us:3 us:4 eu:5");
            assert_eq!(bodies(&other, 2), "us:3 us:4");
            for expected in ["eu:1", "eu:2", "eu:5"] {
                let delivery = channel.delivery();
                assert_eq!(delivery.text(), expected);
                channel.expect_nothing();
                channel.send(&ack(delivery.tag, ""));
            }
        });
    }

    #[test]
    fn get_takes_what_is_first() {
        for_both(|client, channel, name| {
            channel.consume_with(name, "eu", "no_ack", filter("headers.region = 'eu'"));
            put_all(client, name, "us:1 eu:2 us:3");
            assert_eq!(bodies(channel, 1), "eu:2");
            assert_eq!(client.channel(2).drain(name), ["us:1", "us:3"]);
        });
    }

    #[test]
    fn the_active_consumer_of_a_single_active_queue_leaves_the_rest_to_the_next() {
        if elsewhere("x-filter is ours") {
            return;
        }
        let client = Client::connect();
        let (channel, next, name) = (client.channel(1), client.channel(2), name());
        let arguments = table([("x-single-active-consumer", boolean(true))]);
        channel.queue(&name, "exclusive", arguments);
        channel.consume_with(&name, "eu", "no_ack", filter("headers.region = 'eu'"));
        next.consume(&name, "all", "no_ack");
        put_all(&client, &name, "us:1 eu:2");
        assert_eq!(bodies(&channel, 1), "eu:2");
        next.expect_nothing();
        channel.call(&cancel("eu", ""));
        assert_eq!(bodies(&next, 1), "us:1");
    }

    #[test]
    fn the_higher_priority_goes_first() {
        if elsewhere("x-filter is ours") {
            return;
        }
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.queue(&name, "exclusive", table([("x-max-priority", int(9))]));
        for (region, priority) in [("eu", 0), ("us", 9), ("eu", 3), ("eu", 9), ("us", 0)] {
            let properties = of(region).with_priority(priority);
            client.put_with("", &name, &properties, format!("{region}:{priority}"));
        }
        channel.consume_with(&name, "eu", "no_ack", filter("headers.region = 'eu'"));
        assert_eq!(bodies(&channel, 3), "eu:9 eu:3 eu:0");
        assert_eq!(channel.drain(&name), ["us:9", "us:0"]);
    }
}

mod returned_messages {
    use super::*;

    #[test]
    fn come_again_to_the_same_filter() {
        for_both(|client, channel, name| {
            channel.call(&qos(2, ""));
            put_all(client, name, "us:1 eu:2 us:3 eu:4 eu:5");
            channel.consume_with(name, "eu", "", filter("headers.region = 'eu'"));
            let first = channel.delivery();
            assert_eq!(first.text(), "eu:2");
            assert_eq!(bodies(channel, 1), "eu:4");
            channel.send(&nack(first.tag, "requeue"));
            let again = channel.delivery();
            assert_eq!((again.text().as_str(), again.redelivered), ("eu:2", true));
            channel.send(&ack(0, "multiple"));
            assert_eq!(bodies(channel, 1), "eu:5");
        });
    }

    #[test]
    fn go_to_the_filter_they_match() {
        for_both(|client, channel, name| {
            let all = client.channel(2);
            all.consume(name, "all", "");
            put_all(client, name, "us:1 eu:2");
            let (us, eu) = (all.delivery(), all.delivery());
            channel.consume_with(name, "eu", "no_ack", filter("headers.region = 'eu'"));
            all.call(&cancel("all", ""));
            all.send(&nack(us.tag, "requeue"));
            channel.expect_nothing();
            all.send(&nack(eu.tag, "requeue"));
            assert_eq!(bodies(channel, 1), "eu:2");
            assert_eq!(channel.ready(name), 1);
        });
    }
}

mod refused {
    use super::*;

    #[track_caller]
    fn check(value: amq_protocol::types::AMQPValue, expected: &str) {
        if elsewhere("x-filter is ours") {
            return;
        }
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.own_queue(&name);
        channel.send(&consume(&name, "t", "", table([("x-filter", value)])));
        channel.expect_error(406, &expand(expected, &name), (60, 20));
        assert_eq!(client.channel(2).consumers(&name), 0);
    }

    #[test]
    fn another_type() {
        check(
            int(5),
            "PRECONDITION_FAILED - invalid arg 'x-filter' for %q: {unacceptable_type,signedint}",
        );
    }

    #[test]
    fn what_is_cut_short() {
        check(
            text("priority >"),
            "PRECONDITION_FAILED - x-filter: expected a value at position 11, found end of text",
        );
    }

    #[test]
    fn what_is_no_expression() {
        check(
            text("priority > 5 headers"),
            "PRECONDITION_FAILED - x-filter: expected an operator or the end of the expression at position 14, found 'headers'",
        );
    }

    #[test]
    fn too_many_different_ones() {
        if elsewhere("x-filter is ours") {
            return;
        }
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.own_queue(&name);
        for number in 0..64 {
            channel.consume_with(&name, "", "", filter(&format!("priority = {number}")));
        }
        channel.consume_with(&name, "", "", filter("priority=7"));
        channel.send(&consume(&name, "t", "", filter("priority = 64")));
        let text = "PRECONDITION_FAILED - invalid arg 'x-filter' for %q: consumers with 64 different filters are there already";
        channel.expect_error(406, &expand(text, &name), (60, 20));
    }
}

/// A broker of which nearly every message is on the disk.
struct Small {
    node: Broker,
    config: PathBuf,
}

impl Small {
    fn start() -> Option<Self> {
        if elsewhere("the broker there is not ours to configure") {
            return None;
        }
        let folder = broker::fresh_folder();
        let config = folder.with_extension("toml");
        let text = "[store]\nlog_file_size = \"1MiB\"\n[memory]\nmessages = \"1MiB\"\n";
        fs::write(&config, text).unwrap();
        let node = Broker::start_on(folder, &["--config", config.to_str().unwrap()]);
        Some(Self { node, config })
    }

    fn crash(&mut self) {
        let folder = broker::fresh_folder();
        let flags = ["--config", self.config.to_str().unwrap()];
        let empty = Broker::start_on(folder, &flags);
        let node = std::mem::replace(&mut self.node, empty);
        self.node = Broker::start_on(node.kill(), &flags);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.config);
    }
}

/// Puts messages of 1 KB into `q`; every `one_in`th is of the region `eu`.
fn fill(channel: &Channel, count: u64, one_in: u64) {
    channel.call(&confirm_select());
    for number in 1..=count {
        let region = if number % one_in == 0 { "eu" } else { "us" };
        let body = format!("{number:<1000}");
        channel.publish_with("", "q", "", &of(region), body);
    }
    channel.confirms(1, count);
}

fn numbers(channel: &Channel, count: usize) -> Vec<u64> {
    let bodies = channel.bodies(count);
    bodies
        .iter()
        .map(|body| body.trim().parse().unwrap())
        .collect()
}

mod on_the_disk {
    use super::*;

    #[test]
    fn what_matches_is_found_and_the_rest_keeps_its_order() {
        let Some(small) = Small::start() else { return };
        for kind in ["classic", "quorum"] {
            let client = Client::to(&small.node);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([("x-queue-type", text(kind))]));
            fill(&client.channel(2), 6000, 100);
            let consumer = client.channel(3);
            consumer.call(&qos(7, ""));
            consumer.consume_with("q", "eu", "", filter("headers.region = 'eu'"));
            for number in 1..=60 {
                let delivery = consumer.delivery();
                assert_eq!(delivery.text().trim(), (100 * number).to_string());
                assert!(!delivery.redelivered);
                consumer.send(&ack(delivery.tag, ""));
            }
            consumer.expect_nothing();
            assert!(small.node.metric("mambamq_messages_scanned_total").unwrap() > 1000.0);
            // While they are on the disk a new one is found behind them.
            client.put_with("", "q", &of("eu"), "new");
            assert_eq!(bodies(&consumer, 1), "new");
            consumer.send(&nack(61, "requeue"));
            assert!(consumer.delivery().redelivered);
            consumer.send(&ack(62, ""));
            let left: Vec<u64> = (1..=6000).filter(|number| number % 100 != 0).collect();
            let all = client.channel(4);
            all.consume("q", "all", "no_ack");
            assert_eq!(numbers(&all, left.len()), left);
            eventually("an empty queue", || channel.ready("q") == 0);
            channel.call(&queue_delete("q", ""));
        }
    }

    #[test]
    fn a_filter_for_everything_gets_everything_in_order() {
        let Some(small) = Small::start() else { return };
        let client = Client::to(&small.node);
        let channel = client.channel(1);
        channel.queue("q", "durable", table([]));
        fill(&client.channel(2), 6000, 2);
        channel.call(&qos(50, ""));
        channel.consume_with("q", "all", "", filter("headers.region IN ('eu', 'us')"));
        for number in 1..=6000 {
            let delivery = channel.delivery();
            assert_eq!(delivery.text().trim(), number.to_string());
            channel.send(&ack(delivery.tag, ""));
        }
        eventually("an empty queue", || channel.ready("q") == 0);
    }

    #[test]
    fn a_crash_brings_back_what_was_delivered_and_marks_it() {
        let Some(mut small) = Small::start() else {
            return;
        };
        {
            let client = Client::to(&small.node);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            fill(&client.channel(2), 4000, 1000);
            channel.consume_with("q", "eu", "", filter("headers.region = 'eu'"));
            assert_eq!(numbers(&channel, 4), [1000, 2000, 3000, 4000]);
            channel.send(&ack(2, ""));
            // Another queue's confirm comes after the acknowledgement in the log.
            client.channel(3).queue("other", "durable", table([]));
            client.put_persistent("other", "x");
            channel.consumers("q");
            client.put_persistent("other", "x");
        }
        small.crash();
        let client = Client::to(&small.node);
        let channel = client.channel(1);
        assert_eq!(channel.ready("q"), 3999);
        channel.consume_with("q", "eu", "", filter("headers.region = 'eu'"));
        for expected in ["1000", "3000", "4000"] {
            let delivery = channel.delivery();
            assert_eq!(delivery.text().trim(), expected);
            assert!(
                delivery.redelivered,
                "{expected} was delivered before the crash"
            );
        }
        channel.expect_nothing();
    }
}
