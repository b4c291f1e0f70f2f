//! The node's counters. Connections count locally and add up once per turn, so that a message costs no
//! shared cache line.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mamba_store::log::SYNC_BOUNDS_MICROS;

use crate::{deaths::DeathCount, deduplication::DeduplicationCounts};

/// A queue or an exchange that takes each message once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deduplicator {
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// `queue` or `exchange`.
    pub kind: &'static str,
    /// Its name.
    pub name: Arc<str>,
    /// What it did.
    pub counts: DeduplicationCounts,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since the start, shared by all connections.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics { $($name: AtomicU64),* }

        /// What one connection has counted since it last added up.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counts { $(pub(crate) $name: u64),* }

        /// The node's counters and gauges at one moment.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Open connections, those in the handshake included.
            pub connections: u64,
            /// Queues.
            pub queues: u64,
            /// Consumers of all queues.
            pub consumers: u64,
            /// Ready messages of all queues.
            pub messages_ready: u64,
            /// Unsettled deliveries of all queues.
            pub messages_unacked: u64,
            /// Messages of all queues that wait until they are ready, not among the others.
            pub messages_delayed: u64,
            /// Octets of ready bodies.
            pub message_bytes_ready: u64,
            /// Octets of unsettled bodies.
            pub message_bytes_unacked: u64,
            /// Octets of the bodies of waiting messages.
            pub message_bytes_delayed: u64,
            /// Ready messages that are on the disk only.
            pub messages_paged_out: u64,
            /// Messages, ready and unsettled, that outlive a restart; those of queues that have both kinds are left out.
            pub messages_persistent: u64,
            /// Octets of their bodies.
            pub message_bytes_persistent: u64,
            /// Octets that the waiting messages of classic queues take in memory, with their places.
            pub classic_queue_memory: u64,
            /// The same of quorum queues.
            pub quorum_queue_memory: u64,
            /// Octets that wait in all connections' outboxes.
            pub outbox_bytes: u64,
            /// How messages died: every combination.
            pub deaths: Vec<DeathCount>,
            /// Dead letters that were kept until a queue had them, and that have been taken.
            pub dead_letters_confirmed: u64,
            /// Syncs of the message log by what they took ([`mamba_store::LogStats::sync_times`]).
            pub log_sync_times: [u64; SYNC_BOUNDS_MICROS.len() + 1],
            /// Groups written by entries ([`mamba_store::LogStats::group_entries`]).
            pub log_group_entries: [u64; 16],
            /// Syncs of the message log.
            pub log_syncs: u64,
            /// Seconds spent in them.
            pub log_sync_seconds: f64,
            /// Octets written to the message log.
            pub log_bytes_written: u64,
            /// Entries written to the message log.
            pub log_entries: u64,
            /// Groups written, each with one sync.
            pub log_groups: u64,
            /// Files of the message log.
            pub log_files: u64,
            /// Octets in them.
            pub log_bytes: u64,
            /// Of these, octets of live messages.
            pub log_live_bytes: u64,
            /// Log files whose index lies beside them.
            pub log_sealed_files: u64,
            /// Checkpoints completed since the start.
            pub log_checkpoints: u64,
            /// Log files emptied by copying what lived in them.
            pub log_relocations: u64,
            /// Octets of records that waiting messages take in memory.
            pub message_bytes_in_memory: u64,
            /// Messages read back from the disk since the start.
            pub messages_read_back: u64,
            /// Messages on the disk that filters have looked at since the start.
            pub messages_scanned: u64,
            /// Octets of records dropped from memory since the start.
            pub message_bytes_paged_out: u64,
            /// Messages that were in the log and could not be read, since the start.
            pub messages_quarantined: u64,
            /// The queues and exchanges that take each message once.
            pub deduplication: Vec<Deduplicator>,
            /// The memory alarm is on.
            pub alarm_memory: bool,
            /// The disk alarm is on.
            pub alarm_disk: bool,
        }

        impl Metrics {
            /// Adds up what a connection counted, and sets it to zero.
            pub(crate) fn add(&self, counts: &mut Counts) {
                $(if counts.$name != 0 {
                    self.$name.fetch_add(counts.$name, Ordering::Relaxed);
                    counts.$name = 0;
                })*
            }

            pub(crate) fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* ..Snapshot::default() }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_opened,
    /// Connections refused before AMQP began: by TLS, or for want of a PROXY header.
    prefaces_refused,
    /// Connections ended.
    connections_closed,
    /// Channels opened.
    channels_opened,
    /// Channels closed.
    channels_closed,
    /// `queue.declare`s that succeeded, also of existing queues.
    queues_declared,
    /// Queues made.
    queues_created,
    /// Queues deleted.
    queues_deleted,
    /// Publishes accepted for processing.
    messages_received,
    /// … on channels in confirm or tx mode.
    messages_received_confirm,
    /// Target queues of all publishes.
    messages_routed,
    /// Unroutable and not mandatory.
    messages_unroutable_dropped,
    /// Unroutable and mandatory.
    messages_unroutable_returned,
    /// Messages that a queue or an exchange had taken before and did not take again; once for each of them.
    messages_deduplicated,
    /// Confirms sent to publishers.
    messages_confirmed,
    /// Octets of bodies received.
    message_bytes_received,
    /// Octets of bodies delivered.
    message_bytes_delivered,
    /// Messages received with a body above 100 octets.
    messages_over_100,
    /// … above 1,000 octets.
    messages_over_1k,
    /// … above 10,000 octets.
    messages_over_10k,
    /// … above 100,000 octets.
    messages_over_100k,
    /// … above 1,000,000 octets.
    messages_over_1m,
    /// … above 10,000,000 octets.
    messages_over_10m,
    /// … above 50,000,000 octets.
    messages_over_50m,
    /// … above 100,000,000 octets.
    messages_over_100m,
    /// Deliveries from classic queues to consumers without acknowledgement.
    classic_delivered_auto_ack,
    /// Deliveries from classic queues to consumers with acknowledgement.
    classic_delivered_manual_ack,
    /// `basic.get` from classic queues without acknowledgement.
    classic_got_auto_ack,
    /// `basic.get` from classic queues with acknowledgement.
    classic_got_manual_ack,
    /// `basic.get` that found a classic queue empty.
    classic_get_empty,
    /// Deliveries from classic queues marked redelivered.
    classic_redelivered,
    /// Acknowledgements for classic queues.
    classic_acknowledged,
    /// Deliveries from quorum queues to consumers without acknowledgement.
    quorum_delivered_auto_ack,
    /// Deliveries from quorum queues to consumers with acknowledgement.
    quorum_delivered_manual_ack,
    /// `basic.get` from quorum queues without acknowledgement.
    quorum_got_auto_ack,
    /// `basic.get` from quorum queues with acknowledgement.
    quorum_got_manual_ack,
    /// `basic.get` that found a quorum queue empty.
    quorum_get_empty,
    /// Deliveries from quorum queues marked redelivered.
    quorum_redelivered,
    /// Acknowledgements for quorum queues.
    quorum_acknowledged,
    /// Replies handed to direct reply-to consumers.
    replies_delivered,
    /// Logins tried.
    auth_attempts,
    /// Logins refused.
    auth_failures,
    /// Channels that have published and are open: opened part.
    publishers_started,
    /// … closed part.
    publishers_ended,
    /// Octets read from clients.
    bytes_received,
    /// Octets written to clients.
    bytes_sent,
}

impl Counts {
    /// Counts a received message with a body of `size` octets.
    pub(crate) fn received(&mut self, size: usize) {
        self.messages_received += 1;
        self.message_bytes_received += size as u64;
        // What is counted is "more than": most messages are small, and cost one comparison.
        let bounds = [
            (100, &mut self.messages_over_100),
            (1_000, &mut self.messages_over_1k),
            (10_000, &mut self.messages_over_10k),
            (100_000, &mut self.messages_over_100k),
            (1_000_000, &mut self.messages_over_1m),
            (10_000_000, &mut self.messages_over_10m),
            (50_000_000, &mut self.messages_over_50m),
            (100_000_000, &mut self.messages_over_100m),
        ];
        for (bound, counter) in bounds {
            if size <= bound {
                break;
            }
            *counter += 1;
        }
    }
}
