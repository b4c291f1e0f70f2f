//! `mambamq publish`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::Args;
use mamba_codec::protocol::basic;
use serde_json::Value;
use tokio::{
    signal::ctrl_c,
    sync::mpsc::Receiver,
    time::{Instant, sleep_until},
};

use crate::{
    AFTER_HELP, End,
    client::{Client, Incoming},
    complain,
    error::Error,
    input::{self, Source},
    line::{Line, OwnedProperties},
    target::TargetArgs,
};

/// Persistent, as a delivery mode.
const PERSISTENT: u8 = 2;

/// Publishes messages: each MESSAGE or FILE is one, otherwise standard input.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PublishArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The exchange [default: that of the JSON line, or the default exchange, which routes to the queue named by the routing key]
    #[arg(short, long, value_name = "NAME")]
    exchange: Option<String>,
    /// The routing key [default: that of the JSON line, or empty]
    #[arg(short = 'k', long, value_name = "KEY")]
    routing_key: Option<String>,
    /// A header; NAME:=JSON for what is not text, such as count:=5. May be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// A property, such as content_type=text/plain. May be repeated
    #[arg(short = 'P', long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
    /// The same as --property delivery_mode=2: durable queues keep the message over a restart
    #[arg(short, long)]
    persistent: bool,
    /// A message that reaches no queue comes back and counts as refused
    #[arg(short, long)]
    mandatory: bool,
    /// Do not wait until the broker has the messages: a refusal is then not noticed
    #[arg(long)]
    no_confirm: bool,
    /// Messages that may be unconfirmed at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: u32,
    /// Each line of standard input is a message
    #[arg(short, long, conflicts_with_all = ["json", "messages", "files"])]
    lines: bool,
    /// Each line of standard input is a message as `mambamq consume --format json` writes it
    #[arg(short, long, conflicts_with_all = ["messages", "files"])]
    json: bool,
    /// A file with a message. May be repeated
    #[arg(short, long = "file", value_name = "FILE", conflicts_with = "messages")]
    files: Vec<PathBuf>,
    /// How often each message is published
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1)]
    count: u64,
    /// At most so many messages per second
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// A message
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,
}

impl PublishArgs {
    fn source(&self) -> Source {
        if self.json {
            Source::JsonLines
        } else if self.lines {
            Source::Lines
        } else if !self.messages.is_empty() {
            Source::Words(self.messages.clone())
        } else if !self.files.is_empty() {
            Source::Files(self.files.clone())
        } else {
            Source::Whole
        }
    }

    /// Sets what the flags say.
    fn amend(&self, properties: &mut OwnedProperties) -> Result<(), String> {
        for word in &self.properties {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("--property {word}: NAME=VALUE was expected"))?;
            if name == "headers" {
                return Err("--property headers: use --header".to_owned());
            }
            properties.set(name, &value.into())?;
        }
        for word in &self.headers {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("--header {word}: NAME=VALUE was expected"))?;
            match name.strip_suffix(':') {
                None => properties.set_header(name, &value.into())?,
                Some(name) => {
                    let value: Value = serde_json::from_str(value)
                        .map_err(|error| format!("--header {word}: {error}"))?;
                    properties.set_header(name, &value)?;
                }
            }
        }
        if self.persistent {
            properties.delivery_mode = Some(PERSISTENT);
        }
        Ok(())
    }
}

/// Publishes which have no confirm yet.
#[derive(Default)]
struct Unconfirmed {
    latest: u64,
    tags: BTreeSet<u64>,
}

impl Unconfirmed {
    fn published(&mut self) {
        self.latest += 1;
        self.tags.insert(self.latest);
    }

    /// Takes out what a confirm is about; how many those are.
    fn decided(&mut self, tag: u64, multiple: bool) -> u64 {
        if !multiple {
            return u64::from(self.tags.remove(&tag));
        }
        let later = match tag {
            // All of them.
            0 => BTreeSet::new(),
            tag => self.tags.split_off(&(tag + 1)),
        };
        std::mem::replace(&mut self.tags, later).len() as u64
    }
}

/// What became of the messages so far.
#[derive(Default)]
struct Tally {
    published: u64,
    refused: u64,
    returned: u64,
}

struct Publishing<'a> {
    args: &'a PublishArgs,
    client: Client,
    unconfirmed: Unconfirmed,
    tally: Tally,
}

pub(crate) async fn run(args: &PublishArgs) -> Result<End, Error> {
    // What is wrong with the flags is said before anything is read or connected.
    args.amend(&mut OwnedProperties::default())
        .map_err(Error::Usage)?;
    for (flag, name) in [
        ("exchange", &args.exchange),
        ("routing-key", &args.routing_key),
    ] {
        if name.as_ref().is_some_and(|name| name.len() > 255) {
            return Err(Error::Usage(format!("--{flag}: more than 255 octets")));
        }
    }
    let (uri, stream) = args.target.connect().await?;
    let mut client = Client::open(&uri, stream).await?;
    if !args.no_confirm {
        client.confirm().await?;
    }
    let mut input = input::read(args.source(), args.count)?;
    let mut publishing = Publishing {
        args,
        client,
        unconfirmed: Unconfirmed::default(),
        tally: Tally::default(),
    };
    let outcome = publishing.pass(&mut input).await;
    let Tally {
        published,
        refused,
        returned,
    } = publishing.tally;
    if let Err(error) = outcome {
        let unsure = publishing.unconfirmed.tags.len();
        if !args.no_confirm && published > 0 {
            let safe = published - refused - unsure as u64;
            complain(&format!(
                "{safe} of {published} messages are with the broker; of {unsure} nobody knows"
            ));
        }
        return Err(error);
    }
    if refused + returned > 0 {
        complain(&format!(
            "of {published} messages {refused} were refused and {returned} reached no queue"
        ));
        return Ok(End::Incomplete);
    }
    outcome
}

impl Publishing<'_> {
    /// Publishes until the input ends or somebody interrupts, then waits for what is under way.
    async fn pass(&mut self, input: &mut Receiver<Result<Line, Error>>) -> Result<End, Error> {
        let mut interrupted = std::pin::pin!(ctrl_c());
        let mut end = End::Done;
        let mut reading = true;
        let mut failed = None;
        let begun = Instant::now();
        let window = self.args.in_flight as usize;
        while reading || !self.unconfirmed.tags.is_empty() {
            let due = match self.args.rate {
                Some(rate) => {
                    let nanos = u128::from(self.tally.published) * 1_000_000_000 / u128::from(rate);
                    begun + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
                }
                None => begun,
            };
            let is_due = due <= Instant::now();
            let has_room = self.client.has_room() && self.unconfirmed.tags.len() < window;
            tokio::select! {
                incoming = self.client.next() => self.take(&incoming?),
                line = input.recv(), if reading && has_room && is_due => match line {
                    Some(Ok(line)) => self.publish(line)?,
                    // What came before it is published all the same.
                    Some(Err(error)) => {
                        failed = Some(error);
                        reading = false;
                    }
                    None => reading = false,
                },
                () = sleep_until(due), if reading && !is_due => {}
                signal = &mut interrupted, if reading => {
                    signal.map_err(Error::System)?;
                    end = End::Interrupted;
                    reading = false;
                }
            }
        }
        self.client.close().await?;
        // Without confirms, what was returned came before the end.
        while let Some(incoming) = self.client.ready()? {
            self.take(&incoming);
        }
        failed.map_or(Ok(end), Err)
    }

    fn publish(&mut self, line: Line) -> Result<(), Error> {
        let args = self.args;
        let Line {
            exchange,
            routing_key,
            mut properties,
            body,
        } = line;
        args.amend(&mut properties).map_err(Error::Usage)?;
        let name = |flag: &Option<String>, own: Option<String>| {
            flag.clone().or(own).unwrap_or_default().as_str().into()
        };
        let publish = basic::Publish {
            exchange: name(&args.exchange, exchange),
            routing_key: name(&args.routing_key, routing_key),
            mandatory: args.mandatory,
            immediate: false,
        };
        let header = properties.header(body.len());
        self.client.publish(publish, &header, &body);
        self.tally.published += 1;
        if !args.no_confirm {
            self.unconfirmed.published();
        }
        Ok(())
    }

    fn take(&mut self, incoming: &Incoming) {
        match incoming {
            Incoming::Confirm {
                tag,
                multiple,
                taken,
            } => {
                let decided = self.unconfirmed.decided(*tag, *multiple);
                if !taken {
                    self.tally.refused += decided;
                }
            }
            Incoming::Returned(code, text, message) => {
                self.tally.returned += 1;
                complain(&format!(
                    "returned: {code} {text}, exchange '{}', routing key '{}'",
                    String::from_utf8_lossy(&message.exchange),
                    String::from_utf8_lossy(&message.routing_key)
                ));
            }
            Incoming::Delivered(..) | Incoming::Answer(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_decide_one_or_all_before() {
        let mut unconfirmed = Unconfirmed::default();
        for _ in 0..5 {
            unconfirmed.published();
        }
        assert_eq!(unconfirmed.decided(2, false), 1);
        assert_eq!(unconfirmed.decided(2, false), 0);
        assert_eq!(unconfirmed.decided(4, true), 3);
        unconfirmed.published();
        assert_eq!(unconfirmed.decided(0, true), 2);
        assert!(unconfirmed.tags.is_empty());
    }
}
