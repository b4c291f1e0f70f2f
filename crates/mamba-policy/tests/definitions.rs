//! Definitions documents: those RabbitMQ wrote, those of other versions, those that are wrong, and our own.

use std::collections::BTreeSet;

use mamba_auth::HashAlgorithm;
use mamba_policy::{
    About, Credentials, Definitions, DefinitionsError, ExchangeDefinition, Existing,
    QueueDefinition, QueueType, Scope, Step, table_from_json, table_to_json,
};
use mamba_types::FieldValue;
use proptest::prelude::*;
use serde_json::{Value, json};

const CLUSTER: &str = include_str!("data/rabbitmq-4.0.5-cluster.json");
const VHOST: &str = include_str!("data/rabbitmq-4.0.5-vhost.json");
const V: &str = "mamba-policy-test";
const ABOUT: About<'_> = About {
    product_name: "MambaMQ",
    rabbitmq_version: "4.0.5",
    product_version: "0.1.0",
    cluster_name: "rabbit@host",
};

#[track_caller]
fn parse(document: &Value) -> Definitions {
    Definitions::parse(document.to_string().as_bytes())
        .unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The same without the warnings, which are about a document and not part of what it defines.
fn silent(mut definitions: Definitions) -> Definitions {
    definitions.warnings.clear();
    definitions
}

#[test]
fn limits_as_rabbitmqctl_exports_them() {
    // RabbitMQ 4.0.5 writes an object over HTTP, and pairs with its tool.
    for limits in [json!({"max-queues": 7}), json!([["max-queues", 7]])] {
        let read = parse(&json!({"vhosts": [{"name": V, "limits": limits}]}));
        assert_eq!(read.vhost_limits[V]["max-queues"], 7);
    }
    let wrong = json!({"vhosts": [{"name": V, "limits": [["max-queues"]]}]});
    assert!(Definitions::parse(wrong.to_string().as_bytes()).is_err());
}

#[test]
fn an_export_of_the_reference_broker() {
    let read = Definitions::parse(CLUSTER.as_bytes()).unwrap();
    assert_eq!(read.warnings, Vec::<String>::new());

    let user = read.users.iter().find(|user| user.name == "mpt").unwrap();
    assert_eq!(user.tags, ["monitoring", "policymaker"]);
    assert_eq!(user.limits["max-connections"], 5);
    assert!(
        matches!(&user.credentials, Credentials::Hash(hash, HashAlgorithm::Sha256) if hash.len() == 48)
    );
    let empty = read.users.iter().find(|user| user.name == "mpt2").unwrap();
    assert_eq!(empty.credentials, Credentials::None);

    let vhost = read.vhosts.iter().find(|vhost| vhost.name == V).unwrap();
    assert_eq!(vhost.description, "A test");
    assert_eq!(vhost.tags, ["a", "b"]);
    assert_eq!(vhost.default_queue_type, Some(QueueType::Quorum));
    assert_eq!(read.vhost_limits[V]["max-queues"], 50);
    assert_eq!(read.vhost_limits[V]["max-connections"], -1);
    assert_eq!(
        (read.permissions.len(), read.topic_permissions.len()),
        (3, 1)
    );

    let scopes: Vec<_> = read
        .policies
        .iter()
        .map(|known| {
            (
                known.policy.name(),
                known.policy.scope(),
                known.policy.priority(),
            )
        })
        .collect();
    assert_eq!(
        scopes,
        [
            ("ae", Scope::Policy, 0.0),
            ("p", Scope::Policy, 3.0),
            ("op", Scope::OperatorPolicy, 0.0)
        ]
    );

    assert_eq!(read.queues.len(), 5);
    let queue = read.queues.iter().find(|queue| queue.name == "q4").unwrap();
    assert_eq!(
        (queue.queue_type, queue.durable, queue.auto_delete),
        (Some(QueueType::Classic), false, true)
    );
    let argument = |name: &str| queue.arguments.inner().get(name).unwrap();
    assert_eq!(
        argument("my-big"),
        &FieldValue::LongLongInt(9_007_199_254_740_993)
    );
    assert_eq!(argument("my-float"), &FieldValue::Double(1.5));
    assert_eq!(
        argument("x-single-active-consumer"),
        &FieldValue::Boolean(true)
    );
    assert!(matches!(argument("my-table"), FieldValue::FieldTable(_)));
    assert!(matches!(argument("my-array"), FieldValue::FieldArray(_)));
    assert!(
        read.exchanges
            .iter()
            .any(|exchange| exchange.name == "x3" && exchange.internal)
    );
    assert_eq!(read.bindings.len(), 4);
    read.check(&Broker).unwrap();
}

/// What was read from the reference broker and written again is what it wrote, plus the keys other versions have.
#[test]
fn what_is_written_again_is_the_same() {
    let read = Definitions::parse(CLUSTER.as_bytes()).unwrap();
    let written = read.to_json(&ABOUT);
    assert_eq!(Definitions::parse(written.as_bytes()).unwrap(), read);
    let (theirs, ours): (Value, Value) = (
        serde_json::from_str(CLUSTER).unwrap(),
        serde_json::from_str(&written).unwrap(),
    );
    covers(&ours, &theirs, "");

    let vhost = read.to_vhost_json(&ABOUT, V).unwrap();
    let again = Definitions::parse_for_vhost(vhost.as_bytes(), V).unwrap();
    let theirs = Definitions::parse_for_vhost(VHOST.as_bytes(), V).unwrap();
    assert_eq!(again, theirs);
    covers(
        &serde_json::from_str(&vhost).unwrap(),
        &serde_json::from_str(VHOST).unwrap(),
        "",
    );
    assert_eq!(read.to_vhost_json(&ABOUT, "absent"), None);

    let elsewhere = Definitions::parse_for_vhost(VHOST.as_bytes(), "elsewhere").unwrap();
    assert!(
        elsewhere
            .queues
            .iter()
            .all(|queue| queue.vhost == "elsewhere")
    );
    assert_eq!(elsewhere.vhost_limits["elsewhere"]["max-queues"], 50);
}

/// Everything `theirs` says, `ours` says; the head may differ.
#[track_caller]
fn covers(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in theirs {
                let head = [
                    "product_name",
                    "product_version",
                    "original_cluster_name",
                    "explanation",
                ];
                if !head.contains(&key.as_str()) {
                    let ours = ours
                        .get(key)
                        .unwrap_or_else(|| panic!("{at}/{key} is missing"));
                    covers(ours, value, &format!("{at}/{key}"));
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if at.matches('/').count() == 1 => {
            assert_eq!(ours.len(), theirs.len(), "{at}");
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                covers(ours, theirs, &format!("{at}/{index}"));
            }
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

/// The keys of each object and their order, as the document's description has them.
#[test]
fn the_keys_that_are_written() {
    let read = Definitions::parse(CLUSTER.as_bytes()).unwrap();
    let written = read.to_json(&ABOUT);
    assert!(written.starts_with(
        "{\"rabbit_version\":\"4.0.5\",\"rabbitmq_version\":\"4.0.5\",\"product_name\":\"MambaMQ\",\
         \"product_version\":\"0.1.0\",\"rabbitmq_definition_format\":\"cluster\",\
         \"original_cluster_name\":\"rabbit@host\",\"explanation\":\"Definitions of cluster 'rabbit@host'\",\
         \"users\":[{\"name\":\"mpt\",\"password_hash\":"
    ));
    let parsed: Value = serde_json::from_str(&written).unwrap();
    let check = |document: &Value, list: &str, expected: &[&str]| {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        for object in document[list].as_array().unwrap() {
            let keys: BTreeSet<_> = object
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            assert_eq!(keys, expected, "{list}");
        }
    };
    check(
        &parsed,
        "users",
        &[
            "name",
            "password_hash",
            "hashing_algorithm",
            "tags",
            "limits",
        ],
    );
    check(
        &parsed,
        "vhosts",
        &[
            "name",
            "description",
            "tags",
            "default_queue_type",
            "metadata",
            "limits",
        ],
    );
    check(
        &parsed,
        "permissions",
        &["user", "vhost", "configure", "write", "read"],
    );
    check(
        &parsed,
        "topic_permissions",
        &["user", "vhost", "exchange", "write", "read"],
    );
    check(
        &parsed,
        "parameters",
        &["vhost", "component", "name", "value"],
    );
    check(&parsed, "global_parameters", &["name", "value"]);
    check(
        &parsed,
        "policies",
        &[
            "vhost",
            "name",
            "pattern",
            "apply-to",
            "priority",
            "definition",
        ],
    );
    check(
        &parsed,
        "queues",
        &[
            "name",
            "vhost",
            "type",
            "durable",
            "auto_delete",
            "arguments",
        ],
    );
    check(
        &parsed,
        "exchanges",
        &[
            "name",
            "vhost",
            "type",
            "durable",
            "auto_delete",
            "internal",
            "arguments",
        ],
    );
    check(
        &parsed,
        "bindings",
        &[
            "source",
            "vhost",
            "destination",
            "destination_type",
            "routing_key",
            "arguments",
        ],
    );
    let single: Value = serde_json::from_str(&read.to_vhost_json(&ABOUT, V).unwrap()).unwrap();
    check(
        &single,
        "queues",
        &["name", "type", "durable", "auto_delete", "arguments"],
    );
    check(
        &single,
        "policies",
        &["name", "pattern", "apply-to", "priority", "definition"],
    );
    assert_eq!(single["original_vhost_name"], V);
    assert!(single.get("users").is_none() && single.get("permissions").is_none());
}

#[test]
fn long_and_short_forms() {
    let long = json!({"vhosts": [{"name": "v", "description": "d", "tags": ["t"], "default_queue_type": "quorum"}],
        "exchanges": [{"name": "x", "vhost": "v", "type": "topic", "durable": true, "auto_delete": false, "internal": false, "arguments": {}}]});
    let short = json!({"vhosts": [{"name": "v", "limits": [], "metadata": {"description": "d", "tags": ["t"], "default_queue_type": "quorum"}}],
        "exchanges": [{"name": "x", "vhost": "v", "type": "topic"}]});
    assert_eq!(parse(&long), parse(&short));

    let bare = parse(
        &json!({"vhosts": [{"name": "v", "default_queue_type": "undefined", "tracing": false}],
        "queues": [{"name": "q", "vhost": "v"}], "bindings": [{"source": "x", "destination": "q", "vhost": "v"}],
        "unknown": 5}),
    );
    assert_eq!(bare.vhosts[0].default_queue_type, None);
    let queue = &bare.queues[0];
    assert_eq!(
        (queue.durable, queue.auto_delete, queue.queue_type),
        (true, false, None)
    );
    assert_eq!(bare.bindings[0].routing_key, "");
    assert_eq!(parse(&json!({})), Definitions::default());
}

#[test]
fn queue_types() {
    let queue = |fields: Value| {
        let mut queue = json!({"name": "q", "vhost": "/"});
        queue
            .as_object_mut()
            .unwrap()
            .append(&mut fields.as_object().unwrap().clone());
        parse(&json!({"queues": [queue]})).queues[0].queue_type
    };
    assert_eq!(queue(json!({})), None);
    assert_eq!(queue(json!({"type": "quorum"})), Some(QueueType::Quorum));
    assert_eq!(
        queue(json!({"arguments": {"x-queue-type": "stream"}})),
        Some(QueueType::Stream)
    );
    assert_eq!(
        queue(json!({"type": "classic", "arguments": {"x-queue-type": "quorum"}})),
        Some(QueueType::Quorum)
    );
}

#[test]
fn users() {
    let user = |fields: Value, version: &str| {
        let mut user = json!({"name": "u", "tags": ""});
        user.as_object_mut()
            .unwrap()
            .append(&mut fields.as_object().unwrap().clone());
        parse(&json!({"rabbit_version": version, "users": [user]}))
            .users
            .remove(0)
    };
    assert_eq!(user(json!({}), "4.0.5").credentials, Credentials::None);
    assert_eq!(
        user(json!({"password": "p"}), "4.0.5").credentials,
        Credentials::Password("p".to_owned())
    );
    let hashed = |fields, version| match user(fields, version).credentials {
        Credentials::Hash(_, algorithm) => algorithm,
        other => panic!("{other:?}"),
    };
    let hash = json!({"password_hash": "AAAA"});
    assert_eq!(hashed(hash.clone(), "4.0.5"), HashAlgorithm::Sha256);
    assert_eq!(hashed(hash.clone(), ""), HashAlgorithm::Sha256);
    assert_eq!(hashed(hash.clone(), "3.6.0"), HashAlgorithm::Sha256);
    assert_eq!(hashed(hash, "3.5.7"), HashAlgorithm::Md5);
    assert_eq!(
        hashed(
            json!({"password_hash": "AAAA", "hashing_algorithm": "rabbit_password_hashing_sha512"}),
            "3.5.7"
        ),
        HashAlgorithm::Sha512
    );
    assert_eq!(user(json!({"tags": "a, b,,c"}), "").tags, ["a", "b", "c"]);
    assert_eq!(user(json!({"tags": ["a", "b"]}), "").tags, ["a", "b"]);
}

#[test]
fn what_is_left_out() {
    let read = parse(&json!({
        "queues": [{"name": "amq.gen-1", "vhost": "/"}, {"name": "q", "vhost": "/"}],
        "exchanges": [{"name": "", "vhost": "/", "type": "direct"}, {"name": "amq.topic", "vhost": "/", "type": "topic"}],
        "bindings": [{"source": "", "vhost": "/", "destination": "q", "destination_type": "queue", "routing_key": "q"},
            {"source": "amq.topic", "vhost": "/", "destination": "q", "destination_type": "queue", "routing_key": "k"}],
        "policies": [{"vhost": "/", "name": "ha", "pattern": "", "definition": {"ha-mode": "all", "ha-sync-mode": "automatic"}},
            {"vhost": "/", "name": "mixed", "pattern": "", "definition": {"ha-mode": "all", "max-length": 1}}],
        "parameters": [{"vhost": "/", "component": "shovel", "name": "s", "value": {"src-uri": "amqp://"}}],
        "global_parameters": [{"name": "x"}, {"name": "internal_cluster_id", "value": "rabbitmq-cluster-id-8i4v15"}],
    }));
    assert_eq!(
        (read.queues.len(), read.exchanges.len(), read.bindings.len()),
        (1, 0, 1)
    );
    assert_eq!(read.policies.len(), 1);
    assert_eq!(read.parameters.len(), 1);
    assert_eq!(read.global_parameters, []);
    assert_eq!(
        read.warnings,
        [
            "exchanges[0] '' in vhost '/' was left out: every virtual host has its own",
            "exchanges[1] 'amq.topic' in vhost '/' was left out: every virtual host has its own",
            "policies[0] 'ha' in vhost '/': setting ha-mode was left out: this broker has neither mirrored queues nor federation",
            "policies[0] 'ha' in vhost '/': setting ha-sync-mode was left out: this broker has neither mirrored queues nor federation",
            "policies[0] 'ha' in vhost '/' was left out: no setting remains",
            "policies[1] 'mixed' in vhost '/': setting ha-mode was left out: this broker has neither mirrored queues nor federation",
            "parameters[0] 's' in vhost '/' was kept, but does nothing: this broker has no shovel",
            "queues[0] 'amq.gen-1' in vhost '/' was left out: its name is reserved",
            "bindings[0] from '' to 'q' in vhost '/' was left out: every queue is bound to the default exchange",
        ]
    );
}

#[track_caller]
fn refused(document: &Value, expected: &str) {
    let error = Definitions::parse(document.to_string().as_bytes()).expect_err(expected);
    assert_eq!(error.to_string(), expected);
}

#[test]
fn complaints_name_the_object() {
    for (document, expected) in [
        (json!({"queues": 5}), "queues: a list was expected, found 5"),
        (
            json!({"queues": [5]}),
            "queues[0]: an object was expected, found 5",
        ),
        (
            json!({"queues": [{"vhost": "/"}]}),
            "queues[0]: name is missing",
        ),
        (
            json!({"queues": [{"name": 5, "vhost": "/"}]}),
            "queues[0]: name: a string was expected, found 5",
        ),
        (
            json!({"queues": [{"name": "", "vhost": "/"}]}),
            "queues[0] '' in vhost '/': a name was expected",
        ),
        (
            json!({"queues": [{"name": "q"}]}),
            "queues[0] 'q': invalid_definitions_file: vhost is missing",
        ),
        (
            json!({"rabbitmq_definition_format": "single_virtual_host", "queues": [{"name": "q"}]}),
            "queues[0] 'q': invalid_definitions_file: it names no vhost, as this is the export of a single virtual host; \
             import it into one",
        ),
        (
            json!({"queues": [{"name": "a", "vhost": "/"}, {"name": "orders", "vhost": "/", "arguments": {"x-n": null}}]}),
            "queues[1] 'orders' in vhost '/': argument x-n: null_not_allowed",
        ),
        (
            json!({"queues": [{"name": "q", "vhost": "/", "arguments": {"a": {"b": [1, null]}}}]}),
            "queues[0] 'q' in vhost '/': argument a: argument b: null_not_allowed",
        ),
        (
            json!({"queues": [{"name": "q", "vhost": "/", "arguments": {"x-max-length": 9_223_372_036_854_775_808_u64}}]}),
            "queues[0] 'q' in vhost '/': argument x-max-length: a whole number between -9223372036854775808 and \
             9223372036854775807 was expected, found 9223372036854775808",
        ),
        (
            json!({"queues": [{"name": "q", "vhost": "/", "arguments": 5}]}),
            "queues[0] 'q' in vhost '/': arguments: an object was expected, found 5",
        ),
        (
            json!({"queues": [{"name": "q", "vhost": "/", "durable": "x"}]}),
            "queues[0] 'q' in vhost '/': durable: true or false was expected, found \"x\"",
        ),
        (
            json!({"queues": [{"name": "q", "vhost": "/", "type": "foo"}]}),
            "queues[0] 'q' in vhost '/': unsupported queue type 'foo'",
        ),
        (
            json!({"exchanges": [{"name": "x", "vhost": "/"}]}),
            "exchanges[0] 'x' in vhost '/': type is missing",
        ),
        (
            json!({"bindings": [{"source": "x", "destination": "q", "vhost": "/", "destination_type": "foo"}]}),
            "bindings[0] from 'x' to 'q' in vhost '/': destination_type: queue or exchange was expected, found \"foo\"",
        ),
        (
            json!({"bindings": [{"source": "x", "vhost": "/"}]}),
            "bindings[0]: destination is missing",
        ),
        (json!({"vhosts": [{}]}), "vhosts[0]: name is missing"),
        (
            json!({"vhosts": [{"name": "v", "limits": {"max-foo": 1}}]}),
            "vhosts[0] 'v': limits: max-connections and max-queues were expected, found max-foo",
        ),
        (
            json!({"users": [{"name": "u"}]}),
            "users[0] 'u': tags_not_present: tags must be there, if only as an empty list",
        ),
        (
            json!({"users": [{"name": "u", "tags": "", "password_hash": "zz"}]}),
            "users[0] 'u': password_hash: not_base64",
        ),
        (
            json!({"users": [{"name": "u", "tags": "", "password_hash": "AAAA", "hashing_algorithm": "foo"}]}),
            "users[0] 'u': hashing_algorithm: rabbit_password_hashing_sha256, rabbit_password_hashing_sha512 or \
             rabbit_password_hashing_md5 was expected, found \"foo\"",
        ),
        (
            json!({"permissions": [{"user": "u", "vhost": "/", "configure": "(", "write": "", "read": ""}]}),
            "permissions[0]: configure: pattern should be regular expression but is invalid: {\"missing )\",1}",
        ),
        (
            json!({"policies": [{"vhost": "/", "name": "p", "pattern": "(", "definition": {"max-length": -1}}]}),
            "policies[0] 'p' in vhost '/': -1 is not a valid maximum length; \
             pattern should be regular expression but is invalid: {\"missing )\",1}",
        ),
        (
            json!({"parameters": [{"vhost": "/", "component": "foo", "name": "a", "value": 1}]}),
            "parameters[0] 'a' in vhost '/': component foo not found",
        ),
        (
            json!({"parameters": [{"vhost": "/", "component": "operator_policy", "name": "o",
                "value": {"pattern": "", "definition": {"dead-letter-exchange": "x"}}}]}),
            "parameters[0] 'o' in vhost '/': [{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings",
        ),
    ] {
        refused(&document, expected);
    }
    refused(&json!([]), "not_json: an object was expected at the top");
    let error = Definitions::parse(b"{").unwrap_err();
    assert!(error.to_string().starts_with("not_json: EOF"), "{error}");
    let deep = "[".repeat(100_000);
    assert!(matches!(
        Definitions::parse(deep.as_bytes()),
        Err(DefinitionsError::NotJson(_))
    ));
}

/// A broker that has one of each and takes any queue but one.
struct Broker;

impl Existing for Broker {
    fn vhost(&self, name: &str) -> bool {
        name == "/"
    }

    fn user(&self, name: &str) -> bool {
        name == "guest"
    }

    fn queue(&self, _vhost: &str, name: &str) -> bool {
        name == "here"
    }

    fn exchange(&self, _vhost: &str, name: &str) -> bool {
        name == "here"
    }

    fn check_queue(&self, queue: &QueueDefinition) -> Result<(), String> {
        match queue.arguments.inner().get("x-max-length") {
            Some(FieldValue::LongString(_)) => {
                Err("argument x-max-length: \"expected integer, got longstr\"".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn check_exchange(&self, exchange: &ExchangeDefinition) -> Result<(), String> {
        if exchange.kind == "nope" {
            return Err("unknown exchange type 'nope'".to_owned());
        }
        Ok(())
    }
}

#[test]
fn what_a_broker_cannot_take() {
    let check = |document: Value, expected: &str| {
        let outcome = parse(&document)
            .check(&Broker)
            .err()
            .map(|error| error.to_string());
        assert_eq!(
            outcome.as_deref().unwrap_or_default(),
            expected,
            "{document}"
        );
    };
    let missing = "Please create virtual host \"v\" prior to importing definitions.";
    check(json!({"queues": [{"name": "q", "vhost": "v"}]}), missing);
    check(
        json!({"exchanges": [{"name": "q", "vhost": "v", "type": "direct"}]}),
        missing,
    );
    check(
        json!({"policies": [{"name": "q", "vhost": "v", "pattern": "", "definition": {"expires": 1}}]}),
        missing,
    );
    check(
        json!({"queues": [{"name": "q", "vhost": "v"}], "vhosts": [{"name": "v"}]}),
        "",
    );
    check(
        json!({"queues": [{"name": "a", "vhost": "/"}, {"name": "orders", "vhost": "/", "arguments": {"x-max-length": "5"}}]}),
        "queues[1] 'orders' in vhost '/': argument x-max-length: \"expected integer, got longstr\"",
    );
    check(
        json!({"exchanges": [{"name": "x", "vhost": "/", "type": "nope"}]}),
        "exchanges[0] 'x' in vhost '/': unknown exchange type 'nope'",
    );
    let binding = |source: &str, destination: &str, kind: &str| {
        json!({"bindings": [{"source": source, "destination": destination, "destination_type": kind, "vhost": "/"}],
            "queues": [{"name": "q", "vhost": "/"}], "exchanges": [{"name": "x", "vhost": "/", "type": "direct"}]})
    };
    check(binding("x", "q", "queue"), "");
    check(binding("here", "here", "queue"), "");
    check(binding("amq.topic", "x", "exchange"), "");
    check(
        binding("absent", "q", "queue"),
        "bindings[0] from 'absent' to 'q' in vhost '/': no exchange 'absent' in vhost '/'",
    );
    check(
        binding("x", "x", "queue"),
        "bindings[0] from 'x' to 'x' in vhost '/': no queue 'x' in vhost '/'",
    );
    check(
        binding("x", "q", "exchange"),
        "bindings[0] from 'x' to 'q' in vhost '/': no exchange 'q' in vhost '/'",
    );
    let permission = |user: &str| json!({"permissions": [{"user": user, "vhost": "/", "configure": "", "write": "", "read": ""}]});
    check(permission("guest"), "");
    check(
        permission("nobody"),
        "permissions[0] in vhost '/': there is no user 'nobody'",
    );
}

#[test]
fn steps_come_in_an_order_in_which_they_can_be_made() {
    let read = Definitions::parse(CLUSTER.as_bytes()).unwrap();
    let mut order: Vec<&str> = read
        .steps()
        .map(|step| match step {
            Step::User(_) => "user",
            Step::VirtualHost(_) => "vhost",
            Step::Permission(_) => "permission",
            Step::Exchange(_) => "exchange",
            Step::TopicPermission(_) => "topic permission",
            Step::GlobalParameter(_) => "global parameter",
            Step::Policy(_) => "policy",
            Step::Parameter(_) => "parameter",
            Step::Limits { .. } => "limits",
            Step::Queue(_) => "queue",
            Step::Binding(_) => "binding",
        })
        .collect();
    order.dedup();
    assert_eq!(
        order,
        [
            "user",
            "vhost",
            "permission",
            "exchange",
            "topic permission",
            "global parameter",
            "policy",
            "limits",
            "queue",
            "binding"
        ]
    );
}

#[test]
fn credentials_are_not_printed() {
    let read = parse(&json!({"users": [{"name": "u", "tags": "", "password": "secret"}]}));
    assert!(!format!("{read:?}").contains("secret"));
    assert!(!read.to_json(&ABOUT).contains("secret"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z(*.é]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{0,4}", inner, 0..3)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// Puts `new` in the place of the node that is reached by the path, each step counted modulo what there is.
fn replace(node: &mut Value, path: &[usize], new: Value) {
    let Some((step, rest)) = path.split_first() else {
        *node = new;
        return;
    };
    let inner = match node {
        Value::Array(items) if !items.is_empty() => {
            let index = step % items.len();
            &mut items[index]
        }
        Value::Object(fields) if !fields.is_empty() => {
            let index = step % fields.len();
            fields
                .values_mut()
                .nth(index)
                .expect("index is below the length")
        }
        _ => {
            *node = new;
            return;
        }
    };
    replace(inner, rest, new);
}

proptest! {
    #[test]
    fn no_document_panics_and_what_is_read_can_be_written(
        path in prop::collection::vec(any::<usize>(), 1..6), new in any_json(),
    ) {
        let mut document: Value = serde_json::from_str(CLUSTER).unwrap();
        replace(&mut document, &path, new);
        let text = document.to_string();
        let _ = Definitions::parse_for_vhost(text.as_bytes(), "v");
        if let Ok(read) = Definitions::parse(text.as_bytes()) {
            let written = read.to_json(&ABOUT);
            let again = Definitions::parse(written.as_bytes()).unwrap();
            let _ = read.check(&Broker);
            prop_assert_eq!(again.steps().count() , read.steps().count());
            prop_assert_eq!(silent(Definitions::parse(again.to_json(&ABOUT).as_bytes()).unwrap()), silent(again));
        }
    }

    #[test]
    fn tables_come_back(fields in prop::collection::btree_map("[a-z]{0,8}", any_json(), 0..4)) {
        let fields = fields.into_iter().collect();
        if let Ok(table) = table_from_json(&fields) {
            prop_assert_eq!(table_to_json(&table), fields);
        }
    }

    #[test]
    fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Definitions::parse(&octets);
    }
}
