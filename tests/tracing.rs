//! The firehose and the event exchange. The firehose's tests hold for RabbitMQ as well (`MAMBAMQ_TEST_URL`, `MAMBAMQ_TEST_CTL`).

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test"
)]

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use support::{
    Broker, Channel, Client, Content, Options, Value, array, broker, confirm_select,
    ctl::{Vhost, ctl_on, refused_on, run},
    elsewhere, headers,
    http::Api,
    int, long, queue_delete, table, text, tx_commit, tx_rollback, tx_select,
};

/// How long a copy or an event may be on its way.
const PATIENCE: Duration = Duration::from_secs(20);

/// The next message of a queue that others fill.
#[track_caller]
fn next(channel: &Channel, queue: &str) -> Content {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(content) = channel.get(queue, "no_ack") {
            return content;
        }
        assert!(Instant::now() < until, "nothing came to {queue}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A traced virtual host with a queue `copies` for all copies, and a queue `q`.
fn traced(vhost: &Vhost<'_>) -> Client {
    vhost.ctl(&["trace_on"]);
    let client = vhost.connect();
    let channel = client.channel(1);
    channel.queue("copies", "", table([]));
    channel.bind("copies", "amq.rabbitmq.trace", "#");
    channel.queue("q", "", table([]));
    client
}

#[track_caller]
fn said(copy: &Content, expected: &[(&str, Value)]) {
    for (name, value) in expected {
        assert_eq!(copy.header(name).as_ref(), Some(value), "{name}");
    }
}

fn list<const N: usize>(items: [&str; N]) -> Value {
    array(items.map(text).into())
}

#[test]
fn a_publish_is_copied_with_all_about_it() {
    let vhost = Vhost::new();
    let client = traced(&vhost);
    let (channel, watcher) = (client.channel(2), client.channel(3));
    channel.queue("other", "", table([]));
    let properties = headers([("CC", list(["other"])), ("BCC", list(["q"])), ("n", int(1))])
        .with_content_type("text/plain".into())
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_expiration("60000".into())
        .with_timestamp(5_000_000_000)
        .with_user_id("guest".into());
    channel.publish_with("", "q", "", &properties, "body");
    let copy = next(&watcher, "copies");
    assert_eq!(copy.exchange, "amq.rabbitmq.trace");
    assert_eq!(copy.key, "publish.");
    assert_eq!(copy.text(), "body");
    assert_eq!(copy.properties.delivery_mode(), &None);
    let described = table([
        ("content_type", text("text/plain")),
        ("delivery_mode", int(2)),
        ("priority", int(3)),
        ("correlation_id", text("c")),
        ("expiration", text("60000")),
        // 32 bits of it.
        ("timestamp", int(705_032_704)),
        ("user_id", text("guest")),
        (
            "headers",
            Value::FieldTable(table([("CC", list(["other"])), ("n", int(1))])),
        ),
    ]);
    said(
        &copy,
        &[
            ("exchange_name", text("")),
            ("routing_keys", list(["q", "other", "q"])),
            ("properties", Value::FieldTable(described)),
            ("vhost", text(vhost.name)),
            ("channel", int(2)),
            ("user", text("guest")),
        ],
    );
    let connection = copy.header("connection").unwrap();
    let listed = vhost.ctl(&["list_vhosts", "name", "tracing"]);
    assert!(
        listed.contains(&format!("{}\ttrue", vhost.name)),
        "{listed}"
    );
    assert!(matches!(&connection, Value::LongString(name) if name.to_string().contains(" -> ")));
    assert!(copy.header("node").is_some());
    let Some(Value::FieldArray(queues)) = copy.header("routed_queues") else {
        panic!("{copy:?}");
    };
    let mut queues = queues.as_slice().to_vec();
    queues.sort_by_key(|queue| format!("{queue:?}"));
    assert_eq!(queues, [text("other"), text("q")]);
}

#[test]
fn deliveries_are_copied_and_copies_are_not() {
    let vhost = Vhost::new();
    let client = traced(&vhost);
    let (channel, watcher) = (client.channel(2), client.channel(3));
    channel.exchange("fan", "fanout");
    channel.bind("q", "fan", "");
    channel.publish("fan", "key", "one");
    assert_eq!(next(&watcher, "copies").key, "publish.fan");

    let got = channel.get("q", "").unwrap();
    let copy = next(&watcher, "copies");
    assert_eq!(
        (copy.key.as_str(), copy.text()),
        ("deliver.q", "one".into())
    );
    said(
        &copy,
        &[
            ("exchange_name", text("fan")),
            ("routing_keys", list(["key"])),
            ("redelivered", int(0)),
            ("channel", int(2)),
        ],
    );
    assert_eq!(copy.header("routed_queues"), None);

    channel.send(&support::nack(got.tag, "requeue"));
    channel.consume("q", "taker", "no_ack");
    assert!(channel.delivery().redelivered);
    let copy = next(&watcher, "copies");
    assert_eq!(copy.key, "deliver.q");
    said(&copy, &[("redelivered", int(1))]);

    // A consumer of copies is not copied either.
    let copies = client.channel(4);
    copies.consume("copies", "watcher", "no_ack");
    channel.publish("fan", "", "two");
    assert_eq!(channel.delivery().text(), "two");
    let keys = [copies.delivery().key, copies.delivery().key];
    assert_eq!(keys, ["publish.fan", "deliver.q"]);
    copies.expect_nothing();
}

#[test]
fn what_is_not_routed_or_not_committed_is_copied_too() {
    let vhost = Vhost::new();
    let client = traced(&vhost);
    let (channel, watcher) = (client.channel(2), client.channel(3));
    channel.publish("amq.direct", "nowhere", "lost");
    let copy = next(&watcher, "copies");
    assert_eq!(copy.key, "publish.amq.direct");
    said(&copy, &[("routed_queues", list([]))]);

    channel.call(&tx_select());
    channel.publish("", "q", "undone");
    channel.call(&tx_rollback());
    assert_eq!(next(&watcher, "copies").text(), "undone");
    channel.publish("", "q", "done");
    channel.call(&tx_commit());
    assert_eq!(next(&watcher, "copies").text(), "done");
    assert_eq!(channel.drain("q"), ["done"]);
}

#[test]
fn tracing_ends_and_begins_for_connections_that_are_open() {
    let vhost = Vhost::new();
    let client = traced(&vhost);
    let channel = client.channel(2);
    channel.call(&confirm_select());
    let watcher = client.channel(3);
    let mut count = 0;
    let mut put = |body: &str| {
        count += 1;
        channel.publish("", "q", body);
        assert!(channel.confirms(count, count)[&count]);
    };
    put("one");
    assert_eq!(next(&watcher, "copies").text(), "one");
    vhost.ctl(&["trace_off"]);
    put("two");
    vhost.ctl(&["trace_on"]);
    put("three");
    assert_eq!(next(&watcher, "copies").text(), "three");
    assert!(watcher.get("copies", "no_ack").is_none());
}

#[test]
fn a_virtual_host_is_traced_by_the_http_api_and_after_a_restart() {
    let broker = Broker::start(&[]);
    let api = Api::new(broker.management, "guest", "guest");
    assert_eq!(api.put("/vhosts/%2F", r#"{"tracing":true}"#).status, 204);
    assert_eq!(api.get("/vhosts/%2F").json()["tracing"], true);
    refused_on(Some(&broker), 65, &["trace_on", "-p", "nowhere"]);
    let broker = broker.restart();
    let client = Client::to(&broker);
    let channel = client.channel(1);
    channel.queue("copies", "", table([]));
    channel.bind("copies", "amq.rabbitmq.trace", "publish.#");
    channel.publish("", "copies", "once");
    let bodies = [next(&channel, "copies"), next(&channel, "copies")].map(|copy| copy.key);
    assert!(bodies.contains(&"publish.".to_owned()), "{bodies:?}");
    // What the API publishes and gets passes there as well.
    let api = Api::new(broker.management, "guest", "guest");
    api.post(
        "/exchanges/%2F/amq.default/publish",
        r#"{"properties":{},"routing_key":"none","payload":"by hand","payload_encoding":"string"}"#,
    );
    let copy = next(&channel, "copies");
    assert_eq!(copy.text(), "by hand");
    said(&copy, &[("user", text("guest")), ("channel", int(1))]);
    drop(channel);
    client.close();
}

/// Events by name, with their headers as text, until `last` has come.
fn events(channel: &Channel, last: &str) -> Vec<(String, BTreeMap<String, Value>)> {
    let mut events = Vec::new();
    loop {
        let event = next(channel, "events");
        assert_eq!(event.exchange, "amq.rabbitmq.event");
        assert_eq!(event.properties.delivery_mode(), &Some(2));
        assert!(event.properties.timestamp().is_some());
        assert!(matches!(
            event.header("timestamp_in_ms"),
            Some(Value::LongLongInt(_))
        ));
        let headers = event.properties.headers().clone().unwrap();
        let headers = headers
            .inner()
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()));
        let name = event.key.clone();
        events.push((name.clone(), headers.collect()));
        if name == last {
            return events;
        }
    }
}

/// A broker with events and these other settings, on this folder.
fn with_events(folder: std::path::PathBuf, more: &str) -> Broker {
    let config = folder.with_extension("toml");
    std::fs::write(&config, format!("[events]\nenabled = true\n{more}")).unwrap();
    Broker::start_on(folder, &["--config", config.to_str().unwrap()])
}

fn watching() -> (Broker, Client) {
    let broker = with_events(broker::fresh_folder(), "");
    let client = Client::to(&broker);
    let channel = client.channel(1);
    channel.queue("events", "durable", table([]));
    channel.bind("events", "amq.rabbitmq.event", "#");
    drop(channel);
    (broker, client)
}

#[track_caller]
fn names(events: &[(String, BTreeMap<String, Value>)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn what_clients_do_is_told() {
    if elsewhere("its plugin is not enabled") {
        return;
    }
    let (broker, watcher) = watching();
    let channel = watcher.channel(2);
    let told = events(&channel, "channel.created");
    assert_eq!(names(&told), ["binding.created", "channel.created"]);

    let client = Client::to(&broker);
    let own = client.channel(1);
    own.queue("q", "durable", table([("x-max-length", int(5))]));
    own.exchange("e", "topic");
    own.bind("q", "e", "k.*");
    own.consume("q", "taker", "");
    own.call(&queue_delete("q", ""));
    own.close();
    drop(own);
    client.close();
    let told = events(&channel, "connection.closed");
    assert_eq!(
        names(&told),
        [
            "user.authentication.success",
            "connection.created",
            "channel.created",
            "queue.created",
            "exchange.created",
            "binding.created",
            "consumer.created",
            // It was an auto-delete exchange.
            "exchange.deleted",
            "binding.deleted",
            "queue.deleted",
            "consumer.deleted",
            "channel.closed",
            "connection.closed",
        ]
    );
    let said = |at: usize, name: &str| told[at].1.get(name).cloned().unwrap();
    assert_eq!(said(0, "auth_mechanism"), text("PLAIN"));
    assert_eq!(said(0, "peer_host"), text("{127,0,0,1}"));
    assert_eq!(said(1, "user"), text("guest"));
    assert_eq!(said(1, "name"), said(12, "name"));
    assert_eq!(said(3, "durable"), support::boolean(true));
    assert_eq!(said(3, "user_who_performed_action"), text("guest"));
    let Value::FieldArray(arguments) = said(3, "arguments") else {
        panic!()
    };
    assert!(
        arguments
            .as_slice()
            .contains(&text("{<<\"x-max-length\">>,signedint,5}"))
    );
    assert_eq!(said(5, "routing_key"), text("k.*"));
    assert_eq!(said(6, "consumer_tag"), text("taker"));

    // Somebody who is not let in.
    let stranger = Client::bare(Some(broker.amqp));
    let options = Options {
        password: "wrong",
        ..Options::default()
    };
    stranger.begin();
    stranger.send(
        0,
        &support::start_ok(table([]), "PLAIN", &options.plain_response()),
    );
    let told = events(&channel, "user.authentication.failure");
    assert_eq!(
        told[0].1["error"],
        text("user 'guest' - invalid credentials")
    );
    stranger.vanish();
}

#[test]
fn what_operators_do_is_told() {
    if elsewhere("its plugin is not enabled") {
        return;
    }
    let (broker, watcher) = watching();
    let channel = watcher.channel(2);
    events(&channel, "channel.created");
    let ctl = |words: &[&str]| drop(ctl_on(Some(&broker), words));
    ctl(&["add_user", "ann", "secret"]);
    ctl(&["set_user_tags", "ann", "monitoring"]);
    ctl(&["set_permissions", "ann", "a", "b", "c"]);
    ctl(&[
        "set_policy",
        "short",
        "^x",
        r#"{"max-length":3}"#,
        "--priority",
        "2",
    ]);
    ctl(&["clear_policy", "short"]);
    ctl(&["set_vhost_limits", r#"{"max-queues":50}"#]);
    ctl(&["clear_permissions", "ann"]);
    let api = Api::new(broker.management, "guest", "guest");
    assert_eq!(api.delete("/users/ann").status, 204);
    let told = events(&channel, "user.deleted");
    assert_eq!(
        names(&told),
        [
            "user.created",
            "user.tags.set",
            "permission.created",
            "policy.set",
            "policy.cleared",
            "vhost.limits.set",
            "permission.deleted",
            "user.deleted",
        ]
    );
    let said = |at: usize, name: &str| told[at].1.get(name).cloned().unwrap();
    assert_eq!(said(0, "user_who_performed_action"), text("rmq-cli"));
    assert_eq!(said(1, "tags"), list(["monitoring"]));
    assert_eq!(said(2, "configure"), text("a"));
    assert_eq!(said(3, "priority"), long(2));
    assert_eq!(
        said(3, "definition"),
        Value::FieldTable(table([("max-length", long(3))]))
    );
    assert_eq!(said(5, "max-queues"), long(50));
    assert_eq!(said(7, "user_who_performed_action"), text("guest"));
    // No secret is ever told.
    assert!(!format!("{told:?}").contains("secret"));

    ctl(&["add_vhost", "v"]);
    ctl(&["delete_vhost", "v"]);
    let told = events(&channel, "vhost.deleted");
    let count = |name: &str| names(&told).iter().filter(|told| **told == name).count();
    assert_eq!(count("exchange.created"), 7);
    assert_eq!(count("exchange.deleted"), 7);
    assert_eq!(count("vhost.created"), 1);
}

#[test]
fn alarms_are_told_and_bindings_stay_and_all_is_off_by_default() {
    let (broker, watcher) = watching();
    watcher.close();
    // The exchange is there again, and the durable binding with it.
    let broker = with_events(
        broker.kill(),
        "[alarms]\nmemory_high_watermark = \"1MiB\"\n",
    );
    let client = Client::to(&broker);
    let channel = client.channel(1);
    let told = events(&channel, "alarm.set");
    assert_eq!(told.last().unwrap().1["source"], text("memory"));
    drop(channel);
    client.close();

    let quiet = Broker::start(&[]);
    let client = Client::to(&quiet);
    let channel = client.channel(1);
    channel.queue("q", "", table([]));
    channel.send(&support::queue_bind(
        "q",
        "amq.rabbitmq.event",
        "#",
        table([]),
    ));
    let answer = format!("{:?}", channel.method());
    assert!(answer.contains("404"), "{answer}");
}

#[test]
fn the_log_level_changes_while_the_broker_runs() {
    let broker = Broker::start(&[]);
    let connect = || Client::to(&broker).close();
    connect();
    assert!(!broker.log().contains("connection accepted"));
    ctl_on(Some(&broker), &["set_log_level", "debug"]);
    connect();
    support::eventually("debug lines", || {
        broker.log().contains("connection accepted")
    });
    ctl_on(Some(&broker), &["set_log_level", "error,mamba_store=info"]);
    let before = broker.log().matches("logged in").count();
    connect();
    assert_eq!(broker.log().matches("logged in").count(), before);
    refused_on(Some(&broker), 69, &["set_log_level", "verbose"]);
    let words = run(Some(&broker), &["set_log_level", "none"]);
    assert_eq!(
        String::from_utf8(words.stdout).unwrap(),
        "Setting log level to \"none\" ...\n"
    );
}
