//! What is counted, on the metrics pages and in the management API: that it is there under RabbitMQ's names, and right.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::{
    Broker, Channel, Client, Options, ack, confirm_select, elsewhere, eventually, exchange_declare,
    get, http::Api, int, nack, persistent, plain, qos, table, text,
};

/// A broker of its own, and its API.
fn broker() -> Option<(Broker, Api)> {
    if elsewhere("our own endpoints") {
        return None;
    }
    let broker = Broker::start(&[]);
    let api = Api::new(broker.management, "guest", "guest");
    Some((broker, api))
}

/// The series of a page: name, labels, value.
#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A page whose every line was read.
#[derive(Clone, Debug)]
struct Page {
    series: Vec<Series>,
    types: BTreeMap<String, String>,
}

impl Page {
    #[track_caller]
    fn of(broker: &Broker, path: &str) -> Self {
        let (status, body) = broker.http(path);
        assert_eq!(status, "200", "{path}: {body}");
        Self::parse(&body)
    }

    /// Reads every line, as strictly as the format is written.
    #[track_caller]
    fn parse(body: &str) -> Self {
        let mut page = Self {
            series: Vec::new(),
            types: BTreeMap::new(),
        };
        let (mut helped, mut current) = (BTreeSet::new(), String::new());
        let mut known = BTreeSet::new();
        assert!(body.ends_with('\n'), "the last line has no end");
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert!(
                    ["counter", "gauge", "histogram", "summary"].contains(&kind),
                    "{line}"
                );
                assert!(helped.contains(name), "{line}");
                let before = page.types.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "twice: {line}");
                current = name.to_owned();
            } else {
                let series = read_series(line);
                // All series of a family stand together, behind its lines.
                let family = series.name.strip_prefix(current.as_str());
                let suffixes: &[&str] = match page.types[&current].as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "summary" => &["_sum", "_count"],
                    _ => &[""],
                };
                assert!(
                    family.is_some_and(|suffix| suffixes.contains(&suffix)),
                    "{line}"
                );
                assert!(
                    known.insert(line.rsplit_once(' ').expect(line).0.to_owned()),
                    "twice: {line}"
                );
                page.series.push(series);
            }
        }
        page
    }

    /// The value of the only series with this name and these labels among its own.
    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = self.find(name, labels).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0].value
    }

    fn find<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| {
            let has = |(label, value): &(&str, &str)| {
                series.labels.get(*label).is_some_and(|own| own == value)
            };
            series.name == name && labels.iter().all(has)
        })
    }
}

#[track_caller]
fn read_series(line: &str) -> Series {
    let (key, value) = line.rsplit_once(' ').expect(line);
    let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
    let mut rest = labels.strip_suffix('}').expect(line);
    let mut read = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").expect(line);
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().expect(line) {
                (at, '"') => break at,
                (_, '\\') => match characters.next().expect(line).1 {
                    'n' => value.push('\n'),
                    other @ ('\\' | '"') => value.push(other),
                    other => panic!("\\{other} in {line}"),
                },
                (_, other) => value.push(other),
            }
        };
        assert!(read.insert(label.to_owned(), value).is_none(), "{line}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Series {
        name: name.to_owned(),
        labels: read,
        value: value.parse().expect(line),
    }
}

/// Work of every sort in a virtual host, and the connection that did it, still open.
fn traffic(broker: &Broker, api: &Api, vhost: &'static str) -> Client {
    assert_eq!(api.put(&format!("/vhosts/{vhost}"), "").status, 201);
    let options = Options {
        address: Some(broker.amqp),
        virtual_host: vhost,
        ..Options::default()
    };
    let client = Client::with(&options);
    let channel = client.channel(1);
    channel.call(&confirm_select());
    channel.call(&exchange_declare("x", "direct", "durable", table([])));
    channel.queue(
        "classic",
        "durable",
        table([("x-queue-type", text("classic"))]),
    );
    channel.queue(
        "quorum",
        "durable",
        table([("x-queue-type", text("quorum"))]),
    );
    for queue in ["classic", "quorum"] {
        channel.bind(queue, "x", "k");
    }
    let dated = persistent().with_timestamp(1_500_000_000);
    for _ in 0..5 {
        channel.publish_with("x", "k", "", &dated, "12345678");
    }
    channel.publish_with("x", "nobody", "mandatory", &plain(), "x");
    channel.publish("x", "nobody", "x");
    channel.confirms(1, 7);
    assert!(channel.get("classic", "no_ack").is_some());
    let consumer = client.channel(2);
    consumer.call(&qos(2, ""));
    consumer.consume("classic", "c", "");
    let first = consumer.delivery();
    consumer.delivery();
    assert_eq!(first.body.len(), 8);
    consumer.send(&ack(1, ""));
    consumer.delivery();
    client
}

/// What RabbitMQ exports and we do not: names (`*` stands for anything, at the end), pages, and why.
const LEFT_OUT: &[(&str, &str, &str)] = &[
    ("", "rabbitmq_erlang_gc_*", "there is no garbage collector"),
    ("", "rabbitmq_erlang_scheduler_*", "there is no Erlang"),
    (
        "",
        "rabbitmq_erlang_processes_limit",
        "there are no processes",
    ),
    (
        "",
        "rabbitmq_erlang_net_ticktime_seconds",
        "there is one node",
    ),
    ("", "*_process_reductions_total", "there are no reductions"),
    (
        "",
        "rabbitmq_io_read_*",
        "reads go through the system's cache and are not timed: mambamq_messages_read_back_total",
    ),
    ("", "rabbitmq_io_seek_*", "nothing seeks"),
    (
        "",
        "rabbitmq_io_reopen_ops_total",
        "nothing is opened again",
    ),
    (
        "",
        "rabbitmq_io_write_time_seconds_total",
        "the time of a write is that of its sync",
    ),
    ("", "rabbitmq_schema_db_*", "there is no Mnesia"),
    ("", "rabbitmq_queue_index_*", "queues have no index files"),
    ("", "rabbitmq_raft_*", "there is no Raft on one node"),
    ("", "rabbitmq_stream_*", "there are no streams"),
    (
        "",
        "rabbitmq_queue_disk_*",
        "the log is the node's, not the queue's",
    ),
    (
        "",
        "rabbitmq_queue_messages_paged_out_bytes",
        "what is on the disk only is counted in messages",
    ),
    (
        "",
        "telemetry_scrape_encoded_size_bytes",
        "compression is not looked at",
    ),
    (
        "metrics",
        "rabbitmq_queue_consumer_*",
        "a sum of utilisations says nothing",
    ),
    (
        "metrics",
        "rabbitmq_queue_head_message_timestamp",
        "a sum of times says nothing",
    ),
    (
        "metrics",
        "rabbitmq_channel_messages_unconfirmed",
        "connections would be asked at each scrape: per-object has it",
    ),
    (
        "metrics",
        "rabbitmq_channel_messages_uncommitted",
        "the same",
    ),
    ("metrics", "rabbitmq_channel_acks_uncommitted", "the same"),
    (
        "metrics",
        "rabbitmq_channel_prefetch",
        "a sum of limits says nothing",
    ),
    (
        "metrics",
        "rabbitmq_consumer_prefetch",
        "a sum of limits says nothing",
    ),
    (
        "metrics",
        "rabbitmq_connection_*_packets*",
        "the same as unconfirmed",
    ),
    (
        "metrics",
        "rabbitmq_connection_*_packets_total",
        "the same as unconfirmed",
    ),
    (
        "objects",
        "rabbitmq_connection_pending_packets",
        "octets, not packets: mambamq_connection_pending_bytes",
    ),
    (
        "objects",
        "rabbitmq_queue_exchange_messages_published_total",
        "by queue and by exchange, not by both",
    ),
    (
        "objects",
        "rabbitmq_queue_messages_published_total",
        "the same: mambamq_queue_messages_published_total",
    ),
];

fn left_out(page: &str, name: &str) -> bool {
    let name = name.replacen("rabbitmq_detailed_", "rabbitmq_", 1);
    LEFT_OUT.iter().any(|(pages, pattern, _)| {
        let concerns = match *pages {
            "metrics" => page == "metrics",
            "objects" => page != "metrics",
            _ => true,
        };
        let mut rest = name.as_str();
        let mut parts = pattern.split('*').peekable();
        let first = parts.next().unwrap_or_default();
        let Some(after) = rest.strip_prefix(first) else {
            return false;
        };
        rest = after;
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return concerns && rest.ends_with(part);
            }
            match rest.split_once(part) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        concerns && rest.is_empty()
    })
}

/// The labels that we have where RabbitMQ has these.
fn own_labels(name: &str, labels: &[&str]) -> Vec<String> {
    let name = name.replacen("rabbitmq_detailed_", "rabbitmq_", 1);
    let mut own: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    if name.starts_with("rabbitmq_connection_") && labels == ["channel"] {
        // 4.0 calls it so by mistake; later ones do not.
        own = vec!["connection".to_owned()];
    } else if name.starts_with("rabbitmq_channel_") || name == "rabbitmq_consumer_prefetch" {
        // Counted by channel, not by channel and exchange or queue.
        own.retain(|label| label != "exchange" && label != "queue");
    }
    own
}

/// Every name, type and label of the reference is here, or stands in the list of what is left out, and why.
#[test]
fn everything_that_rabbitmq_exports() {
    let Some((broker, api)) = broker() else {
        return;
    };
    let client = traffic(&broker, &api, "reference");
    let sample = include_str!("metrics/rabbitmq-4.0.5.txt");
    // From the second scrape on, a page says what scrapes took.
    Page::of(&broker, "/metrics");
    let mut pages: BTreeMap<&str, Page> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in sample.lines().filter(|line| !line.starts_with('#')) {
        let [path, kind, name, labels] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        if left_out(path, name) {
            continue;
        }
        let page = pages
            .entry(path)
            .or_insert_with(|| Page::of(&broker, &format!("/{path}")));
        let wanted: Vec<&str> = labels.split(',').filter(|label| *label != "-").collect();
        let wanted = own_labels(name, &wanted);
        // What is always 1 or tells of an alarm has no type there.
        let wanted_kind = if kind == "untyped" { "gauge" } else { kind };
        let is_known = page.types.get(name).is_some_and(|own| own == wanted_kind);
        let suffix = match kind {
            "histogram" | "summary" => "_count",
            _ => "",
        };
        let has_labels = |series: &Series| {
            series.name == format!("{name}{suffix}")
                && wanted.iter().all(|label| series.labels.contains_key(label))
        };
        if !is_known || !page.series.iter().any(has_labels) {
            wrong.push(format!("{line} (labels {wanted:?})"));
        }
    }
    assert!(wrong.is_empty(), "missing:\n{}", wrong.join("\n"));
    drop(client);
}

/// Nothing stands in the list that is there.
#[test]
fn what_is_left_out_is_not_there() {
    let Some((broker, api)) = broker() else {
        return;
    };
    let client = traffic(&broker, &api, "absent");
    for path in ["metrics", "metrics/per-object"] {
        for name in Page::of(&broker, &format!("/{path}")).types.keys() {
            assert!(!left_out(path, name), "{name} is on {path}");
        }
    }
    drop(client);
}

mod objects {
    use super::*;

    #[test]
    fn each_by_itself() {
        let Some((broker, api)) = broker() else {
            return;
        };
        let client = traffic(&broker, &api, "shop");
        let own = |queue: &'static str| [("vhost", "shop"), ("queue", queue)];
        let mut page = Page::of(&broker, "/metrics/per-object");
        // An acknowledgement may still be on its way.
        eventually("the acknowledgement is counted", || {
            page = Page::of(&broker, "/metrics/per-object");
            page.value("rabbitmq_queue_messages_acked_total", &own("classic")) == 1.0
        });
        let value = |name: &str, queue| page.value(&format!("rabbitmq_{name}"), &own(queue));
        assert_eq!(value("queue_messages_ready", "classic"), 1.0);
        assert_eq!(value("queue_messages_unacked", "classic"), 2.0);
        assert_eq!(value("queue_messages_bytes", "classic"), 24.0);
        assert_eq!(value("queue_messages_persistent", "classic"), 3.0);
        assert_eq!(value("queue_messages_persistent_bytes", "quorum"), 40.0);
        assert_eq!(value("queue_consumers", "classic"), 1.0);
        assert_eq!(value("queue_get_total", "classic"), 1.0);
        assert_eq!(value("queue_messages_delivered_ack_total", "classic"), 3.0);
        assert_eq!(value("queue_messages", "quorum"), 5.0);
        let x = [("vhost", "shop"), ("exchange", "x")];
        let value = |name: &str| page.value(name, &x);
        assert_eq!(value("rabbitmq_exchange_messages_published_total"), 7.0);
        assert_eq!(value("rabbitmq_exchange_messages_confirmed_total"), 7.0);
        assert_eq!(
            value("rabbitmq_exchange_messages_unroutable_returned_total"),
            1.0
        );
        assert_eq!(
            value("rabbitmq_exchange_messages_unroutable_dropped_total"),
            1.0
        );
        assert_eq!(value("mambamq_exchange_messages_routed_total"), 10.0);
        let channels: Vec<_> = page
            .find(
                "rabbitmq_channel_messages_published_total",
                &[("vhost", "shop")],
            )
            .map(|series| series.value)
            .collect();
        assert_eq!(channels, [7.0, 0.0]);
        let one: Vec<_> = page.find("rabbitmq_connection_channels", &[]).collect();
        assert_eq!((one.len(), one[0].value), (1, 2.0));
        // The connection goes, what it published stays.
        client.close();
        eventually("the connection has ended", || {
            let page = Page::of(&broker, "/metrics/per-object");
            page.find("rabbitmq_connection_channels", &[]).count() == 0
                && page.value("rabbitmq_exchange_messages_published_total", &x) == 7.0
        });
        let sums = Page::of(&broker, "/metrics");
        assert_eq!(sums.value("rabbitmq_queue_messages_ready", &[]), 8.0);
        assert_eq!(
            sums.value("rabbitmq_exchange_messages_published_total", &[]),
            7.0
        );
        assert!(
            sums.find("rabbitmq_queue_messages_ready", &[("queue", "classic")])
                .next()
                .is_none()
        );
    }

    #[test]
    fn families_and_filters() {
        let Some((broker, api)) = broker() else {
            return;
        };
        for vhost in ["one", "two"] {
            assert_eq!(api.put(&format!("/vhosts/{vhost}"), "").status, 201);
            for queue in ["a-1", "a-2", "b"] {
                assert_eq!(
                    api.put(&format!("/queues/{vhost}/{queue}"), "{}").status,
                    201
                );
            }
        }
        let names = |query: &str| {
            let page = Page::of(&broker, &format!("/metrics/detailed{query}"));
            let infos = ["rabbitmq_identity_info", "rabbitmq_build_info"];
            for info in infos {
                assert_eq!(page.find(info, &[]).count(), 1, "{query}");
            }
            let all: Vec<_> = page
                .series
                .into_iter()
                .filter(|series| {
                    !infos.contains(&series.name.as_str()) && !series.name.starts_with("telemetry")
                })
                .collect();
            all
        };
        assert!(names("").is_empty());
        assert!(names("?family=nothing_of_that_name").is_empty());
        let ready = |query: &str| {
            let name = "rabbitmq_detailed_queue_messages_ready";
            names(query)
                .into_iter()
                .filter(|series| series.name == name)
                .count()
        };
        assert_eq!(ready("?family=queue_coarse_metrics"), 6);
        assert_eq!(ready("?family=queue_coarse_metrics&vhost=one"), 3);
        assert_eq!(
            ready("?family=queue_coarse_metrics&vhost=one&vhost=two&queue=%5Ea"),
            4
        );
        assert_eq!(ready("?family=queue_coarse_metrics&vhost=none"), 0);
        // Two families have it, and the page has it once.
        let consumers = names("?family=queue_consumer_count&family=queue_metrics&vhost=one");
        let name = "rabbitmq_detailed_queue_consumers";
        assert_eq!(
            consumers
                .iter()
                .filter(|series| series.name == name)
                .count(),
            3
        );
        let cluster = names("?family=vhost_status&family=exchange_names&family=exchange_bindings");
        assert!(
            cluster
                .iter()
                .all(|series| series.name.starts_with("rabbitmq_cluster_"))
        );
        assert!(
            cluster
                .iter()
                .any(|series| series.labels["vhost"] == "two" && series.value == 1.0)
        );
        assert_eq!(broker.http("/metrics/detailed?queue=(").0, "400");
        assert_eq!(broker.http("/metrics/nothing").0, "404");
    }

    #[test]
    fn logins_by_source() {
        let Some((broker, _)) = broker() else { return };
        let _client = Client::to(&broker);
        let path = "/metrics/detailed?family=auth_attempt_detailed_metrics";
        let page = Page::of(&broker, path);
        let attempts = page.series.iter().find(|series| {
            let labels = &series.labels;
            series.name == "rabbitmq_detailed_auth_attempts_detailed_succeeded_total"
                && labels["protocol"] == "amqp091"
                && labels["username"] == "guest"
                && labels["remote_address"] == "127.0.0.1"
        });
        assert!(attempts.is_some_and(|series| series.value >= 1.0));
    }

    /// Names may have any character in them.
    #[test]
    fn odd_names() {
        let Some((broker, _)) = broker() else { return };
        let client = Client::to(&broker);
        let odd = "a \"quoted\" \\ name{x=\"1\"} and more";
        client.channel(1).queue(odd, "", table([]));
        let page = Page::of(&broker, "/metrics/per-object");
        assert_eq!(
            page.value("rabbitmq_queue_messages", &[("queue", odd)]),
            0.0
        );
    }

    #[test]
    fn memory() {
        let Some((broker, _)) = broker() else { return };
        let client = Client::to(&broker);
        client.channel(1).queue("q", "", table([]));
        for _ in 0..10 {
            client.put("q", vec![b'x'; 10_000]);
        }
        let page = Page::of(&broker, "/metrics/memory-breakdown");
        let value = |name: &str| page.value(&format!("rabbitmq_memory_{name}_bytes"), &[]);
        assert!(value("classic_queue_erlang_process") > 100_000.0);
        assert!(value("code_module") > 0.0 && value("other_erlang_process") > 0.0);
        assert_eq!(value("atom_table"), 0.0);
    }

    /// Every death is counted, by reason, kind of queue and what became of the message.
    #[test]
    fn deaths() {
        let Some((broker, _)) = broker() else { return };
        let client = Client::to(&broker);
        let channel = client.channel(1);
        let letters = |more: [(&str, _); 1]| {
            let [(key, value)] = more;
            table([("x-dead-letter-exchange", text("")), (key, value)])
        };
        channel.queue("letters", "", table([]));
        channel.queue("short", "", table([("x-max-length", int(1))]));
        channel.queue(
            "brief",
            "",
            letters([("x-dead-letter-routing-key", text("letters"))]),
        );
        for _ in 0..4 {
            client.put("short", "x");
        }
        client.put("brief", "x");
        let got = channel.get("brief", "").expect("a message");
        assert_eq!(got.text(), "x");
        channel.send(&nack(1, ""));
        eventually("the letter has come", || channel.ready("letters") == 1);
        let page = Page::of(&broker, "/metrics");
        let value = |reason: &str, strategy| {
            let labels = [
                ("queue_type", "rabbit_classic_queue"),
                ("dead_letter_strategy", strategy),
            ];
            let name = format!("rabbitmq_global_messages_dead_lettered_{reason}_total");
            page.value(&name, &labels)
        };
        assert_eq!(value("maxlen", "disabled"), 3.0);
        assert_eq!(value("rejected", "at_most_once"), 1.0);
        assert_eq!(value("expired", "disabled"), 0.0);
    }
}

/// The same in the management API.
mod api {
    use super::*;

    #[test]
    fn exchanges_and_virtual_hosts() {
        let Some((broker, api)) = broker() else {
            return;
        };
        let client = traffic(&broker, &api, "stats");
        let exchange = api.get("/exchanges/stats/x").json();
        assert_eq!(exchange["message_stats"]["publish_in"], 7);
        assert_eq!(exchange["message_stats"]["publish_out"], 10);
        assert!(exchange["message_stats"]["publish_in_details"]["rate"].is_number());
        // Nothing was published to it.
        assert_eq!(
            api.get("/exchanges/stats/amq.topic")
                .json()
                .get("message_stats"),
            None
        );
        let listed = api.get("/exchanges/stats").json();
        let listed = listed.as_array().unwrap().iter();
        let with_stats: Vec<&Value> = listed
            .filter(|one| one.get("message_stats").is_some())
            .collect();
        assert_eq!(with_stats.len(), 1, "{with_stats:?}");
        // One that is deleted and made again begins anew.
        assert_eq!(api.delete("/exchanges/stats/x").status, 204);
        assert_eq!(api.put("/exchanges/stats/x", "{}").status, 201);
        assert_eq!(
            api.get("/exchanges/stats/x").json().get("message_stats"),
            None
        );
        let octets = |key: &str| api.get("/vhosts/stats").json()[key].as_u64().unwrap();
        let (received, sent) = (octets("recv_oct"), octets("send_oct"));
        assert!(received > 100 && sent > 100);
        let connection = &api.get("/vhosts/stats/connections").json()[0];
        assert_eq!(connection["recv_oct"], received);
        // What an ended connection moved still counts.
        client.close();
        eventually("the connection has ended", || {
            api.get("/vhosts/stats/connections").json() == json!([])
        });
        assert!(octets("recv_oct") >= received && octets("send_oct") >= sent);
    }

    #[test]
    fn queues() {
        let Some((broker, api)) = broker() else {
            return;
        };
        let client = traffic(&broker, &api, "queues");
        let queue = |name: &str| api.get(&format!("/queues/queues/{name}")).json();
        eventually("the acknowledgement is counted", || {
            queue("classic")["message_stats"]["ack"] == 1
        });
        let classic = queue("classic");
        assert_eq!(classic["messages_persistent"], 3);
        assert_eq!(classic["message_bytes_persistent"], 24);
        assert_eq!(classic["head_message_timestamp"], 1_500_000_000);
        let capacity = classic["consumer_capacity"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&capacity));
        assert_eq!(queue("quorum")["consumer_capacity"], 0.0);
        let channel: Channel = client.channel(3);
        channel.queue("dated", "durable", table([]));
        let dated = plain().with_timestamp(1_600_000_000);
        channel.publish_with("", "dated", "", &dated, "x");
        eventually("the message is there", || {
            let dated = queue("dated");
            dated["head_message_timestamp"] == 1_600_000_000 && dated["messages_persistent"] == 0
        });
        // Of both kinds: how many of each is not known.
        channel.publish_with("", "dated", "", &persistent(), "x");
        eventually("the other is there", || {
            let dated = queue("dated");
            dated["messages"] == 2 && dated.get("messages_persistent").is_none()
        });
        eventually("nothing is done with it", || {
            dated_idle(&queue("quorum")).is_some_and(|since| since.ends_with("+00:00"))
        });
    }

    fn dated_idle(queue: &Value) -> Option<String> {
        queue.get("idle_since")?.as_str().map(str::to_owned)
    }

    /// A consumer that holds all it may keeps the rest waiting.
    #[test]
    fn capacity_of_consumers() {
        let Some((broker, api)) = broker() else {
            return;
        };
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.queue("q", "", table([]));
        channel.call(&qos(1, ""));
        channel.consume("q", "c", "");
        let capacity = || {
            let queue = api.get("/queues/%2F/q").json();
            queue["consumer_capacity"].as_f64().unwrap()
        };
        assert_eq!(capacity(), 1.0);
        for _ in 0..3 {
            channel.publish("", "q", "x");
        }
        channel.delivery();
        let other = client.channel(2);
        other.queue("other", "", table([]));
        eventually("its capacity falls", || {
            // The virtual host's time goes on with what its connections do.
            other.send(&get("other", "no_ack"));
            capacity() < 0.9
        });
    }

    #[test]
    fn samples() {
        let Some((broker, api)) = broker() else {
            return;
        };
        let client = Client::to(&broker);
        client.channel(1).queue("q", "", table([]));
        client.put("q", "x");
        let window = "lengths_age=60&lengths_incr=5&msg_rates_age=60&msg_rates_incr=5";
        let drawn = |path: &str| {
            let shown = api.get(&format!("{path}?{window}")).json();
            (
                shown["messages_details"].clone(),
                shown["message_stats"]["publish_details"].clone(),
            )
        };
        eventually("there are samples", || {
            let (lengths, rates) = drawn("/queues/%2F/q");
            let is_drawn = |details: &Value| {
                details["samples"][0]["sample"] == 1
                    && details["samples"][0]["timestamp"].is_u64()
                    && details["avg"] == 1.0
                    && details["avg_rate"] == 0.0
            };
            is_drawn(&lengths) && is_drawn(&rates)
        });
        let overview = api.get(&format!("/overview?{window}")).json();
        assert!(overview["queue_totals"]["messages_details"]["samples"].is_array());
        assert!(
            api.get("/queues/%2F/q").json()["messages_details"]
                .get("samples")
                .is_none()
        );
        for wrong in [
            "lengths_age=x&lengths_incr=5",
            "lengths_age=60&lengths_incr=0",
            "lengths_age=9999&lengths_incr=1",
        ] {
            assert_eq!(
                api.get(&format!("/overview?{wrong}")).status,
                400,
                "{wrong}"
            );
        }
    }

    /// Who sees not everything sees the sums of what it sees.
    #[test]
    fn totals_of_others() {
        let Some((broker, api)) = broker() else {
            return;
        };
        let client = traffic(&broker, &api, "visible");
        let body = r#"{"password":"p","tags":"management"}"#;
        assert_eq!(api.put("/users/clerk", body).status, 201);
        let rights = r#"{"configure":"","write":"","read":""}"#;
        assert_eq!(api.put("/permissions/visible/clerk", rights).status, 201);
        let clerk = Api::new(broker.management, "clerk", "p");
        let overview = clerk.get("/overview").json();
        assert_eq!(overview["message_stats"]["publish"], 7);
        assert_eq!(overview["object_totals"]["queues"], 2);
        drop(client);
    }
}

/// What the examples for operators name is there.
mod monitoring {
    use super::*;

    /// Names of metrics in a text: words that begin as ours do. Labels begin so as well.
    fn names(text: &str) -> BTreeSet<String> {
        const LABELS: [&str; 4] = [
            "rabbitmq_node",
            "rabbitmq_cluster",
            "rabbitmq_cluster_permanent_id",
            "rabbitmq_endpoint",
        ];
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let is_metric = |word: &&str| {
            ["rabbitmq_", "mambamq_", "process_", "telemetry_"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
                && !LABELS.contains(word)
                && !word.ends_with('_')
        };
        words.filter(is_metric).map(str::to_owned).collect()
    }

    fn check(file: &str, text: &str, at_least: usize) {
        let Some((broker, api)) = broker() else {
            return;
        };
        let client = traffic(&broker, &api, "examples");
        let names = names(text);
        assert!(names.len() >= at_least, "{file}: {names:?}");
        let mut known: BTreeSet<String> = BTreeSet::new();
        let families = "?family=queue_coarse_metrics&family=queue_consumer_count&family=queue_metrics\
            &family=queue_delivery_metrics&family=exchange_metrics";
        for path in ["", "/per-object", &format!("/detailed{families}")] {
            let page = Page::of(&broker, &format!("/metrics{path}"));
            known.extend(page.series.into_iter().map(|series| series.name));
        }
        let missing: Vec<_> = names.difference(&known).collect();
        assert!(
            missing.is_empty(),
            "{file} names what nobody exports: {missing:?}"
        );
        drop(client);
    }

    #[test]
    fn dashboard() {
        let text = include_str!("../docs/monitoring/dashboard.json");
        let dashboard: Value = serde_json::from_str(text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let expressions: Vec<&str> = panels
            .iter()
            .filter_map(|panel| panel["targets"].as_array())
            .flatten()
            .map(|target| target["expr"].as_str().unwrap())
            .collect();
        check("dashboard.json", &expressions.join("\n"), 20);
    }

    #[test]
    fn rules() {
        let text = include_str!("../docs/monitoring/rules.yml");
        let expressions: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("expr:"))
            .collect();
        check("rules.yml", &expressions.join("\n"), 10);
    }

    #[test]
    fn page() {
        // Names in the text stand between back quotes, whole.
        let text = include_str!("../docs/monitoring.md");
        let (text, _) = text.split_once("## What RabbitMQ exports").unwrap();
        let quoted: Vec<&str> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|quoted| !quoted.contains(['*', '/', ' ', '=', '…']))
            .collect();
        check("monitoring.md", &quoted.join("\n"), 15);
    }
}

/// Scrapers that never read do not keep others from reading.
#[test]
fn unread_pages() {
    let Some((broker, _)) = broker() else { return };
    let idle: Vec<_> = (0..3)
        .map(|_| {
            use std::io::Write;
            let mut stream = support::http::connect(broker.metrics);
            stream
                .write_all(b"GET /metrics/per-object HTTP/1.1\r\nhost: x\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        Page::of(&broker, "/metrics");
    }
    drop(idle);
}
