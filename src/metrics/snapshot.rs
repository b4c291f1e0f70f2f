//! What the broker counted, as plain numbers.
//!
//! Counters start at 0 with the process and never go down; gauges are what is true now.

/// Upper bounds, in octets, of the buckets of the message size histogram; the last bucket has none.
pub(crate) const MESSAGE_SIZE_BOUNDS: [u64; 8] = [
    100,
    1000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
];

/// Upper bounds, in seconds, of the buckets of the sync duration histogram; the last bucket has none.
pub(crate) const SYNC_SECONDS_BOUNDS: [f64; 9] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0,
];

/// The numbers of one moment. `spec/metrics.md` §3–7.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// Connections that are open now.
    pub(crate) connections: u64,
    /// Channels that are open now.
    pub(crate) channels: u64,
    /// Queues that exist now.
    pub(crate) queues: u64,
    /// Exchanges that exist now, over all virtual hosts.
    pub(crate) exchanges: u64,
    /// Consumers that exist now.
    pub(crate) consumers: u64,
    /// Open channels that have published.
    pub(crate) publishers: u64,
    /// Connections on which publishing is blocked by an alarm now.
    pub(crate) connections_blocked: u64,

    /// Connections opened.
    pub(crate) connections_opened: u64,
    /// Connections closed.
    pub(crate) connections_closed: u64,
    /// Channels opened.
    pub(crate) channels_opened: u64,
    /// Channels closed.
    pub(crate) channels_closed: u64,
    /// `queue.declare`s carried out, also of queues that existed.
    pub(crate) queues_declared: u64,
    /// Queues made.
    pub(crate) queues_created: u64,
    /// Queues deleted, for whatever reason.
    pub(crate) queues_deleted: u64,

    /// Messages accepted from publishers.
    pub(crate) messages_received: u64,
    /// Those received on channels in confirm or transaction mode.
    pub(crate) messages_received_confirm: u64,
    /// Queues that messages were routed to, summed.
    pub(crate) messages_routed: u64,
    /// Messages no queue wanted, dropped.
    pub(crate) messages_unroutable_dropped: u64,
    /// Messages no queue wanted, returned to the publisher.
    pub(crate) messages_unroutable_returned: u64,
    /// Publishes confirmed.
    pub(crate) messages_confirmed: u64,
    /// Deliveries of classic queues.
    pub(crate) classic: QueueTypeCounters,
    /// Deliveries of quorum queues.
    pub(crate) quorum: QueueTypeCounters,
    /// Received messages by body size: not cumulative, one more than [`MESSAGE_SIZE_BOUNDS`].
    pub(crate) message_size_buckets: [u64; 9],
    /// Octets of the bodies received.
    pub(crate) message_size_sum: u64,

    /// Messages ready for delivery, all queues.
    pub(crate) messages_ready: u64,
    /// Messages delivered and not settled, all queues.
    pub(crate) messages_unacked: u64,
    /// Octets of the bodies of ready messages.
    pub(crate) messages_ready_bytes: u64,
    /// Octets of the bodies of unsettled messages.
    pub(crate) messages_unacked_bytes: u64,
    /// Messages held in memory, all queues.
    pub(crate) messages_ram: u64,
    /// Octets of the bodies held in memory.
    pub(crate) messages_ram_bytes: u64,
    /// Persistent messages, all queues.
    pub(crate) messages_persistent: u64,
    /// Octets of the bodies of persistent messages.
    pub(crate) messages_persistent_bytes: u64,

    /// Logins that succeeded.
    pub(crate) auth_attempts_succeeded: u64,
    /// Logins that failed.
    pub(crate) auth_attempts_failed: u64,
    /// Octets received from clients.
    pub(crate) received_bytes: u64,
    /// Octets sent to clients.
    pub(crate) sent_bytes: u64,

    /// Reads of message files.
    pub(crate) io_read_ops: u64,
    /// Octets read from message files.
    pub(crate) io_read_bytes: u64,
    /// Writes to the message log and segments.
    pub(crate) io_write_ops: u64,
    /// Octets written to them.
    pub(crate) io_write_bytes: u64,
    /// Seconds spent writing.
    pub(crate) io_write_seconds: f64,
    /// Syncs of them to disk.
    pub(crate) io_sync_ops: u64,
    /// Seconds spent syncing.
    pub(crate) io_sync_seconds: f64,
    /// Syncs by duration: not cumulative, one more than [`SYNC_SECONDS_BOUNDS`].
    pub(crate) io_sync_buckets: [u64; 10],
    /// Records written to the log; divided by `io_sync_ops` the size of a commit group.
    pub(crate) log_records: u64,
    /// Files the message log has now.
    pub(crate) log_files: u64,
    /// Octets they take on disk.
    pub(crate) log_bytes: u64,

    /// 1 while the memory alarm is on.
    pub(crate) alarm_memory: u64,
    /// 1 while the disk alarm is on.
    pub(crate) alarm_disk: u64,
}

/// Counters of the queues of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct QueueTypeCounters {
    /// Deliveries to consumers without acknowledgement.
    pub(crate) delivered_consume_auto_ack: u64,
    /// Deliveries to consumers with acknowledgement.
    pub(crate) delivered_consume_manual_ack: u64,
    /// `basic.get` without acknowledgement.
    pub(crate) delivered_get_auto_ack: u64,
    /// `basic.get` with acknowledgement.
    pub(crate) delivered_get_manual_ack: u64,
    /// `basic.get` from an empty queue.
    pub(crate) get_empty: u64,
    /// Deliveries marked as redelivered.
    pub(crate) redelivered: u64,
    /// Deliveries acknowledged.
    pub(crate) acknowledged: u64,
    /// Messages dropped for their age: no dead-letter exchange.
    pub(crate) dropped_expired: u64,
    /// Messages dropped after a rejection: no dead-letter exchange.
    pub(crate) dropped_rejected: u64,
    /// Messages dropped for the queue's length: no dead-letter exchange.
    pub(crate) dropped_maxlen: u64,
    /// Messages dropped after too many deliveries: no dead-letter exchange.
    pub(crate) dropped_delivery_limit: u64,
    /// Messages dead-lettered for their age.
    pub(crate) dead_lettered_expired: u64,
    /// Messages dead-lettered after a rejection.
    pub(crate) dead_lettered_rejected: u64,
    /// Messages dead-lettered for the queue's length.
    pub(crate) dead_lettered_maxlen: u64,
    /// Messages dead-lettered after too many deliveries.
    pub(crate) dead_lettered_delivery_limit: u64,
}
