//! A client's side of AMQP 0-9-1 on one connection with one channel.
//!
//! [`Client::next`] moves octets in both directions until something has come; it may be dropped at any moment and called again.

use std::{collections::VecDeque, pin::pin, time::Duration};

use mamba_codec::{
    AMQPClass, Frame, FrameKind, Method, content_header, frame, method, protocol, write_heartbeat,
    write_method,
};
use mamba_perf::uri::Uri;
use mamba_types::{ChannelId, FieldTable, FieldValue, Limits};
use protocol::{basic, channel, confirm, connection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, sleep_until, timeout},
};

use crate::{complain, error::Error, target::Stream};

/// The only channel.
pub(crate) const CHANNEL: ChannelId = ChannelId(1);
/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Octets read at once.
const READ_BYTES: usize = 65_536;
/// The largest frame we agree to, in octets.
const FRAME_MAX: u32 = 131_072;
const FRAME_OVERHEAD: usize = 8;
/// Octets of output above which nothing more should be added.
const OUTPUT_HIGH: usize = 1 << 20;
/// The largest body taken, in octets: what AMQP brokers allow at most.
const BODY_MAX: u64 = 512 << 20;

/// A message that came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) exchange: Vec<u8>,
    pub(crate) routing_key: Vec<u8>,
    pub(crate) redelivered: bool,
    /// The content header's payload.
    pub(crate) header: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// Something from the broker.
#[derive(Debug)]
pub(crate) enum Incoming {
    Delivered(u64, Message),
    /// It was mandatory and reached no queue: code, text and message.
    Returned(u16, String, Message),
    /// What the broker says about publishes.
    Confirm {
        tag: u64,
        multiple: bool,
        taken: bool,
    },
    Answer(AMQPClass),
}

/// What a content belongs to.
enum Opening {
    Delivery(u64),
    Return(u16, String),
}

/// A content whose body is still coming.
struct Partial {
    opening: Opening,
    message: Message,
    /// Octets of the body, once the header has come.
    size: Option<u64>,
}

pub(crate) struct Client {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: Vec<u8>,
    /// Octets of `input` that are done with.
    taken: usize,
    output: Vec<u8>,
    /// Octets of `output` that the socket has.
    written: usize,
    partial: Option<Partial>,
    /// What came while an answer was waited for.
    held: VecDeque<Incoming>,
    frame_max: u32,
    heartbeat: Option<Duration>,
    heard: Instant,
    said: Instant,
    limits: Limits,
}

impl Client {
    /// Logs in, opens the virtual host and the channel (2.2.4).
    pub(crate) async fn open(uri: &Uri, stream: Box<dyn Stream>) -> Result<Self, Error> {
        let (reader, writer) = tokio::io::split(stream);
        let now = Instant::now();
        let mut client = Self {
            reader,
            writer,
            input: Vec::new(),
            taken: 0,
            output: b"AMQP\x00\x00\x09\x01".to_vec(),
            written: 0,
            partial: None,
            held: VecDeque::new(),
            frame_max: FRAME_MAX,
            heartbeat: None,
            heard: now,
            said: now,
            limits: Limits::default(),
        };
        client.handshake(uri).await?;
        let open = channel::AMQPMethod::Open(channel::Open {});
        client.call(AMQPClass::Channel(open)).await?;
        Ok(client)
    }

    async fn handshake(&mut self, uri: &Uri) -> Result<(), Error> {
        let zero = ChannelId(0);
        match self.answer().await? {
            AMQPClass::Connection(connection::AMQPMethod::Start(_)) => {}
            other => return Err(unexpected(&other)),
        }
        let text = |text: &str| FieldValue::LongString(text.into());
        let mut able = FieldTable::default();
        for capability in [
            "authentication_failure_close",
            "basic.nack",
            "connection.blocked",
            "consumer_cancel_notify",
            "publisher_confirms",
        ] {
            able.insert(capability.into(), FieldValue::Boolean(true));
        }
        let mut client_properties = FieldTable::default();
        client_properties.insert("product".into(), text("mambamq shell"));
        client_properties.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
        client_properties.insert("capabilities".into(), FieldValue::FieldTable(able));
        let start = connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties,
            mechanism: "PLAIN".into(),
            response: format!("\0{}\0{}", uri.user, uri.password).into(),
            locale: "en_US".into(),
        });
        write_method(&mut self.output, zero, &AMQPClass::Connection(start));
        let tune = match self.answer().await? {
            AMQPClass::Connection(connection::AMQPMethod::Tune(tune)) => tune,
            other => return Err(unexpected(&other)),
        };
        self.frame_max = match tune.frame_max {
            0 => FRAME_MAX,
            offered => offered.min(FRAME_MAX),
        };
        let interval = Duration::from_secs(tune.heartbeat.into());
        self.heartbeat = Some(interval).filter(|interval| !interval.is_zero());
        let tune_ok = connection::AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: tune.channel_max,
            frame_max: self.frame_max,
            heartbeat: tune.heartbeat,
        });
        write_method(&mut self.output, zero, &AMQPClass::Connection(tune_ok));
        let open = connection::AMQPMethod::Open(connection::Open {
            virtual_host: uri.vhost.as_str().into(),
        });
        write_method(&mut self.output, zero, &AMQPClass::Connection(open));
        match self.answer().await? {
            AMQPClass::Connection(connection::AMQPMethod::OpenOk(_)) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a method on the channel and waits for its answer.
    pub(crate) async fn call(&mut self, method: AMQPClass) -> Result<AMQPClass, Error> {
        self.send(&method);
        self.answer().await
    }

    /// Has the broker confirm publishes.
    pub(crate) async fn confirm(&mut self) -> Result<(), Error> {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        self.call(AMQPClass::Confirm(select)).await.map(drop)
    }

    /// Leaves a method for the broker; [`Self::next`] sends it.
    pub(crate) fn send(&mut self, method: &AMQPClass) {
        write_method(&mut self.output, CHANNEL, method);
    }

    /// Leaves a message for the broker. `header` is a content header's payload.
    pub(crate) fn publish(&mut self, publish: basic::Publish, header: &[u8], body: &[u8]) {
        self.send(&AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
        put_frame(&mut self.output, FrameKind::Header, header);
        let max = self.frame_max as usize - FRAME_OVERHEAD;
        for part in body.chunks(max) {
            put_frame(&mut self.output, FrameKind::Body, part);
        }
    }

    /// Whether more may be left for the broker.
    pub(crate) fn has_room(&self) -> bool {
        self.output.len() - self.written < OUTPUT_HIGH
    }

    /// Closes the connection in order: the broker has taken in everything that was sent.
    pub(crate) async fn close(&mut self) -> Result<(), Error> {
        let close = connection::AMQPMethod::Close(connection::Close {
            reply_code: 200,
            reply_text: "done".into(),
            class_id: 0,
            method_id: 0,
        });
        let close = AMQPClass::Connection(close);
        write_method(&mut self.output, ChannelId(0), &close);
        loop {
            match self.answer().await? {
                AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)) => return Ok(()),
                // An answer to something before.
                _ => continue,
            }
        }
    }

    /// What has come already, without waiting.
    pub(crate) fn ready(&mut self) -> Result<Option<Incoming>, Error> {
        match self.held.pop_front() {
            Some(incoming) => Ok(Some(incoming)),
            None => self.parse(),
        }
    }

    /// The next thing from the broker; sends what there is meanwhile.
    pub(crate) async fn next(&mut self) -> Result<Incoming, Error> {
        match self.held.pop_front() {
            Some(incoming) => Ok(incoming),
            None => self.fresh().await,
        }
    }

    async fn answer(&mut self) -> Result<AMQPClass, Error> {
        let waiting = async {
            loop {
                match self.fresh().await? {
                    Incoming::Answer(answer) => return Ok(answer),
                    other => self.held.push_back(other),
                }
            }
        };
        timeout(ANSWER_TIME, waiting)
            .await
            .unwrap_or(Err(Error::Silent("a method has no answer")))
    }

    async fn fresh(&mut self) -> Result<Incoming, Error> {
        loop {
            if let Some(incoming) = self.parse()? {
                return Ok(incoming);
            }
            self.turn().await?;
        }
    }

    /// Reads or writes once, or does what is due.
    async fn turn(&mut self) -> Result<(), Error> {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.reserve(READ_BYTES);
        let due = self.heartbeat.map(|interval| {
            let silence = self.heard + interval * 2;
            silence.min(self.said + interval / 2)
        });
        let pause = pin!(async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        });
        let has_output = self.written < self.output.len();
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => {
                if read? == 0 {
                    return Err(Error::Lost(std::io::ErrorKind::UnexpectedEof.into()));
                }
                self.heard = Instant::now();
            }
            wrote = self.writer.write(&self.output[self.written..]), if has_output => {
                self.written += wrote?;
                self.said = Instant::now();
                if self.written == self.output.len() {
                    self.output.clear();
                    self.written = 0;
                    self.writer.flush().await?;
                }
            }
            () = pause => self.keep_alive()?,
        }
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), Error> {
        let Some(interval) = self.heartbeat else {
            return Ok(());
        };
        let now = Instant::now();
        if now >= self.heard + interval * 2 {
            return Err(Error::Silent("not even heartbeats come"));
        }
        // Frames are whole in the output, so that one more fits behind them.
        write_heartbeat(&mut self.output);
        self.said = now;
        Ok(())
    }

    /// The next thing in the input.
    fn parse(&mut self) -> Result<Option<Incoming>, Error> {
        loop {
            let rest = self.input.get(self.taken..).unwrap_or_default();
            if rest.starts_with(b"AMQP") {
                let header = rest.get(..8).unwrap_or(rest).escape_ascii().to_string();
                return Err(Error::Protocol(format!("it wants {header:?}")));
            }
            let found = frame(rest, self.frame_max);
            let found = found.map_err(|error| Error::Protocol(error.to_string()))?;
            let Some((found, octets)) = found else {
                return Ok(None);
            };
            let outcome = take(&mut self.partial, &mut self.output, found, &self.limits);
            self.taken += octets;
            if let Some(incoming) = outcome? {
                return Ok(Some(incoming));
            }
        }
    }
}

/// Takes one frame; what is complete by it.
fn take(
    partial: &mut Option<Partial>,
    output: &mut Vec<u8>,
    frame: Frame<'_>,
    limits: &Limits,
) -> Result<Option<Incoming>, Error> {
    match (frame.kind, partial.as_mut()) {
        (FrameKind::Heartbeat, _) => Ok(None),
        (FrameKind::Method, None) => {
            let decoded = method(frame.payload, limits);
            let decoded = decoded.map_err(|error| Error::Protocol(format!("{error:?}")))?;
            take_method(partial, output, decoded)
        }
        (FrameKind::Header, Some(Partial { message, size, .. })) if size.is_none() => {
            let header = content_header(frame.payload);
            let announced = header
                .map_err(|error| Error::Protocol(error.to_string()))?
                .body_size;
            if announced > BODY_MAX {
                return Err(Error::TooLarge { max: BODY_MAX });
            }
            *size = Some(announced);
            message.header = frame.payload.to_vec();
            Ok(complete(partial))
        }
        (FrameKind::Body, Some(Partial { message, size, .. })) if size.is_some() => {
            message.body.extend_from_slice(frame.payload);
            Ok(complete(partial))
        }
        (kind, _) => Err(Error::Protocol(format!("a frame {kind:?} out of order"))),
    }
}

fn complete(partial: &mut Option<Partial>) -> Option<Incoming> {
    let is_whole = |partial: &mut Partial| {
        let octets = partial.message.body.len() as u64;
        partial.size.is_some_and(|size| octets >= size)
    };
    let Partial {
        opening, message, ..
    } = partial.take_if(is_whole)?;
    Some(match opening {
        Opening::Delivery(tag) => Incoming::Delivered(tag, message),
        Opening::Return(code, text) => Incoming::Returned(code, text, message),
    })
}

fn take_method(
    partial: &mut Option<Partial>,
    output: &mut Vec<u8>,
    decoded: Method<'_>,
) -> Result<Option<Incoming>, Error> {
    let confirm = |tag: mamba_types::DeliveryTag, multiple, taken| Incoming::Confirm {
        tag: tag.0,
        multiple,
        taken,
    };
    let method = match decoded {
        Method::Ack { tag, multiple } => return Ok(Some(confirm(tag, multiple, true))),
        Method::Nack { tag, multiple, .. } => return Ok(Some(confirm(tag, multiple, false))),
        Method::Publish(_) | Method::Reject { .. } => {
            return Err(Error::Protocol("a client's method".to_owned()));
        }
        Method::Other(method) => *method,
    };
    let mut closed = |what, channel, ok, code, text: &str| {
        write_method(output, channel, &ok);
        Err(Error::Closed {
            what,
            code,
            text: text.to_owned(),
        })
    };
    match method {
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
            let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
            let text = close.reply_text.as_str();
            let ok = AMQPClass::Connection(ok);
            closed("connection", ChannelId(0), ok, close.reply_code, text)
        }
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            let ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
            let text = close.reply_text.as_str();
            closed("channel", CHANNEL, ok, close.reply_code, text)
        }
        AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)) => {
            complain(&format!("the broker blocks publishing: {}", blocked.reason));
            Ok(None)
        }
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(_)) => {
            complain("the broker takes messages again");
            Ok(None)
        }
        AMQPClass::Basic(basic::AMQPMethod::Cancel(_)) => Err(Error::Cancelled),
        AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => {
            let message = Message {
                exchange: deliver.exchange.as_str().as_bytes().to_vec(),
                routing_key: deliver.routing_key.as_str().as_bytes().to_vec(),
                redelivered: deliver.redelivered,
                ..Message::default()
            };
            *partial = Some(Partial {
                opening: Opening::Delivery(deliver.delivery_tag),
                message,
                size: None,
            });
            Ok(None)
        }
        AMQPClass::Basic(basic::AMQPMethod::Return(returned)) => {
            let message = Message {
                exchange: returned.exchange.as_str().as_bytes().to_vec(),
                routing_key: returned.routing_key.as_str().as_bytes().to_vec(),
                ..Message::default()
            };
            let text = returned.reply_text.as_str().to_owned();
            *partial = Some(Partial {
                opening: Opening::Return(returned.reply_code, text),
                message,
                size: None,
            });
            Ok(None)
        }
        other => Ok(Some(Incoming::Answer(other))),
    }
}

fn put_frame(output: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    output.push(kind.octet());
    output.extend_from_slice(&CHANNEL.0.to_be_bytes());
    output.extend_from_slice(&size.to_be_bytes());
    output.extend_from_slice(payload);
    output.push(mamba_codec::FRAME_END);
}

fn unexpected(method: &AMQPClass) -> Error {
    Error::Protocol(format!("{method:?} was not due"))
}
