//! The Prometheus endpoint: names and labels are RabbitMQ's, so that its dashboards and alert rules work; what has no
//! counterpart there starts with `mambamq_`.

pub(crate) mod http;
mod snapshot;
mod text;

use self::text::{Kind, Number, Page};
pub(crate) use snapshot::{MESSAGE_SIZE_BOUNDS, QueueTypeCounters, SYNC_SECONDS_BOUNDS, Snapshot};

use crate::process::Readings;

const PROTOCOL: (&str, &str) = ("protocol", "amqp091");

/// [`MESSAGE_SIZE_BOUNDS`] as the dashboards spell them.
const MESSAGE_SIZE_LABELS: [&str; MESSAGE_SIZE_BOUNDS.len()] = [
    "100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08",
];

/// What does not change while the node runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    /// The node's name.
    pub(crate) node: String,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// Product name told to clients.
    pub(crate) product: String,
    /// Version told to clients.
    pub(crate) version: String,
    /// Memory alarm threshold, in octets.
    pub(crate) memory_limit_bytes: u64,
    /// Disk alarm threshold, in octets.
    pub(crate) disk_free_limit_bytes: u64,
}

/// The `/metrics` page.
pub(crate) fn render(
    identity: &Identity,
    snapshot: &Snapshot,
    readings: &Readings,
    uptime_seconds: f64,
) -> String {
    let mut page = Page::default();
    identity_families(&mut page, identity, uptime_seconds);
    node_families(&mut page, identity, snapshot, readings);
    global_families(&mut page, snapshot);
    queue_families(&mut page, snapshot);
    alarm_and_auth_families(&mut page, snapshot);
    own_families(&mut page, snapshot, readings);
    page.into_text()
}

fn identity_families(page: &mut Page, identity: &Identity, uptime_seconds: f64) {
    let info = "rabbitmq_identity_info";
    page.family(info, Kind::Gauge, "Node and cluster identity");
    let permanent_id = format!("rabbitmq-cluster-id-{}", identity.cluster);
    let labels = [
        ("rabbitmq_node", identity.node.as_str()),
        ("rabbitmq_cluster", &identity.cluster),
        ("rabbitmq_cluster_permanent_id", &permanent_id),
        ("rabbitmq_endpoint", "aggregated"),
    ];
    page.series(info, &labels, 1);
    let info = "rabbitmq_build_info";
    page.family(
        info,
        Kind::Gauge,
        "Version the broker reports to clients, and of the broker itself",
    );
    let labels = [
        ("rabbitmq_version", identity.version.as_str()),
        ("prometheus_plugin_version", env!("CARGO_PKG_VERSION")),
        ("prometheus_client_version", env!("CARGO_PKG_VERSION")),
        ("erlang_version", "none"),
        ("product_version", env!("CARGO_PKG_VERSION")),
        ("product_name", &identity.product),
    ];
    page.series(info, &labels, 1);
    page.gauge(
        "rabbitmq_erlang_uptime_seconds",
        "Node uptime",
        uptime_seconds,
    );
}

fn node_families(page: &mut Page, identity: &Identity, snapshot: &Snapshot, readings: &Readings) {
    let s = snapshot;
    let gauges: [(&str, &str, u64); 14] = [
        (
            "rabbitmq_connections",
            "Connections currently open",
            s.connections,
        ),
        ("rabbitmq_channels", "Channels currently open", s.channels),
        (
            "rabbitmq_consumers",
            "Consumers currently connected",
            s.consumers,
        ),
        ("rabbitmq_queues", "Queues available", s.queues),
        (
            "rabbitmq_process_open_fds",
            "Open file descriptors",
            readings.open_fds,
        ),
        (
            "rabbitmq_process_max_fds",
            "Open file descriptors limit",
            readings.max_fds,
        ),
        (
            "rabbitmq_process_open_tcp_sockets",
            "Open TCP sockets",
            s.connections,
        ),
        (
            "rabbitmq_process_max_tcp_sockets",
            "Open TCP sockets limit",
            readings.max_fds,
        ),
        (
            "rabbitmq_process_resident_memory_bytes",
            "Memory used in bytes",
            readings.resident_bytes,
        ),
        (
            "rabbitmq_resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            identity.memory_limit_bytes,
        ),
        (
            "rabbitmq_disk_space_available_bytes",
            "Disk space available in bytes",
            readings.disk_free_bytes,
        ),
        (
            "rabbitmq_disk_space_available_limit_bytes",
            "Free disk space low watermark in bytes",
            identity.disk_free_limit_bytes,
        ),
        (
            "rabbitmq_erlang_processes_used",
            "Connections and channels, the closest there is to runtime processes",
            s.connections + s.channels,
        ),
        (
            "rabbitmq_unreachable_cluster_peers_count",
            "Peers in the cluster that cannot be reached",
            0,
        ),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, value);
    }
    let counters: [(&str, &str, Number); 14] = [
        (
            "rabbitmq_connections_opened_total",
            "Connections opened",
            s.connections_opened.into(),
        ),
        (
            "rabbitmq_connections_closed_total",
            "Connections closed or ended",
            s.connections_closed.into(),
        ),
        (
            "rabbitmq_channels_opened_total",
            "Channels opened",
            s.channels_opened.into(),
        ),
        (
            "rabbitmq_channels_closed_total",
            "Channels closed",
            s.channels_closed.into(),
        ),
        (
            "rabbitmq_queues_declared_total",
            "Queue declarations carried out",
            s.queues_declared.into(),
        ),
        (
            "rabbitmq_queues_created_total",
            "Queues created",
            s.queues_created.into(),
        ),
        (
            "rabbitmq_queues_deleted_total",
            "Queues deleted",
            s.queues_deleted.into(),
        ),
        (
            "rabbitmq_io_read_ops_total",
            "Reads of message files",
            s.io_read_ops.into(),
        ),
        (
            "rabbitmq_io_read_bytes_total",
            "Octets read from message files",
            s.io_read_bytes.into(),
        ),
        (
            "rabbitmq_io_write_ops_total",
            "Writes to message files",
            s.io_write_ops.into(),
        ),
        (
            "rabbitmq_io_write_bytes_total",
            "Octets written to message files",
            s.io_write_bytes.into(),
        ),
        (
            "rabbitmq_io_write_time_seconds_total",
            "Time spent writing message files",
            s.io_write_seconds.into(),
        ),
        (
            "rabbitmq_io_sync_ops_total",
            "Syncs of message files to disk",
            s.io_sync_ops.into(),
        ),
        (
            "rabbitmq_io_sync_time_seconds_total",
            "Time spent syncing message files",
            s.io_sync_seconds.into(),
        ),
    ];
    for (name, help, value) in counters {
        page.counter(name, help, value);
    }
}

/// The `rabbitmq_global_` families: every series is there from the start, at 0.
fn global_families(page: &mut Page, snapshot: &Snapshot) {
    let s = snapshot;
    let by_protocol: [(&str, Kind, &str, u64); 8] = [
        (
            "messages_received_total",
            Kind::Counter,
            "Messages received from publishers",
            s.messages_received,
        ),
        (
            "messages_received_confirm_total",
            Kind::Counter,
            "Messages received from publishers that use confirms",
            s.messages_received_confirm,
        ),
        (
            "messages_routed_total",
            Kind::Counter,
            "Messages routed to queues, once per queue",
            s.messages_routed,
        ),
        (
            "messages_unroutable_dropped_total",
            Kind::Counter,
            "Unroutable messages dropped",
            s.messages_unroutable_dropped,
        ),
        (
            "messages_unroutable_returned_total",
            Kind::Counter,
            "Unroutable messages returned to publishers",
            s.messages_unroutable_returned,
        ),
        (
            "messages_confirmed_total",
            Kind::Counter,
            "Messages confirmed to publishers",
            s.messages_confirmed,
        ),
        (
            "publishers",
            Kind::Gauge,
            "Channels that have published",
            s.publishers,
        ),
        (
            "consumers",
            Kind::Gauge,
            "Consumers currently connected",
            s.consumers,
        ),
    ];
    for (name, kind, help, value) in by_protocol {
        let name = format!("rabbitmq_global_{name}");
        page.family(&name, kind, help);
        page.series(&name, &[PROTOCOL], value);
    }
    type Pick = fn(&QueueTypeCounters) -> u64;
    let by_queue_type: [(&str, &str, Pick); 8] = [
        (
            "messages_delivered_total",
            "Messages delivered, to consumers and by get",
            |c| {
                c.delivered_consume_auto_ack
                    + c.delivered_consume_manual_ack
                    + c.delivered_get_auto_ack
                    + c.delivered_get_manual_ack
            },
        ),
        (
            "messages_delivered_consume_auto_ack_total",
            "Messages delivered to consumers without acknowledgement",
            |c| c.delivered_consume_auto_ack,
        ),
        (
            "messages_delivered_consume_manual_ack_total",
            "Messages delivered to consumers with acknowledgement",
            |c| c.delivered_consume_manual_ack,
        ),
        (
            "messages_delivered_get_auto_ack_total",
            "Messages fetched by get without acknowledgement",
            |c| c.delivered_get_auto_ack,
        ),
        (
            "messages_delivered_get_manual_ack_total",
            "Messages fetched by get with acknowledgement",
            |c| c.delivered_get_manual_ack,
        ),
        (
            "messages_get_empty_total",
            "Gets that found the queue empty",
            |c| c.get_empty,
        ),
        (
            "messages_redelivered_total",
            "Messages delivered again",
            |c| c.redelivered,
        ),
        (
            "messages_acknowledged_total",
            "Messages acknowledged by consumers",
            |c| c.acknowledged,
        ),
    ];
    let types = [
        ("rabbit_classic_queue", &s.classic),
        ("rabbit_quorum_queue", &s.quorum),
    ];
    for (name, help, pick) in by_queue_type {
        let name = format!("rabbitmq_global_{name}");
        page.family(&name, Kind::Counter, help);
        for (queue_type, counters) in types {
            page.series(
                &name,
                &[PROTOCOL, ("queue_type", queue_type)],
                pick(counters),
            );
        }
    }
    let dead_letters: [(&str, &str, Pick, Pick); 4] = [
        (
            "expired",
            "for their age",
            |c| c.dropped_expired,
            |c| c.dead_lettered_expired,
        ),
        (
            "rejected",
            "after a rejection",
            |c| c.dropped_rejected,
            |c| c.dead_lettered_rejected,
        ),
        (
            "maxlen",
            "for the queue's length",
            |c| c.dropped_maxlen,
            |c| c.dead_lettered_maxlen,
        ),
        (
            "delivery_limit",
            "after too many deliveries",
            |c| c.dropped_delivery_limit,
            |c| c.dead_lettered_delivery_limit,
        ),
    ];
    for (reason, help, dropped, dead_lettered) in dead_letters {
        let name = format!("rabbitmq_global_messages_dead_lettered_{reason}_total");
        page.family(
            &name,
            Kind::Counter,
            &format!("Messages dead-lettered or dropped {help}"),
        );
        for (queue_type, counters) in types {
            if reason == "delivery_limit" && queue_type == "rabbit_classic_queue" {
                continue;
            }
            for (strategy, pick) in [("disabled", dropped), ("at_most_once", dead_lettered)] {
                page.series(
                    &name,
                    &[
                        ("queue_type", queue_type),
                        ("dead_letter_strategy", strategy),
                    ],
                    pick(counters),
                );
            }
        }
    }
}

/// Object metrics, summed over all queues.
fn queue_families(page: &mut Page, snapshot: &Snapshot) {
    let s = snapshot;
    let gauges: [(&str, &str, u64); 11] = [
        (
            "messages_ready",
            "Messages ready to be delivered to consumers",
            s.messages_ready,
        ),
        (
            "messages_unacked",
            "Messages delivered to consumers but not yet acknowledged",
            s.messages_unacked,
        ),
        (
            "messages",
            "Sum of ready and unacknowledged messages",
            s.messages_ready + s.messages_unacked,
        ),
        (
            "messages_bytes",
            "Size in bytes of ready and unacknowledged messages",
            s.messages_ready_bytes + s.messages_unacked_bytes,
        ),
        (
            "messages_ready_bytes",
            "Size in bytes of ready messages",
            s.messages_ready_bytes,
        ),
        (
            "messages_unacked_bytes",
            "Size in bytes of unacknowledged messages",
            s.messages_unacked_bytes,
        ),
        ("messages_ram", "Messages held in memory", s.messages_ram),
        (
            "messages_ram_bytes",
            "Size in bytes of messages held in memory",
            s.messages_ram_bytes,
        ),
        (
            "messages_persistent",
            "Persistent messages",
            s.messages_persistent,
        ),
        (
            "messages_persistent_bytes",
            "Size in bytes of persistent messages",
            s.messages_persistent_bytes,
        ),
        ("consumers", "Consumers on queues", s.consumers),
    ];
    for (name, help, value) in gauges {
        page.gauge(&format!("rabbitmq_queue_{name}"), help, value);
    }
}

fn alarm_and_auth_families(page: &mut Page, snapshot: &Snapshot) {
    let s = snapshot;
    page.gauge(
        "rabbitmq_alarms_memory_used_watermark",
        "1 while the memory alarm is on",
        s.alarm_memory,
    );
    page.gauge(
        "rabbitmq_alarms_free_disk_space_watermark",
        "1 while the free disk space alarm is on",
        s.alarm_disk,
    );
    page.gauge(
        "rabbitmq_alarms_file_descriptor_limit",
        "1 while the file descriptor alarm is on; there is none",
        0,
    );
    let auth: [(&str, &str, u64); 3] = [
        (
            "rabbitmq_auth_attempts_total",
            "Authentication attempts",
            s.auth_attempts_succeeded + s.auth_attempts_failed,
        ),
        (
            "rabbitmq_auth_attempts_succeeded_total",
            "Successful authentication attempts",
            s.auth_attempts_succeeded,
        ),
        (
            "rabbitmq_auth_attempts_failed_total",
            "Failed authentication attempts",
            s.auth_attempts_failed,
        ),
    ];
    for (name, help, value) in auth {
        page.family(name, Kind::Counter, help);
        page.series(name, &[PROTOCOL], value);
    }
    page.histogram(
        "rabbitmq_message_size_bytes",
        "Size of messages received from publishers, in bytes",
        &[PROTOCOL],
        &MESSAGE_SIZE_LABELS,
        &s.message_size_buckets,
        s.message_size_sum,
    );
}

/// What RabbitMQ has no name for.
fn own_families(page: &mut Page, snapshot: &Snapshot, readings: &Readings) {
    let s = snapshot;
    page.gauge(
        "mambamq_exchanges",
        "Exchanges over all virtual hosts",
        s.exchanges,
    );
    page.gauge(
        "mambamq_connections_blocked",
        "Connections blocked from publishing by an alarm",
        s.connections_blocked,
    );
    page.counter(
        "mambamq_received_bytes_total",
        "Octets received from clients",
        s.received_bytes,
    );
    page.counter(
        "mambamq_sent_bytes_total",
        "Octets sent to clients",
        s.sent_bytes,
    );
    page.counter(
        "mambamq_log_records_total",
        "Records written to the message log; divided by syncs: the size of a commit group",
        s.log_records,
    );
    page.gauge("mambamq_log_files", "Files of the message log", s.log_files);
    page.gauge(
        "mambamq_log_bytes",
        "Disk space taken by the message log, in octets",
        s.log_bytes,
    );
    let bounds = SYNC_SECONDS_BOUNDS.map(|bound| bound.to_string());
    let bounds = bounds.each_ref().map(String::as_str);
    page.histogram(
        "mambamq_log_sync_duration_seconds",
        "Time one sync of the message log took",
        &[],
        &bounds,
        &s.io_sync_buckets,
        s.io_sync_seconds,
    );
    page.counter(
        "process_cpu_seconds_total",
        "Processor time used, user and system",
        readings.cpu_seconds,
    );
    page.gauge(
        "process_threads",
        "Threads of the process",
        readings.threads,
    );
    page.gauge(
        "process_resident_memory_bytes",
        "Resident memory in bytes",
        readings.resident_bytes,
    );
    page.gauge(
        "process_open_fds",
        "Open file descriptors",
        readings.open_fds,
    );
    page.gauge(
        "process_max_fds",
        "Open file descriptors limit",
        readings.max_fds,
    );
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Parses every line of a page; answers the value of each series, by its name with labels.
    #[track_caller]
    pub(crate) fn parse(page: &str) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        let mut types = BTreeMap::new();
        let mut helped = BTreeSet::new();
        assert!(page.ends_with('\n'));
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && helped.insert(name), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(
                    helped.contains(name) && ["counter", "gauge", "histogram"].contains(&kind),
                    "{line}"
                );
                assert!(types.insert(name, kind).is_none(), "{line}");
            } else {
                let (key, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
                assert!(
                    name.chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                    "{line}"
                );
                let mut rest = labels.strip_suffix('}').expect(line);
                while !rest.is_empty() {
                    let (label, text) = rest.split_once("=\"").expect(line);
                    assert!(
                        label.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                        "{line}"
                    );
                    let (_, after) = text.split_once('"').expect(line);
                    rest = after.strip_prefix(',').unwrap_or(after);
                }
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .filter(|f| types.contains_key(f));
                let kind = types
                    .get(family.unwrap_or(name))
                    .unwrap_or_else(|| panic!("no TYPE for {line}"));
                assert_eq!(*kind == "counter", name.ends_with("_total"), "{line}");
                assert!(
                    series
                        .insert(key.to_owned(), value.parse().unwrap())
                        .is_none(),
                    "twice: {line}"
                );
            }
        }
        series
    }

    #[test]
    fn every_line_parses_and_numbers_arrive() {
        let classic = QueueTypeCounters {
            delivered_consume_auto_ack: 5,
            delivered_get_manual_ack: 2,
            ..QueueTypeCounters::default()
        };
        let snapshot = Snapshot {
            messages_received: u64::MAX,
            messages_ready: 3,
            messages_unacked: 4,
            classic,
            message_size_buckets: [1, 2, 0, 0, 0, 0, 0, 0, 1],
            io_sync_seconds: 0.5,
            ..Snapshot::default()
        };
        let identity = Identity {
            node: "rabbit@host".to_owned(),
            cluster: "c".to_owned(),
            ..Identity::default()
        };
        let page = render(&identity, &snapshot, &Readings::default(), 12.5);
        assert!(page.contains(
            "rabbitmq_global_messages_received_total{protocol=\"amqp091\"} 18446744073709551615\n"
        ));
        let series = parse(&page);
        let value = |key: &str| *series.get(key).unwrap_or_else(|| panic!("no {key}"));
        assert_eq!(value("rabbitmq_erlang_uptime_seconds"), 12.5);
        assert_eq!(value("rabbitmq_queue_messages"), 7.0);
        assert_eq!(
            value(
                "rabbitmq_global_messages_delivered_total{protocol=\"amqp091\",queue_type=\"rabbit_classic_queue\"}"
            ),
            7.0
        );
        assert_eq!(
            value("rabbitmq_message_size_bytes_bucket{protocol=\"amqp091\",le=\"1000.0\"}"),
            3.0
        );
        assert_eq!(
            value("rabbitmq_message_size_bytes_count{protocol=\"amqp091\"}"),
            4.0
        );
        assert_eq!(value("rabbitmq_io_sync_time_seconds_total"), 0.5);
        assert_eq!(page.matches("\nrabbitmq_identity_info{").count(), 1);
    }

    /// Every name the Overview dashboard asks for.
    #[test]
    fn the_overview_dashboard_finds_its_names() {
        let page = render(
            &Identity::default(),
            &Snapshot::default(),
            &Readings::default(),
            0.0,
        );
        let global = [
            "received",
            "received_confirm",
            "confirmed",
            "routed",
            "unroutable_dropped",
            "unroutable_returned",
            "delivered",
        ];
        let delivered = [
            "consume_auto_ack",
            "consume_manual_ack",
            "get_auto_ack",
            "get_manual_ack",
        ];
        let names = global
            .iter()
            .map(|name| format!("global_messages_{name}_total"))
            .chain(delivered.iter().map(|name| format!("global_messages_delivered_{name}_total")))
            .chain(["get_empty", "redelivered", "acknowledged"].iter().map(|name| format!("global_messages_{name}_total")))
            .chain(
                "identity_info build_info erlang_uptime_seconds connections channels queues global_publishers global_consumers \
                 queue_messages_ready queue_messages_unacked process_resident_memory_bytes resident_memory_limit_bytes \
                 disk_space_available_bytes disk_space_available_limit_bytes process_open_fds process_max_fds \
                 message_size_bytes connections_opened_total connections_closed_total channels_opened_total \
                 channels_closed_total queues_declared_total queues_created_total queues_deleted_total"
                    .split_whitespace()
                    .map(str::to_owned),
            );
        for name in names {
            assert!(
                page.contains(&format!("\n# TYPE rabbitmq_{name} ")),
                "{name}"
            );
        }
    }
}
