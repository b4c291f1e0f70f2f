//! Queues and exchanges that take each message once: what counts as the same, what is confirmed, what is remembered and for how long.

mod support;

use amq_protocol::types::FieldTable;
use support::*;

const ID: &str = "x-deduplication-header";

/// On for a queue or an exchange.
fn once() -> FieldTable {
    table([("x-message-deduplication", boolean(true))])
}

fn once_with<const N: usize>(more: [(&str, Value); N]) -> FieldTable {
    let mut arguments = once();
    for (key, value) in more {
        arguments.insert(key.into(), value);
    }
    arguments
}

/// A persistent message with this id.
fn known_by(id: Value) -> BasicProperties {
    headers([(ID, id)]).with_delivery_mode(2)
}

fn with_id(id: &str) -> BasicProperties {
    known_by(text(id))
}

/// A channel in confirm mode that knows how many messages it has published.
struct Publisher {
    channel: Channel,
    published: u64,
}

impl Publisher {
    fn on(client: &Client, id: u16) -> Self {
        let channel = client.channel(id);
        channel.call(&confirm_select());
        Self {
            channel,
            published: 0,
        }
    }

    fn send(&mut self, exchange: &str, key: &str, properties: &BasicProperties, body: &str) {
        self.published += 1;
        self.channel
            .publish_with(exchange, key, "", properties, body);
    }

    /// Publishes, and says whether it was confirmed.
    fn put(&mut self, exchange: &str, key: &str, properties: &BasicProperties, body: &str) -> bool {
        self.send(exchange, key, properties, body);
        self.channel.confirms(self.published, self.published)[&self.published]
    }

    #[track_caller]
    fn all_confirmed(&self, first: u64) {
        let confirms = self.channel.confirms(first, self.published);
        assert!(
            confirms.values().all(|confirmed| *confirmed),
            "{confirms:?}"
        );
    }
}

mod queue {
    use super::*;

    #[test]
    fn takes_a_message_once_and_confirms_it_twice() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        publisher.channel.queue(&queue, "durable", once());
        for body in ["first", "again", "and again"] {
            assert!(publisher.put("", &queue, &with_id("a"), body));
        }
        assert!(publisher.put("", &queue, &with_id("b"), "other"));
        assert_eq!(publisher.channel.drain(&queue), ["first", "other"]);
        // What has been consumed is remembered.
        assert!(publisher.put("", &queue, &with_id("a"), "late"));
        assert_eq!(publisher.channel.ready(&queue), 0);
    }

    #[test]
    fn duplicates_in_one_batch() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        publisher.channel.queue(&queue, "durable", once());
        for number in 0..300 {
            let id = format!("{}", number % 7);
            publisher.send("", &queue, &with_id(&id), &format!("{number}"));
        }
        publisher.all_confirmed(1);
        let expected: Vec<String> = (0..7).map(|number| number.to_string()).collect();
        assert_eq!(publisher.channel.drain(&queue), expected);
    }

    #[test]
    fn a_message_without_id_always_enters() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        publisher.channel.queue(&queue, "durable", once());
        for properties in [
            plain(),
            headers([("other", text("a"))]),
            known_by(Value::Void),
        ] {
            for _ in 0..2 {
                assert!(publisher.put("", &queue, &properties, "x"));
            }
        }
        assert_eq!(publisher.channel.drain(&queue).len(), 6);
    }

    #[test]
    fn what_is_the_same_id() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        publisher.channel.queue(&queue, "durable", once());
        let ids = [
            (text("1"), "text"),
            (int(1), "number"),
            (long(1), "the same number, wider"),
            (long(-1), "another number"),
            (boolean(true), "a boolean"),
            (text(""), "no text"),
            (text("\u{e9}"), "not ascii"),
            (bytes("1".as_bytes()), "the same octets as the text"),
            (array(vec![int(1)]), "a list"),
            (array(vec![int(1)]), "the same list"),
        ];
        for (id, body) in ids {
            assert!(publisher.put("", &queue, &known_by(id), body));
        }
        assert_eq!(
            publisher.channel.drain(&queue),
            [
                "text",
                "number",
                "another number",
                "a boolean",
                "no text",
                "not ascii",
                "a list"
            ]
        );
    }

    #[test]
    fn another_header_may_hold_the_id() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let arguments = once_with([(ID, text("order"))]);
        publisher.channel.queue(&queue, "durable", arguments);
        let order = |number| headers([("order", int(number)), (ID, text("ignored"))]);
        for (number, body) in [(1, "1"), (2, "2"), (1, "1 again")] {
            assert!(publisher.put("", &queue, &order(number), body));
        }
        assert_eq!(publisher.channel.drain(&queue), ["1", "2"]);
    }

    #[test]
    fn the_oldest_id_makes_room() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let arguments = once_with([("x-cache-size", int(2))]);
        publisher.channel.queue(&queue, "durable", arguments);
        for id in ["a", "b", "c", "b", "c", "a", "c", "b"] {
            assert!(publisher.put("", &queue, &with_id(id), id));
        }
        assert_eq!(publisher.channel.drain(&queue), ["a", "b", "c", "a", "b"]);
    }

    #[test]
    fn an_id_is_forgotten_after_its_time() {
        let client = Client::connect();
        let (short, own) = (name(), name());
        let mut publisher = Publisher::on(&client, 1);
        let arguments = once_with([("x-cache-ttl", int(1))]);
        publisher.channel.queue(&short, "durable", arguments);
        let arguments = once_with([("x-cache-ttl", int(3_600_000))]);
        publisher.channel.queue(&own, "durable", arguments);
        eventually("the queue's time is over", || {
            publisher.put("", &short, &with_id("a"), "x");
            publisher.channel.ready(&short) > 1
        });
        // The message's own time wins.
        let brief = headers([(ID, text("a")), ("x-cache-ttl", int(1))]);
        eventually("the message's time is over", || {
            publisher.put("", &own, &brief, "x");
            publisher.channel.ready(&own) > 1
        });
        // One that is no time is not heeded.
        let odd = headers([(ID, text("b")), ("x-cache-ttl", int(-1))]);
        for _ in 0..3 {
            publisher.put("", &own, &odd, "odd");
        }
        let bodies = publisher.channel.drain(&own);
        assert_eq!(bodies.iter().filter(|body| *body == "odd").count(), 1);
    }

    #[test]
    fn each_queue_for_itself() {
        let client = Client::connect();
        let (exchange, one, other, plain) = (name(), name(), name(), name());
        let mut publisher = Publisher::on(&client, 1);
        publisher.channel.exchange(&exchange, "fanout");
        publisher.channel.queue(&one, "durable", once());
        publisher.channel.queue(&other, "durable", once());
        publisher.channel.queue(&plain, "durable", table([]));
        for queue in [&one, &other, &plain] {
            publisher.channel.bind(queue, &exchange, "");
        }
        assert!(publisher.put("", &one, &with_id("a"), "before"));
        for body in ["1", "2"] {
            assert!(publisher.put(&exchange, "", &with_id("a"), body));
        }
        assert_eq!(publisher.channel.drain(&one), ["before"]);
        assert_eq!(publisher.channel.drain(&other), ["1"]);
        assert_eq!(publisher.channel.drain(&plain), ["1", "2"]);
    }

    #[test]
    fn a_refused_message_may_come_again() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let full = [
            ("x-max-length", int(1)),
            ("x-overflow", text("reject-publish")),
        ];
        publisher.channel.queue(&queue, "durable", once_with(full));
        assert!(publisher.put("", &queue, &with_id("a"), "a"));
        assert!(!publisher.put("", &queue, &with_id("b"), "b, refused"));
        // A duplicate needs no room.
        assert!(publisher.put("", &queue, &with_id("a"), "a again"));
        assert_eq!(publisher.channel.drain(&queue), ["a"]);
        assert!(publisher.put("", &queue, &with_id("b"), "b"));
        assert_eq!(publisher.channel.drain(&queue), ["b"]);
    }

    #[test]
    fn a_purge_makes_nothing_new() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        publisher.channel.queue(&queue, "durable", once());
        assert!(publisher.put("", &queue, &with_id("a"), "a"));
        publisher.channel.call(&queue_purge(&queue));
        assert!(publisher.put("", &queue, &with_id("a"), "a"));
        assert_eq!(publisher.channel.ready(&queue), 0);
        publisher.channel.call(&queue_delete(&queue, ""));
        publisher.channel.queue(&queue, "durable", once());
        assert!(publisher.put("", &queue, &with_id("a"), "a"));
        assert_eq!(publisher.channel.ready(&queue), 1);
    }

    #[test]
    fn of_two_publishers_one_wins() {
        let client = Client::connect();
        let queue = name();
        client.channel(1).queue(&queue, "durable", once());
        let work = |queue: String, number: u32| {
            move || {
                let client = Client::connect();
                let mut publisher = Publisher::on(&client, 1);
                for id in 0..500 {
                    let body = format!("{id} of {number}");
                    publisher.send("", &queue, &known_by(int(id)), &body);
                }
                publisher.all_confirmed(1);
            }
        };
        let threads = [1, 2, 3].map(|number| std::thread::spawn(work(queue.clone(), number)));
        for thread in threads {
            thread.join().unwrap();
        }
        let bodies = client.channel(2).drain(&queue);
        let mut ids: Vec<u32> = bodies
            .iter()
            .map(|body| body.split_once(' ').unwrap().0.parse().unwrap())
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn a_transaction_is_looked_at_when_it_commits() {
        let client = Client::connect();
        let queue = name();
        let channel = client.channel(1);
        channel.queue(&queue, "durable", once());
        channel.call(&tx_select());
        channel.publish_with("", &queue, "", &with_id("a"), "rolled back");
        channel.call(&tx_rollback());
        for body in ["1", "2"] {
            channel.publish_with("", &queue, "", &with_id("a"), body);
        }
        // Published later, there before.
        let mut other = Publisher::on(&client, 2);
        assert!(other.put("", &queue, &with_id("b"), "other"));
        channel.publish_with("", &queue, "", &with_id("b"), "3");
        channel.call(&tx_commit());
        assert_eq!(client.channel(3).drain(&queue), ["other", "1"]);
    }

    #[test]
    fn dead_letters_come_back() {
        let client = Client::connect();
        let (work, wait) = (name(), name());
        let mut publisher = Publisher::on(&client, 1);
        let to = |queue: &str| {
            [
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(queue)),
            ]
        };
        publisher
            .channel
            .queue(&work, "durable", once_with(to(&wait)));
        let mut arguments = table(to(&work));
        arguments.insert("x-message-ttl".into(), int(1));
        publisher.channel.queue(&wait, "durable", arguments);
        assert!(publisher.put("", &work, &with_id("a"), "work"));
        for _ in 0..2 {
            let mut got = None;
            eventually("the message is back", || {
                got = publisher.channel.get(&work, "");
                got.is_some()
            });
            publisher.channel.send(&reject(got.unwrap().tag, ""));
        }
        // The publisher's own second try is none.
        assert!(publisher.put("", &work, &with_id("a"), "again"));
        eventually("the message is back", || {
            publisher.channel.ready(&work) == 1
        });
        assert_eq!(publisher.channel.drain(&work), ["work"]);
    }

    #[test]
    fn a_delayed_message_counts_from_its_publishing() {
        let client = Client::connect();
        let (queue, exchange) = (name(), name());
        let mut publisher = Publisher::on(&client, 1);
        let channel = &publisher.channel;
        let inner = table([("x-delayed-type", text("fanout"))]);
        channel.call(&exchange_declare(
            &exchange,
            "x-delayed-message",
            "durable",
            inner,
        ));
        channel.queue(&queue, "durable", once());
        channel.bind(&queue, &exchange, "");
        let late = |id: &str, delay| {
            headers([(ID, text(id)), ("x-delay", int(delay))]).with_delivery_mode(2)
        };
        for delay in [200, 200, 1] {
            publisher.send(&exchange, "", &late("a", delay), "late");
        }
        publisher.all_confirmed(1);
        assert!(publisher.put("", &queue, &with_id("a"), "at once"));
        assert!(publisher.put("", &queue, &with_id("b"), "b"));
        assert!(publisher.put(&exchange, "", &late("b", 1), "b, late"));
        eventually("the delay is over", || publisher.channel.ready(&queue) == 2);
        assert_eq!(publisher.channel.drain(&queue), ["b", "late"]);
        channel_is_quiet_after(&mut publisher, &exchange, &queue);
    }

    /// Whatever was still to come has come when a later message has.
    fn channel_is_quiet_after(publisher: &mut Publisher, exchange: &str, queue: &str) {
        let last = headers([(ID, text("last")), ("x-delay", int(250))]);
        assert!(publisher.put(exchange, "", &last, "last"));
        eventually("the last one", || publisher.channel.ready(queue) > 0);
        assert_eq!(publisher.channel.drain(queue), ["last"]);
    }

    #[test]
    fn quorum_priority_and_transient_ones() {
        let client = Client::connect();
        let mut publisher = Publisher::on(&client, 1);
        for (flags, more) in [
            ("durable", ("x-queue-type", text("quorum"))),
            ("durable", ("x-max-priority", int(4))),
            ("", ("x-max-length", int(10))),
            ("exclusive", ("x-max-length", int(10))),
        ] {
            let queue = name();
            publisher.channel.queue(&queue, flags, once_with([more]));
            for properties in [with_id("a"), headers([(ID, text("a"))]), with_id("b")] {
                assert!(publisher.put("", &queue, &properties, "x"));
            }
            assert_eq!(publisher.channel.drain(&queue).len(), 2, "{queue}");
        }
    }

    #[test]
    fn large_messages() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        publisher.channel.queue(&queue, "durable", once());
        let body = "x".repeat(200_000);
        for id in ["a", "b", "a", "b"] {
            publisher.send("", &queue, &with_id(id), &body);
        }
        publisher.all_confirmed(1);
        assert_eq!(publisher.channel.drain(&queue).len(), 2);
    }
}

mod exchange {
    use super::*;

    /// An exchange with these arguments and queues that get everything.
    fn declare<const N: usize>(
        channel: &Channel,
        kind: &str,
        arguments: FieldTable,
        queues: [&str; N],
    ) -> String {
        let exchange = name();
        channel.call(&exchange_declare(&exchange, kind, "durable", arguments));
        for queue in queues {
            channel.queue(queue, "durable", table([]));
            channel.bind(queue, &exchange, "k");
        }
        exchange
    }

    #[test]
    fn passes_a_message_once() {
        let client = Client::connect();
        let mut publisher = Publisher::on(&client, 1);
        for kind in ["direct", "fanout", "topic"] {
            let (one, other) = (name(), name());
            let exchange = declare(&publisher.channel, kind, once(), [&one, &other]);
            for id in ["a", "a", "b", "a"] {
                assert!(publisher.put(&exchange, "k", &with_id(id), id));
            }
            for body in ["c", "c"] {
                publisher.send(&exchange, "k", &with_id(body), body);
            }
            publisher.send(&exchange, "k", &plain(), "plain");
            publisher.all_confirmed(publisher.published - 2);
            for queue in [&one, &other] {
                let bodies = publisher.channel.drain(queue);
                assert_eq!(bodies, ["a", "b", "c", "plain"], "{kind}");
            }
        }
    }

    #[test]
    fn of_the_plugins_type() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        // Like the plugin's own example: the number is a text, the routing key does not matter.
        let arguments = table([
            ("x-cache-size", text("5")),
            ("x-cache-persistence", text("disk")),
        ]);
        let kind = "x-message-deduplication";
        let exchange = declare(&publisher.channel, kind, arguments, [&queue]);
        for key in ["x", "y", "k"] {
            assert!(publisher.put(&exchange, key, &with_id("a"), key));
        }
        assert_eq!(publisher.channel.drain(&queue), ["x"]);
    }

    #[test]
    fn headers_and_random_exchanges() {
        let client = Client::connect();
        let mut publisher = Publisher::on(&client, 1);
        for kind in ["headers", "x-random"] {
            let queue = name();
            let exchange = name();
            let channel = &publisher.channel;
            channel.call(&exchange_declare(&exchange, kind, "durable", once()));
            channel.queue(&queue, "durable", table([]));
            let arguments = table([("x-match", text("any")), ("k", int(1))]);
            channel.call(&queue_bind(&queue, &exchange, "", arguments));
            let properties = headers([("k", int(1)), (ID, text("a"))]);
            for body in ["1", "2"] {
                assert!(publisher.put(&exchange, "", &properties, body));
            }
            assert_eq!(publisher.channel.drain(&queue), ["1"], "{kind}");
        }
    }

    #[test]
    fn an_unroutable_message_does_not_count() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let exchange = declare(&publisher.channel, "direct", once(), [&queue]);
        assert!(publisher.put(&exchange, "nowhere", &with_id("a"), "lost"));
        assert!(publisher.put(&exchange, "k", &with_id("a"), "there"));
        assert_eq!(publisher.channel.drain(&queue), ["there"]);
    }

    #[test]
    fn a_duplicate_is_not_returned() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let exchange = declare(&publisher.channel, "direct", once(), [&queue]);
        let channel = &publisher.channel;
        channel.publish_with(&exchange, "nowhere", "mandatory", &with_id("a"), "back");
        let (_, _, body) = channel.returned();
        assert_eq!(body, b"back");
        channel.publish_with(&exchange, "k", "mandatory", &with_id("a"), "there");
        // In the same batch, and unroutable.
        channel.publish_with(&exchange, "nowhere", "mandatory", &with_id("a"), "dropped");
        channel.publish_with(&exchange, "k", "mandatory", &with_id("a"), "dropped");
        publisher.published = 4;
        publisher.all_confirmed(1);
        publisher.channel.expect_nothing();
        assert_eq!(publisher.channel.drain(&queue), ["there"]);
        let channel = client.channel(2);
        channel.call(&tx_select());
        channel.publish_with(&exchange, "nowhere", "mandatory", &with_id("a"), "dropped");
        channel.publish_with(&exchange, "k", "", &with_id("a"), "dropped");
        channel.publish_with(&exchange, "k", "", &with_id("b"), "b");
        channel.publish_with(&exchange, "k", "", &with_id("b"), "dropped");
        channel.call(&tx_commit());
        channel.expect_nothing();
        assert_eq!(channel.drain(&queue), ["b"]);
    }

    #[test]
    fn what_a_queue_refused_may_come_again() {
        let client = Client::connect();
        let (full, other) = (name(), name());
        let mut publisher = Publisher::on(&client, 1);
        let channel = &publisher.channel;
        let arguments = table([
            ("x-max-length", int(1)),
            ("x-overflow", text("reject-publish")),
        ]);
        channel.queue(&full, "durable", arguments);
        let exchange = declare(channel, "fanout", once(), []);
        channel.bind(&full, &exchange, "");
        assert!(publisher.put(&exchange, "", &with_id("a"), "a"));
        // Both in one batch: the second one repeats what was refused.
        for body in ["b", "b again"] {
            publisher.send(&exchange, "", &with_id("b"), body);
        }
        let confirms = publisher.channel.confirms(2, 3);
        assert!(
            confirms.values().all(|confirmed| !confirmed),
            "{confirms:?}"
        );
        assert_eq!(publisher.channel.drain(&full), ["a"]);
        publisher.channel.queue(&other, "durable", table([]));
        publisher.channel.bind(&other, &exchange, "");
        assert!(publisher.put(&exchange, "", &with_id("b"), "b"));
        assert!(publisher.put(&exchange, "", &with_id("b"), "b"));
        assert_eq!(publisher.channel.drain(&full), ["b"]);
        assert_eq!(publisher.channel.drain(&other), ["b"]);
    }

    #[test]
    fn a_queue_behind_it_has_ids_of_its_own() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        publisher
            .channel
            .queue(&queue, "durable", once_with([(ID, text("order"))]));
        let exchange = declare(&publisher.channel, "fanout", once(), []);
        publisher.channel.bind(&queue, &exchange, "");
        let both = |id: &str, order| {
            headers([(ID, text(id)), ("order", int(order))]).with_delivery_mode(2)
        };
        for (id, order) in [("a", 1), ("a", 2), ("b", 1), ("b", 3), ("c", 3)] {
            let body = format!("{id}{order}");
            assert!(publisher.put(&exchange, "", &both(id, order), &body));
        }
        // b1 is the queue's duplicate, and b has been seen by the exchange since.
        assert_eq!(publisher.channel.drain(&queue), ["a1", "c3"]);
    }

    #[test]
    fn dead_letters_pass() {
        let client = Client::connect();
        let (work, letters) = (name(), name());
        let mut publisher = Publisher::on(&client, 1);
        let exchange = declare(&publisher.channel, "topic", once(), [&letters]);
        let dead = [
            ("x-dead-letter-exchange", text(&exchange)),
            ("x-dead-letter-routing-key", text("k")),
        ];
        publisher.channel.queue(&work, "durable", table(dead));
        publisher.channel.bind(&work, &exchange, "work");
        for id in ["a", "a", "b"] {
            assert!(publisher.put(&exchange, "work", &with_id(id), id));
        }
        for _ in 0..2 {
            let got = publisher.channel.get(&work, "").expect("a message");
            publisher.channel.send(&reject(got.tag, ""));
        }
        eventually("both have died", || publisher.channel.ready(&letters) == 2);
        assert_eq!(publisher.channel.drain(&letters), ["a", "b"]);
    }

    #[test]
    fn only_what_is_published_to_it_counts() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let behind = declare(&publisher.channel, "fanout", once(), [&queue]);
        let front = name();
        publisher.channel.exchange(&front, "fanout");
        publisher
            .channel
            .call(&exchange_bind(&behind, &front, "", table([])));
        for body in ["1", "2"] {
            assert!(publisher.put(&front, "", &with_id("a"), body));
        }
        assert_eq!(publisher.channel.drain(&queue), ["1", "2"]);
    }

    #[test]
    fn of_two_publishers_one_wins() {
        let client = Client::connect();
        let queues = [name(), name()];
        let channel = client.channel(1);
        let exchange = declare(&channel, "fanout", once(), [&queues[0], &queues[1]]);
        let work = |exchange: String| {
            move || {
                let client = Client::connect();
                let mut publisher = Publisher::on(&client, 1);
                for id in 0..500 {
                    publisher.send(&exchange, "", &known_by(int(id)), &id.to_string());
                }
                publisher.all_confirmed(1);
            }
        };
        let threads = [1, 2, 3].map(|_| std::thread::spawn(work(exchange.clone())));
        for thread in threads {
            thread.join().unwrap();
        }
        for queue in &queues {
            let mut ids: Vec<u32> = channel
                .drain(queue)
                .iter()
                .map(|body| body.parse().unwrap())
                .collect();
            ids.sort_unstable();
            assert_eq!(ids, (0..500).collect::<Vec<_>>());
        }
    }

    #[test]
    fn deleted_it_has_seen_nothing() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let exchange = declare(&publisher.channel, "fanout", once(), [&queue]);
        assert!(publisher.put(&exchange, "", &with_id("a"), "1"));
        let channel = &publisher.channel;
        channel.call(&exchange_delete(&exchange, ""));
        channel.call(&exchange_declare(&exchange, "fanout", "durable", once()));
        channel.bind(&queue, &exchange, "");
        assert!(publisher.put(&exchange, "", &with_id("a"), "2"));
        assert_eq!(publisher.channel.drain(&queue), ["1", "2"]);
    }
}

mod restart {
    use super::*;

    /// Each case runs with both kinds of end.
    fn both(case: impl Fn(fn(Broker) -> Broker)) {
        if elsewhere("the broker there is not ours to kill") {
            return;
        }
        case(Broker::restart);
        case(Broker::crash_and_restart);
    }

    #[test]
    fn what_was_seen_stays_seen() {
        both(|end| {
            let mut broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            let brief = once_with([("x-cache-ttl", int(1))]);
            let long = once_with([("x-cache-ttl", int(3_600_000)), ("x-cache-size", int(3))]);
            channel.queue("once", "durable", once());
            channel.queue("brief", "durable", brief);
            channel.queue("long", "durable", long);
            channel.queue("behind", "durable", table([]));
            channel.queue("beside", "durable", table([]));
            for (exchange, queues) in [("x", &["behind"][..]), ("y", &["behind", "beside"])] {
                channel.call(&exchange_declare(exchange, "fanout", "durable", once()));
                for queue in queues {
                    channel.bind(queue, exchange, "");
                }
            }
            let targets = [
                ("", "once"),
                ("", "brief"),
                ("", "long"),
                ("x", ""),
                ("y", ""),
            ];
            let mut publisher = Publisher::on(&client, 2);
            for (exchange, key) in targets {
                for id in ["a", "b", "c", "d"] {
                    assert!(publisher.put(exchange, key, &with_id(id), id));
                }
            }
            let all = ["a", "b", "c", "d"];
            assert_eq!(channel.drain("once"), all);
            for round in 0..3 {
                broker = end(broker);
                let client = Client::to(&broker);
                let channel = client.channel(1);
                let mut publisher = Publisher::on(&client, 2);
                for (exchange, key) in targets {
                    for id in ["b", "d"] {
                        assert!(publisher.put(exchange, key, &with_id(id), "again"));
                    }
                }
                let fresh = format!("fresh {round}");
                assert!(publisher.put("", "once", &with_id(&fresh), &fresh));
                assert!(publisher.put("", "once", &with_id(&fresh), &fresh));
                assert_eq!(channel.drain("once"), [fresh]);
                let bodies = channel.drain("brief");
                assert!(bodies.iter().filter(|body| *body == "again").count() >= 2);
                if round == 0 {
                    assert_eq!(channel.drain("long"), all);
                    assert_eq!(channel.drain("behind"), [all, all].concat());
                    assert_eq!(channel.drain("beside"), all);
                } else {
                    for queue in ["long", "behind", "beside"] {
                        assert_eq!(channel.ready(queue), 0, "{queue}");
                    }
                }
            }
            // Of three places the oldest had made room before.
            let client = Client::to(&broker);
            let mut publisher = Publisher::on(&client, 2);
            for id in ["a", "c"] {
                assert!(publisher.put("", "long", &with_id(id), id));
            }
            assert_eq!(publisher.channel.drain("long"), ["a"]);
        });
    }

    #[test]
    fn a_transient_message_takes_its_id_with_it() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let mut publisher = Publisher::on(&client, 1);
            publisher.channel.queue("q", "durable", once());
            let transient = headers([(ID, text("a"))]);
            for body in ["1", "2"] {
                assert!(publisher.put("", "q", &transient, body));
            }
            assert_eq!(publisher.channel.ready("q"), 1);
            let broker = end(broker);
            let client = Client::to(&broker);
            let mut publisher = Publisher::on(&client, 1);
            assert!(publisher.put("", "q", &with_id("a"), "3"));
            assert_eq!(publisher.channel.drain("q"), ["3"]);
        });
    }

    #[test]
    fn a_new_owner_of_the_name_has_seen_nothing() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let mut publisher = Publisher::on(&client, 1);
            publisher.channel.queue("q", "durable", once());
            assert!(publisher.put("", "q", &with_id("a"), "1"));
            publisher.channel.call(&queue_delete("q", ""));
            publisher.channel.queue("q", "durable", once());
            let broker = end(broker);
            let client = Client::to(&broker);
            let mut publisher = Publisher::on(&client, 1);
            assert!(publisher.put("", "q", &with_id("a"), "2"));
            assert_eq!(publisher.channel.drain("q"), ["2"]);
        });
    }

    /// A log of small files: the entry of an id has gone with its file long since, the id has not.
    #[test]
    fn ids_outlive_the_files_they_came_in() {
        both(|end| {
            let folder = broker::fresh_folder();
            let config = folder.with_extension("toml");
            std::fs::write(&config, "[store]\nlog_file_size = \"1MiB\"\n").unwrap();
            let flags = ["--config", config.to_str().unwrap()];
            let broker = Broker::start_on(folder, &flags);
            let client = Client::to(&broker);
            let mut publisher = Publisher::on(&client, 1);
            let channel = &publisher.channel;
            channel.queue("once", "durable", once());
            channel.queue("bulk", "durable", table([("x-max-length", int(2))]));
            channel.call(&exchange_declare("x", "fanout", "durable", once()));
            channel.bind("bulk", "x", "");
            assert!(publisher.put("", "once", &with_id("a"), "a"));
            assert!(publisher.put("x", "", &with_id("a"), "a"));
            assert_eq!(publisher.channel.drain("once"), ["a"]);
            let body = "x".repeat(100_000);
            for _ in 0..200 {
                assert!(publisher.put("", "bulk", &persistent(), &body));
            }
            eventually("a checkpoint has been written", || {
                broker.metric("mambamq_log_checkpoints_total") > Some(0.0)
                    && broker.metric("mambamq_log_files") < Some(12.0)
            });
            let broker = end(broker);
            let client = Client::to(&broker);
            let mut publisher = Publisher::on(&client, 1);
            assert!(publisher.put("", "once", &with_id("a"), "again"));
            assert!(publisher.put("x", "", &with_id("a"), "again"));
            assert_eq!(publisher.channel.ready("once"), 0);
            assert!(
                !publisher
                    .channel
                    .drain("bulk")
                    .contains(&"again".to_owned())
            );
        });
    }
}

mod declaration {
    use super::*;

    #[track_caller]
    fn queue_refuses<const N: usize>(more: [(&str, Value); N], text: &str) {
        let queue = name();
        let channel = Client::connect().channel(1);
        channel.send(&queue_declare(&queue, "durable", table(more)));
        let text = expand(&format!("PRECONDITION_FAILED - {text}"), &queue);
        channel.expect_error(406, &text, (50, 10));
    }

    #[track_caller]
    fn exchange_refuses<const N: usize>(more: [(&str, Value); N], text: &str) {
        let exchange = name();
        let channel = Client::connect().channel(1);
        channel.send(&exchange_declare(
            &exchange,
            "fanout",
            "durable",
            once_with(more),
        ));
        let text = expand(&format!("PRECONDITION_FAILED - {text}"), &exchange);
        channel.expect_error(406, &text, (40, 10));
    }

    #[test]
    fn bad_arguments() {
        let on = "x-message-deduplication";
        queue_refuses(
            [(on, text("yes"))],
            "invalid arg 'x-message-deduplication' for %q: {unacceptable_type,longstr}",
        );
        exchange_refuses(
            [(on, int(1))],
            "invalid arg 'x-message-deduplication' for %x: {unacceptable_type,signedint}",
        );
        for key in ["x-cache-size", "x-cache-ttl"] {
            for (value, reason) in [
                (boolean(true), "\"expected integer, got bool\""),
                (int(-1), "{value_negative,-1}"),
                (int(0), "{value_zero,0}"),
                (long(1 << 60), "{value_too_large,1152921504606846976}"),
            ] {
                queue_refuses(
                    [(key, value.clone())],
                    &format!("invalid arg '{key}' for %q: {reason}"),
                );
                exchange_refuses(
                    [(key, value)],
                    &format!("invalid arg '{key}' for %x: {reason}"),
                );
            }
        }
        queue_refuses(
            [(ID, int(1))],
            "invalid arg 'x-deduplication-header' for %q: {unacceptable_type,signedint}",
        );
        exchange_refuses(
            [(ID, int(1))],
            "invalid arg 'x-deduplication-header' for %x: {unacceptable_type,signedint}",
        );
        let exchange = name();
        let channel = Client::connect().channel(1);
        let delayed = once_with([("x-delayed-type", text("fanout"))]);
        channel.send(&exchange_declare(
            &exchange,
            "x-delayed-message",
            "",
            delayed,
        ));
        let text_of =
            "PRECONDITION_FAILED - invalid arg 'x-message-deduplication' for %x: not_with_delays";
        channel.expect_error(406, &expand(text_of, &exchange), (40, 10));
        exchange_refuses(
            [("x-cache-persistence", text("paper"))],
            "invalid arg 'x-cache-persistence' for %x: invalid_cache_persistence",
        );
    }

    #[test]
    fn another_one_of_the_name_is_different() {
        let client = Client::connect();
        let channel = client.channel(1);
        let (queue, exchange) = (name(), name());
        channel.queue(&queue, "durable", once_with([("x-cache-size", int(5))]));
        channel.queue(&queue, "durable", once_with([("x-cache-size", long(5))]));
        channel.send(&queue_declare(
            &queue,
            "durable",
            once_with([("x-cache-size", int(6))]),
        ));
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-cache-size' for %q: received '6' but current is '5'";
        channel.expect_error(406, &expand(text, &queue), (50, 10));
        channel.call(&exchange_declare(&exchange, "fanout", "durable", table([])));
        channel.send(&exchange_declare(&exchange, "fanout", "durable", once()));
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-message-deduplication' for %x: received the value 'true' of type 'bool' but current is none";
        channel.expect_error(406, &expand(text, &exchange), (40, 10));
    }

    #[test]
    fn switched_off_it_does_nothing() {
        let client = Client::connect();
        let queue = name();
        let mut publisher = Publisher::on(&client, 1);
        let arguments = table([("x-message-deduplication", boolean(false))]);
        publisher.channel.queue(&queue, "durable", arguments);
        for _ in 0..2 {
            assert!(publisher.put("", &queue, &with_id("a"), "x"));
        }
        assert_eq!(publisher.channel.ready(&queue), 2);
    }
}

#[test]
fn counters() {
    if elsewhere("the names are our own") {
        return;
    }
    let broker = Broker::start(&[]);
    let client = Client::to(&broker);
    let mut publisher = Publisher::on(&client, 1);
    let channel = &publisher.channel;
    channel.queue("q", "durable", once());
    channel.call(&exchange_declare("x", "fanout", "durable", once()));
    channel.bind("q", "x", "");
    for id in ["a", "b", "a", "a"] {
        assert!(publisher.put("x", "", &with_id(id), id));
    }
    assert!(publisher.put("", "q", &with_id("b"), "b"));
    for (series, value) in [
        ("mambamq_messages_deduplicated_total", 3.0),
        ("mambamq_duplicates_total{vhost=\"/\",queue=\"q\"}", 1.0),
        ("mambamq_duplicates_total{vhost=\"/\",exchange=\"x\"}", 2.0),
        ("mambamq_deduplication_ids{vhost=\"/\",queue=\"q\"}", 2.0),
        ("mambamq_deduplication_ids{vhost=\"/\",exchange=\"x\"}", 2.0),
    ] {
        eventually(series, || broker.metric(series) == Some(value));
    }
}
