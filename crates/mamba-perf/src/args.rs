//! The options of the load generator, as they are given.
//!
//! Names and letters are those that users of RabbitMQ's PerfTest and of lavinmqperf know, where these two agree.

use std::str::FromStr;

use clap::{Args as ClapArgs, ValueEnum};

/// Generate load on an AMQP 0-9-1 broker and measure it.
///
/// One publisher and one consumer on one queue, unless told otherwise. Queues are declared first and deleted at the end.
/// Latency is exact when --rate is given: the time at which a message was meant to go out is stamped on it. Publisher and
/// consumer may be two processes, but must run on one machine.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// What to measure.
    #[arg(value_name = "MODE", value_enum, default_value_t)]
    pub(crate) mode: Mode,
    /// Broker: amqp://user:password@host:port/vhost, percent-encoded where needed.
    #[arg(long, default_value = "amqp://guest:guest@localhost:5672/%2F")]
    pub(crate) uri: String,

    /// Number of publishers, each with a connection of its own [default: 1]
    #[arg(long, alias = "producers", short = 'x', value_name = "N")]
    pub(crate) publishers: Option<usize>,
    /// Number of consumers, each with a connection of its own [default: 1]
    #[arg(long, short = 'y', value_name = "N")]
    pub(crate) consumers: Option<usize>,
    /// Publish only; add --keep to leave a backlog for --consume-only.
    #[arg(long, conflicts_with_all = ["consume_only", "consumers"])]
    pub(crate) publish_only: bool,
    /// Consume only.
    #[arg(long, conflicts_with = "publishers")]
    pub(crate) consume_only: bool,

    /// Number of queues; publishers and consumers spread over them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) queues: usize,
    /// Queue name; with several queues the prefix to which -1, -2, ... is added.
    #[arg(long, short = 'u', value_name = "NAME", default_value = "mamba-perf")]
    pub(crate) queue: String,
    /// Names of several queues: %d, or %03d with zeros in front, stands for the numbers from --queue-pattern-from to -to.
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["queue", "queues"])]
    pub(crate) queue_pattern: Option<String>,
    /// First number of --queue-pattern.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "queue_pattern"
    )]
    pub(crate) queue_pattern_from: usize,
    /// Last number of --queue-pattern.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "queue_pattern"
    )]
    pub(crate) queue_pattern_to: usize,
    /// Kind of queue (x-queue-type); quorum makes it durable.
    #[arg(long, value_name = "TYPE")]
    pub(crate) queue_type: Option<QueueType>,
    /// Argument of queue.declare; whole numbers, true and false are recognised. Repeatable.
    #[arg(long, alias = "queue-args", value_name = "KEY=VALUE")]
    pub(crate) queue_arg: Vec<String>,
    /// Argument of basic.consume, such as "x-filter=priority IS NULL"; whole numbers, true and false are recognised. Repeatable.
    #[arg(long, alias = "consumer-args", value_name = "KEY=VALUE")]
    pub(crate) consumer_arg: Vec<String>,
    /// Declare queues and exchange durable.
    #[arg(long)]
    pub(crate) durable: bool,
    /// Use queues and exchange as they are: declare, bind and delete nothing.
    #[arg(long)]
    pub(crate) predeclared: bool,
    /// Empty the queues first.
    #[arg(long)]
    pub(crate) purge: bool,
    /// Do not delete queues and exchange afterwards.
    #[arg(long)]
    pub(crate) keep: bool,

    /// Exchange to publish to; the default exchange if left out.
    #[arg(long, short = 'e', value_name = "NAME", default_value = "")]
    pub(crate) exchange: String,
    /// Declare the exchange with this type: direct, fanout, topic, headers, ...
    #[arg(
        long,
        alias = "type",
        short = 't',
        value_name = "TYPE",
        requires = "exchange"
    )]
    pub(crate) exchange_type: Option<String>,
    /// Every queue gets every message: through a fanout exchange that is declared, and deleted at the end.
    #[arg(long, conflicts_with_all = ["exchange_type", "routing_key"])]
    pub(crate) fan_out: bool,
    /// Routing key of all messages; the queue's name if left out.
    #[arg(long, short = 'k', value_name = "KEY", requires = "exchange")]
    pub(crate) routing_key: Option<String>,
    /// Binding key of all queues; the routing key if left out.
    #[arg(long, value_name = "KEY", requires = "exchange")]
    pub(crate) binding_key: Option<String>,

    /// Body size in octets; a list is cycled through for each queue: 16,1000 in turn, 16x9,1000 nine small ones for each large one.
    #[arg(
        long,
        short = 's',
        value_name = "OCTETS[xN]",
        value_delimiter = ',',
        default_value = "16"
    )]
    pub(crate) size: Vec<Share>,
    /// Persistent messages (delivery mode 2) on durable queues.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// The same as --persistent or --mandatory. Repeatable.
    #[arg(long, short = 'f', value_name = "FLAG")]
    pub(crate) flag: Vec<Flag>,
    /// Message property such as priority=5 or content_type=text/plain. Repeatable.
    #[arg(
        long = "properties",
        visible_alias = "property",
        alias = "message-properties",
        value_name = "KEY=VALUE"
    )]
    pub(crate) properties: Vec<String>,
    /// Message header; whole numbers, true and false are recognised. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) header: Vec<String>,
    /// Ask for unroutable messages back, and count them.
    #[arg(long)]
    pub(crate) mandatory: bool,
    /// Confirms: at most N messages unconfirmed per publisher; 0 publishes without confirms.
    #[arg(
        long,
        alias = "confirm",
        short = 'c',
        value_name = "N",
        default_value_t = 0
    )]
    pub(crate) confirm_window: u64,
    /// Transactions: commit after every N messages.
    #[arg(
        long,
        alias = "ptxsize",
        short = 'm',
        value_name = "N",
        default_value_t = 0,
        conflicts_with = "confirm_window"
    )]
    pub(crate) tx: u64,
    /// Messages per second and publisher (churn: operations per second and worker) [default: as fast as possible; latency: 1000]
    #[arg(long, alias = "publish-rate", short = 'r', value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// Messages per second and consumer, at most: a slow consumer, which leaves the rest to the broker.
    #[arg(long, alias = "consumer-rate", short = 'R', value_name = "PER_SECOND")]
    pub(crate) consume_rate: Option<f64>,

    /// Consume without acknowledgements.
    #[arg(long, alias = "autoack", conflicts_with = "ack_every")]
    pub(crate) auto_ack: bool,
    /// Acknowledge every N messages with one ack (multiple).
    #[arg(
        long,
        alias = "multi-ack-every",
        short = 'A',
        value_name = "N",
        default_value_t = 1
    )]
    pub(crate) ack_every: u64,
    /// Prefetch count per consumer; 0 for no limit.
    #[arg(
        long,
        alias = "qos",
        short = 'q',
        value_name = "N",
        default_value_t = 0
    )]
    pub(crate) prefetch: u16,

    /// Measure latency in any mode with messages; needs bodies of at least 8 octets.
    #[arg(long)]
    pub(crate) latency: bool,
    /// Check that every message arrives once and in order; needs bodies of at least 16 octets.
    #[arg(long)]
    pub(crate) verify: bool,

    /// Seconds to measure, after the warm-up; for counts, to hold what was made [default: 10; unlimited with --messages and for counts]
    #[arg(long, alias = "time", short = 'z', value_name = "SECS")]
    pub(crate) duration: Option<f64>,
    /// Seconds to run before measuring.
    #[arg(long, value_name = "SECS", default_value_t = 0.0)]
    pub(crate) warmup: f64,
    /// Stop after N messages in all (published, or consumed with --consume-only), or N operations [default for backlog: 1000000]
    #[arg(long, alias = "pmessages", short = 'C', value_name = "N")]
    pub(crate) messages: Option<u64>,
    /// Seconds without progress after which waiting for the last messages ends.
    #[arg(long, value_name = "SECS", default_value_t = 10.0)]
    pub(crate) drain_timeout: f64,

    /// Hold N idle connections, each with a channel, beside the load.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) connections_idle: usize,
    /// Number of connections or queues that connection-count and queue-count make [default: 1000]
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<usize>,
    /// Channels that connection-count opens on each connection.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) channels: u16,
    /// Number of workers for churn and counts, each with a connection of its own [default: 1; connection-count: 8]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Shell command that backlog runs between filling and draining: it has to restart the broker.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) restart: Option<String>,
    /// Seconds that the broker may take to be back.
    #[arg(long, value_name = "SECS", default_value_t = 120.0)]
    pub(crate) restart_timeout: f64,
    /// Heartbeat interval in seconds, 0 for none; the broker's offer if left out.
    #[arg(long, value_name = "SECS")]
    pub(crate) heartbeat: Option<u16>,

    /// Print one JSON object at the end in place of text; the lines per second go to standard error.
    #[arg(long, short = 'j')]
    pub(crate) json: bool,
    /// No line per second.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// Kinds of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueueType {
    Classic,
    Quorum,
    Stream,
}

/// What a run does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Publish and consume, as fast as possible or at a --rate.
    #[default]
    Throughput,
    /// Publish at a --rate, whatever the broker does, and measure how long messages take.
    Latency,
    /// Open --count connections and hold them.
    ConnectionCount,
    /// Connect, log in, open a channel and close, over and over.
    ConnectionChurn,
    /// Open and close channels.
    ChannelChurn,
    /// Declare --count queues, hold them, delete them.
    QueueCount,
    /// Declare and delete queues (--durable for durable ones).
    QueueChurn,
    /// Bind a queue to an exchange and unbind it.
    BindChurn,
    /// Subscribe to a queue and cancel.
    ConsumerChurn,
    /// Fill queues with confirmed persistent messages, --restart the broker, drain them.
    Backlog,
}

impl Mode {
    /// The word on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether messages move.
    pub(crate) fn is_load(self) -> bool {
        matches!(self, Self::Throughput | Self::Latency | Self::Backlog)
    }
}

/// Flags of messages, as PerfTest names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flag {
    Persistent,
    Mandatory,
}

/// A body size in octets, and how many messages of a round have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) size: usize,
    pub(crate) count: usize,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (size, count) = text.split_once('x').unwrap_or((text, "1"));
        let number = |digits: &str| {
            digits
                .parse()
                .map_err(|_| format!("{digits:?} is not a number"))
        };
        Ok(Self {
            size: number(size)?,
            count: number(count)?,
        })
    }
}
