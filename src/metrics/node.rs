//! What is said of the node as a whole.

use mamba_broker::{
    Snapshot,
    deaths::{DeathCount, Strategy},
    metrics::Deduplicator,
};
use mamba_queue::QueueKind;
use mamba_store::log::SYNC_BOUNDS_MICROS;
use mamba_types::DeathReason;

use super::{
    Facts,
    request::Filter,
    text::{Family, Kind, Naming, Page, families},
};

const PROTOCOL: (&str, &str) = ("protocol", "amqp091");
const CLASSIC: &str = "rabbit_classic_queue";
const QUORUM: &str = "rabbit_quorum_queue";
const VOLATILE: &str = "rabbit_volatile_queue";

impl Facts {
    pub(super) const fn channels(&self) -> u64 {
        let s = &self.snapshot;
        s.channels_opened.saturating_sub(s.channels_closed)
    }

    /// Resident memory that stands under no other name. Some octets stand under two: a message on its way to a client may be
    /// unacknowledged as well.
    const fn other_memory(&self) -> u64 {
        let s = &self.snapshot;
        self.readings.resident_bytes.saturating_sub(
            self.readings.resident_file_bytes
                + s.outbox_bytes
                + s.classic_queue_memory
                + s.quorum_queue_memory
                + s.message_bytes_unacked,
        )
    }
}

/// Who this is. Exactly one such series per page: dashboards multiply everything by it.
pub(super) fn identity(page: &mut Page, facts: &Facts, endpoint: &str) {
    let identity = &facts.identity;
    let permanent_id = format!("rabbitmq-cluster-id-{}", identity.cluster);
    let labels = [
        ("rabbitmq_node", identity.node.as_str()),
        ("rabbitmq_cluster", &identity.cluster),
        ("rabbitmq_cluster_permanent_id", &permanent_id),
        ("rabbitmq_endpoint", endpoint),
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
}

/// Everything about the node that is not an object.
pub(super) fn families(page: &mut Page, facts: &Facts) {
    for (_, table) in TABLES {
        page.plain(Naming::Plain, table, facts);
    }
    page.plain(Naming::Plain, GAUGES, facts);
    page.plain(Naming::Plain, OWN, facts);
    global_families(page, &facts.snapshot);
    deaths(page, &facts.snapshot);
    logins(page, Naming::Plain, &facts.snapshot);
    message_sizes(page, &facts.snapshot);
    log_histograms(page, &facts.snapshot);
    deduplication_families(page, &facts.snapshot);
}

/// The node's families that are asked for.
pub(super) fn detailed(page: &mut Page, facts: &Facts, filter: &Filter) {
    for (name, table) in TABLES {
        if filter.has(name) {
            page.plain(Naming::Detailed, table, facts);
        }
    }
    if filter.has("auth_attempt_metrics") {
        logins(page, Naming::Detailed, &facts.snapshot);
    }
}

/// What memory is used for.
pub(super) fn memory(page: &mut Page, facts: &Facts) {
    page.plain(Naming::Plain, MEMORY, facts);
}

/// Families by the name they are asked for by.
const TABLES: &[(&str, &[Family<Facts>])] = &[
    ("connection_churn_metrics", CHURN),
    ("node_coarse_metrics", COARSE),
    ("node_metrics", NODE),
    ("node_persister_metrics", PERSISTER),
];

#[rustfmt::skip]
const CHURN: &[Family<Facts>] = families! { facts: Facts;
    Counter "rabbitmq_connections_opened_total", "Total number of connections opened", facts.snapshot.connections_opened;
    Counter "rabbitmq_connections_closed_total", "Total number of connections closed or terminated", facts.snapshot.connections_closed;
    Counter "rabbitmq_channels_opened_total", "Total number of channels opened", facts.snapshot.channels_opened;
    Counter "rabbitmq_channels_closed_total", "Total number of channels closed", facts.snapshot.channels_closed;
    Counter "rabbitmq_queues_declared_total", "Total number of queues declared", facts.snapshot.queues_declared;
    Counter "rabbitmq_queues_created_total", "Total number of queues created", facts.snapshot.queues_created;
    Counter "rabbitmq_queues_deleted_total", "Total number of queues deleted", facts.snapshot.queues_deleted;
};

#[rustfmt::skip]
const COARSE: &[Family<Facts>] = families! { facts: Facts;
    Gauge "rabbitmq_process_open_fds", "Open file descriptors", facts.readings.open_fds;
    Gauge "rabbitmq_process_open_tcp_sockets", "Open TCP sockets", facts.snapshot.connections;
    Gauge "rabbitmq_process_resident_memory_bytes", "Memory used in bytes", facts.readings.resident_bytes;
    Gauge "rabbitmq_disk_space_available_bytes", "Disk space available in bytes", facts.readings.disk_free_bytes;
    Gauge "rabbitmq_erlang_processes_used", "Connections and channels: the closest there is to runtime processes", facts.snapshot.connections + facts.channels();
};

#[rustfmt::skip]
const NODE: &[Family<Facts>] = families! { facts: Facts;
    Gauge "rabbitmq_process_max_fds", "Open file descriptors limit", facts.readings.max_fds;
    Gauge "rabbitmq_process_max_tcp_sockets", "Open TCP sockets limit", facts.readings.max_fds;
    Gauge "rabbitmq_resident_memory_limit_bytes", "Memory high watermark in bytes", facts.thresholds.memory_bytes();
    Gauge "rabbitmq_disk_space_available_limit_bytes", "Free disk space low watermark in bytes", facts.thresholds.disk_free_bytes();
    Gauge "rabbitmq_erlang_uptime_seconds", "Node uptime", facts.uptime.as_secs_f64();
};

#[rustfmt::skip]
const PERSISTER: &[Family<Facts>] = families! { facts: Facts;
    Counter "rabbitmq_io_write_ops_total", "Total number of I/O write operations", facts.snapshot.log_groups;
    Counter "rabbitmq_io_write_bytes_total", "Total number of I/O bytes written", facts.snapshot.log_bytes_written;
    Counter "rabbitmq_io_sync_ops_total", "Total number of I/O sync operations", facts.snapshot.log_syncs;
    Counter "rabbitmq_io_sync_time_seconds_total", "Total I/O sync time", facts.snapshot.log_sync_seconds;
    Counter "rabbitmq_msg_store_read_total", "Total number of Message Store read operations", facts.snapshot.messages_read_back;
    Counter "rabbitmq_msg_store_write_total", "Total number of Message Store write operations", facts.snapshot.log_entries;
};

#[rustfmt::skip]
const GAUGES: &[Family<Facts>] = families! { facts: Facts;
    Gauge "rabbitmq_connections", "Connections currently open", facts.snapshot.connections;
    Gauge "rabbitmq_channels", "Channels currently open", facts.channels();
    Gauge "rabbitmq_consumers", "Consumers currently connected", facts.snapshot.consumers;
    Gauge "rabbitmq_queues", "Queues available", facts.snapshot.queues;
    Gauge "rabbitmq_unreachable_cluster_peers_count", "Number of peers in the cluster the current node cannot reach", 0u64;
    Gauge "rabbitmq_alarms_memory_used_watermark", "is 1 if VM memory watermark alarm is in effect", u64::from(facts.snapshot.alarm_memory);
    Gauge "rabbitmq_alarms_free_disk_space_watermark", "is 1 if free disk space watermark alarm is in effect", u64::from(facts.snapshot.alarm_disk);
    Gauge "rabbitmq_alarms_file_descriptor_limit", "is 1 if file descriptor limit alarm is in effect", 0u64;
};

/// What RabbitMQ has no name for, and what every process exports.
#[rustfmt::skip]
const OWN: &[Family<Facts>] = families! { facts: Facts;
    Counter "mambamq_connections_refused_total", "Connections refused before AMQP began: by TLS, or for want of a PROXY header", facts.snapshot.prefaces_refused;
    Counter "mambamq_received_bytes_total", "Octets received from clients", facts.snapshot.bytes_received;
    Counter "mambamq_sent_bytes_total", "Octets sent to clients", facts.snapshot.bytes_sent;
    Gauge "mambamq_outbox_bytes", "Octets that wait until clients take them", facts.snapshot.outbox_bytes;
    Counter "mambamq_message_received_bytes_total", "Octets of the bodies of received messages", facts.snapshot.message_bytes_received;
    Counter "mambamq_message_delivered_bytes_total", "Octets of the bodies of delivered messages", facts.snapshot.message_bytes_delivered;
    Counter "mambamq_log_entries_total", "Entries written to the message log; divided by groups: how much one sync carries", facts.snapshot.log_entries;
    Counter "mambamq_log_groups_total", "Groups written to the message log, each with one sync in the mode fsync", facts.snapshot.log_groups;
    Counter "mambamq_log_checkpoints_total", "Checkpoints of the message log completed", facts.snapshot.log_checkpoints;
    Counter "mambamq_log_relocations_total", "Files of the message log emptied by copying what lived in them", facts.snapshot.log_relocations;
    Counter "mambamq_messages_read_back_total", "Messages read back from the disk", facts.snapshot.messages_read_back;
    Counter "mambamq_messages_scanned_total", "Messages on the disk that consumers' filters have looked at", facts.snapshot.messages_scanned;
    Counter "mambamq_message_bytes_paged_out_total", "Octets of waiting messages dropped from memory", facts.snapshot.message_bytes_paged_out;
    Counter "mambamq_messages_quarantined_total", "Messages that were in the log and could not be read", facts.snapshot.messages_quarantined;
    Counter "process_cpu_seconds_total", "Processor time used, user and system", facts.readings.cpu_seconds;
    Gauge "mambamq_log_files", "Files of the message log", facts.snapshot.log_files;
    Gauge "mambamq_log_bytes", "Octets in them", facts.snapshot.log_bytes;
    Gauge "mambamq_log_live_bytes", "Of these, octets of messages that still exist", facts.snapshot.log_live_bytes;
    Gauge "mambamq_log_sealed_files", "Files of the message log whose index lies beside them", facts.snapshot.log_sealed_files;
    Gauge "mambamq_message_bytes_in_memory", "Octets that waiting messages take in memory", facts.snapshot.message_bytes_in_memory;
    Gauge "process_threads", "Threads of the process", facts.readings.threads;
    Gauge "process_resident_memory_bytes", "Resident memory in bytes", facts.readings.resident_bytes;
    Gauge "process_open_fds", "Open file descriptors", facts.readings.open_fds;
    Gauge "process_max_fds", "Open file descriptors limit", facts.readings.max_fds;
};

/// What is measured stands under its closest name, what does not exist here is 0, the rest is `other_erlang_process`.
#[rustfmt::skip]
const MEMORY: &[Family<Facts>] = families! { facts: Facts;
    Gauge "rabbitmq_memory_code_module_bytes", "Resident memory of the program itself", facts.readings.resident_file_bytes;
    Gauge "rabbitmq_memory_client_connection_reader_bytes", "Client connection reader processes footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_client_connection_writer_bytes", "Messages on their way to clients", facts.snapshot.outbox_bytes;
    Gauge "rabbitmq_memory_client_connection_channel_bytes", "Client connection channel processes footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_client_connection_other_bytes", "Client connection other processes footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_classic_queue_erlang_process_bytes", "Ready messages of classic queues in memory", facts.snapshot.classic_queue_memory;
    Gauge "rabbitmq_memory_quorum_queue_erlang_process_bytes", "Ready messages of quorum queues in memory", facts.snapshot.quorum_queue_memory;
    Gauge "rabbitmq_memory_quorum_queue_dlx_erlang_process_bytes", "Quorum queue DLX worker processes footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_stream_erlang_process_bytes", "Stream processes footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_stream_replica_reader_erlang_process_bytes", "Stream replica reader processes footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_stream_coordinator_erlang_process_bytes", "Stream coordinator processes footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_plugin_bytes", "Total plugin footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_modern_metadata_store_bytes", "Modern metadata store footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_other_erlang_process_bytes", "All that is not named otherwise", facts.other_memory();
    Gauge "rabbitmq_memory_metrics_bytes", "Metric table footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_management_stats_db_bytes", "Management stats database footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_classic_metadata_store_bytes", "Classic metadata store footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_quorum_queue_ets_table_bytes", "Quorum queue ETS tables footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_modern_metadata_store_ets_table_bytes", "Modern metadata store ETS tables footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_other_ets_table_bytes", "Other ETS tables footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_binary_heap_bytes", "Bodies of unacknowledged messages", facts.snapshot.message_bytes_unacked;
    Gauge "rabbitmq_memory_message_index_bytes", "Message index footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_atom_table_bytes", "Atom table size in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_other_system_bytes", "Other runtime footprint in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_runtime_allocated_unused_bytes", "Runtime allocated but unused blocks size in bytes; nothing here corresponds", 0u64;
    Gauge "rabbitmq_memory_runtime_reserved_unallocated_bytes", "Runtime reserved but unallocated blocks size in bytes; nothing here corresponds", 0u64;
};

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
        page.series(&name, &[PROTOCOL, ("queue_type", CLASSIC)], classic);
        page.series(&name, &[PROTOCOL, ("queue_type", QUORUM)], quorum);
        page.series(&name, &[PROTOCOL, ("queue_type", VOLATILE)], volatile);
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

/// How messages died: every way that there is, from the start, at 0.
fn deaths(page: &mut Page, s: &Snapshot) {
    let reasons = [
        (
            DeathReason::Expired,
            "expired",
            "Total number of messages dead-lettered due to message TTL exceeded",
        ),
        (
            DeathReason::Rejected,
            "rejected",
            "Total number of messages dead-lettered due to basic.reject or basic.nack",
        ),
        (
            DeathReason::MaxLength,
            "maxlen",
            "Total number of messages dead-lettered due to overflow drop-head or reject-publish-dlx",
        ),
        (
            DeathReason::DeliveryLimit,
            "delivery_limit",
            "Total number of messages dead-lettered due to delivery-limit exceeded",
        ),
    ];
    for (reason, word, help) in reasons {
        let name = format!("rabbitmq_global_messages_dead_lettered_{word}_total");
        page.family(&name, Kind::Counter, help);
        for DeathCount {
            kind,
            strategy,
            count,
            ..
        } in s.deaths.iter().filter(|way| way.reason == reason)
        {
            page.series(&name, &way(*kind, *strategy), *count);
        }
    }
    let name = "rabbitmq_global_messages_dead_lettered_confirmed_total";
    page.family(
        name,
        Kind::Counter,
        "Total number of messages dead-lettered and confirmed by target queues",
    );
    let labels = way(QueueKind::Quorum, Strategy::AtLeastOnce);
    page.series(name, &labels, s.dead_letters_confirmed);
}

const fn way(kind: QueueKind, strategy: Strategy) -> [(&'static str, &'static str); 2] {
    let kind = match kind {
        QueueKind::Classic => CLASSIC,
        QueueKind::Quorum => QUORUM,
    };
    [
        ("queue_type", kind),
        ("dead_letter_strategy", strategy.name()),
    ]
}

fn logins(page: &mut Page, naming: Naming, s: &Snapshot) {
    let succeeded = s.auth_attempts.saturating_sub(s.auth_failures);
    let counters = [
        (
            "rabbitmq_auth_attempts_total",
            "Total number of authentication attempts",
            s.auth_attempts,
        ),
        (
            "rabbitmq_auth_attempts_succeeded_total",
            "Total number of successful authentication attempts",
            succeeded,
        ),
        (
            "rabbitmq_auth_attempts_failed_total",
            "Total number of failed authentication attempts",
            s.auth_failures,
        ),
    ];
    for (name, help, value) in counters {
        let name = naming.name(name);
        page.family(&name, Kind::Counter, help);
        page.series(&name, &[PROTOCOL], value);
    }
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

/// How long syncs of the message log take, and how much each group of entries carries.
fn log_histograms(page: &mut Page, s: &Snapshot) {
    let bounds = SYNC_BOUNDS_MICROS.map(|micros| (micros as f64 / 1e6).to_string());
    let bounds = bounds.iter().map(String::as_str);
    page.histogram(
        "mambamq_log_sync_seconds",
        "Time that one sync of the message log takes",
        &[],
        &cumulative(bounds, &s.log_sync_times),
        s.log_sync_seconds,
    );
    // Of 2^i and more, so that 2^(i+1) - 1 bounds it.
    let bounds: Vec<String> = (1..s.log_group_entries.len())
        .map(|class| ((1u64 << class) - 1).to_string())
        .collect();
    page.histogram(
        "mambamq_log_group_entries",
        "Entries that are written to the message log together",
        &[],
        &cumulative(bounds.iter().map(String::as_str), &s.log_group_entries),
        s.log_entries,
    );
}

/// The counts of classes as a histogram says them; the last one has no bound.
fn cumulative<'a>(bounds: impl Iterator<Item = &'a str>, counts: &[u64]) -> Vec<(&'a str, u64)> {
    let mut sum = 0;
    let bounds = bounds.chain(["+Inf"]);
    bounds
        .zip(counts)
        .map(|(bound, count)| {
            sum += count;
            (bound, sum)
        })
        .collect()
}

/// A series for each queue and exchange that takes each message once.
fn deduplication_families(page: &mut Page, s: &Snapshot) {
    let name = "mambamq_messages_deduplicated_total";
    page.family(
        name,
        Kind::Counter,
        "Messages that a queue or an exchange had taken before and did not take again",
    );
    page.series(name, &[], s.messages_deduplicated);
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
