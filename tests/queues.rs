//! Queues: declare, equivalence, server names, exclusive and auto-delete queues, purge, delete, the current queue, quorum rules.

mod support;

use amq_protocol::protocol::{AMQPClass, basic, queue};
use support::*;

fn setup() -> (Client, Channel, String) {
    let client = Client::connect();
    let channel = client.channel(1);
    (client, channel, name())
}

/// Whether a queue of this name can be declared passively, asked on a connection of its own.
fn exists(name: &str) -> bool {
    let client = Client::connect();
    client
        .channel(1)
        .send(&queue_declare(name, "passive", table([])));
    let shown = format!("{:?}", client.event(1));
    shown.contains("DeclareOk") || shown.contains("reply_code: 405")
}

#[track_caller]
fn message_count(answer: &AMQPClass) -> u32 {
    match answer {
        AMQPClass::Queue(queue::AMQPMethod::PurgeOk(ok)) => ok.message_count,
        AMQPClass::Queue(queue::AMQPMethod::DeleteOk(ok)) => ok.message_count,
        other => panic!("{other:?}"),
    }
}

mod declare {
    use super::*;

    #[test]
    fn of_a_new_queue() {
        let (_client, channel, name) = setup();
        let ok = channel.queue(&name, "exclusive", table([]));
        assert_eq!(
            (ok.queue.as_str(), ok.message_count, ok.consumer_count),
            (name.as_str(), 0, 0)
        );
    }

    #[test]
    fn counts_ready_messages_and_consumers() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        for _ in 0..3 {
            client.put(&name, "x");
        }
        let ok = channel.queue(&name, "exclusive", table([]));
        assert_eq!((ok.message_count, ok.consumer_count), (3, 0));
        channel.call(&qos(1, ""));
        channel.consume(&name, "one", "");
        channel.consume(&name, "two", "");
        let _ = (channel.delivery(), channel.delivery());
        let ok = channel.queue(&name, "passive", table([]));
        assert_eq!((ok.message_count, ok.consumer_count), (1, 2));
    }

    #[test]
    fn in_all_combinations() {
        let (_client, channel, name) = setup();
        for flags in [
            "",
            "durable",
            "auto_delete",
            "exclusive",
            "durable auto_delete",
            "exclusive auto_delete durable",
        ] {
            // Transient queues for everybody are allowed. [MambaMQ] (4.3 refuses them)
            for _ in 0..2 {
                assert_eq!(
                    channel.queue(&name, flags, table([])).queue.as_str(),
                    name,
                    "{flags}"
                );
            }
            channel.call(&queue_delete(&name, ""));
        }
    }

    #[test]
    fn nowait() {
        let (_client, channel, name) = setup();
        channel.send(&queue_declare(&name, "exclusive nowait", table([])));
        channel.expect_nothing();
        assert!(exists(&name));
    }

    #[test]
    fn passive_compares_nothing() {
        let (_client, channel, name) = setup();
        channel.queue(&name, "auto_delete", table([("x-max-length", int(5))]));
        channel.queue(
            &name,
            "passive durable exclusive",
            table([("x-max-length", int(9)), ("x-expires", int(0))]),
        );
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn a_redeclare_compares_but_does_not_validate_foreign_arguments() {
        let (_client, channel, name) = setup();
        channel.own_queue(&name);
        channel.queue(&name, "exclusive", table([("x-unknown", text("anything"))]));
    }

    /// These arguments are accepted.
    #[track_caller]
    fn accepted<const N: usize>(flags: &str, arguments: [(&str, Value); N]) {
        let (_client, channel, name) = setup();
        channel.queue(&name, flags, table(arguments));
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn arguments_of_classic_queues() {
        accepted("", [("x-queue-type", text("classic"))]);
        accepted("", [("x-message-ttl", int(0))]);
        accepted("", [("x-message-ttl", long(315_360_000_000))]);
        accepted("", [("x-message-ttl", Value::ShortShortUInt(200))]);
        accepted("", [("x-expires", int(600_000))]);
        accepted("", [("x-max-length", int(0))]);
        accepted("", [("x-max-length-bytes", int(0))]);
        accepted("", [("x-overflow", text("drop-head"))]);
        accepted("", [("x-overflow", text("reject-publish"))]);
        accepted("", [("x-overflow", text("reject-publish-dlx"))]);
        accepted(
            "",
            [
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text("k")),
            ],
        );
        accepted("", [("x-dead-letter-exchange", text("no-such-exchange"))]);
        accepted("", [("x-max-priority", int(0))]);
        accepted("", [("x-max-priority", int(255))]);
        accepted("", [("x-single-active-consumer", boolean(false))]);
        accepted("", [("x-queue-mode", text("lazy"))]);
        accepted("", [("x-queue-mode", text("default"))]);
        accepted("", [("x-queue-version", int(2))]);
        accepted("", [("x-queue-master-locator", text("client-local"))]);
        accepted("", [("x-queue-leader-locator", text("balanced"))]);
        accepted(
            "",
            [("x-anything", Value::FieldTable(table([("a", int(1))])))],
        );
    }

    #[test]
    fn arguments_of_quorum_queues() {
        accepted("durable", [("x-queue-type", text("quorum"))]);
        accepted(
            "durable",
            [
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", int(-1)),
            ],
        );
        accepted(
            "durable",
            [
                ("x-queue-type", text("quorum")),
                ("x-quorum-initial-group-size", int(3)),
            ],
        );
        accepted(
            "durable",
            [
                ("x-queue-type", text("quorum")),
                ("x-dead-letter-strategy", text("at-most-once")),
            ],
        );
        accepted(
            "durable",
            [
                ("x-queue-type", text("quorum")),
                ("x-max-in-memory-length", int(1)),
            ],
        );
        accepted(
            "durable",
            [
                ("x-queue-type", text("quorum")),
                ("x-single-active-consumer", boolean(true)),
            ],
        );
        accepted(
            "durable",
            [
                ("x-queue-type", text("quorum")),
                ("x-overflow", text("reject-publish")),
            ],
        );
        accepted(
            "durable",
            [
                ("x-queue-type", text("quorum")),
                ("x-queue-leader-locator", text("client-local")),
            ],
        );
    }
}

mod server_named {
    use super::*;

    #[test]
    fn amq_gen_and_22_characters() {
        let (_client, channel, _) = setup();
        let ok = channel.queue("", "exclusive", table([]));
        let random = ok
            .queue
            .as_str()
            .strip_prefix("amq.gen-")
            .expect("the prefix");
        assert_eq!(random.len(), 22, "{random}");
        assert!(
            random
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
            "{random}"
        );
    }

    #[test]
    fn each_has_its_own() {
        let (_client, channel, _) = setup();
        let first = channel.queue("", "exclusive", table([])).queue;
        assert_ne!(channel.queue("", "exclusive", table([])).queue, first);
    }

    #[test]
    fn works_like_any_other() {
        let (client, channel, _) = setup();
        let name = channel.queue("", "exclusive", table([])).queue.to_string();
        client.put(&name, "x");
        assert_eq!(channel.ready(&name), 1);
        assert_eq!(channel.drain(&name), ["x"]);
    }
}

mod current_queue {
    use super::*;

    #[test]
    fn is_the_last_declared_of_the_channel() {
        let (client, channel, name) = setup();
        let (one, two) = (format!("{name}.1"), format!("{name}.2"));
        channel.own_queue(&one);
        channel.own_queue(&two);
        client.put(&two, "two");
        assert_eq!(channel.get("", "no_ack").expect("a message").text(), "two");
        channel.queue(&one, "passive", table([]));
        client.put(&one, "one");
        assert_eq!(channel.get("", "no_ack").expect("a message").text(), "one");
    }

    #[test]
    fn in_every_method() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        channel.call(&queue_bind("", "amq.direct", &name, table([])));
        client.put_with("amq.direct", &name, &plain(), "x");
        assert_eq!(message_count(&channel.call(&queue_purge(""))), 1);
        channel.call(&queue_unbind("", "amq.direct", &name, table([])));
        client.put_with("amq.direct", &name, &plain(), "x");
        assert_eq!(channel.ready(&name), 0);
        channel.consume("", "t", "");
        assert_eq!(channel.consumers(&name), 1);
        channel.call(&queue_delete("", ""));
        assert!(!exists(&name));
    }

    #[test]
    fn is_the_binding_key_if_that_is_empty_too() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        channel.call(&queue_bind("", "amq.direct", "", table([])));
        client.put_with("amq.direct", &name, &plain(), "x");
        assert_eq!(channel.drain(&name), ["x"]);
        channel.call(&queue_unbind("", "amq.direct", "", table([])));
        client.put_with("amq.direct", &name, &plain(), "x");
        assert_eq!(channel.ready(&name), 0);
    }

    #[test]
    fn is_not_the_binding_key_of_a_named_queue() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        channel.exchange(&name, "direct");
        channel.bind(&name, &name, "");
        client.put_with(&name, &name, &plain(), "x");
        assert_eq!(channel.ready(&name), 0);
        client.put_with(&name, "", &plain(), "x");
        assert_eq!(channel.ready(&name), 1);
    }

    #[test]
    fn of_a_nowait_declare() {
        let (_client, channel, _) = setup();
        channel.send(&queue_declare("", "exclusive nowait", table([])));
        channel.consume("", "t", "");
    }
}

mod exclusive {
    use super::*;

    #[test]
    fn all_channels_of_the_connection() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        let other = client.channel(2);
        other.own_queue(&name);
        client.put(&name, "x");
        assert_eq!(other.drain(&name), ["x"]);
    }

    #[test]
    fn goes_with_the_connection_not_the_channel() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        channel.close();
        assert!(exists(&name));
        client.close();
        assert!(!exists(&name));
    }

    #[test]
    fn the_name_is_free_again() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put(&name, "old");
        client.close();
        let (_client, channel, _) = setup();
        assert_eq!(
            channel.queue(&name, "exclusive", table([])).message_count,
            0
        );
    }

    #[test]
    fn consumers_of_the_owner_end_silently() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        channel.consume(&name, "t", "");
        client.close();
        assert!(!exists(&name));
    }
}

mod auto_delete {
    use super::*;

    #[test]
    fn with_the_last_consumer() {
        let (client, channel, name) = setup();
        channel.queue(&name, "auto_delete", table([]));
        channel.consume(&name, "one", "");
        client.channel(2).consume(&name, "two", "");
        channel.call(&cancel("one", ""));
        assert!(exists(&name));
        client.unopened(2).close();
        assert!(!exists(&name));
    }

    #[test]
    fn with_the_connection() {
        let (client, channel, name) = setup();
        channel.queue(&name, "auto_delete", table([]));
        channel.consume(&name, "one", "");
        client.close();
        eventually("the queue is gone", || !exists(&name));
    }

    #[test]
    fn when_the_peer_vanishes() {
        let (client, channel, name) = setup();
        channel.queue(&name, "auto_delete", table([]));
        channel.consume(&name, "one", "");
        client.vanish();
        eventually("the queue is gone", || !exists(&name));
    }

    #[test]
    fn not_without_a_consumer() {
        let (client, channel, name) = setup();
        channel.queue(&name, "auto_delete", table([]));
        client.put(&name, "x");
        channel.get(&name, "no_ack").expect("a message");
        client.close();
        assert!(exists(&name));
        let (_client, channel, _) = setup();
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn even_with_messages() {
        let (client, channel, name) = setup();
        channel.queue(&name, "auto_delete", table([]));
        channel.call(&qos(1, ""));
        channel.consume(&name, "one", "");
        for _ in 0..3 {
            client.put(&name, "x");
        }
        channel.call(&cancel("one", ""));
        assert!(!exists(&name));
    }
}

mod purge {
    use super::*;

    #[test]
    fn counts_ready_messages() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        assert_eq!(message_count(&channel.call(&queue_purge(&name))), 0);
        for _ in 0..5 {
            client.put(&name, "x");
        }
        assert_eq!(message_count(&channel.call(&queue_purge(&name))), 5);
        assert_eq!(channel.ready(&name), 0);
    }

    #[test]
    fn leaves_unacked_messages() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        for body in ["one", "two", "three"] {
            client.put(&name, body);
        }
        let first = channel.get(&name, "").expect("a message");
        assert_eq!(message_count(&channel.call(&queue_purge(&name))), 2);
        channel.send(&nack(first.tag, "requeue"));
        channel.flow();
        eventually("it is back", || channel.ready(&name) == 1);
        assert_eq!(channel.drain(&name), ["one"]);
    }

    #[test]
    fn what_comes_later_stays() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put(&name, "before");
        channel.call(&queue_purge(&name));
        client.put(&name, "after");
        assert_eq!(channel.drain(&name), ["after"]);
    }
}

mod delete {
    use super::*;

    #[test]
    fn counts_ready_messages() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        for _ in 0..4 {
            client.put(&name, "x");
        }
        channel.get(&name, "").expect("a message");
        assert_eq!(message_count(&channel.call(&queue_delete(&name, ""))), 3);
        assert!(!exists(&name));
    }

    #[test]
    fn if_unused_and_if_empty_hold() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put(&name, "x");
        assert_eq!(
            message_count(&channel.call(&queue_delete(&name, "if_unused"))),
            1
        );
        channel.own_queue(&name);
        channel.consume(&name, "t", "");
        assert_eq!(
            message_count(&channel.call(&queue_delete(&name, "if_empty"))),
            0
        );
    }

    #[test]
    fn if_empty_looks_at_ready_messages() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put(&name, "x");
        channel.get(&name, "").expect("a message");
        channel.call(&queue_delete(&name, "if_empty"));
        assert!(!exists(&name));
    }

    #[test]
    fn late_acks_are_silent() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put(&name, "x");
        let got = channel.get(&name, "").expect("a message");
        channel.call(&queue_delete(&name, ""));
        channel.send(&ack(got.tag, ""));
        channel.flow();
    }

    #[test]
    fn cancels_consumers() {
        let (client, channel, name) = setup();
        let other = client.channel(2);
        channel.own_queue(&name);
        channel.consume(&name, "mine", "");
        other.consume(&name, "other", "");
        channel.call(&queue_delete(&name, ""));
        for (channel, tag) in [(&channel, "mine"), (&other, "other")] {
            let event = client.take(channel.id, |event| {
                matches!(
                    event,
                    Event::Method(AMQPClass::Basic(basic::AMQPMethod::Cancel(_)))
                )
            });
            let Event::Method(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))) = event else {
                unreachable!()
            };
            assert_eq!((cancel.consumer_tag.as_str(), cancel.nowait), (tag, true));
        }
        // The tags are free.
        channel.own_queue(&name);
        channel.consume(&name, "mine", "");
    }

    #[test]
    fn cancels_nobody_who_cannot_bear_it() {
        let client = Client::with(&Options {
            capabilities: &[],
            ..Options::default()
        });
        let (channel, other, name) = (client.channel(1), client.channel(2), name());
        channel.own_queue(&name);
        other.consume(&name, "t", "");
        channel.call(&queue_delete(&name, ""));
        other.expect_nothing();
    }

    #[test]
    fn outstanding_confirms_are_acked() {
        let (_client, channel, name) = setup();
        channel.own_queue(&name);
        channel.call(&confirm_select());
        for _ in 0..100 {
            channel.publish_with("", &name, "", &persistent(), "x");
        }
        channel.send(&queue_delete(&name, ""));
        assert!(channel.confirms(1, 100).values().all(|accepted| *accepted));
    }
}

mod quorum {
    use super::*;

    fn queue(arguments: &[(&str, Value)]) -> (Client, Channel, String) {
        let (client, channel, name) = setup();
        let mut all = table([("x-queue-type", text("quorum"))]);
        for (key, value) in arguments {
            all.insert((*key).into(), value.clone());
        }
        channel.queue(&name, "durable", all);
        (client, channel, name)
    }

    fn end(channel: &Channel, name: &str) {
        channel.call(&queue_delete(name, ""));
    }

    #[test]
    fn publish_consume_ack() {
        let (client, channel, name) = queue(&[]);
        for body in ["one", "two", "three"] {
            client.put(&name, body);
        }
        channel.call(&qos(10, ""));
        channel.consume(&name, "t", "");
        assert_eq!(channel.bodies(3), ["one", "two", "three"]);
        channel.send(&ack(3, "multiple"));
        channel.flow();
        eventually("they are settled", || channel.ready(&name) == 0);
        end(&channel, &name);
    }

    #[test]
    fn delivery_mode_is_kept() {
        let (client, channel, name) = queue(&[]);
        client.put_with("", &name, &plain().with_delivery_mode(1), "x");
        let got = channel.get(&name, "no_ack").expect("a message");
        assert_eq!(*got.properties.delivery_mode(), Some(1));
        end(&channel, &name);
    }

    #[test]
    fn delivery_count_grows_with_each_return() {
        // As 4.0 to 4.2 count: every return.
        let (client, channel, name) = queue(&[]);
        client.put(&name, "x");
        for returns in 0..3 {
            let mut got = None;
            eventually("it is there", || {
                got = channel.get(&name, "");
                got.is_some()
            });
            let got = got.expect("a message");
            assert_eq!(got.redelivered, returns > 0);
            assert_eq!(
                got.header("x-delivery-count"),
                (returns > 0).then(|| long(returns)),
                "after {returns} returns"
            );
            channel.send(&nack(got.tag, "requeue"));
        }
        end(&channel, &name);
    }

    #[test]
    fn delivery_limit_drops() {
        let (client, channel, name) = queue(&[("x-delivery-limit", int(2))]);
        client.put(&name, "poison");
        channel.consume(&name, "t", "");
        for _ in 0..3 {
            let got = channel.delivery();
            channel.send(&reject(got.tag, "requeue"));
        }
        client.put(&name, "next");
        assert_eq!(channel.delivery().text(), "next");
        end(&channel, &name);
    }

    #[test]
    fn delivery_limit_dead_letters() {
        let (client, channel, name) = setup();
        let target = format!("{name}.dead");
        channel.own_queue(&target);
        let arguments = table([
            ("x-queue-type", text("quorum")),
            ("x-delivery-limit", int(1)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&target)),
        ]);
        channel.queue(&name, "durable", arguments);
        client.put(&name, "poison");
        channel.consume(&name, "t", "");
        for _ in 0..2 {
            let got = channel.delivery();
            channel.send(&nack(got.tag, "requeue"));
        }
        let mut dead = None;
        eventually("it is dead-lettered", || {
            dead = channel.get(&target, "no_ack");
            dead.is_some()
        });
        let reason = dead.expect("a message").header("x-first-death-reason");
        assert_eq!(reason, Some(text("delivery_limit")));
        end(&channel, &name);
    }

    #[test]
    fn exclusive_consume_is_ignored() {
        let (client, channel, name) = queue(&[]);
        channel.consume(&name, "one", "exclusive");
        client.channel(2).consume(&name, "two", "exclusive");
        end(&channel, &name);
    }

    #[test]
    fn single_active_consumer() {
        let (client, channel, name) = queue(&[("x-single-active-consumer", boolean(true))]);
        let other = client.channel(2);
        channel.consume(&name, "one", "no_ack");
        other.consume(&name, "two", "no_ack");
        for _ in 0..5 {
            client.put(&name, "x");
        }
        assert_eq!(channel.bodies(5).len(), 5);
        other.expect_nothing();
        channel.call(&cancel("one", ""));
        client.put(&name, "for two");
        assert_eq!(other.delivery().text(), "for two");
        end(&channel, &name);
    }

    #[test]
    fn confirms_and_purge() {
        let (client, channel, name) = queue(&[]);
        for _ in 0..10 {
            client.put(&name, "x");
        }
        assert_eq!(message_count(&channel.call(&queue_purge(&name))), 10);
        end(&channel, &name);
    }
}

mod length_limits {
    use super::*;

    #[test]
    fn drop_head() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-max-length", int(2))]));
        for body in ["one", "two", "three", "four"] {
            client.put(&name, body);
        }
        assert_eq!(channel.drain(&name), ["three", "four"]);
    }

    #[test]
    fn bytes_of_bodies() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-max-length-bytes", int(10))]));
        for body in ["12345", "abcde", "x"] {
            client.put(&name, body);
        }
        assert_eq!(channel.drain(&name), ["abcde", "x"]);
    }

    #[test]
    fn reject_publish_nacks() {
        let (_client, channel, name) = setup();
        channel.queue(
            &name,
            "exclusive",
            table([
                ("x-max-length", int(1)),
                ("x-overflow", text("reject-publish")),
            ]),
        );
        channel.call(&confirm_select());
        channel.publish("", &name, "fits");
        assert!(channel.confirms(1, 1)[&1]);
        channel.publish("", &name, "too much");
        assert!(!channel.confirms(2, 2)[&2]);
        assert_eq!(channel.drain(&name), ["fits"]);
    }

    #[test]
    fn reject_publish_of_one_queue_of_two() {
        let (client, channel, name) = setup();
        let (full, open) = (format!("{name}.full"), format!("{name}.open"));
        channel.queue(
            &full,
            "exclusive",
            table([
                ("x-max-length", int(0)),
                ("x-overflow", text("reject-publish")),
            ]),
        );
        channel.own_queue(&open);
        channel.exchange(&name, "fanout");
        channel.bind(&full, &name, "");
        channel.bind(&open, &name, "");
        let publisher = client.channel(2);
        publisher.call(&confirm_select());
        publisher.publish(&name, "", "x");
        assert!(!publisher.confirms(1, 1)[&1]);
        assert_eq!(channel.drain(&open), ["x"]);
        assert_eq!(channel.ready(&full), 0);
    }

    #[test]
    fn unacked_messages_do_not_count() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-max-length", int(1))]));
        client.put(&name, "one");
        channel.get(&name, "").expect("a message");
        client.put(&name, "two");
        assert_eq!(channel.drain(&name), ["two"]);
    }
}

mod dead_letters {
    use super::*;

    /// A queue that dead-letters to `NAME.dead`.
    fn with(arguments: &[(&str, Value)]) -> (Client, Channel, String, String) {
        let (client, channel, name) = setup();
        let dead = format!("{name}.dead");
        channel.own_queue(&dead);
        let mut all = table([
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&dead)),
        ]);
        for (key, value) in arguments {
            all.insert((*key).into(), value.clone());
        }
        channel.queue(&name, "exclusive", all);
        (client, channel, name, dead)
    }

    #[track_caller]
    fn dead_letter(channel: &Channel, queue: &str) -> Content {
        let mut got = None;
        eventually("a dead letter", || {
            got = channel.get(queue, "no_ack");
            got.is_some()
        });
        got.expect("a message")
    }

    /// One field of the newest x-death entry.
    #[track_caller]
    fn death(content: &Content, field: &str) -> Option<Value> {
        let Some(Value::FieldArray(deaths)) = content.header("x-death") else {
            panic!("x-death: {content:?}")
        };
        let Value::FieldTable(entry) = &deaths.as_slice()[0] else {
            panic!("an entry: {deaths:?}")
        };
        entry.inner().get(field).cloned()
    }

    #[test]
    fn rejected() {
        let (client, channel, name, dead) = with(&[]);
        client.put(&name, "x");
        let got = channel.get(&name, "").expect("a message");
        channel.send(&reject(got.tag, ""));
        let letter = dead_letter(&channel, &dead);
        assert_eq!(
            (
                letter.text().as_str(),
                letter.redelivered,
                letter.key.as_str()
            ),
            ("x", false, dead.as_str())
        );
        assert_eq!(death(&letter, "reason"), Some(text("rejected")));
        assert_eq!(death(&letter, "queue"), Some(text(&name)));
        assert_eq!(death(&letter, "exchange"), Some(text("")));
        assert_eq!(death(&letter, "count"), Some(long(1)));
        assert_eq!(
            death(&letter, "routing-keys"),
            Some(array(vec![text(&name)]))
        );
        assert!(matches!(death(&letter, "time"), Some(Value::Timestamp(_))));
        for (key, value) in [
            ("queue", name.as_str()),
            ("reason", "rejected"),
            ("exchange", ""),
        ] {
            assert_eq!(
                letter.header(&format!("x-first-death-{key}")),
                Some(text(value))
            );
            assert_eq!(
                letter.header(&format!("x-last-death-{key}")),
                Some(text(value))
            );
        }
    }

    #[test]
    fn expired() {
        let (client, channel, name, dead) = with(&[("x-message-ttl", int(1))]);
        client.put(&name, "x");
        let letter = dead_letter(&channel, &dead);
        assert_eq!(death(&letter, "reason"), Some(text("expired")));
        assert_eq!(death(&letter, "original-expiration"), None);
    }

    #[test]
    fn expiration_is_taken_off_and_recorded() {
        let (client, channel, name, dead) = with(&[]);
        client.put_with("", &name, &plain().with_expiration("1".into()), "x");
        let letter = dead_letter(&channel, &dead);
        assert_eq!(*letter.properties.expiration(), None);
        assert_eq!(death(&letter, "original-expiration"), Some(text("1")));
    }

    #[test]
    fn maxlen() {
        let (client, channel, name, dead) = with(&[("x-max-length", int(1))]);
        client.put(&name, "old");
        client.put(&name, "new");
        let letter = dead_letter(&channel, &dead);
        assert_eq!(
            (letter.text().as_str(), death(&letter, "reason")),
            ("old", Some(text("maxlen")))
        );
    }

    #[test]
    fn not_on_purge_or_delete() {
        let (client, channel, name, dead) = with(&[]);
        client.put(&name, "x");
        channel.call(&queue_purge(&name));
        client.put(&name, "x");
        channel.call(&queue_delete(&name, ""));
        client.put(&dead, "marker");
        assert_eq!(channel.drain(&dead), ["marker"]);
    }

    #[test]
    fn a_cycle_of_expiry_ends() {
        let (client, channel, name) = setup();
        let (one, two) = (format!("{name}.1"), format!("{name}.2"));
        for (queue, other) in [(&one, &two), (&two, &one)] {
            let arguments = table([
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(other)),
                ("x-message-ttl", int(1)),
            ]);
            channel.queue(queue, "exclusive", arguments);
        }
        client.put(&one, "x");
        eventually("it is gone", || {
            channel.ready(&one) + channel.ready(&two) == 0
        });
    }
}

mod expiry {
    use super::*;

    #[test]
    fn of_messages() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-message-ttl", int(50))]));
        client.put(&name, "x");
        eventually("it expires", || channel.ready(&name) == 0);
    }

    #[test]
    fn zero_passes_to_a_waiting_consumer_only() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-message-ttl", int(0))]));
        client.put(&name, "nobody");
        eventually("it expires", || channel.ready(&name) == 0);
        channel.consume(&name, "t", "no_ack");
        client.put(&name, "somebody");
        assert_eq!(channel.delivery().text(), "somebody");
    }

    #[test]
    fn only_at_the_head() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put(&name, "stays");
        client.put_with("", &name, &plain().with_expiration("1".into()), "expires");
        let first = channel.get(&name, "").expect("a message");
        assert_eq!(first.text(), "stays");
        eventually("it expires when it is the head", || {
            channel.ready(&name) == 0
        });
    }

    #[test]
    fn of_queues() {
        let (_client, channel, name) = setup();
        channel.queue(&name, "", table([("x-expires", int(1))]));
        eventually("it expires", || {
            // Each look renews the lease; the next look comes long after it has ended.
            !exists(&name)
        });
    }
}

mod priorities {
    use super::*;

    #[test]
    fn highest_first_then_order() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-max-priority", int(10))]));
        for (priority, body) in [
            (Some(1), "a"),
            (Some(5), "b"),
            (None, "c"),
            (Some(5), "d"),
            (Some(0), "e"),
            (Some(10), "f"),
        ] {
            let properties =
                priority.map_or_else(plain, |priority| plain().with_priority(priority));
            client.put_with("", &name, &properties, body);
        }
        assert_eq!(channel.drain(&name), ["f", "b", "d", "a", "c", "e"]);
    }

    #[test]
    fn ignored_without_the_argument() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put_with("", &name, &plain().with_priority(1), "low");
        client.put_with("", &name, &plain().with_priority(9), "high");
        assert_eq!(channel.drain(&name), ["low", "high"]);
    }

    #[test]
    fn a_requeued_message_goes_to_its_place() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-max-priority", int(5))]));
        for (priority, body) in [(3, "a"), (3, "b"), (1, "c")] {
            client.put_with("", &name, &plain().with_priority(priority), body);
        }
        let first = channel.get(&name, "").expect("a message");
        channel.send(&nack(first.tag, "requeue"));
        channel.flow();
        eventually("it is back", || channel.ready(&name) == 3);
        assert_eq!(channel.drain(&name), ["a", "b", "c"]);
    }
}
