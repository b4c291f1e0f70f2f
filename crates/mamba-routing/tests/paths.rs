//! Paths through several exchanges, and choices by hash: what depends on the bindings alone, one case a line
//! (`spec: semantics §2, §3`).

mod support;

use std::collections::BTreeMap;

use mamba_routing::{
    Binding, ExchangeSpec, MessageProperties, NoProperties, RouteInput, Routes, RoutingTable, Stamp,
};
use mamba_types::{FieldTable, FieldValue};
use proptest::{collection::vec, prelude::*};
use support::{Headers, Queue, arguments, route, text};

/// Three queues, and exchanges and bindings from one line: `x:direct>ae` declares (with an alternate exchange), `x-k>q1`
/// binds with key `k`, to an exchange if there is one of that name.
fn table(line: &str) -> RoutingTable<Queue> {
    let mut table = RoutingTable::new("/", 42);
    for (id, name) in (1..).zip(["q1", "q2", "q3"]) {
        table.add_queue(Queue::new(id, name));
    }
    for word in line.split_whitespace() {
        if let Some((name, kind)) = word.split_once(':') {
            let (kind, alternate) = match kind.split_once('>') {
                Some((kind, alternate)) => (kind, Some(alternate)),
                None => (kind, None),
            };
            let alternate = alternate.map(|name| ("alternate-exchange", text(name)));
            let spec = ExchangeSpec {
                name: name.into(),
                kind: kind.into(),
                durable: false,
                auto_delete: false,
                internal: false,
                arguments: arguments(alternate),
            };
            table.declare(spec).expect("a new exchange");
        } else {
            let (source, rest) = word.split_once('-').expect("source-key>destination");
            let (key, destination) = rest.split_once('>').expect("source-key>destination");
            let binding = match table.exchange(destination) {
                Some(_) => Binding::to_exchange(source, destination, key),
                None => Binding::to_queue(source, destination, key),
            };
            table.bind(binding).expect("both ends exist");
        }
    }
    table.check_invariants();
    table
}

/// Publishes to `x` with these routing keys.
#[track_caller]
fn check(line: &str, keys: &[&str], expected: &[&str]) {
    let mut found = route(&table(line), "x", keys, &NoProperties);
    found.sort();
    assert_eq!(found, expected, "{line} {keys:?}");
}

#[test]
fn alternate_exchange() {
    // Only when nothing was selected.
    check("x:direct>ae ae:fanout x-k>q1 ae->q2", &["k"], &["q1"]);
    check("x:direct>ae ae:fanout x-k>q1 ae->q2", &["other"], &["q2"]);
    check("x:direct>ae ae:fanout ae->q2", &["k"], &["q2"]);
    // One selected key of several is enough.
    check(
        "x:direct>ae ae:fanout x-k>q1 ae->q2",
        &["other", "k"],
        &["q1"],
    );
    // With the same routing keys.
    check(
        "x:direct>ae ae:direct ae-k>q1 ae-l>q2",
        &["k", "l"],
        &["q1", "q2"],
    );
    check("x:fanout>ae ae:topic ae-k.#>q1", &["k.l"], &["q1"]);
    // An exchange that leads nowhere was selected all the same: its own alternate counts.
    check("x:direct>ae ae:fanout y:direct ae->q1 x-k>y", &["k"], &[]);
    check(
        "x:direct>ae ae:fanout af:fanout y:direct>af ae->q1 af->q2 x-k>y",
        &["k"],
        &["q2"],
    );
    // Chains, missing ones, the default exchange, cycles.
    check(
        "x:direct>a a:direct>b b:direct>c c:fanout c->q3",
        &["k"],
        &["q3"],
    );
    check("x:direct>missing", &["k"], &[]);
    check("x:direct>", &["q2"], &["q2"]);
    check("x:direct>", &["nobody", "q1", "q2"], &["q1", "q2"]);
    check("x:direct>x", &["k"], &[]);
    check("x:direct>a a:direct>x", &["k"], &[]);
    check("x:direct>a a:fanout a->x x-k>q1", &["l"], &[]);
    // Every type passes on what it does not select.
    for kind in [
        "topic",
        "headers",
        "fanout",
        "x-consistent-hash",
        "x-modulus-hash",
        "x-random",
        "x-local-random",
    ] {
        check(&format!("x:{kind}>ae ae:fanout ae->q1"), &["k"], &["q1"]);
    }
}

#[test]
fn exchange_to_exchange() {
    check("x:direct y:direct x-k>y y-k>q1", &["k"], &["q1"]);
    // Routing keys stay as they are.
    check("x:fanout y:direct x-k>y y-k>q1", &["l"], &[]);
    // One copy per queue, whatever the paths.
    check(
        "x:fanout y:fanout z:fanout x->y x->z x->q1 y->q1 z->q1 z->q2",
        &["k"],
        &["q1", "q2"],
    );
    check("x:direct x-k>q1 x-l>q1", &["k", "l", "k"], &["q1"]);
    check("x:topic x-#>q1 x-k.*>q1 x-*.l>q1", &["k.l"], &["q1"]);
    // Cycles.
    check("x:fanout y:fanout x->y y->x y->q1", &["k"], &["q1"]);
    check("x:fanout x->x", &["k"], &[]);
    check("x:fanout x->x x->q2", &["k"], &["q2"]);
}

#[test]
fn direct_is_exact() {
    for (key, expected) in [("a", true), ("A", false), ("", false), ("a.b", false)] {
        let expected: &[&str] = if expected { &["q1"] } else { &[] };
        check("x:direct x-a>q1", &[key], expected);
    }
    check("x:direct x->q1", &[""], &["q1"]);
    check("x:direct x-#>q1 x-*>q2", &["a"], &[]);
    check("x:direct x-#>q1 x-*>q2", &["#"], &["q1"]);
    check("x:direct x-é>q1", &["é"], &["q1"]);
}

#[test]
fn no_key_goes_nowhere_but_through_fanout() {
    check("x:direct x->q1", &[], &[]);
    check("x:topic x-#>q1", &[], &[]);
    check("x:fanout x->q1", &[], &["q1"]);
}

/// A NaN is no number's equal, its own included. A header like that stayed in the index when its binding went, and
/// would have led to a later queue of the same name.
#[test]
fn bindings_with_any_value_can_be_taken_back() {
    let values = [
        FieldValue::Double(f64::NAN),
        FieldValue::Float(f32::NAN),
        FieldValue::Double(-0.0),
        FieldValue::FieldArray(vec![FieldValue::Double(f64::NAN)].into()),
        FieldValue::FieldTable(arguments([("a", FieldValue::Float(f32::NAN))])),
        FieldValue::Timestamp(u64::MAX),
        FieldValue::Void,
    ];
    for rule in ["all", "any", "all-with-x", "any-with-x"] {
        for value in &values {
            let mut table = table("x:headers");
            let pairs = [("x-match", text(rule)), ("a", value.clone())];
            let binding = Binding::to_queue("x", "q1", "").with_arguments(arguments(pairs));
            table.bind(binding.clone()).expect("both ends exist");
            table.bind(binding.clone()).expect("it is there");
            assert_eq!(table.binding_count(), 1, "{value:?}");
            assert_eq!(table.unbind(&binding).bindings.len(), 1, "{value:?}");
            table.check_invariants();
            let message = Headers(Some(arguments([("a", value.clone())])));
            assert_eq!(route(&table, "x", &["k"], &message), [""; 0]);
        }
    }
}

/// Both zeros are one number, but two sets of arguments.
#[test]
fn zeros_make_two_bindings_that_match_alike() {
    let mut table = table("x:headers");
    for zero in [0.0, -0.0] {
        let value = FieldValue::Double(zero);
        let binding = Binding::to_queue("x", "q1", "").with_arguments(arguments([("a", value)]));
        table.bind(binding).expect("both ends exist");
    }
    assert_eq!(table.binding_count(), 2);
    let negative = Binding::to_queue("x", "q1", "")
        .with_arguments(arguments([("a", FieldValue::Double(-0.0))]));
    table.unbind(&negative);
    let message = Headers(Some(arguments([("a", FieldValue::Float(-0.0))])));
    assert_eq!(route(&table, "x", &["k"], &message), ["q1"]);
}

fn chosen(table: &RoutingTable<Queue>, count: u32) -> Vec<String> {
    let pick = |number: u32| route(table, "x", &[&format!("key-{number}")], &NoProperties);
    (0..count)
        .map(|number| match pick(number).as_slice() {
            [one] => one.clone(),
            other => panic!("one queue, not {other:?}"),
        })
        .collect()
}

fn shares(chosen: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for name in chosen {
        *shares.entry(name.as_str()).or_default() += 1;
    }
    shares
}

#[test]
fn consistent_hash_shares_by_weight() {
    const KEYS: u32 = 10_000;
    for weights in [[1u32, 1, 1], [1, 2, 3], [10, 30, 60], [1, 1, 8]] {
        let [a, b, c] = weights;
        let table = table(&format!("x:x-consistent-hash x-{a}>q1 x-{b}>q2 x-{c}>q3"));
        let chosen = chosen(&table, KEYS);
        let shares = shares(&chosen);
        for (name, weight) in ["q1", "q2", "q3"].into_iter().zip(weights) {
            let expected = (KEYS * weight / (a + b + c)) as usize;
            // Three in a hundred of all keys: six times the deviation to expect.
            let away = shares[name].abs_diff(expected);
            assert!(away <= KEYS as usize * 3 / 100, "{weights:?} {shares:?}");
        }
    }
}

#[test]
fn consistent_hash_moves_only_the_share_of_what_comes_or_goes() {
    const KEYS: u32 = 3000;
    let mut table = table("x:x-consistent-hash x-1>q1 x-1>q2 x-2>q3");
    let before = chosen(&table, KEYS);
    table.unbind(&Binding::to_queue("x", "q3", "2"));
    let without = chosen(&table, KEYS);
    for (before, without) in before.iter().zip(&without) {
        assert!(before == without || before == "q3");
    }
    table
        .bind(Binding::to_queue("x", "q3", "2"))
        .expect("both ends exist");
    assert_eq!(chosen(&table, KEYS), before);
}

/// An exchange and a queue of one name drew the same score for every key, so that one of them got nothing.
#[test]
fn consistent_hash_tells_an_exchange_from_a_queue_of_its_name() {
    let mut table = table("x:x-consistent-hash q1:fanout q1->q2 x-1>q1");
    table
        .bind(Binding::to_queue("x", "q1", "1"))
        .expect("both ends exist");
    let chosen = chosen(&table, 1000);
    let shares = shares(&chosen);
    assert!(shares.values().all(|share| *share > 400), "{shares:?}");
    assert_eq!(shares.len(), 2);
}

struct Stamped(u64);

impl MessageProperties for Stamped {
    fn headers(&self) -> Option<&FieldTable> {
        None
    }

    fn correlation_id(&self) -> Option<&[u8]> {
        (self.0 > 0).then_some(b"a correlation")
    }

    fn timestamp(&self) -> Option<u64> {
        (self.0 > 0).then_some(self.0)
    }
}

#[test]
fn consistent_hash_of_what_is_missing_still_chooses_one() {
    for (key, name) in [
        ("hash-header", "user"),
        ("hash-property", "message_id"),
        ("hash-property", "correlation_id"),
        ("hash-property", "timestamp"),
    ] {
        let mut table = table("");
        let spec = ExchangeSpec {
            name: "x".into(),
            kind: "x-consistent-hash".into(),
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: arguments([(key, text(name))]),
        };
        table.declare(spec).expect("a new exchange");
        for queue in ["q1", "q2"] {
            let bound = table.bind(Binding::to_queue("x", queue, "1"));
            bound.expect("both ends exist");
        }
        assert_eq!(route(&table, "x", &["k"], &Stamped(0)).len(), 1);
        assert_eq!(route(&table, "x", &["k"], &Headers(None)).len(), 1);
    }
}

#[test]
fn modulus_chooses_by_all_keys_and_every_queue_counts_once() {
    let once = table("x:x-modulus-hash x-a>q1 x-b>q2 x-c>q3");
    let often = table("x:x-modulus-hash x-c>q3 x-b>q2 x-b2>q2 x-b3>q2 x-a>q1");
    assert_eq!(chosen(&once, 300), chosen(&often, 300));
    assert_eq!(shares(&chosen(&once, 300)).len(), 3);
    assert_eq!(route(&once, "x", &["a", "b", "c"], &NoProperties).len(), 1);
}

#[test]
fn chance_follows_the_seed() {
    for kind in ["x-random", "x-local-random"] {
        let line = format!("x:{kind} x->q1 x->q2 x->q3");
        let first = chosen(&table(&line), 200);
        assert_eq!(first, chosen(&table(&line), 200));
        assert_eq!(shares(&first).len(), 3);
        let table = table(&line);
        let mut routes = Routes::new();
        let input = RouteInput {
            keys: &[b"k"],
            properties: &NoProperties,
        };
        table.route("x", &input, &mut routes).expect("it exists");
        assert!(!routes.cacheable);
    }
}

#[test]
fn hashes_take_every_key_in() {
    for kind in ["x-consistent-hash", "x-modulus-hash"] {
        let table = table(&format!("x:{kind} x-1>q1 x-1>q2 x-1>q3"));
        for keys in [|n: &'static str| [n, "same"], |n| ["same", n]] {
            let numbers = [
                "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12",
            ];
            let chosen = numbers.map(|n| route(&table, "x", &keys(n), &NoProperties));
            let first = &chosen[0];
            assert!(chosen.iter().any(|other| other != first), "{kind}");
        }
    }
}

#[test]
fn a_route_through_headers_is_not_cacheable() {
    let table = table("x:fanout y:headers x->y y->q1");
    for exchange in ["x", "y"] {
        let mut routes = Routes::new();
        let input = RouteInput {
            keys: &[b"k"],
            properties: &NoProperties,
        };
        table
            .route(exchange, &input, &mut routes)
            .expect("it exists");
        assert_eq!(routes.queues.len(), 1);
        assert!(!routes.cacheable);
    }
}

#[test]
fn every_exchange_is_visited_once_however_many_there_are() {
    const COUNT: usize = 60;
    let mut table = table("x:fanout x->q1");
    let names: Vec<String> = (0..COUNT).map(|number| format!("x{number}")).collect();
    for name in &names {
        let spec = ExchangeSpec {
            name: name.as_str().into(),
            kind: "fanout".into(),
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
        };
        table.declare(spec).expect("a new exchange");
        for (source, destination) in [("x", name.as_str()), (name, "x")] {
            let bound = table.bind(Binding::to_exchange(source, destination, ""));
            bound.expect("both ends exist");
        }
    }
    for (name, next) in names.iter().zip(&names[1..]) {
        let bound = table.bind(Binding::to_exchange(name.as_str(), next.as_str(), ""));
        bound.expect("both ends exist");
    }
    let mut routes = Routes::new();
    let input = RouteInput {
        keys: &[b"k"],
        properties: &NoProperties,
    };
    table.route("x", &input, &mut routes).expect("it exists");
    assert_eq!((routes.queues.len(), routes.stamps.len()), (1, COUNT + 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was bound and unbound on the way, hashes choose as in a table that knows only what is left.
    #[test]
    fn choices_by_hash_do_not_depend_on_history(
        modulus in any::<bool>(),
        changes in vec((any::<bool>(), 1..4u32, 1..4u32), 0..30),
    ) {
        let kind = if modulus { "x-modulus-hash" } else { "x-consistent-hash" };
        let mut grown = table(&format!("x:{kind}"));
        let mut left: Vec<(u32, u32)> = Vec::new();
        let mut cached: Vec<(String, Routes<Queue>)> = Vec::new();
        for (add, queue, weight) in changes {
            let binding = Binding::to_queue("x", format!("q{queue}"), weight.to_string());
            left.retain(|known| *known != (queue, weight) || add);
            if add {
                grown.bind(binding).expect("both ends exist");
                if !left.contains(&(queue, weight)) {
                    left.push((queue, weight));
                }
            } else {
                grown.unbind(&binding);
            }
            grown.check_invariants();
            let bindings: Vec<_> = left.iter().map(|(q, w)| format!("x-{w}>q{q}")).collect();
            let fresh = table(&format!("x:{kind} {}", bindings.join(" ")));
            for (key, routes) in &cached {
                if routes.stamps.iter().all(Stamp::is_current) {
                    let names: Vec<_> = routes.queues.iter().map(Queue::name).collect();
                    prop_assert_eq!(route(&grown, "x", &[key], &NoProperties), names);
                }
            }
            for number in 0..5 {
                let key = format!("key-{number}");
                let expected = route(&fresh, "x", &[&key], &NoProperties);
                let mut routes = Routes::new();
                let keys = [key.as_bytes()];
                let input = RouteInput { keys: &keys, properties: &NoProperties };
                grown.route("x", &input, &mut routes).expect("it exists");
                let names: Vec<_> = routes.queues.iter().map(Queue::name).collect();
                prop_assert_eq!(&names, &expected);
                prop_assert_eq!(names.len(), usize::from(!left.is_empty()));
                prop_assert!(routes.cacheable);
                cached.push((key, routes));
            }
        }
    }
}
