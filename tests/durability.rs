//! What survives: restarts by SIGTERM, crashes by SIGKILL, a second broker on the same folder.

mod support;

use support::{ctl::ctl_on, *};

/// Each case runs with both kinds of end.
fn both(case: impl Fn(fn(Broker) -> Broker)) {
    if elsewhere("the broker there is not ours to kill") {
        return;
    }
    case(Broker::restart);
    case(Broker::crash_and_restart);
}

/// Whether the queue exists.
fn exists(client: &Client, queue: &str) -> bool {
    let channel = client.channel(77);
    channel.send(&queue_declare(queue, "passive", table([])));
    let found = format!("{:?}", client.event(77)).contains("DeclareOk");
    if found {
        channel.close();
    } else {
        channel.send(&channel_close_ok());
    }
    found
}

mod topology {
    use super::*;

    #[test]
    fn durable_stays_and_transient_goes() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue(
                "durable",
                "durable",
                table([("x-max-length", int(7)), ("x-custom", text("kept"))]),
            );
            channel.queue("transient", "", table([]));
            channel.queue("exclusive", "durable exclusive", table([]));
            channel.queue("deleted", "durable", table([]));
            channel.call(&queue_delete("deleted", ""));
            channel.call(&exchange_declare(
                "x",
                "topic",
                "durable",
                table([("alternate-exchange", text("ae"))]),
            ));
            channel.call(&exchange_declare(
                "ae",
                "fanout",
                "durable internal",
                table([]),
            ));
            channel.call(&exchange_declare("transient", "direct", "", table([])));
            channel.bind("durable", "x", "a.*");
            channel.bind("durable", "x", "gone");
            channel.call(&queue_unbind("durable", "x", "gone", table([])));
            channel.bind("transient", "x", "a.*");
            channel.bind("durable", "transient", "k");
            channel.call(&exchange_bind("ae", "x", "e2e", table([])));
            channel.bind("durable", "ae", "");

            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            for (queue, stays) in [
                ("durable", true),
                ("transient", false),
                ("exclusive", false),
                ("deleted", false),
            ] {
                assert_eq!(exists(&client, queue), stays, "{queue}");
            }
            // Equivalent to what was declared, arguments included.
            channel.queue("durable", "durable", table([("x-max-length", int(7))]));
            channel.call(&exchange_declare(
                "x",
                "topic",
                "durable",
                table([("alternate-exchange", text("ae"))]),
            ));
            channel.call(&exchange_declare(
                "ae",
                "fanout",
                "durable internal",
                table([]),
            ));
            channel.send(&exchange_declare(
                "transient",
                "direct",
                "passive",
                table([]),
            ));
            channel.expect_error(
                404,
                "NOT_FOUND - no exchange 'transient' in vhost '/'",
                (40, 10),
            );
            for key in ["a.b", "e2e", "nothing (alternate exchange)"] {
                client.put_with("x", key, &plain(), key);
                assert_eq!(channel.drain("durable"), [key]);
            }
        });
    }

    #[test]
    fn headers_bindings_keep_their_arguments() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            let arguments = table([("x-match", text("all")), ("a", int(5)), ("b", text("x"))]);
            channel.call(&queue_bind("q", "amq.headers", "", arguments));
            let broker = end(broker);
            let client = Client::to(&broker);
            client.put_with(
                "amq.headers",
                "",
                &headers([("a", int(5)), ("b", text("x"))]),
                "yes",
            );
            client.put_with(
                "amq.headers",
                "",
                &headers([("a", int(6)), ("b", text("x"))]),
                "no",
            );
            assert_eq!(client.channel(1).drain("q"), ["yes"]);
        });
    }

    #[test]
    fn a_thousand_queues() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            for number in 0..1000 {
                channel.send(&queue_declare(&format!("q{number}"), "durable", table([])));
            }
            for _ in 0..1000 {
                channel.answer();
            }
            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            for number in 0..1000 {
                channel.ready(&format!("q{number}"));
            }
        });
    }
}

mod messages {
    use super::*;

    #[test]
    fn confirmed_persistent_ones_stay() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            channel.call(&confirm_select());
            let properties = persistent()
                .with_headers(table([("h", long(5))]))
                .with_message_id("id".into())
                .with_priority(3)
                .with_expiration("60000000".into());
            for number in 0..1000 {
                channel.publish_with("", "q", "", &properties, format!("{number}"));
            }
            assert!(channel.confirms(1, 1000).values().all(|accepted| *accepted));
            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            assert_eq!(channel.ready("q"), 1000);
            for number in 0..1000 {
                let got = channel.get("q", "no_ack").expect("a message");
                assert_eq!(got.text(), format!("{number}"));
                assert_eq!(
                    (got.properties, got.redelivered),
                    (properties.clone(), false)
                );
                assert_eq!((got.exchange.as_str(), got.key.as_str()), ("", "q"));
            }
        });
    }

    #[test]
    fn large_ones_stay() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            client.channel(1).queue("q", "durable", table([]));
            let bodies: Vec<Vec<u8>> = [0, 1, 4096, 131_072, 5_000_000]
                .into_iter()
                .map(|size| Random::new(9).bytes(size))
                .collect();
            for body in &bodies {
                client.put_persistent("q", body);
            }
            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            for body in &bodies {
                assert!(
                    channel.get("q", "no_ack").expect("a message").body == *body,
                    "{} octets",
                    body.len()
                );
            }
        });
    }

    #[test]
    fn transient_ones_go() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            client.channel(1).queue("q", "durable", table([]));
            client.put("q", "transient");
            client.put_persistent("q", "persistent");
            client.put_with("", "q", &plain().with_delivery_mode(1), "transient");
            let broker = end(broker);
            let client = Client::to(&broker);
            assert_eq!(client.channel(1).drain("q"), ["persistent"]);
        });
    }

    #[test]
    fn quorum_queues_keep_everything() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            client
                .channel(1)
                .queue("q", "durable", table([("x-queue-type", text("quorum"))]));
            client.put("q", "transient");
            client.put_persistent("q", "persistent");
            let broker = end(broker);
            let client = Client::to(&broker);
            assert_eq!(client.channel(1).drain("q"), ["transient", "persistent"]);
        });
    }

    #[test]
    fn acked_ones_stay_away() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            for number in 0..100 {
                client.put_persistent("q", format!("{number}"));
            }
            channel.consume("q", "t", "");
            for _ in 0..100 {
                channel.delivery();
            }
            for tag in (1..=100).filter(|tag| tag % 3 != 0) {
                channel.send(&ack(tag, ""));
            }
            channel.flow();
            // The acks ride along with the next commit: a confirm that comes later proves that it has happened.
            client.put_persistent("q", "last");
            let broker = end(broker);
            let client = Client::to(&broker);
            let mut expected: Vec<String> = (1..=100)
                .filter(|tag| tag % 3 == 0)
                .map(|tag| (tag - 1).to_string())
                .collect();
            expected.push("last".to_owned());
            assert_eq!(client.channel(1).drain("q"), expected);
        });
    }

    /// After a restart the octets of a queue were shared out evenly where messages had settled in between, so that
    /// `max-length-bytes` dropped messages that fit, or kept some that did not.
    #[test]
    fn their_octets_count_exactly() {
        both(|end| {
            // Which of the messages go, and whether the limit is there before the restart or comes after it.
            for (settled_len, limited_before) in [(1000, true), (1, true), (1000, false)] {
                let broker = Broker::start(&[]);
                let client = Client::to(&broker);
                let channel = client.channel(1);
                for queue in ["q", "other"] {
                    channel.queue(queue, "durable", table([]));
                }
                let confirming = client.channel(2);
                confirming.call(&confirm_select());
                let len = |number: usize| if number.is_multiple_of(2) { 1 } else { 1000 };
                let body = |number: usize| format!("{number:0len$}", len = len(number).max(2));
                for number in 0..99 {
                    confirming.publish_with("", "q", "", &persistent(), body(number));
                }
                confirming.confirms(1, 99);
                channel.consume("q", "t", "");
                let mut kept = Vec::new();
                for number in 0..99 {
                    let delivery = channel.delivery();
                    if (20..60).contains(&number) && len(number) == settled_len {
                        channel.send(&ack(delivery.tag, ""));
                    } else {
                        kept.push(body(number));
                    }
                }
                channel.call(&cancel("t", ""));
                channel.call(&recover("requeue"));
                let octets: usize = kept.iter().map(String::len).sum();
                let limit = format!("{{\"max-length-bytes\":{octets}}}");
                let set_limit = |broker: &Broker| {
                    ctl_on(Some(broker), &["set_policy", "-q", "p", "^q$", &limit]);
                };
                if limited_before {
                    set_limit(&broker);
                }
                // The acks ride along with the next commit.
                client.put_persistent("other", "x");

                let broker = end(broker);
                if !limited_before {
                    set_limit(&broker);
                }
                let client = Client::to(&broker);
                let channel = client.channel(1);
                assert_eq!(channel.ready("q") as usize, kept.len());
                client.put_persistent("q", "!");
                kept.push("!".to_owned());
                // One octet too many: the oldest goes.
                kept.remove(0);
                eventually("the oldest goes", || {
                    channel.ready("q") as usize <= kept.len()
                });
                assert_eq!(channel.drain("q"), kept);
            }
        });
    }

    #[test]
    fn purged_and_deleted_ones_stay_away() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            for queue in ["purged", "deleted"] {
                channel.queue(queue, "durable", table([]));
                client.put_persistent(queue, "x");
            }
            channel.call(&queue_purge("purged"));
            channel.call(&queue_delete("deleted", ""));
            channel.queue("deleted", "durable", table([]));
            client.put_persistent("deleted", "new");
            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            assert_eq!(
                (channel.drain("purged"), channel.drain("deleted")),
                (vec![], vec!["new".to_owned()])
            );
        });
    }

    #[test]
    fn delivered_before_a_crash_are_marked() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            for body in ["1", "2", "3"] {
                client.put_persistent("q", body);
            }
            channel.get("q", "").expect("a message");
            channel.get("q", "").expect("a message");
            channel.flow();
            client.put_persistent("q", "4");
            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            let all: Vec<(String, bool)> = std::iter::from_fn(|| channel.get("q", "no_ack"))
                .map(|content| (content.text(), content.redelivered))
                .collect();
            let expected = [("1", true), ("2", true), ("3", false), ("4", false)];
            assert_eq!(
                all,
                expected.map(|(body, redelivered)| (body.to_owned(), redelivered))
            );
        });
    }

    #[test]
    fn requeued_ones_keep_their_place() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            for body in ["1", "2", "3"] {
                client.put_persistent("q", body);
            }
            for _ in 0..3 {
                channel.get("q", "").expect("a message");
            }
            channel.send(&nack(2, "requeue"));
            channel.send(&ack(1, ""));
            channel.flow();
            client.put_persistent("q", "4");
            let broker = end(broker);
            let client = Client::to(&broker);
            assert_eq!(client.channel(1).drain("q"), ["2", "3", "4"]);
        });
    }

    #[test]
    fn fan_out_to_many_queues() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            let queues: Vec<String> = (0..10).map(|number| format!("q{number}")).collect();
            for queue in &queues {
                channel.queue(queue, "durable", table([]));
                channel.bind(queue, "amq.fanout", "");
            }
            for body in ["1", "2", "3"] {
                client.put_with("amq.fanout", "", &persistent(), body);
            }
            // Each queue has settled something else.
            for (number, queue) in queues.iter().enumerate() {
                for _ in 0..number % 4 {
                    channel.get(queue, "no_ack").expect("a message");
                }
            }
            client.put_with("amq.fanout", "", &persistent(), "4");
            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            for (number, queue) in queues.iter().enumerate() {
                assert_eq!(
                    channel.drain(queue),
                    ["1", "2", "3", "4"][number % 4..],
                    "{queue}"
                );
            }
        });
    }

    #[test]
    fn committed_transactions_stay() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            channel.call(&tx_select());
            for number in 0..50 {
                channel.publish_with("", "q", "", &persistent(), format!("{number}"));
            }
            channel.call(&tx_commit());
            channel.publish_with("", "q", "", &persistent(), "not committed");
            channel.flow();
            let broker = end(broker);
            let client = Client::to(&broker);
            assert_eq!(client.channel(1).drain("q").len(), 50);
        });
    }

    #[test]
    fn dead_letters_stay() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("dead", "durable", table([]));
            let arguments = table([
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text("dead")),
            ]);
            channel.queue("q", "durable", arguments);
            client.put_persistent("q", "x");
            let got = channel.get("q", "").expect("a message");
            channel.send(&reject(got.tag, ""));
            eventually("it is dead-lettered", || channel.ready("dead") == 1);
            client.put_persistent("dead", "later");
            let broker = end(broker);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            assert_eq!(
                (channel.drain("dead"), channel.drain("q")),
                (vec!["x".to_owned(), "later".to_owned()], vec![])
            );
        });
    }

    #[test]
    fn priorities_stay() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            client
                .channel(1)
                .queue("q", "durable", table([("x-max-priority", int(5))]));
            for (priority, body) in [(1, "a"), (5, "b"), (3, "c")] {
                client.put_with("", "q", &persistent().with_priority(priority), body);
            }
            let broker = end(broker);
            let client = Client::to(&broker);
            client.put_with("", "q", &persistent().with_priority(4), "d");
            assert_eq!(client.channel(1).drain("q"), ["b", "d", "c", "a"]);
        });
    }

    #[test]
    fn what_expired_meanwhile_is_gone() {
        both(|end| {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            client.channel(1).queue("q", "durable", table([]));
            client.put_with(
                "",
                "q",
                &persistent().with_expiration("1".into()),
                "expired",
            );
            client.put_persistent("q", "stays");
            let broker = end(broker);
            let client = Client::to(&broker);
            assert_eq!(client.channel(1).drain("q"), ["stays"]);
        });
    }
}

mod several_ends {
    use super::*;

    #[test]
    fn ten_crashes() {
        if elsewhere("the broker there is not ours to kill") {
            return;
        }
        let mut broker = Broker::start(&[]);
        let mut expected: Vec<String> = Vec::new();
        Client::to(&broker)
            .channel(1)
            .queue("q", "durable", table([]));
        for round in 0..10 {
            let client = Client::to(&broker);
            let channel = client.channel(1);
            assert_eq!(
                channel.ready("q"),
                u32::try_from(expected.len()).unwrap(),
                "round {round}"
            );
            for number in 0..20 {
                let body = format!("{round}.{number}");
                client.put_persistent("q", &body);
                expected.push(body);
            }
            // Takes some from the head, so that the log has gaps.
            for _ in 0..7 {
                assert_eq!(
                    channel.get("q", "no_ack").expect("a message").text(),
                    expected.remove(0)
                );
            }
            client.put_persistent("q", format!("{round}.last"));
            expected.push(format!("{round}.last"));
            broker = broker.crash_and_restart();
        }
        assert_eq!(Client::to(&broker).channel(1).drain("q"), expected);
    }

    /// Publishes without waiting, kills in the middle: what was confirmed is there, in order, and nothing is invented.
    #[test]
    fn a_crash_under_load() {
        if elsewhere("the broker there is not ours to kill") {
            return;
        }
        for round in 1..=3_u64 {
            let broker = Broker::start(&[]);
            let client = Client::to(&broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            channel.call(&confirm_select());
            let total = 5000_u64;
            for number in 1..=total {
                channel.publish_with("", "q", "", &persistent(), format!("{number}"));
            }
            // Kill after some confirms, not after all.
            let mut confirmed = 0;
            while confirmed < total / 4 * round {
                match channel.method() {
                    amq_protocol::protocol::AMQPClass::Basic(
                        amq_protocol::protocol::basic::AMQPMethod::Ack(ack),
                    ) => confirmed = confirmed.max(ack.delivery_tag),
                    other => panic!("{other:?}"),
                }
            }
            let broker = broker.crash_and_restart();
            let left = Client::to(&broker).channel(1).drain("q");
            assert!(
                u64::try_from(left.len()).unwrap() >= confirmed,
                "{} of {confirmed} confirmed",
                left.len()
            );
            let expected: Vec<String> = (1..=left.len()).map(|number| number.to_string()).collect();
            assert_eq!(left, expected);
        }
    }
}

mod process {
    use super::*;

    #[test]
    fn sigterm_says_goodbye_and_exits_with_0() {
        if elsewhere("the broker there is not ours to stop") {
            return;
        }
        let mut broker = Broker::start(&[]);
        let client = Client::to(&broker);
        client.channel(1).queue("q", "durable", table([]));
        broker.terminate();
        client.expect_error(
            320,
            "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
            (0, 0),
        );
        assert_eq!(broker.wait_for_exit().code(), Some(0), "{}", broker.log());
    }

    #[test]
    fn sigterm_with_a_client_that_does_not_listen() {
        if elsewhere("the broker there is not ours to stop") {
            return;
        }
        let mut broker = Broker::start(&[]);
        let client = Client::to(&broker);
        client.channel(1).flow();
        broker.terminate();
        assert_eq!(broker.wait_for_exit().code(), Some(0), "{}", broker.log());
        drop(client);
    }

    #[test]
    fn a_second_broker_on_the_same_folder_is_refused() {
        if elsewhere("the broker there is not ours") {
            return;
        }
        let broker = Broker::start(&[]);
        let folder = broker.folder().to_str().unwrap().to_owned();
        let output = broker::bare_command()
            .args([
                "serve",
                "--data-dir",
                &folder,
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "off",
            ])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&folder), "names the folder: {text}");
        assert!(
            text.contains(&broker.pid().to_string()),
            "names the process that has it: {text}"
        );
        Client::to(&broker).channel(1).flow();
    }

    #[test]
    fn the_folder_is_free_after_a_crash() {
        if elsewhere("the broker there is not ours") {
            return;
        }
        let broker = Broker::start(&[]).crash_and_restart();
        Client::to(&broker).channel(1).flow();
    }
}
