//! The options of the load generator, and the checked plan made from them.

use clap::{Args as ClapArgs, ValueEnum};

use crate::error::Error;
use crate::uri::Uri;
use crate::verify::{STAMP_SIZE, STREAMS_MAX};
use crate::wire::{ShortStr, Value};

const DEFAULT_DURATION_SECS: f64 = 10.0;
const WORKERS_MAX: usize = 4096;
const QUEUES_MAX: usize = 1_000_000;
const WINDOW_MAX: u64 = 1 << 22;
/// Octets of a message body, at most: what brokers accept.
const SIZE_MAX: usize = 512 * 1024 * 1024;

/// Generate load on an AMQP 0-9-1 broker and measure it.
///
/// One publisher and one consumer on one queue, unless told otherwise. Queues are declared first and deleted at the end.
/// Latency is exact when --rate is given: the time at which a message was meant to go out is stamped on it. Publisher and
/// consumer may be two processes, but must run on one machine.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Broker: amqp://user:password@host:port/vhost, percent-encoded where needed.
    #[arg(
        long,
        short = 'u',
        default_value = "amqp://guest:guest@localhost:5672/%2F"
    )]
    pub(crate) uri: String,

    /// Number of publishers, each with a connection of its own [default: 1]
    #[arg(long, short = 'x', value_name = "N")]
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
    #[arg(long, value_name = "NAME", default_value = "mamba-perf")]
    pub(crate) queue: String,
    /// Kind of queue (x-queue-type); quorum makes it durable.
    #[arg(long, value_name = "TYPE")]
    pub(crate) queue_type: Option<QueueType>,
    /// Argument of queue.declare; whole numbers, true and false are recognised. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) queue_arg: Vec<String>,
    /// Argument of basic.consume, such as "x-filter=priority IS NULL"; whole numbers, true and false are recognised. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
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
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) exchange: String,
    /// Declare the exchange with this type: direct, fanout, topic, headers, ...
    #[arg(long, value_name = "TYPE", requires = "exchange")]
    pub(crate) exchange_type: Option<String>,
    /// Routing key of all messages; the queue's name if left out.
    #[arg(long, value_name = "KEY", requires = "exchange")]
    pub(crate) routing_key: Option<String>,
    /// Binding key of all queues; the routing key if left out.
    #[arg(long, value_name = "KEY", requires = "exchange")]
    pub(crate) binding_key: Option<String>,

    /// Body size in octets; a list (16,1000) is cycled through.
    #[arg(
        long,
        short = 's',
        value_name = "OCTETS",
        value_delimiter = ',',
        default_value = "16"
    )]
    pub(crate) size: Vec<usize>,
    /// Persistent messages (delivery mode 2) on durable queues.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Message property such as priority=5 or content_type=text/plain. Repeatable.
    #[arg(
        long = "properties",
        visible_alias = "property",
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
    #[arg(long, short = 'c', value_name = "N", default_value_t = 0)]
    pub(crate) confirm_window: u64,
    /// Transactions: commit after every N messages.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        conflicts_with = "confirm_window"
    )]
    pub(crate) tx: u64,
    /// Messages (or churn operations) per second and publisher; as fast as possible if left out.
    #[arg(long, short = 'r', value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,

    /// Consume without acknowledgements.
    #[arg(long, conflicts_with = "ack_every")]
    pub(crate) auto_ack: bool,
    /// Acknowledge every N messages with one ack (multiple).
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) ack_every: u64,
    /// Prefetch count per consumer; 0 for no limit.
    #[arg(long, short = 'q', value_name = "N", default_value_t = 0)]
    pub(crate) prefetch: u16,

    /// Measure latency; needs bodies of at least 8 octets.
    #[arg(long)]
    pub(crate) latency: bool,
    /// Check that every message arrives once and in order; needs bodies of at least 16 octets.
    #[arg(long)]
    pub(crate) verify: bool,

    /// Seconds to measure, after the warm-up [default: 10, or unlimited with --messages]
    #[arg(long, short = 'z', value_name = "SECS")]
    pub(crate) duration: Option<f64>,
    /// Seconds to run before measuring.
    #[arg(long, value_name = "SECS", default_value_t = 0.0)]
    pub(crate) warmup: f64,
    /// Stop after N messages in all (published, or consumed with --consume-only).
    #[arg(long, short = 'C', value_name = "N")]
    pub(crate) messages: Option<u64>,
    /// Seconds without progress after which waiting for the last messages ends.
    #[arg(long, value_name = "SECS", default_value_t = 10.0)]
    pub(crate) drain_timeout: f64,

    /// Open N idle connections with a channel and hold them; alone or beside other load.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) connections_idle: usize,
    /// Open and close, declare and delete, or bind and unbind, in place of messages.
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["publishers", "consumers"])]
    pub(crate) churn: Option<Churn>,
    /// Number of workers that churn, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) churn_workers: usize,
    /// Heartbeat interval in seconds, 0 for none; the broker's offer if left out.
    #[arg(long, value_name = "SECS")]
    pub(crate) heartbeat: Option<u16>,

    /// Print one JSON object at the end in place of text.
    #[arg(long)]
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

/// What is made and unmade over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Churn {
    /// Connect, log in, open a channel, close.
    Connection,
    /// Open and close a channel.
    Channel,
    /// Declare and delete a queue (--durable for durable ones).
    Queue,
    /// Bind a queue to an exchange and unbind it.
    Bind,
}

/// Options that were found to make sense.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) uri: Uri,
    pub(crate) publishers: usize,
    pub(crate) consumers: usize,
    pub(crate) queues: Vec<Queue>,
    pub(crate) queue_arguments: Vec<(ShortStr, Value)>,
    pub(crate) consumer_arguments: Vec<(ShortStr, Value)>,
    pub(crate) durable: bool,
    pub(crate) exchange: ShortStr,
    pub(crate) exchange_type: Option<ShortStr>,
    /// Where messages go; publishers share these out.
    pub(crate) targets: Vec<Target>,
    /// Whether every queue gets every message.
    pub(crate) fan_out: bool,
    pub(crate) properties: Properties,
    pub(crate) window: u64,
    pub(crate) duration_secs: Option<f64>,
    /// The options whose values are used as they are.
    pub(crate) args: Args,
}

/// A queue of the run.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) wire_name: ShortStr,
    pub(crate) binding_key: ShortStr,
}

/// A routing key to publish with.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) routing_key: ShortStr,
}

/// The properties of all messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties {
    pub(crate) content_type: Option<ShortStr>,
    pub(crate) content_encoding: Option<ShortStr>,
    pub(crate) headers: Option<Vec<(ShortStr, Value)>>,
    pub(crate) delivery_mode: Option<u8>,
    pub(crate) priority: Option<u8>,
    pub(crate) correlation_id: Option<ShortStr>,
    pub(crate) reply_to: Option<ShortStr>,
    pub(crate) expiration: Option<ShortStr>,
    pub(crate) message_id: Option<ShortStr>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) kind: Option<ShortStr>,
    pub(crate) user_id: Option<ShortStr>,
    pub(crate) app_id: Option<ShortStr>,
}

impl Plan {
    /// Checks the options against each other.
    pub(crate) fn new(args: Args) -> Result<Self, Error> {
        let uri = Uri::parse(&args.uri)?;
        let load = args.connections_idle == 0 && args.churn.is_none()
            || args.publish_only
            || args.consume_only;
        let count = |given: Option<usize>, off: bool| match (given, off) {
            (_, true) => 0,
            (Some(count), _) => count,
            (None, _) => usize::from(load),
        };
        let publishers = count(args.publishers, args.consume_only);
        let consumers = count(args.consumers, args.publish_only);
        demand(
            publishers <= WORKERS_MAX && consumers <= WORKERS_MAX,
            format!("at most {WORKERS_MAX} publishers and {WORKERS_MAX} consumers"),
        )?;
        demand(
            publishers + consumers + args.connections_idle > 0 || args.churn.is_some(),
            "nothing to do: no publisher, no consumer",
        )?;
        demand(
            (1..=QUEUES_MAX).contains(&args.queues),
            format!("--queues is from 1 to {QUEUES_MAX}"),
        )?;
        check_sizes(&args)?;
        demand(
            args.confirm_window <= WINDOW_MAX,
            format!("--confirm-window is at most {WINDOW_MAX}"),
        )?;
        demand(
            args.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0),
            "--rate is above 0",
        )?;
        demand(args.ack_every > 0, "--ack-every is at least 1")?;
        demand(
            args.prefetch == 0 || args.auto_ack || args.ack_every <= u64::from(args.prefetch),
            "--ack-every is at most --prefetch; otherwise the consumer would wait for ever",
        )?;
        for (name, secs) in [
            ("--duration", args.duration.unwrap_or(1.0)),
            ("--drain-timeout", args.drain_timeout),
        ] {
            demand(secs > 0.0 && secs < 1e8, format!("{name} is above 0"))?;
        }
        demand(
            (0.0..1e8).contains(&args.warmup),
            "--warmup is not negative",
        )?;

        let exchange = ShortStr::new("--exchange", &args.exchange)?;
        let exchange_type = args
            .exchange_type
            .as_deref()
            .map(|kind| ShortStr::new("--exchange-type", kind))
            .transpose()?;
        let queues = queues(&args)?;
        let targets = match &args.routing_key {
            Some(key) => vec![Target {
                routing_key: ShortStr::new("--routing-key", key)?,
            }],
            None => queues
                .iter()
                .map(|queue| Target {
                    routing_key: queue.wire_name.clone(),
                })
                .collect(),
        };
        demand(
            !args.verify || publishers.saturating_mul(targets.len()) <= STREAMS_MAX,
            format!("--verify takes at most {STREAMS_MAX} publishers times queues"),
        )?;
        let fan_out = args.routing_key.is_some() || args.exchange_type.as_deref() == Some("fanout");
        let mut queue_arguments = pairs("--queue-arg", &args.queue_arg)?;
        if let Some(kind) = args.queue_type {
            let kind = match kind {
                QueueType::Classic => "classic",
                QueueType::Quorum => "quorum",
                QueueType::Stream => "stream",
            };
            let name = ShortStr::new("--queue-arg", "x-queue-type")?;
            queue_arguments.push((name, Value::Text(kind.to_owned())));
        }
        let mut consumer_arguments = pairs("--consumer-arg", &args.consumer_arg)?;
        if matches!(args.queue_type, Some(QueueType::Stream)) {
            let name = ShortStr::new("--consumer-arg", "x-stream-offset")?;
            consumer_arguments.push((name, Value::Text("first".to_owned())));
        }
        let duration_secs = match (args.duration, args.messages) {
            (None, Some(_)) => None,
            (given, _) => Some(given.unwrap_or(DEFAULT_DURATION_SECS)),
        };
        Ok(Self {
            uri,
            publishers,
            consumers,
            queues,
            queue_arguments,
            consumer_arguments,
            durable: args.durable
                || args.persistent
                || matches!(args.queue_type, Some(QueueType::Quorum | QueueType::Stream)),
            exchange,
            exchange_type,
            targets,
            fan_out,
            properties: properties(&args)?,
            window: args.confirm_window,
            duration_secs,
            args,
        })
    }

    /// Whether bodies carry a stamp.
    pub(crate) fn stamped(&self) -> bool {
        self.args.latency || self.args.verify
    }
}

/// Shares `items` out among `workers`: the indices that belong to `worker`. With more workers than items, several workers
/// share one.
pub(crate) fn share(worker: usize, workers: usize, items: usize) -> Vec<usize> {
    if workers >= items {
        vec![worker % items]
    } else {
        (worker..items).step_by(workers).collect()
    }
}

fn check_sizes(args: &Args) -> Result<(), Error> {
    let smallest = args.size.iter().copied().min().unwrap_or(0);
    let largest = args.size.iter().copied().max().unwrap_or(0);
    demand(!args.size.is_empty(), "--size needs a number")?;
    demand(
        largest <= SIZE_MAX,
        format!("--size is at most {SIZE_MAX} octets"),
    )?;
    demand(
        !args.latency || smallest >= 8 || args.consume_only,
        "--latency needs bodies of at least 8 octets (--size)",
    )?;
    demand(
        !args.verify || smallest >= STAMP_SIZE || args.consume_only,
        "--verify needs bodies of at least 16 octets (--size)",
    )
}

fn queues(args: &Args) -> Result<Vec<Queue>, Error> {
    let key = args
        .binding_key
        .as_deref()
        .or(args.routing_key.as_deref())
        .map(|key| ShortStr::new("--binding-key", key))
        .transpose()?;
    (1..=args.queues)
        .map(|number| {
            let name = match args.queues {
                1 => args.queue.clone(),
                _ => format!("{}-{number}", args.queue),
            };
            let wire_name = ShortStr::new("--queue", &name)?;
            Ok(Queue {
                binding_key: key.clone().unwrap_or_else(|| wire_name.clone()),
                name,
                wire_name,
            })
        })
        .collect()
}

fn properties(args: &Args) -> Result<Properties, Error> {
    let mut properties = Properties {
        delivery_mode: args.persistent.then_some(2),
        ..Properties::default()
    };
    if !args.header.is_empty() {
        properties.headers = Some(pairs("--header", &args.header)?);
    }
    for pair in &args.properties {
        let (key, value) = split("--properties", pair)?;
        let text = || ShortStr::new("--properties", value).map(Some);
        match key.replace('-', "_").as_str() {
            "content_type" => properties.content_type = text()?,
            "content_encoding" => properties.content_encoding = text()?,
            "delivery_mode" => properties.delivery_mode = Some(number(pair, value)?),
            "priority" => properties.priority = Some(number(pair, value)?),
            "correlation_id" => properties.correlation_id = text()?,
            "reply_to" => properties.reply_to = text()?,
            "expiration" => properties.expiration = text()?,
            "message_id" => properties.message_id = text()?,
            "timestamp" => properties.timestamp = Some(number(pair, value)?),
            "type" => properties.kind = text()?,
            "user_id" => properties.user_id = text()?,
            "app_id" => properties.app_id = text()?,
            _ => {
                return Err(Error::Options(format!(
                    "--properties {pair}: there is no property {key:?}; expected content_type, content_encoding, \
                     delivery_mode, priority, correlation_id, reply_to, expiration, message_id, timestamp, type, \
                     user_id or app_id"
                )));
            }
        }
    }
    Ok(properties)
}

fn number<T: std::str::FromStr>(pair: &str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| {
        Error::Options(format!(
            "--properties {pair}: {value:?} is not a number in range"
        ))
    })
}

fn pairs(option: &str, texts: &[String]) -> Result<Vec<(ShortStr, Value)>, Error> {
    texts
        .iter()
        .map(|text| {
            let (key, value) = split(option, text)?;
            Ok((ShortStr::new(option, key)?, Value::infer(value)))
        })
        .collect()
}

fn split<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str), Error> {
    text.split_once('=')
        .ok_or_else(|| Error::Options(format!("{option} {text}: expected KEY=VALUE")))
}

fn demand(holds: bool, text: impl Into<String>) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::Options(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn plan(options: &str) -> Result<Plan, Error> {
        let words = std::iter::once("perf").chain(options.split_whitespace());
        Plan::new(Cli::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn defaults() {
        let plan = plan("").unwrap();
        assert_eq!((plan.publishers, plan.consumers), (1, 1));
        assert_eq!(plan.queues[0].name, "mamba-perf");
        assert_eq!(plan.duration_secs, Some(10.0));
        assert!(!plan.durable && !plan.stamped() && !plan.fan_out);
    }

    #[test]
    fn sides() {
        let sides = |options| {
            let plan = plan(options).unwrap();
            (plan.publishers, plan.consumers)
        };
        assert_eq!(sides("--publish-only --publishers 3"), (3, 0));
        assert_eq!(sides("--consume-only"), (0, 1));
        assert_eq!(sides("--connections-idle 5"), (0, 0));
        assert_eq!(sides("--connections-idle 5 --publishers 2"), (2, 0));
        assert_eq!(sides("--churn queue"), (0, 0));
    }

    #[test]
    fn names_and_targets() {
        let spread = plan("--queues 2 --queue q").unwrap();
        assert_eq!(spread.queues[1].name, "q-2");
        assert_eq!(spread.targets.len(), 2);
        let shared = plan("--queues 2 --exchange e --routing-key k").unwrap();
        assert_eq!(shared.targets.len(), 1);
        assert!(shared.fan_out);
    }

    #[test]
    fn contradictions() {
        for options in [
            "--latency --size 4",
            "--verify --size 8",
            "--ack-every 10 --prefetch 5",
            "--publishers 0 --consumers 0",
            "--queues 0",
            "--rate 0",
            "--properties nonsense=1",
            "--properties priority=256",
            "--header x",
            "--uri http://x",
        ] {
            assert!(plan(options).is_err(), "{options}");
        }
    }

    #[test]
    fn sharing() {
        assert_eq!(share(0, 1, 3), [0, 1, 2]);
        assert_eq!(share(1, 2, 5), [1, 3]);
        assert_eq!(share(3, 4, 2), [1]);
    }
}
