//! The checked plan of a run, made from the options.

use crate::args::{Args, Flag, Mode, QueueType, Share};
use crate::error::Error;
use crate::uri::Uri;
use crate::verify::{STAMP_SIZE, STREAMS_MAX};
use crate::wire::{ShortStr, Value};

const DEFAULT_DURATION_SECS: f64 = 10.0;
/// Messages per second of a latency run that names no rate.
const DEFAULT_RATE: f64 = 1000.0;
const DEFAULT_BACKLOG: u64 = 1_000_000;
/// Unconfirmed messages per publisher while a backlog is filled.
const DEFAULT_BACKLOG_WINDOW: u64 = 1000;
const DEFAULT_COUNT: usize = 1000;
const DEFAULT_OPENERS: usize = 8;
const WORKERS_MAX: usize = 4096;
const QUEUES_MAX: usize = 1_000_000;
const WINDOW_MAX: u64 = 1 << 22;
/// Octets of a message body, at most: what brokers accept.
const SIZE_MAX: usize = 512 * 1024 * 1024;
/// Messages in a round of a size mix.
const SHARES_MAX: usize = 10_000;

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
    /// Body sizes in octets, one round.
    pub(crate) sizes: Vec<usize>,
    pub(crate) window: u64,
    /// Workers of counts and churn.
    pub(crate) workers: usize,
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
        let args = with_mode(args);
        let uri = Uri::parse(&args.uri)?;
        let load = args.mode.is_load();
        demand(
            load || args.publishers.is_none()
                && args.consumers.is_none()
                && !args.publish_only
                && !args.consume_only,
            format!("{} has neither publishers nor consumers", args.mode.name()),
        )?;
        let counts = matches!(args.mode, Mode::ConnectionCount | Mode::QueueCount);
        demand(
            counts || args.count.is_none(),
            "--count is for connection-count and queue-count",
        )?;
        demand(
            args.mode == Mode::Backlog || args.restart.is_none(),
            "--restart is for backlog",
        )?;
        demand(
            args.mode != Mode::Backlog || !args.publish_only && !args.consume_only,
            "backlog publishes and consumes",
        )?;
        let count = |given: Option<usize>, off: bool| match (given, off) {
            (_, true) => 0,
            (Some(count), _) => count,
            (None, _) => usize::from(load),
        };
        let publishers = count(args.publishers, args.consume_only);
        let consumers = count(args.consumers, args.publish_only);
        let workers = args.workers.unwrap_or(match args.mode {
            Mode::ConnectionCount => DEFAULT_OPENERS,
            _ => 1,
        });
        demand(
            publishers <= WORKERS_MAX && consumers <= WORKERS_MAX,
            format!("at most {WORKERS_MAX} publishers and {WORKERS_MAX} consumers"),
        )?;
        demand(
            (1..=WORKERS_MAX).contains(&workers),
            format!("--workers is from 1 to {WORKERS_MAX}"),
        )?;
        demand(
            !load || publishers + consumers > 0,
            "nothing to do: no publisher, no consumer",
        )?;
        demand(
            args.mode != Mode::Backlog || publishers > 0 && consumers > 0,
            "backlog needs a publisher and a consumer",
        )?;
        demand(args.channels > 0, "--channels is at least 1")?;
        check_sizes(&args)?;
        demand(
            args.confirm_window <= WINDOW_MAX,
            format!("--confirm-window is at most {WINDOW_MAX}"),
        )?;
        for (name, rate) in [("--rate", args.rate), ("--consume-rate", args.consume_rate)] {
            demand(
                rate.is_none_or(|rate| rate.is_finite() && rate > 0.0),
                format!("{name} is above 0"),
            )?;
        }
        demand(args.ack_every > 0, "--ack-every is at least 1")?;
        demand(
            args.prefetch == 0 || args.auto_ack || args.ack_every <= u64::from(args.prefetch),
            "--ack-every is at most --prefetch; otherwise the consumer would wait for ever",
        )?;
        for (name, secs) in [
            ("--duration", args.duration.unwrap_or(1.0)),
            ("--drain-timeout", args.drain_timeout),
            ("--restart-timeout", args.restart_timeout),
        ] {
            demand(secs > 0.0 && secs < 1e8, format!("{name} is above 0"))?;
        }
        demand(
            (0.0..1e8).contains(&args.warmup),
            "--warmup is not negative",
        )?;

        let exchange = if args.fan_out && args.exchange.is_empty() {
            ShortStr::new("--queue", &format!("{}-fan-out", args.queue))?
        } else {
            ShortStr::new("--exchange", &args.exchange)?
        };
        let exchange_type = if args.fan_out {
            Some("fanout")
        } else {
            args.exchange_type.as_deref()
        };
        let fan_out = args.routing_key.is_some() || exchange_type == Some("fanout");
        let exchange_type = exchange_type
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
            sizes: round(&args.size),
            window: args.confirm_window,
            workers,
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

/// The options with what the mode and the short forms stand for.
fn with_mode(mut args: Args) -> Args {
    args.persistent |= args.flag.contains(&Flag::Persistent);
    args.mandatory |= args.flag.contains(&Flag::Mandatory);
    match args.mode {
        Mode::Latency => {
            args.latency = true;
            args.rate = args.rate.or(Some(DEFAULT_RATE));
        }
        Mode::Backlog => {
            args.persistent = true;
            if args.tx == 0 && args.confirm_window == 0 {
                args.confirm_window = DEFAULT_BACKLOG_WINDOW;
            }
            if args.duration.is_none() {
                args.messages = args.messages.or(Some(DEFAULT_BACKLOG));
            }
        }
        Mode::QueueCount if args.queue_pattern.is_none() => {
            args.queues = args.count.unwrap_or(DEFAULT_COUNT);
        }
        Mode::ConnectionCount => args.count = args.count.or(Some(DEFAULT_COUNT)),
        _ => {}
    }
    args
}

/// A round of a size mix, each size spread over it as evenly as it goes.
fn round(shares: &[Share]) -> Vec<usize> {
    let total: usize = shares.iter().map(|share| share.count).sum();
    // Each place goes to the size that is furthest behind its share.
    let mut given = vec![0; shares.len()];
    (1..=total)
        .filter_map(|place| {
            let next = (0..shares.len()).max_by_key(|index| {
                let owed = (shares[*index].count * place).cast_signed();
                (
                    owed - (given[*index] * total).cast_signed(),
                    shares.len() - index,
                )
            })?;
            given[next] += 1;
            Some(shares[next].size)
        })
        .collect()
}

fn check_sizes(args: &Args) -> Result<(), Error> {
    let sizes = || args.size.iter().map(|share| share.size);
    let smallest = sizes().min().unwrap_or(0);
    let largest = sizes().max().unwrap_or(0);
    demand(!args.size.is_empty(), "--size needs a number")?;
    let places = args
        .size
        .iter()
        .try_fold(0_usize, |sum, share| sum.checked_add(share.count));
    demand(
        args.size.iter().all(|share| share.count > 0)
            && places.is_some_and(|places| places <= SHARES_MAX),
        format!("--size: a round of sizes has from 1 to {SHARES_MAX} messages of each"),
    )?;
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
    queue_names(args)?
        .into_iter()
        .map(|name| {
            let wire_name = ShortStr::new("--queue", &name)?;
            Ok(Queue {
                binding_key: key.clone().unwrap_or_else(|| wire_name.clone()),
                name,
                wire_name,
            })
        })
        .collect()
}

fn queue_names(args: &Args) -> Result<Vec<String>, Error> {
    let in_range = |count: usize| {
        demand(
            (1..=QUEUES_MAX).contains(&count),
            format!("from 1 to {QUEUES_MAX} queues"),
        )
    };
    let Some(pattern) = &args.queue_pattern else {
        in_range(args.queues)?;
        return Ok(match args.queues {
            1 => vec![args.queue.clone()],
            _ => (1..=args.queues)
                .map(|number| format!("{}-{number}", args.queue))
                .collect(),
        });
    };
    let (from, to) = (args.queue_pattern_from, args.queue_pattern_to);
    demand(
        from <= to,
        "--queue-pattern-to is not below --queue-pattern-from",
    )?;
    in_range((to - from).saturating_add(1))?;
    let place = || {
        let (before, rest) = pattern.split_once('%')?;
        let (width, after) = rest.split_once('d')?;
        let width = match width {
            "" => 0,
            _ => width.strip_prefix('0')?.parse::<usize>().ok()?,
        };
        (width <= 20).then_some((before, width, after))
    };
    let (before, width, after) = place().ok_or_else(|| {
        Error::Options(format!(
            "--queue-pattern {pattern}: expected %d, or %03d for three digits, once"
        ))
    })?;
    Ok((from..=to)
        .map(|number| format!("{before}{number:0width$}{after}"))
        .collect())
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
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// The plan of a command line.
    pub(crate) fn plan(options: &str) -> Result<Plan, Error> {
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
        assert_eq!(sides("--connections-idle 5"), (1, 1));
        assert_eq!(sides("backlog -x 2"), (2, 1));
        assert_eq!(sides("queue-churn"), (0, 0));
    }

    #[test]
    fn modes_bring_their_defaults() {
        let latency = plan("latency").unwrap().args;
        assert_eq!((latency.latency, latency.rate), (true, Some(1000.0)));
        let backlog = plan("backlog").unwrap();
        assert!(backlog.durable && backlog.window > 0);
        assert_eq!(backlog.args.messages, Some(1_000_000));
        assert_eq!(plan("backlog --duration 3").unwrap().args.messages, None);
        assert_eq!(plan("backlog --tx 10").unwrap().window, 0);
        assert_eq!(plan("queue-count --count 7").unwrap().queues.len(), 7);
        assert_eq!(plan("connection-count").unwrap().args.count, Some(1000));
    }

    /// Options as people write them who come from PerfTest or lavinmqperf.
    #[test]
    fn words_of_other_tools() {
        let perf_test = plan(
            "--producers 2 -y 3 -u q -e logs -t topic -k key -s 100 -f persistent -f mandatory -c 50 -q 20 -A 10 -r 5 -R 4 -z 7 -C 9",
        )
        .unwrap();
        assert_eq!((perf_test.publishers, perf_test.consumers), (2, 3));
        assert_eq!(perf_test.window, 50);
        let args = &perf_test.args;
        assert!(args.persistent && args.mandatory);
        assert_eq!((args.prefetch, args.ack_every), (20, 10));
        assert_eq!((args.rate, args.consume_rate), (Some(5.0), Some(4.0)));
        assert_eq!((args.duration, args.messages), (Some(7.0), Some(9)));
        let long = plan("--qos 20 --multi-ack-every 5 --confirm 3 --time 2 --pmessages 4 --queue-args x=1 --message-properties priority=2").unwrap();
        assert_eq!((long.window, long.args.prefetch), (3, 20));
        assert_eq!(long.properties.priority, Some(2));
    }

    #[test]
    fn queue_patterns() {
        let names = |options: &str| {
            let plan = plan(options).unwrap();
            plan.queues
                .into_iter()
                .map(|queue| queue.name)
                .collect::<Vec<_>>()
        };
        let range = "--queue-pattern-from 9 --queue-pattern-to 11";
        assert_eq!(
            names(&format!("--queue-pattern a%db {range}")),
            ["a9b", "a10b", "a11b"]
        );
        assert_eq!(
            names(&format!("--queue-pattern q-%03d {range}")),
            ["q-009", "q-010", "q-011"]
        );
        assert_eq!(names("--queue-pattern q%d"), ["q1"]);
        for wrong in ["q", "q%", "q%3d", "q%s", "q%099d"] {
            assert!(
                plan(&format!("--queue-pattern {wrong}")).is_err(),
                "{wrong}"
            );
        }
        assert!(plan("--queue-pattern q%d --queue-pattern-from 2").is_err());
    }

    #[test]
    fn size_mixes() {
        let sizes = |options| plan(options).unwrap().sizes;
        assert_eq!(sizes("--size 16,1000"), [16, 1000]);
        assert_eq!(sizes("--size 16x3,100"), [16, 16, 100, 16]);
        assert_eq!(sizes("--size 1x2,2x2"), [1, 2, 1, 2]);
        let long = sizes("--size 16x90,1000x9,100000");
        let count = |size| long.iter().filter(|found| **found == size).count();
        assert_eq!(
            (count(16), count(1000), count(100_000), long.len()),
            (90, 9, 1, 100)
        );
    }

    #[test]
    fn fan_out() {
        let plan = plan("--fan-out --queues 3 --queue q").unwrap();
        assert!(plan.fan_out);
        assert_eq!(plan.exchange, ShortStr::new("", "q-fan-out").unwrap());
        assert_eq!(
            plan.exchange_type,
            Some(ShortStr::new("", "fanout").unwrap())
        );
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
            "--size 16x0",
            "--size 16x9999,1x9999",
            "--consume-rate 0",
            "--count 3",
            "--restart true",
            "--channels 0",
            "queue-churn --publishers 1",
            "queue-churn --workers 0",
            "backlog --consume-only",
            "backlog --publishers 0",
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
