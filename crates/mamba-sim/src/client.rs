//! One AMQP client without a socket: what it says, and what it heard.

use std::{collections::VecDeque, sync::Arc};

use mamba_broker::{Broker, Connection, Now};
use mamba_codec::{
    AMQPClass, FrameKind, Method, content_header, encode_table, frame, method, protocol,
    scan_properties, write_method,
};
use mamba_types::{ChannelId, FieldTable, FieldValue, Limits};
use protocol::{basic, channel, connection};

const ONE: ChannelId = ChannelId(1);
/// Largest frame the codec may meet.
const FRAME_MAX: u32 = 1 << 20;
/// Octets of a body per frame.
const BODY_FRAME: usize = 4096;

/// What a client heard, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// `basic.deliver`.
    Deliver {
        /// Which consumer.
        consumer_tag: String,
        /// The delivery.
        message: Delivered,
    },
    /// `basic.get-ok`.
    GetOk {
        /// The message.
        message: Delivered,
        /// Ready messages left.
        remaining: u32,
    },
    /// A confirm: `basic.ack` or `basic.nack` from the broker.
    Confirm {
        /// The publish, counted from 1.
        tag: u64,
        /// All up to it.
        multiple: bool,
        /// A nack: it is not stored.
        nack: bool,
    },
    /// Any other method; replies among them.
    Method(Box<AMQPClass>),
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// Delivery tag.
    pub tag: u64,
    /// Set by the broker.
    pub redelivered: bool,
    /// Exchange it was published to, or dead-lettered to.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// Its properties as they came, flags first.
    pub properties: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl Delivered {
    /// delivery-mode 2.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        scan_properties(&self.properties, &Limits::default())
            .is_ok_and(|properties| properties.delivery_mode == Some(2))
    }
}

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Exchange name.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// delivery-mode 2.
    pub persistent: bool,
    /// Priority property.
    pub priority: Option<u8>,
    /// Expiration in milliseconds.
    pub expiration_ms: Option<u64>,
    /// Headers; none when empty.
    pub headers: FieldTable,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Debug)]
struct Content {
    method: AMQPClass,
    size: usize,
    properties: Vec<u8>,
    body: Vec<u8>,
}

/// A connection with one channel. `C` names what was said, for who keeps the books.
#[derive(Debug)]
pub struct Client<C> {
    connection: Connection,
    /// Said, and not yet taken by the broker: octets, how many are taken, and what it is.
    said: VecDeque<(Vec<u8>, usize, C)>,
    rest: Vec<u8>,
    content: Option<Content>,
    closed: Option<String>,
}

impl<C> Client<C> {
    /// Connects and opens channel 1. `None` if the broker refuses.
    pub fn connect(broker: &Arc<Broker>, now: Now) -> Option<Self> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let connection = broker.connect(address, address, now)?;
        let mut client = Self {
            connection,
            said: VecDeque::new(),
            rest: Vec::new(),
            content: None,
            closed: None,
        };
        let start_ok = connection::StartOk {
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
            ..connection::StartOk::default()
        };
        let tune_ok = connection::TuneOk {
            channel_max: 10,
            frame_max: 131_072,
            heartbeat: 0,
        };
        let open = connection::Open {
            virtual_host: "/".into(),
        };
        let mut octets = b"AMQP\0\0\x09\x01".to_vec();
        let connection_channel = ChannelId(0);
        for method in [
            connection::AMQPMethod::StartOk(start_ok),
            connection::AMQPMethod::TuneOk(tune_ok),
            connection::AMQPMethod::Open(open),
        ] {
            write_method(
                &mut octets,
                connection_channel,
                &AMQPClass::Connection(method),
            );
        }
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        write_method(&mut octets, ONE, &open);
        let mut at = 0;
        for _ in 0..16 {
            at += client.connection.receive(&octets[at..], now);
            client.hear(now);
            if at == octets.len() {
                return Some(client);
            }
        }
        None
    }

    /// Says a method; it is taken by [`Self::feed`].
    pub fn say(&mut self, method: &AMQPClass, what: C) {
        let mut octets = Vec::new();
        write_method(&mut octets, ONE, method);
        self.said.push_back((octets, 0, what));
    }

    /// Publishes; it is taken by [`Self::feed`].
    pub fn publish(&mut self, publish: &Publish, what: C) {
        self.publish_together(std::slice::from_ref(publish), what);
    }

    /// Publishes several messages that the broker takes in one turn.
    pub fn publish_together(&mut self, publishes: &[Publish], what: C) {
        let mut octets = Vec::new();
        for publish in publishes {
            write_publish(&mut octets, publish);
        }
        self.said.push_back((octets, 0, what));
    }

    /// Lets the broker take what was said, at most so many commands. Returns those it has taken whole.
    pub fn feed(&mut self, most: usize, now: Now) -> Vec<C> {
        let mut taken = Vec::new();
        while taken.len() < most
            && self.closed.is_none()
            && let Some((octets, at, _)) = self.said.front_mut()
        {
            *at += self.connection.receive(&octets[*at..], now);
            if *at < octets.len() {
                break;
            }
            taken.extend(self.said.pop_front().map(|(_, _, what)| what));
        }
        taken
    }

    /// Whether everything said has been taken.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.said.is_empty()
    }

    /// Why the broker closed the channel or the connection, if it did.
    #[must_use]
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Whether the broker still serves it; it may not have heard otherwise yet.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.connection.is_running()
    }

    /// Has the broker send what it has, and reads all of it.
    pub fn hear(&mut self, now: Now) -> Vec<Heard> {
        let mut heard = Vec::new();
        // What is sent makes room for more.
        for _ in 0..1000 {
            self.connection.timer(now);
            self.connection.pump(now);
            let output = self.connection.output();
            if output.is_empty() {
                break;
            }
            let mut sent = 0;
            while !output.is_empty() {
                let mut slices = Vec::new();
                output.slices(&mut slices);
                let before = self.rest.len();
                for slice in &slices {
                    self.rest.extend_from_slice(slice);
                }
                let taken = self.rest.len() - before;
                drop(slices);
                output.advance(taken);
                sent += taken;
            }
            self.connection.wrote(sent, now);
            self.parse(&mut heard);
        }
        heard
    }

    fn parse(&mut self, heard: &mut Vec<Heard>) {
        let octets = std::mem::take(&mut self.rest);
        let mut rest = octets.as_slice();
        loop {
            let (parsed, taken) = match frame(rest, FRAME_MAX) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break,
                Err(error) => {
                    self.closed = Some(format!("the broker sent nonsense: {error:?}"));
                    break;
                }
            };
            match parsed.kind {
                FrameKind::Method => match method(parsed.payload, &Limits::default()) {
                    Ok(Method::Ack { tag, multiple }) => heard.push(Heard::Confirm {
                        tag: tag.0,
                        multiple,
                        nack: false,
                    }),
                    Ok(Method::Nack { tag, multiple, .. }) => heard.push(Heard::Confirm {
                        tag: tag.0,
                        multiple,
                        nack: true,
                    }),
                    Ok(Method::Other(class)) => self.heard_method(*class, heard),
                    other => self.closed = Some(format!("the broker sent {other:?}")),
                },
                FrameKind::Header => self.heard_header(parsed.payload),
                FrameKind::Body => {
                    if let Some(content) = &mut self.content {
                        content.body.extend_from_slice(parsed.payload);
                    }
                }
                FrameKind::Heartbeat => {}
            }
            self.finish_content(heard);
            rest = &rest[taken..];
        }
        self.rest = rest.to_vec();
    }

    fn heard_method(&mut self, class: AMQPClass, heard: &mut Vec<Heard>) {
        match class {
            AMQPClass::Basic(
                basic::AMQPMethod::Deliver(_)
                | basic::AMQPMethod::GetOk(_)
                | basic::AMQPMethod::Return(_),
            ) => {
                self.content = Some(Content {
                    method: class,
                    size: usize::MAX,
                    properties: Vec::new(),
                    body: Vec::new(),
                });
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                self.closed = Some(close.reply_text.to_string());
            }
            AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                self.closed = Some(close.reply_text.to_string());
            }
            other => heard.push(Heard::Method(Box::new(other))),
        }
    }

    fn heard_header(&mut self, payload: &[u8]) {
        let (Some(content), Ok(header)) = (&mut self.content, content_header(payload)) else {
            return;
        };
        content.size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        content.properties = header.properties.to_vec();
    }

    fn finish_content(&mut self, heard: &mut Vec<Heard>) {
        let done = |content: &mut Content| content.body.len() >= content.size;
        let Some(Content {
            method,
            properties,
            body,
            ..
        }) = self.content.take_if(done)
        else {
            return;
        };
        match method {
            AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => heard.push(Heard::Deliver {
                consumer_tag: deliver.consumer_tag.to_string(),
                message: Delivered {
                    tag: deliver.delivery_tag,
                    redelivered: deliver.redelivered,
                    exchange: deliver.exchange.to_string(),
                    routing_key: deliver.routing_key.to_string(),
                    properties,
                    body,
                },
            }),
            AMQPClass::Basic(basic::AMQPMethod::GetOk(get_ok)) => heard.push(Heard::GetOk {
                message: Delivered {
                    tag: get_ok.delivery_tag,
                    redelivered: get_ok.redelivered,
                    exchange: get_ok.exchange.to_string(),
                    routing_key: get_ok.routing_key.to_string(),
                    properties,
                    body,
                },
                remaining: get_ok.message_count,
            }),
            _ => {}
        }
    }
}

fn write_publish(octets: &mut Vec<u8>, publish: &Publish) {
    let method = basic::Publish {
        exchange: publish.exchange.as_str().into(),
        routing_key: publish.routing_key.as_str().into(),
        ..basic::Publish::default()
    };
    write_method(
        octets,
        ONE,
        &AMQPClass::Basic(basic::AMQPMethod::Publish(method)),
    );
    let mut header = vec![0, 60, 0, 0];
    header.extend((publish.body.len() as u64).to_be_bytes());
    let has_headers = !publish.headers.inner().is_empty();
    let flags = 0x1000
        | u16::from(has_headers) << 13
        | u16::from(publish.priority.is_some()) << 11
        | u16::from(publish.expiration_ms.is_some()) << 8;
    header.extend(flags.to_be_bytes());
    if has_headers {
        let table = encode_table(&publish.headers);
        header.extend(u32::try_from(table.len()).unwrap_or(0).to_be_bytes());
        header.extend(table);
    }
    header.push(if publish.persistent { 2 } else { 1 });
    header.extend(publish.priority);
    if let Some(expiration) = publish.expiration_ms {
        let text = expiration.to_string();
        header.push(u8::try_from(text.len()).unwrap_or(0));
        header.extend(text.as_bytes());
    }
    write_frame(octets, 2, &header);
    for part in publish.body.chunks(BODY_FRAME) {
        write_frame(octets, 3, part);
    }
}

fn write_frame(octets: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    octets.extend([kind, 0, 1]);
    octets.extend(u32::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    octets.extend(payload);
    octets.push(0xCE);
}

/// A field table from a list.
#[must_use]
pub fn table(arguments: &[(&str, FieldValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    debug_assert!(!encode_table(&table).is_empty() || arguments.is_empty());
    table
}
