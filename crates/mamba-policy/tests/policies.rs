//! Policies: validation against the words of the reference broker, which of them apply, and what then holds.

use mamba_policy::{
    ApplyTo, Definition, ObjectKind, Overflow, Pattern, Policy, PolicySet, QueueSettings,
    QueueType, Scope, Setting, Source, ValidationError,
};
use mamba_types::{FieldTable, FieldValue};
use serde_json::{Value, json};

fn definition(json: &Value) -> Definition {
    json.as_object()
        .expect("it is an object")
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[track_caller]
fn policy(scope: Scope, name: &str, pattern: &str, settings: &Value) -> Policy {
    Policy::new(scope, name, pattern, definition(settings)).expect("it is a policy")
}

/// What RabbitMQ 4.0.5 answered to 200 bodies of `PUT /api/policies` and `/api/operator-policies`.
#[test]
fn validation_speaks_like_the_reference_broker() {
    for line in include_str!("data/validation.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let scope = if case["operator"] == true {
            Scope::OperatorPolicy
        } else {
            Scope::Policy
        };
        let reason = Policy::from_json(scope, "p", &case["body"])
            .err()
            .map(|error| error.to_string());
        assert_eq!(reason.as_deref(), case["reason"].as_str(), "{line}");
    }
}

#[test]
fn settings_of_later_versions() {
    let check = |settings: Value, expected: &str| {
        let error = Policy::new(Scope::Policy, "p", "", definition(&settings)).err();
        let message = error.map(|ValidationError { messages }| messages.join("|"));
        assert_eq!(message.unwrap_or_default(), expected);
    };
    check(
        json!({"delayed-retry-type": "all", "delayed-retry-min": 1, "delayed-retry-max": 2}),
        "",
    );
    check(
        json!({"delayed-retry-type": "some"}),
        "<<\"some\">> is not a valid delayed retry type",
    );
    check(
        json!({"delayed-retry-min": -1}),
        "-1 is not a valid delayed retry minimum",
    );
    check(json!({"consumer-disconnected-timeout": 5}), "");
    check(
        json!({"max-age": "x5"}),
        "<<\"x5\">> is not a valid max age",
    );
}

#[test]
fn what_is_missing() {
    let error = Policy::from_json(Scope::Policy, "p", &json!({})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Validation failed\n\n\
         parse error while reading policy definition: undefined. Validator: policy_validator.\n\
         pattern should be a binary but was undefined\n"
    );
    for odd in [json!(null), json!(5), json!([]), json!("x")] {
        Policy::from_json(Scope::Policy, "p", &odd).unwrap_err();
    }
}

#[test]
fn patterns() {
    let check = |pattern: &str, name: &str, expected| {
        assert_eq!(
            Pattern::new(pattern).unwrap().matches(name),
            expected,
            "{pattern} {name}"
        );
    };
    check("", "anything", true);
    check("q", "a q b", true);
    check("^q", "a q", false);
    check("^q$", "q", true);
    check("^(?!amq\\.).*", "amq.gen-1", false);
    check("^(?!amq\\.).*", "orders", true);
    check("(?<=a)b", "ab", true);
    check("^(one|two)\\.\\d+$", "two.17", true);
    check("(a)\\1", "aa", true);
    // A pattern that would never end is given up.
    check("^(a|a)*\\1b$", &"a".repeat(60), false);

    let invalid = |pattern: &str, expected: &str| {
        assert_eq!(
            Pattern::new(pattern).unwrap_err(),
            format!("pattern should be regular expression but is invalid: {expected}"),
        );
    };
    let spaces = " ".repeat(54);
    invalid("(", "{\"missing )\",1}");
    invalid("(?<n>a", "{\"missing )\",6}");
    invalid("a)", &format!("{{\"unmatched parentheses\",\n{spaces}1}}"));
    invalid("a**", "{\"nothing to repeat\",2}");
    invalid("\\", &format!("{{\"\\\\ at end of pattern\",\n{spaces}1}}"));
    Pattern::new(&"a".repeat(5000)).unwrap_err();
}

const CLASSIC: ObjectKind = ObjectKind::Queue(QueueType::Classic);
const QUORUM: ObjectKind = ObjectKind::Queue(QueueType::Quorum);
const STREAM: ObjectKind = ObjectKind::Queue(QueueType::Stream);

#[test]
fn kinds_of_objects() {
    let check = |apply_to: &str, expected: [bool; 4]| {
        let apply_to = ApplyTo::parse(apply_to).unwrap();
        let policy =
            policy(Scope::Policy, "p", "", &json!({"max-length-bytes": 1})).applying_to(apply_to);
        let covered =
            [CLASSIC, QUORUM, STREAM, ObjectKind::Exchange].map(|kind| policy.applies("x", kind));
        assert_eq!(covered, expected, "{apply_to:?}");
    };
    check("all", [true, true, true, true]);
    check("queues", [true, true, true, false]);
    check("classic_queues", [true, false, false, false]);
    check("quorum_queues", [false, true, false, false]);
    check("streams", [false, false, true, false]);
    check("exchanges", [false, false, false, true]);
    assert_eq!(ApplyTo::parse("foo"), None);
}

/// One setting a queue's type does not know keeps the whole policy away.
#[test]
fn settings_of_another_type() {
    let check = |settings: Value, expected: [bool; 3]| {
        let policy = policy(Scope::Policy, "p", "", &settings);
        let applies = [CLASSIC, QUORUM, STREAM].map(|kind| policy.applies("x", kind));
        assert_eq!(applies, expected, "{settings}");
    };
    check(json!({"max-length": 1}), [true, true, false]);
    check(
        json!({"max-length": 1, "delivery-limit": 1}),
        [false, true, false],
    );
    check(
        json!({"max-length": 1, "queue-mode": "lazy"}),
        [true, false, false],
    );
    check(
        json!({"max-length": 1, "max-age": "1D"}),
        [false, false, false],
    );
    check(json!({"max-age": "1D"}), [false, false, true]);
    check(json!({"queue-version": 2}), [true, true, true]);
    check(
        json!({"alternate-exchange": "a", "message-ttl": 1}),
        [true, true, false],
    );
    check(
        json!({"dead-letter-strategy": "at-least-once"}),
        [false, true, false],
    );
    check(json!({"consumer-timeout": 1}), [true, true, true]);
    check(json!({"max-in-memory-length": 1}), [false, true, false]);
    check(json!({"stream-filter-size-bytes": 20}), [true, true, true]);
    check(
        json!({"queue-master-locator": "random"}),
        [true, false, false],
    );

    // A policy for classic queues alone may limit their deliveries.
    let limited = policy(Scope::Policy, "p", "", &json!({"delivery-limit": 1}))
        .applying_to(ApplyTo::ClassicQueues);
    assert!(limited.applies("x", CLASSIC));
}

#[test]
fn the_greatest_priority_applies() {
    let mut set = PolicySet::default();
    for (name, priority) in [("a", 1.0), ("b", 5.0), ("c", 5.0), ("d", 2.5), ("e", -1.0)] {
        set.set(
            policy(Scope::Policy, name, "^q", &json!({"max-length": 1})).with_priority(priority),
        );
    }
    set.set(policy(Scope::Policy, "y", "^other", &json!({"max-length": 2})).with_priority(9.0));
    set.set(policy(Scope::Policy, "z", "", &json!({"delivery-limit": 2})).with_priority(99.0));
    set.set(policy(
        Scope::OperatorPolicy,
        "o",
        "",
        &json!({"expires": 9}),
    ));
    let names = |name, kind| {
        let applied = set.matching(name, kind);
        (
            applied.policy.map(Policy::name),
            applied.operator.map(Policy::name),
        )
    };
    assert_eq!(names("q", CLASSIC), (Some("c"), Some("o")));
    assert_eq!(names("q", QUORUM), (Some("z"), Some("o")));
    assert_eq!(names("other", CLASSIC), (Some("y"), Some("o")));
    assert_eq!(names("nothing", CLASSIC), (None, Some("o")));
    assert_eq!(set.iter().count(), 8);
    assert!(set.clear(Scope::Policy, "c").is_some());
    assert!(set.clear(Scope::Policy, "c").is_none());
    assert!(set.find(Scope::Policy, "b").is_some());
    assert_eq!(
        set.matching("q", CLASSIC).policy.map(Policy::name),
        Some("b")
    );
}

#[test]
fn policy_and_operator_policy() {
    let check = |user: Value, operator: Value, expected: Value| {
        let mut set = PolicySet::default();
        set.set(policy(Scope::Policy, "p", "", &user));
        set.set(policy(Scope::OperatorPolicy, "o", "", &operator));
        let effective = set.matching("q", QUORUM).definition();
        assert_eq!(effective, definition(&expected), "{user} {operator}");
    };
    check(
        json!({"message-ttl": 7, "expires": 70_000, "max-length-bytes": 8, "dead-letter-exchange": "x"}),
        json!({"message-ttl": 9, "expires": 60_000, "max-length-bytes": 7, "max-length": 1}),
        json!({"message-ttl": 7, "expires": 60_000, "max-length-bytes": 7, "max-length": 1, "dead-letter-exchange": "x"}),
    );
    check(
        json!({"overflow": "drop-head", "queue-version": 1}),
        json!({"overflow": "reject-publish", "queue-version": 2}),
        json!({"overflow": "reject-publish", "queue-version": 2}),
    );
    let limit = |user: i64, operator: i64, expected: i64| {
        check(
            json!({"delivery-limit": user}),
            json!({"delivery-limit": operator}),
            json!({"delivery-limit": expected}),
        );
    };
    limit(5, 8, 5);
    limit(8, 5, 5);
    limit(5, -1, 5);
    limit(-1, 5, 5);
    limit(-1, -5, -1);
    limit(0, -1, 0);
    check(
        json!({"target-group-size": 5, "delayed-retry-min": 5, "delayed-retry-max": 5, "delayed-retry-type": "all"}),
        json!({"target-group-size": 3, "delayed-retry-min": 3, "delayed-retry-max": 3, "delayed-retry-type": "failed"}),
        json!({"target-group-size": 5, "delayed-retry-min": 5, "delayed-retry-max": 3, "delayed-retry-type": "failed"}),
    );
}

fn arguments(fields: &[(&str, FieldValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn number(number: i64) -> FieldValue {
    FieldValue::LongLongInt(number)
}

fn word(text: &str) -> FieldValue {
    FieldValue::LongString(text.into())
}

#[test]
fn arguments_and_policies() {
    let mut set = PolicySet::default();
    set.set(policy(
        Scope::Policy,
        "p",
        "^q",
        &json!({"message-ttl": 5000, "max-length": 10, "overflow": "drop-head", "dead-letter-exchange": "theirs",
            "dead-letter-routing-key": "key", "delayed-retry-type": "failed", "consumer-timeout": 1000}),
    ));
    set.set(policy(
        Scope::OperatorPolicy,
        "o",
        "^q",
        &json!({"max-length": 7, "expires": 100, "max-length-bytes": 50}),
    ));
    let declared = arguments(&[
        ("x-message-ttl", number(1000)),
        ("x-max-length", number(9)),
        ("x-overflow", word("reject-publish")),
        ("x-dead-letter-exchange", word("ours")),
        ("x-max-length-bytes", FieldValue::LongInt(50)),
        ("x-expires", word("never")),
        ("x-max-priority", number(5)),
    ]);
    let from = |source, value| Some(Setting { value, source });
    let classic = set.queue_settings("q", QueueType::Classic, &declared);
    assert_eq!(classic.message_ttl_ms, from(Source::Argument, 1000));
    assert_eq!(classic.max_length, from(Source::OperatorPolicy, 7));
    assert_eq!(classic.max_length_bytes, from(Source::Argument, 50));
    assert_eq!(classic.expires_ms, from(Source::OperatorPolicy, 100));
    assert_eq!(classic.consumer_timeout_ms, from(Source::Policy, 1000));
    assert_eq!(classic.delivery_limit, None);
    let overflow = |settings: &QueueSettings| settings.overflow.map(|set| (set.value, set.source));
    assert_eq!(
        overflow(&classic),
        Some((Overflow::RejectPublish, Source::Argument))
    );
    let exchange = classic.dead_letter_exchange.unwrap();
    assert_eq!(
        (exchange.value.as_str(), exchange.source),
        ("ours", Source::Argument)
    );
    let key = classic.dead_letter_routing_key.unwrap();
    assert_eq!((key.value.as_str(), key.source), ("key", Source::Policy));

    let quorum = set.queue_settings("q", QueueType::Quorum, &declared);
    assert_eq!(
        overflow(&quorum),
        Some((Overflow::DropHead, Source::Policy))
    );

    let plain = set.queue_settings("other", QueueType::Classic, &FieldTable::default());
    assert_eq!(plain, QueueSettings::default());
}

#[test]
fn delivery_limits_join_like_limits() {
    let check = |argument: Option<i64>, user: Option<i64>, expected: Option<(i64, Source)>| {
        let mut set = PolicySet::default();
        if let Some(user) = user {
            set.set(policy(
                Scope::Policy,
                "p",
                "",
                &json!({"delivery-limit": user}),
            ));
        }
        let declared = argument.map(|limit| arguments(&[("x-delivery-limit", number(limit))]));
        let settings = set.queue_settings("q", QueueType::Quorum, &declared.unwrap_or_default());
        let limit = settings
            .delivery_limit
            .map(|limit| (limit.value, limit.source));
        assert_eq!(limit, expected, "{argument:?} {user:?}");
    };
    check(None, None, None);
    check(Some(5), None, Some((5, Source::Argument)));
    check(None, Some(5), Some((5, Source::Policy)));
    check(Some(5), Some(3), Some((3, Source::Policy)));
    check(Some(3), Some(5), Some((3, Source::Argument)));
    check(Some(-1), Some(5), Some((5, Source::Policy)));
    check(Some(5), Some(-1), Some((5, Source::Argument)));
}

#[test]
fn alternate_exchanges() {
    let mut set = PolicySet::default();
    set.set(policy(
        Scope::Policy,
        "p",
        "^x",
        &json!({"alternate-exchange": "theirs", "message-ttl": 1}),
    ));
    let check = |name, declared: &FieldTable, expected: Option<(&str, Source)>| {
        let found = set.alternate_exchange(name, declared);
        assert_eq!(
            found.as_ref().map(|set| (set.value.as_str(), set.source)),
            expected
        );
    };
    check(
        "x",
        &FieldTable::default(),
        Some(("theirs", Source::Policy)),
    );
    check("y", &FieldTable::default(), None);
    check(
        "x",
        &arguments(&[("alternate-exchange", word("ours"))]),
        Some(("ours", Source::Argument)),
    );
}

#[test]
fn priorities_are_printed_as_they_came() {
    let printed = |priority: f64| {
        policy(Scope::Policy, "p", "", &json!({"max-length": 1}))
            .with_priority(priority)
            .priority_json()
    };
    assert_eq!(printed(5.0), json!(5));
    assert_eq!(printed(-1.0), json!(-1));
    assert_eq!(printed(2.5), json!(2.5));
    assert_eq!(printed(f64::NAN), json!(0));
    assert_eq!(printed(1e300), json!(1e300));
}
