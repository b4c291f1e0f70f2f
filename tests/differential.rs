//! The same conversations with MambaMQ and with the reference broker, compared field by field.
//!
//! Each scene below is a script. What the broker answers is written down as lines, tables in the order of the wire and with their
//! tags, and compared with the transcript of the reference broker in `tests/differential/SCENE.txt`. What is different on purpose stands in
//! `tests/differential/differences.txt` with its reason; everything else has to be equal. See `tests/differential/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test"
)]

mod support;

#[path = "differential/scene.rs"]
mod scene;

use scene::{Properties, Scene, scenes};
use support::{array, boolean, int, long, table, text};

/// Properties with these headers.
fn with<const N: usize>(headers: [(&str, support::Value); N]) -> Properties {
    support::headers(headers)
}

fn none() -> Properties {
    support::plain()
}

fn expiring(ms: &str) -> Properties {
    none().with_expiration(ms.into())
}

/// A queue `name` whose dead letters go to the queue `dead` through the default exchange.
fn pair(scene: &mut Scene, arguments: &[(&str, support::Value)]) {
    scene.queue("dead", &[]);
    let mut all = vec![
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&scene.name("dead"))),
    ];
    all.extend_from_slice(arguments);
    scene.queue("source", &all);
}

fn ttl(scene: &mut Scene) {
    pair(scene, &[("x-message-ttl", int(50))]);
    scene.publish("", "source", none(), "queue's time");
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
    scene.publish("", "source", expiring("20"), "its own time");
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
    scene.publish("", "source", expiring("0"), "no time at all");
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
    for expiration in [
        "",
        "-1",
        "abc",
        "1.5",
        " 5",
        "5 ",
        "+5",
        "007",
        "315360000001",
    ] {
        scene.publish("", "source", expiring(expiration), expiration);
    }
    scene.until_ready("dead", 2);
    scene.drain("dead");
}

fn ttl_zero_with_a_consumer(scene: &mut Scene) {
    pair(scene, &[("x-message-ttl", int(0))]);
    scene.consume(2, "source", "taker", "", &[]);
    scene.publish("", "source", none(), "taken at once");
    scene.deliveries(2, 1);
    scene.nack(2, 1, "requeue");
    scene.until_ready("dead", 1);
    scene.drain("dead");
}

fn ttl_at_the_head_only(scene: &mut Scene) {
    pair(scene, &[]);
    scene.publish("", "source", expiring("60000"), "long");
    scene.publish("", "source", expiring("700"), "short");
    scene.until_ready("source", 2);
    scene.get("source", "no_ack");
    scene.until_ready("dead", 1);
    scene.get("source", "no_ack");
    scene.drain("dead");
}

fn queue_expiry(scene: &mut Scene) {
    scene.queue("dead", &[]);
    scene.queue(
        "source",
        &[
            ("x-expires", int(100)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&scene.name("dead"))),
        ],
    );
    scene.publish("", "source", none(), "goes with its queue");
    scene.until_gone("source");
    scene.declare_passively("dead");
}

fn length_drop_head(scene: &mut Scene) {
    pair(scene, &[("x-max-length", int(2))]);
    for body in ["a", "b", "c", "d"] {
        scene.publish("", "source", none(), body);
    }
    scene.until_ready("dead", 2);
    scene.drain("dead");
    scene.drain("source");
}

fn length_in_octets(scene: &mut Scene) {
    pair(scene, &[("x-max-length-bytes", int(10))]);
    for body in ["1234", "1234567", "12345678901", "", "123"] {
        scene.publish("", "source", none(), body);
    }
    scene.until_ready("dead", 3);
    scene.drain("dead");
    scene.drain("source");
}

fn length_zero(scene: &mut Scene) {
    pair(scene, &[("x-max-length", int(0))]);
    scene.publish("", "source", none(), "nobody there");
    scene.until_ready("dead", 1);
    scene.consume(2, "source", "taker", "no_ack", &[]);
    scene.publish("", "source", none(), "taken");
    scene.deliveries(2, 1);
    scene.drain("dead");
}

fn length_reject_publish(scene: &mut Scene) {
    pair(
        scene,
        &[
            ("x-max-length", int(1)),
            ("x-overflow", text("reject-publish")),
        ],
    );
    for body in ["a", "b"] {
        scene.publish("", "source", none(), body);
    }
    scene.declare_passively("dead");
    scene.drain("source");
    scene.publish("", "source", none(), "c");
    scene.drain("source");
}

fn length_reject_publish_dlx(scene: &mut Scene) {
    pair(
        scene,
        &[
            ("x-max-length", int(1)),
            ("x-overflow", text("reject-publish-dlx")),
        ],
    );
    for body in ["a", "b"] {
        scene.publish("", "source", none(), body);
    }
    scene.until_ready("dead", 1);
    scene.drain("dead");
    scene.drain("source");
}

fn length_fanout_with_one_refusal(scene: &mut Scene) {
    scene.exchange("fan", "fanout", &[]);
    scene.queue(
        "full",
        &[
            ("x-max-length", int(0)),
            ("x-overflow", text("reject-publish")),
        ],
    );
    scene.queue("free", &[]);
    scene.bind("full", "fan", "", &[]);
    scene.bind("free", "fan", "", &[]);
    scene.publish("fan", "", none(), "x");
    scene.drain("free");
    scene.declare_passively("full");
}

fn death_by_rejection(scene: &mut Scene) {
    pair(scene, &[]);
    scene.publish(
        "",
        "source",
        with([("b", int(1)), ("a", text("v")), ("z", boolean(true))])
            .with_expiration("60000".into())
            .with_priority(3)
            .with_delivery_mode(2)
            .with_content_type("text/plain".into())
            .with_message_id("m".into()),
        "x",
    );
    scene.get("source", "");
    scene.reject(1, 1, "");
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
    scene.publish("", "source", none(), "by nack");
    scene.get("source", "");
    scene.nack(1, 3, "");
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
}

fn death_again_and_again(scene: &mut Scene) {
    scene.exchange("x", "direct", &[]);
    scene.queue(
        "first",
        &[
            ("x-dead-letter-exchange", text(&scene.name("x"))),
            ("x-dead-letter-routing-key", text("second")),
        ],
    );
    scene.queue(
        "second",
        &[
            ("x-dead-letter-exchange", text(&scene.name("x"))),
            ("x-dead-letter-routing-key", text("first")),
            ("x-message-ttl", int(30)),
        ],
    );
    scene.bind("first", "x", "first", &[]);
    scene.bind("second", "x", "second", &[]);
    scene.publish("x", "first", with([("own", int(1))]), "round");
    scene.get("first", "");
    scene.reject(1, 1, "");
    scene.until_ready("first", 1);
    scene.get("first", "");
    scene.reject(1, 2, "");
    scene.until_ready("first", 1);
    scene.get("first", "no_ack");
}

fn death_in_a_cycle(scene: &mut Scene) {
    scene.queue(
        "a",
        &[
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&scene.name("b"))),
            ("x-message-ttl", int(20)),
        ],
    );
    scene.queue(
        "b",
        &[
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&scene.name("a"))),
            ("x-message-ttl", int(20)),
        ],
    );
    scene.publish("", "a", none(), "dropped when it comes back");
    scene.until_ready("a", 0);
    scene.until_ready("b", 0);
}

fn death_made_up_by_the_publisher(scene: &mut Scene) {
    pair(scene, &[]);
    let made_up = support::Value::FieldTable(table([
        ("count", long(7)),
        ("reason", text("rejected")),
        ("queue", text(&scene.name("source"))),
    ]));
    let headers = || {
        with([
            ("x-death", array(vec![made_up.clone()])),
            ("x-first-death-queue", text("nowhere")),
            ("x-last-death-reason", text("none")),
        ])
    };
    scene.publish("", "dead", headers(), "as it came");
    scene.get("dead", "no_ack");
    scene.publish("", "source", headers(), "replaced");
    scene.get("source", "");
    scene.reject(1, 2, "");
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
}

fn death_with_cc_and_bcc(scene: &mut Scene) {
    scene.exchange("in", "direct", &[]);
    scene.exchange("dlx", "direct", &[]);
    scene.queue(
        "source",
        &[("x-dead-letter-exchange", text(&scene.name("dlx")))],
    );
    for key in ["key", "cc", "bcc"] {
        scene.queue(&format!("by-{key}"), &[]);
        scene.bind(&format!("by-{key}"), "dlx", key, &[]);
    }
    scene.bind("source", "in", "key", &[]);
    let headers = with([
        ("CC", array(vec![text("cc"), text("cc2")])),
        ("BCC", array(vec![text("bcc")])),
    ]);
    scene.publish("in", "key", headers, "copies");
    scene.get("source", "");
    scene.reject(1, 1, "");
    scene.until_ready("by-key", 1);
    scene.until_ready("by-cc", 1);
    for key in ["key", "cc", "bcc"] {
        scene.get(&format!("by-{key}"), "no_ack");
    }
}

fn death_with_cc_and_a_key_of_the_queue(scene: &mut Scene) {
    pair(scene, &[]);
    scene.publish(
        "",
        "source",
        with([("CC", array(vec![text("elsewhere")]))]),
        "x",
    );
    scene.get("source", "");
    scene.reject(1, 1, "");
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
}

fn death_without_an_exchange(scene: &mut Scene) {
    scene.queue(
        "source",
        &[(
            "x-dead-letter-exchange",
            text("differential.no-such-exchange"),
        )],
    );
    scene.publish("", "source", none(), "lost");
    scene.get("source", "");
    scene.reject(1, 1, "");
    scene.until_ready("source", 0);
    scene.queue("keyless", &[("x-dead-letter-routing-key", text("k"))]);
}

fn death_to_every_kind_of_exchange(scene: &mut Scene) {
    for (kind, key, arguments) in [
        ("topic", "a.#", vec![]),
        ("fanout", "", vec![]),
        (
            "headers",
            "",
            vec![("x-match", text("all")), ("colour", text("red"))],
        ),
        (
            "headers",
            "",
            vec![
                ("x-match", text("all-with-x")),
                ("x-first-death-reason", text("rejected")),
            ],
        ),
        ("x-consistent-hash", "1", vec![]),
    ]
    .into_iter()
    .enumerate()
    .map(|(at, (kind, key, arguments))| ((at, kind), key, arguments))
    {
        let (at, kind) = kind;
        let (source, dead, dlx) = (
            format!("source{at}"),
            format!("dead{at}"),
            format!("dlx{at}"),
        );
        scene.exchange(&dlx, kind, &[]);
        scene.queue(
            &source,
            &[
                ("x-dead-letter-exchange", text(&scene.name(&dlx))),
                ("x-dead-letter-routing-key", text("a.b")),
            ],
        );
        scene.queue(&dead, &[]);
        scene.bind(&dead, &dlx, key, &arguments);
        scene.publish("", &source, with([("colour", text("red"))]), "x");
        scene.get(&source, "");
        scene.settle_last(1, "reject", "");
        scene.until_ready(&dead, 1);
        scene.get(&dead, "no_ack");
    }
}

/// What a quorum queue adds when a letter comes back to it leaves the rest as it is.
fn death_and_then_back_to_a_quorum_queue(scene: &mut Scene) {
    scene.durable_queue("letters", &[("x-queue-type", text("quorum"))]);
    scene.queue(
        "source",
        &[
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&scene.name("letters"))),
        ],
    );
    scene.publish("", "source", with([("a", int(1)), ("z", int(2))]), "x");
    scene.get("source", "");
    scene.settle_last(1, "reject", "");
    scene.until_ready("letters", 1);
    scene.get("letters", "");
    scene.settle_last(1, "nack", "requeue");
    scene.until_ready("letters", 1);
    scene.get("letters", "no_ack");
}

fn death_to_several_queues(scene: &mut Scene) {
    scene.exchange("dlx", "fanout", &[]);
    scene.queue(
        "source",
        &[
            ("x-dead-letter-exchange", text(&scene.name("dlx"))),
            ("x-max-length", int(1)),
        ],
    );
    for name in ["one", "two"] {
        scene.queue(name, &[]);
        scene.bind(name, "dlx", "", &[]);
    }
    scene.publish("", "source", none(), "first");
    scene.publish("", "source", none(), "second");
    for name in ["one", "two"] {
        scene.until_ready(name, 1);
        scene.drain(name);
    }
}

fn priorities(scene: &mut Scene) {
    for max in [1, 10, 255] {
        let queue = format!("levels{max}");
        scene.queue(&queue, &[("x-max-priority", int(max))]);
        for priority in [0, 5, 9, 10, 11, 200, 255, 5] {
            scene.publish(
                "",
                &queue,
                none().with_priority(priority),
                &format!("p{priority}"),
            );
        }
        scene.publish("", &queue, none(), "unsaid");
        scene.drain(&queue);
    }
    scene.queue("none", &[("x-max-priority", int(0))]);
    for priority in [0, 9, 5] {
        scene.publish(
            "",
            "none",
            none().with_priority(priority),
            &format!("p{priority}"),
        );
    }
    scene.drain("none");
}

fn priorities_and_what_comes_back(scene: &mut Scene) {
    scene.queue("levels", &[("x-max-priority", int(10))]);
    for (priority, body) in [(1, "a"), (5, "b"), (1, "c"), (5, "d")] {
        scene.publish("", "levels", none().with_priority(priority), body);
    }
    for _ in 0..3 {
        scene.get("levels", "");
    }
    scene.nack(1, 2, "requeue");
    scene.nack(1, 3, "requeue");
    scene.nack(1, 1, "requeue");
    scene.drain("levels");
}

fn priorities_and_a_length_limit(scene: &mut Scene) {
    pair(
        scene,
        &[("x-max-priority", int(10)), ("x-max-length", int(2))],
    );
    for (priority, body) in [(1, "low"), (9, "high"), (5, "middle"), (9, "high again")] {
        scene.publish("", "source", none().with_priority(priority), body);
    }
    scene.drain("source");
    scene.drain("dead");
}

fn order_of_what_comes_back(scene: &mut Scene) {
    scene.queue("classic", &[]);
    scene.durable_queue("quorum", &[("x-queue-type", text("quorum"))]);
    for queue in ["classic", "quorum"] {
        for body in ["a", "b", "c", "d"] {
            scene.publish("", queue, none(), body);
        }
        scene.until_ready(queue, 4);
        scene.get(queue, "");
        scene.get(queue, "");
        scene.get(queue, "");
        scene.nack(1, if queue == "classic" { 2 } else { 9 }, "requeue");
        scene.until_ready(queue, 2);
        scene.nack(1, if queue == "classic" { 1 } else { 8 }, "requeue");
        scene.until_ready(queue, 3);
        scene.nack(1, if queue == "classic" { 3 } else { 10 }, "requeue");
        scene.until_ready(queue, 4);
        scene.drain(queue);
    }
}

fn single_active_consumer(scene: &mut Scene) {
    scene.queue("q", &[("x-single-active-consumer", boolean(true))]);
    scene.consume(2, "q", "first", "", &[]);
    scene.consume(3, "q", "second", "", &[("x-priority", int(1))]);
    scene.consume(4, "q", "third", "", &[("x-priority", int(5))]);
    scene.declare_passively("q");
    scene.consume(5, "q", "alone", "exclusive", &[]);
    scene.publish("", "q", none(), "to the first");
    scene.deliveries(2, 1);
    scene.get("q", "");
    scene.cancel(2, "first");
    scene.publish("", "q", none(), "to the best of the others");
    scene.deliveries(4, 1);
    scene.close_channel(2);
    scene.deliveries(4, 1);
    scene.close_channel(4);
    scene.deliveries(3, 2);
}

fn single_active_consumer_quorum(scene: &mut Scene) {
    scene.durable_queue(
        "q",
        &[
            ("x-queue-type", text("quorum")),
            ("x-single-active-consumer", boolean(true)),
        ],
    );
    scene.consume(2, "q", "first", "", &[]);
    scene.consume(3, "q", "better", "", &[("x-priority", int(5))]);
    scene.publish("", "q", none(), "to the better one");
    scene.deliveries(3, 1);
    scene.ack(3, 1, "");
    scene.get("q", "");
}

fn consumer_priorities(scene: &mut Scene) {
    scene.queue("q", &[]);
    scene.qos(2, 1);
    scene.qos(3, 1);
    scene.consume(2, "q", "low", "", &[("x-priority", int(-1))]);
    scene.consume(3, "q", "high", "", &[("x-priority", long(10))]);
    scene.publish("", "q", none(), "a");
    scene.deliveries(3, 1);
    scene.publish("", "q", none(), "b");
    scene.deliveries(2, 1);
    scene.publish("", "q", none(), "c");
    scene.declare_passively("q");
    scene.ack(3, 1, "");
    scene.deliveries(3, 1);
    for value in [text("1"), boolean(true), support::Value::Void] {
        scene.consume(4, "q", "wrong", "", &[("x-priority", value)]);
    }
}

fn counts_of_get(scene: &mut Scene) {
    scene.queue("q", &[]);
    scene.get("q", "");
    for body in ["a", "b", "c"] {
        scene.publish("", "q", none(), body);
    }
    scene.get("q", "");
    scene.get("q", "no_ack");
    scene.declare_passively("q");
    scene.nack(1, 1, "requeue");
    scene.get("q", "");
    scene.get("q", "");
    scene.get("q", "");
    scene.ack(1, 9, "");
}

fn redelivered(scene: &mut Scene) {
    scene.queue("q", &[]);
    scene.publish("", "q", none(), "x");
    scene.consume(2, "q", "c", "", &[]);
    scene.deliveries(2, 1);
    scene.recover(2);
    scene.deliveries(2, 1);
    scene.close_channel(2);
    scene.until_ready("q", 1);
    scene.get("q", "");
}

fn delivery_limit(scene: &mut Scene) {
    scene.durable_queue("dead", &[]);
    scene.durable_queue(
        "q",
        &[
            ("x-queue-type", text("quorum")),
            ("x-delivery-limit", int(2)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&scene.name("dead"))),
        ],
    );
    scene.publish("", "q", with([("own", int(1))]), "again and again");
    for _ in 0..3 {
        scene.until_ready("q", 1);
        scene.get("q", "");
        scene.settle_last(1, "nack", "requeue");
    }
    scene.until_ready("dead", 1);
    scene.get("dead", "no_ack");
}

/// Values of every class for an argument.
fn values() -> [support::Value; 9] {
    [
        text("x"),
        text(""),
        int(-1),
        int(0),
        int(1),
        long(i64::MAX),
        boolean(true),
        support::Value::Double(1.5),
        support::Value::Void,
    ]
}

fn arguments_of(scene: &mut Scene, kind: &str) {
    for key in [
        "x-message-ttl",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-overflow",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-max-priority",
        "x-single-active-consumer",
        "x-queue-mode",
        "x-queue-version",
        "x-queue-master-locator",
        "x-queue-leader-locator",
        "x-delivery-limit",
        "x-quorum-initial-group-size",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-consumer-timeout",
        "x-max-age",
        "x-stream-max-segment-size-bytes",
        "x-stream-filter-size-bytes",
        "x-initial-cluster-size",
        "x-unheard-of",
    ] {
        for value in values() {
            scene.try_queue("q", &[("x-queue-type", text(kind)), (key, value)]);
        }
    }
    scene.try_queue(
        "q",
        &[
            ("x-queue-type", text(kind)),
            ("x-message-ttl", long(315_360_000_000)),
        ],
    );
    scene.try_queue(
        "q",
        &[
            ("x-queue-type", text(kind)),
            ("x-message-ttl", long(315_360_000_001)),
        ],
    );
    scene.try_queue(
        "q",
        &[("x-queue-type", text(kind)), ("x-max-priority", int(256))],
    );
    for word in ["drop-head", "reject-publish", "reject-publish-dlx"] {
        scene.try_queue(
            "q",
            &[("x-queue-type", text(kind)), ("x-overflow", text(word))],
        );
    }
}

fn arguments_classic(scene: &mut Scene) {
    arguments_of(scene, "classic");
}

fn arguments_quorum(scene: &mut Scene) {
    arguments_of(scene, "quorum");
}

fn arguments_queue_type(scene: &mut Scene) {
    for value in values() {
        scene.try_queue("q", &[("x-queue-type", value)]);
    }
}

fn redeclared(scene: &mut Scene) {
    for (key, value, other) in [
        ("x-message-ttl", int(60_000), int(60_001)),
        ("x-expires", int(60_000), text("60000")),
        ("x-max-length", int(5), long(6)),
        ("x-max-length-bytes", long(5), int(6)),
        ("x-overflow", text("drop-head"), text("reject-publish")),
        ("x-dead-letter-exchange", text("a"), text("b")),
        ("x-max-priority", int(5), int(6)),
        ("x-single-active-consumer", boolean(true), boolean(false)),
        ("x-unheard-of", int(1), int(2)),
    ] {
        let queue = key.to_owned();
        scene.queue(&queue, &[(key, value.clone())]);
        scene.queue(&queue, &[(key, value.clone())]);
        if let support::Value::LongInt(number) = value {
            scene.queue(&queue, &[(key, long(number.into()))]);
        }
        scene.queue(&queue, &[(key, other)]);
        scene.queue(&queue, &[]);
        let bare = format!("{key}.bare");
        scene.queue(&bare, &[]);
        scene.queue(&bare, &[(key, value)]);
    }
    scene.queue("type", &[]);
    scene.queue("type", &[("x-queue-type", text("quorum"))]);
    scene.durable_queue("type", &[]);
}

scenes! {
    ttl, ttl_zero_with_a_consumer, ttl_at_the_head_only, queue_expiry,
    length_drop_head, length_in_octets, length_zero, length_reject_publish, length_reject_publish_dlx,
    length_fanout_with_one_refusal,
    death_by_rejection, death_again_and_again, death_in_a_cycle, death_made_up_by_the_publisher, death_with_cc_and_bcc,
    death_with_cc_and_a_key_of_the_queue, death_without_an_exchange, death_to_every_kind_of_exchange, death_to_several_queues, death_and_then_back_to_a_quorum_queue,
    priorities, priorities_and_what_comes_back, priorities_and_a_length_limit, order_of_what_comes_back,
    single_active_consumer, single_active_consumer_quorum, consumer_priorities, counts_of_get, redelivered, delivery_limit,
    arguments_classic, arguments_quorum, arguments_queue_type, redeclared,
}
