//! The Prometheus endpoint: names and labels are RabbitMQ's, so that its dashboards and alert rules work; what has no
//! counterpart there starts with `mambamq_`.

pub(crate) mod http;
mod text;

use self::text::{Kind, Page};

use mamba_broker::metrics::{Deduplicator, Snapshot};

use crate::process::Readings;

const PROTOCOL: (&str, &str) = ("protocol", "amqp091");

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

/// One family per line: name, help, value. A macro so that the lines stay lines.
macro_rules! families {
    ($page:ident.$kind:ident { $($name:literal, $help:literal, $value:expr;)* }) => {
        $($page.$kind($name, $help, $value);)*
    };
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
    message_sizes(&mut page, snapshot);
    own_families(&mut page, snapshot, readings);
    deduplication_families(&mut page, snapshot);
    page.into_text()
}

fn identity_families(page: &mut Page, identity: &Identity, uptime_seconds: f64) {
    let permanent_id = format!("rabbitmq-cluster-id-{}", identity.cluster);
    let labels = [
        ("rabbitmq_node", identity.node.as_str()),
        ("rabbitmq_cluster", &identity.cluster),
        ("rabbitmq_cluster_permanent_id", &permanent_id),
        ("rabbitmq_endpoint", "aggregated"),
    ];
    page.family(
        "rabbitmq_identity_info",
        Kind::Gauge,
        "Node and cluster identity",
    );
    page.series("rabbitmq_identity_info", &labels, 1);
    let labels = [
        ("rabbitmq_version", identity.version.as_str()),
        ("prometheus_plugin_version", env!("CARGO_PKG_VERSION")),
        ("prometheus_client_version", env!("CARGO_PKG_VERSION")),
        ("erlang_version", "none"),
        ("product_version", env!("CARGO_PKG_VERSION")),
        ("product_name", &identity.product),
    ];
    page.family(
        "rabbitmq_build_info",
        Kind::Gauge,
        "Version told to clients, and of the broker itself",
    );
    page.series("rabbitmq_build_info", &labels, 1);
    page.gauge(
        "rabbitmq_erlang_uptime_seconds",
        "Node uptime",
        uptime_seconds,
    );
}

fn node_families(page: &mut Page, identity: &Identity, s: &Snapshot, readings: &Readings) {
    let channels = s.channels_opened.saturating_sub(s.channels_closed);
    families! { page.gauge {
        "rabbitmq_connections", "Connections currently open", s.connections;
        "rabbitmq_channels", "Channels currently open", channels;
        "rabbitmq_consumers", "Consumers currently connected", s.consumers;
        "rabbitmq_queues", "Queues available", s.queues;
        "rabbitmq_process_open_fds", "Open file descriptors", readings.open_fds;
        "rabbitmq_process_max_fds", "Open file descriptors limit", readings.max_fds;
        "rabbitmq_process_open_tcp_sockets", "Open TCP sockets", s.connections;
        "rabbitmq_process_max_tcp_sockets", "Open TCP sockets limit", readings.max_fds;
        "rabbitmq_process_resident_memory_bytes", "Memory used in bytes", readings.resident_bytes;
        "rabbitmq_resident_memory_limit_bytes", "Memory high watermark in bytes", identity.memory_limit_bytes;
        "rabbitmq_disk_space_available_bytes", "Disk space available in bytes", readings.disk_free_bytes;
        "rabbitmq_disk_space_available_limit_bytes", "Free disk space low watermark in bytes", identity.disk_free_limit_bytes;
        "rabbitmq_erlang_processes_used", "Connections and channels: the closest there is to runtime processes", s.connections + channels;
        "rabbitmq_unreachable_cluster_peers_count", "Peers in the cluster that cannot be reached", 0;
    }}
    families! { page.counter {
        "rabbitmq_connections_opened_total", "Connections opened", s.connections_opened;
        "rabbitmq_connections_closed_total", "Connections closed or ended", s.connections_closed;
        "rabbitmq_channels_opened_total", "Channels opened", s.channels_opened;
        "rabbitmq_channels_closed_total", "Channels closed", s.channels_closed;
        "rabbitmq_queues_declared_total", "Queue declarations carried out, also of existing queues", s.queues_declared;
        "rabbitmq_queues_created_total", "Queues created", s.queues_created;
        "rabbitmq_queues_deleted_total", "Queues deleted", s.queues_deleted;
        "rabbitmq_io_write_ops_total", "Writes to the message log", s.log_groups;
        "mambamq_log_checkpoints_total", "Checkpoints of the message log completed", s.log_checkpoints;
        "mambamq_log_relocations_total", "Files of the message log emptied by copying what lived in them", s.log_relocations;
        "mambamq_messages_read_back_total", "Messages read back from the disk", s.messages_read_back;
        "mambamq_messages_scanned_total", "Messages on the disk that consumers' filters have looked at", s.messages_scanned;
        "mambamq_message_bytes_paged_out_total", "Octets of waiting messages dropped from memory", s.message_bytes_paged_out;
        "mambamq_messages_quarantined_total", "Messages that were in the log and could not be read", s.messages_quarantined;
        "rabbitmq_io_write_bytes_total", "Octets written to the message log", s.log_bytes_written;
        "rabbitmq_io_sync_ops_total", "Syncs of the message log to disk", s.log_syncs;
        "rabbitmq_io_sync_time_seconds_total", "Time spent syncing the message log", s.log_sync_seconds;
    }}
}

/// The `rabbitmq_global_` families: every series is there from the start, at 0.
fn global_families(page: &mut Page, s: &Snapshot) {
    let publishers = s.publishers_started.saturating_sub(s.publishers_ended);
    let mut by_protocol = |kind, name: &str, help: &str, value: u64| {
        let name = format!("rabbitmq_global_{name}");
        page.family(&name, kind, help);
        page.series(&name, &[PROTOCOL], value);
    };
    by_protocol(
        Kind::Counter,
        "messages_received_total",
        "Messages received from publishers",
        s.messages_received,
    );
    let help = "Messages received from publishers that use confirms or transactions";
    by_protocol(
        Kind::Counter,
        "messages_received_confirm_total",
        help,
        s.messages_received_confirm,
    );
    by_protocol(
        Kind::Counter,
        "messages_routed_total",
        "Messages routed, once per queue",
        s.messages_routed,
    );
    let help = "Unroutable messages dropped";
    by_protocol(
        Kind::Counter,
        "messages_unroutable_dropped_total",
        help,
        s.messages_unroutable_dropped,
    );
    let help = "Unroutable messages returned to their publishers";
    by_protocol(
        Kind::Counter,
        "messages_unroutable_returned_total",
        help,
        s.messages_unroutable_returned,
    );
    by_protocol(
        Kind::Counter,
        "messages_confirmed_total",
        "Messages confirmed to publishers",
        s.messages_confirmed,
    );
    by_protocol(
        Kind::Gauge,
        "publishers",
        "Channels that have published",
        publishers,
    );
    by_protocol(
        Kind::Gauge,
        "consumers",
        "Consumers currently connected",
        s.consumers,
    );

    let classic = s.classic_delivered_auto_ack
        + s.classic_delivered_manual_ack
        + s.classic_got_auto_ack
        + s.classic_got_manual_ack;
    let quorum = s.quorum_delivered_auto_ack
        + s.quorum_delivered_manual_ack
        + s.quorum_got_auto_ack
        + s.quorum_got_manual_ack;
    // Direct reply-to has a pseudo queue of its own, whose deliveries are never acknowledged.
    let replies = s.replies_delivered;
    let mut by_queue_type = |name: &str, help: &str, [classic, quorum, volatile]: [u64; 3]| {
        let name = format!("rabbitmq_global_messages_{name}_total");
        page.family(&name, Kind::Counter, help);
        page.series(
            &name,
            &[PROTOCOL, ("queue_type", "rabbit_classic_queue")],
            classic,
        );
        page.series(
            &name,
            &[PROTOCOL, ("queue_type", "rabbit_quorum_queue")],
            quorum,
        );
        page.series(
            &name,
            &[PROTOCOL, ("queue_type", "rabbit_volatile_queue")],
            volatile,
        );
    };
    by_queue_type(
        "delivered",
        "Messages delivered to consumers and fetched by get",
        [classic, quorum, replies],
    );
    let values = [
        s.classic_delivered_auto_ack,
        s.quorum_delivered_auto_ack,
        replies,
    ];
    by_queue_type(
        "delivered_consume_auto_ack",
        "Messages delivered to consumers in automatic mode",
        values,
    );
    let values = [
        s.classic_delivered_manual_ack,
        s.quorum_delivered_manual_ack,
        0,
    ];
    by_queue_type(
        "delivered_consume_manual_ack",
        "Messages delivered to consumers that acknowledge",
        values,
    );
    let values = [s.classic_got_auto_ack, s.quorum_got_auto_ack, 0];
    by_queue_type(
        "delivered_get_auto_ack",
        "Messages fetched by get in automatic mode",
        values,
    );
    let values = [s.classic_got_manual_ack, s.quorum_got_manual_ack, 0];
    by_queue_type(
        "delivered_get_manual_ack",
        "Messages fetched by get, to be acknowledged",
        values,
    );
    by_queue_type(
        "get_empty",
        "Gets that found the queue empty",
        [s.classic_get_empty, s.quorum_get_empty, 0],
    );
    by_queue_type(
        "redelivered",
        "Messages delivered again",
        [s.classic_redelivered, s.quorum_redelivered, 0],
    );
    by_queue_type(
        "acknowledged",
        "Messages acknowledged by consumers",
        [s.classic_acknowledged, s.quorum_acknowledged, 0],
    );
}

/// Object metrics, summed over all queues.
fn queue_families(page: &mut Page, s: &Snapshot) {
    families! { page.gauge {
        "rabbitmq_queue_messages_ready", "Messages ready to be delivered to consumers", s.messages_ready;
        "rabbitmq_queue_messages_unacked", "Messages delivered to consumers but not yet acknowledged", s.messages_unacked;
        "mambamq_queue_messages_delayed", "Messages that wait until they are ready, not in the other figures", s.messages_delayed;
        "mambamq_queue_messages_delayed_bytes", "Size in bytes of messages that wait until they are ready", s.message_bytes_delayed;
        "rabbitmq_queue_messages", "Sum of ready and unacknowledged messages", s.messages_ready + s.messages_unacked;
        "rabbitmq_queue_messages_bytes", "Size in bytes of ready and unacknowledged messages", s.message_bytes_ready + s.message_bytes_unacked;
        "rabbitmq_queue_messages_ready_bytes", "Size in bytes of ready messages", s.message_bytes_ready;
        "rabbitmq_queue_messages_unacked_bytes", "Size in bytes of unacknowledged messages", s.message_bytes_unacked;
        "rabbitmq_queue_consumers", "Consumers on queues", s.consumers;
    }}
}

fn alarm_and_auth_families(page: &mut Page, s: &Snapshot) {
    families! { page.gauge {
        "rabbitmq_alarms_memory_used_watermark", "1 while the memory alarm is on", u64::from(s.alarm_memory);
        "rabbitmq_alarms_free_disk_space_watermark", "1 while the free disk space alarm is on", u64::from(s.alarm_disk);
        "rabbitmq_alarms_file_descriptor_limit", "1 while the file descriptor alarm is on; there is none", 0;
    }}
    let mut by_protocol = |name: &str, help: &str, value: u64| {
        page.family(name, Kind::Counter, help);
        page.series(name, &[PROTOCOL], value);
    };
    let succeeded = s.auth_attempts.saturating_sub(s.auth_failures);
    by_protocol(
        "rabbitmq_auth_attempts_total",
        "Authentication attempts",
        s.auth_attempts,
    );
    by_protocol(
        "rabbitmq_auth_attempts_succeeded_total",
        "Successful authentication attempts",
        succeeded,
    );
    by_protocol(
        "rabbitmq_auth_attempts_failed_total",
        "Failed authentication attempts",
        s.auth_failures,
    );
}

/// Body sizes of received messages; the bounds are spelled as the dashboards spell them.
fn message_sizes(page: &mut Page, s: &Snapshot) {
    let up_to = |over: u64| s.messages_received.saturating_sub(over);
    let counts = [
        ("100.0", up_to(s.messages_over_100)),
        ("1000.0", up_to(s.messages_over_1k)),
        ("10000.0", up_to(s.messages_over_10k)),
        ("100000.0", up_to(s.messages_over_100k)),
        ("1e+06", up_to(s.messages_over_1m)),
        ("1e+07", up_to(s.messages_over_10m)),
        ("5e+07", up_to(s.messages_over_50m)),
        ("1e+08", up_to(s.messages_over_100m)),
        ("+Inf", s.messages_received),
    ];
    let help = "Size of messages received from publishers, in bytes";
    page.histogram(
        "rabbitmq_message_size_bytes",
        help,
        &[PROTOCOL],
        &counts,
        s.message_bytes_received,
    );
}

/// What RabbitMQ has no name for, and what every process exports.
fn own_families(page: &mut Page, s: &Snapshot, readings: &Readings) {
    families! { page.counter {
        "mambamq_connections_refused_total", "Connections refused before AMQP began: by TLS, or for want of a PROXY header", s.prefaces_refused;
        "mambamq_received_bytes_total", "Octets received from clients", s.bytes_received;
        "mambamq_sent_bytes_total", "Octets sent to clients", s.bytes_sent;
        "mambamq_message_received_bytes_total", "Octets of the bodies of received messages", s.message_bytes_received;
        "mambamq_message_delivered_bytes_total", "Octets of the bodies of delivered messages", s.message_bytes_delivered;
        "mambamq_log_entries_total", "Entries written to the message log; divided by groups: how much one sync carries", s.log_entries;
        "mambamq_log_groups_total", "Groups written to the message log, each with one sync in the mode fsync", s.log_groups;
        "process_cpu_seconds_total", "Processor time used, user and system", readings.cpu_seconds;
    }}
    families! { page.gauge {
        "mambamq_log_files", "Files of the message log", s.log_files;
        "mambamq_log_bytes", "Octets in them", s.log_bytes;
        "mambamq_log_live_bytes", "Of these, octets of messages that still exist", s.log_live_bytes;
        "mambamq_log_sealed_files", "Files of the message log whose index lies beside them", s.log_sealed_files;
        "mambamq_message_bytes_in_memory", "Octets that waiting messages take in memory", s.message_bytes_in_memory;
        "process_threads", "Threads of the process", readings.threads;
        "process_resident_memory_bytes", "Resident memory in bytes", readings.resident_bytes;
        "process_open_fds", "Open file descriptors", readings.open_fds;
        "process_max_fds", "Open file descriptors limit", readings.max_fds;
    }}
}

/// A series for each queue and exchange that takes each message once.
fn deduplication_families(page: &mut Page, s: &Snapshot) {
    page.counter(
        "mambamq_messages_deduplicated_total",
        "Messages that a queue or an exchange had taken before and did not take again",
        s.messages_deduplicated,
    );
    let mut family = |kind, name: &str, help: &str, value: fn(&Deduplicator) -> u64| {
        page.family(name, kind, help);
        for one in &s.deduplication {
            let labels = [("vhost", &*one.vhost), (one.kind, &one.name)];
            page.series(name, &labels, value(one));
        }
    };
    family(
        Kind::Counter,
        "mambamq_duplicates_total",
        "Duplicates that a queue or an exchange kept out",
        |one| one.counts.duplicates,
    );
    family(
        Kind::Gauge,
        "mambamq_deduplication_ids",
        "Ids that a queue or an exchange remembers; some may have expired",
        |one| one.counts.ids,
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
                    .filter(|family| types.contains_key(family));
                let name = family.unwrap_or(name);
                let kind = types
                    .get(name)
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
        let snapshot = Snapshot {
            messages_received: u64::MAX,
            messages_over_100: 1,
            messages_ready: 3,
            messages_unacked: 4,
            classic_delivered_auto_ack: 5,
            classic_got_manual_ack: 2,
            log_sync_seconds: 0.5,
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
            value("rabbitmq_message_size_bytes_bucket{protocol=\"amqp091\",le=\"+Inf\"}"),
            18446744073709551615.0
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
