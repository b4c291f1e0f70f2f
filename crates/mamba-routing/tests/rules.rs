//! Reply texts, exchange types and generations, one case a line.

mod support;

use std::collections::BTreeMap;

use mamba_routing::{
    Binding, Bound, Declared, Destination, ExchangeSpec, MessageProperties, NoProperties,
    RouteInput, Routes, RoutingTable, Stamp, TOPIC_HASH_WORDS_MAX, check,
};
use mamba_types::{FieldTable, FieldValue, Violation};
use support::{Headers, Queue, arguments, route, text};

fn table() -> RoutingTable<Queue> {
    let mut table = RoutingTable::new("/", 42);
    for (id, name) in (1..).zip(["q1", "q2", "q3"]) {
        table.add_queue(Queue::new(id, name));
    }
    table.add_queue(Queue::quorum(9, "qq"));
    table
}

fn spec(name: &str, kind: &str, arguments: FieldTable) -> ExchangeSpec {
    ExchangeSpec {
        name: name.into(),
        kind: kind.into(),
        durable: false,
        auto_delete: false,
        internal: false,
        arguments,
    }
}

#[track_caller]
fn declare(table: &mut RoutingTable<Queue>, name: &str, kind: &str) {
    declare_with(table, name, kind, FieldTable::default());
}

#[track_caller]
fn declare_with(table: &mut RoutingTable<Queue>, name: &str, kind: &str, arguments: FieldTable) {
    let declared = table.declare(spec(name, kind, arguments));
    assert!(matches!(declared, Ok(Declared::New(_))), "{declared:?}");
}

#[track_caller]
fn bind(table: &mut RoutingTable<Queue>, source: &str, queue: &str, key: &str) {
    let bound = table.bind(Binding::to_queue(source, queue, key));
    assert_eq!(bound, Ok(Bound::New));
}

#[track_caller]
fn refuses<T: std::fmt::Debug>(outcome: Result<T, Violation>, code: u16, text: &str) {
    let violation = outcome.expect_err(text);
    assert_eq!(
        (violation.code(), violation.reply_text()),
        (code, text.to_owned())
    );
}

#[test]
fn declarations() {
    let mut table = table();
    let none = FieldTable::default;
    let alternate = |value| arguments([("alternate-exchange", value)]);
    refuses(
        table.declare(spec("x", "nope", none())),
        406,
        "PRECONDITION_FAILED - unknown exchange type 'nope'",
    );
    refuses(
        table.declare(spec("", "nope", none())),
        406,
        "PRECONDITION_FAILED - unknown exchange type 'nope'",
    );
    refuses(
        table.declare(spec("", "direct", none())),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    );
    refuses(
        table.declare(spec("amq.new", "direct", none())),
        403,
        "ACCESS_REFUSED - exchange name 'amq.new' contains reserved prefix 'amq.*'",
    );
    refuses(
        table.declare(spec("x", "direct", alternate(FieldValue::LongInt(5)))),
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'",
    );
    let topic = ExchangeSpec {
        durable: true,
        ..spec("amq.direct", "topic", none())
    };
    refuses(
        table.declare(topic.clone()),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': received 'topic' but current is 'direct'",
    );
    let same = ExchangeSpec {
        kind: "direct".into(),
        ..topic
    };
    assert!(matches!(table.declare(same), Ok(Declared::Existing)));

    declare_with(&mut table, "x", "direct", alternate(text("ae")));
    let with = |change: fn(&mut ExchangeSpec)| {
        let mut spec = spec("x", "direct", alternate(text("ae")));
        change(&mut spec);
        spec
    };
    refuses(
        table.declare(with(|spec| spec.durable = true)),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
    );
    refuses(
        table.declare(with(|spec| spec.auto_delete = true)),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
    );
    refuses(
        table.declare(with(|spec| spec.internal = true)),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'internal' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
    );
    refuses(
        table.declare(spec("x", "direct", none())),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received none but current is the value 'ae' of type 'longstr'",
    );
    refuses(
        table.declare(spec("x", "direct", alternate(text("b")))),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received 'b' but current is 'ae'",
    );
    refuses(
        table.declare(spec("x", "direct", alternate(FieldValue::LongInt(5)))),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received '5' but current is 'ae'",
    );
    let other = arguments([("alternate-exchange", text("ae")), ("ignored", text("b"))]);
    assert!(matches!(
        table.declare(spec("x", "direct", other)),
        Ok(Declared::Existing)
    ));

    let hash = |pairs: &[(&'static str, FieldValue)]| {
        spec("h", "x-consistent-hash", arguments(pairs.iter().cloned()))
    };
    refuses(
        table.declare(hash(&[
            ("hash-header", text("a")),
            ("hash-property", text("message_id")),
        ])),
        406,
        "PRECONDITION_FAILED - hash-header and hash-property are mutually exclusive",
    );
    refuses(
        table.declare(hash(&[("hash-property", text("foo"))])),
        406,
        "PRECONDITION_FAILED - Unsupported property: foo",
    );
    refuses(
        table.declare(hash(&[("hash-header", FieldValue::LongInt(1))])),
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'hash-header' in exchange 'h' in vhost '/'",
    );
}

#[test]
fn looking_publishing_deleting() {
    let mut table = table();
    refuses(
        table.check_exists("x").map(drop),
        404,
        "NOT_FOUND - no exchange 'x' in vhost '/'",
    );
    refuses(
        table.check_publish("x"),
        404,
        "NOT_FOUND - no exchange 'x' in vhost '/'",
    );
    refuses(
        table.check_publish("amq.rabbitmq.trace"),
        403,
        "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'",
    );
    assert_eq!(table.check_publish(""), Ok(()));
    refuses(
        table.delete_exchange("", false),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    );
    refuses(
        table.delete_exchange("amq.direct", false),
        403,
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
    );
    refuses(
        table.delete_exchange("amq.nope", false),
        403,
        "ACCESS_REFUSED - deletion of system exchange 'amq.nope' in vhost '/' not allowed",
    );
    assert!(table.delete_exchange("missing", true).is_ok());
    declare(&mut table, "x", "fanout");
    bind(&mut table, "x", "q1", "");
    refuses(
        table.delete_exchange("x", true),
        406,
        "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use",
    );
    let removed = table.delete_exchange("x", false).expect("it exists");
    assert_eq!((removed.bindings.len(), removed.exchanges.len()), (1, 1));
    refuses(
        check::not_default(""),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    );
}

#[test]
fn binding_rules() {
    let mut table = table();
    for kind in ["x-consistent-hash", "x-local-random"] {
        declare(&mut table, kind, kind);
    }
    let queue = |source: &str, queue: &str, key: &str| Binding::to_queue(source, queue, key);
    refuses(
        table.bind(queue("nx", "nq", "k")),
        404,
        "NOT_FOUND - no exchange 'nx' in vhost '/'",
    );
    refuses(
        table.bind(queue("amq.direct", "nq", "k")),
        404,
        "NOT_FOUND - no queue 'nq' in vhost '/'",
    );
    refuses(
        table.bind(Binding::to_exchange("nx", "nd", "k")),
        404,
        "NOT_FOUND - no exchange 'nx' in vhost '/'",
    );
    refuses(
        table.bind(Binding::to_exchange("amq.direct", "nd", "k")),
        404,
        "NOT_FOUND - no exchange 'nd' in vhost '/'",
    );
    for binding in [
        queue("", "q1", "k"),
        Binding::to_exchange("amq.direct", "", "k"),
    ] {
        refuses(
            table.bind(binding),
            403,
            "ACCESS_REFUSED - operation not permitted on the default exchange",
        );
    }

    let mut weight = |key: &str, wanted: &str| {
        refuses(
            table.bind(queue("x-consistent-hash", "q1", key)),
            406,
            wanted,
        )
    };
    weight(
        "abc",
        "PRECONDITION_FAILED - The binding key must be an integer: <<\"abc\">>",
    );
    weight(
        "",
        "PRECONDITION_FAILED - The binding key must be an integer: <<>>",
    );
    weight(
        "1.5",
        "PRECONDITION_FAILED - The binding key must be an integer: <<\"1.5\">>",
    );
    weight(
        " 3",
        "PRECONDITION_FAILED - The binding key must be an integer: <<\" 3\">>",
    );
    weight(
        "é",
        "PRECONDITION_FAILED - The binding key must be an integer: <<\"é\"/utf8>>",
    );
    weight(
        "0",
        "PRECONDITION_FAILED - The binding key must be greater than 0",
    );
    weight(
        "-1",
        "PRECONDITION_FAILED - The binding key must be greater than 0",
    );
    bind(&mut table, "x-consistent-hash", "q1", "+5");
    bind(&mut table, "x-consistent-hash", "q2", "03");

    let local = "x-local-random";
    refuses(
        table.bind(queue(local, "q1", "rk")),
        406,
        "PRECONDITION_FAILED - Non empty binding 'rk' key not permitted",
    );
    refuses(
        table.bind(queue(local, "qq", "")),
        406,
        "PRECONDITION_FAILED - Queue type rabbit_quorum_queue not valid for this exchange type",
    );
    refuses(
        table.bind(Binding::to_exchange(local, "amq.fanout", "")),
        406,
        "PRECONDITION_FAILED - Destination not found",
    );

    let mut rule = |value: FieldValue, wanted: &str| {
        let binding =
            queue("amq.headers", "q1", "").with_arguments(arguments([("x-match", value)]));
        refuses(
            table.bind(binding),
            406,
            &format!("PRECONDITION_FAILED - Invalid x-match field {wanted}"),
        );
    };
    let expected = "; expected all, any, all-with-x, or any-with-x";
    rule(text("foo"), &format!("value <<\"foo\">>{expected}"));
    rule(text("é"), &format!("value <<\"é\"/utf8>>{expected}"));
    rule(
        text("a\"b\\"),
        &format!("value <<\"a\\\"b\\\\\">>{expected}"),
    );
    rule(
        FieldValue::LongInt(5),
        "type signedint (value 5); expected longstr",
    );
    rule(
        FieldValue::Boolean(true),
        "type bool (value true); expected longstr",
    );
    rule(
        FieldValue::Void,
        "type void (value undefined); expected longstr",
    );
    rule(
        FieldValue::ByteArray(vec![1, 255].into()),
        "type binary (value <<1,255>>); expected longstr",
    );
    rule(
        FieldValue::FieldArray(vec![FieldValue::LongInt(1)].into()),
        "type array (value [{signedint,1}]); expected longstr",
    );
    rule(
        FieldValue::FieldTable(arguments([("a", FieldValue::LongInt(1))])),
        "type table (value [{<<\"a\">>,signedint,1}]); expected longstr",
    );

    let key = vec!["#"; TOPIC_HASH_WORDS_MAX + 1].join(".");
    let wanted = format!(
        "PRECONDITION_FAILED - Topic binding key '{key}' uses 17 '#' wildcards, at most 16 are allowed"
    );
    refuses(table.bind(queue("amq.topic", "q1", &key)), 406, &wanted);
}

#[track_caller]
fn headers_check(binding: FieldTable, message: Option<FieldTable>, expected: bool) {
    let mut table = table();
    let binding = Binding::to_queue("amq.headers", "q1", "").with_arguments(binding);
    table.bind(binding.clone()).expect("both ends exist");
    table.check_invariants();
    let found = route(&table, "amq.headers", &["k"], &Headers(message));
    assert_eq!(found == ["q1"], expected, "{binding:?}");
    table.unbind(&binding);
    table.check_invariants();
}

#[test]
fn headers_match_as_specified() {
    use FieldValue as V;
    let rule = |word: &str, pairs: &[(&'static str, V)]| {
        let mut table = arguments(pairs.iter().cloned());
        table.insert("x-match".into(), text(word));
        table
    };
    let some = |pairs: &[(&'static str, V)]| Some(arguments(pairs.iter().cloned()));
    let one = || V::LongInt(1);
    headers_check(FieldTable::default(), None, true);
    headers_check(rule("all", &[]), None, true);
    headers_check(rule("any", &[]), some(&[("a", one())]), false);
    headers_check(arguments([("a", one())]), some(&[("a", one())]), true);
    headers_check(arguments([("a", one())]), None, false);
    headers_check(
        rule("all", &[("a", one()), ("b", one())]),
        some(&[("a", one())]),
        false,
    );
    headers_check(
        rule("all", &[("a", one()), ("b", one())]),
        some(&[("a", one()), ("b", one()), ("c", one())]),
        true,
    );
    headers_check(
        rule("any", &[("a", one()), ("b", one())]),
        some(&[("b", one())]),
        true,
    );
    headers_check(
        rule("any", &[("a", one()), ("b", one())]),
        some(&[("b", text("1"))]),
        false,
    );
    headers_check(
        rule("all", &[("a", one()), ("x-b", one())]),
        some(&[("a", one())]),
        true,
    );
    headers_check(
        rule("all-with-x", &[("a", one()), ("x-b", one())]),
        some(&[("a", one())]),
        false,
    );
    headers_check(
        rule("all-with-x", &[("x-b", one())]),
        some(&[("x-b", one())]),
        true,
    );
    headers_check(
        rule("any", &[("x-b", one())]),
        some(&[("x-b", one())]),
        false,
    );
    headers_check(
        rule("any-with-x", &[("x-b", one())]),
        some(&[("x-b", one())]),
        true,
    );
    headers_check(
        rule("any-with-x", &[("a", one())]),
        some(&[("x-match", one())]),
        false,
    );
    headers_check(
        arguments([("a", V::Void)]),
        some(&[("a", text("anything"))]),
        true,
    );
    headers_check(arguments([("a", V::Void)]), some(&[("b", one())]), false);
    headers_check(
        rule("any", &[("a", V::Void), ("b", one())]),
        some(&[("a", one())]),
        true,
    );
    headers_check(
        arguments([("a", V::ShortInt(5))]),
        some(&[("a", V::LongLongInt(5))]),
        true,
    );
    headers_check(
        arguments([("a", V::ShortShortUInt(5))]),
        some(&[("a", V::LongUInt(5))]),
        true,
    );
    headers_check(
        arguments([("a", one())]),
        some(&[("a", V::Double(1.0))]),
        false,
    );
    headers_check(
        arguments([("a", V::Float(0.5))]),
        some(&[("a", V::Double(0.5))]),
        true,
    );
    headers_check(
        arguments([("a", V::Double(0.0))]),
        some(&[("a", V::Double(-0.0))]),
        true,
    );
    headers_check(
        arguments([("a", text("b"))]),
        some(&[("a", V::ByteArray(b"b".as_slice().into()))]),
        true,
    );
    headers_check(
        arguments([("a", text("b"))]),
        some(&[("a", text("B"))]),
        false,
    );
    headers_check(
        arguments([("a", V::Timestamp(7))]),
        some(&[("a", V::Timestamp(7))]),
        true,
    );
    headers_check(
        arguments([("a", V::Timestamp(7))]),
        some(&[("a", V::LongLongInt(7))]),
        false,
    );
    headers_check(
        arguments([("a", V::Boolean(true))]),
        some(&[("a", V::Boolean(true))]),
        true,
    );
    headers_check(
        arguments([("a", V::Boolean(true))]),
        some(&[("a", V::Boolean(false))]),
        false,
    );
    let array = |value: V| V::FieldArray(vec![value].into());
    headers_check(
        arguments([("a", array(one()))]),
        some(&[("a", array(one()))]),
        true,
    );
    headers_check(
        arguments([("a", array(one()))]),
        some(&[("a", array(V::LongLongInt(1)))]),
        false,
    );
}

/// How often each queue was chosen for the keys `key-0`, `key-1`, …
fn spread(table: &RoutingTable<Queue>, exchange: &str, count: usize) -> BTreeMap<String, usize> {
    let mut chosen = BTreeMap::new();
    for number in 0..count {
        let found = route(table, exchange, &[&format!("key-{number}")], &NoProperties);
        assert_eq!(found.len(), 1);
        *chosen.entry(found[0].clone()).or_default() += 1;
    }
    chosen
}

#[test]
fn consistent_hash_follows_weights_and_moves_little() {
    let mut table = table();
    declare(&mut table, "h", "x-consistent-hash");
    bind(&mut table, "h", "q1", "1");
    bind(&mut table, "h", "q2", "3");
    // A second binding of the same queue does not add to its weight.
    bind(&mut table, "h", "q1", "100");
    let chosen = spread(&table, "h", 4000);
    assert!((900..1100).contains(&chosen["q1"]), "{chosen:?}");
    let before: Vec<_> = (0..1000)
        .map(|n| route(&table, "h", &[&format!("{n}")], &NoProperties))
        .collect();
    bind(&mut table, "h", "q3", "4");
    let after: Vec<_> = (0..1000)
        .map(|n| route(&table, "h", &[&format!("{n}")], &NoProperties))
        .collect();
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| before == after || *after == ["q3"])
    );
    table.remove_queue("q3");
    let again: Vec<_> = (0..1000)
        .map(|n| route(&table, "h", &[&format!("{n}")], &NoProperties))
        .collect();
    assert_eq!(before, again);
    assert_eq!(
        route(&table, "h", &["a", "b", "c", "d"], &NoProperties).len(),
        1,
        "one destination per message"
    );
}

struct Identified(&'static [u8]);

impl MessageProperties for Identified {
    fn headers(&self) -> Option<&FieldTable> {
        None
    }

    fn message_id(&self) -> Option<&[u8]> {
        Some(self.0)
    }
}

#[test]
fn consistent_hash_of_a_header_or_property_ignores_the_key() {
    for on in [("hash-header", "user"), ("hash-property", "message_id")] {
        let mut table = table();
        declare_with(
            &mut table,
            "h",
            "x-consistent-hash",
            arguments([(on.0, text(on.1))]),
        );
        bind(&mut table, "h", "q1", "1");
        bind(&mut table, "h", "q2", "1");
        let message: &dyn MessageProperties = if on.0 == "hash-header" {
            &Headers(Some(arguments([("user", text("ann"))])))
        } else {
            &Identified(b"ann")
        };
        let first = route(&table, "h", &["0"], message);
        assert!((1..50).all(|n| route(&table, "h", &[&n.to_string()], message) == first));
        let mut routes = Routes::new();
        let input = RouteInput {
            keys: &[b"k"],
            properties: message,
        };
        table
            .route("h", &input, &mut routes)
            .expect("the exchange exists");
        assert!(!routes.cacheable);
    }
}

#[test]
fn one_of_many() {
    for kind in ["x-random", "x-local-random", "x-modulus-hash"] {
        let mut table = table();
        declare(&mut table, "x", kind);
        for queue in ["q1", "q2", "q3"] {
            bind(&mut table, "x", queue, "");
        }
        let chosen = spread(&table, "x", 3000);
        assert!(
            chosen.values().all(|count| (800..1200).contains(count)),
            "{kind} {chosen:?}"
        );
    }
}

#[track_caller]
fn stays_current(
    prepare: fn(&mut RoutingTable<Queue>),
    change: fn(&mut RoutingTable<Queue>),
    exchange: &str,
    expected: bool,
) {
    let mut table = table();
    declare(&mut table, "x", "direct");
    declare(&mut table, "y", "fanout");
    prepare(&mut table);
    let mut routes = Routes::new();
    let input = RouteInput {
        keys: &[b"q1"],
        properties: &NoProperties,
    };
    table
        .route(exchange, &input, &mut routes)
        .expect("the exchange exists");
    assert!(routes.cacheable && routes.stamps.iter().all(Stamp::is_current));
    change(&mut table);
    assert_eq!(routes.stamps.iter().all(Stamp::is_current), expected);
}

#[test]
fn a_change_ends_only_the_routes_it_touches() {
    stays_current(|_| {}, |table| bind(table, "x", "q1", "k"), "x", false);
    stays_current(|_| {}, |table| bind(table, "y", "q1", "k"), "x", true);
    stays_current(
        |_| {},
        |table| drop(table.delete_exchange("x", false)),
        "x",
        false,
    );
    stays_current(|_| {}, |table| declare(table, "z", "direct"), "x", true);
    stays_current(
        |table| bind(table, "x", "q1", "q1"),
        |table| drop(table.remove_queue("q1")),
        "x",
        false,
    );
    stays_current(
        |table| bind(table, "x", "q1", "q1"),
        |table| drop(table.remove_queue("q2")),
        "x",
        true,
    );
    stays_current(|_| {}, |table| drop(table.remove_queue("q1")), "", false);
    stays_current(|_| {}, |table| drop(table.remove_queue("q2")), "", true);
    stays_current(|_| {}, |table| bind(table, "x", "q1", "q1"), "", true);
    let linked = |table: &mut RoutingTable<Queue>| {
        table
            .bind(Binding::to_exchange("x", "y", "q1"))
            .map(drop)
            .expect("both ends exist");
    };
    stays_current(linked, |table| bind(table, "y", "q1", ""), "x", false);
    stays_current(
        linked,
        |table| drop(table.delete_exchange("y", false)),
        "x",
        false,
    );
    stays_current(
        |_| {},
        |table| assert!(table.set_policy_alternate("x", Some("y".into()))),
        "x",
        false,
    );
}

#[test]
fn what_can_appear_unannounced_is_not_cacheable() {
    let mut table = table();
    declare_with(
        &mut table,
        "x",
        "direct",
        arguments([("alternate-exchange", text("later"))]),
    );
    for exchange in ["x", ""] {
        let mut routes = Routes::new();
        let input = RouteInput {
            keys: &[b"nobody"],
            properties: &NoProperties,
        };
        table
            .route(exchange, &input, &mut routes)
            .expect("the exchange exists");
        assert!(!routes.cacheable && routes.queues.is_empty());
    }
}

#[test]
fn auto_delete_cascades() {
    let mut table = table();
    for name in ["a", "b", "c"] {
        let spec = ExchangeSpec {
            auto_delete: true,
            ..spec(name, "fanout", FieldTable::default())
        };
        assert!(table.declare(spec).is_ok());
    }
    table
        .bind(Binding::to_exchange("a", "b", ""))
        .expect("both ends exist");
    table
        .bind(Binding::to_exchange("b", "c", ""))
        .expect("both ends exist");
    table
        .bind(Binding::to_exchange("c", "a", ""))
        .expect("both ends exist");
    bind(&mut table, "c", "q1", "");
    assert_eq!(route(&table, "a", &["k"], &NoProperties), ["q1"]);
    assert!(
        table
            .unbind(&Binding::to_queue("c", "q1", ""))
            .exchanges
            .is_empty()
    );
    let removed = table.unbind(&Binding::to_exchange("c", "a", ""));
    let names: Vec<_> = removed
        .exchanges
        .iter()
        .map(|gone| &*gone.spec.name)
        .collect();
    assert_eq!((names, removed.bindings.len()), (vec!["c", "b", "a"], 3));
    table.check_invariants();
}

#[test]
fn listings_are_in_name_order_and_durability_needs_both_ends() {
    let mut table = table();
    declare(&mut table, "x", "direct");
    bind(&mut table, "x", "q2", "b");
    bind(&mut table, "x", "q2", "a");
    bind(&mut table, "amq.direct", "q1", "z");
    let keys = |bindings: Vec<&Binding>| {
        bindings
            .iter()
            .map(|binding| binding.routing_key.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(table.bindings().collect()), ["z", "a", "b"]);
    assert_eq!(keys(table.bindings_from("x").collect()), ["a", "b"]);
    assert_eq!(
        keys(
            table
                .bindings_to(&Destination::Queue("q1".into()))
                .collect()
        ),
        ["z"]
    );
    assert!(table.queues().map(Queue::name).eq(["q1", "q2", "q3", "qq"]));
    assert!(table.is_durable(&Binding::to_queue("amq.direct", "q1", ""), true));
    assert!(!table.is_durable(&Binding::to_queue("amq.direct", "q1", ""), false));
    assert!(!table.is_durable(&Binding::to_queue("x", "q1", ""), true));
    assert!(!table.is_durable(&Binding::to_exchange("amq.direct", "x", ""), true));
    assert!(table.is_durable(&Binding::to_exchange("amq.direct", "amq.fanout", ""), false));
}
