//! Every limit a peer can run into, in one plain struct that the binary fills from its configuration.

use std::time::Duration;

/// Octets of frame overhead: type, channel, size and end octet (AMQP 0-9-1, 4.2.3).
pub const FRAME_OVERHEAD: u32 = 8;

/// The smallest `frame_max` a client may ask for, in octets.
pub const FRAME_MIN_SIZE: u32 = 4096;

/// The largest content body any configuration may allow, in octets.
pub const BODY_SIZE_CAP: u64 = 536_870_912;

/// The most ids of messages that one queue or exchange may be asked to remember (`x-cache-size`).
pub const SEEN_IDS_MAX: usize = 1_000_000;

/// Limits of one node. The defaults are the documented ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Largest frame offered in `connection.tune`, in octets with overhead.
    pub frame_max: u32,
    /// Largest frame payload accepted before `tune-ok`, in octets.
    pub initial_frame_max: u32,
    /// Channels open at once per connection.
    pub channel_max: u16,
    /// Heartbeat interval offered, in seconds; 0 offers none.
    pub heartbeat_secs: u16,
    /// From accept to `connection.open-ok`.
    pub handshake_timeout: Duration,
    /// Largest message body, in octets; at most [`BODY_SIZE_CAP`].
    pub message_size_max: u64,
    /// Octets of unfinished message bodies one connection may hold over all its channels.
    pub unfinished_bytes_max: u64,
    /// Nesting of tables and arrays in a field table.
    pub table_depth_max: usize,
    /// Octets of deliveries waiting for one connection's socket.
    pub outbox_bytes_max: usize,
    /// Octets in a connection's output buffer above which its input is no longer read.
    pub output_bytes_max: usize,
    /// Consumers per channel; 0 means no limit.
    pub consumers_per_channel_max: usize,
    /// Connections on this node.
    pub connections_max: usize,
    /// Queues on this node; 0 means no limit.
    pub queues_max: usize,
    /// Exchanges on this node, predeclared ones included; 0 means no limit.
    pub exchanges_max: usize,
    /// Virtual hosts on this node; 0 means no limit.
    pub vhosts_max: usize,
    /// Deliveries a consumer without a prefetch limit may hold unsettled.
    pub unacked_max: usize,
    /// How long a delivery may stay unsettled, in milliseconds, where neither queue nor consumer says; 0 means for ever. `None`: for ever on
    /// classic queues, 30 minutes on quorum queues.
    pub consumer_timeout_ms: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_max: 131_072,
            initial_frame_max: 8192,
            channel_max: 2047,
            heartbeat_secs: 60,
            handshake_timeout: Duration::from_secs(10),
            message_size_max: 16_777_216,
            unfinished_bytes_max: 67_108_864,
            table_depth_max: 64,
            outbox_bytes_max: 262_144,
            output_bytes_max: 4_194_304,
            consumers_per_channel_max: 0,
            connections_max: 65_536,
            queues_max: 0,
            exchanges_max: 0,
            vhosts_max: 0,
            unacked_max: 4_000_000,
            consumer_timeout_ms: None,
        }
    }
}
