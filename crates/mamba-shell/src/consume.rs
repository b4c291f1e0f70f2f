//! `mambamq consume`.

use std::{
    fs,
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use mamba_codec::{AMQPClass, protocol};
use mamba_types::{FieldTable, FieldValue};
use protocol::{basic, queue};
use tokio::{
    signal::ctrl_c,
    time::{Instant, sleep_until},
};

use crate::{
    AFTER_HELP, End,
    client::{Client, Incoming, Message},
    complain,
    error::Error,
    line,
    target::TargetArgs,
};

/// The consumer's name on its channel.
const CONSUMER: &str = "shell";
/// Messages that are out unacknowledged, unless the operator says.
const PREFETCH: u16 = 100;
/// The largest prefetch count there is.
const PREFETCH_MAX: u64 = u16::MAX as u64;

/// What is written of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Bodies as they are, nothing between them
    Raw,
    /// Each body and a line end
    Lines,
    /// Each message as one line of JSON, with exchange, routing key and properties
    Json,
}

/// Writes messages of a queue to standard output or files; a message is acknowledged once it is written.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
#[command(group = clap::ArgGroup::new("from").required(true).args(["queue", "exchange"]))]
pub struct ConsumeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The queue
    #[arg(short, long, value_name = "NAME")]
    queue: Option<String>,
    /// Instead of a queue: one of our own, bound to this exchange, gone at the end
    #[arg(short, long, value_name = "NAME")]
    exchange: Option<String>,
    /// With --exchange: a binding key. May be repeated [default: empty; # is all of a topic exchange]
    #[arg(
        short = 'k',
        long = "binding-key",
        value_name = "KEY",
        requires = "exchange"
    )]
    binding_keys: Vec<String>,
    /// Stop after so many messages; no more are taken out of the queue
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop when nothing has come for so long; with --count, that is too few
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    idle: Option<u64>,
    /// Let the broker forget messages as it sends them: what is not written is lost
    #[arg(long, conflicts_with_all = ["requeue", "count"])]
    no_ack: bool,
    /// Only look: give the messages back at the end
    #[arg(long, requires = "count")]
    requeue: bool,
    /// Messages that may be out unacknowledged
    #[arg(long, value_name = "NUMBER", default_value_t = PREFETCH, value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,
    /// Filter of the consumer, a broker's extension: see docs/filters.md
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// What is written
    #[arg(short, long, value_enum, default_value_t = Format::Lines)]
    format: Format,
    /// Write each message into a file of this folder: 1, 2, ... with --format json the line, otherwise the body
    #[arg(short, long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Where messages go.
enum Sink {
    Standard(BufWriter<io::Stdout>),
    Folder { path: PathBuf, next: u64 },
}

impl Sink {
    fn of(folder: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = folder else {
            return Ok(Self::Standard(BufWriter::new(io::stdout())));
        };
        fs::create_dir_all(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::Folder {
            path: path.to_owned(),
            next: 1,
        })
    }

    fn write(&mut self, message: &Message, format: Format) -> io::Result<()> {
        let line;
        let octets = match format {
            Format::Json => {
                line = line::write(message);
                line.as_bytes()
            }
            Format::Raw | Format::Lines => &message.body,
        };
        match self {
            Self::Standard(out) => {
                out.write_all(octets)?;
                if format != Format::Raw {
                    out.write_all(b"\n")?;
                }
            }
            Self::Folder { path, next } => {
                // What an earlier run left there is not overwritten.
                let mut file = loop {
                    let created = fs::File::create_new(path.join(next.to_string()));
                    *next += 1;
                    match created {
                        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                        other => break other?,
                    }
                };
                file.write_all(octets)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::Folder { .. } => Ok(()),
        }
    }
}

pub(crate) async fn run(args: &ConsumeArgs) -> Result<End, Error> {
    if args.requeue && args.count.is_some_and(|count| count > PREFETCH_MAX) {
        let text = format!("--requeue: at most {PREFETCH_MAX} messages can be looked at");
        return Err(Error::Usage(text));
    }
    let mut sink = Sink::of(args.dir.as_deref())?;
    let (uri, stream) = args.target.connect().await?;
    let mut client = Client::open(&uri, stream).await?;
    let queue = subscribe(args, &mut client).await?;
    let consume = basic::Consume {
        queue: queue.as_str().into(),
        consumer_tag: CONSUMER.into(),
        no_local: false,
        no_ack: args.no_ack,
        exclusive: false,
        nowait: false,
        arguments: filter(args),
    };
    let consume = AMQPClass::Basic(basic::AMQPMethod::Consume(consume));
    client.call(consume).await?;
    let mut consuming = Consuming {
        args,
        client,
        seen: 0,
        latest: 0,
        acknowledged: 0,
    };
    let end = match consuming.pass(&mut sink).await {
        // Whoever read our output has enough: head, for one. What it did not take stays in the queue.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => End::Done,
        other => other?,
    };
    consuming.client.close().await?;
    Ok(end)
}

/// The queue to consume from; makes one where there is none.
async fn subscribe(args: &ConsumeArgs, client: &mut Client) -> Result<String, Error> {
    let prefetch_count = match args.count {
        // All of them are out at the same time.
        Some(count) if args.requeue => u16::try_from(count).unwrap_or(u16::MAX),
        Some(count) => u16::try_from(count).map_or(args.prefetch, |count| count.min(args.prefetch)),
        None => args.prefetch,
    };
    let qos = basic::AMQPMethod::Qos(basic::Qos {
        prefetch_count,
        global: false,
    });
    client.call(AMQPClass::Basic(qos)).await?;
    let Some(exchange) = &args.exchange else {
        return Ok(args.queue.clone().unwrap_or_default());
    };
    let declare = queue::AMQPMethod::Declare(queue::Declare {
        queue: "".into(),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: true,
        nowait: false,
        arguments: FieldTable::default(),
    });
    let name = match client.call(AMQPClass::Queue(declare)).await? {
        AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => ok.queue.as_str().to_owned(),
        other => return Err(Error::Protocol(format!("{other:?} was not due"))),
    };
    let none = [String::new()];
    let keys = match args.binding_keys.as_slice() {
        [] => &none[..],
        keys => keys,
    };
    for key in keys {
        let bind = queue::AMQPMethod::Bind(queue::Bind {
            queue: name.as_str().into(),
            exchange: exchange.as_str().into(),
            routing_key: key.as_str().into(),
            nowait: false,
            arguments: FieldTable::default(),
        });
        client.call(AMQPClass::Queue(bind)).await?;
    }
    Ok(name)
}

fn filter(args: &ConsumeArgs) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Some(filter) = &args.filter {
        let filter = FieldValue::LongString(filter.as_str().into());
        arguments.insert("x-filter".into(), filter);
    }
    arguments
}

struct Consuming<'a> {
    args: &'a ConsumeArgs,
    client: Client,
    seen: u64,
    /// The delivery tag of the last message written.
    latest: u64,
    acknowledged: u64,
}

impl Consuming<'_> {
    async fn pass(&mut self, sink: &mut Sink) -> Result<End, Error> {
        let mut interrupted = std::pin::pin!(ctrl_c());
        let is_enough = |seen| self.args.count.is_some_and(|count| seen >= count);
        let idle = self.args.idle.map(Duration::from_secs);
        loop {
            let patience = idle.map(|idle| Instant::now() + idle);
            let bored = async {
                match patience {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let mut incoming = tokio::select! {
                incoming = self.client.next() => Some(incoming?),
                () = bored => return Ok(self.stopped()),
                signal = &mut interrupted => {
                    signal.map_err(Error::System)?;
                    self.settle_written();
                    return Ok(match self.args.count {
                        Some(_) => End::Interrupted,
                        None => End::Done,
                    });
                }
            };
            // All that is there is written at once, then acknowledged.
            while let Some(one) = incoming {
                if let Incoming::Delivered(tag, message) = one {
                    sink.write(&message, self.args.format)
                        .map_err(Error::Output)?;
                    self.seen += 1;
                    self.latest = tag;
                }
                incoming = match is_enough(self.seen) {
                    true => None,
                    false => self.client.ready()?,
                };
            }
            sink.flush().map_err(Error::Output)?;
            if is_enough(self.seen) {
                self.stop();
                self.settle(self.latest);
                return Ok(End::Done);
            }
            self.settle(self.granted());
        }
    }

    /// The last delivery that may be acknowledged now: each acknowledgement lets another message come, and no more than were asked
    /// for are to be taken out of the queue.
    fn granted(&self) -> u64 {
        match self.args.count {
            None => self.latest,
            Some(count) => {
                let out = count.min(self.args.prefetch.into());
                self.latest.min(count - out)
            }
        }
    }

    fn settle(&mut self, tag: u64) {
        if self.args.no_ack || tag <= self.acknowledged {
            return;
        }
        if self.args.requeue {
            if self.args.count.is_some_and(|count| self.seen >= count) {
                let nack = basic::Nack {
                    delivery_tag: tag,
                    multiple: true,
                    requeue: true,
                };
                self.client
                    .send(&AMQPClass::Basic(basic::AMQPMethod::Nack(nack)));
            }
            return;
        }
        self.acknowledged = tag;
        let ack = basic::Ack {
            delivery_tag: tag,
            multiple: true,
        };
        self.client
            .send(&AMQPClass::Basic(basic::AMQPMethod::Ack(ack)));
    }

    /// Ends the consumer: what is settled after this makes room for nothing.
    fn stop(&mut self) {
        let cancel = basic::Cancel {
            consumer_tag: CONSUMER.into(),
            nowait: true,
        };
        self.client
            .send(&AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
    }

    /// Before the end: what was only looked at goes back with the connection.
    fn settle_written(&mut self) {
        self.stop();
        if !self.args.requeue {
            self.settle(self.latest);
        }
    }

    /// Nothing came for a while.
    fn stopped(&mut self) -> End {
        self.settle_written();
        match self.args.count {
            Some(count) if self.seen < count => {
                complain(&format!("{} messages came instead of {count}", self.seen));
                End::Incomplete
            }
            _ => End::Done,
        }
    }
}
