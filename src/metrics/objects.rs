//! What is said of queues, exchanges, connections and channels: each by itself, or added up.
//!
//! All of a sort are looked at once, one lock after the other, and written family by family: a page keeps some hundred octets per
//! object while it is written.

use mamba_auth::Count;
use mamba_broker::{
    Broker,
    exchange_stats::ExchangeCounts,
    queue_cell::QueueView,
    registry::{ChannelView, ConnectionView, MessageStats},
};

use super::{
    Facts,
    request::Filter,
    text::{Family, Kind, Naming, Page, Row, families},
};

/// Everything, each by itself.
pub(super) fn all(page: &mut Page, broker: &Broker) {
    let everything = Filter::default();
    let queues = queues(broker, &everything);
    for table in [QUEUE_COARSE, QUEUE_CONSUMERS, QUEUE] {
        page.rows(Naming::Plain, table, &queues);
    }
    page.rows(Naming::Plain, QUEUE_DELIVERY, &queues);
    drop(queues);
    page.rows(Naming::Plain, EXCHANGE, &exchanges(broker, &everything));
    let (connections, channels) = connections(broker);
    for table in [CONNECTION_COARSE, CONNECTION] {
        page.rows(Naming::Plain, table, &connections);
    }
    for table in [CHANNEL, CHANNEL_EXCHANGE, CHANNEL_QUEUE] {
        page.rows(Naming::Plain, table, &channels);
    }
    page.rows(Naming::Plain, LOGINS, &logins(broker));
}

/// The families asked for, each object by itself.
pub(super) fn detailed(page: &mut Page, broker: &Broker, filter: &Filter) {
    let mut of_queues: Vec<&[Family<QueueView>]> = Vec::new();
    for (name, table) in [
        ("queue_coarse_metrics", QUEUE_COARSE),
        ("queue_delivery_metrics", QUEUE_DELIVERY),
        ("queue_metrics", QUEUE),
    ] {
        if filter.has(name) {
            of_queues.push(table);
        }
    }
    // Both have it, and it must not come twice.
    if filter.has("queue_consumer_count") || filter.has("queue_metrics") {
        of_queues.push(QUEUE_CONSUMERS);
    }
    if !of_queues.is_empty() {
        let queues = queues(broker, filter);
        for table in of_queues {
            page.rows(Naming::Detailed, table, &queues);
        }
    }
    if filter.has("exchange_metrics") {
        page.rows(Naming::Detailed, EXCHANGE, &exchanges(broker, filter));
    }
    let of_connections: Vec<_> = [
        ("connection_coarse_metrics", CONNECTION_COARSE),
        ("connection_metrics", CONNECTION),
    ]
    .into_iter()
    .filter(|(name, _)| filter.has(name))
    .collect();
    let of_channels: Vec<_> = [
        ("channel_metrics", CHANNEL),
        ("channel_exchange_metrics", CHANNEL_EXCHANGE),
        ("channel_queue_metrics", CHANNEL_QUEUE),
    ]
    .into_iter()
    .filter(|(name, _)| filter.has(name))
    .collect();
    if !of_connections.is_empty() || !of_channels.is_empty() {
        let (connections, channels) = connections(broker);
        for (_, table) in of_connections {
            page.rows(Naming::Detailed, table, &connections);
        }
        for (_, table) in of_channels {
            page.rows(Naming::Detailed, table, &channels);
        }
    }
    if filter.has("auth_attempt_detailed_metrics") {
        page.rows(Naming::Detailed, LOGINS, &logins(broker));
    }
    cluster(page, broker, filter);
}

/// What RabbitMQ says of the cluster as a whole.
fn cluster(page: &mut Page, broker: &Broker, filter: &Filter) {
    let vhosts: Vec<_> = broker
        .vhosts()
        .into_iter()
        .filter(|vhost| filter.wants_vhost(&vhost.name))
        .collect();
    if filter.has("vhost_status") {
        let name = "rabbitmq_cluster_vhost_status";
        page.family(name, Kind::Gauge, "Whether a given vhost is running");
        for vhost in broker.vhosts() {
            page.series(name, &[("vhost", &*vhost.name)], 1);
        }
    }
    let (names, bindings) = (
        filter.has("exchange_names"),
        filter.has("exchange_bindings"),
    );
    if !names && !bindings {
        return;
    }
    let mut rows = Vec::new();
    for vhost in &vhosts {
        for (spec, count) in vhost.exchanges_with_bindings() {
            // The default exchange has no bindings of its own.
            if !spec.name.is_empty() {
                let labels = [
                    ("vhost", &*vhost.name),
                    ("exchange", &*spec.name),
                    ("type", &*spec.kind),
                ];
                rows.push(Row::new(&labels, count as u64));
            }
        }
    }
    if names {
        page.rows(Naming::Plain, EXCHANGE_NAMES, &rows);
    }
    if bindings {
        page.rows(Naming::Plain, EXCHANGE_BINDINGS, &rows);
    }
}

fn queues(broker: &Broker, filter: &Filter) -> Vec<Row<QueueView>> {
    let mut rows = Vec::new();
    for vhost in broker.vhosts() {
        if !filter.wants_vhost(&vhost.name) {
            continue;
        }
        for queue in vhost.queues() {
            if filter.wants_queue(&queue.name) {
                let labels = [("vhost", &*vhost.name), ("queue", &*queue.name)];
                rows.push(Row::new(&labels, queue.view()));
            }
        }
    }
    rows
}

fn exchanges(broker: &Broker, filter: &Filter) -> Vec<Row<ExchangeCounts>> {
    let mut rows = Vec::new();
    for vhost in broker.vhosts() {
        if filter.wants_vhost(&vhost.name) {
            for (exchange, counts) in vhost.all_exchange_counts() {
                let labels = [("vhost", &*vhost.name), ("exchange", &*exchange)];
                rows.push(Row::new(&labels, counts));
            }
        }
    }
    rows
}

/// All connections and their channels. Connections whose tasks are busy are there without what only their tasks know.
fn connections(broker: &Broker) -> (Vec<Row<ConnectionView>>, Vec<Row<ChannelView>>) {
    let (mut connections, mut channels) = (Vec::new(), Vec::new());
    for view in broker.connection_views(|_| true) {
        let name = view.name();
        let vhost = view.login.as_ref().map_or("", |(_, vhost)| vhost);
        for channel in view.detail.iter().flat_map(|detail| &detail.channels) {
            let name = format!("{name} ({})", channel.number);
            let labels = [("channel", name.as_str()), ("vhost", vhost)];
            channels.push(Row::new(&labels, *channel));
        }
        connections.push(Row::new(&[("connection", &name)], view));
    }
    (connections, channels)
}

/// Attempts to log in by where they came from; the longest silent ones are forgotten. A name that was not said is left out.
fn logins(broker: &Broker) -> Vec<Row<Count>> {
    let sources = broker.attempts().into_iter().map(|(source, count)| {
        let address = source.address.to_string();
        let labels = [
            ("protocol", source.protocol),
            ("username", &source.user),
            ("remote_address", &address),
        ];
        let [protocol, _, address] = labels;
        if source.user.is_empty() {
            Row::new(&[protocol, address], count)
        } else {
            Row::new(&labels, count)
        }
    });
    sources.collect()
}

/// Whether a queue was ever asked for messages or given any: series of the others would be noise.
fn is_used(stats: &MessageStats) -> bool {
    *stats != MessageStats::default()
}

/// Sums over all objects. What counts does so for the node, so that no sum falls when an object goes.
#[rustfmt::skip]
pub(super) const TOTALS: &[Family<Facts>] = families! { facts: Facts;
    Gauge "rabbitmq_queue_messages_ready", "Messages ready to be delivered to consumers", facts.snapshot.messages_ready;
    Gauge "rabbitmq_queue_messages_unacked", "Messages delivered to consumers but not yet acknowledged", facts.snapshot.messages_unacked;
    Gauge "rabbitmq_queue_messages", "Sum of ready and unacknowledged messages - total queue depth", facts.snapshot.messages_ready + facts.snapshot.messages_unacked;
    Gauge "rabbitmq_queue_consumers", "Consumers on a queue", facts.snapshot.consumers;
    Gauge "rabbitmq_queue_process_memory_bytes", "Memory in bytes of the ready messages that are in memory", facts.snapshot.classic_queue_memory + facts.snapshot.quorum_queue_memory;
    Gauge "rabbitmq_queue_messages_ram", "Ready and unacknowledged messages stored in memory", facts.snapshot.messages_ready.saturating_sub(facts.snapshot.messages_paged_out) + facts.snapshot.messages_unacked;
    Gauge "rabbitmq_queue_messages_ram_bytes", "Size of ready and unacknowledged messages stored in memory", facts.snapshot.classic_queue_memory + facts.snapshot.quorum_queue_memory + facts.snapshot.message_bytes_unacked;
    Gauge "rabbitmq_queue_messages_ready_ram", "Ready messages stored in memory", facts.snapshot.messages_ready.saturating_sub(facts.snapshot.messages_paged_out);
    Gauge "rabbitmq_queue_messages_unacked_ram", "Unacknowledged messages stored in memory", facts.snapshot.messages_unacked;
    Gauge "rabbitmq_queue_messages_persistent", "Persistent messages", facts.snapshot.messages_persistent;
    Gauge "rabbitmq_queue_messages_persistent_bytes", "Size in bytes of persistent messages", facts.snapshot.message_bytes_persistent;
    Gauge "rabbitmq_queue_messages_bytes", "Size in bytes of ready and unacknowledged messages", facts.snapshot.message_bytes_ready + facts.snapshot.message_bytes_unacked;
    Gauge "rabbitmq_queue_messages_ready_bytes", "Size in bytes of ready messages", facts.snapshot.message_bytes_ready;
    Gauge "rabbitmq_queue_messages_unacked_bytes", "Size in bytes of all unacknowledged messages", facts.snapshot.message_bytes_unacked;
    Gauge "rabbitmq_queue_messages_paged_out", "Messages paged out to disk", facts.snapshot.messages_paged_out;
    Gauge "mambamq_queue_messages_delayed", "Messages that wait until they are ready, not in the other figures", facts.snapshot.messages_delayed;
    Gauge "mambamq_queue_messages_delayed_bytes", "Size in bytes of messages that wait until they are ready", facts.snapshot.message_bytes_delayed;
    Counter "rabbitmq_queue_get_ack_total", "Total number of messages fetched from a queue with basic.get in manual acknowledgement mode", facts.snapshot.classic_got_manual_ack + facts.snapshot.quorum_got_manual_ack;
    Counter "rabbitmq_queue_get_total", "Total number of messages fetched from a queue with basic.get in automatic acknowledgement mode", facts.snapshot.classic_got_auto_ack + facts.snapshot.quorum_got_auto_ack;
    Counter "rabbitmq_queue_messages_delivered_ack_total", "Total number of messages delivered from a queue to consumers in manual acknowledgement mode", facts.snapshot.classic_delivered_manual_ack + facts.snapshot.quorum_delivered_manual_ack;
    Counter "rabbitmq_queue_messages_delivered_total", "Total number of messages delivered from a queue to consumers in automatic acknowledgement mode", facts.snapshot.classic_delivered_auto_ack + facts.snapshot.quorum_delivered_auto_ack;
    Counter "rabbitmq_queue_messages_redelivered_total", "Total number of messages redelivered from a queue to consumers", facts.snapshot.classic_redelivered + facts.snapshot.quorum_redelivered;
    Counter "rabbitmq_queue_messages_acked_total", "Total number of messages acknowledged by consumers on a queue", facts.snapshot.classic_acknowledged + facts.snapshot.quorum_acknowledged;
    Counter "rabbitmq_queue_get_empty_total", "Total number of times basic.get operations fetched no message on a queue", facts.snapshot.classic_get_empty + facts.snapshot.quorum_get_empty;
    Counter "rabbitmq_channel_get_ack_total", "Total number of messages fetched with basic.get in manual acknowledgement mode", facts.snapshot.classic_got_manual_ack + facts.snapshot.quorum_got_manual_ack;
    Counter "rabbitmq_channel_get_total", "Total number of messages fetched with basic.get in automatic acknowledgement mode", facts.snapshot.classic_got_auto_ack + facts.snapshot.quorum_got_auto_ack;
    Counter "rabbitmq_channel_messages_delivered_ack_total", "Total number of messages delivered to consumers in manual acknowledgement mode", facts.snapshot.classic_delivered_manual_ack + facts.snapshot.quorum_delivered_manual_ack;
    Counter "rabbitmq_channel_messages_delivered_total", "Total number of messages delivered to consumers in automatic acknowledgement mode", facts.snapshot.classic_delivered_auto_ack + facts.snapshot.quorum_delivered_auto_ack;
    Counter "rabbitmq_channel_messages_redelivered_total", "Total number of messages redelivered to consumers", facts.snapshot.classic_redelivered + facts.snapshot.quorum_redelivered;
    Counter "rabbitmq_channel_messages_acked_total", "Total number of messages acknowledged by consumers", facts.snapshot.classic_acknowledged + facts.snapshot.quorum_acknowledged;
    Counter "rabbitmq_channel_get_empty_total", "Total number of times basic.get operations fetched no message", facts.snapshot.classic_get_empty + facts.snapshot.quorum_get_empty;
    Counter "rabbitmq_queue_messages_published_total", "Total number of messages published into a queue through an exchange on a channel", facts.snapshot.messages_routed;
    Counter "rabbitmq_queue_exchange_messages_published_total", "Total number of messages published into a queue through an exchange", facts.snapshot.messages_routed;
    Counter "mambamq_queue_messages_published_total", "Total number of messages published into a queue, through any exchange", facts.snapshot.messages_routed;
    Counter "mambamq_exchange_messages_routed_total", "Total number of queues that messages published into an exchange were routed to", facts.snapshot.messages_routed;
    Counter "rabbitmq_exchange_messages_published_total", "Total number of messages published into an exchange", facts.snapshot.messages_received;
    Counter "rabbitmq_exchange_messages_confirmed_total", "Total number of messages published into an exchange and confirmed", facts.snapshot.messages_confirmed;
    Counter "rabbitmq_exchange_messages_unroutable_returned_total", "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable", facts.snapshot.messages_unroutable_returned;
    Counter "rabbitmq_exchange_messages_unroutable_dropped_total", "Total number of messages published as non-mandatory into an exchange and dropped as unroutable", facts.snapshot.messages_unroutable_dropped;
    Counter "rabbitmq_channel_messages_published_total", "Total number of messages published into an exchange on a channel", facts.snapshot.messages_received;
    Counter "rabbitmq_channel_messages_confirmed_total", "Total number of messages published into an exchange and confirmed on the channel", facts.snapshot.messages_confirmed;
    Counter "rabbitmq_channel_messages_unroutable_returned_total", "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable", facts.snapshot.messages_unroutable_returned;
    Counter "rabbitmq_channel_messages_unroutable_dropped_total", "Total number of messages published as non-mandatory into an exchange and dropped as unroutable", facts.snapshot.messages_unroutable_dropped;
    Gauge "rabbitmq_channel_consumers", "Consumers on a channel", facts.snapshot.consumers;
    Gauge "rabbitmq_channel_messages_unacked", "Delivered but not yet acknowledged messages", facts.snapshot.messages_unacked;
    Counter "rabbitmq_connection_incoming_bytes_total", "Total number of bytes received on a connection", facts.snapshot.bytes_received;
    Counter "rabbitmq_connection_outgoing_bytes_total", "Total number of bytes sent on a connection", facts.snapshot.bytes_sent;
    Gauge "rabbitmq_connection_channels", "Channels on a connection", facts.channels();
};

#[rustfmt::skip]
const LOGINS: &[Family<Count>] = families! { login: Count;
    Counter "rabbitmq_auth_attempts_detailed_total", "Total number of authentication attempts with source info", login.succeeded + login.failed;
    Counter "rabbitmq_auth_attempts_detailed_succeeded_total", "Total number of successful authentication attempts with source info", login.succeeded;
    Counter "rabbitmq_auth_attempts_detailed_failed_total", "Total number of failed authentication attempts with source info", login.failed;
};

#[rustfmt::skip]
const QUEUE_COARSE: &[Family<QueueView>] = families! { queue: QueueView;
    Gauge "rabbitmq_queue_messages_ready", "Messages ready to be delivered to consumers", queue.counts.ready;
    Gauge "rabbitmq_queue_messages_unacked", "Messages delivered to consumers but not yet acknowledged", queue.counts.unacked;
    Gauge "rabbitmq_queue_messages", "Sum of ready and unacknowledged messages - total queue depth", queue.counts.ready + queue.counts.unacked;
};

#[rustfmt::skip]
const QUEUE_CONSUMERS: &[Family<QueueView>] = families! { queue: QueueView;
    Gauge "rabbitmq_queue_consumers", "Consumers on a queue", queue.counts.consumers;
};

#[rustfmt::skip]
const QUEUE: &[Family<QueueView>] = families! { queue: QueueView;
    Gauge "rabbitmq_queue_consumer_capacity", "Part of the last seconds in which consumers could take what there was, from 0 to 1", queue.consumer_capacity;
    Gauge "rabbitmq_queue_consumer_utilisation", "Same as consumer capacity", queue.consumer_capacity;
    Gauge "rabbitmq_queue_process_memory_bytes", "Memory in bytes of the ready messages that are in memory", queue.resident_bytes;
    Gauge "rabbitmq_queue_messages_ram", "Ready and unacknowledged messages stored in memory", queue.counts.ready.saturating_sub(queue.paged) + queue.counts.unacked;
    Gauge "rabbitmq_queue_messages_ram_bytes", "Size of ready and unacknowledged messages stored in memory", queue.resident_bytes + queue.counts.unacked_bytes;
    Gauge "rabbitmq_queue_messages_ready_ram", "Ready messages stored in memory", queue.counts.ready.saturating_sub(queue.paged);
    Gauge "rabbitmq_queue_messages_unacked_ram", "Unacknowledged messages stored in memory", queue.counts.unacked;
    Gauge "rabbitmq_queue_messages_persistent", "Persistent messages", queue.persistent;
    Gauge "rabbitmq_queue_messages_persistent_bytes", "Size in bytes of persistent messages", queue.persistent_bytes;
    Gauge "rabbitmq_queue_messages_bytes", "Size in bytes of ready and unacknowledged messages", queue.counts.ready_bytes + queue.counts.unacked_bytes;
    Gauge "rabbitmq_queue_messages_ready_bytes", "Size in bytes of ready messages", queue.counts.ready_bytes;
    Gauge "rabbitmq_queue_messages_unacked_bytes", "Size in bytes of all unacknowledged messages", queue.counts.unacked_bytes;
    Gauge "rabbitmq_queue_messages_paged_out", "Messages paged out to disk", queue.paged;
    Gauge "rabbitmq_queue_head_message_timestamp", "Timestamp of the first message in the queue, if any", queue.head_timestamp;
    Gauge "mambamq_queue_messages_delayed", "Messages that wait until they are ready, not in the other figures", queue.counts.delayed;
    Gauge "mambamq_queue_messages_delayed_bytes", "Size in bytes of messages that wait until they are ready", queue.counts.delayed_bytes;
};

#[rustfmt::skip]
const QUEUE_DELIVERY: &[Family<QueueView>] = families! { queue: QueueView;
    Counter "rabbitmq_queue_get_ack_total", "Total number of messages fetched from a queue with basic.get in manual acknowledgement mode", is_used(&queue.stats).then_some(queue.stats.get);
    Counter "rabbitmq_queue_get_total", "Total number of messages fetched from a queue with basic.get in automatic acknowledgement mode", is_used(&queue.stats).then_some(queue.stats.get_no_ack);
    Counter "rabbitmq_queue_messages_delivered_ack_total", "Total number of messages delivered from a queue to consumers in manual acknowledgement mode", is_used(&queue.stats).then_some(queue.stats.deliver);
    Counter "rabbitmq_queue_messages_delivered_total", "Total number of messages delivered from a queue to consumers in automatic acknowledgement mode", is_used(&queue.stats).then_some(queue.stats.deliver_no_ack);
    Counter "rabbitmq_queue_messages_redelivered_total", "Total number of messages redelivered from a queue to consumers", is_used(&queue.stats).then_some(queue.stats.redeliver);
    Counter "rabbitmq_queue_messages_acked_total", "Total number of messages acknowledged by consumers on a queue", is_used(&queue.stats).then_some(queue.stats.ack);
    Counter "rabbitmq_queue_get_empty_total", "Total number of times basic.get operations fetched no message on a queue", is_used(&queue.stats).then_some(queue.stats.get_empty);
    Counter "mambamq_queue_messages_published_total", "Total number of messages published into a queue, through any exchange", is_used(&queue.stats).then_some(queue.stats.publish);
};

#[rustfmt::skip]
const EXCHANGE: &[Family<ExchangeCounts>] = families! { exchange: ExchangeCounts;
    Counter "rabbitmq_exchange_messages_published_total", "Total number of messages published into an exchange", exchange.publish_in;
    Counter "rabbitmq_exchange_messages_confirmed_total", "Total number of messages published into an exchange and confirmed", exchange.confirm;
    Counter "rabbitmq_exchange_messages_unroutable_returned_total", "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable", exchange.return_unroutable;
    Counter "rabbitmq_exchange_messages_unroutable_dropped_total", "Total number of messages published as non-mandatory into an exchange and dropped as unroutable", exchange.drop_unroutable;
    Counter "mambamq_exchange_messages_routed_total", "Total number of queues that messages published into an exchange were routed to", exchange.publish_out;
};

#[rustfmt::skip]
const EXCHANGE_NAMES: &[Family<u64>] = families! { _bindings: u64;
    Gauge "rabbitmq_cluster_exchange_name", "Enumerates exchanges without any additional info. This value is cluster-wide", 1u64;
};

#[rustfmt::skip]
const EXCHANGE_BINDINGS: &[Family<u64>] = families! { bindings: u64;
    Gauge "rabbitmq_cluster_exchange_bindings", "Number of bindings for an exchange. This value is cluster-wide", *bindings;
};

#[rustfmt::skip]
const CONNECTION_COARSE: &[Family<ConnectionView>] = families! { connection: ConnectionView;
    Counter "rabbitmq_connection_incoming_bytes_total", "Total number of bytes received on a connection", connection.traffic.received_bytes;
    Counter "rabbitmq_connection_outgoing_bytes_total", "Total number of bytes sent on a connection", connection.traffic.sent_bytes;
};

#[rustfmt::skip]
const CONNECTION: &[Family<ConnectionView>] = families! { connection: ConnectionView;
    Counter "rabbitmq_connection_incoming_packets_total", "Total number of packets received on a connection", connection.traffic.received_packets;
    Counter "rabbitmq_connection_outgoing_packets_total", "Total number of packets sent on a connection", connection.traffic.sent_packets;
    Gauge "rabbitmq_connection_channels", "Channels on a connection", connection.detail.as_ref().map(|detail| detail.channels.len() as u64);
    Gauge "mambamq_connection_pending_bytes", "Octets that wait for the socket of a connection", connection.detail.as_ref().map(|detail| detail.output_bytes as u64);
};

#[rustfmt::skip]
const CHANNEL: &[Family<ChannelView>] = families! { channel: ChannelView;
    Gauge "rabbitmq_channel_consumers", "Consumers on a channel", channel.consumers as u64;
    Gauge "rabbitmq_channel_messages_unacked", "Delivered but not yet acknowledged messages", channel.unacked as u64;
    Gauge "rabbitmq_channel_messages_unconfirmed", "Published but not yet confirmed messages", channel.unconfirmed;
    Gauge "rabbitmq_channel_messages_uncommitted", "Messages received in a transaction but not yet committed", channel.uncommitted as u64;
    Gauge "rabbitmq_channel_acks_uncommitted", "Message acknowledgements in a transaction not yet committed", channel.acks_uncommitted as u64;
    Gauge "rabbitmq_consumer_prefetch", "Limit of unacknowledged messages for each consumer", u64::from(channel.prefetch);
    Gauge "rabbitmq_channel_prefetch", "Limit of unacknowledged messages for the whole channel", u64::from(channel.global_prefetch);
};

/// By channel and virtual host: by exchange as well, it would have to be counted per message and exchange on each channel.
#[rustfmt::skip]
const CHANNEL_EXCHANGE: &[Family<ChannelView>] = families! { channel: ChannelView;
    Counter "rabbitmq_channel_messages_published_total", "Total number of messages published on a channel", channel.stats.publish;
    Counter "rabbitmq_channel_messages_confirmed_total", "Total number of messages published and confirmed on a channel", channel.stats.confirm;
    Counter "rabbitmq_channel_messages_unroutable_returned_total", "Total number of messages published as mandatory on a channel and returned to the publisher as unroutable", channel.stats.return_unroutable;
    Counter "rabbitmq_channel_messages_unroutable_dropped_total", "Total number of messages published as non-mandatory on a channel and dropped as unroutable", channel.stats.drop_unroutable;
};

/// By channel and virtual host, as above.
#[rustfmt::skip]
const CHANNEL_QUEUE: &[Family<ChannelView>] = families! { channel: ChannelView;
    Counter "rabbitmq_channel_get_ack_total", "Total number of messages fetched with basic.get in manual acknowledgement mode", channel.stats.get;
    Counter "rabbitmq_channel_get_total", "Total number of messages fetched with basic.get in automatic acknowledgement mode", channel.stats.get_no_ack;
    Counter "rabbitmq_channel_messages_delivered_ack_total", "Total number of messages delivered to consumers in manual acknowledgement mode", channel.stats.deliver;
    Counter "rabbitmq_channel_messages_delivered_total", "Total number of messages delivered to consumers in automatic acknowledgement mode", channel.stats.deliver_no_ack;
    Counter "rabbitmq_channel_messages_redelivered_total", "Total number of messages redelivered to consumers", channel.stats.redeliver;
    Counter "rabbitmq_channel_messages_acked_total", "Total number of messages acknowledged by consumers", channel.stats.ack;
    Counter "rabbitmq_channel_get_empty_total", "Total number of times basic.get operations fetched no message", channel.stats.get_empty;
};
