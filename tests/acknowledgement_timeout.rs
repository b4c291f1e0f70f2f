//! Acknowledgement timeouts (`spec: semantics §17`): what becomes of a delivery that nobody settles.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use amq_protocol::protocol::{AMQPClass, basic};
use support::*;

const SHORT_MS: i32 = 300;

fn text_of(channel: u16, timeout_ms: i32) -> String {
    format!(
        "PRECONDITION_FAILED - delivery acknowledgement on channel {channel} timed out. Timeout value used: {timeout_ms} ms. This timeout value can be configured, see consumers doc guide to learn more"
    )
}

/// A connection, its channel 1, a queue with that timeout, and what deletes it.
fn setup(
    kind: &str,
    capabilities: Option<&'static [&'static str]>,
) -> (Client, Channel, String, Finally) {
    let options = Options::default();
    let client = Client::with(&Options {
        capabilities: capabilities.unwrap_or(options.capabilities),
        ..options
    });
    let (channel, name) = (client.channel(1), name());
    let arguments = table([
        ("x-queue-type", text(kind)),
        ("x-consumer-timeout", int(SHORT_MS)),
    ]);
    channel.queue(&name, "durable", arguments);
    let finally = Finally(queue_delete(&name, ""));
    (client, channel, name, finally)
}

/// The broker cancels this consumer.
#[track_caller]
fn expect_cancel(channel: &Channel, tag: &str) {
    let event = channel.client.take(channel.id, |event| {
        matches!(
            event,
            Event::Method(AMQPClass::Basic(basic::AMQPMethod::Cancel(_)))
        )
    });
    let Event::Method(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))) = event else {
        unreachable!()
    };
    assert_eq!(cancel.consumer_tag.as_str(), tag);
}

mod classic {
    use super::*;

    #[test]
    fn the_channel_ends_and_all_it_held_comes_back() {
        if elsewhere("classic queues look once a minute") {
            return;
        }
        let (client, channel, name, _finally) = setup("classic", None);
        let bystander = client.channel(2);
        client.put(&name, "a");
        client.put(&name, "b");
        channel.consume(&name, "late", "");
        channel.bodies(2);
        channel.expect_error(406, &text_of(1, SHORT_MS), (0, 0));
        eventually("both are ready", || bystander.ready(&name) == 2);
        assert!(bystander.get(&name, "no_ack").unwrap().redelivered);
    }

    #[test]
    fn what_basic_get_took_counts_as_well() {
        if elsewhere("classic queues look once a minute") {
            return;
        }
        let (client, channel, name, _finally) = setup("classic", None);
        client.put(&name, "a");
        channel.get(&name, "").unwrap();
        channel.expect_error(406, &text_of(1, SHORT_MS), (0, 0));
        eventually("it is ready", || channel.ready(&name) == 1);
    }

    /// Only what is out too long counts: one that is acknowledged in time, time after time, lives.
    #[test]
    fn a_consumer_that_keeps_up_stays() {
        if elsewhere("classic queues look once a minute") {
            return;
        }
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.queue(
            &name,
            "exclusive",
            table([("x-consumer-timeout", int(2000))]),
        );
        channel.consume(&name, "keen", "");
        for count in 0..40 {
            client.put(&name, format!("{count}"));
            let delivery = channel.delivery();
            std::thread::sleep(std::time::Duration::from_millis(60));
            channel.send(&ack(delivery.tag, ""));
        }
        channel.expect_nothing();
        assert_eq!(channel.consumers(&name), 1);
    }

    #[test]
    fn zero_is_no_timeout_and_without_acknowledgements_there_is_none() {
        let client = Client::connect();
        let channel = client.channel(1);
        for timeout in [0, SHORT_MS] {
            let queue = name();
            channel.queue(
                &queue,
                "exclusive",
                table([("x-consumer-timeout", int(timeout))]),
            );
            client.put(&queue, "x");
            channel.consume(&queue, &queue, if timeout == 0 { "" } else { "no_ack" });
            channel.delivery();
        }
        std::thread::sleep(std::time::Duration::from_millis(900));
        channel.expect_nothing();
    }

    #[test]
    fn a_value_that_is_no_time_is_refused() {
        if elsewhere("RabbitMQ 4.0 takes anything") {
            return;
        }
        let client = Client::connect();
        let channel = client.channel(1);
        let queue = name();
        channel.send(&queue_declare(
            &queue,
            "",
            table([("x-consumer-timeout", int(-1))]),
        ));
        let reason =
            "PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for %q: {value_negative,-1}";
        channel.expect_error(406, &expand(reason, &queue), (50, 10));
    }
}

mod quorum {
    use super::*;

    #[test]
    fn the_consumer_is_cancelled_and_its_late_ack_means_nothing() {
        if elsewhere("since RabbitMQ 4.3") {
            return;
        }
        let (client, channel, name, _finally) = setup("quorum", None);
        client.put(&name, "a");
        client.put(&name, "b");
        channel.consume(&name, "late", "");
        let first = channel.delivery().tag;
        let second = channel.delivery().tag;
        expect_cancel(&channel, "late");
        eventually("both are ready", || channel.ready(&name) == 2);
        let again = channel.get(&name, "").unwrap();
        assert_eq!((again.text().as_str(), again.redelivered), ("a", true));
        // The message is somebody else's now.
        channel.send(&ack(first, ""));
        channel.send(&nack(second, ""));
        channel.expect_nothing();
        assert_eq!((channel.ready(&name), channel.consumers(&name)), (1, 0));
        channel.send(&nack(again.tag, "requeue"));
        eventually("both are still there", || channel.ready(&name) == 2);
    }

    /// Not like a negative acknowledgement, which says that nothing failed.
    #[test]
    fn to_be_late_is_to_fail() {
        if elsewhere("since RabbitMQ 4.3") {
            return;
        }
        for (waits, ready) in [("failed", 0), ("returned", 1)] {
            let client = Client::connect();
            let (channel, name) = (client.channel(1), name());
            let arguments = table([
                ("x-queue-type", text("quorum")),
                ("x-consumer-timeout", int(SHORT_MS)),
                ("x-delayed-retry-type", text(waits)),
                ("x-delayed-retry-min", int(3_600_000)),
            ]);
            channel.queue(&name, "durable", arguments);
            let _finally = Finally(queue_delete(&name, ""));
            client.put(&name, "a");
            channel.consume(&name, "late", "");
            channel.delivery();
            expect_cancel(&channel, "late");
            assert_eq!(channel.ready(&name), ready, "{waits}");
        }
    }

    #[test]
    fn the_channel_ends_if_the_client_knows_no_cancel() {
        if elsewhere("since RabbitMQ 4.3") {
            return;
        }
        let (client, channel, name, _finally) =
            setup("quorum", Some(&["basic.nack", "publisher_confirms"]));
        client.put(&name, "a");
        channel.consume(&name, "late", "");
        channel.delivery();
        channel.expect_error(406, &text_of(1, SHORT_MS), (0, 0));
    }

    #[test]
    fn a_consumer_may_bring_its_own() {
        if elsewhere("since RabbitMQ 4.3") {
            return;
        }
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.queue(&name, "durable", table([("x-queue-type", text("quorum"))]));
        let _finally = Finally(queue_delete(&name, ""));
        client.put(&name, "a");
        channel.consume_with(&name, "late", "", table([("x-consumer-timeout", int(200))]));
        channel.consume(&name, "patient", "");
        channel.delivery();
        client.put(&name, "b");
        // Both are of one queue on one channel: they go together.
        channel.delivery();
        expect_cancel(&channel, "late");
    }

    /// Another consumer takes over what the one that slept had.
    #[test]
    fn what_came_back_goes_to_others() {
        if elsewhere("since RabbitMQ 4.3") {
            return;
        }
        let (client, channel, name, _finally) = setup("quorum", None);
        client.put(&name, "a");
        channel.consume(&name, "late", "");
        channel.delivery();
        let other = client.channel(2);
        other.consume(&name, "other", "");
        let again = other.delivery();
        assert_eq!((again.text().as_str(), again.redelivered), ("a", true));
        other.send(&ack(again.tag, ""));
        expect_cancel(&channel, "late");
        other.expect_nothing();
    }
}

#[test]
fn the_node_may_set_one_for_all() {
    if elsewhere("our own configuration") {
        return;
    }
    let path = broker::fresh_folder().join("mambamq.toml");
    std::fs::write(&path, "[limits]\nconsumer_timeout = 200\n").unwrap();
    let broker = Broker::start(&["--config", path.to_str().unwrap()]);
    let client = Client::to(&broker);
    let channel = client.channel(1);
    channel.own_queue("q");
    client.put("q", "x");
    channel.consume("q", "late", "");
    channel.delivery();
    channel.expect_close(406, &text_of(1, 200), (0, 0));
}
